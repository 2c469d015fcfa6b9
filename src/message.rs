//! What a message is, on its way out and when it has come: rkyv's bounds under one name, the event and
//! its bytes, the pool the copies live in.
//!
//! Unsafe relies on: callers pass room that is theirs to write ([`archive`]), and bytes that stay as they
//! are while they are shown ([`MessageEvent::in_place`]).
#![allow(unsafe_code)]

use crate::error::{Cause, DataError, PostError};
use crate::port::MessagePort;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{BoxedError, Strategy};
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::sharing::Share;
use rkyv::ser::{Positional, Writer};
use rkyv::util::AlignedVec;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Portable, Serialize};

/// What rkyv serialises a message with.
pub type MessageSerializer<'w> =
    Strategy<rkyv::ser::Serializer<RecordWriter<'w>, ArenaHandle<'w>, Share>, BoxedError>;

/// What rkyv validates a message with.
pub type MessageValidator<'a> =
    Strategy<Validator<ArchiveValidator<'a>, SharedValidator>, BoxedError>;

/// A type that can be posted: any that derives rkyv's `Archive` and `Serialize`.
///
/// Implemented for all of them; there is nothing to write. The archive must not want an alignment of
/// more than 16 bytes. Posting checks that of the type itself; of something deeper inside, such as the
/// elements of a vector, only the receiver's validation sees it.
pub trait Message:
    Archive<Archived: Portable + for<'a> CheckBytes<MessageValidator<'a>>>
    + for<'w> Serialize<MessageSerializer<'w>>
{
}

impl<T> Message for T where
    T: Archive<Archived: Portable + for<'a> CheckBytes<MessageValidator<'a>>>
        + for<'w> Serialize<MessageSerializer<'w>>
{
}

/// Archives deeper than this many pointers are refused: each level takes stack to validate.
const DEEPEST: NonZeroUsize = NonZeroUsize::new(128).unwrap();

/// Writes an archive straight into a ring.
///
/// What does not fit is counted and not written, so that the length needed is known at the end.
pub struct RecordWriter<'w> {
    start: NonNull<u8>,
    room: usize,
    written: usize,
    ring: PhantomData<&'w MessagePort>,
}

impl Positional for RecordWriter<'_> {
    #[inline]
    fn pos(&self) -> usize {
        self.written
    }
}

impl<E> Writer<E> for RecordWriter<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        let end = self.written.saturating_add(bytes.len());
        if end <= self.room {
            // SAFETY: `archive` was given `room` writable bytes from `start` on.
            unsafe {
                self.start
                    .add(self.written)
                    .copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
            }
        }
        self.written = end;
        Ok(())
    }
}

/// The serialiser's scratch memory, kept from post to post.
#[derive(Default)]
pub(crate) struct Scratch(Cell<Option<Arena>>);

/// Serialises `value` to `start` and says how long its archive is. More than `room` bytes were not
/// written.
///
/// # Safety
///
/// `start` points to `room` bytes that this thread may write and nobody reads, aligned to 16.
pub(crate) unsafe fn archive<T: Message>(
    value: &T,
    start: NonNull<u8>,
    room: usize,
    scratch: &Scratch,
) -> Result<usize, PostError> {
    let mut arena = scratch.0.take().unwrap_or_default();
    let writer = RecordWriter {
        start,
        room,
        written: 0,
        ring: PhantomData,
    };
    let mut serializer = rkyv::ser::Serializer::new(writer, arena.acquire(), Share::new());
    let result = rkyv::api::serialize_using(value, &mut serializer);
    let written = serializer.into_writer().written;
    scratch.0.set(Some(arena));
    match result {
        Ok(_) => Ok(written),
        Err(error) => Err(PostError::Serialize(cause(error))),
    }
}

fn cause(error: BoxedError) -> Cause {
    Box::new(error)
}

fn access<T: Message>(bytes: &[u8]) -> Result<&T::Archived, DataError> {
    let archive = ArchiveValidator::with_max_depth(bytes, Some(DEEPEST));
    let mut validator = Validator::new(archive, SharedValidator::new());
    rkyv::api::access_with_context::<T::Archived, _, BoxedError>(bytes, &mut validator).map_err(
        |error| DataError::Invalid {
            type_name: core::any::type_name::<T>(),
            len: bytes.len(),
            source: cause(error),
        },
    )
}

/// A private copy of a message, aligned to what any slot can ask for. Boxed, so that an event that is
/// passed on moves one word of it and not three.
type Buffer = Box<AlignedVec<128>>;

/// Buffers for copies: at most four, each at most the power of two above this port's longest message.
#[derive(Default)]
pub(crate) struct Pool {
    /// The one that is used as long as one message is held at a time.
    first: Cell<Option<Buffer>>,
    more: RefCell<Vec<Buffer>>,
}

impl Pool {
    const MORE: usize = 3;

    /// A buffer with room for `len` bytes, its length anything up to its capacity.
    #[inline(always)]
    pub(crate) fn take(&self, len: usize) -> Buffer {
        match self.first.take() {
            Some(buffer) if buffer.capacity() >= len => buffer,
            other => self.find(other, len),
        }
    }

    #[cold]
    #[inline(never)]
    fn find(&self, first: Option<Buffer>, len: usize) -> Buffer {
        let mut buffer = first
            .or_else(|| self.more.borrow_mut().pop())
            .unwrap_or_default();
        buffer.clear();
        buffer.reserve(len);
        buffer
    }

    #[inline(always)]
    fn put_back(&self, buffer: Buffer) {
        if let Some(other) = self.first.replace(Some(buffer)) {
            self.keep(other);
        }
    }

    #[cold]
    #[inline(never)]
    fn keep(&self, buffer: Buffer) {
        let mut more = self.more.borrow_mut();
        if more.len() < Pool::MORE {
            more.push(buffer);
        }
    }
}

/// A message that has arrived.
///
/// By default it shows a private copy. On a port that [trusts its peer](MessagePort::trust_peer) it
/// shows the ring itself; the room goes back to the poster when the event is dropped.
pub struct MessageEvent<'p> {
    port: &'p MessagePort,
    /// What is shown: the buffer's bytes, or the ring's.
    bytes: NonNull<[u8]>,
    /// `None` if the message is shown in place.
    buffer: Option<Buffer>,
    /// Where the record that is shown in place stands.
    position: u64,
}

impl<'p> MessageEvent<'p> {
    #[inline(always)]
    pub(crate) fn copied(port: &'p MessagePort, buffer: Buffer) -> MessageEvent<'p> {
        MessageEvent {
            port,
            bytes: NonNull::from(buffer.as_slice()),
            buffer: Some(buffer),
            position: 0,
        }
    }

    /// # Safety
    ///
    /// `bytes` are those of the record at `position`, which is held, and nobody writes to them until
    /// it is put back.
    #[inline]
    pub(crate) unsafe fn in_place(
        port: &'p MessagePort,
        bytes: NonNull<[u8]>,
        position: u64,
    ) -> MessageEvent<'p> {
        MessageEvent {
            port,
            bytes,
            buffer: None,
            position,
        }
    }

    /// The message's bytes, aligned to 16.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: these are the buffer's bytes, which stay where they are when it is moved, or those of
        // a record that `in_place` was promised stays as it is until this is dropped.
        unsafe { self.bytes.as_ref() }
    }

    /// The message's length in bytes.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether the message has no bytes. It is a message all the same.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Whether this shows the ring itself and not a copy.
    pub fn is_in_place(&self) -> bool {
        self.buffer.is_none()
    }

    /// The message as an archive of `T`, validated.
    ///
    /// Validation proves that the bytes are *an* archive of `T`, not that the poster meant one: post
    /// an enum when a port carries more than one type.
    ///
    /// # Errors
    ///
    /// [`DataError::Invalid`] when it is none, or is nested more than 128 pointers deep. The message stays as it is; another type may be tried.
    #[inline]
    pub fn data<T: Message>(&self) -> Result<&T::Archived, DataError> {
        access::<T>(self.bytes())
    }

    /// The message apart from its port: it can be kept, and sent to another thread. A copied message
    /// (the default) is not copied again.
    pub fn into_owned(self) -> OwnedMessageEvent {
        // Not dropped: dropping gives back what was taken here.
        let mut this = ManuallyDrop::new(self);
        let buffer = this.buffer.take().unwrap_or_else(|| {
            let mut buffer = Buffer::default();
            buffer.extend_from_slice(this.bytes());
            this.port.put_back(this.position);
            buffer
        });
        OwnedMessageEvent { buffer }
    }
}

impl Drop for MessageEvent<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        match self.buffer.take() {
            Some(buffer) => self.port.pool.put_back(buffer),
            None => self.port.put_back(self.position),
        }
    }
}

impl fmt::Debug for MessageEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageEvent")
            .field("len", &self.len())
            .field("in_place", &self.is_in_place())
            .finish_non_exhaustive()
    }
}

/// A message apart from its port.
pub struct OwnedMessageEvent {
    buffer: Buffer,
}

impl OwnedMessageEvent {
    /// The message's bytes, aligned to 16.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// The message's length in bytes.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether the message has no bytes. It is a message all the same.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The message as an archive of `T`, validated: see [`MessageEvent::data`].
    ///
    /// # Errors
    ///
    /// [`DataError::Invalid`] when it is none.
    pub fn data<T: Message>(&self) -> Result<&T::Archived, DataError> {
        access::<T>(self.bytes())
    }
}

impl fmt::Debug for OwnedMessageEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedMessageEvent")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
