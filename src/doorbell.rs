//! The doorbell: one end of a Unix socket pair that wakes a sleeper and hangs up at death.
//!
//! A byte 0x01 rings. Nobody needs to read it: waits are edge-triggered, so each new byte wakes anew;
//! it is read only so that the socket does not fill. When the peer's process dies, the kernel closes
//! its end, which is an edge as well.
//!
//! A byte with the highest bit set carries descriptors. It stays in the kernel's queue until its message
//! is received, so that it moves with the port, and whoever reads rings must stop in front of it.
//!
//! Unsafe relies on: system calls get pointers to live values of the length they are told.
#![allow(unsafe_code)]

use crate::barrier::Signal;
use crate::descriptors::{self, Peeked};
use crate::error::{ImportFault, SystemError};
use crate::fork::Home;
use core::cell::{Cell, OnceCell};
use core::mem::ManuallyDrop;
use core::ptr;
use nix::errno::Errno;
use nix::poll::{self, PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, send, shutdown, socketpair,
};
use nix::sys::socket::{getpeername, getsockopt, sockopt};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

const RING: u8 = 0x01;
/// A descriptor byte: the rest of it is a sequence number.
const DESCRIPTORS: u8 = 0x80;
/// More unread bytes than this cannot come from an honest peer: it rings once for every sleep, and
/// the bytes are drained after [`SLEEPS_A_DRAIN`] sleeps.
const MOST_UNREAD: usize = 64;
const SLEEPS_A_DRAIN: u32 = 16;
/// As many unread bytes behind a descriptor byte, which cannot be read before its message is received, are
/// still followed by fewer than [`MOST_UNREAD`] rings: at most two a sleep until the next drain.
const CLOGGED: usize = MOST_UNREAD - 2 * SLEEPS_A_DRAIN as usize;

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
    home: Home,
}

impl Doorbell {
    /// Two connected sockets.
    pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), SystemError> {
        socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|errno| SystemError::new("socketpair", errno))
    }

    pub(crate) fn new(signal: Signal, socket: OwnedFd, home: Home) -> Doorbell {
        Doorbell {
            signal,
            socket: ManuallyDrop::new(socket),
            epoll: OnceCell::new(),
            // A former holder may have left bytes.
            drain_in: Cell::new(0),
            clogged: Cell::new(false),
            home,
        }
    }

    /// Whether this process is the one the port belongs to.
    #[inline(always)]
    pub(crate) fn is_home(&self) -> bool {
        self.home.is_here()
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
        loop {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            return match send(self.raw(), &[RING], flags) {
                Ok(_) => Rung::Yes,
                Err(Errno::EINTR) => continue,
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Rung::HungUp,
                Err(Errno::EAGAIN) => Rung::Full,
                Err(_) => Rung::Again,
            };
        }
    }

    /// Reads all rings that wait, up to a descriptor byte, and says whether the peer is still there.
    pub(crate) fn drain(&self) -> Line {
        match self.read_rings() {
            Front::Nothing => Line::Quiet,
            // A hang-up would show behind them only.
            Front::Descriptors => self.look(),
            Front::HungUp => Line::HungUp,
            Front::Corrupt => Line::Corrupt,
        }
    }

    fn read_rings(&self) -> Front {
        self.drain_in.set(SLEEPS_A_DRAIN);
        let front = drain_by(
            |bytes| descriptors::peek_bytes(self.socket.as_fd(), bytes),
            |bytes| descriptors::read_past(self.socket.as_fd(), bytes),
        );
        let clogged =
            front == Front::Descriptors && descriptors::unread(self.socket.as_fd()) > CLOGGED;
        self.clogged.set(clogged);
        front
    }

    /// Whether so many rings lie unread behind a descriptor byte that no more may be asked for: a peer of
    /// ours would fill the socket, and then could not wake anybody.
    pub(crate) fn is_clogged(&self) -> bool {
        self.clogged.get()
    }

    /// Sends descriptors, as number `sequence` in this direction.
    pub(crate) fn send_descriptors(
        &self,
        sequence: u32,
        descriptors: &[RawFd],
    ) -> Result<(), Errno> {
        let byte = [descriptor_byte(sequence)];
        descriptors::send(self.socket.as_fd(), &byte, descriptors).map(|_| ())
    }

    /// Copies of the descriptors of number `sequence`, which must be at the front once rings are drained;
    /// they stay there. `None` if they are not.
    pub(crate) fn peek_descriptors(&self, sequence: u32) -> Result<Option<Peeked>, Errno> {
        if self.read_rings() != Front::Descriptors {
            return Ok(None);
        }
        let mut byte = [0];
        match descriptors::peek(self.socket.as_fd(), &mut byte) {
            Ok(peeked) if peeked.len == 1 && byte[0] == descriptor_byte(sequence) => {
                Ok(Some(peeked))
            }
            Ok(_) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Takes the descriptors of number `sequence` off the queue: they were peeked at. Says whether that is
    /// what was there.
    pub(crate) fn take_descriptors(&self, sequence: u32) -> bool {
        let mut byte = [0];
        descriptors::read_past(self.socket.as_fd(), &mut byte) == Ok(1)
            && byte[0] == descriptor_byte(sequence)
    }

    /// Undoes what a former holder may have set on the socket, also after it was handed on.
    pub(crate) fn reset_options(&self) {
        reset_options(&self.socket);
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
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        epoll
            .add(&*self.socket, EpollEvent::new(events, 0))
            .map_err(|errno| SystemError::new("epoll_ctl", errno))?;
        Ok(self.epoll.get_or_init(|| epoll))
    }

    /// The descriptor that becomes readable when the bell rings or the peer hangs up.
    pub(crate) fn poll_fd(&self) -> Result<BorrowedFd<'_>, SystemError> {
        Ok(self.watch()?.0.as_fd())
    }

    /// Sleeps until the bell rings, the peer hangs up, or the time is over (`None`: never). A signal
    /// handler that ran ends it early.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> Result<Line, SystemError> {
        let epoll = self.watch()?;
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            Some(timeout) => {
                // epoll_wait counts in milliseconds, ppoll in nanoseconds.
                if !timeout.is_zero() {
                    wait_for(epoll.0.as_fd(), libc::POLLIN, Some(timeout))?;
                }
                EpollTimeout::ZERO
            }
        };
        let mut events = [EpollEvent::empty()];
        match epoll.wait(&mut events, timeout) {
            Ok(0) | Err(Errno::EINTR) => Ok(Line::Quiet),
            Ok(_) => {
                let hang_up = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
                if events[0].events().intersects(hang_up) {
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
        /// More messages than fit into a socket's buffer; should it be larger, the rest is closed with it.
        const BOUND: usize = 4096;
        let mut bytes = [0; MOST_UNREAD];
        for _ in 0..BOUND {
            match descriptors::read_past(self.socket.as_fd(), &mut bytes) {
                Ok(0) | Err(Errno::EAGAIN) => return,
                // One of these may stand before the rest.
                Ok(_) | Err(Errno::ECONNRESET) => {}
                Err(_) => return,
            }
        }
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

/// Waits until one of `events` (or a hang-up) is there; `false` if the time was over before (`None`: never).
/// A signal handler that ran ends it early.
pub(crate) fn wait_for(
    fd: BorrowedFd<'_>,
    events: libc::c_short,
    timeout: Option<Duration>,
) -> Result<bool, SystemError> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    });
    let limit = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: one valid pollfd, a valid timespec or none, no signal mask.
    let ready = unsafe { libc::ppoll(&mut poll, 1, limit, ptr::null()) };
    match Errno::result(ready) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(SystemError::new("ppoll", errno)),
    }
}

/// Numbers repeat after 128; at most 64 of them are under way.
fn descriptor_byte(sequence: u32) -> u8 {
    DESCRIPTORS | (sequence as u8 & !DESCRIPTORS)
}

/// What stands at the front of the queue once the rings before it were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    Nothing,
    Descriptors,
    HungUp,
    Corrupt,
}

/// Reads rings until there are no more, or a descriptor byte comes. `peek` gives what is there up to the
/// first byte with descriptors, and whether the last one has any; `read` reads it.
fn drain_by(
    mut peek: impl FnMut(&mut [u8]) -> Result<(usize, bool), Errno>,
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
) -> Front {
    let mut bytes = [0; MOST_UNREAD + 1];
    let mut drained = 0;
    loop {
        let (found, carries) = match peek(&mut bytes) {
            Ok((0, _)) => return Front::HungUp,
            Ok(found) => found,
            Err(Errno::EAGAIN) => return Front::Nothing,
            // A peer that died with bytes unread leaves one ECONNRESET.
            Err(_) => return Front::HungUp,
        };
        let rings = bytes[..found].iter().take_while(|byte| **byte == RING);
        let rings = rings.count();
        let carried_by_a_ring = carries && rings == found;
        if drained + rings > MOST_UNREAD || carried_by_a_ring {
            return Front::Corrupt;
        }
        if rings > 0 {
            match read(&mut bytes[..rings]) {
                Ok(read) => drained += read,
                Err(_) => return Front::HungUp,
            }
        }
        if rings < found {
            // What stopped the rings was not overwritten: only they were read. A byte with descriptors is
            // the last that a look shows.
            return if bytes[rings] & DESCRIPTORS != 0 && carries && found == rings + 1 {
                Front::Descriptors
            } else {
                Front::Corrupt
            };
        }
    }
}

/// The inode number of a socket. It survives passing the descriptor on.
pub(crate) fn inode_of(socket: &OwnedFd) -> Result<u64, SystemError> {
    nix::sys::stat::fstat(socket)
        .map(|stat| stat.st_ino)
        .map_err(|errno| SystemError::new("fstat", errno))
}

/// Checks that a descriptor from elsewhere is a connected Unix stream socket, and undoes what a former
/// holder may have set on it.
pub(crate) fn check_socket(socket: &OwnedFd) -> Result<(), ImportFault> {
    let not = |found| Err(ImportFault::NotADoorbell { found });
    match getsockopt(socket, sockopt::SockType) {
        Ok(SockType::Stream) => {}
        Ok(_) => return not("a socket of another type"),
        Err(Errno::ENOTSOCK) => return not("no socket"),
        Err(errno) => return Err(SystemError::new("getsockopt(SO_TYPE)", errno).into()),
    }
    match getpeername::<nix::sys::socket::SockaddrStorage>(socket.as_raw_fd()) {
        Ok(address) if address.as_unix_addr().is_some() => {}
        Ok(_) => return not("a socket of another family"),
        Err(Errno::ENOTCONN) => return not("a socket that is not connected"),
        Err(errno) => return Err(SystemError::new("getpeername", errno).into()),
    }
    reset_options(socket);
    Ok(())
}

fn reset_options(socket: &OwnedFd) {
    // Newer than the oldest kernel supported, which refuses them: nobody can have set them there.
    const SO_PASSPIDFD: libc::c_int = 76;
    const SO_PASSRIGHTS: libc::c_int = 83;
    let zero_time = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    set_option(socket, libc::SO_PEEK_OFF, &-1);
    set_option(socket, libc::SO_PASSCRED, &0);
    set_option(socket, libc::SO_RCVTIMEO, &zero_time);
    set_option(socket, libc::SO_SNDTIMEO, &zero_time);
    // Room for more rings than are ever unread; the kernel counts some hundred bytes for each.
    set_option(socket, libc::SO_SNDBUF, &(128 << 10));
    set_option(socket, libc::SO_PASSSEC, &0);
    set_option(socket, SO_PASSPIDFD, &0);
    // Who clears it gets no descriptors any more.
    set_option(socket, SO_PASSRIGHTS, &1);
}

pub(crate) fn set_option<T>(socket: &OwnedFd, option: libc::c_int, value: &T) {
    // SAFETY: the pointer and length are those of a live value. What it returns does not matter: an
    // option the kernel does not know cannot have been set.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s57_a_drain_comes_to_an_end_though_bytes_do_not() {
        for at_a_time in [1, 32, MOST_UNREAD] {
            let mut calls = 0;
            let front = drain_by(
                |bytes| {
                    calls += 1;
                    assert!(calls < 1000, "still draining, {at_a_time} bytes at a time");
                    bytes[..at_a_time].fill(RING);
                    Ok((at_a_time, false))
                },
                |bytes| Ok(bytes.len()),
            );
            assert_eq!(front, Front::Corrupt);
        }
    }

    /// A byte that carries descriptors, and one that does not.
    type Unread = (u8, bool);

    const BARE: Unread = (RING, false);

    /// Drains a queue and gives what is left.
    fn drained(queue: &[Unread]) -> (Front, Vec<Unread>) {
        let at = Cell::new(0);
        let front = drain_by(
            |bytes| {
                let rest = &queue[at.get()..];
                if rest.is_empty() {
                    return Err(Errno::EAGAIN);
                }
                let until = rest.len().min(bytes.len());
                let stop = rest[..until].iter().position(|(_, carries)| *carries);
                let len = stop.map_or(until, |stop| stop + 1);
                for (byte, unread) in bytes.iter_mut().zip(&rest[..len]) {
                    *byte = unread.0;
                }
                Ok((len, stop.is_some()))
            },
            |bytes| {
                assert!(
                    bytes.iter().all(|byte| *byte == RING),
                    "only rings are read"
                );
                at.set(at.get() + bytes.len());
                Ok(bytes.len())
            },
        );
        (front, queue[at.get()..].to_vec())
    }

    #[test]
    fn as_many_rings_as_may_be_unread_are_drained() {
        let full = [BARE; MOST_UNREAD + 1];
        assert_eq!(drained(&full[1..]), (Front::Nothing, vec![]));
        assert_eq!(drained(&full).0, Front::Corrupt);
    }

    #[test]
    fn a_drain_stops_in_front_of_descriptors() {
        let queue = [BARE, BARE, (0x83, true), BARE];
        assert_eq!(drained(&queue), (Front::Descriptors, queue[2..].to_vec()));
        assert_eq!(drained(&queue[2..]).0, Front::Descriptors);
        let mut full = [BARE; MOST_UNREAD + 1];
        full[MOST_UNREAD] = (0x80, true);
        assert_eq!(
            drained(&full),
            (Front::Descriptors, full[MOST_UNREAD..].to_vec())
        );
    }

    #[test]
    fn s61_a_ring_that_carries_descriptors_is_corrupt() {
        for carrier in 0..3 {
            let mut queue = [BARE; 3];
            queue[carrier].1 = true;
            assert_eq!(drained(&queue).0, Front::Corrupt, "{carrier}");
        }
    }

    #[test]
    fn s57_a_descriptor_byte_without_descriptors_is_corrupt() {
        assert_eq!(drained(&[BARE, (0x80, false)]).0, Front::Corrupt);
        assert_eq!(drained(&[(0x80, false), BARE]).0, Front::Corrupt);
        assert_eq!(
            drained(&[(0x80, false), (0x81, true)]).0,
            Front::Corrupt,
            "the second one's are not the first one's"
        );
    }

    #[test]
    fn s57_a_byte_that_means_nothing_is_corrupt() {
        for byte in (0..0x80).filter(|byte| *byte != RING) {
            for carries in [false, true] {
                assert_eq!(
                    drained(&[BARE, (byte, carries)]).0,
                    Front::Corrupt,
                    "{byte}"
                );
            }
        }
    }
}
