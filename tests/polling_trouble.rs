//! Polling when things go wrong: ends and deaths, forks, shortages, doorbells that are never emptied.

#[path = "forking/child.rs"]
mod child;
mod common;
#[path = "polling/gauges.rs"]
mod gauges;
#[path = "polling/polled.rs"]
mod polled;

use std::fs::File;
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use child::{fork, leave};
use common::{
    AT_ONCE, Counters, PATIENCE, channel, channel_of, closed, kill, next, now, on_stage,
    post_closed, sample, victim,
};
use gauges::{Edges, readable, readable_within};
use polled::{MESSAGE, empty, fill, posted, received};
use ringport::{CloseReason, MessagePort, PostError, RecvError, WaitStrategy};

roles! { is_quiet, lacks_descriptors }

fn is_quiet() {
    let (_port, counters) = on_stage();
    counters.ready();
    common::idle();
}

/// Both calls say, again and again, that the channel has ended.
#[track_caller]
fn assert_ended(port: &MessagePort, reason: CloseReason) {
    for _ in 0..3 {
        let Poll::Ready(answer) = port.poll_recv() else {
            panic!("pending, after the end");
        };
        assert_eq!(closed(answer), reason);
        let Poll::Ready(answer) = port.poll_post_bytes(b"x") else {
            panic!("pending, after the end");
        };
        assert_eq!(post_closed(answer), reason);
    }
}

/// Which of the two is pending.
const PENDING: [(bool, bool); 3] = [(true, false), (false, true), (true, true)];

/// Polls a port with a full ring so that these are pending.
fn wait_on(port: &MessagePort, (message, room): (bool, bool)) {
    fill(port);
    assert!(port.try_recv().unwrap().is_none());
    if message {
        assert_eq!(received(port), None);
    }
    if room {
        assert!(!posted(port, &MESSAGE));
    }
    assert!(!readable(port));
}

#[test]
fn s52_whatever_is_pending_is_told_of_the_close() {
    let _quiet = common::descriptors();
    for pending in PENDING {
        let (near, far) = channel_of(4096);
        let edges = Edges::of([&near]);
        wait_on(&near, pending);
        edges.heard(Duration::ZERO);
        far.close();
        assert!(readable(&near), "{pending:?}");
        assert_eq!(edges.heard(Duration::ZERO), [0], "{pending:?}");
        assert_ended(&near, CloseReason::ClosedByPeer);
    }
}

#[test]
fn s52_whatever_is_pending_is_told_of_a_death() {
    let _quiet = common::descriptors();
    for pending in PENDING {
        let (near, mut child, counters) = victim("is_quiet", WaitStrategy::Block, "");
        counters.until(Counters::READY, 1);
        wait_on(&near, pending);
        kill(&mut child);
        assert!(readable_within(&near, AT_ONCE), "{pending:?}");
        assert_ended(&near, CloseReason::PeerGone);
    }
}

#[test]
fn s48_messages_come_before_the_close() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    wait_on(&near, (true, true));
    (0..3).for_each(|index| far.post_bytes(&sample(index)).unwrap());
    drop(far);
    let Poll::Ready(answer) = near.poll_post_bytes(&MESSAGE) else {
        panic!("pending, after the end");
    };
    assert_eq!(post_closed(answer), CloseReason::ClosedByPeer);
    (0..3).for_each(|index| assert_eq!(received(&near), Some(sample(index))));
    assert_ended(&near, CloseReason::ClosedByPeer);
}

#[test]
fn s52_closing_here_is_told_as_well() {
    let _quiet = common::descriptors();
    for pending in PENDING {
        let (near, _far) = channel_of(4096);
        wait_on(&near, pending);
        near.close();
        assert!(readable(&near), "{pending:?}");
        assert_ended(&near, CloseReason::ClosedHere);
    }
}

#[test]
fn s53_a_peer_that_breaks_the_protocol_is_told_as_an_end() {
    let _quiet = common::descriptors();
    for pending in PENDING {
        let (near, far) = channel_of(4096);
        wait_on(&near, pending);
        let handle = far.into_handle();
        nix::unistd::write(&handle.doorbell, &[0x17]).unwrap();
        assert!(readable(&near), "{pending:?}");
        // Rings are read now and then only, and so is what is none.
        let ended = (0..50).find(|_| near.poll_recv().is_ready());
        assert!(ended.is_some(), "{pending:?}: it is never noticed");
        assert_ended(&near, CloseReason::Corrupt);
    }
}

#[test]
fn s63_in_a_forked_child_nothing_is_pending() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    wait_on(&near, (true, true));
    let Some(child) = fork() else {
        leave(move || {
            assert!(matches!(
                near.poll_recv(),
                Poll::Ready(Err(RecvError::Forked))
            ));
            let posted = near.poll_post_bytes(&MESSAGE);
            assert!(matches!(posted, Poll::Ready(Err(PostError::Forked))));
            let posted = near.poll_post(&1);
            assert!(matches!(posted, Poll::Ready(Err(PostError::Forked))));
            assert!(near.as_fd().is_err());
        })
    };
    child.ends_well();
    // What is pending here is so still.
    far.post_bytes(b"!").unwrap();
    assert!(readable(&near));
    assert_eq!(received(&near).unwrap(), b"!");
    assert_eq!(received(&near), None);
    assert!(!readable(&near));
    empty(&far);
    assert!(readable(&near));
    assert!(posted(&near, &MESSAGE));
}

#[test]
fn s46_without_descriptors_it_fails_and_loses_nothing() {
    let _quiet = common::descriptors();
    let (port, child, counters) = victim("lacks_descriptors", WaitStrategy::Block, "");
    port.post_bytes(b"before").unwrap();
    counters.set(Counters::READY, 1);
    assert_eq!(next(&port), b"answer");
    port.post_bytes(b"after").unwrap();
    common::end_well(child);
}

fn lacks_descriptors() {
    let (port, counters) = on_stage();
    counters.until(Counters::READY, 1);
    let mut files = vec![File::open("/dev/null").unwrap()];
    let limit = libc::rlimit {
        rlim_cur: 100,
        rlim_max: 100,
    };
    // SAFETY: `limit` is a valid rlimit for the length of the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    while let Ok(file) = files[0].try_clone() {
        files.push(file);
    }
    // What is there needs none.
    assert_eq!(received(&port).unwrap(), b"before");
    for _ in 0..10 {
        let Poll::Ready(Err(RecvError::System { source, .. })) = port.poll_recv() else {
            panic!("it cannot have got a descriptor");
        };
        assert_eq!(source.raw_os_error(), Some(libc::EMFILE));
        assert!(port.as_fd().is_err());
    }
    assert!(posted(&port, b"answer"));
    files.pop();
    while received(&port).is_none_or(|bytes| bytes != b"after") {
        assert!(readable_within(&port, PATIENCE));
    }
}

#[test]
fn s11_a_post_beside_many_unreceived_ports_does_not_block() {
    let _quiet = common::descriptors();
    // Rings lie behind the descriptors, so that no more may be asked for; or descriptors behind rings.
    for waiting in [1, 34, 64] {
        let (near, far) = channel_of(8192);
        (0..waiting).for_each(|_| far.post_bytes_with(b"", [channel().1]).unwrap());
        let (answers, answer) = mpsc::channel();
        let poster = thread::spawn(move || {
            let mut posted_in_all = 0;
            for _ in 0..60 {
                while posted(&near, &MESSAGE) {
                    posted_in_all += 1;
                }
                answers.send(posted_in_all).unwrap();
                // It is told, at once or when there is room.
                assert!(readable_within(&near, PATIENCE));
            }
            // The ports are received in between: what is pending is not forgotten by that.
            while posted(&near, &MESSAGE) {}
            (0..waiting).for_each(|_| assert!(received(&near).is_some()));
            assert_eq!(received(&near), None);
            near
        });
        for _ in 0..60 {
            answer.recv_timeout(PATIENCE).expect("it does not block");
            empty(&far);
        }
        let near = poster.join().unwrap();
        empty(&far);
        assert!(readable(&near), "there is room");
        assert!(posted(&near, &MESSAGE));
        assert!(!far.is_closed() && !near.is_closed());
    }
}

#[test]
fn s52_it_is_told_however_much_the_peer_leaves_unread() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(1 << 14);
    near.post_bytes_with(b"", [channel().1]).unwrap();
    // Rings that the peer cannot read, as they lie behind what it does not receive.
    for _ in 0..30 {
        fill(&far);
        empty(&near);
    }
    while near.try_post_bytes_with(b"", [channel().1]).is_ok() {}
    fill(&near);
    for round in 0..100 {
        assert_eq!(received(&near), None);
        far.post_bytes(&sample(round)).unwrap();
        assert!(!posted(&near, &MESSAGE));
        assert!(readable(&near), "round {round}");
        assert_eq!(now(&near), sample(round));
    }
}

#[test]
fn s52_a_ring_for_nothing_is_not_the_last() {
    let _quiet = common::descriptors();
    for with_ports in [true, false] {
        let (near, far) = channel_of(4096);
        near.post_bytes_with(b"", [channel().1]).unwrap();
        fill(&near);
        assert!(!posted(&near, &[1; 1000]));
        // One message with ports fewer waits, for which the poster is rung; but there is not yet the room.
        assert_eq!(next(&far), b"");
        // That ring is read with the next ports, or taken for one of a message.
        if with_ports {
            far.post_bytes_with(b"", [channel().1]).unwrap();
            assert_eq!(received(&near).unwrap(), b"");
        } else {
            assert_eq!(received(&near), None);
        }
        empty(&far);
        assert!(readable(&near));
        assert!(posted(&near, &[1; 1000]));
    }
}

#[test]
fn s52_a_ring_that_is_read_with_ports_counts() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    for round in 0..20 {
        fill(&near);
        assert!(!posted(&near, &MESSAGE));
        empty(&far);
        far.post_bytes_with(b"", [channel().1]).unwrap();
        assert_eq!(received(&near).unwrap(), b"");
        assert!(readable(&near), "there is room, round {round}");
    }
}

/// All are honest: one side waits for messages and for room again and again, and receives late. Up to the wait numbered
/// `gift_at` it receives nothing, then a message with a port comes, which it receives so many waits `later`.
#[track_caller]
fn receive_late(gift_at: usize, later: usize) {
    /// Enough waits for too many rings to pile up, if they do.
    const WAITS: usize = 60;
    /// So large that a few of them make room enough to be told of.
    const LARGE: [u8; 1000] = [7; 1000];
    let (near, far) = channel();
    assert_eq!(received(&near), None);
    while posted(&near, &LARGE) {}
    for wait in 0..WAITS {
        (0..20).for_each(|_| assert_eq!(now(&far), LARGE));
        if wait == gift_at {
            far.post_bytes_with(b"a port", [channel_of(4096).0])
                .unwrap();
        } else {
            far.post_bytes(b"x").unwrap();
        }
        if wait == gift_at + later {
            while received(&near).is_some() {}
        } else {
            while posted(&near, &LARGE) {}
        }
    }
    assert_eq!((near.close_reason(), far.close_reason()), (None, None));
}

#[test]
fn s53_a_port_that_is_received_late_does_not_end_an_honest_pair() {
    let _quiet = common::descriptors();
    for gift_at in 0..36 {
        for later in 0..20 {
            receive_late(gift_at, later);
        }
    }
}
