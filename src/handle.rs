//! A port as two descriptors, and back.
//!
//! Unsafe relies on: a port drops its segment last, after everything that points into it.
#![allow(unsafe_code)]

use crate::barrier::Signal;
use crate::channel::{ChannelOptions, MIN_CAPACITY};
use crate::doorbell::Doorbell;
use crate::error::{CloseReason, ImportError, ImportFault, NewError};
use crate::fork::Home;
use crate::port::MessagePort;
use crate::ring::layout::{FIRST_POSITION, RECORD_ALIGN};
use crate::ring::{Consumer, Producer};
use crate::segment::Segment;
use crate::socket::{check_socket, inode_of, reset};
use crate::sync::Ordering;
use crate::transfer::Transfers;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::os::fd::OwnedFd;

/// A port as the two descriptors that are all of it: pass them on in any way, and the port has moved.
///
/// Dropping a handle closes the port; the peer then finds it [gone](crate::CloseReason::PeerGone).
#[derive(Debug)]
pub struct PortHandle {
    /// The channel's memory: a sealed memfd.
    pub segment: OwnedFd,
    /// This end of the channel's Unix socket pair.
    pub doorbell: OwnedFd,
}

impl MessagePort {
    /// Takes the port apart into its two descriptors, without closing it. What waits to be received
    /// stays with it.
    ///
    /// In a forked child these are descriptors of a port that is still the parent's: close them.
    pub fn into_handle(self) -> PortHandle {
        self.settle();
        let (doorbell, segment) = self.into_parts();
        PortHandle {
            doorbell: doorbell.into_socket(),
            segment: segment.into_fd(),
        }
    }

    /// Leaves in the segment all that the port's next holder has to find there.
    pub(crate) fn settle(&self) {
        if self.is_home() {
            self.disarm();
            self.consumer.abandon_held();
            self.gave_room();
        }
    }

    /// Makes a port of its two descriptors, checking that they are one. From then on both close on exec.
    ///
    /// # Errors
    ///
    /// [`ImportError`], which says what was wrong and holds the handle.
    pub fn from_handle(handle: PortHandle) -> Result<MessagePort, ImportError> {
        let port = MessagePort::from_received(handle)?;
        for fd in [port.segment.file(), port.doorbell.socket()] {
            // They are open, so it cannot fail.
            let _ = fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
        Ok(port)
    }

    /// The same for descriptors that were received, and so close on exec already.
    pub(crate) fn from_received(handle: PortHandle) -> Result<MessagePort, ImportError> {
        let PortHandle { segment, doorbell } = handle;
        MessagePort::import(segment, doorbell).map_err(|(fault, segment, doorbell)| {
            ImportError::new(fault, PortHandle { segment, doorbell })
        })
    }

    fn import(
        segment: OwnedFd,
        doorbell: OwnedFd,
    ) -> Result<MessagePort, (ImportFault, OwnedFd, OwnedFd)> {
        let (home, inode) = match check_doorbell(&doorbell) {
            Ok(found) => found,
            Err(fault) => return Err((fault, segment, doorbell)),
        };
        let segment = match Segment::import(segment) {
            Ok(segment) => segment,
            Err((fault, segment)) => return Err((fault, segment, doorbell)),
        };
        let index = endpoint(&segment, inode);
        match Positions::read(&segment, index) {
            Ok(positions) => {
                reset(&doorbell);
                Ok(MessagePort::assemble(
                    segment, doorbell, index, &positions, home,
                ))
            }
            Err(fault) => Err((fault, segment.into_fd(), doorbell)),
        }
    }

    /// Endpoint 2 of a channel that whoever connected has made; the connection is its doorbell.
    pub(crate) fn import_second(
        segment: OwnedFd,
        doorbell: OwnedFd,
        home: Home,
    ) -> Result<MessagePort, ImportFault> {
        let inode = inode_of(&doorbell)?;
        let segment = Segment::import(segment).map_err(|(fault, _)| fault)?;
        if endpoint(&segment, inode) != 1 {
            // It would be endpoint 1 wherever it moves, as its peer is.
            return Err(ImportFault::NotADoorbell {
                found: "the doorbell of the other end",
            });
        }
        let positions = Positions::read(&segment, 1)?;
        Ok(MessagePort::assemble(
            segment, doorbell, 1, &positions, home,
        ))
    }

    /// A port whose segment is none that can be used. It has ended, with an empty segment in its place; its
    /// peer is still to be told, by hanging up.
    pub(crate) fn broken(doorbell: OwnedFd) -> Result<MessagePort, NewError> {
        let home = Home::here()?;
        let options = ChannelOptions::new().capacity(MIN_CAPACITY);
        let segment = Segment::create(&options, inode_of(&doorbell)?)?;
        let port = MessagePort::first(segment, doorbell, home);
        port.ended.set(Some(CloseReason::Corrupt));
        Ok(port)
    }

    /// Endpoint 1 of a new channel.
    pub(crate) fn first(segment: Segment, doorbell: OwnedFd, home: Home) -> MessagePort {
        MessagePort::assemble(segment, doorbell, 0, &Positions::NEW, home)
    }

    /// Endpoint 2 of a new channel.
    pub(crate) fn second(segment: Segment, doorbell: OwnedFd, home: Home) -> MessagePort {
        MessagePort::assemble(segment, doorbell, 1, &Positions::NEW, home)
    }

    fn assemble(
        segment: Segment,
        doorbell: OwnedFd,
        index: usize,
        positions: &Positions,
        home: Home,
    ) -> MessagePort {
        let other = 1 - index;
        // SAFETY: all of these go into the port, which drops the segment last.
        let (own, peer, outgoing, incoming) = unsafe {
            (
                segment.endpoint(index),
                segment.endpoint(other),
                segment.ring(index),
                segment.ring(other),
            )
        };
        let signal = Signal::new(own.clone(), peer.clone());
        let [written, read_by_peer] = positions.outgoing;
        let [sent, taken] = positions.descriptors;
        MessagePort::from_parts(
            Producer::new(outgoing, own.clone(), peer.clone(), written, read_by_peer),
            Consumer::new(incoming, own.clone(), positions.incoming[1]),
            Transfers::new(own, peer, sent, taken),
            Doorbell::new(signal, doorbell, home),
            segment,
        )
    }
}

/// Which endpoint (0 or 1) the doorbell of this inode belongs to.
fn endpoint(segment: &Segment, inode: u64) -> usize {
    usize::from(inode != segment.doorbell_inode())
}

fn check_doorbell(doorbell: &OwnedFd) -> Result<(Home, u64), ImportFault> {
    check_socket(doorbell)?;
    Ok((Home::here()?, inode_of(doorbell)?))
}

/// Where both rings stand (written up to, and read up to), and how many descriptor messages this side has
/// sent and taken.
struct Positions {
    outgoing: [u64; 2],
    incoming: [u64; 2],
    descriptors: [u32; 2],
}

impl Positions {
    const NEW: Positions = Positions {
        outgoing: [FIRST_POSITION; 2],
        incoming: [FIRST_POSITION; 2],
        descriptors: [0; 2],
    };

    /// Reads the positions of a segment from elsewhere, once, and checks them.
    fn read(segment: &Segment, index: usize) -> Result<Positions, ImportFault> {
        // SAFETY: used in this function only.
        let (own, peer) = unsafe { (segment.endpoint(index), segment.endpoint(1 - index)) };
        // ORDERING: the read positions are loaded first, and Acquire pairs with the Release in
        // `Consumer::store_read_position`: what was read had been written, so a peer at work does not
        // make a ring look as if more had been read than written.
        // PEER: any value is possible; checked below.
        let read_by_peer = peer.taking.read_position.load(Ordering::Acquire);
        let read = own.taking.read_position.load(Ordering::Acquire);
        let written = own.posting.write_position.load(Ordering::Acquire);
        let written_by_peer = peer.posting.write_position.load(Ordering::Acquire);
        // Relaxed, because what is counted is in the kernel's queue, which has an order of its own.
        // PEER: any value is possible. A count that is not the peer's own ends the channel at the first
        // transfer, by a wrong sequence number.
        let sent = own.posting.descriptors_sent.load(Ordering::Relaxed);
        let taken = own.taking.descriptors_taken.load(Ordering::Relaxed);
        Ok(Positions {
            outgoing: check_positions(segment, index, written, read_by_peer)?,
            incoming: check_positions(segment, 1 - index, written_by_peer, read)?,
            descriptors: [sent, taken],
        })
    }
}

fn check_positions(
    segment: &Segment,
    ring: usize,
    write: u64,
    read: u64,
) -> Result<[u64; 2], ImportFault> {
    let capacity = segment.capacity(ring);
    let record = |position: u64| position % RECORD_ALIGN as u64 == FIRST_POSITION;
    if record(write) && record(read) && write.wrapping_sub(read) <= capacity as u64 {
        Ok([write, read])
    } else {
        Err(ImportFault::Positions {
            read,
            write,
            capacity,
        })
    }
}
