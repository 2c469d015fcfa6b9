//! Who sleeps, who rings, and who pays for the barrier between.
//!
//! The classic race: a poster publishes, then looks whether the peer sleeps; the peer says that it
//! sleeps, then looks once more for what was published. Unless both keep those two steps in order,
//! each can miss the other, and the peer sleeps for ever beside a message. Keeping a store before a
//! load takes a full barrier, on the posting path the dearest instruction of all. So the sleeper, by
//! the FENCED bit of its state word, decides who pays:
//!
//! ```text
//! poster                                          sleeper
//!   publish (Release store)                         state.fetch_or(WANTS | FENCED)
//!   s = peer.state; 0: done                         FENCED was set:   fence(SeqCst)
//!   s has FENCED: fence(SeqCst), s = peer.state     FENCED was clear: membarrier(GLOBAL_EXPEDITED)
//!   s has WANTS: claim the bit, ring                look once more; nothing: sleep
//! ```
//!
//! *FENCED set before.* Two SeqCst fences, each between a store and a load: one of the two loads sees
//! the other side's store (loom models this).
//!
//! *FENCED clear before.* The poster has only a compiler barrier. `membarrier` makes every CPU that
//! runs a registered process execute a full barrier before it returns. Take the moment at which the
//! poster's CPU does. If the poster's store came before it in program order, the store is visible to the
//! sleeper's second look. If it came after, so does the load of the state, which then sees WANTS.
//! A CPU that does not run the poster at that moment passed a barrier when it switched away.
//! FENCED stays set from here on until the owner clears it, so a poster that reads it pays itself.
//!
//! So only a process that is registered may act on a clear FENCED bit, and only a process that can
//! issue the barrier may clear its own. The registration is made before the first unfenced post; exec
//! undoes it and fork keeps it, as they do with the memory that remembers it.

use crate::ring::Shared;
use crate::ring::layout::{Endpoint, state};
use crate::sync::{Ordering, fence, light_barrier};
use core::cell::Cell;

/// How certain a sleeper can be that a post it missed will ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Certain: it may sleep for ever.
    Unbounded,
    /// The barrier failed: this one sleep must be short. Posts from now on see FENCED.
    Slice,
}

/// The barrier that must stand between saying that this side sleeps and looking once more. One is enough for any
/// number of ports: the dearest that one of them asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[must_use]
pub(crate) enum Owed {
    Fence,
    Membarrier,
}

impl Owed {
    pub(crate) fn pay(self) -> Pace {
        match self {
            Owed::Fence => {
                // ORDERING: SeqCst pairs with the fence in `look_fenced`.
                fence(Ordering::SeqCst);
                Pace::Unbounded
            }
            // The kernel passes a full barrier on the caller's CPU as well.
            Owed::Membarrier if membarrier::issue() => Pace::Unbounded,
            Owed::Membarrier => Pace::Slice,
        }
    }
}

/// One endpoint's view of the two state words.
pub(crate) struct Signal {
    own: Shared<Endpoint>,
    peer: Shared<Endpoint>,
    /// FENCED as long as this process is not known to be registered, zero afterwards.
    must_fence: Cell<u32>,
    /// Whether our own FENCED bit is set. Kept here, since the peer can write to the word itself.
    fenced: Cell<bool>,
}

impl Signal {
    pub(crate) fn new(own: Shared<Endpoint>, peer: Shared<Endpoint>) -> Signal {
        // PEER: any value is possible. A wrong FENCED only costs the writer its own wake-ups.
        let fenced = own.state.load(Ordering::Relaxed) & state::FENCED != 0;
        Signal {
            own,
            peer,
            must_fence: Cell::new(state::FENCED),
            fenced: Cell::new(fenced),
        }
    }

    /// The peer's state, as it is or was a moment ago.
    #[inline(always)]
    pub(crate) fn peer_state(&self) -> u32 {
        // ORDERING: Acquire pairs with the Release in `close`: who sees CLOSED sees every message
        // posted before it.
        // PEER: any value is possible; only single bits of it are looked at.
        self.peer.state.load(Ordering::Acquire)
    }

    /// The peer's state, looked at after what this side has just published.
    #[inline(always)]
    pub(crate) fn look_for_sleeper(&self) -> u32 {
        light_barrier();
        // Relaxed, because the order that matters is the one with our earlier store: see the top.
        // PEER: any value is possible; only single bits of it are looked at.
        let seen = self.peer.state.load(Ordering::Relaxed);
        if seen | self.must_fence.get() == 0 {
            return 0;
        }
        self.look_fenced(seen)
    }

    #[inline]
    fn look_fenced(&self, seen: u32) -> u32 {
        if seen & state::FENCED == 0 && self.must_fence.get() != 0 && membarrier::register() {
            // From the next post on. This one was published before the registration.
            self.must_fence.set(0);
        }
        // ORDERING: SeqCst pairs with the fence, or the membarrier, in `arm`.
        fence(Ordering::SeqCst);
        // ORDERING: Acquire pairs with the AcqRel in `arm`: the room target is seen with its WANTS bit.
        // PEER: any value is possible; only single bits of it are looked at.
        self.peer.state.load(Ordering::Acquire)
    }

    /// Takes one of the peer's WANTS bits away. Who got it must ring.
    pub(crate) fn claim(&self, want: u32) -> bool {
        // ORDERING: AcqRel: what was published stands before it, and the ringing after it.
        self.peer.state.fetch_and(!want, Ordering::AcqRel) & want != 0
    }

    /// Puts a claimed bit back: the ringing failed.
    pub(crate) fn put_back(&self, want: u32) {
        self.peer.state.fetch_or(want, Ordering::AcqRel);
    }

    /// Where the peer's read-position target for room lies.
    pub(crate) fn peer_room_target(&self) -> u64 {
        // Relaxed, because `look_for_sleeper`, which saw the WANTS bit, was the Acquire for it.
        // PEER: any value is possible; it only decides whether the peer itself is rung.
        self.peer.posting.room_target.load(Ordering::Relaxed)
    }

    /// Up to where the peer has posted, by its own word.
    pub(crate) fn peer_write_position(&self) -> u64 {
        // Relaxed, because it is for inspection, and for when to wake the peer itself.
        // PEER: any value is possible; callers report it within the ring's bounds or ring by it.
        self.peer.posting.write_position.load(Ordering::Relaxed)
    }

    /// Says that this side is about to sleep. It must look once more before it does.
    #[cfg(loom)]
    pub(crate) fn arm(&self, wants: u32) -> Pace {
        self.announce(wants).pay()
    }

    /// The same without the barrier that must come before the look.
    pub(crate) fn announce(&self, wants: u32) -> Owed {
        // ORDERING: AcqRel publishes the room target; the barrier owed orders the next look.
        self.own
            .state
            .fetch_or(wants | state::FENCED, Ordering::AcqRel);
        if self.fenced.replace(true) {
            Owed::Fence
        } else {
            Owed::Membarrier
        }
    }

    /// Takes back what is left of `wants`.
    pub(crate) fn disarm(&self, wants: u32) {
        // Relaxed, because a bit left over costs one needless ring and nothing else.
        if self.own.state.load(Ordering::Relaxed) & wants != 0 {
            self.own.state.fetch_and(!wants, Ordering::Relaxed);
        }
    }

    /// Lets the peer post without fences: this side has not slept for a while.
    #[cfg(not(loom))]
    pub(crate) fn unfence(&self) {
        if self.fenced.get() && membarrier::can_issue() {
            self.fenced.set(false);
            // Relaxed, because seeing it late costs only fences, and `arm` undoes it with a barrier.
            self.own.state.fetch_and(!state::FENCED, Ordering::Relaxed);
        }
    }

    /// Says that this side has closed.
    pub(crate) fn close(&self) {
        // ORDERING: Release pairs with the Acquire in `peer_state`.
        self.own.state.fetch_or(state::CLOSED, Ordering::Release);
    }

    /// Whether this side's own word says closed: a handle of a port that was closed before.
    #[cfg(not(loom))]
    pub(crate) fn own_closed(&self) -> bool {
        // PEER: any value is possible. A false CLOSED ends this channel and no other.
        self.own.state.load(Ordering::Acquire) & state::CLOSED != 0
    }
}

/// How the processes of this library order a post against a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// The sleeper pays, by `membarrier(2)`, where the kernel allows it; otherwise as [`Fence`](Barrier::Fence).
    Membarrier,
    /// This process always pays with a fence a post, and is never interrupted for others: for
    /// machines with isolated CPUs.
    Fence,
}

/// Chooses the barrier for this process. The default is [`Barrier::Membarrier`].
///
/// To be called before the first port is made; ports that already post without fences go on doing so.
#[cfg(not(loom))]
pub fn set_barrier(barrier: Barrier) {
    membarrier::set(barrier);
}

#[cfg(not(loom))]
mod membarrier {
    //! The system call, and what this process knows about it.
    #![allow(unsafe_code)]

    use super::Barrier;
    use core::sync::atomic::{AtomicU8, Ordering};

    const UNKNOWN: u8 = 0;
    const YES: u8 = 1;
    const NO: u8 = 2;
    /// Opted out by [`super::set_barrier`].
    const NEVER: u8 = 3;

    // Relaxed everywhere, because each is one fact on its own; to find it out twice does no harm.
    static REGISTERED: AtomicU8 = AtomicU8::new(UNKNOWN);
    static CAN_ISSUE: AtomicU8 = AtomicU8::new(UNKNOWN);

    pub(super) fn set(barrier: Barrier) {
        let answer = match barrier {
            Barrier::Membarrier => UNKNOWN,
            Barrier::Fence => NEVER,
        };
        REGISTERED.store(answer, Ordering::Relaxed);
        CAN_ISSUE.store(answer, Ordering::Relaxed);
    }

    fn call(command: libc::c_int) -> libc::c_long {
        // SAFETY: membarrier takes three integers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
    }

    fn once(answer: &AtomicU8, find_out: impl FnOnce() -> bool) -> bool {
        match answer.load(Ordering::Relaxed) {
            UNKNOWN => {
                let found = find_out();
                let _ = answer.compare_exchange(
                    UNKNOWN,
                    if found { YES } else { NO },
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                found
            }
            known => known == YES,
        }
    }

    /// Registers this process as one that may be interrupted for others, once.
    #[cold]
    pub(super) fn register() -> bool {
        once(&REGISTERED, || {
            call(libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) == 0
        })
    }

    /// Whether this process can make others pass a barrier.
    pub(super) fn can_issue() -> bool {
        once(&CAN_ISSUE, || {
            let supported = call(libc::MEMBARRIER_CMD_QUERY);
            supported > 0
                && supported & libc::c_long::from(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED) != 0
        })
    }

    /// Makes every CPU that runs a registered process pass a full barrier.
    pub(super) fn issue() -> bool {
        call(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED) == 0
    }
}

#[cfg(loom)]
mod membarrier {
    //! Loom has no such barrier: its models stay with fences.

    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn issue() -> bool {
        false
    }
}
