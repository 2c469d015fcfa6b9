//! Futures that are dropped before they are ready: they have received nothing, and posted nothing.
//!
//! The long form: `RINGPORT_SOAK=1000000 cargo test --release --features tokio --test async_cancel`.

#![cfg(feature = "tokio")]

mod common;
#[path = "common/ports.rs"]
mod ports;
#[path = "common/tasks.rs"]
mod tasks;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::{Greeting, PATIENCE, channel_of, greeting, nothing, now, sample, sample_of};
use futures_util::{SinkExt, StreamExt};
use ports::{Random, assert_entangled, echo, next_port, told};
use ringport::{AsyncMessagePort, CloseReason, MessageEvent, PostError, WaitStrategy};
use tasks::{RUNTIMES, Shared, adopt, counted, in_each_runtime, once, pieces, within};
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use tokio::time::timeout;

/// Futures dropped by each test in the short form.
const SHORT: u64 = 10_000;

/// Runs a test for every kind of runtime, in pieces: so many rounds, begun with such a seed.
fn soak(test: impl Fn(&Runtime, u64, u64)) {
    for (piece, rounds) in pieces(SHORT) {
        for (seed, runtime) in (1000 * piece..).zip(RUNTIMES) {
            let _quiet = common::descriptors();
            test(&runtime(), rounds, seed);
        }
    }
}

/// Some instants.
fn delay(random: &mut Random) {
    let longest = [1, 8, 64, 4000][random.below(4) as usize];
    (0..random.below(longest)).for_each(|_| std::hint::spin_loop());
}

/// Waits for a future in one of the ways in which it may be dropped before it is ready.
async fn perhaps<F: Future>(random: &mut Random, future: F) -> Option<F::Output> {
    let moment = Duration::from_micros(random.below(200));
    match random.below(7) {
        0 => once(future).await,
        1 => timeout(Duration::ZERO, future).await.ok(),
        2 => timeout(moment, future).await.ok(),
        3 => tokio::select! {
            biased;
            () = yield_now() => None,
            output = future => Some(output),
        },
        4 => tokio::select! {
            biased;
            output = future => Some(output),
            () = yield_now() => None,
        },
        5 => {
            // Never polled at all.
            drop(future);
            yield_now().await;
            None
        }
        _ => {
            let mut future = pin!(future);
            for _ in 0..random.below(4) {
                if let Some(output) = once(future.as_mut()).await {
                    return Some(output);
                }
                yield_now().await;
            }
            None
        }
    }
}

/// Receives by futures of which most are dropped, until so many have come, each once and in order.
async fn receives(mut port: AsyncMessagePort, messages: u64, seed: u64) -> u64 {
    let mut random = Random(seed);
    let (mut received, mut dropped) = (0, 0);
    while received < messages {
        let event = match random.below(20) {
            // By one that waits: what those before it have left standing must not be all that is heard.
            0 => Some(within("a message", port.recv()).await),
            1..5 => perhaps(&mut random, port.next()).await.flatten(),
            _ => perhaps(&mut random, port.recv()).await,
        };
        let Some(event) = event else {
            dropped += 1;
            continue;
        };
        assert_eq!(event.unwrap().bytes(), sample(received));
        received += 1;
    }
    assert!(port.try_recv().unwrap().is_none());
    assert_eq!(port.close_reason(), None);
    dropped
}

#[test]
fn a_recv_that_is_dropped_loses_no_message() {
    soak(|runtime, messages, seed| {
        let (port1, port2) = channel_of(4096);
        let poster = thread::spawn(move || {
            port1.set_wait_strategy(WaitStrategy::Block);
            let mut random = Random(seed + 100);
            for index in 0..messages {
                delay(&mut random);
                port1.post_bytes_timeout(&sample(index), PATIENCE).unwrap();
            }
            port1
        });
        let task = runtime.spawn(async move { receives(adopt(port2), messages, seed).await });
        let dropped = runtime.block_on(task).unwrap();
        assert!(dropped > messages / 4, "only {dropped} were dropped");
        drop(poster.join().unwrap());
    });
}

/// Posts greetings by futures of which many are dropped; the numbers of those that were not.
async fn posts(mut port: AsyncMessagePort, attempts: u64, seed: u64) -> Vec<u64> {
    let mut random = Random(seed);
    let mut posted = Vec::new();
    for index in 0..attempts {
        let value = greeting(index);
        let answer = match random.below(8) {
            0 => Some(within("room", port.post_message(&value)).await),
            1 => perhaps(&mut random, port.send(value)).await,
            2 => {
                let with = port.post_message_with(&value, []);
                let answer = perhaps(&mut random, with).await;
                answer.map(|answer| answer.map_err(PostError::from))
            }
            _ => perhaps(&mut random, port.post_message(&value)).await,
        };
        if let Some(answer) = answer {
            answer.unwrap();
            posted.push(index);
        }
    }
    posted
}

#[test]
fn a_post_that_is_dropped_has_posted_nothing() {
    soak(|runtime, attempts, seed| {
        let (port1, port2) = channel_of(4096);
        let reader = thread::spawn(move || {
            port2.set_wait_strategy(WaitStrategy::Block);
            let mut random = Random(seed + 200);
            let mut received = Vec::new();
            for event in port2.iter() {
                let Greeting { text, numbers } = greeting(*seen(&mut received, &event));
                let archived = event.data::<Greeting>().unwrap();
                assert_eq!(archived.text, text);
                assert_eq!(archived.numbers, numbers);
                // Often slow enough that the ring is full.
                delay(&mut random);
                delay(&mut random);
            }
            assert_eq!(port2.close_reason(), Some(CloseReason::ClosedByPeer));
            received
        });
        let task = runtime.spawn(async move { posts(adopt(port1), attempts, seed).await });
        let posted = runtime.block_on(task).unwrap();
        assert_eq!(reader.join().unwrap(), posted);
        let dropped = attempts - posted.len() as u64;
        assert!(dropped > attempts / 20, "only {dropped} were dropped");
    });
}

/// Notes a greeting's number.
fn seen<'l>(received: &'l mut Vec<u64>, event: &MessageEvent<'_>) -> &'l u64 {
    let first = &event.data::<Greeting>().unwrap().numbers[0];
    received.push(first.to_native());
    received.last().unwrap()
}

#[test]
fn a_post_that_waited_and_was_dropped_leaves_the_ring_as_it_was() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (port1, port2) = channel_of(4096);
        let mut port1 = adopt(port1);
        let long = vec![0xee; 600];
        let mut index = 0;
        for _ in 0..300 {
            let first = index;
            while once(port1.post_bytes(&sample_of(index, 500)))
                .await
                .is_some()
            {
                index += 1;
            }
            assert!(once(port1.post_bytes(&long)).await.is_none());
            assert!(once(port1.post_bytes_with(&long, [])).await.is_none());
            assert!(once(port1.post_message(&long)).await.is_none());
            assert!(once(port1.send(long.clone())).await.is_none());
            (first..index).for_each(|index| assert_eq!(now(&port2), sample_of(index, 500)));
            assert!(nothing(&port2));
            // Lest its budget run out.
            yield_now().await;
        }
        assert_eq!(port1.stats().messages_posted, index);
    });
}

#[test]
fn s44_ports_of_a_post_that_is_dropped_are_closed() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (port1, port2) = channel_of(4096);
        let mut port1 = adopt(port1);
        while once(port1.post_bytes(&[7; 300])).await.is_some() {}
        for polled in [false, true] {
            let (near, far) = channel_of(4096);
            near.try_post_bytes(b"never received").unwrap();
            let post = port1.post_bytes_with(&[8; 300], [far]);
            if polled {
                assert!(once(post).await.is_none());
            } else {
                drop(post);
            }
            assert_eq!(told(&near), CloseReason::ClosedByPeer);
        }
        while let Some(event) = port2.try_recv().unwrap() {
            assert_eq!(event.bytes(), [7; 300]);
            assert_eq!(event.port_count(), 0);
        }
        // Nor is anything left of them on the socket.
        let (near, far) = channel_of(4096);
        port1.post_bytes_with(b"the next", [far]).await.unwrap();
        assert_entangled(&near, &next_port(&port2));
    });
}

#[test]
fn a_task_that_is_aborted_closes_its_port() {
    let _quiet = common::descriptors();
    for runtime in RUNTIMES {
        let runtime = runtime();
        for _ in 0..50 {
            let (port1, port2) = channel_of(4096);
            let vain = Arc::new(AtomicU64::new(0));
            let waits = Arc::clone(&vain);
            let task = runtime.spawn(async move {
                let mut port2 = adopt(port2);
                counted(&waits, port2.recv()).await.map(drop)
            });
            runtime.block_on(async {
                while vain.load(Ordering::SeqCst) == 0 {
                    yield_now().await;
                }
                task.abort();
                assert!(task.await.unwrap_err().is_cancelled());
            });
            assert_eq!(told(&port1), CloseReason::ClosedByPeer);
        }
    }
}

/// Two tasks that share a port, and each drops most of its futures.
#[test]
fn two_tasks_that_drop_their_futures_lose_nothing() {
    soak(|runtime, messages, seed| {
        let (near, far) = channel_of(4096);
        let echo = thread::spawn(move || {
            far.set_wait_strategy(WaitStrategy::Block);
            echo(&far)
        });
        let (posting, receiving) = runtime.block_on(async {
            let port = Shared::new(adopt(near));
            let both = port.clone();
            let posting = tokio::spawn(async move {
                let (mut random, mut posted, mut dropped) = (Random(seed), 0, 0);
                while posted < messages {
                    let message = sample(posted);
                    match perhaps(&mut random, port.post_bytes(&message)).await {
                        Some(answer) => answer.map(|()| posted += 1).unwrap(),
                        None => dropped += 1,
                    }
                }
                dropped
            });
            let receiving = tokio::spawn(async move {
                let (mut random, mut received, mut dropped) = (Random(seed + 300), 0, 0);
                while received < messages {
                    match perhaps(&mut random, both.recv()).await {
                        Some(event) => {
                            assert_eq!(event.unwrap().bytes(), sample(received));
                            received += 1;
                        }
                        None => dropped += 1,
                    }
                }
                dropped
            });
            (posting.await.unwrap(), receiving.await.unwrap())
        });
        assert!(posting > messages / 10, "only {posting} were dropped");
        assert!(receiving > messages / 10, "only {receiving} were dropped");
        let answered = echo.join().unwrap();
        assert_eq!(answered, (messages, Some(CloseReason::ClosedByPeer)));
    });
}
