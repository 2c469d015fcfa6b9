//! How channels end in a loop: S48, S49, S53 and S55. Deaths are in `looping_death.rs`.

mod common;
#[path = "common/forger.rs"]
mod forger;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::{Cell, RefCell};

use common::{STRATEGIES, channel, closed, nothing, now, sample};
use forger::{Forger, header, stage as forged};
use ringport::{CloseReason, EventLoop, MessagePort, PortId};
use stage::{Log, lull, run_to_the_end, run_until, settle};

/// What a handler may be told.
#[derive(Debug, PartialEq)]
enum Told {
    Message(Vec<u8>),
    End(CloseReason),
}

/// Puts a port into the loop that writes down what it is told of its end.
fn watch_end<'h>(events: &EventLoop<'h>, port: MessagePort, log: &'h Log<Told>) -> PortId {
    let attached = events.add(port).unwrap();
    attached.on_close(|events, event| {
        let attached = events.port(event.port).expect("it has not left yet");
        assert_eq!(attached.close_reason(), Some(event.reason));
        log.add(Told::End(event.reason));
    });
    attached.id()
}

/// And its messages as well.
fn watch_all<'h>(events: &EventLoop<'h>, port: MessagePort, log: &'h Log<Told>) -> PortId {
    let id = watch_end(events, port, log);
    hear(events, id, log);
    id
}

fn hear<'h>(events: &EventLoop<'h>, id: PortId, log: &'h Log<Told>) {
    let attached = events.port(id).unwrap();
    attached.on_message(|_, event| log.add(Told::Message(event.bytes().to_vec())));
}

#[test]
fn s48_the_close_comes_once_and_after_every_message() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        for count in [0, 1, 64, 65, 300] {
            for late in [false, true] {
                let (port1, port2) = channel();
                let log = Log::new();
                let mut events = EventLoop::new().unwrap();
                events.set_wait_strategy(strategy);
                let post =
                    || (0..count).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
                if late {
                    watch_all(&events, port2, &log);
                    lull(&mut events);
                    post();
                    port1.close();
                } else {
                    post();
                    port1.close();
                    watch_all(&events, port2, &log);
                }
                run_to_the_end(&mut events);
                let told = log.take();
                let messages = (0..count).map(|index| Told::Message(sample(index)));
                let end = Told::End(CloseReason::ClosedByPeer);
                let expected: Vec<_> = messages.chain([end]).collect();
                assert!(told == expected, "{strategy:?}, {count}, {late}");
                assert!(!events.run_once(None).unwrap(), "and nothing after it");
            }
        }
    }
}

#[test]
fn s55_the_close_needs_no_started_port_if_nothing_waits() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        for when in ["before", "at rest", "in a run"] {
            let (port1, port2) = channel();
            let (other1, other2) = channel();
            let port1 = RefCell::new(Some(port1));
            let log = Log::new();
            let mut events = EventLoop::new().unwrap();
            events.set_wait_strategy(strategy);
            if when == "before" {
                drop(port1.take());
            }
            watch_end(&events, port2, &log);
            events.add(other2).unwrap().on_message(|_, event| {
                drop(port1.take());
                event.port().close();
            });
            if when == "at rest" {
                lull(&mut events);
                drop(port1.take());
            }
            other1.post_bytes(b"now").unwrap();
            run_to_the_end(&mut events);
            let end = Told::End(CloseReason::ClosedByPeer);
            assert_eq!(log.take(), [end], "{strategy:?}, {when}");
        }
    }
}

#[test]
fn s55_what_waits_comes_before_the_close_and_both_wait_for_the_start() {
    let _quiet = common::descriptors();
    // Not started; or started, and without a handler for messages.
    for started in [false, true] {
        let (port1, port2) = channel();
        let (stays, goes) = channel();
        let log = Log::new();
        let mut events = EventLoop::new().unwrap();
        let id = watch_end(&events, port2, &log);
        if started {
            events.port(id).unwrap().start();
        }
        port1.post_bytes(&sample(0)).unwrap();
        port1.post_bytes_with(&sample(1), [goes]).unwrap();
        drop(port1);
        for _ in 0..3 {
            lull(&mut events);
        }
        assert!(log.is_empty() && !stays.is_closed());
        // To ask for it changes nothing.
        let attached = events.port(id).unwrap();
        assert_eq!(attached.close_reason(), Some(CloseReason::ClosedByPeer));
        drop(attached);
        lull(&mut events);
        assert!(log.is_empty());
        hear(&events, id, &log);
        run_to_the_end(&mut events);
        let expected = [
            Told::Message(sample(0)),
            Told::Message(sample(1)),
            Told::End(CloseReason::ClosedByPeer),
        ];
        assert_eq!(log.take(), expected);
        assert!(stays.is_closed(), "its event was dropped");
    }
}

#[test]
fn s55_once_the_last_message_was_received_by_hand_the_close_is_told() {
    let _quiet = common::descriptors();
    for heard_before in [false, true] {
        for count in [1, 3] {
            let (port1, port2) = channel();
            let log = Log::new();
            let mut events = EventLoop::new().unwrap();
            let id = watch_end(&events, port2, &log);
            (0..count).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
            drop(port1);
            if heard_before {
                lull(&mut events);
            }
            for index in 0..count {
                assert!(log.is_empty());
                assert_eq!(now(&events.port(id).unwrap()), sample(index));
            }
            run_until(&mut events, "the close is told", || !log.is_empty());
            assert_eq!(log.take(), [Told::End(CloseReason::ClosedByPeer)]);
            assert!(events.is_empty());
        }
    }
}

#[test]
fn s49_who_closes_is_not_told_and_the_port_leaves() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        for started in [false, true] {
            for busy in [false, true] {
                let (port1, port2) = channel();
                let (stays, goes) = channel();
                let log = Log::new();
                let mut events = EventLoop::new().unwrap();
                events.set_wait_strategy(strategy);
                let id = watch_end(&events, port2, &log);
                if started {
                    hear(&events, id, &log);
                }
                if busy {
                    port1.post_bytes(b"a message just before").unwrap();
                    settle(&mut events);
                } else {
                    lull(&mut events);
                }
                log.take();
                port1.post_bytes(b"unread").unwrap();
                port1.post_bytes_with(b"unread", [goes]).unwrap();
                events.port(id).unwrap().close();
                run_to_the_end(&mut events);
                assert!(log.is_empty(), "{strategy:?}, {started}, {busy}");
                assert_eq!(closed(port1.recv()), CloseReason::ClosedByPeer);
                assert!(stays.is_closed(), "what was unread is closed");
                assert!(events.port(id).is_none());
            }
        }
    }
}

#[test]
fn s49_a_handler_that_closes_its_port_gets_nothing_more() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (other1, other2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let id = watch_end(&events, port2, &log);
    events.port(id).unwrap().on_message(|_, event| {
        log.add(Told::Message(event.bytes().to_vec()));
        if event.bytes() == sample(2) {
            event.port().close();
        }
    });
    // Another one's handler can do that as well, also while the port waits for its turn.
    let other = watch_all(&events, other2, &log);
    events.port(id).unwrap().on_room(1, move |events, _| {
        events.port(other).unwrap().close();
    });
    (0..10).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    other1.post_bytes(b"never dispatched").unwrap();
    run_to_the_end(&mut events);
    let expected = [0, 1, 2].map(|index| Told::Message(sample(index)));
    assert_eq!(log.take(), expected);
    assert_eq!(closed(port1.recv()), CloseReason::ClosedByPeer);
    assert_eq!(closed(other1.recv()), CloseReason::ClosedByPeer);
}

#[test]
fn s48_of_two_ends_in_one_loop_only_the_one_that_did_not_close_is_told() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (near, far) = (Log::new(), Log::new());
    let mut events = EventLoop::new().unwrap();
    let near_id = watch_all(&events, port1, &near);
    watch_all(&events, port2, &far);
    events.port(near_id).unwrap().post_bytes(b"last").unwrap();
    events.port(near_id).unwrap().close();
    run_to_the_end(&mut events);
    assert!(near.is_empty());
    let expected = [
        Told::Message(b"last".to_vec()),
        Told::End(CloseReason::ClosedByPeer),
    ];
    assert_eq!(far.take(), expected);
}

#[test]
fn a_port_that_was_closed_before_it_came_leaves_again_and_its_peer_is_told_why() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    port2.close();
    watch_all(&events, port2, &log);
    run_to_the_end(&mut events);
    assert!(log.is_empty());
    assert_eq!(closed(port1.recv()), CloseReason::ClosedByPeer);
}

#[test]
fn a_close_handler_can_take_the_port_out_and_keep_it() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (stays, goes) = channel();
    let kept = Cell::new(None);
    let told = Cell::new(0);
    let mut events = EventLoop::new().unwrap();
    events
        .add(port2)
        .unwrap()
        .on_message(|_, event| drop(event))
        .on_close(|events, event| {
            told.set(told.get() + 1);
            kept.set(Some(events.remove(event.port).unwrap()));
        });
    port1.post_bytes(b"x").unwrap();
    drop(port1);
    run_to_the_end(&mut events);
    assert_eq!(told.get(), 1);
    let port: MessagePort = kept.take().unwrap();
    assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
    // Its channel is over, so in another loop it is told once more; and it can still be sent (S42).
    let id = events.add(port).unwrap().id();
    let attached = events.port(id).unwrap();
    attached.on_close(|events, event| {
        told.set(told.get() + 1);
        kept.set(Some(events.remove(event.port).unwrap()));
    });
    drop(attached);
    run_to_the_end(&mut events);
    assert_eq!(told.get(), 2);
    stays.post_bytes_with(b"", [kept.take().unwrap()]).unwrap();
    let sent = goes.recv().unwrap().take_ports().pop().unwrap();
    assert_eq!(closed(sent.recv()), CloseReason::ClosedByPeer);
}

#[test]
fn a_close_handler_can_put_another_port_in_its_place() {
    let _quiet = common::descriptors();
    let count = Cell::new(0);
    let log = Log::new();
    fn replace<'h>(events: &EventLoop<'h>, count: &'h Cell<u64>, log: &'h Log<PortId>) {
        let (port1, port2) = channel();
        let attached = events.add(port2).unwrap();
        log.add(attached.id());
        attached.on_close(|events, event| {
            assert_eq!(event.reason, CloseReason::ClosedByPeer);
            count.set(count.get() + 1);
            if count.get() < 100 {
                replace(events, count, log);
            }
        });
        drop(port1);
    }
    let mut events = EventLoop::new().unwrap();
    replace(&events, &count, &log);
    events.run().unwrap();
    assert_eq!((count.get(), log.len()), (100, 100));
}

#[test]
fn s48_a_stop_at_the_last_message_keeps_the_close_for_the_next_run() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let id = watch_end(&events, port2, &log);
    events
        .port(id)
        .unwrap()
        .on_message(|events, _| events.stop());
    port1.post_bytes(b"last").unwrap();
    drop(port1);
    events.run().unwrap();
    assert!(log.is_empty());
    events.run().unwrap();
    assert_eq!(log.take(), [Told::End(CloseReason::ClosedByPeer)]);
}

#[test]
fn s42_a_port_whose_peer_has_closed_is_transferred_from_its_handler_with_the_rest() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (carrier1, carrier2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let id = watch_end(&events, port2, &log);
    let attached = events.port(id).unwrap();
    attached.on_message(|events, event| {
        let port = events.detach(event).unwrap();
        carrier1.post_bytes_with(b"", [port]).unwrap();
    });
    drop(attached);
    (0..3).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    drop(port1);
    run_to_the_end(&mut events);
    assert!(log.is_empty(), "the close went with the port");
    let port = carrier2.recv().unwrap().take_ports().pop().unwrap();
    assert_eq!(now(&port), sample(1));
    assert_eq!(now(&port), sample(2));
    assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
}

#[test]
fn s44_a_loop_that_ends_tells_the_peers_of_ports_in_what_was_never_dispatched() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (stays, goes) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let id = watch_end(&events, port2, &log);
    port1.post_bytes_with(b"", [goes]).unwrap();
    drop(port1);
    lull(&mut events);
    assert!(!stays.is_closed());
    drop(events.remove(id).unwrap());
    assert_eq!(closed(stays.recv()), CloseReason::PeerGone);
    settle(&mut events);
    assert!(log.is_empty(), "who is taken out is told nothing");
}

/// One of the ways to break the protocol, after two messages.
type Break = fn(&Forger);

const WAYS: [Break; 5] = [
    |forger| {
        let at = forger.post(&[], b"never shown");
        forger.set(forger.at(at), header(1 << 31, 0, 0, 0));
    },
    |forger| {
        let at = forger.post(&[], b"never shown");
        forger.set(forger.at(at), 1);
    },
    // Ports are announced that were never sent.
    |forger| {
        forger.post(&[forger::PORT], b"never shown");
    },
    |forger| {
        forger.send(&[0x02], &[]).unwrap();
    },
    |forger| {
        forger.send(&[forger::RING; 65], &[]).unwrap();
    },
];

#[test]
fn s53_a_peer_that_breaks_the_protocol_ends_its_channel_and_no_other() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let ends = RefCell::new(Vec::new());
        let messages = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let mut forgers = Vec::new();
        let mut honest = Vec::new();
        for way in 0..WAYS.len() {
            for first in [false, true] {
                let (victim, forger) = forged(first, 8);
                let (ends, messages) = (&ends, &messages);
                events
                    .add(victim)
                    .unwrap()
                    .on_message(move |_, event| {
                        assert!(event.bytes().starts_with(b"good"), "{way}");
                        messages.set(messages.get() + 1);
                    })
                    .on_close(move |_, event| ends.borrow_mut().push((way, event.reason)));
                forgers.push((way, forger));
            }
            let (port1, port2) = channel();
            events.add(port2).unwrap().on_message(|_, event| {
                event.port().post_bytes(event.bytes()).unwrap();
            });
            honest.push(port1);
        }
        lull(&mut events);
        for (_, forger) in &forgers {
            forger.post(&[], b"good 1");
            forger.post(&[], b"good 2");
            forger.send(&[forger::RING], &[]).unwrap();
        }
        for (index, port) in (0..).zip(&honest) {
            port.post_bytes(&sample(index)).unwrap();
        }
        run_until(&mut events, "the good ones arrive", || {
            messages.get() == 2 * forgers.len()
        });
        lull(&mut events);
        forgers.iter().for_each(|(way, forger)| WAYS[*way](forger));
        // Bytes on a doorbell are only read when there can be many: every 16th time it rings.
        for _ in 0..17 {
            for (_, forger) in &forgers {
                let _ = forger.send(&[forger::RING], &[]);
            }
            settle(&mut events);
        }
        run_until(&mut events, "all of them are ended", || {
            ends.borrow().len() == forgers.len()
        });
        for way in 0..WAYS.len() {
            let ends = ends.borrow();
            let told: Vec<_> = ends.iter().filter(|end| end.0 == way).collect();
            assert_eq!(told, [&(way, CloseReason::Corrupt); 2], "{strategy:?}");
        }
        assert_eq!(messages.get(), 2 * forgers.len());
        assert_eq!(events.len(), honest.len());
        settle(&mut events);
        for (index, port) in (0..).zip(&honest) {
            assert_eq!(now(port), sample(index));
            port.post_bytes(b"still there?").unwrap();
        }
        settle(&mut events);
        for port in &honest {
            assert_eq!(now(port), b"still there?");
            assert!(nothing(port) && !port.is_closed());
        }
        // Those are told that this side has ended it.
        let ended = forgers
            .iter()
            .all(|(_, forger)| forger.get32(forger.theirs(forger::STATE)) & forger::CLOSED != 0);
        assert!(ended);
    }
}

#[test]
fn s53_a_port_that_is_not_started_is_ended_as_corrupt_when_that_is_found_by_hand() {
    let _quiet = common::descriptors();
    let log = Log::new();
    let (victim, forger) = forged(true, 8);
    let mut events = EventLoop::new().unwrap();
    let id = watch_end(&events, victim, &log);
    WAYS[0](&forger);
    lull(&mut events);
    assert!(log.is_empty(), "nobody has looked at it");
    let attached = events.port(id).unwrap();
    assert_eq!(closed(attached.try_recv()), CloseReason::Corrupt);
    drop(attached);
    run_to_the_end(&mut events);
    assert_eq!(log.take(), [Told::End(CloseReason::Corrupt)]);
}

#[test]
fn s53_a_handle_that_nobody_adopts_is_a_peer_that_is_gone() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    watch_all(&events, port2, &log);
    lull(&mut events);
    port1.post_bytes(b"last words").unwrap();
    drop(port1.into_handle());
    run_to_the_end(&mut events);
    let expected = [
        Told::Message(b"last words".to_vec()),
        Told::End(CloseReason::PeerGone),
    ];
    assert_eq!(log.take(), expected);
}
