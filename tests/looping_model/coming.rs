//! What the loop brings: whether it may come now, and what is done with it.

use std::time::Instant;

use ringport::{CloseEvent, DetachError, EventLoop, PortEvent, PortId};

use super::letter::{Form, Typed};
use super::model::{End, Fate, Place, Token, Waiting, peer};
use super::world::{Planned, Way, World, count};
use crate::common;

/// What comes.
impl<'h> World {
    pub fn message(&'h self, events: &EventLoop<'h>, event: PortEvent<'_>, token: Token, way: Way) {
        self.assert_not_stopped();
        let port = event.id();
        let (end, waiting) = self.check(&event, token, way);
        count(&self.tally.dispatched);
        self.trace("dispatched", end, waiting.letter.number);
        if way == Way::Error {
            count(&self.tally.errors);
        }
        self.in_use.set(Some(port));
        self.react(events, event, end, waiting.cargo);
        self.in_use.set(None);
        self.last.set(Some(Instant::now()));
    }

    /// The message is the one that is due, at the port that is due, for the handler that was set last.
    fn check(&self, event: &PortEvent<'_>, token: Token, way: Way) -> (End, Waiting) {
        let port = event.id();
        let mut model = self.model.borrow_mut();
        let end = model.at(port).unwrap_or_else(|| {
            panic!("a message at {port:?}, which is not in the loop");
        });
        let side = model.side(end);
        assert_eq!(
            side.fate,
            Fate::Open,
            "a message after end {end} was closed"
        );
        assert!(
            side.stay.is_enabled(),
            "a message at end {end}, not started"
        );
        let (expected, data) = side.stay.on_message.expect("enabled");
        match way {
            Way::Error => assert_eq!((Some(token), data), (side.stay.on_error, true)),
            _ => assert_eq!(
                (token, data),
                (expected, way == Way::Data),
                "an old handler"
            ),
        }
        let last = side.inbox.back().map_or(0, |waiting| waiting.letter.number);
        let waiting = model
            .take(end)
            .unwrap_or_else(|| panic!("a message at end {end}, where none waits"));
        let letter = waiting.letter;
        assert!(
            letter.is_in(event.bytes(), event.data::<Typed>().ok()),
            "at end {end} {letter:?} was due, and not {:?}",
            event.bytes()
        );
        assert_eq!(event.port_count(), waiting.cargo.len());
        if way != Way::Plain {
            assert_eq!(way == Way::Data, letter.form == Form::Typed, "{letter:?}");
        }
        drop(model);
        let is_new = self
            .turns
            .borrow_mut()
            .message(port, letter.number, last, |port| self.is_waiting(port));
        if is_new {
            self.assert_timers_are_not_late();
        }
        self.assert_others_had_their_turns(end);
        (end, waiting)
    }

    pub fn closed(&'h self, events: &EventLoop<'h>, event: CloseEvent, token: Token) {
        self.interrupt();
        let mut model = self.model.borrow_mut();
        let port = event.port;
        let end = model.at(port).unwrap_or_else(|| {
            panic!("a close event of {port:?}, which is not in the loop");
        });
        self.trace("close event", end, 0);
        let side = model.side(end);
        assert_eq!(side.fate, Fate::Open, "a close event after a close here");
        assert_eq!(side.stay.on_close, Some(token), "an old handler");
        let other = model.side(peer(end));
        assert!(
            other.fate.explains(event.reason),
            "end {end} was told {:?}, but its peer is {:?}",
            event.reason,
            other.fate
        );
        assert!(
            side.inbox.is_empty() || other.cut,
            "the close event of end {end} came before {:?}",
            side.inbox
        );
        // One that is killed has not posted everything that it would have.
        model.discard(end, true);
        model.side_mut(peer(end)).late = false;
        drop(model);
        count(&self.tally.closes);
        if self.one_in(4) {
            let port = events.remove(port).expect("it is still there");
            assert_eq!(port.close_reason(), Some(event.reason));
            assert_eq!(common::closed(port.try_recv()), event.reason);
        }
        let mut model = self.model.borrow_mut();
        model.leave(end, Place::Nowhere);
        model.close(end);
        drop(model);
        self.deed(events);
        self.stop_or_not(events, 30);
        self.last.set(Some(Instant::now()));
    }

    pub fn has_room(&'h self, events: &EventLoop<'h>, port: PortId, token: Token) {
        self.interrupt();
        let mut model = self.model.borrow_mut();
        let end = model.at(port).expect("a port of the loop");
        let stay = &mut model.side_mut(end).stay;
        let (expected, len) = stay.on_room.take().expect("it waits for room");
        assert_eq!(expected, token, "an old handler");
        drop(model);
        count(&self.tally.rooms);
        // This is its turn, and if it is stopped now all of it.
        self.turns.borrow_mut().rest(port);
        let attached = events.port(port).expect("it is still there");
        self.post_where_there_is_room(&attached, end, len);
        drop(attached);
        self.deed(events);
        self.stop_or_not(events, 10);
    }

    pub fn cannot_receive(&self, port: PortId, token: Token) {
        self.interrupt();
        let model = self.model.borrow();
        let end = model.at(port).expect("a port of the loop");
        assert!(model.is_waiting(end), "nothing waits at {end}");
        let side = model.side(end);
        assert_eq!(side.stay.on_error, Some(token));
        assert!(!side.inbox[0].cargo.is_empty(), "nothing is lacking for it");
        self.turns.borrow_mut().rest(port);
        count(&self.tally.starved);
    }
}

/// What a message handler does with its message.
impl<'h> World {
    fn react(
        &'h self,
        events: &EventLoop<'h>,
        event: PortEvent<'_>,
        end: End,
        mut cargo: Vec<End>,
    ) {
        let is_calm = self.calm.get();
        if is_calm || !self.one_in(4) {
            let ports = event.take_ports();
            assert_eq!(event.port_count(), 0);
            for (end, port) in cargo.drain(..).zip(ports) {
                self.settle(events, end, port);
            }
        }
        for _ in 0..self.below(2) {
            self.deed(events);
        }
        if self.is_busy.get() || self.one_in(3) {
            self.keep_busy(events, end);
        }
        match self.below(if self.is_busy.get() { 300 } else { 30 }) {
            _ if is_calm => drop(event),
            0..2 => self.give_up(events, event, end, cargo),
            2..5 => {
                drop(event);
                self.in_use.set(None);
                self.close_all(cargo);
                self.deed(events);
            }
            5 => {
                let event = event.into_owned();
                self.in_use.set(None);
                self.kept.borrow_mut().push((event, cargo));
            }
            _ => {
                drop(event);
                self.close_all(cargo);
            }
        }
        self.stop_or_not(events, 200);
        // A panic would take the stop along to the next run.
        if !is_calm && !self.stopped.get() && self.one_in(2000) {
            count(&self.tally.panics);
            self.trace("panic", end, 0);
            std::panic::resume_unwind(Box::new(Planned));
        }
    }

    /// Posts to the very port whose handler runs.
    fn keep_busy(&self, events: &EventLoop<'h>, end: End) {
        if self.energy.get() > 0 && self.is_here(peer(end)) && self.is_open(end) {
            self.post(events, peer(end));
        }
    }

    /// Takes the port out of the loop from inside its own handler.
    fn give_up(&'h self, events: &EventLoop<'h>, event: PortEvent<'_>, end: End, cargo: Vec<End>) {
        let id = event.id();
        assert_eq!(events.remove(id).unwrap_err(), DetachError::InUse);
        if self.one_in(4) {
            let attached = events.port(id);
            assert_eq!(events.detach(event).unwrap_err(), DetachError::InUse);
            self.in_use.set(None);
            drop(attached);
            return self.close_all(cargo);
        }
        let port = events.detach(event).unwrap();
        self.in_use.set(None);
        self.close_all(cargo);
        assert!(events.port(id).is_none());
        count(&self.tally.detached);
        let mut model = self.model.borrow_mut();
        model.leave(end, Place::Held);
        if model.side(end).fate != Fate::Open {
            return model.close(end);
        }
        drop(model);
        self.hold(end, port);
        let carrier = self.any(|world, carrier| {
            let is_good = world.is_here(carrier) && world.can_ask(carrier) && carrier != peer(end);
            is_good && world.is_open(carrier) && world.model.borrow().can_ride(end, carrier)
        });
        match (self.below(8), carrier) {
            (0, _) => {
                if let Some(port) = self.take_out(events, end) {
                    self.drop_port(end, port);
                }
            }
            (1..3, _) | (_, None) => self.attach(events, end),
            (_, Some(carrier)) => {
                if let Some(port) = self.take_out(events, end) {
                    self.post_with(events, carrier, vec![end], vec![port]);
                }
            }
        }
    }
}
