//! Ports over Unix sockets that are no channel of ours.

mod common;

use ringport::{ImportFault, MessageChannel, MessagePort, PostError, ReceiveOverError};
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use common::{AT_ONCE, PATIENCE};

fn channel() -> (MessagePort, MessagePort) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    (port1, port2)
}

fn sockets() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("a pair of sockets")
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
            goes_on: false,
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
