//! Meeting at a listener: who connects and who accepts hold one channel, across threads and processes.
//!
//! What the calls do that wait is in `accepting.rs`; where listeners live and who may bind, in `binding.rs`; who is
//! kept out, in `strangers.rs` and `stalling.rs`.

mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;

use std::path::PathBuf;
use std::process::Child;
use std::thread;

use common::{PATIENCE, assert_over, closed, kill, next, sample};
use parties::{accept, address, assert_entangled, at, connecting, meet, readable};
use place::{Place, group, user};
use ringport::{CloseReason, ConnectError, Listener, MessagePort, connect};

roles! { connects, accepts, meets_by_name }

#[test]
fn s62_who_connects_and_who_accepts_hold_one_channel() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    assert_eq!(listener.path(), place.join("here"));
    let (accepted, connected) = meet(&listener);
    assert_entangled(&accepted, &connected);
    for (left, stays) in [meet(&listener), {
        let (accepted, connected) = meet(&listener);
        (connected, accepted)
    }] {
        left.post_bytes(b"last").unwrap();
        drop(left);
        assert_eq!(next(&stays), b"last");
        assert_eq!(closed(stays.recv()), CloseReason::ClosedByPeer);
    }
    assert_entangled(&accepted, &connected);
}

#[test]
fn s62_ports_posted_at_once_by_who_accepts_arrive() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    for round in 0..20 {
        let (client, thread) = connecting(listener.path());
        assert!(readable(&listener, PATIENCE));
        common::until_asleep(std::process::id(), thread);
        let (accepted, _) = accept(&listener);
        // They follow the listener's answer in the same socket before the client has read that.
        let (kept, sent): (Vec<_>, Vec<_>) = (0..=round).map(|_| common::channel()).unzip();
        accepted.post_bytes_with(&sample(round), sent).unwrap();
        accepted.post_bytes(&sample(round + 1)).unwrap();
        let connected = client.join().unwrap().unwrap();
        let event = connected.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(event.bytes(), sample(round));
        let sent = event.take_ports();
        assert_eq!(sent.len(), kept.len());
        for (kept, sent) in kept.iter().zip(&sent) {
            kept.post_bytes(&sample(round + 2)).unwrap();
            assert_eq!(next(sent), sample(round + 2));
        }
        assert_eq!(next(&connected), sample(round + 1));
    }
}

#[test]
fn s62_the_credentials_are_those_of_the_connecting_process() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let mut children: Vec<(MessagePort, Child)> = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..3 {
        children.push(at(listener.path(), "connects"));
    }
    for _ in 0..3 {
        let (port, who) = accept(&listener);
        assert_eq!((who.user_id, who.group_id), (user(), group()));
        // Several at once are kept apart: each end hears its own process.
        port.post_bytes(b"who are you?").unwrap();
        assert_eq!(next(&port), who.process_id.to_le_bytes());
        ports.push((port, who.process_id));
    }
    let mut accepted: Vec<u32> = ports.iter().map(|(_, process)| *process).collect();
    let mut started: Vec<u32> = children.iter().map(|(_, child)| child.id()).collect();
    accepted.sort_unstable();
    started.sort_unstable();
    assert_eq!(accepted, started);
    drop(ports);
    children
        .into_iter()
        .for_each(|(_, child)| common::end_well(child));

    let (thread, _) = connecting(listener.path());
    let (_port, who) = accept(&listener);
    assert_eq!(who.process_id, std::process::id());
    thread.join().unwrap().unwrap();
}

/// Connects; answers each message with the number of its process.
fn connects() {
    let port = connect(address()).unwrap();
    for _ in &port {
        port.post_bytes(&std::process::id().to_le_bytes()).unwrap();
    }
}

#[test]
fn s62_processes_of_one_user_meet_by_name() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let mut command = common::command("meets_by_name");
    command.env("XDG_RUNTIME_DIR", place.path());
    assert!(command.status().unwrap().success());
    assert_eq!(place.names(), ["ringport"]);
    assert_eq!(place::names_in(&place.join("ringport")), [""; 0]);
}

fn meets_by_name() {
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").unwrap());
    for name in ["mixer", "a b", "mixer.1", "ключ", ".hidden", "lock"] {
        let listener = Listener::bind(name).unwrap();
        assert_eq!(listener.path(), runtime.join("ringport").join(name));
        let (_port, child) = at(name.as_ref(), "connects");
        let (accepted, who) = accept(&listener);
        assert_eq!(who.process_id, child.id());
        accepted.post_bytes(b"who are you?").unwrap();
        assert_eq!(next(&accepted), child.id().to_le_bytes());
        drop(accepted);
        common::end_well(child);
        // A name is a path that is known to both.
        let (accepted, connected) = meet(&listener);
        assert_entangled(&accepted, &connected);
    }
}

#[test]
fn s62_a_hundred_clients_in_a_row() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let path = listener.path().to_owned();
    let clients = thread::spawn(move || {
        for index in 0..100 {
            let port = connect(&path).unwrap();
            port.post_bytes(&sample(index)).unwrap();
            assert_eq!(next(&port), sample(index + 1));
            assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
        }
    });
    for index in 0..100 {
        let (port, _) = listener.accept().unwrap();
        assert_eq!(next(&port), sample(index));
        port.post_bytes(&sample(index + 1)).unwrap();
    }
    clients.join().unwrap();
    assert!(listener.try_accept().unwrap().is_none());
}

#[test]
fn s62_twenty_clients_at_once() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let clients: Vec<_> = (0..20)
        .map(|index| {
            let path = listener.path().to_owned();
            thread::spawn(move || {
                let port = connect(path).unwrap();
                port.post_bytes(&sample(index)).unwrap();
                assert_eq!(next(&port), sample(index + 100));
            })
        })
        .collect();
    // All are accepted before any is answered.
    let accepted: Vec<_> = (0..20).map(|_| accept(&listener).0).collect();
    let mut seen: Vec<u64> = Vec::new();
    for port in &accepted {
        let index = common::index_of(&next(port));
        port.post_bytes(&sample(index + 100)).unwrap();
        seen.push(index);
    }
    clients
        .into_iter()
        .for_each(|client| client.join().unwrap());
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..20));
}

#[test]
fn s51_a_connected_process_that_dies_is_gone() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let (_port, mut child) = at(listener.path(), "connects");
    let (accepted, _) = accept(&listener);
    accepted.post_bytes(b"who are you?").unwrap();
    assert_eq!(next(&accepted), child.id().to_le_bytes());
    kill(&mut child);
    assert_over(&accepted, CloseReason::PeerGone);

    let path = place.join("there");
    let (port, mut child) = at(&path, "accepts");
    assert_eq!(next(&port), b"listening");
    let connected = connect(&path).unwrap();
    assert_eq!(next(&connected), b"accepted");
    kill(&mut child);
    assert_over(&connected, CloseReason::PeerGone);
}

/// Listens, says so, and accepts one client after the other.
fn accepts() {
    let parent = common::parent();
    let listener = Listener::bind(address()).unwrap();
    parent.post_bytes(b"listening").unwrap();
    let mut clients = Vec::new();
    loop {
        let (port, _) = listener.accept().unwrap();
        port.post_bytes(b"accepted").unwrap();
        clients.push(port);
    }
}

#[test]
fn a_client_that_died_while_it_waited_is_passed_over() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let (_port, mut child) = at(listener.path(), "connects");
    assert!(readable(&listener, PATIENCE), "it has connected");
    // Its only thread that ever waits so is the one that connects; it is not the first one.
    common::until("it waits", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
        tasks.flatten().all(|task| {
            let thread = task.file_name().to_string_lossy().parse().unwrap();
            common::state(child.id(), thread) == Some('S')
        })
    });
    kill(&mut child);
    let (client, _) = connecting(listener.path());
    let (accepted, who) = accept(&listener);
    assert_eq!(who.process_id, std::process::id());
    assert_entangled(&accepted, &client.join().unwrap().unwrap());
    assert!(listener.try_accept().unwrap().is_none());
}

#[test]
fn dropping_the_listener_leaves_what_was_accepted() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    assert_eq!(place.names(), ["here", "here.lock"]);
    let (accepted, connected) = meet(&listener);
    drop(listener);
    assert_eq!(place.names(), [""; 0]);
    assert_entangled(&accepted, &connected);
    drop(connected);
    assert_eq!(closed(accepted.recv()), CloseReason::ClosedByPeer);
}

#[test]
fn a_client_that_waits_is_refused_when_the_listener_goes() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let path = place.join("here");
    let listener = Listener::bind(&path).unwrap();
    let (client, thread) = connecting(&path);
    assert!(readable(&listener, PATIENCE));
    common::until_asleep(std::process::id(), thread);
    drop(listener);
    match client.join().unwrap() {
        Err(ConnectError::Refused { path: named }) => assert_eq!(named, path),
        other => panic!("wanted Refused, got {other:?}"),
    }

    // By its death it goes as well.
    let (port, mut child) = at(&path, "accepts");
    assert_eq!(next(&port), b"listening");
    // SAFETY: the process is a child that has not been waited for; its number is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGSTOP) }, 0);
    // A process on another CPU goes on until the signal gets there, and could accept the client meanwhile.
    common::until("the listening process stands still", || {
        common::state(child.id(), child.id()) == Some('T')
    });
    let (client, thread) = connecting(&path);
    common::until_asleep(std::process::id(), thread);
    kill(&mut child);
    let answer = client.join().unwrap();
    assert!(
        matches!(answer, Err(ConnectError::Refused { .. })),
        "{answer:?}"
    );
}
