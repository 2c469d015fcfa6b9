//! What an async port needs of the reactor: a watch over a descriptor that a fork does not end, an alarm, and one
//! waker for two tasks, as the reactor keeps one only.
//!
//! Unsafe relies on: who makes a watch keeps its descriptor open.
#![allow(unsafe_code)]

use crate::error::SystemError;
use crate::fork::Home;
use crate::ring::layout::state;
use core::cell::Cell;
use core::mem::ManuallyDrop;
use core::task::Waker;
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The reactor's watch over a descriptor.
pub(super) struct Watch<T: AsRawFd> {
    pub(super) fd: ManuallyDrop<AsyncFd<T>>,
    home: Home,
}

impl<T: AsRawFd> Watch<T> {
    /// # Safety
    ///
    /// The descriptor stays open, and `of` gives the same one, as long as this lives.
    pub(super) unsafe fn new(of: T, home: Home) -> Result<Watch<T>, SystemError> {
        // SAFETY: the caller's promise.
        match unsafe { AsyncFd::register_with_interest(of, Interest::READABLE) } {
            Ok(fd) => Ok(Watch {
                fd: ManuallyDrop::new(fd),
                home,
            }),
            Err(error) => Err(SystemError::new("epoll_ctl", error.into_parts().1)),
        }
    }
}

impl<T: AsRawFd> Drop for Watch<T> {
    fn drop(&mut self) {
        // A forked child shares its parent's epoll, and would end the parent's watch.
        if self.home.is_here() {
            // SAFETY: nobody uses it after this.
            unsafe { ManuallyDrop::drop(&mut self.fd) }
        }
    }
}

/// What ends a nap.
pub(super) struct Alarm {
    pub(super) timer: TimerFd,
    pub(super) is_set: Cell<bool>,
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_fd().as_raw_fd()
    }
}

/// What a task waits for.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Receiving,
    Posting,
}

impl Side {
    pub(super) fn wants(self) -> u32 {
        match self {
            Side::Receiving => state::WANTS_MESSAGE,
            Side::Posting => state::WANTS_ROOM,
        }
    }

    pub(super) fn other(self) -> Side {
        match self {
            Side::Receiving => Side::Posting,
            Side::Posting => Side::Receiving,
        }
    }
}

/// The task that waits on each side, if one does.
#[derive(Default)]
pub(super) struct Tasks([Mutex<Option<Waker>>; 2]);

impl Tasks {
    pub(super) fn set(&self, side: Side, waker: &Waker) {
        match &mut *self.lock(side) {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    pub(super) fn wake_one(&self, side: Side) {
        // The lock is let go before: waking may run code of any kind.
        let task = self.lock(side).take();
        if let Some(task) = task {
            task.wake();
        }
    }

    fn lock(&self, side: Side) -> MutexGuard<'_, Option<Waker>> {
        let task = &self.0[side as usize];
        task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Tasks {
    fn wake(self: Arc<Tasks>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Tasks>) {
        self.wake_one(Side::Receiving);
        self.wake_one(Side::Posting);
    }
}

pub(super) fn new_alarm(home: Home) -> Option<Watch<Alarm>> {
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).ok()?;
    let is_set = Cell::new(false);
    // SAFETY: the alarm owns its timer's descriptor, and the watch the alarm.
    unsafe { Watch::new(Alarm { timer, is_set }, home) }.ok()
}
