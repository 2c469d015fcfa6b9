//! Running: rounds of timers, of what else was told, and of each ready port's turn.

use super::EventLoop;
use super::turn::BUDGET;
use crate::error::{EventLoopError, SystemError};
use crate::fork::Home;
use crate::wait::{WaitStrategy, deadline};
use nix::sys::epoll::EpollTimeout;
use nix::sys::eventfd::EventFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// While messages come fast, the kernel is asked this often who else has something, and otherwise after each
/// [`BUDGET`] of messages.
const MOST_UNASKED: Duration = Duration::from_micros(10);

/// Running.
impl<'h> EventLoop<'h> {
    /// Runs handlers until [`stop`](EventLoop::stop) is called, or nothing is left that could happen: no port, no
    /// listener, no process, no timer, and no handler for [wakes](EventLoop::on_wake).
    ///
    /// # Errors
    ///
    /// [`EventLoopError::System`] if it cannot wait; [`EventLoopError::Forked`] in a forked child.
    ///
    /// # Panics
    ///
    /// When a handler does.
    pub fn run(&mut self) -> Result<(), EventLoopError> {
        self.run_shared()
    }

    /// [`run`](EventLoop::run) for the C interface, where handlers have nothing but the one pointer to the loop. Who calls
    /// it sees to it that no handler does.
    #[doc(hidden)]
    pub fn run_shared(&self) -> Result<(), EventLoopError> {
        self.check_home()?;
        let _running = self.begin();
        while !self.stopped.replace(false) && self.is_waiting_for_something() {
            self.run_round(None)?;
            self.check_home()?;
        }
        Ok(())
    }

    /// Waits at most `timeout` (`None`: as long as it takes) until something happens, runs the handlers for what
    /// is there, and says whether there was anything. Every port that is ready has one turn.
    ///
    /// It answers `false` before the time is over when [`run`](EventLoop::run) would return.
    ///
    /// # Errors
    ///
    /// As [`run`](EventLoop::run).
    ///
    /// # Panics
    ///
    /// When a handler does.
    pub fn run_once(&mut self, timeout: Option<Duration>) -> Result<bool, EventLoopError> {
        self.run_once_shared(timeout)
    }

    /// As [`run_shared`](EventLoop::run_shared).
    #[doc(hidden)]
    pub fn run_once_shared(&self, timeout: Option<Duration>) -> Result<bool, EventLoopError> {
        self.check_home()?;
        let _running = self.begin();
        let deadline = timeout.map(|timeout| deadline(timeout).unwrap_or_else(far_off));
        // Somebody who calls this in a loop, without waiting, must hear what is told by the kernel alone.
        self.collect(EpollTimeout::ZERO)?;
        // What was told of somebody who has left since is to be forgotten as well.
        while !self.stopped.replace(false)
            && (self.is_waiting_for_something() || !self.is_all_quiet())
        {
            let any = self.run_round(deadline)?;
            self.check_home()?;
            if any {
                self.stopped.set(false);
                return Ok(true);
            }
            if deadline.is_some_and(|at| Instant::now() >= at) {
                break;
            }
        }
        Ok(false)
    }

    /// Ends [`run`](EventLoop::run) after the handler that runs now; what is not dispatched yet is when it is run
    /// again. When nothing runs, the next `run` or `run_once` returns at once.
    pub fn stop(&self) {
        self.stopped.set(true);
    }

    /// What wakes the loop from another thread.
    pub fn waker(&self) -> LoopWaker {
        LoopWaker {
            wakes: Arc::clone(&self.wakes),
            home: self.home,
        }
    }

    /// Has `handler` called after [`LoopWaker::wake`]: once for all wakes since the last time.
    pub fn on_wake(&self, handler: impl FnMut(&EventLoop<'h>) + 'h) {
        self.on_wake.set(Box::new(handler));
    }

    /// Chooses how the loop waits. The default is [`WaitStrategy::Adaptive`]. How its ports would wait by
    /// themselves does not matter.
    pub fn set_wait_strategy(&self, strategy: WaitStrategy) {
        self.spinner.set_strategy(strategy);
    }

    fn begin(&self) -> Running<'_, 'h> {
        self.running.set(true);
        Running(self)
    }

    /// Whether no more handlers are to be run now: the loop was stopped, or a handler has forked and this is the
    /// child.
    pub(super) fn is_over(&self) -> bool {
        self.stopped.get() || !self.home.is_here()
    }

    /// Whether it is time to ask the kernel who else has something, though there is enough to do.
    fn has_long_been_busy(&self) -> bool {
        if self.dispatched.get() < BUDGET {
            return false;
        }
        self.dispatched.set(0);
        // A look at the clock costs a tenth of what asking does.
        let now = Instant::now();
        let asked = self.asked.get();
        let is_long = asked.is_none_or(|asked| now.duration_since(asked) >= MOST_UNASKED);
        if is_long {
            self.asked.set(Some(now));
        }
        is_long
    }

    fn is_waiting_for_something(&self) -> bool {
        !self.is_empty() || !self.timers.is_empty() || self.on_wake.is_set()
    }

    /// Waits until something is there, and runs the handlers for it: timers first, then each ready port once.
    fn run_round(&self, deadline: Option<Instant>) -> Result<bool, SystemError> {
        self.round.set(self.round.get() + 1);
        let due = self.patrol.due();
        if due || self.has_long_been_busy() {
            self.collect(EpollTimeout::ZERO)?;
        }
        if due {
            self.weed();
        }
        self.look();
        let mut any = self.run_timers();
        if !any && self.is_all_quiet() {
            self.wait(deadline)?;
            any = self.run_timers();
        }
        let told = self.told.borrow().len();
        for _ in 0..told {
            if self.is_over() {
                break;
            }
            let next = self.told.borrow_mut().pop_front();
            if let Some(id) = next {
                any |= self.tell(id);
            }
        }
        let ready = self.ready.borrow().len();
        for _ in 0..ready {
            if self.is_over() {
                break;
            }
            let next = self.ready.borrow_mut().pop_front();
            if let Some(entry) = next {
                any |= self.take_turn(&entry);
            }
            // However many ports have their turns, timers come between them.
            any |= self.run_timers();
        }
        Ok(any)
    }
}

/// A run under way. Its end, also by a panic, leaves the loop's descriptor as an outer loop needs it.
struct Running<'l, 'h>(&'l EventLoop<'h>);

impl Drop for Running<'_, '_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        self.0.stir();
    }
}

/// Wakes an [`EventLoop`], from any thread.
#[derive(Clone, Debug)]
pub struct LoopWaker {
    wakes: Arc<EventFd>,
    home: Home,
}

impl LoopWaker {
    /// Has the loop call its [wake handler](EventLoop::on_wake). In any case a [`run_once`](EventLoop::run_once)
    /// that waits returns. When the loop is gone, nothing happens.
    pub fn wake(&self) {
        // A forked child shares the counter, and its parent's loop is none of its business.
        if self.home.is_here() {
            // It fails when the counter is full: then the loop has been woken often enough.
            let _ = self.wakes.write(1);
        }
    }
}

/// A deadline that the clock cannot reach.
fn far_off() -> Instant {
    Instant::now() + Duration::from_secs(100 * 365 * 24 * 3600)
}
