//! Running a loop up to a fact, and what its handlers write down meanwhile.

#![allow(dead_code)] // each test binary uses a part of it

use std::cell::RefCell;
use std::fmt::Debug;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use ringport::EventLoop;

use crate::common::PATIENCE;

/// What happened, in the order in which it did. To be made before the loop whose handlers write to it.
pub struct Log<T>(RefCell<Vec<T>>);

impl<T> Log<T> {
    pub fn new() -> Log<T> {
        Log(RefCell::new(Vec::new()))
    }

    pub fn add(&self, entry: T) {
        self.0.borrow_mut().push(entry);
    }

    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives what was written since this was called last.
    pub fn take(&self) -> Vec<T> {
        self.0.take()
    }
}

/// Runs the loop until `fact` holds. It is looked at only after something has happened, so that a wake-up that
/// was lost is not made up for.
#[track_caller]
pub fn run_until(events: &mut EventLoop<'_>, what: &str, mut fact: impl FnMut() -> bool) {
    let start = Instant::now();
    while !fact() {
        let left = PATIENCE.saturating_sub(start.elapsed());
        let any = events.run_once(Some(left)).unwrap();
        assert!(any || fact(), "nothing happens any more: {what}");
        assert!(start.elapsed() < PATIENCE, "still not so: {what}");
    }
}

/// Runs the loop as long as anything is there to be done at once, and says how many rounds did something.
#[track_caller]
pub fn settle(events: &mut EventLoop<'_>) -> usize {
    let start = Instant::now();
    let mut rounds = 0;
    while events.run_once(Some(Duration::ZERO)).unwrap() {
        rounds += 1;
        assert!(start.elapsed() < PATIENCE, "it never comes to rest");
    }
    rounds
}

/// Runs the loop until nothing is left in it.
#[track_caller]
pub fn run_to_the_end(events: &mut EventLoop<'_>) {
    let start = Instant::now();
    while !events.is_empty() {
        let left = PATIENCE.saturating_sub(start.elapsed());
        events.run_once(Some(left)).unwrap();
        assert!(
            start.elapsed() < PATIENCE,
            "still in the loop: {}",
            events.len()
        );
    }
}

/// Has the loop wait once, so that its peers must ring from now on, and nothing happen meanwhile.
#[track_caller]
pub fn lull(events: &mut EventLoop<'_>) {
    settle(events);
    assert!(!events.run_once(Some(Duration::from_millis(1))).unwrap());
}

/// Whether a descriptor is readable, or becomes so within `timeout`.
pub fn readable(fd: &impl AsFd, timeout: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // SAFETY: one valid pollfd, which lives through the call.
        let ready = unsafe { libc::poll(&mut poll, 1, left.as_millis() as libc::c_int) };
        if ready >= 0 {
            return ready == 1;
        }
        let error = std::io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EINTR), "{error}");
    }
}

/// How often each entry comes in a row.
pub fn runs<T: PartialEq + Debug>(entries: impl IntoIterator<Item = T>) -> Vec<(T, usize)> {
    let mut runs: Vec<(T, usize)> = Vec::new();
    for entry in entries {
        match runs.last_mut() {
            Some((last, count)) if *last == entry => *count += 1,
            _ => runs.push((entry, 1)),
        }
    }
    runs
}
