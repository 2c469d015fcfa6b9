//! Ports that travel: making them, posting with them in every way there is, and showing that those which
//! arrive, or come back, are those that were sent.

#![allow(dead_code)] // each test binary uses a part of it

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringport::{
    CloseReason, MessageEvent, MessagePort, PostError, Stats, TransferError, WaitStrategy,
};

use crate::common::{
    AT_ONCE, Greeting, PATIENCE, channel_of, closed, greeting, index_of, next, nothing, now,
    sample, thread_id, until_asleep,
};

/// How long the ways with a timeout wait.
pub const MOMENT: Duration = Duration::from_millis(3);

/// One of the ways to post with ports. The message is number `index` of the samples, or of the greetings.
pub struct Way {
    /// Whether it may wait without end.
    pub waits: bool,
    typed: bool,
    post: fn(&MessagePort, u64, Vec<MessagePort>) -> Result<(), TransferError>,
}

/// All of them.
pub const WAYS: [Way; 6] = [
    Way {
        waits: false,
        typed: false,
        post: |port, index, ports| port.try_post_bytes_with(&sample(index), ports),
    },
    Way {
        waits: false,
        typed: true,
        post: |port, index, ports| port.try_post_message_with(&greeting(index), ports),
    },
    Way {
        waits: false,
        typed: false,
        post: |port, index, ports| port.post_bytes_with_timeout(&sample(index), ports, MOMENT),
    },
    Way {
        waits: false,
        typed: true,
        post: |port, index, ports| port.post_message_with_timeout(&greeting(index), ports, MOMENT),
    },
    Way {
        waits: true,
        typed: false,
        post: |port, index, ports| port.post_bytes_with(&sample(index), ports),
    },
    Way {
        waits: true,
        typed: true,
        post: |port, index, ports| port.post_message_with(&greeting(index), ports),
    },
];

impl Way {
    /// Posts message number `index` with `ports`.
    pub fn post(
        &self,
        carrier: &MessagePort,
        index: u64,
        ports: Vec<MessagePort>,
    ) -> Result<(), TransferError> {
        (self.post)(carrier, index, ports)
    }

    /// The event shows message number `index`, as this way posts it.
    #[track_caller]
    pub fn assert_posted(&self, event: &MessageEvent<'_>, index: u64) {
        if self.typed {
            let archived = event.data::<Greeting>().unwrap();
            assert_eq!(archived.text, greeting(index).text);
            assert_eq!(archived.numbers, greeting(index).numbers);
        } else {
            assert_eq!(event.bytes(), sample(index));
        }
    }
}

/// So many channels: the ends that stay, and the ends that travel.
pub fn channels(count: usize) -> (Vec<MessagePort>, Vec<MessagePort>) {
    (0..count).map(|_| channel_of(4096)).unzip()
}

/// These two are the ends of one channel, and nothing waits in it.
#[track_caller]
pub fn assert_entangled(near: &MessagePort, far: &MessagePort) {
    // A content that no other channel has seen.
    static TURN: AtomicU64 = AtomicU64::new(1 << 40);
    for (from, to) in [(near, far), (far, near)] {
        let message = sample(TURN.fetch_add(1, Ordering::Relaxed));
        from.try_post_bytes(&message).unwrap();
        assert_eq!(now(to), message);
    }
    assert!(nothing(near) && nothing(far));
}

/// Each of `near` and the port at its place in `far` are the ends of one channel.
#[track_caller]
pub fn assert_all_entangled(near: &[MessagePort], far: &[MessagePort]) {
    assert_eq!(near.len(), far.len());
    for (near, far) in near.iter().zip(far) {
        assert_entangled(near, far);
    }
}

/// A channel for messages with ports, and what its posting end had counted at first.
pub struct Carrier {
    pub port: MessagePort,
    pub peer: MessagePort,
    pub before: Stats,
}

impl Carrier {
    /// A channel of the smallest size.
    pub fn new() -> Carrier {
        let (port, peer) = channel_of(4096);
        let before = port.stats();
        Carrier { port, peer, before }
    }

    /// Every one of these ways fails as `expected` and gives the ports back.
    #[track_caller]
    pub fn refuses(
        &self,
        ways: impl Fn(&Way) -> bool,
        expected: impl Fn(&PostError) -> bool + Copy,
    ) {
        let (near, mut far) = channels(3);
        for way in WAYS.iter().filter(|way| ways(way)) {
            let answer = way.post(&self.port, 0, far);
            far = given_back(answer, &near, expected);
        }
    }

    /// Nothing was sent, and nothing counted.
    #[track_caller]
    pub fn assert_untouched(&self) {
        let after = self.port.stats();
        assert_eq!(after.messages_posted, self.before.messages_posted);
        assert_eq!(after.bytes_posted, self.before.bytes_posted);
        assert_eq!(after.ports_posted, self.before.ports_posted);
        assert!(nothing(&self.peer));
        assert_eq!(self.peer.pending(), 0);
    }

    /// The carrier is as good as before.
    #[track_caller]
    pub fn assert_usable(&self) {
        let (near, far) = channels(2);
        self.port.try_post_bytes_with(b"usable", far).unwrap();
        let event = self.peer.try_recv().unwrap().unwrap();
        assert_eq!(event.bytes(), b"usable");
        assert_all_entangled(&near, &event.take_ports());
        assert_entangled(&self.port, &self.peer);
    }
}

/// The one port in the list.
#[track_caller]
pub fn only(mut ports: Vec<MessagePort>) -> MessagePort {
    assert_eq!(ports.len(), 1);
    ports.remove(0)
}

/// The ports of the next message, which must come within [`PATIENCE`].
#[track_caller]
pub fn next_ports(port: &MessagePort) -> Vec<MessagePort> {
    let event = port.recv_timeout(PATIENCE).unwrap();
    event.expect("a message within the time").take_ports()
}

/// The one port of the next message.
#[track_caller]
pub fn next_port(port: &MessagePort) -> MessagePort {
    only(next_ports(port))
}

/// Moves `port` through a channel whose ends are both here.
#[track_caller]
pub fn carry(from: &MessagePort, to: &MessagePort, port: MessagePort) -> MessagePort {
    from.try_post_bytes_with(b"a port", [port]).unwrap();
    let event = to.try_recv().unwrap().expect("what was just posted");
    assert_eq!(event.bytes(), b"a port");
    only(event.take_ports())
}

/// Posts these samples, waiting for room.
#[track_caller]
pub fn post(port: &MessagePort, range: Range<u64>) {
    range.for_each(|index| port.post_bytes_timeout(&sample(index), PATIENCE).unwrap());
}

/// Receives these samples, and each must come within [`PATIENCE`].
#[track_caller]
pub fn receive(port: &MessagePort, range: Range<u64>) {
    range.for_each(|index| assert_eq!(next(port), sample(index)));
}

/// Posts samples from 0 on until there is no room, and says how many.
pub fn fill(port: &MessagePort) -> u64 {
    let mut posted = 0;
    loop {
        match port.try_post_bytes(&sample(posted)) {
            Ok(()) => posted += 1,
            Err(PostError::Full { .. }) => return posted,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Receives the samples that wait, which must begin with number `first`, and says how many there were.
#[track_caller]
pub fn drain(port: &MessagePort, first: u64) -> u64 {
    let mut received = 0;
    while let Some(event) = port.try_recv().unwrap() {
        assert_eq!(index_of(event.bytes()), first + received);
        assert_eq!(event.bytes(), sample(first + received));
        received += 1;
    }
    received
}

/// Answers each message with its like until the channel ends; says how many there were, and how it ended.
pub fn echo(port: &MessagePort) -> (u64, Option<CloseReason>) {
    let mut answered = 0;
    for event in port.iter() {
        port.post_bytes(event.bytes()).unwrap();
        answered += 1;
    }
    (answered, port.close_reason())
}

/// Asks an echo with these samples, one after another.
#[track_caller]
pub fn ask(port: &MessagePort, range: Range<u64>) {
    for index in range {
        port.post_bytes_timeout(&sample(index), PATIENCE).unwrap();
        assert_eq!(next(port), sample(index));
    }
}

/// Runs `wait` in a thread of its own, and returns once it sleeps, or as good as spins.
pub fn waiting<T: Send + 'static>(
    strategy: WaitStrategy,
    wait: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let (started, waits) = mpsc::channel();
    let waiter = thread::spawn(move || {
        started.send(thread_id()).unwrap();
        wait()
    });
    let thread = waits.recv().unwrap();
    if strategy != WaitStrategy::Spin {
        until_asleep(std::process::id(), thread);
    }
    waiter
}

/// Why the channel of this port ended, which it must within [`PATIENCE`], with no message before.
#[track_caller]
pub fn told(port: &MessagePort) -> CloseReason {
    closed(port.recv_timeout(PATIENCE))
}

/// Ports to send, and a thread for each that waits until the peer of it has ended.
pub fn watched(
    strategy: WaitStrategy,
    count: usize,
) -> (Vec<MessagePort>, Vec<JoinHandle<CloseReason>>) {
    let (near, far) = channels(count);
    let watchers = near.into_iter().map(|near| {
        waiting(strategy, move || {
            near.set_wait_strategy(strategy);
            closed(near.recv_timeout(PATIENCE))
        })
    });
    let watchers = watchers.collect();
    (far, watchers)
}

/// All of them must have been told, for this reason and at once.
#[track_caller]
pub fn all_told(watchers: Vec<JoinHandle<CloseReason>>, reason: CloseReason) {
    let start = Instant::now();
    for watcher in watchers {
        assert_eq!(watcher.join().unwrap(), reason);
    }
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

/// The post failed with an error that `expected` accepts, and gave back what it was to carry: the ports whose
/// peers are `near`, in order.
#[track_caller]
pub fn given_back(
    answer: Result<(), TransferError>,
    near: &[MessagePort],
    expected: impl Fn(&PostError) -> bool,
) -> Vec<MessagePort> {
    let error = answer.expect_err("the post must fail");
    assert!(expected(error.error()), "{:?}", error.error());
    let far = error.into_ports();
    assert_all_entangled(near, &far);
    far
}

/// Allows this process so many descriptors, which anybody may do up to the hard limit.
pub fn allow_descriptors(count: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live rlimit.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(got, 0);
    if limit.rlim_cur < count {
        limit.rlim_cur = count;
        // SAFETY: the pointer is to a live rlimit.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        assert_eq!(set, 0, "a hard limit of {count} descriptors is needed");
    }
}

/// Random numbers, the same in each run.
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % bound
    }
}
