//! What calls answer, and the words for it.

use crate::failure;
use std::ffi::{c_char, c_int};

/// What a call answers. The numbers are never reused.
///
/// Each function's comment says which of these it answers beside RINGPORT_OK, and when. RINGPORT_NULL,
/// RINGPORT_FORKED, RINGPORT_DETACHED and RINGPORT_PANIC are not repeated there.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ringport_status {
    /// It is done.
    RINGPORT_OK = 0,
    /// What was asked for is not there yet, or did not come in time. No error: ringport_last_error stays as it was.
    RINGPORT_NOT_YET = -1,
    /// A pointer is NULL that must not be.
    RINGPORT_NULL = -2,
    /// A value cannot be, or a call does not come in its order (a commit without a reservation).
    RINGPORT_INVALID = -3,
    /// The member `size` of a struct is not the size of that struct.
    RINGPORT_BAD_SIZE = -4,
    /// The port has moved away from this handle: it was sent, or taken apart into its descriptors. Or the listener ended with
    /// its loop, or the process's end was told by one.
    RINGPORT_DETACHED = -5,
    /// The channel has ended. ringport_port_close_reason says why.
    RINGPORT_CLOSED = -6,
    /// There is no room for the message, or was none in time.
    RINGPORT_FULL = -7,
    /// 64 messages with ports wait to be received, and no more can be sent now.
    RINGPORT_TRANSFERS_FULL = -8,
    /// The message is longer than ringport_port_max_message_len, or than what was reserved.
    RINGPORT_TOO_LARGE = -9,
    /// Something is under way that must end first: a reservation, a batch, messages shown in place; or the port is in a
    /// loop, or the loop runs.
    RINGPORT_BUSY = -10,
    /// A port cannot be sent through itself.
    RINGPORT_SELF_TRANSFER = -11,
    /// A port is listed twice.
    RINGPORT_DUPLICATE_PORT = -12,
    /// One of the ports to be sent was closed here.
    RINGPORT_CLOSED_PORT = -13,
    /// A port cannot be sent through its own peer: nobody could ever receive it.
    RINGPORT_OWN_PEER = -14,
    /// More than RINGPORT_MAX_PORTS.
    RINGPORT_TOO_MANY_PORTS = -15,
    /// The kernel has too many descriptors of this user under way (see RLIMIT_NOFILE).
    RINGPORT_TOO_MANY_IN_FLIGHT = -16,
    /// An alignment that cannot be had.
    RINGPORT_ALIGNMENT = -17,
    /// This process was forked from the one that the port or loop belongs to, and has not called exec.
    RINGPORT_FORKED = -18,
    /// A system call failed. ringport_last_errno says how. Nothing was lost; with descriptors, memory or maps short it may
    /// go well another time.
    RINGPORT_SYSTEM = -19,
    /// There is not enough memory.
    RINGPORT_NO_MEMORY = -20,
    /// A capacity that cannot be, or that the listener does not allow.
    RINGPORT_CAPACITY = -21,
    /// The memory cannot be locked (see RLIMIT_MEMLOCK).
    RINGPORT_MEMORY_LOCK = -22,
    /// Descriptors that are no port, or a socket on which something else comes next.
    RINGPORT_NOT_A_PORT = -23,
    /// Nobody has started this process with a port, or it was asked for before.
    RINGPORT_NO_PARENT = -24,
    /// The program cannot be started.
    RINGPORT_SPAWN = -25,
    /// A name or path at which nobody can listen.
    RINGPORT_ADDRESS = -26,
    /// Somebody listens there already.
    RINGPORT_IN_USE = -27,
    /// Nobody listens there.
    RINGPORT_NOBODY_LISTENS = -28,
    /// The listener does not allow this user, or is another user's.
    RINGPORT_NOT_ALLOWED = -29,
    /// The listener hung up.
    RINGPORT_REFUSED = -30,
    /// The listener speaks another version of the protocol.
    RINGPORT_VERSION_MISMATCH = -31,
    /// The listener did not answer in time.
    RINGPORT_TIMED_OUT = -32,
    /// The bytes are no such archive.
    RINGPORT_BAD_ARCHIVE = -33,
    /// It is not in the loop, or in none.
    RINGPORT_NOT_IN_LOOP = -34,
    /// A defect of this library, please report it. The call may have been done in part.
    RINGPORT_PANIC = -35,
}

pub(crate) use ringport_status::*;

/// The name of a status, such as "RINGPORT_FULL". Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ringport_status_name(status: i32) -> *const c_char {
    let name = match status {
        0 => c"RINGPORT_OK",
        -1 => c"RINGPORT_NOT_YET",
        -2 => c"RINGPORT_NULL",
        -3 => c"RINGPORT_INVALID",
        -4 => c"RINGPORT_BAD_SIZE",
        -5 => c"RINGPORT_DETACHED",
        -6 => c"RINGPORT_CLOSED",
        -7 => c"RINGPORT_FULL",
        -8 => c"RINGPORT_TRANSFERS_FULL",
        -9 => c"RINGPORT_TOO_LARGE",
        -10 => c"RINGPORT_BUSY",
        -11 => c"RINGPORT_SELF_TRANSFER",
        -12 => c"RINGPORT_DUPLICATE_PORT",
        -13 => c"RINGPORT_CLOSED_PORT",
        -14 => c"RINGPORT_OWN_PEER",
        -15 => c"RINGPORT_TOO_MANY_PORTS",
        -16 => c"RINGPORT_TOO_MANY_IN_FLIGHT",
        -17 => c"RINGPORT_ALIGNMENT",
        -18 => c"RINGPORT_FORKED",
        -19 => c"RINGPORT_SYSTEM",
        -20 => c"RINGPORT_NO_MEMORY",
        -21 => c"RINGPORT_CAPACITY",
        -22 => c"RINGPORT_MEMORY_LOCK",
        -23 => c"RINGPORT_NOT_A_PORT",
        -24 => c"RINGPORT_NO_PARENT",
        -25 => c"RINGPORT_SPAWN",
        -26 => c"RINGPORT_ADDRESS",
        -27 => c"RINGPORT_IN_USE",
        -28 => c"RINGPORT_NOBODY_LISTENS",
        -29 => c"RINGPORT_NOT_ALLOWED",
        -30 => c"RINGPORT_REFUSED",
        -31 => c"RINGPORT_VERSION_MISMATCH",
        -32 => c"RINGPORT_TIMED_OUT",
        -33 => c"RINGPORT_BAD_ARCHIVE",
        -34 => c"RINGPORT_NOT_IN_LOOP",
        -35 => c"RINGPORT_PANIC",
        _ => c"(no ringport_status)",
    };
    name.as_ptr()
}

/// What was wrong when a call on this thread last failed, or a callback was told of a failure: which value, and what would be
/// right. Never NULL; empty if nothing has failed. Valid until the next failure on this thread, so also not across a call among
/// the arguments of the same `printf`.
#[unsafe(no_mangle)]
pub extern "C" fn ringport_last_error() -> *const c_char {
    failure::last_text()
}

/// The `errno` of the system call because of which a call on this thread last failed; 0 if that had another cause.
#[unsafe(no_mangle)]
pub extern "C" fn ringport_last_errno() -> c_int {
    failure::last_errno()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn every_status_has_its_name() {
        let source = include_str!("status.rs");
        let mut count = 0;
        for line in source.lines() {
            let Some((name, number)) = line
                .trim()
                .strip_suffix(',')
                .and_then(|line| line.split_once(" = "))
            else {
                continue;
            };
            let Ok(number) = number.parse::<i32>() else {
                continue;
            };
            // SAFETY: it points to a literal.
            let told = unsafe { CStr::from_ptr(ringport_status_name(number)) };
            assert_eq!(told.to_str(), Ok(name));
            count += 1;
        }
        assert_eq!(count, 1 - RINGPORT_PANIC as i32);
    }
}
