//! Message errors: messages that are no archive of the type asked for (S20), and those that cannot be received for
//! lack of something (S46).

mod common;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::time::{Duration, Instant};

use common::{
    Counters, Greeting, PATIENCE, channel, closed, greeting, next, nothing, now, on_stage, sample,
    victim,
};
use ringport::{
    CloseReason, DataError, EventLoop, MessageErrorEvent, MessagePort, PortEvent, WaitStrategy,
};
use stage::{Log, run_to_the_end, run_until, settle};

roles! { receives_without_descriptors, is_short_for_good }

/// Bytes that are no greeting: too few for one.
const STRANGE: [u8; 3] = [0xff; 3];

/// The event of a message that was no archive of the type.
#[track_caller]
fn data_error(error: MessageErrorEvent<'_>) -> (PortEvent<'_>, DataError) {
    match error {
        MessageErrorEvent::Data { event, error, .. } => (event, error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn s20_a_message_of_another_type_is_a_message_error() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port1.post_bytes(&[0xff; 3]).unwrap();
    port1.post_message(&"well".to_string()).unwrap();
    let seen = RefCell::new(Vec::new());
    let mut events = EventLoop::new().unwrap();
    events
        .add(port2)
        .unwrap()
        .on_message_error(|_, error| match error {
            MessageErrorEvent::Data { event, .. } => {
                seen.borrow_mut().push(format!("error {}", event.len()));
            }
            other => panic!("{other:?}"),
        })
        .on_data::<String>(|events, event| {
            seen.borrow_mut().push(event.data().to_string());
            events.stop();
        });
    events.run().unwrap();
    assert_eq!(*seen.borrow(), ["error 3", "well"]);
}

#[test]
fn s20_errors_and_messages_come_in_the_order_posted_and_the_port_stays_open() {
    let _quiet = common::descriptors();
    for trusted in [false, true] {
        let (port1, port2) = channel();
        common::trust_if(&port2, trusted);
        let log = &Log::new();
        let mut events = EventLoop::new().unwrap();
        let attached = events.add(port2).unwrap();
        let id = attached.id();
        attached
            .on_message_error(move |events, error| {
                assert_eq!(error.port(), id);
                let (event, error) = data_error(error);
                assert!(!error.to_string().is_empty());
                assert_eq!(event.id(), id);
                assert_eq!(event.bytes(), STRANGE);
                assert!(!events.port(id).unwrap().is_closed());
                event.port().post_bytes(b"what?").unwrap();
                log.add(None);
            })
            .on_data::<Greeting>(|_, event| log.add(Some(event.data().text.to_string())))
            .on_close(|_, event| assert_eq!(event.reason, CloseReason::ClosedByPeer));
        drop(attached);
        let mut expected = Vec::new();
        for index in 0..150 {
            if index % 3 == 0 {
                port1.post_bytes(&STRANGE).unwrap();
                expected.push(None);
            } else {
                port1.post_message(&greeting(index)).unwrap();
                expected.push(Some(greeting(index).text));
            }
        }
        settle(&mut events);
        (0..50).for_each(|_| assert_eq!(now(&port1), b"what?"));
        assert!(nothing(&port1));
        drop(port1);
        run_to_the_end(&mut events);
        assert_eq!(log.take(), expected);
    }
}

#[test]
fn s20_without_a_handler_for_errors_the_message_is_dropped_and_the_next_comes() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (stays, goes) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    events
        .add(port2)
        .unwrap()
        .on_data::<Greeting>(|_, event| log.add(event.data().text.to_string()));
    port1.post_bytes_with(&STRANGE, [goes]).unwrap();
    port1.post_message(&greeting(7)).unwrap();
    settle(&mut events);
    assert_eq!(log.take(), [greeting(7).text]);
    assert!(stays.is_closed(), "what it carried is closed");
}

#[test]
fn s20_what_the_message_carried_is_closed_with_the_event_unless_it_was_taken() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (stays, goes): (Vec<_>, Vec<_>) = (0..2).map(|_| channel()).unzip();
    let taken = RefCell::new(Vec::new());
    let mut events = EventLoop::new().unwrap();
    events
        .add(port2)
        .unwrap()
        .on_message_error(|_, error| {
            let (event, _) = data_error(error);
            assert_eq!(event.port_count(), 1);
            assert!(stays.iter().all(|port| !port.is_closed()));
            if taken.borrow().is_empty() {
                taken.borrow_mut().extend(event.take_ports());
            } else {
                drop(event);
                assert!(stays[1].is_closed());
            }
        })
        .on_data::<Greeting>(|_, _| panic!("no greeting was posted"));
    for port in goes {
        port1.post_bytes_with(&STRANGE, [port]).unwrap();
    }
    settle(&mut events);
    stays[0].post_bytes(b"taken").unwrap();
    assert_eq!(now(&taken.borrow()[0]), b"taken");
    assert!(stays[1].is_closed());
}

#[test]
fn s20_another_type_may_be_tried_in_either_handler() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    events
        .add(port2)
        .unwrap()
        .on_message_error(|_, error| {
            let (event, _) = data_error(error);
            let typed = event.typed::<u64>().expect("a number");
            log.add(format!("number {}", typed.data().to_native()));
        })
        .on_message(|_, event| match event.typed::<Greeting>() {
            Ok(event) => log.add(event.data().text.to_string()),
            Err(error) => {
                let (event, _) = data_error(error);
                let typed = event.typed::<u64>().expect("a number");
                log.add(format!("number {} at once", typed.data().to_native()));
                // And what was typed is still the event it was.
                assert_eq!(typed.into_event().bytes(), 5u64.to_le_bytes());
            }
        });
    port1.post_message(&5u64).unwrap();
    port1.post_message(&greeting(3)).unwrap();
    settle(&mut events);
    assert_eq!(
        log.take(),
        ["number 5 at once".to_string(), greeting(3).text]
    );
    // Handlers for data hand their failures on by themselves.
    let id = {
        let (other1, other2) = channel();
        let attached = events.add(other2).unwrap();
        attached
            .on_message_error(|_, error| {
                let (event, _) = data_error(error);
                let typed = event.typed::<u64>().expect("a number");
                log.add(format!("number {}", typed.data().to_native()));
            })
            .on_data::<Greeting>(|_, _| panic!("no greeting was posted"));
        other1.post_message(&6u64).unwrap();
        attached.id()
    };
    run_until(&mut events, "the other one leaves", || log.len() == 1);
    assert_eq!(log.take(), ["number 6"]);
    settle(&mut events);
    assert!(events.port(id).is_none());
}

#[test]
fn s20_an_error_handler_may_replace_itself_and_give_the_port_away() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (carrier1, carrier2) = channel();
    let log = Log::new();
    let mut events = EventLoop::new().unwrap();
    let attached = events.add(port2).unwrap();
    attached
        .on_message_error(|events, error| {
            log.add(1);
            let attached = events.port(error.port()).unwrap();
            attached.on_message_error(|events, error| {
                log.add(2);
                let (event, _) = data_error(error);
                let port = events.detach(event).unwrap();
                carrier1.post_bytes_with(b"", [port]).unwrap();
            });
        })
        .on_data::<Greeting>(|_, _| log.add(3));
    drop(attached);
    port1.post_bytes(&STRANGE).unwrap();
    port1.post_message(&greeting(0)).unwrap();
    port1.post_bytes(&STRANGE).unwrap();
    port1.post_bytes(b"for whom it may concern").unwrap();
    run_to_the_end(&mut events);
    assert_eq!(log.take(), [1, 3, 2]);
    let port = carrier2.recv().unwrap().take_ports().pop().unwrap();
    assert_eq!(now(&port), b"for whom it may concern");
}

/// Sets a limit of descriptors, and leaves the hard one.
fn limit_descriptors(count: u64) {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: 4096,
    };
    // SAFETY: the pointer is to a live rlimit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

/// Opens descriptors until there are no more.
fn use_all_descriptors() -> Vec<File> {
    limit_descriptors(200);
    let mut files = vec![File::open("/dev/null").unwrap()];
    while let Ok(file) = files[0].try_clone() {
        files.push(file);
    }
    files
}

#[test]
fn s46_a_message_that_cannot_be_received_is_told_of_and_received_later() {
    let _quiet = common::descriptors();
    let role = "receives_without_descriptors";
    let (port, child, counters) = victim(role, WaitStrategy::Block, "");
    let (stays, goes) = channel();
    port.post_bytes(&sample(0)).unwrap();
    port.post_bytes_with(&sample(1), [goes]).unwrap();
    port.post_bytes(&sample(2)).unwrap();
    counters.set(Counters::READY, 1);
    assert_eq!(next(&port), b"received");
    stays.post_bytes(b"at last").unwrap();
    assert_eq!(next(&stays), b"at last");
    drop(port);
    common::end_well(child);
}

fn receives_without_descriptors() {
    let (port, counters) = on_stage();
    let (other1, other2) = channel();
    counters.until(Counters::READY, 1);
    let (count, told, ticks) = &(Cell::new(0), Cell::new(0), Cell::new(0));
    let (other1, carried) = (&other1, &RefCell::new(Vec::new()));
    let mut events = EventLoop::new().unwrap();
    let attached = events.add(port).unwrap();
    let id = attached.id();
    attached
        .on_message(|_, event| {
            assert_eq!(event.bytes(), sample(count.get()));
            carried.borrow_mut().extend(event.take_ports());
            count.set(count.get() + 1);
        })
        .on_message_error(move |events, error| {
            assert_eq!(error.port(), id);
            match error {
                MessageErrorEvent::Receive { port, error, .. } => {
                    assert_eq!(port, id);
                    assert!(error.to_string().contains("Too many open files"), "{error}");
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(count.get(), 1, "it was dispatched up to there");
            told.set(told.get() + 1);
            // Others are not kept waiting meanwhile.
            other1.post_bytes(b"x").unwrap();
            assert!(!events.port(id).unwrap().is_closed());
        });
    drop(attached);
    events.add(other2).unwrap().on_message(|_, event| {
        assert_eq!(event.bytes(), b"x");
        ticks.set(ticks.get() + 1);
    });
    let files = use_all_descriptors();
    let start = Instant::now();
    run_until(&mut events, "it is tried again", || {
        told.get() == 5 && ticks.get() == 5
    });
    // Four rests of 10 ms lie between five attempts.
    assert!(start.elapsed() >= Duration::from_millis(40));
    drop(files);
    run_until(&mut events, "all is received", || count.get() == 3);
    assert_eq!(told.get(), 5);
    events.port(id).unwrap().post_bytes(b"received").unwrap();
    let [port] = <[MessagePort; 1]>::try_from(carried.take()).unwrap();
    assert_eq!(next(&port), b"at last");
    port.post_bytes(b"at last").unwrap();
    settle(&mut events);
    assert!(nothing(other1) && ticks.get() == 5);
}

#[test]
fn s46_a_port_that_rests_can_be_taken_out_closed_and_started_anew() {
    let _quiet = common::descriptors();
    let role = "is_short_for_good";
    let (port, child, counters) = victim(role, WaitStrategy::Block, "");
    let (stays, goes) = channel();
    port.post_bytes_with(&sample(0), [goes]).unwrap();
    counters.set(Counters::READY, 1);
    assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
    assert_eq!(
        closed(stays.recv_timeout(PATIENCE)),
        CloseReason::PeerGone,
        "it was never received"
    );
    common::end_well(child);
}

fn is_short_for_good() {
    let (port, counters) = on_stage();
    counters.until(Counters::READY, 1);
    let told = Cell::new(0);
    let out: RefCell<Option<MessagePort>> = RefCell::new(None);
    let mut events = EventLoop::new().unwrap();
    let mut files = Vec::new();
    let mut port = Some(port);
    for round in 1..4 {
        let attached = events.add(port.take().unwrap()).unwrap();
        attached
            .on_message(|_, _| panic!("there is nothing to receive it with"))
            .on_message_error(|events, error| {
                told.set(told.get() + 1);
                let id = error.port();
                if told.get() == 3 {
                    events.port(id).unwrap().close();
                } else {
                    out.replace(Some(events.remove(id).unwrap()));
                }
            });
        drop(attached);
        if files.is_empty() {
            files = use_all_descriptors();
        }
        run_to_the_end(&mut events);
        assert_eq!(told.get(), round, "told once, then it was gone");
        port = out.take();
    }
    assert!(port.is_none());
    events.run().unwrap();
}
