//! Every round trip on its own. Each time includes one reading of the clock: so this says how times are
//! spread, and slices that read it once say how long a round trip takes.

use std::time::Instant;

use hdrhistogram::Histogram;

/// Parts of all round trips, in percent, whose longest time is told.
pub const PARTS: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 100.0];

/// Times what lies between its calls.
pub struct Stopwatch {
    last: Instant,
    times: Histogram<u64>,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Stopwatch {
        Stopwatch {
            last: Instant::now(),
            times: Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("valid bounds"),
        }
    }

    /// Forgets what was seen, and starts anew.
    pub fn reset(&mut self) {
        self.times.reset();
        self.last = Instant::now();
    }

    /// Ends one round trip and begins the next.
    pub fn lap(&mut self) {
        let now = Instant::now();
        self.times
            .saturating_record((now - self.last).as_nanos() as u64);
        self.last = now;
    }

    /// What was seen: the time of each of the [`PARTS`], and how many there were.
    pub fn note(&self) -> String {
        let times = PARTS.map(|part| self.times.value_at_percentile(part).to_string());
        format!("{} {}", times.join(" "), self.times.len())
    }
}
