//! Turns: S29 and S30. Who is busy has no more than its share, and what a handler posts comes in a later turn.
//!
//! How long others are kept waiting is counted in messages of the busy one, not in time: on a slow machine these
//! are as many.

mod common;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, STRATEGIES, channel, channel_of, sample};
use ringport::{EventLoop, MessagePort, WaitStrategy};
use stage::{Log, lull, run_until, runs, settle};

/// Messages a turn, at most.
const BUDGET: usize = 64;
/// Messages of a busy port during which another one must have been noticed, which is done now and then.
const SOON: u64 = 1000;

#[test]
fn s29_a_turn_is_at_most_64_messages_and_no_fewer_if_they_wait() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let count = Cell::new(0);
    let mut events = EventLoop::new().unwrap();
    events
        .add(port2)
        .unwrap()
        .on_message(|_, _| count.set(count.get() + 1));
    for waiting in [1, 63, 64, 65, 128, 200] {
        (0..waiting).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
        let mut left = waiting as usize;
        while left > 0 {
            count.set(0);
            assert!(events.run_once(None).unwrap());
            assert_eq!(count.get(), left.min(BUDGET), "{left} of {waiting}");
            left -= count.get();
        }
        assert!(!events.run_once(Some(Duration::ZERO)).unwrap());
    }
}

#[test]
fn s29_ports_take_turns_all_of_them_in_order() {
    let _quiet = common::descriptors();
    const PORTS: usize = 50;
    const EACH: usize = 3 * BUDGET + 10;
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let mut peers = Vec::new();
    for index in 0..PORTS {
        let (port1, port2) = channel();
        (0..EACH).for_each(|_| port1.post_bytes(b"x").unwrap());
        let log = &log;
        events
            .add(port2)
            .unwrap()
            .on_message(move |_, _| log.add(index));
        peers.push(port1);
    }
    settle(&mut events);
    let turns = runs(log.take());
    let round = |count| (0..PORTS).map(move |index| (index, count));
    let expected: Vec<_> = round(BUDGET)
        .chain(round(BUDGET))
        .chain(round(BUDGET))
        .chain(round(10))
        .collect();
    assert_eq!(turns, expected);
}

#[test]
fn s29_a_stop_does_not_cost_the_others_their_turns() {
    let _quiet = common::descriptors();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let mut peers = Vec::new();
    for index in 0..4u8 {
        let (port1, port2) = channel();
        (0..3).for_each(|_| port1.post_bytes(b"x").unwrap());
        let log = &log;
        events.add(port2).unwrap().on_message(move |events, _| {
            log.add(index);
            events.stop();
        });
        peers.push(port1);
    }
    let mut seen = Vec::new();
    for _ in 0..12 {
        events.run().unwrap();
        assert_eq!(log.len(), 1, "one message each time");
        seen.append(&mut log.take());
    }
    for (index, _) in peers.iter().enumerate() {
        let places: Vec<_> = (0..12)
            .filter(|place| seen[*place] == index as u8)
            .collect();
        assert_eq!(places.len(), 3);
        assert!(
            places.windows(2).all(|pair| pair[1] - pair[0] <= 4),
            "{index} had to wait too long: {seen:?}"
        );
    }
}

#[test]
fn s30_what_a_handler_posts_is_never_delivered_inside_the_post() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (other1, other2) = channel();
    let inside = Cell::new(false);
    let count = Cell::new(0);
    let enter = || assert!(!inside.replace(true), "a handler inside a handler");
    let mut events = EventLoop::new().unwrap();
    events.add(port2).unwrap().on_message(|_, event| {
        enter();
        other1.post_bytes(event.bytes()).unwrap();
        port1.post_bytes(event.bytes()).unwrap();
        assert!(event.port().pending() > 0, "it waits");
        inside.set(false);
    });
    events.add(other2).unwrap().on_message(|events, _| {
        enter();
        count.set(count.get() + 1);
        if count.get() == 1000 {
            events.stop();
        }
        inside.set(false);
    });
    port1.post_bytes(b"x").unwrap();
    events.run().unwrap();
    assert_eq!(count.get(), 1000);
}

#[test]
fn s30_what_a_port_posts_to_itself_comes_in_a_later_turn() {
    let _quiet = common::descriptors();
    for waiting in [1, 2, 3, BUDGET] {
        for trusted in [false, true] {
            let (port1, port2) = channel();
            let (other1, other2) = channel();
            common::trust_if(&port2, trusted);
            let log = Log::new();
            let mut events = EventLoop::new().unwrap();
            (0..waiting).for_each(|_| port1.post_bytes(b"waited").unwrap());
            events.add(port2).unwrap().on_message(|_, event| {
                let first = event.bytes() == b"waited";
                log.add(if first { "waited" } else { "posted" });
                if first {
                    port1.post_bytes(b"posted").unwrap();
                }
            });
            (0..waiting).for_each(|_| other1.post_bytes(b"x").unwrap());
            events
                .add(other2)
                .unwrap()
                .on_message(|_, _| log.add("other"));
            settle(&mut events);
            // The other port's turn stands between the messages and what their handler has posted.
            let turns = runs(log.take());
            assert_eq!(
                turns,
                [("waited", waiting), ("other", waiting), ("posted", waiting)],
                "trusted: {trusted}"
            );
        }
    }
}

#[test]
fn s30_what_a_room_handler_posts_to_its_own_port_comes_in_a_later_turn() {
    let _quiet = common::descriptors();
    for waiting in [0, 1, 2, BUDGET] {
        let (port1, port2) = channel();
        let log = Log::new();
        let mut events = EventLoop::new().unwrap();
        (0..waiting).for_each(|_| port1.post_bytes(b"waited").unwrap());
        let port = events.add(port2).unwrap();
        port.on_message(|_, event| {
            let first = event.bytes() == b"waited";
            log.add(if first { "waited" } else { "posted" });
        });
        port.on_room(10, |_, _| {
            log.add("room");
            port1.post_bytes(b"posted").unwrap();
        });
        drop(port);
        assert!(events.run_once(Some(Duration::ZERO)).unwrap());
        let mut turn = vec![("room", 1)];
        if waiting > 0 {
            // Nor does it cost those that waited their turn.
            turn.push(("waited", waiting));
        }
        assert_eq!(runs(log.take()), turn);
        settle(&mut events);
        assert_eq!(log.take(), ["posted"]);
    }
}

#[test]
fn s30_a_port_that_posts_to_itself_gets_one_message_a_turn() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (port1, port2) = channel();
        let count = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        events.add(port2).unwrap().on_message(|_, event| {
            count.set(count.get() + 1);
            port1.post_bytes(event.bytes()).unwrap();
        });
        port1.post_bytes(b"x").unwrap();
        for turn in 1..500 {
            assert!(events.run_once(Some(PATIENCE)).unwrap());
            assert_eq!(count.get(), turn, "{strategy:?}");
        }
    }
}

/// A port in `events` that posts to itself for ever; `tick` is called with how often it has.
fn busy<'h>(events: &EventLoop<'h>, tick: impl Fn(&EventLoop<'h>, u64) + 'h) {
    let (port1, port2) = channel();
    port1.post_bytes(b"x").unwrap();
    let mut count = 0;
    events.add(port2).unwrap().on_message(move |events, event| {
        count += 1;
        port1.post_bytes(event.bytes()).unwrap();
        tick(events, count);
    });
}

#[test]
fn s29_a_busy_port_does_not_starve_the_others_whatever_they_did_before() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        // A port that never had a message, one that has just had some, and one that was asleep since.
        for before in ["nothing", "messages", "messages and a lull"] {
            let (port1, port2) = channel();
            let (posted, received) = (Cell::new(None), Cell::new(0));
            let lags = Log::new();
            let now = Cell::new(0);
            let mut events = EventLoop::new().unwrap();
            events.set_wait_strategy(strategy);
            events.add(port2).unwrap().on_message(|_, _| {
                received.set(received.get() + 1);
                if let Some(at) = posted.take() {
                    lags.add(now.get() - at);
                }
            });
            if before != "nothing" {
                (0..5).for_each(|_| port1.post_bytes(b"x").unwrap());
                run_until(&mut events, "they come", || received.get() == 5);
            }
            if before == "messages and a lull" {
                lull(&mut events);
            }
            busy(&events, |events, count| {
                now.set(count);
                if posted.get().is_none() {
                    if lags.len() == 20 {
                        return events.stop();
                    }
                    port1.post_bytes(b"x").unwrap();
                    posted.set(Some(count));
                }
                let since = count - posted.get().unwrap_or(count);
                assert!(since < SOON, "{strategy:?} after {before}: it is starved");
            });
            events.run().unwrap();
            assert_eq!(lags.len(), 20);
        }
    }
}

#[test]
fn s29_two_ports_that_keep_each_other_busy_do_not_starve_a_third() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (port1, port2) = channel();
        let (other1, other2) = channel();
        let (third1, third2) = channel();
        let (count, since, done) = (Cell::new(0u64), Cell::new(0), Cell::new(0));
        let turn = |events: &EventLoop<'_>, post_to: &MessagePort| {
            count.set(count.get() + 1);
            post_to.post_bytes(b"x").unwrap();
            let waited = count.get() - since.get();
            assert!(waited < SOON, "{strategy:?}: the third is starved");
            if done.get() == 50 {
                events.stop();
            }
        };
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        events
            .add(port2)
            .unwrap()
            .on_message(|events, _| turn(events, &other1));
        events
            .add(other2)
            .unwrap()
            .on_message(|events, _| turn(events, &port1));
        events.add(third2).unwrap().on_message(|_, _| {
            since.set(count.get());
            done.set(done.get() + 1);
            third1.post_bytes(b"x").unwrap();
        });
        third1.post_bytes(b"x").unwrap();
        port1.post_bytes(b"x").unwrap();
        events.run().unwrap();
    }
}

#[test]
fn s29_a_flood_from_elsewhere_leaves_the_others_every_second_turn() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (flood1, flood2) = channel_of(1 << 20);
        let (port1, port2) = channel();
        let log = Log::new();
        let floods = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let poster = thread::spawn(move || while flood1.post_bytes(b"flood").is_ok() {});
        events.add(flood2).unwrap().on_message(|_, _| {
            floods.set(floods.get() + 1);
            log.add(true);
        });
        port1.post_bytes(b"x").unwrap();
        // Always ready: it posts to itself.
        events.add(port2).unwrap().on_message(|events, event| {
            log.add(false);
            port1.post_bytes(event.bytes()).unwrap();
            if floods.get() > 20_000 {
                events.stop();
            }
        });
        events.run().unwrap();
        drop(events);
        poster.join().unwrap();
        let seen = runs(log.take());
        let floods = seen.iter().filter(|run| run.0).map(|run| run.1);
        let longest = floods.max().unwrap();
        assert!(longest <= BUDGET, "{strategy:?}: {longest} in a row");
    }
}

#[test]
fn s29_a_port_that_posts_to_itself_does_not_starve_a_timer() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port1.post_bytes(b"x").unwrap();
    let count = Cell::new(0u64);
    let mut events = EventLoop::new().unwrap();
    events.add(port2).unwrap().on_message(|_, event| {
        count.set(count.get() + 1);
        port1.post_bytes(event.bytes()).unwrap();
    });
    events.set_timeout(Duration::from_millis(20), |events| events.stop());
    events.run().unwrap();
    assert!(count.get() > 100);
}

#[test]
fn s29_a_timer_comes_before_the_next_turn_once_it_is_due() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (due, late, fired) = (Cell::new(None), Cell::new(0), Cell::new(0));
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        for _ in 0..3 {
            busy(&events, |events, _| {
                // A message that begins when it is due already comes too late by a turn.
                late.set(
                    late.get() + u32::from(due.get().is_some_and(|due| Instant::now() >= due)),
                );
                if fired.get() == 50 {
                    events.stop();
                } else if due.get().is_none() {
                    let delay = Duration::from_micros(300);
                    events.set_timeout(delay, |_| {
                        due.set(None);
                        fired.set(fired.get() + 1);
                    });
                    // Taken after the timer's, so that this is not earlier.
                    due.set(Some(Instant::now() + delay));
                }
            });
        }
        events.run().unwrap();
        // Once for the message on whose way it became due, of a turn of one.
        assert!(late.get() <= fired.get(), "{} times late", late.get());
    }
}

#[test]
fn s29_timers_without_end_do_not_starve_ports_nor_wakes() {
    let _quiet = common::descriptors();
    fn again<'h>(events: &EventLoop<'h>, count: &'h Cell<u64>) {
        count.set(count.get() + 1);
        events.set_timeout(Duration::ZERO, move |events| again(events, count));
    }
    for strategy in STRATEGIES {
        let (port1, port2) = channel();
        let (count, since) = (Cell::new(0u64), Cell::new(0));
        let (messages, wakes) = (Cell::new(0), Cell::new(0));
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let waker = events.waker();
        again(&events, &count);
        events.set_interval(Duration::from_nanos(1), |events| {
            let waited = count.get() - since.get();
            assert!(waited < SOON, "{strategy:?}: starved by timers");
            if messages.get() >= 100 && wakes.get() >= 100 {
                events.stop();
            }
        });
        events.on_wake(|_| {
            wakes.set(wakes.get() + 1);
            // Only now does the port get its next one.
            port1.post_bytes(b"x").unwrap();
        });
        let (messages, since, count) = (&messages, &since, &count);
        events.add(port2).unwrap().on_message(move |_, _| {
            messages.set(messages.get() + 1);
            since.set(count.get());
            waker.wake();
        });
        port1.post_bytes(b"x").unwrap();
        events.run().unwrap();
    }
}

#[test]
fn s29_a_busy_port_does_not_starve_wakes_from_another_thread() {
    let _quiet = common::descriptors();
    for strategy in [
        WaitStrategy::Spin,
        WaitStrategy::Adaptive,
        WaitStrategy::Block,
    ] {
        let wakes = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let waker = events.waker();
        let thread = thread::spawn(move || waker.wake());
        events.on_wake(|events| {
            wakes.set(wakes.get() + 1);
            events.stop();
        });
        let start = Instant::now();
        busy(&events, move |_, _| {
            assert!(start.elapsed() < PATIENCE, "{strategy:?}: starved");
        });
        events.run().unwrap();
        assert_eq!(wakes.get(), 1);
        thread.join().unwrap();
    }
}
