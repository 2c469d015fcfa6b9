//! Waiting in somebody else's event loop: `arm`, then poll `as_fd`.

mod common;

use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use common::{channel, channel_of, closed, kill, nothing, now, sample_of, victim};
use ringport::{Armed, CloseReason, Interest, MessagePort, WaitStrategy};

roles! { is_quiet }

/// Whether the port's descriptor is readable, or becomes so within `timeout`.
fn readable(port: &MessagePort, timeout: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: port.as_fd().unwrap().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd, which lives through the call.
    let ready = unsafe { libc::poll(&mut poll, 1, timeout.as_millis() as libc::c_int) };
    assert!(ready >= 0);
    ready == 1
}

/// Arms until it says that there is nothing yet, which it must before long.
#[track_caller]
fn arm_and_wait(port: &MessagePort, interest: Interest) {
    assert_eq!(port.arm(interest).unwrap(), Armed::Wait);
    assert!(!readable(port, Duration::ZERO), "nothing has happened yet");
}

#[test]
fn s17_an_armed_port_becomes_readable_with_a_message() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    for round in 0..100 {
        arm_and_wait(&port2, Interest::Message);
        port1.post_bytes(b"one").unwrap();
        port1.post_bytes(b"two").unwrap();
        assert!(readable(&port2, common::AT_ONCE), "round {round}");
        assert_eq!(port2.arm(Interest::Message).unwrap(), Armed::Ready);
        assert_eq!(now(&port2), b"one");
        assert_eq!(port2.arm(Interest::Message).unwrap(), Armed::Ready);
        assert_eq!(now(&port2), b"two");
        assert!(nothing(&port2));
    }
}

#[test]
fn s11_an_armed_port_becomes_readable_when_ports_can_be_posted() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let post = |port: &MessagePort| port.try_post_bytes_with(b"", [channel().1]).is_ok();
    assert_eq!(port1.arm(Interest::Transfer(0)).unwrap(), Armed::Ready);
    while post(&port1) {}
    for interest in [Interest::Transfer(0), Interest::MessageOrTransfer(0)] {
        for round in 0..20 {
            // There is room for other messages.
            assert_eq!(port1.arm(Interest::Room(0)).unwrap(), Armed::Ready);
            arm_and_wait(&port1, interest);
            port1.try_post_bytes(b"plain").unwrap();
            arm_and_wait(&port1, interest);
            assert_eq!(port2.recv().unwrap().port_count(), 1);
            assert!(readable(&port1, common::AT_ONCE), "round {round}");
            assert_eq!(port1.arm(interest).unwrap(), Armed::Ready);
            assert!(post(&port1));
            assert!(!post(&port1));
        }
        // The oldest ones again, in front of the plain messages.
        while port2.try_recv().unwrap().is_some() {}
        while post(&port1) {}
    }
    arm_and_wait(&port1, Interest::MessageOrTransfer(0));
    port2.post_bytes(b"a message").unwrap();
    assert!(readable(&port1, common::AT_ONCE));
    assert_eq!(now(&port1), b"a message");
}

#[test]
fn s11_room_counts_for_a_transfer_too() {
    let _quiet = common::descriptors();
    // With 126 ports the second of these would never fit.
    for spare in [500, 16] {
        let (port1, port2) = channel_of(4096);
        let large = vec![7; port1.max_message_len() - spare];
        let interest = Interest::Transfer(large.len());
        while port1.try_post_bytes(&large).is_ok() {}
        arm_and_wait(&port1, interest);
        while port2.try_recv().unwrap().is_some() {}
        assert!(readable(&port1, common::AT_ONCE));
        assert_eq!(port1.arm(interest).unwrap(), Armed::Ready);
        port1.try_post_bytes_with(&large, [channel().1]).unwrap();
    }
}

#[test]
fn s17_a_message_there_already_is_ready_at_once() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port1.post_bytes(b"").unwrap();
    for interest in [Interest::Message, Interest::Either(1)] {
        assert_eq!(port2.arm(interest).unwrap(), Armed::Ready);
    }
    assert!(now(&port2).is_empty());
    assert_eq!(port2.arm(Interest::Room(100)).unwrap(), Armed::Ready);
    assert_eq!(port2.arm(Interest::Either(100)).unwrap(), Armed::Ready);
}

#[test]
fn s11_an_armed_port_becomes_readable_with_room() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    for round in 0..50 {
        let length = 60 + round % 5 * 300;
        let mut posted = 0;
        while port1.try_post_bytes(&sample_of(posted, length)).is_ok() {
            posted += 1;
        }
        let interest = [Interest::Room(length), Interest::Either(length)][round % 2];
        arm_and_wait(&port1, interest);
        let mut received = 0;
        while !readable(&port1, Duration::ZERO) {
            assert_eq!(now(&port2), sample_of(received, length));
            received += 1;
        }
        assert!(received <= posted);
        assert_eq!(port1.arm(interest).unwrap(), Armed::Ready);
        port1.try_post_bytes(&sample_of(posted, length)).unwrap();
        (received..=posted).for_each(|index| assert_eq!(now(&port2), sample_of(index, length)));
    }
}

#[test]
fn s52_an_armed_port_becomes_readable_with_the_end() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    arm_and_wait(&port2, Interest::Message);
    port1.post_bytes(b"last").unwrap();
    drop(port1);
    assert!(readable(&port2, common::AT_ONCE));
    assert_eq!(port2.arm(Interest::Message).unwrap(), Armed::Ready);
    assert_eq!(now(&port2), b"last");
    assert_eq!(port2.arm(Interest::Message).unwrap(), Armed::Ready);
    assert_eq!(closed(port2.try_recv()), CloseReason::ClosedByPeer);
}

#[test]
fn s52_an_armed_port_becomes_readable_with_a_death() {
    let _quiet = common::descriptors();
    for interest in [
        Interest::Message,
        Interest::Room(1000),
        Interest::Either(1000),
    ] {
        let (port, mut child, counters) = victim("is_quiet", WaitStrategy::Block, "");
        counters.until(common::Counters::READY, 1);
        while port.try_post_bytes(&[1; 1000]).is_ok() {}
        arm_and_wait(&port, interest);
        kill(&mut child);
        assert!(readable(&port, common::AT_ONCE), "{interest:?}");
        // Also who only asks learns of it, armed as the port still is.
        assert_eq!(port.close_reason(), Some(CloseReason::PeerGone));
        assert_eq!(port.arm(interest).unwrap(), Armed::Ready);
        assert_eq!(closed(port.recv()), CloseReason::PeerGone);
    }
}

fn is_quiet() {
    let (_port, counters) = common::on_stage();
    counters.ready();
    common::idle();
}

#[test]
fn s17_an_event_loop_misses_nothing() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let poster = thread::spawn(move || {
        let mut posted = 0;
        while posted < 5000 {
            while posted < 5000 && port1.try_post_bytes(&sample_of(posted, 50)).is_ok() {
                posted += 1;
            }
            if posted < 5000 && port1.arm(Interest::Room(50)).unwrap() == Armed::Wait {
                assert!(readable(&port1, common::PATIENCE), "no wake-up for room");
            }
        }
    });
    let mut received = 0;
    loop {
        match port2.try_recv() {
            Ok(Some(event)) => {
                assert_eq!(event.bytes(), sample_of(received, 50));
                received += 1;
            }
            Ok(None) => {
                if port2.arm(Interest::Message).unwrap() == Armed::Wait {
                    assert!(
                        readable(&port2, common::PATIENCE),
                        "no wake-up for a message"
                    );
                }
            }
            end => {
                assert_eq!(closed(end), CloseReason::ClosedByPeer);
                break;
            }
        }
    }
    assert_eq!(received, 5000);
    poster.join().unwrap();
}

#[test]
fn s17_blocking_calls_and_arming_take_turns_on_one_port() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let echo = thread::spawn(move || {
        for event in port2.iter() {
            port2.post_bytes(event.bytes()).unwrap();
        }
    });
    for round in 0..200 {
        port1.post_bytes(&sample_of(round, 40)).unwrap();
        if round % 2 == 0 {
            while port1.arm(Interest::Message).unwrap() == Armed::Wait {
                assert!(readable(&port1, common::PATIENCE));
            }
            assert_eq!(now(&port1), sample_of(round, 40));
        } else {
            assert_eq!(common::next(&port1), sample_of(round, 40));
        }
    }
    drop(port1);
    echo.join().unwrap();
}
