//! A port as two descriptors, and over other people's sockets.

use crate::arguments::{given, invalid, output, patience};
use crate::failure::{Answer, Failure, answer};
use crate::port::ringport_port;
use crate::status::*;
use ringport_rs::{MessagePort, PortHandle};
use std::ffi::c_int;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

/// ## Handing ports on
///
/// Takes a port apart into the two descriptors that are all of it, without closing it: pass them on in any way, and the port
/// has moved. They are the caller's, who closes them or passes both on; what waits to be received stays with them. The handle
/// is dead (RINGPORT_DETACHED), and still to be freed. Both descriptors close on exec.
///
/// In a forked child they are copies of the descriptors of a port that is still the parent's: close them.
///
/// Answers RINGPORT_BUSY while a reservation or messages in place are open, or the port is in a loop; RINGPORT_CLOSED if it has ended
/// in a loop.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_into_fds(
    port: *mut ringport_port,
    segment: *mut c_int,
    doorbell: *mut c_int,
) -> ringport_status {
    answer(|| {
        let handle = given(port, "port")?;
        let (first, second) = (output(segment, "segment")?, output(doorbell, "doorbell")?);
        let port = handle.take()?.into_handle();
        first.write(port.segment.into_raw_fd());
        second.write(port.doorbell.into_raw_fd());
        Ok(())
    })
}

/// Makes a port of its two descriptors, checking that they are a segment and a doorbell; that they belong together is the
/// caller's to know. On success they are the port's, and close on exec; on failure they stay the caller's. The caller frees the
/// port.
///
/// Answers RINGPORT_INVALID for a number that is no open descriptor; RINGPORT_NOT_A_PORT, with what was wrong in
/// ringport_last_error; RINGPORT_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_from_fds(
    segment: c_int,
    doorbell: c_int,
    port: *mut *mut ringport_port,
) -> ringport_status {
    answer(|| {
        let output = output(port, "port")?;
        descriptor(segment, "segment")?;
        descriptor(doorbell, "doorbell")?;
        if segment == doorbell {
            return Err(Failure::new(
                RINGPORT_NOT_A_PORT,
                format!("descriptor {segment} cannot be both the segment and the doorbell"),
            ));
        }
        let handle = PortHandle {
            segment: OwnedFd::from_raw_fd(segment),
            doorbell: OwnedFd::from_raw_fd(doorbell),
        };
        match MessagePort::from_handle(handle) {
            Ok(port) => {
                output.write(ringport_port::new(port));
                Ok(())
            }
            Err(error) => {
                let failure = Failure::from(&error);
                let handle = error.into_handle();
                // They stay the caller's.
                let _ = (handle.segment.into_raw_fd(), handle.doorbell.into_raw_fd());
                Err(failure)
            }
        }
    })
}

/// A number that C gives as a descriptor, if it is open.
pub(crate) unsafe fn descriptor<'a>(number: c_int, name: &'static str) -> Answer<BorrowedFd<'a>> {
    if number < 0 || libc::fcntl(number, libc::F_GETFD) < 0 {
        return Err(invalid(format_args!(
            "`{name}` is {number}, which is no open descriptor"
        )));
    }
    Ok(BorrowedFd::borrow_raw(number))
}

/// Moves the port to whoever calls ringport_port_receive on the other end of a Unix socket: a connected one of any type, which
/// the program has for whatever else. It takes one byte of that socket's traffic (a packet of one byte), so both sides have
/// to agree when it comes. It waits if the socket is full, unless that does not block. The handle is dead then
/// (RINGPORT_DETACHED), and still to be freed.
///
/// Answers RINGPORT_BUSY as ringport_port_into_fds does; RINGPORT_CLOSED_PORT; RINGPORT_INVALID if `socket` is not open;
/// RINGPORT_TOO_MANY_IN_FLIGHT; RINGPORT_SYSTEM with the socket's own error: EAGAIN; EAFNOSUPPORT if it is no Unix socket. The
/// port stays here then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_send(
    port: *mut ringport_port,
    socket: c_int,
) -> ringport_status {
    answer(|| {
        let (handle, socket) = (given(port, "port")?, descriptor(socket, "socket")?);
        handle.check_not_ended(format_args!("the port"))?;
        handle.take()?.send_over(socket).map_err(|error| {
            let (error, ports) = error.into_parts();
            ports.into_iter().for_each(|port| handle.put_back(port));
            error.into()
        })
    })
}

/// Receives a port that was sent by ringport_port_send, waiting for it at most `timeout_ns` nanoseconds (RINGPORT_NO_WAIT,
/// RINGPORT_FOREVER), whether the socket blocks or not. The caller frees the port, which is not trusted.
///
/// Answers RINGPORT_NOT_YET; RINGPORT_NOT_A_PORT when something else comes next; RINGPORT_CLOSED when the socket's other end is
/// closed, which one for datagrams does not tell; RINGPORT_INVALID; RINGPORT_SYSTEM as for ringport_port_send. Nothing was read
/// from the socket then. Several may receive from one socket, each port going to one of them, if nothing but ports comes there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_receive(
    socket: c_int,
    timeout_ns: i64,
    port: *mut *mut ringport_port,
) -> ringport_status {
    answer(|| {
        let (socket, output) = (descriptor(socket, "socket")?, output(port, "port")?);
        let limit = patience(timeout_ns).limit().unwrap_or(Duration::MAX);
        let port = MessagePort::receive_over_timeout(socket, limit)?.ok_or(Failure::NotYet)?;
        output.write(ringport_port::new(port));
        Ok(())
    })
}
