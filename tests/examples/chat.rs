//! A chat by hand, with what its demonstration does not show.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringport::{CloseReason, RecvError, Worker, connect};

use crate::place::Place;
use crate::program::{LIMIT, kill, program};
use crate::run::{Run, prints_what_its_comment_says};

/// A server at a path of its own, which ends with its test.
struct Server {
    place: Place,
    worker: Worker,
}

impl Server {
    fn start() -> Server {
        let place = Place::new();
        let mut command = Command::new(program("chat_server"));
        command.arg("serve").arg(place.join("lobby"));
        command.stdout(Stdio::null());
        let worker = Worker::spawn(command).expect("a server");
        let listens = worker.port().recv_timeout(LIMIT).expect("it is alive");
        assert_eq!(listens.expect("it listens").bytes(), b"listening");
        Server { place, worker }
    }

    fn socket(&self) -> PathBuf {
        self.place.join("lobby")
    }

    /// Somebody joins, and is told who is here; so are those who are here.
    #[track_caller]
    fn join(&self, name: &str, others: &[&Run]) -> Run {
        let socket = self.socket();
        let arguments = ["join".as_ref(), socket.as_os_str(), name.as_ref()];
        let run = Run::start_typing("chat_server", &arguments, None);
        assert!(run.line().starts_with("* "), "who is here");
        for other in others {
            assert_eq!(other.line(), format!("* {name} has come"));
        }
        run
    }

    /// Memory that it has, in bytes.
    fn memory(&self) -> usize {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.worker.id()));
        let pages = statm.expect("it is alive");
        let resident = pages.split(' ').nth(1).expect("a second field");
        4096 * resident.parse::<usize>().expect("a number")
    }

    /// Whoever has started it goes away.
    fn end(mut self) {
        self.worker.port().close();
        assert!(self.worker.wait().expect("its status").success());
    }
}

fn signal(run: &Run, signal: libc::c_int) {
    // SAFETY: `kill` takes two integers and touches no memory of this process.
    let sent = unsafe { libc::kill(run.process as i32, signal) };
    assert_eq!(sent, 0, "signal {signal} to process {}", run.process);
}

#[test]
fn chat_server_prints_what_its_comment_says() {
    prints_what_its_comment_says("chat_server", 22);
}

#[test]
fn a_chat_leaves_no_directory_behind() {
    let run = Run::start("chat_server", &[], None);
    let left = std::env::temp_dir().join(format!("ringport-chat-{}", run.process));
    assert_eq!(run.rest().len(), 22);
    run.ends_well();
    assert!(!left.exists());
}

#[test]
fn a_chat_by_hand_at_a_name() {
    let place = Place::new();
    let by_hand = |arguments: &[&str]| {
        let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        Run::start_typing("chat_server", &arguments, Some(&place))
    };
    let mut server = by_hand(&["serve", "lobby"]);
    let socket = place.join("ringport/lobby");
    assert_eq!(server.line(), format!("listening at {}", socket.display()));

    let mut ann = by_hand(&["join", "lobby", "ann"]);
    assert_eq!(ann.line(), "* nobody else is here");
    let mut bob = by_hand(&["join", "lobby", "bob"]);
    assert_eq!(bob.line(), "* here: ann");
    assert_eq!(ann.line(), "* bob has come");
    for text in ["hello", "", "  what a day! ☀", "bye"] {
        bob.type_line(text);
        assert_eq!(ann.line(), format!("bob: {text}"));
    }
    bob.end_typing();
    assert_eq!(ann.line(), "* bob has left");
    bob.ends_well();

    ann.type_line("is anybody there?");
    kill(server.process as i32);
    assert_eq!(server.status().signal(), Some(libc::SIGKILL));
    assert_eq!(ann.status().code(), Some(1));
    assert!(ann.told().contains("the server: the peer is gone"));
}

#[test]
fn clients_that_are_killed_have_left() {
    let server = Server::start();
    let mut ann = server.join("ann", &[]);
    for _ in 0..10 {
        let mut bob = server.join("bob", &[&ann]);
        let mut cem = server.join("cem", &[&ann, &bob]);
        cem.type_line("the last words of cem");
        assert_eq!(ann.line(), "cem: the last words of cem");
        kill(cem.process as i32);
        assert_eq!(cem.status().signal(), Some(libc::SIGKILL));
        assert_eq!(ann.line(), "* cem has left");
        assert_eq!(bob.line(), "cem: the last words of cem");
        assert_eq!(bob.line(), "* cem has left");
        bob.end_typing();
        assert_eq!(ann.line(), "* bob has left");
        bob.ends_well();
    }
    ann.end_typing();
    ann.ends_well();
    server.end();
}

/// A stopped client is not a dead one.
#[test]
fn who_is_stopped_misses_lines_and_neither_others_nor_the_server_notice() {
    const LINES: usize = 2000;
    let server = Server::start();
    let ann = server.join("ann", &[]);
    let mut bob = server.join("bob", &[&ann]);
    let dee = server.join("dee", &[&ann, &bob]);
    let mut say = |from, to| {
        for number in from..to {
            let text = format!("{number} {}", "-".repeat(1000));
            bob.type_line(&text);
            assert_eq!(ann.line(), format!("bob: {text}"));
        }
    };
    signal(&dee, libc::SIGSTOP);
    say(0, LINES / 2);
    let memory = server.memory();
    say(LINES / 2, LINES);
    let grown = server.memory().saturating_sub(memory);
    assert!(grown < 200 << 10, "it has grown by {grown} bytes");

    signal(&dee, libc::SIGCONT);
    let mut seen = 0;
    let missed = loop {
        let line = dee.line();
        if !line.starts_with(&format!("bob: {seen} -")) {
            break line;
        }
        seen += 1;
    };
    let count = LINES - seen;
    assert_eq!(missed, format!("* you have missed {count} lines"));
    assert!(
        seen >= 30 && count >= LINES / 2,
        "a ring of 64 KiB holds some"
    );
    bob.type_line("are you there?");
    assert_eq!(dee.line(), "bob: are you there?");
}

#[test]
fn a_stranger_that_does_not_know_the_language_is_shown_out() {
    let server = Server::start();
    let ann = server.join("ann", &[]);
    let stranger = connect(server.socket()).expect("it listens");
    let silent = connect(server.socket()).expect("it listens");
    stranger.post_bytes(b"hello?").expect("it is there");
    match stranger.recv_timeout(LIMIT) {
        Err(RecvError::Closed(CloseReason::ClosedByPeer)) => {}
        other => panic!("{other:?}"),
    }
    // Nobody has heard of it, nor of the silent one, which hears nothing.
    let mut bob = server.join("bob", &[&ann]);
    bob.type_line("hello");
    assert_eq!(ann.line(), "bob: hello");
    assert!(silent.recv_timeout(Duration::ZERO).expect("open").is_none());
    assert!(!silent.is_closed());
}

#[test]
fn a_line_too_long_for_a_message_is_not_said() {
    let server = Server::start();
    let ann = server.join("ann", &[]);
    let mut bob = server.join("bob", &[&ann]);
    bob.type_line(&"x".repeat(100_000));
    bob.type_line("short");
    assert_eq!(ann.line(), "bob: short");
    bob.end_typing();
    assert!(bob.told().starts_with("not said: "));
    assert!(bob.status().success());
}

#[test]
fn a_server_ends_with_the_program_that_has_started_it_and_its_clients_end_too() {
    let server = Server::start();
    let mut ann = server.join("ann", &[]);
    server.end();
    assert_eq!(ann.status().code(), Some(1));
    assert!(ann.told().contains("the server: the peer closed it"));
}
