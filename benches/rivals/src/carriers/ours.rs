//! ringport: in the default mode (messages are copied on arrival, the peer is not trusted), and read in
//! place by ends that trust each other.

use std::process::Command;

use crate::harness::ports::{self, Port};
use crate::harness::work::End;
use crate::harness::{Peer, Waiting};

use super::Carrier;

/// Copied, untrusted.
pub struct Ringport;

/// Read in place, trusted.
pub struct RingportInPlace;

/// What the header of a message and its alignment leave of half a ring.
fn longest(capacity: usize) -> usize {
    capacity / 2 - 24
}

fn lead(
    name: &str,
    capacity: usize,
    waiting: Waiting,
    prepare: impl FnOnce(&mut Command),
) -> (Port, Peer) {
    let (port, peer) = ports::peer_with_port_of(name, capacity, prepare);
    (Port::new(port, waiting), peer)
}

fn peer(waiting: Waiting) -> Port {
    Port::new(ports::port_to_lead(), waiting)
}

impl Carrier for Ringport {
    const NAME: &'static str = "ringport";

    fn longest(capacity: usize) -> usize {
        longest(capacity)
    }

    fn lead<const LENGTH: usize>(
        name: &str,
        capacity: usize,
        waiting: Waiting,
        prepare: impl FnOnce(&mut Command),
    ) -> (impl End<LENGTH>, Peer) {
        lead(name, capacity, waiting, prepare)
    }

    fn peer<const LENGTH: usize>(_: usize, waiting: Waiting) -> impl End<LENGTH> {
        peer(waiting)
    }
}

impl Carrier for RingportInPlace {
    const NAME: &'static str = "ringport-in-place";

    fn longest(capacity: usize) -> usize {
        longest(capacity)
    }

    fn lead<const LENGTH: usize>(
        name: &str,
        capacity: usize,
        waiting: Waiting,
        prepare: impl FnOnce(&mut Command),
    ) -> (impl End<LENGTH>, Peer) {
        let (port, peer) = lead(name, capacity, waiting, prepare);
        (port.in_place(), peer)
    }

    fn peer<const LENGTH: usize>(_: usize, waiting: Waiting) -> impl End<LENGTH> {
        peer(waiting).in_place()
    }
}
