//! Unix sockets from elsewhere: what they are, what is set on them, waiting for them.
//!
//! Unsafe relies on: system calls get pointers to live values of the length they are told.
#![allow(unsafe_code)]

use crate::error::{ImportFault, SystemError};
use core::ptr;
use nix::errno::Errno;
use nix::sys::socket::{SockType, getpeername, getsockopt, sockopt};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The inode number of a socket. It survives passing the descriptor on.
pub(crate) fn inode_of(socket: &OwnedFd) -> Result<u64, SystemError> {
    nix::sys::stat::fstat(socket)
        .map(|stat| stat.st_ino)
        .map_err(|errno| SystemError::new("fstat", errno))
}

/// The family of a socket; `ENOTSOCK` if it is none.
fn family_of(descriptor: &impl AsRawFd) -> Result<libc::c_int, Errno> {
    option(descriptor, libc::SO_DOMAIN)
}

/// Whether it can carry descriptors.
pub(crate) fn is_unix_socket(descriptor: &impl AsRawFd) -> bool {
    family_of(descriptor) == Ok(libc::AF_UNIX)
}

/// The same as an error: sockets of other families leave descriptors behind without a word.
pub(crate) fn check_unix_socket(descriptor: &impl AsRawFd) -> Result<(), Errno> {
    match family_of(descriptor)? {
        libc::AF_UNIX => Ok(()),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// Checks that a descriptor from elsewhere is a connected Unix stream socket.
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
    Ok(())
}

/// Undoes what a former holder may have set on a doorbell.
pub(crate) fn reset(socket: &OwnedFd) {
    show_all(socket);
    // Who clears it gets no descriptors any more. Linux 6.16; older kernels refuse it, and know no such state.
    const SO_PASSRIGHTS: libc::c_int = 83;
    set_option(socket, SO_PASSRIGHTS, &1);
}

/// Takes back what a former holder asked for that comes beside descriptors. It does no harm but to look as if
/// there were some, or to leave no room for them.
pub(crate) fn ask_for_nothing(socket: &OwnedFd) {
    // Linux 6.5; older kernels refuse it.
    const SO_PASSPIDFD: libc::c_int = 76;
    for option in [libc::SO_PASSCRED, libc::SO_PASSSEC, SO_PASSPIDFD] {
        set_option(socket, option, &0);
    }
}

/// Has a look begin at the front of the queue, and an out-of-band byte stand there like any other: nobody
/// sends one in good faith, and out of line it could bring descriptors past every look.
pub(crate) fn show_all(socket: &impl AsRawFd) {
    set_option(socket, libc::SO_PEEK_OFF, &-1);
    keep_in_line(socket);
}

/// The same for a socket on which nobody can have set anything.
pub(crate) fn keep_in_line(socket: &impl AsRawFd) {
    set_option(socket, libc::SO_OOBINLINE, &1);
}

/// What an option of the socket is, a number.
pub(crate) fn option(socket: &impl AsRawFd, option: libc::c_int) -> Result<libc::c_int, Errno> {
    let mut value: libc::c_int = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes one `int` at most, as `len` says.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &mut len,
        )
    };
    Errno::result(asked).map(|_| value)
}

pub(crate) fn set_option<T>(socket: &impl AsRawFd, option: libc::c_int, value: &T) {
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
    let timeout = timeout.map(timespec);
    let limit = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: one valid pollfd, a valid timespec or none, no signal mask.
    let ready = unsafe { libc::ppoll(&mut poll, 1, limit, ptr::null()) };
    match Errno::result(ready) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(SystemError::new("ppoll", errno)),
    }
}

pub(crate) fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(duration.subsec_nanos()),
    }
}
