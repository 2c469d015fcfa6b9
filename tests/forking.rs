//! Ports over a fork without exec: S63. In the child a parent's port answers `Forked`, and nothing that is done with
//! it there reaches the channel. What is open over a fork is in `forking_open.rs`; listeners, and children that live
//! on, in `forking_meeting.rs`.

#[path = "forking/child.rs"]
mod child;
mod common;
#[path = "forking/spy.rs"]
mod spy;

use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use child::{fork, in_a_fork, leave};
use common::{AT_ONCE, PATIENCE, channel, closed, next, nothing, now, sample};
use ringport::{Armed, CloseReason, Interest, MessagePort, PostError, RecvError, WaitStrategy};
use spy::{Spy, assert_alive, assert_forked, refused};

roles! { echoes, echoes_on_a_port_in_a_message }

#[test]
fn s63_every_call_in_the_child_answers_forked() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        // Nothing waiting; messages waiting both ways; no room left for another.
        for waiting in [0, 3, usize::MAX] {
            let (spy, port1, port2) = Spy::channel(4096);
            port1.set_wait_strategy(strategy);
            port2.set_wait_strategy(strategy);
            let mut posted = 0;
            while posted < waiting as u64 && port1.try_post_bytes(&sample(posted)).is_ok() {
                port2.try_post_bytes(&sample(posted)).unwrap();
                posted += 1;
            }
            let before = spy.look();
            in_a_fork(|| {
                for port in [&port1, &port2] {
                    assert_forked(port);
                    assert!(!port.is_closed());
                    port.close();
                    assert_forked(port);
                }
            });
            spy.assert_as(&before);
            for index in 0..posted {
                assert_eq!(now(&port1), sample(index), "{strategy:?}");
                assert_eq!(now(&port2), sample(index), "{strategy:?}");
            }
            assert_alive(&port1, &port2);
        }
    }
}

#[test]
fn s63_the_child_knows_what_was_known_of_a_close() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (closed1, closed2) = channel();
    closed1.post_bytes(b"last").unwrap();
    drop(closed1);
    assert_eq!(closed2.close_reason(), Some(CloseReason::ClosedByPeer));
    let (own1, own2) = channel();
    own1.close();
    in_a_fork(|| {
        assert_eq!(port1.close_reason(), None);
        assert_eq!(closed2.close_reason(), Some(CloseReason::ClosedByPeer));
        assert_eq!(own1.close_reason(), Some(CloseReason::ClosedHere));
        for port in [&closed2, &own1] {
            assert!(matches!(port.post_bytes(b"x"), Err(PostError::Forked)));
            assert!(matches!(port.recv(), Err(RecvError::Forked)));
        }
    });
    assert_eq!(now(&closed2), b"last");
    assert_eq!(closed(own2.recv()), CloseReason::ClosedByPeer);
    assert_alive(&port1, &port2);
}

#[test]
fn s63_a_forked_port_cannot_be_sent() {
    let _quiet = common::descriptors();
    let (spy, port1, port2) = Spy::channel(4096);
    let (innocent, peer) = channel();
    port1.post_bytes(b"waiting").unwrap();
    let before = spy.look();
    let Some(child) = fork() else {
        leave(move || {
            let (own1, own2) = channel();
            let (other1, other2) = channel();
            // By a carrier of the child's own: all of the list comes back, in order.
            let list = vec![other2, port2, port1];
            let mut list = refused(own1.post_bytes_with(b"x", list));
            assert_eq!(list.len(), 3);
            assert!(nothing(&own2));
            let [port2, port1] = <[MessagePort; 2]>::try_from(list.split_off(1)).unwrap();
            assert_alive(&other1, &list[0]);
            assert!(matches!(port2.recv(), Err(RecvError::Forked)));
            // By one of the parent's ports.
            let mut list = refused(port1.try_post_message_with(&1_u64, [innocent]));
            assert!(matches!(list[0].recv(), Err(RecvError::Forked)));
            drop((list.pop(), port2));
            drop(port1);
            assert_alive(&own1, &own2);
        })
    };
    child.ends_well();
    spy.assert_as(&before);
    assert_eq!(now(&port2), b"waiting");
    assert_alive(&port1, &port2);
    assert_alive(&innocent, &peer);
}

/// How many maps of channels this process has.
fn count_maps() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter(|line| line.contains("/memfd:ringport"))
        .count()
}

#[test]
fn s63_a_drop_in_the_child_only_lets_go() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let open = (common::count_descriptors(), count_maps());
        let (spy, port1, port2) = Spy::channel(4096);
        port1.set_wait_strategy(strategy);
        port2.set_wait_strategy(strategy);
        port2.post_bytes(b"waiting").unwrap();
        // The descriptor that it waits with is shared with the child.
        assert!(port1.as_fd().is_ok() && port2.as_fd().is_ok());
        let before = spy.look();
        let Some(child) = fork() else {
            leave(move || {
                drop((port1, port2, spy));
                assert_eq!((common::count_descriptors(), count_maps()), open);
            })
        };
        child.ends_well();
        spy.assert_as(&before);
        assert_eq!(now(&port1), b"waiting");
        assert_alive(&port1, &port2);
        // It still wakes the parent: who sleeps, and who polls.
        let poster = thread::spawn(move || {
            let sleeper: Vec<u8> = next(&port2);
            port2.post_bytes(&sleeper).unwrap();
            port2
        });
        port1.post_bytes(b"wake up").unwrap();
        assert_eq!(next(&port1), b"wake up", "{strategy:?}");
        let port2 = poster.join().unwrap();
        assert_eq!(port1.arm(Interest::Message).unwrap(), Armed::Wait);
        port2.post_bytes(b"look").unwrap();
        assert!(becomes_readable(&port1), "{strategy:?}");
        assert_eq!(now(&port1), b"look");
    }
}

/// Whether an armed port's descriptor becomes readable.
fn becomes_readable(port: &MessagePort) -> bool {
    let mut poll = libc::pollfd {
        fd: port.as_fd().unwrap().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd, which lives through the call.
    unsafe { libc::poll(&mut poll, 1, AT_ONCE.as_millis() as i32) == 1 }
}

#[test]
fn s63_an_armed_port_stays_armed() {
    let _quiet = common::descriptors();
    let (spy, port1, port2) = Spy::channel(4096);
    for takes_apart in [false, true] {
        assert_eq!(port2.arm(Interest::Message).unwrap(), Armed::Wait);
        let before = spy.look();
        let Some(child) = fork() else {
            leave(move || {
                assert_forked(&port1);
                assert_forked(&port2);
                assert_eq!(port2.close_reason(), None);
                if takes_apart {
                    drop(port2.into_handle());
                }
            })
        };
        child.ends_well();
        spy.assert_as(&before);
        port1.post_bytes(b"look").unwrap();
        assert!(becomes_readable(&port2));
        assert_eq!(now(&port2), b"look");
        assert_alive(&port1, &port2);
    }
}

#[test]
fn s63_what_waits_on_a_doorbell_stays_there() {
    let _quiet = common::descriptors();
    let (spy, port1, port2) = Spy::channel(4096);
    assert_eq!(port2.arm(Interest::Message).unwrap(), Armed::Wait);
    port1.post_bytes(b"a ring of the doorbell").unwrap();
    assert_eq!(now(&port2), b"a ring of the doorbell");
    let before = spy.look();
    assert_eq!(before.unread(), [0, 1], "it was not read, as nobody slept");
    in_a_fork(|| {
        for port in [&port1, &port2] {
            assert_forked(port);
            assert!(!port.is_closed());
            assert_eq!(port.close_reason(), None);
        }
    });
    spy.assert_as(&before);
    assert_alive(&port1, &port2);
}

#[test]
fn s63_a_thread_that_waits_over_a_fork_does_not_notice() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port1, port2) = channel();
        port2.set_wait_strategy(strategy);
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = thread::spawn(move || {
            tell.send(common::thread_id()).unwrap();
            assert_eq!(next(&port2), b"after the fork");
            port2.recv().map(drop)
        });
        let thread = told.recv().unwrap();
        if strategy != WaitStrategy::Spin {
            common::until_asleep(std::process::id(), thread);
        }
        let Some(child) = fork() else {
            leave(move || {
                assert_forked(&port1);
                drop(port1);
            })
        };
        child.ends_well();
        assert!(!waiter.is_finished());
        port1.post_bytes(b"after the fork").unwrap();
        drop(port1);
        assert_eq!(closed(waiter.join().unwrap()), CloseReason::ClosedByPeer);
    }
}

#[test]
fn s63_a_worker_does_not_notice_a_fork() {
    let _quiet = common::descriptors();
    let mut worker = common::worker("echoes");
    for index in 0..50 {
        worker.port().post_bytes(&sample(index)).unwrap();
        if index % 10 == 0 {
            let Some(child) = fork() else {
                leave(move || drop(worker))
            };
            child.ends_well();
        }
        assert_eq!(next(worker.port()), sample(index));
    }
    worker.port().close();
    assert!(worker.wait().unwrap().success());
}

fn echoes() {
    let port = common::parent();
    for event in &port {
        port.post_bytes(event.bytes()).unwrap();
    }
    assert_eq!(port.close_reason(), Some(CloseReason::ClosedByPeer));
}

#[test]
fn s63_a_child_can_have_channels_of_its_own() {
    let _quiet = common::descriptors();
    let (parent1, parent2) = channel();
    let of_child = move |parent1: MessagePort, parent2: MessagePort| {
        let (child1, child2) = channel();
        assert_alive(&child1, &child2);
        // That it now has some does not make the parent's its own.
        assert_forked(&parent1);
        assert!(matches!(parent2.recv(), Err(RecvError::Forked)));
        let mut worker = common::worker("echoes_on_a_port_in_a_message");
        let (kept, sent) = channel();
        worker.port().post_bytes_with(b"", [sent]).unwrap();
        kept.post_bytes(b"from a forked child").unwrap();
        assert_eq!(next(&kept), b"from a forked child");
        drop(kept);
        assert!(worker.wait().unwrap().success());

        let Some(grandchild) = fork() else {
            leave(move || {
                let (grandchild1, grandchild2) = channel();
                assert_alive(&grandchild1, &grandchild2);
                assert_forked(&parent1);
                assert_forked(&child1);
                drop((child1, child2, parent1, parent2));
                assert_alive(&grandchild1, &grandchild2);
            })
        };
        grandchild.ends_well();
        assert_alive(&child1, &child2);
        assert_forked(&parent1);
    };
    match fork() {
        Some(child) => child.ends_well(),
        None => leave(move || of_child(parent1, parent2)),
    }
    // Each child counts its generations anew; none is mistaken for another's.
    for _ in 0..3 {
        in_a_fork(|| {
            assert_forked(&parent1);
            let (own1, own2) = channel();
            assert_alive(&own1, &own2);
        });
    }
    assert_alive(&parent1, &parent2);
}

fn echoes_on_a_port_in_a_message() {
    let parent = common::parent();
    let event = parent.recv_timeout(PATIENCE).unwrap().expect("a message");
    let [port] = <[MessagePort; 1]>::try_from(event.take_ports()).unwrap();
    for event in &port {
        port.post_bytes(event.bytes()).unwrap();
    }
}

#[test]
fn s63_children_that_come_and_go_leave_the_channel_as_it_is() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    for index in 0..100 {
        port1.post_bytes(&sample(index)).unwrap();
        // Killed, it can do nothing at its end, and need not.
        drop(fork().unwrap_or_else(|| leave(common::idle)));
        assert_eq!(now(&port2), sample(index));
        assert!(port2.recv_timeout(Duration::ZERO).unwrap().is_none());
    }
    assert!(!port1.is_closed() && !port2.is_closed());
    assert_alive(&port1, &port2);
}
