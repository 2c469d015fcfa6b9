//! Peers in processes of their own: a test binary starts itself once more, with a role to play.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use ringport::{MessagePort, WaitStrategy, Worker};

/// The variable that tells a process its role.
pub const ROLE: &str = "RINGPORT_TEST_ROLE";
const STRATEGY: &str = "RINGPORT_TEST_STRATEGY";
const HOW: &str = "RINGPORT_TEST_HOW";

/// Declares the one test that is no test but the entry of every role.
#[macro_export]
macro_rules! roles {
    ($($role:ident),+ $(,)?) => {
        #[test]
        fn peer_process() {
            let Ok(role) = std::env::var(common::ROLE) else {
                return;
            };
            common::begin_role();
            match role.as_str() {
                $(stringify!($role) => $role(),)+
                other => panic!("no such role: {other}"),
            }
            std::process::exit(0);
        }
    };
}

/// The command that runs `role` of this test binary.
pub fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "peer_process", "--nocapture"])
        .env(ROLE, role)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// A worker that plays `role`.
#[track_caller]
pub fn worker(role: &str) -> Worker {
    Worker::spawn(command(role)).unwrap()
}

/// What every role begins with: it must not outlive a test that was given up, nor write core files.
pub fn begin_role() {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `alarm` takes a number and has no precondition.
    unsafe { libc::alarm(60) };
    // SAFETY: `none` is a valid rlimit for the length of the call.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
}

/// In a role: the port to the process that started it.
#[track_caller]
pub fn parent() -> MessagePort {
    ringport::parent_port()
        .unwrap()
        .expect("a role is started by Worker::spawn")
}

/// Tells the role how to wait and how to end.
pub fn tell(command: &mut Command, strategy: WaitStrategy, how: &str) {
    command.env(STRATEGY, format!("{strategy:?}")).env(HOW, how);
}

/// In a role: the strategy it was told.
pub fn strategy() -> WaitStrategy {
    let told = std::env::var(STRATEGY).unwrap();
    let known = super::STRATEGIES.into_iter();
    known
        .into_iter()
        .find(|strategy| format!("{strategy:?}") == told)
        .unwrap()
}

/// In a role: how it was told to end.
pub fn how() -> String {
    std::env::var(HOW).unwrap()
}

/// Waits for a child that must end by itself, content with what it saw.
#[track_caller]
pub fn end_well(mut child: Child) {
    let status = child.wait().unwrap();
    assert!(status.success(), "the peer process failed: {status}");
}

/// Sends descriptors over a socket, the way any program would.
pub fn send_descriptors(socket: &UnixStream, descriptors: &[&OwnedFd]) {
    let numbers: Vec<_> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&numbers)];
    let data = [IoSlice::new(b"!")];
    let fd = socket.as_raw_fd();
    sendmsg::<()>(fd, &data, &control, MsgFlags::empty(), None).unwrap();
}

/// Takes what [`send_descriptors`] sent.
pub fn receive_descriptors(socket: &UnixStream) -> Vec<OwnedFd> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 4]);
    let fd = socket.as_raw_fd();
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(fd, &mut data, Some(&mut space), flags).unwrap();
    let mut received = Vec::new();
    for control in message.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
            received.extend(
                numbers
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    received
}
