//! The examples do what their comments say: run as a user runs them.

#[path = "examples/chat.rs"]
mod chat;
#[path = "meeting/place.rs"]
mod place;
#[path = "common/program.rs"]
mod program;
#[path = "examples/run.rs"]
mod run;

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use place::Place;
use program::kill;
use run::{Run, prints_what_its_comment_says, promised};

/// The part of a line between two others.
#[track_caller]
fn between<'l>(line: &'l str, before: &str, after: &str) -> &'l str {
    line.strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after))
        .unwrap_or_else(|| panic!("not {before:?} … {after:?}: {line:?}"))
}

#[test]
fn delegate_prints_what_its_comment_says() {
    prints_what_its_comment_says("delegate", 10);
}

#[test]
fn poll_loop_prints_what_its_comment_says() {
    prints_what_its_comment_says("poll_loop", 2);
}

#[test]
fn mio_loop_prints_what_its_comment_says() {
    prints_what_its_comment_says("mio_loop", 1);
}

#[cfg(feature = "tokio")]
#[test]
fn tokio_pipeline_prints_what_its_comment_says() {
    prints_what_its_comment_says("tokio_pipeline", 3);
}

/// What the clients print comes mixed, and so do calls that end at the same time.
#[test]
fn rpc_prints_what_its_comment_says_for_each_of_three_clients() {
    let promised = promised("rpc");
    let run = Run::start("rpc", &[], None);
    let lines = run.rest();
    assert_eq!((promised.len(), lines.len()), (9, 3 * 8 + 1), "{lines:#?}");
    assert_eq!(lines[3 * 5], promised[5], "it comes before what it causes");
    for client in ["client 1: ", "client 2: ", "client 3: "] {
        let of = |lines: &[String], client| -> Vec<String> {
            let lines = lines.iter().filter_map(|line| line.strip_prefix(client));
            let mut lines: Vec<String> = lines.map(str::to_owned).collect();
            lines[..2].sort_unstable();
            lines[5..].sort_unstable();
            lines
        };
        assert_eq!(of(&lines, client), of(&promised, "client 1: "));
    }
    run.ends_well();
}

/// They hold its output too, so that this ends when the last of them does.
#[test]
fn the_processes_of_rpc_end_when_it_is_killed() {
    let mut run = Run::start("rpc", &[], None);
    run.line(); // it goes on for half a second
    kill(run.process as i32);
    let killed = Instant::now();
    assert_eq!(run.status().signal(), Some(libc::SIGKILL));
    assert!(!run.rest().contains(&"the server is killed.".to_string()));
    assert!(
        killed.elapsed() < Duration::from_secs(30),
        "calls wait for a minute"
    );
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
        ("chat_server", &["join", "lobby"]),
        ("multimessage", &["page"]),
        ("rpc", &["client"]),
        ("poll_loop", &["talk"]),
        ("mio_loop", &["a", "b"]),
    ] {
        let arguments: Vec<_> = arguments.iter().map(OsStr::new).collect();
        let mut run = Run::start(example, &arguments, None);
        assert_eq!(run.status().code(), Some(1));
        let told = run.told();
        assert!(told.contains(&format!("usage: {example}")), "{told:?}");
    }
}

#[test]
fn a_client_of_nobody_is_told_so() {
    let place = Place::new();
    let mut run = Run::start("meet", &["client".as_ref(), "mixer".as_ref()], Some(&place));
    assert_eq!(run.status().code(), Some(1));
    let told = run.told();
    assert!(told.contains("mixer"), "{told:?}");
    assert!(run.rest().is_empty());
}
