//! Sending ports off with a message.

use super::{MOST_PORTS, MOST_WAITING, PORT};
use crate::error::{CloseReason, PostError, SystemError, TransferError};
use crate::port::MessagePort;
use crate::ring::layout::{items_size, state};
use crate::ring::{Corrupt, Place};
use crate::stats::add;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

/// How long a post waits.
#[derive(Clone, Copy)]
pub(super) enum Patience {
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
    pub(super) fn transfer(
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

    /// Checks that none of these ports was closed here, and that none is this one's peer. For the C interface too, which
    /// has to before it looks whether they can leave where they are.
    #[doc(hidden)]
    pub fn check_cargo<'p>(
        &self,
        ports: impl Iterator<Item = &'p MessagePort> + Clone,
    ) -> Result<(), PostError> {
        if let Some(index) = ports.clone().position(MessagePort::ended_here) {
            return Err(PostError::ClosedPort { index });
        }
        let mut ports = ports;
        if let Some(index) = ports.position(|port| port.segment.is_same(&self.segment)) {
            return Err(PostError::OwnPeer { index });
        }
        Ok(())
    }

    /// Checks ports that are to travel, and has them leave everything in their segments.
    fn load(&self, ports: &[MessagePort]) -> Result<Cargo, PostError> {
        self.check_cargo(ports.iter())?;
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
        // No more than 126.
        let items = cargo.items.len() as u8;
        let place = place.behind_items(items);
        self.producer.memory().write(place.items(), &cargo.items);
        // The value's own code may have closed this port.
        self.check_open()?;
        if let Err(lack) = self.send_off(cargo)? {
            return Ok(Err(lack));
        }
        self.producer.append_with(&mut draft, &place, items);
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
                self.producer.want_nothing();
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
