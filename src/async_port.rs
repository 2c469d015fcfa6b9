//! The port for tasks of the tokio runtime.
//!
//! The same attempts as everywhere; between two of them the task says through the port's state word what it waits
//! for, and tokio's reactor watches the doorbell, edge-triggered. A task that receives and one that posts may share
//! the port (`StreamExt::split`), and both wait for the same doorbell: so both are woken by it, and whoever has
//! read rings off the socket wakes the other.
//!
//! Unsafe relies on: a port has the same doorbell from beginning to end.
#![allow(unsafe_code)]

mod reactor;
mod streams;

use crate::error::{AddError, CloseReason, PostError, RecvError, SystemError, TransferError};
use crate::message::{Message, OwnedMessageEvent};
use crate::port::MessagePort;
use crate::stats::Stats;
use crate::wait::SLICE;
use core::cell::Cell;
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker, ready};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerSetTimeFlags};
use reactor::{Alarm, Side, Tasks, Watch, new_alarm};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task::Wake;
use tokio::runtime::Handle;
use tokio::task::coop;

/// A [`MessagePort`] for tasks of the tokio runtime (feature `tokio`).
///
/// It is made of a port and turns back into one ([`into_inner`](AsyncMessagePort::into_inner)); the two ends of a
/// channel may be of either kind. Messages are received apart from the port, so that they can be kept over
/// an `await`. Futures are `Send`. One that is dropped before it is ready has received or posted nothing. Once the
/// runtime it was made in is gone, a call that would have to wait answers `System` instead.
///
/// It is a [`Stream`](futures_core::Stream) of messages that ends when the channel does, and a
/// [`Sink`](futures_sink::Sink) for values of any [message](crate::Message) type. `StreamExt::split` makes two halves
/// of it for two tasks.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ringport::{AsyncMessagePort, MessageChannel};
///
/// let MessageChannel { port1, port2 } = MessageChannel::new()?;
/// let mut port = AsyncMessagePort::new(port1)?;
/// port2.post_bytes(b"hello")?;
/// assert_eq!(port.recv().await?.bytes(), b"hello");
/// port.post_message(&"answer".to_string()).await?;
/// assert_eq!(port2.recv()?.data::<String>()?.as_str(), "answer");
/// # Ok(())
/// # }
/// ```
pub struct AsyncMessagePort {
    // Ended before the port is dropped.
    watch: Watch<RawFd>,
    nap: Option<Watch<Alarm>>,
    runtime: Handle,
    tasks: Arc<Tasks>,
    /// Wakes all of `tasks`: what the reactor is given, which keeps one waker only.
    both: Waker,
    port: MessagePort,
}

/// From and into a port.
impl AsyncMessagePort {
    /// Makes a port known to the reactor of the runtime in which this is called.
    ///
    /// # Errors
    ///
    /// [`AddError`], which gives the port back, when the reactor cannot take it or in a forked child.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without I/O.
    pub fn new(port: MessagePort) -> Result<AsyncMessagePort, AddError<MessagePort>> {
        if !port.is_home() {
            return Err(AddError::new(crate::EventLoopError::Forked, port));
        }
        port.disarm();
        port.stand_down_all();
        let socket = port.doorbell.socket().as_raw_fd();
        // SAFETY: the socket is the port's, which is dropped after the watch, and which nobody takes apart before.
        let watch = match unsafe { Watch::new(socket, port.home()) } {
            Ok(watch) => watch,
            Err(error) => return Err(AddError::new(error.into(), port)),
        };
        let tasks = Arc::new(Tasks::default());
        let both = Waker::from(Arc::clone(&tasks));
        Ok(AsyncMessagePort {
            watch,
            nap: None,
            runtime: Handle::current(),
            tasks,
            both,
            port,
        })
    }

    /// The port, taken out of the reactor, with everything that waits on it.
    pub fn into_inner(self) -> MessagePort {
        let AsyncMessagePort { watch, port, .. } = self;
        drop(watch);
        port.stand_down_all();
        port.transfers.wants_place.set(false);
        port
    }
}

/// Receiving.
impl AsyncMessagePort {
    /// Receives the next message, waiting as long as it takes. A future dropped before it is ready has taken none.
    ///
    /// # Errors
    ///
    /// As [`MessagePort::recv`].
    pub async fn recv(&mut self) -> Result<OwnedMessageEvent, RecvError> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Receives the next message, or has the task woken when there is one.
    ///
    /// # Errors
    ///
    /// As [`MessagePort::recv`].
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<OwnedMessageEvent, RecvError>> {
        self.poll(cx, Side::Receiving, |port| {
            port.receive_next(|event| event.into_owned()).transpose()
        })
    }

    /// Receives the next message if there is one; `Ok(None)` if not.
    ///
    /// # Errors
    ///
    /// As [`MessagePort::try_recv`].
    pub fn try_recv(&mut self) -> Result<Option<OwnedMessageEvent>, RecvError> {
        let received = self.port.try_recv();
        let received = received.map(|event| event.map(|event| event.into_owned()));
        if self.port.doorbell.has_read() {
            // A ring for those who wait may have been in front of a message's ports.
            self.tasks.wake_by_ref();
        }
        received
    }
}

/// Posting.
impl AsyncMessagePort {
    /// Posts a value, waiting for room as long as it takes. A future dropped before it is ready has posted nothing.
    ///
    /// # Errors
    ///
    /// As [`MessagePort::post_message`].
    pub async fn post_message<T: Message>(&mut self, value: &T) -> Result<(), PostError> {
        poll_fn(|cx| self.poll_post(cx, value)).await
    }

    /// Posts a message of bytes, waiting for room as long as it takes. A future dropped before it is ready has
    /// posted nothing.
    ///
    /// # Errors
    ///
    /// As [`MessagePort::post_bytes`].
    pub async fn post_bytes(&mut self, bytes: &[u8]) -> Result<(), PostError> {
        poll_fn(|cx| self.poll_post_bytes(cx, bytes)).await
    }

    /// Posts a value if there is room for it.
    ///
    /// # Errors
    ///
    /// As [`MessagePort::try_post_message`].
    pub fn try_post_message<T: Message>(&mut self, value: &T) -> Result<(), PostError> {
        self.port.try_post_message(value)
    }

    /// Posts a message of bytes if there is room for it.
    ///
    /// # Errors
    ///
    /// As [`MessagePort::try_post_bytes`].
    pub fn try_post_bytes(&mut self, bytes: &[u8]) -> Result<(), PostError> {
        self.port.try_post_bytes(bytes)
    }

    /// Posts a value together with ports, waiting for room as long as it takes. A future dropped before it is ready
    /// has posted nothing, and closes the ports that it was given.
    ///
    /// # Errors
    ///
    /// As [`MessagePort::post_message_with`].
    pub async fn post_message_with<T: Message>(
        &mut self,
        value: &T,
        ports: impl IntoIterator<Item = MessagePort>,
    ) -> Result<(), TransferError> {
        self.transfer(ports, |port, ports| {
            port.try_post_message_with(value, ports)
        })
        .await
    }

    /// Posts a message of bytes together with ports: see
    /// [`post_message_with`](AsyncMessagePort::post_message_with).
    ///
    /// # Errors
    ///
    /// As [`MessagePort::post_bytes_with`].
    pub async fn post_bytes_with(
        &mut self,
        bytes: &[u8],
        ports: impl IntoIterator<Item = MessagePort>,
    ) -> Result<(), TransferError> {
        self.transfer(ports, |port, ports| port.try_post_bytes_with(bytes, ports))
            .await
    }

    /// Posts a value, or has the task woken when there is room for it.
    ///
    /// # Errors
    ///
    /// As [`MessagePort::post_message`].
    pub fn poll_post<T: Message>(
        &mut self,
        cx: &mut Context<'_>,
        value: &T,
    ) -> Poll<Result<(), PostError>> {
        let hint = Cell::new(0);
        self.poll(cx, Side::Posting, |port| {
            port.attempt_message(value, &hint).transpose()
        })
    }

    /// Posts a message of bytes, or has the task woken when there is room for it.
    ///
    /// # Errors
    ///
    /// As [`MessagePort::post_bytes`].
    pub fn poll_post_bytes(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<(), PostError>> {
        self.poll(cx, Side::Posting, |port| {
            port.attempt_bytes(bytes).transpose()
        })
    }

    fn transfer(
        &mut self,
        ports: impl IntoIterator<Item = MessagePort>,
        attempt: impl Fn(&MessagePort, Vec<MessagePort>) -> Result<(), TransferError>,
    ) -> impl Future<Output = Result<(), TransferError>> {
        let mut left: Vec<MessagePort> = ports.into_iter().collect();
        poll_fn(move |cx| {
            let posted = self.poll(cx, Side::Posting, |port| {
                let failed = match attempt(port, core::mem::take(&mut left)) {
                    Ok(()) => return Some(Ok(Ok(()))),
                    Err(failed) => failed,
                };
                let lacks_place = match failed.error() {
                    PostError::Full { .. } => false,
                    PostError::TransfersFull { .. } => true,
                    _ => return Some(Ok(Err(failed))),
                };
                left = failed.into_ports();
                port.transfers.wants_place.set(lacks_place);
                if lacks_place {
                    port.producer.want_nothing();
                }
                None
            });
            posted.map(|posted| match posted {
                Ok(posted) => posted,
                Err(SystemError { call, source }) => {
                    let error = PostError::System { call, source };
                    Err(TransferError::new(error, core::mem::take(&mut left)))
                }
            })
        })
    }
}

/// The port's own.
impl AsyncMessagePort {
    /// Ends the channel for both ends: see [`MessagePort::close`]. Tasks that wait on it are woken.
    pub fn close(&mut self) {
        self.port.close();
        self.tasks.wake_by_ref();
    }

    /// Whether the channel has ended: see [`MessagePort::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.close_reason().is_some()
    }

    /// Why the channel has ended: see [`MessagePort::close_reason`].
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.port.close_reason()
    }

    /// Bytes of the ring in which this port posts.
    pub fn capacity(&self) -> usize {
        self.port.capacity()
    }

    /// The longest message that can be posted here, in bytes: half the capacity less 24. Ports that go with it (16 bytes and
    /// up, with their number) and an alignment beyond 16 take some of that.
    pub fn max_message_len(&self) -> usize {
        self.port.max_message_len()
    }

    /// Bytes of records that wait to be received here: see [`MessagePort::pending`].
    pub fn pending(&self) -> usize {
        self.port.pending()
    }

    /// What went through this port since this process has it.
    pub fn stats(&self) -> Stats {
        self.port.stats()
    }
}

/// Waiting.
impl AsyncMessagePort {
    /// Attempts, and if there is nothing yet has the task woken when the attempt may succeed.
    fn poll<R, E: From<SystemError>>(
        &mut self,
        cx: &mut Context<'_>,
        side: Side,
        mut attempt: impl FnMut(&MessagePort) -> Option<Result<R, E>>,
    ) -> Poll<Result<R, E>> {
        // A task that always finds something lets others run all the same.
        let coop = ready!(coop::poll_proceed(cx));
        // Only a transfer, while it waits, wants this.
        if matches!(side, Side::Posting) {
            self.port.transfers.wants_place.set(false);
        }
        let polled = self.poll_often(cx, side, &mut attempt);
        if polled.is_ready() {
            self.port.stand_down(side.wants());
            coop.made_progress();
        }
        if self.port.doorbell.has_read() {
            // A ring for the other may have been among those.
            self.tasks.wake_one(side.other());
        }
        polled
    }

    fn poll_often<R, E: From<SystemError>>(
        &mut self,
        cx: &mut Context<'_>,
        side: Side,
        attempt: &mut impl FnMut(&MessagePort) -> Option<Result<R, E>>,
    ) -> Poll<Result<R, E>> {
        /// Twice is usual. More often it is a peer at play, or a full socket, about which nobody rings.
        const MOST: usize = 8;
        for _ in 0..MOST {
            if let Some(done) = attempt(&self.port) {
                return Poll::Ready(done);
            }
            if let Err(error) = ready!(self.poll_ring(cx, side)) {
                return Poll::Ready(Err(error.into()));
            }
        }
        ready!(self.poll_nap(cx, side));
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Check, arm, check again, and leave the sleeping to the reactor. `Ready` says: attempt again.
    fn poll_ring(&mut self, cx: &mut Context<'_>, side: Side) -> Poll<Result<(), SystemError>> {
        let port = &self.port;
        port.note(port.doorbell.drain_if_due());
        if port.doorbell.is_clogged() {
            // No more rings can be asked for: too many lie behind a message with ports that was not received.
            return self.poll_nap(cx, side).map(Ok);
        }
        self.tasks.set(side, cx.waker());
        if port.stand_armed(side.wants()) {
            return Poll::Ready(Ok(()));
        }
        let mut both = Context::from_waker(&self.both);
        let mut guard = match ready!(self.watch.fd.poll_read_ready(&mut both)) {
            Ok(guard) => guard,
            Err(error) => return Poll::Ready(Err(SystemError::new("poll_read_ready", error))),
        };
        if guard.ready().is_read_closed() {
            port.note(port.doorbell.drain());
            // Also if it has only ended its own posting, which nobody of ours does.
            port.learn_gone();
        }
        guard.clear_ready();
        Poll::Ready(Ok(()))
    }

    /// Waits a while, for something that nobody rings for.
    fn poll_nap(&mut self, cx: &mut Context<'_>, side: Side) -> Poll<()> {
        self.tasks.set(side, cx.waker());
        if self.nap.is_none() {
            // Whoever polls may be elsewhere, or in no runtime at all.
            let _runtime = self.runtime.enter();
            self.nap = new_alarm(self.port.home());
        }
        let Some(nap) = &self.nap else {
            // Out of descriptors: at least the other tasks go first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        let alarm = nap.fd.get_ref();
        if !alarm.is_set.replace(true) {
            let slice = Expiration::OneShot(TimeSpec::from_duration(SLICE));
            // It can only fail for arguments that are none.
            let _ = alarm.timer.set(slice, TimerSetTimeFlags::empty());
        }
        let mut both = Context::from_waker(&self.both);
        // An error is a runtime that shuts down: then nothing is waited for.
        if let Ok(mut guard) = ready!(nap.fd.poll_read_ready(&mut both)) {
            guard.clear_ready();
        }
        alarm.is_set.set(false);
        Poll::Ready(())
    }
}

impl MessagePort {
    /// Check, arm, check again, for what is wanted and for what somebody else waits for here; whether it is
    /// there.
    fn stand_armed(&self, wants: u32) -> bool {
        self.zero_ahead(wants);
        let standing = self.standing.get() | wants;
        self.standing.set(standing);
        // All of it: a ring for the others may have been taken for one of these.
        self.arm_surely(standing);
        self.is_ready(wants)
    }
}

impl fmt::Debug for AsyncMessagePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncMessagePort").field(&self.port).finish()
    }
}
