//! Ports over Unix sockets that are no channel of ours.

mod common;

use ringport::{ImportFault, MessageChannel, MessagePort, PostError, ReceiveOverError};
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{AT_ONCE, PATIENCE};

fn channel() -> (MessagePort, MessagePort) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    (port1, port2)
}

fn sockets() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("a pair of sockets")
}

/// Has looks into the socket begin behind so many bytes (`SO_PEEK_OFF`), or at the front if that is negative.
fn begin_looks_at(socket: &impl AsRawFd, offset: i32) {
    let len = size_of_val(&offset) as libc::socklen_t;
    // SAFETY: the pointer and length are those of a live value.
    let set = unsafe {
        let value = std::ptr::from_ref(&offset).cast();
        libc::setsockopt(raw(socket), libc::SOL_SOCKET, libc::SO_PEEK_OFF, value, len)
    };
    assert_eq!(set, 0);
}

fn raw(socket: &impl AsRawFd) -> i32 {
    socket.as_raw_fd()
}

/// Sends bytes with descriptors, as somebody who does not use this library.
fn send(socket: &impl AsRawFd, bytes: &[u8], descriptors: &[i32]) {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let rights = [ControlMessage::ScmRights(descriptors)];
    let data = [IoSlice::new(bytes)];
    let sent = sendmsg::<()>(raw(socket), &data, &rights, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(bytes.len()));
}

#[test]
fn s33_a_port_goes_over_a_stream_with_what_waits_on_it() {
    let _quiet = common::descriptors();
    let (here, there) = sockets();
    let (ours, theirs) = channel();
    ours.post_bytes(b"before").expect("there is room");
    theirs.send_over(&here).expect("the port is sent");
    ours.post_bytes(b"under way").expect("there is room");
    let port = MessagePort::receive_over(&there).expect("the port arrives");
    assert_eq!(port.recv().expect("a message").bytes(), b"before");
    assert_eq!(port.recv().expect("a message").bytes(), b"under way");
    port.post_bytes(b"back").expect("there is room");
    assert_eq!(ours.recv().expect("a message").bytes(), b"back");
}

#[test]
fn it_takes_one_byte_of_the_traffic_and_leaves_the_rest() {
    let _quiet = common::descriptors();
    let (mut here, mut there) = sockets();
    let (_ours, theirs) = channel();
    here.write_all(b"left").expect("it is written");
    theirs.send_over(&here).expect("the port is sent");
    here.write_all(b"right").expect("it is written");
    let mut word = [0; 4];
    there.read_exact(&mut word).expect("it is read");
    assert_eq!(&word, b"left");
    MessagePort::receive_over(&there).expect("the port arrives");
    let mut word = [0; 5];
    there.read_exact(&mut word).expect("it is read");
    assert_eq!(&word, b"right");
}

#[test]
fn it_goes_over_datagrams_and_packets_too() {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let _quiet = common::descriptors();
    let (here, there) = UnixDatagram::pair().expect("a pair of sockets");
    let packets = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    );
    let packets = packets.expect("a pair of sockets");
    for (here, there) in [(OwnedFd::from(here), OwnedFd::from(there)), packets] {
        let (ours, theirs) = channel();
        theirs.send_over(&here).expect("the port is sent");
        let port = MessagePort::receive_over(&there).expect("the port arrives");
        ours.post_bytes(b"hello").expect("there is room");
        assert_eq!(port.recv().expect("a message").bytes(), b"hello");
    }
}

#[test]
fn receiving_waits_until_a_port_comes() {
    let _quiet = common::descriptors();
    let (here, there) = sockets();
    let (_ours, theirs) = channel();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| MessagePort::receive_over(&there).map(drop));
        // It may come before the other waits, which is as good.
        theirs.send_over(&here).expect("the port is sent");
        waiting.join().expect("no panic").expect("the port arrives");
    });
}

#[test]
fn a_socket_that_does_not_block_says_so_and_nothing_is_lost() {
    let _quiet = common::descriptors();
    let (mut here, there) = sockets();
    here.set_nonblocking(true).expect("it is set");
    there.set_nonblocking(true).expect("it is set");
    match MessagePort::receive_over(&there) {
        Err(ReceiveOverError::System { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(libc::EAGAIN));
        }
        other => panic!("{other:?}"),
    }
    while here.write(&[0; 4096]).is_ok() {}
    let (ours, theirs) = channel();
    let refused = theirs.send_over(&here).expect_err("the socket is full");
    match refused.error() {
        PostError::System { source, .. } => assert_eq!(source.raw_os_error(), Some(libc::EAGAIN)),
        other => panic!("{other:?}"),
    }
    let theirs = refused.into_ports().pop().expect("the port");
    ours.post_bytes(b"still here").expect("there is room");
    assert_eq!(theirs.recv().expect("a message").bytes(), b"still here");
}

#[test]
fn bytes_that_are_no_port_stay_to_be_read() {
    let _quiet = common::descriptors();
    let (mut here, mut there) = sockets();
    here.write_all(b"Port?").expect("it is written");
    match MessagePort::receive_over(&there) {
        Err(ReceiveOverError::Unexpected {
            byte: Some(b'P'),
            descriptors: 0,
            goes_on: true,
        }) => {}
        other => panic!("{other:?}"),
    }
    let mut word = [0; 5];
    there.read_exact(&mut word).expect("it is read");
    assert_eq!(&word, b"Port?");
    drop(here);
    match MessagePort::receive_over(&there) {
        Err(ReceiveOverError::HungUp) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_port_is_not_seen_through_the_bytes_before_it() {
    let _quiet = common::descriptors();
    for text in [&b"P"[..], b"PP", b"PORT", b"x", b"text"] {
        for begins in [-1, 0, 1] {
            let (mut here, mut there) = sockets();
            begin_looks_at(&there, begins);
            let (ours, theirs) = channel();
            here.write_all(text).expect("it is written");
            theirs.send_over(&here).expect("the port is sent");
            match MessagePort::receive_over(&there) {
                Err(ReceiveOverError::Unexpected { byte, .. }) => assert_eq!(byte, Some(text[0])),
                other => panic!("{text:?}, {begins}: {other:?}"),
            }
            there.set_read_timeout(Some(PATIENCE)).expect("it is set");
            let mut word = vec![0; text.len()];
            there.read_exact(&mut word).expect("it is read");
            assert_eq!(word, text);
            let port = MessagePort::receive_over_timeout(&there, PATIENCE);
            let port = port.expect("no error").expect("the port arrives");
            let again = MessagePort::receive_over_timeout(&there, Duration::ZERO);
            assert!(again.expect("nothing else is there").is_none());
            drop(port);
            ours.recv().expect_err("it was the only one");
        }
    }
}

#[test]
fn what_was_sent_out_of_band_is_no_port_and_not_waited_for() {
    let _quiet = common::descriptors();
    let (here, mut there) = sockets();
    // SAFETY: one byte of a live array.
    let sent = unsafe { libc::send(raw(&here), [7_u8].as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1);
    for _ in 0..2 {
        match MessagePort::receive_over(&there) {
            Err(ReceiveOverError::Unexpected { byte: Some(7), .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    // A read passes it by.
    there.set_nonblocking(true).expect("it is set");
    there.read_exact(&mut [0]).expect_err("nothing in line");
    let (_ours, theirs) = channel();
    theirs.send_over(&here).expect("the port is sent");
    MessagePort::receive_over(&there).expect("the port arrives");
}

#[test]
fn an_end_closed_with_something_unread_has_hung_up() {
    let _quiet = common::descriptors();
    let (here, mut there) = sockets();
    there.write_all(b"unread").expect("it is written");
    drop(here);
    match MessagePort::receive_over(&there) {
        Err(ReceiveOverError::HungUp) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_receives_with_a_timeout_waits_so_long_and_no_longer() {
    let _quiet = common::descriptors();
    let (here, there) = sockets();
    for blocks in [true, false] {
        there.set_nonblocking(!blocks).expect("it is set");
        let start = Instant::now();
        let wait = Duration::from_millis(5);
        let received = MessagePort::receive_over_timeout(&there, wait).expect("no error");
        assert!(received.is_none() && start.elapsed() >= wait);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| MessagePort::receive_over_timeout(&there, Duration::MAX));
            channel().1.send_over(&here).expect("the port is sent");
            let received = waiting.join().expect("no panic");
            received.expect("no error").expect("the port arrives");
        });
    }
    drop(here);
    match MessagePort::receive_over_timeout(&there, PATIENCE) {
        Err(ReceiveOverError::HungUp) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_two_who_receive_each_port_is_for_one() {
    let _quiet = common::descriptors();
    const PORTS: usize = 100;
    let (here, there) = sockets();
    let (received, start) = (AtomicUsize::new(0), Instant::now());
    let mut ours = Vec::new();
    let held = std::thread::scope(|scope| {
        let receivers = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut held = Vec::new();
                while received.load(Ordering::SeqCst) < PORTS && start.elapsed() < PATIENCE {
                    let wait = Duration::from_millis(1);
                    let port = MessagePort::receive_over_timeout(&there, wait).expect("no error");
                    received.fetch_add(usize::from(port.is_some()), Ordering::SeqCst);
                    held.extend(port);
                }
                held
            })
        });
        for _ in 0..PORTS {
            let (port1, port2) = channel();
            ours.push(port1);
            let mut sent = port2.send_over(&here);
            // So many descriptors under way are too many for others than root.
            while let Err(refused) = sent {
                assert!(start.elapsed() < PATIENCE, "{:?}", refused.error());
                let port = refused.into_ports().pop().expect("the port");
                sent = port.send_over(&here);
            }
        }
        receivers.map(|receiver| receiver.join().expect("no panic"))
    });
    let mut count = 0;
    for port in held.iter().flatten() {
        port.post_bytes(b"here").expect("there is room");
        count += 1;
    }
    assert_eq!(count, PORTS);
    for port in ours {
        assert_eq!(port.recv().expect("a message").bytes(), b"here");
        assert_eq!(port.pending(), 0, "and there is one");
    }
}

#[test]
fn s57_descriptors_that_are_no_port_are_refused_and_closed() {
    let _quiet = common::descriptors();
    let file = std::fs::File::open("/dev/null").expect("it can be opened");
    let file = raw(&file.as_fd());
    for (byte, descriptors) in [
        (b'P', vec![file]),
        (b'P', vec![file; 3]),
        (b'X', vec![file; 2]),
        (b'P', vec![file; 253]),
    ] {
        let (here, there) = sockets();
        send(&here, &[byte], &descriptors);
        for _ in 0..2 {
            match MessagePort::receive_over(&there) {
                Err(ReceiveOverError::Unexpected {
                    byte: found,
                    descriptors: count,
                    goes_on: false,
                }) => {
                    assert_eq!((found, count), (Some(byte), descriptors.len()));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let (here, there) = sockets();
    send(&here, b"P", &[file; 2]);
    match MessagePort::receive_over(&there) {
        Err(ReceiveOverError::NotAPort(ImportFault::NotADoorbell { .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn s44_a_port_that_nobody_receives_is_closed() {
    let _quiet = common::descriptors();
    let (here, there) = sockets();
    let (ours, theirs) = channel();
    theirs.send_over(&here).expect("the port is sent");
    assert!(!ours.is_closed());
    drop(there);
    let gone = ours
        .recv_timeout(PATIENCE)
        .expect_err("the channel has ended");
    assert!(
        matches!(
            gone,
            ringport::RecvError::Closed(ringport::CloseReason::PeerGone)
        ),
        "{gone:?}"
    );
}

#[test]
fn s43_a_closed_port_is_not_sent() {
    let _quiet = common::descriptors();
    let (here, there) = sockets();
    let (_ours, theirs) = channel();
    theirs.close();
    let refused = theirs.send_over(&here).expect_err("it is closed");
    assert!(matches!(
        refused.error(),
        PostError::ClosedPort { index: 0 }
    ));
    there.set_nonblocking(true).expect("it is set");
    assert!(matches!(
        MessagePort::receive_over(&there),
        Err(ReceiveOverError::System { .. })
    ));
}

#[test]
fn nothing_is_sent_over_what_is_no_socket() {
    let _quiet = common::descriptors();
    let file = std::fs::File::open("/dev/null").expect("it can be opened");
    let (ours, theirs) = channel();
    let refused = theirs.send_over(&file).expect_err("it is no socket");
    match refused.error() {
        PostError::System { source, .. } => assert_eq!(source.raw_os_error(), Some(libc::ENOTSOCK)),
        other => panic!("{other:?}"),
    }
    assert!(MessagePort::receive_over(&file).is_err());
    drop(refused);
    assert!(
        ours.recv_timeout(AT_ONCE.max(Duration::from_secs(1)))
            .is_err(),
        "its port was dropped"
    );
}

#[test]
fn memory_of_owned_messages_is_used_again() {
    let _quiet = common::descriptors();
    let (ours, theirs) = channel();
    let gift = channel();
    ours.post_bytes(b"one").expect("there is room");
    ours.post_bytes_with(b"two", [gift.0])
        .expect("there is room");
    let first = theirs.recv().expect("a message").into_owned();
    let place = first.bytes().as_ptr();
    theirs.reuse(first);
    let second = theirs.recv().expect("a message").into_owned();
    assert_eq!(second.bytes().as_ptr(), place);
    assert_eq!(second.bytes(), b"two");
    theirs.reuse(second);
    let closed = gift.1.recv_timeout(PATIENCE);
    assert!(
        closed.is_err(),
        "a port that nobody took is closed: {closed:?}"
    );
}
