//! Several who receive ports from one socket: what somebody else does between a look into it and what is taken then.

mod common;

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::{channel, channel_of, now};
use ringport::MessagePort;

type Deed = Box<dyn FnOnce()>;

thread_local! {
    /// What is done before this thread takes a message from a socket the next time.
    static MEANWHILE: RefCell<Option<Deed>> = const { RefCell::new(None) };
}

fn meanwhile(deed: impl FnOnce() + 'static) {
    MEANWHILE.set(Some(Box::new(deed)));
}

/// Stands before the C library's.
///
/// # Safety
///
/// As for that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmsg(
    socket: libc::c_int,
    message: *mut libc::msghdr,
    flags: libc::c_int,
) -> libc::ssize_t {
    if flags & libc::MSG_PEEK == 0 {
        if let Some(deed) = MEANWHILE.take() {
            deed();
        }
    }
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_recvmsg, socket, message, flags) as libc::ssize_t }
}

fn sockets() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("a pair of sockets")
}

fn receive(socket: &UnixStream) -> Option<MessagePort> {
    let received = MessagePort::receive_over_timeout(socket, Duration::ZERO);
    assert!(MEANWHILE.take().is_none(), "nothing came between");
    received.expect("no error")
}

#[test]
fn each_port_is_received_by_one() {
    let _quiet = common::descriptors();
    let (here, there) = sockets();
    let (first, port) = channel_of(4096);
    port.send_over(&here).expect("the port is sent");
    let (second, port) = channel_of(8192);
    port.send_over(&here).expect("the port is sent");
    let other = there.try_clone().expect("a copy");
    meanwhile(move || {
        let port = MessagePort::receive_over(&other).expect("the first arrives");
        assert_eq!(port.capacity(), 4096);
    });
    let port = receive(&there).expect("the second arrives");
    first.recv().expect_err("its peer was dropped");
    port.post_bytes(b"second").expect("there is room");
    assert_eq!(now(&second), b"second");
    assert!(receive(&there).is_none());
}

#[test]
fn who_comes_too_late_gets_nothing() {
    let _quiet = common::descriptors();
    let (here, there) = sockets();
    let (ours, theirs) = channel();
    theirs.send_over(&here).expect("the port is sent");
    let other = there.try_clone().expect("a copy");
    meanwhile(move || {
        let port = MessagePort::receive_over(&other).expect("the port arrives");
        port.post_bytes(b"mine").expect("there is room");
    });
    assert!(receive(&there).is_none());
    assert_eq!(now(&ours), b"mine");
    ours.recv().expect_err("it has no other holder");
}

#[test]
fn a_port_that_comes_by_again_is_received_as_it_is_by_then() {
    let _quiet = common::descriptors();
    let (here, there) = sockets();
    let (ours, theirs) = channel();
    for number in 0..3_u8 {
        ours.post_bytes(&[number]).expect("there is room");
    }
    theirs.send_over(&here).expect("the port is sent");
    let other = there.try_clone().expect("a copy");
    meanwhile(move || {
        let port = MessagePort::receive_over(&other).expect("the port arrives");
        assert_eq!(now(&port), [0]);
        port.post_bytes(b"first answer").expect("there is room");
        port.send_over(&here).expect("the port is sent");
    });
    let port = receive(&there).expect("the port arrives");
    assert_eq!(now(&port), [1]);
    port.post_bytes(b"second answer").expect("there is room");
    assert_eq!(now(&port), [2]);
    assert_eq!(now(&ours), b"first answer");
    assert_eq!(now(&ours), b"second answer");
    assert_eq!(ours.pending(), 0);
}
