//! What a loop of somebody else's sees of a port, and what a wait costs the thread that waits.

#![allow(dead_code)] // each test binary uses a part of it

use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use ringport::MessagePort;

/// Whether the port's descriptor is readable, or becomes so within `timeout`: as a level-triggered loop asks.
pub fn readable_within(port: &MessagePort, timeout: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: port.as_fd().unwrap().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd, which lives through the call.
    let ready = unsafe { libc::poll(&mut poll, 1, timeout.as_millis() as libc::c_int) };
    assert!(ready >= 0, "{}", std::io::Error::last_os_error());
    ready == 1
}

/// Whether the port's descriptor is readable now.
pub fn readable(port: &MessagePort) -> bool {
    readable_within(port, Duration::ZERO)
}

/// An edge-triggered loop: it hears of each port once for each time that it becomes readable.
pub struct Edges(Epoll);

impl Edges {
    pub fn of<'p>(ports: impl IntoIterator<Item = &'p MessagePort>) -> Edges {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        for (index, port) in ports.into_iter().enumerate() {
            let event = EpollEvent::new(flags, index as u64);
            epoll.add(port.as_fd().unwrap(), event).unwrap();
        }
        Edges(epoll)
    }

    /// The ports, by their numbers, that have become readable since this was asked, or do within `timeout`.
    pub fn heard(&self, timeout: Duration) -> Vec<usize> {
        let mut events = [EpollEvent::empty(); 8];
        let timeout = EpollTimeout::try_from(timeout).unwrap();
        let count = self.0.wait(&mut events, timeout).unwrap();
        let heard = events[..count].iter().map(|event| event.data() as usize);
        heard.collect()
    }
}

/// What the calling thread has cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Times it gave the CPU up to wait.
    pub sleeps: i64,
    pub cpu: Duration,
}

impl Cost {
    /// Until now.
    pub fn now() -> Cost {
        let mut usage = MaybeUninit::<libc::rusage>::uninit();
        // SAFETY: the pointer is to room for one rusage.
        let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
        assert_eq!(result, 0);
        // SAFETY: the call has written it.
        let usage = unsafe { usage.assume_init() };
        let time = |time: libc::timeval| {
            Duration::new(time.tv_sec as u64, 0) + Duration::from_micros(time.tv_usec as u64)
        };
        Cost {
            sleeps: usage.ru_nvcsw,
            cpu: time(usage.ru_utime) + time(usage.ru_stime),
        }
    }

    /// What `body` costs the calling thread.
    pub fn of<T>(body: impl FnOnce() -> T) -> (T, Cost) {
        let before = Cost::now();
        let result = body();
        let after = Cost::now();
        let cost = Cost {
            sleeps: after.sleeps - before.sleeps,
            cpu: after.cpu - before.cpu,
        };
        (result, cost)
    }
}

/// How long a wait that must cost nothing lasts.
pub const A_WHILE: Duration = Duration::from_millis(300);

/// A wait of [`A_WHILE`] that cost next to nothing: no wake-ups but the last, and no spinning beyond that of a
/// wait's beginning.
#[track_caller]
pub fn assert_idle(cost: Cost) {
    assert!(cost.sleeps <= 5, "it was woken all the time: {cost:?}");
    assert!(cost.cpu < A_WHILE / 10, "it kept busy: {cost:?}");
}
