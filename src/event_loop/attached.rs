//! The port as a user of the loop sees it.

use super::handlers::{Entry, OnRoom, Room};
use super::slot::{PortEvent, TypedEvent, Use};
use super::{CloseEvent, EventLoop, MessageErrorEvent, PortId};
use crate::error::CloseReason;
use crate::message::Message;
use crate::port::MessagePort;
use core::fmt;
use core::ops::Deref;
use std::rc::Rc;

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

    /// Has `handler` called once, when the port leaves the loop by ending, also if it was closed here or the loop is cleared; after
    /// the close handler, and not if the port is taken out. For the C interface, whose handles have to know where their
    /// port is.
    #[doc(hidden)]
    pub fn on_leave(&self, handler: impl FnOnce(CloseReason) + 'h) {
        self.entry().on_leave.set(Some(Box::new(handler)));
    }

    /// Has `handler` called once, when a message of `len` bytes can be posted: what to do after a post has answered
    /// [`Full`](crate::PostError::Full), since one that waits keeps the whole loop waiting. It takes the place of one
    /// set before, and is not called if the channel ends before that. The port need not be started.
    ///
    /// As for a post that sleeps, the peer does not ring before a quarter of the ring is free as well, unless it holds
    /// messages in place. For a message that can never be posted, longer than
    /// [`max_message_len`](MessagePort::max_message_len), it is called at once.
    pub fn on_room(&self, len: usize, handler: impl FnOnce(&EventLoop<'h>, PortId) + 'h) -> &Self {
        let room = Room {
            len,
            with_ports: false,
        };
        self.wait_for_room(room, Box::new(handler))
    }

    /// The same for a message of `len` bytes with ports: there is room for it, and fewer than 64 of its kind wait to
    /// be received. So also after [`TransfersFull`](crate::PostError::TransfersFull). It takes the place of an
    /// [`on_room`](Attached::on_room) handler.
    pub fn on_room_with_ports(
        &self,
        len: usize,
        handler: impl FnOnce(&EventLoop<'h>, PortId) + 'h,
    ) -> &Self {
        let room = Room {
            len: self.len_with_ports(len),
            with_ports: true,
        };
        self.wait_for_room(room, Box::new(handler))
    }

    fn wait_for_room(&self, room: Room, handler: OnRoom<'h>) -> &Self {
        self.entry().room.set(Some(room));
        self.entry().on_room.set(Some(handler));
        self.events.reconsider(self.entry());
        self
    }

    /// Starts dispatching messages, for good. A second call does nothing. Messages wait as long as there is no
    /// handler for them.
    pub fn start(&self) -> &Self {
        if !self.entry().started.replace(true) {
            self.events.reconsider(self.entry());
        }
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
