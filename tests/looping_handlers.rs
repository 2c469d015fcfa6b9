//! Handlers of ports in a loop: when they are called, with what, and how they are replaced. What cannot be handed to
//! a message handler is in `looping_errors.rs`.

mod common;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use common::{Greeting, channel, greeting, now, sample};
use ringport::{EventLoop, MessagePort, PortEvent, PortId};
use stage::{Log, lull, readable, run_until, settle};

#[test]
fn s24_with_handlers_but_not_started_nothing_is_dispatched_and_nothing_lost() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (stays, goes) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let attached = events.add(port2).unwrap();
    attached
        .on_message_after_start(|_, event| {
            log.add(event.bytes().to_vec());
            drop(event.take_ports());
        })
        .on_message_error(|_, error| panic!("{error:?}"))
        .on_close(|_, event| panic!("{event:?}"));
    assert!(!attached.is_started());
    let id = attached.id();
    drop(attached);
    (0..70).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    port1.post_bytes_with(&sample(70), [goes]).unwrap();
    for _ in 0..3 {
        lull(&mut events);
    }
    assert!(log.is_empty());
    assert!(!stays.is_closed() && !port1.is_closed());
    events.port(id).unwrap().start();
    assert!(log.is_empty(), "starting calls no handler itself");
    run_until(&mut events, "all have come", || log.len() == 71);
    assert_eq!(log.take(), (0..71).map(sample).collect::<Vec<_>>());
}

#[test]
fn s24_a_started_port_without_a_handler_keeps_its_messages_for_one() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let id = events.add(port2).unwrap().start().id();
    assert!(events.port(id).unwrap().is_started());
    lull(&mut events);
    (0..100).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    lull(&mut events);
    // It is started already, so that this is all it takes.
    let attached = events.port(id).unwrap();
    attached.on_message_after_start(|_, event| log.add(event.bytes().to_vec()));
    drop(attached);
    run_until(&mut events, "all have come", || log.len() == 100);
    assert_eq!(log.take(), (0..100).map(sample).collect::<Vec<_>>());
}

#[test]
fn s25_a_second_start_does_nothing_and_nothing_ends_the_first() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let id = events.add(port2).unwrap().id();
    let attached = || events.port(id).unwrap();
    attached().on_message_after_start(|_, event| log.add((1, event.bytes()[0])));
    attached().start().start();
    attached().start();
    port1.post_bytes(&[0]).unwrap();
    settle(&mut events);
    // To set a handler that waits for a start does not undo the one there was.
    let attached = || events.port(id).unwrap();
    attached().on_message_after_start(|_, event| log.add((2, event.bytes()[0])));
    assert!(attached().is_started());
    port1.post_bytes(&[1]).unwrap();
    attached().start();
    attached().on_close(|_, _| ()).on_message_error(|_, _| ());
    assert!(attached().is_started());
    settle(&mut events);
    assert_eq!(log.take(), [(1, 0), (2, 1)], "each once");
    lull(&mut events);
    events.port(id).unwrap().start();
    let readable = readable(&events, Duration::ZERO);
    assert!(!readable, "there is nothing to run for");
}

#[test]
fn s26_only_the_message_handler_starts_the_port() {
    let _quiet = common::descriptors();
    let events = EventLoop::new().unwrap();
    let fresh = || {
        let (port1, port2) = channel();
        (port1, events.add(port2).unwrap())
    };
    let (_peer, attached) = fresh();
    attached.on_message_error(|_, _| ());
    attached.on_close(|_, _| ());
    attached.on_room(1, |_, _| ());
    assert!(!attached.is_started());
    attached.on_message(|_, _| ());
    assert!(attached.is_started());
    let (_peer, attached) = fresh();
    attached.on_data::<Greeting>(|_, _| ());
    assert!(attached.is_started());
    let (_peer, attached) = fresh();
    attached.on_message_after_start(|_, _| ());
    assert!(!attached.is_started());
}

#[test]
fn s27_a_new_handler_gets_what_was_not_dispatched_and_no_more() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let id = events.add(port2).unwrap().id();
    (0..200).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    for generation in 0..3 {
        let log = &log;
        let attached = events.port(id).unwrap();
        attached.on_message(move |_, event| log.add((generation, event.bytes().to_vec())));
        drop(attached);
        // One turn.
        assert!(events.run_once(None).unwrap());
    }
    settle(&mut events);
    let seen = log.take();
    let messages: Vec<_> = seen.iter().map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(messages, (0..200).map(sample).collect::<Vec<_>>());
    assert!(
        seen.is_sorted_by_key(|(generation, _)| *generation)
            && (0..3).all(|generation| seen.iter().any(|entry| entry.0 == generation))
    );
}

#[test]
fn s27_a_handler_may_replace_itself_and_the_rest_is_the_new_ones() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    (0..5u8).for_each(|index| port1.post_bytes(&[index]).unwrap());
    let id = events.add(port2).unwrap().id();
    let attached = events.port(id).unwrap();
    attached.on_message(|events, event| {
        log.add(("old", event.bytes()[0]));
        let attached = events.port(event.id()).unwrap();
        // The last one set counts, and the ones before it never ran.
        attached.on_message(|_, _| panic!("replaced before it was called"));
        attached.on_message(|_, event| log.add(("new", event.bytes()[0])));
        log.add(("old still", event.bytes()[0]));
    });
    drop(attached);
    settle(&mut events);
    assert_eq!(
        log.take(),
        [
            ("old", 0),
            ("old still", 0),
            ("new", 1),
            ("new", 2),
            ("new", 3),
            ("new", 4)
        ]
    );
}

/// Says when it is dropped, and whether its handler ran at that moment.
struct Owned<'a> {
    running: &'a Cell<bool>,
    dropped: &'a Cell<u32>,
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        assert!(!self.running.get(), "a handler is not dropped under itself");
        self.dropped.set(self.dropped.get() + 1);
    }
}

#[test]
fn s27_what_a_replaced_handler_owned_is_dropped_once_it_has_returned() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (running, dropped) = (Cell::new(false), Cell::new(0));
    let mut events = EventLoop::new().unwrap();
    let own = || Owned {
        running: &running,
        dropped: &dropped,
    };
    let attached = events.add(port2).unwrap();
    let owned = own();
    attached.on_message(move |events, event| {
        let _owned = &owned;
        let running = owned.running;
        running.set(true);
        let attached = events.port(event.id()).unwrap();
        attached.on_message(|_, _| ());
        running.set(false);
    });
    let owned = own();
    attached.on_close(move |events, event| {
        let _owned = &owned;
        let running = owned.running;
        running.set(true);
        let attached = events.port(event.port).unwrap();
        attached.on_close(|_, _| panic!("the close is told once"));
        running.set(false);
    });
    drop(attached);
    port1.post_bytes(b"x").unwrap();
    settle(&mut events);
    assert_eq!(dropped.get(), 1);
    drop(port1);
    settle(&mut events);
    assert!(events.is_empty());
    assert_eq!(dropped.get(), 2);
}

/// Panics when it is dropped.
struct Panics;

impl Drop for Panics {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("on purpose"));
    }
}

#[test]
fn s27_the_new_handler_gets_the_rest_though_what_the_old_one_owned_panics() {
    let _quiet = common::descriptors();
    for count in [1, 5, 100] {
        let (port1, port2) = channel();
        let (log, ends) = (Log::new(), Cell::new(0));
        let (log, ends) = (&log, &ends);
        let mut events = EventLoop::new().unwrap();
        let attached = events.add(port2).unwrap();
        let owned = Panics;
        attached.on_message(move |events, event| {
            let _owned = &owned;
            assert_eq!(event.bytes(), sample(0));
            let attached = events.port(event.id()).unwrap();
            attached.on_message(move |_, event| log.add(event.bytes().to_vec()));
        });
        attached.on_close(move |_, _| ends.set(ends.get() + 1));
        drop(attached);
        (0..count).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
        let panicked = catch_unwind(AssertUnwindSafe(|| events.run_once(None)));
        assert!(panicked.is_err(), "it comes out of the run");
        settle(&mut events);
        assert_eq!(log.take(), (1..count).map(sample).collect::<Vec<_>>());
        // And what comes later.
        port1.post_bytes(b"later").unwrap();
        drop(port1);
        run_until(&mut events, "the end", || ends.get() == 1);
        assert_eq!(log.take(), [b"later"]);
    }
}

#[test]
fn s28_a_stop_comes_between_two_messages_and_loses_none() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    events.add(port2).unwrap().on_message(|events, event| {
        log.add(event.bytes().to_vec());
        events.stop();
    });
    (0..10).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    for index in 0..10 {
        events.run().unwrap();
        assert_eq!(log.take(), [sample(index)]);
    }
    events.stop();
    events.run().unwrap();
    assert!(log.is_empty());
}

#[test]
fn s31_an_event_says_on_which_port_it_has_arrived() {
    let _quiet = common::descriptors();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let mut peers = Vec::new();
    for index in 0..20u64 {
        let (port1, port2) = channel();
        let attached = events.add(port2).unwrap();
        let id = attached.id();
        let log = &log;
        attached
            .on_message(move |events, event: PortEvent<'_>| {
                assert_eq!(event.id(), id);
                let attached = events.port(event.id()).unwrap();
                assert!(std::ptr::eq(event.port(), &*attached));
                log.add((event.id(), event.bytes().to_vec()));
                event.port().post_bytes(event.bytes()).unwrap();
            })
            .on_close(move |_, event| log.add((event.port, b"closed".to_vec())));
        port1.post_bytes(&sample(index)).unwrap();
        drop(attached);
        peers.push((id, port1));
    }
    settle(&mut events);
    let seen: Vec<(PortId, Vec<u8>)> = log.take();
    for ((id, peer), index) in peers.iter().zip(0..) {
        assert!(seen.contains(&(*id, sample(index))));
        assert_eq!(now(peer), sample(index));
    }
    let ids: Vec<_> = peers.iter().map(|(id, _)| *id).collect();
    drop(peers);
    settle(&mut events);
    let closed = log.take();
    assert!(
        ids.iter()
            .all(|id| closed.contains(&(*id, b"closed".to_vec())))
    );
    assert_eq!(closed.len(), 20);
}

#[test]
fn s39_a_received_port_is_not_started_even_if_it_was_before() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (port1, port2) = channel();
    let received: RefCell<Option<MessagePort>> = RefCell::new(None);
    let count = Cell::new(0);
    let mut events = EventLoop::new().unwrap();
    events
        .add(port2)
        .unwrap()
        .on_message(|events, event| {
            count.set(count.get() + 1);
            let port = events.detach(event).unwrap();
            carrier1.post_bytes_with(b"", [port]).unwrap();
        })
        .on_close(|_, _| panic!("it has left this loop"));
    events.add(carrier2).unwrap().on_message(|_, event| {
        let [port] = <[MessagePort; 1]>::try_from(event.take_ports()).unwrap();
        received.replace(Some(port));
    });
    port1.post_bytes(&[1]).unwrap();
    port1.post_bytes(&[2]).unwrap();
    run_until(&mut events, "the port arrives", || {
        received.borrow().is_some()
    });
    let attached = events.add(received.take().unwrap()).unwrap();
    assert!(!attached.is_started());
    attached.on_message_after_start(|_, event| count.set(count.get() + event.bytes()[0]));
    let id = attached.id();
    drop(attached);
    lull(&mut events);
    assert_eq!(count.get(), 1, "neither the old handler nor the new one");
    events.port(id).unwrap().start();
    settle(&mut events);
    assert_eq!(count.get(), 3);
}

#[test]
fn s22_receiving_by_hand_works_and_takes_the_message_from_the_handler() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let id = events.add(port2).unwrap().id();
    (0..4).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    assert_eq!(now(&events.port(id).unwrap()), sample(0));
    let attached = events.port(id).unwrap();
    attached.on_message(|_, event| {
        log.add(event.bytes().to_vec());
        // The next one, from inside the handler of this one.
        log.add(now(event.port()));
    });
    assert_eq!(now(&attached), sample(1), "not dispatched yet");
    drop(attached);
    settle(&mut events);
    assert_eq!(log.take(), [sample(2), sample(3)]);
    (4..6).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    settle(&mut events);
    assert_eq!(log.take(), [sample(4), sample(5)]);
}

#[test]
fn a_handler_shared_by_ports_knows_them_apart() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (other1, other2) = channel();
    let texts = Rc::new(RefCell::new(Vec::new()));
    let mut events = EventLoop::new().unwrap();
    let ids = [port2, other2].map(|port| {
        let texts = Rc::clone(&texts);
        let attached = events.add(port).unwrap();
        attached.on_data::<Greeting>(move |_, event| {
            let text = event.data().text.to_string();
            texts.borrow_mut().push((event.id(), text));
        });
        attached.id()
    });
    port1.post_message(&greeting(1)).unwrap();
    other1.post_message(&greeting(2)).unwrap();
    settle(&mut events);
    let expected = [(ids[0], greeting(1).text), (ids[1], greeting(2).text)];
    assert_eq!(*texts.borrow(), expected);
}
