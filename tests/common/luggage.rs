//! Ports under way: those that travel, and their peers, which stay here and must be told how it went.

#![allow(dead_code)] // each test binary uses a part of it

use ringport::{CloseReason, MessagePort, RecvError, WaitStrategy};

use crate::common::{self, AT_ONCE, PATIENCE, assert_over, channel_of, closed, next, rest, sample};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

/// Ports to be sent somewhere, each with a message in its queue, and their peers, each with one as well.
pub fn luggage(count: usize) -> (Vec<MessagePort>, Vec<MessagePort>) {
    (0..count)
        .map(|_| {
            let (port, peer) = channel_of(4096);
            peer.post_bytes(&sample(70)).unwrap();
            port.post_bytes(&sample(0)).unwrap();
            (port, peer)
        })
        .unzip()
}

/// The port has arrived and is what it was: its queue came along, both directions work, its end is told.
/// The peer has messages `0..posted` waiting.
#[track_caller]
pub fn assert_works(port: MessagePort, peer: &MessagePort, posted: u64) {
    assert_eq!(next(&port), sample(70));
    assert!(common::nothing(&port), "one message, once");
    port.post_bytes(&sample(posted)).unwrap();
    peer.post_bytes(&sample(71)).unwrap();
    assert_eq!(next(&port), sample(71));
    drop(port);
    assert_eq!(rest(peer, 0), (posted + 1, CloseReason::ClosedByPeer));
    assert_over(peer, CloseReason::ClosedByPeer);
}

/// The port is lost: its peer gets what was posted, messages `0..posted`, and is told.
#[track_caller]
pub fn assert_lost(peer: &MessagePort, posted: u64) {
    assert_eq!(rest(peer, 0), (posted, CloseReason::PeerGone));
    assert_over(peer, CloseReason::PeerGone);
}

/// Each of these ports is being waited on when `act` is done, and learns at once that its peer is gone.
#[track_caller]
pub fn assert_told_when(peers: Vec<MessagePort>, strategy: WaitStrategy, act: impl FnOnce()) {
    let (started, threads) = mpsc::channel();
    let waiters: Vec<_> = peers
        .into_iter()
        .map(|peer| {
            let started = started.clone();
            thread::spawn(move || {
                peer.set_wait_strategy(strategy);
                started.send(common::thread_id()).unwrap();
                let answer = peer.recv_timeout(PATIENCE).map(|event| event.is_some());
                (peer, answer, Instant::now())
            })
        })
        .collect();
    for _ in &waiters {
        let thread = threads.recv_timeout(PATIENCE).unwrap();
        if strategy != WaitStrategy::Spin {
            common::until_asleep(std::process::id(), thread);
        }
    }
    let before = Instant::now();
    act();
    for waiter in waiters {
        let (peer, answer, told) = waiter.join().unwrap();
        assert_eq!(closed(answer), CloseReason::PeerGone, "{strategy:?}");
        assert!(told >= before, "told too early, {strategy:?}");
        assert!(told - before < AT_ONCE, "told too late, {strategy:?}");
        assert_over(&peer, CloseReason::PeerGone);
    }
}

/// The ports of a message that must come.
#[track_caller]
pub fn unpack(port: &MessagePort, count: usize) -> Vec<MessagePort> {
    let event = port.recv_timeout(PATIENCE).unwrap().expect("a message");
    assert_eq!(event.port_count(), count);
    let ports = event.take_ports();
    assert_eq!((ports.len(), event.port_count()), (count, 0));
    ports
}

/// The ports of the next message, or that there is none and never will be.
#[track_caller]
pub fn unpack_or_gone(port: &MessagePort, count: usize) -> Option<Vec<MessagePort>> {
    match port.recv_timeout(PATIENCE) {
        Ok(Some(event)) => {
            assert_eq!(event.port_count(), count, "all of them or none");
            Some(event.take_ports())
        }
        Err(RecvError::Closed(CloseReason::PeerGone)) => None,
        Ok(None) => panic!("neither a message nor the end"),
        Err(other) => panic!("wanted a message or PeerGone, got {other:?}"),
    }
}
