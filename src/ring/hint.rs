//! Hints to the processor about cache lines. They change nothing but time, and each is given where a measurement
//! asked for it. `core` has a stable function for one of the three, and on x86-64 only.
//!
//! Relies on: none of these instructions faults, whatever address it is given, nor changes a byte.
#![allow(unsafe_code)]

use core::ptr::NonNull;

/// Which hints this processor takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hints {
    write: bool,
    push_out: bool,
}

#[cfg(target_arch = "x86_64")]
impl Hints {
    /// Asked for once a process, as the answer can take a virtual machine microseconds.
    pub(super) fn of_this_processor() -> Hints {
        static HINTS: std::sync::OnceLock<Hints> = std::sync::OnceLock::new();
        *HINTS.get_or_init(|| {
            // PREFETCHW is bit 8 of ECX in leaf 0x8000_0001, CLDEMOTE bit 25 of ECX in leaf 7 (Intel's manual,
            // volume 2, CPUID).
            Hints {
                write: cpuid_ecx(0x8000_0001) & 1 << 8 != 0,
                push_out: cpuid_ecx(7) & 1 << 25 != 0,
            }
        })
    }

    /// The line will soon be read.
    #[inline(always)]
    pub(super) fn to_read(self, line: NonNull<u8>) {
        // SAFETY: it does not fault and changes nothing.
        unsafe {
            core::arch::asm!("prefetcht0 [{}]", in(reg) line.as_ptr(), options(nostack, preserves_flags, readonly));
        }
    }

    /// The line will soon be written: it is taken from other CPUs.
    #[inline(always)]
    pub(super) fn to_write(self, line: NonNull<u8>) {
        if self.write {
            // SAFETY: it does not fault and changes nothing.
            unsafe {
                core::arch::asm!("prefetchw [{}]", in(reg) line.as_ptr(), options(nostack, preserves_flags, readonly));
            }
        }
    }

    /// Whether [`push_out`](Hints::push_out) does anything.
    #[inline(always)]
    pub(super) fn can_push_out(self) -> bool {
        self.push_out
    }

    /// Another CPU will soon read the line: it moves to the cache that they share.
    #[inline(always)]
    pub(super) fn push_out(self, line: NonNull<u8>) {
        // SAFETY: it does not fault and changes no byte. It may stand for nothing, or for any access: it stays
        // where it is among the stores.
        unsafe {
            core::arch::asm!("cldemote [{}]", in(reg) line.as_ptr(), options(nostack, preserves_flags));
        }
    }
}

/// ECX of a leaf of CPUID; zero if this processor has no such leaf.
#[cfg(target_arch = "x86_64")]
fn cpuid_ecx(leaf: u32) -> u32 {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    // Safe functions in newer compilers than the oldest that this builds with.
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 has CPUID, and the leaf is one of those that it says it has.
    unsafe {
        if __cpuid(leaf & 0x8000_0000).eax < leaf {
            return 0;
        }
        __cpuid_count(leaf, 0).ecx
    }
}

#[cfg(target_arch = "aarch64")]
impl Hints {
    /// Every such processor has both prefetches; none can push a line out.
    pub(super) fn of_this_processor() -> Hints {
        Hints {
            write: true,
            push_out: false,
        }
    }

    /// The line will soon be read.
    #[inline(always)]
    pub(super) fn to_read(self, line: NonNull<u8>) {
        // SAFETY: it does not fault and changes nothing.
        unsafe {
            core::arch::asm!("prfm pldl1keep, [{}]", in(reg) line.as_ptr(), options(nostack, preserves_flags, readonly));
        }
    }

    /// The line will soon be written.
    #[inline(always)]
    pub(super) fn to_write(self, line: NonNull<u8>) {
        if self.write {
            // SAFETY: it does not fault and changes nothing.
            unsafe {
                core::arch::asm!("prfm pstl1keep, [{}]", in(reg) line.as_ptr(), options(nostack, preserves_flags, readonly));
            }
        }
    }

    #[inline(always)]
    pub(super) fn can_push_out(self) -> bool {
        self.push_out
    }

    #[inline(always)]
    pub(super) fn push_out(self, _: NonNull<u8>) {}
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
impl Hints {
    /// None are known.
    pub(super) fn of_this_processor() -> Hints {
        Hints {
            write: false,
            push_out: false,
        }
    }

    #[inline(always)]
    pub(super) fn to_read(self, _: NonNull<u8>) {}

    #[inline(always)]
    pub(super) fn to_write(self, _: NonNull<u8>) {
        let _ = self.write;
    }

    #[inline(always)]
    pub(super) fn can_push_out(self) -> bool {
        self.push_out
    }

    #[inline(always)]
    pub(super) fn push_out(self, _: NonNull<u8>) {}
}
