//! Ports inside messages: what may travel, sent off once, taken in once.
//!
//! A port is two descriptors, and everything else of it is in the segment or in the kernel's queue for its
//! doorbell. So moving it is passing them on: they go through the carrier's doorbell, with one byte that
//! has a sequence number, and the record in the carrier's ring lists them as items.
//!
//! Sending: check everything, find room and write the record, send the descriptors, publish. Nothing after
//! the sending can fail, and whatever fails before it has changed nothing.
//!
//! Receiving: look at the descriptors without taking them, check them against the record, map every
//! port, and only then take them off the queue. A shortage on the way loses nothing.

mod receiving;
mod sending;

use crate::descriptors;
use crate::error::TransferError;
use crate::message::Message;
use crate::port::MessagePort;
use crate::ring::layout::{Endpoint, RECORD_ALIGN};
use crate::ring::{Corrupt, Shared};
use crate::sync::Ordering;
use crate::wait;
use core::cell::Cell;
use sending::Patience;
use std::time::Duration;

/// Descriptors of one port.
const DESCRIPTORS_A_PORT: usize = 2;
/// Ports that travel in one message: as many as the descriptors that the kernel passes at once allow.
pub(crate) const MOST_PORTS: usize = descriptors::MOST / DESCRIPTORS_A_PORT;
/// Messages with descriptors that may wait in one direction. Their bytes, and those of the rings between,
/// fit into a socket's buffer of the usual size (208 KiB), and sequence numbers repeat after 128.
pub(crate) const MOST_WAITING: u32 = 64;
/// The one kind of item so far.
const PORT: u8 = 1;

/// Posting with ports.
impl MessagePort {
    /// Posts a value together with ports, which move to whoever receives the message. It waits for room as
    /// long as it takes.
    ///
    /// What waits to be received on a port moves along, whatever its amount; the ports' peers notice
    /// nothing. The value need not mention the ports: [`take_ports`](crate::MessageEvent::take_ports) gives
    /// them in this order. At most 126 travel in one message.
    ///
    /// A former holder keeps nothing of a port. (One that does not use this library faithfully may have
    /// kept copies of its descriptors: being the only holder is a promise between honest processes.)
    ///
    /// # Errors
    ///
    /// [`TransferError`], which gives the ports back and says what was wrong. Nothing was sent then. Beside what
    /// [`post_message`](MessagePort::post_message) says it can be that
    ///
    /// - one of the ports was closed here ([`ClosedPort`](crate::PostError::ClosedPort)),
    /// - one is this port's own peer ([`OwnPeer`](crate::PostError::OwnPeer)),
    /// - they are more than 126 ([`TooManyPorts`](crate::PostError::TooManyPorts)),
    /// - the kernel has too many descriptors of this user under way
    ///   ([`TooManyInFlight`](crate::PostError::TooManyInFlight)).
    ///
    /// # Examples
    ///
    /// ```
    /// use ringport::MessageChannel;
    ///
    /// let carrier = MessageChannel::new()?;
    /// let gift = MessageChannel::new()?;
    /// carrier.port1.post_message_with(&"take this".to_string(), [gift.port2])?;
    ///
    /// let event = carrier.port2.recv()?;
    /// let [port] = <[_; 1]>::try_from(event.take_ports()).unwrap();
    /// gift.port1.post_bytes(b"still entangled")?;
    /// assert_eq!(port.recv()?.bytes(), b"still entangled");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Who has sent a port cannot use it any more:
    ///
    /// ```compile_fail,E0382
    /// # use ringport::MessageChannel;
    /// # let carrier = MessageChannel::new()?;
    /// # let gift = MessageChannel::new()?;
    /// carrier.port1.post_message_with(&"take this".to_string(), [gift.port2])?;
    /// gift.port2.post_bytes(b"one more thing")?; // error: use of moved value
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_message_with<T: Message>(
        &self,
        value: &T,
        ports: impl IntoIterator<Item = MessagePort>,
    ) -> Result<(), TransferError> {
        self.transfer_message(value, ports, Patience::Endless)
    }

    /// Posts a value together with ports if there is room.
    ///
    /// # Errors
    ///
    /// [`PostError::Full`](crate::PostError::Full) if there is none,
    /// [`TransfersFull`](crate::PostError::TransfersFull) if 64 messages with ports wait to be received, and
    /// those of [`post_message_with`](MessagePort::post_message_with).
    pub fn try_post_message_with<T: Message>(
        &self,
        value: &T,
        ports: impl IntoIterator<Item = MessagePort>,
    ) -> Result<(), TransferError> {
        self.transfer_message(value, ports, Patience::None)
    }

    /// Posts a value together with ports, waiting for room at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`try_post_message_with`](MessagePort::try_post_message_with).
    pub fn post_message_with_timeout<T: Message>(
        &self,
        value: &T,
        ports: impl IntoIterator<Item = MessagePort>,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        self.transfer_message(value, ports, Patience::Until(wait::deadline(timeout)))
    }

    /// Posts a message of bytes together with ports, waiting for room as long as it takes.
    ///
    /// # Errors
    ///
    /// As [`post_message_with`](MessagePort::post_message_with).
    pub fn post_bytes_with(
        &self,
        bytes: &[u8],
        ports: impl IntoIterator<Item = MessagePort>,
    ) -> Result<(), TransferError> {
        self.transfer_bytes(bytes, ports, Patience::Endless)
    }

    /// Posts a message of bytes together with ports if there is room.
    ///
    /// # Errors
    ///
    /// As [`try_post_message_with`](MessagePort::try_post_message_with).
    pub fn try_post_bytes_with(
        &self,
        bytes: &[u8],
        ports: impl IntoIterator<Item = MessagePort>,
    ) -> Result<(), TransferError> {
        self.transfer_bytes(bytes, ports, Patience::None)
    }

    /// Posts a message of bytes together with ports, waiting for room at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`try_post_message_with`](MessagePort::try_post_message_with).
    pub fn post_bytes_with_timeout(
        &self,
        bytes: &[u8],
        ports: impl IntoIterator<Item = MessagePort>,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        self.transfer_bytes(bytes, ports, Patience::Until(wait::deadline(timeout)))
    }

    fn transfer_message<T: Message>(
        &self,
        value: &T,
        ports: impl IntoIterator<Item = MessagePort>,
        patience: Patience,
    ) -> Result<(), TransferError> {
        let hint = Cell::new(0);
        self.transfer(ports, patience, |cursor, ahead| {
            self.archive(value, cursor, ahead, &hint)
        })
    }

    fn transfer_bytes(
        &self,
        bytes: &[u8],
        ports: impl IntoIterator<Item = MessagePort>,
        patience: Patience,
    ) -> Result<(), TransferError> {
        self.transfer(ports, patience, |cursor, ahead| {
            match self
                .producer
                .place(cursor, ahead.saturating_add(bytes.len()), RECORD_ALIGN)
            {
                Ok(place) => {
                    let memory = self.producer.memory();
                    memory.write(place.payload() + ahead, bytes);
                    Ok(Some(place))
                }
                Err(refused) => self.refused(refused, bytes.len(), ahead),
            }
        })
    }
}

/// Descriptor messages sent and taken by one endpoint, and what it knows of the other's.
pub(crate) struct Transfers {
    own: Shared<Endpoint>,
    peer: Shared<Endpoint>,
    // Kept here, since the peer can write to the words themselves; there they are for the next holder.
    sent: Cell<u32>,
    taken: Cell<u32>,
    /// Whether who waits for room waits for a place among the transfers as well.
    pub(crate) wants_place: Cell<bool>,
}

impl Transfers {
    /// Continues after so many.
    pub(crate) fn new(
        own: Shared<Endpoint>,
        peer: Shared<Endpoint>,
        sent: u32,
        taken: u32,
    ) -> Transfers {
        Transfers {
            own,
            peer,
            sent: Cell::new(sent),
            taken: Cell::new(taken),
            wants_place: Cell::new(false),
        }
    }

    /// How many wait to be taken by the peer.
    fn waiting(&self) -> Result<u32, Corrupt> {
        // Relaxed, because what is counted is in the kernel's queue, which has an order of its own; that a
        // sleeper sees it in time is the business of `barrier`.
        // PEER: any value is possible; checked on the next line.
        let taken = self.peer.taking.descriptors_taken.load(Ordering::Relaxed);
        let waiting = self.sent.get().wrapping_sub(taken);
        if waiting <= MOST_WAITING {
            Ok(waiting)
        } else {
            Err(Corrupt)
        }
    }

    /// Whether another one can be sent, or the peer's word of it is corrupt, or nobody waits for that.
    #[inline(always)]
    pub(crate) fn has_wanted_place(&self) -> bool {
        !self.wants_place.get() || !matches!(self.waiting(), Ok(MOST_WAITING))
    }

    fn count_sent(&self) {
        let sent = self.sent.get().wrapping_add(1);
        self.sent.set(sent);
        // Relaxed, because it is for this port's next holder, and its handle goes through the kernel.
        self.own
            .posting
            .descriptors_sent
            .store(sent, Ordering::Relaxed);
    }

    fn count_taken(&self) {
        let taken = self.taken.get().wrapping_add(1);
        self.taken.set(taken);
        // Relaxed, as for `waiting`.
        self.own
            .taking
            .descriptors_taken
            .store(taken, Ordering::Relaxed);
    }
}
