//! The sleep race of waits for more than one thing: receiving and posting pending at once in a foreign loop, several
//! ports in `wait_any`, and every way to wait in turn on one port.
//!
//! Two processes each time, which sleep for nearly everything; one wake-up lost, and a wait runs into its timeout.
//! Bursts of 600 messages make both sides post without fences, so that each sleep begins with the heavy barrier.
//!
//! The long form, a million sleeps of each kind: `RINGPORT_SOAK=1000000 cargo test --release --test polling_soak`.

mod common;
#[path = "polling/gauges.rs"]
mod gauges;
#[path = "polling/polled.rs"]
mod polled;
#[path = "common/ports.rs"]
mod ports;

use std::collections::VecDeque;
use std::time::Duration;

use common::{PATIENCE, channel_of, command, sample_of};
use gauges::{Cost, Edges, readable_within};
use polled::{posted, received};
use ports::{Random, next_port};
use ringport::{Armed, Interest, MessagePort, WaitStrategy, Worker, wait_any};

roles! { echo_by_level, echo_by_edge, echo_on_several, echo_in_all_ways }

/// Sleeps of each kind in the short form.
const SHORT: i64 = 4_000;
/// Rounds with one child, few enough to be far from the watchdog's limit.
const CHUNK: u64 = 10_000;
/// Messages of a burst after which both sides post without fences.
const BURST: u64 = 600;

fn sleeps_wanted() -> i64 {
    match std::env::var("RINGPORT_SOAK") {
        Ok(text) => text.parse().expect("RINGPORT_SOAK is a number of sleeps"),
        Err(_) => SHORT,
    }
}

/// Plays chunks of rounds until this side has slept often enough.
fn soak(what: &str, chunk: impl Fn(u64)) {
    let (wanted, mut slept) = (sleeps_wanted(), 0);
    for _ in 0..1000 {
        let _quiet = common::descriptors();
        let left = u64::try_from(wanted - slept).unwrap().clamp(500, CHUNK);
        let ((), cost) = Cost::of(|| chunk(left));
        slept += cost.sleeps;
        if slept >= wanted {
            println!("{what}: {slept} sleeps");
            return;
        }
    }
    panic!("{what}: only {slept} sleeps, {wanted} wanted");
}

/// A moment of up to some microseconds, half of them shorter than one.
fn pause(random: &mut Random) {
    let longest = [1, 8, 32, 256][random.below(4) as usize];
    for _ in 0..random.below(longest) {
        std::hint::spin_loop();
    }
}

/// A worker that plays `role`, and a channel of the smallest rings to it.
fn partner(role: &str) -> (Worker, MessagePort) {
    let worker = Worker::spawn(command(role)).unwrap();
    let (near, far) = channel_of(4096);
    worker.port().post_bytes_with(b"", [far]).unwrap();
    (worker, near)
}

/// In such a worker: the channel that was made for it.
fn partners() -> MessagePort {
    next_port(&common::parent())
}

fn lost(port: &MessagePort) -> ! {
    panic!("a wake-up was lost: {port:?}")
}

/// A foreign loop around one port.
struct Loop {
    port: MessagePort,
    edges: Option<Edges>,
    waits: u64,
}

impl Loop {
    fn new(port: MessagePort, by_edge: bool) -> Loop {
        let edges = by_edge.then(|| Edges::of([&port]));
        Loop {
            port,
            edges,
            waits: 0,
        }
    }

    /// Sleeps until the descriptor tells.
    fn wait(&mut self) {
        self.waits += 1;
        let told = match &self.edges {
            Some(edges) => !edges.heard(PATIENCE).is_empty(),
            None => readable_within(&self.port, PATIENCE),
        };
        if !told {
            lost(&self.port);
        }
    }
}

/// Rounds of messages that do not fit the ring at once; what comes back is read while they are posted.
fn trade(by_edge: bool, rounds: u64) {
    let role = if by_edge {
        "echo_by_edge"
    } else {
        "echo_by_level"
    };
    let (mut worker, near) = partner(role);
    let mut own = Loop::new(near, by_edge);
    let mut random = Random(0x6a09_e667_f3bc_c908);
    let (mut sent, mut back, mut vain) = (0, 0, 0);
    for _ in 0..rounds {
        let until = sent + 1 + random.below(20);
        let length = 20 + random.below(700) as usize;
        pause(&mut random);
        while back < until {
            let before = (sent, back);
            // Now the one first, now the other.
            if random.below(2) == 0 {
                while let Some(bytes) = received(&own.port) {
                    assert_eq!(common::index_of(&bytes), back);
                    back += 1;
                }
            }
            while sent < until && posted(&own.port, &sample_of(sent, length)) {
                sent += 1;
            }
            while let Some(bytes) = received(&own.port) {
                assert_eq!(bytes, sample_of(back, bytes.len()));
                back += 1;
            }
            vain += u64::from(before == (sent, back));
            if back < until {
                own.wait();
            }
        }
    }
    assert_eq!(sent, back);
    assert!(
        vain * 2 < own.waits + 100,
        "{vain} of {} for nothing",
        own.waits
    );
    drop(own);
    assert!(worker.wait().unwrap().success());
}

/// Answers in order, and goes on receiving while an answer waits for room.
fn echo(by_edge: bool) {
    let mut own = Loop::new(partners(), by_edge);
    let mut random = Random(0xbb67_ae85_84ca_a73b);
    let mut answers: VecDeque<Vec<u8>> = VecDeque::new();
    loop {
        while let Some(answer) = answers.front() {
            if !posted(&own.port, answer) {
                break;
            }
            answers.pop_front();
        }
        let before = answers.len();
        while let std::task::Poll::Ready(event) = own.port.poll_recv() {
            match event {
                Ok(event) => answers.push_back(event.bytes().to_vec()),
                Err(_) => return assert!(answers.is_empty()),
            }
        }
        if answers.len() > before {
            pause(&mut random);
        } else {
            own.wait();
        }
    }
}

fn echo_by_level() {
    echo(false);
}

fn echo_by_edge() {
    echo(true);
}

#[test]
fn s52_no_wake_up_is_lost_with_both_pending_level_triggered() {
    soak("both pending, by level", |rounds| trade(false, rounds));
}

#[test]
fn s52_no_wake_up_is_lost_with_both_pending_edge_triggered() {
    soak("both pending, by edge", |rounds| trade(true, rounds));
}

/// Asks some of several ports at a time, and waits for any of the answers. Each worker has two of them.
fn ask_several(burst: u64, rounds: u64) {
    let mut workers: Vec<_> = (0..2)
        .map(|_| Worker::spawn(command("echo_on_several")).unwrap())
        .collect();
    let mut near = Vec::new();
    for worker in &workers {
        for _ in 0..2 {
            let (port, far) = channel_of(1 << 16);
            port.set_wait_strategy(WaitStrategy::Block);
            worker.port().post_bytes_with(b"", [far]).unwrap();
            near.push(port);
        }
    }
    let list: Vec<_> = near.iter().collect();
    let mut random = Random(0x3c6e_f372_fe94_f82b);
    let mut asked = [0u64; 4];
    for round in 1..=rounds {
        let mut open = 0u64;
        for index in 0..4 {
            if random.below(2) == 0 {
                continue;
            }
            pause(&mut random);
            let mut batch = near[index].batch();
            for _ in 1..burst {
                batch.post_bytes(b"").unwrap();
            }
            batch.post_bytes(&round.to_le_bytes()).unwrap();
            batch.publish();
            asked[index] = round;
            open += 1;
        }
        while open > 0 {
            let Some(index) = wait_any(&list, Some(PATIENCE)).unwrap() else {
                panic!("a wake-up was lost: {list:?}");
            };
            let event = near[index].try_recv().unwrap().expect("it was ready");
            assert_eq!(event.bytes(), asked[index].to_le_bytes());
            open -= 1;
        }
    }
    drop(near);
    for worker in &mut workers {
        assert!(worker.wait().unwrap().success());
    }
}

fn echo_on_several() {
    let boss = common::parent();
    let mut near = vec![next_port(&boss), next_port(&boss)];
    for port in &near {
        port.set_wait_strategy(WaitStrategy::Block);
    }
    let mut random = Random(0xa54f_f53a_5f1d_36f1);
    while !near.is_empty() {
        let list: Vec<_> = near.iter().collect();
        let Some(index) = wait_any(&list, Some(PATIENCE)).unwrap() else {
            panic!("a wake-up was lost: {list:?}");
        };
        let port = &near[index];
        while let Ok(Some(event)) = port.try_recv() {
            if !event.is_empty() {
                pause(&mut random);
                port.post_bytes(event.bytes()).unwrap();
            }
        }
        if port.is_closed() {
            near.remove(index);
        }
        pause(&mut random);
    }
}

#[test]
fn s52_no_wake_up_is_lost_among_several_ports_fenced() {
    soak("several ports, fenced", |rounds| ask_several(1, rounds));
}

#[test]
fn s52_no_wake_up_is_lost_among_several_ports_unfenced() {
    soak("several ports, unfenced", |rounds| {
        ask_several(BURST, rounds)
    });
}

/// The next message, waited for in one of the ways there are.
fn next_somehow(port: &MessagePort, random: &mut Random) -> Option<Vec<u8>> {
    loop {
        match random.below(6) {
            0 => match port.recv_timeout(PATIENCE) {
                Ok(event) => return Some(event.unwrap_or_else(|| lost(port)).bytes().to_vec()),
                Err(_) => return None,
            },
            1 => {
                // Too short for most: it leaves nothing behind that would be in the way.
                let moment = Duration::from_micros(random.below(60));
                let _ = wait_any(&[port], Some(moment)).unwrap();
            }
            2 => drop(
                wait_any(&[port], Some(PATIENCE))
                    .unwrap()
                    .unwrap_or_else(|| lost(port)),
            ),
            3 => {
                let armed = port.arm(Interest::Message).unwrap();
                let told = armed == Armed::Ready || readable_within(port, PATIENCE);
                if !told {
                    lost(port);
                }
            }
            _ => {}
        }
        match port.poll_recv() {
            std::task::Poll::Ready(Ok(event)) => return Some(event.bytes().to_vec()),
            std::task::Poll::Ready(Err(_)) => return None,
            std::task::Poll::Pending => {}
        }
        if random.below(2) == 0 && !readable_within(port, PATIENCE) {
            lost(port);
        }
    }
}

fn ask_in_all_ways(rounds: u64) {
    let (mut worker, near) = partner("echo_in_all_ways");
    near.set_wait_strategy(WaitStrategy::Block);
    let mut random = Random(0x510e_527f_ade6_82d1);
    for round in 0..rounds {
        pause(&mut random);
        let message = sample_of(round, 8 + random.below(900) as usize);
        near.post_bytes_timeout(&message, PATIENCE).unwrap();
        assert_eq!(next_somehow(&near, &mut random), Some(message));
    }
    drop(near);
    assert!(worker.wait().unwrap().success());
}

fn echo_in_all_ways() {
    let port = partners();
    port.set_wait_strategy(WaitStrategy::Block);
    let mut random = Random(0x9b05_688c_2b3e_6c1f);
    while let Some(message) = next_somehow(&port, &mut random) {
        pause(&mut random);
        port.post_bytes_timeout(&message, PATIENCE).unwrap();
    }
}

#[test]
fn s52_no_wake_up_is_lost_whichever_way_is_waited_in_turn() {
    soak("all ways in turn", ask_in_all_ways);
}
