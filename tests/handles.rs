//! A port as two descriptors: taken apart, passed on, put together. What is no port is in `refusal.rs`.

mod common;

use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::{channel, channel_of, closed, next, nothing, now, sample};
use nix::fcntl::{FcntlArg, fcntl};
use ringport::{ChannelOptions, CloseReason, MessageChannel, MessagePort, PortHandle};

roles! { adopts_what_is_sent }

/// A port's handle, and the peer.
fn handle() -> (PortHandle, MessagePort) {
    let (port1, port2) = channel_of(4096);
    (port1.into_handle(), port2)
}

#[test]
fn s03_a_handle_becomes_the_port_it_was() {
    let _quiet = common::descriptors();
    let options = ChannelOptions::new()
        .capacity_1_to_2(8192)
        .capacity_2_to_1(4096);
    let MessageChannel { port1, port2 } = MessageChannel::with_options(&options).unwrap();
    let (mut port1, mut port2) = (port1, port2);
    for index in 0..200 {
        // Each end takes its turn, with messages waiting both ways.
        port1.post_bytes(&sample(index)).unwrap();
        port2.post_bytes(&sample(index + 1)).unwrap();
        match index % 3 {
            0 => port1 = MessagePort::from_handle(port1.into_handle()).unwrap(),
            1 => port2 = MessagePort::from_handle(port2.into_handle()).unwrap(),
            _ => {
                let handles = (port1.into_handle(), port2.into_handle());
                port2 = MessagePort::from_handle(handles.1).unwrap();
                port1 = MessagePort::from_handle(handles.0).unwrap();
            }
        }
        assert_eq!((port1.capacity(), port2.capacity()), (8192, 4096));
        assert_eq!(now(&port2), sample(index));
        assert_eq!(now(&port1), sample(index + 1));
    }
    assert!(nothing(&port1) && nothing(&port2));
    drop(port1);
    assert_eq!(closed(port2.recv()), CloseReason::ClosedByPeer);
}

#[test]
fn a_peer_that_waits_does_not_notice_that_the_port_went_through_a_handle() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port1, port2) = channel_of(4096);
        port2.set_wait_strategy(strategy);
        let (started, waits) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            started.send(common::thread_id()).unwrap();
            assert_eq!(next(&port2), b"from the other holder");
            port2.recv().map(drop)
        });
        let thread = waits.recv().unwrap();
        if strategy != ringport::WaitStrategy::Spin {
            common::until_asleep(std::process::id(), thread);
        }
        let port1 = MessagePort::from_handle(port1.into_handle()).unwrap();
        port1.post_bytes(b"from the other holder").unwrap();
        drop(port1);
        assert_eq!(closed(waiter.join().unwrap()), CloseReason::ClosedByPeer);
    }
}

#[test]
fn s03_a_handle_passed_on_to_another_process_is_the_port() {
    let _quiet = common::descriptors();
    let (near, far) = channel();
    near.post_bytes(b"waiting").unwrap();
    let handle = far.into_handle();
    let mut command = common::command("adopts_what_is_sent");
    let (inner, outer) = UnixStream::pair().unwrap();
    command.stdin(OwnedFd::from(inner));
    let mut child = command.spawn().unwrap();
    drop(command);
    common::send_descriptors(&outer, &[&handle.segment, &handle.doorbell]);
    drop(handle);
    assert_eq!(next(&near), b"adopted");
    near.post_bytes(b"enough").unwrap();
    assert_eq!(closed(near.recv()), CloseReason::ClosedByPeer);
    assert!(child.wait().unwrap().success());
}

fn adopts_what_is_sent() {
    // SAFETY: descriptor 0 is the socket that the parent made this process's standard input; nothing
    // else here reads standard input.
    let socket = UnixStream::from(unsafe { OwnedFd::from_raw_fd(0) });
    let mut received = common::receive_descriptors(&socket).into_iter();
    let (segment, doorbell) = (received.next().unwrap(), received.next().unwrap());
    let port = MessagePort::from_handle(PortHandle { segment, doorbell }).unwrap();
    assert_eq!(now(&port), b"waiting");
    port.post_bytes(b"adopted").unwrap();
    assert_eq!(next(&port), b"enough");
    std::mem::forget(socket);
}

#[test]
fn s53_a_handle_lost_on_its_way_is_a_peer_gone() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (near, far) = channel();
        near.set_wait_strategy(strategy);
        far.post_bytes(b"before the move").unwrap();
        let handle = far.into_handle();
        let (sender, receiver) = UnixStream::pair().unwrap();
        common::send_descriptors(&sender, &[&handle.segment, &handle.doorbell]);
        drop((handle, sender));
        assert!(
            near.recv_timeout(Duration::from_millis(1))
                .unwrap()
                .is_some()
        );
        assert!(!near.is_closed(), "under way, it is not gone");
        // Nobody will ever read this socket: the kernel closes what waits in it.
        drop(receiver);
        assert_eq!(closed(near.recv()), CloseReason::PeerGone);
    }
}

#[test]
fn s42_a_handle_keeps_what_waited_when_the_peer_is_gone() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    (0..10).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    drop(port1);
    let port2 = MessagePort::from_handle(port2.into_handle()).unwrap();
    for index in 0..10 {
        assert_eq!(now(&port2), sample(index));
    }
    assert_eq!(closed(port2.recv()), CloseReason::ClosedByPeer);
}

#[test]
fn a_handle_holds_two_descriptors_that_exec_closes() {
    let _quiet = common::descriptors();
    let before = common::count_descriptors();
    let (with, peer) = handle();
    drop(peer);
    assert_eq!(common::count_descriptors(), before + 2);
    for fd in [&with.segment, &with.doorbell] {
        let flags = fcntl(fd, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
    let mut nothing_to_read = [0; 1];
    let mut doorbell = UnixStream::from(with.doorbell);
    assert_eq!(
        doorbell.read(&mut nothing_to_read).unwrap(),
        0,
        "the peer hung up, no more"
    );
}

#[test]
fn options_a_former_owner_left_on_the_doorbell_do_no_harm() {
    let _quiet = common::descriptors();
    for nonblocking in [false, true] {
        let (with, peer) = handle();
        for (option, value) in [
            (libc::SO_PASSCRED, 1),
            (libc::SO_PASSSEC, 1),
            (libc::SO_PEEK_OFF, 1000),
        ] {
            set_option(&with.doorbell, option, value);
        }
        let stream = UnixStream::from(with.doorbell);
        let short = Some(Duration::from_micros(1));
        stream.set_read_timeout(short).unwrap();
        stream.set_write_timeout(short).unwrap();
        stream.set_nonblocking(nonblocking).unwrap();
        let with = PortHandle {
            segment: with.segment,
            doorbell: stream.into(),
        };
        let port = MessagePort::from_handle(with).unwrap();
        port.set_wait_strategy(ringport::WaitStrategy::Block);
        peer.set_wait_strategy(ringport::WaitStrategy::Block);
        let echo = std::thread::spawn(move || {
            port.iter()
                .for_each(|event| port.post_bytes(event.bytes()).unwrap());
            port.close_reason()
        });
        for index in 0..50 {
            peer.post_bytes(&sample(index)).unwrap();
            assert_eq!(next(&peer), sample(index));
        }
        drop(peer);
        assert_eq!(echo.join().unwrap(), Some(CloseReason::ClosedByPeer));
    }
}

/// Sets a number option; some need a newer kernel or a security module, and then cannot do harm.
fn set_option(fd: &OwnedFd, option: i32, value: i32) {
    // SAFETY: the pointer and length describe `value`, which lives through the call.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
}
