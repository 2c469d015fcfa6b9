//! The ring against a `VecDeque`: random operations, every small capacity, every boundary.
#![allow(unsafe_code)]

use super::layout::{Endpoint, RECORD_ALIGN, WRAP, message_header, record_size};
use super::{Consumer, Corrupt, Geometry, Memory, Producer, Record, Refused, Shared};
use crate::sync::Ordering;
use core::ptr::NonNull;
use proptest::prelude::*;
use std::collections::VecDeque;

#[derive(Clone)]
#[repr(align(128))]
struct Line(#[expect(dead_code, reason = "read and written through pointers")] [u8; 128]);

/// A ring on the heap with both its ends. The memory starts as `fill`, except where the first header
/// will stand, as it does on a lap other than the first.
struct Rig {
    producer: Producer,
    consumer: Consumer,
    memory: Memory,
    // Everything above points into these, so they come last.
    _ends: Box<[Endpoint; 2]>,
    _bytes: Vec<Line>,
}

impl Rig {
    fn new(capacity: usize, start: u64, fill: u8) -> Rig {
        let mut bytes = vec![Line([fill; 128]); capacity.div_ceil(128)];
        let mut ends = Box::new([Endpoint::new(start, start), Endpoint::new(start, start)]);
        // SAFETY: both allocations live as long as the rig, and are reached through these pointers only.
        let (memory, own, peer) = unsafe {
            let base = NonNull::new_unchecked(bytes.as_mut_ptr().cast());
            let ends: *mut Endpoint = ends.as_mut_ptr();
            (
                Memory::new(base, capacity),
                Shared::new(NonNull::new_unchecked(ends)),
                Shared::new(NonNull::new_unchecked(ends.add(1))),
            )
        };
        let offset = Geometry::new(capacity).offset(start);
        memory.word(offset).store(0, Ordering::Relaxed);
        Rig {
            producer: Producer::new(memory, own, peer.clone(), start, start),
            consumer: Consumer::new(memory, peer, start),
            memory,
            _ends: ends,
            _bytes: bytes,
        }
    }

    fn post(&self, bytes: &[u8], align: usize) -> Result<(), Refused> {
        let mut draft = self.producer.draft();
        let place = self.producer.place(draft.cursor(), bytes.len(), align)?;
        assert_eq!(place.payload() % align, 0);
        self.memory.write(place.payload(), bytes);
        self.producer.append(&mut draft, &place);
        self.producer.publish(draft);
        Ok(())
    }

    fn bytes(&self, record: &Record) -> Vec<u8> {
        let mut words = vec![0u64; record.len.div_ceil(8)];
        // SAFETY: the vector has room for `len` bytes in whole words.
        unsafe {
            let to = NonNull::new_unchecked(words.as_mut_ptr()).cast();
            self.memory.read(record.payload, to, record.len);
        }
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.truncate(record.len);
        bytes
    }

    fn recv(&self) -> Option<Vec<u8>> {
        let record = self.consumer.peek().unwrap()?;
        let bytes = self.bytes(&record);
        self.consumer.take(&record);
        Some(bytes)
    }
}

/// Bytes that tell messages, and places in them, apart.
fn pattern(serial: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (serial.wrapping_mul(31) ^ at.wrapping_mul(7)) as u8 | 1)
        .collect()
}

/// Positions that a `u32`, an `i64` or a `u64` would stumble over, all 8 modulo 16.
const STARTS: [u64; 4] = [8, (1 << 32) - 24, (1 << 63) - 24, u64::MAX - 23];

#[test]
fn the_largest_record_fits_an_empty_ring_at_every_offset() {
    for capacity in (6..=13).map(|bits| 1 << bits) {
        let geometry = Geometry::new(capacity);
        for align in [16, 32, 64, 128] {
            if align > capacity / 4 {
                continue;
            }
            let longest = geometry.max_len(align);
            if capacity == 64 && align > 16 {
                assert_eq!(longest, 0);
                continue;
            }
            for offset in (8..capacity as u64).step_by(16) {
                let place = geometry.place(offset, longest, align);
                let end = place.offset + record_size(longest, place.pad);
                assert!(end <= capacity, "{capacity} {align} {offset}");
                let skipped = if place.offset as u64 == offset {
                    0
                } else {
                    capacity - offset as usize + place.offset
                };
                let needed = skipped + end - place.offset + 8;
                assert!(needed <= capacity, "{capacity} {align} {offset}: {needed}");
            }
        }
    }
}

#[test]
fn every_length_at_every_offset_arrives() {
    for capacity in [64, 128, 256, 512, 1024] {
        let longest = Geometry::new(capacity).max_len(RECORD_ALIGN);
        for start in STARTS {
            for len in 0..=longest {
                let rig = Rig::new(capacity, start, 0xff);
                for serial in 0..2 * capacity / 16 {
                    let bytes = pattern(serial, len);
                    rig.post(&bytes, RECORD_ALIGN).unwrap();
                    assert_eq!(rig.recv(), Some(bytes), "{capacity} {start} {len}");
                    assert_eq!(rig.recv(), None);
                }
            }
            let rig = Rig::new(capacity, start, 0xff);
            assert_eq!(
                rig.post(&pattern(0, longest + 1), RECORD_ALIGN),
                Err(Refused::TooLarge)
            );
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Post {
        len: usize,
        align: usize,
    },
    /// Reserve, then commit that much of it, or nothing.
    Slot {
        len: usize,
        commit: Option<usize>,
    },
    /// Open as much room as there is, then use that much of it, or nothing.
    Open {
        at_least: usize,
        commit: Option<usize>,
    },
    Batch {
        lens: Vec<usize>,
        publish: bool,
    },
    Recv,
    Hold,
    PutBack(usize),
    ZeroAhead,
}

fn op() -> impl Strategy<Value = Op> {
    // Lengths are scaled to the ring when they are used; see `Model::len`.
    let len = || 0..1100usize;
    let commit = || proptest::option::of(len());
    prop_oneof![
        6 => (len(), 4u32..8).prop_map(|(len, bits)| Op::Post { len, align: 1 << bits }),
        2 => (len(), commit()).prop_map(|(len, commit)| Op::Slot { len, commit }),
        2 => (len(), commit()).prop_map(|(at_least, commit)| Op::Open { at_least, commit }),
        2 => (proptest::collection::vec(len(), 0..5), any::<bool>())
            .prop_map(|(lens, publish)| Op::Batch { lens, publish }),
        6 => Just(Op::Recv),
        3 => Just(Op::Hold),
        4 => any::<usize>().prop_map(Op::PutBack),
        1 => Just(Op::ZeroAhead),
    ]
}

struct Model {
    rig: Rig,
    longest: usize,
    serial: usize,
    waiting: VecDeque<Vec<u8>>,
    held: Vec<(Record, Vec<u8>)>,
}

impl Model {
    /// A length from 0 to a little beyond the longest, from one of 0..1100: mostly near a boundary.
    fn len(&self, seed: usize) -> usize {
        match seed {
            0..1000 => seed % (self.longest + 1),
            1000..1050 => self.longest - self.longest.min(seed - 1000),
            _ => self.longest + seed - 1050,
        }
    }

    fn next(&mut self, len: usize) -> Vec<u8> {
        self.serial += 1;
        pattern(self.serial, len)
    }

    /// A refusal must be right: too large if it is, full only if a record in the way explains it.
    fn check_refusal(&self, refused: Refused, len: usize, align: usize, drafted: bool) {
        let longest = self.rig.producer.ring().max_len(align);
        match refused {
            Refused::TooLarge => assert!(len > longest, "{len} bytes are not too large"),
            Refused::Full => {
                let (free, needed) = self.rig.producer.shortage();
                assert!(needed > free, "{needed} needed, {free} free, and yet full");
                let empty = self.waiting.is_empty() && self.held.is_empty();
                assert!(!empty || drafted, "an empty ring is full");
                assert!(len <= longest);
            }
            Refused::Corrupt => panic!("an honest ring is corrupt"),
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Post { len, align } => {
                let bytes = self.next(self.len(*len));
                let align = *align.min(&(self.rig.producer.ring().capacity() / 4));
                match self.rig.post(&bytes, align) {
                    Ok(()) => self.waiting.push_back(bytes),
                    Err(refused) => self.check_refusal(refused, bytes.len(), align, false),
                }
            }
            Op::Slot { len, commit } => {
                let len = self.len(*len);
                let mut draft = self.rig.producer.draft();
                match self.rig.producer.place(draft.cursor(), len, RECORD_ALIGN) {
                    Ok(place) => {
                        // What is reserved may be scribbled on, used or not.
                        self.rig.memory.write(place.payload(), &vec![0xee; len]);
                        if let Some(commit) = commit {
                            let bytes = self.next(commit % (len + 1));
                            let place = place.shortened(bytes.len());
                            self.rig.memory.write(place.payload(), &bytes);
                            self.rig.producer.append(&mut draft, &place);
                            self.rig.producer.publish(draft);
                            self.waiting.push_back(bytes);
                        }
                    }
                    Err(refused) => self.check_refusal(refused, len, RECORD_ALIGN, false),
                }
            }
            Op::Open { at_least, commit } => {
                let at_least = self.len(*at_least);
                let mut draft = self.rig.producer.draft();
                match self.rig.producer.open_place(draft.cursor(), at_least) {
                    Ok(open) => {
                        assert!((at_least..=self.longest).contains(&open.room()));
                        if let Some(commit) = commit {
                            let bytes = self.next(commit % (open.room() + 1));
                            self.rig.memory.write(open.payload(), &bytes);
                            let place = self.rig.producer.end_open(open, bytes.len());
                            self.rig.producer.append(&mut draft, &place);
                            self.rig.producer.publish(draft);
                            self.waiting.push_back(bytes);
                        } else {
                            // Given up in the middle.
                            let scribble = vec![0xdd; open.room()];
                            self.rig.memory.write(open.payload(), &scribble);
                        }
                    }
                    Err(refused) => self.check_refusal(refused, at_least, RECORD_ALIGN, false),
                }
            }
            Op::Batch { lens, publish } => {
                let mut draft = self.rig.producer.draft();
                let mut posted = Vec::new();
                for len in lens {
                    let bytes = self.next(self.len(*len));
                    match self
                        .rig
                        .producer
                        .place(draft.cursor(), bytes.len(), RECORD_ALIGN)
                    {
                        Ok(place) => {
                            self.rig.memory.write(place.payload(), &bytes);
                            self.rig.producer.append(&mut draft, &place);
                            posted.push(bytes);
                        }
                        Err(refused) => {
                            let drafted = !posted.is_empty();
                            self.check_refusal(refused, bytes.len(), RECORD_ALIGN, drafted);
                        }
                    }
                    // Nothing shows before it is published.
                    if self.waiting.is_empty() {
                        assert!(self.rig.consumer.peek().unwrap().is_none());
                    }
                }
                if *publish {
                    self.rig.producer.publish(draft);
                    self.waiting.extend(posted);
                }
            }
            Op::Recv => assert_eq!(self.rig.recv(), self.waiting.pop_front()),
            Op::Hold => match (self.rig.consumer.peek().unwrap(), self.waiting.pop_front()) {
                (Some(record), Some(bytes)) => {
                    assert_eq!(self.rig.bytes(&record), bytes);
                    self.rig.consumer.hold(&record);
                    self.held.push((record, bytes));
                }
                (None, None) => {}
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            },
            Op::PutBack(which) => {
                if !self.held.is_empty() {
                    let (record, _) = self.held.remove(which % self.held.len());
                    self.rig.consumer.put_back(record.position());
                }
            }
            Op::ZeroAhead => self.rig.producer.zero_ahead(),
        }
        for (record, bytes) in &self.held {
            assert_eq!(&self.rig.bytes(record), bytes, "a held message changed");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 500 } else { 2000 },
        ..ProptestConfig::default()
    })]

    #[test]
    fn s05_the_ring_is_a_queue(
        bits in 6u32..13,
        start in proptest::sample::select(&STARTS),
        shift in 0u64..64,
        fill in any::<u8>(),
        ops in proptest::collection::vec(op(), 1..200),
    ) {
        let capacity = 1 << bits;
        let mut model = Model {
            rig: Rig::new(capacity, start.wrapping_sub(16 * shift), fill),
            longest: Geometry::new(capacity).max_len(RECORD_ALIGN),
            serial: 0,
            waiting: VecDeque::new(),
            held: Vec::new(),
        };
        for op in &ops {
            model.run(op);
        }
        while let Some(bytes) = model.rig.recv() {
            prop_assert_eq!(Some(bytes), model.waiting.pop_front());
        }
        prop_assert!(model.waiting.is_empty());
        for (record, _) in model.held.drain(..) {
            model.rig.consumer.put_back(record.position());
        }
        // Everything was given back: the longest message fits again.
        prop_assert_eq!(model.rig.post(&pattern(1, model.longest), RECORD_ALIGN), Ok(()));
    }

    /// Whatever stands in the ring, a record handed out lies inside it, and looking comes to an end.
    #[test]
    fn s57_no_header_leads_outside(
        bits in 6u32..13,
        start in proptest::sample::select(&STARTS),
        words in proptest::collection::vec(header_word(), 512),
    ) {
        let capacity = 1usize << bits;
        let rig = Rig::new(capacity, start, 0);
        for (at, word) in words.iter().take(capacity / 8).enumerate() {
            rig.memory.word(at * 8).store(*word, Ordering::Relaxed);
        }
        for _ in 0..2 * capacity / 16 {
            match rig.consumer.peek() {
                Ok(Some(record)) => {
                    prop_assert!(record.payload + record.len <= capacity);
                    rig.consumer.take(&record);
                }
                Ok(None) | Err(Corrupt) => break,
            }
        }
    }

    /// A full producer believes a read position only if it is one: a record's, between the last one
    /// believed and the write position.
    #[test]
    fn s57_a_false_read_position_is_corrupt(
        bits in 6u32..13,
        start in proptest::sample::select(&STARTS),
        claims in proptest::collection::vec(claim(), 1..50),
    ) {
        let capacity = 1usize << bits;
        let rig = Rig::new(capacity, start, 0);
        let mut believed = start;
        for claim in claims {
            while rig.post(b"12345678", RECORD_ALIGN).is_ok() {}
            let write = rig.producer.write_position();
            let read = write.wrapping_add(claim);
            rig._ends[1].taking.read_position.store(read, Ordering::Relaxed);
            let honest = claim % 16 == 0 && claim.wrapping_neg() <= write.wrapping_sub(believed);
            let result = rig.post(b"12345678", RECORD_ALIGN);
            if !honest {
                prop_assert_eq!(result, Err(Refused::Corrupt));
                break;
            }
            prop_assert_ne!(result, Err(Refused::Corrupt));
            believed = read;
        }
    }
}

/// Words that look like headers more often than chance would have it.
fn header_word() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0usize..600, 0u8..40, 0usize..9, 0usize..4)
            .prop_map(|(len, items, pad, tail)| message_header(len, items, pad * 16, tail * 16)),
        1 => (any::<u32>(), any::<u8>(), any::<u8>(), 0usize..128)
            .prop_map(|(len, items, pad, tail)| {
                message_header(len as usize, items, pad as usize * 16, tail * 16)
            }),
        1 => Just(WRAP),
        1 => any::<u64>(),
    ]
}

/// What a read position says, relative to the write position.
fn claim() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0u64..300).prop_map(|back| (back * 16).wrapping_neg()),
        (0u64..300).prop_map(|ahead| ahead * 16),
        any::<u64>(),
    ]
}
