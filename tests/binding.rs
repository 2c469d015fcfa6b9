//! A path has one listener: a live one is never replaced, a dead one is, and what is no listener of ours is
//! left alone.

mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use common::{closed, kill, next};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use parties::{address, assert_entangled, at, meet};
use place::Place;
use ringport::{
    BindError, CloseReason, ConnectError, Listener, MessagePort, WaitStrategy, Worker, connect,
};

roles! { listens, races }

/// Somebody listens there and nobody may take it; who tries leaves everything as it was.
#[track_caller]
fn assert_in_use(path: &Path) {
    let directory = path.parent().unwrap();
    let before = place::names_in(directory);
    match Listener::bind(path) {
        Err(BindError::InUse { path: named }) => assert_eq!(named, path),
        other => panic!("wanted InUse, got {other:?}"),
    }
    assert_eq!(place::names_in(directory), before);
}

/// Whether a connection there reaches somebody.
fn answers(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

#[test]
fn s62_a_live_listener_is_never_replaced() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let path = place.join("here");

    // Of this process.
    let listener = Listener::bind(&path).unwrap();
    for _ in 0..3 {
        assert_in_use(&path);
    }
    let (accepted, connected) = meet(&listener);
    assert_entangled(&accepted, &connected);
    drop(listener);

    // Of another, also while it is stopped.
    let (_port, mut child) = listening(&path, "");
    assert_in_use(&path);
    // SAFETY: the process is a child that has not been waited for; its number is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGSTOP) }, 0);
    common::until("it stopped", || {
        common::state(child.id(), child.id()) == Some('T')
    });
    assert_in_use(&path);
    kill(&mut child);

    // Another place is another listener.
    let one = Listener::bind(&path).unwrap();
    let other = Listener::bind(place.join("here.2")).unwrap();
    let (at_one, at_other) = (meet(&one), meet(&other));
    assert_entangled(&at_one.0, &at_one.1);
    assert_entangled(&at_other.0, &at_other.1);
}

/// A process that listens at `path`.
fn listening(path: &Path, how: &str) -> (MessagePort, Child) {
    let mut command = common::command("listens");
    command.env(parties::ADDRESS, path).stdin(Stdio::piped());
    common::tell(&mut command, WaitStrategy::Block, how);
    let (port, child) = Worker::spawn(command).unwrap().into_parts();
    assert_eq!(next(&port), b"listening");
    (port, child)
}

/// Listens at the address, until the parent closes the port.
fn listens() {
    let parent = common::parent();
    let listener = Listener::bind(address()).unwrap();
    if common::how() == "starts another" {
        // It inherits standard input, and ends when that does.
        let mut cat = std::process::Command::new("cat");
        drop(cat.stdin(Stdio::inherit()).spawn().unwrap());
    }
    parent.post_bytes(b"listening").unwrap();
    assert_eq!(closed(parent.recv()), CloseReason::ClosedByPeer);
    drop(listener);
}

#[test]
fn s62_the_socket_of_a_dead_listener_is_replaced() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let path = place.join("here");
    for how in ["", "starts another", ""] {
        let (_port, mut child) = listening(&path, how);
        // Held until the end of the round: what the listener has started lives on after it.
        let input = child.stdin.take();
        kill(&mut child);
        assert_eq!(place.names(), ["here", "here.lock"], "it was left behind");
        assert!(matches!(
            connect(&path),
            Err(ConnectError::NobodyListens { .. })
        ));
        let listener = Listener::bind(&path).unwrap();
        let (accepted, connected) = meet(&listener);
        assert_entangled(&accepted, &connected);
        drop(listener);
        assert_eq!(place.names(), [""; 0]);
        drop(input);
    }
    // One that was left without a lock, as by another program.
    drop(UnixListener::bind(&path).unwrap());
    let listener = Listener::bind(&path).unwrap();
    let (accepted, connected) = meet(&listener);
    assert_entangled(&accepted, &connected);
}

#[test]
fn s62_an_orderly_end_leaves_nothing() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let (port, child) = listening(&place.join("here"), "");
    drop(port);
    common::end_well(child);
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn another_programs_socket_is_left_alone_while_it_lives() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let path = place.join("here");

    let stream = UnixListener::bind(&path).unwrap();
    assert_in_use(&path);
    assert!(answers(&path));

    // One whose queue is full must not be taken for dead, nor waited for.
    stream.set_nonblocking(true).unwrap();
    // SAFETY: the descriptor is that of a live listening socket; the call takes numbers.
    assert_eq!(unsafe { libc::listen(stream.as_raw_fd(), 0) }, 0);
    while stream.accept().is_ok() {}
    let _waiting = UnixStream::connect(&path).unwrap();
    assert_in_use(&path);
    drop(stream);
    fs::remove_file(&path).unwrap();

    let datagram = UnixDatagram::bind(&path).unwrap();
    assert_in_use(&path);
    let sender = UnixDatagram::unbound().unwrap();
    sender.send_to(b"still there", &path).unwrap();
    drop(datagram);
    drop(Listener::bind(&path).unwrap());
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let path = place.join("here");
    let refused = || match Listener::bind(&path) {
        Err(BindError::NotASocket { path: named }) => assert_eq!(named, path),
        other => panic!("wanted NotASocket, got {other:?}"),
    };

    fs::write(&path, "of value").unwrap();
    refused();
    assert_eq!(fs::read_to_string(&path).unwrap(), "of value");
    assert_eq!(place.names(), ["here"]);
    fs::remove_file(&path).unwrap();

    fs::create_dir(&path).unwrap();
    refused();
    assert!(path.is_dir());
    fs::remove_dir(&path).unwrap();

    for target in ["nowhere", "elsewhere"] {
        fs::write(place.join("elsewhere"), "of value").unwrap();
        std::os::unix::fs::symlink(place.join(target), &path).unwrap();
        refused();
        assert_eq!(fs::read_link(&path).unwrap(), place.join(target));
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(place.names(), ["elsewhere"]);

    // Nor is what lies in the lock's place followed elsewhere, or written over.
    std::os::unix::fs::symlink(place.join("elsewhere"), place.join("here.lock")).unwrap();
    let bound = Listener::bind(&path);
    assert!(matches!(bound, Err(BindError::System { .. })), "{bound:?}");
    let elsewhere = fs::read_to_string(place.join("elsewhere")).unwrap();
    assert_eq!(elsewhere, "of value");
}

#[test]
fn s62_a_lock_file_that_is_gone_lets_nobody_in() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let path = place.join("here");
    let first = Listener::bind(&path).unwrap();
    fs::remove_file(place.join("here.lock")).unwrap();
    assert_in_use(&path);
    let (accepted, connected) = meet(&first);
    assert_entangled(&accepted, &connected);

    // The socket is gone, and with it the way to the listener; the place is still its own.
    drop(first);
    let first = Listener::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_in_use(&path);
    drop(first);

    // Without both nobody can know of it. Its end takes nothing from who came after it.
    let first = Listener::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::remove_file(place.join("here.lock")).unwrap();
    let second = Listener::bind(&path).unwrap();
    drop(first);
    assert_eq!(place.names(), ["here", "here.lock"]);
    let (accepted, connected) = meet(&second);
    assert_entangled(&accepted, &connected);
}

#[test]
fn s62_of_two_processes_that_race_exactly_one_wins() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let path = place.join("here");
    let racers: Vec<_> = (0..2).map(|_| at(&path, "races")).collect();
    let ports: Vec<&MessagePort> = racers.iter().map(|(port, _)| port).collect();
    ports
        .iter()
        .for_each(|port| assert_eq!(next(port), b"ready"));
    let mut wins = [0; 2];
    for round in 0..300 {
        ports
            .iter()
            .for_each(|port| port.post_bytes(b"go").unwrap());
        let outcomes: Vec<_> = ports.iter().map(|port| next(port)).collect();
        let winner = outcomes.iter().position(|outcome| outcome == b"won");
        let winner = winner.unwrap_or_else(|| panic!("round {round}: nobody"));
        assert_eq!(outcomes[1 - winner], b"lost", "round {round}");
        assert!(answers(&path), "round {round}: nobody can reach the winner");
        wins[winner] += 1;
        // The next round begins when the winner has left.
        ports
            .iter()
            .for_each(|port| port.post_bytes(b"leave").unwrap());
        ports
            .iter()
            .for_each(|port| assert_eq!(next(port), b"left"));
    }
    assert_eq!(wins.iter().sum::<u32>(), 300);
    for (port, child) in racers {
        drop(port);
        common::end_well(child);
    }
    assert_eq!(place.names(), [""; 0]);
}

fn races() {
    let parent = common::parent();
    parent.set_wait_strategy(WaitStrategy::Spin); // both start at once
    parent.post_bytes(b"ready").unwrap();
    let mut listener = None;
    for event in &parent {
        let answer: &[u8] = match event.bytes() {
            b"go" => match Listener::bind(address()) {
                Ok(bound) => {
                    listener = Some(bound);
                    b"won"
                }
                Err(BindError::InUse { .. }) => b"lost",
                Err(other) => panic!("{other}"),
            },
            _ => {
                listener = None;
                b"left"
            }
        };
        parent.post_bytes(answer).unwrap();
    }
    drop(listener);
}

#[test]
fn s62_there_are_never_two_listeners_at_once() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let path = place.join("here");
    let lock = place.join("here.lock");
    let (alive, bound) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // Each attempt ends at once, so these are bounded by the number of successes.
                while bound.load(Ordering::SeqCst) < 2000 {
                    match Listener::bind(&path) {
                        Ok(listener) => {
                            assert_eq!(alive.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                            assert!(answers(&path), "it cannot be reached");
                            assert!(lock.exists(), "its lock is not the one that others see");
                            bound.fetch_add(1, Ordering::SeqCst);
                            alive.fetch_sub(1, Ordering::SeqCst);
                            drop(listener);
                        }
                        Err(BindError::InUse { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    assert_eq!(place.names(), [""; 0]);
    drop(Listener::bind(&path).unwrap());
}

#[test]
fn what_is_started_meanwhile_inherits_nothing_of_it() {
    let _quiet = common::descriptors();
    let open = || -> Vec<i32> {
        let entries = fs::read_dir("/proc/self/fd").unwrap();
        let numbers = entries.map(|entry| entry.unwrap().file_name());
        numbers
            .map(|number| number.to_str().unwrap().parse().unwrap())
            .collect()
    };
    let before = open();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let (_accepted, _connected) = meet(&listener);
    let mut ours = 0;
    for number in open().into_iter().filter(|number| !before.contains(number)) {
        // SAFETY: only borrowed to ask for its flags; a number that is not open answers EBADF.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        if let Ok(flags) = fcntl(fd, FcntlArg::F_GETFD) {
            let flags = FdFlag::from_bits_retain(flags);
            assert!(flags.contains(FdFlag::FD_CLOEXEC), "descriptor {number}");
            ours += 1;
        }
    }
    // A socket and a lock, and each port's two.
    assert!(ours >= 6, "{ours}");
}
