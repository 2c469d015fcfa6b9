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

#![allow(dead_code)] // every bench includes all of this module and uses what it needs

mod contest;
pub mod line;
pub mod no_wake;
pub mod payload;

pub use contest::{Contest, Measure, Row};

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use ringport::{MessagePort, WaitStrategy, Worker};

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
    /// Only show that everything runs and its asserts hold; the figures say little.
    pub quick: bool,
    /// How often the whole cycle of contenders is gone through.
    pub rounds: usize,
    /// How long one slice should take.
    pub slice: Duration,
}

/// This process's role, already pinned to its CPU unless it only coordinates. `None` where there are
/// not two CPUs to measure between, which has then been said.
pub fn role() -> Option<Role> {
    let Some(cpus) = cpus() else {
        println!("skipped: a pair needs two CPUs");
        return None;
    };
    let Ok(role) = env::var(ROLE) else {
        let options = Options::from_arguments();
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
    /// `--quick` and `--rounds N`. Anything else is not ours: cargo passes `--bench`, and a filter.
    fn from_arguments() -> Self {
        let arguments: Vec<String> = env::args().skip(1).collect();
        let quick = arguments.iter().any(|argument| argument == "--quick");
        let rounds = arguments
            .iter()
            .position(|argument| argument == "--rounds")
            .map(|at| arguments[at + 1].parse().expect("--rounds takes a number"));
        Options {
            quick,
            rounds: rounds.unwrap_or(if quick { 5 } else { 40 }),
            slice: Duration::from_millis(if quick { 30 } else { 100 }),
        }
    }
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
    Some([*cpus.first()?, *cpus.get(1)?])
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

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("unknown CPU", |(_, name)| name).to_string()
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

/// The life of a lead: passes every order on, does its half, tells the time it took and whatever
/// note `half` returned.
pub fn lead(mut pass_on: impl FnMut(Order), mut half: impl FnMut(u64) -> String) {
    while let Some(order) = next_order() {
        pass_on(order);
        half(order.warm_up);
        let begun = Instant::now();
        let note = half(order.units);
        println!("{} {note}", begun.elapsed().as_nanos());
    }
}

/// The life of a peer: does its half of every order.
pub fn peer(mut half: impl FnMut(u64)) {
    while let Some(order) = next_order() {
        half(order.warm_up);
        half(order.units);
    }
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

    /// Passes an order on.
    pub fn tell(&mut self, order: Order) {
        order.send(&self.orders);
    }

    /// Lets the peer end, and checks that it ended well.
    pub fn finish(mut self) {
        drop(self.orders);
        let status = self.process.wait().expect("the peer is our child");
        assert!(status.success(), "the peer failed: {status}");
    }
}

/// Starts the peer of contender `name` with a default channel to it; both ends spin.
pub fn peer_with_port(name: &str) -> (MessagePort, Peer) {
    let worker = Worker::spawn(peer_command(name)).expect("a peer can be started");
    let (port, process) = worker.into_parts();
    port.set_wait_strategy(WaitStrategy::Spin);
    (port, Peer::new(process))
}

/// The peer's end of the channel of [`peer_with_port`].
pub fn port_to_lead() -> MessagePort {
    let port = ringport::parent_port()
        .expect("a sound port")
        .expect("the lead gave one");
    port.set_wait_strategy(WaitStrategy::Spin);
    port
}

/// The coordinator's handle on one contender: its lead, and through it its peer.
pub struct Pair {
    name: &'static str,
    lead: Child,
    orders: ChildStdin,
    replies: BufReader<ChildStdout>,
    units: u64,
}

impl Pair {
    /// Starts the pair that this executable calls `name`.
    pub fn start(name: &'static str) -> Self {
        Self::start_as(
            name,
            &env::current_exe().expect("this program has a path"),
            name,
        )
    }

    /// Starts the pair that `program` calls `role`, to be known as `name` here.
    pub fn start_as(name: &'static str, program: &Path, role: &str) -> Self {
        let [a, b] = cpus().expect("the coordinator has checked");
        let mut lead = command(program, "lead", role)
            .env(CPUS, format!("{a},{b}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a lead can be started");
        let orders = lead.stdin.take().expect("piped");
        let replies = BufReader::new(lead.stdout.take().expect("piped"));
        Pair {
            name,
            lead,
            orders,
            replies,
            units: 1000,
        }
    }

    /// Lets the pair work for about `length`. Answers nanoseconds per unit, and the lead's note.
    pub fn slice(&mut self, length: Duration) -> (f64, String) {
        let units = self.units;
        Order {
            warm_up: 1000 + units / 20,
            units,
        }
        .send(&self.orders);
        let mut reply = String::new();
        self.replies
            .read_line(&mut reply)
            .expect("the pipe is readable");
        let (nanoseconds, note) = reply
            .trim_end_matches('\n')
            .split_once(' ')
            .unwrap_or_else(|| panic!("{} ended in the middle of a slice", self.name));
        let taken: f64 = nanoseconds.parse().expect("a reply begins with a number");
        assert!(taken > 0.0, "{} took no time", self.name);
        // The next slice gets the length right, even if the machine has changed its pace.
        let correction = (length.as_nanos() as f64 / taken).clamp(1.0 / 16.0, 16.0);
        self.units = ((units as f64 * correction) as u64).max(100);
        (taken / units as f64, note.to_string())
    }

    /// Finds how many units fill a slice of `length`, and has every page touched meanwhile.
    pub fn calibrate(&mut self, length: Duration) {
        for _ in 0..3 {
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
