//! Posting in two steps: a slot to fill in place, a batch to publish at once.
//!
//! Unsafe relies on: a slot's bytes are nobody else's until it is committed, if the port trusts its peer.
#![allow(unsafe_code)]

use crate::error::PostError;
use crate::message::Message;
use crate::port::MessagePort;
use crate::post::Reservation;
use crate::ring::layout::RECORD_ALIGN;
use crate::ring::{Draft, Place};
use core::fmt;

/// A reserved message, to be filled in place and committed.
///
/// What is not written keeps the bytes that were there. Dropping it uncommitted posts nothing; leaking
/// it (`mem::forget`) leaves the port [`Busy`](PostError::Busy).
#[must_use = "a slot posts nothing until it is committed"]
pub struct Slot<'p> {
    reservation: Reservation<'p>,
    place: Place,
}

impl<'p> Slot<'p> {
    pub(crate) fn new(reservation: Reservation<'p>, place: Place) -> Slot<'p> {
        Slot { reservation, place }
    }

    fn port(&self) -> &'p MessagePort {
        self.reservation.port()
    }

    /// Bytes of the message.
    pub fn len(&self) -> usize {
        self.place.len()
    }

    /// Whether the message has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes `bytes` at the message's beginning.
    ///
    /// # Panics
    ///
    /// When they are more than [`len`](Slot::len).
    pub fn write(&mut self, bytes: &[u8]) {
        self.write_at(0, bytes);
    }

    /// Writes `bytes` from byte `offset` of the message on.
    ///
    /// # Panics
    ///
    /// When they end beyond [`len`](Slot::len).
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) {
        let len = self.len();
        assert!(
            offset <= len && bytes.len() <= len - offset,
            "{} bytes from byte {offset} on do not fit a slot of {len} bytes",
            bytes.len()
        );
        // In a forked child the place is the parent's.
        if self.port().is_home() {
            let memory = self.port().producer.memory();
            memory.write(self.place.payload() + offset, bytes);
        }
    }

    /// Where the message's bytes are: [`len`](Slot::len) of them may be written until it is committed.
    /// What is read there the peer may have changed.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        let memory = self.port().producer.memory();
        memory.ptr(self.place.payload()).as_ptr()
    }

    /// The message's bytes as a slice; `None` unless the port [trusts its
    /// peer](MessagePort::trust_peer), who could change them behind the reference.
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        if !self.port().trusts_peer() || !self.port().is_home() {
            return None;
        }
        // SAFETY: the bytes are reserved for this slot, and who called `trust_peer` promised that
        // nobody writes to this channel but through this library, which leaves them alone.
        Some(unsafe { core::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len()) })
    }

    /// Makes the message shorter. Does nothing if it is no longer than `len` bytes already.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.place = self.place.shortened(len);
        }
    }

    /// Posts the message. If this port was closed meanwhile, or this is a forked child, it is discarded.
    pub fn commit(self) {
        let port = self.port();
        if port.is_over_here() {
            return;
        }
        let mut draft = port.producer.draft();
        port.producer.append(&mut draft, &self.place);
        port.publish(draft, 1, self.place.len());
    }
}

impl fmt::Debug for Slot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// Messages that become visible all at once.
///
/// It never waits: when the ring is full, publish it and begin another. Dropping it posts nothing of it;
/// leaking it (`mem::forget`) leaves the port [`Busy`](PostError::Busy).
#[must_use = "a batch posts nothing until it is published"]
pub struct Batch<'p> {
    port: &'p MessagePort,
    /// `None` if another reservation was open when this batch began: then every post is `Busy`.
    open: Option<Reservation<'p>>,
    draft: Draft,
    messages: usize,
    bytes: usize,
}

impl<'p> Batch<'p> {
    pub(crate) fn new(port: &'p MessagePort) -> Batch<'p> {
        Batch {
            port,
            open: port.reserve_ring(),
            draft: port.producer.draft(),
            messages: 0,
            bytes: 0,
        }
    }

    /// Adds a message.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`] when the ring has no room for it beside the rest of the batch;
    /// [`Busy`](PostError::Busy) when a slot, another batch or a post was under way as this batch began;
    /// and those of [`MessagePort::post_message`]. The batch stays as it was.
    pub fn post<T: Message>(&mut self, value: &T) -> Result<(), PostError> {
        self.check()?;
        let hint = core::cell::Cell::new(0);
        match self.port.archive(value, self.draft.cursor(), 0, &hint)? {
            Some(place) => self.add(&place),
            None => return Err(self.port.full()),
        }
        Ok(())
    }

    /// Adds a message of bytes.
    ///
    /// # Errors
    ///
    /// As [`post`](Batch::post).
    #[inline]
    pub fn post_bytes(&mut self, bytes: &[u8]) -> Result<(), PostError> {
        self.check()?;
        let cursor = self.draft.cursor();
        match self.port.place(cursor, bytes.len(), RECORD_ALIGN)? {
            Some(place) => {
                self.port.producer.memory().write(place.payload(), bytes);
                self.add(&place);
            }
            None => return Err(self.port.full()),
        }
        Ok(())
    }

    #[inline]
    fn check(&self) -> Result<(), PostError> {
        match self.open {
            Some(_) => self.port.check_open(),
            None => Err(PostError::Busy),
        }
    }

    #[inline]
    fn add(&mut self, place: &Place) {
        self.port.producer.append(&mut self.draft, place);
        self.messages += 1;
        self.bytes += place.len();
    }

    /// Messages added so far.
    pub fn len(&self) -> usize {
        self.messages
    }

    /// Whether no message was added yet.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Posts all of them and says how many there were: none if this port was closed meanwhile, or this is
    /// a forked child.
    pub fn publish(self) -> usize {
        if self.messages == 0 || self.port.is_over_here() {
            return 0;
        }
        self.port.publish(self.draft, self.messages, self.bytes);
        self.messages
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("messages", &self.messages)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
