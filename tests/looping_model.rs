//! Two thousand ports in one event loop, with random traffic, transfers and closes, against a model that knows what
//! has to be dispatched, where, and in which order.
//!
//! What is done follows from the seed; when a timer fires, and in which order the kernel tells what it knows, does
//! not. To replay a failure, run its seed again and again: `RINGPORT_CAMPAIGN_SEED=<seed> cargo test --test
//! looping_model`. The long form: `RINGPORT_CAMPAIGN=<rounds> cargo test --release --test looping_model`.

mod common;
#[path = "common/ports.rs"]
mod ports;

#[path = "looping_model/afar.rs"]
mod afar;
#[path = "looping_model/coming.rs"]
mod coming;
#[path = "looping_model/deeds.rs"]
mod deeds;
#[path = "looping_model/far.rs"]
mod far;
#[path = "looping_model/letter.rs"]
mod letter;
#[path = "looping_model/model.rs"]
mod model;
#[path = "looping_model/places.rs"]
mod places;
#[path = "looping_model/posting.rs"]
mod posting;
#[path = "looping_model/round.rs"]
mod round;
#[path = "looping_model/shortage.rs"]
mod shortage;
#[path = "looping_model/turns.rs"]
mod turns;
#[path = "looping_model/world.rs"]
mod world;

use std::time::{SystemTime, UNIX_EPOCH};

use afar::play_afar;
use round::{Round, play};

roles! { obeys }

fn obeys() {
    far::obey(common::parent());
}

/// Channels whose ends are all in the loop, or with the test: more than two thousand ports.
const CHANNELS: usize = 1150;
/// Four for each channel, and some.
const DESCRIPTORS: u64 = 8000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// The seeds to be played: the one asked for, as many new ones as asked for, or always the same few.
fn seeds(short: u64) -> Vec<u64> {
    if let Some(seed) = number("RINGPORT_CAMPAIGN_SEED") {
        return vec![seed];
    }
    match number("RINGPORT_CAMPAIGN") {
        Some(rounds) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let first = now.as_micros() as u64;
            (first..first + rounds).collect()
        }
        None => (1..=short).collect(),
    }
}

#[test]
fn s29_a_few_busy_ports_leave_each_other_their_turns() {
    for seed in seeds(2) {
        let _quiet = common::descriptors();
        play(&Round {
            seed,
            channels: 4 + (seed % 5) as usize,
            steps: 400,
            energy: 2000,
            is_busy: true,
        });
    }
}

#[test]
fn s28_two_thousand_ports_in_one_loop_keep_to_the_model() {
    for seed in seeds(2) {
        let _quiet = common::descriptors();
        ports::allow_descriptors(DESCRIPTORS);
        play(&Round {
            seed,
            channels: CHANNELS,
            steps: 400,
            energy: 200,
            is_busy: false,
        });
    }
}

#[test]
fn s36_ports_whose_peers_are_in_other_loops_keep_to_the_model() {
    for seed in seeds(2) {
        let _quiet = common::descriptors();
        play_afar(seed, false);
    }
}

#[test]
fn s51_a_process_that_is_killed_with_its_ports_is_told_to_each_of_their_peers_once() {
    for seed in seeds(2) {
        let _quiet = common::descriptors();
        play_afar(seed, true);
    }
}
