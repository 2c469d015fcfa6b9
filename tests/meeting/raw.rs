//! The handshake by hand, as a program that is not this library, or is up to no good.
//!
//! The hello has 16 bytes and one descriptor: magic, version, lowest version. The answer has 24: magic, version,
//! status, detail. The segment's header names, at byte 48, the inode of the connecting socket.

#![allow(dead_code)] // each test binary uses a part of it

use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use ringport::{ChannelOptions, MessageChannel};

use crate::common::PATIENCE;

pub const MAGIC: [u8; 8] = *b"RINGMEET";

pub const ACCEPTED: u32 = 0;
pub const NOT_ALLOWED: u32 = 1;
pub const OTHER_VERSION: u32 = 2;
pub const TOO_LARGE: u32 = 3;
pub const UNUSABLE: u32 = 4;

/// Where in a segment's header the inode is.
pub const INODE: u64 = 48;

pub fn hello(version: u32, lowest: u32) -> Vec<u8> {
    let numbers = [version.to_le_bytes(), lowest.to_le_bytes()];
    [&MAGIC[..], &numbers.concat()].concat()
}

pub fn answer(version: u32, status: u32, detail: u64) -> Vec<u8> {
    let numbers = [version.to_le_bytes(), status.to_le_bytes()];
    [&MAGIC[..], &numbers.concat(), &detail.to_le_bytes()].concat()
}

/// What a listener has answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub version: u32,
    pub status: u32,
    pub detail: u64,
}

/// The listener's answer; `None` if it hung up without one.
#[track_caller]
pub fn read_answer(socket: &UnixStream) -> Option<Answer> {
    let mut bytes = [0; 24];
    let mut read = 0;
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    while read < bytes.len() {
        match (&mut &*socket).read(&mut bytes[read..]) {
            Ok(0) => break,
            Ok(len) => read += len,
            // It hung up with something of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("no answer within {PATIENCE:?}: {error}"),
        }
    }
    if read == 0 {
        return None;
    }
    assert_eq!(read, bytes.len(), "half an answer");
    assert_eq!(bytes[..8], MAGIC);
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    Some(Answer {
        version: number(8),
        status: number(12),
        detail: u64::from_le_bytes(bytes[16..].try_into().unwrap()),
    })
}

/// Whether the other end hangs up, or has, within `timeout`. What it sends first is passed over.
pub fn hung_up(socket: &UnixStream, timeout: Duration) -> bool {
    let nonzero = timeout.max(Duration::from_micros(1));
    socket.set_read_timeout(Some(nonzero)).unwrap();
    let mut bytes = [0; 64];
    loop {
        match (&mut &*socket).read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends bytes, and descriptors with the first of them; who has hung up misses them.
pub fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let numbers: Vec<_> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[] } else { &rights[..] };
    let data = [IoSlice::new(bytes)];
    match sendmsg::<()>(
        socket.as_raw_fd(),
        &data,
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    ) {
        Ok(sent) => assert_eq!(sent, bytes.len()),
        Err(Errno::EPIPE | Errno::ECONNRESET) => {}
        Err(errno) => panic!("{errno}"),
    }
}

/// The segment of a new channel that nobody holds.
fn segment(options: &ChannelOptions) -> File {
    let MessageChannel { port1, port2 } = MessageChannel::with_options(options).unwrap();
    // Taken apart, not closed.
    drop(port2.into_handle());
    File::from(port1.into_handle().segment)
}

/// A segment that fits a connection.
pub fn segment_for(socket: &UnixStream, options: &ChannelOptions) -> File {
    let segment = segment(options);
    let inode = inode_of(socket);
    segment.write_all_at(&inode.to_le_bytes(), INODE).unwrap();
    segment
}

/// The inode number of a socket.
pub fn inode_of(socket: &UnixStream) -> u64 {
    let socket = OwnedFd::from(socket.try_clone().unwrap());
    File::from(socket).metadata().unwrap().ino()
}

/// A copy of a segment with other seals.
pub fn resealed(segment: &File, seals: SealFlag) -> File {
    let mut bytes = vec![0; segment.metadata().unwrap().len() as usize];
    segment.read_exact_at(&mut bytes, 0).unwrap();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copy = File::from(memfd_create("resealed", flags).unwrap());
    copy.write_all_at(&bytes, 0).unwrap();
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    copy
}

/// Numbers at random, the same each run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len())]
    }
}
