//! The floor: two processes bounce a `u64` over two cache lines, one each way, spinning. Nothing that
//! goes through shared memory and comes back can be faster.

use std::env;
use std::hint::spin_loop;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use super::{Peer, lead, peer, peer_command};

const MAP: &str = "RINGPORT_BENCH_LINES";

/// Neighbouring lines are prefetched in pairs, so the two that count lie further apart.
const PONG: usize = 256;
const LENGTH: usize = 4096;

/// The two lines.
struct Lines(MmapRaw);

impl Lines {
    fn map(file: i32) -> Self {
        let map = MmapOptions::new().len(LENGTH).map_raw(file);
        Lines(map.expect("a page can be mapped"))
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset < LENGTH && offset % 8 == 0);
        // SAFETY: the offset is 0 or PONG, inside the page this map is and a multiple of 8; the
        // memory stays mapped as long as `self`, and both processes touch it only through atomics.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().add(offset).cast()) }
    }

    fn ping(&self) -> &AtomicU64 {
        self.word(0)
    }

    fn pong(&self) -> &AtomicU64 {
        self.word(PONG)
    }
}

fn wait_for(line: &AtomicU64, value: u64) {
    while line.load(Ordering::Acquire) != value {
        spin_loop();
    }
}

/// The lead: `each` is called after every round trip, `note` after every half.
pub fn run_lead(name: &str, mut each: impl FnMut(), mut note: impl FnMut() -> String) {
    // Not close-on-exec: the peer inherits the descriptor under its number.
    let file = memfd_create("bench-lines", MFdFlags::empty()).expect("a memfd");
    ftruncate(&file, LENGTH as i64).expect("a page of memory");
    let lines = Lines::map(file.as_raw_fd());
    let process = peer_command(name)
        .env(MAP, file.as_raw_fd().to_string())
        .spawn();
    let mut peer = Peer::new(process.expect("a peer can be started"));
    let mut value = 0;
    lead(
        |order| peer.tell(order),
        |units| {
            for _ in 0..units {
                value += 1;
                lines.ping().store(value, Ordering::Release);
                wait_for(lines.pong(), value);
                each();
            }
            note()
        },
    );
    peer.finish();
}

/// The peer: sends back every value it is sent.
pub fn run_peer() {
    let file = env::var(MAP).expect("the lead says which descriptor");
    let lines = Lines::map(file.parse().expect("a descriptor is a number"));
    let mut value = 0;
    peer(|units| {
        for _ in 0..units {
            value += 1;
            wait_for(lines.ping(), value);
            lines.pong().store(value, Ordering::Release);
        }
    });
}
