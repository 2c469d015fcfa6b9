//! Waiting for several ports at once, without a loop.
//!
//! Unsafe relies on: `ppoll` gets as many entries as it is told, all alive.
#![allow(unsafe_code)]

use super::{Spun, deadline, spin};
use crate::barrier::{Owed, Pace};
use crate::error::{RecvError, SystemError};
use crate::port::MessagePort;
use crate::ring::layout::state::WANTS_MESSAGE;
use crate::stats::add;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};
use nix::errno::Errno;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Waits until one of a handful of ports has a message, or its channel has ended, and says which: its index in
/// `ports`. `None` if the time was over before; without a timeout it waits as long as it takes. If there is no port,
/// it answers `None` at once.
///
/// When several are ready they take turns, so that none is starved by those before it. A port whose channel has
/// ended is ready from then on: leave it out. It spins, before it sleeps, as long as the most patient of the ports
/// would ([`set_wait_strategy`](MessagePort::set_wait_strategy)). Each call looks at every port; for more than a
/// few dozen there is [`EventLoop`](crate::EventLoop).
///
/// # Errors
///
/// [`RecvError::System`] when the process is out of descriptors: each port needs one more to be waited for.
/// [`RecvError::Forked`] if one of the ports belongs to a process that this one was forked from. It is never
/// [`Closed`](RecvError::Closed).
///
/// # Examples
///
/// ```
/// use ringport::{MessageChannel, wait_any};
///
/// let orders = MessageChannel::new()?;
/// let prices = MessageChannel::new()?;
/// prices.port1.post_bytes(b"17")?;
///
/// let ports = [&orders.port2, &prices.port2];
/// let ready = wait_any(&ports, None)?.expect("there is no time limit");
/// assert_eq!(ports[ready].recv()?.bytes(), b"17");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn wait_any(
    ports: &[&MessagePort],
    timeout: Option<Duration>,
) -> Result<Option<usize>, RecvError> {
    if ports.is_empty() {
        return Ok(None);
    }
    if !ports.iter().all(|port| port.is_home()) {
        return Err(RecvError::Forked);
    }
    for port in ports {
        port.disarm();
        // A loop around calls that need not wait must notice a death too.
        port.patrol();
    }
    let watch = Watch::new(ports);
    if let Some(found) = watch.look() {
        return Ok(Some(found));
    }
    let deadline = timeout.and_then(deadline);
    for port in ports {
        port.zero_ahead(WANTS_MESSAGE);
    }
    let often = |times| (0..times).find_map(|_| watch.look());
    let listen = || ports.iter().for_each(|port| port.listen_in());
    let found = match watch.budget() {
        Some(Duration::ZERO) => watch.sleep_until(deadline)?,
        budget => match spin(budget, deadline, often, listen) {
            Spun::Found(found) => Some(found),
            Spun::TimeOver => watch.look(),
            Spun::Tired(start) => {
                let found = watch.sleep_until(deadline);
                for port in ports {
                    port.spinner.learn(start.elapsed());
                }
                found?
            }
        },
    };
    Ok(found)
}

struct Watch<'p> {
    ports: &'p [&'p MessagePort],
    /// With which port to begin to look.
    first: usize,
}

impl<'p> Watch<'p> {
    fn new(ports: &'p [&'p MessagePort]) -> Watch<'p> {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        // Relaxed, because any number will do as long as they differ.
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        // Multiples of the golden ratio are spread evenly, and stay so if only every second or third one is seen.
        let part = call.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let first = (part as usize * ports.len()) >> 32;
        Watch { ports, first }
    }

    /// The first port that is ready.
    #[inline(always)]
    fn look(&self) -> Option<usize> {
        let ready = |index: &usize| self.ports[*index].is_ready(WANTS_MESSAGE);
        (self.first..self.ports.len())
            .chain(0..self.first)
            .find(ready)
    }

    /// How long the most patient would spin; `None` for ever.
    fn budget(&self) -> Option<Duration> {
        let mut longest = Duration::ZERO;
        for port in self.ports {
            longest = longest.max(port.spinner.budget()?);
        }
        Some(longest)
    }

    /// Check, arm, check again, sleep: all of them with one barrier.
    fn sleep_until(&self, deadline: Option<Instant>) -> Result<Option<usize>, SystemError> {
        let mut polls = Vec::with_capacity(self.ports.len());
        for port in self.ports {
            polls.push(libc::pollfd {
                fd: port.doorbell.poll_fd()?.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            });
        }
        loop {
            let pace = self.arm();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let found = self.look();
            if found.is_some() || left == Some(Duration::ZERO) {
                self.take_back();
                return Ok(found);
            }
            for port in self.ports {
                add(&port.counts.sleeps, 1);
            }
            let woken = poll_all(&mut polls, pace.within(left));
            self.take_back();
            woken?;
            for (port, poll) in self.ports.iter().zip(&polls) {
                if poll.revents != 0 {
                    // Empties the descriptor's ready list, so that it becomes readable anew.
                    port.note(port.doorbell.sleep(Some(Duration::ZERO))?);
                }
            }
        }
    }

    fn arm(&self) -> Pace {
        let mut owed = Owed::Fence;
        let mut clogged = false;
        for port in self.ports {
            port.note(port.doorbell.drain_if_due());
            if port.doorbell.is_clogged() {
                clogged = true;
            } else {
                owed = owed.max(port.announce_for(WANTS_MESSAGE));
            }
        }
        match owed.pay() {
            Pace::Unbounded if !clogged => Pace::Unbounded,
            _ => Pace::Slice,
        }
    }

    fn take_back(&self) {
        for port in self.ports {
            port.take_back(WANTS_MESSAGE);
        }
    }
}

/// Waits until one of the descriptors is ready, the time is over, or a signal handler ran.
fn poll_all(polls: &mut [libc::pollfd], timeout: Option<Duration>) -> Result<(), SystemError> {
    let timeout = timeout.map(crate::socket::timespec);
    let limit = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let count = polls.len() as libc::nfds_t;
    // SAFETY: so many valid entries, a valid timespec or none, no signal mask.
    let ready = unsafe { libc::ppoll(polls.as_mut_ptr(), count, limit, ptr::null()) };
    match Errno::result(ready) {
        Ok(_) => Ok(()),
        Err(Errno::EINTR) => {
            // Nothing is known: look at all of them.
            polls
                .iter_mut()
                .for_each(|poll| poll.revents = libc::POLLIN);
            Ok(())
        }
        Err(errno) => Err(SystemError::new("ppoll", errno)),
    }
}
