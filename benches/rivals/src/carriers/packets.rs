//! What carries packets over a socket: `socketpair(AF_UNIX, SOCK_SEQPACKET)`.

use std::hint::spin_loop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockType, recv, send};

use crate::harness::work::End;
use crate::harness::{Peer, Waiting, payload, peer_command};

use super::streams::sockets;
use super::{Carrier, hand_on, inherited, limit, never_sleep_if_spinning};

/// A message is a packet.
pub struct UnixSeqpacket;

/// One end.
struct Packets {
    socket: OwnedFd,
    draft: Box<[u8]>,
    came: Box<[u8]>,
}

impl Packets {
    fn new(socket: OwnedFd, length: usize, waiting: Waiting) -> Self {
        never_sleep_if_spinning(&socket, waiting);
        Packets {
            socket,
            draft: vec![0; length].into(),
            came: vec![0; length].into(),
        }
    }
}

impl<const LENGTH: usize> End<LENGTH> for Packets {
    fn send(&mut self, sequence: u64) {
        payload::fill(&mut self.draft, sequence);
        loop {
            match send(self.socket.as_raw_fd(), &self.draft, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => return assert_eq!(count, LENGTH),
                Err(Errno::EAGAIN) => spin_loop(),
                Err(error) => panic!("send: {error}"),
            }
        }
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.came, MsgFlags::empty()) {
                Ok(0) => panic!("the other side has hung up"),
                Ok(count) => return look(&self.came[..count]),
                Err(Errno::EAGAIN) => spin_loop(),
                Err(error) => panic!("recv: {error}"),
            }
        }
    }
}

impl Carrier for UnixSeqpacket {
    const NAME: &'static str = "unix-seqpacket";

    /// A packet must fit the send buffer as a whole. The system doubles what is asked for, for its own
    /// needs, so there is room for what was asked for.
    fn longest(_: usize) -> usize {
        limit("net/core/wmem_max", 212_992)
    }

    fn lead<const LENGTH: usize>(
        name: &str,
        capacity: usize,
        waiting: Waiting,
        prepare: impl FnOnce(&mut Command),
    ) -> (impl End<LENGTH>, Peer) {
        let (ours, theirs) = sockets(SockType::SeqPacket, capacity.max(LENGTH));
        let mut command = peer_command(name);
        hand_on(&mut command, [&theirs]);
        prepare(&mut command);
        let process = command.spawn().expect("a peer can be started");
        (Packets::new(ours, LENGTH, waiting), Peer::new(process))
    }

    fn peer<const LENGTH: usize>(_: usize, waiting: Waiting) -> impl End<LENGTH> {
        let [socket] = inherited();
        Packets::new(socket, LENGTH, waiting)
    }
}
