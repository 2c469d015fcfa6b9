//! What the tests share: a guard that watches over descriptors and time, peers in processes of their
//! own, counters that outlive a killed process, and messages whose content can be checked.

#![allow(dead_code, unused_imports)] // each test binary uses a part of it

mod counters;
mod peer;
mod victim;

pub use counters::Counters;
pub use peer::{
    ROLE, begin_role, command, end_well, how, parent, receive_descriptors, send_descriptors,
    strategy, tell, worker,
};

pub use victim::{assert_over, idle, kill, on_stage, rest, victim};

use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringport::{
    ChannelOptions, CloseReason, MessageChannel, MessagePort, PostError, RecvError, WaitStrategy,
};
use rkyv::{Archive, Deserialize, Serialize};

/// How long one test may take before the watchdog ends the whole binary.
const TEST_LIMIT: Duration = Duration::from_secs(60);

/// How long a single awaited fact may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What "at once" may mean on a busy machine. Nothing here polls at intervals near it.
pub const AT_ONCE: Duration = Duration::from_secs(5);

/// Every way to wait.
pub const STRATEGIES: [WaitStrategy; 3] = [
    WaitStrategy::Spin,
    WaitStrategy::Adaptive,
    WaitStrategy::Block,
];

/// Descriptors and `/dev/shm` are the whole process's, so tests that count them take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Held by a test from its first line: nothing may be left over when it ends.
pub struct Quiet {
    descriptors: usize,
    shared_names: BTreeSet<String>,
    stop: Option<mpsc::Sender<()>>,
    watchdog: Option<JoinHandle<()>>,
    _turn: MutexGuard<'static, ()>,
}

/// Takes the turn, counts what is open, and starts the watchdog.
#[must_use]
pub fn descriptors() -> Quiet {
    // A test that failed while it held the turn has told so already.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (stop, stopped) = mpsc::channel::<()>();
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    let watchdog = std::thread::spawn(move || {
        if stopped.recv_timeout(TEST_LIMIT) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{name}: not finished after {TEST_LIMIT:?}, giving up");
            std::process::abort();
        }
    });
    Quiet {
        descriptors: count_descriptors(),
        shared_names: shared_names(),
        stop: Some(stop),
        watchdog: Some(watchdog),
        _turn: turn,
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join();
        }
        if std::thread::panicking() {
            return;
        }
        assert_eq!(count_descriptors(), self.descriptors, "descriptors leaked");
        let now = shared_names();
        let new: Vec<_> = now.difference(&self.shared_names).collect();
        assert!(new.is_empty(), "left in /dev/shm: {new:?}");
    }
}

/// How many descriptors this process has open. Files of `/proc` and `/sys` do not count: this function opens
/// one, and the C library does for a moment when a thread starts.
pub fn count_descriptors() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links
        .filter(|link| !link.starts_with("/proc") && !link.starts_with("/sys"))
        .count()
}

/// The names in `/dev/shm` that could be ours. Other programs put theirs there at any time.
fn shared_names() -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir("/dev/shm") else {
        return BTreeSet::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.contains("ringport"))
        .collect()
}

/// A channel with default options.
pub fn channel() -> (MessagePort, MessagePort) {
    let MessageChannel { port1, port2 } = MessageChannel::new().unwrap();
    (port1, port2)
}

/// A channel whose rings hold `capacity` bytes each.
pub fn channel_of(capacity: usize) -> (MessagePort, MessagePort) {
    let options = ChannelOptions::new().capacity(capacity);
    let MessageChannel { port1, port2 } = MessageChannel::with_options(&options).unwrap();
    (port1, port2)
}

/// The reason in an answer that must be `Closed`.
#[track_caller]
pub fn closed<T>(answer: Result<T, RecvError>) -> CloseReason {
    match answer {
        Err(RecvError::Closed(reason)) => reason,
        Err(other) => panic!("wanted Closed, got {other:?}"),
        Ok(_) => panic!("wanted Closed, got a message or nothing"),
    }
}

/// The reason in a post's answer that must be `Closed`.
#[track_caller]
pub fn post_closed(answer: Result<(), PostError>) -> CloseReason {
    match answer {
        Err(PostError::Closed(reason)) => reason,
        other => panic!("wanted Closed, got {other:?}"),
    }
}

/// How many of `most` turns a test takes: where spinners outnumber the CPUs, each turn of theirs may wait
/// for the scheduler.
pub fn turns(strategy: WaitStrategy, most: u64) -> u64 {
    if strategy == WaitStrategy::Spin {
        most / 10
    } else {
        most
    }
}

/// The bytes of the next message, which must come within [`PATIENCE`].
#[track_caller]
pub fn next(port: &MessagePort) -> Vec<u8> {
    match port.recv_timeout(PATIENCE).unwrap() {
        Some(event) => event.bytes().to_vec(),
        None => panic!("no message within {PATIENCE:?}"),
    }
}

/// The bytes of a message that must be there already.
#[track_caller]
pub fn now(port: &MessagePort) -> Vec<u8> {
    match port.try_recv().unwrap() {
        Some(event) => event.bytes().to_vec(),
        None => panic!("no message there"),
    }
}

/// Whether nothing is there to be received, on a channel that is open.
#[track_caller]
pub fn nothing(port: &MessagePort) -> bool {
    port.try_recv().unwrap().is_none()
}

/// Message number `index`: its number, then bytes that follow from it; lengths vary from 8 to 300.
pub fn sample(index: u64) -> Vec<u8> {
    let length = 8 + (index * 37 % 293) as usize;
    sample_of(index, length)
}

/// Message number `index`, `length` bytes long (at least 8).
pub fn sample_of(index: u64, length: usize) -> Vec<u8> {
    let mut bytes = index.to_le_bytes().to_vec();
    let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The number of a message made by [`sample`].
#[track_caller]
pub fn index_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

/// Makes a port read in place.
pub fn trust(port: &MessagePort) {
    // SAFETY: the other end is held by the tests only, which post through the library.
    unsafe { port.trust_peer() };
}

/// The same, on a condition.
pub fn trust_if(port: &MessagePort, yes: bool) {
    if yes {
        trust(port);
    }
}

/// A typed message with what needs following: a string and a vector.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Greeting {
    /// Who is greeted.
    pub text: String,
    /// Some numbers to go with it.
    pub numbers: Vec<u64>,
}

/// A greeting that differs for each `index`.
pub fn greeting(index: u64) -> Greeting {
    Greeting {
        text: format!("message number {index} says hello"),
        numbers: (index..index + 1 + index % 9).collect(),
    }
}

/// Looks again and again until `fact` holds, but not for ever.
#[track_caller]
pub fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let start = Instant::now();
    while !fact() {
        assert!(start.elapsed() < PATIENCE, "still not so: {what}");
        std::thread::park_timeout(Duration::from_micros(200));
    }
}

/// The kernel's number of the calling thread.
pub fn thread_id() -> u32 {
    // SAFETY: `gettid` has no precondition.
    unsafe { libc::gettid() as u32 }
}

/// Waits until a thread sleeps in the kernel. Nothing but `/proc` can tell from outside; one reading
/// might catch a page fault, so several must agree.
#[track_caller]
pub fn until_asleep(process: u32, thread: u32) {
    let mut agreed = 0;
    until("the thread sleeps", || {
        agreed = if state(process, thread) == Some('S') {
            agreed + 1
        } else {
            0
        };
        agreed == 5
    });
}

/// The state letter of a thread, or nothing once it is gone.
pub fn state(process: u32, thread: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/task/{thread}/stat")).ok()?;
    // The name before it may hold anything, also spaces and parentheses.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}
