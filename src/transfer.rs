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

use crate::error::{
    CloseReason, ImportFault, NewError, PostError, RecvError, SystemError, TransferError,
};
use crate::message::{Message, Ports};
use crate::port::MessagePort;
use crate::ring::layout::{Endpoint, RECORD_ALIGN, items_size, state};
use crate::ring::{Corrupt, Place, Record, Shared};
use crate::stats::add;
use crate::sync::Ordering;
use crate::wait;
use crate::{PortHandle, descriptors};
use core::cell::Cell;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

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
    /// [`TransferError`], which gives the ports back and says what was wrong: one of them was closed here
    /// ([`PostError::ClosedPort`]), one is this port's own peer ([`OwnPeer`](PostError::OwnPeer)), they are too
    /// many ([`TooManyPorts`](PostError::TooManyPorts)), the kernel has too many descriptors of this user under
    /// way ([`TooManyInFlight`](PostError::TooManyInFlight)), or what
    /// [`post_message`](MessagePort::post_message) says. Nothing was sent then.
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
    /// [`PostError::Full`] if there is none, [`PostError::TransfersFull`] if 64 messages with ports wait to be
    /// received, and those of [`post_message_with`](MessagePort::post_message_with).
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

/// How long a post waits.
#[derive(Clone, Copy)]
enum Patience {
    None,
    Until(Option<Instant>),
    Endless,
}

impl Patience {
    fn deadline(self) -> Option<Instant> {
        match self {
            Patience::Until(deadline) => deadline,
            Patience::None | Patience::Endless => None,
        }
    }
}

/// What a post with ports lacked.
#[derive(Clone, Copy)]
enum Lack {
    /// Room in the ring.
    Room,
    /// A place among the messages with ports that wait.
    Place,
    /// Room in the socket.
    Socket,
}

/// Ports as the kernel and the record see them, checked.
struct Cargo {
    items: Vec<u8>,
    descriptors: Vec<RawFd>,
}

/// Sending off.
impl MessagePort {
    /// Posts what `fill` writes after a ring position, so many bytes after the place's beginning, together
    /// with ports.
    fn transfer(
        &self,
        ports: impl IntoIterator<Item = MessagePort>,
        patience: Patience,
        fill: impl FnMut(u64, usize) -> Result<Option<Place>, PostError>,
    ) -> Result<(), TransferError> {
        let ports: Vec<MessagePort> = ports.into_iter().collect();
        match self.transfer_all(&ports, patience, fill) {
            Ok(()) => {
                // They are somebody else's now.
                ports.into_iter().for_each(MessagePort::leave);
                Ok(())
            }
            Err(error) => Err(TransferError::new(error, ports)),
        }
    }

    fn transfer_all(
        &self,
        ports: &[MessagePort],
        patience: Patience,
        mut fill: impl FnMut(u64, usize) -> Result<Option<Place>, PostError>,
    ) -> Result<(), PostError> {
        let cargo = self.load(ports)?;
        let mut waited = false;
        while let Err(lack) = self.attempt_transfer(&cargo, &mut fill)? {
            if matches!(patience, Patience::None) {
                return Err(self.lacks(lack));
            }
            if !waited {
                waited = true;
                add(&self.counts.room_waits, 1);
            }
            if !self.wait_for(lack, patience.deadline())? {
                return Err(self.lacks(lack));
            }
        }
        Ok(())
    }

    /// Checks ports that are to travel, and has them leave everything in their segments.
    fn load(&self, ports: &[MessagePort]) -> Result<Cargo, PostError> {
        if let Some(index) = ports.iter().position(MessagePort::ended_here) {
            return Err(PostError::ClosedPort { index });
        }
        let own_peer = |port: &MessagePort| port.segment.is_same(&self.segment);
        if let Some(index) = ports.iter().position(own_peer) {
            return Err(PostError::OwnPeer { index });
        }
        if !ports.iter().all(MessagePort::is_home) {
            return Err(PostError::Forked);
        }
        if ports.len() > MOST_PORTS {
            return Err(PostError::TooManyPorts {
                count: ports.len(),
                max: MOST_PORTS,
            });
        }
        self.check_open()?;
        ports.iter().for_each(MessagePort::settle);
        let pairs = ports.iter().map(|port| {
            let (segment, doorbell) = (port.segment.file(), port.doorbell.socket());
            [segment.as_raw_fd(), doorbell.as_raw_fd()]
        });
        Ok(Cargo {
            items: vec![PORT; ports.len()],
            descriptors: pairs.flatten().collect(),
        })
    }

    /// Tries once; `Err` says what to wait for.
    fn attempt_transfer(
        &self,
        cargo: &Cargo,
        fill: &mut impl FnMut(u64, usize) -> Result<Option<Place>, PostError>,
    ) -> Result<Result<(), Lack>, PostError> {
        self.check_open()?;
        let _reservation = self.reserve_ring().ok_or(PostError::Busy)?;
        let mut draft = self.producer.draft();
        let ahead = items_size(cargo.items.len());
        let Some(place) = fill(draft.cursor(), ahead)? else {
            return Ok(Err(Lack::Room));
        };
        let place = place.with_items(cargo.items.len() as u8);
        self.producer.memory().write(place.items(), &cargo.items);
        // The value's own code may have closed this port.
        self.check_open()?;
        if let Err(lack) = self.send_off(cargo)? {
            return Ok(Err(lack));
        }
        self.producer.append(&mut draft, &place);
        self.publish(draft, 1, place.len());
        Ok(Ok(()))
    }

    /// Sends the descriptors. After that the record must be published.
    fn send_off(&self, cargo: &Cargo) -> Result<Result<(), Lack>, PostError> {
        if cargo.items.is_empty() {
            return Ok(Ok(()));
        }
        match self.transfers.waiting() {
            Ok(waiting) if waiting < MOST_WAITING => {}
            Ok(_) => return Ok(Err(Lack::Place)),
            Err(Corrupt) => {
                self.end_corrupt();
                return Err(PostError::Closed(CloseReason::Corrupt));
            }
        }
        let sequence = self.transfers.sent.get();
        match self.doorbell.send_descriptors(sequence, &cargo.descriptors) {
            Ok(()) => {
                self.transfers.count_sent();
                add(&self.counts.ports_posted, cargo.items.len() as u64);
                Ok(Ok(()))
            }
            Err(Errno::EAGAIN) => Ok(Err(Lack::Socket)),
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => {
                self.learn_gone();
                let reason = self.known_end().unwrap_or(CloseReason::PeerGone);
                Err(PostError::Closed(reason))
            }
            Err(Errno::ETOOMANYREFS) => Err(PostError::TooManyInFlight {
                source: Errno::ETOOMANYREFS.into(),
            }),
            Err(errno) => Err(SystemError::new("sendmsg", errno).into()),
        }
    }

    /// Waits for what was lacking; `false` if the time was over before.
    fn wait_for(&self, lack: Lack, deadline: Option<Instant>) -> Result<bool, SystemError> {
        match lack {
            Lack::Room => self.wait(state::WANTS_ROOM, deadline),
            Lack::Place => {
                self.transfers.wants_place.set(true);
                let woken = self.wait(state::WANTS_ROOM, deadline);
                self.transfers.wants_place.set(false);
                woken
            }
            Lack::Socket => {
                let left =
                    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                Ok(left != Some(Duration::ZERO) && self.doorbell.wait_writable(left)?)
            }
        }
    }

    /// The error of a post that lacked something.
    fn lacks(&self, lack: Lack) -> PostError {
        match (self.full(), lack) {
            (PostError::Full { .. }, Lack::Place | Lack::Socket) => PostError::TransfersFull {
                waiting: self.transfers.waiting().unwrap_or(MOST_WAITING) as usize,
                max: MOST_WAITING as usize,
            },
            // Also when it turned out that the channel has ended.
            (error, _) => error,
        }
    }

    /// Gives up this process's copies of a port that lives on elsewhere.
    pub(crate) fn leave(self) {
        let (doorbell, segment) = self.into_parts();
        drop(doorbell.into_socket());
        drop(segment);
    }
}

/// Why ports did not come out of a message.
enum Fault {
    /// It is not what an honest peer sends.
    Corrupt,
    /// This process lacks something.
    Shortage(SystemError),
}

impl From<ImportFault> for Fault {
    fn from(fault: ImportFault) -> Fault {
        fault
            .into_shortage()
            .map_or(Fault::Corrupt, Fault::Shortage)
    }
}

/// Makes a port of what came.
///
/// What its segment says is not the sender's word but that of whoever holds the port's peer, and may have
/// been written while it was under way. If that cannot be, it is the port that has ended, not its carrier.
fn import(handle: PortHandle) -> Result<MessagePort, Fault> {
    let error = match MessagePort::from_handle(handle) {
        Ok(port) => return Ok(port),
        Err(error) => error,
    };
    if !error.fault().is_of_content() {
        return Err(error.into_fault().into());
    }
    let PortHandle { doorbell, .. } = error.into_handle();
    MessagePort::broken(doorbell).map_err(|error| match error {
        NewError::System { call, source } => Fault::Shortage(SystemError { call, source }),
        NewError::Memory { source, .. } | NewError::Lock { source, .. } => {
            Fault::Shortage(SystemError::new("mmap", source))
        }
        NewError::Capacity { .. } => Fault::Corrupt,
    })
}

/// Taking in.
impl MessagePort {
    /// Takes in the ports that travel with `record`, which is not taken yet.
    #[cold]
    pub(crate) fn adopt(&self, record: &Record) -> Result<Ports, RecvError> {
        let sequence = self.transfers.taken.get();
        match self.map_ports(record, sequence) {
            Ok(ports) if self.doorbell.take_descriptors(sequence) => {
                self.transfers.count_taken();
                add(&self.counts.ports_received, ports.len() as u64);
                Ok(Ports::new(ports))
            }
            Ok(ports) => {
                ports.into_iter().for_each(MessagePort::leave);
                Err(self.adopted_nothing(Fault::Corrupt))
            }
            Err(fault) => Err(self.adopted_nothing(fault)),
        }
    }

    fn adopted_nothing(&self, fault: Fault) -> RecvError {
        match fault {
            Fault::Corrupt => {
                self.end_corrupt();
                RecvError::Closed(CloseReason::Corrupt)
            }
            Fault::Shortage(error) => error.into(),
        }
    }

    /// Checks and maps the ports of a record; the descriptors stay in the queue.
    fn map_ports(&self, record: &Record, sequence: u32) -> Result<Vec<MessagePort>, Fault> {
        let count = self.read_items(record).ok_or(Fault::Corrupt)?;
        let mut ports = Vec::new();
        ports
            .try_reserve_exact(count)
            .map_err(|_| Fault::Shortage(SystemError::new("malloc", Errno::ENOMEM)))?;
        let mut descriptors = self
            .peek_exactly(count * DESCRIPTORS_A_PORT, sequence)?
            .into_iter();
        while let (Some(segment), Some(doorbell)) = (descriptors.next(), descriptors.next()) {
            match import(PortHandle { segment, doorbell }) {
                Ok(port) => ports.push(port),
                Err(fault) => {
                    ports.into_iter().for_each(MessagePort::leave);
                    return Err(fault);
                }
            }
        }
        Ok(ports)
    }

    /// How many ports the record lists; `None` if it lists something else, or too many.
    fn read_items(&self, record: &Record) -> Option<usize> {
        let count = usize::from(record.items);
        let mut items = [0; MOST_PORTS];
        let items = items.get_mut(..count)?;
        let at = record.items_offset(self.consumer.ring());
        // PEER: any value is possible; this copy is checked on the next line.
        self.consumer.memory().read_to(at, items);
        items.iter().all(|item| *item == PORT).then_some(count)
    }

    /// Copies of the next descriptors in the queue, which must be so many.
    fn peek_exactly(&self, count: usize, sequence: u32) -> Result<Vec<OwnedFd>, Fault> {
        for last in [false, true] {
            let peeked = match self.doorbell.peek_descriptors(sequence) {
                Ok(Some(peeked)) => peeked,
                Ok(None) => return Err(Fault::Corrupt),
                Err(errno) => return Err(Fault::Shortage(SystemError::new("recvmsg", errno))),
            };
            if peeked.descriptors.len() == count {
                return Ok(peeked.descriptors);
            }
            if peeked.descriptors.len() > count || !peeked.truncated {
                return Err(Fault::Corrupt);
            }
            if !last {
                // A former holder may have asked for more than there is room for beside them.
                self.doorbell.reset_options();
            }
        }
        let error = SystemError::new("recvmsg(SCM_RIGHTS)", Errno::EMFILE);
        Err(Fault::Shortage(error))
    }
}

/// Descriptor messages sent and taken by one endpoint, and what it knows of the other's.
pub(crate) struct Transfers {
    own: Shared<Endpoint>,
    peer: Shared<Endpoint>,
    // Kept here, since the peer can write to the words themselves; there they are for the next holder.
    sent: Cell<u32>,
    taken: Cell<u32>,
    /// Whether who waits for room waits for a place among the transfers instead.
    wants_place: Cell<bool>,
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

    /// Whether another one can be sent, or the peer's word of it is corrupt.
    #[inline]
    pub(crate) fn has_place(&self) -> bool {
        !matches!(self.waiting(), Ok(MOST_WAITING))
    }

    #[inline(always)]
    pub(crate) fn wants_place(&self) -> bool {
        self.wants_place.get()
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
