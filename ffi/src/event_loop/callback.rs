//! Functions of C that are called when something happens, and what they are called with.

use super::ringport_loop;
use crate::arguments::null;
use crate::failure::Answer;
use crate::meeting::ringport_credentials;
use crate::port::ringport_port;
use crate::receive::ringport_message;
use std::ffi::{c_int, c_void};

/// Frees the `user` of a callback that is not needed any more.
pub type ringport_free_user = Option<unsafe extern "C" fn(user: *mut c_void)>;

/// A message has come. It is the callback's, which frees it.
pub type ringport_on_message = Option<
    unsafe extern "C" fn(
        events: *mut ringport_loop,
        port: *mut ringport_port,
        message: *mut ringport_message,
        user: *mut c_void,
    ),
>;

/// A message cannot be received now, with a ringport_status.
pub type ringport_on_message_error = Option<
    unsafe extern "C" fn(
        events: *mut ringport_loop,
        port: *mut ringport_port,
        status: i32,
        user: *mut c_void,
    ),
>;

/// The channel has ended, with a ringport_close_reason.
pub type ringport_on_close = Option<
    unsafe extern "C" fn(
        events: *mut ringport_loop,
        port: *mut ringport_port,
        reason: i32,
        user: *mut c_void,
    ),
>;

/// There is room.
pub type ringport_on_room = Option<
    unsafe extern "C" fn(events: *mut ringport_loop, port: *mut ringport_port, user: *mut c_void),
>;

/// A timer is due, or the loop was woken.
pub type ringport_on_event =
    Option<unsafe extern "C" fn(events: *mut ringport_loop, user: *mut c_void)>;

/// A client has come: with RINGPORT_OK the port to it, which is the callback's to free, and who it is, which is there during the
/// call; else both are NULL and ringport_last_error says what was lacking.
pub type ringport_on_connect = Option<
    unsafe extern "C" fn(
        events: *mut ringport_loop,
        status: i32,
        port: *mut ringport_port,
        client: *const ringport_credentials,
        user: *mut c_void,
    ),
>;

/// A process has ended: with RINGPORT_OK its status as waitpid(2) gives it.
pub type ringport_on_exit = Option<
    unsafe extern "C" fn(
        events: *mut ringport_loop,
        status: i32,
        wait_status: c_int,
        user: *mut c_void,
    ),
>;

/// A callback that is there.
pub(super) fn given<F>(call: Option<F>) -> Answer<F> {
    call.ok_or_else(|| null("call"))
}

/// What a callback is called with. Dropping it frees that.
pub(super) struct User {
    pointer: *mut c_void,
    free: ringport_free_user,
}

impl User {
    pub(super) fn new(pointer: *mut c_void, free: ringport_free_user) -> User {
        User { pointer, free }
    }

    pub(super) fn pointer(&self) -> *mut c_void {
        self.pointer
    }

    /// Leaves it to the caller, as when the callback could not be set.
    pub(super) fn disown(&mut self) {
        self.free = None;
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(free) = self.free {
            // SAFETY: the caller gave this function for this pointer, and it is called once.
            unsafe { free(self.pointer) }
        }
    }
}
