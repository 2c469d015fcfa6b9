//! What each process did, written down before and after each step, in memory that outlives it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ringport::CloseReason;
use rkyv::rancor::Error;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use super::parcel::{PortId, Stay};

/// Why a channel ended, as the library said.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    ByPeer,
    PeerGone,
    /// Any other: none is right here.
    Wrong,
}

impl From<CloseReason> for Reason {
    fn from(reason: CloseReason) -> Reason {
        match reason {
            CloseReason::ClosedByPeer => Reason::ByPeer,
            CloseReason::PeerGone => Reason::PeerGone,
            _ => Reason::Wrong,
        }
    }
}

/// One line of a log.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both ports of a new channel are held here.
    Made { channel: u64 },
    /// A port was inherited by that actor as it was started.
    Given { port: PortId, to: u64 },
    /// A post begins. The passengers' stays are those that begin with its receipt.
    Posting {
        message: u64,
        from: Stay,
        number: u64,
        last: bool,
        passengers: Vec<Stay>,
    },
    /// It has returned: posted.
    Posted { message: u64 },
    /// It has returned: an error, and the ports are back.
    Refused {
        message: u64,
        closed: Option<Reason>,
    },
    /// A message was received, with so many ports inside.
    Received {
        at: Stay,
        message: u64,
        from: PortId,
        number: u64,
        passengers: Vec<Stay>,
        ports: usize,
    },
    /// A port is going to be closed.
    Closing { stay: Stay },
    /// It has been.
    Closed { stay: Stay },
    /// Receiving said that the channel has ended; the port is given up.
    Ended { stay: Stay, reason: Reason },
    /// Both sides have said their last and heard the other's; the port is given up.
    Finished { stay: Stay },
    /// What the library must not do.
    Fault { what: String },
}

const PATH: &str = "RINGPORT_TEST_LOG";
/// Sparse: only what is written takes memory.
const BYTES: usize = 64 << 20;
/// Bytes used, and lines; then the lines, each after its length.
const HEAD: usize = 16;

/// The log of one process, which alone writes it. Others can read it at any time.
pub struct Log {
    map: MmapRaw,
    file: File,
}

impl Log {
    pub fn new() -> Log {
        let fd = memfd_create("test-log", MFdFlags::MFD_CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(BYTES as u64).unwrap();
        Log::map(file)
    }

    /// Tells a child where to find it: by way of this process, which keeps it open meanwhile.
    pub fn give_to(&self, command: &mut Command) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        command.env(PATH, path);
    }

    /// The one the parent gave.
    pub fn given() -> Log {
        let path = std::env::var(PATH).unwrap();
        Log::map(File::options().read(true).write(true).open(path).unwrap())
    }

    fn map(file: File) -> Log {
        let map = MmapOptions::new().len(BYTES).map_raw(&file).unwrap();
        Log { map, file }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < HEAD / 8);
        // SAFETY: page-aligned, inside the map, which lives as long as `self`; touched as an atomic only.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>().add(index)) }
    }

    /// Appends a line, which is there once this has returned, whatever happens to the process.
    pub fn write(&self, event: &Event) {
        let line = rkyv::to_bytes::<Error>(event).unwrap();
        let used = self.word(0).load(Ordering::Relaxed) as usize;
        let end = used + 8 + line.len();
        assert!(HEAD + end <= BYTES, "the log is full");
        // SAFETY: `used + 8 + line.len()` bytes after the head are inside the map, as was just checked.
        let place = unsafe { self.map.as_mut_ptr().add(HEAD + used) };
        let length = (line.len() as u64).to_le_bytes();
        // SAFETY: eight bytes from `place` on are inside the map; no reader looks beyond what is used.
        unsafe { place.copy_from_nonoverlapping(length.as_ptr(), 8) };
        // SAFETY: as above, and the line comes after its length.
        unsafe {
            place
                .add(8)
                .copy_from_nonoverlapping(line.as_ptr(), line.len())
        };
        self.word(0).store(end as u64, Ordering::Release);
        self.word(1).fetch_add(1, Ordering::Relaxed);
    }

    /// How many lines there are.
    pub fn lines(&self) -> u64 {
        self.word(1).load(Ordering::Relaxed)
    }

    /// All lines.
    pub fn read(&self) -> Vec<Event> {
        let used = self.word(0).load(Ordering::Acquire) as usize;
        let mut bytes = vec![0; used];
        // SAFETY: so many bytes after the head are inside the map, and written: nobody changes them any more.
        unsafe {
            let lines = self.map.as_ptr().add(HEAD);
            lines.copy_to_nonoverlapping(bytes.as_mut_ptr(), used);
        }
        let mut rest = &bytes[..];
        let mut events = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<8>() {
            let (line, tail) = tail.split_at(u64::from_le_bytes(*length) as usize);
            let mut aligned = AlignedVec::<16>::new();
            aligned.extend_from_slice(line);
            events.push(rkyv::from_bytes::<Event, Error>(&aligned).unwrap());
            rest = tail;
        }
        events
    }
}
