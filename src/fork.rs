//! Whether this process is the one that a port belongs to.
//!
//! A forked child has all of the parent's memory and descriptors, and with them ports that are not its
//! own: two processes at one end would tear the ring apart. So every port remembers the generation of the
//! process it was made in, and every call compares it with the one on a page that the kernel wipes in a
//! forked child (`MADV_WIPEONFORK`, Linux 4.14): a load instead of the system call `getpid`.
//!
//! Unsafe relies on: the page is never unmapped.
#![allow(unsafe_code)]

use crate::error::SystemError;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use memmap2::MmapMut;
use std::io;

// Relaxed everywhere below, because the page holds one number that stands for itself; only the pointer to
// it is published with Release and Acquire.

/// The page, once there is one. No lock: a child forked while another thread held it would wait for ever.
static PAGE: AtomicPtr<u64> = AtomicPtr::new(ptr::null_mut());
/// Generations given so far. A child goes on counting where its parent stood, so that no number of an
/// ancestor's comes again.
static GIVEN: AtomicU64 = AtomicU64::new(0);

/// The process in which something was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    page: &'static AtomicU64,
    generation: u64,
}

impl Home {
    /// This process.
    pub(crate) fn here() -> Result<Home, SystemError> {
        let page = page()?;
        let mut generation = page.load(Ordering::Relaxed);
        if generation == 0 {
            let new = GIVEN.fetch_add(1, Ordering::Relaxed) + 1;
            generation = page
                .compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed)
                .map_or_else(|other| other, |_| new);
        }
        Ok(Home { page, generation })
    }

    /// Whether this is still that process, and not a child forked from it.
    #[inline(always)]
    pub(crate) fn is_here(&self) -> bool {
        self.page.load(Ordering::Relaxed) == self.generation
    }
}

fn page() -> Result<&'static AtomicU64, SystemError> {
    let mut page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        page = publish(new_page()?);
    }
    // SAFETY: a page of our own, aligned, zeroed or holding a generation, never unmapped, and used
    // through atomics only.
    Ok(unsafe { AtomicU64::from_ptr(page) })
}

fn new_page() -> Result<MmapMut, SystemError> {
    let mut map =
        MmapMut::map_anon(size_of::<u64>()).map_err(|error| SystemError::new("mmap", error))?;
    // SAFETY: the range is that of a private anonymous mapping of our own, which this advice needs.
    let advised =
        unsafe { libc::madvise(map.as_mut_ptr().cast(), map.len(), libc::MADV_WIPEONFORK) };
    if advised == 0 {
        Ok(map)
    } else {
        let error = io::Error::last_os_error();
        Err(SystemError::new("madvise(MADV_WIPEONFORK)", error))
    }
}

/// Makes `map` the page of this process, unless another thread was faster; the page that it is.
fn publish(mut map: MmapMut) -> *mut u64 {
    let new = map.as_mut_ptr().cast();
    // ORDERING: Release pairs with the Acquire in `page`: who sees the pointer sees the page.
    match PAGE.compare_exchange(ptr::null_mut(), new, Ordering::Release, Ordering::Acquire) {
        Ok(_) => {
            core::mem::forget(map);
            new
        }
        Err(other) => other,
    }
}
