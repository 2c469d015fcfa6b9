//! Handlers, and the port that has them.

use super::slot::{HasSlot, PortEvent, Slot, TypedEvent, Use};
use super::{CloseEvent, EventLoop, MessageErrorEvent, PortId};
use crate::message::Message;
use crate::port::MessagePort;
use crate::ring::layout::state;
use core::cell::Cell;
use core::fmt;
use core::ops::Deref;
use std::rc::Rc;

pub(super) type OnMessage<'h> = dyn FnMut(&EventLoop<'h>, PortEvent<'_>) + 'h;
pub(super) type OnMessageError<'h> = dyn FnMut(&EventLoop<'h>, MessageErrorEvent<'_>) + 'h;
pub(super) type OnClose<'h> = dyn FnMut(&EventLoop<'h>, CloseEvent) + 'h;
type OnRoom<'h> = Box<dyn FnOnce(&EventLoop<'h>, PortId) + 'h>;

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

    fn clear(&self) {
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

/// A port in a loop, with what is to be done for it.
pub(super) struct Entry<'h> {
    pub(super) slot: Slot,
    pub(super) started: Cell<bool>,
    pub(super) place: Cell<Place>,
    /// The round in which it had its last turn.
    pub(super) served: Cell<u64>,
    /// Whether epoll is asked for rings, and not for hang-ups only.
    pub(super) rings: Cell<bool>,
    /// The length of the message that `on_room` waits for.
    room: Cell<Option<usize>>,
    on_room: Cell<Option<OnRoom<'h>>>,
    pub(super) on_message: Handler<OnMessage<'h>>,
    pub(super) on_message_error: Handler<OnMessageError<'h>>,
    pub(super) on_close: Handler<OnClose<'h>>,
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
        }
    }

    /// Drops the handlers, but for one that runs: that is dropped when it returns.
    pub(super) fn forget_handlers(&self) {
        self.room.set(None);
        drop(self.on_room.take());
        self.on_message.clear();
        self.on_message_error.clear();
        self.on_close.clear();
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
        if let Some(len) = self.room.get() {
            port.want_room_for(len);
        }
        self.wants()
    }

    /// Whether something of that is there, or the channel has ended.
    #[inline(always)]
    pub(super) fn is_ready(&self, port: &MessagePort) -> bool {
        port.is_ready(self.say_wants(port))
    }

    /// The room handler, if it is time to run it.
    pub(super) fn take_on_room(&self, port: &MessagePort) -> Option<OnRoom<'h>> {
        port.want_room_for(self.room.get()?);
        let over = port.known_end().is_some();
        if !over && !port.has_room() {
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

/// A port that is in an [`EventLoop`]: to use it, and to say what is to be done when something arrives on it.
///
/// It dereferences to the [`MessagePort`]. All of the port's calls work: one that waits keeps the whole loop
/// waiting, one that receives takes the message from the handler.
pub struct Attached<'l, 'h> {
    pub(super) events: &'l EventLoop<'h>,
    pub(super) used: Use<Rc<Entry<'h>>>,
}

impl<'h> Attached<'_, 'h> {
    fn entry(&self) -> &Rc<Entry<'h>> {
        self.used.place()
    }

    /// The port as the loop knows it.
    pub fn id(&self) -> PortId {
        self.entry().slot.id()
    }

    /// Has `handler` called for each message, and [starts](Attached::start) the port. It takes the place of the one
    /// before; a message that was dispatched is not again.
    pub fn on_message(&self, handler: impl FnMut(&EventLoop<'h>, PortEvent<'_>) + 'h) -> &Self {
        self.on_message_after_start(handler).start()
    }

    /// The same without starting the port: messages wait until [`start`](Attached::start) is called.
    pub fn on_message_after_start(
        &self,
        handler: impl FnMut(&EventLoop<'h>, PortEvent<'_>) + 'h,
    ) -> &Self {
        self.entry().on_message.set(Box::new(handler));
        self.events.reconsider(self.entry());
        self
    }

    /// Has `handler` called for each message that is an archive of `T`, and starts the port. For any other message
    /// the [message-error](Attached::on_message_error) handler is called.
    pub fn on_data<T: Message>(
        &self,
        mut handler: impl FnMut(&EventLoop<'h>, TypedEvent<'_, T>) + 'h,
    ) -> &Self {
        self.on_message(move |events, event| match event.typed() {
            Ok(event) => handler(events, event),
            Err(error) => events.message_error(error),
        })
    }

    /// Has `handler` called for what could not be handed to a message handler. Does not start the port.
    pub fn on_message_error(
        &self,
        handler: impl FnMut(&EventLoop<'h>, MessageErrorEvent<'_>) + 'h,
    ) -> &Self {
        self.entry().on_message_error.set(Box::new(handler));
        self
    }

    /// Has `handler` called once, when the channel has ended and everything posted before was dispatched, unless
    /// this side has closed it. Does not start the port; one that is not started is told when nothing waits on it.
    ///
    /// After that the port leaves the loop, and is dropped unless the handler has
    /// [removed](EventLoop::remove) it.
    pub fn on_close(&self, handler: impl FnMut(&EventLoop<'h>, CloseEvent) + 'h) -> &Self {
        self.entry().on_close.set(Box::new(handler));
        self
    }

    /// Has `handler` called once, when a message of `len` bytes can be posted: what to do after a post has answered
    /// [`Full`](crate::PostError::Full), since one that waits keeps the whole loop waiting. It takes the place of one
    /// set before, and is not called if the channel ends before that. The port need not be started.
    ///
    /// As for a post that sleeps, a quarter of the ring must be free as well, unless the peer holds messages in
    /// place.
    pub fn on_room(&self, len: usize, handler: impl FnOnce(&EventLoop<'h>, PortId) + 'h) -> &Self {
        self.entry().room.set(Some(len));
        self.entry().on_room.set(Some(Box::new(handler)));
        self.events.reconsider(self.entry());
        self
    }

    /// Starts dispatching messages, for good. A second call does nothing. Messages wait as long as there is no
    /// handler for them.
    pub fn start(&self) -> &Self {
        self.entry().started.set(true);
        self.events.reconsider(self.entry());
        self
    }

    /// Whether the port was started.
    pub fn is_started(&self) -> bool {
        self.entry().started.get()
    }
}

impl Deref for Attached<'_, '_> {
    type Target = MessagePort;

    fn deref(&self) -> &MessagePort {
        self.used.port()
    }
}

impl Drop for Attached<'_, '_> {
    fn drop(&mut self) {
        self.events.check_after_use(self.entry(), self.used.port());
    }
}

impl fmt::Debug for Attached<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached")
            .field("id", &self.id())
            .field("started", &self.is_started())
            .field("port", &**self)
            .finish()
    }
}
