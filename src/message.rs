//! What a message is, on its way out and when it has come: rkyv's bounds under one name, the event and
//! its bytes, the ports that came along.
//!
//! Unsafe relies on: callers pass room that is theirs to write ([`archive`]); an event gives its buffer up once.
#![allow(unsafe_code)]

use crate::error::{Cause, DataError, PostError};
use crate::pool::Buffer;
use crate::port::MessagePort;
use core::cell::Cell;
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
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Portable, Serialize};
use std::alloc::{Layout, handle_alloc_error};

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

/// A message that has arrived.
///
/// By default it shows a private copy. On a port that [trusts its peer](MessagePort::trust_peer) it
/// shows the ring itself; the room goes back to the poster when the event is dropped. Ports that came with
/// it and were not [taken](MessageEvent::take_ports) are closed then.
pub struct MessageEvent<'p> {
    port: &'p MessagePort,
    /// The bytes, and what came with them. Given up once, by `drop` or `into_owned`.
    buffer: ManuallyDrop<Box<Buffer>>,
}

impl<'p> MessageEvent<'p> {
    #[inline(always)]
    pub(crate) fn new(port: &'p MessagePort, buffer: Box<Buffer>) -> MessageEvent<'p> {
        MessageEvent {
            port,
            buffer: ManuallyDrop::new(buffer),
        }
    }

    /// The message's bytes, aligned to 16.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
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
    #[inline]
    pub fn is_in_place(&self) -> bool {
        self.buffer.lent().is_some()
    }

    /// The message as an archive of `T`, validated.
    ///
    /// Validation proves that the bytes are *an* archive of `T`, not that the poster meant one: post
    /// an enum when a port carries more than one type.
    ///
    /// # Errors
    ///
    /// [`DataError::Invalid`] when it is none, or is nested more than 128 pointers deep. The message stays as
    /// it is; another type may be tried.
    #[inline]
    pub fn data<T: Message>(&self) -> Result<&T::Archived, DataError> {
        access::<T>(self.bytes())
    }

    /// Takes the ports that came with the message, in the order in which they were listed. Nothing is left
    /// for a second call.
    ///
    /// They are not trusted and not started, whatever they were before.
    pub fn take_ports(&self) -> Vec<MessagePort> {
        self.buffer.take_ports()
    }

    /// How many ports came with the message and were not taken yet.
    #[inline]
    pub fn port_count(&self) -> usize {
        self.buffer.port_count()
    }

    /// The message apart from its port: it can be kept, and sent to another thread. A copied message
    /// (the default) is not copied again. Ports that were not taken go with it.
    #[inline]
    pub fn into_owned(self) -> OwnedMessageEvent {
        // Not dropped: dropping gives back what is taken here.
        let mut this = ManuallyDrop::new(self);
        // SAFETY: taken once, from an event that is never dropped nor used again.
        let buffer = unsafe { ManuallyDrop::take(&mut this.buffer) };
        match buffer.lent() {
            None => OwnedMessageEvent { buffer },
            Some(position) => this.copied_out(position, buffer),
        }
    }

    #[cold]
    fn copied_out(&self, position: u64, buffer: Box<Buffer>) -> OwnedMessageEvent {
        let copy = Buffer::copy_of(&buffer)
            .unwrap_or_else(|| handle_alloc_error(Layout::for_value::<[u8]>(&buffer)));
        copy.bring(buffer.take_ports());
        self.port.put_back(position, buffer);
        OwnedMessageEvent { buffer: copy }
    }
}

impl Drop for MessageEvent<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: taken once, as nobody uses the event after this.
        let buffer = unsafe { ManuallyDrop::take(&mut self.buffer) };
        match buffer.lent() {
            None => self.port.pool.put_back(buffer),
            Some(position) => self.port.put_back(position, buffer),
        }
    }
}

impl fmt::Debug for MessageEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageEvent")
            .field("len", &self.len())
            .field("in_place", &self.is_in_place())
            .field("ports", &self.port_count())
            .finish_non_exhaustive()
    }
}

/// A message apart from its port. Its memory can be given [back](MessagePort::reuse) to a port.
pub struct OwnedMessageEvent {
    buffer: Box<Buffer>,
}

impl MessagePort {
    /// Ends a message and keeps its memory for messages to come, as happens by itself with a
    /// [`MessageEvent`]: so a program that makes its messages [owned](MessageEvent::into_owned) receives without
    /// allocating too. It need not be a message of this port. Ports in it that were not taken are closed.
    #[inline]
    pub fn reuse(&self, message: OwnedMessageEvent) {
        self.pool.put_back(message.buffer);
    }
}

impl OwnedMessageEvent {
    /// The message's bytes, aligned to 16.
    #[inline]
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

    /// Takes the ports that came with the message: see [`MessageEvent::take_ports`].
    pub fn take_ports(&self) -> Vec<MessagePort> {
        self.buffer.take_ports()
    }

    /// How many ports came with the message and were not taken yet.
    pub fn port_count(&self) -> usize {
        self.buffer.port_count()
    }
}

impl fmt::Debug for OwnedMessageEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedMessageEvent")
            .field("len", &self.len())
            .field("ports", &self.port_count())
            .finish_non_exhaustive()
    }
}
