//! The taking half of a ring: look for a header, check it, hand the record out, give its room back.

use super::layout::{Endpoint, LINE, RECORD_HEADER, RecordHeader, parse_header, record_size};
use super::{Corrupt, FETCH_AHEAD, Geometry, Memory, Shared, more_lines_ahead};
use crate::sync::Ordering;
use core::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// A published record, checked to lie inside the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    position: u64,
    end: u64,
    /// Offset of the payload in the ring.
    pub(crate) payload: usize,
    /// Bytes of payload.
    pub(crate) len: usize,
    /// How many items travel with it.
    pub(crate) items: u8,
}

/// A record handed out in place.
struct Held {
    position: u64,
    returned: bool,
}

pub(crate) struct Consumer {
    ring: Geometry,
    memory: Memory,
    own: Shared<Endpoint>,
    /// The next record's position. What lies before it was handed out.
    taken: Cell<u64>,
    /// Where nothing was found last.
    found_nothing: Cell<u64>,
    /// The oldest record handed out in place; zero, where none can be, if there is none. Room goes back up to
    /// there.
    oldest_held: Cell<u64>,
    /// Those handed out in place after that one.
    held_later: RefCell<VecDeque<Held>>,
}

impl Consumer {
    /// Continues at `read`, which the caller has checked.
    pub(crate) fn new(memory: Memory, own: Shared<Endpoint>, read: u64) -> Consumer {
        Consumer {
            ring: Geometry::new(memory.len()),
            memory,
            own,
            taken: Cell::new(read),
            found_nothing: Cell::new(read),
            oldest_held: Cell::new(0),
            held_later: RefCell::default(),
        }
    }

    #[inline(always)]
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    #[inline(always)]
    pub(crate) fn ring(&self) -> Geometry {
        self.ring
    }

    /// The position of the next record to take.
    pub(crate) fn position(&self) -> u64 {
        self.taken.get()
    }

    /// Whether something stands at the next position, good or bad: [`peek`](Consumer::peek) tells.
    #[inline(always)]
    pub(crate) fn has_news(&self) -> bool {
        let offset = self.ring.offset(self.taken.get());
        // Relaxed, because `peek` reads it again with Acquire.
        // PEER: any value is possible; only whether it is zero matters here.
        self.memory.word(offset).load(Ordering::Relaxed) != 0
    }

    /// The next record, if one is published. Looking does not take it.
    #[inline(always)]
    pub(crate) fn peek(&self) -> Result<Option<Record>, Corrupt> {
        loop {
            let position = self.taken.get();
            let offset = self.ring.offset(position);
            // ORDERING: Acquire pairs with the Release in `Producer::publish`: the payload, and the
            // zero after the record, are seen with the header.
            // PEER: any value is possible; every bit of this one copy is checked below.
            let word = self.memory.word(offset).load(Ordering::Acquire);
            if word == 0 {
                self.found_nothing.set(position);
                return Ok(None);
            }
            match parse_header(word) {
                Some(RecordHeader::Message {
                    len,
                    items,
                    pad,
                    tail,
                }) => {
                    let size = record_size(len, pad);
                    if size > self.ring.max_record() || offset + size + tail > self.ring.capacity()
                    {
                        return Err(Corrupt);
                    }
                    let end = position.wrapping_add((size + tail) as u64);
                    if size + tail >= LINE {
                        self.fetch_ahead(position, end);
                    }
                    return Ok(Some(Record {
                        position,
                        end,
                        payload: offset + RECORD_HEADER + pad,
                        len,
                        items,
                    }));
                }
                Some(RecordHeader::Wrap) if offset != RECORD_HEADER => self.follow_wrap(position),
                _ => return Err(Corrupt),
            }
        }
    }

    /// Fetches lines some messages before they are read: each header says where the next one stands, so that
    /// otherwise one line would be waited for after the other. Only in the middle of a stream, and for records of
    /// a line or more: a consumer that is close behind would take lines from a producer that is writing them.
    #[inline(always)]
    fn fetch_ahead(&self, position: u64, end: u64) {
        if position.wrapping_sub(self.found_nothing.get()) >= 2 * FETCH_AHEAD {
            self.fetch(end.wrapping_add(FETCH_AHEAD));
            if end.wrapping_sub(position) > LINE as u64 {
                self.fetch_more_ahead(position, end);
            }
        }
    }

    #[inline(never)]
    fn fetch_more_ahead(&self, position: u64, end: u64) {
        more_lines_ahead(position, end).for_each(|line| self.fetch(line));
    }

    #[inline(always)]
    fn fetch(&self, line: u64) {
        self.memory.fetch_to_read(self.ring.offset(line));
    }

    /// Takes a WRAP, and gives its room back at once unless an older record is still held.
    #[cold]
    fn follow_wrap(&self, position: u64) {
        self.taken.set(self.ring.next_lap(position));
        self.give_back();
    }

    /// Takes a record whose bytes were copied out.
    #[inline(always)]
    pub(crate) fn take(&self, record: &Record) {
        self.taken.set(record.end);
        self.give_back();
    }

    /// Takes a record that stays in place until [`put_back`](Consumer::put_back).
    #[inline(always)]
    pub(crate) fn hold(&self, record: &Record) {
        self.taken.set(record.end);
        if self.oldest_held.get() == 0 {
            self.oldest_held.set(record.position);
        } else {
            self.hold_later(record.position);
        }
    }

    #[cold]
    fn hold_later(&self, position: u64) {
        self.held_later.borrow_mut().push_back(Held {
            position,
            returned: false,
        });
    }

    /// Ends the use of the record at `position` in place.
    #[inline(always)]
    pub(crate) fn put_back(&self, position: u64) {
        if position == self.oldest_held.get() && self.held_later.borrow().is_empty() {
            self.oldest_held.set(0);
            self.give_back();
        } else {
            self.put_back_one_of_many(position);
        }
    }

    #[cold]
    fn put_back_one_of_many(&self, position: u64) {
        let mut later = self.held_later.borrow_mut();
        if position == self.oldest_held.get() {
            while later.front().is_some_and(|held| held.returned) {
                later.pop_front();
            }
            let oldest = later.pop_front().map_or(0, |held| held.position);
            drop(later);
            self.oldest_held.set(oldest);
            self.give_back();
        } else {
            let behind = |held: &Held| held.position.wrapping_sub(position) as i64;
            if let Ok(at) = later.binary_search_by_key(&0, behind) {
                later[at].returned = true;
            }
        }
    }

    /// Up to where nothing is in use any more.
    #[inline(always)]
    fn given(&self) -> u64 {
        match self.oldest_held.get() {
            0 => self.taken.get(),
            oldest => oldest,
        }
    }

    /// Tells the producer up to where it may write again.
    #[inline(always)]
    fn give_back(&self) {
        self.store_read_position(self.given());
    }

    #[inline(always)]
    fn store_read_position(&self, position: u64) {
        // ORDERING: Release pairs with the Acquire in `Producer::make_room`: our reads of the records
        // before this position are over when the producer writes there.
        self.own
            .taking
            .read_position
            .store(position, Ordering::Release);
    }

    /// Gives all room back, also that of records held in place and never returned.
    pub(crate) fn abandon_held(&self) {
        self.held_later.borrow_mut().clear();
        self.oldest_held.set(0);
        self.give_back();
    }

    /// Whether a poster that waits for the read position `target` is to be woken, having written up to
    /// `written`.
    ///
    /// Not before a quarter of the ring is free, so that a slow consumer does not wake its producer for
    /// every message. But when the last message was taken while some are held in place, nobody knows
    /// whether that will ever be.
    pub(crate) fn should_wake_poster(&self, target: u64, written: u64) -> bool {
        let given = self.given();
        let quarter_free = written.wrapping_sub(given) <= self.ring.capacity() as u64 / 4 * 3;
        let holds = self.oldest_held.get() != 0;
        given.wrapping_sub(target) as i64 >= 0 && (quarter_free || holds && !self.has_news())
    }
}

impl Record {
    /// Offset of the items in the ring, which stand right after the header; `None` if there are more of them
    /// than bytes before the payload.
    pub(crate) fn items_offset(&self, ring: Geometry) -> Option<usize> {
        let offset = ring.offset(self.position) + RECORD_HEADER;
        (offset + usize::from(self.items) <= self.payload).then_some(offset)
    }

    /// Where the record stands in the ring.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}
