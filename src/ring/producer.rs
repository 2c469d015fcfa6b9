//! The posting half of a ring: find a place, fill it, publish it.
//!
//! Whatever is under way (a slot, a batch, a serialisation) is a [`Draft`]: records whose headers may
//! already stand in the ring, except the first one. Publishing the first publishes all of them;
//! dropping the draft publishes nothing and leaves no trace, since the word at the write position
//! is still zero.

use super::layout::{
    Endpoint, LINE, RECORD_ALIGN, RECORD_HEADER, WRAP, items_size, message_header, record_size,
};
use super::{Corrupt, FETCH_AHEAD, Geometry, Memory, Shared, more_lines_ahead};
use crate::sync::Ordering;
use core::cell::Cell;

/// Bytes from `position` to the first word of a line at which a record can begin.
#[inline(always)]
fn until_line(position: u64) -> u64 {
    (RECORD_HEADER as u64).wrapping_sub(position) & (LINE as u64 - 1)
}

/// What is longer is not pushed out, in bytes: there the lines' way takes the time, whoever begins it. (Measured at 128
/// bytes to 1 KiB; the rest is a guess.)
const MOST_PUSHED_OUT: i64 = 8192;

/// Why there is no place for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No room now; there will be.
    Full,
    /// There never will be.
    TooLarge,
    Corrupt,
}

impl From<Corrupt> for Refused {
    fn from(Corrupt: Corrupt) -> Refused {
        Refused::Corrupt
    }
}

/// Where one record goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Position of the header.
    position: u64,
    /// The same, as an offset into the ring.
    pub(super) offset: usize,
    /// Bytes between header and payload.
    pub(super) pad: usize,
    len: usize,
}

impl Place {
    #[inline(always)]
    pub(super) fn at(position: u64, offset: usize, len: usize, align: usize) -> Place {
        // Offsets are 8 modulo 16, so that payloads are 16-aligned as they are.
        let pad = if align == RECORD_ALIGN {
            0
        } else {
            (offset + RECORD_HEADER).wrapping_neg() & (align - 1)
        };
        Place {
            position,
            offset,
            pad,
            len,
        }
    }

    /// The same place, its first bytes given to items: see [`items`](Place::items).
    pub(crate) fn behind_items(self, items: u8) -> Place {
        let size = items_size(items.into());
        debug_assert!(size <= self.len);
        Place {
            pad: self.pad + size,
            len: self.len - size,
            ..self
        }
    }

    /// Offset of the items.
    pub(crate) fn items(&self) -> usize {
        self.offset + RECORD_HEADER
    }

    /// Offset of the payload.
    #[inline(always)]
    pub(crate) fn payload(&self) -> usize {
        self.offset + RECORD_HEADER + self.pad
    }

    /// Bytes of payload.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The position after the record.
    #[inline(always)]
    fn end(&self) -> u64 {
        self.position
            .wrapping_add(record_size(self.len, self.pad) as u64)
    }

    /// The same place for a payload of no more than the length it was made for.
    #[inline(always)]
    pub(crate) fn shortened(self, len: usize) -> Place {
        debug_assert!(len <= self.len);
        Place { len, ..self }
    }
}

/// A place for a payload whose length is not known yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenPlace {
    place: Place,
    /// What the producer's `touched` was before.
    touched: u64,
}

impl OpenPlace {
    /// Offset of the payload.
    pub(crate) fn payload(&self) -> usize {
        self.place.payload()
    }

    /// Bytes that may be written.
    pub(crate) fn room(&self) -> usize {
        self.place.len
    }
}

/// Records that are written and not yet published.
#[derive(Debug)]
pub(crate) struct Draft {
    start: u64,
    cursor: u64,
    /// The header that belongs at `start`; zero as long as there is none.
    first: u64,
}

impl Draft {
    /// Where the next record goes.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }
}

pub(crate) struct Producer {
    ring: Geometry,
    memory: Memory,
    own: Shared<Endpoint>,
    peer: Shared<Endpoint>,
    /// The next record's position.
    write: Cell<u64>,
    /// The peer's read position as last seen, plus the capacity: nothing may be written from here on.
    limit: Cell<u64>,
    /// Zeroed ahead up to this position, from `touched` on: the first word of each line at which a record can
    /// begin. With a tail, every record but the last of a lap ends in front of such a word.
    zeroed: Cell<u64>,
    /// The end of the furthest place handed out: nothing was written from here on since the zeroing.
    touched: Cell<u64>,
    /// What the last post that found no room would have needed: the end of its record.
    wanted: Cell<u64>,
    /// Size of the last draft published, in bytes.
    last_size: Cell<usize>,
}

impl Producer {
    /// Continues at `write`, with the peer's read position at `read`: both checked by the caller.
    pub(crate) fn new(
        memory: Memory,
        own: Shared<Endpoint>,
        peer: Shared<Endpoint>,
        write: u64,
        read: u64,
    ) -> Producer {
        let ring = Geometry::new(memory.len());
        Producer {
            ring,
            own,
            peer,
            write: Cell::new(write),
            limit: Cell::new(read.wrapping_add(ring.capacity() as u64)),
            zeroed: Cell::new(write),
            touched: Cell::new(write),
            wanted: Cell::new(write),
            last_size: Cell::new(0),
            memory,
        }
    }

    #[inline(always)]
    pub(crate) fn ring(&self) -> Geometry {
        self.ring
    }

    #[inline(always)]
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Begins a draft at the write position. One at a time: the port sees to that.
    #[inline(always)]
    pub(crate) fn draft(&self) -> Draft {
        let start = self.write.get();
        Draft {
            start,
            cursor: start,
            first: 0,
        }
    }

    /// Finds room for a record after `cursor`.
    #[inline(always)]
    pub(crate) fn place(&self, cursor: u64, len: usize, align: usize) -> Result<Place, Refused> {
        if len > self.ring.max_len(align) {
            return Err(Refused::TooLarge);
        }
        let place = self.ring.place(cursor, len, align);
        if self.free_from(place.end()) < RECORD_HEADER as i64 {
            self.make_room(place.end())?;
        }
        self.touch(place.end());
        Ok(place)
    }

    /// The same for a payload whose length shows only in the writing: the place that takes at least
    /// `at_least` bytes, and as many more as there is room for. To be ended by [`end_open`], if the
    /// payload fits.
    ///
    /// [`end_open`]: Producer::end_open
    pub(crate) fn open_place(&self, cursor: u64, at_least: usize) -> Result<OpenPlace, Refused> {
        let touched = self.touched.get();
        let place = self.place(cursor, at_least, RECORD_ALIGN)?;
        let contiguous = self.ring.capacity() - RECORD_HEADER - place.offset;
        let free = self.free_from(place.position).max(0) as usize - RECORD_HEADER;
        let size = contiguous.min(free).min(self.ring.max_record()) & !(RECORD_ALIGN - 1);
        let place = Place {
            len: at_least.max(size.saturating_sub(RECORD_HEADER)),
            ..place
        };
        self.touch(place.end());
        Ok(OpenPlace { place, touched })
    }

    /// The place of a payload of `len` bytes, which is all that was written to the open one.
    pub(crate) fn end_open(&self, open: OpenPlace, len: usize) -> Place {
        let place = open.place.shortened(len);
        self.touched.set(open.touched);
        self.touch(place.end());
        place
    }

    #[inline(always)]
    fn touch(&self, end: u64) {
        if end.wrapping_sub(self.touched.get()) as i64 > 0 {
            self.touched.set(end);
        }
    }

    /// Whether the word at `position`, where a record can begin, is the first such word of a line, was zeroed
    /// ahead and is still zero. Then storing it again would
    /// only fetch its cache line back, which the waiting consumer's prefetcher may have taken.
    #[inline(always)]
    fn is_zero(&self, position: u64) -> bool {
        until_line(position) == 0 && self.is_untouched(position) && self.is_below_zeroed(position)
    }

    #[inline(always)]
    fn is_untouched(&self, position: u64) -> bool {
        position.wrapping_sub(self.touched.get()) as i64 >= 0
    }

    #[inline(always)]
    fn is_below_zeroed(&self, position: u64) -> bool {
        self.zeroed.get().wrapping_sub(position) as i64 > 0
    }

    /// Bytes from `position` to where writing must stop; negative if it lies beyond.
    #[inline(always)]
    fn free_from(&self, position: u64) -> i64 {
        self.limit.get().wrapping_sub(position) as i64
    }

    /// Looks how far the consumer is by now.
    #[cold]
    #[inline(never)]
    fn make_room(&self, end: u64) -> Result<(), Refused> {
        let cached = self.limit.get().wrapping_sub(self.ring.capacity() as u64);
        // ORDERING: Acquire pairs with the consumer's Release in `Consumer::give_back`: its reads of
        // the records are over before we write there again.
        // PEER: any value is possible; it must be a record's position between the last one seen and ours.
        let read = self.peer.taking.read_position.load(Ordering::Acquire);
        let forward = read.wrapping_sub(cached);
        if read % RECORD_ALIGN as u64 != RECORD_HEADER as u64
            || forward > self.write.get().wrapping_sub(cached)
        {
            return Err(Refused::Corrupt);
        }
        self.limit
            .set(read.wrapping_add(self.ring.capacity() as u64));
        if self.free_from(end) < RECORD_HEADER as i64 {
            self.wanted.set(end);
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// Whether there is room now for what was refused last, or the peer's word of it is corrupt.
    pub(crate) fn has_room(&self) -> bool {
        self.make_room(self.wanted.get()) != Err(Refused::Full)
    }

    /// There is room for what was refused last, or nobody wants it any more.
    pub(crate) fn want_nothing(&self) {
        self.wanted
            .set(self.write.get().wrapping_sub(RECORD_HEADER as u64));
    }

    /// Whether, besides, a quarter of the ring is free: room for the posts after that one as well.
    pub(crate) fn has_much_room(&self) -> bool {
        self.has_room() && self.free_from(self.write.get()) >= self.ring.capacity() as i64 / 4
    }

    /// Bytes free as last seen, and bytes that the last refused post needed.
    pub(crate) fn shortage(&self) -> (usize, usize) {
        let free = self.free_from(self.write.get()).max(0) as usize;
        let needed = self
            .wanted
            .get()
            .wrapping_add(RECORD_HEADER as u64)
            .wrapping_sub(self.write.get()) as usize;
        (free, needed)
    }

    /// Says in the segment from which read position on there is room for what was refused. Never beyond
    /// the write position.
    pub(crate) fn store_room_target(&self) {
        let target = self
            .wanted
            .get()
            .wrapping_add(RECORD_HEADER as u64)
            .wrapping_sub(self.ring.capacity() as u64);
        // Relaxed, because arming's read-modify-write of the state word orders it.
        self.own
            .posting
            .room_target
            .store(target, Ordering::Relaxed);
    }

    /// Adds a filled place to the draft.
    #[inline(always)]
    pub(crate) fn append(&self, draft: &mut Draft, place: &Place) {
        self.append_with(draft, place, 0);
    }

    /// Adds a filled place, so many items in it, to the draft.
    #[inline(always)]
    pub(crate) fn append_with(&self, draft: &mut Draft, place: &Place, items: u8) {
        if place.position != draft.cursor {
            self.set_header(draft, draft.cursor, self.ring.offset(draft.cursor), WRAP);
        }
        let tail = self.tail(place);
        let header = message_header(place.len, items, place.pad, tail);
        self.set_header(draft, place.position, place.offset, header);
        draft.cursor = place.end().wrapping_add(tail as u64);
    }

    /// Padding after a record, so that the next one begins with a cache line.
    ///
    /// A short record that straddles two lines costs its reader two transfers. A side that waits before
    /// it posts has one message under way at a time, so that room does not matter and lines do; that
    /// is a side which has just zeroed ahead. A stream of posts is packed.
    #[inline(always)]
    fn tail(&self, place: &Place) -> usize {
        let end = place.end();
        if !self.is_below_zeroed(end) {
            return 0;
        }
        let tail = until_line(end) as usize;
        let fits = place.offset + record_size(place.len, place.pad) + tail <= self.ring.capacity();
        if fits && self.is_zero(end.wrapping_add(tail as u64)) {
            tail
        } else {
            0
        }
    }

    #[inline(always)]
    fn set_header(&self, draft: &mut Draft, position: u64, offset: usize, header: u64) {
        if position == draft.start {
            draft.first = header;
        } else {
            // Relaxed, because the consumer gets here only after the draft's first header.
            self.memory.word(offset).store(header, Ordering::Relaxed);
        }
    }

    /// Makes all of the draft visible at once.
    #[inline(always)]
    pub(crate) fn publish(&self, draft: Draft) {
        if draft.first == 0 {
            return;
        }
        let is_zero = self.is_zero(draft.cursor);
        if !is_zero {
            // Relaxed, because the Release below orders it: the invariant of the ring.
            self.memory
                .word(self.ring.offset(draft.cursor))
                .store(0, Ordering::Relaxed);
        }
        // Relaxed, because the Release below orders it as well: who has read up to somewhere never
        // finds this position behind. It tells inspectors and the port's next holder.
        self.own
            .posting
            .write_position
            .store(draft.cursor, Ordering::Relaxed);
        // ORDERING: Release pairs with the Acquire in `Consumer::peek`; without it the consumer
        // could see the header before the payload, or a stale word after the record.
        self.memory
            .word(self.ring.offset(draft.start))
            .store(draft.first, Ordering::Release);
        self.write.set(draft.cursor);
        self.last_size
            .set(draft.cursor.wrapping_sub(draft.start) as usize);
        if is_zero {
            self.push_out(&draft);
        } else {
            self.fetch_ahead(&draft);
        }
    }

    /// Takes lines from the consumer, which has long read them, some posts before they are written. Else every
    /// store to one waits for it, and all stores after that one.
    #[inline(always)]
    fn fetch_ahead(&self, draft: &Draft) {
        self.fetch(draft.cursor.wrapping_add(FETCH_AHEAD));
        if draft.cursor.wrapping_sub(draft.start) > LINE as u64 {
            self.fetch_more_ahead(draft.start, draft.cursor);
        }
    }

    #[inline(never)]
    fn fetch_more_ahead(&self, start: u64, end: u64) {
        more_lines_ahead(start, end).for_each(|line| self.fetch(line));
    }

    #[inline(always)]
    fn fetch(&self, line: u64) {
        if self.free_from(line) > 0 {
            self.memory.fetch_to_write(self.ring.offset(line));
        }
    }

    /// Offers the draft's lines to the consumer, but for the first, which it is spinning for. From a side that
    /// waits before it posts: nothing else is under way then, and the peer is waiting for just this.
    // A call, as most messages of such a side are one line, for which there is nothing to do.
    #[inline(never)]
    fn push_out(&self, draft: &Draft) {
        let second = (draft.start | (LINE as u64 - 1)).wrapping_add(1);
        // The line of the next header, which this side is about to write, stays here.
        let end = draft.cursor.wrapping_sub(RECORD_HEADER as u64);
        let len = end.wrapping_sub(second) as i64;
        if len > 0 && len <= MOST_PUSHED_OUT {
            let offset = self.ring.offset(second);
            if offset + len as usize <= self.ring.capacity() {
                self.memory.push_out(offset, len as usize);
            }
        }
    }

    /// Zeroes ahead what the next post is about to write, so that its cache lines are here by then.
    ///
    /// For a side that is about to wait, with no draft open. The store that zeroes the word after a
    /// record stands in front of the publishing one and misses; here nobody waits for it.
    pub(crate) fn zero_ahead(&self) {
        let write = self.write.get();
        // A record like the last one, its tail, and the word after it.
        let ahead = (self.last_size.get() + LINE).max(256) as i64;
        let until = write.wrapping_add(ahead.min(self.free_from(write)).max(0) as u64);
        // What is zero already stays untouched; what was written on since is zeroed again.
        let from = if self.is_untouched(write) && self.is_below_zeroed(write) {
            self.zeroed.get()
        } else {
            write
        };
        if until.wrapping_sub(from) as i64 <= 0 {
            return;
        }
        let mut position = from.wrapping_add(until_line(from));
        while until.wrapping_sub(position) as i64 > 0 {
            // Relaxed, because the publishing store orders all of them.
            self.memory
                .word(self.ring.offset(position))
                .store(0, Ordering::Relaxed);
            position = position.wrapping_add(LINE as u64);
        }
        self.zeroed.set(until);
        // No draft is open, so nothing beyond the write position is in use.
        self.touched.set(write);
    }

    /// Where the next record would go.
    #[cfg(test)]
    pub(crate) fn write_position(&self) -> u64 {
        self.write.get()
    }
}
