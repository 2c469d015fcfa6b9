//! What can go wrong: one small enum an operation, each naming the value, the limit, the cause.

use crate::PortHandle;
use std::error::Error;
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

from_system_error!(NewError, ImportFault, PostError, ReserveError, RecvError);

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

/// A handle could not be made into a port. The handle is inside, unharmed.
#[derive(Debug)]
pub struct ImportError {
    fault: ImportFault,
    // Boxed, so that results which are almost always `Ok` stay small.
    handle: Box<PortHandle>,
}

impl ImportError {
    pub(crate) fn new(fault: ImportFault, handle: PortHandle) -> ImportError {
        ImportError {
            fault,
            handle: Box::new(handle),
        }
    }

    /// What was wrong.
    pub fn fault(&self) -> &ImportFault {
        &self.fault
    }

    /// Takes the handle back, for instance to try again when memory was short.
    pub fn into_handle(self) -> PortHandle {
        *self.handle
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a port that can be used here: {}", self.fault)
    }
}

impl Error for ImportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.fault)
    }
}

/// What is wrong with a handle.
#[derive(Debug)]
#[non_exhaustive]
pub enum ImportFault {
    /// The segment descriptor is not of a file in memory (tmpfs), which alone can be sealed.
    NotASegment {
        /// The file system's type, as `statfs` gives it; tmpfs is 0x1021994.
        file_system: i64,
    },
    /// The segment is not sealed so that it can neither shrink nor grow and stays writable.
    Seals {
        /// The seals found, as `F_GET_SEALS` gives them.
        found: i32,
    },
    /// The segment's length is not what its header says.
    Length {
        /// Bytes found.
        found: u64,
        /// Bytes that the header asks for.
        expected: u64,
    },
    /// The segment does not begin with `RINGPORT`.
    Magic {
        /// The bytes found.
        found: [u8; 8],
    },
    /// The layout is of a version that this library does not read.
    Version {
        /// The lowest version that can read the segment.
        needed: u32,
        /// The segment's own version.
        found: u32,
    },
    /// The archives in it are of another shape (rkyv's endianness, alignment or pointer width).
    Features {
        /// The segment's feature bits.
        found: u64,
        /// This program's.
        expected: u64,
    },
    /// A capacity in the header is no power of two from 4 KiB to 1 GiB.
    Capacity {
        /// The capacity found, in bytes.
        found: u64,
    },
    /// The positions of a ring cannot be.
    Positions {
        /// Where the consumer stands.
        read: u64,
        /// Where the producer stands.
        write: u64,
        /// The ring's capacity in bytes.
        capacity: usize,
    },
    /// The doorbell descriptor is not a connected Unix stream socket.
    NotADoorbell {
        /// What it is instead.
        found: &'static str,
    },
    /// A system call failed. With memory or maps short it may go well another time.
    System {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl fmt::Display for ImportFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportFault::NotASegment { file_system } => write!(
                f,
                "the segment lies on file system {file_system:#x}, not in memory (tmpfs, 0x1021994)"
            ),
            ImportFault::Seals { found } => write!(
                f,
                "the segment has the seals {found:#x}; it needs SEAL, SHRINK and GROW (0x7) and must not have WRITE or FUTURE_WRITE (0x18)"
            ),
            ImportFault::Length { found, expected } => {
                write!(f, "the segment is {found} bytes long, not {expected}")
            }
            ImportFault::Magic { found } => write!(
                f,
                "the segment begins with \"{}\", not with \"RINGPORT\"",
                found.escape_ascii()
            ),
            ImportFault::Version { needed, found } => write!(
                f,
                "the segment has layout version {found} and needs a reader of version {needed} or later; this is version {}",
                crate::ring::layout::VERSION
            ),
            ImportFault::Features { found, expected } => write!(
                f,
                "the segment has the feature bits {found:#x}, this program {expected:#x} (archives of another endianness, alignment or pointer width)"
            ),
            ImportFault::Capacity { found } => write!(
                f,
                "capacity {found} is not a power of two from {} to {}",
                crate::channel::MIN_CAPACITY,
                crate::channel::MAX_CAPACITY
            ),
            ImportFault::Positions {
                read,
                write,
                capacity,
            } => write!(
                f,
                "positions {read} (read) and {write} (write) cannot be in a ring of {capacity} bytes: both must be 8 modulo 16, the second 0 to {capacity} after the first"
            ),
            ImportFault::NotADoorbell { found } => {
                write!(
                    f,
                    "the doorbell is {found}, not a connected Unix stream socket"
                )
            }
            ImportFault::System { call, source } => write!(f, "{call}: {source}"),
        }
    }
}

impl Error for ImportFault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ImportFault::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

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
    /// Waiting for room failed, most likely for lack of descriptors.
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
            PostError::System { call, source } => write!(f, "{call}: {source}"),
        }
    }
}

impl Error for PostError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            PostError::Serialize(cause) => Some(&**cause),
            PostError::System { source, .. } => Some(source),
            _ => None,
        }
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
            ReserveError::System { call, source } => PostError::System { call, source },
        }
    }
}

/// Receiving failed. Nothing was consumed.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecvError {
    /// The channel has ended, and everything that was posted before has been received.
    Closed(CloseReason),
    /// Waiting failed, most likely for lack of descriptors.
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
            RecvError::System { call, source } => write!(f, "{call}: {source}"),
        }
    }
}

impl Error for RecvError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            RecvError::Closed(_) => None,
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
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpawnError::Channel(error) => write!(f, "cannot make the worker's channel: {error}"),
            SpawnError::Spawn { program, source } => {
                write!(f, "cannot start the worker {program}: {source}")
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

fn closed(f: &mut fmt::Formatter<'_>, reason: CloseReason) -> fmt::Result {
    write!(f, "the channel is closed: {reason}")
}

fn alignment(f: &mut fmt::Formatter<'_>, wanted: usize, max: usize) -> fmt::Result {
    write!(
        f,
        "an alignment of {wanted} bytes is not possible, only powers of two up to {max}"
    )
}
