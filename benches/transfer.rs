//! What does it cost to move a port to another process, and does it matter how much waits in it? Is a
//! port that has moved through five processes as fast as one that never moved? Bars: `transfer` against the
//! four system calls that moving takes, `hops` against a port that never moved.

mod harness;

use harness::clock::{self, Clock};
use harness::handover::{self, Turns};
use harness::ports::Port;
use harness::relay::{self, Relay};
use harness::work::{self, answer};
use harness::{Contest, Options, Pair, Role, Row, Waiting, line, payload};
use ringport::{
    ChannelOptions, MessageChannel, MessageEvent, MessagePort, PostError, WaitStrategy,
};

/// Bytes of every message and of every reply.
const LENGTH: usize = 48;

/// Bytes of the ring that moves empty, with a little and full.
const QUEUE: usize = 1 << 20;

/// Bytes of each message that waits in it.
const WAITING: usize = 1024;

fn main() {
    match harness::role("transfer") {
        None => {}
        Some(Role::Coordinator(options)) => {
            harness::run(
                &[("moving", moving), ("queues", queues), ("hops", hops)],
                &options,
            );
        }
        Some(Role::Lead(name)) => lead(&name),
        Some(Role::Peer(name)) => peer(&name),
    }
}

fn contest(
    name: &'static str,
    names: &[&str],
    cycle: &[&str],
    rows: &[Row],
    options: &Options,
) -> Vec<String> {
    // When a Unix socket is closed while others are under way, a worker of the kernel's looks for cycles among
    // these, on some CPU. That is part of what such a transfer costs, a twentieth of the time here.
    let pairs = names.iter().map(|name| match Pair::start(name) {
        pair if name.starts_with("transfer") || name.starts_with("queue") => pair.tolerating(0.1),
        pair => pair,
    });
    Contest::new(name, pairs.collect())
        .run(cycle, rows, options)
        .report(options)
}

/// To move a new port and get the first reply through it, against the bare calls.
fn moving(options: &Options) -> Vec<String> {
    println!("\nmove a port, first reply through it");
    contest(
        "moving",
        &[
            "line",
            "calls",
            "calls-alone",
            "calls-polled",
            "by-hand",
            "transfer",
            "calls-asleep",
            "transfer-asleep",
        ],
        &[
            "line",
            "calls",
            "transfer",
            "calls",
            "calls-alone",
            "calls-polled",
            "by-hand",
            "line",
            "calls",
            "transfer",
            "calls",
            "line",
            "calls-asleep",
            "transfer-asleep",
            "calls-asleep",
        ],
        &[
            Row::time("calls", "calls"), // how much the floor differs from itself
            Row::time("calls-alone", "calls"),
            Row::time("calls-polled", "calls"),
            Row::time("by-hand", "calls"),
            Row::time("transfer", "calls").bar(3.0),
            Row::time("transfer-asleep", "calls-asleep"),
        ],
        options,
    )
}

/// Whether what waits in a port makes it heavier.
fn queues(options: &Options) -> Vec<String> {
    println!("\nmove a port in which nothing waits, 10 messages do, its ring of 1 MiB is full");
    contest(
        "queues",
        &["line", "calls", "queue-empty", "queue-10", "queue-full"],
        &[
            "line",
            "queue-empty",
            "queue-10",
            "queue-empty",
            "calls",
            "queue-empty",
            "queue-full",
            "queue-empty",
        ],
        &[
            Row::time("calls", "queue-empty"),
            Row::time("queue-empty", "queue-empty"),
            Row::time("queue-10", "queue-empty").bar(1.1),
            Row::time("queue-full", "queue-empty").bar(1.1),
        ],
        options,
    )
}

/// Round trips on a port that has moved through five processes, against one that never moved.
fn hops(options: &Options) -> Vec<String> {
    println!(
        "\nround trips on a port that has moved through {} processes",
        relay::HOPS
    );
    contest(
        "hops",
        &["line", "fresh", "fresh-too", "hops"],
        &["line", "fresh", "hops", "fresh", "fresh-too"],
        &[
            Row::time("fresh", "fresh"),
            Row::time("fresh-too", "fresh"), // how much two that never moved differ
            Row::time("hops", "fresh").bar(1.05),
        ],
        options,
    )
}

fn lead(name: &str) {
    match name {
        "line" => line::run_lead(name, None),
        "calls" => handover::run_lead(name, Turns::Announced),
        "calls-polled" => handover::run_lead(name, Turns::Polled),
        "by-hand" => handover::run_lead(name, Turns::ByHand),
        "calls-asleep" => handover::run_lead(name, Turns::Asleep),
        "calls-alone" => handover::run_alone(),
        "transfer" => lead_transfers(name, WaitStrategy::Spin, Waiting::Spin),
        "transfer-asleep" => lead_transfers(name, WaitStrategy::Block, Waiting::Sleep),
        "queue-empty" => lead_moves(name, |_| 0),
        "queue-10" => lead_moves(name, |port| post_waiting(port, 10)),
        "queue-full" => lead_moves(name, |port| post_waiting(port, u64::MAX)),
        "fresh" | "fresh-too" => {
            let (port, mut peer) = harness::peer_with_port(name);
            work::lead_rounds::<LENGTH>(&mut spinning(port), &mut peer, Waiting::Spin, None);
            peer.finish();
        }
        "hops" => {
            let mut relay = Relay::start(name);
            let port = relay.port.take().expect("it has come back");
            work::lead_rounds::<LENGTH>(&mut spinning(port), &mut relay.last, Waiting::Spin, None);
            relay.finish();
        }
        _ => panic!("no contender is called {name}"),
    }
}

fn peer(name: &str) {
    match name {
        "line" => line::run_peer(),
        "calls" => handover::run_peer(Turns::Announced),
        "calls-polled" => handover::run_peer(Turns::Polled),
        "by-hand" => handover::run_peer(Turns::ByHand),
        "calls-asleep" => handover::run_peer(Turns::Asleep),
        "transfer" => peer_transfers(WaitStrategy::Spin),
        "transfer-asleep" => peer_transfers(WaitStrategy::Block),
        "queue-empty" | "queue-10" | "queue-full" => peer_moves(),
        "fresh" | "fresh-too" => {
            work::peer_rounds::<LENGTH>(&mut spinning(harness::port_to_lead()))
        }
        "hops" => {
            if let Some(port) = relay::pass_on() {
                work::peer_rounds::<LENGTH>(&mut spinning(port));
            }
        }
        _ => panic!("no contender called {name} has a peer"),
    }
}

fn spinning(port: MessagePort) -> Port {
    Port::new(port, Waiting::Spin)
}

fn message(sequence: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    payload::fill(&mut bytes, sequence);
    bytes
}

fn check(event: &MessageEvent<'_>, sequence: u64) {
    assert_eq!(event.len(), LENGTH);
    let sum = payload::expected(LENGTH, sequence, 1);
    assert_eq!(payload::sum(event.bytes()), sum, "message {sequence}");
}

fn post(port: &MessagePort, sequence: u64) {
    port.post_bytes(&message(sequence))
        .expect("the other side is alive");
}

fn take(port: &MessagePort, sequence: u64) {
    check(&port.recv().expect("the other side is alive"), sequence);
}

/// Posts the message and a port with it.
fn hand_over(carrier: &MessagePort, sequence: u64, port: MessagePort) {
    carrier
        .post_bytes_with(&message(sequence), [port])
        .expect("the other side is alive");
}

/// Receives the message and the port in it.
fn take_over(carrier: &MessagePort, sequence: u64) -> MessagePort {
    let event = carrier.recv().expect("the other side is alive");
    check(&event, sequence);
    let mut ports = event.take_ports();
    assert_eq!(ports.len(), 1);
    ports.remove(0)
}

/// A new port a unit. Timed: post it in a message of 48 bytes; over there receive that, check it, take
/// the port, post 48 bytes through it; receive and check these at the other end of the new channel.
/// All first touches of the new channel's memory by either side fall into this. The former holder
/// unmaps its map and closes its two descriptors while the message is under way. Not timed: making the
/// channel, dropping both its ends, a word from the peer that it has dropped its own.
fn lead_transfers(name: &str, strategy: WaitStrategy, waiting: Waiting) {
    let (carrier, mut peer) = harness::peer_with_port(name);
    carrier.set_wait_strategy(strategy);
    let mut sequence = 0;
    clock::lead(&mut peer, waiting, |units, clock: &mut Clock| {
        for _ in 0..units {
            let MessageChannel { port1, port2 } =
                MessageChannel::new().expect("a channel can be made");
            port1.set_wait_strategy(strategy);
            clock.time(|| {
                hand_over(&carrier, sequence, port2);
                take(&port1, answer(sequence));
            });
            take(&carrier, sequence);
            sequence += 1;
        }
        assert_eq!(carrier.stats().ports_posted, sequence);
    });
    peer.finish();
}

fn peer_transfers(strategy: WaitStrategy) {
    let carrier = harness::port_to_lead();
    carrier.set_wait_strategy(strategy);
    let mut sequence = 0;
    harness::peer(|units| {
        for _ in 0..units {
            let port = take_over(&carrier, sequence);
            post(&port, answer(sequence));
            drop(port);
            post(&carrier, sequence);
            sequence += 1;
        }
        assert_eq!(carrier.stats().ports_received, sequence);
    });
}

/// One port, there and back again, in whose queue lies what `fill` posts. Timed as above, but that the
/// channel is not new; the way back is not timed. All that waits is posted before, and received and
/// checked after each half.
fn lead_moves(name: &str, fill: impl Fn(&MessagePort) -> u64) {
    let (carrier, mut peer) = harness::peer_with_port(name);
    let options = ChannelOptions::new().capacity(QUEUE);
    let MessageChannel { port1, port2 } =
        MessageChannel::with_options(&options).expect("a channel can be made");
    port1.set_wait_strategy(WaitStrategy::Spin);
    let mut moving = Some(port2);
    let mut sequence = 0;
    clock::lead(&mut peer, Waiting::Spin, |units, clock: &mut Clock| {
        let waiting = fill(&port1);
        for _ in 0..units {
            let port = moving.take().expect("it has come back");
            clock.time(|| {
                hand_over(&carrier, sequence, port);
                take(&port1, answer(sequence));
            });
            moving = Some(take_over(&carrier, answer(sequence)));
            take(&carrier, sequence);
            sequence += 1;
        }
        take_waiting(moving.as_ref().expect("it has come back"), waiting);
    });
    peer.finish();
}

fn peer_moves() {
    let carrier = harness::port_to_lead();
    let mut sequence = 0;
    harness::peer(|units| {
        for _ in 0..units {
            let port = take_over(&carrier, sequence);
            post(&port, answer(sequence));
            hand_over(&carrier, answer(sequence), port);
            // Also what a post leaves to be done after the message is out is now done.
            post(&carrier, sequence);
            sequence += 1;
        }
    });
}

/// Posts so many messages, or until the ring is full; how many it were.
fn post_waiting(port: &MessagePort, count: u64) -> u64 {
    let mut bytes = [0; WAITING];
    for number in 0..count {
        payload::fill(&mut bytes, number);
        match port.try_post_bytes(&bytes) {
            Ok(()) => {}
            Err(PostError::Full { .. }) => {
                assert!(number as usize * WAITING > QUEUE * 9 / 10, "full too soon");
                return number;
            }
            Err(error) => panic!("message {number}: {error}"),
        }
    }
    count
}

fn take_waiting(port: &MessagePort, count: u64) {
    let mut sum = 0u64;
    for number in 0..count {
        let event = port.try_recv().expect("the other side is alive");
        let event = event.expect("what waits goes with the port");
        assert_eq!(event.len(), WAITING);
        assert_eq!(event.bytes()[..8], number.to_le_bytes(), "out of order");
        sum = sum.wrapping_add(payload::sum(event.bytes()));
    }
    assert_eq!(sum, payload::expected(WAITING, 0, count));
    assert!(port.try_recv().expect("as above").is_none());
}
