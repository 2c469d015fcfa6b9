//! Games: generated victims do generated deeds while generated nonsense is written into the segment, turn by
//! turn, at the same time, and in another process. The channel goes on or ends, nothing else happens, and
//! nothing is left over (S57). What single words mean is in `hostile.rs`.

#[path = "hostile/chances.rs"]
mod chances;
mod common;
#[path = "hostile/deeds.rs"]
mod deeds;
#[path = "common/forger.rs"]
mod forger;
#[path = "hostile/witness.rs"]
mod witness;

use std::os::fd::AsRawFd;
use std::time::Instant;

use chances::{Round, Seeded, during, rounds};
use common::{assert_over, channel_of, sample_of};
use deeds::{LONGEST, Victim};
use forger::{
    CAPACITY, CLOSED, DESCRIPTORS_SENT, DESCRIPTORS_TAKEN, Forger, PORT, READ_POSITION, RING,
    STATE, WORDS, WRAP, header, stage,
};
use proptest::prelude::*;
use ringport::{CloseReason, MessagePort, WaitStrategy};
use witness::{Holdings, Innocent, is_told};

roles! { is_played_with }

/// Writes something wrong somewhere.
fn forge(forger: &Forger, random: &mut Seeded) {
    let capacity = CAPACITY as u64;
    let any = |random: &mut Seeded, from: usize, to: usize| {
        from + random.below((to - from) as u64 / 8) as usize * 8
    };
    let at = match random.below(16) {
        0..=5 => {
            let word = random.pick(&WORDS);
            let at = random.pick(&[forger.mine(word), forger.theirs(word)]);
            if [DESCRIPTORS_SENT, DESCRIPTORS_TAKEN, STATE].contains(&word) {
                let value = random.near(forger.get32(at).into(), 64);
                // Most of the time the channel stays open.
                let open = if random.one_in(20) { u32::MAX } else { !CLOSED };
                return forger.set32(at, value as u32 & open);
            }
            at
        }
        6..=9 => {
            // The header that is read next, where the reader says it is.
            let read = forger.get(forger.theirs(READ_POSITION)) & !15 | 8;
            let good = [
                header(40, 0, 0, 0),
                header(LONGEST as u64, 0, 0, 0),
                WRAP,
                0,
            ];
            let nearly = random.pick(&good);
            let word = random.near(nearly, capacity);
            return forger.set(forger.at(read), word);
        }
        10 | 11 => any(random, 4096, forger.len()),
        12 | 13 => any(random, 0, 4096),
        14 => {
            let _ = forger.send(&[RING], &[]);
            return;
        }
        _ => return punch(forger, random.below(3)),
    };
    forger.set(at, random.near(forger.get(at), capacity));
}

/// Takes a page out of the file: it reads as zeros from then on, and is no shorter.
fn punch(forger: &Forger, page: u64) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (from, len) = (page as libc::off_t * 4096, 4096);
    // SAFETY: a descriptor that is open, and numbers; it is nobody's memory but the channel's.
    let result = unsafe { libc::fallocate(forger.segment().as_raw_fd(), mode, from, len) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// A faithful act between the others, so that there is something to go wrong. Gives the peers of what it
/// sent.
fn work(forger: &Forger, random: &mut Seeded) -> Option<MessagePort> {
    match random.below(4) {
        0 => forger.read_all(),
        1 | 2 => {
            forger.post(&[], &sample_of(1, random.pick(&[8, 40, 300, 1500])));
        }
        _ => {
            let (stays, goes) = channel_of(CAPACITY);
            // Its socket may have been hung up, or be full.
            if let Ok(count) = forger.send_ports(vec![goes]) {
                forger.post(&vec![PORT; count], b"with a port");
            }
            return Some(stays);
        }
    }
    None
}

/// The end of a game: the victim's answer is one that can be, and nobody is left in the dark.
fn settle(victim: Victim, forger: Forger, ended: Option<CloseReason>, mut sent: Vec<MessagePort>) {
    match ended {
        None => {}
        Some(CloseReason::Corrupt) => {
            if let (false, Some(port)) = (victim.moved, &victim.port) {
                assert_over(port, CloseReason::Corrupt);
            }
        }
        Some(CloseReason::ClosedByPeer) => {}
        Some(CloseReason::ClosedHere) => assert!(victim.moved, "its own word was believed"),
        Some(other) => panic!("{other:?}"),
    }
    sent.extend(victim.away);
    drop((victim.port, forger));
    assert!(sent.iter().all(is_told));
}

/// One game, move by move: faithful work, something wrong, some deeds.
fn play(seed: u64) {
    let _round = Round(seed);
    let mut random = Seeded::new(seed);
    let (port, forger) = stage(random.one_in(2), random.position());
    port.set_wait_strategy(random.pick(&common::STRATEGIES));
    let mut victim = Victim::new(port);
    let mut sent = Vec::new();
    let mut ended = None;
    for _ in 0..2 + random.below(6) {
        sent.extend((0..random.below(3)).filter_map(|_| work(&forger, &mut random)));
        (0..random.below(3)).for_each(|_| forge(&forger, &mut random));
        for _ in 0..1 + random.below(3) {
            let before = forger.beyond_the_victim();
            ended = victim.does(random.below(Victim::DEEDS), &mut random);
            assert!(
                forger.beyond_the_victim() == before,
                "it wrote beyond its own"
            );
            if ended.is_some() {
                break;
            }
        }
        if ended.is_some() {
            break;
        }
    }
    if ended == Some(CloseReason::ClosedByPeer) {
        assert!(forger.get32(forger.mine(STATE)) & CLOSED != 0);
    }
    settle(victim, forger, ended, sent);
}

#[test]
fn s57_any_word_wrong_between_any_deeds() {
    let _quiet = common::descriptors();
    let mut innocent = Innocent::new();
    let warm = rounds(500);
    (0..warm).for_each(play);
    let before = Holdings::now();
    for seed in warm..rounds(4000) {
        play(seed);
        if seed % 8 == 0 {
            innocent.works();
        }
        if seed % 500 == 0 {
            Holdings::now().assert_as(&before);
        }
    }
    Holdings::now().assert_as(&before);
}

#[test]
fn s57_any_word_wrong_at_any_moment() {
    let _quiet = common::descriptors();
    let mut innocent = Innocent::new();
    let mut game = |seed: u64| {
        let _round = Round(seed);
        let mut random = Seeded::new(seed);
        let (port, forger) = stage(random.one_in(2), random.position());
        port.set_wait_strategy(random.pick(&[WaitStrategy::Adaptive, WaitStrategy::Block]));
        let mut victim = Victim::new(port);
        let mut wrong = Seeded::new(!seed);
        let mut sent = Vec::new();
        let attack = || {
            if wrong.one_in(4) {
                forge(&forger, &mut wrong);
            } else if sent.len() < 50 {
                sent.extend(work(&forger, &mut wrong));
            }
        };
        let ended = during(attack, || {
            (0..60).find_map(|_| victim.does(random.below(Victim::DEEDS), &mut random))
        });
        settle(victim, forger, ended, sent);
        innocent.works();
    };
    (0..100).for_each(&mut game);
    let before = Holdings::now();
    (100..rounds(500)).for_each(&mut game);
    Holdings::now().assert_as(&before);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 100 } else { 500 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// The same as the games, in a form that is made shorter when it fails.
    #[test]
    fn s57_any_sequence_of_wrongs_and_deeds(
        first in any::<bool>(),
        moves in proptest::collection::vec((0..Victim::DEEDS + 8, any::<u64>()), 1..40),
    ) {
        let _quiet = common::descriptors();
        let (port, forger) = stage(first, 8);
        let mut victim = Victim::new(port);
        let mut sent = Vec::new();
        let mut ended = None;
        for (step, seed) in moves {
            let mut random = Seeded::new(seed);
            match step.checked_sub(Victim::DEEDS) {
                None => ended = victim.does(step, &mut random),
                Some(0..3) => sent.extend(work(&forger, &mut random)),
                Some(_) => forge(&forger, &mut random),
            }
            if ended.is_some() {
                break;
            }
        }
        settle(victim, forger, ended, sent);
    }
}

#[test]
fn s57_a_victim_in_another_process() {
    let _quiet = common::descriptors();
    let (control, child) = common::worker("is_played_with").into_parts();
    let mut tally = [0; 4];
    for seed in 0..rounds(1000) {
        let _round = Round(seed);
        let mut random = Seeded::new(!seed);
        let (port, forger) = stage(random.one_in(2), random.position());
        control
            .post_bytes_with(&seed.to_le_bytes(), [port])
            .unwrap();
        assert_eq!(common::next(&control), b"it is here");
        let mut sent = Vec::new();
        let start = Instant::now();
        let verdict = loop {
            if let Some(event) = control.try_recv().unwrap() {
                break event.bytes()[0];
            }
            assert!(start.elapsed() < common::PATIENCE, "no answer");
            if random.one_in(3) {
                forge(&forger, &mut random);
            } else if sent.len() < 20 {
                sent.extend(work(&forger, &mut random));
            }
        };
        tally[usize::from(verdict)] += 1;
        drop(forger);
        assert!(sent.iter().all(is_told));
    }
    // How many end before the forger has done anything is the scheduler's business; most do not.
    let [_, corrupt, ..] = tally;
    assert!(corrupt > rounds(100), "one-sided games: {tally:?}");
    drop(control);
    common::end_well(child);
}

fn is_played_with() {
    let control = common::parent();
    let mut innocent = Innocent::new();
    let mut before = None;
    for event in control.iter() {
        let seed = common::index_of(event.bytes());
        let mut random = Seeded::new(seed);
        let mut victim = Victim::new(event.take_ports().pop().unwrap());
        drop(event);
        control.post_bytes(b"it is here").unwrap();
        let ended = (0..40).find_map(|_| victim.does(random.below(Victim::DEEDS), &mut random));
        let verdict = match ended {
            None => 0,
            Some(CloseReason::Corrupt) => 1,
            Some(CloseReason::ClosedByPeer) => 2,
            Some(CloseReason::ClosedHere) if victim.moved => 3,
            Some(other) => panic!("seed {seed}: {other:?}"),
        };
        let away = std::mem::take(&mut victim.away);
        drop(victim);
        control.post_bytes(&[verdict]).unwrap();
        assert!(away.iter().all(is_told), "seed {seed}");
        innocent.works();
        if seed == 100 {
            before = Some(Holdings::now());
        }
    }
    Holdings::now().assert_as(&before.unwrap());
}
