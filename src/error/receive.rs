//! Receiving, and reading what was received.

use super::{Cause, CloseReason, FORKED, SystemError, closed};
use std::error::Error;
use std::{fmt, io};

/// Receiving failed. Nothing was consumed.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecvError {
    /// The channel has ended, and everything that was posted before has been received.
    Closed(CloseReason),
    /// This process is a forked child of the one that the port belongs to.
    Forked,
    /// The message could not be taken in, or not be waited for: this process is out of descriptors, of
    /// memory or of maps. Nothing was lost; the next call receives the same message.
    System {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::Closed(reason) => closed(f, *reason),
            RecvError::Forked => f.write_str(FORKED),
            RecvError::System { call, source } => write!(f, "{call}: {source}"),
        }
    }
}

impl Error for RecvError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            RecvError::Closed(_) | RecvError::Forked => None,
            RecvError::System { source, .. } => Some(source),
        }
    }
}

/// A message is not an archive of the type asked for. Another type may be tried.
#[derive(Debug)]
#[non_exhaustive]
pub enum DataError {
    /// Validation found something that an archive of this type cannot hold.
    Invalid {
        /// The type asked for.
        type_name: &'static str,
        /// The message's length in bytes.
        len: usize,
        /// What validation found.
        source: Cause,
    },
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DataError::Invalid {
            type_name,
            len,
            source,
        } = self;
        write!(
            f,
            "the message of {len} bytes is no valid {type_name}: {source}"
        )
    }
}

impl Error for DataError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let DataError::Invalid { source, .. } = self;
        Some(&**source)
    }
}

super::from_system_error!(RecvError);
