//! Listeners over a fork (S63), meeting one's own forked children, and children that live on (S51).

#[path = "forking/child.rs"]
mod child;
mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;
#[path = "meeting/raw.rs"]
mod raw;
#[path = "forking/spy.rs"]
mod spy;

use std::cell::Cell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use child::{fork, in_a_fork, leave};
use common::{
    Counters, PATIENCE, channel, closed, idle, kill, next, on_stage, sample, tell, victim,
};
use parties::{accept, address, assert_entangled, connecting, meet, readable};
use place::Place;
use ringport::{
    AcceptError, BindError, ChannelOptions, CloseReason, EventLoop, EventLoopError, Listener,
    MessagePort, WaitStrategy, Worker, connect,
};
use spy::{assert_alive, assert_forked};

roles! { forks_and_idles, forks_and_closes, listens_and_forks }

#[test]
fn s63_a_listener_answers_forked_in_the_child() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let (client, _) = connecting(listener.path());
    assert!(readable(&listener, PATIENCE));
    in_a_fork(|| {
        let forked = |error: AcceptError| {
            assert!(matches!(error, AcceptError::Forked), "{error:?}");
        };
        forked(listener.accept().map(drop).unwrap_err());
        forked(listener.try_accept().map(drop).unwrap_err());
        forked(listener.accept_timeout(PATIENCE).map(drop).unwrap_err());
        assert!(format!("{listener:?}").contains("here"));
    });
    let listener = Cell::new(Some(listener));
    in_a_fork(|| {
        let (events, listener) = (EventLoop::new().unwrap(), listener.take().unwrap());
        let refused = events.add_listener(listener, |_, _| panic!("it is the parent's"));
        let (error, _) = refused.unwrap_err().into_parts();
        assert!(matches!(error, EventLoopError::Forked), "{error:?}");
    });
    let listener = listener.take().unwrap();
    // The client is still there, for the parent.
    let (accepted, _) = accept(&listener);
    assert_entangled(&accepted, &client.join().unwrap().unwrap());
}

#[test]
fn s63_a_listener_dropped_in_the_child_stays_the_parents() {
    let _quiet = common::descriptors();
    let open = common::count_descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    // One who waits, and one in the middle of its hello.
    let (client, thread) = connecting(listener.path());
    common::until_asleep(std::process::id(), thread);
    let half = UnixStream::connect(listener.path()).unwrap();
    let hello = raw::hello(1, 1);
    raw::send(&half, &hello[..9], &[]);
    let (first, _) = accept(&listener);
    assert!(listener.try_accept().unwrap().is_none());
    let connected = client.join().unwrap().unwrap();

    let path = listener.path().to_owned();
    let in_use = || match Listener::bind(&path) {
        Err(BindError::InUse { .. }) => {}
        other => panic!("wanted InUse, got {other:?}"),
    };
    for _ in 0..3 {
        let Some(child) = fork() else {
            leave(|| {
                drop((listener, first, connected, half));
                assert_eq!(common::count_descriptors(), open, "it has let go of all");
                in_use();
            })
        };
        child.ends_well();
        assert_eq!(place.names(), ["here", "here.lock"]);
        in_use();
    }
    let segment = raw::segment_for(&half, &ChannelOptions::new());
    raw::send(&half, &hello[9..], &[segment.as_fd()]);
    let (second, _) = accept(&listener);
    assert_eq!(raw::read_answer(&half).expect("an answer").status, 0);
    drop(second);
    assert_entangled(&first, &connected);
    let (accepted, connected) = meet(&listener);
    assert_entangled(&accepted, &connected);
    drop(listener);
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn s63_a_child_meets_its_parent_at_a_listener() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let (kept, sent) = channel();
    for round in 0..3 {
        let Some(child) = fork() else {
            leave(|| {
                let port = connect(listener.path()).unwrap();
                // The parent sends it the port that it could not use until now, as its own.
                assert_forked(&sent);
                let event = port.recv_timeout(PATIENCE).unwrap().expect("a message");
                assert_eq!(event.bytes(), sample(round));
                let [own] = <[MessagePort; 1]>::try_from(event.take_ports()).unwrap();
                own.post_bytes(&sample(round + 1)).unwrap();
                assert_eq!(next(&own), sample(round + 2));
                assert_forked(&sent);
                assert_forked(&kept);
                // It can listen itself, elsewhere.
                let own_listener = Listener::bind(place.join("child")).unwrap();
                let (accepted, connected) = meet(&own_listener);
                assert_entangled(&accepted, &connected);
            })
        };
        let (accepted, who) = accept(&listener);
        assert_eq!(who.process_id, child.id());
        let (near, far) = channel();
        accepted.post_bytes_with(&sample(round), [far]).unwrap();
        assert_eq!(next(&near), sample(round + 1));
        near.post_bytes(&sample(round + 2)).unwrap();
        child.ends_well();
        // Those were its own, so it closed them.
        assert_eq!(closed(near.recv()), CloseReason::ClosedByPeer);
        assert_eq!(closed(accepted.recv()), CloseReason::ClosedByPeer);
    }
    assert_alive(&kept, &sent);
}

#[test]
fn s63_a_child_that_dropped_the_listener_does_not_hold_its_place() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let path = place.join("here");
    let counters = Counters::new();
    let mut command = common::command("listens_and_forks");
    command.env(parties::ADDRESS, &path);
    counters.give_to(&mut command);
    tell(&mut command, WaitStrategy::Block, "");
    let (port, mut parent) = Worker::spawn(command).unwrap().into_parts();
    counters.until(Counters::READY, 1);
    counters.until(Counters::THREAD, 1);
    kill(&mut parent);
    let listener = Listener::bind(&path).unwrap();
    let (accepted, connected) = meet(&listener);
    assert_entangled(&accepted, &connected);
    end_orphan(&port, &counters);
}

fn listens_and_forks() {
    let (_port, counters) = on_stage();
    let listener = Listener::bind(address()).unwrap();
    let Some(child) = fork() else {
        leave(move || {
            drop(listener);
            counters.set(Counters::READY, 1);
            idle();
        })
    };
    counters.set(Counters::THREAD, child.lives_on().into());
    idle();
}

/// Ends a grandchild whose own parent was killed, and waits for that: it holds the other end of `port`.
#[track_caller]
fn end_orphan(port: &MessagePort, counters: &Counters) {
    let orphan = counters.get(Counters::THREAD) as libc::pid_t;
    // SAFETY: it idles and ends in no other way, so the number is its own.
    assert_eq!(unsafe { libc::kill(orphan, libc::SIGKILL) }, 0);
    assert_eq!(closed(port.recv()), CloseReason::PeerGone);
}

#[test]
fn s51_a_forked_child_that_lives_on_holds_the_port() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        for at_once in [true, false] {
            let how = if at_once { "idle" } else { "drop" };
            let (port, mut parent, counters) = victim("forks_and_idles", strategy, how);
            port.set_wait_strategy(strategy);
            counters.until(Counters::READY, 1);
            assert_eq!(next(&port), b"from the parent");
            kill(&mut parent);
            if how == "idle" {
                // It is alive, so the end is not here yet.
                let short = Duration::from_millis(50);
                assert!(port.recv_timeout(short).unwrap().is_none());
                assert!(!port.is_closed());
                port.post_bytes(b"nobody receives this").unwrap();
                end_orphan(&port, &counters);
            } else {
                // It has let go of the port, and lives.
                assert_eq!(closed(port.recv()), CloseReason::PeerGone, "{strategy:?}");
                let orphan = counters.get(Counters::THREAD) as u32;
                assert_eq!(common::state(orphan, orphan), Some('S'));
                // SAFETY: it idles and ends in no other way, so the number is its own.
                assert_eq!(unsafe { libc::kill(orphan as i32, libc::SIGKILL) }, 0);
            }
        }
    }
}

fn forks_and_idles() {
    let (port, counters) = on_stage();
    let Some(child) = fork() else {
        leave(move || {
            if common::how() == "drop" {
                drop(port);
            }
            counters.set(Counters::READY, 1);
            idle();
        })
    };
    counters.set(Counters::THREAD, child.lives_on().into());
    port.post_bytes(b"from the parent").unwrap();
    idle();
}

#[test]
fn s47_a_close_is_told_although_a_forked_child_lives_on() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port, mut parent, counters) = victim("forks_and_closes", strategy, "");
        port.set_wait_strategy(strategy);
        assert_eq!(next(&port), b"last");
        assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
        let orphan = counters.get(Counters::THREAD) as u32;
        assert!(common::state(orphan, orphan).is_some(), "the child lives");
        kill(&mut parent);
        // SAFETY: it idles and ends in no other way, so the number is its own.
        assert_eq!(unsafe { libc::kill(orphan as i32, libc::SIGKILL) }, 0);
    }
}

fn forks_and_closes() {
    let (port, counters) = on_stage();
    let child = fork().unwrap_or_else(|| leave(idle));
    counters.set(Counters::THREAD, child.lives_on().into());
    port.post_bytes(b"last").unwrap();
    drop(port);
    idle();
}
