//! The one small type through which a ring reaches its memory.
//!
//! Relies on: whoever makes a [`Memory`] or a [`Shared`] keeps what it points into alive and mapped
//! for as long as any copy of it is used (a port drops its rings before its map).
//!
//! The other process may write to all of it at any time. So there is no reference to the bytes, only
//! raw copies in and out; words that matter are atomics. Under loom both types are backed by loom's
//! atomics on the heap instead.
#![allow(unsafe_code)]

#[cfg(not(loom))]
pub(crate) use native::{Memory, Shared};

#[cfg(loom)]
pub(crate) use model::{Memory, Shared};

#[cfg(not(loom))]
mod native {
    use crate::ring::hint::Hints;
    use crate::ring::layout::LINE;
    use crate::sync::AtomicU64;
    use core::ops::Deref;
    use core::ptr::NonNull;

    /// Up to so many bytes are copied word by word, in no more instructions than the way to `memcpy` takes.
    const SHORT: usize = 32;

    /// The bytes of one ring. Copying it copies the pointer.
    #[derive(Clone, Copy)]
    pub(crate) struct Memory {
        base: NonNull<u8>,
        len: usize,
        hints: Hints,
    }

    // SAFETY: it is a pointer to memory that is meant to be shared; all access is by atomics or by
    // raw copies whose discipline (one producer, one consumer) the ring keeps.
    unsafe impl Send for Memory {}

    impl Memory {
        /// # Safety
        ///
        /// `base` points to `len` readable and writable bytes, aligned to 128, that stay so while
        /// any copy of the result is used, and that no Rust reference covers.
        pub(crate) unsafe fn new(base: NonNull<u8>, len: usize) -> Memory {
            let hints = Hints::of_this_processor();
            Memory { base, len, hints }
        }

        pub(crate) fn len(&self) -> usize {
            self.len
        }

        /// The header word at `offset`, a multiple of 8 below the length.
        #[inline(always)]
        pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
            debug_assert!(offset % 8 == 0 && offset + 8 <= self.len);
            // SAFETY: the ring masks every position to its capacity and positions are 8 modulo 16,
            // so the word lies inside and is aligned; `new` vouches for the memory.
            unsafe { self.base.add(offset).cast::<AtomicU64>().as_ref() }
        }

        /// Where the byte at `offset` lies.
        #[inline(always)]
        pub(crate) fn ptr(&self, offset: usize) -> NonNull<u8> {
            debug_assert!(offset <= self.len);
            // SAFETY: offsets come from records that were checked to lie inside the ring.
            unsafe { self.base.add(offset) }
        }

        #[inline(always)]
        pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
            debug_assert!(offset + bytes.len() <= self.len);
            // SAFETY: the producer has room for these bytes, so they lie inside, and an honest
            // consumer does not read them yet; a dishonest one only harms itself.
            unsafe {
                self.ptr(offset)
                    .copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
            }
        }

        /// Copies `len` bytes out, and what else there is of the last word.
        ///
        /// # Safety
        ///
        /// `to` is valid for writes of `len` bytes rounded up to a multiple of 8, is aligned to 8, and lies in
        /// private memory.
        #[inline(always)]
        pub(crate) unsafe fn read(&self, offset: usize, to: NonNull<u8>, len: usize) {
            debug_assert!(offset % 8 == 0 && offset + len.next_multiple_of(8) <= self.len);
            let from = self.ptr(offset);
            if len > SHORT {
                // SAFETY: the record was checked to lie inside the ring. A hostile producer may write
                // meanwhile: then the copy holds some mixture of bytes, and every mixture is a `u8`.
                unsafe { to.copy_from_nonoverlapping(from, len) };
                return;
            }
            for at in 0..len.div_ceil(8) {
                // SAFETY: as above; records are made of whole words. Volatile, so that no call of `memcpy` is made
                // of it, which would take longer.
                let word = unsafe { from.cast::<u64>().add(at).read_volatile() };
                // SAFETY: the caller has made room for whole words.
                unsafe { to.cast::<u64>().add(at).write(word) };
            }
        }

        /// Copies as many bytes out as `to` has.
        pub(crate) fn read_to(&self, offset: usize, to: &mut [u8]) {
            debug_assert!(offset + to.len() <= self.len);
            let (from, to, len) = (self.ptr(offset), NonNull::from(&mut *to).cast(), to.len());
            // SAFETY: a slice is valid for writes of its length, and no slice lies in shared memory; for the
            // rest see `read`.
            unsafe { from.copy_to_nonoverlapping(to, len) }
        }

        /// Has the cache line at `offset` fetched, to be read soon.
        #[inline(always)]
        pub(crate) fn fetch_to_read(&self, offset: usize) {
            self.hints.to_read(self.ptr(offset));
        }

        /// Has the cache line at `offset` fetched, and taken from the other CPU, to be written soon.
        #[inline(always)]
        pub(crate) fn fetch_to_write(&self, offset: usize) {
            self.hints.to_write(self.ptr(offset));
        }

        /// Offers the cache lines from `offset` on to the other CPU, if this processor can do that.
        #[inline(always)]
        pub(crate) fn push_out(&self, offset: usize, len: usize) {
            if self.hints.can_push_out() {
                for line in (offset..offset + len).step_by(LINE) {
                    self.hints.push_out(self.ptr(line));
                }
            }
        }
    }

    /// A pointer to words both processes write, all of them atomics.
    pub(crate) struct Shared<T>(NonNull<T>);

    // SAFETY: `T` is made of atomics only (`layout::Endpoint`), which any thread may use.
    unsafe impl<T: Sync> Send for Shared<T> {}

    impl<T> Shared<T> {
        /// # Safety
        ///
        /// `to` points to a valid `T` made of atomics only, that stays so while any copy of the
        /// result is used.
        pub(crate) unsafe fn new(to: NonNull<T>) -> Shared<T> {
            Shared(to)
        }
    }

    impl<T> Clone for Shared<T> {
        fn clone(&self) -> Self {
            Shared(self.0)
        }
    }

    impl<T> Deref for Shared<T> {
        type Target = T;

        #[inline(always)]
        fn deref(&self) -> &T {
            // SAFETY: `new` vouches for it.
            unsafe { self.0.as_ref() }
        }
    }
}

#[cfg(loom)]
mod model {
    use crate::sync::{AtomicU64, Ordering};
    use std::ops::Deref;
    use std::sync::Arc;

    #[derive(Clone)]
    pub(crate) struct Memory(Arc<Vec<AtomicU64>>);

    impl Memory {
        pub(crate) fn zeroed(len: usize) -> Memory {
            Memory(Arc::new((0..len / 8).map(|_| AtomicU64::new(0)).collect()))
        }

        pub(crate) fn len(&self) -> usize {
            self.0.len() * 8
        }

        pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
            &self.0[offset / 8]
        }

        /// Whole words only: that is what the models post.
        pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
            for (at, word) in bytes.chunks_exact(8).enumerate() {
                let word = u64::from_ne_bytes(word.try_into().unwrap());
                self.word(offset + at * 8).store(word, Ordering::Relaxed);
            }
        }

        pub(crate) fn fetch_to_read(&self, _: usize) {}

        pub(crate) fn fetch_to_write(&self, _: usize) {}

        pub(crate) fn push_out(&self, _: usize, _: usize) {}
    }

    pub(crate) struct Shared<T>(Arc<T>);

    impl<T> Shared<T> {
        pub(crate) fn of(value: T) -> Shared<T> {
            Shared(Arc::new(value))
        }
    }

    impl<T> Clone for Shared<T> {
        fn clone(&self) -> Self {
            Shared(self.0.clone())
        }
    }

    impl<T> Deref for Shared<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }
}
