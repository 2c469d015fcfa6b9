//! A struct that C has built, validated and read in Rust, and one that Rust posts and C reads. The other half is
//! `examples/c/archive.c`: each of the two programs can start the other, and either can start itself.
//!
//! Its argument is the program that it is to start:
//!
//! ```text
//! $ cargo run --release --example archive examples/c/archive
//! C reads observation 17 of BRK, Brocken in the Harz mountains, at 1700000000, calibrated
//! C reads that it lies at 51.75 10.625 and 1141 m, with a gust of 31.5 m/s
//! C reads 4 samples: 1.5 2.25 -3 0.125
//! Rust reads observation 18 of FELDBERG, Feldberg in the Black Forest, at -1, not calibrated
//! Rust reads that it lies at 47.875 8 and 1493 m, without a gust
//! Rust reads 3 samples: 8 -0.5 1024
//! ```
//!
//! A derived archive has the fields in their order, with C's padding, so that a C struct can be laid over it.

use std::error::Error;
use std::io::Write;
use std::process::Command;

use ringport::rkyv::{Archive, Deserialize, Serialize};
use ringport::{MessagePort, Worker, parent_port};

type Outcome = Result<(), Box<dyn Error>>;

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringport::rkyv)]
struct Observation {
    number: u32,
    time: i64,
    /// Up to eight bytes are in the struct itself, more are elsewhere in the message.
    code: String,
    name: String,
    samples: Vec<f32>,
    gust: Option<f32>,
    place: Place,
    is_calibrated: bool,
}

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringport::rkyv)]
struct Place {
    latitude: f64,
    longitude: f64,
    height: i16,
}

fn main() -> Outcome {
    match (parent_port()?, std::env::args_os().nth(1)) {
        (Some(port), _) => answer(&port),
        (None, Some(program)) => start(Command::new(program)),
        (None, None) => Err("usage: archive PROGRAM".into()),
    }
}

/// The one that starts: posts the first observation and reads the second.
fn start(program: Command) -> Outcome {
    let mut worker = Worker::spawn(program)?;
    worker.port().post_message(&Observation {
        number: 17,
        time: 1_700_000_000,
        code: "BRK".into(),
        name: "Brocken in the Harz mountains".into(),
        samples: vec![1.5, 2.25, -3.0, 0.125],
        gust: Some(31.5),
        place: Place {
            latitude: 51.75,
            longitude: 10.625,
            height: 1141,
        },
        is_calibrated: true,
    })?;
    read(worker.port())?;
    worker.port().close();
    let status = worker.wait()?;
    if !status.success() {
        return Err(format!("the other program ended with {status}").into());
    }
    Ok(())
}

/// The one that is started: reads the first and posts the second.
fn answer(port: &MessagePort) -> Outcome {
    read(port)?;
    port.post_message(&Observation {
        number: 18,
        time: -1,
        code: "FELDBERG".into(),
        name: "Feldberg in the Black Forest".into(),
        samples: vec![8.0, -0.5, 1024.0],
        gust: None,
        place: Place {
            latitude: 47.875,
            longitude: 8.0,
            height: 1493,
        },
        is_calibrated: false,
    })?;
    Ok(())
}

fn read(port: &MessagePort) -> Outcome {
    let event = port.recv()?;
    let read = event.data::<Observation>()?;
    let (place, samples) = (&read.place, &read.samples);
    let calibrated = if read.is_calibrated { "" } else { "not " };
    let gust = match read.gust.as_ref() {
        Some(gust) => format!("with a gust of {gust} m/s"),
        None => "without a gust".to_string(),
    };
    let list: String = samples.iter().map(|sample| format!(" {sample}")).collect();
    // At once, before the other process goes on to print.
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "Rust reads observation {} of {}, {}, at {}, {calibrated}calibrated\n\
         Rust reads that it lies at {} {} and {} m, {gust}\n\
         Rust reads {} samples:{list}",
        read.number,
        read.code,
        read.name,
        read.time,
        place.latitude,
        place.longitude,
        place.height,
        samples.len(),
    )?;
    Ok(out.flush()?)
}
