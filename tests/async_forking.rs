//! A forked child and the ports of its parent's tasks: it can do nothing with them, and nothing to them (S63).

#![cfg(feature = "tokio")]

#[path = "forking/child.rs"]
mod child;
mod common;
#[path = "common/ports.rs"]
mod ports;
#[path = "common/tasks.rs"]
mod tasks;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use child::in_a_fork;
use common::{channel, now, sample};
use futures_util::Stream;
use ports::told;
use ringport::{AsyncMessagePort, CloseReason, EventLoopError, PostError, RecvError};
use tasks::{Shared, adopt, counted, in_each_runtime, once, within};

#[test]
fn s63_calls_in_a_forked_child_do_not_disturb_who_waits_in_the_parent() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (port1, port2) = channel();
        let port1 = Shared::new(adopt(port1));
        for round in 0..4 {
            let vain = Arc::new(AtomicU64::new(0));
            let (port, waits) = (port1.clone(), Arc::clone(&vain));
            let task = tokio::spawn(async move { counted(&waits, port.recv()).await });
            while vain.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            in_a_fork(|| {
                let mut port = port1.port();
                let mut cx = Context::from_waker(Waker::noop());
                let polled = port.poll_recv(&mut cx);
                assert!(matches!(polled, Poll::Ready(Err(RecvError::Forked))));
                let polled = port.poll_post_bytes(&mut cx, b"x");
                assert!(matches!(polled, Poll::Ready(Err(PostError::Forked))));
                let polled = Pin::new(&mut *port).poll_next(&mut cx);
                assert!(matches!(polled, Poll::Ready(Some(Err(RecvError::Forked)))));
                port.close();
                assert!(!port.is_closed());
            });
            port2.try_post_bytes(&sample(round)).unwrap();
            let event = within("the parent is woken", task).await.unwrap();
            assert_eq!(event.unwrap().bytes(), sample(round));
        }
    });
}

#[test]
fn s63_dropping_a_port_in_a_forked_child_leaves_the_parents_alone() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (port1, port2) = channel();
        let mut port1 = adopt(port1);
        for round in 0..4 {
            assert!(once(port1.recv()).await.is_none());
            let mut copy = Some(port1);
            in_a_fork(|| {
                let port = copy.take().unwrap();
                if round % 2 == 0 {
                    return drop(port);
                }
                let port = port.into_inner();
                assert!(matches!(port.recv(), Err(RecvError::Forked)));
                let error = AsyncMessagePort::new(port).unwrap_err();
                assert!(matches!(error.error(), EventLoopError::Forked));
                drop(error.into_inner());
            });
            port1 = copy.take().unwrap();
            let task = tokio::spawn(async move {
                let bytes = tasks::next(&mut port1).await;
                (port1, bytes)
            });
            tokio::task::yield_now().await;
            port2.try_post_bytes(&sample(round)).unwrap();
            let (port, bytes) = within("the parent is woken", task).await.unwrap();
            assert_eq!(bytes, sample(round));
            port1 = port;
        }
        port1.post_bytes(b"as before").await.unwrap();
        assert_eq!(now(&port2), b"as before");
        drop(port1);
        assert_eq!(told(&port2), CloseReason::ClosedByPeer);
    });
}
