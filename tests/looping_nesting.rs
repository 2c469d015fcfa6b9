//! A loop inside another: its descriptor is readable exactly when `run_once` has something to do.

mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use common::{AT_ONCE, PATIENCE, STRATEGIES, channel, channel_of, idle, on_stage, sample, victim};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use place::Place;
use ringport::{CloseReason, EventLoop, Listener, WaitStrategy};
use stage::{Log, readable, settle};

roles! { is_quiet, posts_and_pauses }

const NOW: Duration = Duration::ZERO;
/// Long enough for a spurious wake-up to show.
const A_MOMENT: Duration = Duration::from_millis(20);

/// The outer loop is told, and afterwards not again before there is more.
#[track_caller]
fn told(events: &mut EventLoop<'_>) {
    assert!(readable(events, AT_ONCE), "nothing is told");
    assert!(readable(events, NOW), "it stays readable until it is run");
    assert!(events.run_once(Some(NOW)).unwrap(), "told of nothing");
    settle(events);
    quiet(events);
}

/// Nothing is to be done, and the outer loop is not told of anything.
#[track_caller]
fn quiet(events: &mut EventLoop<'_>) {
    assert!(!readable(events, A_MOMENT), "told of nothing");
}

#[test]
fn s52_messages_make_it_readable_and_handling_them_makes_it_quiet() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (port1, port2) = channel();
        let count = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        quiet(&mut events);
        events.add(port2).unwrap().on_message(|_, event| {
            assert_eq!(event.bytes(), sample(count.get()));
            count.set(count.get() + 1);
        });
        settle(&mut events);
        quiet(&mut events);
        for round in 0..50 {
            let before = count.get();
            // A turn is 64 messages: the rest must be told as well.
            let messages = [1, 2, 64, 65, 150][round % 5];
            (before..before + messages).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
            if round % 10 < 5 {
                told(&mut events);
            } else {
                while readable(&events, A_MOMENT) {
                    assert!(events.run_once(Some(NOW)).unwrap(), "told of nothing");
                }
            }
            assert_eq!(count.get(), before + messages, "{strategy:?}");
        }
    }
}

#[test]
fn ports_that_are_added_started_closed_or_ended_make_it_readable() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (other1, other2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    quiet(&mut events);
    port1.post_bytes(b"waits").unwrap();
    let attached = events.add(port2).unwrap();
    let id = attached.id();
    attached
        .on_message_after_start(|_, event| log.add(event.bytes().to_vec()))
        .on_close(|_, _| log.add(b"closed".to_vec()));
    drop(attached);
    quiet(&mut events);
    events.port(id).unwrap().start();
    told(&mut events);
    assert_eq!(log.take(), [b"waits"]);
    // Used by hand: the message is taken, and there is nothing to be told.
    port1.post_bytes(b"by hand").unwrap();
    assert_eq!(common::now(&events.port(id).unwrap()), b"by hand");
    while readable(&events, A_MOMENT) {
        events.run_once(Some(NOW)).unwrap();
    }
    assert!(log.is_empty());
    port1.post_bytes(b"not by hand").unwrap();
    told(&mut events);
    assert_eq!(log.take(), [b"not by hand"]);
    drop(port1);
    told(&mut events);
    assert_eq!(log.take(), [b"closed"]);
    let id = events.add(other2).unwrap().id();
    quiet(&mut events);
    events.port(id).unwrap().close();
    told(&mut events);
    assert!(events.is_empty());
    assert!(other1.is_closed());
}

#[test]
fn a_timer_makes_it_readable_when_it_is_due_and_not_before() {
    let _quiet = common::descriptors();
    let count = Cell::new(0);
    let mut events = EventLoop::new().unwrap();
    quiet(&mut events);
    for micros in [0, 1, 300, 5_000, 50_000] {
        let delay = Duration::from_micros(micros);
        let start = Instant::now();
        events.set_timeout(delay, |_| count.set(count.get() + 1));
        while count.get() == 0 {
            assert!(readable(&events, AT_ONCE));
            assert!(start.elapsed() >= delay, "told too early");
            events.run_once(Some(NOW)).unwrap();
        }
        assert_eq!(count.take(), 1);
        quiet(&mut events);
    }
    // The first of several, whatever the order in which they were set.
    let start = Instant::now();
    for millis in [60, 20, 40] {
        let delay = Duration::from_millis(millis);
        events.set_timeout(delay, |_| count.set(count.get() + 1));
    }
    for expected in 1..=3 {
        told_of_timer(&mut events);
        assert!(start.elapsed() >= Duration::from_millis(20 * expected));
        assert_eq!(count.get(), expected);
    }
    let interval = events.set_interval(Duration::from_millis(3), |_| count.set(count.get() + 1));
    while count.get() < 10 {
        told_of_timer(&mut events);
    }
    assert!(events.clear_timer(interval));
    quiet(&mut events);
    // One that was called off before it was due is not told of.
    let timer = events.set_timeout(A_MOMENT / 2, |_| panic!("it was called off"));
    assert!(events.clear_timer(timer));
    quiet(&mut events);
}

#[track_caller]
fn told_of_timer(events: &mut EventLoop<'_>) {
    assert!(readable(events, AT_ONCE), "nothing is told");
    assert!(events.run_once(Some(NOW)).unwrap(), "told of nothing");
}

#[test]
fn what_is_not_to_be_dispatched_is_not_told() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (stays, goes) = channel();
    let mut events = EventLoop::new().unwrap();
    let id = events.add(port2).unwrap().id();
    quiet(&mut events);
    port1.post_bytes(b"not started").unwrap();
    port1.post_bytes_with(b"nor this", [goes]).unwrap();
    quiet(&mut events);
    events.port(id).unwrap().start();
    settle(&mut events);
    quiet(&mut events);
    port1.post_bytes(b"no handler").unwrap();
    quiet(&mut events);
    drop(port1);
    // The end may be told, but not for ever, as messages wait before it.
    settle(&mut events);
    quiet(&mut events);
    assert_eq!(events.len(), 1);
    drop(events.remove(id).unwrap());
    assert!(stays.is_closed());
    settle(&mut events);
    quiet(&mut events);
}

#[test]
fn a_stop_that_leaves_something_keeps_it_readable() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let count = Cell::new(0);
    let mut events = EventLoop::new().unwrap();
    events.add(port2).unwrap().on_message(|events, _| {
        count.set(count.get() + 1);
        events.stop();
    });
    quiet_after(&mut events);
    (0..5).for_each(|_| port1.post_bytes(b"x").unwrap());
    for expected in 1..=5 {
        assert!(readable(&events, AT_ONCE));
        events.run().unwrap();
        assert_eq!(count.get(), expected);
    }
    quiet_after(&mut events);
}

#[track_caller]
fn quiet_after(events: &mut EventLoop<'_>) {
    settle(events);
    quiet(events);
}

#[test]
fn a_port_that_is_taken_out_while_it_is_ready_leaves_it_quiet() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (port1, port2) = channel();
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        quiet(&mut events);
        // More than a turn is.
        (0..100).for_each(|_| port1.post_bytes(b"x").unwrap());
        let id = events.add(port2).unwrap().on_message(|_, _| ()).id();
        assert!(events.run_once(Some(NOW)).unwrap());
        let port = events.remove(id).unwrap();
        assert!(events.is_empty());
        quiet_after(&mut events);
        // Before its first turn.
        let id = events.add(port).unwrap().on_message(|_, _| ()).id();
        let port = events.remove(id).unwrap();
        quiet_after(&mut events);
        assert_eq!(common::now(&port), b"x", "the rest is still there");
    }
}

#[test]
fn a_wake_without_a_handler_leaves_it_quiet() {
    let _quiet = common::descriptors();
    let mut events = EventLoop::new().unwrap();
    quiet(&mut events);
    for _ in 0..3 {
        events.waker().wake();
        assert!(readable(&events, AT_ONCE), "a run_once returns for it");
        quiet_after(&mut events);
    }
}

#[test]
fn a_listener_that_its_handler_takes_out_leaves_it_quiet() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let clients: Vec<_> = (0..2)
        .map(|_| parties::connecting(listener.path()))
        .collect();
    for (_, thread) in &clients {
        common::until_asleep(std::process::id(), *thread);
    }
    let id = Cell::new(None);
    let mut events = EventLoop::new().unwrap();
    quiet(&mut events);
    let listener = events.add_listener(listener, |events, client| {
        drop(client.unwrap());
        // Of the other client the loop was told as well, and would look for it in the next round.
        drop(events.remove_listener(id.get().unwrap()).unwrap());
        events.stop();
    });
    id.set(Some(listener.unwrap()));
    assert!(readable(&events, AT_ONCE));
    assert!(events.run_once(Some(NOW)).unwrap());
    assert!(events.is_empty());
    quiet_after(&mut events);
    let accepted = clients.into_iter().filter_map(|(client, _)| {
        let client = client.join().unwrap();
        client.ok()
    });
    assert_eq!(accepted.count(), 1);
}

#[test]
fn a_waker_and_a_child_make_it_readable() {
    let _quiet = common::descriptors();
    let wakes = Cell::new(0);
    let statuses = Cell::new(0);
    let mut events = EventLoop::new().unwrap();
    quiet(&mut events);
    events.on_wake(|_| wakes.set(wakes.get() + 1));
    let waker = events.waker();
    for round in 1..20 {
        let waker = waker.clone();
        thread::spawn(move || waker.wake()).join().unwrap();
        told(&mut events);
        assert_eq!(wakes.get(), round);
    }
    let (_port, mut child, counters) = victim("is_quiet", WaitStrategy::Block, "");
    counters.until(common::Counters::READY, 1);
    child.kill().unwrap();
    let on_exit = |_: &EventLoop<'_>, _| statuses.set(statuses.get() + 1);
    events.add_child(child, on_exit).unwrap();
    told(&mut events);
    assert_eq!(statuses.get(), 1);
    // One that was waited for before it came.
    let mut child = common::command("is_quiet");
    let mut child = child.env_remove(common::ROLE).spawn().unwrap();
    child.wait().unwrap();
    events.add_child(child, on_exit).unwrap();
    told(&mut events);
    assert_eq!(statuses.get(), 2);
}

fn is_quiet() {
    let (_port, counters) = on_stage();
    counters.ready();
    idle();
}

#[test]
fn s29_an_outer_loop_shares_its_thread_with_two_inner_ones() {
    let _quiet = common::descriptors();
    const COUNT: u64 = 4000;
    for strategy in STRATEGIES {
        let counts = [Cell::new(0), Cell::new(0)];
        let ends = Cell::new(0);
        let outer = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut loops: Vec<_> = (0..2).map(|_| EventLoop::new().unwrap()).collect();
        let mut posters = Vec::new();
        for (events, count) in loops.iter().zip(&counts) {
            events.set_wait_strategy(strategy);
            let level = EpollEvent::new(EpollFlags::EPOLLIN, posters.len() as u64);
            outer.add(events, level).unwrap();
            let (port1, port2) = channel_of(4096);
            let ends = &ends;
            events
                .add(port2)
                .unwrap()
                .on_message(|_, event| {
                    assert_eq!(event.bytes(), sample(count.get()));
                    count.set(count.get() + 1);
                })
                .on_close(|_, event| {
                    assert_eq!(event.reason, CloseReason::ClosedByPeer);
                    ends.set(ends.get() + 1);
                });
            posters.push(thread::spawn(move || {
                (0..COUNT).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
            }));
        }
        let timeout = EpollTimeout::try_from(PATIENCE).unwrap();
        while ends.get() < 2 {
            let mut ready = [EpollEvent::empty(); 2];
            let count = outer.wait(&mut ready, timeout).unwrap();
            assert!(count > 0, "{strategy:?}: a wake-up was lost");
            for event in &ready[..count] {
                loops[event.data() as usize].run_once(Some(NOW)).unwrap();
            }
        }
        assert_eq!(counts.each_ref().map(Cell::get), [COUNT; 2]);
        posters
            .into_iter()
            .for_each(|poster| poster.join().unwrap());
    }
}

#[test]
fn s52_an_outer_loop_misses_nothing_of_a_process_that_pauses() {
    let _quiet = common::descriptors();
    for strategy in [WaitStrategy::Adaptive, WaitStrategy::Block] {
        let (port, child, counters) = victim("posts_and_pauses", strategy, "");
        let count = Cell::new(0);
        let done = Cell::new(None);
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        events
            .add(port)
            .unwrap()
            .on_message(|_, event| {
                assert_eq!(event.bytes(), sample(count.get()));
                count.set(count.get() + 1);
                event.port().post_bytes(b"next").unwrap();
            })
            .on_close(|_, event| done.set(Some(event.reason)));
        counters.set(common::Counters::READY, 1);
        while done.get().is_none() {
            assert!(readable(&events, PATIENCE), "a wake-up was lost");
            events.run_once(Some(NOW)).unwrap();
        }
        assert_eq!(count.get(), 3000);
        assert_eq!(done.get(), Some(CloseReason::ClosedByPeer));
        common::end_well(child);
    }
}

/// One message, then one more when it was answered, and now and then several at once.
fn posts_and_pauses() {
    let (port, counters) = on_stage();
    counters.until(common::Counters::READY, 1);
    let mut index = 0;
    while index < 3000 {
        let count = if index % 10 == 0 { 3 } else { 1 };
        let count = count.min(3000 - index);
        (index..index + count).for_each(|index| port.post_bytes(&sample(index)).unwrap());
        (0..count).for_each(|_| assert_eq!(common::next(&port), b"next"));
        index += count;
    }
}
