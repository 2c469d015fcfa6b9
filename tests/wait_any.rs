//! Waiting for one of several ports: what it finds, when, in which turn, and what waiting costs.

#[path = "polling/gauges.rs"]
mod gauges;

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{
    AT_ONCE, PATIENCE, STRATEGIES, channel, channel_of, closed, nothing, now, sample, sample_of,
};
use gauges::{A_WHILE, Cost, assert_idle, readable};
use ports::Random;
use ringport::{Armed, CloseReason, Interest, MessagePort, WaitStrategy, wait_any};

/// Which of these is ready, which one must be before long.
#[track_caller]
fn found(ports: &[MessagePort]) -> usize {
    let list: Vec<_> = ports.iter().collect();
    let found = wait_any(&list, Some(PATIENCE)).unwrap();
    found.expect("one that is ready, in time")
}

/// Which of these is ready now.
#[track_caller]
fn ready(ports: &[MessagePort]) -> Option<usize> {
    let list: Vec<_> = ports.iter().collect();
    wait_any(&list, Some(Duration::ZERO)).unwrap()
}

/// So many channels: the ends to wait for, with these strategies in turn, and the others.
fn channels(count: usize, strategies: &[WaitStrategy]) -> (Vec<MessagePort>, Vec<MessagePort>) {
    let (near, far): (Vec<_>, Vec<_>) = (0..count).map(|_| channel_of(4096)).unzip();
    for (port, strategy) in near.iter().zip(strategies.iter().cycle()) {
        port.set_wait_strategy(*strategy);
    }
    (near, far)
}

/// A thread that waits for these, asleep by now unless one of them spins; it gives them back with what it found.
fn waiter(near: Vec<MessagePort>) -> JoinHandle<(usize, Vec<MessagePort>)> {
    let spins = near
        .iter()
        .any(|port| port.wait_strategy() == WaitStrategy::Spin);
    let strategy = if spins {
        WaitStrategy::Spin
    } else {
        WaitStrategy::Block
    };
    ports::waiting(strategy, move || (found(&near), near))
}

#[test]
fn s17_a_message_there_already_is_found_and_stays() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (near, far) = channels(4, &[strategy]);
        assert_eq!(ready(&near), None);
        for (index, far) in far.iter().enumerate() {
            far.post_bytes(&sample(index as u64)).unwrap();
            for _ in 0..10 {
                assert_eq!(ready(&near), Some(index));
                let list: Vec<_> = near.iter().collect();
                assert_eq!(wait_any(&list, None).unwrap(), Some(index));
            }
            assert_eq!(now(&near[index]), sample(index as u64));
            assert_eq!(ready(&near), None);
        }
    }
}

#[test]
fn s52_whichever_comes_later_wakes_whatever_the_strategies() {
    let _quiet = common::descriptors();
    for mixture in 0..27 {
        let strategies = [0, 1, 2].map(|place| STRATEGIES[mixture / 3usize.pow(place) % 3]);
        let (mut near, far) = channels(3, &strategies);
        for (index, far) in far.iter().enumerate() {
            let waiter = waiter(near);
            far.post_bytes(&sample(index as u64)).unwrap();
            let start = Instant::now();
            let (found, back) = waiter.join().unwrap();
            assert_eq!(found, index, "{strategies:?}");
            assert!(start.elapsed() < AT_ONCE, "{strategies:?}");
            near = back;
            assert_eq!(now(&near[index]), sample(index as u64));
        }
    }
}

#[test]
fn s52_a_close_wakes_at_once_and_stays() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (near, mut far) = channels(3, &[strategy]);
        let waiter = waiter(near);
        far.remove(1).close();
        let (index, near) = waiter.join().unwrap();
        assert_eq!(index, 1);
        for _ in 0..10 {
            assert_eq!(found(&near), 1);
        }
        assert_eq!(closed(near[1].recv()), CloseReason::ClosedByPeer);
        assert_eq!(ready(&near), Some(1), "an end does not go away");
        near[0].close();
        let mut list: Vec<_> = near.iter().collect();
        list.remove(1);
        assert_eq!(wait_any(&list, None).unwrap(), Some(0), "closed here");
    }
}

#[test]
fn s48_messages_come_before_the_close() {
    let _quiet = common::descriptors();
    let (near, mut far) = channels(2, &[WaitStrategy::Block]);
    (0..5).for_each(|index| far[1].post_bytes(&sample(index)).unwrap());
    drop(far.pop());
    for index in 0..5 {
        assert_eq!(found(&near), 1);
        assert_eq!(now(&near[1]), sample(index));
    }
    assert_eq!(found(&near), 1);
    assert_eq!(closed(near[1].try_recv()), CloseReason::ClosedByPeer);
}

#[test]
fn s17_a_timeout_is_kept_by_every_strategy() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (near, _far) = channels(3, &[strategy, WaitStrategy::Block]);
        let list: Vec<_> = near.iter().collect();
        for micros in [0, 1, 300, 2_500, 30_000] {
            let timeout = Duration::from_micros(micros);
            let start = Instant::now();
            assert_eq!(wait_any(&list, Some(timeout)).unwrap(), None);
            let waited = start.elapsed();
            assert!(waited >= timeout, "{strategy:?} {timeout:?}: {waited:?}");
            assert!(waited < timeout + AT_ONCE, "{strategy:?} {timeout:?}");
        }
    }
}

#[test]
fn s17_a_timeout_beyond_the_clock_is_no_limit() {
    let _quiet = common::descriptors();
    let (near, far) = channels(2, &[WaitStrategy::Block]);
    let waiter = ports::waiting(WaitStrategy::Block, move || {
        let list: Vec<_> = near.iter().collect();
        wait_any(&list, Some(Duration::MAX)).unwrap()
    });
    far[1].post_bytes(b"!").unwrap();
    assert_eq!(waiter.join().unwrap(), Some(1));
}

#[test]
fn s17_of_no_ports_none_is_ready_and_nobody_waits() {
    let _quiet = common::descriptors();
    assert_eq!(wait_any(&[], None).unwrap(), None);
    assert_eq!(wait_any(&[], Some(PATIENCE)).unwrap(), None);
}

#[test]
fn s17_a_port_may_be_listed_more_than_once() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (near, far) = channels(2, &[strategy]);
        let [one, two] = &near[..] else {
            unreachable!()
        };
        let list = [one, two, one, one];
        assert_eq!(wait_any(&list, Some(Duration::ZERO)).unwrap(), None);
        assert_eq!(wait_any(&list, Some(ports::MOMENT)).unwrap(), None);
        for (far, index) in far.iter().zip(0..) {
            far.post_bytes(&sample(index)).unwrap();
            let found = wait_any(&list, Some(PATIENCE)).unwrap().unwrap();
            assert_eq!(now(list[found]), sample(index));
        }
    }
    let (near, far) = channels(1, &[WaitStrategy::Block]);
    let waiter = ports::waiting(WaitStrategy::Block, move || {
        wait_any(&[&near[0], &near[0]], Some(PATIENCE)).unwrap()
    });
    far[0].post_bytes(b"!").unwrap();
    assert!(waiter.join().unwrap().is_some());
}

#[test]
fn s29_those_that_are_always_ready_take_turns() {
    let _quiet = common::descriptors();
    // Also when a program asks after several lists in turn.
    for lists in 1..=6 {
        for len in 2..=5 {
            let asked: Vec<_> = (0..lists).map(|_| channels(len, &STRATEGIES)).collect();
            for far in asked.iter().flat_map(|(_, far)| far) {
                far.post_bytes(b"there").unwrap();
            }
            let mut last = vec![vec![0; len]; lists];
            for turn in 1..=500 {
                for ((near, _), last) in asked.iter().zip(&mut last) {
                    last[ready(near).unwrap()] = turn;
                    let longest = turn - last.iter().min().unwrap();
                    assert!(
                        longest < 100,
                        "starved: {lists} lists of {len}, last {last:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn s05_what_is_found_is_there_and_all_is_found() {
    let _quiet = common::descriptors();
    let mut random = Random(0x51ed_270b_0a7d_9e1f);
    for strategy in STRATEGIES {
        let (near, far) = channels(6, &[strategy]);
        let (mut posted, mut received) = ([0u64; 6], [0u64; 6]);
        for _ in 0..2000 {
            let index = random.below(6) as usize;
            if random.below(2) == 0 && posted[index] - received[index] < 8 {
                far[index].try_post_bytes(&sample(posted[index])).unwrap();
                posted[index] += 1;
            } else if let Some(index) = ready(&near) {
                assert_eq!(now(&near[index]), sample(received[index]));
                received[index] += 1;
            } else {
                assert_eq!(posted, received, "something was there");
            }
        }
        while let Some(index) = ready(&near) {
            assert_eq!(now(&near[index]), sample(received[index]));
            received[index] += 1;
        }
        assert_eq!(posted, received);
    }
}

#[test]
fn s52_an_idle_wait_makes_no_wake_ups() {
    let _quiet = common::descriptors();
    for (count, strategy) in [
        (1, WaitStrategy::Block),
        (30, WaitStrategy::Block),
        (3, WaitStrategy::Adaptive),
    ] {
        let (near, far) = channels(count, &[strategy]);
        let list: Vec<_> = near.iter().collect();
        let (found, cost) = Cost::of(|| wait_any(&list, Some(A_WHILE)).unwrap());
        assert_eq!(found, None);
        assert_idle(cost);
        let rings: u64 = far.iter().map(|far| far.stats().wakeups).sum();
        assert_eq!(rings, 0);
    }
}

#[test]
fn s52_only_who_sleeps_counts_as_a_sleeper() {
    let _quiet = common::descriptors();
    let (near, far) = channels(2, &[WaitStrategy::Block]);
    for _ in 0..50 {
        assert_eq!(ready(&near), None);
    }
    far[0].post_bytes(b"!").unwrap();
    assert_eq!(found(&near), 0);
    assert_eq!(far[0].stats().wakeups, 0, "rung though nobody waits");
    let sleeps: u64 = near.iter().map(|port| port.stats().sleeps).sum();
    assert_eq!(sleeps, 0);
}

#[test]
fn s17_other_ways_to_wait_take_turns_with_it() {
    let _quiet = common::descriptors();
    let (near, far) = channels(3, &STRATEGIES);
    let echo: Vec<_> = far
        .into_iter()
        .map(|far| thread::spawn(move || ports::echo(&far)))
        .collect();
    let mut random = Random(0x2bad_cafe_1234_5678);
    let mut asked = [0u64; 3];
    for round in 0..600 {
        let index = random.below(3) as usize;
        let port = &near[index];
        let message = sample_of(round, 40);
        port.post_bytes_timeout(&message, PATIENCE).unwrap();
        asked[index] += 1;
        match random.below(4) {
            0 => assert_eq!(found(&near), index),
            1 => {
                while port.arm(Interest::Message).unwrap() == Armed::Wait {
                    assert!(gauges::readable_within(port, PATIENCE), "round {round}");
                }
            }
            2 => {
                while port.poll_recv_is_pending(&message) {
                    assert!(gauges::readable_within(port, PATIENCE), "round {round}");
                }
                continue;
            }
            _ => {}
        }
        assert_eq!(common::next(port), message, "round {round}");
    }
    // Nothing is left behind that would keep a wait busy.
    near.iter()
        .for_each(|port| port.set_wait_strategy(WaitStrategy::Block));
    let list: Vec<_> = near.iter().collect();
    let (none, cost) = Cost::of(|| wait_any(&list, Some(A_WHILE)).unwrap());
    assert_eq!(none, None);
    assert_idle(cost);
    for port in &near {
        assert!(nothing(port));
        assert_eq!(port.arm(Interest::Message).unwrap(), Armed::Wait);
        assert!(!readable(port));
    }
    drop(near);
    for (echo, asked) in echo.into_iter().zip(asked) {
        assert_eq!(echo.join().unwrap().0, asked);
    }
}

/// One look by `poll_recv`.
trait Polled {
    /// Whether the message has not come yet; if it has, it must be this one.
    fn poll_recv_is_pending(&self, message: &[u8]) -> bool;
}

impl Polled for MessagePort {
    fn poll_recv_is_pending(&self, message: &[u8]) -> bool {
        match self.poll_recv() {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(event) => {
                assert_eq!(event.unwrap().bytes(), message);
                false
            }
        }
    }
}

#[test]
fn s52_a_hundred_ports_wake_one_by_one() {
    let _quiet = common::descriptors();
    let (mut near, far): (Vec<_>, Vec<_>) = (0..100).map(|_| channel()).unzip();
    near.iter()
        .for_each(|port| port.set_wait_strategy(WaitStrategy::Block));
    for index in [99, 0, 50, 1, 98] {
        let waiter = waiter(near);
        far[index].post_bytes(b"!").unwrap();
        let (found, back) = waiter.join().unwrap();
        assert_eq!(found, index);
        near = back;
        assert_eq!(now(&near[index]), b"!");
    }
}
