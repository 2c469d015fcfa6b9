//! What two strangers say to each other before they have a channel, and nothing else.
//!
//! ```text
//! hello    client → listener, 16 bytes, with one descriptor: the segment the client has made
//!          0  magic "RINGMEET"        8  version, u32     12  lowest version it speaks, u32
//! answer   listener → client, 24 bytes
//!          0  magic "RINGMEET"        8  version, u32     12  status, u32     16  detail, u64
//! status   0 accepted · 1 user not allowed · 2 version · 3 capacity (detail: the largest allowed)
//!          4 no hello, or no segment that can be used
//! ```
//!
//! All numbers are little-endian. After an answer other than 0 the listener hangs up. After 0 the
//! connection is the channel's doorbell: the client has endpoint 1, the listener's side endpoint 2.

/// The version of this file.
pub(crate) const VERSION: u32 = 1;
/// Bytes of a hello.
pub(crate) const HELLO_LEN: usize = 16;
/// Bytes of an answer.
pub(crate) const ANSWER_LEN: usize = 24;

const MAGIC: [u8; 8] = *b"RINGMEET";

const ACCEPTED: u32 = 0;
const NOT_ALLOWED: u32 = 1;
const OTHER_VERSION: u32 = 2;
const TOO_LARGE: u32 = 3;
const UNUSABLE: u32 = 4;

/// What a listener says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted,
    NotAllowed,
    /// The listener's version.
    Version(u32),
    /// The largest capacity allowed, in bytes.
    TooLarge(u64),
    Unusable,
}

pub(crate) fn hello() -> [u8; HELLO_LEN] {
    let mut bytes = [0; HELLO_LEN];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// What there is to answer to a hello, if it is not one to go on with.
pub(crate) fn check_hello(bytes: &[u8; HELLO_LEN]) -> Result<(), Answer> {
    let (version, lowest) = (u32_at(bytes, 8), u32_at(bytes, 12));
    if bytes[..8] != MAGIC {
        Err(Answer::Unusable)
    } else if version < VERSION || lowest > VERSION {
        Err(Answer::Version(VERSION))
    } else {
        Ok(())
    }
}

impl Answer {
    pub(crate) fn to_bytes(self) -> [u8; ANSWER_LEN] {
        let (status, detail) = match self {
            Answer::Accepted => (ACCEPTED, 0),
            Answer::NotAllowed => (NOT_ALLOWED, 0),
            Answer::Version(_) => (OTHER_VERSION, 0),
            Answer::TooLarge(largest) => (TOO_LARGE, largest),
            Answer::Unusable => (UNUSABLE, 0),
        };
        let mut bytes = [0; ANSWER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&status.to_le_bytes());
        bytes[16..].copy_from_slice(&detail.to_le_bytes());
        bytes
    }

    /// `None` if no listener answers so.
    pub(crate) fn from_bytes(bytes: &[u8; ANSWER_LEN]) -> Option<Answer> {
        if bytes[..8] != MAGIC {
            return None;
        }
        let version = u32_at(bytes, 8);
        let detail = u64::from(u32_at(bytes, 16)) | u64::from(u32_at(bytes, 20)) << 32;
        match u32_at(bytes, 12) {
            ACCEPTED if version == VERSION => Some(Answer::Accepted),
            NOT_ALLOWED => Some(Answer::NotAllowed),
            OTHER_VERSION => Some(Answer::Version(version)),
            TOO_LARGE => Some(Answer::TooLarge(detail)),
            UNUSABLE => Some(Answer::Unusable),
            _ => None,
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_back_from_its_bytes() {
        for answer in [
            Answer::Accepted,
            Answer::NotAllowed,
            Answer::Version(VERSION),
            Answer::TooLarge(0x0123_4567_89ab_cdef),
            Answer::Unusable,
        ] {
            let bytes = answer.to_bytes();
            assert_eq!(Answer::from_bytes(&bytes), Some(answer));
            // Every bit of the magic and of the status counts.
            for bit in (0..64).chain(96..128) {
                let mut other = bytes;
                other[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(Answer::from_bytes(&other), Some(answer), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_hello_is_checked() {
        let mut bytes = hello();
        assert_eq!(check_hello(&bytes), Ok(()));
        bytes[8] = 9;
        assert_eq!(check_hello(&bytes), Ok(()), "newer, and speaks ours");
        bytes[12] = 2;
        assert_eq!(check_hello(&bytes), Err(Answer::Version(VERSION)));
        bytes[8] = 0;
        assert_eq!(check_hello(&bytes), Err(Answer::Version(VERSION)));
        bytes[0] ^= 1;
        assert_eq!(check_hello(&bytes), Err(Answer::Unusable));
    }
}
