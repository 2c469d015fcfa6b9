//! Ports that nobody had received: they wait in queues when the process dies that holds the queues.

use std::os::unix::net::UnixStream;

use ringport::{CloseReason, MessagePort};

use crate::common::{self, STRATEGIES, channel, channel_of, closed, kill, on_stage, victim};
use crate::luggage::{assert_lost, assert_told_when, luggage, unpack};
use crate::{pairs, sleep_until_killed, until_it_sleeps};

#[test]
fn s44_ports_that_wait_in_the_queue_of_a_killed_process_are_gone_at_once() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (control, mut child, counters) = victim("takes_nothing", strategy, "");
        let (mut ports, peers) = pairs(6);
        control.post_bytes_with(b"one", ports.drain(..1)).unwrap();
        control.post_bytes_with(b"two", ports.drain(..2)).unwrap();
        control.post_bytes_with(b"three", ports).unwrap();
        until_it_sleeps(&child, &counters);
        assert_told_when(peers, strategy, || kill(&mut child));
        assert_eq!(closed(control.recv()), CloseReason::PeerGone);
    }
}

pub fn takes_nothing() {
    let (_control, counters) = on_stage();
    sleep_until_killed(&counters);
}

#[test]
fn s44_ports_that_wait_in_the_queues_of_ports_of_a_killed_process_are_gone_at_once() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (control, mut child, counters) = victim("takes_one_message", strategy, "");
        // One carrier is received by the victim, the other waits in its queue; ports wait in both.
        let (received, feeder) = channel();
        let (waiting, other_feeder) = channel();
        let (mut ports, mut peers) = pairs(4);
        feeder.post_bytes_with(b"", ports.drain(..2)).unwrap();
        control.post_bytes_with(b"", [received]).unwrap();
        other_feeder.post_bytes_with(b"", ports).unwrap();
        control.post_bytes_with(b"", [waiting]).unwrap();
        until_it_sleeps(&child, &counters);
        let (late, late_peer) = channel();
        feeder.post_bytes_with(b"later", [late]).unwrap();
        peers.push(late_peer);
        peers.extend([feeder, other_feeder]);
        assert_told_when(peers, strategy, || kill(&mut child));
        assert_eq!(closed(control.recv()), CloseReason::PeerGone);
    }
}

pub fn takes_one_message() {
    let (control, counters) = on_stage();
    let _held = unpack(&control, 1);
    sleep_until_killed(&counters);
}

#[test]
fn s44_ports_within_ports_within_ports_are_gone_at_once() {
    let _quiet = common::descriptors();
    const DEPTH: usize = 250;
    for strategy in STRATEGIES {
        let (control, mut child, counters) = victim("takes_nothing", strategy, "");
        // The innermost first: each waits in the queue of the next one, and only the last is posted.
        let (mut inner, innermost_peer) = channel_of(4096);
        let mut peers = Vec::new();
        for _ in 0..DEPTH {
            let (outer, peer) = channel_of(4096);
            peer.post_bytes_with(b"within", [inner]).unwrap();
            peers.push(peer);
            inner = outer;
        }
        control.post_bytes_with(b"outermost", [inner]).unwrap();
        until_it_sleeps(&child, &counters);
        assert_told_when(vec![innermost_peer], strategy, || kill(&mut child));
        for peer in &peers {
            assert_eq!(closed(peer.recv()), CloseReason::PeerGone);
        }
    }
}

#[test]
fn s44_both_ports_of_a_channel_die_with_their_carrier_and_with_what_waits_in_them() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (control, mut child, counters) = victim("takes_nothing", strategy, "");
        let (port1, port2) = channel();
        let (mut ports, peers) = pairs(4);
        port1.post_bytes_with(b"", ports.drain(..2)).unwrap();
        port2.post_bytes_with(b"", ports).unwrap();
        control.post_bytes_with(b"", [port1]).unwrap();
        control.post_bytes_with(b"", [port2]).unwrap();
        until_it_sleeps(&child, &counters);
        assert_told_when(peers, strategy, || kill(&mut child));
        assert_eq!(closed(control.recv()), CloseReason::PeerGone);
    }
}

#[test]
fn s45_a_cycle_that_a_killed_process_left_is_freed_and_its_peers_are_told() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (control, mut child, counters) = victim("makes_a_cycle", strategy, "");
        let (ports, peers) = luggage(2);
        control.post_bytes_with(b"", ports).unwrap();
        until_it_sleeps(&child, &counters);
        kill(&mut child);
        // The kernel looks for cycles when a Unix socket is closed, whoever's it is.
        common::until("both peers are told", || {
            drop(UnixStream::pair().unwrap());
            peers.iter().all(MessagePort::is_closed)
        });
        peers.iter().for_each(|peer| assert_lost(peer, 1));
        assert_eq!(closed(control.recv()), CloseReason::PeerGone);
    }
}

/// Makes two ports that wait in each other's queue, with the ports it was given.
pub fn makes_a_cycle() {
    let (control, counters) = on_stage();
    let mut given = unpack(&control, 2);
    let (a1, a2) = channel();
    let (b1, b2) = channel();
    // `b1` waits for `a2`, and `a2` for `b1`.
    a1.post_bytes_with(b"", [b1, given.remove(0)]).unwrap();
    b2.post_bytes_with(b"", [a2, given.remove(0)]).unwrap();
    sleep_until_killed(&counters);
}
