//! The examples about processes that meet do what their comments say: run as a user runs them.

#[path = "meeting/place.rs"]
mod place;
#[path = "common/program.rs"]
mod program;

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use place::Place;
use program::{LIMIT, Lines, kill, program};

/// One run of an example.
struct Run {
    output: Lines,
    errors: Lines,
    process: u32,
    ended: Receiver<ExitStatus>,
    has_ended: bool,
}

impl Run {
    fn start(example: &str, arguments: &[&OsStr], runtime_dir: Option<&Place>) -> Self {
        let mut command = Command::new(program(example));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(place) = runtime_dir {
            command.env("XDG_RUNTIME_DIR", place.path());
        }
        let mut child: Child = command.spawn().expect("the example starts");
        let output = Lines::of(child.stdout.take().expect("a pipe"));
        let errors = Lines::of(child.stderr.take().expect("a pipe"));
        let process = child.id();
        let (status, ended) = mpsc::channel();
        thread::spawn(move || {
            let _ = status.send(child.wait().expect("the example's status"));
        });
        Self {
            output,
            errors,
            process,
            ended,
            has_ended: false,
        }
    }

    fn line(&self) -> String {
        let line = self.output.next().expect("a line");
        String::from_utf8(line).expect("text")
    }

    fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.output.next())
            .map(|line| String::from_utf8(line).expect("text"))
            .collect()
    }

    fn status(&mut self) -> ExitStatus {
        let status = self.ended.recv_timeout(LIMIT).expect("the example ends");
        self.has_ended = true;
        status
    }

    /// It has said everything, nothing of it on standard error, and ends well.
    #[track_caller]
    fn ends_well(mut self) {
        assert_eq!(self.rest(), Vec::<String>::new());
        assert_eq!(self.errors.rest(), Vec::<Vec<u8>>::new());
        assert!(self.status().success());
    }
}

impl Drop for Run {
    /// A failed test leaves no process behind. (The others of an example end when their peers do.)
    fn drop(&mut self) {
        if !self.has_ended && self.ended.try_recv().is_err() {
            kill(self.process as i32);
        }
    }
}

/// The part of a line between two others.
#[track_caller]
fn between<'l>(line: &'l str, before: &str, after: &str) -> &'l str {
    line.strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after))
        .unwrap_or_else(|| panic!("not {before:?} … {after:?}: {line:?}"))
}

/// What an example's comment says that it prints: its block of text, without the command.
fn promised(example: &str) -> Vec<String> {
    let path = format!("{}/examples/{example}.rs", env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(path).expect("the example's source");
    let comment = source.lines().map_while(|line| line.strip_prefix("//!"));
    let block = comment
        .map(str::trim_start)
        .skip_while(|line| *line != "```text")
        .skip(1)
        .take_while(|line| *line != "```");
    block
        .filter(|line| !line.starts_with("$ "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn delegate_prints_what_its_comment_says() {
    let promised = promised("delegate");
    assert_eq!(promised.len(), 10, "{promised:?}");
    for _ in 0..5 {
        let run = Run::start("delegate", &[], None);
        for line in &promised {
            assert_eq!(&run.line(), line);
        }
        run.ends_well();
    }
}

/// The line that says who came.
#[track_caller]
fn arrival(line: &str, number: usize) -> u32 {
    // SAFETY: `geteuid` has no precondition.
    let user = unsafe { libc::geteuid() };
    let before = format!("client {number} is process ");
    between(line, &before, &format!(" of user {user}"))
        .parse()
        .expect("a process id")
}

fn heard(me: usize, text: &str, other: usize) -> String {
    format!("client {me} heard: \"{text} I am client {other}.\"")
}

#[test]
fn meet_introduces_three_clients_to_each_other() {
    let run = Run::start("meet", &[], None);
    let mut processes = vec![run.process];
    for newcomer in 1..=3 {
        processes.push(arrival(&run.line(), newcomer));
        for other in 1..newcomer {
            assert_eq!(run.line(), heard(other, "Hello,", newcomer));
            assert_eq!(run.line(), heard(newcomer, "Welcome!", other));
        }
    }
    let left = std::env::temp_dir().join(format!("ringport-meet-{}", run.process));
    run.ends_well();
    assert!(!left.exists(), "it cleans up");
    processes.sort_unstable();
    processes.dedup();
    assert_eq!(processes.len(), 4, "four processes");
}

/// Runs the listener and its clients as from several terminals.
fn meet_by_hand(address: &OsStr, place: &Place, socket: &str) {
    let by_hand = |part: &str| Run::start("meet", &[part.as_ref(), address], Some(place));
    let mut listener = by_hand("listen");
    assert_eq!(listener.line(), format!("listening at {socket}"));

    let one = by_hand("client");
    assert_eq!(arrival(&listener.line(), 1), one.process);
    let mut two = by_hand("client");
    assert_eq!(arrival(&listener.line(), 2), two.process);
    assert_eq!(one.line(), heard(1, "Hello,", 2));
    assert_eq!(two.line(), heard(2, "Welcome!", 1));

    // A client that is killed is not in the way of those that come later.
    kill(two.process as i32);
    assert_eq!(two.status().signal(), Some(libc::SIGKILL));
    let three = by_hand("client");
    assert_eq!(arrival(&listener.line(), 3), three.process);
    assert_eq!(one.line(), heard(1, "Hello,", 3));
    assert_eq!(three.line(), heard(3, "Welcome!", 1));

    kill(listener.process as i32);
    assert_eq!(listener.status().signal(), Some(libc::SIGKILL));
    one.ends_well();
    three.ends_well();
}

#[test]
fn meet_by_hand_at_a_name() {
    let place = Place::new();
    let socket = place.path().join("ringport/mixer");
    meet_by_hand("mixer".as_ref(), &place, socket.to_str().expect("text"));
}

#[test]
fn meet_by_hand_at_a_path() {
    let place = Place::new();
    let socket = place.path().join("here");
    meet_by_hand(socket.as_os_str(), &place, socket.to_str().expect("text"));
}

#[test]
fn wrong_arguments_are_told() {
    for (example, arguments) in [
        ("delegate", &["D"][..]),
        ("meet", &["listen"]),
        ("meet", &["client", "a", "b"]),
    ] {
        let arguments: Vec<_> = arguments.iter().map(OsStr::new).collect();
        let mut run = Run::start(example, &arguments, None);
        assert_eq!(run.status().code(), Some(1));
        let told = run.errors.rest().concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains(&format!("usage: {example}")), "{told:?}");
    }
}

#[test]
fn a_client_of_nobody_is_told_so() {
    let place = Place::new();
    let mut run = Run::start("meet", &["client".as_ref(), "mixer".as_ref()], Some(&place));
    assert_eq!(run.status().code(), Some(1));
    let told = String::from_utf8_lossy(&run.errors.rest().concat()).into_owned();
    assert!(told.contains("mixer"), "{told:?}");
    assert!(run.rest().is_empty());
}
