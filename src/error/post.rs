//! Posting, reserving, and posting with ports.

use super::{Cause, CloseReason, FORKED, SystemError, closed};
use crate::MessagePort;
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::{fmt, io};

/// A message was not posted. Nothing was sent, and the port stays as usable as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum PostError {
    /// There was no room, or none in time.
    Full {
        /// Bytes of the ring that the message needs, its header and wrapping around included; in a batch,
        /// with the messages before it.
        needed: usize,
        /// Bytes that were free; in a batch, before its first message.
        free: usize,
    },
    /// The message can never fit the ring.
    TooLarge {
        /// The message's length in bytes.
        len: usize,
        /// The largest that this port takes.
        max: usize,
    },
    /// A slot, a batch or another post on this port is under way.
    Busy,
    /// The channel has ended.
    Closed(CloseReason),
    /// The value's archive wants a larger alignment than a message has.
    Alignment {
        /// The alignment wanted, in bytes.
        wanted: usize,
        /// The largest possible here, in bytes.
        max: usize,
    },
    /// The value could not be serialised.
    Serialize(Cause),
    /// A port that was to travel along had been closed here.
    ClosedPort {
        /// Which one of the list, counted from 0.
        index: usize,
    },
    /// A port that was to travel along is the peer of the one it was posted on: nobody could ever receive
    /// it.
    OwnPeer {
        /// Which one of the list, counted from 0.
        index: usize,
    },
    /// More ports than can travel in one message.
    TooManyPorts {
        /// How many there were.
        count: usize,
        /// How many can: 126, since a port has two descriptors and the kernel passes at most 253 at once.
        max: usize,
    },
    /// So many messages with ports wait to be received that no other one can be posted, or none in time.
    TransfersFull {
        /// How many wait.
        waiting: usize,
        /// How many can: 64 in each direction. (Fewer if the socket takes no more: the peer has left it
        /// unread.)
        max: usize,
    },
    /// The kernel has as many descriptors under way for this user as it allows (`RLIMIT_NOFILE` of them,
    /// unless privileged).
    TooManyInFlight {
        /// What the kernel said: `ETOOMANYREFS`.
        source: io::Error,
    },
    /// This process is a forked child of the one that the port belongs to.
    Forked,
    /// Waiting for room failed, most likely for lack of descriptors, or sending did.
    System {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PostError::Full { needed, free } => full(f, *needed, *free),
            PostError::TooLarge { len, max } => too_large(f, *len, *max),
            PostError::Busy => f.write_str(BUSY),
            PostError::Closed(reason) => closed(f, *reason),
            PostError::Alignment { wanted, max } => alignment(f, *wanted, *max),
            PostError::Serialize(cause) => write!(f, "the value cannot be serialised: {cause}"),
            PostError::ClosedPort { index } => {
                write!(f, "port {index} of those to be sent was closed before")
            }
            PostError::OwnPeer { index } => write!(
                f,
                "port {index} of those to be sent is the peer of the port it was posted on"
            ),
            PostError::TooManyPorts { count, max } => write!(
                f,
                "{count} ports are too many for one message, {max} is the most"
            ),
            PostError::TransfersFull { waiting, max } => write!(
                f,
                "no more messages with ports can be sent now: {waiting} wait to be received, of at most {max}"
            ),
            PostError::TooManyInFlight { source } => write!(
                f,
                "too many descriptors of this user are under way (see RLIMIT_NOFILE): {source}"
            ),
            PostError::Forked => f.write_str(FORKED),
            PostError::System { call, source } => write!(f, "{call}: {source}"),
        }
    }
}

impl Error for PostError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            PostError::Serialize(cause) => Some(&**cause),
            PostError::TooManyInFlight { source } | PostError::System { source, .. } => {
                Some(source)
            }
            _ => None,
        }
    }
}

/// A message with ports was not posted. The ports are inside, unharmed; dropping them closes them.
pub struct TransferError {
    // Boxed, so that results which are almost always `Ok` stay small.
    inner: Box<Inner>,
}

struct Inner {
    error: PostError,
    // Ports cannot be shared between threads, errors should be. The lock is never taken.
    ports: Mutex<Vec<MessagePort>>,
}

impl TransferError {
    pub(crate) fn new(error: PostError, ports: Vec<MessagePort>) -> TransferError {
        let ports = Mutex::new(ports);
        TransferError {
            inner: Box::new(Inner { error, ports }),
        }
    }

    /// What was wrong.
    pub fn error(&self) -> &PostError {
        &self.inner.error
    }

    /// Takes the ports back, in the order in which they were listed.
    pub fn into_ports(self) -> Vec<MessagePort> {
        self.into_parts().1
    }

    /// What was wrong, and the ports.
    pub fn into_parts(self) -> (PostError, Vec<MessagePort>) {
        let Inner { error, ports } = *self.inner;
        (
            error,
            ports.into_inner().unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl fmt::Debug for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferError")
            .field("error", self.error())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error().fmt(f)
    }
}

impl Error for TransferError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.error())
    }
}

/// Drops the ports, which closes them.
impl From<TransferError> for PostError {
    fn from(error: TransferError) -> PostError {
        error.into_parts().0
    }
}

/// A slot could not be reserved.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReserveError {
    /// There was no room, or none in time.
    Full {
        /// Bytes of the ring that the slot needs, its header and wrapping around included.
        needed: usize,
        /// Bytes that were free.
        free: usize,
    },
    /// Such a slot can never fit the ring.
    TooLarge {
        /// The slot's length in bytes.
        len: usize,
        /// The largest that this port takes, with the alignment asked for.
        max: usize,
    },
    /// Another slot, a batch or a post on this port is under way.
    Busy,
    /// The channel has ended.
    Closed(CloseReason),
    /// The alignment is no power of two, or larger than a slot can have.
    Alignment {
        /// The alignment wanted, in bytes.
        wanted: usize,
        /// The largest possible, in bytes.
        max: usize,
    },
    /// This process is a forked child of the one that the port belongs to.
    Forked,
    /// Waiting for room failed, most likely for lack of descriptors.
    System {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReserveError::Full { needed, free } => full(f, *needed, *free),
            ReserveError::TooLarge { len, max } => too_large(f, *len, *max),
            ReserveError::Busy => f.write_str(BUSY),
            ReserveError::Closed(reason) => closed(f, *reason),
            ReserveError::Alignment { wanted, max } => alignment(f, *wanted, *max),
            ReserveError::Forked => f.write_str(FORKED),
            ReserveError::System { call, source } => write!(f, "{call}: {source}"),
        }
    }
}

impl Error for ReserveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ReserveError::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<ReserveError> for PostError {
    fn from(error: ReserveError) -> PostError {
        match error {
            ReserveError::Full { needed, free } => PostError::Full { needed, free },
            ReserveError::TooLarge { len, max } => PostError::TooLarge { len, max },
            ReserveError::Busy => PostError::Busy,
            ReserveError::Closed(reason) => PostError::Closed(reason),
            ReserveError::Alignment { wanted, max } => PostError::Alignment { wanted, max },
            ReserveError::Forked => PostError::Forked,
            ReserveError::System { call, source } => PostError::System { call, source },
        }
    }
}

super::from_system_error!(PostError, ReserveError);

const BUSY: &str = "a slot, a batch or another post on this port is under way";

fn full(f: &mut fmt::Formatter<'_>, needed: usize, free: usize) -> fmt::Result {
    write!(
        f,
        "the ring is full: {needed} bytes are needed, {free} are free"
    )
}

fn too_large(f: &mut fmt::Formatter<'_>, len: usize, max: usize) -> fmt::Result {
    write!(
        f,
        "a message of {len} bytes is too large, {max} is the most this channel takes"
    )
}

fn alignment(f: &mut fmt::Formatter<'_>, wanted: usize, max: usize) -> fmt::Result {
    write!(
        f,
        "an alignment of {wanted} bytes is not possible, only powers of two up to {max}"
    )
}
