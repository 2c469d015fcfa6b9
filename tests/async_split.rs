//! Two tasks share a port, one that receives and one that posts: no wake-up of either is lost, whoever of them
//! hears the bell.
//!
//! The long form: `RINGPORT_SOAK=1000000 cargo test --release --features tokio --test async_split`.

#![cfg(feature = "tokio")]

mod common;
#[path = "common/ports.rs"]
mod ports;
#[path = "common/tasks.rs"]
mod tasks;

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use common::{Counters, PATIENCE, end_well, index_of, on_stage, sample_of, victim};
use futures_util::{SinkExt, StreamExt};
use ports::{Random, echo};
use ringport::{AsyncMessagePort, CloseReason, MessagePort, WaitStrategy};
use rkyv::{Archive, Deserialize, Serialize};
use tasks::{RUNTIMES, Shared, adopt, counted, current_thread, pieces, two_workers, within};
use tokio::runtime::Runtime;

roles! { echoes, echoes_slowly, echoes_in_a_task, conducts }

/// Rounds of each test in the short form.
const SHORT: u64 = 10_000;
/// The smallest ring there is.
const SMALL: usize = 4096;

/// What the tasks send by the sink.
#[derive(Archive, Serialize, Deserialize)]
struct Numbered {
    index: u64,
    filling: Vec<u8>,
}

/// Some instants.
fn delay(random: &mut Random) {
    let longest = [1, 1, 16, 256, 2000][random.below(5) as usize];
    (0..random.below(longest)).for_each(|_| std::hint::spin_loop());
}

/// The length of message number `index`: most are short, and some are nearly as long as can be.
fn length(index: u64) -> usize {
    let random = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let longest = [100, 500, 1900, 1900][(random & 3) as usize];
    8 + (random >> 2) as usize % longest
}

/// Starts an echo, with rings of the smallest size.
fn start(role: &str) -> (MessagePort, Child, Counters) {
    let (carrier, child, counters) = victim(role, WaitStrategy::Block, "");
    let (near, far) = common::channel_of(SMALL);
    carrier.try_post_bytes_with(b"talk here", [far]).unwrap();
    (near, child, counters)
}

/// In a role: the port with small rings.
fn small() -> (MessagePort, Counters) {
    let (carrier, counters) = on_stage();
    let event = carrier.recv_timeout(PATIENCE).unwrap();
    let port = event.expect("a port").take_ports().remove(0);
    port.set_wait_strategy(WaitStrategy::Block);
    (port, counters)
}

fn echoes() {
    let (port, _counters) = small();
    assert_eq!(echo(&port).1, Some(CloseReason::ClosedByPeer));
}

/// Sometimes later than at once, so that both rings are full one moment and empty the next.
fn echoes_slowly() {
    let (port, _counters) = small();
    let mut random = Random(7);
    let mut kept = Vec::new();
    for event in port.iter() {
        kept.push(event.bytes().to_vec());
        if kept.len() as u64 > random.below(12) || port.pending() == 0 {
            for bytes in kept.drain(..) {
                delay(&mut random);
                port.post_bytes(&bytes).unwrap();
            }
        }
    }
    assert_eq!(port.close_reason(), Some(CloseReason::ClosedByPeer));
}

fn echoes_in_a_task() {
    let (port, _counters) = small();
    current_thread().block_on(async {
        let mut port = adopt(port);
        while let Some(event) = port.next().await {
            port.post_bytes(event.unwrap().bytes()).await.unwrap();
        }
        assert_eq!(port.close_reason(), Some(CloseReason::ClosedByPeer));
    });
}

/// How often each of two tasks was polled in vain.
#[derive(Default)]
struct Waits {
    receiving: AtomicU64,
    posting: AtomicU64,
}

impl Waits {
    #[track_caller]
    fn were_many(&self, rounds: u64) {
        let waits = [&self.receiving, &self.posting].map(|count| count.load(Ordering::SeqCst));
        println!("{rounds} rounds, polled in vain: {waits:?}");
        let enough = waits.iter().all(|waits| *waits > rounds / 100);
        assert!(enough, "the tasks had hardly to wait: {waits:?}");
    }
}

/// By the port's own methods, each task in turn.
async fn by_polls(port: AsyncMessagePort, messages: u64, seed: u64) -> AsyncMessagePort {
    let waits = Arc::new(Waits::default());
    let port = Shared::new(port);
    let posting = tokio::spawn({
        let (port, waits, mut random) = (port.clone(), Arc::clone(&waits), Random(seed));
        async move {
            for index in 0..messages {
                delay(&mut random);
                let message = sample_of(index, length(index));
                let post = counted(&waits.posting, port.post_bytes(&message));
                within("room", post).await.unwrap();
            }
        }
    });
    let receiving = tokio::spawn({
        let (port, waits, mut random) = (port.clone(), Arc::clone(&waits), Random(seed + 1));
        async move {
            for index in 0..messages {
                delay(&mut random);
                let recv = counted(&waits.receiving, port.recv());
                let event = within("an answer", recv).await.unwrap();
                assert_eq!(event.bytes(), sample_of(index, length(index)));
            }
        }
    });
    posting.await.unwrap();
    receiving.await.unwrap();
    waits.were_many(messages);
    port.into_inner()
}

/// By the two halves that `StreamExt::split` makes.
async fn by_halves(port: AsyncMessagePort, messages: u64, seed: u64) -> AsyncMessagePort {
    let waits = Arc::new(Waits::default());
    let (mut sink, mut stream) = port.split();
    let posting = tokio::spawn({
        let (waits, mut random) = (Arc::clone(&waits), Random(seed));
        async move {
            let mut sum = 0;
            for index in 0..messages {
                delay(&mut random);
                let filling = vec![index as u8; length(index) / 2];
                sum += filling.len() as u64 * u64::from(index as u8);
                let send = sink.send(Numbered { index, filling });
                let send = counted(&waits.posting, send);
                within("room", send).await.unwrap();
            }
            (sink, sum)
        }
    });
    let receiving = tokio::spawn({
        let (waits, mut random) = (Arc::clone(&waits), Random(seed + 1));
        async move {
            let mut sum = 0;
            for index in 0..messages {
                delay(&mut random);
                let next = counted(&waits.receiving, stream.next());
                let event = within("an answer", next)
                    .await
                    .expect("it is open")
                    .unwrap();
                let numbered = event.data::<Numbered>().unwrap();
                assert_eq!(numbered.index, index);
                sum += numbered
                    .filling
                    .iter()
                    .map(|byte| u64::from(*byte))
                    .sum::<u64>();
            }
            (stream, sum)
        }
    });
    let (sink, posted) = posting.await.unwrap();
    let (stream, received) = receiving.await.unwrap();
    assert_eq!(posted, received);
    waits.were_many(messages);
    stream.reunite(sink).unwrap()
}

/// Full rings both ways, in every kind of runtime.
fn soak<F: Future<Output = AsyncMessagePort>>(
    role: &str,
    both: impl Fn(AsyncMessagePort, u64, u64) -> F,
) {
    for (piece, messages) in pieces(SHORT) {
        for (seed, runtime) in (1000 * piece..).zip(RUNTIMES) {
            let _quiet = common::descriptors();
            let (port, child, _counters) = start(role);
            let runtime = runtime();
            let mut port = runtime.block_on(async { both(adopt(port), messages, seed).await });
            // It is as good as before.
            assert!(port.try_recv().unwrap().is_none());
            let stats = port.stats();
            assert_eq!(stats.messages_posted, messages);
            assert_eq!(stats.messages_received, messages);
            drop(port);
            end_well(child);
        }
    }
}

#[test]
fn s52_no_wake_up_is_lost_by_two_tasks() {
    soak("echoes", by_polls);
}

#[test]
fn s52_no_wake_up_is_lost_by_two_tasks_and_a_slow_peer() {
    soak("echoes_slowly", by_polls);
}

#[test]
fn s52_no_wake_up_is_lost_by_two_tasks_and_a_third() {
    soak("echoes_in_a_task", by_polls);
}

#[test]
fn s52_no_wake_up_is_lost_by_two_halves() {
    soak("echoes", by_halves);
}

#[test]
fn s52_no_wake_up_is_lost_by_two_halves_and_a_slow_peer() {
    soak("echoes_slowly", by_halves);
}

/// Slots of what the tasks have done, for the peer to see without being rung.
const POSTED: usize = 3;
const RECEIVED: usize = 4;

/// One bell at a time: the peer posts a message, or takes what fills the ring, and does no more until the task that
/// waits for just this has gone on.
fn one_bell_at_a_time(runtime: fn() -> Runtime) {
    for (_, rounds) in pieces(SHORT / 2) {
        let _quiet = common::descriptors();
        let mut command = common::command("conducts");
        let counters = Arc::new(Counters::new());
        counters.give_to(&mut command);
        common::tell(&mut command, WaitStrategy::Block, &rounds.to_string());
        let worker = ringport::Worker::spawn(command).unwrap();
        let (carrier, child) = worker.into_parts();
        let (near, far) = common::channel_of(SMALL);
        carrier.try_post_bytes_with(b"talk here", [far]).unwrap();
        let (posted, received) = runtime().block_on(async {
            let port = Shared::new(adopt(near));
            let posting = tokio::spawn({
                let (port, counters) = (port.clone(), Arc::clone(&counters));
                async move {
                    // Until the peer has had enough.
                    for index in 0.. {
                        let message = sample_of(index, length(index));
                        if port.post_bytes(&message).await.is_err() {
                            return index;
                        }
                        counters.set(POSTED, index + 1);
                    }
                    unreachable!()
                }
            });
            let receiving = tokio::spawn({
                let (port, counters) = (port.clone(), Arc::clone(&counters));
                async move {
                    for index in 0.. {
                        let Ok(event) = port.recv().await else {
                            return index;
                        };
                        assert_eq!(index_of(event.bytes()), index);
                        counters.set(RECEIVED, index + 1);
                    }
                    unreachable!()
                }
            });
            (posting.await.unwrap(), receiving.await.unwrap())
        });
        end_well(child);
        assert!(received > rounds / 4, "{received} received");
        assert!(posted > rounds / 4, "{posted} posted");
    }
}

/// Waits until a task has done so much: awake, so as to go on at once.
#[track_caller]
fn must_reach(counters: &Counters, slot: usize, least: u64, round: u64) {
    let start = Instant::now();
    while counters.get(slot) < least {
        assert!(
            start.elapsed() < PATIENCE,
            "round {round}: a wake-up was lost, slot {slot} is {} of {least}",
            counters.get(slot)
        );
        std::thread::yield_now();
    }
}

fn conducts() {
    let (port, counters) = small();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let rounds: u64 = common::how().parse().unwrap();
    let (mut taken, mut posted) = (0, 0);
    let take = |taken: &mut u64| {
        let event = port.recv_timeout(PATIENCE).unwrap();
        let event = event.unwrap_or_else(|| panic!("message {taken}: a wake-up was lost"));
        assert_eq!(event.bytes(), sample_of(*taken, length(*taken)));
        *taken += 1;
    };
    for round in 0..rounds {
        let (posts, takes) = [(true, false), (false, true), (true, true)][random.below(3) as usize];
        delay(&mut random);
        if posts {
            port.post_bytes(&sample_of(posted, 8)).unwrap();
            posted += 1;
            delay(&mut random);
        }
        if takes {
            // All that is there: then a quarter is free, and the task must go on beyond it.
            while taken < counters.get(POSTED) {
                take(&mut taken);
            }
            must_reach(&counters, POSTED, taken + 1, round);
        }
        if posts {
            must_reach(&counters, RECEIVED, posted, round);
        }
    }
}

#[test]
fn s52_every_bell_wakes_the_task_that_waits_for_it_on_one_thread() {
    one_bell_at_a_time(current_thread);
}

#[test]
fn s52_every_bell_wakes_the_task_that_waits_for_it_on_two_workers() {
    one_bell_at_a_time(two_workers);
}
