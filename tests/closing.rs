//! Closing: S47 to S50 and S53. Deaths are in `death.rs`, who notices what when in `noticing.rs`.

mod common;

use std::fs::File;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use common::{
    AT_ONCE, Counters, channel, channel_of, closed, greeting, next, now, post_closed, sample,
};
use ringport::{CloseReason, WaitStrategy};

roles! { posts_and_closes, posts_and_returns, closes_then_posts, waits_for_the_end, closes_unread }

#[test]
fn s47_close_ends_the_channel_for_both_ends() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    assert_eq!((port1.close_reason(), port2.close_reason()), (None, None));
    assert!(!port1.is_closed() && !port2.is_closed());
    port1.close();
    assert!(port1.is_closed() && port2.is_closed());
    assert_eq!(closed(port1.recv()), CloseReason::ClosedHere);
    assert_eq!(closed(port2.recv()), CloseReason::ClosedByPeer);
    assert_eq!(post_closed(port1.post_bytes(b"x")), CloseReason::ClosedHere);
    assert_eq!(
        post_closed(port2.post_bytes(b"x")),
        CloseReason::ClosedByPeer
    );
    assert_eq!(port1.close_reason(), Some(CloseReason::ClosedHere));
    assert_eq!(port2.close_reason(), Some(CloseReason::ClosedByPeer));
}

#[test]
fn s47_close_is_idempotent_on_either_side() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    for _ in 0..3 {
        port1.close();
        assert_eq!(port1.close_reason(), Some(CloseReason::ClosedHere));
    }
    assert_eq!(closed(port2.recv()), CloseReason::ClosedByPeer);
    for _ in 0..3 {
        port2.close();
        assert!(port2.is_closed());
    }
    assert_eq!(port1.close_reason(), Some(CloseReason::ClosedHere));
    // Both at once, neither having looked.
    let (port1, port2) = channel();
    port1.close();
    port2.close();
    assert!(port1.is_closed() && port2.is_closed());
}

#[test]
fn s47_dropping_a_port_closes_it() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    drop(port1);
    assert!(port2.is_closed());
    assert_eq!(closed(port2.try_recv()), CloseReason::ClosedByPeer);
    let (port1, port2) = channel();
    thread::spawn(move || drop(port2)).join().unwrap();
    assert_eq!(
        closed(port1.recv_timeout(AT_ONCE)),
        CloseReason::ClosedByPeer
    );
}

#[test]
fn s47_a_close_ends_a_process_that_waits_for_messages() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let counters = Counters::new();
        let mut command = common::command("waits_for_the_end");
        counters.give_to(&mut command);
        common::tell(&mut command, strategy, "");
        let (port, child) = ringport::Worker::spawn(command).unwrap().into_parts();
        counters.until(Counters::READY, 1);
        if strategy != WaitStrategy::Spin {
            counters.until_asleep(child.id());
        }
        port.close();
        common::end_well(child);
    }
}

fn waits_for_the_end() {
    let (port, counters) = (common::parent(), Counters::given());
    port.set_wait_strategy(common::strategy());
    counters.ready();
    let start = Instant::now();
    assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
    assert!(start.elapsed() < common::PATIENCE);
    assert!(port.stats().sleeps <= 2, "{:?}", port.stats());
}

#[test]
fn s48_everything_posted_before_the_close_arrives_then_closed_for_ever() {
    let _quiet = common::descriptors();
    for by_drop in [false, true] {
        let (port1, port2) = channel();
        (0..100).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
        let mut batch = port1.batch();
        batch.post_bytes(&sample(100)).unwrap();
        batch.publish();
        if by_drop {
            drop(port1);
        } else {
            port1.close();
        }
        for index in 0..=100 {
            // That the channel has ended can be known early; what waits is received all the same.
            assert!(port2.is_closed());
            assert_eq!(port2.close_reason(), Some(CloseReason::ClosedByPeer));
            assert_eq!(now(&port2), sample(index));
        }
        for _ in 0..3 {
            assert_eq!(closed(port2.recv()), CloseReason::ClosedByPeer);
            assert_eq!(closed(port2.try_recv()), CloseReason::ClosedByPeer);
            let timed = port2.recv_timeout(Duration::from_secs(1));
            assert_eq!(closed(timed), CloseReason::ClosedByPeer);
            assert!(port2.iter().next().is_none());
            assert!(port2.is_closed());
        }
    }
}

#[test]
fn s48_everything_posted_before_the_close_arrives_across_threads() {
    let _quiet = common::descriptors();
    for round in 0..200 {
        let (port1, port2) = channel_of(4096);
        port2.set_wait_strategy(common::STRATEGIES[round % 3]);
        let posts = round as u64 % 40;
        let poster = thread::spawn(move || {
            (0..posts).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
        });
        let mut received = 0;
        let reason = loop {
            match port2.recv() {
                Ok(event) => assert_eq!(event.bytes(), sample(received)),
                end => break closed(end),
            }
            received += 1;
        };
        assert_eq!((received, reason), (posts, CloseReason::ClosedByPeer));
        poster.join().unwrap();
    }
}

#[test]
fn s48_everything_posted_before_the_close_arrives_across_processes() {
    let _quiet = common::descriptors();
    for role in ["posts_and_closes", "posts_and_returns"] {
        for strategy in common::STRATEGIES {
            let (port, child) = common::worker(role).into_parts();
            port.set_wait_strategy(strategy);
            // More than the ring holds, so that the close comes while it is read.
            for index in 0..3000 {
                assert_eq!(next(&port), sample(index), "{role}, {strategy:?}");
            }
            for _ in 0..3 {
                assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer, "{role}");
            }
            common::end_well(child);
        }
    }
}

fn posts_and_closes() {
    let port = common::parent();
    (0..3000).for_each(|index| port.post_bytes(&sample(index)).unwrap());
    port.close();
    // What comes after a close is of no consequence, not even a death.
    std::process::exit(0);
}

fn posts_and_returns() {
    let port = common::parent();
    (0..3000).for_each(|index| port.post_bytes(&sample(index)).unwrap());
}

#[test]
fn s49_what_is_unread_on_the_closing_side_is_discarded() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    (0..3).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    (0..2).for_each(|index| port2.post_bytes(&sample(10 + index)).unwrap());
    port2.close();
    assert_eq!(closed(port2.try_recv()), CloseReason::ClosedHere);
    assert_eq!(closed(port2.recv()), CloseReason::ClosedHere);
    assert_eq!(
        closed(port2.recv_timeout(Duration::MAX)),
        CloseReason::ClosedHere
    );
    assert!(port2.iter().next().is_none());
    assert_eq!(port2.pending(), 0);
    // The other side still gets what was posted to it.
    assert_eq!(now(&port1), sample(10));
    assert_eq!(now(&port1), sample(11));
    assert_eq!(closed(port1.recv()), CloseReason::ClosedByPeer);
}

#[test]
fn s49_a_process_that_closes_with_messages_unread_delivers_its_own() {
    let _quiet = common::descriptors();
    let counters = Counters::new();
    let mut command = common::command("closes_unread");
    counters.give_to(&mut command);
    let (port, child) = ringport::Worker::spawn(command).unwrap().into_parts();
    (0..50).for_each(|index| port.post_bytes(&sample(index)).unwrap());
    counters.set(Counters::READY, 1);
    for index in 0..20 {
        assert_eq!(next(&port), sample(index));
    }
    assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
    common::end_well(child);
}

fn closes_unread() {
    let (port, counters) = (common::parent(), Counters::given());
    counters.until(Counters::READY, 1);
    assert!(port.pending() > 50 * 8);
    (0..20).for_each(|index| port.post_bytes(&sample(index)).unwrap());
    port.close();
    assert_eq!(closed(port.recv()), CloseReason::ClosedHere);
}

#[test]
fn s50_nothing_posted_after_the_close_is_delivered() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port1.post_bytes(b"before").unwrap();
    // What was begun before the close and finished after it counts as after.
    let mut slot = port1.reserve(5).unwrap();
    slot.write(b"after");
    port1.close();
    slot.commit();
    assert_eq!(
        post_closed(port1.post_bytes(b"after")),
        CloseReason::ClosedHere
    );
    assert_eq!(
        post_closed(port1.post_message(&greeting(1))),
        CloseReason::ClosedHere
    );
    assert_eq!(now(&port2), b"before");
    assert_eq!(closed(port2.recv()), CloseReason::ClosedByPeer);
    assert_eq!(closed(port1.recv()), CloseReason::ClosedHere);

    let (port1, port2) = channel();
    let mut batch = port1.batch();
    batch.post_bytes(b"after").unwrap();
    port1.close();
    assert_eq!(
        post_closed(batch.post_bytes(b"after")),
        CloseReason::ClosedHere
    );
    assert_eq!(batch.publish(), 0);
    assert_eq!(closed(port2.recv()), CloseReason::ClosedByPeer);
}

#[test]
fn s50_a_post_to_a_side_that_has_closed_is_never_received() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port2.close();
    // This may succeed, as long as nothing has been noticed here.
    let _ = port1.try_post_bytes(b"too late");
    assert_eq!(closed(port2.try_recv()), CloseReason::ClosedHere);
    assert_eq!(closed(port1.recv()), CloseReason::ClosedByPeer);
}

#[test]
fn s50_a_process_delivers_nothing_after_its_close() {
    let _quiet = common::descriptors();
    let (port, child) = common::worker("closes_then_posts").into_parts();
    assert_eq!(next(&port), b"before");
    assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
    common::end_well(child);
    assert_eq!(closed(port.try_recv()), CloseReason::ClosedByPeer);
}

fn closes_then_posts() {
    let port = common::parent();
    port.post_bytes(b"before").unwrap();
    port.close();
    for _ in 0..100 {
        assert_eq!(
            post_closed(port.post_bytes(b"after")),
            CloseReason::ClosedHere
        );
    }
}

#[test]
fn s53_the_close_says_why() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port2.close();
    assert_eq!(closed(port1.recv()), CloseReason::ClosedByPeer);
    assert_eq!(port2.close_reason(), Some(CloseReason::ClosedHere));

    // A handle nobody ever made a port of again.
    let (port1, port2) = channel();
    port2.post_bytes(b"last words").unwrap();
    drop(port2.into_handle());
    assert_eq!(now(&port1), b"last words");
    assert_eq!(closed(port1.recv()), CloseReason::PeerGone);
    assert_eq!(port1.close_reason(), Some(CloseReason::PeerGone));
    assert_eq!(post_closed(port1.post_bytes(b"x")), CloseReason::PeerGone);

    // A peer that rings in a way no peer of this library does.
    let (port1, port2) = channel();
    let handle = port2.into_handle();
    File::from(handle.doorbell.try_clone().unwrap())
        .write_all(&[0x02])
        .unwrap();
    assert_eq!(
        closed(port1.recv_timeout(common::PATIENCE)),
        CloseReason::Corrupt
    );
    assert_eq!(port1.close_reason(), Some(CloseReason::Corrupt));
    assert_eq!(post_closed(port1.post_bytes(b"x")), CloseReason::Corrupt);

    let mut shown: Vec<String> = [
        CloseReason::ClosedHere,
        CloseReason::ClosedByPeer,
        CloseReason::PeerGone,
        CloseReason::Corrupt,
    ]
    .map(|reason| reason.to_string())
    .to_vec();
    shown.sort();
    shown.dedup();
    assert_eq!(shown.len(), 4, "each reason reads differently: {shown:?}");
}

#[test]
fn s53_a_broken_channel_breaks_no_other() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (other1, other2) = channel();
    let handle = port2.into_handle();
    File::from(handle.doorbell.try_clone().unwrap())
        .write_all(&[0xff; 3])
        .unwrap();
    assert_eq!(
        closed(port1.recv_timeout(common::PATIENCE)),
        CloseReason::Corrupt
    );
    other1.post_bytes(b"fine").unwrap();
    assert_eq!(now(&other2), b"fine");
}
