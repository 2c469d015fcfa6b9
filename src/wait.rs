//! Waiting: spin a bounded while, then check, arm, check again, sleep. Written once, here.

use crate::barrier::Pace;
use crate::doorbell::Line;
use crate::error::SystemError;
use crate::port::MessagePort;
use crate::ring::Refused;
use crate::ring::layout::{RECORD_ALIGN, state};
use crate::stats::add;
use core::cell::Cell;
use core::hint::spin_loop;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How a port waits, for a message and for room. It concerns this port only, not its peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitStrategy {
    /// Spin until it comes. Lowest latency, one CPU used up. On a machine with one CPU it sleeps
    /// instead.
    Spin,
    /// Spin up to 50 µs, less if that has not paid lately, then sleep.
    #[default]
    Adaptive,
    /// Sleep at once.
    Block,
}

/// What to be told of by [`MessagePort::arm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// A message has come.
    Message,
    /// There is room for a message of so many bytes.
    Room(usize),
    /// Either of the two.
    Either(usize),
}

/// What [`MessagePort::arm`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Armed {
    /// Nothing yet: [`MessagePort::as_fd`] becomes readable when there is.
    Wait,
    /// What was asked for is there already, or the channel has ended.
    Ready,
}

/// Looks without reading the clock at first: most waits of a busy pair end here.
const FIRST_LOOKS: u32 = 256;
/// Looks between two readings of the clock.
const LOOKS: u32 = 64;
/// A spinner looks at the doorbell this often, so that it notices a death (promised: within 100 µs).
const DOORBELL_EVERY: Duration = Duration::from_micros(50);
const LONGEST_SPIN: Duration = Duration::from_micros(50);
const SHORTEST_SPIN: Duration = Duration::from_micros(2);
/// How long a sleep may be when the barrier before it failed.
const SLICE: Duration = Duration::from_millis(1);

/// How long this port's waits spin, and what it has learned about that.
pub(crate) struct Spinner {
    strategy: Cell<WaitStrategy>,
    budget: Cell<Duration>,
}

impl Spinner {
    pub(crate) fn new() -> Spinner {
        Spinner {
            strategy: Cell::default(),
            budget: Cell::new(LONGEST_SPIN / 2),
        }
    }

    pub(crate) fn strategy(&self) -> WaitStrategy {
        self.strategy.get()
    }

    pub(crate) fn set_strategy(&self, strategy: WaitStrategy) {
        self.strategy.set(strategy);
    }

    /// How long to spin; `None` for ever.
    fn budget(&self) -> Option<Duration> {
        match self.strategy.get() {
            _ if one_cpu() => Some(Duration::ZERO),
            WaitStrategy::Spin => None,
            WaitStrategy::Adaptive => Some(self.budget.get()),
            WaitStrategy::Block => Some(Duration::ZERO),
        }
    }

    /// Learns from a wait that had to sleep and took so long in all.
    fn learn(&self, waited: Duration) {
        let budget = if waited < LONGEST_SPIN {
            // A little more patience would have saved the sleep.
            (waited * 2).min(LONGEST_SPIN)
        } else {
            (self.budget.get() / 2).max(SHORTEST_SPIN)
        };
        self.budget.set(budget);
    }
}

/// Whether the machine has one CPU, so that spinning only keeps the peer from running. The affinity of
/// this process does not count: two pinned processes can spin for each other.
fn one_cpu() -> bool {
    static ONE: OnceLock<bool> = OnceLock::new();
    *ONE.get_or_init(|| {
        use nix::unistd::{SysconfVar, sysconf};
        sysconf(SysconfVar::_NPROCESSORS_ONLN) == Ok(Some(1))
    })
}

/// When a call that does not wait last looked at the doorbell; see [`MessagePort::patrol`].
#[derive(Default)]
pub(crate) struct Patrol {
    calls: Cell<u32>,
    looked: Cell<Option<Instant>>,
}

impl Patrol {
    const CALLS: u32 = 8;
    const EVERY: Duration = Duration::from_micros(50);

    pub(crate) fn due(&self) -> bool {
        let calls = self.calls.get().wrapping_add(1);
        self.calls.set(calls);
        if calls % Patrol::CALLS != 0 {
            return false;
        }
        let now = Instant::now();
        let due = self
            .looked
            .get()
            .is_none_or(|looked| now - looked >= Patrol::EVERY);
        if due {
            self.looked.set(Some(now));
        }
        due
    }
}

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Message,
    Room,
}

impl Want {
    fn bit(self) -> u32 {
        match self {
            Want::Message => state::WANTS_MESSAGE,
            Want::Room => state::WANTS_ROOM,
        }
    }
}

/// When to give up, from a timeout. One too long for the clock is no limit.
pub(crate) fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

impl MessagePort {
    /// Attempts until there is a result or the deadline is over (`Ok(None)`).
    ///
    /// `attempt` fails with `Closed` once the port knows of the end, so every path here that learns
    /// of it just attempts again.
    #[inline(never)]
    pub(crate) fn wait<T, E: From<SystemError>>(
        &self,
        want: Want,
        deadline: Option<Instant>,
        mut attempt: impl FnMut() -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        self.about_to_wait(want);
        if deadline.is_some() {
            // A loop around short waits must notice a death too.
            self.patrol();
        }
        let budget = self.spinner.budget();
        let mut started = None;
        if budget != Some(Duration::ZERO) {
            for look in 0..FIRST_LOOKS {
                if let Some(found) = attempt()? {
                    return Ok(Some(found));
                }
                pause(want, look);
            }
            let start = Instant::now();
            started = Some(start);
            let mut look_at_doorbell = start + DOORBELL_EVERY;
            loop {
                for look in 0..LOOKS {
                    if let Some(found) = attempt()? {
                        return Ok(Some(found));
                    }
                    pause(want, look);
                }
                let now = Instant::now();
                if deadline.is_some_and(|deadline| now >= deadline) {
                    return attempt();
                }
                if budget.is_some_and(|budget| now - start >= budget) {
                    break;
                }
                if now >= look_at_doorbell {
                    self.note(self.doorbell.drain());
                    look_at_doorbell = now + DOORBELL_EVERY;
                }
            }
        }
        let result = self.sleep_until(want, deadline, &mut attempt);
        if let Some(started) = started {
            self.spinner.learn(started.elapsed());
        }
        result
    }

    /// Check, arm, check again, sleep.
    fn sleep_until<T, E: From<SystemError>>(
        &self,
        want: Want,
        deadline: Option<Instant>,
        attempt: &mut impl FnMut() -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        let attempt_or_disarm = |attempt: &mut dyn FnMut() -> Result<Option<T>, E>| {
            let result = attempt();
            if !matches!(result, Ok(None)) {
                self.doorbell.signal().disarm(want.bit());
            }
            result
        };
        loop {
            self.note(self.doorbell.drain_if_due());
            if want == Want::Room {
                self.producer.store_room_target();
            }
            self.counts.armed();
            let pace = self.doorbell.signal().arm(want.bit());
            if let Some(found) = attempt_or_disarm(attempt)? {
                return Ok(Some(found));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                self.doorbell.signal().disarm(want.bit());
                return Ok(None);
            }
            let timeout = match pace {
                Pace::Unbounded => left,
                Pace::Slice => Some(left.unwrap_or(SLICE).min(SLICE)),
            };
            add(&self.counts.sleeps, 1);
            match self.doorbell.sleep(timeout) {
                Ok(line) => self.note(line),
                Err(error) => {
                    self.doorbell.signal().disarm(want.bit());
                    return Err(error.into());
                }
            }
            if let Some(found) = attempt_or_disarm(attempt)? {
                return Ok(Some(found));
            }
        }
    }

    /// Looks at the doorbell if that was long ago. For calls that do not wait, or not long: a program
    /// that makes them in a loop must notice a death too. Says whether it looked.
    pub(crate) fn patrol(&self) -> bool {
        let due = self.patrol.due();
        if due {
            self.note(self.doorbell.drain());
        }
        due
    }

    /// Takes in what the doorbell said.
    pub(crate) fn note(&self, line: Line) {
        match line {
            Line::Quiet => {}
            Line::HungUp => self.learn_gone(),
            Line::Corrupt => self.end_corrupt(),
        }
    }
}

/// Waiting in a foreign event loop.
impl MessagePort {
    /// Says what this port waits for, once, and whether it is there already.
    ///
    /// After [`Armed::Wait`], [`as_fd`](MessagePort::as_fd) becomes readable when it comes, or when the
    /// channel ends. Any other call on this port ends the waiting; so does the event. It may become readable
    /// for nothing, so arm again until it says [`Armed::Ready`].
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors: the first call needs one.
    pub fn arm(&self, interest: Interest) -> Result<Armed, io::Error> {
        let wants = match interest {
            Interest::Message => state::WANTS_MESSAGE,
            Interest::Room(_) => state::WANTS_ROOM,
            Interest::Either(_) => state::WANTS_MESSAGE | state::WANTS_ROOM,
        };
        self.disarm();
        // Empties the descriptor's ready list, so that it becomes readable anew.
        let line = self.doorbell.sleep(Some(Duration::ZERO));
        self.note(line.map_err(|error| error.source)?);
        self.note(self.doorbell.drain());
        // Finds what is there, and for room, how much is missing.
        if self.is_ready(interest) {
            return Ok(Armed::Ready);
        }
        self.about_to_wait(Want::Message);
        self.producer.store_room_target();
        // If the barrier failed, there is no sleep here to cut short: wait until it must have worked.
        if self.doorbell.signal().arm(wants) == Pace::Slice {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.counts.armed();
        self.armed.set(wants);
        if self.is_ready(interest) {
            self.disarm();
            return Ok(Armed::Ready);
        }
        Ok(Armed::Wait)
    }

    /// The descriptor to poll for reading after [`arm`](MessagePort::arm), edge- or level-triggered. It is
    /// this port's own and stays the same; do not read from it.
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors: the first call needs one.
    pub fn as_fd(&self) -> Result<BorrowedFd<'_>, io::Error> {
        self.doorbell.poll_fd().map_err(|error| error.source)
    }

    fn is_ready(&self, interest: Interest) -> bool {
        let message = || !matches!(self.consumer.peek(), Ok(None));
        let room = |len| {
            let cursor = self.producer.draft().cursor();
            !matches!(
                self.producer.place(cursor, len, RECORD_ALIGN),
                Err(Refused::Full)
            )
        };
        self.known_end().is_some()
            || match interest {
                Interest::Message => message(),
                Interest::Room(len) => room(len),
                Interest::Either(len) => message() || room(len),
            }
    }

    #[inline(always)]
    pub(crate) fn disarm(&self) {
        if self.armed.get() != 0 {
            self.doorbell.signal().disarm(self.armed.replace(0));
        }
    }

    /// What can be done for the next post while there is time.
    pub(crate) fn about_to_wait(&self, want: Want) {
        if want == Want::Message && !self.reserved.get() {
            self.producer.zero_ahead();
        }
    }
}

/// Between two looks of a spinner.
#[inline(always)]
fn pause(want: Want, look: u32) {
    match want {
        // A header's cache line stays here until the peer writes it, so looking costs nobody anything.
        Want::Message => {
            if look % 16 == 15 {
                spin_loop();
            }
        }
        // The consumer writes its read position for every message: each look takes that line away
        // from it, so look seldom, and find room for many messages at a time.
        Want::Room => {
            for _ in 0..8 {
                spin_loop();
            }
        }
    }
}
