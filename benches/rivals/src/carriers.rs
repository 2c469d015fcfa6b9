//! What moves the messages: ours and the rivals', each behind the same face.
//!
//! A [`Carrier`] makes a channel between two processes: [`Carrier::lead`] makes it, starts the peer and
//! hands it its end; [`Carrier::peer`] is that end over there. A [`ThreadCarrier`] makes one between two
//! threads. What a contender does with them is said once, in [`run_lead`] and [`run_peer`]:
//!
//! ```text
//! Role::Lead(name) => for_length!(length, run_lead(what, &name, job)),
//! Role::Peer(name) => for_length!(length, run_peer(what, job)),
//! ```
//!
//! All of them do the same work: the sender writes every word of every message anew, at the place from
//! which it is sent; the receiver is shown the bytes at the first place where it can read them. While a
//! contender waits it spins on the carrier's attempt that does not wait, or sleeps in the call that does.

mod facts;
mod iceoryx;
mod ipc_channel;
mod message_queue;
mod ours;
mod packets;
mod streams;
mod threads;

pub use facts::table;

use std::env;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use crate::harness::work::{self, End, Tally};
use crate::harness::{Partner, Peer, Stopwatch, Waiting};

use iceoryx::Iceoryx;
use ipc_channel::IpcChannel;
use message_queue::MessageQueue;
use ours::{Ringport, RingportInPlace};
use packets::UnixSeqpacket;
use streams::{Pipe, UnixStream};
use threads::{Crossbeam, Rtrb, ThreadCarrier};

/// What carries messages between two processes.
pub trait Carrier {
    /// The first part of a contender's name.
    const NAME: &'static str;

    /// The longest message it takes where it may have about `capacity` bytes each way.
    fn longest(capacity: usize) -> usize;

    /// Makes a channel with about `capacity` bytes each way, starts the peer of contender `name`, whose
    /// command `prepare` may add to, and hands it the other end.
    fn lead<const LENGTH: usize>(
        name: &str,
        capacity: usize,
        waiting: Waiting,
        prepare: impl FnOnce(&mut Command),
    ) -> (impl End<LENGTH>, Peer);

    /// The end that the lead handed to this process.
    fn peer<const LENGTH: usize>(capacity: usize, waiting: Waiting) -> impl End<LENGTH>;
}

/// What a contender has to do with its carrier.
#[derive(Clone, Copy)]
pub struct Job {
    /// Bytes that the carrier may use each way, more or less.
    pub capacity: usize,
    /// How both sides wait.
    pub waiting: Waiting,
    /// What they send.
    pub work: Work,
}

/// What the two sides send.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A question there, its answer back.
    Rounds,
    /// The same, each timed on its own.
    TimedRounds,
    /// All one way.
    Stream,
}

/// Calls a function that is generic over a length and a [`Carrier`] with the carrier of that name.
macro_rules! for_carrier {
    ($what:expr, $function:ident::<$length:tt>($($argument:expr),*)) => {
        for_carrier!(@ $what, $function, $length, ($($argument),*),
            Ringport RingportInPlace Iceoryx IpcChannel UnixStream UnixSeqpacket Pipe MessageQueue)
    };
    (@ $what:expr, $function:ident, $length:tt, $arguments:tt, $($carrier:ident)*) => {
        match $what {
            $(<$carrier as Carrier>::NAME => for_carrier!(! $function $length $carrier $arguments),)*
            other => panic!("no carrier is called {other}"),
        }
    };
    (! $function:ident $length:tt $carrier:ident ($($argument:expr),*)) => {
        $function::<$length, $carrier>($($argument),*)
    };
}

/// Whether the carrier takes messages of this length, and can wait like this.
pub fn takes(what: &str, length: usize, capacity: usize, waiting: Waiting) -> bool {
    fn longest<const LENGTH: usize, C: Carrier>(capacity: usize) -> usize {
        C::longest(capacity)
    }
    match what {
        Rtrb::NAME => length <= threads::LONGEST && waiting == Waiting::Spin,
        Crossbeam::NAME => length <= threads::LONGEST,
        _ => length <= for_carrier!(what, longest::<0>(capacity)),
    }
}

/// The life of the lead of contender `name`, whose carrier is `what`.
pub fn run_lead<const LENGTH: usize>(what: &str, name: &str, job: Job) {
    match what {
        Rtrb::NAME => threads::run::<LENGTH, Rtrb>(job),
        Crossbeam::NAME => threads::run::<LENGTH, Crossbeam>(job),
        _ => for_carrier!(what, lead::<LENGTH>(name, job)),
    }
}

/// The life of its peer, if that is a process.
pub fn run_peer<const LENGTH: usize>(what: &str, job: Job) {
    for_carrier!(what, peer::<LENGTH>(job));
}

fn lead<const LENGTH: usize, C: Carrier>(name: &str, job: Job) {
    let (file, tally) = Tally::make();
    let (mut end, mut peer) = C::lead::<LENGTH>(name, job.capacity, job.waiting, |command| {
        Tally::hand_on(command, &file);
    });
    lead_works(&mut end, &mut peer, job, &tally);
    peer.finish();
}

/// The lead's side of the work, whoever its partner is.
fn lead_works<const LENGTH: usize>(
    end: &mut impl End<LENGTH>,
    partner: &mut impl Partner,
    job: Job,
    tally: &Tally,
) {
    match job.work {
        Work::Rounds => work::lead_rounds(end, partner, job.waiting, None),
        Work::TimedRounds => {
            work::lead_rounds(end, partner, job.waiting, Some(Stopwatch::start()));
        }
        Work::Stream => work::lead_stream(end, partner, job.waiting, tally),
    }
}

fn peer<const LENGTH: usize, C: Carrier>(job: Job) {
    let mut end = C::peer::<LENGTH>(job.capacity, job.waiting);
    match job.work {
        Work::Rounds | Work::TimedRounds => work::peer_rounds(&mut end),
        Work::Stream => work::peer_stream(&mut end, &Tally::inherited()),
    }
}

/// How many messages of this length a ring of ours with so many bytes holds, two at least: what the rivals
/// get that count messages and not bytes.
fn depth(length: usize, capacity: usize) -> usize {
    (capacity / (length + 8).next_multiple_of(16)).max(2)
}

/// Tells a peer which descriptors are its end.
const DESCRIPTORS: &str = "RINGPORT_BENCH_DESCRIPTORS";

/// Lets the process that `command` starts inherit these descriptors.
fn hand_on<const COUNT: usize>(command: &mut Command, descriptors: [&OwnedFd; COUNT]) {
    let numbers = descriptors.map(|descriptor| {
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).expect("an open descriptor");
        descriptor.as_raw_fd().to_string()
    });
    command.env(DESCRIPTORS, numbers.join(" "));
}

/// The descriptors that the lead handed to this process.
fn inherited<const COUNT: usize>() -> [OwnedFd; COUNT] {
    let numbers = env::var(DESCRIPTORS).expect("the lead says which descriptors");
    let mut numbers = numbers.split(' ');
    [(); COUNT].map(|()| {
        let number = numbers.next().expect("as many as were handed on");
        let number = number.parse().expect("a descriptor is a number");
        // SAFETY: the lead left this descriptor open for this process, which opened nothing under its
        // number, and takes each once.
        unsafe { OwnedFd::from_raw_fd(number) }
    })
}

/// Makes calls on a descriptor fail where they would sleep, if this end spins.
fn never_sleep_if_spinning(descriptor: &OwnedFd, waiting: Waiting) {
    if waiting == Waiting::Spin {
        fcntl(descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("an open descriptor");
    }
}

/// A limit of the system, as a number in a file under `/proc/sys`.
fn limit(file: &str, otherwise: usize) -> usize {
    let text = fs::read_to_string(format!("/proc/sys/{file}"));
    text.map_or(otherwise, |text| text.trim().parse().unwrap_or(otherwise))
}

/// Seconds in which a peer must have come up.
const PATIENCE: u32 = 20;

/// Does what waits for the peer to come up; if that takes too long, `SIGALRM` ends this process.
fn while_it_comes_up<R>(wait: impl FnOnce() -> R) -> R {
    // SAFETY: alarm(2) touches no memory; the harness sets this timer only once there are orders.
    unsafe { libc::alarm(PATIENCE) };
    let result = wait();
    // SAFETY: as above.
    unsafe { libc::alarm(0) };
    result
}
