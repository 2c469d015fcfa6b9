//! What is never received is closed, and its peer is told: S44, with S15 and S48. Ports deep inside others are in
//! `nesting.rs`, those of processes that end in `orphans.rs`.

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{channel, channel_of, sample, trust_if};
use ports::{all_told, assert_all_entangled, carry, only, watched};
use ringport::{CloseReason, MessagePort, PostError, WaitStrategy};

#[test]
fn s44_an_event_closes_the_ports_that_nobody_took_from_it() {
    let _quiet = common::descriptors();
    for (strategy, trusted) in [
        (WaitStrategy::Block, false),
        (WaitStrategy::Adaptive, true),
        (WaitStrategy::Spin, false),
    ] {
        for owned in [false, true] {
            let (carrier1, carrier2) = channel();
            trust_if(&carrier2, trusted);
            let (far, watchers) = watched(strategy, 2);
            carrier1.post_bytes_with(b"look", far).unwrap();
            let event = carrier2.recv().unwrap();
            assert_eq!(event.port_count(), 2);
            if owned {
                let event = event.into_owned();
                drop((carrier1, carrier2));
                assert!(watchers.iter().all(|watcher| !watcher.is_finished()));
                drop(event);
            } else {
                drop(event);
            }
            all_told(watchers, CloseReason::ClosedByPeer);
        }
    }
}

#[test]
fn s44_an_event_does_not_close_the_ports_that_were_taken_from_it() {
    let _quiet = common::descriptors();
    for trusted in [false, true] {
        let (carrier1, carrier2) = channel();
        trust_if(&carrier2, trusted);
        let (near, far) = ports::channels(2);
        carrier1.post_bytes_with(b"look", far).unwrap();
        let far = ports::next_ports(&carrier2);
        drop((carrier1, carrier2));
        assert_all_entangled(&near, &far);
        drop(far);
        for near in &near {
            assert_eq!(ports::told(near), CloseReason::ClosedByPeer);
        }
    }
}

#[test]
fn s44_a_loop_that_takes_no_ports_closes_them_as_it_goes() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, far) = ports::channels(5);
    for port in far {
        carrier1.post_bytes_with(b"", [port]).unwrap();
    }
    for (near, event) in near.iter().zip(&carrier2) {
        assert!(!near.is_closed());
        drop(event);
        assert_eq!(ports::told(near), CloseReason::ClosedByPeer);
    }
}

#[test]
fn s44_the_ports_of_discarded_messages_are_closed() {
    let _quiet = common::descriptors();
    let discards: [fn(MessagePort) -> Option<MessagePort>; 4] = [
        |carrier| {
            drop(carrier);
            None
        },
        |carrier| {
            drop(carrier.into_handle());
            None
        },
        // Closed, but still there.
        |carrier| {
            carrier.close();
            Some(carrier)
        },
        |carrier| {
            drop(carrier.recv().unwrap().take_ports());
            carrier.close();
            Some(carrier)
        },
    ];
    for strategy in common::STRATEGIES {
        for discard in discards {
            let (carrier1, carrier2) = channel();
            let (first, _first_near) = channel_of(4096);
            carrier1.post_bytes_with(b"first", [first]).unwrap();
            let (mut far, watchers) = watched(strategy, 3);
            let last = far.pop().unwrap();
            carrier1.post_bytes_with(b"", far).unwrap();
            carrier1.post_bytes(b"between").unwrap();
            carrier1.post_bytes_with(b"", [last]).unwrap();
            let kept = discard(carrier2);
            all_told(watchers, CloseReason::PeerGone);
            drop(kept);
        }
    }
}

#[test]
fn s44_a_carrier_discarded_on_its_way_closes_what_waits_in_it() {
    let _quiet = common::descriptors();
    let (outer1, outer2) = channel();
    let (carrier1, carrier2) = channel_of(4096);
    let (far, watchers) = watched(WaitStrategy::Block, 2);
    carrier1.post_bytes_with(b"", far).unwrap();
    outer1.post_bytes_with(b"", [carrier2]).unwrap();
    drop(outer1);
    drop(outer2);
    all_told(watchers, CloseReason::PeerGone);
    assert_eq!(ports::told(&carrier1), CloseReason::PeerGone);
}

#[test]
fn s48_ports_posted_before_the_close_still_arrive() {
    let _quiet = common::descriptors();
    for dropped in [false, true] {
        let (carrier1, carrier2) = channel();
        let (near, far) = ports::channels(10);
        for (port, index) in far.into_iter().zip(0..) {
            carrier1.post_bytes_with(&sample(index), [port]).unwrap();
        }
        carrier1.close();
        let kept = (!dropped).then_some(carrier1);
        // Also after a move.
        let (outer1, outer2) = channel();
        let carrier2 = carry(&outer1, &outer2, carrier2);
        for (near, index) in near.iter().zip(0..) {
            let event = carrier2.try_recv().unwrap().unwrap();
            assert_eq!(event.bytes(), sample(index));
            ports::assert_entangled(near, &only(event.take_ports()));
        }
        common::assert_over(&carrier2, CloseReason::ClosedByPeer);
        drop(kept);
    }
}

#[test]
fn s15_what_a_post_carried_that_raced_the_close_comes_back_or_is_closed() {
    let _quiet = common::descriptors();
    // Many, so that the kernel is busy with them for a while.
    let (mut near, mut far) = ports::channels(60);
    for round in 0..300_u64 {
        let (carrier1, carrier2) = channel_of(4096);
        let began = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&began);
        let closer = thread::spawn(move || {
            while !begins.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            for _ in 0..round * 7 % 300 {
                std::hint::spin_loop();
            }
            carrier2.close();
            carrier2
        });
        began.store(true, Ordering::Release);
        let outcome = carrier1.try_post_bytes_with(b"", far);
        let closed = closer.join().unwrap();
        if let Err(error) = outcome {
            let reason = matches!(error.error(), PostError::Closed(_));
            assert!(reason, "{:?}", error.error());
            far = error.into_ports();
            assert_all_entangled(&near, &far);
        } else {
            // Nobody receives them, so they are closed, though the port that was closed is still there.
            for near in &near {
                assert_eq!(ports::told(near), CloseReason::PeerGone);
            }
            (near, far) = ports::channels(60);
        }
        drop(closed);
    }
}
