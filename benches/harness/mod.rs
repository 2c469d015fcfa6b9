//! What the benches share: two pinned processes a contender, slices in alternation, one report.
//!
//! ```text
//! coordinator ── order ──► lead (CPU a) ── order ──► peer (CPU b)
//!      ▲                     │  ◄══ what is measured ══►  │
//!      └───── time taken ────┘
//! ```
//!
//! A bench executes itself again for every lead and every peer; the environment tells each its role.
//! A pair works one slice per order and otherwise sleeps in a read of its pipe, so only one pair is
//! active at a time and the coordinator costs nothing meanwhile. A closed pipe ends a process.

// Every bench includes all of this module and uses what it needs.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod asleep;
pub mod bare;
pub mod calls;
pub mod clock;
mod contest;
pub mod copy;
pub mod errands;
pub mod handover;
pub mod idle;
pub mod idle_loops;
pub mod in_c;
mod latency;
pub mod limits;
pub mod line;
pub mod loops;
pub mod no_wake;
mod pair;
pub mod payload;
pub mod ports;
mod record;
pub mod relay;
mod report;
mod stopwatch;
pub mod threads;
pub mod ticks;
pub mod work;

pub use contest::{Contest, Row};
pub use latency::percentiles;
pub use pair::Pair;
pub use ports::{peer_with_port, peer_with_port_of, port_to_lead};
pub use record::record_folder;
pub use report::{Finding, Findings, plain_bar};
pub use stopwatch::Stopwatch;

use std::env;
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const ROLE: &str = "RINGPORT_BENCH_ROLE";
const CPUS: &str = "RINGPORT_BENCH_CPUS";

/// Seconds after which a process that is still busy with one order is ended by `SIGALRM`: a lost
/// message must fail the bench, not hang it.
const PATIENCE: u32 = 60;

/// What this process is to do.
pub enum Role {
    /// Started by the user: give the orders and report.
    Coordinator(Options),
    /// The timing half of the named contender.
    Lead(String),
    /// The answering half of the named contender.
    Peer(String),
}

/// How the user wants the bench to run.
pub struct Options {
    /// What the bench is called, in the record too.
    pub bench: &'static str,
    /// Only show that everything runs and its asserts hold; the figures say little.
    pub quick: bool,
    /// How often the whole cycle of contenders is gone through.
    pub rounds: usize,
    /// How long one slice should take.
    pub slice: Duration,
    /// The contests that are asked for; all if none is named.
    contests: Vec<String>,
    /// When the run began and on what, if its results are to be recorded.
    record: Option<record::Run>,
}

/// This process's role in the bench of this name, already pinned to its CPU unless it only coordinates. `None` where there are
/// not two CPUs to measure between, which has then been said.
pub fn role(bench: &'static str) -> Option<Role> {
    let Some(cpus) = cpus() else {
        println!("skipped: a pair needs two CPUs");
        return None;
    };
    let Ok(role) = env::var(ROLE) else {
        let options = Options::from_arguments(bench, cpus);
        println!(
            "{}, CPUs {} and {}, slices of {} ms, {} rounds{}",
            cpu_model(),
            cpus[0],
            cpus[1],
            options.slice.as_millis(),
            options.rounds,
            if options.quick {
                " (quick: figures say little)"
            } else {
                ""
            },
        );
        return Some(Role::Coordinator(options));
    };
    let (side, name) = role.split_once(' ').expect("a role is a side and a name");
    Some(if side == "lead" {
        pin(cpus[0]);
        Role::Lead(name.into())
    } else {
        pin(cpus[1]);
        Role::Peer(name.into())
    })
}

impl Options {
    /// `--quick`, `--rounds N`, `--record`, and names of contests. cargo passes `--bench`, which says nothing.
    fn from_arguments(bench: &'static str, cpus: [usize; 2]) -> Self {
        let (mut quick, mut record, mut rounds) = (false, false, None);
        let mut contests = Vec::new();
        let mut arguments = env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match &*argument {
                "--bench" => {}
                "--quick" => quick = true,
                "--record" => record = true,
                "--rounds" => {
                    let number = arguments.next().and_then(|number| number.parse().ok());
                    rounds = Some(number.expect("--rounds takes a number"));
                }
                name if name.starts_with('-') => panic!(
                    "{name} is none of --quick, --record, --rounds N, or the name of a contest"
                ),
                _ => contests.push(argument),
            }
        }
        Options {
            bench,
            quick,
            rounds: rounds.unwrap_or(if quick { 2 } else { 40 }),
            slice: Duration::from_millis(if quick { 20 } else { 100 }),
            contests,
            record: record.then(|| record::Run::begin(cpus)),
        }
    }

    /// Whether the contest of this name is asked for.
    pub fn wants(&self, contest: &str) -> bool {
        self.contests.is_empty() || self.contests.iter().any(|name| name == contest)
    }

    /// The same for a part of the bench that has a record of its own.
    pub fn of(&self, bench: &'static str) -> Options {
        Options {
            bench,
            ..self.with_rounds(self.rounds)
        }
    }

    /// Fewer rounds, for a contest of which there are many.
    pub fn with_rounds(&self, rounds: usize) -> Options {
        Options {
            rounds: rounds.min(self.rounds),
            contests: self.contests.clone(),
            record: self.record.clone(),
            ..*self
        }
    }
}

/// Runs a contest, and returns the lines of its bars.
pub type Show = fn(&Options) -> Vec<String>;

/// Runs the contests that are asked for, and prints their bars at the end.
pub fn run(contests: &[(&str, Show)], options: &Options) {
    let wanted = contests.iter().filter(|(name, _)| options.wants(name));
    let bars: Vec<_> = wanted.flat_map(|(_, contest)| contest(options)).collect();
    println!();
    bars.iter().for_each(|bar| println!("{bar}"));
}

/// The CPUs of lead and peer: as the user says (`RINGPORT_BENCH_CPUS=2,5`), or the first two.
fn cpus() -> Option<[usize; 2]> {
    let cpus: Vec<usize> = match env::var(CPUS) {
        Ok(list) => list
            .split(',')
            .map(|cpu| cpu.parse().expect("CPU numbers, as in 2,5"))
            .collect(),
        Err(_) => core_affinity::get_core_ids()?
            .iter()
            .map(|core| core.id)
            .collect(),
    };
    let pair = [*cpus.first()?, *cpus.get(1)?];
    assert_ne!(pair[0], pair[1], "{CPUS}: two different CPUs are needed");
    Some(pair)
}

/// Keeps the calling thread on one CPU.
fn pin(cpu: usize) {
    assert!(
        core_affinity::set_for_current(CoreId { id: cpu }),
        "cannot run on CPU {cpu}"
    );
}

/// Moves the calling thread to the peer's CPU, for rivals that are threads of the lead.
pub fn pin_to_peer_cpu() {
    pin(cpus().expect("the lead has checked")[1]);
}

/// Lets the calling thread run on any CPU that the machine has, as programs do that say nothing.
pub fn unpin() {
    let mut all = CpuSet::new();
    let count = CpuSet::count();
    (0..count).for_each(|cpu| all.set(cpu).expect("within the count"));
    sched_setaffinity(Pid::from_raw(0), &all).expect("some of them exist");
}

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("unknown CPU", |(_, name)| name).to_string()
}

/// The name of a contender that comes in several sizes: what it is, bytes of payload, bytes of ring.
pub fn sized(what: &str, length: usize, capacity: usize) -> String {
    format!("{what}@{length}/{capacity}")
}

/// Takes such a name apart.
pub fn parse(name: &str) -> (&str, usize, usize) {
    let number = |text: &str| text.parse().ok();
    let parts = || {
        let (what, sizes) = name.split_once('@')?;
        let (length, capacity) = sizes.split_once('/')?;
        Some((what, number(length)?, number(capacity)?))
    };
    parts().unwrap_or_else(|| panic!("no contender is called {name}"))
}

/// One slice of work: first some units that nobody times, then those that count.
#[derive(Clone, Copy)]
pub struct Order {
    /// Brings both sides awake and their caches, positions and branch predictors into the swing.
    pub warm_up: u64,
    /// Round trips or messages to be timed.
    pub units: u64,
}

impl Order {
    fn send(self, mut pipe: impl Write) {
        writeln!(pipe, "{} {}", self.warm_up, self.units).expect("the pair is alive");
    }
}

/// Ends this process by a signal so many seconds from now, unless told otherwise; 0 is never.
fn watchdog(seconds: u32) {
    // SAFETY: alarm(2) touches no memory, and nothing else here uses this timer.
    unsafe { libc::alarm(seconds) };
}

/// Waits for the next order, however long; `None` when no more will come.
fn next_order() -> Option<Order> {
    watchdog(0);
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .expect("the pipe is readable");
    watchdog(PATIENCE);
    let (warm_up, units) = line.trim_end().split_once(' ')?;
    let number = |text: &str| text.parse().expect("an order is two numbers");
    Some(Order {
        warm_up: number(warm_up),
        units: number(units),
    })
}

/// Who does the other half of a lead's work.
pub trait Partner {
    /// Passes an order on.
    fn tell(&mut self, order: Order);
    /// The process it works in.
    fn process(&self) -> u32;
}

/// What both sides do while they have to wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Keep their CPU: if somebody else gets it, the slice is no good.
    Spin,
    /// Sleep. To stand in line for a CPU is then a part of every wake-up, and disturbs nothing.
    Sleep,
}

impl Waiting {
    /// For how many nanoseconds so far these two processes did not have the CPU that they should have had.
    fn waited(self, lead: u32, peer: u32) -> u64 {
        match self {
            Waiting::Spin => waited(lead) + waited(peer),
            Waiting::Sleep => 0,
        }
    }
}

/// The life of a lead: passes every order on, does its half, and tells the time that took, for how
/// much of it somebody else had one of the two CPUs, and whatever note `half` returned.
pub fn lead(partner: &mut impl Partner, waiting: Waiting, mut half: impl FnMut(u64) -> String) {
    while let Some(order) = next_order() {
        partner.tell(order);
        half(order.warm_up);
        let waited = || waiting.waited(process::id(), partner.process());
        let waited_before = waited();
        let begun = Instant::now();
        let note = half(order.units);
        let taken = begun.elapsed().as_nanos();
        println!("{taken} {} {note}", waited() - waited_before);
    }
}

/// Nanoseconds that the threads of a process have so far stood in line for a CPU; 0 on a kernel that
/// does not tell.
fn waited(process: u32) -> u64 {
    let of_thread = |thread: fs::DirEntry| -> Option<u64> {
        let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        times.split(' ').nth(1)?.parse().ok()
    };
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    threads.map_or(0, |threads| threads.flatten().filter_map(of_thread).sum())
}

/// The life of a peer: does its half of every order.
pub fn peer(mut half: impl FnMut(u64)) {
    while let Some(order) = next_order() {
        half(order.warm_up);
        half(order.units);
    }
}

/// The target directory this program lies in: it is `target/release/deps/name`.
fn target_directory() -> PathBuf {
    let program = env::current_exe().expect("this program has a path");
    let target = program.ancestors().nth(3);
    target
        .expect("cargo put it into its target directory")
        .into()
}

/// This executable again, as the peer of contender `name`.
pub fn peer_command(name: &str) -> Command {
    command(
        &env::current_exe().expect("this program has a path"),
        "peer",
        name,
    )
}

fn command(program: &Path, side: &str, name: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env(ROLE, format!("{side} {name}"))
        .stdin(Stdio::piped());
    command
}

/// The lead's handle on its peer process.
pub struct Peer {
    process: Child,
    orders: ChildStdin,
}

impl Peer {
    /// Takes charge of a process started from [`peer_command`].
    pub fn new(mut process: Child) -> Self {
        let orders = process.stdin.take().expect("piped by peer_command");
        Peer { process, orders }
    }

    /// Lets the peer end, and checks that it ended well.
    pub fn finish(mut self) {
        drop(self.orders);
        let status = self.process.wait().expect("the peer is our child");
        assert!(status.success(), "the peer failed: {status}");
    }
}

impl Partner for Peer {
    fn tell(&mut self, order: Order) {
        order.send(&self.orders);
    }

    fn process(&self) -> u32 {
        self.process.id()
    }
}
