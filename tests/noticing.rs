//! A close or a death is noticed at once, by whoever waits and however: S52.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::Counters;
use common::{
    AT_ONCE, assert_over, channel_of, closed, greeting, idle, kill, on_stage, post_closed, sample,
    victim,
};
use ringport::{CloseReason, MessagePort, PostError, RecvError, WaitStrategy};

roles! { is_quiet, posts_three }

/// Runs `wait` on a port in a thread, closes the other end once it waits, and gives what came of it.
fn close_under<T: Send + 'static>(
    strategy: WaitStrategy,
    prepare: impl FnOnce(&MessagePort),
    wait: impl FnOnce(&MessagePort) -> T + Send + 'static,
) -> (T, u64) {
    let (near, far) = channel_of(4096);
    near.set_wait_strategy(strategy);
    prepare(&near);
    let (started, waits) = mpsc::channel();
    let waiter = thread::spawn(move || {
        started.send(common::thread_id()).unwrap();
        let outcome = wait(&near);
        (outcome, near.stats().sleeps)
    });
    let thread = waits.recv().unwrap();
    if strategy != WaitStrategy::Spin {
        common::until_asleep(std::process::id(), thread);
    }
    let start = Instant::now();
    far.close();
    let outcome = waiter.join().unwrap();
    assert!(
        start.elapsed() < AT_ONCE,
        "{strategy:?}: told after {:?}",
        start.elapsed()
    );
    outcome
}

#[test]
fn s52_a_close_wakes_who_waits_for_a_message() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let waits: [fn(&MessagePort) -> CloseReason; 3] = [
            |port| closed(port.recv()),
            |port| closed(port.recv_timeout(common::PATIENCE)),
            |port| {
                assert!(port.iter().next().is_none());
                port.close_reason().unwrap()
            },
        ];
        for wait in waits {
            let (reason, sleeps) = close_under(strategy, |_| (), wait);
            assert_eq!(reason, CloseReason::ClosedByPeer);
            assert!(sleeps <= 2, "{strategy:?}: {sleeps} sleeps");
        }
    }
}

#[test]
fn s52_a_close_wakes_who_waits_for_room() {
    let _quiet = common::descriptors();
    let fill = |port: &MessagePort| while port.try_post_bytes(&[1; 100]).is_ok() {};
    for strategy in common::STRATEGIES {
        let waits: [fn(&MessagePort) -> CloseReason; 4] = [
            |port| post_closed(port.post_bytes(&[2; 100])),
            |port| post_closed(port.post_bytes_timeout(&[2; 100], common::PATIENCE)),
            |port| post_closed(port.post_message(&greeting(8))),
            |port| post_closed(port.reserve(100).map(drop).map_err(Into::into)),
        ];
        for wait in waits {
            let (reason, sleeps) = close_under(strategy, fill, wait);
            assert_eq!(reason, CloseReason::ClosedByPeer);
            assert!(sleeps <= 2, "{strategy:?}: {sleeps} sleeps");
        }
    }
}

/// Lets a thread wait in `wait`, kills the peer under it, and says how long it took to notice and how
/// often it slept meanwhile.
fn noticed(
    strategy: WaitStrategy,
    prepare: impl FnOnce(&MessagePort),
    wait: fn(&MessagePort) -> CloseReason,
) -> (Duration, u64) {
    let (port, mut child, counters) = victim("is_quiet", strategy, "");
    port.set_wait_strategy(strategy);
    counters.until(Counters::READY, 1);
    prepare(&port);
    let before = port.stats().sleeps;
    let (started, waits) = std::sync::mpsc::channel();
    let waiter = thread::spawn(move || {
        started.send(common::thread_id()).unwrap();
        let reason = wait(&port);
        let noticed = Instant::now();
        assert_eq!(reason, CloseReason::PeerGone);
        let sleeps = port.stats().sleeps - before;
        assert_over(&port, reason);
        (noticed, sleeps)
    });
    let thread = waits.recv().unwrap();
    if strategy != WaitStrategy::Spin {
        common::until_asleep(std::process::id(), thread);
    }
    let start = Instant::now();
    kill(&mut child);
    let (noticed, sleeps) = waiter.join().unwrap();
    (noticed.duration_since(start), sleeps)
}

fn is_quiet() {
    let (_port, counters) = on_stage();
    counters.ready();
    idle();
}

#[test]
fn s52_a_death_wakes_who_waits_for_a_message() {
    let _quiet = common::descriptors();
    let waits: [fn(&MessagePort) -> CloseReason; 3] = [
        |port| closed(port.recv()),
        |port| closed(port.recv_timeout(common::PATIENCE)),
        |port| {
            assert!(port.iter().next().is_none());
            port.close_reason().unwrap()
        },
    ];
    for strategy in common::STRATEGIES {
        for wait in waits {
            let (time, sleeps) = noticed(strategy, |_| (), wait);
            assert!(time < AT_ONCE, "{strategy:?}: noticed after {time:?}");
            assert!(sleeps <= 2, "{strategy:?}: {sleeps} sleeps, it polled");
        }
    }
}

#[test]
fn s52_a_death_wakes_who_waits_for_room() {
    let _quiet = common::descriptors();
    let fill = |port: &MessagePort| while port.try_post_bytes(&[1; 100]).is_ok() {};
    let waits: [fn(&MessagePort) -> CloseReason; 4] = [
        |port| post_closed(port.post_bytes(&[2; 100])),
        |port| post_closed(port.post_bytes_timeout(&[2; 100], common::PATIENCE)),
        |port| post_closed(port.post_message(&common::greeting(8))),
        |port| post_closed(port.reserve(100).map(drop).map_err(PostError::from)),
    ];
    for strategy in common::STRATEGIES {
        for wait in waits {
            let (time, sleeps) = noticed(strategy, fill, wait);
            assert!(time < AT_ONCE, "{strategy:?}: noticed after {time:?}");
            assert!(sleeps <= 2, "{strategy:?}: {sleeps} sleeps, it polled");
        }
    }
}

#[test]
fn s52_who_sleeps_until_a_death_is_not_woken_in_between() {
    let _quiet = common::descriptors();
    let (port, mut child, counters) = victim("is_quiet", WaitStrategy::Block, "");
    port.set_wait_strategy(WaitStrategy::Block);
    counters.until(Counters::READY, 1);
    // Time passes here because it is what the test is about: a poller would count sleeps.
    assert!(
        port.recv_timeout(Duration::from_millis(300))
            .unwrap()
            .is_none()
    );
    assert!(port.stats().sleeps <= 2, "{:?}", port.stats());
    kill(&mut child);
    assert_eq!(closed(port.recv()), CloseReason::PeerGone);
    assert!(port.stats().sleeps <= 3, "{:?}", port.stats());
}

#[test]
fn s52_who_does_not_wait_learns_of_a_death_by_asking() {
    let _quiet = common::descriptors();
    let (port, mut child, counters) = victim("is_quiet", WaitStrategy::Block, "");
    counters.until(Counters::READY, 1);
    assert!(!port.is_closed());
    kill(&mut child);
    assert!(port.is_closed());
    assert_eq!(port.close_reason(), Some(CloseReason::PeerGone));
    assert_over(&port, CloseReason::PeerGone);
}

/// Asks again and again, without ever waiting long, until the end shows.
fn asked_often(
    role: &str,
    prepare: fn(&MessagePort),
    ask: fn(&MessagePort) -> Option<CloseReason>,
) {
    for strategy in common::STRATEGIES {
        let (port, mut child, counters) = victim(role, strategy, "");
        port.set_wait_strategy(strategy);
        counters.until(Counters::READY, 1);
        prepare(&port);
        for _ in 0..100 {
            assert_eq!(ask(&port), None, "{strategy:?}: it is alive");
        }
        kill(&mut child);
        let start = Instant::now();
        let reason = loop {
            if let Some(reason) = ask(&port) {
                break reason;
            }
            assert!(
                start.elapsed() < AT_ONCE,
                "{strategy:?}: asked for {AT_ONCE:?} in vain"
            );
        };
        assert_eq!(reason, CloseReason::PeerGone);
        assert_over(&port, reason);
    }
}

fn leave_it(_: &MessagePort) {}

fn fill(port: &MessagePort) {
    while port.try_post_bytes(&[1; 100]).is_ok() {}
}

/// What a receipt says of the end.
fn received<T>(answer: Result<Option<T>, RecvError>) -> Option<CloseReason> {
    match answer {
        Ok(None) => None,
        other => Some(closed(other)),
    }
}

/// What a post that finds no room says of the end.
fn posted(answer: Result<(), PostError>) -> Option<CloseReason> {
    match answer {
        Err(PostError::Full { .. }) => None,
        other => Some(post_closed(other)),
    }
}

#[test]
fn s52_who_only_tries_to_receive_learns_of_a_death() {
    let _quiet = common::descriptors();
    asked_often("is_quiet", leave_it, |port| received(port.try_recv()));
}

#[test]
fn s52_who_only_waits_for_moments_learns_of_a_death() {
    let _quiet = common::descriptors();
    asked_often("is_quiet", leave_it, |port| {
        received(port.recv_timeout(Duration::ZERO))
    });
    asked_often("is_quiet", leave_it, |port| {
        received(port.recv_timeout(Duration::from_micros(5)))
    });
}

#[test]
fn s52_who_only_tries_to_post_learns_of_a_death() {
    let _quiet = common::descriptors();
    asked_often("is_quiet", fill, |port| {
        posted(port.try_post_bytes(&[2; 100]))
    });
    asked_often("is_quiet", fill, |port| {
        posted(port.batch().post_bytes(&[2; 100]))
    });
    asked_often("is_quiet", fill, |port| {
        posted(port.try_reserve(100).map(drop).map_err(PostError::from))
    });
}

#[test]
fn s52_who_only_waits_for_room_for_moments_learns_of_a_death() {
    let _quiet = common::descriptors();
    asked_often("is_quiet", fill, |port| {
        posted(port.post_bytes_timeout(&[2; 100], Duration::ZERO))
    });
    asked_often("is_quiet", fill, |port| {
        posted(port.post_bytes_timeout(&[2; 100], Duration::from_micros(5)))
    });
}

#[test]
fn s52_who_reads_in_place_learns_of_a_death_after_the_last_message() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port, mut child, counters) = victim("posts_three", strategy, "");
        port.set_wait_strategy(strategy);
        common::trust(&port);
        counters.until(Counters::READY, 1);
        let first = port.recv().unwrap();
        kill(&mut child);
        let second = port.recv().unwrap();
        let third = port.recv().unwrap();
        assert_eq!(closed(port.recv()), CloseReason::PeerGone);
        for (event, index) in [&first, &second, &third].into_iter().zip(0..) {
            assert!(event.is_in_place());
            assert_eq!(
                event.bytes(),
                sample(index),
                "the dead's messages stay readable"
            );
        }
    }
}

fn posts_three() {
    let (port, counters) = on_stage();
    (0..3).for_each(|index| port.post_bytes(&sample(index)).unwrap());
    counters.ready();
    idle();
}
