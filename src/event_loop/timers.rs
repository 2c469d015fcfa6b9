//! Timers, in the order in which they are due.

use super::handlers::Handler;
use super::{EventLoop, new_id};
use core::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A timer of an [`EventLoop`]. No two are ever the same in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId(u64);

/// The timer's number, for who cannot keep the id itself, such as a program in another language.
impl From<TimerId> for u64 {
    fn from(timer: TimerId) -> u64 {
        timer.0
    }
}

/// The timer of that number, if there is one.
impl From<u64> for TimerId {
    fn from(number: u64) -> TimerId {
        TimerId(number)
    }
}

type OnTime<'h> = dyn FnMut(&EventLoop<'h>) + 'h;

struct Timer<'h> {
    due: Cell<Instant>,
    /// `None` if it fires once.
    period: Option<Duration>,
    handler: Handler<OnTime<'h>>,
}

#[derive(Default)]
pub(super) struct Timers<'h> {
    by_id: RefCell<HashMap<u64, Rc<Timer<'h>>>>,
    by_due: RefCell<BTreeSet<(Instant, u64)>>,
}

impl<'h> Timers<'h> {
    pub(super) fn is_empty(&self) -> bool {
        self.by_due.borrow().is_empty()
    }

    /// When the first one is due.
    pub(super) fn first(&self) -> Option<Instant> {
        self.by_due.borrow().first().map(|(due, _)| *due)
    }

    fn set(&self, due: Instant, period: Option<Duration>, on_time: Box<OnTime<'h>>) -> TimerId {
        let id = new_id();
        let handler = Handler::new();
        handler.set(on_time);
        let timer = Timer {
            due: Cell::new(due),
            period,
            handler,
        };
        self.by_id.borrow_mut().insert(id, Rc::new(timer));
        self.by_due.borrow_mut().insert((due, id));
        TimerId(id)
    }

    fn clear(&self, id: u64) -> bool {
        let timer = self.by_id.borrow_mut().remove(&id);
        // What its handler owns is dropped after the borrow has ended.
        timer.is_some_and(|timer| self.by_due.borrow_mut().remove(&(timer.due.get(), id)))
    }

    pub(super) fn clear_all(&self) {
        self.by_due.borrow_mut().clear();
        // What the handlers own is dropped after the borrow has ended.
        let timers = self.by_id.take();
        drop(timers);
    }

    /// The first one that is due, if it was set before the one numbered `before`: one that fires once is taken out,
    /// another set for its next time.
    fn take_due(&self, now: Instant, before: u64) -> Option<Rc<Timer<'h>>> {
        let mut by_due = self.by_due.borrow_mut();
        let mut due = by_due.range(..=(now, u64::MAX));
        let (at, id) = *due.find(|(_, id)| *id < before)?;
        by_due.remove(&(at, id));
        let mut by_id = self.by_id.borrow_mut();
        let Some(period) = by_id.get(&id)?.period else {
            return by_id.remove(&id);
        };
        // Times that were missed are left out.
        let next = at.checked_add(period).filter(|next| *next > now);
        let next = next.or_else(|| now.checked_add(period)).unwrap_or(now);
        let timer = Rc::clone(by_id.get(&id)?);
        timer.due.set(next);
        by_due.insert((next, id));
        Some(timer)
    }
}

/// Timers.
impl<'h> EventLoop<'h> {
    /// Has `handler` called once, after `delay` or a little later.
    pub fn set_timeout(
        &self,
        delay: Duration,
        handler: impl FnOnce(&EventLoop<'h>) + 'h,
    ) -> TimerId {
        let mut handler = Some(handler);
        self.set_timer(delay, None, move |events| {
            if let Some(handler) = handler.take() {
                handler(events);
            }
        })
    }

    /// Has `handler` called every `period`, for the first time after one. When the loop is busy for longer than
    /// that, calls are left out, not made up for. A period is at least a microsecond.
    pub fn set_interval(
        &self,
        period: Duration,
        handler: impl FnMut(&EventLoop<'h>) + 'h,
    ) -> TimerId {
        let period = period.max(Duration::from_micros(1));
        self.set_timer(period, Some(period), handler)
    }

    /// Calls off a timer, and says whether it was still to come.
    pub fn clear_timer(&self, timer: TimerId) -> bool {
        let was_set = self.timers.clear(timer.0);
        self.stir();
        was_set
    }

    fn set_timer(
        &self,
        delay: Duration,
        period: Option<Duration>,
        handler: impl FnMut(&EventLoop<'h>) + 'h,
    ) -> TimerId {
        /// A delay that the clock cannot reach becomes this.
        const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        let now = Instant::now();
        let due = now.checked_add(delay).unwrap_or_else(|| now + FOREVER);
        let timer = self.timers.set(due, period, Box::new(handler));
        self.stir();
        timer
    }

    /// Runs the handlers of timers that are due, and were set before this; says whether there were any.
    pub(super) fn run_timers(&self) -> bool {
        if self.timers.is_empty() {
            return false;
        }
        let (now, before) = (Instant::now(), new_id());
        let mut any = false;
        while !self.is_over() {
            let Some(timer) = self.timers.take_due(now, before) else {
                break;
            };
            any = true;
            timer.handler.run(|handler| handler(self));
        }
        any
    }
}
