//! A port over a Unix socket that the program has anyway: one byte with two descriptors.

use crate::descriptors::{self, Peeked};
use crate::error::{PostError, ReceiveOverError, SystemError, TransferError};
use crate::port::MessagePort;
use crate::socket::{check_unix_socket, inode_of, option, set_option, wait_for};
use crate::{PortHandle, wait};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// The byte that a port is on a socket. One, so that half of it cannot arrive.
const BYTE: u8 = b'P';

/// Other people's sockets.
impl MessagePort {
    /// Moves the port to whoever calls [`receive_over`](MessagePort::receive_over) on the other end of a Unix socket:
    /// a connected one of any type (stream, datagram or sequenced packets), which the program has for whatever else.
    ///
    /// It takes one byte (or one packet of a byte) of that socket's traffic, so both sides have to agree when it comes. What
    /// waits to be received on the port moves along. It waits if the socket is full, unless that does not block. Once this
    /// returns, the port is closed if nobody ever receives it.
    ///
    /// # Errors
    ///
    /// [`TransferError`], which gives the port back: it was closed here ([`ClosedPort`](PostError::ClosedPort)), this is a
    /// forked child ([`Forked`](PostError::Forked)), too many descriptors are under way
    /// ([`TooManyInFlight`](PostError::TooManyInFlight)), or the socket's own error ([`System`](PostError::System)), of one
    /// that is no Unix socket `EAFNOSUPPORT`.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringport::{MessageChannel, MessagePort};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (here, there) = UnixStream::pair()?; // its other end may be in any process
    /// let MessageChannel { port1, port2 } = MessageChannel::new()?;
    /// port2.send_over(&here)?;
    ///
    /// let port = MessagePort::receive_over(&there)?;
    /// port1.post_bytes(b"hello")?;
    /// assert_eq!(port.recv()?.bytes(), b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_over(self, socket: impl AsFd) -> Result<(), TransferError> {
        match self.send_copies(socket.as_fd()) {
            Ok(()) => {
                self.leave();
                Ok(())
            }
            Err(error) => Err(TransferError::new(error, vec![self])),
        }
    }

    fn send_copies(&self, socket: BorrowedFd<'_>) -> Result<(), PostError> {
        if !self.is_home() {
            return Err(PostError::Forked);
        }
        if self.ended_here() {
            return Err(PostError::ClosedPort { index: 0 });
        }
        check_unix_socket(&socket).map_err(|errno| SystemError::new("sendmsg", errno))?;
        self.settle();
        let pair = [
            self.segment.file().as_raw_fd(),
            self.doorbell.socket().as_raw_fd(),
        ];
        loop {
            match descriptors::send(socket, &[BYTE], &pair) {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) if blocks(socket)? => {
                    wait_for(socket, libc::POLLOUT, None)?;
                }
                Err(Errno::ETOOMANYREFS) => {
                    return Err(PostError::TooManyInFlight {
                        source: Errno::ETOOMANYREFS.into(),
                    });
                }
                Err(errno) => return Err(SystemError::new("sendmsg", errno).into()),
            }
        }
    }

    /// Receives a port that was [sent](MessagePort::send_over) over a Unix socket. It waits until one is there, unless the
    /// socket does not block.
    ///
    /// The port is not trusted, whatever it was before. Several may receive from one socket, each port going to one of them,
    /// if nothing but ports comes there; if something else does, or looks begin elsewhere than at the front (`SO_PEEK_OFF`),
    /// only one at a time may.
    ///
    /// # Errors
    ///
    /// [`ReceiveOverError`], which says what is there instead. Nothing was read from the socket then: bytes that are no
    /// port can still be read, and a port for which there was no descriptor or memory is received by another call.
    pub fn receive_over(socket: impl AsFd) -> Result<MessagePort, ReceiveOverError> {
        let socket = socket.as_fd();
        loop {
            if let Some(port) = receive_from(socket)? {
                return Ok(port);
            }
            if !blocks(socket)? {
                return Err(SystemError::new("recvmsg", Errno::EAGAIN).into());
            }
            wait_for(socket, libc::POLLIN, None)?;
        }
    }

    /// The same, waiting at most `timeout`, whether the socket blocks or not; `None` when no port has come by then. With
    /// [`Duration::ZERO`] it does not wait, with [`Duration::MAX`] as long as it takes.
    ///
    /// # Errors
    ///
    /// Those of [`receive_over`](MessagePort::receive_over), but for `EAGAIN`.
    pub fn receive_over_timeout(
        socket: impl AsFd,
        timeout: Duration,
    ) -> Result<Option<MessagePort>, ReceiveOverError> {
        let (socket, deadline) = (socket.as_fd(), wait::deadline(timeout));
        loop {
            let received = receive_from(socket)?;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if received.is_some() || left == Some(Duration::ZERO) {
                return Ok(received);
            }
            wait_for(socket, libc::POLLIN, left)?;
        }
    }
}

/// Receives the port that comes next; `None` if nothing is there, or somebody else was quicker. Nothing is taken from the
/// socket before what is there has been found to be a port that this process has room for, and what is used is what was taken.
fn receive_from(socket: BorrowedFd<'_>) -> Result<Option<MessagePort>, ReceiveOverError> {
    let failed = |errno| SystemError::new("recvmsg", errno);
    check_unix_socket(&socket).map_err(failed)?;
    let Some(handle) = next_handle(socket)? else {
        return Ok(None);
    };
    let inode = inode_of(&handle.doorbell)?;
    let is_it = |handle: &PortHandle| inode_of(&handle.doorbell).is_ok_and(|other| other == inode);
    let port = match MessagePort::from_received(handle) {
        Ok(port) => port,
        Err(error) => {
            let fault = error.into_fault();
            return match next_handle(socket)? {
                Some(handle) if is_it(&handle) => Err(fault.into()),
                // It has a holder by now, who uses it.
                _ => Ok(None),
            };
        }
    };
    let mut byte = [0];
    match descriptors::take(socket, &mut byte) {
        // This process has no room for the copies. What it has seen is still there, by all that it can know.
        Ok(taken) if taken.truncated => Ok(Some(port)),
        // It need not be what was seen: somebody else may have received that meanwhile, and even have sent it here again.
        Ok(taken) => match as_handle(taken, &byte) {
            Ok(handle) => {
                let is_it = is_it(&handle);
                match MessagePort::from_received(handle) {
                    // There was no room for both.
                    Err(_) if is_it => Ok(Some(port)),
                    received => {
                        port.leave();
                        Ok(Some(received.map_err(|error| error.into_fault())?))
                    }
                }
            }
            Err(error) => {
                port.leave();
                Err(error)
            }
        },
        Err(errno) => {
            port.leave();
            match errno {
                Errno::EAGAIN => Ok(None),
                errno => Err(failed(errno).into()),
            }
        }
    }
}

/// What a port would be made of, if that is what comes next. It stays there.
fn next_handle(socket: BorrowedFd<'_>) -> Result<Option<PortHandle>, ReceiveOverError> {
    // Room for one more byte than a port has: where less than that is asked for, a look into a stream goes on to the
    // descriptors behind the byte.
    let mut bytes = [0; 2];
    let peeked = match look(socket, &mut bytes) {
        Ok(peeked) => peeked,
        Err(Errno::EAGAIN) => match descriptors::out_of_band(socket) {
            // In a stream that is not seen from here, and the socket is readable all the same.
            Some(byte) => {
                return Err(ReceiveOverError::Unexpected {
                    byte: Some(byte),
                    descriptors: 0,
                    goes_on: false,
                });
            }
            None => return Ok(None),
        },
        Err(errno) => return Err(SystemError::new("recvmsg", errno).into()),
    };
    if peeked.truncated {
        return Err(SystemError::new("recvmsg", Errno::EMFILE).into());
    }
    // So are empty packets, but the other end of those is still there.
    let is_nothing = peeked.len == 0 && peeked.descriptors.is_empty();
    if is_nothing && wait_for(socket, libc::POLLRDHUP, Some(Duration::ZERO))? {
        return Err(ReceiveOverError::HungUp);
    }
    as_handle(peeked, &bytes).map(Some)
}

/// A port's message: one byte with two descriptors.
fn as_handle(message: Peeked, bytes: &[u8]) -> Result<PortHandle, ReceiveOverError> {
    // Of a port they are none that linger.
    descriptors::close_at_once(&message.descriptors);
    let descriptors = message.descriptors.len();
    let byte = (message.len != 0).then_some(bytes[0]);
    let goes_on = message.len > 1 || message.goes_on;
    let mut both = message.descriptors.into_iter();
    match (both.next(), both.next(), both.next(), byte, goes_on) {
        (Some(segment), Some(doorbell), None, Some(BYTE), false) => {
            Ok(PortHandle { segment, doorbell })
        }
        _ => Err(ReceiveOverError::Unexpected {
            byte,
            descriptors,
            goes_on,
        }),
    }
}

/// Looks at the front of the queue, wherever the program's own looks begin (`SO_PEEK_OFF`).
fn look(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Peeked, Errno> {
    let mut peek = || match descriptors::peek(socket, bytes) {
        // Said once, when the other end was closed with something unread.
        Err(Errno::ECONNRESET) => descriptors::peek(socket, bytes),
        peeked => peeked,
    };
    match option(&socket, libc::SO_PEEK_OFF) {
        Ok(offset) if offset >= 0 => {
            set_option(&socket, libc::SO_PEEK_OFF, &-1);
            let peeked = peek();
            set_option(&socket, libc::SO_PEEK_OFF, &offset);
            peeked
        }
        _ => peek(),
    }
}

/// Whether calls on the socket wait.
fn blocks(socket: BorrowedFd<'_>) -> Result<bool, SystemError> {
    let flags = fcntl(socket, FcntlArg::F_GETFL)
        .map_err(|errno| SystemError::new("fcntl(F_GETFL)", errno))?;
    Ok(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK))
}
