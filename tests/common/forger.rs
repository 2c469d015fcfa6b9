//! A dishonest peer: the two descriptors of a port, bare, in the hands of somebody who writes whatever he
//! likes into its memory and its socket. He can also write faithfully, so that a test can break one
//! thing at a time.

#![allow(dead_code)] // each test binary uses a part of it

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use ringport::{MessagePort, PortHandle};

use crate::common::channel_of;

/// Where an endpoint's words are, from its first line on.
pub const WRITE_POSITION: usize = 0;
pub const ROOM_TARGET: usize = 8;
pub const DESCRIPTORS_SENT: usize = 16;
pub const READ_POSITION: usize = 128;
pub const DESCRIPTORS_TAKEN: usize = 136;
pub const STATE: usize = 256;
pub const WORDS: [usize; 6] = [
    WRITE_POSITION,
    ROOM_TARGET,
    DESCRIPTORS_SENT,
    READ_POSITION,
    DESCRIPTORS_TAKEN,
    STATE,
];

/// Bits of a state word.
pub const FENCED: u32 = 1;
pub const WANTS_MESSAGE: u32 = 2;
pub const WANTS_ROOM: u32 = 4;
pub const CLOSED: u32 = 8;

/// A record's kinds, and the only item there is.
pub const MESSAGE: u64 = 1;
pub const WRAP_KIND: u64 = 2;
pub const WRAP: u64 = 1 << 63 | WRAP_KIND << 40;
pub const PORT: u8 = 1;

/// The byte that rings.
pub const RING: u8 = 0x01;

const CAPACITIES: [usize; 2] = [24, 32];
const DOORBELL_INODE: usize = 48;
const ENDPOINTS: [usize; 2] = [1024, 1536];
const RINGS: usize = 4096;

/// Bytes of each ring on a [`stage`].
pub const CAPACITY: usize = 4096;

/// The published header of a message: bytes of payload, items, and padding before and after in sixteens.
pub fn header(len: u64, items: u64, pad: u64, tail: u64) -> u64 {
    1 << 63 | tail << 56 | pad << 48 | MESSAGE << 40 | items << 32 | len
}

pub struct Forger {
    map: MmapRaw,
    handle: PortHandle,
    index: usize,
    capacities: [usize; 2],
    /// Where the next faithful record goes.
    cursor: AtomicU64,
    /// Faithful descriptor messages sent.
    sent: AtomicU32,
}

impl Forger {
    pub fn of(port: MessagePort) -> Forger {
        let handle = port.into_handle();
        let map = MmapOptions::new().map_raw(&handle.segment).unwrap();
        let mut forger = Forger {
            map,
            handle,
            index: 0,
            capacities: [0; 2],
            cursor: AtomicU64::new(0),
            sent: AtomicU32::new(0),
        };
        let inode = nix::sys::stat::fstat(&forger.handle.doorbell)
            .unwrap()
            .st_ino;
        forger.index = usize::from(forger.get(DOORBELL_INODE) != inode);
        forger.capacities = CAPACITIES.map(|at| forger.get(at) as usize);
        let cursor = forger.get(forger.mine(WRITE_POSITION));
        forger.cursor.store(cursor, Ordering::Relaxed);
        let sent = forger.get32(forger.mine(DESCRIPTORS_SENT));
        forger.sent.store(sent, Ordering::Relaxed);
        forger
    }

    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.handle.doorbell.as_fd()
    }

    /// What it holds, once more.
    pub fn duplicate(&self) -> PortHandle {
        PortHandle {
            segment: self.handle.segment.try_clone().unwrap(),
            doorbell: self.handle.doorbell.try_clone().unwrap(),
        }
    }

    /// Its memory file.
    pub fn segment(&self) -> &OwnedFd {
        &self.handle.segment
    }
}

/// Any word of the segment.
impl Forger {
    /// Where a word of its own endpoint is.
    pub fn mine(&self, word: usize) -> usize {
        ENDPOINTS[self.index] + word
    }

    /// Where a word of the victim's endpoint is.
    pub fn theirs(&self, word: usize) -> usize {
        ENDPOINTS[1 - self.index] + word
    }

    /// Where the byte of this position is, in the ring that the victim reads.
    pub fn at(&self, position: u64) -> usize {
        RINGS + self.index * self.capacities[0] + self.offset(position)
    }

    /// The offset of a position in the ring that the victim reads.
    pub fn offset(&self, position: u64) -> usize {
        position as usize & (self.capacity() - 1)
    }

    /// Bytes of the ring that the victim reads.
    pub fn capacity(&self) -> usize {
        self.capacities[self.index]
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at % 8 == 0 && at + 8 <= self.map.len());
        // SAFETY: inside the map, which is page-aligned and lives as long as `self`; nothing in this
        // process refers to it but by atomics and raw copies.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(at).cast()) }
    }

    fn half(&self, at: usize) -> &AtomicU32 {
        assert!(at % 4 == 0 && at + 4 <= self.map.len());
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(at).cast()) }
    }

    pub fn get(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::SeqCst)
    }

    pub fn set(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::SeqCst);
    }

    pub fn get32(&self, at: usize) -> u32 {
        self.half(at).load(Ordering::SeqCst)
    }

    pub fn set32(&self, at: usize, value: u32) {
        self.half(at).store(value, Ordering::SeqCst);
    }

    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.map.len());
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the map; see `word`.
            unsafe { self.map.as_mut_ptr().add(at + index).write_volatile(*byte) };
        }
    }

    pub fn read(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.map.len());
        // SAFETY: inside the map; see `word`.
        let byte = |index| unsafe { self.map.as_ptr().add(at + index).read_volatile() };
        (0..len).map(byte).collect()
    }

    /// Everything that the victim has no business to write to: all but its own lines, its own ring, and
    /// the bits of the other state word that whoever rings takes away.
    pub fn beyond_the_victim(&self) -> Vec<u64> {
        let lines = [0, 128].map(|line| self.theirs(line)..self.theirs(line) + 128);
        let states = [self.theirs(STATE), self.mine(STATE)].map(|at| at..at + 8);
        let ring = RINGS + (1 - self.index) * self.capacities[0];
        let ring = ring..ring + self.capacities[1 - self.index];
        let may = |at: &usize| {
            lines.iter().chain(&states).any(|range| range.contains(at)) || ring.contains(at)
        };
        let words = (0..self.map.len()).step_by(8);
        words.filter(|at| !may(at)).map(|at| self.get(at)).collect()
    }

    /// Lets both rings stand, empty, at a position of a record. For a channel that nobody has used yet.
    pub fn stand_at(&self, position: u64) {
        for endpoint in ENDPOINTS {
            self.set(endpoint + WRITE_POSITION, position);
            self.set(endpoint + READ_POSITION, position);
        }
        self.cursor.store(position, Ordering::Relaxed);
    }

    /// As if so many descriptor messages had gone each way.
    pub fn count_descriptors_from(&self, count: u32) {
        for endpoint in ENDPOINTS {
            self.set32(endpoint + DESCRIPTORS_SENT, count);
            self.set32(endpoint + DESCRIPTORS_TAKEN, count);
        }
        self.sent.store(count, Ordering::Relaxed);
    }
}

/// Faithful work, as the library would do it, though without looking for room.
impl Forger {
    pub fn cursor(&self) -> u64 {
        self.cursor.load(Ordering::Relaxed)
    }

    /// Posts a record, and says at which position it stands.
    pub fn post(&self, items: &[u8], payload: &[u8]) -> u64 {
        let pad = items.len().next_multiple_of(16);
        let size = (8 + pad + payload.len()).next_multiple_of(16);
        let (start, capacity) = (self.cursor(), self.capacity());
        let wraps = self.offset(start) + size > capacity;
        let position = if wraps {
            start
                .wrapping_sub(self.offset(start) as u64)
                .wrapping_add(capacity as u64 + 8)
        } else {
            start
        };
        let end = position.wrapping_add(size as u64);
        self.set(self.at(end), 0);
        self.write(self.at(position) + 8, items);
        self.write(self.at(position) + 8 + pad, payload);
        self.cursor.store(end, Ordering::Relaxed);
        self.set(self.mine(WRITE_POSITION), end);
        let word = header(payload.len() as u64, items.len() as u64, pad as u64 / 16, 0);
        self.set(self.at(position), word);
        if wraps {
            self.set(self.at(start), WRAP);
        }
        position
    }

    /// The byte that a faithful peer would send next with descriptors.
    pub fn descriptor_byte(&self) -> u8 {
        0x80 | self.sent.load(Ordering::Relaxed) as u8 & 0x7f
    }

    /// Sends the descriptors of these ports with the right byte, and keeps none of them. Says how many ports
    /// they were.
    pub fn send_ports(&self, ports: Vec<MessagePort>) -> io::Result<usize> {
        let handles: Vec<_> = ports.into_iter().map(MessagePort::into_handle).collect();
        let pairs = handles
            .iter()
            .flat_map(|handle| [handle.segment.as_fd(), handle.doorbell.as_fd()]);
        let descriptors: Vec<_> = pairs.collect();
        self.send(&[self.descriptor_byte()], &descriptors)?;
        let sent = self.sent.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.set32(self.mine(DESCRIPTORS_SENT), sent);
        Ok(handles.len())
    }

    /// Posts a message with ports.
    pub fn post_ports(&self, payload: &[u8], ports: Vec<MessagePort>) {
        let count = self.send_ports(ports).unwrap();
        self.post(&vec![PORT; count], payload);
    }

    /// Sends bytes over the doorbell, with descriptors.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        send(self.doorbell(), bytes, descriptors)
    }

    /// Gives the victim all room, as if everything it posted had been read.
    pub fn read_all(&self) {
        self.set(
            self.mine(READ_POSITION),
            self.get(self.theirs(WRITE_POSITION)),
        );
    }

    /// Throws away what waits on the doorbell; the kernel closes what came with it.
    pub fn drain(&self) {
        let mut bytes = [0; 256];
        let fd = self.doorbell().as_raw_fd();
        while matches!(nix::sys::socket::recv(fd, &mut bytes, MsgFlags::MSG_DONTWAIT), Ok(read) if read > 0)
        {
        }
    }
}

/// Sends bytes over any socket, with descriptors, without waiting.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() {
        &[][..]
    } else {
        &rights[..]
    };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let data = [IoSlice::new(bytes)];
    Ok(sendmsg::<()>(
        socket.as_raw_fd(),
        &data,
        control,
        flags,
        None,
    )?)
}

/// A victim and who holds the other end, both rings empty and standing at `position`.
pub fn stage(victim_is_first: bool, position: u64) -> (MessagePort, Forger) {
    let (port1, port2) = channel_of(CAPACITY);
    let (victim, other) = if victim_is_first {
        (port1, port2)
    } else {
        (port2, port1)
    };
    let victim = victim.into_handle();
    let forger = Forger::of(other);
    forger.stand_at(position);
    (MessagePort::from_handle(victim).unwrap(), forger)
}
