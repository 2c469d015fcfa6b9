//! How many instructions does a message take on either side? Unlike time, that can be repeated: valgrind counts
//! them. What is counted is recorded in `record/instructions.csv`; `--check` fails if it has grown by more than a
//! tenth, and `--record` writes down what it is now.
//!
//! One process, whose two ports have a ring in which all messages fit: so nothing is counted of waiting, waking and
//! full rings. The checks that a bench makes are counted.

mod harness;

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use harness::ports::Port;
use harness::work::End;
use harness::{Waiting, payload};
use ringport::{ChannelOptions, MessageChannel};

/// In the workload's process: which one it is, how many messages it posts, and how many it receives.
const WORKLOAD: &str = "RINGPORT_BENCH_WORKLOAD";

const WORKLOADS: [&str; 2] = ["bytes-48", "bytes-48-in-place"];

/// Messages that are too few, and enough. The difference is what is counted.
const FEW: u64 = 1_000;
const MANY: u64 = 9_000;

/// What may be added to what was recorded.
const GROWTH: f64 = 1.1;

fn main() {
    if let Ok(workload) = env::var(WORKLOAD) {
        return work(&workload);
    }
    let asked = |flag: &str| env::args().any(|argument| argument == flag);
    let recorded = recorded();
    let mut rows = vec!["workload,side,instructions".to_string()];
    let mut grown = false;
    println!("instructions a message, by valgrind; in brackets what was recorded");
    for workload in WORKLOADS {
        let totals = [(FEW, FEW), (MANY, FEW), (MANY, MANY)]
            .map(|(posted, received)| total(&format!("{workload} {posted} {received}")));
        for (side, at) in [("post", 0), ("receive", 1)] {
            let counted = (totals[at + 1] - totals[at]) as f64 / (MANY - FEW) as f64;
            let row = format!("{workload},{side}");
            let before = recorded.get(&row).copied();
            let verdict = match before {
                Some(before) if counted > before * GROWTH => "more than a tenth too many",
                Some(_) => "ok",
                None => "new",
            };
            grown |= verdict != "ok";
            let before = before.map_or("-".into(), |before| format!("{before:.1}"));
            println!("  {workload:20}{side:10}{counted:>8.1} ({before}) {verdict}");
            rows.push(format!("{row},{counted:.1}"));
        }
    }
    if asked("--record") {
        fs::write(path(), rows.join("\n") + "\n").expect("the record can be written");
    }
    assert!(
        !(asked("--check") && grown),
        "a message takes too many instructions"
    );
}

fn path() -> PathBuf {
    harness::record_folder().join("instructions.csv")
}

/// What `--record` wrote: instructions by workload and side.
fn recorded() -> HashMap<String, f64> {
    let text = fs::read_to_string(path()).unwrap_or_default();
    let rows = text
        .lines()
        .skip(1)
        .filter_map(|line| line.rsplit_once(','));
    rows.map(|(row, number)| (row.into(), number.parse().expect("a number")))
        .collect()
}

/// Runs this program under valgrind, and says how many instructions that took.
fn total(workload: &str) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("this program has a path"))
        .env(WORKLOAD, workload)
        .output()
        .expect("valgrind is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the workload failed: {text}");
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let (_, number) = collected.unwrap_or_else(|| panic!("valgrind tells no number: {text}"));
    number.trim().parse().expect("a number")
}

fn work(workload: &str) {
    let mut words = workload.split(' ');
    let kind = words.next().expect("a kind");
    let counts = words.map(|word| word.parse().expect("a number"));
    let counts: Vec<u64> = counts.collect();

    let options = ChannelOptions::new().capacity(1 << 20);
    let channel = MessageChannel::with_options(&options).expect("a channel can be made");
    let [one, two] = [channel.port1, channel.port2].map(|port| Port::new(port, Waiting::Spin));
    match kind {
        "bytes-48" => exchange::<48>(one, two, &counts),
        "bytes-48-in-place" => exchange::<48>(one, two.in_place(), &counts),
        _ => panic!("no workload is called {kind}"),
    }
}

/// Posts so many messages, then receives so many.
fn exchange<const LENGTH: usize>(
    mut one: impl End<LENGTH>,
    mut two: impl End<LENGTH>,
    counts: &[u64],
) {
    let [posted, received] = counts else {
        panic!("two numbers");
    };
    (0..*posted).for_each(|number| one.send(number));
    let sums = (0..*received).map(|_| two.take(payload::sum));
    let sum = sums.fold(0, u64::wrapping_add);
    assert_eq!(sum, payload::expected(LENGTH, 0, *received));
}
