//! Waiting in an event loop that this library knows nothing of: say what for, then poll the port's descriptor.

use super::{SLICE, WANTS_EITHER};
use crate::error::{FORKED, PostError, RecvError, SystemError};
use crate::message::{Message, MessageEvent};
use crate::port::MessagePort;
use crate::ring::Refused;
use crate::ring::layout::{RECORD_ALIGN, items_size, state};
use crate::transfer::MOST_PORTS;
use core::cell::Cell;
use core::task::Poll;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Beside WANTS bits in `armed`: they are those of pending polls.
const POLLED: u32 = 1 << 31;

/// What to be told of by [`MessagePort::arm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interest {
    /// A message has come.
    Message,
    /// There is room for a message of so many bytes. To be told, a quarter of the ring must be free as
    /// well, unless the peer holds messages in place.
    Room(usize),
    /// Either of the two.
    Either(usize),
    /// A message of so many bytes can be posted with ports: there is room for it, and fewer than 64 of its
    /// kind wait to be received.
    Transfer(usize),
    /// A message has come, or one can be posted with ports.
    MessageOrTransfer(usize),
}

/// What [`MessagePort::arm`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Armed {
    /// Nothing yet: [`MessagePort::as_fd`] becomes readable when there is.
    Wait,
    /// What was asked for is there already, or the channel has ended.
    Ready,
}

/// Waiting in a foreign event loop.
impl MessagePort {
    /// Says what this port waits for, once, and whether it is there already.
    ///
    /// After [`Armed::Wait`], [`as_fd`](MessagePort::as_fd) becomes readable when it comes, or when the
    /// channel ends. A call that posts or receives ends the waiting; so does the event. It may become readable
    /// for nothing, so arm again until it says [`Armed::Ready`].
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors: the first call needs one. In a forked child.
    pub fn arm(&self, interest: Interest) -> Result<Armed, io::Error> {
        self.check_home()?;
        self.disarm();
        // Empties the descriptor's ready list, so that it becomes readable anew.
        let line = self.doorbell.sleep(Some(Duration::ZERO));
        self.note(line.map_err(|error| error.source)?);
        self.note(self.doorbell.drain());
        let (wants, room, place) = match interest {
            Interest::Message => (state::WANTS_MESSAGE, None, false),
            Interest::Room(len) => (state::WANTS_ROOM, Some(len), false),
            Interest::Either(len) => (WANTS_EITHER, Some(len), false),
            Interest::Transfer(len) => (state::WANTS_ROOM, Some(len), true),
            Interest::MessageOrTransfer(len) => (WANTS_EITHER, Some(len), true),
        };
        if let Some(len) = room {
            let len = if place { self.len_with_ports(len) } else { len };
            self.want_room_for(len);
        }
        self.transfers.wants_place.set(place);
        let armed = self.arm_if_not_ready(wants);
        if armed == Armed::Ready {
            self.transfers.wants_place.set(false);
        }
        Ok(armed)
    }

    fn arm_if_not_ready(&self, wants: u32) -> Armed {
        if self.is_ready(wants) {
            return Armed::Ready;
        }
        if self.doorbell.is_clogged() {
            // No more rings can be asked for, so nothing could wake the caller. Tell it to try, not too often.
            std::thread::sleep(SLICE);
            return Armed::Ready;
        }
        self.zero_ahead(wants);
        self.arm_surely(wants);
        self.armed.set(wants);
        if self.is_ready(wants) {
            self.disarm();
            return Armed::Ready;
        }
        Armed::Wait
    }

    /// The descriptor to poll for reading after [`arm`](MessagePort::arm), edge- or level-triggered. It is
    /// this port's own and stays the same; do not read from it.
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors: the first call needs one. In a forked child.
    pub fn as_fd(&self) -> Result<BorrowedFd<'_>, io::Error> {
        self.check_home()?;
        self.doorbell.poll_fd().map_err(|error| error.source)
    }

    fn check_home(&self) -> Result<(), io::Error> {
        if self.is_home() {
            Ok(())
        } else {
            Err(io::Error::other(FORKED))
        }
    }

    /// What a message of `len` bytes takes with its ports at most, as far as that can ever fit.
    pub(crate) fn len_with_ports(&self, len: usize) -> usize {
        let most = len.saturating_add(items_size(MOST_PORTS));
        most.min(self.max_message_len()).max(len)
    }

    /// Has waits for room wait for that of a message of `len` bytes, and for none if there is some now, or
    /// never will be.
    pub(crate) fn want_room_for(&self, len: usize) {
        let cursor = self.producer.draft().cursor();
        // One that is full remembers what it lacked.
        let place = self.producer.place(cursor, len, RECORD_ALIGN);
        if !matches!(place, Err(Refused::Full)) {
            self.producer.want_nothing();
        }
    }

    #[inline(always)]
    pub(crate) fn disarm(&self) {
        if self.armed.get() != 0 {
            self.disarm_now();
        }
    }

    #[cold]
    fn disarm_now(&self) {
        self.transfers.wants_place.set(false);
        let armed = self.armed.replace(0);
        self.take_back(armed & WANTS_EITHER);
    }
}

/// Polling: an attempt that, when it fails, leaves word of what it waits for.
///
/// `Pending` says that [`as_fd`](MessagePort::as_fd) becomes readable when the attempt may succeed, or the channel
/// has ended; sometimes for nothing. Then poll again all that was pending: receiving and posting can be, at the same
/// time. Any call on the port but these ends the waiting, as it does after [`arm`](MessagePort::arm): poll again
/// after it, before the descriptor is waited for. So whoever gives up one that is pending makes such a call, or the
/// descriptor stays readable for it.
impl MessagePort {
    /// Receives the next message; if there is none, [`as_fd`](MessagePort::as_fd) becomes readable when there is.
    ///
    /// # Errors
    ///
    /// As [`recv`](MessagePort::recv).
    pub fn poll_recv(&self) -> Poll<Result<MessageEvent<'_>, RecvError>> {
        self.poll(state::WANTS_MESSAGE, || self.try_recv().transpose())
    }

    /// Posts a value; if there is no room, [`as_fd`](MessagePort::as_fd) becomes readable when there is.
    ///
    /// # Errors
    ///
    /// As [`post_message`](MessagePort::post_message).
    pub fn poll_post<T: Message>(&self, value: &T) -> Poll<Result<(), PostError>> {
        let hint = Cell::new(0);
        self.poll(state::WANTS_ROOM, || {
            self.attempt_message(value, &hint).transpose()
        })
    }

    /// Posts a message of bytes; if there is no room, [`as_fd`](MessagePort::as_fd) becomes readable when there is.
    ///
    /// # Errors
    ///
    /// As [`post_bytes`](MessagePort::post_bytes).
    pub fn poll_post_bytes(&self, bytes: &[u8]) -> Poll<Result<(), PostError>> {
        self.poll(state::WANTS_ROOM, || self.attempt_bytes(bytes).transpose())
    }

    fn poll<R, E: From<SystemError>>(
        &self,
        want: u32,
        mut attempt: impl FnMut() -> Option<Result<R, E>>,
    ) -> Poll<Result<R, E>> {
        let other = self.other_polled(want);
        loop {
            if let Some(done) = attempt() {
                if !self.is_home() {
                    return Poll::Ready(done);
                }
                self.take_back(want);
                self.stay_polled(other);
                if other != 0 && self.doorbell.has_read() {
                    // A ring for the other may have been taken; and if it was for nothing, there must be another.
                    self.arm_surely(other);
                }
                self.tell_other(other);
                return Poll::Ready(done);
            }
            match self.stand_by(want, other) {
                Ok(Armed::Ready) => {}
                Ok(Armed::Wait) => return Poll::Pending,
                Err(error) => {
                    self.stay_polled(other);
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
    }

    /// What else is pending, which is put out of sight of the attempt: that would end its waiting. What `arm` has
    /// said is ended.
    fn other_polled(&self, want: u32) -> u32 {
        if !self.is_home() {
            return 0;
        }
        if self.armed.get() & POLLED == 0 {
            self.disarm();
        }
        self.armed.replace(0) & WANTS_EITHER & !want
    }

    /// Check, arm, check again, for what is wanted and for the other that is pending.
    fn stand_by(&self, want: u32, other: u32) -> Result<Armed, SystemError> {
        // Empties the descriptor's ready list, so that it becomes readable anew.
        self.note(self.doorbell.sleep(Some(Duration::ZERO))?);
        self.note(self.doorbell.drain_if_due());
        if self.doorbell.is_clogged() {
            // As for `arm`.
            std::thread::sleep(SLICE);
            self.stay_polled(want | other);
            self.doorbell.raise();
            return Ok(Armed::Wait);
        }
        self.zero_ahead(want);
        self.arm_surely(want | other);
        if self.is_ready(want) {
            return Ok(Armed::Ready);
        }
        self.stay_polled(want | other);
        self.tell_other(other);
        Ok(Armed::Wait)
    }

    fn stay_polled(&self, wants: u32) {
        self.armed.set(if wants == 0 { 0 } else { POLLED | wants });
    }

    /// Makes the descriptor readable if the other that is pending is there: its ring may have been taken for this
    /// one's.
    fn tell_other(&self, other: u32) {
        if other != 0 && self.is_ready(other) {
            self.doorbell.raise();
        }
    }
}
