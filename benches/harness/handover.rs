//! The floor of a transfer: `sendmsg` and `recvmsg` of two descriptors, `mmap` and `munmap`, one after
//! the other, between two processes. The descriptors are what a port's are: a sealed memfd of a default
//! channel's length, and a Unix socket.
//!
//! ```text
//! lead                                      peer
//!   ┌ sendmsg: 1 byte, 2 descriptors
//!   │ announce ──────────────────────────────► recvmsg: 2 new descriptors
//!   │                                          mmap
//!   │                                          munmap
//!   └ timed ◄─────────────────────────────── done
//!                                              close, close
//!     the next ◄──────────────────────────── ready
//! ```
//!
//! Nothing is checked, nothing is made, nothing is closed within the timed part, and the same two are
//! sent each time. What there is beside the four calls is the way there and back between the CPUs.

use std::env;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{MsgFlags, recv, send};

use super::calls::{self, Mapping, SEGMENT};
use super::clock::{self, Clock, Nobody};
use super::line::{Lines, wait_for};
use super::{Peer, Waiting, peer, peer_command};

/// Tells the peer which descriptor its socket is.
const SOCKET: &str = "RINGPORT_BENCH_SOCKET";

/// Where on the lines what is said: each word has one writer.
const PING: usize = 0;
const DONE: usize = 2048;
const READY: usize = 4096;

/// How the two processes tell each other that it is their turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Turns {
    /// By cache lines, on which they spin. A `recvmsg` then never comes too early, and never disturbs
    /// the `sendmsg`: no two spinning processes can do it faster.
    Announced,
    /// The peer spins on a `recvmsg` that does not wait; back it goes by a cache line.
    Polled,
    /// By cache lines as above, but that it is done the peer says in the memory that came over. So
    /// this is a transfer with a first reply, by hand and without any check: the lead unmaps what it
    /// gives away, the peer's first touch is a page fault.
    ByHand,
    /// The peer sleeps in `recvmsg`, the lead in `recv` of the byte that says that it is done.
    Asleep,
}

impl Turns {
    fn waiting(self) -> Waiting {
        match self {
            Turns::Asleep => Waiting::Sleep,
            _ => Waiting::Spin,
        }
    }
}

/// What is sent over and over.
struct Cargo {
    memory: OwnedFd,
    socket: OwnedFd,
    /// Keeps `socket` connected.
    _other: OwnedFd,
}

impl Cargo {
    fn new() -> Self {
        let memory = calls::memory_file();
        calls::set_length(&memory, SEGMENT);
        calls::seal(&memory);
        let (socket, _other) = calls::socket_pair();
        Cargo {
            memory,
            socket,
            _other,
        }
    }

    fn both(&self) -> [BorrowedFd<'_>; 2] {
        [self.memory.as_fd(), self.socket.as_fd()]
    }

    /// Whether these came from here.
    fn check(&self, pair: &[OwnedFd; 2]) {
        assert_eq!(calls::inode(&pair[0]), calls::inode(&self.memory));
        assert_eq!(calls::inode(&pair[1]), calls::inode(&self.socket));
    }
}

/// The lead of contender `name`.
pub fn run_lead(name: &str, turns: Turns) {
    let cargo = Cargo::new();
    let here = Mapping::map(&cargo.memory, SEGMENT);
    let (lines_file, lines) = Lines::make();
    let (socket, theirs) = calls::socket_pair();
    let inherit = FcntlArg::F_SETFD(FdFlag::empty());
    fcntl(&theirs, inherit).expect("an open descriptor");
    let process = Lines::hand_on(&mut peer_command(name), &lines_file)
        .env(SOCKET, theirs.as_raw_fd().to_string())
        .spawn();
    drop(theirs);
    let mut peer = Peer::new(process.expect("a peer can be started"));
    let mut value = 0;
    clock::lead(&mut peer, turns.waiting(), |units, clock: &mut Clock| {
        for _ in 0..units {
            value += 1;
            match turns {
                Turns::Announced | Turns::Polled => clock.time(|| {
                    calls::send_pair(&socket, value as u8, cargo.both());
                    lines.word(PING).store(value, Ordering::Release);
                    wait_for(lines.word(DONE), value);
                }),
                Turns::ByHand => {
                    let given_away = Mapping::map(&cargo.memory, SEGMENT);
                    clock.time(|| {
                        calls::send_pair(&socket, value as u8, cargo.both());
                        lines.word(PING).store(value, Ordering::Release);
                        given_away.unmap();
                        wait_for(here.word(), value);
                    });
                }
                Turns::Asleep => {
                    clock.time(|| {
                        calls::send_pair(&socket, value as u8, cargo.both());
                        take_byte(&socket, value as u8);
                    });
                    take_byte(&socket, !value as u8);
                    continue;
                }
            }
            wait_for(lines.word(READY), value);
        }
    });
    peer.finish();
}

/// The peer of [`run_lead`].
pub fn run_peer(turns: Turns) {
    let lines = Lines::inherited();
    let number = env::var(SOCKET).expect("the lead says which descriptor");
    let number = number.parse().expect("a descriptor is a number");
    // SAFETY: the lead left exactly this descriptor open for this process, which takes it once.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    let mut value = 0;
    let mut known = None;
    peer(|units| {
        for _ in 0..units {
            value += 1;
            let (byte, pair) = match turns {
                Turns::Announced | Turns::ByHand => {
                    wait_for(lines.word(PING), value);
                    calls::receive_pair(&socket, libc::MSG_DONTWAIT)
                }
                Turns::Polled => loop {
                    let received = calls::receive_pair(&socket, libc::MSG_DONTWAIT);
                    if received.is_some() {
                        break received;
                    }
                },
                Turns::Asleep => calls::receive_pair(&socket, 0),
            }
            .expect("it was announced");
            let there = Mapping::map(&pair[0], SEGMENT);
            match turns {
                Turns::Announced | Turns::Polled => {
                    there.unmap();
                    lines.word(DONE).store(value, Ordering::Release);
                }
                Turns::ByHand => {
                    there.word().store(value, Ordering::Release);
                    there.unmap();
                }
                Turns::Asleep => {
                    there.unmap();
                    send_byte(&socket, value as u8);
                }
            }
            assert_eq!(byte, value as u8, "out of order");
            let inodes = pair.each_ref().map(calls::inode);
            assert_eq!(*known.get_or_insert(inodes), inodes, "others than before");
            pair.into_iter().for_each(calls::close);
            match turns {
                Turns::Asleep => send_byte(&socket, !value as u8),
                _ => lines.word(READY).store(value, Ordering::Release),
            }
        }
    });
}

/// The same four calls, all in one process: no way there and back.
pub fn run_alone() {
    let cargo = Cargo::new();
    let (near, far) = calls::socket_pair();
    let mut value = 0;
    clock::lead(&mut Nobody, Waiting::Spin, |units, clock: &mut Clock| {
        for _ in 0..units {
            value += 1;
            let (byte, pair) = clock.time(|| {
                calls::send_pair(&near, value, cargo.both());
                let received = calls::receive_pair(&far, libc::MSG_DONTWAIT);
                let (byte, pair) = received.expect("it was sent");
                Mapping::map(&pair[0], SEGMENT).unmap();
                (byte, pair)
            });
            assert_eq!(byte, value, "out of order");
            cargo.check(&pair);
            pair.into_iter().for_each(calls::close);
        }
    });
}

fn send_byte(socket: &OwnedFd, byte: u8) {
    let sent = send(socket.as_raw_fd(), &[byte], MsgFlags::MSG_NOSIGNAL);
    assert_eq!(sent, Ok(1));
}

/// Sleeps until a byte is there.
fn take_byte(socket: &OwnedFd, expected: u8) {
    let mut byte = [0];
    let got = recv(socket.as_raw_fd(), &mut byte, MsgFlags::empty());
    assert_eq!((got, byte), (Ok(1), [expected]));
}
