//! The end of a channel, as tasks learn of it: a peer that closes, exits or is killed wakes whoever waits, and what
//! it posted before comes first (S48, S51, S52).

#![cfg(feature = "tokio")]

mod common;
#[path = "common/ports.rs"]
mod ports;
#[path = "common/tasks.rs"]
mod tasks;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use common::{
    AT_ONCE, Counters, channel_of, end_well, kill, now, on_stage, post_closed, sample, until,
    victim,
};
use futures_util::{SinkExt, StreamExt};
use ports::{channels, told};
use ringport::{AsyncMessagePort, CloseReason, MessagePort, PostError, RecvError, WaitStrategy};
use tasks::{RUNTIMES, Shared, adopt, counted, in_each_runtime, within};

roles! { posts_and_ends }

/// Messages that a victim posts before it ends.
const MESSAGES: u64 = 10;

/// How a victim ends, and how its peer has to see that.
const ENDS: [(&str, CloseReason); 3] = [
    ("is killed", CloseReason::PeerGone),
    ("exits", CloseReason::PeerGone),
    ("closes", CloseReason::ClosedByPeer),
];

fn posts_and_ends() {
    let (port, counters) = on_stage();
    (0..MESSAGES).for_each(|index| port.post_bytes(&sample(index)).unwrap());
    counters.ready();
    // This message is the sign to end. It never comes for a victim that is killed.
    counters.until(Counters::DONE, 1);
    match common::how().as_str() {
        "exits" => std::process::exit(0),
        "closes" => port.close(),
        other => panic!("{other}"),
    }
}

/// What a task does with its port, until it learns that the channel has ended.
type Waits = fn(MessagePort, Arc<AtomicU64>) -> tokio::task::JoinHandle<CloseReason>;

#[track_caller]
fn reason_of(error: &PostError) -> CloseReason {
    match error {
        PostError::Closed(reason) => *reason,
        other => panic!("wanted Closed, got {other:?}"),
    }
}

/// Receives all, then waits for more.
async fn receives(port: &Shared, vain: &AtomicU64) -> CloseReason {
    for index in 0..MESSAGES {
        let event = within("a message", port.recv()).await.unwrap();
        assert_eq!(event.bytes(), sample(index));
    }
    common::closed(counted(vain, port.recv()).await)
}

/// Posts until there is no room, and waits for some.
async fn posts(port: &Shared, vain: &AtomicU64) -> CloseReason {
    loop {
        if let Err(error) = counted(vain, port.post_bytes(&[7; 900])).await {
            return reason_of(&error);
        }
    }
}

fn waits_for_a_message(
    port: MessagePort,
    vain: Arc<AtomicU64>,
) -> tokio::task::JoinHandle<CloseReason> {
    tokio::spawn(async move { receives(&Shared::new(adopt(port)), &vain).await })
}

fn waits_for_room(port: MessagePort, vain: Arc<AtomicU64>) -> tokio::task::JoinHandle<CloseReason> {
    tokio::spawn(async move {
        let port = Shared::new(adopt(port));
        let reason = posts(&port, &vain).await;
        // What came before is still to be had.
        assert_eq!(receives(&port, &vain).await, reason);
        reason
    })
}

fn waits_for_both(port: MessagePort, vain: Arc<AtomicU64>) -> tokio::task::JoinHandle<CloseReason> {
    let port = Shared::new(adopt(port));
    let both = port.clone();
    let waits = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let [one, other] = [Arc::clone(&waits), Arc::clone(&waits)];
    let receiving = tokio::spawn(async move { receives(&port, &one[0]).await });
    let posting = tokio::spawn(async move { posts(&both, &other[1]).await });
    tokio::spawn(async move {
        while waits.iter().any(|vain| vain.load(Ordering::SeqCst) == 0) {
            tokio::task::yield_now().await;
        }
        vain.store(1, Ordering::SeqCst);
        let reason = receiving.await.unwrap();
        assert_eq!(posting.await.unwrap(), reason);
        reason
    })
}

fn waits_for_both_by_halves(
    port: MessagePort,
    vain: Arc<AtomicU64>,
) -> tokio::task::JoinHandle<CloseReason> {
    let (mut sink, mut stream) = adopt(port).split();
    let sending = Arc::clone(&vain);
    let posting = tokio::spawn(async move {
        loop {
            if let Err(error) = counted(&sending, sink.send(vec![7_u8; 900])).await {
                break (sink, reason_of(&error));
            }
        }
    });
    tokio::spawn(async move {
        for index in 0..MESSAGES {
            let event = stream.next().await.expect("not yet over").unwrap();
            assert_eq!(event.bytes(), sample(index));
        }
        assert!(counted(&vain, stream.next()).await.is_none());
        assert!(stream.next().await.is_none());
        let (sink, reason) = posting.await.unwrap();
        let port: AsyncMessagePort = stream.reunite(sink).unwrap();
        assert_eq!(port.close_reason(), Some(reason));
        reason
    })
}

fn waits_to_send_a_port(
    port: MessagePort,
    vain: Arc<AtomicU64>,
) -> tokio::task::JoinHandle<CloseReason> {
    tokio::spawn(async move {
        let mut port = adopt(port);
        let (near, far) = channels(65);
        for (index, gift) in far.into_iter().enumerate() {
            let post = counted(&vain, port.post_bytes_with(b"", [gift]));
            if let Err(error) = post.await {
                assert_eq!(index, 64, "so many may wait");
                let (error, ports) = error.into_parts();
                now_entangled(&near[64], &ports[0]);
                return reason_of(&error);
            }
        }
        panic!("one more than may wait")
    })
}

#[track_caller]
fn now_entangled(near: &MessagePort, far: &MessagePort) {
    near.try_post_bytes(b"still here").unwrap();
    assert_eq!(now(far), b"still here");
}

/// A victim of each end, and a task that waits meanwhile, in each runtime.
fn learns_of_each_end(waits: Waits) {
    let _quiet = common::descriptors();
    for runtime in RUNTIMES {
        let runtime = runtime();
        for (end, reason) in ENDS {
            let (port, mut child, counters) = victim("posts_and_ends", WaitStrategy::Block, end);
            counters.until(Counters::READY, 1);
            let vain = Arc::new(AtomicU64::new(0));
            let waiting = Arc::clone(&vain);
            let ended = thread::scope(|scope| {
                let ended = scope.spawn(|| {
                    until("the task waits", || vain.load(Ordering::SeqCst) > 0);
                    let start = Instant::now();
                    if end == "is killed" {
                        kill(&mut child);
                    } else {
                        counters.set(Counters::DONE, 1);
                        child.wait().unwrap();
                    }
                    start
                });
                let told = runtime.block_on(async {
                    let task = waits(port, waiting);
                    within("the task learns of it", task).await.unwrap()
                });
                assert_eq!(told, reason, "{end}");
                ended.join().unwrap()
            });
            assert!(ended.elapsed() < AT_ONCE, "{end}: {:?}", ended.elapsed());
        }
    }
}

#[test]
fn s52_who_waits_for_a_message_learns_of_the_end() {
    learns_of_each_end(waits_for_a_message);
}

#[test]
fn s52_who_waits_for_room_learns_of_the_end() {
    learns_of_each_end(waits_for_room);
}

#[test]
fn s52_two_tasks_that_wait_both_learn_of_the_end() {
    learns_of_each_end(waits_for_both);
}

#[test]
fn s52_two_halves_that_wait_both_learn_of_the_end() {
    learns_of_each_end(waits_for_both_by_halves);
}

#[test]
fn s52_who_waits_to_send_a_port_learns_of_the_end() {
    learns_of_each_end(waits_to_send_a_port);
}

#[test]
fn s47_a_close_wakes_the_tasks_of_this_side_too() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        for _ in 0..50 {
            let (near, far) = channel_of(4096);
            let port = Shared::new(adopt(near));
            let vain = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
            let [one, other] = [
                (port.clone(), Arc::clone(&vain)),
                (port.clone(), Arc::clone(&vain)),
            ];
            let receiving =
                tokio::spawn(async move { counted(&one.1[0], one.0.recv()).await.map(drop) });
            let posting = tokio::spawn(async move { posts(&other.0, &other.1[1]).await });
            while vain.iter().any(|vain| vain.load(Ordering::SeqCst) == 0) {
                tokio::task::yield_now().await;
            }
            port.port().close();
            let answer = within("the receiver learns of it", receiving)
                .await
                .unwrap();
            assert!(matches!(
                answer,
                Err(RecvError::Closed(CloseReason::ClosedHere))
            ));
            let reason = within("the poster learns of it", posting).await.unwrap();
            assert_eq!(reason, CloseReason::ClosedHere);
            while far.try_recv().is_ok_and(|event| event.is_some()) {}
            assert_eq!(told(&far), CloseReason::ClosedByPeer);
        }
    });
}

#[test]
fn s47_closing_one_half_ends_the_other() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (near, far) = channel_of(4096);
        let (mut sink, mut stream) = adopt(near).split();
        let vain = Arc::new(AtomicU64::new(0));
        let waits = Arc::clone(&vain);
        let receiving = tokio::spawn(async move { counted(&waits, stream.next()).await.is_none() });
        sink.send(1_u64).await.unwrap();
        while vain.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        sink.close().await.unwrap();
        assert!(within("the other half ends", receiving).await.unwrap());
        let answer = sink.send(2_u64).await;
        assert_eq!(post_closed(answer), CloseReason::ClosedHere);
        assert_eq!(*far.recv().unwrap().data::<u64>().unwrap(), 1);
        assert_eq!(told(&far), CloseReason::ClosedByPeer);
    });
}

#[test]
fn s23_a_stopped_peer_is_not_a_closed_one() {
    let _quiet = common::descriptors();
    for runtime in RUNTIMES {
        let runtime = runtime();
        let (port, child, counters) = victim("posts_and_ends", WaitStrategy::Block, "closes");
        counters.until(Counters::READY, 1);
        let signal = |number| {
            // SAFETY: `kill` takes two integers; the process is a child that was not waited for.
            assert_eq!(unsafe { libc::kill(child.id() as i32, number) }, 0);
        };
        signal(libc::SIGSTOP);
        runtime.block_on(async {
            let port = Shared::new(adopt(port));
            let vain = AtomicU64::new(0);
            let moment = std::time::Duration::from_millis(50);
            let ended = tokio::time::timeout(moment, receives(&port, &vain)).await;
            assert!(ended.is_err() && vain.into_inner() > 0);
            assert_eq!(port.port().close_reason(), None);
            signal(libc::SIGCONT);
            counters.set(Counters::DONE, 1);
            let ended = within("the end", port.recv()).await;
            assert_eq!(common::closed(ended), CloseReason::ClosedByPeer);
        });
        end_well(child);
    }
}
