//! A page and a frame that talk through a channel: the "MultiMessage" demonstration of the Web's channel
//! messaging (MDN, "Using channel messaging"), as two processes.
//!
//! The page makes a `MessageChannel` and hands `port2` to its frame, inside the message "init". Then it posts
//! every line of its standard input on `port1`. The frame shows each as a list item on standard error and
//! answers on `port2`; the page prints the answers on standard output.
//!
//! ```text
//! printf 'hello\nworld\n' | cargo run --release --example multimessage
//! ```
//!
//! The page waits for typed lines and for the frame with one `poll`: that is how a port joins an event loop
//! it knows nothing of (`arm`, then poll `as_fd`).
//!
//! Ends with 0 when every line was answered, with 2 when a line was too long for a message (the others are
//! answered), with 1 when anything else went wrong, such as the death of the frame.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringport::{Armed, CloseReason, Interest, MessageChannel, MessagePort, PostError, Worker};

type Outcome<T> = Result<T, Box<dyn Error>>;

const BEFORE: &[u8] = b"Message received by IFrame: \"";
const AFTER: &[u8] = b"\"";

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        None => page(),
        Some("frame") => frame(),
        Some(_) => Err("usage: multimessage (it starts its frame by itself)".into()),
    };
    outcome.unwrap_or_else(|error| {
        show(&format!("multimessage: {error}"));
        ExitCode::FAILURE
    })
}

/// Writes a line to standard error: at once, as both processes write there, and unlike `eprintln!` without a
/// panic when nobody reads it.
fn show(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Makes the channel, gives one end of it to the frame, and talks through the other.
fn page() -> Outcome<ExitCode> {
    let MessageChannel { port1, port2 } = MessageChannel::new()?;

    let mut command = Command::new(std::env::current_exe()?);
    command.arg("frame");
    command.stdin(Stdio::null()).stdout(Stdio::null()); // those are the page's
    let mut worker = Worker::spawn(command)?;
    show(&format!(
        "multimessage: the frame is process {}",
        worker.id()
    ));
    let window = worker.port();
    window.post_message_with(&"init".to_string(), [port2])?;

    let talked = talk(&port1);
    // On every way out: the frame takes what is still waiting for it, then the close, and ends.
    port1.close();
    let status = worker.wait()?;
    match talked {
        _ if !status.success() => Err(format!("the frame ended with {status}").into()),
        // Whoever reads the answers, such as `head -1`, has seen enough.
        Err(error) if is_broken_pipe(&*error) => Ok(ExitCode::SUCCESS),
        talked => talked,
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// The other process: waits for its port, then shows and answers every message until the page closes it.
fn frame() -> Outcome<ExitCode> {
    let window = ringport::parent_port()?.ok_or("a frame is started by its page only")?;
    let init = window.recv()?;
    if init.data::<String>()?.as_str() != "init" {
        return Err("the page's first message is not \"init\"".into());
    }
    let port2 = init.take_ports().pop().ok_or("no port came with it")?;

    for event in &port2 {
        show(&format!("• {}", String::from_utf8_lossy(event.bytes())));
        match port2.post_bytes(&[BEFORE, event.bytes(), AFTER].concat()) {
            // A page that is going does not read answers; what it posted is still shown.
            Ok(()) | Err(PostError::Closed(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match port2.close_reason() {
        Some(CloseReason::ClosedByPeer) => Ok(ExitCode::SUCCESS),
        Some(reason) => Err(format!("the channel has ended: {reason}").into()),
        None => Err("cannot wait for messages".into()),
    }
}

/// Posts the lines and prints the answers.
///
/// Both rings are bounded, so the page never waits for the one alone: a page that only waited for room to
/// post, and a frame that only waited for room to answer, would wait for ever.
fn talk(port1: &MessagePort) -> Outcome<ExitCode> {
    let mut input = Input::new()?;
    let mut output = BufWriter::new(io::stdout().lock());
    // The answer, which is longer than the line, must fit into a message too.
    let longest = port1.max_message_len() - BEFORE.len() - AFTER.len();
    let (mut posted, mut answered, mut too_long) = (0, 0, 0);

    loop {
        while let Some(answer) = port1.try_recv()? {
            output.write_all(answer.bytes())?;
            output.write_all(b"\n")?;
            answered += 1;
        }

        while let Some(line) = input.line() {
            let len = line.len();
            if len > longest {
                too_long += 1;
                let number = posted + too_long;
                let most = format!("a line may have at most {longest}: not posted");
                show(&format!(
                    "multimessage: line {number} has {len} bytes, {most}"
                ));
            } else {
                match port1.try_post_bytes(line) {
                    Ok(()) => posted += 1,
                    // Of a close `try_recv` tells, after the last answer.
                    Err(PostError::Full { .. } | PostError::Closed(_)) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            input.skip(len);
        }

        // Nothing more can be done at once: print what there is, then wait.
        output.flush()?;
        if input.ended && input.line().is_none() && posted == answered {
            return Ok(ExitCode::from(if too_long == 0 { 0 } else { 2 }));
        }
        wait(port1, &mut input)?;
    }
}

/// Waits for an answer and, beside it, for room if a line is waiting for it, for input if none is.
fn wait(port1: &MessagePort, input: &mut Input) -> Outcome<()> {
    let (interest, wants_input) = match input.line() {
        Some(line) => (Interest::Either(line.len()), false),
        None => (Interest::Message, !input.ended),
    };
    if port1.arm(interest)? == Armed::Ready {
        return Ok(());
    }
    let mut watched = vec![PollFd::new(port1.as_fd()?, PollFlags::POLLIN)];
    if wants_input {
        watched.push(PollFd::new(input.source.as_fd(), PollFlags::POLLIN));
    }
    match poll(&mut watched, PollTimeout::NONE) {
        Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) if wants_input && watched[1].any() != Some(false) => Ok(input
            .read()
            .map_err(|error| format!("standard input: {error}"))?),
        Ok(_) => Ok(()),
    }
}

/// The lines of standard input, as bytes. More is read only when all are posted, so few are kept.
struct Input {
    /// Not `std::io::Stdin`: lines in its buffer would be invisible to `poll`.
    source: File,
    bytes: Vec<u8>,
    /// Where in `bytes` the next line begins.
    next: usize,
    ended: bool,
}

impl Input {
    fn new() -> io::Result<Self> {
        Ok(Self {
            source: File::from(io::stdin().as_fd().try_clone_to_owned()?),
            bytes: Vec::new(),
            next: 0,
            ended: false,
        })
    }

    /// The next line, if it was read to its end. The last one may lack its newline.
    fn line(&self) -> Option<&[u8]> {
        let rest = &self.bytes[self.next..];
        match rest.iter().position(|&byte| byte == b'\n') {
            Some(end) => Some(&rest[..end]),
            None => (self.ended && !rest.is_empty()).then_some(rest),
        }
    }

    /// Goes on behind a line of so many bytes.
    fn skip(&mut self, len: usize) {
        self.next = (self.next + len + 1).min(self.bytes.len());
    }

    /// Reads once, which does not block after `poll` said that there is something.
    fn read(&mut self) -> io::Result<()> {
        self.bytes.drain(..self.next);
        self.next = 0;
        let mut chunk = [0; 64 << 10];
        match self.source.read(&mut chunk) {
            Ok(len) => {
                self.bytes.extend_from_slice(&chunk[..len]);
                self.ended = len == 0;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}
