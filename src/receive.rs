//! Receiving: look, check, copy out or lend, give the room back.
//!
//! Unsafe relies on: a record that the consumer hands out was checked to lie inside the ring.
#![allow(unsafe_code)]

use crate::error::{CloseReason, RecvError};
use crate::message::MessageEvent;
use crate::port::MessagePort;
use crate::ring::layout::state;
use crate::ring::{Corrupt, Record};
use crate::stats::Counts;
use crate::wait;
use core::ptr::NonNull;
use std::time::Duration;

impl MessagePort {
    /// Receives the next message, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`RecvError::Closed`] once the channel has ended and everything posted before was received;
    /// [`RecvError::System`] if it cannot wait.
    #[inline]
    pub fn recv(&self) -> Result<MessageEvent<'_>, RecvError> {
        loop {
            if let Some(record) = self.next().map_err(RecvError::Closed)? {
                return Ok(self.deliver(&record));
            }
            self.wait(state::WANTS_MESSAGE, None)?;
        }
    }

    /// Receives the next message if there is one; `Ok(None)` if not.
    ///
    /// # Errors
    ///
    /// [`RecvError::Closed`] once the channel has ended and everything posted before was received.
    #[inline]
    pub fn try_recv(&self) -> Result<Option<MessageEvent<'_>>, RecvError> {
        let mut next = self.next();
        if matches!(next, Ok(None)) && self.patrol() {
            next = self.next();
        }
        self.deliver_next(next)
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
        self.deliver_next(next)
    }

    /// Receives until the channel has ended, waiting each time.
    ///
    /// [`close_reason`](MessagePort::close_reason) tells afterwards why it has. It also ends when waiting
    /// fails ([`RecvError::System`]): then that is `None`.
    pub fn iter(&self) -> Iter<'_> {
        Iter { port: self }
    }

    /// Looks for the next record, without taking it.
    #[inline(always)]
    fn next(&self) -> Result<Option<Record>, CloseReason> {
        self.disarm();
        loop {
            // What was known before looking: whoever has left posts no more after that.
            let ended = self.ended.get();
            if let Some(reason @ (CloseReason::ClosedHere | CloseReason::Corrupt)) = ended {
                return Err(reason);
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
                return Err(reason);
            }
            if self.known_end().is_none() {
                return Ok(None);
            }
        }
    }

    #[inline(always)]
    fn deliver_next(
        &self,
        next: Result<Option<Record>, CloseReason>,
    ) -> Result<Option<MessageEvent<'_>>, RecvError> {
        match next {
            Ok(Some(record)) => Ok(Some(self.deliver(&record))),
            Ok(None) => Ok(None),
            Err(reason) => Err(RecvError::Closed(reason)),
        }
    }

    /// Takes the record that [`next`](MessagePort::next) has found.
    #[inline(always)]
    fn deliver(&self, record: &Record) -> MessageEvent<'_> {
        self.counts.received(record.len);
        if Counts::milestone(&self.counts.messages_received, 1) {
            self.unfence_if_calm();
        }
        if self.trusted.get() {
            return self.lend(record);
        }
        let mut buffer = self.pool.take(record.len);
        // SAFETY: the pool's buffer has room for `len` bytes, all of which are written before the
        // length says so.
        unsafe {
            let to = NonNull::new_unchecked(buffer.as_mut_ptr());
            self.consumer.memory().read(record.payload, to, record.len);
            buffer.set_len(record.len);
        }
        self.consumer.take(record);
        self.gave_room();
        MessageEvent::copied(self, buffer)
    }

    #[inline]
    fn lend(&self, record: &Record) -> MessageEvent<'_> {
        self.consumer.hold(record);
        let start = self.consumer.memory().ptr(record.payload);
        let bytes = NonNull::slice_from_raw_parts(start, record.len);
        // On the way here a WRAP may have given its room back.
        self.gave_room();
        // SAFETY: the record was checked to lie inside the ring, it is held, and who called
        // `trust_peer` promised that nobody writes to this channel but through this library, whose
        // producer does not write to records that are held.
        unsafe { MessageEvent::in_place(self, bytes, record.position()) }
    }

    /// Ends an event that was shown in place.
    pub(crate) fn put_back(&self, position: u64) {
        self.consumer.put_back(position);
        self.gave_room();
    }

    /// Wakes the peer if it waits for as much room as it has now.
    #[inline(always)]
    pub(crate) fn gave_room(&self) {
        let peer = self.doorbell.signal().look_for_sleeper();
        if peer & state::WANTS_ROOM != 0 {
            self.offer_room();
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
