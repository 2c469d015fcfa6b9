//! The far ends of some channels: a loop in another thread, or in another process, that does what its messages ask for.

use std::cell::RefCell;
use std::collections::HashMap;

use ringport::{EventLoop, MessageErrorEvent, MessagePort, PortEvent, PortId};

use super::letter::{Form, Letter, Typed, Wish};
use super::model::{End, peer};
use crate::common;

/// What is known of an end here.
#[derive(Clone, Copy, Debug)]
struct Known {
    end: End,
    /// Messages received.
    received: u64,
    /// Messages posted.
    posted: u64,
}

type All = RefCell<HashMap<PortId, Known>>;

/// Gets ends with their names by `control`, and answers on them until the last of them is closed.
pub fn obey(control: MessagePort) {
    let all = All::default();
    let mut events = EventLoop::new().unwrap();
    events.add(control).unwrap().on_message(|events, event| {
        let names = event.bytes().chunks(8);
        let names = names.map(|name| u64::from_le_bytes(name.try_into().unwrap()) as End);
        for (end, port) in names.zip(event.take_ports()) {
            let known = Known {
                end,
                received: 0,
                posted: 0,
            };
            take_in(events, &all, known, port);
        }
    });
    events.run().unwrap();
    assert!(all.borrow().is_empty(), "{all:?}");
}

fn take_in<'h>(events: &EventLoop<'h>, all: &'h All, known: Known, port: MessagePort) {
    let attached = events.add(port).unwrap();
    assert!(!attached.is_started());
    all.borrow_mut().insert(attached.id(), known);
    attached
        .on_close(|_, event| {
            let known = all.borrow_mut().remove(&event.port);
            known.expect("a close event of a port that is here");
        })
        .on_message_error(|_, error| match error {
            // The other threads of this process may keep it short of descriptors.
            MessageErrorEvent::Receive { .. } => {}
            other => panic!("{other:?}"),
        });
    if known.end % 3 == 0 {
        // Late, so that something may wait already.
        let id = attached.id();
        attached.on_message_after_start(|events, event| answer(events, all, event));
        let late = std::time::Duration::from_micros(500);
        events.set_timeout(late, move |events| {
            if let Some(attached) = events.port(id) {
                attached.start();
            }
        });
    } else {
        attached.on_message(|events, event| answer(events, all, event));
    }
}

fn answer<'h>(events: &EventLoop<'h>, all: &'h All, event: PortEvent<'_>) {
    let id = event.id();
    let mut known = all.borrow()[&id];
    let letter = if event.is_empty() {
        Letter {
            from: peer(known.end),
            number: known.received,
            form: Form::Empty,
            wish: Wish::Nothing,
            filler: 0,
        }
    } else {
        Letter::read(&event).expect("a letter")
    };
    assert!(letter.is_in(event.bytes(), event.data::<Typed>().ok()));
    let due = (peer(known.end), known.received);
    assert_eq!((letter.from, letter.number), due);
    known.received += 1;
    if let Wish::Answers(count) = letter.wish {
        let mut ports = event.take_ports();
        for _ in 0..count {
            let letter = Letter::answer(known.end, known.posted, !ports.is_empty());
            known.posted += 1;
            let ports = std::mem::take(&mut ports);
            post(event.port(), &letter, ports);
        }
    }
    all.borrow_mut().insert(id, known);
    if letter.wish == Wish::Close {
        event.port().close();
        all.borrow_mut().remove(&id);
    } else if known.received % 5 == 0 {
        // Out of the loop and into it again, with whatever waits.
        all.borrow_mut().remove(&id);
        let port = events.detach(event).unwrap();
        take_in(events, all, known, port);
    }
}

/// What does not go because the channel has ended is gone.
fn post(port: &MessagePort, letter: &Letter, ports: Vec<MessagePort>) {
    let answer = match letter.form {
        Form::Typed => port.try_post_message_with(&letter.typed(), ports),
        _ => port.try_post_bytes_with(&letter.raw(), ports),
    };
    match answer.map_err(ringport::PostError::from) {
        Ok(()) => {}
        Err(ringport::PostError::Closed(_)) => {}
        Err(error) => panic!("{letter:?}: {error:?}"),
    }
}

/// Gives ports to a far loop, each with its name.
pub fn give(control: &MessagePort, ends: Vec<(End, MessagePort)>) {
    let mut ends = ends.into_iter().peekable();
    while ends.peek().is_some() {
        let (names, ports): (Vec<_>, Vec<_>) = ends.by_ref().take(100).unzip();
        let names: Vec<_> = names
            .iter()
            .flat_map(|end| (*end as u64).to_le_bytes())
            .collect();
        control
            .post_bytes_with_timeout(&names, ports, common::PATIENCE)
            .unwrap();
    }
}
