//! A port in an event loop of another library.

use crate::arguments::{given, invalid, output};
use crate::failure::{Failure, answer};
use crate::port::ringport_port;
use crate::status::*;
use ringport_rs::{Armed, Interest};
use std::ffi::c_int;
use std::io;
use std::os::fd::AsRawFd;

/// What ringport_port_arm is to wait for.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ringport_interest {
    /// A message has come.
    RINGPORT_MESSAGE = 1,
    /// There is room for a message of `len` bytes. To be told, a quarter of the ring must be free as well.
    RINGPORT_ROOM = 2,
    /// Either of the two.
    RINGPORT_MESSAGE_OR_ROOM = 3,
    /// A message of `len` bytes can be posted with ports: there is room for it, and fewer than 64 of its kind wait.
    RINGPORT_TRANSFER = 4,
    /// A message has come, or one can be posted with ports.
    RINGPORT_MESSAGE_OR_TRANSFER = 5,
}

/// ## Other people's event loops
///
/// The descriptor to poll for reading after ringport_port_arm, edge- or level-triggered. It stays the port's, and the same; do
/// not read from it. Answers RINGPORT_SYSTEM when the process is out of descriptors: the first call needs one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_fd(
    port: *mut ringport_port,
    fd: *mut c_int,
) -> ringport_status {
    answer(|| {
        let (handle, output) = (given(port, "port")?, output(fd, "fd")?);
        let fd = handle.with(|port| Ok(port.as_fd().map_err(refused)?.as_raw_fd()))?;
        output.write(fd);
        Ok(())
    })
}

/// Says what the port waits for, once, and whether it is there already. `interest` is a ringport_interest.
///
/// RINGPORT_OK: it is there, or the channel has ended: receive, or post. RINGPORT_NOT_YET: the port's descriptor becomes
/// readable when it is. A call that posts or receives ends the waiting; so does the event. It may become readable for nothing,
/// so arm again until this answers RINGPORT_OK. A message longer than any that can be posted is not waited for: the post says
/// RINGPORT_TOO_LARGE.
///
/// Also answers RINGPORT_INVALID, and RINGPORT_SYSTEM when the process is out of descriptors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_arm(
    port: *mut ringport_port,
    interest: i32,
    len: usize,
) -> ringport_status {
    answer(|| {
        let handle = given(port, "port")?;
        let interest = match interest {
            1 => Interest::Message,
            2 => Interest::Room(len),
            3 => Interest::Either(len),
            4 => Interest::Transfer(len),
            5 => Interest::MessageOrTransfer(len),
            other => return Err(invalid(format_args!("{other} is no ringport_interest"))),
        };
        match handle.with(|port| port.arm(interest).map_err(refused))? {
            Armed::Ready => Ok(()),
            Armed::Wait => Err(Failure::NotYet),
        }
    })
}

fn refused(error: io::Error) -> Failure {
    match error.raw_os_error() {
        Some(_) => Failure::system(&error, error.to_string()),
        None => Failure::new(RINGPORT_FORKED, error),
    }
}
