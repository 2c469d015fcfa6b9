//! Descriptors on a Unix socket: send them, look at them without taking them, read past them.
//!
//! `recvmsg` by hand: nix closes nothing of what it received when the kernel had to leave some out. Here
//! every descriptor that the kernel hands out is owned before anything else is looked at.
//!
//! Unsafe relies on: the kernel fills the control buffer with whole messages, whose descriptors are new.
#![allow(unsafe_code)]

use crate::socket::{is_unix_socket, set_option, show_all};
use core::mem::MaybeUninit;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The kernel passes at most so many descriptors at once (`SCM_MAX_FD`).
pub(crate) const MOST: usize = 253;

/// Room for so many, for credentials, a process descriptor and a security label, should a former holder
/// have asked for those.
const CONTROL_WORDS: usize = 192;

/// Not in the crate libc: a descriptor of the sending process (`SO_PASSPIDFD`, Linux 6.5).
const SCM_PIDFD: libc::c_int = 4;

/// Sends `bytes` and descriptors, without waiting; says how many bytes went.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[RawFd],
) -> Result<usize, Errno> {
    let control = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() {
        &[]
    } else {
        &control[..]
    };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        let data = [IoSlice::new(bytes)];
        match sendmsg::<()>(socket.as_raw_fd(), &data, control, flags, None) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// What is, or was, at the front of a socket's queue.
pub(crate) struct Peeked {
    /// How many bytes.
    pub(crate) len: usize,
    /// The descriptors; after a look copies, and those in the queue stay there.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Whether some were left out, most likely because this process can have no more.
    pub(crate) truncated: bool,
    /// Whether a packet goes on behind the bytes.
    pub(crate) goes_on: bool,
}

/// Looks at the bytes at the front of the queue and at the descriptors with them, without waiting.
pub(crate) fn peek(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Peeked, Errno> {
    read_with_descriptors(socket, bytes, libc::MSG_PEEK)
}

/// Takes them off the queue, without waiting. Descriptors that do not fit are lost.
pub(crate) fn take(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Peeked, Errno> {
    read_with_descriptors(socket, bytes, 0)
}

fn read_with_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    flags: libc::c_int,
) -> Result<Peeked, Errno> {
    let mut descriptors = Vec::new();
    descriptors
        .try_reserve_exact(MOST)
        .map_err(|_| Errno::ENOMEM)?;
    let mut control = [MaybeUninit::<u64>::uninit(); CONTROL_WORDS];
    let mut data = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut message = message(&mut data);
    message.msg_control = control.as_mut_ptr().cast();
    // Another integer type with other C libraries.
    message.msg_controllen = size_of_val(&control) as _;
    let len = receive(socket, &mut message, flags)?;
    // SAFETY: the kernel has just filled `message` and the control buffer it points to.
    unsafe { collect(&message, &mut descriptors) };
    Ok(Peeked {
        len,
        descriptors,
        truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
        goes_on: message.msg_flags & libc::MSG_TRUNC != 0,
    })
}

/// Looks at the bytes at the front of the queue up to the first that has descriptors. Says how many, and
/// whether the last of them has.
pub(crate) fn peek_bytes(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, bool), Errno> {
    read_bytes(socket, bytes, libc::MSG_PEEK)
}

/// The byte that was sent out of band, if one waits. It stays there.
pub(crate) fn out_of_band(socket: BorrowedFd<'_>) -> Option<u8> {
    let mut byte = [0];
    let looked = read_bytes(socket, &mut byte, libc::MSG_OOB | libc::MSG_PEEK);
    matches!(looked, Ok((1, _))).then_some(byte[0])
}

/// Reads bytes, and says how many, and whether descriptors came with them; those the kernel has closed.
pub(crate) fn read_past(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, bool), Errno> {
    read_bytes(socket, bytes, 0)
}

fn read_bytes(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    flags: libc::c_int,
) -> Result<(usize, bool), Errno> {
    let mut data = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut message = message(&mut data);
    let len = receive(socket, &mut message, flags)?;
    Ok((len, message.msg_flags & libc::MSG_CTRUNC != 0))
}

/// Reads what is there, and closes what came with it, until there is no more.
///
/// The kernel would do that too, and close sockets in the queues of such sockets as well. But whoever closes
/// the last copy of a socket that lingers waits as long as its owner has chosen, so each is told not to
/// before. Best effort: who sent it may still hold a copy and change his mind.
pub(crate) fn discard(socket: BorrowedFd<'_>) {
    /// Messages and descriptors gone through, several times what can wait in one direction of a channel. The
    /// rest is closed with the socket.
    const BOUND: usize = 1 << 17;
    /// With as many copies open, so that other threads do not run out of descriptors, no deeper.
    const MOST_OPEN: usize = 2 * MOST;
    if unread(socket) == 0 {
        return;
    }
    show_all(&socket);
    // What came with one message is gone through before the next is looked at, so that few copies are open at
    // a time, and without recursion.
    let mut strays: Vec<OwnedFd> = Vec::new();
    for _ in 0..BOUND {
        match take_one(strays.last().map_or(socket, AsFd::as_fd)) {
            Some(mut descriptors) => {
                // Only these can bring descriptors in turn.
                descriptors.retain(is_unix_socket);
                if strays.len() < MOST_OPEN {
                    descriptors.iter().for_each(show_all);
                    strays.extend(descriptors);
                }
            }
            None if strays.pop().is_some() => {}
            None => return,
        }
    }
}

/// Takes a message off the queue, and gives copies of what came with it, disarmed; `None` if there is none.
fn take_one(socket: BorrowedFd<'_>) -> Option<Vec<OwnedFd>> {
    let descriptors = match hurry(socket) {
        Ok(peeked) if peeked.len > 0 => peeked.descriptors,
        // A socket whose peer died with bytes unread says so once.
        Err(Errno::ECONNRESET) => return Some(Vec::new()),
        // Nothing there, or no socket that can be read.
        _ => return None,
    };
    match read_past(socket, &mut [0; 64]) {
        Ok((1.., _)) => Some(descriptors),
        _ => None,
    }
}

/// Looks at the front of the queue and has sockets there not linger when they are closed.
pub(crate) fn hurry(socket: BorrowedFd<'_>) -> Result<Peeked, Errno> {
    let peeked = peek(socket, &mut [0; 64])?;
    close_at_once(&peeked.descriptors);
    Ok(peeked)
}

/// Has sockets among the descriptors not linger when they are closed.
pub(crate) fn close_at_once(descriptors: &[OwnedFd]) {
    let at_once = libc::linger {
        l_onoff: 0,
        l_linger: 0,
    };
    for descriptor in descriptors {
        set_option(descriptor, libc::SO_LINGER, &at_once);
    }
}

/// Bytes in the queue that were not read yet.
pub(crate) fn unread(socket: BorrowedFd<'_>) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one `int`, to a live one.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &mut bytes) };
    if asked == 0 {
        usize::try_from(bytes).unwrap_or(0)
    } else {
        0
    }
}

fn message(data: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a `msghdr` is integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = data;
    message.msg_iovlen = 1;
    message
}

fn receive(
    socket: BorrowedFd<'_>,
    message: &mut libc::msghdr,
    flags: libc::c_int,
) -> Result<usize, Errno> {
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    loop {
        // SAFETY: what `message` points to is alive and of the lengths it says.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), message, flags) };
        match Errno::result(got) {
            Err(Errno::EINTR) => {}
            result => return result.map(|got| got as usize),
        }
    }
}

/// Takes possession of every descriptor in a received message. Descriptors of processes, which nobody here
/// has asked for, are closed at once.
///
/// # Safety
///
/// The kernel has filled `message` and its control buffer, and nobody has taken anything from it.
unsafe fn collect(message: &libc::msghdr, descriptors: &mut Vec<OwnedFd>) {
    // SAFETY: as the caller promises.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: `CMSG_FIRSTHDR` and `CMSG_NXTHDR` only give whole headers inside the buffer.
        let header = unsafe { next.read_unaligned() };
        if header.cmsg_level == libc::SOL_SOCKET
            && matches!(header.cmsg_type, libc::SCM_RIGHTS | SCM_PIDFD)
        {
            // SAFETY: computes a length.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            // Another integer type with other C libraries.
            #[allow(clippy::unnecessary_cast)]
            let len = header.cmsg_len as usize;
            let count = len.saturating_sub(head) / size_of::<RawFd>();
            // SAFETY: the header is inside the buffer.
            let data = unsafe { libc::CMSG_DATA(next) }.cast::<RawFd>();
            for index in 0..count {
                // SAFETY: the kernel wrote `count` descriptors there.
                let number = unsafe { data.add(index).read_unaligned() };
                if number < 0 {
                    continue;
                }
                // SAFETY: the kernel has just made it for us; nobody else knows of it.
                let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
                if header.cmsg_type == libc::SCM_RIGHTS {
                    descriptors.push(descriptor);
                }
            }
        }
        // SAFETY: `next` is a header inside the buffer.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
}
