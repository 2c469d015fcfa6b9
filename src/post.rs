//! Posting: find room, write or serialise into the ring, publish, wake.
//!
//! Unsafe relies on: a place that the producer hands out lies inside the ring, and only the holder of the
//! port's one reservation writes to it.
#![allow(unsafe_code)]

use crate::doorbell::Rung;
use crate::error::{CloseReason, PostError, ReserveError, SystemError};
use crate::message::Message;
use crate::port::MessagePort;
use crate::reserve::{Batch, Slot};
use crate::ring::layout::{MAX_PAYLOAD_ALIGN, RECORD_ALIGN, state};
use crate::ring::{Draft, Place, Refused};
use crate::stats::{Counts, add};
use crate::wait;
use core::cell::Cell;
use core::ptr::NonNull;
use std::time::Duration;

impl MessagePort {
    /// Posts a value, waiting for room as long as it takes.
    ///
    /// Who sleeps for room is woken when the message fits and a quarter of the ring is free (without the
    /// quarter if the peer holds messages in place): so a peer that stops receiving altogether can
    /// leave a post asleep that would just fit.
    ///
    /// The value is serialised into the ring as it is now; changing it later changes nothing. Once this
    /// returns, the message will arrive, whatever becomes of this process.
    ///
    /// # Errors
    ///
    /// [`PostError::TooLarge`] beyond [`max_message_len`](MessagePort::max_message_len),
    /// [`Closed`](PostError::Closed), [`Busy`](PostError::Busy),
    /// [`Alignment`](PostError::Alignment) for archives that want more than 16 bytes,
    /// [`Serialize`](PostError::Serialize), and [`System`](PostError::System) if it cannot wait.
    #[inline]
    pub fn post_message<T: Message>(&self, value: &T) -> Result<(), PostError> {
        let hint = Cell::new(0);
        self.post_within(None, || self.attempt_message(value, &hint))
    }

    /// Posts a value if there is room.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`] if there is none, and those of [`post_message`](MessagePort::post_message).
    #[inline]
    pub fn try_post_message<T: Message>(&self, value: &T) -> Result<(), PostError> {
        self.attempt_message(value, &Cell::new(0))?
            .ok_or_else(|| self.full())
    }

    /// Posts a value, waiting for room at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`] if there was none in time, and those of
    /// [`post_message`](MessagePort::post_message).
    pub fn post_message_timeout<T: Message>(
        &self,
        value: &T,
        timeout: Duration,
    ) -> Result<(), PostError> {
        let hint = Cell::new(0);
        self.post_within(Some(timeout), || self.attempt_message(value, &hint))
    }

    /// Posts a message of bytes, waiting for room as long as it takes.
    ///
    /// # Errors
    ///
    /// As [`post_message`](MessagePort::post_message), without those of a serialisation.
    #[inline]
    pub fn post_bytes(&self, bytes: &[u8]) -> Result<(), PostError> {
        self.post_within(None, || self.attempt_bytes(bytes))
    }

    /// Posts a message of bytes if there is room.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`] if there is none, and those of [`post_bytes`](MessagePort::post_bytes).
    #[inline]
    pub fn try_post_bytes(&self, bytes: &[u8]) -> Result<(), PostError> {
        self.attempt_bytes(bytes)?.ok_or_else(|| self.full())
    }

    /// Posts a message of bytes, waiting for room at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`] if there was none in time, and those of
    /// [`post_bytes`](MessagePort::post_bytes).
    pub fn post_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), PostError> {
        self.post_within(Some(timeout), || self.attempt_bytes(bytes))
    }

    /// Reserves a message of `len` bytes to be filled in place, waiting for room as long as it takes.
    ///
    /// # Errors
    ///
    /// [`ReserveError::TooLarge`], [`Closed`](ReserveError::Closed), [`Busy`](ReserveError::Busy), and
    /// [`System`](ReserveError::System) if it cannot wait.
    pub fn reserve(&self, len: usize) -> Result<Slot<'_>, ReserveError> {
        self.reserve_within(None, len, RECORD_ALIGN)
    }

    /// Reserves a message of `len` bytes if there is room.
    ///
    /// # Errors
    ///
    /// [`ReserveError::Full`] if there is none, and those of [`reserve`](MessagePort::reserve).
    pub fn try_reserve(&self, len: usize) -> Result<Slot<'_>, ReserveError> {
        self.attempt_reserve(len, RECORD_ALIGN)?
            .ok_or_else(|| self.full_slot())
    }

    /// Reserves a message of `len` bytes, waiting for room at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`ReserveError::Full`] if there was none in time, and those of
    /// [`reserve`](MessagePort::reserve).
    pub fn reserve_timeout(&self, len: usize, timeout: Duration) -> Result<Slot<'_>, ReserveError> {
        self.reserve_within(Some(timeout), len, RECORD_ALIGN)
    }

    /// Reserves a message whose bytes are aligned to `align`, a power of two up to 128, here and where
    /// it is received. Less than 16 means 16, which every message has.
    ///
    /// # Errors
    ///
    /// [`ReserveError::Alignment`], and those of [`reserve`](MessagePort::reserve).
    pub fn reserve_aligned(&self, len: usize, align: usize) -> Result<Slot<'_>, ReserveError> {
        if !align.is_power_of_two() || align > MAX_PAYLOAD_ALIGN {
            return Err(ReserveError::Alignment {
                wanted: align,
                max: MAX_PAYLOAD_ALIGN,
            });
        }
        self.reserve_within(None, len, align.max(RECORD_ALIGN))
    }

    /// Begins a batch: messages that become visible all at once.
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    #[inline(always)]
    fn post_within(
        &self,
        timeout: Option<Duration>,
        mut attempt: impl FnMut() -> Result<Option<()>, PostError>,
    ) -> Result<(), PostError> {
        if attempt()?.is_some() {
            return Ok(());
        }
        self.attempt_with_room(timeout, attempt)?
            .ok_or_else(|| self.full())
    }

    fn reserve_within(
        &self,
        timeout: Option<Duration>,
        len: usize,
        align: usize,
    ) -> Result<Slot<'_>, ReserveError> {
        if let Some(slot) = self.attempt_reserve(len, align)? {
            return Ok(slot);
        }
        self.attempt_with_room(timeout, || self.attempt_reserve(len, align))?
            .ok_or_else(|| self.full_slot())
    }

    /// Waits for the room that the last attempt needed and attempts again, until it has gone through or
    /// the time is over (`None`).
    #[cold]
    fn attempt_with_room<T, E: From<SystemError>>(
        &self,
        timeout: Option<Duration>,
        mut attempt: impl FnMut() -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        add(&self.counts.room_waits, 1);
        let deadline = timeout.and_then(wait::deadline);
        while self.wait(state::WANTS_ROOM, deadline)? {
            if let Some(done) = attempt()? {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }

    #[inline(always)]
    pub(crate) fn attempt_bytes(&self, bytes: &[u8]) -> Result<Option<()>, PostError> {
        self.check_open()?;
        if self.reserved.get() {
            return Err(PostError::Busy);
        }
        let mut draft = self.producer.draft();
        let Some(place) = self.place(draft.cursor(), bytes.len(), RECORD_ALIGN)? else {
            return Ok(None);
        };
        self.producer.memory().write(place.payload(), bytes);
        self.producer.append(&mut draft, &place);
        self.publish(draft, 1, bytes.len());
        Ok(Some(()))
    }

    /// `hint` keeps the archive's length, once an attempt has found it, for the next.
    #[inline]
    pub(crate) fn attempt_message<T: Message>(
        &self,
        value: &T,
        hint: &Cell<usize>,
    ) -> Result<Option<()>, PostError> {
        self.check_open()?;
        let _reservation = self.reserve_ring().ok_or(PostError::Busy)?;
        let mut draft = self.producer.draft();
        let Some(place) = self.archive(value, draft.cursor(), 0, hint)? else {
            return Ok(None);
        };
        // The value's own code may have closed this port.
        self.check_open()?;
        self.producer.append(&mut draft, &place);
        self.publish(draft, 1, place.len());
        Ok(Some(()))
    }

    fn attempt_reserve(&self, len: usize, align: usize) -> Result<Option<Slot<'_>>, ReserveError> {
        if !self.is_home() {
            return Err(ReserveError::Forked);
        }
        self.disarm();
        if let Some(reason) = self.known_end() {
            return Err(ReserveError::Closed(reason));
        }
        let reservation = self.reserve_ring().ok_or(ReserveError::Busy)?;
        let cursor = self.producer.draft().cursor();
        match self.producer.place(cursor, len, align) {
            Ok(place) => Ok(Some(Slot::new(reservation, place))),
            Err(Refused::Full) => Ok(None),
            Err(Refused::TooLarge) => Err(ReserveError::TooLarge {
                len,
                max: self.producer.ring().max_len(align),
            }),
            Err(Refused::Corrupt) => {
                self.end_corrupt();
                Err(ReserveError::Closed(CloseReason::Corrupt))
            }
        }
    }

    /// Takes the right to write to the ring, if nobody has it.
    #[inline(always)]
    pub(crate) fn reserve_ring(&self) -> Option<Reservation<'_>> {
        if self.reserved.replace(true) {
            None
        } else {
            Some(Reservation(self))
        }
    }

    /// Finds room for a message after `cursor`; `None` if there is none now.
    #[inline(always)]
    pub(crate) fn place(
        &self,
        cursor: u64,
        len: usize,
        align: usize,
    ) -> Result<Option<Place>, PostError> {
        match self.producer.place(cursor, len, align) {
            Ok(place) => Ok(Some(place)),
            Err(refused) => self.refused(refused, len, 0),
        }
    }

    /// The error of a message for which there is no place; `Ok(None)` if there will be. `ahead` as for
    /// [`archive`](MessagePort::archive), not counted in `len`.
    #[cold]
    pub(crate) fn refused<T>(
        &self,
        refused: Refused,
        len: usize,
        ahead: usize,
    ) -> Result<Option<T>, PostError> {
        match refused {
            Refused::Full => Ok(None),
            Refused::TooLarge => Err(PostError::TooLarge {
                len,
                max: self.max_message_len() - ahead,
            }),
            Refused::Corrupt => {
                self.end_corrupt();
                Err(PostError::Closed(CloseReason::Corrupt))
            }
        }
    }

    /// Serialises `value` into the ring after `cursor`, leaving `ahead` bytes (a multiple of 16) free at the
    /// beginning of the place; `None` if there is no room now. The caller has the reservation.
    // Inlined, since the place would otherwise go through memory: written in words and read back in pairs, which the CPU
    // does not forward before all that was written has left it (a tenth of a round trip).
    #[inline(always)]
    pub(crate) fn archive<T: Message>(
        &self,
        value: &T,
        cursor: u64,
        ahead: usize,
        hint: &Cell<usize>,
    ) -> Result<Option<Place>, PostError> {
        let wanted = align_of::<T::Archived>();
        if wanted > RECORD_ALIGN {
            return Err(PostError::Alignment {
                wanted,
                max: RECORD_ALIGN,
            });
        }
        // Twice, if what is contiguous, or known to be free, was too short for it. More often only if
        // its length changes from one serialisation to the next.
        for _ in 0..4 {
            let open = match self.producer.open_place(cursor, ahead + hint.get()) {
                Ok(open) => open,
                Err(Refused::Full) if hint.get() == 0 => {
                    // Not even room for an empty message: learn the length, without writing.
                    // SAFETY: no byte is written to a room of none.
                    let len = unsafe {
                        crate::message::archive(value, NonNull::dangling(), 0, &self.scratch)
                    }?;
                    hint.set(len.max(1));
                    continue;
                }
                Err(refused) => return self.refused(refused, hint.get(), ahead),
            };
            let start = self.producer.memory().ptr(open.payload() + ahead);
            let room = open.room() - ahead;
            // SAFETY: the place is reserved for this draft: `ahead` and `room` bytes, at an offset that is
            // a multiple of 16 in a ring that is page-aligned.
            let len = unsafe { crate::message::archive(value, start, room, &self.scratch) }?;
            if len <= room {
                return Ok(Some(self.producer.end_open(open, ahead + len)));
            }
            hint.set(len);
        }
        Err(PostError::Serialize(
            "each serialisation of the value is longer than the one before".into(),
        ))
    }

    /// Publishes what was drafted and wakes the peer if it sleeps. The caller has seen that this port was
    /// not closed since the draft was begun.
    #[inline(always)]
    pub(crate) fn publish(&self, draft: Draft, messages: usize, bytes: usize) {
        self.producer.publish(draft);
        self.counts.posted(messages, bytes);
        if !cfg!(ringport_no_wake) {
            let peer = self.doorbell.signal().look_for_sleeper();
            if peer & state::WANTS_MESSAGE != 0 {
                self.wake_peer(state::WANTS_MESSAGE);
            }
        }
        if Counts::milestone(&self.counts.messages_posted, messages) {
            self.unfence_if_calm();
        }
    }

    /// The error of a post that found no room.
    #[cold]
    pub(crate) fn full(&self) -> PostError {
        self.full_slot().into()
    }

    #[cold]
    fn full_slot(&self) -> ReserveError {
        // Nobody may be left to make room.
        self.patrol();
        if let Some(reason) = self.known_end() {
            return ReserveError::Closed(reason);
        }
        let (free, needed) = self.producer.shortage();
        ReserveError::Full { needed, free }
    }

    #[cold]
    pub(crate) fn wake_peer(&self, want: u32) {
        /// More failures than this in a row, each with the CPU given up between, and the next post
        /// may try.
        const TRIES: u32 = 1000;
        let signal = self.doorbell.signal();
        for _ in 0..TRIES {
            if !signal.claim(want) {
                return;
            }
            match self.doorbell.ring() {
                Rung::Yes => {
                    add(&self.counts.wakeups, 1);
                    return;
                }
                Rung::HungUp => {
                    self.learn_gone();
                    return;
                }
                // No peer of ours leaves so many rings unread. Should it sleep all the same, the next
                // post tries again.
                Rung::Full => {
                    signal.put_back(want);
                    return;
                }
                Rung::Again => {
                    signal.put_back(want);
                    std::thread::yield_now();
                }
            }
        }
    }
}

/// The right to write to the outgoing ring.
pub(crate) struct Reservation<'p>(&'p MessagePort);

impl<'p> Reservation<'p> {
    pub(crate) fn port(&self) -> &'p MessagePort {
        self.0
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.0.reserved.set(false);
    }
}
