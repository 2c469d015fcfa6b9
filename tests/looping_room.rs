//! Waiting for room in a loop: `on_room` is called once, when there is room, and never when there will be none.

#[path = "looping/clocks.rs"]
mod clocks;
mod common;
#[path = "common/ports.rs"]
mod ports;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::Cell;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use clocks::time_by;
use common::{
    Counters, PATIENCE, STRATEGIES, channel, channel_of, index_of, next, now, on_stage, sample,
    victim,
};
use ports::{assert_entangled, fill, only};
use ringport::{Attached, CloseReason, EventLoop, MessagePort, PortId, PostError, WaitStrategy};
use stage::{lull, run_until, settle};

roles! { gathers }

/// A short wait for nothing.
const IN_VAIN: Duration = Duration::from_millis(1);

/// Posts samples until not even an empty message fits, and says how many they were.
fn fill_up(port: &MessagePort) -> u64 {
    let count = fill(port);
    while port.try_post_bytes(b"").is_ok() {}
    count
}

/// Has the calls counted, each of which must find the room that was wanted.
fn on_room<'h>(port: &Attached<'_, 'h>, len: usize, calls: &'h Cell<u64>) {
    port.on_room(len, move |events, id| {
        calls.set(calls.get() + 1);
        let port = events.port(id).unwrap();
        port.try_post_bytes(&sample_of(len)).unwrap();
    });
}

fn sample_of(len: usize) -> Vec<u8> {
    vec![len as u8; len]
}

#[test]
fn s11_room_is_told_of_once_when_there_is_enough_for_the_message() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        for started in [false, true] {
            for len in [0, 100, 2000, usize::MAX] {
                let (port1, port2) = channel_of(4096);
                let len = len.min(port2.max_message_len());
                let calls = Cell::new(0);
                let mut events = EventLoop::new().unwrap();
                events.set_wait_strategy(strategy);
                let port = events.add(port2).unwrap();
                if started {
                    port.on_message(|_, _| ());
                }
                let count = fill_up(&port);
                on_room(&port, len, &calls);
                let id = port.id();
                drop(port);
                settle(&mut events);
                let mut taken = 0;
                while calls.get() == 0 {
                    assert!(taken < count, "it is empty, and nobody was told");
                    assert_eq!(now(&port1), sample(taken));
                    taken += 1;
                    // Messages the other way are no reason.
                    port1.post_bytes(b"x").unwrap();
                    settle(&mut events);
                }
                // A quarter of the ring, at least, before one who sleeps is woken for nothing else.
                let sleeps = strategy == WaitStrategy::Block && !started;
                assert!(!sleeps || taken > 3, "{taken}");
                drain_to(&port1, &sample_of(len));
                settle(&mut events);
                assert_eq!(calls.get(), 1);
                assert!(!events.run_once(Some(IN_VAIN)).unwrap());
                let port = events.remove(id).unwrap();
                port.post_bytes(b"x").unwrap();
            }
        }
    }
}

/// Receives up to a message, which must be the last one there.
#[track_caller]
fn drain_to(port: &MessagePort, last: &[u8]) {
    let mut bytes = Vec::new();
    while let Some(event) = port.try_recv().unwrap() {
        bytes = event.bytes().to_vec();
    }
    assert_eq!(bytes, last);
}

/// A handler that must not be called; it owns a share of `token`.
fn never<'h>(token: &Rc<()>) -> impl FnOnce(&EventLoop<'h>, PortId) + use<'h> {
    let token = Rc::clone(token);
    move |_, _| {
        let _owned = token;
        panic!("it was replaced, or there will never be room");
    }
}

#[test]
fn s11_one_who_waits_for_room_takes_the_place_of_the_one_before() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (port1, port2) = channel_of(4096);
        let (token, calls) = (Rc::new(()), Cell::new(0));
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let port = events.add(port2).unwrap();
        let id = port.id();
        let count = fill(&port);
        drop(port);
        for len in [2000, 1000, 1999] {
            // The peer is asked to ring for each of them in turn.
            lull(&mut events);
            events.port(id).unwrap().on_room(len, never(&token));
            assert_eq!(Rc::strong_count(&token), 2, "the others are dropped");
        }
        lull(&mut events);
        on_room(&events.port(id).unwrap(), 300, &calls);
        assert_eq!(Rc::strong_count(&token), 1);
        lull(&mut events);
        let taken = drain_some(&port1, 1500);
        run_until(&mut events, "there is room for 300", || calls.get() == 1);
        assert!(taken < count);
        // One that goes with its port is as if it had never been.
        let port = events.port(id).unwrap();
        fill(&port);
        port.on_room(300, never(&token));
        drop(port);
        lull(&mut events);
        let port = events.remove(id).unwrap();
        assert_eq!(Rc::strong_count(&token), 1);
        while port1.try_recv().unwrap().is_some() {}
        events.add(port).unwrap();
        settle(&mut events);
        assert!(!events.run_once(Some(IN_VAIN)).unwrap());
    }
}

/// Receives samples from 0 on until they are so many bytes, and says how many they were.
#[track_caller]
fn drain_some(port: &MessagePort, bytes: usize) -> u64 {
    let (mut taken, mut count) = (0, 0);
    while taken < bytes {
        let message = now(port);
        assert_eq!(message, sample(count));
        taken += message.len();
        count += 1;
    }
    count
}

#[test]
fn s11_a_message_that_can_never_fit_is_not_waited_for() {
    let _quiet = common::descriptors();
    for full in [false, true] {
        let (port1, port2) = channel_of(4096);
        let calls = &Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        let port = events.add(port2).unwrap();
        if full {
            fill(&port);
        }
        let max = port.max_message_len();
        for len in [max + 1, usize::MAX] {
            port.on_room(len, move |events, id| {
                calls.set(calls.get() + 1);
                let bytes = vec![0; max + 1];
                let posted = events.port(id).unwrap().try_post_bytes(&bytes);
                assert!(matches!(posted, Err(PostError::TooLarge { .. })));
            });
        }
        drop(port);
        settle(&mut events);
        assert_eq!(calls.get(), 1, "the post says what is wrong");
        drop(port1);
        events.run().unwrap();
    }
}

#[test]
fn s52_room_for_one_message_is_heard_of_though_another_post_was_refused_meanwhile() {
    let _quiet = common::descriptors();
    let looping = common::thread_id();
    for strategy in STRATEGIES {
        for by_hand in 0..3 {
            let (port1, port2) = channel_of(4096);
            let calls = Cell::new(0);
            let mut events = EventLoop::new().unwrap();
            events.set_wait_strategy(strategy);
            let port = events.add(port2).unwrap();
            let id = port.id();
            fill_up(&port);
            on_room(&port, 200, &calls);
            drop(port);
            lull(&mut events);
            let port = events.port(id).unwrap();
            // More than there is going to be.
            let refused = match by_hand {
                0 => port.try_post_bytes(&[0; 2000]),
                1 => port.post_bytes_timeout(&[0; 2000], IN_VAIN),
                _ => port
                    .reserve_timeout(2000, IN_VAIN)
                    .map(drop)
                    .map_err(PostError::from),
            };
            assert!(
                matches!(refused, Err(PostError::Full { .. })),
                "{refused:?}"
            );
            drop(port);
            let emptying = thread::spawn(move || {
                if strategy != WaitStrategy::Spin {
                    common::until_asleep(std::process::id(), looping);
                }
                drain_some(&port1, 1500);
                port1
            });
            run_until(&mut events, "there is room for 200", || calls.get() == 1);
            drop(emptying.join().unwrap());
        }
    }
}

/// Messages that go as far as there is room, and then go on when there is more.
struct Flood {
    posted: Cell<u64>,
    full: Cell<u64>,
    /// Tells the other process as well.
    counters: Counters,
}

const FLOOD: u64 = 5000;
/// The counter that says which messages are answered.
const EVERY: usize = 3;
/// The counter of how often there was no room.
const FULL: usize = 4;

impl Flood {
    fn go_on<'h>(&'h self, events: &EventLoop<'h>, id: PortId) {
        let port = events.port(id).unwrap();
        while self.posted.get() < FLOOD {
            let message = sample(self.posted.get());
            match port.try_post_bytes(&message) {
                Ok(()) => self.posted.set(self.posted.get() + 1),
                Err(PostError::Full { .. }) => {
                    self.full.set(self.full.get() + 1);
                    self.counters.set(FULL, self.full.get());
                    let before = self.posted.get();
                    port.on_room(message.len(), move |events, id| {
                        self.go_on(events, id);
                        assert!(self.posted.get() > before, "called for nothing");
                    });
                    return;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        self.counters.set(Counters::DONE, FLOOD);
    }
}

#[test]
fn s05_hundreds_of_full_rings_to_another_process_lose_nothing() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        for started in [false, true] {
            let (answered, ended) = (Cell::new(0), Cell::new(false));
            let (worker, child, counters) = victim("gathers", strategy, "");
            let (port1, port2) = channel_of(4096);
            counters.set(Counters::THREAD, common::thread_id().into());
            // As many answers as there is room for, if nobody takes them meanwhile.
            let every = if started { 10 } else { 100 };
            counters.set(EVERY, every);
            worker.post_bytes_with(b"gather this", [port2]).unwrap();
            let flood = Flood {
                posted: Cell::new(0),
                full: Cell::new(0),
                counters,
            };
            let mut events = EventLoop::new().unwrap();
            events.set_wait_strategy(strategy);
            let port = events.add(port1).unwrap();
            let id = port.id();
            port.on_close(|_, event| {
                assert_eq!(event.reason, CloseReason::ClosedByPeer);
                ended.set(true);
            });
            if started {
                port.on_message(|_, event| {
                    assert_eq!(index_of(event.bytes()), answered.get());
                    answered.set(answered.get() + every);
                });
            }
            drop(port);
            flood.go_on(&events, id);
            if !started {
                run_until(&mut events, "all is posted", || flood.posted.get() == FLOOD);
                // Its answers have waited.
                let port = events.port(id).unwrap();
                while answered.get() < FLOOD {
                    assert_eq!(index_of(&next(&port)), answered.get());
                    answered.set(answered.get() + every);
                }
            }
            run_until(&mut events, "all has arrived", || ended.get());
            assert_eq!(answered.get(), FLOOD);
            let full = flood.full.get();
            assert!(full >= 200, "{strategy:?}: full {full} times only");
            drop(worker);
            common::end_well(child);
        }
    }
}

/// Receives all of a flood and answers some messages. Between them it waits until there is no room any more, and now
/// and then until the other side sleeps.
fn gathers() {
    let (carrier, counters) = on_stage();
    let port = ports::next_port(&carrier);
    port.set_wait_strategy(common::strategy());
    let parent = std::os::unix::process::parent_id();
    let mut full = 0;
    for index in 0..FLOOD {
        if index % 20 == 0 {
            common::until("the ring is full again, or all is posted", || {
                counters.get(FULL) > full || counters.get(Counters::DONE) == FLOOD
            });
            full = counters.get(FULL);
        }
        if index % 100 == 0 && common::strategy() != WaitStrategy::Spin {
            common::until_asleep(parent, counters.get(Counters::THREAD) as u32);
        }
        let event = port.recv_timeout(PATIENCE).unwrap().expect("a message");
        assert_eq!(event.bytes(), sample(index));
        if index % counters.get(EVERY) == 0 {
            port.post_bytes(&index.to_le_bytes()).unwrap();
        }
    }
}

#[test]
fn s48_when_the_channel_ends_nobody_is_told_of_room_and_the_loop_comes_to_rest() {
    let _quiet = common::descriptors();
    for started in [false, true] {
        for unread in [false, true] {
            for closed_here in [false, true] {
                let (port1, port2) = channel_of(4096);
                let (token, ends) = (Rc::new(()), Cell::new(0));
                let mut events = EventLoop::new().unwrap();
                events.set_wait_strategy(WaitStrategy::Block);
                let port = events.add(port2).unwrap();
                port.on_close(|_, _| ends.set(ends.get() + 1));
                if started {
                    port.on_message(|_, _| ());
                }
                let id = port.id();
                fill(&port);
                port.on_room(300, never(&token));
                drop(port);
                lull(&mut events);
                if unread {
                    port1.post_bytes(b"unread").unwrap();
                }
                if closed_here {
                    events.port(id).unwrap().close();
                } else {
                    // That makes room, too late.
                    while port1.try_recv().unwrap().is_some() {}
                    port1.close();
                }
                // A message that waits on a port that was never started keeps the end from being told.
                let stays = unread && !started && !closed_here;
                let before = time_by(libc::CLOCK_THREAD_CPUTIME_ID);
                events.run_once(Some(Duration::from_millis(20))).unwrap();
                settle(&mut events);
                events.run_once(Some(Duration::from_millis(20))).unwrap();
                let computed = time_by(libc::CLOCK_THREAD_CPUTIME_ID) - before;
                assert!(computed < Duration::from_millis(15), "{computed:?}");
                assert_eq!(Rc::strong_count(&token), 1);
                assert_eq!(events.len(), usize::from(stays));
                assert_eq!(ends.get(), i32::from(!stays && !closed_here));
            }
        }
    }
}

/// Posts messages with a port each as long as that is possible, and says how many. The peers of the ports are kept in
/// `near`, in order.
fn fill_with_ports(port: &MessagePort, near: &mut Vec<MessagePort>) -> usize {
    for count in 0.. {
        let (stays, goes) = channel_of(4096);
        match port.try_post_bytes_with(b"a port", [goes]) {
            Ok(()) => near.push(stays),
            Err(error) => {
                let full = matches!(error.error(), PostError::TransfersFull { .. });
                assert!(full, "{error:?}");
                return count;
            }
        }
    }
    unreachable!("it takes ever more")
}

#[test]
fn s11_after_too_many_with_ports_room_is_told_of_once_when_one_was_received() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        for started in [false, true] {
            let (port1, port2) = channel();
            let (calls, mut near) = (Cell::new(0), Vec::new());
            let mut events = EventLoop::new().unwrap();
            events.set_wait_strategy(strategy);
            let port = events.add(port2).unwrap();
            let id = port.id();
            if started {
                port.on_message(|_, _| ());
            }
            let count = fill_with_ports(&port, &mut near);
            drop(port);
            for round in 1..=20 {
                let len = [0, 100, 5000][round % 3];
                let (stays, goes) = channel_of(4096);
                let calls = &calls;
                let port = events.port(id).unwrap();
                port.on_room_with_ports(len, move |events, id| {
                    calls.set(calls.get() + 1);
                    let port = events.port(id).unwrap();
                    port.try_post_bytes_with(&sample_of(len), [goes]).unwrap();
                });
                drop(port);
                near.push(stays);
                lull(&mut events);
                // Neither a message the other way nor one without ports is a reason.
                port1.post_bytes(b"x").unwrap();
                events.port(id).unwrap().try_post_bytes(b"plain").unwrap();
                lull(&mut events);
                assert_eq!(calls.get(), round - 1, "told of nothing, {strategy:?}");
                let event = loop {
                    let event = port1.try_recv().unwrap().expect("a message with a port");
                    if event.port_count() > 0 {
                        break event;
                    }
                };
                let ports = event.take_ports();
                assert_entangled(&near[round - 1], &only(ports));
                run_until(&mut events, "there is a place", || calls.get() == round);
                settle(&mut events);
                assert_eq!(calls.get(), round);
            }
            // All of them came, in order.
            let mut left = near.split_off(20).into_iter();
            while let Some(event) = port1.try_recv().unwrap() {
                if event.port_count() > 0 {
                    assert_entangled(&left.next().unwrap(), &only(event.take_ports()));
                }
            }
            assert_eq!((count, left.len()), (64, 0));
        }
    }
}

#[test]
fn s11_room_with_ports_is_waited_for_also_by_the_largest_messages() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        // With 126 ports only the first of these would fit.
        for spare in [200, 100, 16] {
            let (port1, port2) = channel_of(4096);
            let calls = &Cell::new(0);
            let mut events = EventLoop::new().unwrap();
            events.set_wait_strategy(strategy);
            let port = events.add(port2).unwrap();
            let len = port.max_message_len() - spare;
            fill_up(&port);
            port.on_room_with_ports(len, move |events, id| {
                calls.set(calls.get() + 1);
                let port = events.port(id).unwrap();
                port.try_post_bytes_with(&sample_of(len), [channel_of(4096).0])
                    .unwrap();
            });
            drop(port);
            lull(&mut events);
            assert_eq!(calls.get(), 0, "it is full: {spare}");
            let last = loop {
                let event = port1.try_recv().unwrap();
                let event = event.expect("it is empty, and nobody was told");
                let carries = event.port_count() > 0;
                drop(event);
                settle(&mut events);
                if carries {
                    break calls.get();
                }
            };
            assert_eq!(last, 1);
        }
    }
}

#[test]
fn s52_room_with_ports_is_not_told_of_once_the_channel_has_ended() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (token, ends) = (Rc::new(()), Cell::new(0));
    let mut near = Vec::new();
    let mut events = EventLoop::new().unwrap();
    let port = events.add(port2).unwrap();
    port.on_close(|_, _| ends.set(ends.get() + 1));
    fill_with_ports(&port, &mut near);
    port.on_room_with_ports(0, never(&token));
    drop(port);
    lull(&mut events);
    drop(port1);
    events.run().unwrap();
    assert_eq!((ends.get(), Rc::strong_count(&token)), (1, 1));
}

/// Posts a message now, and one each time there is room again.
fn pump<'h>(events: &EventLoop<'h>, id: PortId, posted: &'h Cell<u64>) {
    let port = events.port(id).unwrap();
    port.try_post_bytes(&sample(posted.get())).unwrap();
    posted.set(posted.get() + 1);
    port.on_room(300, move |events, id| pump(events, id, posted));
}

#[test]
fn s29_a_port_that_posts_whenever_there_is_room_hears_its_messages() {
    let _quiet = common::descriptors();
    const MESSAGES: u64 = 10;
    for strategy in STRATEGIES {
        let (port1, port2) = channel_of(4096);
        let (posted, read, heard) = (Cell::new(0), Cell::new(0), Cell::new(0));
        (0..MESSAGES).for_each(|index| port2.post_bytes(&sample(index)).unwrap());
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let port = events.add(port1).unwrap();
        port.on_message(|_, event| {
            assert_eq!(event.bytes(), sample(heard.get()));
            heard.set(heard.get() + 1);
        });
        // As long as this one reads, there is room.
        events.add(port2).unwrap().on_message(|_, event| {
            assert_eq!(event.bytes(), sample(read.get()));
            read.set(read.get() + 1);
        });
        pump(&events, port.id(), &posted);
        drop(port);
        for _ in 0..5 {
            assert!(events.run_once(Some(Duration::ZERO)).unwrap());
        }
        assert_eq!(heard.get(), MESSAGES, "{strategy:?}");
        assert!(posted.get() > 3, "it was busy all the while");
    }
}
