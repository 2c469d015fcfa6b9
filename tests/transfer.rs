//! A port sent in a message is the same port where it arrives: S32, S33, S37 and S39.
//!
//! The messages that carry ports are in `carrying.rs`, many moves in a row and who waits meanwhile in
//! `hops.rs` and `moving.rs`, what has lost its peer in `orphans.rs`, what is refused in `refusing.rs`.

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::thread;

use common::{
    PATIENCE, channel, channel_of, closed, greeting, next, nothing, now, on_stage, sample, trust,
    victim,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ports::{WAYS, assert_all_entangled, assert_entangled, carry, drain, fill, only};
use ringport::{
    Armed, ChannelOptions, CloseReason, Interest, MessageChannel, WaitStrategy, Worker,
};

roles! {
    answers_on_what_it_receives, asks_on_what_it_receives, gives_a_port_away, drains_what_it_receives,
}

#[test]
fn s32_a_received_port_is_entangled_with_the_same_peer() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, far) = ports::channels(2 * WAYS.len());
    for (port, index) in far.into_iter().zip(0..) {
        let way = &WAYS[index as usize % WAYS.len()];
        way.post(&carrier1, index, vec![port]).unwrap();
    }
    let received: Vec<_> = (0..2 * WAYS.len())
        .map(|index| {
            let event = carrier2.try_recv().unwrap().unwrap();
            WAYS[index % WAYS.len()].assert_posted(&event, index as u64);
            only(event.take_ports())
        })
        .collect();
    assert!(nothing(&carrier2));
    assert_all_entangled(&near, &received);
    // And the carrier is as good as before, both ways.
    assert_entangled(&carrier1, &carrier2);
}

#[test]
fn s32_either_end_can_move_and_stays_the_end_it_was() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let options = ChannelOptions::new()
        .capacity_1_to_2(8192)
        .capacity_2_to_1(4096);
    let MessageChannel { port1, port2 } = MessageChannel::with_options(&options).unwrap();
    let (mut port1, mut port2) = (port1, port2);
    for round in 0..12 {
        match round % 4 {
            0 => port1 = carry(&carrier1, &carrier2, port1),
            1 => port2 = carry(&carrier1, &carrier2, port2),
            2 => port1 = carry(&carrier2, &carrier1, port1),
            _ => port2 = carry(&carrier2, &carrier1, port2),
        }
        assert_eq!((port1.capacity(), port2.capacity()), (8192, 4096));
        assert_entangled(&port1, &port2);
    }
}

#[test]
fn s32_the_peer_is_not_told_and_need_do_nothing() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, mut far) = channel();
    let readable = |within: PollTimeout| {
        let mut fds = [PollFd::new(near.as_fd().unwrap(), PollFlags::POLLIN)];
        poll(&mut fds, within).unwrap() == 1
    };
    assert_eq!(near.arm(Interest::Message).unwrap(), Armed::Wait);
    let before = near.stats();
    for _ in 0..10 {
        far = carry(&carrier1, &carrier2, far);
    }
    assert!(!readable(PollTimeout::ZERO));
    assert_eq!(near.stats(), before);
    assert!(!near.is_closed());
    // It still waits for a message, and whoever holds the other end now sees to it.
    far.post_bytes(b"!").unwrap();
    assert!(readable(PollTimeout::try_from(PATIENCE).unwrap()));
    assert_eq!(now(&near), b"!");
}

#[test]
fn s32_a_port_works_in_the_thread_that_receives_it() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (carrier1, carrier2) = channel();
        let (near, far) = channel_of(4096);
        let holder = thread::spawn(move || {
            carrier2.set_wait_strategy(strategy);
            let port = ports::next_port(&carrier2);
            port.set_wait_strategy(strategy);
            ports::echo(&port)
        });
        carrier1.post_bytes_with(b"", [far]).unwrap();
        near.set_wait_strategy(strategy);
        let many = common::turns(strategy, 1000);
        ports::ask(&near, 0..many);
        drop(near);
        let answered = holder.join().unwrap();
        assert_eq!(answered, (many, Some(CloseReason::ClosedByPeer)));
    }
}

#[test]
fn s32_a_port_works_in_the_process_that_receives_it() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (carrier, child, _counters) = victim("answers_on_what_it_receives", strategy, "");
        let (near, far) = ports::channels(4);
        let mut far = far.into_iter();
        carrier
            .post_message_with(&greeting(1), far.by_ref().take(3))
            .unwrap();
        carrier.post_bytes_with(b"", far).unwrap();
        for near in near {
            near.set_wait_strategy(strategy);
            ports::ask(&near, 0..common::turns(strategy, 500));
        }
        drop(carrier);
        common::end_well(child);
    }
}

fn answers_on_what_it_receives() {
    let (carrier, _counters) = on_stage();
    for event in carrier.iter() {
        for port in event.take_ports() {
            port.set_wait_strategy(common::strategy());
            let (_, end) = ports::echo(&port);
            assert_eq!(end, Some(CloseReason::ClosedByPeer));
        }
    }
}

#[test]
fn s32_a_port_that_another_process_made_works_here() {
    let _quiet = common::descriptors();
    let (carrier, child) = common::worker("gives_a_port_away").into_parts();
    let port = ports::next_port(&carrier);
    // Its maker's only port; the carrier is not needed for it.
    drop(carrier);
    ports::ask(&port, 0..500);
    drop(port);
    common::end_well(child);
}

fn gives_a_port_away() {
    let carrier = common::parent();
    let (near, far) = channel_of(4096);
    carrier.post_bytes_with(b"yours", [far]).unwrap();
    drop(carrier);
    let end = ports::echo(&near);
    assert_eq!(end, (500, Some(CloseReason::ClosedByPeer)));
}

#[test]
fn s33_waiting_messages_go_with_the_port_whatever_their_number() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    for many in [0, 1, 10, 1000] {
        let (near, far) = channel_of(1 << 19);
        ports::post(&near, 0..many);
        ports::post(&far, 0..2 * many);
        let pending = far.pending();
        let far = carry(&carrier1, &carrier2, far);
        assert_eq!(far.pending(), pending);
        assert_eq!(drain(&far, 0), many);
        assert_eq!(drain(&near, 0), 2 * many);
        assert_entangled(&near, &far);
    }
}

#[test]
fn s33_full_rings_go_with_the_port() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    for capacity in [4096, 1 << 16, 1 << 20] {
        let (near, far) = channel_of(capacity);
        let (to_far, to_near) = (fill(&near), fill(&far));
        assert!(to_far > 15 && to_near == to_far);
        let far = carry(&carrier1, &carrier2, far);
        // Both are still full, for the new holder too.
        let more = sample(to_far);
        assert!(near.try_post_bytes(&more).is_err());
        assert!(far.try_post_bytes(&more).is_err());
        assert_eq!(drain(&far, 0), to_far);
        assert_eq!(drain(&near, 0), to_near);
        assert_entangled(&near, &far);
    }
}

#[test]
fn s33_waiting_messages_go_with_the_port_to_another_process() {
    let _quiet = common::descriptors();
    let (carrier, child) = common::worker("drains_what_it_receives").into_parts();
    for capacity in [4096, 1 << 19] {
        for many in [0, 1, 10, 1000, u64::MAX] {
            let (near, far) = channel_of(capacity);
            let posted = (0..many).take_while(|index| near.try_post_bytes(&sample(*index)).is_ok());
            let posted = posted.count() as u64;
            carrier.post_bytes_with(b"", [far]).unwrap();
            // What waits comes first, what is posted now after it.
            ports::post(&near, posted..posted + 3);
            near.close();
            assert_eq!(next(&carrier), (posted + 3).to_le_bytes());
        }
    }
    drop(carrier);
    common::end_well(child);
}

fn drains_what_it_receives() {
    let carrier = common::parent();
    for event in carrier.iter() {
        let (received, end) = common::rest(&only(event.take_ports()), 0);
        assert_eq!(end, CloseReason::ClosedByPeer);
        carrier.post_bytes(&received.to_le_bytes()).unwrap();
    }
}

#[test]
fn s33_a_port_moves_wherever_its_rings_stand() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel_of(4096);
    let (mut near, mut far) = channel_of(4096);
    let mut random = ports::Random(0xfeed);
    // Posted and received, to far and to near.
    let (mut out, mut at_far, mut back, mut at_near) = (0, 0, 0, 0);
    for _ in 0..1500 {
        for _ in 0..random.below(14) {
            match random.below(4) {
                0 => out += u64::from(near.try_post_bytes(&sample(out)).is_ok()),
                1 => back += u64::from(far.try_post_bytes(&sample(back)).is_ok()),
                2 if at_far < out => {
                    assert_eq!(now(&far), sample(at_far));
                    at_far += 1;
                }
                3 if at_near < back => {
                    assert_eq!(now(&near), sample(at_near));
                    at_near += 1;
                }
                _ => {}
            }
        }
        // What was begun and given up leaves bytes behind, which the next holder must not mind.
        if let Ok(mut slot) = far.try_reserve(random.below(500) as usize) {
            slot.write(&vec![0xff; slot.len()]);
        }
        far = carry(&carrier1, &carrier2, far);
        if random.below(3) == 0 {
            near = carry(&carrier2, &carrier1, near);
        }
    }
    assert!(out > 1500 && back > 1500, "wrapped many times");
    assert_eq!(drain(&far, at_far), out - at_far);
    assert_eq!(drain(&near, at_near), back - at_near);
}

#[test]
fn s33_the_cost_of_a_move_does_not_depend_on_how_much_waits() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    // The new holder's map is new. Should the move read what waits, 16 MiB of it, or look all over the ring, that
    // would show as hundreds of page faults, even where the kernel maps 16 pages at a time.
    let faults_of_a_move = |full: bool| {
        let (near, far) = channel_of(16 << 20);
        let message = vec![7; near.max_message_len() / 8];
        let mut waiting = 0;
        while full && near.try_post_bytes(&message).is_ok() {
            waiting += 1;
        }
        let before = page_faults();
        let far = carry(&carrier1, &carrier2, far);
        let faults = page_faults() - before;
        (0..waiting).for_each(|_| assert_eq!(now(&far).len(), message.len()));
        assert!(!full || waiting > 10);
        faults
    };
    let least = |full| (0..5).map(|_| faults_of_a_move(full)).min().unwrap();
    let (empty, full) = (least(false), least(true));
    assert!(
        empty < 64 && full < 64,
        "{empty} page faults, {full} when full"
    );
}

/// How many pages this thread had to be given so far.
fn page_faults() -> i64 {
    let mut usage = std::mem::MaybeUninit::uninit();
    // SAFETY: the pointer is to room for one rusage.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    assert_eq!(result, 0);
    // SAFETY: the call succeeded, so that it has filled it in.
    unsafe { usage.assume_init() }.ru_minflt
}

#[test]
fn s37_both_ports_of_a_channel_travel_in_one_message_or_in_two() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    for together in [true, false] {
        let (port1, port2) = channel_of(4096);
        ports::post(&port1, 0..10);
        ports::post(&port2, 0..7);
        let received = if together {
            carrier1.post_bytes_with(b"", [port2, port1]).unwrap();
            ports::next_ports(&carrier2)
        } else {
            carrier1.post_bytes_with(b"", [port2]).unwrap();
            carrier1.post_bytes_with(b"", [port1]).unwrap();
            vec![ports::next_port(&carrier2), ports::next_port(&carrier2)]
        };
        let [port2, port1] = received.try_into().unwrap();
        assert_eq!((drain(&port2, 0), drain(&port1, 0)), (10, 7));
        assert_entangled(&port1, &port2);
    }
}

#[test]
fn s37_both_ports_of_a_channel_travel_to_different_threads() {
    let _quiet = common::descriptors();
    let (asker, at_asker) = channel();
    let (echo, at_echo) = channel();
    let (port1, port2) = channel_of(4096);
    let asks = thread::spawn(move || ports::ask(&ports::next_port(&at_asker), 0..500));
    let answers = thread::spawn(move || ports::echo(&ports::next_port(&at_echo)));
    asker.post_bytes_with(b"", [port1]).unwrap();
    echo.post_bytes_with(b"", [port2]).unwrap();
    asks.join().unwrap();
    let answered = answers.join().unwrap();
    assert_eq!(answered, (500, Some(CloseReason::ClosedByPeer)));
}

#[test]
fn s37_both_ports_of_a_channel_travel_to_different_processes() {
    let _quiet = common::descriptors();
    let role = "answers_on_what_it_receives";
    let (answers, second, _counters) = victim(role, WaitStrategy::Adaptive, "");
    let (asks, first) = common::worker("asks_on_what_it_receives").into_parts();
    let (port1, port2) = channel_of(4096);
    // What was posted before they left is between them as well.
    port1.post_bytes(&sample(0)).unwrap();
    port2.post_bytes(b"early").unwrap();
    asks.post_bytes_with(b"", [port1]).unwrap();
    answers.post_bytes_with(b"", [port2]).unwrap();
    assert_eq!(next(&asks), b"all answered");
    drop((asks, answers));
    common::end_well(first);
    common::end_well(second);
}

fn asks_on_what_it_receives() {
    let carrier = common::parent();
    let port = ports::next_port(&carrier);
    assert_eq!(next(&port), b"early");
    assert_eq!(next(&port), sample(0));
    ports::ask(&port, 1..500);
    carrier.post_bytes(b"all answered").unwrap();
}

#[test]
fn s39_a_received_port_starts_anew() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, far) = channel_of(4096);
    trust(&far);
    far.set_wait_strategy(WaitStrategy::Block);
    near.post_bytes(b"read in place").unwrap();
    assert!(far.recv().unwrap().is_in_place());
    assert_eq!(far.arm(Interest::Message).unwrap(), Armed::Wait);
    let far = carry(&carrier1, &carrier2, far);
    assert_eq!(far.wait_strategy(), WaitStrategy::default());
    assert_eq!(far.stats(), channel().0.stats(), "as of a port just made");
    near.post_bytes(b"copied").unwrap();
    assert!(!far.recv().unwrap().is_in_place());
    // A trusted carrier, too, makes no port trusted.
    trust(&carrier2);
    let far = carry(&carrier1, &carrier2, far);
    near.post_bytes(b"copied").unwrap();
    assert!(!far.recv().unwrap().is_in_place());
}

#[test]
fn a_port_that_starts_a_process_can_be_passed_on() {
    let _quiet = common::descriptors();
    let command = common::command("gives_a_port_away");
    let (port, child) = Worker::spawn(command).unwrap().into_parts();
    let (carrier1, carrier2) = channel();
    let port = carry(&carrier1, &carrier2, port);
    let gift = ports::next_port(&port);
    assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
    ports::ask(&gift, 0..500);
    drop(gift);
    common::end_well(child);
}
