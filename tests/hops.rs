//! Ports that move, and move on: S34, S35, S36 and S40. Who waits meanwhile is in `moving.rs`.

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::process::Child;
use std::thread;

use common::{Counters, channel, channel_of, next, nothing, now, on_stage, sample, victim};
use ports::{assert_all_entangled, assert_entangled, carry, drain, given_back, only};
use ringport::{CloseReason, MessagePort, PostError, WaitStrategy};

roles! { passes_on, sends_back, keeps_for_a_while, answers_once_on_each }

/// Messages each way at each holder.
const STEP: u64 = 40;

#[test]
fn s34_messages_posted_while_the_port_is_under_way_arrive_after_those_that_waited() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, mut far) = channel();
    for index in (0..300).step_by(30) {
        ports::post(&near, index..index + 10);
        carrier1.post_bytes_with(b"", [far]).unwrap();
        ports::post(&near, index + 10..index + 20);
        far = ports::next_port(&carrier2);
        ports::post(&near, index + 20..index + 30);
        // Some of them stay for the next holder.
        let left = if index < 270 { 4 } else { 0 };
        let first = if index == 0 { 0 } else { index - 4 };
        ports::receive(&far, first..index + 30 - left);
    }
    assert!(nothing(&far));
}

#[test]
fn s34_what_was_begun_before_the_move_and_finished_after_it_arrives() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, mut far) = channel_of(4096);
    for index in (0..60).step_by(3) {
        let message = sample(index);
        let mut slot = near.reserve(message.len()).unwrap();
        far = carry(&carrier1, &carrier2, far);
        slot.write(&message);
        far = carry(&carrier1, &carrier2, far);
        slot.commit();
        let mut batch = near.batch();
        batch.post_bytes(&sample(index + 1)).unwrap();
        far = carry(&carrier1, &carrier2, far);
        batch.post_bytes(&sample(index + 2)).unwrap();
        assert_eq!(batch.publish(), 2);
        far = carry(&carrier1, &carrier2, far);
        ports::receive(&far, index..index + 3);
    }
}

#[test]
fn s34_a_port_moves_through_the_middle_of_a_stream() {
    const MANY: u64 = 20_000;
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, mut far) = channel_of(4096);
    // It waits for room most of the time, whoever has to make it.
    let poster = thread::spawn(move || ports::post(&near, 0..MANY));
    let mut random = ports::Random(11);
    let (mut received, mut hops) = (0, 0);
    while received < MANY {
        let some = random.below(20).min(MANY - received);
        ports::receive(&far, received..received + some);
        received += some;
        far = carry(&carrier1, &carrier2, far);
        hops += 1;
    }
    assert!(hops > MANY / 20);
    assert_eq!(ports::told(&far), CloseReason::ClosedByPeer);
    poster.join().unwrap();
}

#[test]
fn s35_messages_posted_before_each_hop_arrive_in_program_order() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, mut far) = channel_of(1 << 17);
    let mut posted = 0;
    for hop in 0..100 {
        match hop % 4 {
            0 => far.post_bytes(&sample(posted)).unwrap(),
            1 => {
                let message = sample(posted);
                let mut slot = far.reserve(message.len()).unwrap();
                slot.write(&message);
                slot.commit();
            }
            2 => {
                let mut batch = far.batch();
                for more in 0..3 {
                    batch.post_bytes(&sample(posted + more)).unwrap();
                }
                posted += batch.publish() as u64 - 1;
            }
            // None at all.
            _ => posted -= 1,
        }
        posted += 1;
        far = carry(&carrier1, &carrier2, far);
    }
    assert_eq!(posted, 25 * 5);
    assert_eq!(drain(&near, 0), posted);
}

/// How far the two streams of a port have come, told from holder to holder.
#[derive(Default)]
struct Progress {
    posted: u64,
    received: u64,
}

impl Progress {
    fn of(bytes: &[u8]) -> Progress {
        let at = |from| u64::from_le_bytes(bytes[from..from + 8].try_into().unwrap());
        Progress {
            posted: at(0),
            received: at(8),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        [self.posted.to_le_bytes(), self.received.to_le_bytes()].concat()
    }

    /// What each holder does with the port.
    fn step(&mut self, port: &MessagePort) {
        ports::post(port, self.posted..self.posted + STEP);
        ports::receive(port, self.received..self.received + STEP);
        self.posted += STEP;
        self.received += STEP;
    }
}

/// Processes in a row. Each takes a port, uses it, passes it on and exits; the last one keeps it.
struct Chain {
    entry: MessagePort,
    holders: Vec<(MessagePort, Child)>,
}

impl Chain {
    fn of(length: usize) -> Chain {
        let (outward, inward) = ports::channels(length);
        let mut outward = outward.into_iter();
        let entry = outward.next().unwrap();
        let holders = inward.into_iter().map(|inward| {
            let (boss, child) = common::worker("passes_on").into_parts();
            boss.post_bytes_with(b"", [Some(inward), outward.next()].into_iter().flatten())
                .unwrap();
            (boss, child)
        });
        Chain {
            holders: holders.collect(),
            entry,
        }
    }

    fn send(&self, port: MessagePort) {
        let progress = Progress::default().to_bytes();
        self.entry.post_bytes_with(&progress, [port]).unwrap();
    }

    /// Waits until all holders before the last have exited; gives the last.
    fn last(mut self) -> (MessagePort, Child) {
        let last = self.holders.pop().unwrap();
        for (boss, child) in self.holders {
            common::end_well(child);
            assert_eq!(ports::told(&boss), CloseReason::ClosedByPeer);
        }
        last
    }
}

fn passes_on() {
    let boss = common::parent();
    let mut links = ports::next_ports(&boss).into_iter();
    let (inward, onward) = (links.next().unwrap(), links.next());
    let event = inward.recv_timeout(common::PATIENCE).unwrap().unwrap();
    let mut progress = Progress::of(event.bytes());
    let port = only(event.take_ports());
    progress.step(&port);
    if let Some(onward) = onward {
        let progress = progress.to_bytes();
        onward.post_bytes_with(&progress, [port]).unwrap();
        return;
    }
    assert_eq!(next(&boss), b"the others are gone");
    progress.step(&port);
    boss.post_bytes(b"done").unwrap();
}

#[test]
fn s36_a_port_moves_along_a_chain_of_processes_that_exit() {
    let _quiet = common::descriptors();
    for length in [3, 5] {
        let chain = Chain::of(length);
        let (near, far) = channel();
        chain.send(far);
        // Always a step ahead, so that something is posted while it moves.
        ports::post(&near, 0..STEP);
        for first in (0..length as u64 * STEP).step_by(STEP as usize) {
            ports::post(&near, first + STEP..first + 2 * STEP);
            ports::receive(&near, first..first + STEP);
        }
        let (boss, child) = chain.last();
        boss.post_bytes(b"the others are gone").unwrap();
        let last = length as u64 * STEP;
        ports::receive(&near, last..last + STEP);
        assert_eq!(next(&boss), b"done");
        assert_eq!(ports::told(&near), CloseReason::ClosedByPeer);
        common::end_well(child);
    }
}

#[test]
fn s36_both_ends_move_along_chains_at_the_same_time() {
    let _quiet = common::descriptors();
    for length in [3, 5] {
        let chains = [Chain::of(length), Chain::of(length)];
        let (port1, port2) = channel();
        chains[0].send(port1);
        chains[1].send(port2);
        let last = chains.map(Chain::last);
        // Nobody who ever held either is left, but the two who hold them.
        for (boss, _) in &last {
            boss.post_bytes(b"the others are gone").unwrap();
        }
        for (boss, child) in last {
            assert_eq!(next(&boss), b"done");
            common::end_well(child);
        }
    }
}

#[test]
fn s36_a_port_returns_to_where_it_came_from() {
    let _quiet = common::descriptors();
    let (boss, child) = common::worker("sends_back").into_parts();
    let (near, mut far) = channel();
    let mut progress = Progress::default();
    for round in 0..60 {
        let range = round * STEP..(round + 1) * STEP;
        ports::post(&near, range.clone());
        if round % 2 == 0 {
            boss.post_bytes_with(&progress.to_bytes(), [far]).unwrap();
            ports::receive(&near, range);
            let event = boss.recv_timeout(common::PATIENCE).unwrap().unwrap();
            progress = Progress::of(event.bytes());
            far = only(event.take_ports());
        } else {
            progress.step(&far);
            ports::receive(&near, range);
        }
    }
    assert_entangled(&near, &far);
    drop(boss);
    common::end_well(child);
    assert_entangled(&near, &far);
}

fn sends_back() {
    let boss = common::parent();
    for event in boss.iter() {
        let mut progress = Progress::of(event.bytes());
        let port = only(event.take_ports());
        progress.step(&port);
        boss.post_bytes_with(&progress.to_bytes(), [port]).unwrap();
    }
}

#[test]
fn s36_a_thousand_moves_leave_nothing_behind() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel_of(4096);
    let (near, mut far) = channel_of(4096);
    far = carry(&carrier1, &carrier2, far);
    let before = (common::count_descriptors(), segments_mapped());
    for index in 0..1000 {
        near.try_post_bytes(&sample(index)).unwrap();
        far = carry(&carrier1, &carrier2, far);
        assert_eq!(now(&far), sample(index));
    }
    assert_eq!((common::count_descriptors(), segments_mapped()), before);
    assert_entangled(&near, &far);
}

/// How many maps of channels this process has.
fn segments_mapped() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter(|line| line.contains("memfd:ringport"))
        .count()
}

/// More messages in a row without a sleep than it takes until both sides post without fences.
const RUN: u64 = 700;
const TURNS: u64 = 100;

#[test]
fn s36_no_wake_up_is_lost_between_a_port_and_its_ever_new_holders() {
    let _quiet = common::descriptors();
    for strategy in [WaitStrategy::Block, WaitStrategy::Adaptive] {
        let holders = [(); 2].map(|()| victim("keeps_for_a_while", strategy, ""));
        let (near, mut far) = channel_of(1 << 18);
        near.set_wait_strategy(strategy);
        for (boss, _, counters) in holders.iter().cycle().take(12) {
            // Everything is there when it is received, so that nobody sleeps for long.
            ports::post(&near, 0..RUN);
            counters.set(Counters::DONE, 0);
            boss.post_bytes_with(b"", [far]).unwrap();
            counters.until(Counters::DONE, 1);
            ports::receive(&near, 0..RUN);
            // Then both sleep, for each message.
            ports::ask(&near, 0..TURNS);
            far = ports::next_port(boss);
        }
        assert_entangled(&near, &far);
        for (boss, child, _) in holders {
            drop(boss);
            common::end_well(child);
        }
    }
}

fn keeps_for_a_while() {
    let (boss, counters) = on_stage();
    for event in boss.iter() {
        let port = only(event.take_ports());
        port.set_wait_strategy(common::strategy());
        ports::receive(&port, 0..RUN);
        ports::post(&port, 0..RUN);
        counters.set(Counters::DONE, 1);
        for index in 0..TURNS {
            ports::receive(&port, index..index + 1);
            ports::post(&port, index..index + 1);
        }
        boss.post_bytes_with(b"", [port]).unwrap();
    }
}

#[test]
fn s40_126_ports_travel_in_one_message() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, mut far) = ports::channels(126);
    for round in 0..3 {
        carrier1.try_post_bytes_with(&sample(round), far).unwrap();
        let event = carrier2.try_recv().unwrap().unwrap();
        assert_eq!((event.bytes(), event.port_count()), (&*sample(round), 126));
        far = event.take_ports();
    }
    assert_all_entangled(&near, &far);
}

#[test]
fn s40_126_ports_travel_in_one_message_to_another_process() {
    let _quiet = common::descriptors();
    let (carrier, child) = common::worker("answers_once_on_each").into_parts();
    let (near, far) = ports::channels(126);
    for (near, index) in near.iter().zip(0..) {
        near.post_bytes(&sample(index)).unwrap();
    }
    carrier.post_bytes_with(b"all of them", far).unwrap();
    for (near, index) in near.iter().zip(0..) {
        assert_eq!(next(near), sample(1000 + index));
    }
    drop(carrier);
    common::end_well(child);
    for near in &near {
        assert_eq!(ports::told(near), CloseReason::ClosedByPeer);
    }
}

fn answers_once_on_each() {
    let carrier = common::parent();
    let ports = ports::next_ports(&carrier);
    assert_eq!(ports.len(), 126);
    for (port, index) in ports.iter().zip(0..) {
        assert_eq!(now(port), sample(index));
        port.post_bytes(&sample(1000 + index)).unwrap();
    }
    assert_eq!(ports::told(&carrier), CloseReason::ClosedByPeer);
}

#[test]
fn s40_127_ports_are_too_many_and_all_come_back() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, far) = ports::channels(127);
    let answer = carrier1.post_bytes_with(b"too many", far);
    let too_many = |error: &PostError| {
        let shown = error.to_string();
        shown.contains("127")
            && shown.contains("126")
            && matches!(
                error,
                PostError::TooManyPorts {
                    count: 127,
                    max: 126
                }
            )
    };
    let mut far = given_back(answer, &near, too_many);
    assert!(nothing(&carrier2));
    far.truncate(126);
    carrier1.post_bytes_with(b"just enough", far).unwrap();
    let far = ports::next_ports(&carrier2);
    assert_all_entangled(&near[..126], &far);
    assert_eq!(ports::told(&near[126]), CloseReason::ClosedByPeer);
}
