//! What the loop does while nothing is to be dispatched: look, spin, arm, sleep.

use super::handlers::{Entry, Place};
use super::slot::Use;
use super::sources::Source;
use super::{ALARM, EventLoop, WAKER};
use crate::barrier::{Owed, Pace};
use crate::doorbell::{is_hang_up, sleep_finely};
use crate::error::SystemError;
use crate::port::MessagePort;
use crate::stats::add;
use crate::wait::{SLICE, Spun, spin};
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerSetTimeFlags};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Ports that are looked at without the kernel. As many headers are looked through in the time that a cache line
/// takes to come from another CPU.
const MOST_WATCHED: usize = 32;
/// Events taken from the kernel at once.
const EVENTS: usize = 128;

/// Lists.
impl<'h> EventLoop<'h> {
    pub(super) fn is_all_quiet(&self) -> bool {
        self.ready.borrow().is_empty() && self.told.borrow().is_empty()
    }

    pub(super) fn make_ready(&self, entry: &Rc<Entry<'h>>) {
        entry.place.set(Place::Ready);
        self.ready.borrow_mut().push_back(Rc::clone(entry));
        self.stir();
    }

    pub(super) fn watch(&self, entry: &Rc<Entry<'h>>) {
        entry.place.set(Place::Watched);
        self.watched.borrow_mut().push(Rc::clone(entry));
        if self.watched.borrow().len() > MOST_WATCHED {
            self.arm_all();
        }
        self.stir();
    }

    /// What is waited for on a port may have changed.
    pub(super) fn reconsider(&self, entry: &Rc<Entry<'h>>) {
        if let Some(used) = Use::of(&entry.slot) {
            self.tune(entry, used.port());
        }
        if entry.place.get() == Place::Quiet && entry.wants() != 0 {
            self.make_ready(entry);
        }
    }

    /// Asks epoll for rings if anything is waited for that makes some.
    pub(super) fn tune(&self, entry: &Entry<'h>, port: &MessagePort) {
        let rings = entry.wants() != 0;
        if entry.rings.replace(rings) != rings {
            port.doorbell
                .change_in(&self.epoll, rings, entry.slot.id().0);
        }
    }

    /// A port was used from outside its turn: that may have taken a ring, asked for other room, or closed it.
    pub(super) fn check_after_use(&self, entry: &Rc<Entry<'h>>, port: &MessagePort) {
        let has_read = port.doorbell.has_read();
        if entry.place.get() == Place::Quiet && self.home.is_here() {
            // One that is not started waits for what is on it to be taken before it tells of its end.
            let over = !entry.is_enabled() && port.known_end().is_some();
            if port.ended_here() || over {
                self.make_ready(entry);
            } else if entry.wants_room() || has_read && entry.is_enabled() {
                port.stand_down_all();
                self.watch(entry);
            }
        }
    }
}

/// Hearing from the kernel.
impl<'h> EventLoop<'h> {
    /// Takes in what the kernel tells.
    pub(super) fn collect(&self, timeout: EpollTimeout) -> Result<(), SystemError> {
        self.dispatched.set(0);
        let mut events = [EpollEvent::empty(); EVENTS];
        match self.epoll.wait(&mut events, timeout) {
            Ok(count) => {
                for event in &events[..count] {
                    self.take_in(event.data(), event.events());
                }
                Ok(())
            }
            Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(SystemError::new("epoll_wait", errno)),
        }
    }

    fn take_in(&self, id: u64, flags: EpollFlags) {
        if id == ALARM {
            return self.alarm_at.set(None);
        }
        if id != WAKER {
            let entry = match self.sources.borrow().get(&id) {
                // It has left meanwhile.
                None => return,
                Some(Source::Port(entry)) => Some(Rc::clone(entry)),
                Some(_) => None,
            };
            if let Some(entry) = entry {
                return self.hear(&entry, is_hang_up(flags));
            }
        }
        self.tell_soon(id);
    }

    /// A port's doorbell has rung, or was hung up.
    fn hear(&self, entry: &Rc<Entry<'h>>, hung_up: bool) {
        let Some(used) = Use::of(&entry.slot) else {
            return;
        };
        let port = used.port();
        port.note(if hung_up {
            port.doorbell.drain()
        } else {
            port.doorbell.drain_if_due()
        });
        port.doorbell.has_read();
        // In any other place it is looked at anyway.
        if entry.place.get() == Place::Quiet {
            port.stand_down_all();
            if hung_up || entry.is_ready(port) {
                self.make_ready(entry);
            } else if entry.wants() != 0 {
                // It has rung for nothing: with descriptors, whose message is about to come.
                self.watch(entry);
            }
        }
    }
}

/// Waiting.
impl<'h> EventLoop<'h> {
    /// Waits until something is to be dispatched, a timer is due, or the deadline is over.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Result<(), SystemError> {
        let deadline = match (deadline, self.timers.first()) {
            (Some(deadline), Some(timer)) => Some(deadline.min(timer)),
            (deadline, timer) => deadline.or(timer),
        };
        let budget = self.spinner.budget();
        if budget == Some(Duration::ZERO) || self.watched.borrow().is_empty() {
            return self.sleep(deadline);
        }
        let mut heard = Ok(());
        let look = |times| (self.look_often(times) || !self.is_all_quiet()).then_some(());
        let listen = || heard = self.collect(EpollTimeout::ZERO);
        let spun = spin(budget, deadline, look, listen);
        heard?;
        if let Spun::Tired(start) = spun {
            self.sleep(deadline)?;
            self.spinner.learn(start.elapsed());
        }
        Ok(())
    }

    /// Looks at the watched ports, so many looks in all, and says whether one has become ready.
    fn look_often(&self, times: u32) -> bool {
        let rounds = times as usize / self.watched.borrow().len().max(1);
        (0..rounds.max(1)).any(|_| self.look())
    }

    /// Looks at each of the watched ports once, and says whether one has become ready.
    pub(super) fn look(&self) -> bool {
        let mut found = false;
        let mut watched = self.watched.borrow_mut();
        watched.retain(|entry| match watched_port(entry) {
            None => false,
            Some(used) if entry.is_ready(used.port()) => {
                entry.place.set(Place::Ready);
                self.ready.borrow_mut().push_back(Rc::clone(entry));
                found = true;
                false
            }
            Some(_) => true,
        });
        found
    }

    /// Check, arm, check again, sleep: all watched ports with one barrier.
    fn sleep(&self, deadline: Option<Instant>) -> Result<(), SystemError> {
        let pace = self.arm_all();
        if !self.is_all_quiet() {
            return Ok(());
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = sleep_finely(&self.epoll, pace.within(left))?;
        self.collect(timeout)
    }

    fn arm_all(&self) -> Pace {
        let watched = self.watched.take();
        self.arm(watched)
    }

    /// Arms the watched ports that had no turn since this was last done: while others keep the loop awake, they
    /// need not be looked at.
    pub(super) fn weed(&self) {
        let since = self.weeded.replace(self.round.get());
        let patient = self.spinner.budget().is_none();
        if patient || self.watched.borrow().is_empty() {
            return;
        }
        let watched = self.watched.take();
        let (lately, stale) = watched
            .into_iter()
            .partition(|entry| entry.served.get() >= since);
        *self.watched.borrow_mut() = lately;
        self.arm(stale);
    }

    /// Has the peers of watched ports ring from now on. What has arrived meanwhile is ready.
    fn arm(&self, entries: Vec<Rc<Entry<'h>>>) -> Pace {
        let mut owed = None;
        let mut clogged = false;
        for entry in &entries {
            if let Some(port) = watched_port(entry).as_ref().map(Use::port) {
                port.note(port.doorbell.drain_if_due());
                port.doorbell.has_read();
                if port.doorbell.is_clogged() {
                    // No more rings may be asked for.
                    clogged = true;
                    continue;
                }
                let wants = entry.say_wants(port);
                port.standing.set(wants);
                owed = owed.max(Some(port.announce_for(wants)));
                add(&port.counts.sleeps, 1);
            }
        }
        let mut pace = owed.map_or(Pace::Unbounded, Owed::pay);
        if clogged {
            pace = Pace::Slice;
        }
        for entry in entries {
            let Some(used) = watched_port(&entry) else {
                continue;
            };
            if entry.is_ready(used.port()) {
                used.port().stand_down_all();
                self.make_ready(&entry);
            } else if pace == Pace::Slice {
                // Looked at again soon, whether or not the peer rings.
                self.watched.borrow_mut().push(Rc::clone(&entry));
            } else {
                entry.place.set(Place::Quiet);
            }
        }
        pace
    }
}

/// The port, if it is watched and not gone.
fn watched_port<'e, 'h>(entry: &'e Rc<Entry<'h>>) -> Option<Use<&'e super::slot::Slot>> {
    if entry.place.get() == Place::Watched {
        Use::of(&entry.slot)
    } else {
        None
    }
}

/// Being nested in another loop.
impl EventLoop<'_> {
    /// Between two runs: has the loop's descriptor tell an outer loop whatever is to be done, now or when a timer is
    /// due.
    pub(super) fn stir(&self) {
        // A forked child leaves its parent's loop alone.
        if !self.nested.get() || self.running.get() || !self.home.is_here() {
            return;
        }
        let pace = self.arm_all();
        let now = Instant::now();
        let next = if !self.is_all_quiet() {
            Some(now)
        } else if pace == Pace::Slice {
            Some(now + SLICE)
        } else {
            self.timers.first()
        };
        if next == self.alarm_at.replace(next) {
            return;
        }
        // It can only fail for arguments that are none.
        let _ = match next {
            None => self.alarm.unset(),
            Some(at) => {
                // Zero would stop it.
                let left = at.saturating_duration_since(now);
                let left = TimeSpec::from_duration(left.max(Duration::from_nanos(1)));
                self.alarm
                    .set(Expiration::OneShot(left), TimerSetTimeFlags::empty())
            }
        };
    }
}
