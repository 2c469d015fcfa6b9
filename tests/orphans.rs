//! Ports whose peers have ended, in good order or by a death, before they arrive (S42, S54), and processes that
//! end with ports in their hands, in their queues, or on their way (S44, S51).

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::thread;

use common::{
    AT_ONCE, Counters, channel, channel_of, closed, idle, next, on_stage, sample, victim,
};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use ports::{all_told, carry, drain, only, watched};
use ringport::{CloseReason, MessagePort, WaitStrategy};

roles! { posts_and_idles, ends_as_told, posts_a_port_and_dies, leaves_its_events, sends_ports_back }

#[test]
fn s42_a_port_whose_peer_is_closed_can_still_move() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    for many in [0, 1, 10] {
        for known in [false, true] {
            let (near, far) = channel_of(4096);
            ports::post(&near, 0..many);
            drop(near);
            assert!(!known || far.is_closed());
            let far = carry(&carrier1, &carrier2, far);
            let far = carry(&carrier2, &carrier1, far);
            assert_eq!(common::rest(&far, 0), (many, CloseReason::ClosedByPeer));
            common::assert_over(&far, CloseReason::ClosedByPeer);
        }
    }
}

#[test]
fn s42_a_port_whose_peer_was_killed_can_still_move() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    for known in [false, true] {
        let (far, mut child, counters) = victim("posts_and_idles", WaitStrategy::Block, "");
        counters.until(Counters::READY, 1);
        common::kill(&mut child);
        assert!(!known || far.is_closed());
        let far = carry(&carrier1, &carrier2, far);
        assert_eq!(common::rest(&far, 0), (5, CloseReason::PeerGone));
        common::assert_over(&far, CloseReason::PeerGone);
    }
}

fn posts_and_idles() {
    let (port, counters) = on_stage();
    ports::post(&port, 0..5);
    counters.ready();
    idle();
}

#[test]
fn s54_closing_while_the_peer_is_under_way() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    for dropped in [false, true] {
        let (near, far) = channel_of(4096);
        ports::post(&far, 0..3);
        ports::post(&near, 0..5);
        carrier1.post_bytes_with(b"", [far]).unwrap();
        ports::post(&near, 5..10);
        // It can still read what was posted before the port left.
        assert_eq!(drain(&near, 0), 3);
        near.close();
        let kept = (!dropped).then_some(near);
        let far = ports::next_port(&carrier2);
        assert_eq!(common::rest(&far, 0), (10, CloseReason::ClosedByPeer));
        common::assert_over(&far, CloseReason::ClosedByPeer);
        drop(kept);
    }
}

#[test]
fn s54_dying_while_the_peer_is_under_way() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (far, mut child, counters) = victim("posts_and_idles", WaitStrategy::Block, "");
    carrier1.post_bytes_with(b"", [far]).unwrap();
    counters.until(Counters::READY, 1);
    common::kill(&mut child);
    let far = ports::next_port(&carrier2);
    assert_eq!(common::rest(&far, 0), (5, CloseReason::PeerGone));
}

#[test]
fn s44_ports_that_wait_for_a_process_are_closed_when_it_ends() {
    let _quiet = common::descriptors();
    for strategy in [WaitStrategy::Block, WaitStrategy::Spin] {
        for how in ["kill", "abort", "exit", "return", "close"] {
            let (carrier, mut child, counters) = victim("ends_as_told", strategy, how);
            let (mut far, watchers) = watched(strategy, 3);
            let last = far.pop().unwrap();
            carrier.post_bytes_with(b"", far).unwrap();
            carrier.post_bytes_with(b"", [last]).unwrap();
            assert!(watchers.iter().all(|watcher| !watcher.is_finished()));
            counters.set(Counters::DONE, 1);
            counters.until(Counters::READY, 1);
            if how == "kill" {
                common::kill(&mut child);
            }
            all_told(watchers, CloseReason::PeerGone);
            if how == "close" {
                // It lives on, and has not dropped its port.
                assert!(child.try_wait().unwrap().is_none());
                common::kill(&mut child);
            }
            child.wait().unwrap();
        }
    }
}

fn ends_as_told() {
    let (port, counters) = on_stage();
    counters.until(Counters::DONE, 1);
    counters.ready();
    match common::how().as_str() {
        "kill" => idle(),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(0),
        "return" => drop(port),
        "close" => {
            port.close();
            idle();
        }
        other => panic!("no such end: {other}"),
    }
}

#[test]
fn s44_ports_in_the_hands_of_a_process_are_closed_when_it_ends() {
    let _quiet = common::descriptors();
    let (carrier, mut child) = common::worker("leaves_its_events").into_parts();
    let (dropped, far) = ports::channels(2);
    carrier.post_bytes_with(b"", far).unwrap();
    let (held, far) = ports::channels(2);
    carrier.post_bytes_with(b"", far).unwrap();
    assert_eq!(next(&carrier), b"one dropped, one held");
    for near in &dropped {
        assert_eq!(ports::told(near), CloseReason::ClosedByPeer);
    }
    assert!(held.iter().all(|near| !near.is_closed()));
    common::kill(&mut child);
    for near in &held {
        assert_eq!(ports::told(near), CloseReason::PeerGone);
    }
}

fn leaves_its_events() {
    let carrier = common::parent();
    drop(carrier.recv().unwrap());
    let _held = carrier.recv().unwrap();
    carrier.post_bytes(b"one dropped, one held").unwrap();
    idle();
}

#[test]
fn s51_a_port_that_was_posted_by_a_process_that_died_arrives() {
    let _quiet = common::descriptors();
    let (carrier, mut child) = common::worker("posts_a_port_and_dies").into_parts();
    child.wait().unwrap();
    // All that waits in them came along: two with peers that died, two that are each other's.
    let event = carrier.recv_timeout(AT_ONCE).unwrap().unwrap();
    assert_eq!(event.bytes(), b"what is left");
    let [one, two, near, far] = event.take_ports().try_into().unwrap();
    for orphan in [one, two] {
        assert_eq!(common::rest(&orphan, 0), (5, CloseReason::PeerGone));
    }
    ports::assert_entangled(&near, &far);
    assert_eq!(ports::told(&carrier), CloseReason::PeerGone);
}

fn posts_a_port_and_dies() {
    let carrier = common::parent();
    let (near, mut far) = ports::channels(2);
    for near in &near {
        ports::post(near, 0..5);
    }
    let (port1, port2) = channel_of(4096);
    far.extend([port1, port2]);
    carrier.post_bytes_with(b"what is left", far).unwrap();
    std::process::abort();
}

#[test]
fn s51_a_port_that_was_sent_off_in_a_message_never_published_is_closed() {
    let _quiet = common::descriptors();
    for moved in [false, true] {
        let (carrier1, mut carrier2) = channel_of(4096);
        let (near, far) = channel_of(4096);
        carrier1.post_bytes(b"published").unwrap();
        // As if its process had died between the two steps of a post.
        let (poster, port) = (carrier1.into_handle(), far.into_handle());
        let numbers = [port.segment.as_raw_fd(), port.doorbell.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&numbers)];
        let data = [IoSlice::new(&[0x80])];
        let socket = poster.doorbell.as_raw_fd();
        sendmsg::<()>(socket, &data, &control, MsgFlags::empty(), None).unwrap();
        drop((port, poster));
        if moved {
            let (outer1, outer2) = channel();
            carrier2 = carry(&outer1, &outer2, carrier2);
        }
        assert_eq!(next(&carrier2), b"published");
        common::assert_over(&carrier2, CloseReason::PeerGone);
        // The carrier is still there, and keeps nothing that nobody can ever receive.
        assert_eq!(ports::told(&near), CloseReason::PeerGone);
        drop(carrier2);
    }
}

#[test]
fn s51_every_port_that_a_killed_process_had_comes_back_or_is_closed() {
    let _quiet = common::descriptors();
    let mut lost = 0;
    for round in 0..9 {
        let strategy = common::STRATEGIES[round % 3];
        let (carrier, mut child, counters) = victim("sends_ports_back", strategy, "");
        let (mut near, mut came_back) = (Vec::new(), 0);
        let end = thread::scope(|scope| {
            scope.spawn(|| {
                counters.until(Counters::DONE, 40 + 31 * round as u64);
                common::kill(&mut child);
            });
            // Many are always there, or on their way there or back, so also when it is killed.
            loop {
                if near.len() - came_back < 30 {
                    let (stays, travels) = channel_of(4096);
                    let number = sample(near.len() as u64);
                    if carrier.try_post_bytes_with(&number, [travels]).is_ok() {
                        near.push(Some(stays));
                    }
                }
                match carrier.try_recv() {
                    Ok(Some(event)) => came_back = comes_back(&mut near, &event),
                    Ok(None) => {}
                    end => break closed(end),
                }
            }
        });
        assert_eq!(end, CloseReason::PeerGone);
        let returned = counters.get(Counters::DONE);
        assert!(came_back as u64 >= returned, "{came_back} of {returned}");
        for near in near.iter().flatten() {
            assert_eq!(ports::told(near), CloseReason::PeerGone);
            lost += 1;
        }
    }
    assert!(lost > 0, "it was killed too late to have had any");
}

/// The event brings one of these ports back, in order; gives how many have come.
#[track_caller]
fn comes_back(near: &mut [Option<MessagePort>], event: &ringport::MessageEvent<'_>) -> usize {
    let index = common::index_of(event.bytes()) as usize;
    let stays = near[index].take().expect("each comes back once");
    ports::assert_entangled(&stays, &only(event.take_ports()));
    assert!(near[..index].iter().all(Option::is_none));
    index + 1
}

fn sends_ports_back() {
    let (carrier, counters) = on_stage();
    for (event, done) in carrier.iter().zip(1..) {
        carrier
            .post_bytes_with(event.bytes(), event.take_ports())
            .unwrap();
        counters.set(Counters::DONE, done);
    }
}
