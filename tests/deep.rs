//! Archives that nobody serialised: nested a million deep, or with something in them turned. Validation answers, in
//! bounded time and stack, and what it lets pass lies inside the message (S20, S57).

#[path = "hostile/chances.rs"]
mod chances;
mod common;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::thread;

use chances::{Round, Seeded, rounds};
use common::{channel_of, now};
use proptest::prelude::*;
use ringport::{DataError, Message, MessagePort, OwnedMessageEvent};
use rkyv::boxed::ArchivedBox;
use rkyv::option::ArchivedOption;
use rkyv::{Archive, Serialize};

/// What the receiver's thread has; the limit of 128 levels must do with it, also without optimisation.
const SMALL_STACK: usize = 256 << 10;

/// The ways in which an archive can nest: a pointer, a vector, a shared pointer.
macro_rules! nests {
    ($name:ident, $next:ty) => {
        #[derive(Archive, Serialize)]
        #[rkyv(serialize_bounds(
                            __S: rkyv::ser::Writer + rkyv::ser::Allocator + rkyv::ser::Sharing,
                            __S::Error: rkyv::rancor::Source,
                        ))]
        #[rkyv(bytecheck(bounds(
                            __C: rkyv::validation::ArchiveContext + rkyv::validation::SharedContext,
                            __C::Error: rkyv::rancor::Source,
                        )))]
        struct $name {
            number: u32,
            #[rkyv(omit_bounds)]
            next: $next,
        }
    };
}

nests!(Boxed, Option<Box<Boxed>>);
nests!(Branching, Vec<Branching>);
nests!(Shared, Option<Rc<Shared>>);

/// The archive of a value, as a port makes it.
fn archive<T: Message>(value: &T) -> Vec<u8> {
    let (port1, port2) = channel_of(4096);
    port1.try_post_message(value).unwrap();
    now(&port2)
}

/// An archive of so many levels, out of one of three: the innermost, then the same level again and again.
fn nested(of_three: &[u8], levels: usize) -> Vec<u8> {
    assert_eq!(of_three.len() % 3, 0);
    let (innermost, others) = of_three.split_at(of_three.len() / 3);
    let (middle, outermost) = others.split_at(innermost.len());
    assert_eq!(middle, outermost, "each level looks like the one around it");
    let mut bytes = innermost.to_vec();
    (1..levels).for_each(|_| bytes.extend_from_slice(middle));
    bytes
}

fn in_a_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(SMALL_STACK);
    thread.spawn(work).unwrap().join().unwrap();
}

/// Nothing deep is let pass, nothing flat is refused, and a message after that is received.
fn refuses_depth<T: Message>(of_three: Vec<u8>) {
    let (port1, port2) = channel_of(64 << 20);
    let levels = [
        1, 2, 3, 100, 120, 127, 128, 129, 130, 200, 1000, 100_000, 1_000_000,
    ];
    in_a_small_stack(move || {
        let mut refused = 0;
        for levels in levels {
            port1.try_post_bytes(&nested(&of_three, levels)).unwrap();
            let event = port2.recv().unwrap();
            match event.data::<T>() {
                Ok(_) => assert!(refused == 0 && levels < 200, "{levels} levels passed"),
                Err(DataError::Invalid { len, .. }) => {
                    assert!(levels > 100, "{levels} levels refused");
                    assert_eq!(len, event.len());
                    refused += 1;
                }
                Err(other) => panic!("{other:?}"),
            }
            // Elsewhere, and as something else, it is no more dangerous.
            let event: OwnedMessageEvent = event.into_owned();
            assert_eq!(event.data::<T>().is_ok(), refused == 0);
            let _ = event.data::<Rich>();
            let _ = event.data::<Boxed>();
            let _ = event.data::<Branching>();
            let _ = event.data::<Shared>();
        }
        assert!(refused >= 4);
        port1.try_post_bytes(b"flat").unwrap();
        assert_eq!(now(&port2), b"flat");
    });
}

#[test]
fn s20_a_million_boxes_in_each_other_are_an_error() {
    let _quiet = common::descriptors();
    let level = |next| Some(Box::new(Boxed { number: 7, next }));
    refuses_depth::<Boxed>(archive(&*level(level(level(None))).unwrap()));
}

#[test]
fn s20_a_million_vectors_in_each_other_are_an_error() {
    let _quiet = common::descriptors();
    let level = |next| Branching { number: 7, next };
    refuses_depth::<Branching>(archive(&level(vec![level(vec![level(vec![])])])));
}

#[test]
fn s20_a_million_shared_values_in_each_other_are_an_error() {
    let _quiet = common::descriptors();
    let level = |next| Shared { number: 7, next };
    let inner = level(Some(Rc::new(level(None))));
    refuses_depth::<Shared>(archive(&level(Some(Rc::new(inner)))));
}

#[test]
fn s20_what_points_to_itself_is_an_error() {
    let _quiet = common::descriptors();
    let level = |next| Shared { number: 7, next };
    let inner = level(Some(Rc::new(level(None))));
    let good = archive(&level(Some(Rc::new(inner))));
    let (port1, port2) = channel_of(4096);
    in_a_small_stack(move || {
        let mut refused = 0;
        // Every pointer, pointed to every place; among them itself, and whoever points to it.
        for at in (0..good.len()).step_by(4) {
            for to in 0..good.len() as i32 {
                let mut bytes = good.clone();
                bytes[at..at + 4].copy_from_slice(&(to - at as i32).to_le_bytes());
                port1.try_post_bytes(&bytes).unwrap();
                let event = port2.recv().unwrap();
                refused += u32::from(event.data::<Shared>().is_err());
                let _ = event.data::<Boxed>();
                let _ = event.data::<Branching>();
            }
        }
        assert!(refused > 100, "{refused}");
    });
}

#[derive(Archive, Serialize, Clone)]
enum Kind {
    Nothing,
    Named { name: String, score: i64 },
    Many(Vec<Option<String>>),
}

/// A bit of everything.
#[derive(Archive, Serialize, Clone)]
struct Rich {
    name: String,
    note: Option<String>,
    numbers: Vec<u64>,
    nested: Vec<Vec<String>>,
    boxed: Box<(u16, String)>,
    maybe: Option<Box<Kind>>,
    kinds: Vec<Kind>,
    pair: (char, bool),
    fixed: [Option<u32>; 3],
    scores: HashMap<String, u32>,
    sorted: BTreeMap<u32, String>,
    shared: [Rc<String>; 2],
}

/// A value with `size` of each.
fn rich(size: usize) -> Rich {
    let text = |index: usize| format!("{index}, which is long enough to be out of line");
    let texts = |count| (0..count).map(text).collect::<Vec<_>>();
    let shared = Rc::new(text(size));
    let kinds = [
        Kind::Nothing,
        Kind::Named {
            name: text(3),
            score: -1,
        },
        Kind::Many(texts(size).into_iter().map(Some).chain([None]).collect()),
    ];
    Rich {
        name: text(1000 + size),
        note: (size % 2 == 0).then(|| "short".to_owned()),
        numbers: (0..size as u64 * 3).collect(),
        nested: (0..size).map(texts).collect(),
        boxed: Box::new((size as u16, text(1))),
        maybe: (size > 0).then(|| Box::new(kinds[size % 3].clone())),
        kinds: kinds.to_vec(),
        pair: ('ä', size == 1),
        fixed: [None, Some(size as u32), Some(u32::MAX)],
        scores: texts(size * 4).into_iter().zip(0..).collect(),
        sorted: (0..).zip(texts(size * 4)).collect(),
        shared: [shared.clone(), shared],
    }
}

/// Everything in an archive, as one who believes in it reads it: each part must lie inside the message.
struct Reader {
    message: Range<usize>,
    sum: u64,
}

impl Reader {
    fn take(&mut self, value: impl Into<u64>) {
        self.sum = self.sum.rotate_left(5) ^ value.into();
    }

    /// The elements of a vector, the bytes of a string (of a short one they stand in the string itself).
    fn inside<T>(&self, elements: &[T]) {
        let Range { start, end } = elements.as_ptr_range();
        let (start, end) = (start as usize, end as usize);
        assert!(
            elements.is_empty() || self.message.contains(&start) && end <= self.message.end,
            "{} elements outside of the message",
            elements.len()
        );
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.inside(bytes);
        bytes.iter().for_each(|byte| self.take(*byte));
    }

    fn text(&mut self, text: &str) {
        // A string that is none would be found out here.
        text.chars().for_each(|letter| self.take(letter));
        self.bytes(text.as_bytes());
    }

    fn kind(&mut self, kind: &ArchivedKind) {
        match kind {
            ArchivedKind::Nothing => self.take(1_u8),
            ArchivedKind::Named { name, score } => {
                self.text(name);
                self.take(score.to_native() as u64);
            }
            ArchivedKind::Many(texts) => {
                self.inside(texts);
                for text in texts.iter() {
                    if let ArchivedOption::Some(text) = text {
                        self.text(text);
                    }
                }
            }
        }
    }

    fn rich(&mut self, rich: &ArchivedRich) {
        self.text(&rich.name);
        if let ArchivedOption::Some(note) = &rich.note {
            self.text(note);
        }
        self.inside(std::slice::from_ref(rich));
        self.inside(&rich.numbers);
        for number in rich.numbers.iter() {
            self.take(number.to_native());
        }
        self.inside(&rich.nested);
        for texts in rich.nested.iter() {
            self.inside(texts);
            texts.iter().for_each(|text| self.text(text));
        }
        self.inside(std::slice::from_ref(rich.boxed.get()));
        self.take(rich.boxed.0.to_native());
        self.text(&rich.boxed.1);
        if let Some(kind) = rich.maybe.as_ref().map(ArchivedBox::get) {
            self.kind(kind);
        }
        self.inside(&rich.kinds);
        rich.kinds.iter().for_each(|kind| self.kind(kind));
        self.take(rich.pair.0.to_native());
        self.take(rich.pair.1);
        for number in rich.fixed.iter().filter_map(|number| number.as_ref()) {
            self.take(number.to_native());
        }
        for (text, score) in rich.scores.iter() {
            self.text(text);
            self.take(score.to_native());
            let _ = rich.scores.get(text.as_str());
        }
        for (number, text) in rich.sorted.iter() {
            self.take(number.to_native());
            self.text(text);
            let _ = rich.sorted.get(number);
        }
        rich.shared.iter().for_each(|text| self.text(text));
    }
}

/// Posts bytes and reads them as if they were what they were once. Says whether they passed.
fn passes(ports: &(MessagePort, MessagePort), bytes: &[u8]) -> bool {
    ports.0.try_post_bytes(bytes).unwrap();
    let event = ports.1.try_recv().unwrap().unwrap();
    let start = event.bytes().as_ptr() as usize;
    let mut reader = Reader {
        message: start..start + event.len(),
        sum: 0,
    };
    let _ = event.data::<common::Greeting>();
    match event.data::<Rich>() {
        Ok(rich) => {
            reader.rich(rich);
            std::hint::black_box(reader.sum);
            true
        }
        Err(DataError::Invalid { len, .. }) => {
            assert_eq!(len, bytes.len());
            false
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// Something in it turned, moved, or cut off.
fn corrupt(bytes: &mut Vec<u8>, random: &mut Seeded) {
    let len = bytes.len() as u64;
    let word = |random: &mut Seeded| random.below(len / 4) as usize * 4;
    match random.below(10) {
        0..=2 => bytes[random.below(len) as usize] ^= 1 << random.below(8),
        3 => bytes[random.below(len) as usize] = random.next() as u8,
        4..=6 => {
            let at = word(random);
            let mut old = [0; 4];
            old.copy_from_slice(&bytes[at..at + 4]);
            let nearly = random.near(u32::from_le_bytes(old).into(), len);
            bytes[at..at + 4].copy_from_slice(&(nearly as u32).to_le_bytes());
        }
        7 => {
            let (from, to) = (word(random), word(random));
            bytes.copy_within(from..from + 4, to);
        }
        8 => {
            let (from, to) = (random.below(len) as usize, random.below(len) as usize);
            let most = bytes.len() - from.max(to);
            bytes.copy_within(from..from + most.min(64), to);
        }
        _ => {
            let cut = random.below(len.min(40)) as usize;
            match random.below(3) {
                0 => drop(bytes.drain(..cut)),
                1 => bytes.truncate(bytes.len() - cut),
                _ => bytes.extend_from_within(..cut),
            }
        }
    }
}

#[test]
fn s20_an_archive_with_any_bit_turned_is_read_inside_or_refused() {
    let _quiet = common::descriptors();
    let ports = channel_of(64 << 10);
    for size in 0..3 {
        ports.0.try_post_message(&rich(size)).unwrap();
        let good = now(&ports.1);
        assert!(passes(&ports, &good), "as it was made");
        let mut passed = 0;
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            passed += u32::from(passes(&ports, &bytes));
        }
        let refused = good.len() as u32 * 8 - passed;
        assert!(
            passed > 100 && refused > 100,
            "{passed} passed, {refused} not"
        );
    }
}

#[test]
fn s20_an_archive_with_anything_wrong_is_read_inside_or_refused() {
    let _quiet = common::descriptors();
    let ports = channel_of(64 << 10);
    let archives: Vec<_> = (0..6)
        .map(|size| {
            ports.0.try_post_message(&rich(size)).unwrap();
            now(&ports.1)
        })
        .collect();
    let mut passed = 0;
    let all = rounds(40_000);
    for seed in 0..all {
        let _round = Round(seed);
        let mut random = Seeded::new(seed);
        let mut bytes = archives[random.below(6) as usize].clone();
        (0..1 + random.below(3)).for_each(|_| corrupt(&mut bytes, &mut random));
        passed += u64::from(passes(&ports, &bytes));
    }
    assert!(passed > all / 20 && passed < all, "{passed} passed");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 300 } else { 3000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn s20_an_archive_with_words_replaced_is_read_inside_or_refused(
        size in 0..4usize,
        replaced in proptest::collection::vec((any::<proptest::sample::Index>(), -80..80i32), 1..6),
    ) {
        let _quiet = common::descriptors();
        let ports = channel_of(64 << 10);
        ports.0.try_post_message(&rich(size)).unwrap();
        let mut bytes = now(&ports.1);
        for (at, value) in replaced {
            let at = at.index(bytes.len() / 4) * 4;
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        passes(&ports, &bytes);
    }

    #[test]
    fn s20_any_bytes_are_read_inside_or_refused(
        bytes in proptest::collection::vec(prop_oneof![3 => Just(0), 1 => any::<u8>()], 0..700),
    ) {
        let _quiet = common::descriptors();
        let ports = channel_of(4096);
        passes(&ports, &bytes);
    }
}
