//! Waiting: spin a bounded while, then check, arm, check again, sleep. Written once, here.

use crate::barrier::Pace;
use crate::doorbell::Line;
use crate::error::{FORKED, SystemError};
use crate::port::MessagePort;
use crate::ring::Refused;
use crate::ring::layout::{RECORD_ALIGN, items_size, state};
use crate::stats::add;
use crate::transfer::MOST_PORTS;
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
#[non_exhaustive]
pub enum Interest {
    /// A message has come.
    Message,
    /// There is room for a message of so many bytes. To be told, a quarter of the ring must be free as
    /// well, unless the peer holds messages in place.
    Room(usize),
    /// Either of the two.
    Either(usize),
    /// A message of so many bytes can be posted with ports: there is room for it, and fewer than 64 of its
    /// kind wait to be received.
    Transfer(usize),
    /// A message has come, or one can be posted with ports.
    MessageOrTransfer(usize),
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
/// One look for room stands for this many.
const SELDOM: u32 = 8;
/// A spinner looks at the doorbell this often, so that it notices a death (promised: within 100 µs).
const DOORBELL_EVERY: Duration = Duration::from_micros(50);
const LONGEST_SPIN: Duration = Duration::from_micros(50);
const SHORTEST_SPIN: Duration = Duration::from_micros(2);
const WANTS_EITHER: u32 = state::WANTS_MESSAGE | state::WANTS_ROOM;
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

/// When to give up, from a timeout. One too long for the clock is no limit.
pub(crate) fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

impl MessagePort {
    /// Waits until what is wanted (WANTS bits) is there or the channel has ended (`true`), or the
    /// deadline is over (`false`).
    #[inline(never)]
    pub(crate) fn wait(&self, wants: u32, deadline: Option<Instant>) -> Result<bool, SystemError> {
        self.zero_ahead(wants);
        if deadline.is_some() {
            // A loop around short waits must notice a death too.
            self.patrol();
        }
        match self.spinner.budget() {
            Some(Duration::ZERO) => self.sleep_until(wants, deadline),
            budget => self.spin_until(wants, deadline, budget),
        }
    }

    /// Spins as long as `budget` (`None`: for ever), then sleeps.
    fn spin_until(
        &self,
        wants: u32,
        deadline: Option<Instant>,
        budget: Option<Duration>,
    ) -> Result<bool, SystemError> {
        if self.look_often(wants, FIRST_LOOKS) {
            return Ok(true);
        }
        let start = Instant::now();
        let mut look_at_doorbell = start + DOORBELL_EVERY;
        loop {
            if self.look_often(wants, LOOKS) {
                return Ok(true);
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(self.is_ready(wants));
            }
            if budget.is_some_and(|budget| now - start >= budget) {
                break;
            }
            if now >= look_at_doorbell {
                self.note(self.doorbell.drain());
                look_at_doorbell = now + DOORBELL_EVERY;
            }
        }
        let result = self.sleep_until(wants, deadline);
        self.spinner.learn(start.elapsed());
        result
    }

    /// Looks up to so many times. For room it is not content with little, but for the last look.
    #[inline(always)]
    fn look_often(&self, wants: u32, times: u32) -> bool {
        if wants == state::WANTS_ROOM {
            // The consumer writes its read position for every message, and each look takes that line
            // away from it: look seldom, and wait for room for many messages.
            for _ in 0..times / SELDOM {
                if self.has_much_room() || self.known_end().is_some() {
                    return true;
                }
                for _ in 0..SELDOM {
                    spin_loop();
                }
            }
        } else {
            for _ in 0..times {
                if self.is_ready(wants) {
                    return true;
                }
            }
        }
        self.is_ready(wants)
    }

    /// Check, arm, check again, sleep.
    fn sleep_until(&self, wants: u32, deadline: Option<Instant>) -> Result<bool, SystemError> {
        let signal = self.doorbell.signal();
        loop {
            self.note(self.doorbell.drain_if_due());
            let pace = if self.doorbell.is_clogged() {
                // Who sleeps for room beside many unreceived transfers asks for no more rings.
                Pace::Slice
            } else {
                self.arm_for(wants)
            };
            if self.is_ready(wants) {
                signal.disarm(wants);
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                signal.disarm(wants);
                return Ok(false);
            }
            let timeout = match pace {
                Pace::Unbounded => left,
                Pace::Slice => Some(left.unwrap_or(SLICE).min(SLICE)),
            };
            add(&self.counts.sleeps, 1);
            let woken = self.doorbell.sleep(timeout);
            // What is left of the wants when somebody else woke us costs the peer a needless ring.
            signal.disarm(wants);
            self.note(woken?);
            if self.is_ready(wants) {
                return Ok(true);
            }
        }
    }

    fn arm_for(&self, wants: u32) -> Pace {
        if wants & state::WANTS_ROOM != 0 {
            self.producer.store_room_target();
        }
        self.counts.armed();
        self.doorbell.signal().arm(wants)
    }

    /// Whether there is what the last refused post needed: room, and perhaps a place among the transfers.
    #[inline(always)]
    fn has_room(&self) -> bool {
        self.transfers.has_wanted_place() && self.producer.has_room()
    }

    fn has_much_room(&self) -> bool {
        self.transfers.has_wanted_place() && self.producer.has_much_room()
    }

    /// Whether something of what is wanted is there, or the channel has ended.
    #[inline(always)]
    fn is_ready(&self, wants: u32) -> bool {
        wants & state::WANTS_MESSAGE != 0 && self.consumer.has_news()
            || wants & state::WANTS_ROOM != 0 && self.has_room()
            || self.known_end().is_some()
    }

    /// What can be done for the next post while there is time.
    fn zero_ahead(&self, wants: u32) {
        if wants & state::WANTS_ROOM == 0 && !self.reserved.get() {
            self.producer.zero_ahead();
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

    /// Lets the peer post without fences if this side has not slept for a while.
    #[cold]
    pub(crate) fn unfence_if_calm(&self) {
        if self.counts.calm() {
            self.doorbell.signal().unfence();
        }
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
    /// channel ends. A call that posts or receives ends the waiting; so does the event. It may become readable
    /// for nothing, so arm again until it says [`Armed::Ready`].
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors: the first call needs one. In a forked child.
    pub fn arm(&self, interest: Interest) -> Result<Armed, io::Error> {
        self.check_home()?;
        self.disarm();
        // Empties the descriptor's ready list, so that it becomes readable anew.
        let line = self.doorbell.sleep(Some(Duration::ZERO));
        self.note(line.map_err(|error| error.source)?);
        self.note(self.doorbell.drain());
        let (wants, room, place) = match interest {
            Interest::Message => (state::WANTS_MESSAGE, None, false),
            Interest::Room(len) => (state::WANTS_ROOM, Some(len), false),
            Interest::Either(len) => (WANTS_EITHER, Some(len), false),
            Interest::Transfer(len) => (state::WANTS_ROOM, Some(len), true),
            Interest::MessageOrTransfer(len) => (WANTS_EITHER, Some(len), true),
        };
        if let Some(len) = room {
            // As many ports as can be.
            let items = if place { items_size(MOST_PORTS) } else { 0 };
            self.want_room_for(len.saturating_add(items));
        }
        self.transfers.wants_place.set(place);
        let armed = self.arm_if_not_ready(wants);
        if armed == Armed::Ready {
            self.transfers.wants_place.set(false);
        }
        Ok(armed)
    }

    fn arm_if_not_ready(&self, wants: u32) -> Armed {
        if self.is_ready(wants) {
            return Armed::Ready;
        }
        if self.doorbell.is_clogged() {
            // No more rings can be asked for, so nothing could wake the caller. Tell it to try, not too often.
            std::thread::sleep(SLICE);
            return Armed::Ready;
        }
        self.zero_ahead(wants);
        // If the barrier failed, there is no sleep here to cut short: wait until it must have worked.
        if self.arm_for(wants) == Pace::Slice {
            std::thread::sleep(SLICE);
        }
        self.armed.set(wants);
        if self.is_ready(wants) {
            self.disarm();
            return Armed::Ready;
        }
        Armed::Wait
    }

    /// The descriptor to poll for reading after [`arm`](MessagePort::arm), edge- or level-triggered. It is
    /// this port's own and stays the same; do not read from it.
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors: the first call needs one. In a forked child.
    pub fn as_fd(&self) -> Result<BorrowedFd<'_>, io::Error> {
        self.check_home()?;
        self.doorbell.poll_fd().map_err(|error| error.source)
    }

    fn check_home(&self) -> Result<(), io::Error> {
        if self.is_home() {
            Ok(())
        } else {
            Err(io::Error::other(FORKED))
        }
    }

    /// Has waits for room wait for that of a message of `len` bytes, and for none if there is some now, or
    /// never will be.
    fn want_room_for(&self, len: usize) {
        let cursor = self.producer.draft().cursor();
        // One that is full remembers what it lacked.
        let place = self.producer.place(cursor, len, RECORD_ALIGN);
        if !matches!(place, Err(Refused::Full)) {
            self.producer.want_nothing();
        }
    }

    #[inline(always)]
    pub(crate) fn disarm(&self) {
        if self.armed.get() != 0 {
            self.disarm_now();
        }
    }

    #[cold]
    fn disarm_now(&self) {
        self.transfers.wants_place.set(false);
        self.doorbell.signal().disarm(self.armed.replace(0));
    }
}
