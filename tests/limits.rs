//! Too much under way: at most 64 messages with ports wait in one direction, and the kernel counts the
//! descriptors in flight of each user (S12, S41). In both cases nothing is lost.

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::time::{Duration, Instant};

use common::{
    Counters, channel, channel_of, next, nothing, now, on_stage, sample, trust_if, victim,
};
use ports::{WAYS, assert_all_entangled, assert_entangled, carry, fill, given_back, only, waiting};
use ringport::{CloseReason, MessagePort, PostError, TransferError, WaitStrategy};

roles! { posts_more_than_may_wait, receives_nothing, sends_too_many }

/// Messages with ports that may wait in one direction.
const MOST: u64 = 64;

/// Posts the samples of this range, each with a port; gives these ports' peers.
fn post_each_with_a_port(carrier: &MessagePort, range: std::ops::Range<u64>) -> Vec<MessagePort> {
    range
        .map(|index| {
            let (near, far) = channel_of(4096);
            carrier.try_post_bytes_with(&sample(index), [far]).unwrap();
            near
        })
        .collect()
}

/// Receives what [`post_each_with_a_port`] posted.
#[track_caller]
fn receive_each(carrier: &MessagePort, first: u64, near: &[MessagePort]) {
    for (near, index) in near.iter().zip(first..) {
        let event = carrier.recv_timeout(common::PATIENCE).unwrap().unwrap();
        assert_eq!(event.bytes(), sample(index));
        assert_entangled(near, &only(event.take_ports()));
    }
}

fn transfers_full(error: &PostError) -> bool {
    matches!(
        error,
        PostError::TransfersFull {
            waiting: 64,
            max: 64
        }
    )
}

#[test]
fn s12_a_65th_message_with_ports_gives_them_back() {
    let _quiet = common::descriptors();
    for trusted in [false, true] {
        let (carrier1, carrier2) = channel();
        trust_if(&carrier2, trusted);
        let mut near = post_each_with_a_port(&carrier1, 0..MOST);
        let before = carrier1.stats();
        let (one, mut far) = ports::channels(1);
        for way in WAYS.iter().filter(|way| !way.waits) {
            far = given_back(way.post(&carrier1, 99, far), &one, transfers_full);
        }
        let long = Duration::from_millis(30);
        let start = Instant::now();
        let answer = carrier1.post_bytes_with_timeout(b"", far, long);
        let far = given_back(answer, &one, transfers_full);
        assert!(start.elapsed() >= long);
        let after = carrier1.stats();
        assert_eq!(after.messages_posted, before.messages_posted);
        assert_eq!(after.ports_posted, MOST);
        // As soon as one is received, there is place for another, whether or not its port was taken.
        let first = carrier2.recv().unwrap();
        carrier1.try_post_bytes_with(&sample(MOST), far).unwrap();
        near.extend(one);
        let (one, far) = ports::channels(1);
        let answer = carrier1.try_post_bytes_with(b"", far);
        drop(given_back(answer, &one, transfers_full));
        assert_entangled(&near[0], &only(first.take_ports()));
        drop(first);
        receive_each(&carrier2, 1, &near[1..]);
        assert!(nothing(&carrier2));
    }
}

#[test]
fn s12_messages_without_ports_do_not_mind() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let near = post_each_with_a_port(&carrier1, 0..MOST);
    // None of these waits.
    carrier1.post_bytes(&sample(64)).unwrap();
    carrier1.post_bytes_with(&sample(65), []).unwrap();
    let mut slot = carrier1.reserve(sample(66).len()).unwrap();
    slot.write(&sample(66));
    slot.commit();
    let mut batch = carrier1.batch();
    batch.post_bytes(&sample(67)).unwrap();
    assert_eq!(batch.publish(), 1);
    // The other direction has a count of its own.
    let back = post_each_with_a_port(&carrier2, 0..MOST);
    receive_each(&carrier1, 0, &back);
    receive_each(&carrier2, 0, &near);
    (64..68).for_each(|index| assert_eq!(now(&carrier2), sample(index)));
}

/// Lets a thread wait with a message that has ports, does `meanwhile`, and gives the outcome.
fn while_one_waits<T>(
    strategy: WaitStrategy,
    carrier: MessagePort,
    index: u64,
    far: Vec<MessagePort>,
    meanwhile: impl FnOnce() -> T,
) -> (Result<(), TransferError>, T) {
    let poster = waiting(strategy, move || {
        carrier.set_wait_strategy(strategy);
        let outcome = carrier.post_bytes_with(&sample(index), far);
        (outcome, carrier)
    });
    assert!(!poster.is_finished());
    let seen = meanwhile();
    let (outcome, _carrier) = poster.join().unwrap();
    (outcome, seen)
}

#[test]
fn s12_who_waits_for_a_place_is_woken_by_a_receipt() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        for full in [false, true] {
            let (carrier1, carrier2) = channel();
            let mut near = post_each_with_a_port(&carrier1, 0..MOST);
            let plain = if full { fill(&carrier1) } else { 0 };
            let (one, far) = ports::channels(1);
            let (outcome, ()) = while_one_waits(strategy, carrier1, MOST, far, || {
                let first = if full { MOST as usize } else { 1 };
                receive_each(&carrier2, 0, &near[..first]);
                ports::receive(&carrier2, 0..plain);
                near.drain(..first);
            });
            outcome.unwrap();
            near.extend(one);
            receive_each(&carrier2, MOST + 1 - near.len() as u64, &near);
            assert_eq!(ports::told(&carrier2), CloseReason::ClosedByPeer);
        }
    }
}

#[test]
fn s12_who_waits_for_a_place_is_woken_by_the_receivers_next_holder() {
    let _quiet = common::descriptors();
    let (outer1, outer2) = channel();
    for strategy in common::STRATEGIES {
        let (carrier1, carrier2) = channel();
        let mut near = post_each_with_a_port(&carrier1, 0..MOST);
        let (one, far) = ports::channels(1);
        let (outcome, carrier2) = while_one_waits(strategy, carrier1, MOST, far, || {
            let carrier2 = carry(&outer1, &outer2, carrier2);
            receive_each(&carrier2, 0, &near[..1]);
            carrier2
        });
        outcome.unwrap();
        near.extend(one);
        receive_each(&carrier2, 1, &near[1..]);
    }
}

#[test]
fn s12_who_waits_for_a_place_or_for_room_is_told_of_the_end_and_has_the_ports_back() {
    let _quiet = common::descriptors();
    let ended = |reason| move |error: &PostError| matches!(error, PostError::Closed(found) if *found == reason);
    for strategy in common::STRATEGIES {
        for for_room in [false, true] {
            let (carrier1, carrier2) = channel();
            let (index, near) = if for_room {
                (fill(&carrier1), Vec::new())
            } else {
                (MOST, post_each_with_a_port(&carrier1, 0..MOST))
            };
            let (one, far) = ports::channels(1);
            let close = || drop(carrier2);
            let (outcome, ()) = while_one_waits(strategy, carrier1, index, far, close);
            drop(given_back(outcome, &one, ended(CloseReason::ClosedByPeer)));
            for near in &near {
                assert_eq!(ports::told(near), CloseReason::PeerGone);
            }
        }
        let (carrier, mut child, counters) = victim("receives_nothing", strategy, "");
        counters.until(Counters::READY, 1);
        let near = post_each_with_a_port(&carrier, 0..MOST);
        let (one, far) = ports::channels(1);
        let kill = || common::kill(&mut child);
        let (outcome, ()) = while_one_waits(strategy, carrier, MOST, far, kill);
        drop(given_back(outcome, &one, ended(CloseReason::PeerGone)));
        drop(near);
    }
}

fn receives_nothing() {
    let (_carrier, counters) = on_stage();
    counters.ready();
    common::idle();
}

#[test]
fn s12_who_waits_for_room_with_ports_is_woken_by_receipts() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (carrier1, carrier2) = channel_of(4096);
        let posted = fill(&carrier1);
        let (near, far) = ports::channels(3);
        let (outcome, event) = while_one_waits(strategy, carrier1, posted, far, || {
            ports::receive(&carrier2, 0..posted);
            let event = carrier2.recv_timeout(common::PATIENCE).unwrap();
            event.expect("what was waiting for room").into_owned()
        });
        outcome.unwrap();
        assert_eq!(event.bytes(), sample(posted));
        assert_all_entangled(&near, &event.take_ports());
    }
}

/// More than may wait, and more than there are numbers for descriptor messages.
const MANY: u64 = 140;

#[test]
fn s12_a_process_that_posts_more_ports_than_may_wait_waits() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (carrier, child, counters) = victim("posts_more_than_may_wait", strategy, "");
        counters.until(Counters::DONE, MOST);
        if strategy != WaitStrategy::Spin {
            counters.until_asleep(child.id());
        }
        assert_eq!(counters.get(Counters::DONE), MOST);
        let mut received = Vec::new();
        for index in 0..MANY {
            let port = ports::next_port(&carrier);
            assert_eq!(now(&port), sample(index));
            port.post_bytes(&sample(index + 1)).unwrap();
            received.push(port);
        }
        assert_eq!(next(&carrier), b"all answered");
        drop(carrier);
        common::end_well(child);
    }
}

fn posts_more_than_may_wait() {
    let (carrier, counters) = on_stage();
    counters.ready();
    let (near, far) = ports::channels(MANY as usize);
    for ((near, far), index) in near.iter().zip(far).zip(0..) {
        near.post_bytes(&sample(index)).unwrap();
        carrier.post_bytes_with(b"", [far]).unwrap();
        counters.set(Counters::DONE, index + 1);
    }
    for (near, index) in near.iter().zip(0..) {
        assert_eq!(next(near), sample(index + 1));
    }
    carrier.post_bytes(b"all answered").unwrap();
    assert_eq!(ports::told(&carrier), CloseReason::ClosedByPeer);
}

/// Ports in each message of the process that sends too many.
const EACH: usize = 5;

#[test]
fn s41_too_many_descriptors_in_flight_is_an_error_of_its_own() {
    let _quiet = common::descriptors();
    let (carrier, child, counters) = victim("sends_too_many", WaitStrategy::Block, "");
    // Until then nothing is received, so that all of it is in flight.
    counters.until(Counters::READY, 1);
    let mut received = Vec::new();
    for index in 0.. {
        let event = carrier.recv_timeout(common::PATIENCE).unwrap().unwrap();
        if event.bytes() == b"too many" {
            assert!(event.take_ports().is_empty());
            break;
        }
        assert_eq!(event.bytes(), sample(index));
        let ports = event.take_ports();
        assert_eq!(ports.len(), EACH);
        received.extend(ports);
    }
    assert!(!received.is_empty());
    // Nothing of them is in flight any more.
    carrier.post_bytes(b"received").unwrap();
    received.extend(ports::next_ports(&carrier));
    for (port, index) in received.iter().zip(0..) {
        assert_eq!(next(port), sample(index));
    }
    drop(carrier);
    common::end_well(child);
}

/// As a user who may have few descriptors in flight.
fn sends_too_many() {
    let (carrier, counters) = on_stage();
    let (near, mut far) = ports::channels(60);
    become_unprivileged();
    allow_descriptors_in_flight(40);
    let mut sent = 0;
    let mut far = loop {
        let some: Vec<_> = far.drain(..EACH).collect();
        let Err(error) = carrier.post_bytes_with(&sample(sent), some) else {
            sent += 1;
            continue;
        };
        let PostError::TooManyInFlight { source } = error.error() else {
            panic!("wanted TooManyInFlight, got {error:?}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::ETOOMANYREFS));
        break error.into_ports();
    };
    let first = sent as usize * EACH;
    let peers = &near[first..first + EACH];
    assert_all_entangled(peers, &far);
    // However it is posted: it never waits.
    for way in WAYS {
        let answer = way.post(&carrier, 99, far);
        far = given_back(answer, peers, |error| {
            matches!(error, PostError::TooManyInFlight { .. })
        });
    }
    assert_eq!(carrier.stats().ports_posted, first as u64);
    carrier.post_bytes(b"too many").unwrap();
    counters.ready();
    assert_eq!(next(&carrier), b"received");
    carrier.post_bytes_with(b"the rest", far).unwrap();
    for (near, index) in near[..first + EACH].iter().zip(0..) {
        near.post_bytes(&sample(index)).unwrap();
    }
    assert_eq!(ports::told(&carrier), CloseReason::ClosedByPeer);
}

/// The kernel does not limit root. It counts for each user, so this takes one that nobody else is.
fn become_unprivileged() {
    // SAFETY: no precondition.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let user = 60_001 + std::process::id() % 5_000;
    // SAFETY: takes three numbers.
    let changed = unsafe { libc::setresuid(user, user, user) };
    assert_eq!(changed, 0, "{}", std::io::Error::last_os_error());
}

/// The limit of open descriptors is also that of those in flight. What is open stays open.
fn allow_descriptors_in_flight(count: u64) {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: count,
    };
    // SAFETY: the pointer is to a live rlimit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}
