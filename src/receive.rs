//! Receiving: look, check, copy out or lend, give the room back.
#![allow(unsafe_code)]

use crate::error::{CloseReason, RecvError};
use crate::message::MessageEvent;
use crate::port::MessagePort;
use crate::ring::layout::state;
use crate::ring::{Corrupt, Record};
use crate::stats::Counts;
use crate::wait::{self, Want};
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
        if let Some(event) = self.take()? {
            return Ok(event);
        }
        loop {
            // Without a deadline there is no `None`.
            if let Some(event) = self.wait(Want::Message, None, || self.take())? {
                return Ok(event);
            }
        }
    }

    /// Receives the next message if there is one; `Ok(None)` if not.
    ///
    /// # Errors
    ///
    /// [`RecvError::Closed`] once the channel has ended and everything posted before was received.
    #[inline]
    pub fn try_recv(&self) -> Result<Option<MessageEvent<'_>>, RecvError> {
        match self.take()? {
            None if self.patrol() => self.take(),
            found => Ok(found),
        }
    }

    /// Receives the next message, waiting at most `timeout`; `Ok(None)` if none came.
    ///
    /// # Errors
    ///
    /// As [`recv`](MessagePort::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<MessageEvent<'_>>, RecvError> {
        match self.take()? {
            None => self.wait(Want::Message, wait::deadline(timeout), || self.take()),
            found => Ok(found),
        }
    }

    /// Receives until the channel has ended, waiting each time.
    ///
    /// [`close_reason`](MessagePort::close_reason) tells afterwards why it has.
    pub fn iter(&self) -> Iter<'_> {
        Iter { port: self }
    }

    /// Takes the next message, if there is one.
    #[inline(always)]
    fn take(&self) -> Result<Option<MessageEvent<'_>>, RecvError> {
        self.disarm();
        loop {
            // What was known before looking: whoever has left posts no more after that.
            let ended = self.ended.get();
            if let Some(reason @ (CloseReason::ClosedHere | CloseReason::Corrupt)) = ended {
                return Err(RecvError::Closed(reason));
            }
            match self.consumer.peek() {
                Ok(Some(record)) => return Ok(Some(self.deliver(&record))),
                Ok(None) => {}
                Err(Corrupt) => {
                    self.end_corrupt();
                    continue;
                }
            }
            if let Some(reason) = ended {
                return Err(RecvError::Closed(reason));
            }
            if self.known_end().is_none() {
                return Ok(None);
            }
        }
    }

    #[inline(always)]
    fn deliver(&self, record: &Record) -> MessageEvent<'_> {
        self.counts.received(record.len);
        let event = if self.trusted.get() {
            self.lend(record)
        } else {
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
        };
        let Counts {
            messages_received,
            received_at_arm,
            ..
        } = &self.counts;
        if Counts::calm(messages_received, received_at_arm, 1) {
            self.doorbell.signal().unfence();
        }
        event
    }

    #[inline]
    fn lend(&self, record: &Record) -> MessageEvent<'_> {
        self.consumer.hold(record);
        let start = self.consumer.memory().ptr(record.payload);
        let bytes = NonNull::slice_from_raw_parts(start, record.len);
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
    fn gave_room(&self) {
        let peer = self.doorbell.signal().look_for_sleeper();
        if peer & state::WANTS_ROOM != 0 {
            self.offer_room();
        }
    }

    #[cold]
    fn offer_room(&self) {
        let target = self.doorbell.signal().peer_room_target();
        if self.consumer.room_reaches(target) {
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
