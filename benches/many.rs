//! What does a port cost that is in an event loop, with few or with thousands of others that are quiet? Bars:
//! `many`, round trips on one port among 4,000 against those on one that is alone; `loop-idle`, in context switches
//! a second.

mod harness;

use harness::ports::{CAPACITY, Port};
use harness::work::{self, Tally};
use harness::{Contest, Options, Pair, Role, Row, Waiting};
use harness::{errands, idle_loops, limits, line, loops};

/// Bytes of each message that goes there and back.
const LENGTH: usize = 48;

/// Bytes of each message of a stream.
const STREAMED: usize = 56;

const SOME: usize = 100;
const MANY: usize = 4000;

fn main() {
    match harness::role("many") {
        None => {}
        Some(Role::Coordinator(options)) => {
            let (here, each) = (idle_loops::most(MANY), limits::most(MANY, limits::A_PORT));
            if here < MANY {
                println!(
                    "this process may have {} descriptors: at most {here} ports with both ends, {each} with one",
                    limits::raise()
                );
            }
            harness::run(
                &[
                    ("many", many),
                    ("loop-cost", costs),
                    ("loop-stream", streaming),
                    ("loop-idle", idling),
                ],
                &options,
            );
        }
        Some(Role::Lead(name)) => lead(&name),
        Some(Role::Peer(name)) => peer(&name),
    }
}

/// Goes through the cycle with everybody whom it names.
fn contest(name: &'static str, cycle: &[String], rows: &[Row], options: &Options) -> Vec<String> {
    let cycle: Vec<&str> = cycle.iter().map(String::as_str).collect();
    let mut names = cycle.clone();
    names.sort_unstable();
    names.dedup();
    let pairs = names.into_iter().map(Pair::start).collect();
    Contest::new(name, pairs)
        .run(&cycle, rows, options)
        .report(options)
}

fn many(options: &Options) -> Vec<String> {
    let most = limits::most(MANY, limits::A_PORT);
    println!("\nround trips on one port of a loop in which there are so many");
    let of = |ports: usize, mood: &str| format!("loop-{ports}{mood}");
    let (alone, crowd) = (of(1, ""), of(most, ""));
    let (alone_adaptive, crowd_adaptive) = (of(1, "-adaptive"), of(most, "-adaptive"));
    let (alone_asleep, crowd_asleep) = (of(1, "-asleep"), of(most, "-asleep"));
    let (some, watching) = (of(SOME, ""), of(32, "-watching"));
    let rows = [
        Row::time("line", "line"), // how much the floor differs from itself
        Row::time("recv", "line"),
        Row::time(&alone, "line"),
        Row::time(&alone, "recv"), // what a loop costs
        Row::time(&some, &alone),
        Row::time(&watching, &alone),
        Row::time(&crowd, &alone).bar(1.5).called("many"),
        Row::time(&alone_adaptive, &alone),
        Row::time(&crowd_adaptive, &alone_adaptive),
        Row::time(&alone_asleep, "recv-asleep"),
        Row::time(&crowd_asleep, &alone_asleep),
    ];
    let cycle = [
        "line",
        "recv",
        &alone,
        "recv",
        &alone,
        "line",
        &alone,
        &crowd,
        &alone,
        &some,
        "line",
        &alone,
        &watching,
        &alone,
        &alone_adaptive,
        "line",
        &alone_adaptive,
        &crowd_adaptive,
        &alone_adaptive,
        "line",
        "recv-asleep",
        &alone_asleep,
        "recv-asleep",
        &alone_asleep,
        &crowd_asleep,
        &alone_asleep,
    ];
    contest("many", &cycle.map(String::from), &rows, options)
}

fn costs(options: &Options) -> Vec<String> {
    let most = idle_loops::most(MANY);
    println!(
        "\na port put into a loop in which there are so many, and taken out; a timer set, and cleared"
    );
    let adding = |ports: usize| format!("add-{ports}");
    let timing = |timers: usize| format!("timer-{timers}");
    let rows = [
        Row::time("epoll", "epoll"), // how much the calls differ from themselves
        Row::time(adding(1), "epoll"),
        Row::time(adding(SOME), adding(1)),
        Row::time(adding(most), adding(1)),
        Row::time(timing(1), timing(1)),
        Row::time(timing(SOME), timing(1)),
        Row::time(timing(MANY), timing(1)),
    ];
    let cycle = [
        "line".into(),
        "epoll".into(),
        adding(1),
        "epoll".into(),
        adding(1),
        adding(SOME),
        adding(1),
        adding(most),
        adding(1),
        "line".into(),
        timing(1),
        timing(SOME),
        timing(1),
        timing(MANY),
        timing(1),
    ];
    contest("loop-cost", &cycle, &rows, options)
}

fn streaming(options: &Options) -> Vec<String> {
    println!("\nmessages that are received in a handler");
    let rows = [
        Row::rate("recv-stream", "recv-stream"), // how much the rival differs from itself
        Row::rate("loop-stream", "recv-stream"),
    ];
    let cycle = ["line", "recv-stream", "loop-stream", "recv-stream"];
    contest("loop-stream", &cycle.map(String::from), &rows, options)
}

fn idling(options: &Options) -> Vec<String> {
    let most = idle_loops::most(MANY);
    vec![
        idle_loops::started(options, SOME.min(most)),
        idle_loops::started(options, most),
        idle_loops::not_started(options, most),
    ]
}

fn lead(name: &str) {
    match name {
        "line" => line::run_lead(name, None),
        "recv" => lead_rounds(name, Waiting::Spin),
        "recv-asleep" => lead_rounds(name, Waiting::Sleep),
        "epoll" => errands::lead_watching(),
        "recv-stream" | "loop-stream" => lead_stream(name),
        _ => match name.split_once('-') {
            Some(("add", ports)) => errands::lead_adding(number(ports)),
            Some(("timer", timers)) => errands::lead_timing(number(timers)),
            _ => loops::run_lead::<LENGTH>(name),
        },
    }
}

fn peer(name: &str) {
    let port = |waiting| Port::new(harness::port_to_lead(), waiting);
    match name {
        "line" => line::run_peer(),
        "recv" => work::peer_rounds::<LENGTH>(&mut port(Waiting::Spin)),
        "recv-asleep" => work::peer_rounds::<LENGTH>(&mut port(Waiting::Sleep)),
        "recv-stream" => {
            work::peer_stream::<STREAMED>(&mut port(Waiting::Spin), &Tally::inherited())
        }
        "loop-stream" => loops::run_peer_stream::<STREAMED>(&Tally::inherited()),
        _ => loops::run_peer::<LENGTH>(name),
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("how many there are")
}

/// The rival of a loop: `recv`, each time.
fn lead_rounds(name: &str, waiting: Waiting) {
    let (port, mut peer) = harness::peer_with_port(name);
    let mut port = Port::new(port, waiting);
    work::lead_rounds::<LENGTH>(&mut port, &mut peer, waiting, None);
    peer.finish();
}

/// The producer, which streams as fast as it can.
fn lead_stream(name: &str) {
    let (file, tally) = Tally::make();
    let (port, mut peer) = harness::peer_with_port_of(name, CAPACITY, |command| {
        Tally::hand_on(command, &file);
    });
    let mut port = Port::new(port, Waiting::Spin);
    work::lead_stream::<STREAMED>(&mut port, &mut peer, Waiting::Spin, &tally);
    peer.finish();
}
