//! Words that change while they are looked at, and while somebody sleeps on them: what was read once holds, and
//! every wait ends in its time (S57). What the words mean is in `hostile.rs`.

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

use chances::{Round, Seeded, during, rounds};
use common::{channel_of, closed, now};
use deeds::{end_of_post, fill};
use forger::{
    CAPACITY, CLOSED, DESCRIPTORS_SENT, DESCRIPTORS_TAKEN, PORT, READ_POSITION, RING, ROOM_TARGET,
    STATE, WRAP, header, stage,
};
use ringport::{CloseReason, MessagePort, PostError};
use witness::{Innocent, is_told};

#[test]
fn s57_headers_that_change_under_the_reader() {
    let _quiet = common::descriptors();
    let good = [0, 8, 24, 40].map(|len| header(len, 0, 0, 0));
    let bad = [
        0,
        WRAP,
        header(5000, 0, 0, 0),
        header(8, 1, 1, 0),
        header(0, 0, 255, 127),
    ];
    for seed in 0..rounds(160) {
        let (victim, forger) = stage(seed % 2 == 0, 8);
        // A good record at every place, so that there is always a next one; the last leads round.
        let last = CAPACITY - 8;
        for offset in (8..last).step_by(16) {
            forger.set(forger.at(offset as u64), good[0]);
        }
        forger.set(forger.at(last as u64), WRAP);
        let read = || forger.get(forger.theirs(READ_POSITION));
        let mut random = Seeded::new(seed);
        let attack = || {
            let at = read() + 16 * random.below(3);
            // Where every one of them fits.
            if forger.offset(at) < CAPACITY - 64 {
                forger.set(forger.at(at), random.pick(&good));
                if seed % 4 == 0 && random.one_in(500) {
                    forger.set(forger.at(at), random.pick(&bad));
                }
            }
        };
        let only_good = seed % 4 != 0;
        during(attack, || {
            for _ in 0..3000 {
                let before = read();
                match victim.try_recv() {
                    Ok(Some(_)) if !only_good => {}
                    Ok(Some(event)) => {
                        // What was read is of one length throughout.
                        let wrap = if forger.offset(before) == last { 16 } else { 0 };
                        let size = (8 + event.len() as u64).next_multiple_of(16);
                        assert_eq!(read(), before + wrap + size, "{} bytes", event.len());
                    }
                    Ok(None) => assert!(!only_good, "no header was ever zero"),
                    end => {
                        assert_eq!(closed(end), CloseReason::Corrupt);
                        assert!(!only_good, "all headers were good");
                        break;
                    }
                }
            }
        });
    }
}

#[test]
fn s57_items_that_change_under_the_reader() {
    let _quiet = common::descriptors();
    let mut innocent = Innocent::new();
    for seed in 0..rounds(400) {
        let _round = Round(seed);
        let (victim, forger) = stage(seed % 2 == 0, 8);
        let (near, far) = channel_of(CAPACITY);
        let position = forger.cursor();
        let at = forger.at(position);
        forger.send_ports(vec![far]).unwrap();
        forger.post(&[PORT], b"a bet");
        let others = [header(5, 0, 1, 0), header(5, 2, 1, 0), header(5, 127, 8, 0)];
        let mut random = Seeded::new(seed);
        let attack = || {
            forger.set(at + 8, u64::from(!random.one_in(4)));
            forger.set(at, header(5, 1, 1, 0));
            if random.one_in(3) {
                forger.set(at, random.pick(&others));
            }
        };
        let came = during(attack, || match victim.recv_timeout(common::AT_ONCE) {
            Ok(event) => {
                let event = event.expect("there is a header");
                assert_eq!(event.len(), 5);
                event.take_ports()
            }
            end => {
                assert_eq!(closed(end), CloseReason::Corrupt);
                Vec::new()
            }
        });
        for port in &came {
            port.try_post_bytes(b"arrived").unwrap();
            assert_eq!(now(&near), b"arrived");
        }
        assert!(came.len() <= 1);
        drop((came, victim, forger));
        assert!(is_told(&near));
        innocent.works();
    }
}

#[test]
fn s57_who_sleeps_is_awake_when_its_time_is_over() {
    let _quiet = common::descriptors();
    let waits: [fn(&MessagePort, Duration) -> Option<CloseReason>; 3] = [
        |port, time| match port.recv_timeout(time) {
            Ok(None) => None,
            end => Some(closed(end)),
        },
        |port, time| end_of_post(port.post_bytes_timeout(&[1; 1000], time)),
        |port, time| {
            end_of_post(
                port.reserve_timeout(1000, time)
                    .map(drop)
                    .map_err(PostError::from),
            )
        },
    ];
    for seed in 0..90 {
        let _round = Round(seed);
        let mut random = Seeded::new(seed);
        let (victim, forger) = stage(seed % 2 == 0, 8);
        victim.set_wait_strategy(common::STRATEGIES[seed as usize / 3 % 3]);
        fill(&victim, &[1; 1000]);
        let attack = || {
            let word = random.pick(&[
                STATE,
                STATE,
                ROOM_TARGET,
                DESCRIPTORS_SENT,
                DESCRIPTORS_TAKEN,
            ]);
            let value = random.next() as u32 & !CLOSED;
            let at = random.pick(&[forger.mine(word), forger.theirs(word)]);
            forger.set32(
                at,
                if word == STATE {
                    value
                } else {
                    random.next() as u32
                },
            );
            if random.one_in(20) {
                let _ = forger.send(&[RING], &[]);
            }
        };
        let time = Duration::from_millis(5);
        let (ended, took) = during(attack, || {
            let start = Instant::now();
            let ended = waits[seed as usize % 3](&victim, time);
            (ended, start.elapsed())
        });
        match ended {
            None => assert!(took >= time, "gave up after {took:?}"),
            Some(reason) => assert_eq!(reason, CloseReason::Corrupt, "too many rings"),
        }
        assert!(took < common::AT_ONCE, "woke after {took:?}");
    }
}
