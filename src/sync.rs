//! The atomics, from `core` or from the model checker loom.
//!
//! Everything in `ring` and `barrier` takes its atomics from here, so that `--cfg loom` puts the very
//! code that ships under the model checker.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Keeps the compiler, and only the compiler, from moving a later load before an earlier store.
///
/// The processor's half of that order is the sleeper's business (`barrier`). Loom knows no such half
/// barrier; its models always run the fenced protocol, so nothing is lost there.
#[inline(always)]
pub(crate) fn light_barrier() {
    #[cfg(not(loom))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}
