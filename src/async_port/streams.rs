//! The port as a stream of messages and as a sink for values.

use super::AsyncMessagePort;
use super::reactor::Side;
use crate::error::{PostError, RecvError};
use crate::message::{Message, OwnedMessageEvent};
use core::pin::Pin;
use core::task::{Context, Poll};
use futures_core::Stream;
use futures_sink::Sink;

/// Messages, until the channel has ended. [`close_reason`](AsyncMessagePort::close_reason) tells why it has.
impl Stream for AsyncMessagePort {
    type Item = Result<OwnedMessageEvent, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_recv(cx).map(|received| match received {
            Err(RecvError::Closed(_)) => None,
            received => Some(received),
        })
    }
}

/// Takes values of any message type. It is ready when there is room for the largest message (half the ring), so
/// that nothing is kept back: what was sent is posted, and flushing does nothing. Closing it closes the port.
impl<T: Message> Sink<T> for AsyncMessagePort {
    type Error = PostError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), PostError>> {
        self.poll(cx, Side::Posting, |port| {
            if let Err(error) = port.check_open() {
                return Some(Err(error));
            }
            port.want_room_for(port.max_message_len());
            port.has_room().then_some(Ok(()))
        })
    }

    fn start_send(self: Pin<&mut Self>, value: T) -> Result<(), PostError> {
        self.port.try_post_message(&value)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), PostError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), PostError>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}
