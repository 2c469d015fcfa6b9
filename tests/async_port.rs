//! Ports for tasks: becoming one and ceasing to be, receiving and posting with waits, many at once.

#![cfg(feature = "tokio")]

mod common;
#[path = "common/tasks.rs"]
mod tasks;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use common::{
    AT_ONCE, Greeting, PATIENCE, channel, channel_of, greeting, nothing, now, sample, sample_of,
    until,
};
use futures_util::{SinkExt, StreamExt};
use ringport::{
    Armed, AsyncMessagePort, CloseReason, Interest, MessagePort, PostError, RecvError, WaitStrategy,
};
use tasks::{adopt, counted, current_thread, in_each_runtime, next, once, within};
use tokio::runtime::Builder;

/// Never called: it is enough that it compiles.
#[expect(dead_code)]
fn futures_and_the_port_are_send(mut port: AsyncMessagePort, gift: MessagePort) {
    fn both<T: Send + Unpin + 'static>(_: &T) {}
    fn send<T: Send>(_: T) {}
    both(&port);
    send(port.recv());
    send(port.post_message(&greeting(0)));
    send(port.post_bytes(b"x"));
    send(port.post_message_with(&1_u64, [gift]));
    send(port.post_bytes_with(b"x", Vec::<MessagePort>::new()));
    send(port.next());
    send(port.send(1_u64));
    let (sink, stream) = StreamExt::split::<u64>(port);
    both(&sink);
    both(&stream);
}

/// Waits, in a thread outside of the runtime, until a task was polled in vain.
fn when_waiting(vain: &Arc<AtomicU64>, then: impl FnOnce() + Send + 'static) {
    let vain = Arc::clone(vain);
    thread::spawn(move || {
        until("the task waits", || vain.load(Ordering::SeqCst) > 0);
        then();
    });
}

#[test]
fn s17_recv_waits_until_a_message_comes() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (port1, port2) = channel();
        let mut port2 = adopt(port2);
        let port1 = Arc::new(std::sync::Mutex::new(port1));
        for index in 0..50 {
            let vain = Arc::new(AtomicU64::new(0));
            let poster = Arc::clone(&port1);
            when_waiting(&vain, move || {
                poster
                    .lock()
                    .unwrap()
                    .try_post_bytes(&sample(index))
                    .unwrap();
            });
            let event = within("a message", counted(&vain, port2.recv())).await;
            assert_eq!(event.unwrap().bytes(), sample(index));
        }
    });
}

#[test]
fn s11_a_post_waits_until_there_is_room() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (port1, port2) = channel_of(4096);
        let mut port1 = adopt(port1);
        let mut posted = 0;
        while once(port1.post_bytes(&sample_of(posted, 500)))
            .await
            .is_some()
        {
            posted += 1;
        }
        let vain = Arc::new(AtomicU64::new(0));
        let (give_back, given_back) = tokio::sync::oneshot::channel();
        when_waiting(&vain, move || {
            (0..4).for_each(|index| assert_eq!(now(&port2), sample_of(index, 500)));
            give_back.send(port2).unwrap();
        });
        let message = Greeting {
            text: "x".repeat(600),
            numbers: vec![7; 9],
        };
        let post = counted(&vain, port1.post_message(&message));
        within("room", post).await.unwrap();
        let port2 = given_back.await.unwrap();
        (4..posted).for_each(|index| assert_eq!(now(&port2), sample_of(index, 500)));
        let event = port2.try_recv().unwrap().unwrap();
        assert_eq!(event.data::<Greeting>().unwrap().text, message.text);
        drop(event);
        assert!(nothing(&port2));
    });
}

#[test]
fn messages_are_kept_over_awaits_and_go_to_other_tasks() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (port1, port2) = channel();
        let (mut port1, mut port2) = (adopt(port1), adopt(port2));
        let mut kept = Vec::new();
        for index in 0..100 {
            port1.post_message(&greeting(index)).await.unwrap();
            kept.push(within("a message", port2.recv()).await.unwrap());
        }
        let task = tokio::spawn(async move {
            for (event, index) in kept.iter().zip(0..) {
                let Greeting { text, numbers } = greeting(index);
                let archived = event.data::<Greeting>().unwrap();
                assert_eq!(archived.text, text);
                assert_eq!(archived.numbers, numbers);
            }
            kept.len()
        });
        assert_eq!(task.await.unwrap(), 100);
    });
}

#[test]
fn s20_a_message_of_another_type_is_an_error_of_that_access() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (port1, port2) = channel();
        let mut port2 = adopt(port2);
        port1.try_post_bytes(&[0xff; 3]).unwrap();
        port1.try_post_bytes(b"").unwrap();
        port1.try_post_message(&greeting(1)).unwrap();
        let event = port2.recv().await.unwrap();
        assert!(event.data::<Greeting>().is_err());
        assert_eq!(event.bytes(), [0xff; 3]);
        assert!(port2.recv().await.unwrap().is_empty());
        assert!(port2.recv().await.unwrap().data::<Greeting>().is_ok());
        assert!(port2.try_recv().unwrap().is_none());
        let too_large = vec![0; port2.max_message_len() + 1];
        let refused = port2.post_bytes(&too_large).await;
        assert!(matches!(refused, Err(PostError::TooLarge { .. })));
        assert_eq!(port2.close_reason(), None);
    });
}

#[test]
fn s33_a_port_becomes_one_for_tasks_and_back_with_what_waits_in_it() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        const MESSAGES: u64 = 4000;
        let (port1, port2) = channel_of(4096);
        let poster = thread::spawn(move || {
            port1.set_wait_strategy(WaitStrategy::Block);
            for index in 0..MESSAGES {
                port1.post_bytes_timeout(&sample(index), PATIENCE).unwrap();
            }
            port1
        });
        let (mut port, mut received) = (port2, 0);
        while received < MESSAGES {
            // A task that never waits would find its budget used up.
            tokio::task::yield_now().await;
            let mut task = adopt(port);
            // Asks for the next one, and perhaps leaves with that request standing.
            for _ in 0..1 + received % 3 {
                if let Some(event) = once(task.recv()).await {
                    assert_eq!(event.unwrap().bytes(), sample(received));
                    received += 1;
                }
            }
            port = task.into_inner();
            if received < MESSAGES && received % 4 == 0 {
                assert_eq!(common::next(&port), sample(received));
                received += 1;
                if received % 8 == 5 {
                    let _ = port.arm(Interest::Message).unwrap();
                }
            }
        }
        let port1 = poster.join().unwrap();
        assert!(nothing(&port));
        assert_eq!(port.stats().messages_received, MESSAGES);
        assert_eq!(port.arm(Interest::Message).unwrap(), Armed::Wait);
        drop(port1);
    });
}

#[test]
#[should_panic = "there is no reactor running"]
fn without_a_runtime_it_panics() {
    let _quiet = common::descriptors();
    let (port1, _port2) = channel();
    let _ = AsyncMessagePort::new(port1);
}

#[test]
fn in_a_runtime_without_io_it_panics() {
    let _quiet = common::descriptors();
    let runtime = Builder::new_current_thread().build().unwrap();
    let _in = runtime.enter();
    let (port1, port2) = channel();
    let made = panic::catch_unwind(AssertUnwindSafe(|| AsyncMessagePort::new(port1)));
    let text = made.expect_err("no I/O there");
    let text = text.downcast_ref::<String>().expect("a text");
    assert!(text.contains("enable_io"), "{text}");
    assert_eq!(port2.close_reason(), Some(CloseReason::ClosedByPeer));
}

#[test]
fn a_runtime_that_ends_leaves_the_port_whole() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let runtime = current_thread();
    let mut port2 = runtime.block_on(async { adopt(port2) });
    drop(runtime);
    let other = current_thread();
    // What is there can be had; to wait there is nobody left.
    port1.try_post_bytes(&sample(0)).unwrap();
    assert_eq!(other.block_on(next(&mut port2)), sample(0));
    let waited = other.block_on(within("an error", port2.recv()));
    assert!(
        matches!(waited, Err(RecvError::System { .. })),
        "{waited:?}"
    );
    port1.try_post_bytes(&sample(1)).unwrap();
    let port2 = port2.into_inner();
    let mut port2 = other.block_on(async { adopt(port2) });
    port1.try_post_bytes(&sample(2)).unwrap();
    assert_eq!(other.block_on(next(&mut port2)), sample(1));
    assert_eq!(other.block_on(next(&mut port2)), sample(2));
}

/// A task each that answers, and a task each that asks, on both ends of as many channels.
#[test]
fn two_hundred_ports_share_a_runtime() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        const PORTS: u64 = 200;
        const ROUNDS: u64 = 20;
        let mut asking = Vec::new();
        for number in 0..PORTS {
            let (port1, port2) = channel_of(4096);
            let (mut port1, mut port2) = (adopt(port1), adopt(port2));
            tokio::spawn(async move {
                while let Some(event) = port2.next().await {
                    port2.post_bytes(event.unwrap().bytes()).await.unwrap();
                }
            });
            asking.push(tokio::spawn(async move {
                let mut sum = 0;
                for round in 0..ROUNDS {
                    let message = sample(number * ROUNDS + round);
                    port1.post_bytes(&message).await.unwrap();
                    assert_eq!(next(&mut port1).await, message);
                    sum += common::index_of(&message);
                }
                sum
            }));
        }
        let mut sum = 0;
        for task in asking {
            sum += task.await.unwrap();
        }
        let all = PORTS * ROUNDS;
        assert_eq!(sum, all * (all - 1) / 2);
    });
}

/// A task that always finds a message, and room, lets others of its thread run.
#[test]
fn s29_a_busy_port_does_not_starve_other_tasks() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    current_thread().block_on(async {
        let (mut port1, mut port2) = (adopt(port1), adopt(port2));
        let others = Arc::new(AtomicU64::new(0));
        let turns = Arc::clone(&others);
        let other = tokio::spawn(async move {
            loop {
                turns.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        });
        let mut always = tokio::spawn(async move {
            for index in 0..20_000_u64 {
                port1.post_message(&index).await.unwrap();
                let event = port2.recv().await.unwrap();
                assert_eq!(*event.data::<u64>().unwrap(), index);
            }
        });
        within("it ends", &mut always).await.unwrap();
        other.abort();
        let _ = other.await;
        assert!(others.load(Ordering::SeqCst) > 100, "{others:?}");
    });
}

#[test]
fn a_post_by_a_task_wakes_a_thread_at_once() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        for strategy in common::STRATEGIES {
            let (port1, port2) = channel();
            let mut port1 = adopt(port1);
            let echo = thread::spawn(move || {
                port2.set_wait_strategy(strategy);
                for event in port2.iter() {
                    port2.post_bytes(event.bytes()).unwrap();
                }
                port2.close_reason()
            });
            let start = Instant::now();
            for index in 0..300 {
                port1.post_bytes(&sample(index)).await.unwrap();
                assert_eq!(next(&mut port1).await, sample(index));
            }
            assert!(start.elapsed() < AT_ONCE);
            port1.close();
            assert_eq!(port1.close_reason(), Some(CloseReason::ClosedHere));
            assert_eq!(echo.join().unwrap(), Some(CloseReason::ClosedByPeer));
        }
    });
}
