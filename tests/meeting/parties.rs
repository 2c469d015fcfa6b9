//! Who meets: threads and processes that connect, the listener that accepts them, and the proof that both
//! hold the two ends of one channel.

#![allow(dead_code)] // each test binary uses a part of it

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringport::{
    CloseReason, ConnectError, ConnectOptions, Credentials, Listener, MessagePort, Worker,
    connect_with,
};

use crate::common::{self, PATIENCE, channel, closed, next, nothing, sample};

/// The variable that tells a process where to meet.
pub const ADDRESS: &str = "RINGPORT_TEST_ADDRESS";

/// A process that plays `role` at `address`.
pub fn at(address: &Path, role: &str) -> (MessagePort, Child) {
    let mut command = common::command(role);
    command.env(ADDRESS, address);
    Worker::spawn(command).unwrap().into_parts()
}

/// In a role: the address it was told.
pub fn address() -> PathBuf {
    PathBuf::from(std::env::var_os(ADDRESS).unwrap())
}

/// A thread that connects, and the kernel's number of it.
pub fn connecting(path: &Path) -> (JoinHandle<Result<MessagePort, ConnectError>>, u32) {
    connecting_with(path, ConnectOptions::new())
}

/// The same, in a certain way.
pub fn connecting_with(
    path: &Path,
    options: ConnectOptions,
) -> (JoinHandle<Result<MessagePort, ConnectError>>, u32) {
    let (tell, told) = mpsc::channel();
    let path = path.to_owned();
    let thread = thread::spawn(move || {
        tell.send(common::thread_id()).unwrap();
        connect_with(path, &options)
    });
    (thread, told.recv().unwrap())
}

/// The next client, which must come before long.
#[track_caller]
pub fn accept(listener: &Listener) -> (MessagePort, Credentials) {
    let client = listener.accept_timeout(PATIENCE).unwrap();
    client.expect("a client comes")
}

/// Both ends of one connection.
#[track_caller]
pub fn meet(listener: &Listener) -> (MessagePort, MessagePort) {
    let (client, _) = connecting(listener.path());
    let (accepted, _) = accept(listener);
    (accepted, client.join().unwrap().unwrap())
}

/// The two are the ends of one channel: messages go both ways, and ports with them.
#[track_caller]
pub fn assert_entangled(one: &MessagePort, two: &MessagePort) {
    for (from, to, index) in [(one, two, 1), (two, one, 2)] {
        from.post_bytes(&sample(index)).unwrap();
        assert_eq!(next(to), sample(index));
        let (kept, sent) = channel();
        from.post_bytes_with(&sample(index + 2), [sent]).unwrap();
        let event = to.recv_timeout(PATIENCE).unwrap().expect("a message");
        assert_eq!(event.bytes(), sample(index + 2));
        let [sent] = <[MessagePort; 1]>::try_from(event.take_ports()).unwrap();
        kept.post_bytes(&sample(index + 4)).unwrap();
        assert_eq!(next(&sent), sample(index + 4));
        drop(sent);
        assert_eq!(closed(kept.recv()), CloseReason::ClosedByPeer);
    }
    assert!(nothing(one) && nothing(two));
}

/// Whether a descriptor is readable, or becomes so within `timeout`.
pub fn readable(fd: &impl AsFd, timeout: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd, which lives through the call.
    let ready = unsafe { libc::poll(&mut poll, 1, timeout.as_millis() as libc::c_int) };
    assert!(ready >= 0);
    ready == 1
}
