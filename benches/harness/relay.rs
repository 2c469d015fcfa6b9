//! A port that has moved through five processes.
//!
//! ```text
//! lead ── the port, and ports to 2, 3, 4, 5 ──► 1 ── the port, and ports to 3, 4, 5 ──► 2 ── … ──► 5
//!   ▲                                        asleep                                  asleep       │
//!   └──────────────────────────── round trips, over the port that moved ──────────────────────────┘
//! ```
//!
//! A message carries the port and, behind it, ports to those processes that it has yet to see. Each
//! process notes its number in the message and posts it to the next, so that the last can prove the way
//! that it took. Former holders stay, asleep, and it is asserted that they did nothing: neither by
//! what was measured nor beside it.

use std::fs;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use ringport::{MessageChannel, MessagePort, WaitStrategy};

use super::{Partner, Peer, peer, peer_with_port, port_to_lead};

/// Processes that the port moves through.
pub const HOPS: usize = 5;

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The lead's side.
pub struct Relay {
    /// Entangled with the port that moved; to be taken.
    pub port: Option<MessagePort>,
    /// The process that has it now.
    pub last: Peer,
    /// Those that had it, and how often each had given up or lost its CPU when it came to rest.
    former: Vec<(Peer, String)>,
    /// The way to the first of them, on which nothing is said any more.
    _carrier: MessagePort,
}

impl Relay {
    /// Sends a port through the peers of contender `name`, and checks that it took that way.
    pub fn start(name: &str) -> Self {
        let workers = (0..HOPS).map(|_| peer_with_port(name));
        let (carriers, mut peers): (Vec<_>, Vec<_>) = workers.unzip();
        let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel can be made");
        let mut carriers = carriers.into_iter();
        let carrier = carriers.next().expect("there are some");
        carrier
            .post_bytes_with(&[], [port2].into_iter().chain(carriers))
            .expect("the peer is alive");
        let arrived = port1.recv_timeout(PATIENCE).expect("the peers are alive");
        let numbers = peers.iter().map(|peer| peer.process().to_le_bytes());
        assert_eq!(
            arrived.expect("the port arrives").bytes(),
            numbers.collect::<Vec<_>>().concat()
        );
        let last = peers.pop().expect("there are some");
        let former = peers.into_iter().map(|peer| {
            let switches = switches_once_asleep(&peer);
            (peer, switches)
        });
        Relay {
            port: Some(port1),
            last,
            former: former.collect(),
            _carrier: carrier,
        }
    }

    /// Lets all processes end, and checks that former holders slept through it all.
    pub fn finish(self) {
        self.last.finish();
        for (peer, before) in &self.former {
            assert_eq!(*before, switches(peer), "a former holder did something");
        }
        for (peer, _) in self.former {
            peer.finish();
        }
    }
}

/// A peer's side: the port, if this process is the last. Any other passes it on and returns when all
/// is over.
pub fn pass_on() -> Option<MessagePort> {
    let carrier = port_to_lead();
    carrier.set_wait_strategy(WaitStrategy::Block);
    let event = carrier.recv_timeout(PATIENCE).expect("the lead is alive");
    let event = event.expect("the port passes here");
    let way = [event.bytes(), &process::id().to_le_bytes()].concat();
    let mut ports = event.take_ports().into_iter();
    let port = ports.next().expect("a port comes with the message");
    if let Some(next) = ports.next() {
        next.post_bytes_with(&way, [port].into_iter().chain(ports))
            .expect("the next process is alive");
        peer(|_| panic!("a former holder gets no order"));
        return None;
    }
    assert_eq!(way.len(), HOPS * size_of::<u32>());
    port.post_bytes(&way).expect("the lead is alive");
    port.set_wait_strategy(WaitStrategy::Spin);
    Some(port)
}

/// How often a process has given up or lost its CPU.
fn switches(peer: &Peer) -> String {
    let status = status(peer);
    let switches = status.lines().filter(|line| line.contains("ctxt_switches"));
    switches.collect::<Vec<_>>().join(", ")
}

/// The same, once it sleeps in the read of its orders.
fn switches_once_asleep(peer: &Peer) -> String {
    let begun = Instant::now();
    while !status(peer).contains("\nState:\tS") {
        assert!(begun.elapsed() < PATIENCE, "it does not come to rest");
        thread::yield_now();
    }
    switches(peer)
}

fn status(peer: &Peer) -> String {
    fs::read_to_string(format!("/proc/{}/status", peer.process())).expect("a process of ours")
}
