//! Where ports are put: with the test, into the loop with handlers, out of it, away.

use ringport::{ChannelOptions, DetachError, EventLoop, MessageChannel, MessagePort};

use super::letter::Letter;
use super::model::{End, Fate, Place};
use super::world::World;
use crate::common;

/// Choosing.
impl World {
    pub fn any(&self, wanted: impl Fn(&World, End) -> bool) -> Option<End> {
        (0..8).find_map(|_| {
            let number = self.below(1 << 40);
            let end = self.model.borrow_mut().any(number)?;
            wanted(self, end).then_some(end)
        })
    }

    pub fn place(&self, end: End) -> Place {
        self.model.borrow().side(end).place
    }

    pub fn is_here(&self, end: End) -> bool {
        matches!(self.place(end), Place::Held | Place::Looped(_))
    }

    pub fn is_looped(&self, end: End) -> bool {
        matches!(self.place(end), Place::Looped(_))
    }

    pub fn is_open(&self, end: End) -> bool {
        self.model.borrow().side(end).fate == Fate::Open
    }
}

/// Having ports.
impl<'h> World {
    pub fn hold(&self, end: End, port: MessagePort) {
        self.model.borrow_mut().side_mut(end).place = Place::Held;
        self.held.borrow_mut().insert(end, port);
    }

    /// A new channel, both ends held.
    pub fn make(&self) -> [End; 2] {
        let capacities = if self.is_busy.get() {
            [4096, 8192, 16384, 65536]
        } else {
            [4096, 4096, 8192, 16384]
        };
        let capacity = capacities[self.below(4) as usize];
        let options = ChannelOptions::new().capacity(capacity);
        let MessageChannel { port1, port2 } = MessageChannel::with_options(&options).unwrap();
        let [end1, end2] = self.model.borrow_mut().make(capacity);
        self.hold(end1, port1);
        self.hold(end2, port2);
        [end1, end2]
    }

    /// Puts a port that is held into the loop.
    pub fn attach(&'h self, events: &EventLoop<'h>, end: End) {
        let port = self.held.borrow_mut().remove(&end).expect("it is held");
        let attached = events.add(port).unwrap();
        assert!(!attached.is_started(), "end {end} has just come in");
        self.model.borrow_mut().enter(end, attached.id());
        common::trust_if(&attached, self.one_in(5));
        if !self.one_in(12) {
            self.set_on_close(&attached, end);
        }
        drop(attached);
        if self.calm.get() {
            return self.dress_fully(events, end);
        }
        for _ in 0..1 + self.below(2) {
            self.dress(events, end);
        }
    }

    /// Sets a handler, the first or another, or starts the port.
    pub fn dress(&'h self, events: &EventLoop<'h>, end: End) {
        let Place::Looped(port) = self.place(end) else {
            return;
        };
        let Some(attached) = events.port(port) else {
            assert!(self.has_left(events, end));
            return;
        };
        match self.below(10) {
            0..5 => self.set_on_message(&attached, end, self.one_in(3), true),
            5 => self.set_on_message(&attached, end, false, false),
            6 => {
                attached.start();
                self.model
                    .borrow_mut()
                    .change(end, |stay| stay.started = true);
            }
            7 if self.is_open(end) => {
                let most = self.model.borrow().side(end).capacity as u64 / 2 - 200;
                let len = Letter::SHORTEST as u64 + self.below(most);
                self.set_on_room(&attached, end, len as usize);
            }
            _ => self.set_on_close(&attached, end),
        }
        let expected = self.model.borrow().side(end).stay.started;
        assert_eq!(attached.is_started(), expected, "end {end}");
    }

    /// Sets every handler of a port that is in the loop.
    pub fn dress_fully(&'h self, events: &EventLoop<'h>, end: End) {
        if let Place::Looped(port) = self.place(end) {
            match events.port(port) {
                Some(attached) => {
                    self.set_on_message(&attached, end, end % 5 == 0, true);
                    self.set_on_close(&attached, end);
                }
                None => assert!(self.has_left(events, end)),
            }
        }
    }

    /// Takes a port from where it is; `None` if that cannot be now.
    pub fn take_out(&self, events: &EventLoop<'h>, end: End) -> Option<MessagePort> {
        let Place::Looped(port) = self.place(end) else {
            return self.held.borrow_mut().remove(&end);
        };
        match events.remove(port) {
            Ok(port) => {
                let mut model = self.model.borrow_mut();
                model.leave(end, Place::Held);
                if model.side(end).fate == Fate::Open {
                    return Some(port);
                }
                model.close(end);
            }
            Err(DetachError::InUse) => assert_eq!(self.in_use.get(), Some(port)),
            Err(error) => assert!(self.has_left(events, end), "{error:?}"),
        }
        None
    }

    pub fn drop_port(&self, end: End, port: MessagePort) {
        self.trace("dropped", end, 0);
        if self.one_in(2) {
            port.close();
        }
        drop(port);
        self.model.borrow_mut().close(end);
    }

    pub fn close_all(&self, ends: Vec<End>) {
        let mut model = self.model.borrow_mut();
        ends.into_iter().for_each(|end| model.close(end));
    }

    /// Finds a place for a port that has just been received.
    pub fn settle(&'h self, events: &EventLoop<'h>, end: End, port: MessagePort) {
        match self.below(12) {
            0 if !self.calm.get() => self.drop_port(end, port),
            1..3 if !self.calm.get() => self.hold(end, port),
            _ => {
                self.hold(end, port);
                self.attach(events, end);
            }
        }
    }
}
