//! Handlers, and what is known of the port that has them.

use super::slot::{HasSlot, PortEvent, Slot};
use super::{CloseEvent, EventLoop, MessageErrorEvent, PortId};
use crate::error::CloseReason;
use crate::port::MessagePort;
use crate::ring::layout::state;
use core::cell::Cell;
use std::rc::Rc;

pub(super) type OnMessage<'h> = dyn FnMut(&EventLoop<'h>, PortEvent<'_>) + 'h;
pub(super) type OnMessageError<'h> = dyn FnMut(&EventLoop<'h>, MessageErrorEvent<'_>) + 'h;
pub(super) type OnClose<'h> = dyn FnMut(&EventLoop<'h>, CloseEvent) + 'h;
pub(super) type OnLeave<'h> = Box<dyn FnOnce(CloseReason) + 'h>;
pub(super) type OnRoom<'h> = Box<dyn FnOnce(&EventLoop<'h>, PortId) + 'h>;

/// A handler that may replace itself while it runs.
pub(super) struct Handler<F: ?Sized> {
    /// Empty while it runs, or if there is none.
    handler: Cell<Option<Box<F>>>,
    is_set: Cell<bool>,
    is_newer: Cell<bool>,
}

impl<F: ?Sized> Handler<F> {
    pub(super) fn new() -> Handler<F> {
        Handler {
            handler: Cell::new(None),
            is_set: Cell::new(false),
            is_newer: Cell::new(false),
        }
    }

    pub(super) fn set(&self, handler: Box<F>) {
        self.is_set.set(true);
        self.is_newer.set(true);
        self.handler.set(Some(handler));
    }

    pub(super) fn clear(&self) {
        self.is_set.set(false);
        // Dropped after the cell is empty: what it owns may be of any kind.
        drop(self.handler.take());
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set.get()
    }

    /// Whether it was set since it was last run.
    #[inline(always)]
    pub(super) fn is_newer(&self) -> bool {
        self.is_newer.get()
    }

    /// Runs it, if there is one. It stays unless it was replaced meanwhile, also if it panics.
    #[inline(always)]
    pub(super) fn run<R>(&self, call: impl FnOnce(&mut F) -> R) -> Option<R> {
        let handler = self.handler.take()?;
        self.is_newer.set(false);
        let mut back = PutBack(self, Some(handler));
        back.1.as_mut().map(|handler| call(handler))
    }
}

struct PutBack<'c, F: ?Sized>(&'c Handler<F>, Option<Box<F>>);

impl<F: ?Sized> Drop for PutBack<'_, F> {
    fn drop(&mut self) {
        let PutBack(of, handler) = self;
        if of.is_set() && !of.is_newer() {
            of.handler.set(handler.take());
        }
        // Otherwise it is dropped after this. That may panic, and must find the newer one in its place.
    }
}

/// Where a port stands between two turns. It is in one list at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In none: the peer rings when there is something, or it is not started.
    Quiet,
    /// Among those that are looked at by and by.
    Watched,
    /// In the queue for its turn.
    Ready,
    /// Its turn is now.
    Running,
    /// Left alone for a while, since receiving has failed.
    Resting,
    /// It has left the loop.
    Gone,
}

/// Room for a message.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Bytes, and those that its ports need.
    pub(super) len: usize,
    pub(super) with_ports: bool,
}

/// A port in a loop, with what is to be done for it.
pub(super) struct Entry<'h> {
    pub(super) slot: Slot,
    pub(super) started: Cell<bool>,
    pub(super) place: Cell<Place>,
    /// The round in which it had its last turn.
    pub(super) served: Cell<u64>,
    /// Whether epoll is asked for rings, and not for hang-ups only.
    pub(super) rings: Cell<bool>,
    /// What `on_room` waits for.
    pub(super) room: Cell<Option<Room>>,
    pub(super) on_room: Cell<Option<OnRoom<'h>>>,
    pub(super) on_message: Handler<OnMessage<'h>>,
    pub(super) on_message_error: Handler<OnMessageError<'h>>,
    pub(super) on_close: Handler<OnClose<'h>>,
    /// Told when the port goes in the loop, however it has ended, and not when it is taken out.
    pub(super) on_leave: Cell<Option<OnLeave<'h>>>,
}

impl<'h> Entry<'h> {
    pub(super) fn new(id: PortId, port: MessagePort) -> Entry<'h> {
        Entry {
            slot: Slot::new(id, port),
            started: Cell::new(false),
            place: Cell::new(Place::Quiet),
            served: Cell::new(0),
            rings: Cell::new(false),
            room: Cell::new(None),
            on_room: Cell::new(None),
            on_message: Handler::new(),
            on_message_error: Handler::new(),
            on_close: Handler::new(),
            on_leave: Cell::new(None),
        }
    }

    /// Says that the port leaves the loop by ending.
    pub(super) fn tell_leave(&self, reason: CloseReason) {
        if let Some(on_leave) = self.on_leave.take() {
            on_leave(reason);
        }
    }

    /// Drops the handlers, but for one that runs: that is dropped when it returns.
    pub(super) fn forget_handlers(&self) {
        self.room.set(None);
        drop(self.on_room.take());
        self.on_message.clear();
        self.on_message_error.clear();
        self.on_close.clear();
        drop(self.on_leave.take());
    }

    /// Whether messages are dispatched. A port that was started has to have a handler too: they wait for one.
    pub(super) fn is_enabled(&self) -> bool {
        self.started.get() && self.on_message.is_set()
    }

    pub(super) fn wants_room(&self) -> bool {
        self.room.get().is_some()
    }

    /// What it waits for, as WANTS bits.
    #[inline(always)]
    pub(super) fn wants(&self) -> u32 {
        let message = if self.is_enabled() {
            state::WANTS_MESSAGE
        } else {
            0
        };
        let room = if self.wants_room() {
            state::WANTS_ROOM
        } else {
            0
        };
        message | room
    }

    /// The same, once the port knows how much room that is.
    #[inline(always)]
    pub(super) fn say_wants(&self, port: &MessagePort) -> u32 {
        if let Some(room) = self.room.get() {
            port.want_room_for(room.len);
        }
        self.wants()
    }

    /// Whether something of that is there, or the channel has ended.
    #[inline(always)]
    pub(super) fn is_ready(&self, port: &MessagePort) -> bool {
        let wants = self.say_wants(port);
        match self.room.get() {
            Some(room) if room.with_ports => port.with_place_wanted(|| port.is_ready(wants)),
            _ => port.is_ready(wants),
        }
    }

    /// The room handler, if it is time to run it.
    pub(super) fn take_on_room(&self, port: &MessagePort) -> Option<OnRoom<'h>> {
        let room = self.room.get()?;
        port.want_room_for(room.len);
        let over = port.known_end().is_some();
        let has_room = if room.with_ports {
            port.with_place_wanted(|| port.has_room())
        } else {
            port.has_room()
        };
        if !over && !has_room {
            return None;
        }
        self.room.set(None);
        // There will be no more room once the channel has ended.
        self.on_room.take().filter(|_| !over)
    }
}

impl HasSlot for Rc<Entry<'_>> {
    #[inline(always)]
    fn slot(&self) -> &Slot {
        &self.slot
    }
}
