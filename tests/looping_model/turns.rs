//! Who had a turn, and who should have had one before: read off the order in which messages are dispatched.
//!
//! A turn is a run of messages of one port, no more than 64, and only those that waited when it began. A port that
//! has more when its turn ends is ready, and so has its next turn before any of those that become ready later, and
//! before any second turn of those that were ready before.

use std::collections::{HashSet, VecDeque};

use ringport::PortId;

/// Messages a turn.
pub const MOST: usize = 64;

struct Turn {
    port: PortId,
    count: usize,
    /// The last message that waited when it began.
    last: u64,
}

#[derive(Default)]
pub struct Turns {
    now: Option<Turn>,
    /// Ports that had more when their turn ended, in that order. (Others may be ready between them.)
    ready: VecDeque<PortId>,
    known: HashSet<PortId>,
    /// Those that had a turn since [`begin`](Turns::begin); `None` if turns may repeat.
    served: Option<HashSet<PortId>>,
    pub count: u64,
    pub full: u64,
}

impl Turns {
    /// `run_once` is called (`once`), in which everybody has one turn, or `run`.
    pub fn begin(&mut self, once: bool) {
        self.served = once.then(HashSet::new);
    }

    /// A message of `port` is dispatched. Says whether a turn begins with it.
    pub fn message(
        &mut self,
        port: PortId,
        number: u64,
        last: u64,
        is_waiting: impl Fn(PortId) -> bool,
    ) -> bool {
        if let Some(turn) = &mut self.now {
            if turn.port == port && turn.count < MOST && number <= turn.last {
                turn.count += 1;
                self.full += u64::from(turn.count == MOST);
                return false;
            }
        }
        // This message was taken off already, so that what it says of this port is too little by one.
        self.end(|other| other == port || is_waiting(other));
        while let Some(first) = self.ready.front() {
            if *first == port || is_waiting(*first) {
                break;
            }
            self.known.remove(first);
            self.ready.pop_front();
        }
        if self.known.remove(&port) {
            let first = self.ready.pop_front();
            assert_eq!(
                first,
                Some(port),
                "the first one was ready before the second, and has not had its turn"
            );
        }
        if let Some(served) = &mut self.served {
            assert!(
                served.insert(port),
                "{port:?} has a second turn in one `run_once`, or messages that did not wait when its turn began"
            );
        }
        self.count += 1;
        self.now = Some(Turn {
            port,
            count: 1,
            last,
        });
        true
    }

    /// The turn is over: something else than a message of that port happens.
    pub fn end(&mut self, is_waiting: impl Fn(PortId) -> bool) {
        if let Some(turn) = self.now.take() {
            if is_waiting(turn.port) && self.known.insert(turn.port) {
                self.ready.push_back(turn.port);
            }
        }
    }

    /// Nothing is known of who is ready: somebody may rest who is not told of it.
    pub fn forget(&mut self) {
        self.now = None;
        self.ready.clear();
        self.known.clear();
    }

    /// Receiving there has failed: it rests.
    pub fn rest(&mut self, port: PortId) {
        if self.known.remove(&port) {
            self.ready.retain(|other| *other != port);
        }
    }

    /// `run_once` has returned, and nobody had stopped it.
    pub fn assert_all_served(&mut self, is_waiting: impl Fn(PortId) -> bool) {
        self.end(&is_waiting);
        let Some(served) = self.served.take() else {
            return;
        };
        for port in &self.ready {
            assert!(
                served.contains(port) || !is_waiting(*port),
                "{port:?} was ready and had no turn"
            );
        }
    }
}
