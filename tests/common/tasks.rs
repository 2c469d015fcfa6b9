//! Tasks: runtimes to run them in, waits with a bound, futures that are watched, given up, or shared by two.

#![allow(dead_code)] // each test binary uses a part of it

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use ringport::{AsyncMessagePort, MessagePort, OwnedMessageEvent, PostError, RecvError};
use tokio::runtime::{Builder, Runtime};

use crate::common::PATIENCE;

/// One thread that does everything.
pub fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Two threads, between which tasks move.
pub fn two_workers() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Every kind of runtime.
pub const RUNTIMES: [fn() -> Runtime; 2] = [current_thread, two_workers];

/// Rounds in pieces, each of which ends long before the watchdog looks: so many, or as many as RINGPORT_SOAK says.
/// With each piece a number that is different each time.
pub fn pieces(short: u64) -> impl Iterator<Item = (u64, u64)> {
    const PIECE: u64 = 20_000;
    let wanted = match std::env::var("RINGPORT_SOAK") {
        Ok(text) => text.parse().expect("RINGPORT_SOAK is a number of rounds"),
        Err(_) => short,
    };
    let pieces = wanted.div_ceil(PIECE);
    (0..pieces).map(move |piece| (piece + 1, PIECE.min(wanted - piece * PIECE)))
}

/// Runs a future as a task of a runtime of each kind, so that it is polled by a worker where there are some.
pub fn in_each_runtime<F>(test: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    for runtime in RUNTIMES {
        let runtime = runtime();
        let task = runtime.spawn(test());
        runtime.block_on(within("the task ends", task)).unwrap();
    }
}

/// The port for tasks of the runtime in which this is called.
#[track_caller]
pub fn adopt(port: MessagePort) -> AsyncMessagePort {
    AsyncMessagePort::new(port).unwrap()
}

/// What a future gives, which must be within [`PATIENCE`].
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("still not so: {what}"),
    }
}

/// The bytes of the next message.
pub async fn next(port: &mut AsyncMessagePort) -> Vec<u8> {
    let event = within("a message", port.recv()).await;
    event.unwrap().bytes().to_vec()
}

/// Polls once, then gives the future up.
pub async fn once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

/// Counts how often a future is polled in vain.
pub async fn counted<F: Future>(vain: &AtomicU64, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            vain.fetch_add(1, Ordering::SeqCst);
        }
        polled
    })
    .await
}

/// How often a future is polled in vain during so long a time, in which it must not become ready.
pub async fn polls_in<F: Future>(time: Duration, future: F) -> u64 {
    let vain = AtomicU64::new(0);
    let ended = tokio::time::timeout(time, counted(&vain, future)).await;
    assert!(ended.is_err(), "it was to wait");
    vain.into_inner()
}

/// A port that several tasks use, each for as long as a poll takes: what a split does, but with all of its methods.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<AsyncMessagePort>>);

impl Shared {
    pub fn new(port: AsyncMessagePort) -> Shared {
        Shared(Arc::new(Mutex::new(port)))
    }

    pub fn port(&self) -> MutexGuard<'_, AsyncMessagePort> {
        self.0.lock().unwrap()
    }

    async fn poll<R>(
        &self,
        mut poll: impl FnMut(&mut AsyncMessagePort, &mut Context<'_>) -> Poll<R>,
    ) -> R {
        poll_fn(|cx| poll(&mut self.port(), cx)).await
    }

    pub async fn recv(&self) -> Result<OwnedMessageEvent, RecvError> {
        self.poll(|port, cx| port.poll_recv(cx)).await
    }

    pub async fn post_bytes(&self, bytes: &[u8]) -> Result<(), PostError> {
        self.poll(|port, cx| port.poll_post_bytes(cx, bytes)).await
    }

    /// The port, once nobody else has a share.
    #[track_caller]
    pub fn into_inner(self) -> AsyncMessagePort {
        let port = Arc::into_inner(self.0).expect("the last share");
        port.into_inner().unwrap()
    }
}
