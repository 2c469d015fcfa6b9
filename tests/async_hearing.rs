//! Tasks hear of room though somebody takes the very ring that tells of it: who receives a message with ports reads the
//! doorbell up to their descriptors.

#![cfg(feature = "tokio")]

mod common;
#[path = "common/ports.rs"]
mod ports;
#[path = "common/tasks.rs"]
mod tasks;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use common::{Counters, PATIENCE, STRATEGIES, channel, channel_of, on_stage, victim};
use futures_util::Sink;
use ports::{assert_entangled, fill, next_port, only};
use ringport::{AsyncMessagePort, MessagePort, OwnedMessageEvent, PostError};
use tasks::{Shared, adopt, counted, current_thread, in_each_runtime, within};

roles! { empties_and_sends_ports }

const ROUNDS: u64 = 20;

/// A post, or what comes before one.
type Post = fn(&mut AsyncMessagePort, &mut Context<'_>) -> Poll<Result<(), PostError>>;

const POSTS: [Post; 3] = [
    |port, cx| port.poll_post_bytes(cx, b"waited"),
    |port, cx| port.poll_post(cx, &7_u64),
    |port, cx| Sink::<u64>::poll_ready(Pin::new(port), cx),
];

/// A port whose ring is full, and its peer.
fn full() -> (MessagePort, MessagePort) {
    let (mine, peer) = channel_of(4096);
    fill(&mine);
    while mine.try_post_bytes(b"").is_ok() {}
    (mine, peer)
}

/// What the peer does: makes room, which rings if somebody waits, and then posts a message with a port, whose other
/// end this is.
fn empty_and_send_a_port(peer: &MessagePort) -> MessagePort {
    while peer.try_recv().unwrap().is_some() {}
    let (kept, sent) = channel();
    peer.try_post_bytes_with(b"a port", [sent]).unwrap();
    kept
}

#[track_caller]
fn take(event: OwnedMessageEvent, kept: &MessagePort) {
    assert_eq!(event.bytes(), b"a port");
    assert_entangled(kept, &only(event.take_ports()));
}

#[test]
fn s52_a_post_that_waits_hears_of_room_though_its_own_task_has_received_a_port() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        for post in POSTS {
            for _ in 0..ROUNDS {
                let (mine, peer) = full();
                let mut mine = adopt(mine);
                let mut rang = false;
                let posted = poll_fn(move |cx| {
                    let polled = post(&mut mine, cx);
                    if polled.is_pending() && !rang {
                        rang = true;
                        let kept = empty_and_send_a_port(&peer);
                        take(mine.try_recv().unwrap().expect("it was posted"), &kept);
                        // There is room by now. It is not looked for before somebody wakes the task.
                    }
                    polled.map(|posted| posted.map(|()| rang))
                });
                let posted = within("the task is woken", posted).await;
                assert!(posted.unwrap(), "it had to wait");
            }
        }
    });
}

#[test]
fn s52_a_post_that_waits_hears_of_room_though_another_task_has_received_a_port() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        for post in POSTS {
            for _ in 0..ROUNDS {
                let (mine, peer) = full();
                let mine = Shared::new(adopt(mine));
                let vain = Arc::new(AtomicU64::new(0));
                let (port, waits) = (mine.clone(), Arc::clone(&vain));
                let task = tokio::spawn(async move {
                    let posted = poll_fn(|cx| post(&mut port.port(), cx));
                    counted(&waits, posted).await
                });
                while vain.load(Ordering::SeqCst) == 0 {
                    tokio::task::yield_now().await;
                }
                // No await until the message is received: on one thread the reactor has no time to look.
                let kept = empty_and_send_a_port(&peer);
                let event = mine.port().try_recv();
                take(event.unwrap().expect("it was posted"), &kept);
                within("the task is woken", task).await.unwrap().unwrap();
            }
        }
    });
}

#[test]
fn s52_a_post_that_waits_hears_of_room_that_another_process_makes_before_it_sends_a_port() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (carrier, child, counters) = victim("empties_and_sends_ports", strategy, "");
        let (mine, peer) = channel_of(4096);
        carrier.post_bytes_with(b"", [peer]).unwrap();
        current_thread().block_on(async {
            let mut mine = adopt(mine);
            for round in 1..=ROUNDS {
                // As many as go, and one that waits.
                while !within("room", posts(&mut mine, &counters, round)).await {}
            }
        });
        drop(carrier);
        common::end_well(child);
    }
}

/// Posts, and says whether that had to wait. Meanwhile it receives the port that is sent.
async fn posts(mine: &mut AsyncMessagePort, counters: &Counters, round: u64) -> bool {
    let mut waited = false;
    let posted = poll_fn(|cx| {
        let polled = mine.poll_post_bytes(cx, &[7; 100]);
        if polled.is_pending() && !waited {
            waited = true;
            counters.set(Counters::READY, round);
            let start = Instant::now();
            let event = loop {
                if let Some(event) = mine.try_recv().unwrap() {
                    break event;
                }
                assert!(start.elapsed() < PATIENCE, "no message");
            };
            assert_eq!(event.bytes(), round.to_le_bytes());
            drop(only(event.take_ports()));
        }
        polled
    });
    posted.await.unwrap();
    waited
}

fn empties_and_sends_ports() {
    let (carrier, counters) = on_stage();
    let port = next_port(&carrier);
    port.set_wait_strategy(common::strategy());
    for round in 1..=ROUNDS {
        counters.until(Counters::READY, round);
        while port.try_recv().unwrap().is_some() {}
        let (_kept, sent) = channel();
        port.post_bytes_with(&round.to_le_bytes(), [sent]).unwrap();
    }
    // The last of its posts waits as well.
    while port.recv().is_ok() {}
}
