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
//! All of it is done in handlers. Only standard input, which is no port, has a thread that waits for it and posts
//! the lines through a channel of their own.
//!
//! Ends with 0 when every line was answered, with 2 when a line was too long for a message (the others are
//! answered), with 1 when anything else went wrong, such as the death of the frame.

use std::cell::Cell;
use std::error::Error;
use std::ffi::OsString;
use std::io::{self, BufRead, ErrorKind, Write};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use ringport::{
    Attached, CloseReason, EventLoop, MessageChannel, MessagePort, PortEvent, PortId, PostError,
    Worker,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const BEFORE: &[u8] = b"Message received by IFrame: \"";
const AFTER: &[u8] = b"\"";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let outcome = match &arguments[..] {
        [] => page(None),
        [part] if part == "frame" => frame(),
        [option, program] if option == "--frame" => page(Some(program)),
        _ => Err("usage: multimessage [--frame PROGRAM] (without, it starts itself)".into()),
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

/// The other process: gets its port, then shows and answers every message until the page closes it.
fn frame() -> Outcome<ExitCode> {
    let window = ringport::parent_port()?.ok_or("a frame is started by its page only")?;
    let end = Cell::new(Err("the page has gone without \"init\"".into()));
    let mut events = EventLoop::new()?;
    events.add(window)?.on_data::<String>(|events, init| {
        if let Err(error) = answer_on(events, init.take_ports().pop(), &end) {
            end.set(Err(error));
        }
        // The window has served. Without it the loop ends when `port2` is closed.
        let _ = events.detach(init.into_event());
    });
    events.run()?;
    drop(events);
    end.into_inner()
}

fn answer_on<'h>(
    events: &EventLoop<'h>,
    port2: Option<MessagePort>,
    end: &'h Cell<Outcome<ExitCode>>,
) -> Outcome<()> {
    let port2 = events.add(port2.ok_or("no port came with \"init\"")?)?;
    port2.on_message(|_, event| {
        show(&format!("• {}", String::from_utf8_lossy(event.bytes())));
        let answer = [BEFORE, event.bytes(), AFTER].concat();
        // It may wait for room, since the page takes answers whatever else it does.
        match event.port().post_bytes(&answer) {
            // A page that is going does not read answers; what it posted is still shown.
            Ok(()) | Err(PostError::Closed(_)) => {}
            Err(error) => {
                end.set(Err(error.into()));
                event.port().close();
            }
        }
    });
    port2.on_close(|_, close| {
        end.set(match close.reason {
            CloseReason::ClosedByPeer => Ok(ExitCode::SUCCESS),
            reason => Err(format!("the channel has ended: {reason}").into()),
        });
    });
    Ok(())
}

/// Makes the channel, gives one end of it to the frame, and talks through the other.
fn page(frame: Option<&OsString>) -> Outcome<ExitCode> {
    let MessageChannel { port1, port2 } = MessageChannel::new()?;

    // The frame may be another program that speaks as this one does, such as the one in `examples/c`.
    let program = frame.map_or_else(std::env::current_exe, |frame| Ok(frame.into()))?;
    let mut command = Command::new(program);
    command.arg("frame");
    command.stdin(Stdio::null()).stdout(Stdio::null()); // those are the page's
    let worker = Worker::spawn(command)?;
    show(&format!(
        "multimessage: the frame is process {}",
        worker.id()
    ));
    let window = worker.port();
    window.post_message_with(&"init".to_string(), [port2])?;

    let input = MessageChannel::new()?;
    // The answer, which is longer than the line, must fit into a message too.
    let longest = port1.max_message_len() - BEFORE.len() - AFTER.len();
    let reader = thread::spawn(move || post_input(&input.port1, longest));

    // What handlers borrow is declared before the loop.
    let (page, frame_ended) = (Page::default(), Cell::new(None));
    let mut events = EventLoop::new()?;
    events.add_worker(worker, |_, status| frame_ended.set(Some(status)))?;
    page.take_answers(&events, port1)?;
    page.take_lines(&events, input.port2)?;
    events.run()?; // until all of these have left it
    drop(events);

    let status = frame_ended.take().ok_or("the frame has not ended")??;
    match page.failure.take() {
        _ if !status.success() => Err(format!("the frame ended with {status}").into()),
        // Whoever reads the answers, such as `head -1`, has seen enough.
        Some(error) if is_broken_pipe(&*error) => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error),
        None => match reader.join().expect("the reader does not panic") {
            Ok(0) => Ok(ExitCode::SUCCESS),
            Ok(_) => Ok(ExitCode::from(2)),
            Err(error) => Err(format!("standard input: {error}").into()),
        },
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Posts the lines of standard input, and says how many were too long. When the ring is full it waits until the
/// page has taken some, so that few are kept.
fn post_input(port: &MessagePort, longest: usize) -> io::Result<u64> {
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    let (mut number, mut too_long) = (0, 0);
    while input.read_until(b'\n', &mut line)? > 0 {
        number += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let len = text.len();
        if len > longest {
            too_long += 1;
            let most = format!("a line may have at most {longest}: not posted");
            show(&format!(
                "multimessage: line {number} has {len} bytes, {most}"
            ));
        } else if port.post_bytes(text).is_err() {
            break; // the page takes no more
        }
        line.clear();
    }
    Ok(too_long)
}

/// What the page's handlers share.
#[derive(Default)]
struct Page {
    port1: Cell<Option<PortId>>,
    /// The port that brings the lines. None: no more will come.
    lines: Cell<Option<PortId>>,
    failure: Cell<Option<Box<dyn Error>>>,
}

impl Page {
    fn take_answers<'h>(&'h self, events: &EventLoop<'h>, port1: MessagePort) -> Outcome<()> {
        let port1 = events.add(port1)?;
        self.port1.set(Some(port1.id()));
        port1.on_message(|events, answer| {
            let printed = io::stdout().write_all(&[answer.bytes(), b"\n"].concat());
            self.check(events, printed.map_err(Into::into));
            self.close_if_answered(events);
        });
        port1.on_close(|events, close| self.check(events, Err(close.reason.to_string().into())));
        Ok(())
    }

    fn take_lines<'h>(&'h self, events: &EventLoop<'h>, lines: MessagePort) -> Outcome<()> {
        let lines = events.add(lines)?;
        self.lines.set(Some(lines.id()));
        lines.on_message(|events, line| self.check(events, self.post(events, line)));
        lines.on_close(|events, _| {
            self.lines.set(None);
            self.close_if_answered(events);
        });
        Ok(())
    }

    /// Posts a line. It does not wait for room, since the frame may be waiting for some itself: it keeps the line,
    /// and takes the port that brings the lines out of the loop until there is room.
    fn post<'h>(&'h self, events: &EventLoop<'h>, line: PortEvent<'_>) -> Outcome<()> {
        if self.try_post(events, line.bytes())? {
            return Ok(());
        }
        let (lines, line) = (line.id(), line.into_owned());
        let lines = events.remove(lines)?;
        self.port1(events)?.on_room(line.len(), move |events, _| {
            let posted = self.try_post(events, line.bytes());
            self.check(events, posted.and_then(|_| self.take_lines(events, lines)));
        });
        Ok(())
    }

    /// Whether there was room. Of a close `on_close` tells, after the last answer.
    fn try_post(&self, events: &EventLoop<'_>, line: &[u8]) -> Outcome<bool> {
        match self.port1(events)?.try_post_bytes(line) {
            Ok(()) | Err(PostError::Closed(_)) => Ok(true),
            Err(PostError::Full { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The frame takes what is waiting for it, then the close, and ends.
    fn close_if_answered(&self, events: &EventLoop<'_>) {
        if let (None, Ok(port1)) = (self.lines.get(), self.port1(events)) {
            let stats = port1.stats();
            if stats.messages_posted == stats.messages_received {
                port1.close();
            }
        }
    }

    /// Ends everything if something went wrong. The first error counts.
    fn check(&self, events: &EventLoop<'_>, done: Outcome<()>) {
        let Err(error) = done else { return };
        let first = self.failure.take().unwrap_or(error);
        self.failure.set(Some(first));
        if let Ok(port1) = self.port1(events) {
            port1.close();
        }
        if let Some(lines) = self.lines.take() {
            let _ = events.remove(lines);
        }
    }

    fn port1<'l, 'h>(&self, events: &'l EventLoop<'h>) -> Outcome<Attached<'l, 'h>> {
        let port1 = self.port1.get().and_then(|port1| events.port(port1));
        Ok(port1.ok_or("the channel is closed")?)
    }
}
