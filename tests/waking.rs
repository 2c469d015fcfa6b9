//! No wake-up is lost (S7, S17), whoever pays for the barrier: long runs after which a peer is posted to
//! without a fence, then turns in which both sleep, between every pair of ways to order and to wait.

mod common;

use std::time::{Duration, Instant};

use common::{Counters, closed, sample, victim};
use ringport::{Barrier, CloseReason, MessagePort, WaitStrategy};

roles! { answers_in_turn, answers_with_fences, answers_what_is_not_empty, floods_and_pauses }

/// More messages in a row without a sleep than it takes to go unfenced.
const RUN: u64 = 700;
const ROUNDS: u64 = 12;
/// How long to try to meet a peer on its way to sleep: optimised, and with the barriers taken out, most runs
/// lose a wake-up in this time.
const A_WHILE: Duration = Duration::from_millis(1200);

/// Posts a run without waiting, then takes the answers, then single turns that sleep.
fn ask(port: &MessagePort) {
    let mut index = 0;
    for _ in 0..ROUNDS {
        let begin = index;
        while index < begin + RUN {
            port.post_bytes(&sample(index)).unwrap();
            index += 1;
            // The answers must not fill the other ring.
            if index % 100 == 0 {
                (index - 100..index).for_each(|index| answer(port, index));
            }
        }
        for _ in 0..20 {
            port.post_bytes(&sample(index)).unwrap();
            answer(port, index);
            index += 1;
        }
        index = index.next_multiple_of(100);
    }
}

fn answer(port: &MessagePort, index: u64) {
    let event = port.recv_timeout(common::PATIENCE).unwrap();
    let event = event.expect("an answer: was a wake-up lost?");
    assert_eq!(event.bytes(), sample(index));
}

fn answers_in_turn() {
    let (port, _counters) = common::on_stage();
    for event in port.iter() {
        port.post_bytes(event.bytes()).unwrap();
    }
}

fn answers_with_fences() {
    ringport::set_barrier(Barrier::Fence);
    answers_in_turn();
}

#[test]
fn s17_no_wake_up_is_lost_between_two_processes() {
    let _quiet = common::descriptors();
    for here in [WaitStrategy::Block, WaitStrategy::Adaptive] {
        for there in [WaitStrategy::Block, WaitStrategy::Adaptive] {
            for role in ["answers_in_turn", "answers_with_fences"] {
                let (port, child, _counters) = victim(role, there, "");
                port.set_wait_strategy(here);
                ask(&port);
                drop(port);
                common::end_well(child);
            }
        }
    }
}

#[test]
fn s17_no_wake_up_is_lost_between_two_threads() {
    let _quiet = common::descriptors();
    for here in [WaitStrategy::Block, WaitStrategy::Adaptive] {
        for there in [WaitStrategy::Block, WaitStrategy::Adaptive] {
            let (port, far) = common::channel();
            let other = std::thread::spawn(move || {
                far.set_wait_strategy(there);
                for event in far.iter() {
                    far.post_bytes(event.bytes()).unwrap();
                }
            });
            port.set_wait_strategy(here);
            ask(&port);
            drop(port);
            other.join().unwrap();
        }
    }
}

/// For a while: posts `run` messages at once that want no answer, then two that do, each some instants after
/// the answer before it, just when the peer, which sleeps at once, is on its way to sleep.
fn catch_asleep(port: &MessagePort, run: usize) {
    port.set_wait_strategy(WaitStrategy::Spin);
    let end = Instant::now() + A_WHILE;
    let mut turn = 0;
    while Instant::now() < end {
        let mut batch = port.batch();
        for _ in 0..run {
            batch.post_bytes(b"").unwrap();
        }
        batch.publish();
        for index in [2 * turn, 2 * turn + 1] {
            (0..turn * 7 % 61).for_each(|_| std::hint::spin_loop());
            port.post_bytes(&sample(index)).unwrap();
            answer(port, index);
        }
        turn += 1;
    }
}

fn answers_what_is_not_empty() {
    let (port, _counters) = common::on_stage();
    answer_what_is_not_empty(&port);
}

fn answer_what_is_not_empty(port: &MessagePort) {
    for event in port.iter() {
        if !event.is_empty() {
            port.post_bytes(event.bytes()).unwrap();
        }
    }
}

#[test]
fn s17_no_wake_up_is_lost_on_the_way_to_sleep() {
    let _quiet = common::descriptors();
    // With none in a run the peer is always posted to with a fence; after so many, without.
    for run in [0, 300] {
        let role = "answers_what_is_not_empty";
        let (port, child, _counters) = victim(role, WaitStrategy::Block, "");
        catch_asleep(&port, run);
        drop(port);
        common::end_well(child);

        let (port, far) = common::channel();
        far.set_wait_strategy(WaitStrategy::Block);
        let other = std::thread::spawn(move || answer_what_is_not_empty(&far));
        catch_asleep(&port, run);
        drop(port);
        other.join().unwrap();
    }
}

#[test]
fn s17_no_wake_up_is_lost_when_a_flow_stops_and_goes_on() {
    let _quiet = common::descriptors();
    for (here, there) in [
        (WaitStrategy::Block, WaitStrategy::Block),
        (WaitStrategy::Block, WaitStrategy::Spin),
        (WaitStrategy::Adaptive, WaitStrategy::Adaptive),
    ] {
        let (port, child, counters) = victim("floods_and_pauses", there, "");
        port.set_wait_strategy(here);
        counters.ready();
        // One way only: the poster sleeps for room, the reader for messages, in ever new places.
        for index in 0..ROUNDS * RUN {
            answer(&port, index);
        }
        assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
        assert_eq!(counters.get(Counters::DONE), ROUNDS * RUN);
        common::end_well(child);
    }
}

fn floods_and_pauses() {
    let (port, counters) = common::on_stage();
    let reader = std::os::unix::process::parent_id();
    counters.until(Counters::READY, 1);
    for index in 0..ROUNDS * RUN {
        port.post_bytes(&sample(index)).unwrap();
        counters.set(Counters::DONE, index + 1);
        if index % RUN == RUN - 1 {
            // Only once the reader sleeps does the flow go on, and that it must hear of.
            common::until_asleep(reader, counters.get(Counters::THREAD) as u32);
        }
    }
}
