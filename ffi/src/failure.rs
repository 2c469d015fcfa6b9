//! What went wrong: a status for the caller, words for `ringport_last_error`, and no panic beyond this point.

use crate::status::*;
use ringport_rs::{
    AcceptError, AddError, BindError, ConnectError, DataError, DetachError, EventLoopError,
    ImportError, ImportFault, NewError, PostError, ReceiveOverError, RecvError, ReserveError,
    SpawnError, TransferError,
};
use std::cell::{OnceCell, RefCell};
use std::ffi::{CString, c_char, c_int};
use std::fmt::Display;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) enum Failure {
    /// Nothing is wrong.
    NotYet,
    // Boxed, so that answers fit a register.
    Error(Box<Error>),
}

pub(crate) struct Error {
    status: ringport_status,
    errno: i32,
    cause: Box<dyn Display>,
    /// Made when somebody asks.
    text: OnceCell<CString>,
}

pub(crate) type Answer<T> = Result<T, Failure>;

thread_local! {
    static LAST: RefCell<Option<Box<Error>>> = const { RefCell::new(None) };
}

impl Failure {
    pub(crate) fn new(status: ringport_status, cause: impl Display + 'static) -> Failure {
        Failure::caused(status, 0, cause)
    }

    #[cold]
    fn caused(status: ringport_status, errno: i32, cause: impl Display + 'static) -> Failure {
        Failure::Error(Box::new(Error {
            status,
            errno,
            cause: Box::new(cause),
            text: OnceCell::new(),
        }))
    }

    /// A failure of the system, in `error` or by itself.
    pub(crate) fn system(source: &io::Error, cause: impl Display + 'static) -> Failure {
        Failure::caused(RINGPORT_SYSTEM, errno(source), cause)
    }

    /// The status, and the words for `ringport_last_error`.
    pub(crate) fn tell(self) -> ringport_status {
        match self {
            Failure::NotYet => RINGPORT_NOT_YET,
            Failure::Error(error) => {
                let status = error.status;
                // Fails when the thread ends: then nobody will ask.
                let _ = LAST.try_with(|last| last.replace(Some(error)));
                status
            }
        }
    }
}

/// Does what a function is to do, and says how it went: a status, whatever happens. The only way out of this library.
#[inline(always)]
pub(crate) fn answer(call: impl FnOnce() -> Answer<()>) -> ringport_status {
    // What a panic leaves behind is said to be a defect; that it is unwound from changes nothing about that.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => RINGPORT_OK,
        Ok(Err(failure)) => failure.tell(),
        Err(panic) => panicked(&panic).tell(),
    }
}

/// The same for functions that answer something else: `default` if it went wrong.
#[inline(always)]
pub(crate) fn answer_or<T>(default: T, call: impl FnOnce() -> Answer<T>) -> T {
    let mut value = default;
    answer(|| {
        value = call()?;
        Ok(())
    });
    value
}

#[cold]
fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(
        RINGPORT_PANIC,
        format!("a defect of the library: {}", text.unwrap_or("a panic")),
    )
}

pub(crate) fn last_text() -> *const c_char {
    LAST.try_with(|last| match &*last.borrow() {
        None => c"".as_ptr(),
        Some(error) => error.text.get_or_init(|| c_string(&*error.cause)).as_ptr(),
    })
    .unwrap_or(c"".as_ptr())
}

pub(crate) fn last_errno() -> c_int {
    LAST.try_with(|last| last.borrow().as_ref().map_or(0, |error| error.errno))
        .unwrap_or(0)
}

fn c_string(cause: &dyn Display) -> CString {
    let mut bytes = cause.to_string().into_bytes();
    bytes.retain(|byte| *byte != 0);
    CString::new(bytes).unwrap_or_default()
}

fn errno(source: &io::Error) -> i32 {
    source.raw_os_error().unwrap_or(0)
}

/// `$error` becomes a failure: its own words, and the status and the system's error that `$statuses` finds in it.
macro_rules! failures {
    ($($error:ty: $statuses:expr;)*) => {$(
        impl From<$error> for Failure {
            #[cold]
            fn from(error: $error) -> Failure {
                let statuses: fn(&$error) -> (ringport_status, Option<&io::Error>) = $statuses;
                let (status, source) = statuses(&error);
                let errno = source.map_or(0, errno);
                Failure::caused(status, errno, error)
            }
        }
    )*};
}

failures! {
    NewError: new_error;
    PostError: |error| match error {
        PostError::Full { .. } => (RINGPORT_FULL, None),
        PostError::TooLarge { .. } => (RINGPORT_TOO_LARGE, None),
        PostError::Busy => (RINGPORT_BUSY, None),
        PostError::Closed(_) => (RINGPORT_CLOSED, None),
        PostError::Alignment { .. } => (RINGPORT_ALIGNMENT, None),
        PostError::ClosedPort { .. } => (RINGPORT_CLOSED_PORT, None),
        PostError::OwnPeer { .. } => (RINGPORT_OWN_PEER, None),
        PostError::TooManyPorts { .. } => (RINGPORT_TOO_MANY_PORTS, None),
        PostError::TransfersFull { .. } => (RINGPORT_TRANSFERS_FULL, None),
        PostError::TooManyInFlight { source } => (RINGPORT_TOO_MANY_IN_FLIGHT, Some(source)),
        PostError::Forked => (RINGPORT_FORKED, None),
        PostError::System { source, .. } => (RINGPORT_SYSTEM, Some(source)),
        // Only values are serialised, and this interface posts bytes.
        _ => (RINGPORT_INVALID, None),
    };
    ReserveError: |error| match error {
        ReserveError::Full { .. } => (RINGPORT_FULL, None),
        ReserveError::TooLarge { .. } => (RINGPORT_TOO_LARGE, None),
        ReserveError::Busy => (RINGPORT_BUSY, None),
        ReserveError::Closed(_) => (RINGPORT_CLOSED, None),
        ReserveError::Alignment { .. } => (RINGPORT_ALIGNMENT, None),
        ReserveError::Forked => (RINGPORT_FORKED, None),
        ReserveError::System { source, .. } => (RINGPORT_SYSTEM, Some(source)),
        _ => (RINGPORT_INVALID, None),
    };
    RecvError: |error| match error {
        RecvError::Closed(_) => (RINGPORT_CLOSED, None),
        RecvError::Forked => (RINGPORT_FORKED, None),
        RecvError::System { source, .. } => (RINGPORT_SYSTEM, Some(source)),
        _ => (RINGPORT_INVALID, None),
    };
    DataError: |_| (RINGPORT_BAD_ARCHIVE, None);
    ReceiveOverError: |error| match error {
        ReceiveOverError::HungUp => (RINGPORT_CLOSED, None),
        ReceiveOverError::NotAPort(fault) => import_fault(fault),
        ReceiveOverError::System { source, .. } => (RINGPORT_SYSTEM, Some(source)),
        _ => (RINGPORT_NOT_A_PORT, None),
    };
    SpawnError: |error| match error {
        SpawnError::Channel(error) => new_error(error),
        SpawnError::Spawn { source, .. } => (RINGPORT_SPAWN, Some(source)),
        _ => (RINGPORT_INVALID, None),
    };
    BindError: |error| match error {
        BindError::InUse { .. } => (RINGPORT_IN_USE, None),
        BindError::System { source, .. } => (RINGPORT_SYSTEM, Some(source)),
        _ => (RINGPORT_ADDRESS, None),
    };
    ConnectError: |error| match error {
        ConnectError::NobodyListens { source, .. } => (RINGPORT_NOBODY_LISTENS, Some(source)),
        ConnectError::NotAllowed { .. } | ConnectError::OtherUser { .. } => (RINGPORT_NOT_ALLOWED, None),
        ConnectError::Capacity { .. } => (RINGPORT_CAPACITY, None),
        ConnectError::Version { .. } => (RINGPORT_VERSION_MISMATCH, None),
        ConnectError::Refused { .. } => (RINGPORT_REFUSED, None),
        ConnectError::TimedOut { .. } => (RINGPORT_TIMED_OUT, None),
        ConnectError::Channel(error) => new_error(error),
        ConnectError::System { source, .. } => (RINGPORT_SYSTEM, Some(source)),
        _ => (RINGPORT_ADDRESS, None),
    };
    AcceptError: |error| match error {
        AcceptError::Forked => (RINGPORT_FORKED, None),
        AcceptError::System { source, .. } => (RINGPORT_SYSTEM, Some(source)),
        _ => (RINGPORT_INVALID, None),
    };
    EventLoopError: |error| match error {
        EventLoopError::Forked => (RINGPORT_FORKED, None),
        EventLoopError::System { source, .. } => (RINGPORT_SYSTEM, Some(source)),
        _ => (RINGPORT_INVALID, None),
    };
    DetachError: |error| match error {
        DetachError::InUse => (RINGPORT_BUSY, None),
        _ => (RINGPORT_NOT_IN_LOOP, None),
    };
}

fn new_error(error: &NewError) -> (ringport_status, Option<&io::Error>) {
    match error {
        NewError::Capacity { .. } => (RINGPORT_CAPACITY, None),
        NewError::Memory { source, .. } => (RINGPORT_NO_MEMORY, Some(source)),
        NewError::Lock { source, .. } => (RINGPORT_MEMORY_LOCK, Some(source)),
        NewError::System { source, .. } => (RINGPORT_SYSTEM, Some(source)),
        _ => (RINGPORT_INVALID, None),
    }
}

fn import_fault(fault: &ImportFault) -> (ringport_status, Option<&io::Error>) {
    match fault {
        ImportFault::System { source, .. } => (RINGPORT_SYSTEM, Some(source)),
        _ => (RINGPORT_NOT_A_PORT, None),
    }
}

/// In words: the error itself has the handle's descriptors.
impl From<&ImportError> for Failure {
    fn from(error: &ImportError) -> Failure {
        let (status, source) = import_fault(error.fault());
        Failure::caused(status, source.map_or(0, errno), error.to_string())
    }
}

impl From<TransferError> for Failure {
    fn from(error: TransferError) -> Failure {
        PostError::from(error).into()
    }
}

impl<T> From<AddError<T>> for Failure {
    fn from(error: AddError<T>) -> Failure {
        error.into_parts().0.into()
    }
}
