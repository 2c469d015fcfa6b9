//! Calls of all kinds in any order on both ends of a channel: whoever waits for what is there is told by the
//! descriptor, and nobody is told again and again for nothing.

#[path = "polling/calls.rs"]
mod calls;
mod common;
#[path = "polling/gauges.rs"]
mod gauges;
#[path = "polling/model.rs"]
mod model;

use calls::{Call, call};
use model::Model;
use proptest::prelude::*;
use ringport::WaitStrategy;

/// How often, unless `PROPTEST_CASES` says so.
const CASES: u32 = 600;

fn cases() -> u32 {
    match std::env::var("PROPTEST_CASES") {
        Ok(cases) => cases.parse().expect("a number of cases"),
        Err(_) => CASES,
    }
}

/// Who calls what, and whether the descriptors are looked at after it.
type Step = (usize, Call, bool);

fn play(strategies: [WaitStrategy; 2], edges: bool, steps: &[Step], end: usize) {
    let mut model = Model::new(strategies, edges);
    for (end, call, look) in steps {
        model.make(*end, *call);
        if *look {
            model.look();
        }
    }
    model.look();
    model.settle();
    model.end(end);
}

fn strategy() -> impl Strategy<Value = WaitStrategy> {
    proptest::sample::select(&common::STRATEGIES[..])
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn s52_no_sequence_of_calls_loses_a_wake_up(
        strategies in [strategy(), strategy()],
        edges: bool,
        steps in proptest::collection::vec((0..2usize, call(), any::<bool>()), 1..50),
        end in 0..2usize,
    ) {
        let _quiet = common::descriptors();
        play(strategies, edges, &steps, end);
    }
}
