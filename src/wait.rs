//! Waiting: spin a bounded while, then check, arm, check again, sleep. Written once, here.

mod any;
mod foreign;

use crate::barrier::{Owed, Pace};
use crate::doorbell::Line;
use crate::error::SystemError;
use crate::port::MessagePort;
use crate::ring::layout::state;
use crate::stats::add;
use core::cell::Cell;
use core::hint::spin_loop;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use any::wait_any;
pub use foreign::{Armed, Interest};

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
pub(crate) const SLICE: Duration = Duration::from_millis(1);

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
    pub(crate) fn budget(&self) -> Option<Duration> {
        match self.strategy.get() {
            _ if one_cpu() => Some(Duration::ZERO),
            WaitStrategy::Spin => None,
            WaitStrategy::Adaptive => Some(self.budget.get()),
            WaitStrategy::Block => Some(Duration::ZERO),
        }
    }

    /// Learns from a wait that had to sleep and took so long in all.
    pub(crate) fn learn(&self, waited: Duration) {
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

/// How a spin has ended.
pub(crate) enum Spun<T> {
    Found(T),
    /// The deadline is over.
    TimeOver,
    /// It is time to sleep instead. When the spinning began.
    Tired(Instant),
}

/// Looks until something is found, as long as `budget` says (`None`: for ever) and not beyond the deadline.
/// `look` looks up to so many times; `every_while` runs as often as a doorbell must be looked at.
#[inline(always)]
pub(crate) fn spin<T>(
    budget: Option<Duration>,
    deadline: Option<Instant>,
    mut look: impl FnMut(u32) -> Option<T>,
    mut every_while: impl FnMut(),
) -> Spun<T> {
    if let Some(found) = look(FIRST_LOOKS) {
        return Spun::Found(found);
    }
    let start = Instant::now();
    let mut look_at_doorbell = start + DOORBELL_EVERY;
    loop {
        if let Some(found) = look(LOOKS) {
            return Spun::Found(found);
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Spun::TimeOver;
        }
        if budget.is_some_and(|budget| now - start >= budget) {
            return Spun::Tired(start);
        }
        if now >= look_at_doorbell {
            every_while();
            look_at_doorbell = now + DOORBELL_EVERY;
        }
    }
}

/// When to give up, from a timeout. One too long for the clock is no limit.
pub(crate) fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

impl Pace {
    /// How long to sleep when so much time is left (`None`: as long as it takes).
    pub(crate) fn within(self, left: Option<Duration>) -> Option<Duration> {
        match self {
            Pace::Unbounded => left,
            Pace::Slice => Some(left.unwrap_or(SLICE).min(SLICE)),
        }
    }
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
        let look = |times| self.look_often(wants, times).then_some(());
        match spin(budget, deadline, look, || self.listen_in()) {
            Spun::Found(()) => Ok(true),
            Spun::TimeOver => Ok(self.is_ready(wants)),
            Spun::Tired(start) => {
                let result = self.sleep_until(wants, deadline);
                self.spinner.learn(start.elapsed());
                result
            }
        }
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
        loop {
            self.note(self.doorbell.drain_if_due());
            let pace = if self.doorbell.is_clogged() {
                // Who sleeps for room beside many unreceived transfers asks for no more rings.
                Pace::Slice
            } else {
                self.arm_for(wants)
            };
            if self.is_ready(wants) {
                self.take_back(wants);
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                self.take_back(wants);
                return Ok(false);
            }
            add(&self.counts.sleeps, 1);
            let woken = self.doorbell.sleep(pace.within(left));
            // What is left of the wants when somebody else woke us costs the peer a needless ring.
            self.take_back(wants);
            self.note(woken?);
            if self.is_ready(wants) {
                return Ok(true);
            }
        }
    }

    pub(crate) fn arm_for(&self, wants: u32) -> Pace {
        self.announce_for(wants).pay()
    }

    /// The same for a sleep that is not here, to be cut short: if the barrier failed, it waits until it must have
    /// worked.
    pub(crate) fn arm_surely(&self, wants: u32) {
        if self.arm_for(wants) == Pace::Slice {
            std::thread::sleep(SLICE);
        }
    }

    /// Says what this side is about to sleep for; the barrier is still to come.
    pub(crate) fn announce_for(&self, wants: u32) -> Owed {
        if wants & state::WANTS_ROOM != 0 {
            self.producer.store_room_target();
        }
        self.counts.armed();
        self.doorbell.signal().announce(wants)
    }

    /// Wants no more what nobody else waits for. In a forked child it is the parent who does.
    pub(crate) fn take_back(&self, wants: u32) {
        if self.is_home() {
            let wants = wants & !self.standing.get();
            self.doorbell.signal().disarm(wants);
        }
    }

    /// Waits for these no more, whoever did.
    #[cfg(feature = "tokio")]
    pub(crate) fn stand_down(&self, wants: u32) {
        self.standing.set(self.standing.get() & !wants);
        self.take_back(wants);
    }

    /// Nobody waits for anything any more.
    pub(crate) fn stand_down_all(&self) {
        self.standing.set(0);
        self.take_back(WANTS_EITHER);
    }

    /// Whether there is what the last refused post needed: room, and perhaps a place among the transfers.
    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        self.transfers.has_wanted_place() && self.producer.has_room()
    }

    /// Looks while room is wanted for a message with ports.
    pub(crate) fn with_place_wanted<R>(&self, look: impl FnOnce() -> R) -> R {
        self.transfers.wants_place.set(true);
        let seen = look();
        self.transfers.wants_place.set(false);
        seen
    }

    fn has_much_room(&self) -> bool {
        self.transfers.has_wanted_place() && self.producer.has_much_room()
    }

    /// Whether something of what is wanted is there, or the channel has ended.
    #[inline(always)]
    pub(crate) fn is_ready(&self, wants: u32) -> bool {
        wants & state::WANTS_MESSAGE != 0 && self.consumer.has_news()
            || wants & state::WANTS_ROOM != 0 && self.has_room()
            || self.known_end().is_some()
    }

    /// What can be done for the next post while there is time.
    pub(crate) fn zero_ahead(&self, wants: u32) {
        if wants & state::WANTS_ROOM == 0 && !self.reserved.get() && self.is_home() {
            self.producer.zero_ahead();
        }
    }

    /// Looks at the doorbell if that was long ago. For calls that do not wait, or not long: a program
    /// that makes them in a loop must notice a death too. Says whether it looked.
    pub(crate) fn patrol(&self) -> bool {
        let due = self.patrol.due();
        if due {
            self.listen_in();
        }
        due
    }

    /// Looks at the doorbell between two waits.
    pub(crate) fn listen_in(&self) {
        self.note(if self.armed.get() | self.standing.get() == 0 {
            self.doorbell.drain()
        } else {
            // Somebody waits elsewhere, whom the doorbell's bytes wake, so they stay.
            self.doorbell.look()
        });
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
