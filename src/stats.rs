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
}

/// The running figures, and for how many messages this side has been awake.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) messages_posted: Cell<u64>,
    pub(crate) bytes_posted: Cell<u64>,
    pub(crate) messages_received: Cell<u64>,
    pub(crate) bytes_received: Cell<u64>,
    pub(crate) sleeps: Cell<u64>,
    pub(crate) wakeups: Cell<u64>,
    pub(crate) room_waits: Cell<u64>,
    /// Messages posted and received when it was last armed; see [`Counts::calm`].
    pub(crate) posted_at_arm: Cell<u64>,
    pub(crate) received_at_arm: Cell<u64>,
}

pub(crate) fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get().wrapping_add(n));
}

/// Messages either way without a sleep after which the peer may post without fences.
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

    /// This side goes to sleep, or meant to: from now on it counts anew how long it stays awake.
    pub(crate) fn armed(&self) {
        self.posted_at_arm.set(self.messages_posted.get());
        self.received_at_arm.set(self.messages_received.get());
    }

    /// Whether this side has just posted, or received, so much without sleeping that it may as well
    /// let the peer post without fences. Asks about one moment, so that the answer costs nothing later.
    #[inline(always)]
    pub(crate) fn calm(now: &Cell<u64>, at_arm: &Cell<u64>, messages: usize) -> bool {
        let since = now.get().wrapping_sub(at_arm.get());
        since >= CALM && since - CALM < messages as u64
    }
}
