//! How long is a full round trip between two processes that spin, over the library's API, in the
//! default (copied, untrusted) mode? Bars: `rtt-32`, `rtt-48`, `rtt-typed`, `rtt-1k`, each as a
//! multiple of the bare cache line ping-pong.

mod harness;

use harness::ports::Port;
use harness::ticks::{TICK, Typed};
use harness::work::{self, End};
use harness::{Contest, Options, Pair, Role, Row, Stopwatch, Waiting, bare, in_c, line};
use ringport::{MessagePort, WaitStrategy};

fn main() {
    match harness::role("rtt") {
        None => {}
        Some(Role::Coordinator(options)) => {
            let contests: [(_, harness::Show); 3] =
                [("rtt", mean_ratios), ("c", over_c), ("latency", latency)];
            harness::run(&contests, &options);
        }
        Some(Role::Lead(name)) => lead(&name),
        Some(Role::Peer(name)) => peer(&name),
    }
}

/// The untimed loops: a clock read would cost as much as a good part of a round trip.
fn mean_ratios(options: &Options) -> Vec<String> {
    let names = [
        "rtt-32",
        "rtt-48",
        "rtt-48-adaptive",
        "rtt-48-unpinned",
        "rtt-typed",
        "rtt-256",
        "rtt-1k",
        "rtt-1k-in-place",
        "bare-1k",
    ];
    let cycle: Vec<_> = names.iter().flat_map(|name| ["line", name]).collect();
    let pairs = ["line"].iter().chain(&names).map(|name| Pair::start(name));
    Contest::new("rtt", pairs.collect())
        .run(
            &cycle,
            &[
                Row::time("line", "line"), // how much the floor differs from itself
                Row::time("rtt-32", "line").bars([1.8, 1.35, 1.35]),
                Row::time("rtt-48", "line").bars([1.8, 1.35, 1.35]),
                Row::time("rtt-48-adaptive", "rtt-48"), // what it costs to be ready to sleep
                Row::time("rtt-48-unpinned", "rtt-48"), // what it costs to be moved about
                Row::time("rtt-typed", "line").bar(1.7),
                Row::time("rtt-1k", "line").bars([4.0, 2.5, 2.5]),
                Row::time("rtt-1k-in-place", "line"),
                Row::time("bare-1k", "line"), // what the way itself takes
                Row::time("rtt-1k", "bare-1k"),
                Row::time("rtt-256", "line"),
            ],
            options,
        )
        .report(options)
}

/// The same over the C interface, from a program in C.
fn over_c(options: &Options) -> Vec<String> {
    let options = &options.of("rtt-c");
    let Some(program) = in_c::build("rtt") else {
        return Vec::new();
    };
    let in_c =
        ["32", "48"].map(|length| Pair::start_as(&format!("rtt-{length}-c"), &program, length));
    let pairs = ["line", "rtt-32", "rtt-48"]
        .map(Pair::start)
        .into_iter()
        .chain(in_c);
    // The C interface and Rust's right after each other, in both orders.
    let cycle = [
        "line", "rtt-32", "rtt-32-c", "rtt-32", "line", "rtt-48", "rtt-48-c", "rtt-48",
    ];
    Contest::new("rtt-c", pairs.collect())
        .run(
            &cycle,
            &[
                Row::time("rtt-32-c", "rtt-32").bar(1.1),
                Row::time("rtt-48-c", "rtt-48").bar(1.1),
                Row::time("rtt-48-c", "line"),
            ],
            options,
        )
        .report(options)
}

fn latency(options: &Options) -> Vec<String> {
    let pairs = ["line-timed", "rtt-48-timed", "rtt-48-unpinned-timed"].map(Pair::start);
    harness::percentiles("rtt", pairs.into(), options);
    Vec::new()
}

fn lead(name: &str) {
    match name {
        "line" => line::run_lead(name, None),
        "line-timed" => line::run_lead(name, Some(Stopwatch::start())),
        "rtt-32" => lead_rounds::<32, _>(name, spinning, None),
        "rtt-48" => lead_rounds::<48, _>(name, spinning, None),
        "rtt-48-adaptive" => lead_rounds::<48, _>(name, adaptive, None),
        "rtt-48-unpinned" => {
            harness::unpin();
            lead_rounds::<48, _>(name, spinning, None);
        }
        "rtt-48-unpinned-timed" => {
            harness::unpin();
            lead_rounds::<48, _>(name, spinning, Some(Stopwatch::start()));
        }
        "rtt-48-timed" => lead_rounds::<48, _>(name, spinning, Some(Stopwatch::start())),
        "rtt-typed" => lead_rounds::<TICK, _>(name, Typed, None),
        "rtt-1k" => lead_rounds::<1024, _>(name, spinning, None),
        "rtt-256" => lead_rounds::<256, _>(name, spinning, None),
        "bare-1k" => bare::run_lead::<1024>(name),
        "rtt-1k-in-place" => lead_rounds::<1024, _>(name, in_place, None),
        _ => panic!("no contender is called {name}"),
    }
}

fn peer(name: &str) {
    match name {
        "line" | "line-timed" => line::run_peer(),
        "rtt-32" => peer_rounds::<32, _>(spinning),
        "rtt-48" | "rtt-48-timed" => peer_rounds::<48, _>(spinning),
        "rtt-48-adaptive" => peer_rounds::<48, _>(adaptive),
        "rtt-48-unpinned" | "rtt-48-unpinned-timed" => {
            harness::unpin();
            peer_rounds::<48, _>(spinning);
        }
        "rtt-typed" => peer_rounds::<TICK, _>(Typed),
        "rtt-1k" => peer_rounds::<1024, _>(spinning),
        "rtt-256" => peer_rounds::<256, _>(spinning),
        "bare-1k" => bare::run_peer::<1024>(),
        "rtt-1k-in-place" => peer_rounds::<1024, _>(in_place),
        _ => panic!("no contender is called {name}"),
    }
}

fn spinning(port: MessagePort) -> Port {
    Port::new(port, Waiting::Spin)
}

fn adaptive(port: MessagePort) -> Port {
    port.set_wait_strategy(WaitStrategy::Adaptive);
    Port(port)
}

fn in_place(port: MessagePort) -> Port {
    spinning(port).in_place()
}

fn lead_rounds<const LENGTH: usize, E: End<LENGTH>>(
    name: &str,
    end: impl FnOnce(MessagePort) -> E,
    watch: Option<Stopwatch>,
) {
    let (port, mut peer) = harness::peer_with_port(name);
    work::lead_rounds(&mut end(port), &mut peer, Waiting::Spin, watch);
    peer.finish();
}

fn peer_rounds<const LENGTH: usize, E: End<LENGTH>>(end: impl FnOnce(MessagePort) -> E) {
    work::peer_rounds(&mut end(harness::port_to_lead()));
}
