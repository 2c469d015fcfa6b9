//! Typed messages between two processes: an enum each way, matched on arrival without deserialising it.
//!
//! One port carries several kinds of message here, so what is posted is an enum. Validation proves that the
//! bytes *can* be read as the type asked for, not that the poster meant this type; a variant says what it meant.

use std::error::Error;
use std::process::Command;

use ringport::rkyv::{Archive, Deserialize, Serialize};
use ringport::{MessagePort, RecvError, Worker};

/// What the parent asks.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringport::rkyv)]
enum Request {
    /// The mean of some samples.
    Mean(Vec<f64>),
    /// How often a word is in a text.
    Count { word: String, text: String },
}

/// What the child answers.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringport::rkyv)]
enum Reply {
    Mean(Option<f64>),
    Count(u64),
}

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        None => parent(),
        Some("child") => {
            child(&ringport::parent_port()?.ok_or("a child is started by its parent only")?)
        }
        Some(_) => Err("usage: typed (it starts its child by itself)".into()),
    }
}

fn parent() -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("child");
    let mut worker = Worker::spawn(command)?;
    let port = worker.port();

    let text = "a ring is a ring is a ring".to_string();
    let requests = [
        Request::Mean(vec![1.0, 2.0, 6.0]),
        Request::Mean(vec![]),
        Request::Count {
            word: "ring".to_string(),
            text,
        },
    ];
    for request in &requests {
        port.post_message(request)?;
        let event = port.recv()?;
        match event.data::<Reply>()? {
            ArchivedReply::Mean(mean) => match mean.as_ref() {
                Some(mean) => println!("the mean is {}", mean.to_native()),
                None => println!("nothing has no mean"),
            },
            ArchivedReply::Count(count) => println!("counted {}", count.to_native()),
        }
    }

    port.close();
    let status = worker.wait()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the child ended with {status}").into())
    }
}

fn child(port: &MessagePort) -> Result<(), Box<dyn Error>> {
    loop {
        let event = match port.recv() {
            Ok(event) => event,
            Err(RecvError::Closed(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // What is matched is the archive itself, where it arrived: no vector, no string is made.
        let reply = match event.data::<Request>()? {
            ArchivedRequest::Mean(samples) => {
                let sum: f64 = samples.iter().map(|sample| sample.to_native()).sum();
                Reply::Mean((!samples.is_empty()).then(|| sum / samples.len() as f64))
            }
            ArchivedRequest::Count { word, text } => {
                let count = text
                    .split(' ')
                    .filter(|other| *other == word.as_str())
                    .count();
                Reply::Count(count as u64)
            }
        };
        port.post_message(&reply)?;
    }
}
