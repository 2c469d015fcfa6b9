//! The floor of a longer round trip: two processes bounce a payload and a flag behind it over bare shared memory,
//! spinning. No queue, no length, no check, no waking: each side writes to where the other one reads next.

use std::env;
use std::hint::spin_loop;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::calls::{self, Mapping};
use super::work::{End, lead_rounds, peer_rounds};
use super::{Peer, Waiting, payload, peer_command};

const MAP: &str = "RINGPORT_BENCH_BARE";

/// Bytes each way, gone through place by place as a ring is.
const AREA: usize = 64 * 1024;

/// One end: where it writes, where it reads, and how often it has done so.
struct Bare {
    memory: Mapping,
    areas: [usize; 2],
    count: [u64; 2],
}

impl Bare {
    /// The flag of place `count` in an area, in a line of its own, and the bytes behind it.
    fn place(&self, area: usize, count: u64, length: usize) -> (&AtomicU64, *mut u8) {
        let size = (64 + length).next_multiple_of(64);
        let offset = area + count as usize % (AREA / size) * size;
        // SAFETY: the place lies in the mapping, which is as long as both areas.
        let start = unsafe { self.memory.start().add(offset) };
        // SAFETY: aligned to a line, alive as long as `self`, and touched only as an atomic.
        (
            unsafe { AtomicU64::from_ptr(start.cast()) },
            start.wrapping_add(64),
        )
    }
}

impl<const LENGTH: usize> End<LENGTH> for Bare {
    fn send(&mut self, sequence: u64) {
        let (flag, bytes) = self.place(self.areas[0], self.count[0], LENGTH);
        // SAFETY: the place has room, and the other side has long read what was there: it has answered since.
        unsafe { payload::fill_at(bytes, LENGTH, sequence) };
        flag.store(self.count[0] + 1, Ordering::Release);
        self.count[0] += 1;
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        let (flag, bytes) = self.place(self.areas[1], self.count[1], LENGTH);
        while flag.load(Ordering::Acquire) != self.count[1] + 1 {
            spin_loop();
        }
        // SAFETY: written before the flag was, and not again before this side has answered.
        let seen = look(unsafe { std::slice::from_raw_parts(bytes, LENGTH) });
        self.count[1] += 1;
        seen
    }
}

/// The lead.
pub fn run_lead<const LENGTH: usize>(name: &str) {
    let file = calls::memory_file();
    calls::set_length(&file, 2 * AREA);
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).expect("an open descriptor");
    let process = peer_command(name)
        .env(MAP, file.as_raw_fd().to_string())
        .spawn();
    let mut peer = Peer::new(process.expect("a peer can be started"));
    let mut end = Bare {
        memory: Mapping::map(&file, 2 * AREA),
        areas: [0, AREA],
        count: [0; 2],
    };
    lead_rounds::<LENGTH>(&mut end, &mut peer, Waiting::Spin, None);
    peer.finish();
}

/// The peer.
pub fn run_peer<const LENGTH: usize>() {
    let number = env::var(MAP).expect("the lead says which descriptor");
    let number = number.parse().expect("a descriptor is a number");
    // SAFETY: the lead left this descriptor open, and nothing here closes it.
    let file = unsafe { BorrowedFd::borrow_raw(number) };
    let mut end = Bare {
        memory: Mapping::map(&file, 2 * AREA),
        areas: [AREA, 0],
        count: [0; 2],
    };
    peer_rounds::<LENGTH>(&mut end);
}
