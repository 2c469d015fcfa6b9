//! Strangers: listening and connecting.

use crate::arguments::{Measured, Patience, given, options, output, patience, slice, string};
use crate::channel::{channel_options, ringport_channel_options};
use crate::event_loop::{Home, ringport_loop};
use crate::failure::{Answer, Failure, answer, answer_or};
use crate::port::ringport_port;
use crate::status::*;
use ringport_rs::{
    ConnectOptions, Credentials, Listener, ListenerId, ListenerOptions, connect_with,
};
use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

/// A place where other processes can find this one.
pub struct ringport_listener {
    path: CString,
    pub(crate) home: Home<Listener, ListenerId>,
}

/// Who may connect, and with what. Begin with RINGPORT_LISTENER_OPTIONS_INIT.
#[repr(C)]
pub struct ringport_listener_options {
    /// The size of this struct.
    pub size: usize,
    /// Ids of other users that are allowed, `user_count` of them. This process's user is in any case.
    pub users: *const u32,
    /// How many.
    pub user_count: usize,
    /// Whether every user is allowed who can get at the socket's path.
    pub any_user: bool,
    /// The largest capacity of a client's rings, in bytes each. 0: 64 MiB.
    pub largest_capacity: usize,
    /// How many connections the kernel keeps waiting until they are accepted. 0: 128.
    pub backlog: u16,
}

impl Measured for ringport_listener_options {
    const NAME: &'static str = "ringport_listener_options";
}

/// How to connect. Begin with RINGPORT_CONNECT_OPTIONS_INIT.
#[repr(C)]
pub struct ringport_connect_options {
    /// The size of this struct.
    pub size: usize,
    /// What the channel should be like; the connecting side is its first port.
    pub channel: ringport_channel_options,
    /// How long to wait until the listener has accepted, in nanoseconds; RINGPORT_FOREVER. The macro's are ten seconds.
    pub timeout_ns: i64,
}

impl Measured for ringport_connect_options {
    const NAME: &'static str = "ringport_connect_options";
}

/// Who has connected, by the kernel's word: as it was when it connected.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ringport_credentials {
    /// The process's id.
    pub process_id: u32,
    /// The id of its effective user.
    pub user_id: u32,
    /// The id of its effective group.
    pub group_id: u32,
}

impl From<Credentials> for ringport_credentials {
    fn from(client: Credentials) -> ringport_credentials {
        ringport_credentials {
            process_id: client.process_id,
            user_id: client.user_id,
            group_id: client.group_id,
        }
    }
}

/// ## Strangers
///
/// Listens at a name, or at a path, recognised by a `/`. Names lie in `$XDG_RUNTIME_DIR/ringport`, or in
/// `/tmp/ringport-UID` if that variable is no absolute path, and are for the processes of one user. A socket left behind by a process
/// that died is replaced. `options` may be NULL: this user only, rings of at most 64 MiB. The caller frees the listener.
///
/// Answers RINGPORT_ADDRESS, RINGPORT_IN_USE, RINGPORT_BAD_SIZE, RINGPORT_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_listen(
    address: *const c_char,
    options: *const ringport_listener_options,
    listener: *mut *mut ringport_listener,
) -> ringport_status {
    answer(|| {
        let (path, output) = (self::address(address)?, output(listener, "listener")?);
        let listener = Listener::bind_with(path, &listener_options(options)?)?;
        let path = CString::new(listener.path().as_os_str().as_bytes()).unwrap_or_default();
        let listener = ringport_listener {
            path,
            home: Home::new(listener),
        };
        output.write(Rc::into_raw(Rc::new(listener)).cast_mut());
        Ok(())
    })
}

unsafe fn address<'a>(address: *const c_char) -> Answer<&'a Path> {
    Ok(Path::new(OsStr::from_bytes(
        string(address, "address")?.to_bytes(),
    )))
}

unsafe fn listener_options(given: *const ringport_listener_options) -> Answer<ListenerOptions> {
    let mut made = ListenerOptions::new();
    let Some(given) = options(given)? else {
        return Ok(made);
    };
    for user in slice(given.users, given.user_count, "users")? {
        made = made.allow_user(*user);
    }
    if given.any_user {
        made = made.allow_any_user();
    }
    if given.largest_capacity != 0 {
        made = made.largest_capacity(given.largest_capacity);
    }
    if given.backlog != 0 {
        made = made.backlog(given.backlog);
    }
    Ok(made)
}

/// Waits for a client, at most `timeout_ns` nanoseconds, and gives the port to it, which the caller frees, and who it is, unless
/// `client` is NULL. A client that is not allowed, or does not speak this protocol, is hung up and not waited for.
///
/// Answers RINGPORT_NOT_YET if none came in time; RINGPORT_BUSY while the listener is in a loop; RINGPORT_SYSTEM for want of
/// descriptors, memory or maps: the client can be accepted by another call within its second.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_accept(
    listener: *mut ringport_listener,
    timeout_ns: i64,
    port: *mut *mut ringport_port,
    client: *mut ringport_credentials,
) -> ringport_status {
    answer(|| {
        let (listener, output) = (given(listener, "listener")?, output(port, "port")?);
        let accepted = listener.home.with(|listener| {
            Ok(match patience(timeout_ns) {
                Patience::Endless => Some(listener.accept()?),
                Patience::None => listener.try_accept()?,
                Patience::For(time) => listener.accept_timeout(time)?,
            })
        })?;
        let (port, who) = accepted.ok_or(Failure::NotYet)?;
        output.write(ringport_port::new(port));
        if !client.is_null() {
            client.write(who.into());
        }
        Ok(())
    })
}

/// A descriptor that is readable when ringport_accept should be called, level-triggered; sometimes for nothing. It stays the
/// listener's. Answers RINGPORT_BUSY while the listener is in a loop.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_listener_fd(
    listener: *mut ringport_listener,
    fd: *mut c_int,
) -> ringport_status {
    answer(|| {
        let (listener, output) = (given(listener, "listener")?, output(fd, "fd")?);
        output.write(
            listener
                .home
                .with(|listener| Ok(listener.as_fd().as_raw_fd()))?,
        );
        Ok(())
    })
}

/// The socket's path, as long as the listener's handle lives. NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_listener_path(
    listener: *const ringport_listener,
) -> *const c_char {
    answer_or(ptr::null(), || {
        Ok(CStr::as_ptr(&given(listener, "listener")?.path))
    })
}

/// Ends the listening, in a loop or not, and removes the socket. Ports that came out of it stay. NULL is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_listener_free(listener: *mut ringport_listener) {
    answer(|| {
        if !listener.is_null() {
            let listener = Rc::from_raw(listener.cast_const());
            listener.home.leave(ringport_loop::take_listener);
        }
        Ok(())
    });
}

/// Connects to a listener: by its name, if that is one of this user's, or by its path, recognised by a `/`. Waits until it has
/// accepted. `options` may be NULL: 64 KiB each way, ten seconds. The caller frees the port.
///
/// Whoever may write to a directory can listen there: a path in one that others may write to can lead to anybody.
///
/// Answers RINGPORT_NOBODY_LISTENS, RINGPORT_NOT_ALLOWED, RINGPORT_REFUSED, RINGPORT_TIMED_OUT, RINGPORT_VERSION_MISMATCH,
/// RINGPORT_ADDRESS, RINGPORT_BAD_SIZE, and what ringport_channel_new answers; RINGPORT_CAPACITY also if the listener does not
/// allow it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_connect(
    address: *const c_char,
    options: *const ringport_connect_options,
    port: *mut *mut ringport_port,
) -> ringport_status {
    answer(|| {
        let (path, output) = (self::address(address)?, output(port, "port")?);
        let mut made = ConnectOptions::new();
        if let Some(given) = crate::arguments::options(options)? {
            let limit = patience(given.timeout_ns).limit();
            made = made
                .channel(channel_options(&given.channel)?)
                .timeout(limit.unwrap_or(Duration::MAX));
        }
        output.write(ringport_port::new(connect_with(path, &made)?));
        Ok(())
    })
}
