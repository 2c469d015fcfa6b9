//! How many messages a second go one way between two processes that spin, over the library's API, in
//! the default (copied, untrusted) mode? And what does it cost that every post looks for a sleeper?
//! Bars: `stream-8` and `stream-8-batch` against rtrb's `u64` between two threads, and `post-cost`
//! against this same bench built without that look.

mod harness;

use std::env;
use std::hint::spin_loop;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process;
use std::sync::mpsc;
use std::thread;

use harness::{
    Contest, Measure, Options, Order, Pair, Partner, Peer, Role, Row, line, no_wake, payload,
};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use ringport::{Barrier, ChannelOptions, MessageChannel, MessagePort, PortHandle, WaitStrategy};

/// Messages a batch.
const BATCH: usize = 64;

/// As many bytes of `u64`s in rtrb's ring as there are in ours by default.
const RTRB_CAPACITY: usize = 64 * 1024 / 8;

/// Tells a peer which descriptors are its port, where the channel is not the default one.
const PORT: &str = "RINGPORT_BENCH_PORT";

fn main() {
    match harness::role() {
        None => {}
        Some(Role::Coordinator(options)) => {
            throughput(&options);
            post_cost(&options);
        }
        Some(Role::Lead(name)) => lead(&name),
        Some(Role::Peer(name)) => peer(&name),
    }
}

fn throughput(options: &Options) {
    let against_rtrb = |name, target: Option<f64>| Row {
        name,
        against: "rtrb-u64",
        measure: Measure::Rate,
        target: target.map(|target| [target; 3]),
    };
    let ours = ["stream-8", "stream-8-batch", "stream-56", "stream-56-1m"];
    // The rival on both sides of each of ours, the floor between any two of ours.
    let cycle: Vec<_> = ours
        .iter()
        .flat_map(|name| ["line", "rtrb-u64", name, "rtrb-u64"])
        .collect();
    let pairs = ["line", "rtrb-u64"]
        .iter()
        .chain(&ours)
        .map(|name| Pair::start(name));
    let mut contest = Contest::new(pairs.collect());
    contest.run(&cycle, options);
    println!("\nrtrb-u64: two threads of one process, {RTRB_CAPACITY} slots");
    contest.report(&[
        against_rtrb("rtrb-u64", None), // how much the rival differs from itself
        against_rtrb("stream-8", Some(0.5)),
        against_rtrb("stream-8-batch", Some(1.3)),
        against_rtrb("stream-56", None),
        against_rtrb("stream-56-1m", None),
    ]);
}

/// The same stream from two builds of this bench, and once with a fence in every post.
fn post_cost(options: &Options) {
    println!("\nbuilding this bench without the look for a sleeper");
    let Some(program) = no_wake::build("stream") else {
        return;
    };
    let mut bare = Pair::start_as("no-wake", &program, "stream-56");
    let slice = bare.slice(options.slice);
    assert_eq!(
        slice.note, "no-wake",
        "the other build is not what it should be"
    );
    let mut contest = Contest::new(vec![
        Pair::start("line"),
        bare,
        Pair::start_as(
            "post-cost",
            &env::current_exe().expect("this program has a path"),
            "stream-56",
        ),
        Pair::start("stream-56-fenced"),
    ]);
    contest.run(
        &[
            "line",
            "no-wake",
            "post-cost",
            "no-wake",
            "stream-56-fenced",
            "no-wake",
        ],
        options,
    );
    println!("\nstream-56 as built (post-cost) and fenced, against the build that never looks");
    let against_no_wake = |name, target| Row {
        name,
        against: "no-wake",
        measure: Measure::Rate,
        target,
    };
    contest.report(&[
        against_no_wake("no-wake", None),
        against_no_wake("post-cost", Some([0.95; 3])),
        against_no_wake("stream-56-fenced", None),
    ]);
}

fn lead(name: &str) {
    match name {
        "line" => line::run_lead(name, || (), String::new),
        "rtrb-u64" => lead_rtrb(),
        "stream-8" => lead_stream::<8>(name, post_each::<8>, None),
        "stream-8-batch" => lead_stream::<8>(name, post_batches::<8>, None),
        "stream-56" => lead_stream::<56>(name, post_each::<56>, None),
        "stream-56-1m" => lead_stream::<56>(name, post_each::<56>, Some(1 << 20)),
        "stream-56-fenced" => {
            ringport::set_barrier(Barrier::Fence);
            lead_stream::<56>(name, post_each::<56>, None);
        }
        _ => panic!("no contender is called {name}"),
    }
}

fn peer(name: &str) {
    match name {
        "line" => line::run_peer(),
        "stream-8" | "stream-8-batch" => peer_stream::<8>(),
        "stream-56" | "stream-56-1m" => peer_stream::<56>(),
        "stream-56-fenced" => {
            ringport::set_barrier(Barrier::Fence);
            peer_stream::<56>();
        }
        _ => panic!("no contender is called {name}"),
    }
}

/// The producer: `post` sends so many messages, numbered from so many on. A half is over when the
/// consumer has said what it counted.
fn lead_stream<const LENGTH: usize>(
    name: &str,
    post: impl Fn(&MessagePort, u64, u64),
    capacity: Option<usize>,
) {
    let (port, mut peer) = match capacity {
        None => harness::peer_with_port(name),
        Some(bytes) => peer_with_large_port(name, bytes),
    };
    let mut sequence = 0;
    harness::lead(&mut peer, |units| {
        post(&port, sequence, units);
        let receipt = port.recv().expect("the peer is alive");
        assert_eq!(receipt.bytes()[..8], units.to_le_bytes());
        let sum = payload::expected(LENGTH, sequence, units);
        assert_eq!(receipt.bytes()[8..], sum.to_le_bytes());
        sequence += units;
        if cfg!(ringport_no_wake) {
            "no-wake".into()
        } else {
            String::new()
        }
    });
    peer.finish();
}

/// The consumer: reads every word of every message, then says how many there were and their sum.
fn peer_stream<const LENGTH: usize>() {
    let port = if env::var_os(PORT).is_some() {
        large_port()
    } else {
        harness::port_to_lead()
    };
    let mut sequence = 0;
    harness::peer(|units| {
        let (mut count, mut sum) = (0u64, 0u64);
        for _ in 0..units {
            let event = port.recv().expect("the lead is alive");
            let bytes = event.bytes();
            assert_eq!(bytes.len(), LENGTH);
            assert_eq!(bytes[..8], (sequence + count).to_le_bytes(), "out of order");
            count += 1;
            sum = sum.wrapping_add(payload::sum(bytes));
        }
        sequence += count;
        let receipt = [count.to_le_bytes(), sum.to_le_bytes()].concat();
        port.post_bytes(&receipt).expect("the lead is alive");
    });
}

fn post_each<const LENGTH: usize>(port: &MessagePort, sequence: u64, count: u64) {
    for number in sequence..sequence + count {
        let mut bytes = [0; LENGTH];
        payload::fill(&mut bytes, number);
        port.post_bytes(&bytes).expect("the peer is alive");
    }
}

/// Whole batches, but for the last. Where the ring is full, a slot as long as a batch, begun and given
/// up, waits for room as the library waits; to poll with the open batch would take the consumer's
/// position away from it for every message.
fn post_batches<const LENGTH: usize>(port: &MessagePort, sequence: u64, count: u64) {
    const { assert!(LENGTH == 8, "a record of 8 bytes of payload takes 16") };
    let mut numbers = sequence..sequence + count;
    while !numbers.is_empty() {
        drop(port.reserve(BATCH * 16).expect("the peer is alive"));
        let mut batch = port.batch();
        for number in numbers.by_ref().take(BATCH) {
            let mut bytes = [0; LENGTH];
            payload::fill(&mut bytes, number);
            batch.post_bytes(&bytes).expect("there is room");
        }
        batch.publish();
    }
}

/// A worker's channel is a default one, so this one travels by inheritance of its two descriptors.
fn peer_with_large_port(name: &str, capacity: usize) -> (MessagePort, Peer) {
    let options = ChannelOptions::new().capacity(capacity);
    let channel = MessageChannel::with_options(&options).expect("a channel can be made");
    let PortHandle { segment, doorbell } = channel.port2.into_handle();
    for descriptor in [&segment, &doorbell] {
        let inherit = FcntlArg::F_SETFD(FdFlag::empty());
        fcntl(descriptor.as_fd(), inherit).expect("an open descriptor");
    }
    let numbers = format!("{} {}", segment.as_raw_fd(), doorbell.as_raw_fd());
    let process = harness::peer_command(name).env(PORT, numbers).spawn();
    channel.port1.set_wait_strategy(WaitStrategy::Spin);
    (
        channel.port1,
        Peer::new(process.expect("a peer can be started")),
    )
}

/// The peer's end of the channel of [`peer_with_large_port`].
fn large_port() -> MessagePort {
    let numbers = env::var(PORT).expect("the caller has looked");
    let mut descriptors = numbers.split(' ').map(|number| {
        let number = number.parse().expect("a descriptor is a number");
        // SAFETY: the lead left exactly these two descriptors open for this process, which opened
        // nothing under their numbers, and each is taken once.
        unsafe { OwnedFd::from_raw_fd(number) }
    });
    let mut next = || descriptors.next().expect("two numbers");
    let handle = PortHandle {
        segment: next(),
        doorbell: next(),
    };
    let port = MessagePort::from_handle(handle).expect("a sound port");
    port.set_wait_strategy(WaitStrategy::Spin);
    port
}

/// A thread of this process that takes a half at a time.
struct RtrbConsumer(mpsc::Sender<u64>);

impl Partner for RtrbConsumer {
    fn tell(&mut self, order: Order) {
        self.0.send(order.warm_up).expect("the thread lives");
        self.0.send(order.units).expect("the thread lives");
    }

    fn process(&self) -> u32 {
        process::id()
    }
}

/// The rival: the same numbers through rtrb between two threads, in its plain `push` and `pop`.
fn lead_rtrb() {
    let (mut producer, mut consumer) = rtrb::RingBuffer::<u64>::new(RTRB_CAPACITY);
    let (mut receipts, mut received) = rtrb::RingBuffer::<(u64, u64)>::new(1);
    let (orders, halves) = mpsc::channel::<u64>();
    let mut partner = RtrbConsumer(orders);
    let thread = thread::spawn(move || {
        harness::pin_to_peer_cpu();
        for units in halves {
            let (mut count, mut sum) = (0u64, 0u64);
            while count < units {
                match consumer.pop() {
                    Ok(number) => {
                        count += 1;
                        sum = sum.wrapping_add(number);
                    }
                    Err(_) => spin_loop(),
                }
            }
            receipts
                .push((count, sum))
                .expect("the last receipt was taken");
        }
    });
    let mut sequence = 0;
    harness::lead(&mut partner, |units| {
        for number in sequence..sequence + units {
            while producer.push(number).is_err() {
                spin_loop();
            }
        }
        let receipt = loop {
            match received.pop() {
                Ok(receipt) => break receipt,
                Err(_) => spin_loop(),
            }
        };
        assert_eq!(receipt, (units, payload::expected(8, sequence, units)));
        sequence += units;
        String::new()
    });
    drop(partner);
    thread.join().expect("the thread ends well");
}
