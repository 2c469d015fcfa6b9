//! A page and a frame that talk through a channel, as two processes.
//!
//! This is the "MultiMessage" demonstration of the Web's channel messaging, as a native program. The page
//! posts every line of its standard input. The frame shows it as a list item on standard error and
//! answers; the page prints the answers on standard output.
//!
//! ```text
//! printf 'hello\nworld\n' | cargo run --release --example multimessage
//! ```
//!
//! The page runs on one thread, which waits for typed lines and for the frame with one `poll`: that is how
//! a port joins an event loop it knows nothing of (`arm`, then poll `as_fd`).
//!
//! Ends with 0 when every line was answered, with 2 when a line was too long for a message (the others are
//! answered), with 1 when anything else went wrong, such as the death of the frame.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringport::{Armed, CloseReason, Interest, MessagePort, PostError, RecvError, Worker};

const BEFORE: &[u8] = b"Message received by IFrame: \"";
const AFTER: &[u8] = b"\"";

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        None => page(),
        Some("frame") => frame(),
        Some(_) => Err("usage: multimessage (it starts its frame by itself)".into()),
    };
    outcome.unwrap_or_else(|error| {
        tell(&error.to_string());
        ExitCode::FAILURE
    })
}

/// Says something on standard error: in one write, as the frame writes there too, and unlike `eprintln!`
/// without a panic when nobody reads it any more.
fn tell(what: &str) {
    let _ = io::stderr().write_all(format!("multimessage: {what}\n").as_bytes());
}

/// Starts the frame, talks to it until the input ends, and sees it off.
fn page() -> Result<ExitCode, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    // The input and the output are the page's; the frame has its port and standard error.
    command
        .arg("frame")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut worker = Worker::spawn(command)?;
    tell(&format!("the frame is process {}", worker.id()));

    let talked = talk(worker.port());
    // On every way out: the frame takes what is still waiting for it, then the close, and ends.
    worker.port().close();
    let status = worker.wait()?;

    let too_long = match talked {
        Ok(too_long) => too_long,
        // Whoever reads the answers, such as `head -1`, has seen enough.
        Err(error) if is_broken_pipe(&*error) => 0,
        Err(error) => return Err(error),
    };
    if !status.success() {
        return Err(format!("the frame ended with {status}").into());
    }
    Ok(ExitCode::from(if too_long == 0 { 0 } else { 2 }))
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Posts the lines and prints the answers; says how many lines were too long to be posted.
///
/// Both rings are bounded, so the page never waits for the one alone: a page that only waited for room to
/// post, and a frame that only waited for room to answer, would wait for ever.
fn talk(port: &MessagePort) -> Result<u64, Box<dyn Error>> {
    let mut input = Input::new()?;
    let mut output = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    // The answer, which is longer than the line, must fit into a message too.
    let longest = port.max_message_len() - BEFORE.len() - AFTER.len();
    let (mut taken, mut unanswered, mut too_long) = (0u64, 0u64, 0u64);

    loop {
        loop {
            match port.try_recv() {
                Ok(Some(answer)) => {
                    output.write_all(answer.bytes())?;
                    output.write_all(b"\n")?;
                    unanswered -= 1;
                }
                Ok(None) => break,
                Err(RecvError::Closed(reason)) => {
                    output.flush()?;
                    let told =
                        format!("the frame is gone ({reason}); unanswered lines: {unanswered}");
                    return Err(told.into());
                }
                Err(error) => return Err(error.into()),
            }
        }

        while let Some(line) = input.lines.front() {
            if line.len() > longest {
                let (number, len) = (taken + 1, line.len());
                tell(&format!(
                    "line {number} has {len} bytes, a line may have at most {longest}: not posted"
                ));
                too_long += 1;
            } else {
                match port.try_post_bytes(line) {
                    Ok(()) => unanswered += 1,
                    Err(PostError::Full { .. }) => break,
                    Err(PostError::Closed(_)) => break, // the next `try_recv` tells, after the last answer
                    Err(error) => return Err(error.into()),
                }
            }
            taken += 1;
            input.lines.pop_front();
        }

        if input.ended && input.lines.is_empty() && unanswered == 0 {
            output.flush()?;
            return Ok(too_long);
        }

        // Nothing more can be done at once. Show what there is, then wait for an answer and, beside it, for
        // room if a line is waiting for it, for input if none is.
        output.flush()?;
        let (interest, wants_input) = match input.lines.front() {
            Some(line) => (Interest::Either(line.len()), false),
            None => (Interest::Message, !input.ended),
        };
        if matches!(port.arm(interest)?, Armed::Wait) && wait(port, wants_input.then_some(&input))?
        {
            input
                .read()
                .map_err(|error| format!("standard input: {error}"))?;
        }
    }
}

/// Waits until the port or, if given, the input has something; says whether the input has.
fn wait(port: &MessagePort, input: Option<&Input>) -> Result<bool, Box<dyn Error>> {
    let mut watched = vec![PollFd::new(port.as_fd()?, PollFlags::POLLIN)];
    watched.extend(input.map(|input| PollFd::new(input.source.as_fd(), PollFlags::POLLIN)));
    match poll(&mut watched, PollTimeout::NONE) {
        Ok(_) => Ok(watched
            .get(1)
            .is_some_and(|input| input.any() != Some(false))),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The lines of standard input, as bytes. More is read only when all are posted, so few are kept.
struct Input {
    /// Not `std::io::Stdin`: lines in its buffer would be invisible to `poll`.
    source: File,
    lines: VecDeque<Vec<u8>>,
    /// The beginning of a line whose end was not read yet.
    begun: Vec<u8>,
    ended: bool,
}

impl Input {
    fn new() -> io::Result<Self> {
        let source = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Self {
            source,
            lines: VecDeque::new(),
            begun: Vec::new(),
            ended: false,
        })
    }

    /// Reads once, which does not block after `poll` said that there is something.
    fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 64 << 10];
        let len = match self.source.read(&mut chunk) {
            Ok(len) => len,
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for piece in chunk[..len].split_inclusive(|&byte| byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if self.begun.ends_with(b"\n") {
                self.begun.pop();
                self.lines.push_back(std::mem::take(&mut self.begun));
            }
        }
        if len == 0 {
            self.ended = true;
            if !self.begun.is_empty() {
                self.lines.push_back(std::mem::take(&mut self.begun)); // a last line without a newline
            }
        }
        Ok(())
    }
}

/// The other process: shows each message as a list item and answers it, until the page closes the channel.
fn frame() -> Result<ExitCode, Box<dyn Error>> {
    let port = ringport::parent_port()?.ok_or("a frame is started by its page only")?;
    let mut list = BufWriter::new(io::stderr());
    let mut answer = Vec::new();
    loop {
        let received = match port.try_recv() {
            Ok(None) => {
                // About to wait: show the items first. A list that nobody can see is no reason not to answer.
                let _ = list.flush();
                port.recv()
            }
            Ok(Some(event)) => Ok(event),
            Err(error) => Err(error),
        };
        let event = match received {
            Ok(event) => event,
            Err(RecvError::Closed(CloseReason::ClosedByPeer)) => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(error.into()),
        };
        let _ = writeln!(list, "• {}", String::from_utf8_lossy(event.bytes()));
        answer.clear();
        for part in [BEFORE, event.bytes(), AFTER] {
            answer.extend_from_slice(part);
        }
        match port.post_bytes(&answer) {
            // A page that is going does not read answers; what it posted is still listed.
            Ok(()) | Err(PostError::Closed(CloseReason::ClosedByPeer)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
