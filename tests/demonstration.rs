//! The demonstration does what the README says: `examples/multimessage.rs`, run as a user runs it.

#[path = "common/program.rs"]
mod program;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use program::{LIMIT, Lines, kill, program};

const LONG_LINE: &[u8] = &[b'z'; 999];

/// One run of the demonstration.
struct Page {
    typing: Option<ChildStdin>,
    output: Lines,
    shown: Lines,
    frame: i32,
    page: i32,
    ended: Receiver<ExitStatus>,
    has_ended: bool,
}

impl Page {
    fn start() -> Self {
        let mut child: Child = Command::new(program("multimessage"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let typing = child.stdin.take();
        let output = Lines::of(child.stdout.take().expect("a pipe"));
        let shown = Lines::of(child.stderr.take().expect("a pipe"));
        let page = i32::try_from(child.id()).expect("a process id");
        let (status, ended) = mpsc::channel();
        thread::spawn(move || {
            let _ = status.send(child.wait().expect("the example's status"));
        });

        let first = shown
            .next()
            .map(|line| String::from_utf8_lossy(&line).into_owned());
        let frame = first
            .as_deref()
            .and_then(|line| {
                line.strip_prefix("multimessage: the frame is process ")?
                    .parse()
                    .ok()
            })
            .unwrap_or_else(|| panic!("the page names its frame first, not {first:?}"));
        Self {
            typing,
            output,
            shown,
            frame,
            page,
            ended,
            has_ended: false,
        }
    }

    /// Runs with this input to the end: the status, the lines of standard output and of standard error.
    fn run(input: &[u8]) -> (Option<i32>, Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let mut page = Page::start();
        let mut typing = page.typing.take().expect("an input");
        let input = input.to_vec();
        let typist = thread::spawn(move || typing.write_all(&input));
        let output = page.output.rest();
        let shown = page.shown.rest();
        let status = page.status();
        typist
            .join()
            .expect("a typist")
            .expect("the page takes all input");
        (status.code(), output, shown)
    }

    fn type_line(&mut self, line: &str) {
        let typing = self.typing.as_mut().expect("an input");
        typing
            .write_all(format!("{line}\n").as_bytes())
            .expect("the page takes a line");
    }

    /// Types until nobody takes it any more.
    fn type_for_ever(&mut self) -> thread::JoinHandle<()> {
        let mut typing = self.typing.take().expect("an input");
        thread::spawn(move || while typing.write_all(b"and another line\n").is_ok() {})
    }

    /// Stops the frame, and types lines of 1000 bytes until the page has taken none for a while: how many.
    fn type_to_a_stopped_frame(&mut self) -> usize {
        signal(self.frame, libc::SIGSTOP);
        let typing = self.typing.as_mut().expect("an input");
        let mut typed = 0;
        loop {
            let mut pipe = [PollFd::new(typing.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut pipe, PollTimeout::from(500u16)).expect("it can be waited for") == 0 {
                return typed;
            }
            // A pipe that is ready takes a page.
            let line = [LONG_LINE, b"\n"].concat();
            typing.write_all(&line).expect("the page is alive");
            typed += 1;
            // A pipe and two rings of 64 KiB hold some 200.
            assert!(typed < 1000, "the page keeps them all");
        }
    }

    fn status(&mut self) -> ExitStatus {
        let status = self.ended.recv_timeout(LIMIT).expect("the page ends");
        self.has_ended = true;
        status
    }
}

impl Drop for Page {
    /// A failed test leaves no process behind. (The frame ends when its page does, unless it is stopped.)
    fn drop(&mut self) {
        if !self.has_ended && self.ended.try_recv().is_err() {
            if thread::panicking() {
                kill(self.frame);
            }
            kill(self.page);
        }
    }
}

fn signal(process: i32, signal: libc::c_int) {
    // SAFETY: `kill` takes two integers and touches no memory of this process.
    assert_eq!(unsafe { libc::kill(process, signal) }, 0);
}

fn answer(line: impl AsRef<[u8]>) -> Vec<u8> {
    [b"Message received by IFrame: \"", line.as_ref(), b"\""].concat()
}

fn item(line: &str) -> Vec<u8> {
    format!("• {line}").into_bytes()
}

fn assert_tells(shown: &[Vec<u8>], wanted: &str) {
    let shown: Vec<_> = shown
        .iter()
        .map(|line| String::from_utf8_lossy(line))
        .collect();
    assert!(
        shown.iter().any(|line| line.contains(wanted)),
        "no {wanted:?} in {shown:?}"
    );
}

#[test]
fn two_lines_are_answered_and_listed_in_order() {
    let (status, output, shown) = Page::run(b"hello\nworld\n");
    assert_eq!(output, [answer("hello"), answer("world")]);
    assert_eq!(shown, [item("hello"), item("world")]);
    assert_eq!(status, Some(0));
}

#[test]
fn two_hundred_thousand_lines_arrive_complete_and_in_order() {
    let lines: Vec<String> = (0..200_000)
        .map(|number| format!("line {number}"))
        .collect();
    let (status, output, shown) = Page::run((lines.join("\n") + "\n").as_bytes());
    assert_eq!((output.len(), shown.len()), (lines.len(), lines.len()));
    for (number, line) in lines.iter().enumerate() {
        assert!(
            output[number] == answer(line),
            "answer {number}: {:?}",
            output[number]
        );
        assert!(
            shown[number] == item(line),
            "item {number}: {:?}",
            shown[number]
        );
    }
    assert_eq!(status, Some(0));
}

/// Rings hold a few of these: both are full all the time, and nobody waits for ever.
#[test]
fn two_thousand_long_lines_arrive_complete_and_in_order() {
    let lines: Vec<String> = (0..2000)
        .map(|number| format!("{number} {}", "x".repeat(10_000 + 10 * number)))
        .collect();
    let (status, output, shown) = Page::run((lines.join("\n") + "\n").as_bytes());
    assert!(output == lines.iter().map(answer).collect::<Vec<_>>());
    assert_eq!(shown.len(), lines.len());
    assert_eq!(status, Some(0));
}

#[test]
fn a_page_takes_no_more_lines_than_there_is_room_for() {
    let mut page = Page::start();
    let typed = page.type_to_a_stopped_frame();
    signal(page.frame, libc::SIGCONT);
    page.typing = None;
    assert!(page.output.rest() == vec![answer(LONG_LINE); typed]);
    assert_eq!(page.status().code(), Some(0));
}

#[test]
fn no_input_is_no_error() {
    let (status, output, shown) = Page::run(b"");
    assert!(
        output.is_empty() && shown.is_empty(),
        "{output:?} {shown:?}"
    );
    assert_eq!(status, Some(0));
}

#[test]
fn an_empty_line_is_a_message() {
    let (status, output, shown) = Page::run(b"\n\nx\n\n");
    assert_eq!(output, [answer(""), answer(""), answer("x"), answer("")]);
    assert_eq!(shown, [item(""), item(""), item("x"), item("")]);
    assert_eq!(status, Some(0));
}

#[test]
fn a_last_line_without_a_newline_is_posted() {
    let (status, output, _) = Page::run(b"hello\nworld");
    assert_eq!(output, [answer("hello"), answer("world")]);
    assert_eq!(status, Some(0));
}

#[test]
fn a_line_that_is_not_utf8_comes_back_as_it_was() {
    let (status, output, shown) = Page::run(b"caf\xe9\n\xff\x00\xfe\n");
    assert_eq!(output, [answer(b"caf\xe9"), answer(b"\xff\x00\xfe")]);
    assert_eq!(shown, [item("caf\u{fffd}"), item("\u{fffd}\0\u{fffd}")]);
    assert_eq!(status, Some(0));
}

#[test]
fn a_line_too_long_for_a_message_is_named_and_the_others_are_answered() {
    let (status, output, shown) =
        Page::run(&[b"before\n", &[b'x'; 100_000][..], b"\nafter\n"].concat());
    assert_eq!(output, [answer("before"), answer("after")]);
    assert_tells(&shown, "line 2 has 100000 bytes, a line may have at most ");
    assert_eq!(status, Some(2));

    // The size it names is the right one: such a line is answered, one byte more is too long.
    let told = shown
        .iter()
        .map(|line| String::from_utf8_lossy(line))
        .collect::<String>();
    let longest = told
        .split("at most ")
        .nth(1)
        .and_then(|rest| rest.split(':').next());
    let longest: usize = longest
        .and_then(|number| number.parse().ok())
        .expect("a size");
    let line = vec![b'y'; longest];
    let (status, output, shown) = Page::run(&[&line[..], b"\n", &line, b"y\n", &line].concat());
    assert!(
        output == [answer(&line), answer(&line)],
        "{} answers",
        output.len()
    );
    assert_tells(&shown, &format!("line 2 has {} bytes", longest + 1));
    assert_eq!(status, Some(2));
}

#[test]
fn a_typed_line_is_answered_before_the_next_one_is_typed() {
    let mut page = Page::start();
    for number in 0..100 {
        let line = format!("typed {number}");
        page.type_line(&line);
        assert_eq!(page.output.next(), Some(answer(&line)));
        assert_eq!(page.shown.next(), Some(item(&line)));
    }
    page.typing = None;
    assert_eq!(page.status().code(), Some(0));
}

#[test]
fn a_page_that_waits_for_typing_notices_the_death_of_its_frame() {
    let mut page = Page::start();
    page.type_line("hello");
    assert_eq!(page.output.next(), Some(answer("hello")));
    kill(page.frame); // the input stays open: only the death can wake the page
    assert_eq!(page.status().code(), Some(1));
    assert_eq!(page.output.next(), None);
    assert_tells(&page.shown.rest(), "the frame ended with signal: 9");
}

#[test]
fn a_busy_page_notices_the_death_of_its_frame() {
    let mut page = Page::start();
    let typist = page.type_for_ever();
    for _ in 0..1000 {
        assert_eq!(page.output.next(), Some(answer("and another line")));
    }
    kill(page.frame);
    assert_eq!(page.status().code(), Some(1));
    assert!(
        page.output
            .rest()
            .iter()
            .all(|line| *line == answer("and another line"))
    );
    assert_tells(&page.shown.rest(), "the frame ended with signal: 9");
    typist.join().expect("a typist");
}

#[test]
fn a_page_that_waits_for_room_notices_the_death_of_its_frame() {
    let mut page = Page::start();
    page.type_to_a_stopped_frame();
    kill(page.frame);
    assert_eq!(page.status().code(), Some(1));
    assert!(
        page.output.rest().is_empty(),
        "the frame has answered nothing"
    );
    assert_tells(&page.shown.rest(), "the frame ended with signal: 9");
}

#[test]
fn a_frame_ends_when_its_page_is_killed() {
    let mut page = Page::start();
    page.type_line("hello");
    assert_eq!(page.output.next(), Some(answer("hello")));
    kill(page.page);
    assert_eq!(page.status().signal(), Some(libc::SIGKILL));
    // The frame holds the other end of this pipe, so its end is the frame's.
    assert_tells(&page.shown.rest(), "hello");
}

#[test]
fn an_output_that_is_closed_early_ends_the_page_quietly() {
    let mut page = Page::start();
    let typist = page.type_for_ever();
    assert_eq!(page.output.next(), Some(answer("and another line")));
    page.output = Lines::none();
    assert_eq!(page.status().code(), Some(0));
    let shown = page.shown.rest();
    assert!(
        shown.iter().all(|line| *line == item("and another line")),
        "{:?}",
        shown.last()
    );
    typist.join().expect("a typist");
}

#[test]
fn a_list_that_nobody_sees_does_not_stop_the_answers() {
    let mut page = Page::start();
    page.shown = Lines::none();
    for number in 0..1000 {
        let line = format!("typed {number}");
        page.type_line(&line);
        assert_eq!(page.output.next(), Some(answer(&line)));
    }
    page.typing = None;
    assert_eq!(page.status().code(), Some(0));
}
