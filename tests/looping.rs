//! Ports in an event loop: how they come into it, what they do there, and how they leave it.

mod common;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::thread;

use common::{STRATEGIES, channel, channel_of, closed, next, nothing, now, sample};
use ringport::{CloseReason, DetachError, EventLoop, MessagePort, OwnedMessageEvent, PortId};
use stage::{Log, lull, run_to_the_end, run_until, settle};

#[test]
fn s28_messages_come_one_call_each_and_in_order() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let seen = RefCell::new(Vec::new());
    let closed = Cell::new(None);
    let mut events = EventLoop::new().unwrap();
    for index in 0..200u32 {
        port1.post_bytes(&index.to_le_bytes()).unwrap();
    }
    port1.close();
    events
        .add(port2)
        .unwrap()
        .on_message(|_, event| {
            let bytes = event.bytes().try_into().unwrap();
            seen.borrow_mut().push(u32::from_le_bytes(bytes));
        })
        .on_close(|_, event| closed.set(Some(event.reason)));
    events.run().unwrap();
    assert_eq!(*seen.borrow(), (0..200).collect::<Vec<_>>());
    assert_eq!(closed.get(), Some(CloseReason::ClosedByPeer));
    assert!(events.is_empty(), "a closed port leaves the loop");
}

#[test]
fn s28_a_thread_that_floods_is_heard_whole_however_the_loop_waits() {
    let _quiet = common::descriptors();
    const COUNT: u64 = 20_000;
    for strategy in STRATEGIES {
        for trusted in [false, true] {
            let (port1, port2) = channel_of(4096);
            common::trust_if(&port2, trusted);
            let poster = thread::spawn(move || {
                (0..COUNT).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
            });
            let count = Cell::new(0);
            let end = Cell::new(None);
            let mut events = EventLoop::new().unwrap();
            events.set_wait_strategy(strategy);
            events
                .add(port2)
                .unwrap()
                .on_message(|_, event| {
                    assert_eq!(event.is_in_place(), trusted);
                    assert_eq!(event.bytes(), sample(count.get()));
                    count.set(count.get() + 1);
                })
                .on_close(|_, event| end.set(Some((event.reason, count.get()))));
            events.run().unwrap();
            assert_eq!(end.get(), Some((CloseReason::ClosedByPeer, COUNT)));
            poster.join().unwrap();
        }
    }
}

#[test]
fn s2_both_ends_of_a_channel_can_be_in_one_loop() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (port1, port2) = channel();
        let returns = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        events
            .add(port2)
            .unwrap()
            .on_message(|_, event| event.port().post_bytes(event.bytes()).unwrap());
        let near = events.add(port1).unwrap();
        near.on_message(|events, event| {
            assert_eq!(event.bytes(), sample(returns.get()));
            returns.set(returns.get() + 1);
            event.port().post_bytes(&sample(returns.get())).unwrap();
            if returns.get() == 3000 {
                events.stop();
            }
        });
        near.post_bytes(&sample(0)).unwrap();
        drop(near);
        events.run().unwrap();
        assert_eq!(returns.get(), 3000, "{strategy:?}");
    }
}

#[test]
fn s28_a_handler_may_post_transfer_add_ports_close_and_stop() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (stays, goes) = channel();
    let goes = Cell::new(Some(goes));
    let (late1, late2) = channel();
    let late2 = Cell::new(Some(late2));
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    (0..3u8).for_each(|index| port1.post_bytes(&[index]).unwrap());
    events.add(port2).unwrap().on_message(|events, event| {
        log.add(event.bytes()[0]);
        match event.bytes()[0] {
            0 => {
                let port = goes.take().unwrap();
                event.port().post_bytes_with(b"a port", [port]).unwrap();
            }
            1 => {
                let late = events.add(late2.take().unwrap()).unwrap();
                late.on_message(|events, event| {
                    log.add(event.bytes()[0]);
                    events.stop();
                });
                late1.post_bytes(&[9]).unwrap();
            }
            _ => event.port().close(),
        }
    });
    events.run().unwrap();
    assert_eq!(log.take(), [0, 1, 2, 9]);
    settle(&mut events);
    assert_eq!(events.len(), 1, "the closed one has left");
    let event = port1.recv().unwrap();
    assert_eq!(event.bytes(), b"a port");
    let port = event.take_ports().pop().unwrap();
    stays.post_bytes(b"well").unwrap();
    assert_eq!(now(&port), b"well");
    drop(event);
    assert_eq!(closed(port1.recv()), CloseReason::ClosedByPeer);
}

#[test]
fn s38_a_port_is_transferred_from_inside_its_own_handler() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (carrier1, carrier2) = channel();
    for index in 0..3u8 {
        port1.post_bytes(&[index]).unwrap();
    }
    let mut events = EventLoop::new().unwrap();
    events.add(port2).unwrap().on_message(|events, event| {
        assert_eq!(event.bytes(), [0]);
        let id = event.id();
        assert_eq!(events.remove(id).unwrap_err(), DetachError::InUse);
        let port = events.detach(event).unwrap();
        assert_eq!(events.remove(id).unwrap_err(), DetachError::Unknown);
        carrier1.post_bytes_with(b"take it", [port]).unwrap();
    });
    events.run().unwrap();
    let event = carrier2.recv().unwrap();
    let port = event.take_ports().pop().unwrap();
    assert_eq!(now(&port), [1]);
    assert_eq!(now(&port), [2]);
    assert!(nothing(&port));
}

#[test]
fn s24_a_port_taken_out_has_all_that_waited_and_is_not_started_when_it_comes_back() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let count = Cell::new(0);
    // Dropped with the handler that owns it.
    let owned = Rc::new(());
    let mut events = EventLoop::new().unwrap();
    let mut ids = BTreeSet::new();
    let mut port = Some(port2);
    for round in 0..10u64 {
        let attached = events.add(port.take().unwrap()).unwrap();
        assert!(!attached.is_started());
        let id = attached.id();
        assert!(ids.insert(id), "a new number each time");
        port1.post_bytes(&sample(3 * round)).unwrap();
        drop(attached);
        assert_eq!(settle(&mut events), 0, "nothing is dispatched");
        let kept = Rc::clone(&owned);
        let count = &count;
        events.port(id).unwrap().on_message(move |_, event| {
            assert_eq!(event.bytes(), sample(3 * round));
            assert_eq!(Rc::strong_count(&kept), 2);
            count.set(count.get() + 1);
        });
        settle(&mut events);
        lull(&mut events);
        port1.post_bytes(&sample(3 * round + 1)).unwrap();
        port1.post_bytes(&sample(3 * round + 2)).unwrap();
        let taken = events.remove(id).unwrap();
        assert_eq!(Rc::strong_count(&owned), 1, "the handler is gone");
        assert!(events.is_empty() && events.port(id).is_none());
        assert_eq!(now(&taken), sample(3 * round + 1));
        assert_eq!(now(&taken), sample(3 * round + 2));
        assert!(nothing(&taken));
        port = Some(taken);
    }
    assert_eq!(count.get(), 10);
}

#[test]
fn what_cannot_be_taken_out_stays_in_and_the_error_says_why() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (other1, other2) = channel();
    let log = Log::new();
    let strange = EventLoop::new().unwrap();
    let strange_id = strange.add(other2).unwrap().id();
    let mut events = EventLoop::new().unwrap();
    let id = events.add(port2).unwrap().id();
    assert_eq!(events.remove(strange_id).unwrap_err(), DetachError::Unknown);
    assert!(events.port(strange_id).is_none());
    let attached = events.port(id).unwrap();
    assert_eq!(events.remove(id).unwrap_err(), DetachError::InUse);
    let twice = events.port(id).unwrap();
    drop(attached);
    assert_eq!(events.remove(id).unwrap_err(), DetachError::InUse);
    twice.on_message(|events, event| {
        let id = event.id();
        log.add(event.bytes()[0]);
        match event.bytes()[0] {
            0 => assert_eq!(strange.detach(event).unwrap_err(), DetachError::Unknown),
            1 => {
                let attached = events.port(id).unwrap();
                assert_eq!(events.detach(event).unwrap_err(), DetachError::InUse);
                attached.post_bytes(b"still here").unwrap();
            }
            _ => drop(events.detach(event).unwrap()),
        }
    });
    drop(twice);
    (0..4u8).for_each(|index| port1.post_bytes(&[index]).unwrap());
    run_to_the_end(&mut events);
    assert_eq!(log.take(), [0, 1, 2], "the rest went with the port");
    assert_eq!(events.remove(id).unwrap_err(), DetachError::Unknown);
    assert_eq!(now(&port1), b"still here");
    assert_eq!(closed(port1.recv()), CloseReason::ClosedByPeer);
    other1.post_bytes(b"unharmed").unwrap();
    assert_eq!(now(&strange.port(strange_id).unwrap()), b"unharmed");
}

#[test]
fn s33_a_port_that_goes_from_loop_to_loop_loses_nothing() {
    let _quiet = common::descriptors();
    const COUNT: u64 = 30_000;
    let (port1, port2) = channel_of(4096);
    let poster = thread::spawn(move || {
        (0..COUNT).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    });
    let count = Cell::new(0);
    let ended = Cell::new(false);
    let outside: Cell<Option<MessagePort>> = Cell::new(Some(port2));
    let (count, ended, outside) = (&count, &ended, &outside);
    let mut loops: Vec<_> = (0..3).map(|_| EventLoop::new().unwrap()).collect();
    for (events, strategy) in loops.iter().zip(STRATEGIES) {
        events.set_wait_strategy(strategy);
    }
    let mut hops = 0;
    while !ended.get() {
        let events = &mut loops[hops % 3];
        hops += 1;
        let until = count.get() + 1 + hops as u64 * 37 % 300;
        events
            .add(outside.take().unwrap())
            .unwrap()
            .on_message(move |events, event| {
                assert_eq!(event.bytes(), sample(count.get()));
                count.set(count.get() + 1);
                if count.get() >= until {
                    outside.set(Some(events.detach(event).unwrap()));
                }
            })
            .on_close(|_, _| ended.set(true));
        run_to_the_end(events);
    }
    assert_eq!(count.get(), COUNT);
    assert!(hops > 50, "{hops}");
    poster.join().unwrap();
}

#[test]
fn s47_a_loop_that_is_dropped_closes_its_ports_and_those_in_messages() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (quiet1, quiet2) = channel();
    let (stays, goes) = channel();
    let count = Cell::new(0);
    let mut events = EventLoop::new().unwrap();
    port1.post_bytes(b"dispatched").unwrap();
    events
        .add(port2)
        .unwrap()
        .on_message(|events, _| {
            count.set(count.get() + 1);
            events.stop();
        })
        .on_close(|_, _| panic!("dropping is closing here"));
    events.add(quiet2).unwrap();
    events.run().unwrap();
    port1.post_bytes_with(b"waits", [goes]).unwrap();
    drop(events);
    assert_eq!(count.get(), 1);
    assert_eq!(closed(port1.recv()), CloseReason::ClosedByPeer);
    assert_eq!(closed(quiet1.recv()), CloseReason::ClosedByPeer);
    assert_eq!(closed(stays.recv()), CloseReason::PeerGone);
}

#[test]
fn s21_messages_can_be_kept_longer_than_the_loop() {
    let _quiet = common::descriptors();
    for trusted in [false, true] {
        let (port1, port2) = channel();
        common::trust_if(&port2, trusted);
        let (stays, goes) = channel();
        let kept: Log<OwnedMessageEvent> = Log::new();
        let mut events = EventLoop::new().unwrap();
        let attached = events.add(port2).unwrap();
        attached.on_message(|_, event| kept.add(event.into_owned()));
        (0..100).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
        port1.post_bytes_with(&sample(100), [goes]).unwrap();
        drop(attached);
        run_until(&mut events, "all have come", || kept.len() == 101);
        drop(events);
        let kept = kept.take();
        for (event, index) in kept.iter().zip(0..) {
            assert_eq!(event.bytes(), sample(index));
        }
        let port = kept[100].take_ports().pop().unwrap();
        stays.post_bytes(b"over there?").unwrap();
        assert_eq!(next(&port), b"over there?");
    }
}

#[test]
fn no_two_ports_ever_have_one_number() {
    let _quiet = common::descriptors();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(|| {
                let events = EventLoop::new().unwrap();
                let ids = (0..50).map(|_| events.add(channel_of(4096).1).unwrap().id());
                ids.collect::<Vec<PortId>>()
            })
        })
        .collect();
    let ids: Vec<_> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    let different: BTreeSet<_> = ids.iter().collect();
    assert_eq!(different.len(), ids.len());
}
