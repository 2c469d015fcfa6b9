//! Where a port lives while it is in a loop, and from where it can be taken as long as nobody uses it.
//!
//! A handler may give away the very port it runs on, while the loop still stands on the stack below it. So who
//! uses the port is counted, and it is moved out only when nobody does.
//!
//! Unsafe relies on: the port in the cell is moved or dropped only while `uses` is zero, and every reference to it
//! is covered by one of these.
#![allow(unsafe_code)]

use super::PortId;
use crate::error::RecvError;
use crate::message::{Message, MessageEvent, OwnedMessageEvent};
use crate::port::MessagePort;
use core::cell::{Cell, UnsafeCell};
use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

pub(super) struct Slot {
    id: PortId,
    /// Empty once the port was taken.
    port: UnsafeCell<Option<MessagePort>>,
    uses: Cell<usize>,
}

impl Slot {
    pub(super) fn new(id: PortId, port: MessagePort) -> Slot {
        Slot {
            id,
            port: UnsafeCell::new(Some(port)),
            uses: Cell::new(0),
        }
    }

    pub(super) fn id(&self) -> PortId {
        self.id
    }

    pub(super) fn is_used(&self) -> bool {
        self.uses.get() != 0
    }

    /// Takes the port; `None` if it is in use, or was taken before.
    pub(super) fn take(&self) -> Option<MessagePort> {
        if self.is_used() {
            return None;
        }
        // SAFETY: nobody uses the port, so there is no reference to it; and the cell is of this thread only.
        unsafe { (*self.port.get()).take() }
    }
}

/// What leads to a slot, always the same.
pub(super) trait HasSlot {
    fn slot(&self) -> &Slot;
}

impl HasSlot for &Slot {
    #[inline(always)]
    fn slot(&self) -> &Slot {
        self
    }
}

/// The use of a port that is in a loop.
pub(super) struct Use<S: HasSlot>(S);

impl<S: HasSlot> Use<S> {
    /// `None` if the port was taken.
    #[inline(always)]
    pub(super) fn of(place: S) -> Option<Use<S>> {
        let slot = place.slot();
        // SAFETY: looks only whether there is one; nobody moves it at this moment, as the cell is of this
        // thread only.
        unsafe { (*slot.port.get()).as_ref() }?;
        slot.uses.set(slot.uses.get() + 1);
        Some(Use(place))
    }

    #[inline(always)]
    pub(super) fn place(&self) -> &S {
        &self.0
    }

    #[inline(always)]
    pub(super) fn port(&self) -> &MessagePort {
        // SAFETY: it is there, as `of` has seen, and stays as long as this use is counted.
        unsafe { (*self.0.slot().port.get()).as_ref().unwrap_unchecked() }
    }
}

impl<'e> Use<&'e Slot> {
    /// The same for longer.
    ///
    /// # Safety
    ///
    /// It is not used after this use has ended.
    #[inline(always)]
    unsafe fn port_for_longer(&self) -> &'e MessagePort {
        // SAFETY: as in `port`; that it outlives this borrow is the caller's promise.
        unsafe { (*self.0.port.get()).as_ref().unwrap_unchecked() }
    }
}

impl<S: HasSlot> Drop for Use<S> {
    #[inline(always)]
    fn drop(&mut self) {
        let slot = self.0.slot();
        slot.uses.set(slot.uses.get() - 1);
    }
}

/// A message that a loop has brought, and the local port on which it arrived. It names no sender: a port is
/// anonymous.
///
/// It shows what a [`MessageEvent`] shows. Handlers get it by value: to answer while it is alive
/// ([`port`](PortEvent::port)), to keep it ([`into_owned`](PortEvent::into_owned)), or to give it up together with
/// its port ([`EventLoop::detach`](super::EventLoop::detach)).
pub struct PortEvent<'e> {
    // Dropped before the use of the port that it borrows from.
    event: MessageEvent<'e>,
    used: Use<&'e Slot>,
}

impl<'e> PortEvent<'e> {
    /// Receives the next message of the port in `slot`.
    #[inline(always)]
    pub(super) fn receive(slot: &'e Slot) -> Result<Option<PortEvent<'e>>, RecvError> {
        let Some(used) = Use::of(slot) else {
            return Ok(None);
        };
        // SAFETY: only the event borrows from this, and the event ends with this use or before: `PortEvent`
        // never parts with the one but by dropping it.
        let port = unsafe { used.port_for_longer() };
        port.receive_next(|event| PortEvent { event, used })
    }

    /// The port on which the message has arrived, as the loop knows it.
    pub fn id(&self) -> PortId {
        self.used.0.id()
    }

    /// The port on which the message has arrived.
    #[inline(always)]
    pub fn port(&self) -> &MessagePort {
        self.used.port()
    }

    /// The message apart from its port: it can be kept. See [`MessageEvent::into_owned`].
    pub fn into_owned(self) -> OwnedMessageEvent {
        self.event.into_owned()
    }

    /// The message as an archive of `T`, validated, together with the event.
    ///
    /// # Errors
    ///
    /// [`MessageErrorEvent::Data`](super::MessageErrorEvent::Data) when it is none: it gives the event back.
    pub fn typed<T: Message>(self) -> Result<TypedEvent<'e, T>, super::MessageErrorEvent<'e>> {
        match self.event.data::<T>().map(NonNull::from) {
            Ok(data) => Ok(TypedEvent { data, event: self }),
            Err(error) => Err(super::MessageErrorEvent::Data { event: self, error }),
        }
    }
}

impl<'e> Deref for PortEvent<'e> {
    type Target = MessageEvent<'e>;

    #[inline(always)]
    fn deref(&self) -> &MessageEvent<'e> {
        &self.event
    }
}

impl fmt::Debug for PortEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortEvent")
            .field("id", &self.id())
            .field("event", &self.event)
            .finish()
    }
}

/// A message that is an archive of `T`: it was validated.
pub struct TypedEvent<'e, T: Message> {
    /// Into the event's bytes.
    data: NonNull<T::Archived>,
    event: PortEvent<'e>,
}

impl<'e, T: Message> TypedEvent<'e, T> {
    /// The message.
    #[inline(always)]
    pub fn data(&self) -> &T::Archived {
        // SAFETY: it was validated in the event's bytes, which stay where and what they are as long as the event
        // lives, wherever that is moved; and they are only read.
        unsafe { self.data.as_ref() }
    }

    /// The event without the knowledge of its type, for instance to give it up with its port.
    pub fn into_event(self) -> PortEvent<'e> {
        self.event
    }
}

impl<'e, T: Message> Deref for TypedEvent<'e, T> {
    type Target = PortEvent<'e>;

    #[inline(always)]
    fn deref(&self) -> &PortEvent<'e> {
        &self.event
    }
}

impl<T: Message> fmt::Debug for TypedEvent<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedEvent")
            .field("type", &core::any::type_name::<T>())
            .field("event", &self.event)
            .finish()
    }
}
