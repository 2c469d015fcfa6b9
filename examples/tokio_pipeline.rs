//! A pipeline of three processes, each a few lines of async code: a source, a stage that transforms, a sink.
//!
//! The source reads a river gauge, the stage averages each hour of readings, the sink keeps the highest level.
//! Between each two lies a channel with rings of 4 KiB: whoever is ahead waits for who is behind, so that no queue
//! grows, however slow the sink is.
//!
//! ```text
//! $ cargo run --release --features tokio --example tokio_pipeline
//! source: sent 60000 readings
//! stage: 60000 readings became 1000 averages
//! sink: 1000 averages, the highest is 1379.5 mm in hour 500, checksum 1129500
//! ```
//!
//! The process that is started makes the channels, gives each stage its ports and waits; nothing of what flows
//! goes through it. Each stage ends when the one before it has ended and everything is through.

use std::error::Error;
use std::process::Command;

use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use ringport::rkyv::{Archive, Deserialize, Serialize};
use ringport::{
    AsyncMessagePort, ChannelOptions, MessageChannel, MessagePort, OwnedMessageEvent, Worker,
    parent_port,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const HOURS: u64 = 1000;
const READINGS_AN_HOUR: u64 = 60;

/// One minute at the gauge.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringport::rkyv)]
struct Reading {
    minute: u64,
    millimetres: u32,
}

/// What an hour of readings comes to.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringport::rkyv)]
struct Average {
    hour: u64,
    millimetres: f64,
}

fn main() -> Outcome<()> {
    match std::env::args().nth(1).as_deref() {
        None => conduct(),
        Some("source") => run(async |mut ports| source(ports.remove(0)).await),
        Some("stage") => run(async |mut ports| stage(ports.remove(0), ports.remove(0)).await),
        Some("sink") => run(async |mut ports| sink(ports.remove(0)).await),
        Some(_) => Err("usage: tokio_pipeline (it starts its stages by itself)".into()),
    }
}

/// Lays the channels between the stages, and waits for all of them.
fn conduct() -> Outcome<()> {
    let rings = ChannelOptions::new().capacity(4096);
    let readings = MessageChannel::with_options(&rings)?;
    let averages = MessageChannel::with_options(&rings)?;
    let stages = [
        start("source", vec![readings.port1])?,
        start("stage", vec![readings.port2, averages.port1])?,
        start("sink", vec![averages.port2])?,
    ];
    for mut worker in stages {
        // The one before is done before the next can be, so this is the order in which they report, too.
        print!("{}", worker.port().recv()?.data::<String>()?);
        let status = worker.wait()?;
        if !status.success() {
            return Err(format!("a stage ended with {status}").into());
        }
    }
    Ok(())
}

/// Starts this program once more, as one of the stages, and gives it its ports.
fn start(stage: &str, ports: Vec<MessagePort>) -> Outcome<Worker> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(stage);
    let worker = Worker::spawn(command)?;
    worker.port().post_message_with(&(), ports)?;
    Ok(worker)
}

/// Runs a stage on the ports that were given to this process, and reports what it has done.
fn run(stage: impl AsyncFnOnce(Vec<AsyncMessagePort>) -> Outcome<String>) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let parent = parent_port()?.ok_or("a stage is started by the program itself")?;
        let mut parent = AsyncMessagePort::new(parent)?;
        let ports = parent.recv().await?.take_ports().into_iter();
        let ports: Result<Vec<_>, _> = ports.map(AsyncMessagePort::new).collect();
        let report = stage(ports?).await?;
        Ok(parent.post_message(&format!("{report}\n")).await?)
    })
}

async fn source(mut out: AsyncMessagePort) -> Outcome<String> {
    let minutes = 0..HOURS * READINGS_AN_HOUR;
    let readings = minutes.clone().map(|minute| Reading {
        minute,
        millimetres: level(minute),
    });
    // Waits whenever the ring is full. Dropping the port afterwards ends the stream at its other end.
    out.send_all(&mut stream::iter(readings.map(Ok))).await?;
    Ok(format!("source: sent {} readings", minutes.end))
}

/// The gauge: the water rises for half of the time and falls again, with little waves.
fn level(minute: u64) -> u32 {
    let hour = minute / READINGS_AN_HOUR;
    (850 + hour.min(HOURS - hour) + minute % READINGS_AN_HOUR) as u32
}

async fn stage(input: AsyncMessagePort, out: AsyncMessagePort) -> Outcome<String> {
    let (mut readings, mut averages) = (0, 0);
    let hours = input
        .map_err(Box::<dyn Error>::from)
        .map(|event| reading(event?))
        .try_chunks(READINGS_AN_HOUR as usize)
        .map_err(|error| error.1)
        .map_ok(|hour| {
            readings += hour.len();
            averages += 1;
            average(&hour)
        });
    // Forwarding ends when the input does, and then closes the output.
    hours
        .forward(SinkExt::<Average>::sink_map_err(out, Box::from))
        .await?;
    Ok(format!(
        "stage: {readings} readings became {averages} averages"
    ))
}

/// Takes a reading out of its message, which is a validated archive there.
fn reading(event: OwnedMessageEvent) -> Outcome<Reading> {
    let reading = event.data::<Reading>()?;
    Ok(Reading {
        minute: reading.minute.to_native(),
        millimetres: reading.millimetres.to_native(),
    })
}

fn average(readings: &[Reading]) -> Average {
    let sum: u64 = readings
        .iter()
        .map(|reading| u64::from(reading.millimetres))
        .sum();
    Average {
        hour: readings[0].minute / READINGS_AN_HOUR,
        millimetres: sum as f64 / readings.len() as f64,
    }
}

async fn sink(mut input: AsyncMessagePort) -> Outcome<String> {
    let (mut count, mut checksum) = (0, 0.0);
    let mut highest = Average {
        hour: 0,
        millimetres: 0.0,
    };
    while let Some(event) = input.try_next().await? {
        let average = event.data::<Average>()?;
        let (hour, millimetres) = (average.hour.to_native(), average.millimetres.to_native());
        assert_eq!(hour, count, "every hour comes once, and in order");
        count += 1;
        checksum += millimetres;
        if millimetres > highest.millimetres {
            highest = Average { hour, millimetres };
        }
    }
    assert_eq!(count, HOURS);
    Ok(format!(
        "sink: {count} averages, the highest is {} mm in hour {}, checksum {checksum}",
        highest.millimetres, highest.hour
    ))
}
