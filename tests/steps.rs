//! Death between every two steps of a transfer and of a meeting: S12, S44, S51.
//!
//! The victim is a process of its own that stops at every system call and is killed there, one stop later each
//! time, until it has lived to the end of what it does. Whatever the stop: a message is there with all its ports
//! or not at all, what was posted before is received, every peer of a lost port is told, nobody else notices.

mod common;
#[path = "common/luggage.rs"]
mod luggage;
#[path = "common/tracer.rs"]
mod tracer;

#[path = "steps/death.rs"]
mod death;
#[path = "steps/meeting.rs"]
mod meeting;

use std::process::Child;
use std::sync::mpsc;
use std::thread;

use common::{Counters, PATIENCE, channel, closed, next, on_stage, rest, sample, victim};
use death::{at_every_stop, echoes};
use luggage::{assert_lost, assert_works, luggage, unpack, unpack_or_gone};
use meeting::{accepts, binds, connects};
use ringport::{
    Armed, CloseReason, Interest, MessagePort, OwnedMessageEvent, RecvError, WaitStrategy,
};
use tracer::{Stop, Traced};

roles! { posts, receives, moves_on, connects, accepts, binds, echoes }

/// Who waits for the victim's message while it dies.
#[derive(Clone, Copy, PartialEq)]
enum Receiver {
    Later,
    /// Later, and after it has been moved with whatever the dead one left in it.
    Moved,
    Asleep(WaitStrategy),
}

/// As many instructions are more than any post takes after its `sendmsg`.
const MOST_INSTRUCTIONS: usize = 1 << 16;

/// Receives from `inbox`, asleep in `recv` before `act` begins, or after it is over.
fn receive_over(
    inbox: MessagePort,
    receiver: Receiver,
    act: impl FnOnce(),
) -> (MessagePort, Result<Option<OwnedMessageEvent>, RecvError>) {
    let receive = |inbox: &MessagePort| {
        let answer = inbox.recv_timeout(PATIENCE);
        answer.map(|event| event.map(|event| event.into_owned()))
    };
    let Receiver::Asleep(strategy) = receiver else {
        act();
        // Whatever lies in the doorbell, it does not hide the hang-up.
        assert_eq!(inbox.arm(Interest::Message).unwrap(), Armed::Ready);
        assert_eq!(inbox.close_reason(), Some(CloseReason::PeerGone));
        let inbox = match receiver {
            Receiver::Moved => carry(inbox),
            _ => inbox,
        };
        let answer = receive(&inbox);
        return (inbox, answer);
    };
    inbox.set_wait_strategy(strategy);
    let (started, thread) = mpsc::channel();
    let waiter = thread::spawn(move || {
        started.send(common::thread_id()).unwrap();
        let answer = receive(&inbox);
        (inbox, answer)
    });
    common::until_asleep(std::process::id(), thread.recv().unwrap());
    act();
    waiter.join().unwrap()
}

/// Moves a port within this process.
fn carry(port: MessagePort) -> MessagePort {
    let (there, here) = channel();
    there.post_bytes_with(b"", [port]).unwrap();
    unpack(&here, 1).remove(0)
}

/// The victim posts a message with so many ports. Returns whether the message came.
fn sender_dies(
    count: usize,
    receiver: Receiver,
    strike: impl FnOnce(&mut Child, &Counters),
) -> bool {
    let (control, mut child, counters) = victim("posts", WaitStrategy::Block, "");
    let (carrier, inbox) = channel();
    let (ports, peers) = luggage(count);
    let all = [carrier].into_iter().chain(ports);
    control.post_bytes_with(b"yours", all).unwrap();
    let (inbox, answer) = receive_over(inbox, receiver, || strike(&mut child, &counters));
    let returned = counters.get(Counters::DONE) == 1;
    let came = match answer {
        Ok(Some(event)) => {
            assert_eq!(event.bytes(), sample(9));
            let ports = event.take_ports();
            assert_eq!(ports.len(), count, "all of them or none");
            for (port, peer) in ports.into_iter().zip(&peers) {
                assert_works(port, peer, 2);
            }
            assert_eq!(closed(inbox.recv()), CloseReason::PeerGone);
            true
        }
        answer => {
            assert_eq!(closed(answer), CloseReason::PeerGone);
            peers.iter().for_each(|peer| assert_lost(peer, 2));
            false
        }
    };
    assert!(came || !returned, "the post had returned");
    assert_eq!(closed(control.recv()), CloseReason::PeerGone);
    came
}

/// Sends a message with all the ports it was given over the first of them.
fn posts() {
    let (control, counters) = on_stage();
    let event = control.recv().unwrap();
    let mut ports = event.take_ports();
    let carrier = ports.remove(0);
    for port in &ports {
        port.post_bytes(&sample(1)).unwrap();
    }
    tracer::begin(&counters);
    carrier.post_bytes_with(&sample(9), ports).unwrap();
    counters.set(Counters::DONE, 1);
    tracer::end();
}

fn sender_dies_at_every_stop(count: usize, receiver: Receiver) {
    let _quiet = common::descriptors();
    let mut came_at = Vec::new();
    let mut calls = vec![libc::SYS_sendmsg, libc::SYS_munmap, libc::SYS_close];
    if receiver == Receiver::Asleep(WaitStrategy::Block) {
        // The doorbell is rung.
        calls.push(libc::SYS_sendto);
    }
    at_every_stop(&calls, |death| {
        let came = sender_dies(count, receiver, |child, counters| {
            death.strike(child, counters)
        });
        assert!(death.sent || !came, "came before it was sent");
        assert!(came || !death.finished);
        came_at.push(came);
    });
    assert!(came_at.is_sorted(), "it came, and later it did not");
    assert!(came_at.contains(&false) && came_at.contains(&true));
}

#[test]
fn s51_a_sender_of_one_port_killed_between_any_two_steps() {
    sender_dies_at_every_stop(1, Receiver::Later);
}

#[test]
fn s51_a_sender_of_three_ports_killed_between_any_two_steps() {
    sender_dies_at_every_stop(3, Receiver::Later);
}

#[test]
fn s42_what_a_sender_killed_between_any_two_steps_left_does_not_hinder_the_receiver_s_own_transfer()
{
    sender_dies_at_every_stop(2, Receiver::Moved);
}

#[test]
fn s51_a_sender_killed_between_any_two_steps_while_the_receiver_waits() {
    sender_dies_at_every_stop(1, Receiver::Asleep(WaitStrategy::Block));
    sender_dies_at_every_stop(3, Receiver::Asleep(WaitStrategy::Adaptive));
}

/// The descriptors are sent by one step and the message is published by another, with no system call between.
#[test]
fn s51_a_sender_killed_between_sending_the_descriptors_and_publishing_instruction_by_instruction() {
    let _quiet = common::descriptors();
    for receiver in [Receiver::Asleep(WaitStrategy::Block), Receiver::Moved] {
        let mut length = 0;
        let mut die_after = |most: usize| {
            let mut steps = 0;
            let came = sender_dies(2, receiver, |child, counters| {
                let mut traced = Traced::wait_for(child, counters);
                while traced.next() != Stop::Exit(libc::SYS_sendmsg) {}
                while steps < most && counters.get(Counters::DONE) == 0 {
                    traced.step();
                    steps += 1;
                }
                traced.kill();
            });
            length = length.max(steps);
            came
        };
        assert!(die_after(usize::MAX), "lived to the end");
        // The last moment before it is published, by halves; then each instruction around it.
        let (mut before, mut after) = (0, MOST_INSTRUCTIONS);
        while after - before > 1 {
            let middle = (before + after) / 2;
            let came = die_after(middle);
            *(if came { &mut after } else { &mut before }) = middle;
        }
        assert!(before > 0, "it was published as soon as it was sent");
        let around: Vec<bool> = (after.saturating_sub(20)..after + 20)
            .map(&mut die_after)
            .collect();
        assert!(around.contains(&false) && around.contains(&true));
        println!("{length} instructions, published by number {after}");
    }
}

#[test]
fn s44_a_receiver_of_one_port_killed_between_any_two_steps() {
    receiver_dies_at_every_stop(1);
}

#[test]
fn s44_a_receiver_of_three_ports_killed_between_any_two_steps() {
    receiver_dies_at_every_stop(3);
}

/// Slots for how many ports the receiver had answered on, and how many it had dropped.
const ANSWERED: usize = 3;
const DROPPED: usize = 4;

fn receiver_dies_at_every_stop(count: usize) {
    let _quiet = common::descriptors();
    let (mut received, mut unanswered) = (0, 0);
    let calls = [
        libc::SYS_recvmsg,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_close,
    ];
    let stops = at_every_stop(&calls, |death| {
        let (control, mut child, counters) = victim("receives", WaitStrategy::Block, "");
        let (ports, peers) = luggage(count);
        control.post_bytes_with(&sample(9), ports).unwrap();
        death.strike(&mut child, &counters);
        received += counters.get(Counters::DONE);
        let answered = counters.get(ANSWERED);
        let dropped = counters.get(DROPPED);
        for (index, peer) in (0u64..).zip(&peers) {
            let (posted, reason) = rest(peer, 0);
            // It may have died after it posted and before it could count that; so for the drops.
            let may_be_answered = index == answered;
            let answers = u64::from(index < answered);
            assert!(
                posted == 1 + answers || may_be_answered && posted == 2,
                "{posted} messages, {answered} answers"
            );
            let may_be_dropped = index == dropped && answered == count as u64;
            match reason {
                CloseReason::ClosedByPeer => assert!(index < dropped || may_be_dropped),
                reason => {
                    assert_eq!(reason, CloseReason::PeerGone);
                    assert!(index >= dropped, "it was dropped");
                }
            }
            common::assert_over(peer, reason);
        }
        unanswered += u64::from(answered == 0);
        assert_eq!(closed(control.recv()), CloseReason::PeerGone);
        assert!(!death.finished || dropped == count as u64);
    });
    assert!(received > 0 && unanswered > 0 && received < stops as u64);
}

/// Takes ports out of a message, answers on each, drops each.
fn receives() {
    let (control, counters) = on_stage();
    tracer::begin(&counters);
    let event = control.recv().unwrap();
    let ports = event.take_ports();
    counters.set(Counters::DONE, 1);
    for (port, answered) in ports.iter().zip(1..) {
        assert_eq!(next(port), sample(70));
        port.post_bytes(&sample(1)).unwrap();
        counters.set(ANSWERED, answered);
    }
    for (port, dropped) in ports.into_iter().zip(1..) {
        drop(port);
        counters.set(DROPPED, dropped);
    }
    tracer::end();
}

#[test]
fn s44_a_holder_killed_between_any_two_steps_while_it_moves_a_port_with_ports_in_its_queue() {
    let _quiet = common::descriptors();
    let mut came_at = Vec::new();
    at_every_stop(&[libc::SYS_recvmsg, libc::SYS_sendmsg], |death| {
        let (control, mut child, counters) = victim("moves_on", WaitStrategy::Block, "");
        let (carrier, inbox) = channel();
        let (holder, feeder) = channel();
        let (ports, peers) = luggage(2);
        // Waits in the queue of the port that is moved twice.
        feeder.post_bytes_with(&sample(9), ports).unwrap();
        control
            .post_bytes_with(b"to be moved", [carrier, holder])
            .unwrap();
        death.strike(&mut child, &counters);
        let returned = counters.get(Counters::DONE) == 1;
        let came = unpack_or_gone(&inbox, 1);
        came_at.push(came.is_some());
        match came {
            Some(mut moved) => {
                let moved = moved.remove(0);
                for (port, peer) in unpack(&moved, 2).into_iter().zip(&peers) {
                    assert_works(port, peer, 1);
                }
                feeder.post_bytes(&sample(5)).unwrap();
                assert_eq!(next(&moved), sample(5));
                drop(moved);
                assert_eq!(closed(feeder.recv()), CloseReason::ClosedByPeer);
            }
            None => {
                assert!(!returned, "the post had returned");
                assert_eq!(closed(feeder.recv()), CloseReason::PeerGone);
                peers.iter().for_each(|peer| assert_lost(peer, 1));
            }
        }
        assert_eq!(closed(inbox.recv()), CloseReason::PeerGone);
        assert_eq!(closed(control.recv()), CloseReason::PeerGone);
    });
    assert!(came_at.is_sorted(), "it came, and later it did not");
    assert!(came_at.contains(&false) && came_at.contains(&true));
}

/// Receives a port in whose queue ports wait, and sends it on.
fn moves_on() {
    let (control, counters) = on_stage();
    tracer::begin(&counters);
    let mut ports = control.recv().unwrap().take_ports();
    let (carrier, moved) = (ports.remove(0), ports.remove(0));
    carrier.post_bytes_with(b"moved on", [moved]).unwrap();
    counters.set(Counters::DONE, 1);
    tracer::end();
}
