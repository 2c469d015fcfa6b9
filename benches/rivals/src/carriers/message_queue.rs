//! POSIX message queues, one each way, as long as an ordinary user may make them.

use std::hint::spin_loop;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::process::{self, Command};

use nix::errno::Errno;
use nix::mqueue::{MQ_OFlag, MqAttr, MqdT, mq_open, mq_receive, mq_send, mq_unlink};
use nix::sys::stat::Mode;

use crate::harness::work::End;
use crate::harness::{Peer, Waiting, payload, peer_command};

use super::{Carrier, depth, hand_on, inherited, limit, never_sleep_if_spinning};

/// A message is a message, all of the same priority.
pub struct MessageQueue;

/// One end: the queue it receives from, the queue it sends to.
struct Queues {
    from: MqdT,
    to: MqdT,
    draft: Box<[u8]>,
    came: Box<[u8]>,
}

impl Queues {
    fn new([from, to]: [OwnedFd; 2], length: usize, waiting: Waiting) -> Self {
        let queue = |descriptor: OwnedFd| {
            never_sleep_if_spinning(&descriptor, waiting);
            // SAFETY: on Linux a queue's descriptor is a file's; nobody else has this one.
            unsafe { MqdT::from_raw_fd(descriptor.into_raw_fd()) }
        };
        Queues {
            from: queue(from),
            to: queue(to),
            draft: vec![0; length].into(),
            came: vec![0; length].into(),
        }
    }
}

impl<const LENGTH: usize> End<LENGTH> for Queues {
    fn send(&mut self, sequence: u64) {
        payload::fill(&mut self.draft, sequence);
        loop {
            match mq_send(&self.to, &self.draft, 0) {
                Ok(()) => return,
                Err(Errno::EAGAIN) => spin_loop(),
                Err(error) => panic!("mq_send: {error}"),
            }
        }
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        let mut priority = 0;
        loop {
            match mq_receive(&self.from, &mut self.came, &mut priority) {
                Ok(count) => return look(&self.came[..count]),
                Err(Errno::EAGAIN) => spin_loop(),
                Err(error) => panic!("mq_receive: {error}"),
            }
        }
    }
}

impl Carrier for MessageQueue {
    const NAME: &'static str = "mqueue";

    fn longest(_: usize) -> usize {
        limit("fs/mqueue/msgsize_max", 8192)
    }

    fn lead<const LENGTH: usize>(
        name: &str,
        capacity: usize,
        waiting: Waiting,
        prepare: impl FnOnce(&mut Command),
    ) -> (impl End<LENGTH>, Peer) {
        let [there, back] = ["there", "back"].map(|way| queue(way, LENGTH, capacity));
        let mut command = peer_command(name);
        hand_on(&mut command, [&there, &back]);
        prepare(&mut command);
        let process = command.spawn().expect("a peer can be started");
        (
            Queues::new([back, there], LENGTH, waiting),
            Peer::new(process),
        )
    }

    fn peer<const LENGTH: usize>(_: usize, waiting: Waiting) -> impl End<LENGTH> {
        Queues::new(inherited(), LENGTH, waiting)
    }
}

/// A queue without a name any more.
fn queue(way: &str, length: usize, capacity: usize) -> OwnedFd {
    let name = format!("/ringport-bench-{}-{way}", process::id());
    let count = depth(length, capacity).min(limit("fs/mqueue/msg_max", 10));
    let attributes = MqAttr::new(0, count as i64, length as i64, 0);
    let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL | MQ_OFlag::O_RDWR | MQ_OFlag::O_CLOEXEC;
    let queue = mq_open(
        &*name,
        flags,
        Mode::S_IRUSR | Mode::S_IWUSR,
        Some(&attributes),
    )
    .expect("a message queue");
    mq_unlink(&*name).expect("the name was just given");
    // SAFETY: on Linux a queue's descriptor is a file's; nobody else has this one.
    unsafe { OwnedFd::from_raw_fd(queue.into_raw_fd()) }
}
