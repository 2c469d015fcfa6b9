//! What events show: private copies of messages, or records in the ring, and the ports that came with them.
//!
//! Unsafe relies on: a buffer owns its memory, whose first `len` bytes were written if it shows these; what
//! else it shows stays as it is until it is put back.
#![allow(unsafe_code)]

use crate::port::MessagePort;
use crate::ring::layout::MAX_PAYLOAD_ALIGN;
use core::cell::{Cell, RefCell};
use core::ops::Deref;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc, dealloc};

/// The bytes of a message, and the ports that came with it. They are a private copy, aligned to what any slot can
/// ask for, unless [`lend`](Buffer::lend) was called. Unlike a `Vec` it says so when there is no memory, because a
/// message that cannot be copied now must not be lost.
pub(crate) struct Buffer {
    memory: NonNull<u8>,
    layout: Layout,
    /// Where the bytes are: in the memory, or in a ring.
    shown: NonNull<u8>,
    len: usize,
    /// Where the record that is shown in place stands; 0, where none can be, for a copy.
    position: u64,
    ports: Cell<Vec<MessagePort>>,
}

// SAFETY: it owns plain bytes, and ports, which can be sent. (One that shows a ring belongs to an event that
// refers to the port, and so stays in its thread.)
unsafe impl Send for Buffer {}

impl Buffer {
    /// A buffer with room for at least `len` bytes, that shows none; `None` if there is no memory.
    #[cold]
    pub(crate) fn new(len: usize) -> Option<Box<Buffer>> {
        let size = len.max(MAX_PAYLOAD_ALIGN).checked_next_power_of_two()?;
        let layout = Layout::from_size_align(size, MAX_PAYLOAD_ALIGN).ok()?;
        // SAFETY: the size is not zero.
        let memory = NonNull::new(unsafe { alloc(layout) })?;
        // Boxed, so that an event is two words, which fit registers wherever it goes.
        Some(Box::new(Buffer {
            memory,
            layout,
            shown: memory,
            len: 0,
            position: 0,
            ports: Cell::default(),
        }))
    }

    #[inline(always)]
    fn room(&self) -> usize {
        self.layout.size()
    }

    /// Its own memory.
    #[inline(always)]
    pub(crate) fn memory(&self) -> NonNull<u8> {
        self.memory
    }

    /// Shows the first `len` bytes of its memory, as long as it is not lent.
    ///
    /// # Safety
    ///
    /// So many were written.
    #[inline(always)]
    pub(crate) unsafe fn set_len(&mut self, len: usize) {
        debug_assert!(len <= self.room() && self.position == 0);
        self.len = len;
    }

    /// Shows the record at `position` until it is put back.
    ///
    /// # Safety
    ///
    /// These are its bytes. It is held, and nobody writes to them until it is put back.
    #[inline(always)]
    pub(crate) unsafe fn lend(&mut self, bytes: NonNull<u8>, len: usize, position: u64) {
        self.shown = bytes;
        self.len = len;
        self.position = position;
    }

    /// Where the record that is shown in place stands; `None` for a copy.
    #[inline(always)]
    pub(crate) fn lent(&self) -> Option<u64> {
        (self.position != 0).then_some(self.position)
    }

    /// Shows nothing in place any more, and no bytes; its memory can be used again.
    #[inline(always)]
    pub(crate) fn end_lending(&mut self) {
        self.shown = self.memory;
        self.len = 0;
        self.position = 0;
    }

    /// Puts in the ports that came with the message.
    pub(crate) fn bring(&self, ports: Vec<MessagePort>) {
        self.ports.set(ports);
    }

    pub(crate) fn take_ports(&self) -> Vec<MessagePort> {
        self.ports.take()
    }

    /// Closes the ports that nobody has taken.
    #[cold]
    #[inline(never)]
    fn close_ports(&self) {
        drop(self.ports.take());
    }

    #[inline(always)]
    pub(crate) fn port_count(&self) -> usize {
        // SAFETY: a reference that ends here, to a cell that only this thread has.
        unsafe { (*self.ports.as_ptr()).len() }
    }

    /// A copy of `bytes`; `None` if there is no memory.
    pub(crate) fn copy_of(bytes: &[u8]) -> Option<Box<Buffer>> {
        let mut buffer = Buffer::new(bytes.len())?;
        // SAFETY: there is room for so many, in memory that nobody else knows of.
        unsafe {
            buffer
                .memory
                .copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
            buffer.set_len(bytes.len());
        }
        Some(buffer)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        // SAFETY: the first `len` bytes of the memory were written, as `set_len` was promised, or these are
        // bytes that `lend` was promised stay as they are.
        unsafe { core::slice::from_raw_parts(self.shown.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

/// Buffers that wait for the next message: at most four, each at most the power of two above this port's
/// longest message.
#[derive(Default)]
pub(crate) struct Pool {
    /// The one that is used as long as one message is held at a time.
    first: Cell<Option<Box<Buffer>>>,
    // Boxes as they come and go.
    #[allow(clippy::vec_box)]
    more: RefCell<Vec<Box<Buffer>>>,
}

impl Pool {
    const MORE: usize = 3;

    /// A buffer with room for `len` bytes; `None` if there is no memory.
    #[inline(always)]
    pub(crate) fn take(&self, len: usize) -> Option<Box<Buffer>> {
        match self.first.take() {
            Some(buffer) if buffer.room() >= len => Some(buffer),
            other => self.find(other, len),
        }
    }

    #[cold]
    #[inline(never)]
    fn find(&self, first: Option<Box<Buffer>>, len: usize) -> Option<Box<Buffer>> {
        match first.or_else(|| self.more.borrow_mut().pop()) {
            Some(buffer) if buffer.room() >= len => Some(buffer),
            // One that is too small goes first, so that there is room for the larger one.
            small => {
                drop(small);
                Buffer::new(len)
            }
        }
    }

    #[inline(always)]
    pub(crate) fn put_back(&self, mut buffer: Box<Buffer>) {
        if !buffer.ports.get_mut().is_empty() {
            buffer.close_ports();
        }
        if let Some(other) = self.first.replace(Some(buffer)) {
            self.keep(other);
        }
    }

    #[cold]
    #[inline(never)]
    fn keep(&self, buffer: Box<Buffer>) {
        let mut more = self.more.borrow_mut();
        if more.len() < Pool::MORE {
            more.push(buffer);
        }
    }
}
