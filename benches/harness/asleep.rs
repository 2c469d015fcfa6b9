//! The floor of a round trip between sleepers: what the kernel takes to wake one process by another.

use std::env;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{read, write};

use super::calls::socket_pair;
use super::work::{End, lead_rounds, peer_rounds};
use super::{Peer, Stopwatch, Waiting, peer_command};

/// Tells the peer which descriptors are its ends.
const BELLS: &str = "RINGPORT_BENCH_BELLS";

/// Two descriptors: what is written to one wakes the other side, what is read from the other woke this one.
struct Bells {
    theirs: OwnedFd,
    ours: OwnedFd,
    /// What is written: an eventfd takes a `u64`, a socket a byte.
    ring: &'static [u8],
}

const COUNT: &[u8] = &1u64.to_le_bytes();
const BYTE: &[u8] = &[1];

/// It carries nothing but the wake-up.
impl End<0> for Bells {
    fn send(&mut self, _: u64) {
        assert_eq!(write(&self.theirs, self.ring), Ok(self.ring.len()));
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        let mut wanted = [PollFd::new(self.ours.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut wanted, PollTimeout::NONE), Ok(1));
        let mut bytes = [0; 8];
        let length = read(&self.ours, &mut bytes).expect("there is something");
        assert_eq!(&bytes[..length], self.ring, "each ring wakes once");
        look(&[])
    }
}

/// The lead of two eventfds.
pub fn run_lead_eventfds(name: &str, watch: Option<Stopwatch>) {
    let bell = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("an eventfd");
    let (ours, theirs): (OwnedFd, OwnedFd) = (bell().into(), bell().into());
    let numbers = [theirs.as_raw_fd(), ours.as_raw_fd()];
    let handed = [&ours, &theirs];
    let peer = start_peer(name, handed, numbers);
    run_lead(
        Bells {
            theirs,
            ours,
            ring: COUNT,
        },
        peer,
        watch,
    );
}

/// The lead of a byte over a Unix socket.
pub fn run_lead_socket(name: &str) {
    let (here, there) = socket_pair();
    let again = there.try_clone().expect("room for one more descriptor");
    let numbers = [there.as_raw_fd(), again.as_raw_fd()];
    let peer = start_peer(name, [&there, &again], numbers);
    let ours = here.try_clone().expect("room for one more descriptor");
    run_lead(
        Bells {
            theirs: here,
            ours,
            ring: BYTE,
        },
        peer,
        None,
    );
}

fn start_peer(name: &str, handed: [&OwnedFd; 2], [ours, theirs]: [i32; 2]) -> Peer {
    for descriptor in handed {
        let inherit = FcntlArg::F_SETFD(FdFlag::empty());
        fcntl(descriptor, inherit).expect("an open descriptor");
    }
    let process = peer_command(name)
        .env(BELLS, format!("{ours} {theirs}"))
        .spawn();
    Peer::new(process.expect("a peer can be started"))
}

fn run_lead(mut bells: Bells, mut peer: Peer, watch: Option<Stopwatch>) {
    lead_rounds(&mut bells, &mut peer, Waiting::Sleep, watch);
    peer.finish();
}

/// The peer of two eventfds.
pub fn run_peer_eventfds() {
    run_peer(COUNT);
}

/// The peer of a byte over a Unix socket.
pub fn run_peer_socket() {
    run_peer(BYTE);
}

fn run_peer(ring: &'static [u8]) {
    let numbers = env::var(BELLS).expect("the lead says which descriptors");
    let (ours, theirs) = numbers.split_once(' ').expect("two numbers");
    let take = |number: &str| {
        let number = number.parse().expect("a descriptor is a number");
        // SAFETY: the lead left exactly these two descriptors open for this process, which opened
        // nothing under their numbers, and each is taken once.
        unsafe { OwnedFd::from_raw_fd(number) }
    };
    let (ours, theirs) = (take(ours), take(theirs));
    peer_rounds(&mut Bells { theirs, ours, ring });
}
