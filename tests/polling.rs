//! `poll_recv`, `poll_post` and `poll_post_bytes` with a loop of somebody else's: what is pending is told by the
//! descriptor when it is there, and nobody is told for nothing.

mod common;
#[path = "polling/gauges.rs"]
mod gauges;
#[path = "polling/polled.rs"]
mod polled;

use std::os::fd::AsRawFd;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use common::{AT_ONCE, PATIENCE, channel, channel_of, greeting, next, now, sample, sample_of};
use gauges::{Edges, readable, readable_within};
use polled::{MESSAGE, empty, fill, posted, received};
use ringport::{Armed, Interest, MessagePort, PostError, RecvError, WaitStrategy, wait_any};

#[test]
fn s17_a_pending_receive_is_told_of_the_message() {
    let _quiet = common::descriptors();
    let (near, far) = channel();
    let edges = Edges::of([&near]);
    edges.heard(Duration::ZERO);
    let fd = near.as_fd().unwrap().as_raw_fd();
    for round in 0..200 {
        assert_eq!(received(&near), None);
        assert!(!readable(&near), "nothing has happened yet");
        assert!(edges.heard(Duration::ZERO).is_empty());
        far.post_bytes(&sample(round)).unwrap();
        assert!(readable(&near), "round {round}");
        assert_eq!(edges.heard(AT_ONCE), [0], "round {round}");
        assert_eq!(received(&near), Some(sample(round)));
        assert_eq!(near.as_fd().unwrap().as_raw_fd(), fd);
    }
}

#[test]
fn s11_a_pending_post_is_told_of_the_room() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    let edges = Edges::of([&near]);
    for typed in [false, true] {
        for round in 0..100 {
            let post = || match typed {
                true => near.poll_post(&greeting(round)),
                false => near.poll_post_bytes(&sample(round)),
            };
            while post().is_ready() {}
            edges.heard(Duration::ZERO);
            assert!(!readable(&near), "nothing has happened yet");
            empty(&far);
            assert!(readable(&near), "round {round}");
            assert_eq!(edges.heard(AT_ONCE), [0], "round {round}");
            assert!(matches!(post(), Poll::Ready(Ok(()))));
            empty(&far);
        }
    }
}

/// Brings what each of the two waits for, in one order or the other, with calls of the other one between.
fn both_pending(first_a_message: bool, calls: impl Fn(&MessagePort, bool)) {
    for round in 0..50u64 {
        let (near, far) = channel_of(4096);
        let edges = Edges::of([&near]);
        fill(&near);
        // The more sleeps went by, the nearer is the next time that rings are read.
        (0..=round).for_each(|_| assert_eq!(received(&near), None));
        for message in [first_a_message, !first_a_message] {
            edges.heard(Duration::ZERO);
            if message {
                far.post_bytes(&sample(round)).unwrap();
            } else {
                empty(&far);
            }
            assert!(readable(&near));
            // Calls for the one that was not told.
            calls(&near, !message);
            assert!(readable(&near), "the other's ring is lost, round {round}");
            assert_eq!(edges.heard(Duration::ZERO), [0], "round {round}");
            if message {
                assert_eq!(received(&near), Some(sample(round)));
                assert_eq!(received(&near), None);
            } else {
                fill(&near);
            }
            assert!(!readable(&near), "told for nothing, round {round}");
        }
    }
}

#[test]
fn s52_the_ring_for_one_is_not_lost_on_the_other() {
    let _quiet = common::descriptors();
    for first_a_message in [false, true] {
        for times in 1..4 {
            both_pending(first_a_message, |near, message| {
                for _ in 0..times {
                    if message {
                        assert_eq!(received(near), None);
                    } else {
                        assert!(!posted(near, &MESSAGE));
                    }
                }
            });
        }
    }
}

#[test]
fn s52_the_usual_loop_forgets_nothing() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    for round in 0..100 {
        fill(&near);
        far.post_bytes(&sample(round)).unwrap();
        assert!(!posted(&near, &MESSAGE));
        empty(&far);
        // Receives what is there, until there is no more.
        assert_eq!(received(&near), Some(sample(round)));
        assert_eq!(received(&near), None);
        assert!(readable(&near), "there is room, round {round}");
        far.post_bytes(&sample(round)).unwrap();
        fill(&near);
        assert!(readable(&near), "there is a message, round {round}");
        assert_eq!(received(&near), Some(sample(round)));
        empty(&far);
    }
}

#[test]
fn s52_what_came_true_is_not_waited_for_any_more() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    fill(&near);
    empty(&far);
    assert!(posted(&near, &MESSAGE));
    for _ in 0..3 {
        assert_eq!(received(&near), None);
        assert!(!readable(&near), "there is room, but nobody waits for it");
    }
    (0..2).for_each(|index| far.post_bytes(&sample(index)).unwrap());
    assert_eq!(received(&near), Some(sample(0)));
    fill(&near);
    for _ in 0..3 {
        assert!(!posted(&near, &MESSAGE));
        assert!(
            !readable(&near),
            "there is a message, but nobody waits for it"
        );
    }
    let rings = far.stats().wakeups;
    far.post_bytes(&sample(2)).unwrap();
    assert_eq!(far.stats().wakeups, rings, "nor is anybody rung");
}

#[test]
fn s52_nobody_is_rung_for_what_was_posted_meanwhile() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    fill(&near);
    // Room, but too little for the peer to ring.
    (0..3).for_each(|_| assert_eq!(now(&far), MESSAGE));
    assert_eq!(far.stats().wakeups, 0);
    assert!(posted(&near, &MESSAGE));
    empty(&far);
    assert_eq!(far.stats().wakeups, 0, "nobody waits any more");
    assert!(!readable(&near));
}

#[test]
fn s52_another_call_ends_the_waiting() {
    let _quiet = common::descriptors();
    let calls: [fn(&MessagePort); 6] = [
        |near| assert!(near.try_recv().unwrap().is_none()),
        |near| assert!(near.recv_timeout(Duration::ZERO).unwrap().is_none()),
        |near| near.try_post_bytes(b"x").unwrap(),
        |near| drop(near.try_reserve(10).unwrap()),
        |near| assert_eq!(wait_any(&[near], Some(Duration::ZERO)).unwrap(), None),
        |near| assert_eq!(near.arm(Interest::Room(8)).unwrap(), Armed::Ready),
    ];
    for (number, call) in calls.iter().enumerate() {
        let (near, far) = channel();
        assert_eq!(received(&near), None);
        call(&near);
        far.post_bytes(b"quiet").unwrap();
        assert_eq!(far.stats().wakeups, 0, "call {number}: nobody waits");
        assert!(!readable(&near));
        assert_eq!(received(&near).unwrap(), b"quiet");
    }
}

#[test]
fn s52_asking_does_not_end_the_waiting() {
    let _quiet = common::descriptors();
    let (near, far) = channel();
    for round in 0..50 {
        assert_eq!(received(&near), None);
        far.post_bytes(&sample(round)).unwrap();
        assert!(!near.is_closed());
        assert!(near.pending() > 0 && near.close_reason().is_none());
        assert!(readable(&near), "round {round}");
        assert_eq!(received(&near), Some(sample(round)));
    }
}

#[test]
fn s52_what_is_armed_is_not_pending() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    fill(&near);
    assert_eq!(near.arm(Interest::Message).unwrap(), Armed::Wait);
    far.post_bytes(b"!").unwrap();
    for _ in 0..3 {
        assert!(!posted(&near, &MESSAGE));
    }
    assert!(!readable(&near), "a post ends what was armed");
    assert_eq!(near.arm(Interest::Room(100)).unwrap(), Armed::Wait);
    assert_eq!(received(&near).unwrap(), b"!");
    assert_eq!(received(&near), None);
    empty(&far);
    assert!(!readable(&near), "a receive ends what was armed");
}

#[test]
fn s12_what_can_never_be_posted_is_an_error_at_once() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    fill(&near);
    let long = vec![0; near.max_message_len() + 1];
    assert!(matches!(
        near.poll_post_bytes(&long),
        Poll::Ready(Err(PostError::TooLarge { .. }))
    ));
    assert!(matches!(
        near.poll_post(&long),
        Poll::Ready(Err(PostError::TooLarge { .. }))
    ));
    empty(&far);
    let slot = near.reserve(8).unwrap();
    assert!(matches!(
        near.poll_post_bytes(b"x"),
        Poll::Ready(Err(PostError::Busy))
    ));
    assert_eq!(received(&near), None);
    drop(slot);
    assert!(posted(&near, b"x"));
}

#[test]
fn s17_blocking_calls_between_find_everything() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    let echo = thread::spawn(move || {
        far.set_wait_strategy(WaitStrategy::Block);
        far.iter()
            .for_each(|event| far.post_bytes(event.bytes()).unwrap());
    });
    near.set_wait_strategy(WaitStrategy::Block);
    for round in 0..500 {
        let message = sample_of(round, 60);
        near.post_bytes_timeout(&message, PATIENCE).unwrap();
        match round % 3 {
            0 => loop {
                if let Some(bytes) = received(&near) {
                    break assert_eq!(bytes, message);
                }
                assert!(readable_within(&near, PATIENCE), "round {round}");
            },
            1 => {
                // Pending, or here already.
                let bytes = received(&near).unwrap_or_else(|| next(&near));
                assert_eq!(bytes, message);
            }
            _ => {
                assert_eq!(wait_any(&[&near], Some(PATIENCE)).unwrap(), Some(0));
                assert_eq!(now(&near), message);
            }
        }
    }
    drop(near);
    echo.join().unwrap();
}

#[test]
fn s16_what_is_pending_does_not_bind_a_port() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    let (carrier, other) = channel();
    fill(&near);
    assert_eq!(received(&near), None);
    far.post_bytes(b"moves along").unwrap();
    carrier.post_bytes_with(b"", [near]).unwrap();
    let near = other.recv().unwrap().take_ports().remove(0);
    assert_eq!(received(&near).unwrap(), b"moves along");
    assert_eq!(received(&near), None);
    assert!(!readable(&near));
    far.post_bytes(b"rings").unwrap();
    assert!(readable(&near));
    assert!(matches!(near.recv(), Ok(event) if event.bytes() == b"rings"));
    near.close();
    assert!(matches!(
        near.poll_recv(),
        Poll::Ready(Err(RecvError::Closed(_)))
    ));
}
