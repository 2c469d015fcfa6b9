//! A port as two descriptors, and back.
//!
//! Unsafe relies on: a port drops its segment last, after everything that points into it.
#![allow(unsafe_code)]

use crate::barrier::Signal;
use crate::doorbell::{self, Doorbell};
use crate::error::{ImportError, ImportFault};
use crate::port::MessagePort;
use crate::ring::layout::{FIRST_POSITION, RECORD_ALIGN};
use crate::ring::{Consumer, Producer};
use crate::segment::Segment;
use crate::sync::Ordering;
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
    pub fn into_handle(self) -> PortHandle {
        self.disarm();
        self.consumer.abandon_held();
        self.gave_room();
        let (doorbell, segment) = self.into_parts();
        PortHandle {
            doorbell: doorbell.into_socket(),
            segment: segment.into_fd(),
        }
    }

    /// Makes a port of its two descriptors, checking that they are one.
    ///
    /// # Errors
    ///
    /// [`ImportError`], which says what was wrong and holds the handle.
    pub fn from_handle(handle: PortHandle) -> Result<MessagePort, ImportError> {
        let PortHandle { segment, doorbell } = handle;
        let inode = match doorbell::check_socket(&doorbell)
            .and_then(|()| doorbell::inode_of(&doorbell).map_err(ImportFault::from))
        {
            Ok(inode) => inode,
            Err(fault) => return Err(ImportError::new(fault, PortHandle { segment, doorbell })),
        };
        let segment = match Segment::import(segment) {
            Ok(segment) => segment,
            Err((fault, segment)) => {
                return Err(ImportError::new(fault, PortHandle { segment, doorbell }));
            }
        };
        let index = usize::from(inode != segment.doorbell_inode());
        match Positions::read(&segment, index) {
            Ok(positions) => Ok(MessagePort::assemble(segment, doorbell, index, &positions)),
            Err(fault) => {
                let segment = segment.into_fd();
                Err(ImportError::new(fault, PortHandle { segment, doorbell }))
            }
        }
    }

    /// Endpoint 1 of a new channel.
    pub(crate) fn first(segment: Segment, doorbell: OwnedFd) -> MessagePort {
        MessagePort::assemble(segment, doorbell, 0, &Positions::NEW)
    }

    /// Endpoint 2 of a new channel.
    pub(crate) fn second(segment: Segment, doorbell: OwnedFd) -> MessagePort {
        MessagePort::assemble(segment, doorbell, 1, &Positions::NEW)
    }

    fn assemble(
        segment: Segment,
        doorbell: OwnedFd,
        index: usize,
        positions: &Positions,
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
        MessagePort::from_parts(
            Producer::new(outgoing, own.clone(), peer, written, read_by_peer),
            Consumer::new(incoming, own, positions.incoming[1]),
            Doorbell::new(signal, doorbell),
            segment,
        )
    }
}

/// Where both rings stand: written up to, and read up to.
struct Positions {
    outgoing: [u64; 2],
    incoming: [u64; 2],
}

impl Positions {
    const NEW: Positions = Positions {
        outgoing: [FIRST_POSITION; 2],
        incoming: [FIRST_POSITION; 2],
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
        Ok(Positions {
            outgoing: check_positions(segment, index, written, read_by_peer)?,
            incoming: check_positions(segment, 1 - index, written_by_peer, read)?,
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
