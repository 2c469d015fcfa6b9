//! Listening and connecting.

use super::{FORKED, NewError, SystemError};
use crate::address::{AddressFault, MAX_PATH};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

/// A listener could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// The name is empty, `.` or `..`, has a NUL in it, or ends in `.lock`.
    Name {
        /// The name.
        name: PathBuf,
    },
    /// The path is too long for a Unix socket.
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
        /// The longest possible: 107.
        max: usize,
    },
    /// The directory for names is not this user's alone.
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// Somebody listens there.
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something that is no socket lies there. It was left alone.
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    System {
        /// The call.
        call: &'static str,
        /// The path it was about.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BindError {
    pub(crate) fn system(
        call: &'static str,
        path: &Path,
        source: impl Into<io::Error>,
    ) -> BindError {
        BindError::System {
            call,
            path: path.into(),
            source: source.into(),
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::Name { name } => bad_name(f, name),
            BindError::PathTooLong { path, len, max } => too_long(f, path, *len, *max),
            BindError::Directory { path, fault } => bad_directory(f, path, fault),
            BindError::InUse { path } => {
                write!(f, "somebody listens at {} already", path.display())
            }
            BindError::NotASocket { path } => {
                write!(f, "{} is there and is no socket", path.display())
            }
            BindError::System { call, path, source } => failed(f, call, path, source),
        }
    }
}

impl Error for BindError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            BindError::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Connecting failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name is empty, `.` or `..`, has a NUL in it, or ends in `.lock`.
    Name {
        /// The name.
        name: PathBuf,
    },
    /// The path is too long for a Unix socket.
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
        /// The longest possible: 107.
        max: usize,
    },
    /// The directory for names is not this user's alone.
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// Nobody listens there.
    NobodyListens {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Whoever listens does not allow this user.
    NotAllowed {
        /// The socket's path.
        path: PathBuf,
        /// This user's id.
        user: u32,
    },
    /// Whoever listens at a name is not this user, by the kernel's word.
    OtherUser {
        /// The socket's path.
        path: PathBuf,
        /// The id of the user who listens.
        user: u32,
    },
    /// Whoever listens does not allow rings of this capacity.
    Capacity {
        /// The largest capacity it allows, in bytes.
        largest: usize,
        /// The larger of the two asked for, in bytes.
        asked: usize,
    },
    /// Whoever listens speaks no version of the protocol that this library speaks.
    Version {
        /// Its version.
        theirs: u32,
        /// The version of this library.
        ours: u32,
    },
    /// Whoever listens has hung up, or answered what no ringport answers.
    Refused {
        /// The socket's path.
        path: PathBuf,
    },
    /// Whoever listens has not accepted in time.
    TimedOut {
        /// The socket's path.
        path: PathBuf,
        /// How long it was waited.
        after: Duration,
    },
    /// The channel could not be made.
    Channel(NewError),
    /// A system call failed.
    System {
        /// The call.
        call: &'static str,
        /// The path it was about.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ConnectError {
    pub(crate) fn system(
        call: &'static str,
        path: &Path,
        source: impl Into<io::Error>,
    ) -> ConnectError {
        ConnectError::System {
            call,
            path: path.into(),
            source: source.into(),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Name { name } => bad_name(f, name),
            ConnectError::PathTooLong { path, len, max } => too_long(f, path, *len, *max),
            ConnectError::Directory { path, fault } => bad_directory(f, path, fault),
            ConnectError::NobodyListens { path, source } => {
                write!(f, "nobody listens at {}: {source}", path.display())
            }
            ConnectError::NotAllowed { path, user } => write!(
                f,
                "whoever listens at {} does not allow user {user}",
                path.display()
            ),
            ConnectError::OtherUser { path, user } => write!(
                f,
                "whoever listens at {} is user {user}; a name leads to this user only",
                path.display()
            ),
            ConnectError::Capacity { largest, asked } => write!(
                f,
                "rings of {asked} bytes are too large for whoever listens, {largest} is the most"
            ),
            ConnectError::Version { theirs, ours } => write!(
                f,
                "whoever listens speaks version {theirs} of the protocol, this library version {ours}"
            ),
            ConnectError::Refused { path } => write!(
                f,
                "whoever listens at {} hung up, or is no ringport listener",
                path.display()
            ),
            ConnectError::TimedOut { path, after } => write!(
                f,
                "whoever listens at {} did not accept within {after:?}",
                path.display()
            ),
            ConnectError::Channel(error) => write!(f, "cannot make the channel: {error}"),
            ConnectError::System { call, path, source } => failed(f, call, path, source),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ConnectError::NobodyListens { source, .. } | ConnectError::System { source, .. } => {
                Some(source)
            }
            ConnectError::Channel(error) => Some(error),
            _ => None,
        }
    }
}

impl From<NewError> for ConnectError {
    fn from(error: NewError) -> ConnectError {
        ConnectError::Channel(error)
    }
}

macro_rules! from_address_fault {
    ($($error:ident),*) => {$(
        impl From<AddressFault> for $error {
            fn from(fault: AddressFault) -> $error {
                match fault {
                    AddressFault::Name { name } => $error::Name { name },
                    AddressFault::PathTooLong { path, len } => {
                        $error::PathTooLong { path, len, max: MAX_PATH }
                    }
                    AddressFault::Directory { path, fault } => $error::Directory { path, fault },
                    AddressFault::System { call, path, source } => {
                        $error::System { call, path, source }
                    }
                }
            }
        }
    )*};
}

from_address_fault!(BindError, ConnectError);

/// Accepting failed. Clients wait on: those that the kernel holds as long as they like, the others a second.
#[derive(Debug)]
#[non_exhaustive]
pub enum AcceptError {
    /// This process is a forked child of the one that the listener belongs to.
    Forked,
    /// A system call failed, most likely for lack of descriptors, memory or maps.
    System {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

super::from_system_error!(AcceptError);

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AcceptError::Forked => f.write_str(FORKED),
            AcceptError::System { call, source } => write!(f, "{call}: {source}"),
        }
    }
}

impl Error for AcceptError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            AcceptError::Forked => None,
            AcceptError::System { source, .. } => Some(source),
        }
    }
}

fn bad_name(f: &mut fmt::Formatter<'_>, name: &Path) -> fmt::Result {
    write!(
        f,
        "{name:?} is no name for a listener: it must not be empty, \".\" or \"..\", contain NUL, \
         or end in \".lock\""
    )
}

fn too_long(f: &mut fmt::Formatter<'_>, path: &Path, len: usize, max: usize) -> fmt::Result {
    let path = path.display();
    write!(
        f,
        "the path {path} has {len} bytes, {max} is the most a Unix socket can have"
    )
}

fn bad_directory(f: &mut fmt::Formatter<'_>, path: &Path, fault: &str) -> fmt::Result {
    write!(f, "the directory {} {fault}", path.display())
}

fn failed(f: &mut fmt::Formatter<'_>, call: &str, path: &Path, source: &io::Error) -> fmt::Result {
    write!(f, "{call} ({}): {source}", path.display())
}
