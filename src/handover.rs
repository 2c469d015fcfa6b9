//! A port over a Unix socket that the program has anyway: one byte with two descriptors.

use crate::error::{PostError, ReceiveOverError, SystemError, TransferError};
use crate::port::MessagePort;
use crate::socket::{check_unix_socket, wait_for};
use crate::{PortHandle, descriptors};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

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
    /// The port is not trusted, whatever it was before.
    ///
    /// # Errors
    ///
    /// [`ReceiveOverError`], which says what is there instead. Nothing was read from the socket then: bytes that are no
    /// port can still be read, and a port for which there was no descriptor or memory is received by another call.
    pub fn receive_over(socket: impl AsFd) -> Result<MessagePort, ReceiveOverError> {
        let socket = socket.as_fd();
        check_unix_socket(&socket).map_err(|errno| SystemError::new("recvmsg", errno))?;
        let mut byte = [0];
        let peeked = loop {
            match descriptors::peek(socket, &mut byte) {
                Ok(peeked) => break peeked,
                Err(Errno::EAGAIN) if blocks(socket)? => {
                    wait_for(socket, libc::POLLIN, None)?;
                }
                Err(errno) => return Err(SystemError::new("recvmsg", errno).into()),
            }
        };
        // Of a port they are none that linger.
        descriptors::close_at_once(&peeked.descriptors);
        if peeked.truncated {
            return Err(SystemError::new("recvmsg", Errno::EMFILE).into());
        }
        let descriptors = peeked.descriptors.len();
        // So are empty packets, but the other end of those is still there.
        let is_nothing = peeked.len == 0 && descriptors == 0;
        if is_nothing && wait_for(socket, libc::POLLRDHUP, Some(Duration::ZERO))? {
            return Err(ReceiveOverError::HungUp);
        }
        let byte = (peeked.len != 0).then_some(byte[0]);
        let mut both = peeked.descriptors.into_iter();
        let (Some(segment), Some(doorbell), None, Some(BYTE), false) =
            (both.next(), both.next(), both.next(), byte, peeked.goes_on)
        else {
            return Err(ReceiveOverError::Unexpected {
                byte,
                descriptors,
                goes_on: peeked.goes_on,
            });
        };
        let handle = PortHandle { segment, doorbell };
        let port = MessagePort::from_received(handle).map_err(|error| error.into_fault())?;
        match descriptors::read_past(socket, &mut [0]) {
            Ok((1, _)) => Ok(port),
            result => {
                // Somebody else has read it meanwhile.
                port.leave();
                let errno = result.err().unwrap_or(Errno::EAGAIN);
                Err(SystemError::new("recvmsg", errno).into())
            }
        }
    }
}

/// Whether calls on the socket wait.
fn blocks(socket: BorrowedFd<'_>) -> Result<bool, SystemError> {
    let flags = fcntl(socket, FcntlArg::F_GETFL)
        .map_err(|errno| SystemError::new("fcntl(F_GETFL)", errno))?;
    Ok(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK))
}
