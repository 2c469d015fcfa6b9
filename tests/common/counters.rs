//! Numbers in shared memory: what a process had done, told even after it was killed between two
//! instructions. Not the library under test, so that it can bear witness.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

const PATH: &str = "RINGPORT_TEST_COUNTERS";
const SLOTS: usize = 8;

/// A few `u64` that parent and child share.
pub struct Counters {
    map: MmapRaw,
    file: File,
}

impl Counters {
    /// The slot for how many posts have returned, or messages were received.
    pub const DONE: usize = 0;
    /// The slot for the thread that works.
    pub const THREAD: usize = 1;
    /// The slot for "what comes next waits".
    pub const READY: usize = 2;

    /// All zero.
    pub fn new() -> Self {
        let fd: OwnedFd = memfd_create("test-counters", MFdFlags::MFD_CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len((SLOTS * 8) as u64).unwrap();
        Self::map(file)
    }

    /// Tells a child where to find them: by way of this process, which keeps them open meanwhile.
    pub fn give_to(&self, command: &mut Command) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        command.env(PATH, path);
    }

    /// Those the parent gave.
    pub fn given() -> Self {
        let path = std::env::var(PATH).unwrap();
        Self::map(File::options().read(true).write(true).open(path).unwrap())
    }

    fn map(file: File) -> Self {
        let map = MmapOptions::new().len(SLOTS * 8).map_raw(&file).unwrap();
        Self { map, file }
    }

    fn slot(&self, slot: usize) -> &AtomicU64 {
        assert!(slot < SLOTS);
        // SAFETY: the map is page-aligned, SLOTS * 8 bytes long and lives as long as `self`; every
        // process touches it through atomics only.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>().add(slot)) }
    }

    /// Stores `value`.
    pub fn set(&self, slot: usize, value: u64) {
        self.slot(slot).store(value, Ordering::SeqCst);
    }

    /// Loads a value.
    pub fn get(&self, slot: usize) -> u64 {
        self.slot(slot).load(Ordering::SeqCst)
    }

    /// Waits until a value is at least `least`.
    #[track_caller]
    pub fn until(&self, slot: usize, least: u64) {
        super::until("the counter is reached", || self.get(slot) >= least);
    }

    /// In the child: what comes next is the wait that the test is about.
    pub fn ready(&self) {
        self.set(Self::THREAD, super::thread_id().into());
        self.set(Self::READY, 1);
    }

    /// In the parent: waits until the child has said `ready` and its thread sleeps.
    #[track_caller]
    pub fn until_asleep(&self, process: u32) {
        self.until(Self::READY, 1);
        super::until_asleep(process, self.get(Self::THREAD) as u32);
    }
}
