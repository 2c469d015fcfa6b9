//! How many messages a second go one way between two processes that spin, over the library's API? What does
//! it cost that every post looks for a sleeper? Bars: `stream-8` and `stream-8-batch` against rtrb's `u64`
//! between two threads, `post-cost` against this same bench built without that look, and `stream-1k`,
//! `stream-1m` and `stream-1m-copied` against `memcpy`. The default mode (copied, untrusted) unless the name
//! says in place. At last a picture's worth: each payload in each capacity.

mod harness;

use std::env;
use std::hint::spin_loop;
use std::ops::Range;
use std::sync::Arc;

use harness::ports::{CAPACITY, Port};
use harness::threads::Thread;
use harness::work::{self, End, Tally};
use harness::{Contest, Options, Pair, Peer, Role, Row, Waiting, copy, line, no_wake};
use ringport::{Barrier, MessagePort};

/// Messages a batch.
const BATCH: usize = 64;

/// As many bytes of `u64`s in rtrb's ring as there are in ours by default.
const RTRB_CAPACITY: usize = CAPACITY / 8;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The capacity at which 1 KiB goes fastest, of those in the sweep.
const BEST: usize = 4 * MIB;

/// What the sweep goes through: bytes of payload, bytes of ring.
const PAYLOADS: [usize; 6] = [8, 64, 256, KIB, 4 * KIB, 16 * KIB];
const CAPACITIES: [usize; 6] = [16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB];

fn main() {
    match harness::role("stream") {
        None => {}
        Some(Role::Coordinator(options)) => {
            harness::run(
                &[
                    ("short", short_messages),
                    ("post-cost", post_cost),
                    ("long", long_messages),
                    ("sweep", sweep),
                ],
                &options,
            );
        }
        Some(Role::Lead(name)) => lead(&name),
        Some(Role::Peer(name)) => peer(&name),
    }
}

/// Runs `cycle` over and over with everybody whom it names.
fn contest(
    name: &'static str,
    cycle: &[String],
    rows: &[Row],
    options: &Options,
    start: impl Fn(&str) -> Pair,
) -> Vec<String> {
    let mut names: Vec<&str> = cycle.iter().map(String::as_str).collect();
    let cycle = names.clone();
    names.sort_unstable();
    names.dedup();
    let pairs = names.into_iter().map(start).collect();
    Contest::new(name, pairs)
        .run(&cycle, rows, options)
        .report(options)
}

/// The rival on both sides of each of ours, the floor between any two of ours.
fn in_turns<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let slices = pairs
        .into_iter()
        .flat_map(|(ours, theirs)| ["line", theirs, ours, theirs]);
    slices.map(String::from).collect()
}

fn short_messages(options: &Options) -> Vec<String> {
    println!("\nshort messages; rtrb-u64: two threads of one process, {RTRB_CAPACITY} slots");
    let ours = [
        "stream-8",
        "stream-8-batch",
        "stream-56",
        "stream-56-in-place",
        "stream-56-1m",
    ];
    let rows = [
        Row::rate("rtrb-u64", "rtrb-u64"), // how much the rival differs from itself
        Row::rate("stream-8", "rtrb-u64").bar(0.5),
        Row::rate("stream-8-batch", "rtrb-u64").bar(1.3),
        Row::rate("stream-56", "rtrb-u64"),
        Row::rate("stream-56-in-place", "rtrb-u64"),
        Row::rate("stream-56-1m", "rtrb-u64"),
    ];
    let cycle = in_turns(ours.map(|ours| (ours, "rtrb-u64")));
    contest("short", &cycle, &rows, options, Pair::start)
}

/// The same stream from two builds of this bench, and once with a fence in every post.
fn post_cost(options: &Options) -> Vec<String> {
    println!(
        "\nstream-56 as built (post-cost) and fenced, against the build that never looks for a sleeper"
    );
    let Some(program) = no_wake::build("stream") else {
        return Vec::new();
    };
    let ours = env::current_exe().expect("this program has a path");
    let start = |name: &str| match name {
        "no-wake" => Pair::start_as(name, &program, "no-wake"),
        "post-cost" => Pair::start_as(name, &ours, "stream-56"),
        _ => Pair::start(name),
    };
    let rows = [
        Row::rate("no-wake", "no-wake"),
        Row::rate("post-cost", "no-wake").bar(0.95),
        Row::rate("stream-56-fenced", "no-wake"),
    ];
    let cycle = in_turns([("post-cost", "no-wake"), ("stream-56-fenced", "no-wake")]);
    contest("post-cost", &cycle, &rows, options, start)
}

/// Where `memcpy` is the limit.
fn long_messages(options: &Options) -> Vec<String> {
    println!("\nlong messages, against memcpy within as much memory");
    let small = harness::sized("copy", KIB, BEST);
    let large = harness::sized("copy", MIB, 8 * MIB);
    let rows = [
        Row::rate("stream-1k", &small).bars([0.8, 0.25, 0.25]),
        Row::rate("stream-1k-in-place", &small),
        Row::rate(&large, &large), // how much the floor differs from itself
        Row::rate("stream-1m", &large).bar(1.0),
        Row::rate("stream-1m-copied", &large).bar(0.6),
    ];
    let cycle = in_turns([
        ("stream-1k", &*small),
        ("stream-1k-in-place", &*small),
        ("stream-1m", &*large),
        ("stream-1m-copied", &*large),
    ]);
    contest("long", &cycle, &rows, options, Pair::start)
}

/// Each payload in each capacity that takes it.
fn sweep(options: &Options) -> Vec<String> {
    println!("\neach payload in each capacity, in bytes");
    let (payloads, capacities) = match options.quick {
        true => (&PAYLOADS[..2], &CAPACITIES[..2]),
        false => (&PAYLOADS[..], &CAPACITIES[..]),
    };
    let cells = payloads.iter().flat_map(|&length| {
        let fits = capacities
            .iter()
            .filter(move |&&capacity| length < capacity / 2);
        fits.map(move |&capacity| harness::sized("copied", length, capacity))
    });
    let names: Vec<_> = cells.collect();
    let rows: Vec<_> = names.iter().map(|name| Row::time(name, "line")).collect();
    let cycle: Vec<_> = names
        .into_iter()
        .flat_map(|name| ["line".into(), name])
        .collect();
    contest("sweep", &cycle, &rows, &options.with_rounds(8), Pair::start)
}

fn lead(name: &str) {
    match name {
        "line" => line::run_lead(name, None),
        "rtrb-u64" => lead_rtrb(),
        "stream-8" => lead_stream::<8>(name, CAPACITY),
        "stream-8-batch" => lead_batches(name),
        "stream-56" | "stream-56-in-place" => lead_stream::<56>(name, CAPACITY),
        // Only in the build that is called so.
        "no-wake" if cfg!(ringport_no_wake) => lead_stream::<56>(name, CAPACITY),
        "stream-56-1m" => lead_stream::<56>(name, MIB),
        "stream-56-fenced" => {
            ringport::set_barrier(Barrier::Fence);
            lead_stream::<56>(name, CAPACITY);
        }
        "stream-1k" | "stream-1k-in-place" => lead_stream::<KIB>(name, BEST),
        "stream-1m" | "stream-1m-copied" => lead_stream::<MIB>(name, 8 * MIB),
        _ => match harness::parse(name) {
            ("copy", length, capacity) => copy::run(length, capacity),
            (_, length, capacity) => for_length!(length, lead_stream(name, capacity)),
        },
    }
}

fn peer(name: &str) {
    match name {
        "line" => line::run_peer(),
        "stream-8" | "stream-8-batch" => peer_stream::<8>(copied),
        "stream-56" | "no-wake" | "stream-56-1m" => peer_stream::<56>(copied),
        "stream-56-in-place" => peer_stream::<56>(Port::in_place),
        "stream-56-fenced" => {
            ringport::set_barrier(Barrier::Fence);
            peer_stream::<56>(copied);
        }
        "stream-1k" => peer_stream::<KIB>(copied),
        "stream-1k-in-place" => peer_stream::<KIB>(Port::in_place),
        "stream-1m" => peer_stream::<MIB>(Port::in_place),
        "stream-1m-copied" => peer_stream::<MIB>(copied),
        _ => for_length!(harness::parse(name).1, peer_stream(copied)),
    }
}

fn copied(port: Port) -> Port {
    port
}

/// The producer.
fn lead_stream<const LENGTH: usize>(name: &str, capacity: usize) {
    let (tally, port, mut peer) = start_peer(name, capacity);
    let mut port = Port::new(port, Waiting::Spin);
    work::lead_stream::<LENGTH>(&mut port, &mut peer, Waiting::Spin, &tally);
    peer.finish();
}

/// The consumer.
fn peer_stream<const LENGTH: usize>(reading: fn(Port) -> Port) {
    let mut port = reading(Port::new(harness::port_to_lead(), Waiting::Spin));
    work::peer_stream::<LENGTH>(&mut port, &Tally::inherited());
}

fn start_peer(name: &str, capacity: usize) -> (Tally, MessagePort, Peer) {
    let (file, tally) = Tally::make();
    let (port, peer) = harness::peer_with_port_of(name, capacity, |command| {
        Tally::hand_on(command, &file);
    });
    (tally, port, peer)
}

/// The producer of whole batches, but for the last.
fn lead_batches(name: &str) {
    let (tally, port, mut peer) = start_peer(name, CAPACITY);
    let mut sequence = 0;
    harness::lead(&mut peer, Waiting::Spin, |units| {
        post_batches(&port, sequence..sequence + units);
        tally.expect::<8>(sequence, units);
        sequence += units;
        String::new()
    });
    peer.finish();
}

/// Where the ring is full, a slot as long as a batch, begun and given up, waits for room as the library waits;
/// to poll with the open batch would take the consumer's position away from it for every message.
fn post_batches(port: &MessagePort, mut numbers: Range<u64>) {
    while !numbers.is_empty() {
        // A record of 8 bytes of payload takes 16.
        drop(port.reserve(BATCH * 16).expect("the peer is alive"));
        let mut batch = port.batch();
        for number in numbers.by_ref().take(BATCH) {
            batch
                .post_bytes(&number.to_le_bytes())
                .expect("there is room");
        }
        batch.publish();
    }
}

/// The rival: `u64`s through rtrb between two threads, in its plain `push` and `pop`.
struct Rtrb<Half>(Half);

impl End<8> for Rtrb<rtrb::Producer<u64>> {
    fn send(&mut self, sequence: u64) {
        while self.0.push(sequence).is_err() {
            spin_loop();
        }
    }

    fn take<R>(&mut self, _: impl FnOnce(&[u8]) -> R) -> R {
        unreachable!("this half only sends")
    }
}

impl End<8> for Rtrb<rtrb::Consumer<u64>> {
    fn send(&mut self, _: u64) {
        unreachable!("this half only takes")
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        loop {
            match self.0.pop() {
                Ok(number) => return look(&number.to_le_bytes()),
                Err(_) => spin_loop(),
            }
        }
    }
}

fn lead_rtrb() {
    let (producer, consumer) = rtrb::RingBuffer::<u64>::new(RTRB_CAPACITY);
    let tally = Arc::new(Tally::make().1);
    let said = tally.clone();
    let (mut consumer, mut sequence) = (Rtrb(consumer), 0);
    let mut thread = Thread::start(move |units| {
        work::count_stream(&mut consumer, &mut sequence, units, &said);
    });
    work::lead_stream(&mut Rtrb(producer), &mut thread, Waiting::Spin, &tally);
    thread.finish();
}
