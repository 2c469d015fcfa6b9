//! What a port counts, and what it concludes from that.

use core::cell::Cell;

/// What went through a port since this process has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages posted.
    pub messages_posted: u64,
    /// Bytes of messages posted.
    pub bytes_posted: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Bytes of messages received.
    pub bytes_received: u64,
    /// Times this side went to sleep in the kernel.
    pub sleeps: u64,
    /// Times this side woke the peer.
    pub wakeups: u64,
    /// Posts that had to wait for room.
    pub room_waits: u64,
    /// Ports that went away in messages posted.
    pub ports_posted: u64,
    /// Ports that came in messages received.
    pub ports_received: u64,
}

/// The running figures, and whether this side has been awake for long.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) messages_posted: Cell<u64>,
    pub(crate) bytes_posted: Cell<u64>,
    pub(crate) messages_received: Cell<u64>,
    pub(crate) bytes_received: Cell<u64>,
    pub(crate) sleeps: Cell<u64>,
    pub(crate) wakeups: Cell<u64>,
    pub(crate) room_waits: Cell<u64>,
    pub(crate) ports_posted: Cell<u64>,
    pub(crate) ports_received: Cell<u64>,
    /// Whether this side has not gone to sleep since the last milestone.
    calm: Cell<bool>,
}

pub(crate) fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get().wrapping_add(n));
}

/// Messages between two milestones. Nobody who slept since the last one is calm, so that a side lets its
/// peer post without fences when it was awake for 256 to 511 messages of one direction.
const CALM: u64 = 256;

impl Counts {
    #[inline(always)]
    pub(crate) fn posted(&self, messages: usize, bytes: usize) {
        add(&self.messages_posted, messages as u64);
        add(&self.bytes_posted, bytes as u64);
    }

    #[inline(always)]
    pub(crate) fn received(&self, bytes: usize) {
        add(&self.messages_received, 1);
        add(&self.bytes_received, bytes as u64);
    }

    /// This side goes to sleep, or meant to.
    pub(crate) fn armed(&self) {
        self.calm.set(false);
    }

    /// Whether it is time to ask for [`calm`](Counts::calm): every so many messages of one direction.
    #[inline(always)]
    pub(crate) fn milestone(count: &Cell<u64>, messages: usize) -> bool {
        count.get() % CALM < messages as u64
    }

    /// Whether this side has not gone to sleep since it was asked last.
    pub(crate) fn calm(&self) -> bool {
        self.calm.replace(true)
    }
}
