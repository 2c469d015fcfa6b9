//! The three strategies against each other, timeouts, and what the doorbell may say. How `arm` wakes is
//! in `arming`; here is what it answers, and many ports in one foreign loop.

mod common;

use common::{PATIENCE, channel, channel_of, closed, strategy};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use ringport::{Armed, CloseReason, Interest, MessagePort, WaitStrategy};
use std::time::{Duration, Instant};

roles! { echo }

fn echo() {
    let port = common::parent();
    port.set_wait_strategy(strategy());
    for event in port.iter() {
        port.post_bytes(event.bytes()).unwrap();
    }
    assert_eq!(port.close_reason(), Some(CloseReason::ClosedByPeer));
}

/// Whether the port's descriptor is readable, now or within the time given.
fn readable(port: &MessagePort, within: Duration) -> bool {
    let fd = port.as_fd().unwrap();
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(within).unwrap();
    poll(&mut fds, timeout).unwrap() == 1
}

fn arm(port: &MessagePort, interest: Interest) -> Armed {
    port.arm(interest).unwrap()
}

#[test]
fn s17_every_strategy_talks_to_every_other() {
    let _quiet = common::descriptors();
    for here in common::STRATEGIES {
        for there in common::STRATEGIES {
            let mut command = common::command("echo");
            common::tell(&mut command, there, "");
            let mut worker = ringport::Worker::spawn(command).unwrap();
            let port = worker.port();
            port.set_wait_strategy(here);
            assert_eq!(port.wait_strategy(), here);
            for index in 0..500 {
                port.post_bytes(&common::sample(index)).unwrap();
                assert_eq!(common::next(port), common::sample(index));
            }
            let sleeps = port.stats().sleeps;
            match here {
                WaitStrategy::Spin => assert_eq!(sleeps, 0),
                WaitStrategy::Block => assert!(sleeps > 0),
                WaitStrategy::Adaptive => {}
            }
            port.close();
            assert!(worker.wait().unwrap().success());
        }
    }
}

#[test]
fn s17_a_timeout_is_kept_by_every_strategy() {
    let _quiet = common::descriptors();
    let (near, _far) = channel();
    for strategy in common::STRATEGIES {
        near.set_wait_strategy(strategy);
        for micros in [0, 1, 300, 2_500] {
            let timeout = Duration::from_micros(micros);
            let start = Instant::now();
            assert!(near.recv_timeout(timeout).unwrap().is_none());
            let waited = start.elapsed();
            assert!(waited >= timeout, "{strategy:?} {timeout:?}: {waited:?}");
        }
    }
}

#[test]
fn s17_a_timeout_beyond_the_clock_is_no_limit() {
    let _quiet = common::descriptors();
    let (near, far) = channel();
    far.post_bytes(b"!").unwrap();
    let event = near.recv_timeout(Duration::MAX).unwrap().unwrap();
    assert_eq!(event.bytes(), b"!");
}

#[test]
fn s52_arming_says_what_is_there_already() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    assert_eq!(arm(&near, Interest::Room(100)), Armed::Ready);
    assert_eq!(arm(&near, Interest::Either(100)), Armed::Ready);
    // What can never fit is ready as well: the post will say so.
    assert_eq!(arm(&near, Interest::Room(1 << 20)), Armed::Ready);
    far.post_bytes(b"!").unwrap();
    assert_eq!(arm(&near, Interest::Message), Armed::Ready);
    assert_eq!(common::now(&near), b"!");
    assert_eq!(arm(&near, Interest::Message), Armed::Wait);
}

#[test]
fn s52_another_call_disarms() {
    let _quiet = common::descriptors();
    let (near, far) = channel();
    assert_eq!(arm(&near, Interest::Message), Armed::Wait);
    assert!(common::nothing(&near));
    far.post_bytes(b"quiet").unwrap();
    assert_eq!(far.stats().wakeups, 0, "it was rung though nobody waits");
    assert!(!readable(&near, Duration::ZERO));
    assert_eq!(common::now(&near), b"quiet");
}

#[test]
fn s52_asking_whether_it_is_closed_does_not_disarm() {
    let _quiet = common::descriptors();
    let (near, far) = channel();
    assert_eq!(arm(&near, Interest::Message), Armed::Wait);
    far.post_bytes(b"!").unwrap();
    assert!(!near.is_closed());
    assert!(readable(&near, PATIENCE));
    assert_eq!(common::now(&near), b"!");
}

#[test]
fn s52_a_loop_of_somebody_else_can_watch_many_ports() {
    let _quiet = common::descriptors();
    let channels: Vec<_> = (0..20).map(|_| channel()).collect();
    let outer = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    for (index, (near, _)) in channels.iter().enumerate() {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        outer.add(near.as_fd().unwrap(), event).unwrap();
    }
    for round in 0..500u64 {
        let (near, far) = &channels[(round * 7 % 20) as usize];
        assert_eq!(arm(near, Interest::Message), Armed::Wait);
        far.post_bytes(&common::sample(round)).unwrap();
        let mut events = [EpollEvent::empty(); 4];
        let timeout = EpollTimeout::try_from(PATIENCE).unwrap();
        assert_eq!(outer.wait(&mut events, timeout).unwrap(), 1);
        assert_eq!(events[0].data(), round * 7 % 20);
        assert_eq!(common::now(near), common::sample(round));
        // Level-triggered: it stays readable until it is armed again.
        assert_eq!(arm(near, Interest::Message), Armed::Wait);
        assert_eq!(outer.wait(&mut events, EpollTimeout::ZERO).unwrap(), 0);
    }
}

#[test]
fn s53_bytes_that_are_no_ring_end_the_channel() {
    use std::os::fd::AsRawFd;
    let _quiet = common::descriptors();
    for bytes in [&[0u8][..], &[1, 1, 2], &[0x80], &[1; 65]] {
        let (near, far) = channel();
        let handle = far.into_handle();
        nix::sys::socket::send(
            handle.doorbell.as_raw_fd(),
            bytes,
            nix::sys::socket::MsgFlags::empty(),
        )
        .unwrap();
        assert_eq!(near.close_reason(), Some(CloseReason::Corrupt), "{bytes:?}");
        assert_eq!(closed(near.recv()), CloseReason::Corrupt);
        // The other end learns that it is over.
        let far = MessagePort::from_handle(handle).unwrap();
        assert_eq!(closed(far.recv()), CloseReason::ClosedByPeer);
    }
    let (near, far) = channel();
    let handle = far.into_handle();
    nix::sys::socket::send(
        handle.doorbell.as_raw_fd(),
        &[1; 64],
        nix::sys::socket::MsgFlags::empty(),
    )
    .unwrap();
    assert_eq!(near.close_reason(), None);
}

#[test]
fn s57_a_peer_that_rings_without_end_ends_its_channel() {
    use nix::sys::socket::{MsgFlags, send};
    use std::os::fd::AsRawFd;
    let _quiet = common::descriptors();
    let (near, far) = channel();
    let handle = far.into_handle();
    let ringer = std::thread::spawn(move || {
        // As fast as it is read, until the other end hangs up.
        let fd = handle.doorbell.as_raw_fd();
        while send(fd, &[1], MsgFlags::MSG_NOSIGNAL).is_ok() {}
    });
    // Every look reads the doorbell, and sees too many rings at once.
    common::until("the channel is ended", || near.is_closed());
    assert_eq!(near.close_reason(), Some(CloseReason::Corrupt));
    ringer.join().unwrap();
}
