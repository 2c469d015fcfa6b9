//! ringport beside other ways to move messages, in alternation, as Markdown.
//!
//! ```sh
//! cargo run --release --manifest-path benches/rivals/Cargo.toml -- rtt stream wake sizes
//! ```
//!
//! runs the contests that are named, all of them if none is, with `--quick`, `--rounds N` and `--record` as the
//! library's own benches. `draw` instead of these draws the record, or another folder that is named after it.

#[path = "../../harness/mod.rs"]
mod harness;

mod carriers;
mod draw;
mod markdown;

use std::env;
use std::error::Error;
use std::path::PathBuf;

use carriers::{Job, Work, run_lead, run_peer, takes};
use harness::{Contest, Options, Pair, Role, Row, Stopwatch, Waiting, asleep, copy, line, sized};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const OURS: &str = "ringport";

/// The rivals, and our other reading mode.
const OTHERS: [&str; 9] = [
    "ringport-in-place",
    "iceoryx2",
    "ipc-channel",
    "unix-stream",
    "unix-seqpacket",
    "pipe",
    "mqueue",
    "rtrb",
    "crossbeam-channel",
];

/// What the `sizes` contests go through, in bytes.
const SIZES: [usize; 8] = [8, 64, 512, 4 * KIB, 32 * KIB, 256 * KIB, 2 * MIB, 16 * MIB];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    if arguments.next().is_some_and(|argument| argument == "draw") {
        let folder = arguments.next().map(PathBuf::from);
        return draw::draw(&folder.unwrap_or_else(harness::record_folder));
    }
    match harness::role("rivals") {
        None => {}
        Some(Role::Coordinator(options)) => {
            harness::run(
                &[
                    ("rtt", rtt),
                    ("stream", stream),
                    ("wake", wake),
                    ("sizes", sizes),
                ],
                &options,
            );
            println!("\n{}", carriers::table());
        }
        Some(Role::Lead(role)) => lead(&role),
        Some(Role::Peer(role)) => peer(&role),
    }
    Ok(())
}

/// Round trips between two that spin.
fn rtt(options: &Options) -> Vec<String> {
    let options = &options.of("rivals-rtt");
    for length in [48, KIB] {
        println!("\n## Round trips of {length} bytes, both sides spinning\n");
        compare("rtt", "rtt", length, 64 * KIB, Waiting::Spin, None, options);
    }
    latency("rtt", "rtt-timed", Waiting::Spin, options);
    Vec::new()
}

/// Messages one way, between two that spin.
fn stream(options: &Options) -> Vec<String> {
    let options = &options.of("rivals-stream");
    let mut bars = Vec::new();
    for length in [8, 56, KIB] {
        println!("\n## Messages of {length} bytes one way, both sides spinning\n");
        let bar = (length == 56).then(|| {
            let [ours, theirs] = [OURS, "iceoryx2"].map(|what| sized(what, length, 64 * KIB));
            Row::rate(ours, theirs).bar(8.0).called("stream-56")
        });
        let (waiting, capacity) = (Waiting::Spin, 64 * KIB);
        bars.extend(compare(
            "stream", "stream", length, capacity, waiting, bar, options,
        ));
    }
    bars
}

/// Round trips between two that sleep each time.
fn wake(options: &Options) -> Vec<String> {
    let options = &options.of("rivals-wake");
    println!("\n## Round trips of 48 bytes, both sides asleep each time\n");
    compare("wake", "wake", 48, 64 * KIB, Waiting::Sleep, None, options);
    latency("wake", "wake-timed", Waiting::Sleep, options);
    Vec::new()
}

/// Messages one way, of all sizes.
fn sizes(options: &Options) -> Vec<String> {
    let options = &options.of("rivals-sizes").with_rounds(10);
    let sizes = if options.quick {
        &SIZES[3..4]
    } else {
        &SIZES[..]
    };
    for &length in sizes {
        println!(
            "\n## Messages of {} one way, both sides spinning\n",
            markdown::bytes(length)
        );
        // Room for eight, at least what a channel has by default.
        let capacity = (8 * length).next_power_of_two().max(64 * KIB);
        compare(
            "sizes",
            "stream",
            length,
            capacity,
            Waiting::Spin,
            None,
            options,
        );
    }
    Vec::new()
}

/// Everybody who can do it, in alternation with ours, at the work of this name.
fn compare(
    contest: &'static str,
    work: &str,
    length: usize,
    capacity: usize,
    waiting: Waiting,
    bar: Option<Row>,
    options: &Options,
) -> Vec<String> {
    let ours = sized(OURS, length, capacity);
    let (able, unable): (Vec<&str>, Vec<&str>) = OTHERS
        .into_iter()
        .partition(|what| takes(what, length, capacity, waiting));
    let mut others: Vec<String> = able
        .iter()
        .map(|what| sized(what, length, capacity))
        .collect();
    match work {
        "stream" => others.push(sized("copy", length, capacity)),
        "wake" => others.push("eventfd".into()),
        _ => {}
    }
    let mut pairs = vec![Pair::start("line"), start(work, &ours)];
    pairs.extend(others.iter().map(|name| start(work, name)));
    let cycle: Vec<&str> = others
        .iter()
        .flat_map(|name| ["line", &*ours, &**name])
        .collect();
    let row = |name: &String| match work {
        "stream" => Row::rate(name, &ours),
        _ => Row::time(name, &ours),
    };
    let mut rows: Vec<Row> = [&ours].into_iter().chain(&others).map(row).collect();
    rows.extend(bar);
    let findings = Contest::new(contest, pairs).run(&cycle, &rows, options);
    findings.record(options);
    markdown::print(&findings, work, length, &unable);
    findings.bars()
}

/// Each round trip timed on its own.
fn latency(contest: &str, work: &str, waiting: Waiting, options: &Options) {
    let able = OTHERS
        .iter()
        .filter(|what| takes(what, 48, 64 * KIB, waiting));
    let names: Vec<_> = [OURS]
        .iter()
        .chain(able)
        .map(|what| sized(what, 48, 64 * KIB))
        .collect();
    let pairs = names.iter().map(|name| start(work, name)).collect();
    harness::percentiles(contest, pairs, options);
}

fn start(work: &str, name: &str) -> Pair {
    if name == "eventfd" {
        return Pair::start(name);
    }
    let program = env::current_exe().expect("this program has a path");
    Pair::start_as(name, &program, &format!("{work} {name}"))
}

/// Takes a role apart: what is to be done, by whom, and with how many bytes a message.
fn parse(role: &str) -> (Job, &str, usize) {
    let (work, name) = role
        .split_once(' ')
        .unwrap_or_else(|| panic!("no role is called {role}"));
    let (what, length, capacity) = harness::parse(name);
    let (work, waiting) = match work {
        "rtt" => (Work::Rounds, Waiting::Spin),
        "rtt-timed" => (Work::TimedRounds, Waiting::Spin),
        "stream" => (Work::Stream, Waiting::Spin),
        "wake" => (Work::Rounds, Waiting::Sleep),
        "wake-timed" => (Work::TimedRounds, Waiting::Sleep),
        _ => panic!("no work is called {work}"),
    };
    let job = Job {
        capacity,
        waiting,
        work,
    };
    (job, what, length)
}

fn lead(role: &str) {
    match role {
        "line" => return line::run_lead(role, None),
        "eventfd" => return asleep::run_lead_eventfds(role, None::<Stopwatch>),
        _ => {}
    }
    let (job, what, length) = parse(role);
    match what {
        "copy" => copy::run(length, job.capacity),
        _ => for_length!(length, run_lead(what, role, job)),
    }
}

fn peer(role: &str) {
    match role {
        "line" => return line::run_peer(),
        "eventfd" => return asleep::run_peer_eventfds(),
        _ => {}
    }
    let (job, what, length) = parse(role);
    for_length!(length, run_peer(what, job));
}
