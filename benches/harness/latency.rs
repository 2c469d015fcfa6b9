//! The coordinator's side of runs in which each round trip is timed.

use std::time::Duration;

use super::Options;
use super::pair::Pair;
use super::record::record_latency;
use super::stopwatch::PARTS;

/// What a lead's stopwatch has seen.
pub struct Latency {
    /// Nanoseconds: p50, p90, p99, p99.9, max.
    pub times: [u64; PARTS.len()],
    /// Round trips.
    pub count: u64,
}

impl Latency {
    fn parse(note: &str) -> Latency {
        let mut numbers = note
            .split(' ')
            .map(|number| number.parse().expect("numbers"));
        let mut next = || numbers.next().expect("the percentiles and a count");
        Latency {
            times: PARTS.map(|_| next()),
            count: next(),
        }
    }
}

/// Runs each contender for some seconds, in turns with the line, and prints percentiles. Of several runs the one
/// in the middle by its p99 is told: one alone may have met with a disturbance.
pub fn percentiles(contest: &str, mut pairs: Vec<Pair>, options: &Options) {
    let (runs, length) = if options.quick { (1, 100) } else { (5, 1000) };
    let length = Duration::from_millis(length);
    let mut line = Pair::start("line");
    line.calibrate(options.slice);
    println!("\neach round trip timed, ns (one clock read included)");
    println!(
        "  {:20}{:>8}{:>8}{:>8}{:>9}{:>10}{:>10}{:>8}",
        "", "p50", "p90", "p99", "p99.9", "max", "of", "line"
    );
    pairs
        .iter_mut()
        .for_each(|pair| pair.calibrate(length / 10));
    let mut seen: Vec<Vec<(f64, Latency)>> = pairs.iter().map(|_| Vec::new()).collect();
    for _ in 0..runs {
        for (pair, seen) in pairs.iter_mut().zip(&mut seen) {
            let floor = line.slice(options.slice).each;
            seen.push((floor, Latency::parse(&pair.slice(length).note)));
        }
    }
    for (pair, mut seen) in pairs.iter().zip(seen) {
        let name = pair.name();
        seen.sort_by_key(|(_, latency)| latency.times[2]);
        let (floor, latency) = seen.swap_remove(seen.len() / 2);
        let [p50, p90, p99, p999, max] = latency.times;
        let count = latency.count;
        println!("  {name:20}{p50:>8}{p90:>8}{p99:>8}{p999:>9}{max:>10}{count:>10}{floor:>8.0}");
        record_latency(options, contest, floor, name, &latency);
    }
    pairs.into_iter().chain([line]).for_each(Pair::finish);
}
