//! What can go wrong: one small enum an operation, each naming the value, the limit, the cause.

mod event_loop;
mod handover;
mod import;
mod meeting;
mod post;
mod receive;

pub use event_loop::{AddError, DetachError, EventLoopError};
pub use handover::ReceiveOverError;
pub use import::{ImportError, ImportFault};
pub use meeting::{AcceptError, BindError, ConnectError};
pub use post::{PostError, ReserveError, TransferError};
pub use receive::{DataError, RecvError};

use std::error::Error;
use std::path::PathBuf;
use std::{fmt, io};

/// The cause inside an error that passes another library's error on.
pub type Cause = Box<dyn Error + Send + Sync + 'static>;

/// Why a channel has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// This port was closed by its holder.
    ClosedHere,
    /// The peer was closed, or dropped, in good order.
    ClosedByPeer,
    /// The peer is gone without having closed: its process died, or nobody ever received it.
    PeerGone,
    /// The peer wrote what no ringport writes. The channel was ended here, to be safe.
    Corrupt,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseReason::ClosedHere => "this port was closed",
            CloseReason::ClosedByPeer => "the peer closed it",
            CloseReason::PeerGone => "the peer is gone without closing it",
            CloseReason::Corrupt => "the peer broke the protocol",
        })
    }
}

/// A system call that failed, inside the crate. Every error that can hold one has a `System` variant.
#[derive(Debug)]
pub(crate) struct SystemError {
    pub(crate) call: &'static str,
    pub(crate) source: io::Error,
}

impl SystemError {
    pub(crate) fn new(call: &'static str, source: impl Into<io::Error>) -> SystemError {
        SystemError {
            call,
            source: source.into(),
        }
    }
}

macro_rules! from_system_error {
    ($($error:ident),*) => {$(
        impl From<SystemError> for $error {
            fn from(SystemError { call, source }: SystemError) -> $error {
                $error::System { call, source }
            }
        }
    )*};
}

pub(crate) use from_system_error;
from_system_error!(NewError);

/// What every call answers in a forked child.
pub(crate) const FORKED: &str =
    "this process is a forked child of the one that the port belongs to";

/// Making a channel failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum NewError {
    /// A capacity is no power of two from 4 KiB to 1 GiB.
    Capacity {
        /// The capacity asked for, in bytes.
        value: usize,
    },
    /// There is not enough memory for the segment.
    Memory {
        /// The segment's size in bytes.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The memory could not be locked.
    Lock {
        /// The segment's size in bytes.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call failed, most likely for lack of descriptors.
    System {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl fmt::Display for NewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NewError::Capacity { value } => write!(
                f,
                "capacity {value} is not a power of two from {} to {}",
                crate::channel::MIN_CAPACITY,
                crate::channel::MAX_CAPACITY
            ),
            NewError::Memory { bytes, source } => {
                write!(f, "no memory for a segment of {bytes} bytes: {source}")
            }
            NewError::Lock { bytes, source } => write!(
                f,
                "cannot lock a segment of {bytes} bytes in memory (see RLIMIT_MEMLOCK): {source}"
            ),
            NewError::System { call, source } => write!(f, "{call}: {source}"),
        }
    }
}

impl Error for NewError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            NewError::Capacity { .. } => None,
            NewError::Memory { source, .. }
            | NewError::Lock { source, .. }
            | NewError::System { source, .. } => Some(source),
        }
    }
}

/// A worker could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum SpawnError {
    /// Its channel could not be made.
    Channel(NewError),
    /// Its process could not be started.
    Spawn {
        /// The program, as it was asked for.
        program: String,
        /// The directory that it was to be started in, if not this process's: it may be what is missing.
        directory: Option<PathBuf>,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpawnError::Channel(error) => write!(f, "cannot make the worker's channel: {error}"),
            SpawnError::Spawn {
                program,
                directory,
                source,
            } => {
                write!(f, "cannot start the worker {program}")?;
                if let Some(directory) = directory {
                    write!(f, " in {}", directory.display())?;
                }
                write!(f, ": {source}")
            }
        }
    }
}

impl Error for SpawnError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SpawnError::Channel(error) => Some(error),
            SpawnError::Spawn { source, .. } => Some(source),
        }
    }
}

impl From<NewError> for SpawnError {
    fn from(error: NewError) -> SpawnError {
        SpawnError::Channel(error)
    }
}

fn closed(f: &mut fmt::Formatter<'_>, reason: CloseReason) -> fmt::Result {
    write!(f, "the channel is closed: {reason}")
}
