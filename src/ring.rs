//! A single-producer single-consumer ring of records whose headers stand in band.
//!
//! There is no shared tail. The consumer polls the header word at its own position; zero means that
//! nothing is published there yet, and the producer publishes with one Release store of that word. A
//! short message so costs one transfer of a cache line, where a ring of indices costs two.
//!
//! *Invariant:* when a header is published, the word after its record is already zero. So the
//! consumer never takes old bytes for a header. A producer that zeroed ahead while it waited, and has
//! written nothing there since, knows that it is zero and stores nothing.
//!
//! Positions count bytes and go on from lap to lap, modulo 2^64; masking one gives its offset.

mod consumer;
#[cfg(not(loom))]
mod hint;
pub(crate) mod layout;
mod memory;
mod producer;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod model_tests;

pub(crate) use consumer::Consumer;
#[cfg(not(loom))]
pub(crate) use consumer::Record;
pub(crate) use memory::{Memory, Shared};
#[cfg(not(loom))]
pub(crate) use producer::Draft;
pub(crate) use producer::{Place, Producer, Refused};

use layout::{LINE, RECORD_ALIGN, RECORD_HEADER, record_size};

/// How far ahead of its work a side has cache lines fetched, in bytes. Four lines are enough to hide some
/// 150 ns at 40 ns a line, and few enough to lie in the first-level cache until they are used.
const FETCH_AHEAD: u64 = 256;

/// Lines that are fetched ahead besides the last one, when the work goes on from one position to another that is
/// more than a line away. A few; what is longer has its lines fetched side by side as it is copied.
fn more_lines_ahead(from: u64, to: u64) -> impl Iterator<Item = u64> {
    let line = LINE as u64;
    let count = (to / line).wrapping_sub(from / line).min(4);
    (1..count).map(move |at| to.wrapping_add(FETCH_AHEAD).wrapping_sub(at * line))
}

/// The other side wrote what no ringport writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Corrupt;

/// The arithmetic of one ring, from its capacity in bytes (a power of two, at least 64).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    capacity: usize,
}

impl Geometry {
    pub(crate) const fn new(capacity: usize) -> Geometry {
        debug_assert!(capacity.is_power_of_two() && capacity >= 64);
        Geometry { capacity }
    }

    #[inline(always)]
    pub(crate) const fn capacity(self) -> usize {
        self.capacity
    }

    #[inline(always)]
    pub(crate) const fn offset(self, position: u64) -> usize {
        position as usize & (self.capacity - 1)
    }

    /// The position of the ring's offset 8 on the lap after `position`: where a WRAP leads.
    #[inline(always)]
    const fn next_lap(self, position: u64) -> u64 {
        position
            .wrapping_sub(self.offset(position) as u64)
            .wrapping_add((self.capacity + RECORD_HEADER) as u64)
    }

    /// The largest record, header and padding included: one that fits an empty ring at every offset,
    /// also when it has to start on the next lap.
    #[inline(always)]
    pub(crate) const fn max_record(self) -> usize {
        self.capacity / 2 - RECORD_ALIGN
    }

    /// The longest payload, in bytes, that fits such a record with the given alignment: at most a
    /// quarter of the capacity.
    #[inline(always)]
    pub(crate) const fn max_len(self, align: usize) -> usize {
        (self.max_record() - RECORD_HEADER).saturating_sub(align - RECORD_ALIGN)
    }

    /// Where a record of `len` payload bytes goes, if the next free position is `cursor`.
    #[inline(always)]
    pub(crate) fn place(self, cursor: u64, len: usize, align: usize) -> Place {
        let place = Place::at(cursor, self.offset(cursor), len, align);
        if place.offset + record_size(len, place.pad) <= self.capacity {
            return place;
        }
        Place::at(self.on_next_lap(cursor), RECORD_HEADER, len, align)
    }

    // A call, so that nobody computes both places and chooses.
    #[cold]
    #[inline(never)]
    fn on_next_lap(self, cursor: u64) -> u64 {
        self.next_lap(cursor)
    }
}
