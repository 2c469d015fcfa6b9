//! Descriptors from elsewhere that are to become a port.

use super::SystemError;
use crate::PortHandle;
use crate::segment::SHORTEST;
use std::error::Error;
use std::{fmt, io};

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

    pub(crate) fn into_fault(self) -> ImportFault {
        self.fault
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
        /// The file system's type, as `statfs` gives it; tmpfs is 0x1021994. `None` for something that
        /// has no seals, such as a file on a disk or a pipe.
        file_system: Option<i64>,
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

impl ImportFault {
    /// Whether this is about what the segment says, which whoever holds the port's peer can have written
    /// there, and not about the descriptors, which only who sent them chose.
    pub(crate) fn is_of_content(&self) -> bool {
        match self {
            ImportFault::Length { found, .. } => *found >= SHORTEST,
            ImportFault::Magic { .. }
            | ImportFault::Version { .. }
            | ImportFault::Features { .. }
            | ImportFault::Capacity { .. }
            | ImportFault::Positions { .. } => true,
            _ => false,
        }
    }

    /// The error, if this is for want of descriptors, memory or maps, and not because of what was given.
    pub(crate) fn into_shortage(self) -> Option<SystemError> {
        const SHORTAGES: [i32; 5] = [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOMEM,
            libc::ENOBUFS,
            libc::EAGAIN,
        ];
        match self {
            ImportFault::System { call, source }
                if source
                    .raw_os_error()
                    .is_some_and(|error| SHORTAGES.contains(&error)) =>
            {
                Some(SystemError { call, source })
            }
            _ => None,
        }
    }
}

impl fmt::Display for ImportFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportFault::NotASegment { file_system: None } => {
                f.write_str("the segment is no file in memory: it cannot be sealed")
            }
            ImportFault::NotASegment {
                file_system: Some(file_system),
            } => write!(
                f,
                "the segment lies on file system {file_system:#x}, not in memory (tmpfs, 0x1021994)"
            ),
            ImportFault::Seals { found } => write!(
                f,
                "the segment has the seals {found:#x}; it needs SEAL, SHRINK and GROW (0x7) \
                 and must not have WRITE or FUTURE_WRITE (0x18)"
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
                "the segment has layout version {found} and needs a reader of version {needed} or later; \
                 this is version {}",
                crate::ring::layout::VERSION
            ),
            ImportFault::Features { found, expected } => write!(
                f,
                "the segment has the feature bits {found:#x}, this program {expected:#x} \
                 (archives of another endianness, alignment or pointer width)"
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
                "positions {read} (read) and {write} (write) cannot be in a ring of {capacity} bytes: \
                 both must be 8 modulo 16, the second 0 to {capacity} after the first"
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

super::from_system_error!(ImportFault);
