//! The doorbell: one end of a Unix socket pair that wakes a sleeper and hangs up at death.
//!
//! A byte 0x01 rings. Nobody needs to read it: waits are edge-triggered, so each new byte wakes anew;
//! it is read only so that the socket does not fill. When the peer's process dies, the kernel closes
//! its end, which is an edge as well.
//!
//! A byte with the highest bit set carries descriptors. It stays in the kernel's queue until its message
//! is received, so that it moves with the port, and whoever reads rings must stop in front of it.
//!
//! Unsafe relies on: the socket is given up once.
#![allow(unsafe_code)]

mod drain;

use crate::barrier::Signal;
use crate::descriptors::{self, Peeked};
use crate::error::SystemError;
use crate::fork::Home;
use crate::socket::{self, wait_for};
use core::cell::{Cell, OnceCell};
use core::mem::ManuallyDrop;
use drain::{DESCRIPTORS, Front, MOST_UNREAD, RING, drain_by};
use nix::errno::Errno;
use nix::poll::{self, PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, send, shutdown, socketpair,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

const SLEEPS_A_DRAIN: u32 = 16;
/// As many unread bytes behind a descriptor byte, which cannot be read before its message is received, are
/// still followed by fewer than [`MOST_UNREAD`] rings: at most two a sleep until the next drain, of which the one that
/// has just drained is the first.
const CLOGGED: usize = MOST_UNREAD - 2 * (SLEEPS_A_DRAIN as usize + 1);

/// What the socket says of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Quiet,
    HungUp,
    Corrupt,
}

/// Whether a ring went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    Yes,
    /// The kernel had no memory for it.
    Again,
    /// The peer has left so many bytes unread that no more fit.
    Full,
    HungUp,
}

pub(crate) struct Doorbell {
    signal: Signal,
    /// Closed by `drop`, after hanging up, or given up by `into_socket`.
    socket: ManuallyDrop<OwnedFd>,
    /// Watches the socket, edge-triggered. Made when first needed.
    epoll: OnceCell<Epoll>,
    /// Sleeps until the next drain.
    drain_in: Cell<u32>,
    clogged: Cell<bool>,
    /// Whether rings were read since somebody asked.
    has_read: Cell<bool>,
    /// Whether [`raise`](Doorbell::raise) is in force.
    raised: Cell<bool>,
    home: Home,
}

/// Sleeps as long as nothing is told in `epoll` and the time is not over, and says how long epoll_wait is to wait: that
/// counts in milliseconds, `ppoll` in nanoseconds.
pub(crate) fn sleep_finely(
    epoll: &Epoll,
    timeout: Option<Duration>,
) -> Result<EpollTimeout, SystemError> {
    let Some(timeout) = timeout else {
        return Ok(EpollTimeout::NONE);
    };
    if !timeout.is_zero() {
        wait_for(epoll.0.as_fd(), libc::POLLIN, Some(timeout))?;
    }
    Ok(EpollTimeout::ZERO)
}

impl Doorbell {
    /// Two connected sockets.
    pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), SystemError> {
        let pair = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|errno| SystemError::new("socketpair", errno))?;
        socket::keep_in_line(&pair.0);
        socket::keep_in_line(&pair.1);
        Ok(pair)
    }

    pub(crate) fn new(signal: Signal, socket: OwnedFd, home: Home) -> Doorbell {
        Doorbell {
            signal,
            socket: ManuallyDrop::new(socket),
            epoll: OnceCell::new(),
            // A former holder may have left bytes.
            drain_in: Cell::new(0),
            clogged: Cell::new(false),
            has_read: Cell::new(false),
            raised: Cell::new(false),
            home,
        }
    }

    /// Whether this process is the one the port belongs to.
    #[inline(always)]
    pub(crate) fn is_home(&self) -> bool {
        self.home.is_here()
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn home(&self) -> Home {
        self.home
    }

    #[inline(always)]
    pub(crate) fn signal(&self) -> &Signal {
        &self.signal
    }

    fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Wakes whoever sleeps at the other end.
    pub(crate) fn ring(&self) -> Rung {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let mut widened = false;
        loop {
            return match send(self.raw(), &[RING], flags) {
                Ok(_) => Rung::Yes,
                Err(Errno::EINTR) => continue,
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Rung::HungUp,
                Err(Errno::EAGAIN) if widened => Rung::Full,
                Err(Errno::EAGAIN) => {
                    // A former holder may have made the socket narrow.
                    self.widen();
                    widened = true;
                    continue;
                }
                Err(_) => Rung::Again,
            };
        }
    }

    /// Makes room in the socket for four times as many rings and descriptors as are ever unread (128); the kernel
    /// counts some hundred bytes for each.
    fn widen(&self) {
        socket::set_option(&*self.socket, libc::SO_SNDBUF, &(208 << 10));
    }

    /// Reads all rings that wait, up to a descriptor byte, and says whether the peer is still there.
    pub(crate) fn drain(&self) -> Line {
        self.drain_in.set(SLEEPS_A_DRAIN);
        let front = self.read_rings();
        let clogged =
            front == Front::Descriptors && descriptors::unread(self.socket.as_fd()) > CLOGGED;
        self.clogged.set(clogged);
        match front {
            Front::Nothing => Line::Quiet,
            // A hang-up would show behind them only.
            Front::Descriptors => self.look(),
            Front::HungUp => Line::HungUp,
            Front::Corrupt => Line::Corrupt,
        }
    }

    /// Reads the rings in front of a descriptor byte. Only [`drain`](Doorbell::drain), which counts those behind it, puts
    /// the next drain off.
    fn read_rings(&self) -> Front {
        self.has_read.set(true);
        let front = self.read_rings_once();
        if front != Front::Corrupt {
            return front;
        }
        // What a former holder has asked for looks like descriptors.
        socket::ask_for_nothing(&self.socket);
        self.read_rings_once()
    }

    fn read_rings_once(&self) -> Front {
        drain_by(
            |bytes| descriptors::peek_bytes(self.socket.as_fd(), bytes),
            |bytes| descriptors::read_past(self.socket.as_fd(), bytes).map(|(len, _)| len),
        )
    }

    /// Whether so many rings lie unread behind a descriptor byte that no more may be asked for: a peer of
    /// ours would fill the socket, and then could not wake anybody.
    pub(crate) fn is_clogged(&self) -> bool {
        self.clogged.get()
    }

    /// Whether rings may have been read since this was asked last. Whoever watches the socket by an epoll of his own
    /// does not hear of those, and must look himself.
    #[inline(always)]
    pub(crate) fn has_read(&self) -> bool {
        self.has_read.replace(false)
    }

    /// Sends descriptors, as number `sequence` in this direction.
    pub(crate) fn send_descriptors(
        &self,
        sequence: u32,
        descriptors: &[RawFd],
    ) -> Result<(), Errno> {
        let byte = [descriptor_byte(sequence)];
        let send = || descriptors::send(self.socket.as_fd(), &byte, descriptors).map(|_| ());
        match send() {
            Err(Errno::EAGAIN) => {
                self.widen();
                send()
            }
            result => result,
        }
    }

    /// Copies of the descriptors of number `sequence`, which must be at the front once rings are read; they
    /// stay there. `None` if they are not.
    pub(crate) fn peek_descriptors(&self, sequence: u32) -> Result<Option<Peeked>, Errno> {
        // Mostly there are no rings, so they are read only when one is seen.
        for rings_are_read in [false, true] {
            let mut byte = [0];
            let peeked = match descriptors::peek(self.socket.as_fd(), &mut byte) {
                Ok(peeked) => peeked,
                Err(Errno::EAGAIN | Errno::ECONNRESET) => break,
                Err(errno) => return Err(errno),
            };
            if peeked.len == 1 && byte[0] == descriptor_byte(sequence) {
                return Ok(Some(peeked));
            }
            if rings_are_read || self.read_rings() != Front::Descriptors {
                break;
            }
        }
        Ok(None)
    }

    /// Takes the descriptors of number `sequence` off the queue: they were peeked at. Says whether that is
    /// what was there.
    pub(crate) fn take_descriptors(&self, sequence: u32) -> bool {
        let mut byte = [0];
        descriptors::read_past(self.socket.as_fd(), &mut byte) == Ok((1, true))
            && byte[0] == descriptor_byte(sequence)
    }

    /// Undoes what a former holder may have set on the socket after it was handed on.
    pub(crate) fn ask_for_nothing(&self) {
        socket::ask_for_nothing(&self.socket);
    }

    /// Waits until the socket takes more, or the peer is gone; `false` if the time was over before.
    pub(crate) fn wait_writable(&self, timeout: Option<Duration>) -> Result<bool, SystemError> {
        wait_for(self.socket.as_fd(), libc::POLLOUT, timeout)
    }

    /// The descriptor itself, to be sent.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Says whether the peer is still there, and reads nothing.
    pub(crate) fn look(&self) -> Line {
        // Hang-ups and errors are told without being asked for.
        let mut poll = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        match poll::poll(&mut poll, PollTimeout::ZERO) {
            Ok(_)
                if poll[0]
                    .revents()
                    .is_some_and(|events| events.intersects(gone)) =>
            {
                Line::HungUp
            }
            _ => Line::Quiet,
        }
    }

    /// Drains if enough sleeps went by that bytes can have piled up.
    pub(crate) fn drain_if_due(&self) -> Line {
        match self.drain_in.get().checked_sub(1) {
            Some(left) if !self.clogged.get() => {
                self.drain_in.set(left);
                Line::Quiet
            }
            _ => self.drain(),
        }
    }

    fn watch(&self) -> Result<&Epoll, SystemError> {
        if let Some(epoll) = self.epoll.get() {
            return Ok(epoll);
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| SystemError::new("epoll_create1", errno))?;
        epoll
            .add(&*self.socket, EpollEvent::new(RINGS, 0))
            .map_err(|errno| SystemError::new("epoll_ctl", errno))?;
        Ok(self.epoll.get_or_init(|| epoll))
    }

    /// Makes the descriptor of [`poll_fd`](Doorbell::poll_fd) readable as if the bell had rung: a ring for one of
    /// two that wait there was taken by the other.
    #[cold]
    pub(crate) fn raise(&self) {
        let (Some(epoll), false) = (self.epoll.get(), self.raised.replace(true)) else {
            return;
        };
        // Until the next sleep it is an event that the socket takes more. It does as long as the peer has left unread
        // less than a quarter of what there is room for.
        self.widen();
        let events = RINGS | EpollFlags::EPOLLOUT;
        let _ = epoll.modify(&*self.socket, &mut EpollEvent::new(events, 0));
    }

    /// Watches the socket by an epoll of somebody else's, edge-triggered, for rings and hang-ups or hang-ups only.
    pub(crate) fn add_to(&self, epoll: &Epoll, rings: bool, id: u64) -> Result<(), Errno> {
        epoll.add(&*self.socket, EpollEvent::new(watched(rings), id))
    }

    /// Changes what is watched for by an epoll that it was added to. A forked child leaves its parent's alone.
    pub(crate) fn change_in(&self, epoll: &Epoll, rings: bool, id: u64) {
        if self.is_home() {
            // It was added, so that this needs nothing that could be lacking.
            let _ = epoll.modify(&*self.socket, &mut EpollEvent::new(watched(rings), id));
        }
    }

    /// Ends the watching by an epoll that it was added to. A forked child leaves its parent's alone.
    pub(crate) fn remove_from(&self, epoll: &Epoll) {
        if self.is_home() {
            let _ = epoll.delete(&*self.socket);
        }
    }

    /// The descriptor that becomes readable when the bell rings or the peer hangs up.
    pub(crate) fn poll_fd(&self) -> Result<BorrowedFd<'_>, SystemError> {
        Ok(self.watch()?.0.as_fd())
    }

    /// Sleeps until the bell rings, the peer hangs up, or the time is over (`None`: never). A signal
    /// handler that ran ends it early.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> Result<Line, SystemError> {
        let epoll = self.watch()?;
        if self.raised.replace(false) {
            let _ = epoll.modify(&*self.socket, &mut EpollEvent::new(RINGS, 0));
        }
        let mut events = [EpollEvent::empty()];
        match epoll.wait(&mut events, sleep_finely(epoll, timeout)?) {
            Ok(0) | Err(Errno::EINTR) => Ok(Line::Quiet),
            Ok(_) => {
                if is_hang_up(events[0].events()) {
                    Ok(self.drain())
                } else {
                    Ok(Line::Quiet)
                }
            }
            Err(errno) => Err(SystemError::new("epoll_wait", errno)),
        }
    }

    /// Says goodbye: every waiting peer wakes, and finds CLOSED in the state word. What was sent here and
    /// not received is closed. In a forked child it does nothing: the channel is not the child's to end.
    pub(crate) fn hang_up(&self) {
        if !self.is_home() {
            return;
        }
        self.signal.close();
        // It can only fail for a peer that is gone already.
        let _ = shutdown(self.raw(), Shutdown::Both);
        self.discard();
    }

    /// Closes what was sent here and will not be received any more. Only for a socket that nobody can send
    /// to now.
    pub(crate) fn discard(&self) {
        descriptors::discard(self.socket.as_fd());
    }

    /// Gives the socket up without hanging up.
    pub(crate) fn into_socket(self) -> OwnedFd {
        let mut this = ManuallyDrop::new(self);
        drop(this.epoll.take());
        // SAFETY: taken once, from a doorbell that is never dropped nor used again.
        unsafe { ManuallyDrop::take(&mut this.socket) }
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        self.hang_up();
        // SAFETY: nobody uses the socket after this.
        unsafe { ManuallyDrop::drop(&mut self.socket) }
    }
}

/// What epoll is asked for: edges of rings and of hang-ups.
const RINGS: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLRDHUP)
    .union(EpollFlags::EPOLLET);

fn watched(rings: bool) -> EpollFlags {
    if rings {
        RINGS
    } else {
        RINGS.difference(EpollFlags::EPOLLIN)
    }
}

/// Whether what epoll tells is that the peer has hung up.
pub(crate) fn is_hang_up(events: EpollFlags) -> bool {
    events.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
}

/// Numbers repeat after 128; at most 64 of them are under way.
fn descriptor_byte(sequence: u32) -> u8 {
    DESCRIPTORS | (sequence as u8 & !DESCRIPTORS)
}
