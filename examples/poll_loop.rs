//! Ports in somebody else's event loop: a bare `poll`, which knows nothing of them.
//!
//! Two processes echo what they are sent. This one sends each of them ten thousand messages and takes the echoes, on
//! one thread, and never waits for one of these alone: when the rings are full both ways, a side that waited for room
//! only, as the echoes do, would wait for ever.
//!
//! ```text
//! $ cargo run --release --example poll_loop
//! echo 1: 10000 messages of 9907656 bytes came back, checksum c6a05cd4ada99dce
//! echo 2: 10000 messages of 9961768 bytes came back, checksum 7b9e947eff4d020e
//! ```
//!
//! `poll_recv` and `poll_post_bytes` attempt what their names say. One that is `Pending` makes the port's descriptor
//! readable when it can be done, also when that is posting. So this works in any loop that watches descriptors,
//! level-triggered, as here, or edge-triggered, as in `mio_loop`.

use std::error::Error;
use std::process::Command;
use std::task::Poll;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringport::{MessagePort, RecvError, Worker, parent_port};

type Outcome<T> = Result<T, Box<dyn Error>>;

const MESSAGES: u64 = 10_000;

fn main() -> Outcome<()> {
    match std::env::args().nth(1).as_deref() {
        None => talk(),
        Some("echo") => echo(&parent_port()?.ok_or("echoes are started by the program itself")?),
        Some(_) => Err("usage: poll_loop (it starts the others by itself)".into()),
    }
}

/// Waits for a message, then for room to send it back.
fn echo(port: &MessagePort) -> Outcome<()> {
    loop {
        match port.recv() {
            Ok(message) => port.post_bytes(message.bytes())?,
            Err(RecvError::Closed(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn talk() -> Outcome<()> {
    let mut talks = [Talk::start(1)?, Talk::start(2)?];
    loop {
        for talk in &mut talks {
            talk.go_on()?;
        }
        let mut watched = Vec::new();
        for talk in talks.iter().filter(|talk| !talk.is_over()) {
            watched.push(PollFd::new(talk.echo.port().as_fd()?, PollFlags::POLLIN));
        }
        if watched.is_empty() {
            break;
        }
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {} // all are asked, whichever it is
            Err(error) => return Err(error.into()),
        }
    }
    talks.into_iter().try_for_each(Talk::end)
}

/// What an echo was sent, and what came back.
struct Talk {
    echo: Worker,
    number: u64,
    posted: Tally,
    received: Tally,
    /// How often there was no room to post.
    full: u64,
}

impl Talk {
    fn start(number: u64) -> Outcome<Talk> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("echo");
        Ok(Talk {
            echo: Worker::spawn(command)?,
            number,
            posted: Tally::default(),
            received: Tally::default(),
            full: 0,
        })
    }

    fn is_over(&self) -> bool {
        self.received.messages == MESSAGES
    }

    /// Posts and receives until both are pending, or nothing is left to do.
    fn go_on(&mut self) -> Outcome<()> {
        let port = self.echo.port();
        while self.posted.messages < MESSAGES {
            let message = message(self.number, self.posted.messages);
            match port.poll_post_bytes(&message) {
                Poll::Ready(done) => done?,
                Poll::Pending => {
                    self.full += 1;
                    break;
                }
            }
            self.posted.add(&message);
        }
        while self.received.messages < MESSAGES {
            match port.poll_recv() {
                Poll::Ready(message) => self.received.add(message?.bytes()),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn end(mut self) -> Outcome<()> {
        assert_eq!(self.received, self.posted);
        assert!(self.full > 0, "megabytes do not fit into rings of 64 KiB");
        self.echo.port().close();
        let status = self.echo.wait()?;
        if !status.success() {
            return Err(format!("an echo ended with {status}").into());
        }
        let Tally {
            messages,
            bytes,
            checksum,
        } = self.received;
        println!(
            "echo {}: {messages} messages of {bytes} bytes came back, checksum {checksum:016x}",
            self.number
        );
        Ok(())
    }
}

/// Messages in their order, summed up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    messages: u64,
    bytes: usize,
    checksum: u64,
}

impl Tally {
    fn add(&mut self, message: &[u8]) {
        self.messages += 1;
        self.bytes += message.len();
        self.checksum = hash(self.checksum, &message.len().to_le_bytes());
        self.checksum = hash(self.checksum, message);
    }
}

/// FNV-1a, going on from `hash`.
fn hash(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Up to 2 KB that look random; some are empty.
fn message(number: u64, index: u64) -> Vec<u8> {
    let word = hash(hash(number, b"echo"), &index.to_le_bytes());
    word.to_le_bytes().repeat((word >> 32) as usize % 250)
}
