//! The coordinator's side of a contender: give an order, read what it took.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use super::{CPUS, Order, command, cpus};

/// Units of a pair's first slice, which only serves to find out how long one takes.
const FIRST: u64 = 20;

/// What one slice showed.
pub struct Slice {
    /// Nanoseconds a unit.
    pub each: f64,
    /// Whether somebody else had one of the two CPUs for more than a fiftieth of the slice, or what the pair
    /// tolerates. A spinning pair then measures the scheduler.
    pub disturbed: bool,
    /// What the lead has to say.
    pub note: String,
}

/// The coordinator's handle on one contender: its lead, and through it its peer.
pub struct Pair {
    name: String,
    lead: Child,
    orders: ChildStdin,
    replies: BufReader<ChildStdout>,
    units: u64,
    tolerance: f64,
}

impl Pair {
    /// Starts the pair that this executable calls `name`.
    pub fn start(name: &str) -> Self {
        let program = env::current_exe().expect("this program has a path");
        Self::start_as(name, &program, name)
    }

    /// Starts the pair that `program` calls `role`, to be known as `name` here.
    pub fn start_as(name: &str, program: &Path, role: &str) -> Self {
        let [a, b] = cpus().expect("the coordinator has checked");
        let mut lead = command(program, "lead", role)
            .env(CPUS, format!("{a},{b}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a lead can be started");
        let orders = lead.stdin.take().expect("piped");
        let replies = BufReader::new(lead.stdout.take().expect("piped"));
        Pair {
            name: name.into(),
            lead,
            orders,
            replies,
            units: FIRST,
            tolerance: 1.0 / 50.0,
        }
    }

    /// Counts a slice also if others had a CPU for such a part of it.
    pub fn tolerating(self, tolerance: f64) -> Self {
        Pair { tolerance, ..self }
    }

    /// What the pair is called here.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets the pair work for about `length`.
    pub fn slice(&mut self, length: Duration) -> Slice {
        let units = self.units;
        Order {
            // Many short units, or as many as there are.
            warm_up: (1000 + units / 20).min(units),
            units,
        }
        .send(&self.orders);
        let mut reply = String::new();
        self.replies
            .read_line(&mut reply)
            .expect("the pipe is readable");
        assert!(
            !reply.is_empty(),
            "{} ended in the middle of a slice",
            self.name
        );
        let mut parts = reply.trim_end_matches('\n').splitn(3, ' ');
        let mut next = || parts.next().expect("two numbers and a note");
        let taken: f64 = next().parse().expect("nanoseconds taken");
        let waited: f64 = next().parse().expect("nanoseconds waited");
        assert!(taken > 0.0, "{} took no time", self.name);
        // The next slice gets the length right, even if the machine has changed its pace.
        let correction = (length.as_nanos() as f64 / taken).clamp(1.0 / 64.0, 64.0);
        self.units = ((units as f64 * correction) as u64).max(4);
        Slice {
            each: taken / units as f64,
            disturbed: waited > taken * self.tolerance,
            note: next().into(),
        }
    }

    /// Finds how many units fill a slice of `length`, and has every page touched meanwhile.
    pub fn calibrate(&mut self, length: Duration) {
        for _ in 0..5 {
            self.slice(length);
        }
    }

    /// Lets both processes end, and checks that they ended well.
    pub fn finish(mut self) {
        drop(self.orders);
        let status = self.lead.wait().expect("the lead is our child");
        assert!(status.success(), "{} failed: {status}", self.name);
    }
}
