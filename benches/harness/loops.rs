//! A busy port in an event loop, alone or in a crowd of quiet ones.
//!
//! ```text
//! lead: one loop                                                  peer
//!   busy    ── question ──►                                         answers, without a loop
//!           ◄── answer ── handler: check it, ask the next question
//!   quiet ─┐
//!   quiet  ├─ one message each way, once                            holds the other ends
//!   quiet ─┘
//! ```

use std::cell::Cell;
use std::time::Duration;

use ringport::{EventLoop, MessageChannel, MessagePort, PortId, Stats, WaitStrategy};

use super::ports::{Port, post};
use super::work::{self, Tally, answer};
use super::{Waiting, lead, limits, peer, peer_with_port, port_to_lead};

/// Ports that travel in one message.
const MOST_AT_ONCE: usize = 126;

/// Bytes of the message that goes each way through each quiet port.
const HELLO: &[u8] = b"hello";

/// Nothing that comes before the slices may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the loop waits, and how its peer does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Both spin. The quiet ports were told to ring.
    Spinning,
    /// The same, but that the loop goes on looking at the quiet ports: it has slept at no time since they were
    /// used.
    Watching,
    /// The loop is as it is by default, its peer spins.
    Adaptive,
    /// Both sleep each time.
    Asleep,
}

/// The suffixes of the contenders' names.
const MOODS: [(&str, Mood); 4] = [
    ("", Mood::Spinning),
    ("-watching", Mood::Watching),
    ("-adaptive", Mood::Adaptive),
    ("-asleep", Mood::Asleep),
];

impl Mood {
    fn strategy(self) -> WaitStrategy {
        match self {
            Mood::Spinning | Mood::Watching => WaitStrategy::Spin,
            Mood::Adaptive => WaitStrategy::Adaptive,
            Mood::Asleep => WaitStrategy::Block,
        }
    }

    /// What the peer does, and what the harness has to know.
    fn waiting(self) -> Waiting {
        match self {
            Mood::Asleep => Waiting::Sleep,
            _ => Waiting::Spin,
        }
    }

    /// What the loop does while its quiet ports are used for the first time.
    fn strategy_before(self) -> WaitStrategy {
        match self {
            Mood::Watching => WaitStrategy::Spin,
            _ => WaitStrategy::Block,
        }
    }
}

/// Takes a name like `loop-4000-asleep` apart: how many ports are in the loop, and how it waits.
fn parse(name: &str) -> (usize, Mood) {
    let parts = || {
        let rest = name.strip_prefix("loop-")?;
        let digits = rest.find('-').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits);
        let mood = MOODS.iter().find(|(known, _)| *known == suffix)?.1;
        Some((number.parse().ok()?, mood))
    };
    parts().unwrap_or_else(|| panic!("no contender is called {name}"))
}

/// The lead of round trips on one port of a loop.
pub fn run_lead<const LENGTH: usize>(name: &str) {
    let (ports, mood) = parse(name);
    let (port, mut peer) = peer_with_port(name);
    // The handlers borrow these, so they are declared before the loop.
    let (sequence, end) = (Cell::new(0), Cell::new(0));
    let heard = Cell::new(0);
    let mut events = EventLoop::new().expect("a loop can be made");
    events.set_wait_strategy(mood.strategy_before());
    let quiet = add_quiet(&mut events, &port, ports - 1, &heard);
    events.set_wait_strategy(mood.strategy());
    let before = stats(&events, &quiet);
    let is_armed = |stats: &Stats| (stats.sleeps > 0) == (mood != Mood::Watching);
    assert!(before.iter().all(is_armed), "another loop than is meant");
    let greetings = port.stats().messages_received;
    let busy = events
        .add(port)
        .expect("room for one more")
        .on_message(|events, event| {
            work::check::<LENGTH>(event.bytes(), answer(sequence.get()));
            sequence.set(sequence.get() + 1);
            if sequence.get() == end.get() {
                events.stop();
            } else {
                post::<LENGTH>(event.port(), sequence.get());
            }
        })
        .id();
    lead(&mut peer, mood.waiting(), |units| {
        end.set(sequence.get() + units);
        let port = events.port(busy).expect("it was added");
        post::<LENGTH>(&port, sequence.get());
        drop(port);
        events.run().expect("the loop can wait");
        assert_eq!(sequence.get(), end.get());
        String::new()
    });
    assert_eq!(stats(&events, &quiet), before, "a quiet port was busied");
    let port = events.port(busy).expect("it was added");
    let stats = port.stats();
    assert_eq!(stats.messages_received - greetings, sequence.get());
    assert!(mood != Mood::Asleep || stats.sleeps > 0, "it slept");
    drop(port);
    peer.finish();
}

/// Puts so many ports into the loop, whose other ends go to the peer, and has each used once each way.
fn add_quiet<'h>(
    events: &mut EventLoop<'h>,
    carrier: &MessagePort,
    count: usize,
    heard: &'h Cell<usize>,
) -> Vec<PortId> {
    carrier.set_wait_strategy(WaitStrategy::Adaptive);
    let mut quiet = Vec::new();
    while quiet.len() < count {
        let mut theirs = Vec::new();
        while theirs.len() < MOST_AT_ONCE && quiet.len() < count {
            let MessageChannel { port1, port2 } =
                MessageChannel::new().expect("a channel can be made");
            let port = events.add(port1).expect("room for one more");
            port.on_message(|_, event| {
                assert_eq!(event.bytes(), HELLO);
                heard.set(heard.get() + 1);
            });
            port.post_bytes(HELLO).expect("the other side is alive");
            quiet.push(port.id());
            theirs.push(port2);
        }
        carrier
            .post_bytes_with(HELLO, theirs)
            .expect("the other side is alive");
        take_hello(carrier);
    }
    while heard.get() < count {
        let any = events.run_once(Some(PATIENCE)).expect("it can wait");
        assert!(any, "each of them is used");
    }
    // One round more, in which there is nothing to do: time to tell them to ring.
    events
        .run_once(Some(Duration::from_millis(1)))
        .expect("it can wait");
    assert_eq!(heard.get(), count);
    quiet
}

fn take_hello(port: &MessagePort) {
    let event = port.recv_timeout(PATIENCE).expect("the peer is alive");
    assert_eq!(event.expect("it comes").bytes(), HELLO);
}

fn stats(events: &EventLoop, ports: &[PortId]) -> Vec<Stats> {
    let stats = |port: &PortId| events.port(*port).expect("it was added").stats();
    ports.iter().map(stats).collect()
}

/// The peer of [`run_lead`].
pub fn run_peer<const LENGTH: usize>(name: &str) {
    let (ports, mood) = parse(name);
    limits::raise();
    let port = port_to_lead();
    port.set_wait_strategy(WaitStrategy::Adaptive);
    let mut quiet: Vec<MessagePort> = Vec::new();
    while quiet.len() < ports - 1 {
        let event = port.recv_timeout(PATIENCE).expect("the lead is alive");
        quiet.extend(event.expect("some more").take_ports());
        port.post_bytes(HELLO).expect("the lead is alive");
    }
    for port in &quiet {
        take_hello(port);
        port.post_bytes(HELLO).expect("the lead is alive");
    }
    work::peer_rounds::<LENGTH>(&mut Port::new(port, mood.waiting()));
}

/// The peer of a stream: counts and adds up in the handler of a port that is alone in its loop.
pub fn run_peer_stream<const LENGTH: usize>(tally: &Tally) {
    let (sequence, end, sum) = (Cell::new(0), Cell::new(0), Cell::new(0u64));
    let mut events = EventLoop::new().expect("a loop can be made");
    events.set_wait_strategy(WaitStrategy::Spin);
    events
        .add(port_to_lead())
        .expect("room for one")
        .on_message(|events, event| {
            let more = work::sum_of::<LENGTH>(event.bytes(), sequence.get());
            sum.set(sum.get().wrapping_add(more));
            sequence.set(sequence.get() + 1);
            if sequence.get() == end.get() {
                events.stop();
            }
        });
    peer(|units| {
        end.set(sequence.get() + units);
        sum.set(0);
        events.run().expect("the loop can wait");
        tally.say(sequence.get(), sum.get());
    });
}
