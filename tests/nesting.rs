//! Ports inside messages inside ports: S41, and cycles of them, S45. What is merely never received is in
//! `discarding.rs`.

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::os::unix::net::UnixStream;

use common::{Counters, channel, channel_of, idle, next, nothing, now, on_stage, sample, victim};
use ports::{assert_all_entangled, assert_entangled, carry, given_back, only};
use ringport::{CloseReason, MessagePort, PostError, WaitStrategy};

roles! { unwraps, receives_nothing, makes_a_cycle_and_dies }

/// A thousand messages, each with a port in whose queue the next one waits.
const DEEP: usize = 1000;

/// Wraps `inner` so many times. Gives the ports whose peers are the wrappings, from the inside to the
/// outside, and the outermost wrapping.
fn wrap(mut inner: MessagePort, times: usize) -> (Vec<MessagePort>, MessagePort) {
    let mut near = Vec::with_capacity(times);
    for index in 0..times as u64 {
        let (stays, wrapping) = channel_of(4096);
        stays.try_post_bytes_with(&sample(index), [inner]).unwrap();
        near.push(stays);
        inner = wrapping;
    }
    (near, inner)
}

/// Takes what is wrapped out of its wrapping number `index`, which is then free and has no other message.
#[track_caller]
fn unwrap(wrapping: &MessagePort, near: &MessagePort, index: usize) -> MessagePort {
    let event = wrapping.try_recv().unwrap().expect("the next port");
    assert_eq!(event.bytes(), sample(index as u64));
    let inner = only(event.take_ports());
    drop(event);
    assert_entangled(near, wrapping);
    inner
}

#[test]
fn s41_a_message_that_carries_a_port_goes_along_with_the_port_it_waits_on() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (innermost, inner) = channel_of(4096);
    ports::post(&innermost, 0..5);
    let (near, mut outer) = wrap(inner, 3);
    // Each hop moves all of it; meanwhile more comes in at every level.
    for hop in 0..5 {
        outer = carry(&carrier1, &carrier2, outer);
        near[hop % 3].try_post_bytes(b"later").unwrap();
        innermost.try_post_bytes(&sample(5 + hop as u64)).unwrap();
    }
    let mut wrapping = outer;
    for index in (0..3).rev() {
        let event = wrapping.try_recv().unwrap().unwrap();
        assert_eq!(event.bytes(), sample(index));
        let inner = only(event.take_ports());
        drop(event);
        let later = if index == 2 { 1 } else { 2 };
        (0..later).for_each(|_| assert_eq!(now(&wrapping), b"later"));
        assert_entangled(&near[index as usize], &wrapping);
        wrapping = inner;
    }
    ports::receive(&wrapping, 0..10);
    assert_entangled(&innermost, &wrapping);
}

#[test]
fn s41_nested_ports_work_in_the_process_that_unwraps_them() {
    let _quiet = common::descriptors();
    let (carrier, child) = common::worker("unwraps").into_parts();
    let (innermost, inner) = channel_of(4096);
    let (mut near, outer) = wrap(inner, 20);
    near.insert(0, innermost);
    carrier.post_bytes_with(b"", [outer]).unwrap();
    // Nobody of here is needed for what is inside of what.
    near[0].post_bytes(b"innermost").unwrap();
    for (near, index) in near.iter().zip(0..) {
        assert_eq!(next(near), sample(index));
    }
    drop(carrier);
    common::end_well(child);
    for near in &near {
        assert_eq!(ports::told(near), CloseReason::ClosedByPeer);
    }
}

/// Unwraps as long as there is something inside, then answers on every level.
fn unwraps() {
    let carrier = common::parent();
    let mut held = vec![ports::next_port(&carrier)];
    loop {
        let event = held[held.len() - 1].recv_timeout(common::PATIENCE);
        let inner = event.unwrap().unwrap().take_ports();
        if inner.is_empty() {
            break;
        }
        held.push(only(inner));
    }
    assert_eq!(held.len(), 21);
    for (port, index) in held.iter().rev().zip(0..) {
        port.post_bytes(&sample(index)).unwrap();
    }
    assert_eq!(ports::told(&carrier), CloseReason::ClosedByPeer);
}

#[test]
fn s41_a_thousand_nested_ports_are_unwrapped_one_by_one() {
    let _quiet = common::descriptors();
    ports::allow_descriptors(3000);
    let (innermost, inner) = channel_of(4096);
    let (near, mut wrapping) = wrap(inner, DEEP);
    let (carrier1, carrier2) = channel();
    wrapping = carry(&carrier1, &carrier2, wrapping);
    for index in (0..DEEP).rev() {
        wrapping = unwrap(&wrapping, &near[index], index);
    }
    assert_entangled(&innermost, &wrapping);
}

#[test]
fn s44_a_thousand_nested_ports_that_nobody_receives_are_all_closed() {
    let _quiet = common::descriptors();
    ports::allow_descriptors(3000);
    for unwrapped in [0, 1, DEEP / 2] {
        let (innermost, inner) = channel_of(4096);
        let (near, mut wrapping) = wrap(inner, DEEP);
        for index in (DEEP - unwrapped..DEEP).rev() {
            wrapping = unwrap(&wrapping, &near[index], index);
        }
        // All of it at once, however deep. What had been unwrapped was closed by its holder.
        drop(wrapping);
        assert_eq!(ports::told(&innermost), CloseReason::PeerGone);
        for (near, index) in near.iter().zip(0..) {
            let by_us = index + 1 >= DEEP - unwrapped;
            let expected = if by_us {
                CloseReason::ClosedByPeer
            } else {
                CloseReason::PeerGone
            };
            assert_eq!(ports::told(near), expected, "number {index}");
        }
    }
}

#[test]
fn s44_a_thousand_nested_ports_die_with_the_process_that_has_them() {
    let _quiet = common::descriptors();
    ports::allow_descriptors(3000);
    let (carrier, mut child, counters) = victim("receives_nothing", WaitStrategy::Block, "");
    counters.until(Counters::READY, 1);
    let (innermost, inner) = channel_of(4096);
    let (near, wrapping) = wrap(inner, DEEP);
    carrier.post_bytes_with(b"for nobody", [wrapping]).unwrap();
    common::kill(&mut child);
    assert_eq!(ports::told(&innermost), CloseReason::PeerGone);
    for near in &near {
        assert_eq!(ports::told(near), CloseReason::PeerGone);
    }
}

#[test]
fn s41_what_waits_with_ports_keeps_its_count_and_order_across_moves_of_either_end() {
    let _quiet = common::descriptors();
    let (outer1, outer2) = channel();
    let (mut carrier1, mut carrier2) = channel_of(1 << 16);
    let (mut waiting, mut posted, mut received) = (Vec::new(), 0, 0);
    for round in 0..12 {
        // To the limit, from ever new holders of the posting end.
        while waiting.len() < 64 {
            let (near, far) = channel_of(4096);
            carrier1
                .try_post_bytes_with(&sample(posted), [far])
                .unwrap();
            waiting.push(near);
            posted += 1;
            if posted % 10 == 0 {
                carrier1 = carry(&outer1, &outer2, carrier1);
            }
        }
        let (near, far) = channel_of(4096);
        let near = std::slice::from_ref(&near);
        let full = |error: &PostError| {
            matches!(
                error,
                PostError::TransfersFull {
                    waiting: 64,
                    max: 64
                }
            )
        };
        let answer = carrier1.try_post_bytes_with(b"one too many", [far]);
        let far = given_back(answer, near, full);
        // The other end's new holder finds all of them, and makes room.
        carrier2 = carry(&outer1, &outer2, carrier2);
        let answer = carrier1.try_post_bytes_with(b"still too many", far);
        drop(given_back(answer, near, full));
        for near in waiting.drain(..1 + round * 5) {
            let event = carrier2.try_recv().unwrap().unwrap();
            assert_eq!(event.bytes(), sample(received));
            assert_all_entangled(&[near], &event.take_ports());
            received += 1;
        }
    }
    assert!(posted > 256, "the descriptors' numbers wrapped");
    for near in waiting {
        assert_entangled(&near, &ports::next_port(&carrier2));
    }
    assert!(nothing(&carrier2));
}

#[test]
fn s14_a_port_goes_through_any_carrier_but_its_own_channel() {
    let _quiet = common::descriptors();
    let (outer1, outer2) = channel();
    let (mut port1, mut port2) = channel_of(4096);
    for _ in 0..3 {
        // However often both have moved, they are known for what they are.
        port2 = comes_back_from_its_own_peer(&port1, port2);
        port1 = comes_back_from_its_own_peer(&port2, port1);
        port1 = carry(&outer2, &outer1, port1);
        port2 = carry(&outer1, &outer2, port2);
        assert_entangled(&port1, &port2);
    }
}

#[track_caller]
fn comes_back_from_its_own_peer(carrier: &MessagePort, peer: MessagePort) -> MessagePort {
    let answer = carrier.post_bytes_with(b"to itself", [peer]);
    let own_peer = |error: &PostError| matches!(error, PostError::OwnPeer { index: 0 });
    only(given_back(answer, std::slice::from_ref(carrier), own_peer))
}

/// Waits until these are told that the other ends are gone. For a cycle the kernel has to look, which it does
/// when any Unix socket is closed.
#[track_caller]
fn until_collected(outside: &[MessagePort]) {
    common::until("the kernel has freed the cycle", || {
        drop(UnixStream::pair().unwrap());
        outside.iter().all(MessagePort::is_closed)
    });
    for port in outside {
        assert_eq!(ports::told(port), CloseReason::PeerGone);
    }
}

/// A cycle of `length` ports, each waiting in the next one's queue, together with one passenger each; gives the
/// ports whose peers are in it.
fn cycle(length: usize) -> Vec<MessagePort> {
    let (near, far) = ports::channels(length);
    let (mut outside, passengers) = ports::channels(length);
    let mut passengers = passengers.into_iter();
    for (index, far) in far.into_iter().enumerate() {
        let carrier = &near[(index + 1) % length];
        let carried = [Some(far), passengers.next()].into_iter().flatten();
        carrier.try_post_bytes_with(b"round", carried).unwrap();
    }
    outside.extend(near);
    outside
}

#[test]
fn s45_a_cycle_of_ports_that_nobody_holds_is_freed_and_outside_peers_are_told() {
    let _quiet = common::descriptors();
    for length in [2, 3, 10] {
        until_collected(&cycle(length));
    }
}

#[test]
fn s45_peers_that_hold_nothing_of_a_cycle_need_not_hold_on_to_it() {
    let _quiet = common::descriptors();
    // The ports through which it was made are dropped; only the passengers' peers remain.
    let mut outside = cycle(3);
    outside.truncate(3);
    until_collected(&outside);
}

#[test]
fn s45_what_somebody_can_still_reach_is_left_alone() {
    let _quiet = common::descriptors();
    let ((near1, far1), (near2, far2)) = (channel_of(4096), channel_of(4096));
    let (passenger1, passenger2) = channel_of(4096);
    // The second waits in the first one's queue, and the first one's own peer in the second's.
    near1
        .try_post_bytes_with(b"inside", [far2, passenger2])
        .unwrap();
    near2.try_post_bytes_with(b"round", [near1]).unwrap();
    // The kernel looks, and frees a cycle made meanwhile, but not these.
    until_collected(&cycle(2));
    assert!(!passenger1.is_closed() && !near2.is_closed());
    let [far2, passenger2] = ports::next_ports(&far1).try_into().unwrap();
    let near1 = ports::next_port(&far2);
    assert_entangled(&near1, &far1);
    assert_entangled(&near2, &far2);
    assert_entangled(&passenger1, &passenger2);
}

#[test]
fn s45_a_cycle_that_a_process_made_before_it_died_is_freed() {
    let _quiet = common::descriptors();
    let (carrier, mut child) = common::worker("makes_a_cycle_and_dies").into_parts();
    let ((near1, far1), (near2, far2)) = (channel_of(4096), channel_of(4096));
    let (outside, passenger) = channel_of(4096);
    let all = [near1, far1, near2, far2, passenger];
    carrier.post_bytes_with(b"", all).unwrap();
    child.wait().unwrap();
    assert_eq!(next(&carrier), b"made");
    until_collected(&[outside]);
    assert_eq!(ports::told(&carrier), CloseReason::PeerGone);
}

fn makes_a_cycle_and_dies() {
    let carrier = common::parent();
    let all = ports::next_ports(&carrier);
    let [near1, far1, near2, far2, passenger] = all.try_into().unwrap();
    near1.try_post_bytes_with(b"", [far2, passenger]).unwrap();
    near2.try_post_bytes_with(b"", [far1]).unwrap();
    carrier.post_bytes(b"made").unwrap();
    std::process::abort();
}

fn receives_nothing() {
    let (_carrier, counters) = on_stage();
    counters.ready();
    idle();
}
