//! The port itself: what it is made of, how it ends, what it tells of itself.
//!
//! Its verbs are in `post`, `transfer`, `receive`, `wait` and `handle`. Unsafe only in that `trust_peer` asks
//! for a promise.
#![allow(unsafe_code)]

use crate::doorbell::Doorbell;
use crate::error::{CloseReason, PostError};
use crate::message::Scratch;
use crate::pool::Pool;
use crate::ring::layout::{RECORD_ALIGN, state};
use crate::ring::{Consumer, Producer};
use crate::segment::Segment;
use crate::stats::{Counts, Stats};
use crate::transfer::Transfers;
use crate::wait::{Patrol, Spinner, WaitStrategy};
use core::cell::Cell;
use core::fmt;

/// One end of a channel.
///
/// A port is owned by one holder at a time: it can be sent to another thread, or in a message to another
/// process, not shared by two. Two threads take two channels: halves of one port would sleep behind one state word
/// and one doorbell, so that the peer had to pay for a barrier at every post, and could not be closed or sent away
/// one by one. All methods but
/// [`into_handle`](MessagePort::into_handle) take `&self`, so that a message can be answered while it is
/// being read.
///
/// Dropping a port closes it. A forked child that has not called exec is no holder: there every call
/// answers `Forked`, and dropping the port does nothing to the channel. (The child keeps it from being
/// freed, though: it has the descriptors until it ends.)
pub struct MessagePort {
    pub(crate) producer: Producer,
    pub(crate) consumer: Consumer,
    pub(crate) transfers: Transfers,
    pub(crate) spinner: Spinner,
    pub(crate) counts: Counts,
    pub(crate) pool: Pool,
    pub(crate) scratch: Scratch,
    /// Why the channel has ended, once this side knows that it has.
    pub(crate) ended: Cell<Option<CloseReason>>,
    /// Whether a slot, a batch or a serialisation is under way.
    pub(crate) reserved: Cell<bool>,
    pub(crate) trusted: Cell<bool>,
    /// The interest a foreign loop waits for, as WANTS bits.
    pub(crate) armed: Cell<u32>,
    /// The WANTS bits that an event loop or a task waits for, by an epoll of its own, whatever else is called.
    pub(crate) standing: Cell<u32>,
    pub(crate) patrol: Patrol,
    // Fields are dropped in this order: the doorbell says goodbye in the segment, so that one is last.
    pub(crate) doorbell: Doorbell,
    pub(crate) segment: Segment,
}

impl MessagePort {
    /// A port of parts that belong together and point into `segment`.
    pub(crate) fn from_parts(
        producer: Producer,
        consumer: Consumer,
        transfers: Transfers,
        doorbell: Doorbell,
        segment: Segment,
    ) -> MessagePort {
        // A port that was closed and handed on stays closed.
        let closed = doorbell.signal().own_closed();
        MessagePort {
            producer,
            consumer,
            transfers,
            spinner: Spinner::new(),
            counts: Counts::default(),
            pool: Pool::default(),
            scratch: Scratch::default(),
            ended: Cell::new(closed.then_some(CloseReason::ClosedHere)),
            reserved: Cell::new(false),
            trusted: Cell::new(false),
            armed: Cell::new(0),
            standing: Cell::new(0),
            patrol: Patrol::default(),
            doorbell,
            segment,
        }
    }

    /// What has to outlive this port when it moves on.
    pub(crate) fn into_parts(self) -> (Doorbell, Segment) {
        (self.doorbell, self.segment)
    }
}

/// Closing.
impl MessagePort {
    /// Ends the channel for both ends. The peer still receives what was posted before; what this side
    /// has not received yet is discarded, and ports in it are closed. Closing twice does nothing more; nor
    /// does closing in a forked child, whose port it is not.
    pub fn close(&self) {
        if !self.is_over_here() {
            self.ended.set(Some(CloseReason::ClosedHere));
            self.doorbell.hang_up();
        }
    }

    /// Whether the channel has ended, as far as can be known now. Messages may still wait to be received.
    pub fn is_closed(&self) -> bool {
        self.close_reason().is_some()
    }

    /// Why the channel has ended, as far as can be known now. Messages may still wait to be received.
    pub fn close_reason(&self) -> Option<CloseReason> {
        if self.is_home() && self.known_end().is_none() {
            self.listen_in();
        }
        self.ended.get()
    }

    #[inline(always)]
    pub(crate) fn ended_here(&self) -> bool {
        matches!(
            self.ended.get(),
            Some(CloseReason::ClosedHere | CloseReason::Corrupt)
        )
    }

    /// Whether this process is the one that the port belongs to, and not a child forked from it.
    #[inline(always)]
    pub(crate) fn is_home(&self) -> bool {
        self.doorbell.is_home()
    }

    /// The process that the port belongs to.
    #[cfg(feature = "tokio")]
    pub(crate) fn home(&self) -> crate::fork::Home {
        self.doorbell.home()
    }

    /// Whether this port can do nothing more: closed here, or not this process's.
    #[inline(always)]
    pub(crate) fn is_over_here(&self) -> bool {
        self.ended_here() || !self.is_home()
    }

    /// Why the channel has ended, if this side knows, or the peer's state word says so.
    #[inline(always)]
    pub(crate) fn known_end(&self) -> Option<CloseReason> {
        if self.ended.get().is_none() && self.doorbell.signal().peer_state() & state::CLOSED != 0 {
            self.ended.set(Some(CloseReason::ClosedByPeer));
        }
        self.ended.get()
    }

    #[inline(always)]
    pub(crate) fn check_open(&self) -> Result<(), PostError> {
        if !self.is_home() {
            return Err(PostError::Forked);
        }
        self.disarm();
        match self.known_end() {
            None => Ok(()),
            Some(reason) => Err(PostError::Closed(reason)),
        }
    }

    /// The socket has been hung up: in good order if the state word says so, by a death if not.
    #[cold]
    pub(crate) fn learn_gone(&self) {
        if self.known_end().is_none() {
            self.ended.set(Some(CloseReason::PeerGone));
        }
    }

    /// The peer broke the protocol: this channel ends, here and now.
    #[cold]
    pub(crate) fn end_corrupt(&self) {
        if !self.ended_here() {
            self.ended.set(Some(CloseReason::Corrupt));
            self.doorbell.hang_up();
        }
    }
}

/// Settings and figures.
impl MessagePort {
    /// Reads messages in place from now on, in the ring, instead of copying them out.
    ///
    /// # Safety
    ///
    /// Nobody who holds or will hold the other end, or ever held either end, writes to this channel but
    /// through this library; and each end is one port at a time: its descriptors were not duplicated into
    /// a second one. Else what a message shows can change while it is being read.
    pub unsafe fn trust_peer(&self) {
        self.trusted.set(true);
    }

    pub(crate) fn trusts_peer(&self) -> bool {
        self.trusted.get()
    }

    /// Chooses how this port waits. The default is [`WaitStrategy::Adaptive`].
    pub fn set_wait_strategy(&self, strategy: WaitStrategy) {
        self.spinner.set_strategy(strategy);
    }

    /// How this port waits.
    pub fn wait_strategy(&self) -> WaitStrategy {
        self.spinner.strategy()
    }

    /// Bytes of the ring in which this port posts.
    pub fn capacity(&self) -> usize {
        self.producer.ring().capacity()
    }

    /// The longest message that can be posted here, in bytes: half the capacity less 24. Ports that go with it (16 bytes and
    /// up, with their number) and an alignment beyond 16 take some of that.
    pub fn max_message_len(&self) -> usize {
        self.producer.ring().max_len(RECORD_ALIGN)
    }

    /// Bytes of records that wait to be received here, headers and padding included; 0 means that
    /// nothing does. While the peer posts it may lag behind.
    pub fn pending(&self) -> usize {
        if self.ended_here() {
            return 0;
        }
        let read = self.consumer.position();
        // PEER: any value is possible; it is only reported, and no more than the capacity.
        let written = self.peer_write_position();
        let waiting = written.wrapping_sub(read);
        if waiting <= self.consumer.ring().capacity() as u64 {
            waiting as usize
        } else {
            0
        }
    }

    fn peer_write_position(&self) -> u64 {
        self.doorbell.signal().peer_write_position()
    }

    /// What went through this port since this process has it.
    pub fn stats(&self) -> Stats {
        let counts = &self.counts;
        Stats {
            messages_posted: counts.messages_posted.get(),
            bytes_posted: counts.bytes_posted.get(),
            messages_received: counts.messages_received.get(),
            bytes_received: counts.bytes_received.get(),
            sleeps: counts.sleeps.get(),
            wakeups: counts.wakeups.get(),
            room_waits: counts.room_waits.get(),
            ports_posted: counts.ports_posted.get(),
            ports_received: counts.ports_received.get(),
        }
    }
}

impl fmt::Debug for MessagePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessagePort")
            .field("capacity", &self.capacity())
            .field("pending", &self.pending())
            .field("closed", &self.ended.get())
            .field("trusts_peer", &self.trusted.get())
            .field("wait_strategy", &self.wait_strategy())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
