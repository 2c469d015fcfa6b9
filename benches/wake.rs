//! How long is a round trip between two processes that sleep each time? Does a port that waits use any CPU?
//! Bars: `wake` against an eventfd that two processes bounce, `idle` in context switches a second.

mod harness;

use harness::ports::Port;
use harness::{Contest, Options, Pair, Role, Row, Stopwatch, Waiting, asleep, idle, line, work};

const LENGTH: usize = 48;

fn main() {
    match harness::role("wake") {
        None => {}
        Some(Role::Coordinator(options)) => {
            harness::run(
                &[("wake", waking), ("latency", latency), ("idle", idling)],
                &options,
            );
        }
        Some(Role::Lead(name)) => lead(&name),
        Some(Role::Peer(name)) => peer(&name),
    }
}

fn waking(options: &Options) -> Vec<String> {
    let pairs = ["line", "eventfd", "socket", "wake"].map(Pair::start);
    Contest::new("wake", pairs.into())
        .run(
            &["line", "eventfd", "wake", "eventfd", "socket", "eventfd"],
            &[
                Row::time("eventfd", "eventfd"), // how much the floor differs from itself
                Row::time("socket", "eventfd"),
                Row::time("wake", "eventfd").bar(1.35),
            ],
            options,
        )
        .report(options)
}

fn latency(options: &Options) -> Vec<String> {
    let pairs = ["eventfd-timed", "wake-timed"].map(Pair::start);
    harness::percentiles("wake", pairs.into(), options);
    Vec::new()
}

fn idling(options: &Options) -> Vec<String> {
    vec![idle::measure(options)]
}

fn lead(name: &str) {
    match name {
        "line" => line::run_lead(name, None),
        "eventfd" => asleep::run_lead_eventfds(name, None),
        "eventfd-timed" => asleep::run_lead_eventfds(name, Some(Stopwatch::start())),
        "socket" => asleep::run_lead_socket(name),
        "wake" => lead_rounds(name, None),
        "wake-timed" => lead_rounds(name, Some(Stopwatch::start())),
        _ => panic!("no contender is called {name}"),
    }
}

fn peer(name: &str) {
    match name {
        "line" => line::run_peer(),
        "eventfd" | "eventfd-timed" => asleep::run_peer_eventfds(),
        "socket" => asleep::run_peer_socket(),
        "wake" | "wake-timed" => {
            let mut port = Port::new(harness::port_to_lead(), Waiting::Sleep);
            work::peer_rounds::<LENGTH>(&mut port);
        }
        _ => panic!("no contender is called {name}"),
    }
}

fn lead_rounds(name: &str, watch: Option<Stopwatch>) {
    let (port, mut peer) = harness::peer_with_port(name);
    let mut port = Port::new(port, Waiting::Sleep);
    work::lead_rounds::<LENGTH>(&mut port, &mut peer, Waiting::Sleep, watch);
    assert!(port.0.stats().sleeps > 0, "this is about sleeping");
    peer.finish();
}
