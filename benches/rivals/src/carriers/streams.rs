//! What carries bytes: Unix stream sockets and pipes. Where messages end is known by their length, so
//! they need no frame.
//!
//! A message is a `write` of its own, as it must be on its way when `send` returns. The reader takes what is
//! there, many messages at once if there are many.

use std::hint::spin_loop;
use std::os::fd::OwnedFd;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::unistd::{pipe2, read, write};

use crate::harness::work::End;
use crate::harness::{Peer, Waiting, payload, peer_command};

use super::{Carrier, hand_on, inherited, limit, never_sleep_if_spinning};

/// Bytes that a reader asks for at once, unless a message is longer.
const READ: usize = 64 * 1024;

/// One end: where it reads, where it writes.
struct Stream<const LENGTH: usize> {
    from: OwnedFd,
    to: OwnedFd,
    /// The message being sent.
    draft: Box<[u8]>,
    /// What was read; that from `next` to `end` was not taken yet.
    came: Box<[u8]>,
    next: usize,
    end: usize,
}

impl<const LENGTH: usize> Stream<LENGTH> {
    fn new(from: OwnedFd, to: OwnedFd, waiting: Waiting) -> Self {
        for descriptor in [&from, &to] {
            never_sleep_if_spinning(descriptor, waiting);
        }
        Stream {
            from,
            to,
            draft: vec![0; LENGTH].into(),
            came: vec![0; READ.max(LENGTH)].into(),
            next: 0,
            end: 0,
        }
    }

    /// Reads until a whole message is there.
    fn fetch(&mut self) {
        if self.next + LENGTH > self.came.len() {
            // What there is of it moves to the front, to have room for the rest.
            self.came.copy_within(self.next..self.end, 0);
            self.end -= self.next;
            self.next = 0;
        }
        while self.end - self.next < LENGTH {
            match read(&self.from, &mut self.came[self.end..]) {
                Ok(0) => panic!("the other side has hung up"),
                Ok(count) => self.end += count,
                Err(Errno::EAGAIN) => spin_loop(),
                Err(error) => panic!("read: {error}"),
            }
        }
    }
}

impl<const LENGTH: usize> End<LENGTH> for Stream<LENGTH> {
    fn send(&mut self, sequence: u64) {
        payload::fill(&mut self.draft, sequence);
        let mut rest = &self.draft[..];
        while !rest.is_empty() {
            match write(&self.to, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::EAGAIN) => spin_loop(),
                Err(error) => panic!("write: {error}"),
            }
        }
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        if self.end - self.next < LENGTH {
            self.fetch();
        }
        let message = self.next..self.next + LENGTH;
        self.next = message.end;
        let result = look(&self.came[message]);
        if self.next == self.end {
            (self.next, self.end) = (0, 0);
        }
        result
    }
}

/// `socketpair(AF_UNIX, SOCK_STREAM)`
pub struct UnixStream;

impl Carrier for UnixStream {
    const NAME: &'static str = "unix-stream";

    fn longest(_: usize) -> usize {
        usize::MAX
    }

    fn lead<const LENGTH: usize>(
        name: &str,
        capacity: usize,
        waiting: Waiting,
        prepare: impl FnOnce(&mut Command),
    ) -> (impl End<LENGTH>, Peer) {
        let (ours, theirs) = sockets(SockType::Stream, capacity);
        let mut command = peer_command(name);
        hand_on(&mut command, [&theirs]);
        prepare(&mut command);
        let process = command.spawn().expect("a peer can be started");
        (of_socket(ours, waiting), Peer::new(process))
    }

    fn peer<const LENGTH: usize>(_: usize, waiting: Waiting) -> impl End<LENGTH> {
        let [socket] = inherited();
        of_socket(socket, waiting)
    }
}

fn of_socket<const LENGTH: usize>(socket: OwnedFd, waiting: Waiting) -> Stream<LENGTH> {
    let again = socket.try_clone().expect("room for one more descriptor");
    Stream::new(socket, again, waiting)
}

/// Two connected sockets that are to hold so many bytes each way. The system gives less if that is beyond
/// `net.core.wmem_max`, and counts what it needs for each message besides.
pub(super) fn sockets(kind: SockType, capacity: usize) -> (OwnedFd, OwnedFd) {
    let sockets = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = sockets.expect("two connected sockets");
    for socket in [&ours, &theirs] {
        setsockopt(socket, sockopt::SndBuf, &capacity).expect("sockets have a buffer");
        setsockopt(socket, sockopt::RcvBuf, &capacity).expect("sockets have a buffer");
    }
    (ours, theirs)
}

/// Two pipes, one each way.
pub struct Pipe;

impl Carrier for Pipe {
    const NAME: &'static str = "pipe";

    fn longest(_: usize) -> usize {
        usize::MAX
    }

    fn lead<const LENGTH: usize>(
        name: &str,
        capacity: usize,
        waiting: Waiting,
        prepare: impl FnOnce(&mut Command),
    ) -> (impl End<LENGTH>, Peer) {
        let [(questions, to), (from, answers)] = [pipe(capacity), pipe(capacity)];
        let mut command = peer_command(name);
        hand_on(&mut command, [&questions, &answers]);
        prepare(&mut command);
        let process = command.spawn().expect("a peer can be started");
        (Stream::new(from, to, waiting), Peer::new(process))
    }

    fn peer<const LENGTH: usize>(_: usize, waiting: Waiting) -> impl End<LENGTH> {
        let [questions, answers] = inherited();
        Stream::new(questions, answers, waiting)
    }
}

/// A pipe that holds about so many bytes, as far as everybody may ask for them.
fn pipe(capacity: usize) -> (OwnedFd, OwnedFd) {
    let (from, to) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let permitted = capacity.min(limit("fs/pipe-max-size", 1 << 20));
    fcntl(&to, FcntlArg::F_SETPIPE_SZ(permitted as i32))
        .expect("a size that everybody may ask for");
    (from, to)
}
