//! The floor: two processes bounce a `u64` over two cache lines, one each way, spinning. Nothing that
//! goes through shared memory and comes back can be faster.

use std::env;
use std::hint::spin_loop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use super::stopwatch::Stopwatch;
use super::{Peer, Waiting, lead, peer, peer_command};

const MAP: &str = "RINGPORT_BENCH_LINES";

/// Where a line lies in the shared cache depends on its address, and makes a difference of a third.
/// So that the floor is no lottery, the two processes move on to other lines now and then.
const PAIRS: u64 = 64;
const ROUNDS_A_PAIR: u64 = 256;
const PAIR_SIZE: usize = 4096;
/// Neighbouring lines are prefetched in pairs, so the two of one pair lie further apart.
const PONG: usize = 2048;
const LENGTH: usize = PAIRS as usize * PAIR_SIZE;

/// All the lines.
pub(super) struct Lines(MmapRaw);

impl Lines {
    /// New lines, and the file to hand on.
    pub(super) fn make() -> (OwnedFd, Self) {
        // Not close-on-exec: the peer inherits the descriptor under its number.
        let file = memfd_create("bench-lines", MFdFlags::empty()).expect("a memfd");
        ftruncate(&file, LENGTH as i64).expect("some pages of memory");
        let lines = Lines::map(file.as_raw_fd());
        (file, lines)
    }

    /// Lets the process that `command` starts find the lines in `file`.
    pub(super) fn hand_on<'a>(command: &'a mut Command, file: &OwnedFd) -> &'a mut Command {
        command.env(MAP, file.as_raw_fd().to_string())
    }

    /// The lines that were handed on to this process.
    pub(super) fn inherited() -> Self {
        let file = env::var(MAP).expect("the lead says which descriptor");
        Lines::map(file.parse().expect("a descriptor is a number"))
    }

    fn map(file: i32) -> Self {
        let map = MmapOptions::new().len(LENGTH).map_raw(file);
        Lines(map.expect("some pages can be mapped"))
    }

    pub(super) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset < LENGTH && offset % 8 == 0);
        // SAFETY: the offset was just checked; the memory stays mapped as long as `self`, and both
        // processes touch it only through atomics.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().add(offset).cast()) }
    }

    /// The two lines over which the round trips from `value` on go, and how many of `units` do.
    fn pair(&self, value: u64, units: u64) -> (&AtomicU64, &AtomicU64, u64) {
        let pair = (value / ROUNDS_A_PAIR % PAIRS) as usize * PAIR_SIZE;
        let rounds = ROUNDS_A_PAIR - value % ROUNDS_A_PAIR;
        (self.word(pair), self.word(pair + PONG), rounds.min(units))
    }
}

pub(super) fn wait_for(line: &AtomicU64, value: u64) {
    while line.load(Ordering::Acquire) != value {
        spin_loop();
    }
}

/// The lead.
pub fn run_lead(name: &str, mut watch: Option<Stopwatch>) {
    let (file, lines) = Lines::make();
    let process = Lines::hand_on(&mut peer_command(name), &file).spawn();
    let mut peer = Peer::new(process.expect("a peer can be started"));
    let mut value = 0;
    lead(&mut peer, Waiting::Spin, |units| {
        if let Some(watch) = &mut watch {
            watch.reset();
        }
        let end = value + units;
        while value < end {
            let (ping, pong, rounds) = lines.pair(value, end - value);
            for _ in 0..rounds {
                value += 1;
                ping.store(value, Ordering::Release);
                wait_for(pong, value);
                if let Some(watch) = &mut watch {
                    watch.lap();
                }
            }
        }
        watch.as_ref().map_or_else(String::new, Stopwatch::note)
    });
    peer.finish();
}

/// The peer: sends back every value it is sent.
pub fn run_peer() {
    let lines = Lines::inherited();
    let mut value = 0;
    peer(|units| {
        let end = value + units;
        while value < end {
            let (ping, pong, rounds) = lines.pair(value, end - value);
            for _ in 0..rounds {
                value += 1;
                wait_for(ping, value);
                pong.store(value, Ordering::Release);
            }
        }
    });
}
