//! What is done at random: inside of handlers, from timers, and from outside between two runs.

use std::time::Instant;

use ringport::{CloseReason, DetachError, EventLoop, MessagePort, PostError, RecvError};

use super::letter::Typed;
use super::model::{End, Fate, Place, peer};
use super::world::{Timer, World, count};
use crate::common;

/// Kept messages, and timers, at a time.
const MOST_KEPT: usize = 20;
const MOST_TIMERS: usize = 30;

/// Deeds.
impl<'h> World {
    pub fn deed(&'h self, events: &EventLoop<'h>) {
        if self.calm.get() {
            return;
        }
        // Where traffic matters more than moves, most deeds are posts.
        let kinds = if self.is_busy.get() { 600 } else { 100 };
        match self.below(kinds) {
            0..34 => self.post_something(events),
            34..38 => self.post_much(events),
            38..52 => self.transfer_some(events),
            52..62 => self.dress_one(events),
            62..68 => self.move_one(events),
            68..76 => self.receive_one(events),
            76..80 => self.close_one(events),
            80..84 => self.set_or_clear_timer(events),
            84..88 => self.look_at_kept(events),
            88..92 => self.make_a_mistake(events),
            92..94 => {
                let strategy = common::STRATEGIES[self.below(3) as usize];
                events.set_wait_strategy(strategy);
            }
            94..96 => {
                self.woken.set(true);
                count(&self.tally.wakes);
                events.waker().wake();
            }
            96..500 => self.post_something(events),
            _ => self.post_much(events),
        }
    }

    fn post_something(&self, events: &EventLoop<'h>) {
        let from = self.any(|world, end| world.is_here(end));
        let Some(from) = from.filter(|_| self.energy.get() > 0) else {
            return;
        };
        if self.one_in(4) {
            self.post_batch(events, from);
        } else {
            self.post(events, from);
        }
    }

    /// More than one turn's messages, or all that fit.
    fn post_much(&self, events: &EventLoop<'h>) {
        let from = self.any(|world, end| world.is_here(end));
        let Some(from) = from.filter(|_| self.energy.get() > 0) else {
            return;
        };
        let most = if self.one_in(4) { 1000 } else { 100 };
        for _ in 0..most {
            if !self.is_here(from) || !self.post(events, from) {
                break;
            }
        }
    }

    pub fn transfer_some(&self, events: &EventLoop<'h>) {
        let from =
            self.any(|world, end| world.is_here(end) && world.is_open(end) && world.can_ask(end));
        let Some(from) = from.filter(|_| self.energy.get() > 0) else {
            return;
        };
        let most = if self.one_in(20) { 20 } else { 3 };
        let (mut cargo, mut ports) = (Vec::new(), Vec::new());
        for _ in 0..=self.below(most) {
            let end = self.any(|world, end| {
                let model = world.model.borrow();
                end != peer(from) && !cargo.contains(&end) && model.can_ride(end, from)
            });
            if let Some((end, port)) = end.and_then(|end| Some((end, self.take_out(events, end)?)))
            {
                cargo.push(end);
                ports.push(port);
            }
        }
        if !cargo.is_empty() {
            self.post_with(events, from, cargo, ports);
        }
    }

    fn dress_one(&'h self, events: &EventLoop<'h>) {
        if let Some(end) = self.any(World::is_looped) {
            self.dress(events, end);
        }
    }

    /// Out of the loop, or into it.
    fn move_one(&'h self, events: &EventLoop<'h>) {
        let Some(end) = self.any(|world, end| world.is_here(end) && world.is_open(end)) else {
            return;
        };
        let was_held = self.place(end) == Place::Held;
        if let Some(port) = self.take_out(events, end) {
            self.hold(end, port);
            if was_held || self.one_in(2) {
                self.attach(events, end);
            }
        }
    }

    fn receive_one(&'h self, events: &EventLoop<'h>) {
        if let Some(end) = self.any(|world, end| world.is_here(end)) {
            self.receive_by_hand(events, end);
        }
    }

    /// Takes a message from the handler; says whether there was one.
    pub fn receive_by_hand(&'h self, events: &EventLoop<'h>, end: End) -> bool {
        let received = self.with_port(events, end, |port| {
            let answer = port.try_recv();
            answer.map(|event| event.map(|event| event.into_owned()))
        });
        let Some(received) = received else {
            return false;
        };
        let mut model = self.model.borrow_mut();
        let (side, other) = (model.side(end), model.side(peer(end)));
        let front = side.inbox.front();
        let event = match received {
            Ok(Some(event)) => event,
            Ok(None) => {
                let is_known = other.fate == Fate::Closed && !other.late;
                assert!(
                    front.is_none_or(|waiting| !waiting.here) && (front.is_some() || !is_known),
                    "nothing came at end {end}, where {front:?} waits"
                );
                return false;
            }
            Err(RecvError::Closed(CloseReason::ClosedHere)) => {
                assert_eq!(side.fate, Fate::Closed);
                return false;
            }
            Err(RecvError::Closed(reason)) => {
                assert!(other.fate.explains(reason) && side.fate == Fate::Open);
                assert!(
                    front.is_none() || other.cut,
                    "{front:?} came before the end"
                );
                return false;
            }
            Err(error) => panic!("{error:?}"),
        };
        assert_eq!(side.fate, Fate::Open);
        let waiting = model.take(end).expect("nothing was posted");
        let is_last = model.side(end).inbox.is_empty();
        drop(model);
        self.trace("received", end, waiting.letter.number);
        assert!(
            waiting
                .letter
                .is_in(event.bytes(), event.data::<Typed>().ok()),
            "{:?} was due",
            waiting.letter
        );
        assert_eq!(event.port_count(), waiting.cargo.len());
        if let (Place::Looped(port), true) = (self.place(end), is_last) {
            self.turns.borrow_mut().rest(port);
        }
        self.kept.borrow_mut().push((event, waiting.cargo));
        if self.kept.borrow().len() > MOST_KEPT || self.one_in(2) {
            self.look_at_kept(events);
        }
        true
    }

    /// Does away with a message that was kept, and with its ports.
    pub fn look_at_kept(&'h self, events: &EventLoop<'h>) {
        let Some((event, cargo)) = self.kept.borrow_mut().pop() else {
            return;
        };
        if self.one_in(3) && !self.calm.get() {
            drop(event);
            self.close_all(cargo);
            return;
        }
        for (end, port) in cargo.into_iter().zip(event.take_ports()) {
            self.settle(events, end, port);
        }
    }

    fn close_one(&'h self, events: &EventLoop<'h>) {
        let Some(end) = self.any(|world, end| world.is_here(end) && world.is_open(end)) else {
            return;
        };
        if self.is_looped(end) && self.one_in(2) {
            if self.with_port(events, end, MessagePort::close).is_some() {
                self.trace("closed", end, 0);
                self.model.borrow_mut().close(end);
            }
        } else if let Some(port) = self.take_out(events, end) {
            self.drop_port(end, port);
        }
    }

    fn set_or_clear_timer(&'h self, events: &EventLoop<'h>) {
        let mut timers = self.timers.borrow_mut();
        if timers.len() > MOST_TIMERS || self.one_in(4) {
            if let Some((_, timer)) = timers.pop_first() {
                assert!(events.clear_timer(timer.id), "it was still to come");
                assert!(!events.clear_timer(timer.id));
            }
            return;
        }
        let key = self.below(1 << 40);
        let delay = self.pause();
        let earliest = Instant::now() + delay;
        let id = events.set_timeout(delay, move |events| self.fire(events, key, earliest));
        let due = Instant::now() + delay;
        let before = timers.insert(key, Timer { id, due });
        assert!(before.is_none(), "two timers with one key");
    }

    fn fire(&'h self, events: &EventLoop<'h>, key: u64, earliest: Instant) {
        self.interrupt();
        assert!(Instant::now() >= earliest, "a timer fires too early");
        let timer = self.timers.borrow_mut().remove(&key);
        assert!(timer.is_some(), "a timer fires twice, or was cleared");
        count(&self.tally.timers);
        for _ in 0..self.below(4) {
            self.deed(events);
        }
        self.stop_or_not(events, 30);
    }

    pub fn set_on_wake(&'h self, events: &EventLoop<'h>) {
        self.is_told_of_wakes.set(true);
        events.on_wake(|events| {
            self.interrupt();
            self.woken.set(false);
            count(&self.tally.woken);
            let (wakes, woken) = (self.tally.wakes.get(), self.tally.woken.get());
            assert!(woken <= wakes, "nobody has woken it");
            self.deed(events);
        });
    }

    /// What is refused, and changes nothing.
    fn make_a_mistake(&self, events: &EventLoop<'h>) {
        let both = |world: &World, end| world.is_here(end) && world.is_here(peer(end));
        let Some(end) = self.any(both) else {
            return;
        };
        let before = self.place(end);
        let Some(port) = self.take_out(events, end) else {
            return;
        };
        if let Place::Looped(id) = before {
            assert_eq!(events.remove(id).unwrap_err(), DetachError::Unknown);
            assert!(events.port(id).is_none());
        }
        let mut cargo = vec![port];
        if self.one_in(2) {
            let (closed, _) = common::channel();
            closed.close();
            cargo.push(closed);
        }
        let mut cargo = Some(cargo);
        let answer = self.with_port(events, peer(end), |carrier| {
            let cargo = cargo.take().expect("posted once");
            let count = cargo.len();
            let refused = carrier.try_post_bytes_with(b"never", cargo);
            let (error, cargo) = refused.unwrap_err().into_parts();
            match error {
                PostError::OwnPeer { index: 0 } => assert_eq!(count, 1),
                PostError::ClosedPort { index: 1 } => assert_eq!(count, 2),
                other => panic!("{other:?}"),
            }
            cargo
        });
        let mut cargo = answer.or(cargo).expect("they come back");
        self.hold(end, cargo.remove(0));
    }

    /// In a handler, which is then the last one of this run.
    pub fn stop_or_not(&self, events: &EventLoop<'h>, seldom: u64) {
        if !self.calm.get() && self.one_in(seldom) {
            count(&self.tally.stops);
            self.stopped.set(true);
            events.stop();
        }
    }
}
