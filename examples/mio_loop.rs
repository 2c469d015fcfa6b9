//! Ports in a `mio` loop, beside whatever else it watches.
//!
//! Three processes compute how many steps the Collatz sequence takes from each number to 1. This one gives the numbers
//! out, to each process as many as its ring has room for, so that a faster one gets more, and finds the longest.
//!
//! ```text
//! $ cargo run --release --example mio_loop
//! From 77031 it takes 350 steps, more than from any other number up to 100000.
//! ```

use std::error::Error;
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::task::Poll;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Events, Interest, Registry, Token};
use ringport::rkyv::{Archive, Deserialize, Serialize};
use ringport::{MessagePort, RecvError, Worker, parent_port};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PROCESSES: usize = 3;
const LAST: u64 = 100_000;

/// What a process answers to a number.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringport::rkyv)]
struct Answer {
    from: u64,
    steps: u64,
}

/// A port as a source of events.
///
/// mio is edge-triggered: it tells of an attempt that can be repeated once, and only after that was `Pending`.
struct PortSource(MessagePort);

impl Source for PortSource {
    /// Readable is what a port's descriptor becomes, also when there is room to post: other interests are not asked.
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        SourceFd(&self.0.as_fd()?.as_raw_fd()).register(registry, token, Interest::READABLE)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        SourceFd(&self.0.as_fd()?.as_raw_fd()).reregister(registry, token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.0.as_fd()?.as_raw_fd()).deregister(registry)
    }
}

fn main() -> Outcome<()> {
    match std::env::args().nth(1).as_deref() {
        None => distribute(),
        Some("compute") => compute(&parent_port()?.ok_or("started by the program itself only")?),
        Some(_) => Err("usage: mio_loop (it starts the others by itself)".into()),
    }
}

fn compute(port: &MessagePort) -> Outcome<()> {
    loop {
        let from = match port.recv() {
            Ok(number) => number.data::<u64>()?.to_native(),
            Err(RecvError::Closed(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let steps = steps(from);
        port.post_message(&Answer { from, steps })?;
    }
}

fn steps(from: u64) -> u64 {
    let next = |number: &u64| match number % 2 {
        0 => Some(number / 2),
        _ => Some(3 * number + 1),
    };
    let sequence = std::iter::successors(Some(from), next);
    sequence.take_while(|number| *number != 1).count() as u64
}

fn distribute() -> Outcome<()> {
    let mut poll = mio::Poll::new()?;
    let mut crew = Vec::new();
    for index in 0..PROCESSES {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("compute");
        let (port, process) = Worker::spawn(command)?.into_parts();
        let mut port = PortSource(port);
        poll.registry()
            .register(&mut port, Token(index), Interest::READABLE)?;
        crew.push((port, process));
    }

    let mut search = Search::default();
    // Nothing is told of what was never attempted.
    for (port, _) in &crew {
        search.go_on(&port.0)?;
    }
    let mut events = Events::with_capacity(PROCESSES);
    while search.answers < LAST {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let (port, _) = &crew[event.token().0];
            search.go_on(&port.0)?;
        }
    }

    for (mut port, mut process) in crew {
        poll.registry().deregister(&mut port)?;
        drop(port); // which closes it
        let status = process.wait()?;
        if !status.success() {
            return Err(format!("a process ended with {status}").into());
        }
    }
    assert_eq!((search.given, search.answers), (LAST, LAST));
    assert_eq!(search.all_steps, 10_753_840, "as is known");
    let (steps, from) = search.longest;
    println!("From {from} it takes {steps} steps, more than from any other number up to {LAST}.");
    Ok(())
}

#[derive(Default)]
struct Search {
    /// Numbers up to this one were given out.
    given: u64,
    answers: u64,
    all_steps: u64,
    longest: (u64, u64),
}

impl Search {
    /// Gives out numbers and takes answers, until both are pending or nothing is left to do.
    fn go_on(&mut self, port: &MessagePort) -> Outcome<()> {
        while self.given < LAST {
            match port.poll_post(&(self.given + 1)) {
                Poll::Ready(posted) => posted?,
                Poll::Pending => break,
            }
            self.given += 1;
        }
        while self.answers < LAST {
            let event = match port.poll_recv() {
                Poll::Ready(event) => event?,
                Poll::Pending => break,
            };
            let answer = event.data::<Answer>()?;
            let (steps, from) = (answer.steps.to_native(), answer.from.to_native());
            self.answers += 1;
            self.all_steps += steps;
            self.longest = self.longest.max((steps, from));
        }
        Ok(())
    }
}
