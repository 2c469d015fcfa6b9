//! How long is a full round trip between two processes that spin, over the library's API, in the
//! default (copied, untrusted) mode? Bars: `rtt-32`, `rtt-48`, `rtt-typed`, `rtt-1k`, each as a
//! multiple of the bare cache line ping-pong.

mod harness;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use harness::{Contest, Measure, Pair, Role, Row, line, payload};
use hdrhistogram::Histogram;
use ringport::MessagePort;
use rkyv::{Archive, Deserialize, Serialize};

fn main() {
    match harness::role() {
        None => {}
        Some(Role::Coordinator(options)) => {
            mean_ratios(&options);
            percentiles(&options);
        }
        Some(Role::Lead(name)) => lead(&name),
        Some(Role::Peer(name)) => peer(&name),
    }
}

/// The untimed loops: a clock read would cost as much as a good part of a round trip.
fn mean_ratios(options: &harness::Options) {
    let against_line = |name, target| Row {
        name,
        against: "line",
        measure: Measure::Time,
        target,
    };
    let names = ["line", "rtt-32", "rtt-48", "rtt-typed", "rtt-1k"];
    let mut contest = Contest::new(names.map(Pair::start).into());
    contest.run(
        &[
            "line",
            "rtt-32",
            "line",
            "rtt-48",
            "line",
            "rtt-typed",
            "line",
            "rtt-1k",
        ],
        options,
    );
    contest.report(&[
        against_line("line", None), // how much the floor differs from itself
        against_line("rtt-32", Some([1.8, 1.35, 1.35])),
        against_line("rtt-48", Some([1.8, 1.35, 1.35])),
        against_line("rtt-typed", Some([1.7, 1.7, 1.7])),
        against_line("rtt-1k", Some([4.0, 2.5, 2.5])),
    ]);
}

/// Every round trip on its own, the floor's beside ours. Each includes one clock read.
fn percentiles(options: &harness::Options) {
    let (runs, length) = if options.quick { (1, 100) } else { (3, 1000) };
    let length = Duration::from_millis(length);
    let mut pairs = ["line-timed", "rtt-48-timed"].map(Pair::start);
    println!("\neach round trip timed, ns (one clock read included)");
    pairs.iter_mut().for_each(|pair| pair.calibrate(length));
    for _ in 0..runs {
        for pair in &mut pairs {
            println!("  {}", pair.slice(length).note);
        }
    }
    pairs.into_iter().for_each(Pair::finish);
}

/// Times what lies between its calls.
struct Stopwatch {
    last: Instant,
    times: Histogram<u64>,
}

impl Stopwatch {
    fn start() -> RefCell<Self> {
        let times = Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("valid bounds");
        RefCell::new(Stopwatch {
            last: Instant::now(),
            times,
        })
    }

    fn lap(&mut self) {
        let now = Instant::now();
        self.times
            .saturating_record((now - self.last).as_nanos() as u64);
        self.last = now;
    }

    /// What was seen since the last call, which it then forgets.
    fn note(&mut self, name: &str) -> String {
        let [p50, p90, p99, p999] =
            [50.0, 90.0, 99.0, 99.9].map(|part| self.times.value_at_percentile(part));
        let (count, max) = (self.times.len(), self.times.max());
        self.times.reset();
        self.last = Instant::now();
        format!(
            "{name:13} p50 {p50:>6}  p90 {p90:>6}  p99 {p99:>6}  p99.9 {p999:>7}  max {max:>9}  of {count}"
        )
    }
}

fn lead(name: &str) {
    let watch = Stopwatch::start();
    let lap = || watch.borrow_mut().lap();
    let note = || watch.borrow_mut().note(name);
    match name {
        "line" => line::run_lead(name, || (), String::new),
        "line-timed" => line::run_lead(name, lap, note),
        "rtt-32" => lead_rounds(name, post_raw::<32>, take_raw::<32>, || (), String::new),
        "rtt-48" => lead_rounds(name, post_raw::<48>, take_raw::<48>, || (), String::new),
        "rtt-48-timed" => lead_rounds(name, post_raw::<48>, take_raw::<48>, lap, note),
        "rtt-typed" => lead_rounds(name, post_tick, take_tick, || (), String::new),
        "rtt-1k" => lead_rounds(name, post_raw::<1024>, take_raw::<1024>, || (), String::new),
        _ => panic!("no contender is called {name}"),
    }
}

fn peer(name: &str) {
    match name {
        "line" | "line-timed" => line::run_peer(),
        "rtt-32" => peer_rounds(post_raw::<32>, take_raw::<32>),
        "rtt-48" | "rtt-48-timed" => peer_rounds(post_raw::<48>, take_raw::<48>),
        "rtt-typed" => peer_rounds(post_tick, take_tick),
        "rtt-1k" => peer_rounds(post_raw::<1024>, take_raw::<1024>),
        _ => panic!("no contender is called {name}"),
    }
}

/// What the answer to message `sequence` is numbered: anything but the same.
fn answer(sequence: u64) -> u64 {
    !sequence
}

/// Posts a question, takes its answer. `each` is called after every round trip.
fn lead_rounds(
    name: &str,
    post: impl Fn(&MessagePort, u64),
    take: impl Fn(&MessagePort, u64),
    mut each: impl FnMut(),
    mut note: impl FnMut() -> String,
) {
    let (port, mut peer) = harness::peer_with_port(name);
    let mut sequence = 0;
    harness::lead(&mut peer, |units| {
        for _ in 0..units {
            post(&port, sequence);
            take(&port, answer(sequence));
            sequence += 1;
            each();
        }
        note()
    });
    peer.finish();
}

/// Takes every question, posts its answer.
fn peer_rounds(post: impl Fn(&MessagePort, u64), take: impl Fn(&MessagePort, u64)) {
    let port = harness::port_to_lead();
    let mut sequence = 0;
    harness::peer(|units| {
        for _ in 0..units {
            take(&port, sequence);
            post(&port, answer(sequence));
            sequence += 1;
        }
    });
}

fn post_raw<const LENGTH: usize>(port: &MessagePort, sequence: u64) {
    let mut bytes = [0; LENGTH];
    payload::fill(&mut bytes, sequence);
    port.post_bytes(&bytes).expect("the peer is alive");
}

fn take_raw<const LENGTH: usize>(port: &MessagePort, sequence: u64) {
    let event = port.recv().expect("the peer is alive");
    assert_eq!(event.len(), LENGTH);
    assert_eq!(
        payload::sum(event.bytes()),
        payload::expected(LENGTH, sequence, 1)
    );
}

/// A small message as programs have them: 24 bytes, also when archived.
#[derive(Archive, Serialize, Deserialize)]
struct Tick {
    sequence: u64,
    price: i64,
    volume: u64,
}

fn post_tick(port: &MessagePort, sequence: u64) {
    let tick = Tick {
        sequence,
        price: -(sequence as i64),
        volume: sequence ^ 7,
    };
    port.post_message(&tick).expect("the peer is alive");
}

fn take_tick(port: &MessagePort, sequence: u64) {
    let event = port.recv().expect("the peer is alive");
    assert_eq!(event.len(), 24);
    let tick = event.data::<Tick>().expect("a valid tick");
    let found = (
        tick.sequence.to_native(),
        tick.price.to_native(),
        tick.volume.to_native(),
    );
    assert_eq!(found, (sequence, -(sequence as i64), sequence ^ 7));
}
