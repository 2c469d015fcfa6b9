//! Ports that move while somebody waits, or has been rung, at either end: no wake-up is lost (S32, S36).

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::sync::mpsc;
use std::thread;

use common::{
    Counters, PATIENCE, channel, channel_of, next, nothing, now, on_stage, sample, sample_of,
    victim,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ports::{assert_entangled, carry, drain, fill, only, waiting};
use ringport::{Armed, CloseReason, Interest, MessagePort, WaitStrategy};

roles! { echoes, fills_and_waits, drains_what_it_receives, bounces }

#[test]
fn s32_a_moved_port_waits_for_messages_with_every_strategy() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    for strategy in common::STRATEGIES {
        for hops in [1, 2] {
            let (near, mut far) = channel_of(4096);
            for _ in 0..hops {
                far = carry(&carrier1, &carrier2, far);
            }
            let waiter = waiting(strategy, move || {
                far.set_wait_strategy(strategy);
                let message = next(&far);
                (message, far.recv().map(drop))
            });
            near.post_bytes(b"wake up").unwrap();
            drop(near);
            let (message, end) = waiter.join().unwrap();
            assert_eq!(message, b"wake up");
            assert_eq!(common::closed(end), CloseReason::ClosedByPeer);
        }
    }
}

#[test]
fn s32_a_moved_port_waits_for_room_with_every_strategy() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    for strategy in common::STRATEGIES {
        let (near, far) = channel_of(4096);
        let posted = fill(&far);
        let far = carry(&carrier1, &carrier2, far);
        let waiter = waiting(strategy, move || {
            far.set_wait_strategy(strategy);
            ports::post(&far, posted..posted + 100);
        });
        ports::receive(&near, 0..posted + 100);
        waiter.join().unwrap();
        assert_eq!(ports::told(&near), CloseReason::ClosedByPeer);
    }
}

#[test]
fn s32_a_peer_asleep_is_woken_by_the_new_holder() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    for strategy in common::STRATEGIES {
        let (near, far) = channel_of(4096);
        let waiter = waiting(strategy, move || {
            near.set_wait_strategy(strategy);
            ports::echo(&near)
        });
        let far = carry(&carrier1, &carrier2, far);
        ports::ask(&far, 0..3);
        // Again, from another thread.
        carrier1.post_bytes_with(b"", [far]).unwrap();
        thread::scope(|scope| {
            let far = ports::next_port(&carrier2);
            scope.spawn(move || ports::ask(&far, 3..6));
        });
        let answered = waiter.join().unwrap();
        assert_eq!(answered, (6, Some(CloseReason::ClosedByPeer)));
    }
}

#[test]
fn s32_a_process_asleep_is_woken_by_the_new_holder() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    for strategy in common::STRATEGIES {
        let (mut port, child, counters) = victim("echoes", strategy, "");
        for round in 0..5 {
            counters.until(Counters::READY, 1);
            if strategy != WaitStrategy::Spin {
                counters.until_asleep(child.id());
            }
            port = carry(&carrier1, &carrier2, port);
            ports::ask(&port, round..round + 1);
        }
        drop(port);
        common::end_well(child);
    }
}

fn echoes() {
    let (port, counters) = on_stage();
    counters.ready();
    let answered = ports::echo(&port);
    assert_eq!(answered, (5, Some(CloseReason::ClosedByPeer)));
}

#[test]
fn s32_a_poster_asleep_for_room_is_woken_by_the_new_holder() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    for strategy in common::STRATEGIES {
        let (near, far) = channel_of(4096);
        near.set_wait_strategy(strategy);
        let posted = fill(&near);
        let poster = waiting(strategy, move || ports::post(&near, posted..posted + 200));
        let far = carry(&carrier1, &carrier2, far);
        let far = carry(&carrier2, &carrier1, far);
        let (received, end) = common::rest(&far, 0);
        assert_eq!(
            (received, end),
            (posted + 200, CloseReason::ClosedByPeer),
            "{strategy:?}"
        );
        poster.join().unwrap();
    }
}

#[test]
fn s32_a_process_asleep_for_room_is_woken_by_another_process() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port, poster, counters) = victim("fills_and_waits", strategy, "");
        let (reader, child) = common::worker("drains_what_it_receives").into_parts();
        counters.until(Counters::READY, 1);
        if strategy != WaitStrategy::Spin {
            counters.until_asleep(poster.id());
        }
        reader.post_bytes_with(b"", [port]).unwrap();
        let posted = counters.get(Counters::DONE);
        assert_eq!(next(&reader), posted.to_le_bytes(), "{strategy:?}");
        common::end_well(poster);
        common::end_well(child);
    }
}

fn fills_and_waits() {
    let (port, counters) = on_stage();
    let posted = fill(&port);
    counters.set(Counters::DONE, posted + 500);
    counters.ready();
    ports::post(&port, posted..posted + 500);
}

fn drains_what_it_receives() {
    let carrier = common::parent();
    let (received, end) = common::rest(&ports::next_port(&carrier), 0);
    assert_eq!(end, CloseReason::ClosedByPeer);
    carrier.post_bytes(&received.to_le_bytes()).unwrap();
}

#[test]
fn s32_a_port_that_was_armed_can_move() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, mut far) = channel_of(4096);
    let readable = |port: &MessagePort, within: PollTimeout| {
        let mut fds = [PollFd::new(port.as_fd().unwrap(), PollFlags::POLLIN)];
        poll(&mut fds, within).unwrap() == 1
    };
    for round in 0..100 {
        assert_eq!(far.arm(Interest::Message).unwrap(), Armed::Wait);
        if round % 2 == 0 {
            // It is rung as well, before it leaves.
            near.post_bytes(&sample(round)).unwrap();
        }
        carrier1.post_bytes_with(b"", [far]).unwrap();
        if round % 2 == 1 {
            near.post_bytes(&sample(round)).unwrap();
        }
        far = ports::next_port(&carrier2);
        assert_eq!(now(&far), sample(round));
        // The new holder waits in its own right.
        assert_eq!(far.arm(Interest::Message).unwrap(), Armed::Wait);
        assert!(!readable(&far, PollTimeout::ZERO));
        near.post_bytes(b"!").unwrap();
        assert!(readable(&far, PollTimeout::try_from(PATIENCE).unwrap()));
        assert_eq!(now(&far), b"!");
    }
    assert_entangled(&near, &far);
}

#[test]
fn s36_rings_that_former_holders_left_unread_do_no_harm() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, mut far) = channel_of(4096);
    let (asleep, sleeper) = mpsc::channel();
    let process = std::process::id();
    let poster = thread::spawn(move || {
        for (thread, index) in sleeper.iter().zip(0..) {
            common::until_asleep(process, thread);
            near.post_bytes(&sample(index)).unwrap();
        }
        near
    });
    // Each holder is rung once and leaves at once: more rings in all than an honest peer's doorbell holds.
    for index in 0..80 {
        far.set_wait_strategy(WaitStrategy::Block);
        asleep.send(common::thread_id()).unwrap();
        assert_eq!(next(&far), sample(index));
        far = carry(&carrier1, &carrier2, far);
    }
    drop(asleep);
    let near = poster.join().unwrap();
    assert_eq!(near.stats().wakeups, 80, "each was asleep");
    assert_eq!(far.close_reason(), None);
    assert_entangled(&near, &far);
}

#[test]
fn s11_who_waits_for_room_again_and_again_minds_no_port_that_waits_for_it() {
    let _quiet = common::descriptors();
    let (outer1, outer2) = channel();
    for strategy in common::STRATEGIES {
        let (near, far) = channel_of(4096);
        let (stays, travels) = channel_of(4096);
        near.post_bytes_with(b"not received yet", [travels])
            .unwrap();
        // Each wake-up leaves a ring of the doorbell behind that port, where nobody can read it: more of them
        // in all than an honest peer's doorbell holds. The second holder begins with those of the first.
        let mut poster = far;
        for _ in 0..2 {
            poster.set_wait_strategy(strategy);
            let posting = waiting(strategy, move || {
                let mut posted = 0;
                while posted < 200 || poster.stats().room_waits < waits_for_room(strategy) {
                    poster.post_bytes(&sample_of(posted, 1500)).unwrap();
                    posted += 1;
                }
                poster.post_bytes(b"").unwrap();
                (poster, posted)
            });
            let received = (0..).take_while(|index| {
                let message = next(&near);
                assert!(message.is_empty() || message == sample_of(*index, 1500));
                !message.is_empty()
            });
            let received = received.count() as u64;
            let (holder, posted) = posting.join().unwrap();
            assert_eq!(received, posted);
            poster = carry(&outer1, &outer2, holder);
        }
        let event = poster.try_recv().unwrap().unwrap();
        assert_eq!(event.bytes(), b"not received yet");
        assert_entangled(&stays, &only(event.take_ports()));
        drop(event);
        assert_entangled(&near, &poster);
    }
}

/// How often such a poster waits at least. One that spins need not be woken.
fn waits_for_room(strategy: WaitStrategy) -> u64 {
    if strategy == WaitStrategy::Spin {
        0
    } else {
        150
    }
}

#[test]
fn s11_who_is_armed_for_room_again_and_again_minds_no_port_that_waits_for_it() {
    const ROUNDS: u64 = 400;
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    let (stays, travels) = channel_of(4096);
    near.post_bytes_with(b"not received yet", [travels])
        .unwrap();
    let (mut posted, mut received) = (0, 0);
    for _ in 0..ROUNDS {
        while far.try_post_bytes(&sample_of(posted, 1500)).is_ok() {
            posted += 1;
        }
        let ready = far.arm(Interest::Room(1500)).unwrap() == Armed::Ready;
        while received < posted {
            assert_eq!(now(&near), sample_of(received, 1500));
            received += 1;
        }
        let mut fds = [PollFd::new(far.as_fd().unwrap(), PollFlags::POLLIN)];
        let within = PollTimeout::try_from(PATIENCE).unwrap();
        assert!(ready || poll(&mut fds, within).unwrap() == 1);
    }
    assert!(posted >= ROUNDS);
    let event = far.try_recv().unwrap().unwrap();
    assert_entangled(&stays, &only(event.take_ports()));
    drop(event);
    assert_entangled(&near, &far);
}

#[test]
fn s36_the_carrier_moves_while_its_receiver_sleeps() {
    let _quiet = common::descriptors();
    let (outer1, outer2) = channel();
    for strategy in common::STRATEGIES {
        let (carrier1, carrier2) = channel();
        let (near, far) = channel_of(4096);
        let waiter = waiting(strategy, move || {
            carrier2.set_wait_strategy(strategy);
            ports::echo(&ports::next_port(&carrier2))
        });
        // Who posts the port now is not who was there when the receiver fell asleep.
        let carrier1 = carry(&outer1, &outer2, carrier1);
        carrier1.post_bytes_with(b"", [far]).unwrap();
        ports::ask(&near, 0..10);
        drop(near);
        let answered = waiter.join().unwrap();
        assert_eq!(answered, (10, Some(CloseReason::ClosedByPeer)));
    }
}

#[test]
fn s36_ports_cross_between_two_threads() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (left, right) = channel_of(4096);
        let (near, far) = ports::channels(4);
        let rounds = common::turns(strategy, 500);
        // Both send and receive ports on the same channel at the same time.
        let keep = move |port: MessagePort, mut held: Vec<MessagePort>| {
            port.set_wait_strategy(strategy);
            for index in 0..rounds {
                let sent = held.remove(0);
                port.post_bytes_with(&sample(index), [sent]).unwrap();
                let event = port.recv_timeout(PATIENCE).unwrap().unwrap();
                assert_eq!(event.bytes(), sample(index));
                held.push(only(event.take_ports()));
            }
            held
        };
        let mut far = far.into_iter();
        let lefts: Vec<_> = far.by_ref().take(2).collect();
        let rights: Vec<_> = far.collect();
        let other = thread::spawn(move || keep(right, rights));
        let mut far = keep(left, lefts);
        far.extend(other.join().unwrap());
        // Wherever each of them is by now, it is there once.
        for (near, index) in near.iter().zip(0..) {
            near.post_bytes(&sample(index)).unwrap();
        }
        let mut seen = [0; 4];
        for far in &far {
            seen[common::index_of(&now(far)) as usize] += 1;
        }
        assert_eq!(seen, [1; 4]);
        assert!(far.iter().all(nothing));
        assert_eq!(drain(&near[0], 0), 0);
    }
}

#[test]
fn s52_no_wake_up_is_lost_by_messages_with_ports() {
    let _quiet = common::descriptors();
    for here in [WaitStrategy::Block, WaitStrategy::Spin] {
        let (carrier, child, _counters) = victim("bounces", WaitStrategy::Block, "");
        carrier.set_wait_strategy(here);
        let (near, mut far) = channel_of(4096);
        let mut random = ports::Random(99);
        // The descriptors come first and wake a sleeper too, before there is a message.
        for index in 0..common::turns(here, 5000) {
            (0..random.below(200)).for_each(|_| std::hint::spin_loop());
            carrier.post_bytes_with(&sample(index), [far]).unwrap();
            let event = carrier.recv_timeout(PATIENCE).unwrap();
            let event = event.expect("an answer: was a wake-up lost?");
            assert_eq!(event.bytes(), sample(index));
            far = only(event.take_ports());
        }
        assert_entangled(&near, &far);
        drop(carrier);
        common::end_well(child);
    }
}

fn bounces() {
    let (carrier, _counters) = on_stage();
    for event in carrier.iter() {
        let ports = event.take_ports();
        carrier.post_bytes_with(event.bytes(), ports).unwrap();
    }
}
