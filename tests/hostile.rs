//! Whatever stands in the segment, wrong by a little or by much, before the victim looks, while it looks and
//! while it sleeps: the channel goes on, or it ends as Corrupt, and nothing else comes of it (S57).
//!
//! Where the layout says what a word means, the verdict on it is worked out here a second time. Generated
//! nonsense against generated deeds is in `hostile_games.rs`, what comes over the socket in `stowaways.rs`.

mod common;
#[path = "common/forger.rs"]
mod forger;

#[path = "hostile/chances.rs"]
mod chances;
#[path = "hostile/deeds.rs"]
mod deeds;
#[path = "hostile/witness.rs"]
mod witness;

use std::time::{Duration, Instant};

use chances::{Round, Seeded, rounds};
use common::{assert_over, channel_of, now, sample_of};
use deeds::{LONGEST, MOMENT, fill, post};
use forger::{
    CAPACITY, CLOSED, DESCRIPTORS_SENT, DESCRIPTORS_TAKEN, FENCED, READ_POSITION, STATE,
    WANTS_MESSAGE, WANTS_ROOM, WRAP, WRITE_POSITION, header, stage,
};
use ringport::{Armed, CloseReason, Interest, MessagePort, PostError, RecvError};
use witness::is_told;

/// The next message's bytes, by one of the ways to receive.
fn receive(port: &MessagePort, way: u64) -> Result<Option<Vec<u8>>, RecvError> {
    let event = match way % 3 {
        0 => port.try_recv(),
        1 => port.recv_timeout(Duration::ZERO),
        _ => port.recv_timeout(MOMENT),
    };
    Ok(event?.map(|event| event.bytes().to_vec()))
}

/// What a header word means.
#[derive(Debug)]
enum Meaning {
    Nothing,
    /// A payload, so many bytes after the header, so long, and where the next header is.
    Message {
        from: usize,
        len: usize,
        next: usize,
    },
    Corrupt,
}

fn meaning(word: u64, offset: usize) -> Meaning {
    let bits = |from: u32, count: u32| (word >> from & ((1 << count) - 1)) as usize;
    let (len, items, kind) = (bits(0, 32), bits(32, 8), bits(40, 8));
    let (pad, tail) = (bits(48, 8) * 16, bits(56, 7) * 16);
    let size = (8 + pad + len).next_multiple_of(16);
    let fits = size <= CAPACITY / 2 - 16 && offset + size + tail <= CAPACITY;
    match word {
        0 => Meaning::Nothing,
        // At the ring's beginning, where it leads, nothing stands.
        WRAP if offset != 8 => Meaning::Nothing,
        // No descriptor has come, so that no item can be.
        _ if word >> 63 == 1 && kind == 1 && items == 0 && fits => Meaning::Message {
            from: 8 + pad,
            len,
            next: size + tail,
        },
        _ => Meaning::Corrupt,
    }
}

/// Header words worth trying at an offset: good ones, each with every bit turned, and those about the
/// limits.
fn headers(offset: usize) -> Vec<u64> {
    let to_end = (CAPACITY - offset) as u64;
    let good = [
        0,
        header(0, 0, 0, 0),
        header(48, 0, 0, 0),
        header(9, 1, 1, 0),
        header(40, 0, 3, 2),
        header(LONGEST as u64, 0, 0, 0),
        header(0, 0, (LONGEST / 16) as u64, 0),
        header(0, 0, 0, 127),
        WRAP,
    ];
    let mut words: Vec<u64> = good
        .iter()
        .flat_map(|word| (0..64).map(move |bit| word ^ 1 << bit))
        .collect();
    words.extend(good);
    for len in [LONGEST as u64, to_end - 8, 4096, 1 << 31] {
        for len in [len.wrapping_sub(1), len, len + 1, len + 8, len + 16] {
            words.push(header(len & 0xffff_ffff, 0, 0, 0));
        }
    }
    for sixteens in [0, to_end / 16, to_end / 16 + 1, 126, 127, 255] {
        words.push(header(0, 0, sixteens & 0xff, 0));
        words.push(header(0, 0, 0, sixteens & 0x7f));
        words.push(header(
            u64::from(u32::MAX),
            0,
            sixteens & 0xff,
            sixteens & 0x7f,
        ));
    }
    words.extend([u64::MAX, 1, 1 << 63, WRAP | 1 << 32, WRAP | 16]);
    words
}

#[test]
fn s57_every_header_gets_the_verdict_that_its_bits_deserve() {
    let _quiet = common::descriptors();
    let mut random = Seeded::new(1);
    for offset in [
        8,
        24,
        CAPACITY / 2 + 8,
        CAPACITY - 2040,
        CAPACITY - 24,
        CAPACITY - 8,
    ] {
        for (index, word) in (0..).zip(headers(offset)) {
            let lap = random.position() & !(CAPACITY as u64 - 1);
            let position = lap + offset as u64;
            let (victim, forger) = stage(random.one_in(2), position);
            let ring = forger.at(0);
            forger.write(ring, &sample_of(index, CAPACITY));
            forger.set(ring + 8, 0);
            forger.set(forger.at(position), word);
            let before = forger.beyond_the_victim();
            let meant = meaning(word, offset);
            match (&meant, receive(&victim, index)) {
                (Meaning::Nothing, Ok(None)) => assert!(!victim.is_closed()),
                (Meaning::Message { from, len, next }, Ok(Some(bytes))) => {
                    assert_eq!(bytes, forger.read(forger.at(position) + from, *len));
                    let read = forger.get(forger.theirs(READ_POSITION));
                    assert_eq!(read, position.wrapping_add(*next as u64));
                }
                (Meaning::Corrupt, Err(RecvError::Closed(CloseReason::Corrupt))) => {
                    assert_over(&victim, CloseReason::Corrupt);
                    assert_eq!(forger.get32(forger.theirs(STATE)) & CLOSED, CLOSED);
                }
                (_, got) => panic!("{word:#x} at {offset}: {meant:?}, got {got:?}"),
            }
            assert!(forger.beyond_the_victim() == before, "{word:#x}");
        }
    }
}

#[test]
fn s57_a_wrap_leads_to_one_record_and_no_further() {
    let _quiet = common::descriptors();
    for (index, word) in (0..).zip(headers(8)) {
        let position = 8 + 16 * (1 + index % 255);
        let (victim, forger) = stage(index % 2 == 0, position);
        let start = forger.at(8);
        forger.write(start, &sample_of(index, LONGEST + 8));
        forger.set(start, word);
        forger.set(forger.at(position), WRAP);
        let meant = meaning(word, 8);
        match (&meant, receive(&victim, index)) {
            (Meaning::Nothing, Ok(None)) => {}
            (Meaning::Message { from, len, .. }, Ok(Some(bytes))) => {
                assert_eq!(bytes, forger.read(start + from, *len));
            }
            (Meaning::Corrupt, Err(RecvError::Closed(CloseReason::Corrupt))) => {}
            (_, got) => panic!("{word:#x}: {meant:?}, got {got:?}"),
        }
    }
}

#[test]
fn s57_a_read_position_is_believed_only_within_what_was_posted() {
    let _quiet = common::descriptors();
    let mut refused = 0;
    for seed in 0..rounds(4000) {
        let _round = Round(seed);
        let mut random = Seeded::new(seed);
        let start = random.position();
        let (victim, forger) = stage(random.one_in(2), start);
        let bytes = sample_of(seed, 8 + random.below(LONGEST as u64 - 7) as usize);
        fill(&victim, &bytes);
        let position = || forger.get(forger.theirs(WRITE_POSITION));
        let read = forger.mine(READ_POSITION);
        // Some of it is read, and the victim sees that when its ring is full once more.
        let posted = position().wrapping_sub(start);
        let seen = start.wrapping_add(random.below(posted / 16 + 1) * 16);
        forger.set(read, seen);
        fill(&victim, &bytes);
        let written = position();

        let within = written.wrapping_sub(seen);
        let between = seen.wrapping_add(random.below(within / 16 + 1) * 16);
        let nearly = random.pick(&[seen, written, between]);
        let value = random.near(nearly, CAPACITY as u64);
        forger.set(read, value);
        let can_be = value % 16 == 8 && value.wrapping_sub(seen) <= within;
        let before = forger.beyond_the_victim();
        match post(&victim, random.next(), &bytes) {
            Ok(()) => assert!(
                can_be && value != seen,
                "{value:#x} of {seen:#x}, {written:#x}"
            ),
            Err(PostError::Full { .. }) => assert!(can_be && value != written, "{value:#x}"),
            Err(PostError::Closed(CloseReason::Corrupt)) => {
                assert!(!can_be, "{value:#x} of {seen:#x} to {written:#x}");
                assert_over(&victim, CloseReason::Corrupt);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
        assert!(forger.beyond_the_victim() == before);
    }
    assert!(
        refused > rounds(1000),
        "the values were too good: {refused}"
    );
}

#[test]
fn s57_a_count_of_descriptors_is_believed_only_within_what_was_sent() {
    let _quiet = common::descriptors();
    let (mut full, mut refused) = (0, 0);
    for seed in 0..rounds(1500) {
        let _round = Round(seed);
        let mut random = Seeded::new(seed);
        let (port, forger) = stage(random.one_in(2), 8);
        // Sent by a former holder, as far as the victim knows.
        let before = random.pick(&[0, 1, 63, 64, 65, 200, u32::MAX - 1, u32::MAX]);
        let victim = port.into_handle();
        forger.count_descriptors_from(before);
        let victim = MessagePort::from_handle(victim).unwrap();
        let mut sent = 0;
        let mut stay = Vec::new();
        let mut send = || {
            let (stays, goes) = channel_of(CAPACITY);
            stay.push(stays);
            victim.try_post_bytes_with(b"", [goes])
        };
        for _ in 0..random.below(4) {
            send().unwrap();
            sent += 1;
        }
        let count = before.wrapping_add(sent);
        let taken = match random.below(4) {
            0 => random.next() as u32,
            1 => count.wrapping_sub(64),
            2 => count.wrapping_sub(random.below(70) as u32),
            _ => random.near(count.into(), 64) as u32,
        };
        forger.set32(forger.mine(DESCRIPTORS_TAKEN), taken);
        // Its own word is nothing to it while it has the port.
        forger.set32(forger.theirs(DESCRIPTORS_SENT), random.next() as u32);
        let answer = send().map_err(PostError::from);
        match (count.wrapping_sub(taken), answer) {
            (0..64, Ok(())) => {}
            (
                64,
                Err(PostError::TransfersFull {
                    waiting: 64,
                    max: 64,
                }),
            ) => full += 1,
            (65.., Err(PostError::Closed(CloseReason::Corrupt))) => {
                refused += 1;
                assert_over(&victim, CloseReason::Corrupt);
            }
            (waiting, other) => panic!("{waiting}: {other:?}"),
        }
        drop((victim, forger));
        assert!(stay.iter().all(is_told));
    }
    assert!(full > 50 && refused > 50, "{full}, {refused}");
}

#[test]
fn s57_who_says_that_it_took_what_it_left_gets_no_more_than_the_socket_holds() {
    let _quiet = common::descriptors();
    let (victim, forger) = stage(true, 8);
    let mut stay = Vec::new();
    let mut sent = 0;
    let error = loop {
        let (stays, goes) = channel_of(CAPACITY);
        stay.push(stays);
        let Err(error) = victim.try_post_bytes_with(b"", [goes]) else {
            sent += 1;
            assert!(sent < 10_000, "there is no end to it");
            forger.set32(forger.mine(DESCRIPTORS_TAKEN), sent);
            forger.read_all();
            continue;
        };
        break error;
    };
    assert!(
        matches!(error.error(), PostError::TransfersFull { .. }),
        "{error:?}"
    );
    assert!(sent > 64);
    let start = Instant::now();
    let again = victim.post_bytes_with_timeout(b"", error.into_ports(), 20 * MOMENT);
    let error = again.unwrap_err();
    assert!(
        matches!(error.error(), PostError::TransfersFull { .. }),
        "{error:?}"
    );
    assert!(start.elapsed() >= 20 * MOMENT && start.elapsed() < common::AT_ONCE);
    // Other posts go on, and these as well once there is room.
    victim.try_post_bytes(b"without").unwrap();
    forger.drain();
    victim.try_post_bytes_with(b"", error.into_ports()).unwrap();
    drop((victim, forger));
    assert!(stay.iter().all(is_told));
}

#[test]
fn s57_positions_count_on_beyond_the_last_number() {
    let _quiet = common::descriptors();
    for first in [false, true] {
        let start = u64::MAX - 3 * CAPACITY as u64 - 7;
        let (port, forger) = stage(first, start);
        let other = MessagePort::from_handle(forger.duplicate()).unwrap();
        for index in 0..200 {
            let bytes = sample_of(index, 8 + index as usize * 9);
            for (from, to) in [(&port, &other), (&other, &port)] {
                from.try_post_bytes(&bytes).unwrap();
                assert!((bytes.len()..CAPACITY).contains(&to.pending()));
                assert_eq!(now(to), bytes);
                assert_eq!(to.pending(), 0);
            }
        }
        assert!(forger.get(forger.mine(READ_POSITION)) < start);
    }
}

#[test]
fn s57_a_state_word_means_no_more_than_it_says() {
    let _quiet = common::descriptors();
    let single = (0..32).map(|bit| 1 << bit);
    let patterns = [
        0,
        u32::MAX,
        !CLOSED,
        0xffff_fff0,
        FENCED | WANTS_MESSAGE | WANTS_ROOM,
    ];
    for (index, bits) in (0..).zip(single.chain(patterns)) {
        for own in [false, true] {
            let (victim, forger) = stage(index % 2 == 0, 8);
            victim.set_wait_strategy(common::STRATEGIES[index % 3]);
            let at = if own {
                forger.theirs(STATE)
            } else {
                forger.mine(STATE)
            };
            forger.post(&[], b"before");
            forger.set32(at, bits);
            if !own && bits & CLOSED != 0 {
                assert_eq!(now(&victim), b"before");
                assert_over(&victim, CloseReason::ClosedByPeer);
                continue;
            }
            // The victim's own word is nothing to it: it knows its own state.
            assert_eq!(now(&victim), b"before");
            assert!(victim.recv_timeout(MOMENT).unwrap().is_none());
            forger.set32(at, bits);
            forger.post(&[], b"after");
            assert_eq!(common::next(&victim), b"after");
            fill(&victim, &[1; 100]);
            forger.set32(at, bits);
            let full = victim.post_bytes_timeout(&[1; 100], MOMENT);
            assert!(
                matches!(full, Err(PostError::Full { .. })),
                "{bits:#x}: {full:?}"
            );
            assert_eq!(victim.arm(Interest::Either(100)).unwrap(), Armed::Wait);
            forger.set32(at, bits);
            forger.read_all();
            assert_eq!(victim.arm(Interest::Either(100)).unwrap(), Armed::Ready);
            victim.try_post_bytes(b"room").unwrap();
            assert_eq!(victim.close_reason(), None, "{bits:#x}");
        }
    }
}

#[test]
fn s57_the_segments_header_is_not_looked_at_again() {
    let _quiet = common::descriptors();
    for seed in 0..200 {
        let _round = Round(seed);
        let mut random = Seeded::new(seed);
        let (victim, forger) = stage(seed % 2 == 0, 8);
        for at in (0..1024).step_by(8) {
            forger.set(at, random.near(forger.get(at), CAPACITY as u64));
        }
        for index in 0..20 {
            let bytes = sample_of(index, 8 + random.below(LONGEST as u64 - 7) as usize);
            victim.try_post_bytes(&bytes).unwrap();
            forger.read_all();
            forger.post(&[], &bytes);
            assert_eq!(now(&victim), bytes);
        }
        assert_eq!(
            (victim.capacity(), victim.max_message_len()),
            (CAPACITY, LONGEST)
        );
        assert_eq!((victim.close_reason(), victim.pending()), (None, 0));
    }
}

#[test]
fn s57_what_waits_is_never_said_to_be_more_than_the_ring_holds() {
    let _quiet = common::descriptors();
    let (victim, forger) = stage(true, 8);
    let mut random = Seeded::new(2);
    for _ in 0..rounds(4000) {
        let nearly = random.pick(&[8, CAPACITY as u64 + 8]);
        let value = random.near(nearly, CAPACITY as u64);
        forger.set(forger.mine(WRITE_POSITION), value);
        let waiting = value.wrapping_sub(8);
        let said = if waiting <= CAPACITY as u64 {
            waiting
        } else {
            0
        };
        assert_eq!(victim.pending() as u64, said, "{value:#x}");
    }
    assert!(format!("{victim:?}").contains("pending"));
}

#[test]
fn s57_a_peer_that_always_asks_to_be_rung_and_never_listens() {
    let _quiet = common::descriptors();
    let (victim, forger) = stage(true, 8);
    let start = Instant::now();
    let posts = 5000;
    for index in 0..posts {
        forger.set32(forger.mine(STATE), FENCED | WANTS_MESSAGE | WANTS_ROOM);
        victim.try_post_bytes(&sample_of(index, 40)).unwrap();
        forger.read_all();
        forger.post(&[], b"and room is wanted too");
        assert!(victim.try_recv().unwrap().is_some());
    }
    assert!(start.elapsed() < common::AT_ONCE, "{:?}", start.elapsed());
    let rung = victim.stats().wakeups;
    assert!((64..posts).contains(&rung), "{rung} rings unheard");
    // It is not held against a peer that listens in the end.
    forger.drain();
    forger.set32(forger.mine(STATE), FENCED | WANTS_MESSAGE);
    victim.try_post_bytes(b"!").unwrap();
    assert_eq!(victim.stats().wakeups, rung + 1);
}
