//! Receiving: look, check, copy out or lend, give the room back.
//!
//! Unsafe relies on: a record that the consumer hands out was checked to lie inside the ring.
#![allow(unsafe_code)]

use crate::error::{CloseReason, RecvError, SystemError};
use crate::message::MessageEvent;
use crate::pool::Buffer;
use crate::port::MessagePort;
use crate::ring::layout::state;
use crate::ring::{Corrupt, Record};
use crate::stats::Counts;
use crate::wait;
use nix::errno::Errno;
use std::time::Duration;

/// Why no record will come. Smaller than the error it becomes, so that looking for one stays in registers.
enum End {
    Closed(CloseReason),
    Forked,
}

impl From<End> for RecvError {
    fn from(end: End) -> RecvError {
        match end {
            End::Closed(reason) => RecvError::Closed(reason),
            End::Forked => RecvError::Forked,
        }
    }
}

impl MessagePort {
    /// Receives the next message, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`RecvError::Closed`] once the channel has ended and everything posted before was received;
    /// [`RecvError::System`] if the message cannot be taken in or waited for, for lack of descriptors, memory
    /// or maps: nothing was lost, the next call receives the same message; [`RecvError::Forked`] in a
    /// forked child.
    #[inline]
    pub fn recv(&self) -> Result<MessageEvent<'_>, RecvError> {
        loop {
            if let Some(record) = self.next()? {
                return self.deliver(&record, |event| event);
            }
            self.wait(state::WANTS_MESSAGE, None)?;
        }
    }

    /// Receives the next message if there is one; `Ok(None)` if not.
    ///
    /// # Errors
    ///
    /// As [`recv`](MessagePort::recv).
    #[inline]
    pub fn try_recv(&self) -> Result<Option<MessageEvent<'_>>, RecvError> {
        let mut next = self.next();
        if matches!(next, Ok(None)) && self.patrol() {
            next = self.next();
        }
        self.deliver_next(next, |event| event)
    }

    /// The same without a look at the doorbell now and then: for who has it watched. `wrap` makes the event what
    /// the caller needs.
    #[inline(always)]
    pub(crate) fn receive_next<'p, R>(
        &'p self,
        wrap: impl FnOnce(MessageEvent<'p>) -> R,
    ) -> Result<Option<R>, RecvError> {
        self.deliver_next(self.next(), wrap)
    }

    /// Why the channel has ended, if nothing waits to be received before that.
    pub(crate) fn end(&self) -> Option<CloseReason> {
        match self.next() {
            Err(End::Closed(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Receives the next message, waiting at most `timeout`; `Ok(None)` if none came.
    ///
    /// # Errors
    ///
    /// As [`recv`](MessagePort::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<MessageEvent<'_>>, RecvError> {
        let mut next = self.next();
        if matches!(next, Ok(None)) {
            let deadline = wait::deadline(timeout);
            while matches!(next, Ok(None)) && self.wait(state::WANTS_MESSAGE, deadline)? {
                next = self.next();
            }
        }
        self.deliver_next(next, |event| event)
    }

    /// Receives until the channel has ended, waiting each time.
    ///
    /// [`close_reason`](MessagePort::close_reason) tells afterwards why it has. It also ends when receiving
    /// fails otherwise ([`RecvError::System`], nothing was lost): then that is `None`.
    pub fn iter(&self) -> Iter<'_> {
        Iter { port: self }
    }

    /// Looks for the next record, without taking it.
    #[inline(always)]
    fn next(&self) -> Result<Option<Record>, End> {
        if !self.is_home() {
            return Err(End::Forked);
        }
        self.disarm();
        loop {
            // What was known before looking: whoever has left posts no more after that.
            let ended = self.ended.get();
            if let Some(reason @ (CloseReason::ClosedHere | CloseReason::Corrupt)) = ended {
                return Err(End::Closed(reason));
            }
            match self.consumer.peek() {
                Ok(Some(record)) => return Ok(Some(record)),
                Ok(None) => {}
                Err(Corrupt) => {
                    self.end_corrupt();
                    continue;
                }
            }
            if let Some(reason) = ended {
                // A message that was sent off and never published may have left its ports here.
                self.doorbell.discard();
                return Err(End::Closed(reason));
            }
            if self.known_end().is_none() {
                return Ok(None);
            }
        }
    }

    #[inline(always)]
    fn deliver_next<'p, R>(
        &'p self,
        next: Result<Option<Record>, End>,
        wrap: impl FnOnce(MessageEvent<'p>) -> R,
    ) -> Result<Option<R>, RecvError> {
        match next? {
            Some(record) => self.deliver(&record, |event| Some(wrap(event))),
            None => Ok(None),
        }
    }

    /// Takes the record that [`next`](MessagePort::next) has found. What can fail comes first.
    ///
    /// `wrap` makes the event what the caller answers: done here, each path writes its answer once.
    #[inline(always)]
    fn deliver<'p, R>(
        &'p self,
        record: &Record,
        wrap: impl FnOnce(MessageEvent<'p>) -> R,
    ) -> Result<R, RecvError> {
        if record.items != 0 {
            return self.deliver_with_ports(*record).map(wrap);
        }
        let trusted = self.trusted.get();
        // One that is shown in place has a buffer all the same, of which it needs no byte.
        let Some(buffer) = self.pool.take(if trusted { 0 } else { record.len }) else {
            return Err(no_memory());
        };
        let event = if trusted {
            self.lend(record, buffer)
        } else {
            self.copy(record, buffer)
        };
        self.gave_room();
        Ok(wrap(event))
    }

    // By value, so that only this path has the record in memory.
    #[cold]
    #[inline(never)]
    fn deliver_with_ports(&self, record: Record) -> Result<MessageEvent<'_>, RecvError> {
        let trusted = self.trusted.get();
        let room = if trusted { 0 } else { record.len };
        let buffer = self.pool.take(room).ok_or_else(no_memory)?;
        buffer.bring(self.adopt(&record)?);
        let event = if trusted {
            self.lend(&record, buffer)
        } else {
            self.copy(&record, buffer)
        };
        self.gave_place();
        Ok(event)
    }

    /// Copies a record to a buffer with room for it, and takes it.
    #[inline(always)]
    fn copy(&self, record: &Record, mut buffer: Box<Buffer>) -> MessageEvent<'_> {
        // SAFETY: the caller's buffer has room for `len` bytes and, its size and alignment being powers of two
        // from 128 on, for whole words; all bytes are written before the length says so.
        unsafe {
            let memory = self.consumer.memory();
            memory.read(record.payload, buffer.memory(), record.len);
            buffer.set_len(record.len);
        }
        self.consumer.take(record);
        self.received(record);
        MessageEvent::new(self, buffer)
    }

    /// Shows a record in place.
    #[inline(always)]
    fn lend(&self, record: &Record, mut buffer: Box<Buffer>) -> MessageEvent<'_> {
        self.consumer.hold(record);
        let start = self.consumer.memory().ptr(record.payload);
        // SAFETY: the record was checked to lie inside the ring, it is held, and who called
        // `trust_peer` promised that nobody writes to this channel but through this library, whose
        // producer does not write to records that are held.
        unsafe { buffer.lend(start, record.len, record.position()) };
        self.received(record);
        MessageEvent::new(self, buffer)
    }

    #[inline(always)]
    fn received(&self, record: &Record) {
        self.counts.received(record.len);
        if Counts::milestone(&self.counts.messages_received, 1) {
            self.unfence_if_calm();
        }
    }

    /// Ends an event that was shown in place.
    // A call, so that the end of a copied one is short enough to be inlined.
    #[inline(never)]
    pub(crate) fn put_back(&self, position: u64, mut buffer: Box<Buffer>) {
        buffer.end_lending();
        self.pool.put_back(buffer);
        if self.is_home() {
            self.consumer.put_back(position);
            self.gave_room();
        }
    }

    /// Wakes the peer if it waits for as much room as it has now.
    #[inline(always)]
    pub(crate) fn gave_room(&self) {
        let peer = self.doorbell.signal().look_for_sleeper();
        if peer & state::WANTS_ROOM != 0 {
            self.offer_room();
        }
    }

    /// Wakes the peer if it waits for room, or to send ports, now that a message with some was taken.
    #[cold]
    fn gave_place(&self) {
        if self.doorbell.signal().look_for_sleeper() & state::WANTS_ROOM != 0 {
            self.wake_peer(state::WANTS_ROOM);
        }
    }

    #[cold]
    fn offer_room(&self) {
        let signal = self.doorbell.signal();
        let (target, written) = (signal.peer_room_target(), signal.peer_write_position());
        if self.consumer.should_wake_poster(target, written) {
            self.wake_peer(state::WANTS_ROOM);
        }
    }
}

#[cold]
fn no_memory() -> RecvError {
    SystemError::new("malloc", Errno::ENOMEM).into()
}

/// Received messages, until the channel has ended: see [`MessagePort::iter`].
#[derive(Debug)]
pub struct Iter<'p> {
    port: &'p MessagePort,
}

impl<'p> Iterator for Iter<'p> {
    type Item = MessageEvent<'p>;

    fn next(&mut self) -> Option<MessageEvent<'p>> {
        self.port.recv().ok()
    }
}

impl<'p> IntoIterator for &'p MessagePort {
    type Item = MessageEvent<'p>;
    type IntoIter = Iter<'p>;

    fn into_iter(self) -> Iter<'p> {
        self.iter()
    }
}
