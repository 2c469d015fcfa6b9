//! The doorbell: one end of a Unix socket pair that wakes a sleeper and hangs up at death.
//!
//! A byte 0x01 rings. Nobody needs to read it: waits are edge-triggered, so each new byte wakes anew;
//! it is read only so that the socket does not fill. When the peer's process dies, the kernel closes
//! its end, which is an edge as well.
//!
//! Unsafe relies on: system calls get pointers to live values of the length they are told.
#![allow(unsafe_code)]

use crate::barrier::Signal;
use crate::error::{ImportFault, SystemError};
use core::cell::{Cell, OnceCell};
use core::mem::ManuallyDrop;
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
/// More unread bytes than this cannot come from an honest peer: it rings once for every sleep, and
/// the bytes are drained after [`SLEEPS_A_DRAIN`] sleeps.
const MOST_UNREAD: usize = 64;
const SLEEPS_A_DRAIN: u32 = 16;

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

    pub(crate) fn new(signal: Signal, socket: OwnedFd) -> Doorbell {
        Doorbell {
            signal,
            socket: ManuallyDrop::new(socket),
            epoll: OnceCell::new(),
            // A former holder may have left bytes.
            drain_in: Cell::new(0),
        }
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

    /// Reads all bytes that wait and says whether the peer is still there.
    pub(crate) fn drain(&self) -> Line {
        self.drain_in.set(SLEEPS_A_DRAIN);
        drain_by(|bytes, flags| self.receive(bytes, flags))
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

    fn receive(&self, bytes: &mut [u8], flags: libc::c_int) -> Result<usize, Errno> {
        // SAFETY: the pointer and length are those of a live slice.
        let got = unsafe {
            libc::recv(
                self.raw(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                flags | libc::MSG_DONTWAIT,
            )
        };
        Errno::result(got).map(|got| got as usize)
    }

    /// Drains if enough sleeps went by that bytes can have piled up.
    pub(crate) fn drain_if_due(&self) -> Line {
        match self.drain_in.get().checked_sub(1) {
            Some(left) => {
                self.drain_in.set(left);
                Line::Quiet
            }
            None => self.drain(),
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
                    wait_readable(epoll.0.as_fd(), timeout)?;
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

    /// Says goodbye: every waiting peer wakes, and finds CLOSED in the state word.
    pub(crate) fn hang_up(&self) {
        self.signal.close();
        // It can only fail for a peer that is gone already.
        let _ = shutdown(self.raw(), Shutdown::Both);
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

fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> Result<(), SystemError> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    };
    // SAFETY: one valid pollfd, one valid timespec, no signal mask.
    let ready = unsafe { libc::ppoll(&mut poll, 1, &timeout, core::ptr::null()) };
    match Errno::result(ready) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(SystemError::new("ppoll", errno)),
    }
}

/// Reads rings by `receive`, as `recv` with these flags, until there are no more.
fn drain_by(mut receive: impl FnMut(&mut [u8], libc::c_int) -> Result<usize, Errno>) -> Line {
    let mut bytes = [0; MOST_UNREAD + 1];
    let mut drained = 0;
    loop {
        let found = receive(&mut bytes, libc::MSG_PEEK);
        let rings = match found {
            Ok(0) => return Line::HungUp,
            // Also counted over all turns, or a peer could keep us here by writing as fast.
            Ok(found) if drained + found > MOST_UNREAD => return Line::Corrupt,
            Ok(found) if bytes[..found].iter().all(|byte| *byte == RING) => found,
            Ok(_) => return Line::Corrupt,
            Err(Errno::EAGAIN) => return Line::Quiet,
            Err(Errno::EINTR) => continue,
            // A peer that died with bytes unread leaves one ECONNRESET.
            Err(_) => return Line::HungUp,
        };
        match receive(&mut bytes[..rings], 0) {
            Ok(read) => drained += read,
            Err(Errno::EINTR) => {}
            Err(_) => return Line::HungUp,
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
    // The last two are newer than the oldest kernel supported, which refuses them: nobody can have
    // set them there.
    const SO_PASSPIDFD: libc::c_int = 76;
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
    Ok(())
}

fn set_option<T>(socket: &OwnedFd, option: libc::c_int, value: &T) {
    // SAFETY: the pointer and length are those of a live value. What it returns does not matter: an
    // option the kernel does not know cannot have been set.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            core::ptr::from_ref(value).cast(),
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
            let line = drain_by(|bytes, _| {
                calls += 1;
                assert!(calls < 1000, "still draining, {at_a_time} bytes at a time");
                let len = at_a_time.min(bytes.len());
                bytes[..len].fill(RING);
                Ok(len)
            });
            assert_eq!(line, Line::Corrupt);
        }
    }

    #[test]
    fn as_many_rings_as_may_be_unread_are_drained() {
        let mut unread = vec![RING; MOST_UNREAD];
        let line = drain_by(|bytes, flags| {
            if unread.is_empty() {
                return Err(Errno::EAGAIN);
            }
            let len = unread.len().min(bytes.len());
            bytes[..len].copy_from_slice(&unread[..len]);
            if flags & libc::MSG_PEEK == 0 {
                unread.drain(..len);
            }
            Ok(len)
        });
        assert_eq!(line, Line::Quiet);
        assert!(unread.is_empty());
    }
}
