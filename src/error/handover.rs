//! Receiving a port over a socket that is no channel of ours.

use super::{ImportFault, SystemError};
use std::error::Error;
use std::{fmt, io};

/// No port was received over a socket. Nothing was read from it, if nobody else reads there.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReceiveOverError {
    /// The other end of the socket is closed, and everything was read.
    HungUp,
    /// What comes next on the socket is no port.
    Unexpected {
        /// The next byte; `None` for an empty packet. A port's is `P`.
        byte: Option<u8>,
        /// Descriptors that come with it, or in a stream right behind it. With a port there are two.
        descriptors: usize,
        /// Whether more bytes come right behind it, without a port's descriptors between. Not so with a port.
        goes_on: bool,
    },
    /// What comes next looks like a port, and its two descriptors are none.
    NotAPort(ImportFault),
    /// A system call failed: `EAGAIN` from a socket that does not block when nothing is there yet; or this process is
    /// out of descriptors, of memory or of maps, and the next call receives the same port.
    System {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

super::from_system_error!(ReceiveOverError);

impl From<ImportFault> for ReceiveOverError {
    fn from(fault: ImportFault) -> ReceiveOverError {
        match fault {
            ImportFault::System { call, source } => SystemError::new(call, source).into(),
            fault => ReceiveOverError::NotAPort(fault),
        }
    }
}

impl fmt::Display for ReceiveOverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReceiveOverError::HungUp => f.write_str("the other end of the socket is closed"),
            ReceiveOverError::Unexpected {
                byte,
                descriptors,
                goes_on,
            } => {
                match byte {
                    Some(byte) => write!(f, "the next byte on the socket is {byte:#04x}")?,
                    None => f.write_str("the next packet on the socket is empty")?,
                }
                let more = if *goes_on { " and more bytes" } else { "" };
                write!(
                    f,
                    ", with {descriptors} descriptors{more}; a port is 0x50 with 2"
                )
            }
            ReceiveOverError::NotAPort(fault) => {
                write!(f, "not a port that can be used here: {fault}")
            }
            ReceiveOverError::System { call, source } => write!(f, "{call}: {source}"),
        }
    }
}

impl Error for ReceiveOverError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ReceiveOverError::HungUp | ReceiveOverError::Unexpected { .. } => None,
            ReceiveOverError::NotAPort(fault) => Some(fault),
            ReceiveOverError::System { source, .. } => Some(source),
        }
    }
}
