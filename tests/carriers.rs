//! Ports under way when somebody dies: who sent them, who carries them, who was to receive them: S44, S51, S54.
//!
//! Whatever was not received is gone with the carrier, and each peer is told, at once and however it waits. What
//! was received by somebody else goes on.

mod common;
#[path = "common/luggage.rs"]
mod luggage;
#[path = "carriers/waiting.rs"]
mod waiting;

use std::process::Child;
use std::thread;

use common::{
    Counters, STRATEGIES, channel, channel_of, closed, kill, next, now, on_stage, rest, sample,
    victim,
};
use luggage::{assert_lost, assert_told_when, assert_works, luggage, unpack, unpack_or_gone};
use ringport::{CloseReason, MessagePort, TransferError, WaitStrategy};
use waiting::{makes_a_cycle, takes_nothing, takes_one_message};

roles! {
    takes_nothing, takes_one_message, takes_all, passes_on, serves, posts_what_it_got, posts_bit_by_bit, makes_a_cycle,
}

/// Ports with nothing in their queues, and their peers.
fn pairs(count: usize) -> (Vec<MessagePort>, Vec<MessagePort>) {
    (0..count).map(|_| channel_of(4096)).unzip()
}

/// Waits until the victim has said that what comes next is its sleep, and sleeps.
fn until_it_sleeps(child: &Child, counters: &Counters) {
    counters.until_asleep(child.id());
}

/// The last act of a role: to be killed in its sleep.
fn sleep_until_killed(counters: &Counters) {
    counters.ready();
    common::idle();
}

#[test]
fn s51_ports_in_the_hands_of_a_killed_process_are_gone_at_once() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (control, mut child, counters) = victim("takes_all", strategy, "");
        let (mut ports, peers) = pairs(6);
        while let Some(port) = ports.pop() {
            control.post_bytes_with(b"", [port]).unwrap();
        }
        counters.until(Counters::DONE, 6);
        assert_told_when(peers, strategy, || kill(&mut child));
        assert_eq!(closed(control.recv()), CloseReason::PeerGone);
    }
}

/// Receives messages with ports, and keeps the ports.
fn takes_all() {
    let (control, counters) = on_stage();
    let mut held = Vec::new();
    for event in control.iter() {
        held.append(&mut event.take_ports());
        counters.set(Counters::DONE, held.len() as u64);
    }
}

#[test]
fn s44_ports_posted_to_a_process_killed_while_it_receives_are_gone_or_given_back() {
    let _quiet = common::descriptors();
    for round in 0..6 {
        let strategy = STRATEGIES[round % 3];
        let (control, mut child, counters) = victim("takes_all", strategy, "");
        control.set_wait_strategy(strategy);
        let (mut lost, given_back) = thread::scope(|scope| {
            scope.spawn(|| {
                counters.until(Counters::DONE, 30 + 17 * round as u64);
                kill(&mut child);
            });
            post_until_closed(&control, 2)
        });
        assert!(lost.len() as u64 >= counters.get(Counters::DONE));
        for peer in lost.drain(..) {
            assert_lost(&peer, 1);
        }
        for (port, peer) in given_back {
            assert_works(port, &peer, 1);
        }
        assert_eq!(closed(control.recv()), CloseReason::PeerGone);
    }
}

/// Posts messages with so many ports until it fails. The peers of those posted, and what was given back.
fn post_until_closed(
    control: &MessagePort,
    at_a_time: usize,
) -> (Vec<MessagePort>, Vec<(MessagePort, MessagePort)>) {
    let mut posted = Vec::new();
    // A test of the bound too: the queue is full soon after the reader died.
    for _ in 0..100_000 {
        let (ports, mut peers) = luggage(at_a_time);
        match control.post_bytes_with(b"more", ports) {
            Ok(()) => posted.append(&mut peers),
            Err(error) => return (posted, give_back(error, peers)),
        }
        // So many channels at once are enough.
        if posted.len() > 150 {
            common::until("it is closed", || control.is_closed());
        }
    }
    panic!("still not closed");
}

fn give_back(error: TransferError, peers: Vec<MessagePort>) -> Vec<(MessagePort, MessagePort)> {
    let (error, ports) = error.into_parts();
    assert_eq!(common::post_closed(Err(error)), CloseReason::PeerGone);
    assert_eq!(ports.len(), peers.len(), "all come back");
    ports.into_iter().zip(peers).collect()
}

#[test]
fn s51_ports_posted_by_a_process_that_is_killed_then_arrive() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (control, mut child, counters) = victim("posts_what_it_got", strategy, "");
        let (carrier, inbox) = channel();
        let (nested, feeder) = channel();
        let (ports, peers) = luggage(3);
        let (inner, inner_peers) = luggage(2);
        feeder.post_bytes_with(b"inner", inner).unwrap();
        control
            .post_bytes_with(b"", [carrier, nested].into_iter().chain(ports))
            .unwrap();
        until_it_sleeps(&child, &counters);
        kill(&mut child);
        // The sender has been dead for long when its message is received.
        let mut ports = unpack(&inbox, 4);
        let nested = ports.remove(0);
        for (port, peer) in ports.into_iter().zip(&peers) {
            assert_works(port, peer, 1);
        }
        for (port, peer) in unpack(&nested, 2).into_iter().zip(&inner_peers) {
            assert_works(port, peer, 1);
        }
        drop(nested);
        assert_eq!(closed(feeder.recv()), CloseReason::ClosedByPeer);
        assert_eq!(closed(inbox.recv()), CloseReason::PeerGone);
        assert_eq!(closed(control.recv()), CloseReason::PeerGone);
    }
}

/// Posts all ports it was given over the first one.
fn posts_what_it_got() {
    let (control, counters) = on_stage();
    let mut ports = control.recv().unwrap().take_ports();
    let carrier = ports.remove(0);
    carrier.post_bytes_with(b"yours", ports).unwrap();
    sleep_until_killed(&counters);
}

#[test]
fn s51_each_port_of_a_process_killed_while_it_posts_arrives_or_is_gone() {
    let _quiet = common::descriptors();
    const ALL: usize = 60;
    const AT_A_TIME: usize = 3;
    for round in 0..6 {
        let strategy = STRATEGIES[round % 3];
        let (control, mut child, counters) = victim("posts_bit_by_bit", strategy, "");
        let (carrier, inbox) = channel();
        let (ports, peers) = luggage(ALL);
        control
            .post_bytes_with(b"", [carrier].into_iter().chain(ports))
            .unwrap();
        inbox.set_wait_strategy(strategy);
        let arrived = thread::scope(|scope| {
            scope.spawn(|| {
                counters.until(Counters::DONE, 1 + 3 * round as u64);
                kill(&mut child);
            });
            let mut arrived = Vec::new();
            while let Some(mut ports) = unpack_or_gone(&inbox, AT_A_TIME) {
                arrived.append(&mut ports);
            }
            arrived
        });
        // It may have died after it published and before it could count that.
        let returned = counters.get(Counters::DONE) as usize * AT_A_TIME;
        let count = arrived.len();
        assert!(
            count == returned || count == returned + AT_A_TIME,
            "{count} of {returned}"
        );
        let mut peers = peers.iter();
        for (port, peer) in arrived.into_iter().zip(peers.by_ref()) {
            assert_works(port, peer, 1);
        }
        // `zip` asks for a port first, so no peer is skipped.
        assert_eq!(peers.len(), ALL - count);
        peers.for_each(|peer| assert_lost(peer, 1));
        assert_eq!(closed(control.recv()), CloseReason::PeerGone);
    }
}

/// Posts the ports it was given over the first one, a few in each message.
fn posts_bit_by_bit() {
    let (control, counters) = on_stage();
    let mut ports = control.recv().unwrap().take_ports();
    let carrier = ports.remove(0);
    let mut done = 0;
    while !ports.is_empty() {
        carrier.post_bytes_with(b"some", ports.drain(..3)).unwrap();
        done += 1;
        counters.set(Counters::DONE, done);
    }
    common::idle();
}

#[test]
fn s36_ports_received_by_another_process_outlive_the_one_that_passed_them_on() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (control, mut passer, passing) = victim("passes_on", strategy, "");
        let (to_server, mut server, serving) = victim("serves", strategy, "");
        // The two get a channel of their own; over it go four ports, one of them with a port in its queue.
        let (end1, end2) = channel();
        control.post_bytes_with(b"", [end1]).unwrap();
        to_server.post_bytes_with(b"", [end2]).unwrap();
        let (ports, peers) = pairs(4);
        let (inner, inner_peer) = channel();
        for (peer, index) in peers.iter().zip(0..) {
            peer.post_bytes(&sample(index)).unwrap();
        }
        control.post_bytes_with(b"", ports).unwrap();
        serving.until(Counters::DONE, 4);
        until_it_sleeps(&passer, &passing);
        kill(&mut passer);
        assert_eq!(closed(control.recv()), CloseReason::PeerGone);
        for (peer, index) in peers.iter().zip(0..) {
            assert_eq!(next(peer), sample(index), "asked before the transfer");
            peer.post_bytes(&sample(index + 50)).unwrap();
            assert_eq!(next(peer), sample(index + 50), "asked after the death");
        }
        // The server neither took nor lost what comes now; it dies with it.
        peers[0].post_bytes_with(&sample(1), [inner]).unwrap();
        assert_eq!(next(&peers[0]), sample(1));
        let waiting = peers.into_iter().chain([inner_peer, to_server]).collect();
        assert_told_when(waiting, strategy, || kill(&mut server));
    }
}

/// Sends all ports of the second message over the port of the first.
fn passes_on() {
    let (control, counters) = on_stage();
    let to_server = unpack(&control, 1).remove(0);
    let ports = unpack(&control, 4);
    to_server.post_bytes_with(b"passed on", ports).unwrap();
    sleep_until_killed(&counters);
}

/// Answers on the ports that it gets over the port that it gets. Ports it is asked with it keeps.
fn serves() {
    let (control, counters) = on_stage();
    let inbox = unpack(&control, 1).remove(0);
    let ports = unpack(&inbox, 4);
    let mut kept = Vec::new();
    counters.set(Counters::DONE, 4);
    // The test asks one port after the other, in this order, and the first once more.
    for port in ports.iter().chain(&ports).chain(&ports[..1]) {
        let event = port
            .recv_timeout(common::PATIENCE)
            .unwrap()
            .expect("a question");
        kept.append(&mut event.take_ports());
        port.post_bytes(event.bytes()).unwrap();
    }
    common::idle();
}

#[test]
fn s54_a_port_under_way_while_its_peer_is_killed_brings_what_was_posted_then_the_end() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (control, mut child, counters) = victim("posts_what_it_got", strategy, "");
        // The victim holds `end` and posts on it: a message with two ports.
        let (under_way, end) = channel();
        let (ports, peers) = luggage(2);
        control
            .post_bytes_with(b"", [end].into_iter().chain(ports))
            .unwrap();
        let (carrier, inbox) = channel();
        carrier.post_bytes_with(b"", [under_way]).unwrap();
        until_it_sleeps(&child, &counters);
        kill(&mut child);
        let arrived = unpack(&inbox, 1).remove(0);
        arrived.set_wait_strategy(strategy);
        for (port, peer) in unpack(&arrived, 2).into_iter().zip(&peers) {
            assert_works(port, peer, 1);
        }
        assert_eq!(closed(arrived.recv()), CloseReason::PeerGone);
        common::assert_over(&arrived, CloseReason::PeerGone);
        assert_eq!(closed(control.recv()), CloseReason::PeerGone);
    }
}

#[test]
fn s51_a_carrier_that_dies_before_it_posted_takes_its_ports_along() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (control, mut child, _counters) = victim("takes_all", WaitStrategy::Block, "");
        let (carrier, inbox) = channel();
        inbox.set_wait_strategy(strategy);
        let (ports, peers) = luggage(3);
        // Never told what to do with them: nothing arrives, nothing stays behind.
        control
            .post_bytes_with(b"", [carrier].into_iter().chain(ports))
            .unwrap();
        kill(&mut child);
        assert!(unpack_or_gone(&inbox, 3).is_none());
        peers.iter().for_each(|peer| assert_lost(peer, 1));
        assert_eq!(rest(&control, 0), (0, CloseReason::PeerGone));
    }
}

#[test]
fn s51_a_death_disturbs_no_port_that_travelled_beside() {
    let _quiet = common::descriptors();
    let (control, mut child, counters) = victim("takes_nothing", WaitStrategy::Block, "");
    let (carrier1, carrier2) = channel();
    let (mut ports, peers) = luggage(8);
    // Every other port goes to the victim, the rest to this process, message by message.
    for index in 0..8 {
        let to = if index % 2 == 0 { &control } else { &carrier1 };
        to.post_bytes_with(&sample(index), [ports.remove(0)])
            .unwrap();
    }
    until_it_sleeps(&child, &counters);
    kill(&mut child);
    for (peer, index) in peers.iter().zip(0..) {
        if index % 2 == 0 {
            assert_lost(peer, 1);
        } else {
            assert_works(unpack(&carrier2, 1).remove(0), peer, 1);
        }
    }
    carrier2.post_bytes(&sample(3)).unwrap();
    assert_eq!(now(&carrier1), sample(3));
}
