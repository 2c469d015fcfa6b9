//! ringport as a contender: a channel between lead and peer, and its ends.

use std::env;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use ringport::{ChannelOptions, MessageChannel, MessagePort, PortHandle, WaitStrategy};

use super::work::End;
use super::{Peer, Waiting, payload, peer_command};

/// Tells a peer which descriptors are its port.
const PORT: &str = "RINGPORT_BENCH_PORT";

/// Bytes of a ring unless somebody asks for others.
pub const CAPACITY: usize = 64 * 1024;

/// Up to this length a message is made on the stack and posted; a longer one is written into the ring at once.
const SHORT: usize = 256;

/// One end, in the default reading mode (copied, untrusted) or in place.
pub struct Port(pub MessagePort);

impl Port {
    /// An end that waits like this.
    pub fn new(port: MessagePort, waiting: Waiting) -> Port {
        port.set_wait_strategy(match waiting {
            Waiting::Spin => WaitStrategy::Spin,
            Waiting::Sleep => WaitStrategy::Block,
        });
        Port(port)
    }

    /// The same end, reading in place.
    pub fn in_place(self) -> Port {
        // SAFETY: both ends belong to this bench, which writes through the library only.
        unsafe { self.0.trust_peer() };
        self
    }
}

/// Posts message `sequence`.
#[inline(always)]
pub fn post<const LENGTH: usize>(port: &MessagePort, sequence: u64) {
    if LENGTH <= SHORT {
        let mut bytes = [0; LENGTH];
        payload::fill(&mut bytes, sequence);
        port.post_bytes(&bytes).expect("the other side is alive");
    } else {
        let mut slot = port.reserve(LENGTH).expect("the other side is alive");
        // SAFETY: a slot's pointer is good for writes of its length, which was asked for.
        unsafe { payload::fill_at(slot.as_mut_ptr(), LENGTH, sequence) };
        slot.commit();
    }
}

impl<const LENGTH: usize> End<LENGTH> for Port {
    #[inline(always)]
    fn send(&mut self, sequence: u64) {
        post::<LENGTH>(&self.0, sequence);
    }

    #[inline(always)]
    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        look(self.0.recv().expect("the other side is alive").bytes())
    }
}

/// A channel whose rings have so many bytes, and the peer of contender `name`, to whom the other port goes.
/// Both ends spin unless told otherwise.
pub fn peer_with_port_of(
    name: &str,
    capacity: usize,
    prepare: impl FnOnce(&mut Command),
) -> (MessagePort, Peer) {
    let options = ChannelOptions::new().capacity(capacity);
    let channel = MessageChannel::with_options(&options).expect("a channel can be made");
    let PortHandle { segment, doorbell } = channel.port2.into_handle();
    for descriptor in [&segment, &doorbell] {
        let inherit = FcntlArg::F_SETFD(FdFlag::empty());
        fcntl(descriptor.as_fd(), inherit).expect("an open descriptor");
    }
    let numbers = format!("{} {}", segment.as_raw_fd(), doorbell.as_raw_fd());
    let mut command = peer_command(name);
    prepare(command.env(PORT, numbers));
    let process = command.spawn().expect("a peer can be started");
    channel.port1.set_wait_strategy(WaitStrategy::Spin);
    (channel.port1, Peer::new(process))
}

/// The same with a default channel.
pub fn peer_with_port(name: &str) -> (MessagePort, Peer) {
    peer_with_port_of(name, CAPACITY, |_| ())
}

/// The peer's end of the channel of [`peer_with_port_of`].
pub fn port_to_lead() -> MessagePort {
    let numbers = env::var(PORT).expect("the lead says which descriptors");
    let mut descriptors = numbers.split(' ').map(|number| {
        let number = number.parse().expect("a descriptor is a number");
        // SAFETY: the lead left exactly these two descriptors open for this process, which opened
        // nothing under their numbers, and each is taken once.
        unsafe { OwnedFd::from_raw_fd(number) }
    });
    let mut next = || descriptors.next().expect("two numbers");
    let handle = PortHandle {
        segment: next(),
        doorbell: next(),
    };
    let port = MessagePort::from_handle(handle).expect("a sound port");
    port.set_wait_strategy(WaitStrategy::Spin);
    port
}
