//! Making and running an event loop, putting something into it, taking it out.

use super::{FORKED, SystemError};
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::{fmt, io};

/// An event loop could not be made, or not be run.
#[derive(Debug)]
#[non_exhaustive]
pub enum EventLoopError {
    /// This process is a forked child of the one that the loop belongs to.
    Forked,
    /// A system call failed, most likely for lack of descriptors.
    System {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

super::from_system_error!(EventLoopError);

impl fmt::Display for EventLoopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventLoopError::Forked => f.write_str(FORKED),
            EventLoopError::System { call, source } => write!(f, "{call}: {source}"),
        }
    }
}

impl Error for EventLoopError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            EventLoopError::Forked => None,
            EventLoopError::System { source, .. } => Some(source),
        }
    }
}

/// Something could not be put into an event loop. It is inside, unharmed.
pub struct AddError<T> {
    // Boxed, so that results which are almost always `Ok` stay small.
    inner: Box<Inner<T>>,
}

struct Inner<T> {
    error: EventLoopError,
    // Ports cannot be shared between threads, errors should be. The lock is never taken.
    what: Mutex<T>,
}

impl<T> AddError<T> {
    pub(crate) fn new(error: EventLoopError, what: T) -> AddError<T> {
        let what = Mutex::new(what);
        AddError {
            inner: Box::new(Inner { error, what }),
        }
    }

    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> AddError<U> {
        let (error, what) = self.into_parts();
        AddError::new(error, change(what))
    }

    /// What was wrong.
    pub fn error(&self) -> &EventLoopError {
        &self.inner.error
    }

    /// Takes back what was to be put in.
    pub fn into_inner(self) -> T {
        self.into_parts().1
    }

    /// What was wrong, and what was to be put in.
    pub fn into_parts(self) -> (EventLoopError, T) {
        let Inner { error, what } = *self.inner;
        (
            error,
            what.into_inner().unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl<T> fmt::Debug for AddError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddError")
            .field("error", self.error())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for AddError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error().fmt(f)
    }
}

impl<T> Error for AddError<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.error())
    }
}

/// A port could not be taken out of an event loop. It stays in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DetachError {
    /// It is not in this loop: it has left, or was never in it.
    Unknown,
    /// An event of it, or an `Attached`, is alive.
    InUse,
}

impl fmt::Display for DetachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DetachError::Unknown => "the port is not in this event loop",
            DetachError::InUse => {
                "the port is in use: drop its event, or give that to `detach`, and drop what `port` gave"
            }
        })
    }
}

impl Error for DetachError {}
