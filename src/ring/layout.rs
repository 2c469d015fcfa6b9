//! The bytes two processes agree on (layout version 1), and nothing else.
//!
//! ```text
//! 0      header       written once by the creator, copied out and checked once on import
//!          0  magic "RINGPORT"              32  capacity of ring 2 → 1, u64
//!          8  layout version, u32           40  segment length, u64
//!         12  lowest reader version, u32    48  inode of endpoint 1's doorbell, u64
//!         16  feature bits, u64
//!         24  capacity of ring 1 → 2, u64
//! 1024   endpoint 1   three lines of 128 bytes, each written by its owner (bits of the state word
//!                     are also cleared, and put back, by whoever rings)
//!          0  write position u64, room target u64, descriptor messages sent u32
//!        128  read position u64, descriptor messages taken u32
//!        256  state u32
//! 1536   endpoint 2   the same
//! 4096   ring 1 → 2   capacity bytes
//!  …     ring 2 → 1   capacity bytes
//!
//! record at position p ≡ 8 (mod 16)
//! 0        8                  8+pad             8+pad+length    (rounded up to 16, plus tail)
//! | header | items, padding   | payload         | padding |
//!
//! header   0–31 payload length · 32–39 item count · 40–47 kind · 48–55 pad/16 · 56–62 tail/16 · 63 published
//! items    one byte each, in list order: 1 PORT (two descriptors: segment, doorbell)
//!
//! doorbell 0x01 rings · 0x80 | (sequence & 0x7f) carries the descriptors of the next record with items;
//!          sequence counts the descriptor messages sent in this direction before it
//! ```
//!
//! All numbers are little-endian. A line is 128 bytes because processors fetch neighbouring cache
//! lines of 64 bytes in pairs (the same size crossbeam's `CachePadded` uses on x86-64 and aarch64).

use crate::sync::{AtomicU32, AtomicU64};
use crossbeam_utils::CachePadded;

/// First bytes of every segment.
pub(crate) const MAGIC: [u8; 8] = *b"RINGPORT";
/// The layout this file describes.
pub(crate) const VERSION: u32 = 1;
/// Bytes of the header that are in use.
pub(crate) const HEADER_LEN: usize = 56;
/// Where each endpoint's lines begin.
pub(crate) const ENDPOINTS: [usize; 2] = [1024, 1536];
/// Where the first ring begins; the second follows it at once.
pub(crate) const RINGS: usize = 4096;
/// The position both ends of a new ring start at: the first that is 8 modulo 16.
pub(crate) const FIRST_POSITION: u64 = 8;

/// The segment header, as a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
    pub(crate) reader_version: u32,
    pub(crate) features: u64,
    /// Capacities of ring 1 → 2 and ring 2 → 1, in bytes.
    pub(crate) capacities: [u64; 2],
    pub(crate) segment_len: u64,
    pub(crate) doorbell_inode: u64,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&self.magic);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.reader_version.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.features.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.capacities[0].to_le_bytes());
        bytes[32..40].copy_from_slice(&self.capacities[1].to_le_bytes());
        bytes[40..48].copy_from_slice(&self.segment_len.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.doorbell_inode.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Header {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let mut magic = [0; 8];
        magic.copy_from_slice(&bytes[0..8]);
        Header {
            magic,
            version: u32_at(8),
            reader_version: u32_at(12),
            features: u64_at(16),
            capacities: [u64_at(24), u64_at(32)],
            segment_len: u64_at(40),
            doorbell_inode: u64_at(48),
        }
    }
}

/// What one endpoint writes about its outgoing ring.
#[repr(C)]
pub(crate) struct Posting {
    pub(crate) write_position: AtomicU64,
    /// The read position from which on a poster that waits for room wants to be rung.
    pub(crate) room_target: AtomicU64,
    pub(crate) descriptors_sent: AtomicU32,
}

/// What one endpoint writes about its incoming ring.
#[repr(C)]
pub(crate) struct Taking {
    pub(crate) read_position: AtomicU64,
    pub(crate) descriptors_taken: AtomicU32,
}

/// The three lines of an endpoint.
#[repr(C)]
pub(crate) struct Endpoint {
    pub(crate) posting: CachePadded<Posting>,
    pub(crate) taking: CachePadded<Taking>,
    pub(crate) state: CachePadded<AtomicU32>,
}

impl Endpoint {
    /// An endpoint of a new channel. Positions other than [`FIRST_POSITION`] are for tests.
    pub(crate) fn new(write_position: u64, read_position: u64) -> Endpoint {
        Endpoint {
            posting: CachePadded::new(Posting {
                write_position: AtomicU64::new(write_position),
                room_target: AtomicU64::new(0),
                descriptors_sent: AtomicU32::new(0),
            }),
            taking: CachePadded::new(Taking {
                read_position: AtomicU64::new(read_position),
                descriptors_taken: AtomicU32::new(0),
            }),
            state: CachePadded::new(AtomicU32::new(state::FENCED)),
        }
    }
}

/// Bits of an endpoint's state word.
pub(crate) mod state {
    /// Who posts to this endpoint, or gives it room, pays for the barrier.
    pub(crate) const FENCED: u32 = 1;
    /// Asleep until a message comes.
    pub(crate) const WANTS_MESSAGE: u32 = 2;
    /// Asleep until the peer's read position reaches the room target.
    pub(crate) const WANTS_ROOM: u32 = 4;
    /// Closed in good order by its owner.
    pub(crate) const CLOSED: u32 = 8;
}

#[cfg(not(loom))]
const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(cfg!(target_endian = "little"));
    assert!(offset_of!(Endpoint, posting) == 0);
    assert!(offset_of!(Posting, write_position) == 0);
    assert!(offset_of!(Posting, room_target) == 8);
    assert!(offset_of!(Posting, descriptors_sent) == 16);
    assert!(offset_of!(Endpoint, taking) == 128);
    assert!(offset_of!(Taking, read_position) == 0);
    assert!(offset_of!(Taking, descriptors_taken) == 8);
    assert!(offset_of!(Endpoint, state) == 256);
    assert!(size_of::<Endpoint>() <= ENDPOINTS[1] - ENDPOINTS[0]);
    assert!(HEADER_LEN <= ENDPOINTS[0]);
    assert!(ENDPOINTS[1] + size_of::<Endpoint>() <= RINGS);
};

/// Bytes of a record's header; also what keeps payloads 16-aligned at positions 8 modulo 16.
pub(crate) const RECORD_HEADER: usize = 8;
/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;
/// Records take up multiples of this many bytes.
pub(crate) const RECORD_ALIGN: usize = 16;
/// The largest alignment a payload can be given.
pub(crate) const MAX_PAYLOAD_ALIGN: usize = 128;

const PUBLISHED: u64 = 1 << 63;
const KIND_MESSAGE: u64 = 1;
const KIND_WRAP: u64 = 2;

/// The header of a record that says: the next record starts at the ring's offset 8.
pub(crate) const WRAP: u64 = PUBLISHED | KIND_WRAP << 40;

/// The header of a message record: payload bytes, items, and padding bytes before the payload and after
/// the record (multiples of 16 below 4096 and 2048).
#[inline(always)]
pub(crate) const fn message_header(len: usize, items: u8, pad: usize, tail: usize) -> u64 {
    PUBLISHED
        | (tail as u64 / 16) << 56
        | (pad as u64 / 16) << 48
        | KIND_MESSAGE << 40
        | (items as u64) << 32
        | len as u64
}

/// What a published header word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordHeader {
    Message {
        len: usize,
        items: u8,
        pad: usize,
        tail: usize,
    },
    Wrap,
}

/// Takes a header word apart; `None` if no ringport of this version writes such a word.
#[inline(always)]
pub(crate) const fn parse_header(word: u64) -> Option<RecordHeader> {
    const LEN: u64 = 0xffff_ffff;
    const ITEMS: u64 = 0xff << 32;
    const PAD: u64 = 0xff << 48;
    const TAIL: u64 = 0x7f << 56;
    // Every other bit is fixed: published, and the kind.
    if word & !(LEN | ITEMS | PAD | TAIL) == PUBLISHED | KIND_MESSAGE << 40 {
        Some(RecordHeader::Message {
            len: (word & LEN) as usize,
            items: ((word & ITEMS) >> 32) as u8,
            pad: ((word & PAD) >> 48) as usize * 16,
            tail: ((word & TAIL) >> 56) as usize * 16,
        })
    } else if word == WRAP {
        Some(RecordHeader::Wrap)
    } else {
        None
    }
}

/// Bytes between header and payload that so many items take up, for a payload aligned to 16.
pub(crate) const fn items_size(items: usize) -> usize {
    (items + (RECORD_ALIGN - 1)) & !(RECORD_ALIGN - 1)
}

/// Bytes a record takes up without its tail, header and padding included.
#[inline(always)]
pub(crate) const fn record_size(len: usize, pad: usize) -> usize {
    (RECORD_HEADER + pad + len + (RECORD_ALIGN - 1)) & !(RECORD_ALIGN - 1)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_from_its_bytes() {
        let header = Header {
            magic: MAGIC,
            version: 1,
            reader_version: 2,
            features: 3 << 40,
            capacities: [4096, 1 << 30],
            segment_len: u64::MAX,
            doorbell_inode: 0x0123_4567_89ab_cdef,
        };
        assert_eq!(Header::from_bytes(&header.to_bytes()), header);
    }

    #[test]
    fn only_words_that_this_version_writes_are_headers() {
        for len in [0, 1, 48, 0xffff_ffff] {
            for (items, pad, tail) in [
                (0, 0, 0),
                (0, 16, 0),
                (16, 16, 0),
                (126, 128, 48),
                (0, 112, 48),
                (255, 255 * 16, 127 * 16),
            ] {
                let word = message_header(len, items, pad, tail);
                let parsed = RecordHeader::Message {
                    len,
                    items,
                    pad,
                    tail,
                };
                assert_eq!(parse_header(word), Some(parsed));
                for bit in (40..48).chain([63]) {
                    assert_eq!(
                        parse_header(word ^ 1 << bit),
                        None,
                        "bit {bit} of {word:#x}"
                    );
                }
            }
        }
        assert_eq!(parse_header(WRAP), Some(RecordHeader::Wrap));
        for bit in 0..64 {
            assert_eq!(parse_header(WRAP ^ 1 << bit), None, "bit {bit}");
        }
        assert_eq!(parse_header(0), None);
    }

    #[test]
    fn record_sizes_round_up_to_sixteen() {
        assert_eq!(record_size(0, 0), 16);
        assert_eq!(record_size(8, 0), 16);
        assert_eq!(record_size(9, 0), 32);
        assert_eq!(record_size(56, 0), 64);
        assert_eq!(record_size(8, 112), 128);
    }
}
