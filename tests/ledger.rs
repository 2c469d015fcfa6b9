//! Posts with ports, those that go through and those that fail, in any sequence, against a model (S5, S12, S18).
//!
//! The model knows where each port is: at hand, under way in which message, or closed. A port that were lost,
//! doubled, swapped with another, or closed too early would not be where the model has it.

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::collections::VecDeque;
use std::time::Duration;

use common::{channel, channel_of, nothing, sample, trust_if};
use ports::{WAYS, assert_entangled, carry};
use proptest::prelude::*;
use ringport::{CloseReason, MessageEvent, MessagePort, PostError, TransferError};

/// What is done next. Ports are those at hand; more are made when there are too few.
#[derive(Clone, Debug)]
enum Step {
    /// One of the ways that do not wait.
    Post {
        way: usize,
        count: usize,
    },
    /// So many messages with one port each, so that the limit of 64 is met.
    Burst {
        way: usize,
        times: usize,
    },
    Plain,
    ClosedPort {
        count: usize,
        at: usize,
    },
    OwnPeer {
        count: usize,
        at: usize,
    },
    TooLarge {
        count: usize,
    },
    Busy {
        count: usize,
    },
    /// Receives so many, and takes the ports of every other one, or of all.
    Receive {
        count: usize,
        all: bool,
    },
    /// Takes events, and lets go of them in another order.
    Hold {
        count: usize,
    },
    MovePoster,
    MoveReceiver,
}

fn step() -> impl Strategy<Value = Step> {
    let ports = || 0..4_usize;
    prop_oneof![
        10 => (0..4_usize, ports()).prop_map(|(way, count)| Step::Post { way, count }),
        1 => (0..4_usize, 20..50_usize).prop_map(|(way, times)| Step::Burst { way, times }),
        3 => Just(Step::Plain),
        1 => (ports(), ports()).prop_map(|(count, at)| Step::ClosedPort { count, at }),
        1 => (ports(), ports()).prop_map(|(count, at)| Step::OwnPeer { count, at }),
        1 => ports().prop_map(|count| Step::TooLarge { count }),
        1 => ports().prop_map(|count| Step::Busy { count }),
        4 => (0..6_usize, any::<bool>()).prop_map(|(count, all)| Step::Receive { count, all }),
        1 => (0..4_usize).prop_map(|count| Step::Hold { count }),
        1 => Just(Step::MovePoster),
        1 => Just(Step::MoveReceiver),
    ]
}

/// A message under way: what it shows, and the numbers of its ports.
struct Sent {
    way: usize,
    index: u64,
    ports: Vec<usize>,
}

struct Ledger {
    poster: MessagePort,
    receiver: MessagePort,
    outer: (MessagePort, MessagePort),
    trusted: bool,
    /// The peers of all ports ever made; `None` when that port was closed.
    near: Vec<Option<MessagePort>>,
    at_hand: Vec<(usize, MessagePort)>,
    waiting: VecDeque<Sent>,
    posted: u64,
}

impl Ledger {
    fn new(capacity: usize, trusted: bool) -> Ledger {
        let (poster, receiver) = channel_of(capacity);
        trust_if(&receiver, trusted);
        Ledger {
            poster,
            receiver,
            outer: channel(),
            trusted,
            near: Vec::new(),
            at_hand: Vec::new(),
            waiting: VecDeque::new(),
            posted: 0,
        }
    }

    /// Ports for a message, with their numbers.
    fn take(&mut self, count: usize) -> (Vec<usize>, Vec<MessagePort>) {
        while self.at_hand.len() < count {
            let (near, far) = channel_of(4096);
            self.at_hand.push((self.near.len(), far));
            self.near.push(Some(near));
        }
        self.at_hand.drain(..count).unzip()
    }

    /// These ports are at hand, and they are those of these numbers.
    fn put(&mut self, numbers: &[usize], ports: Vec<MessagePort>) {
        assert_eq!(numbers.len(), ports.len());
        for (&number, port) in numbers.iter().zip(ports) {
            assert_entangled(self.near[number].as_ref().unwrap(), &port);
            self.at_hand.push((number, port));
        }
    }

    fn transfers(&self) -> usize {
        let with_ports = self.waiting.iter().filter(|sent| !sent.ports.is_empty());
        with_ports.count()
    }

    /// Posts, and says whether it went through.
    fn post(&mut self, way: usize, count: usize) -> bool {
        let (numbers, far) = self.take(count);
        let index = self.posted;
        match WAYS[way].post(&self.poster, index, far) {
            Ok(()) => {
                assert!(count == 0 || self.transfers() < 64);
                let ports = numbers;
                self.waiting.push_back(Sent { way, index, ports });
                self.posted += 1;
                true
            }
            Err(error) => {
                match error.error() {
                    PostError::Full { .. } => assert!(!self.waiting.is_empty()),
                    PostError::TransfersFull { .. } => assert_eq!(self.transfers(), 64),
                    other => panic!("{other:?}"),
                }
                self.put(&numbers, error.into_ports());
                false
            }
        }
    }

    /// A post that must fail, and gives back what it was given.
    fn refused(
        &mut self,
        numbers: &[usize],
        answer: Result<(), TransferError>,
        expected: impl Fn(&PostError) -> bool,
    ) {
        let (error, far) = answer.unwrap_err().into_parts();
        assert!(expected(&error), "{error:?}");
        self.put(numbers, far);
    }

    fn receive(&mut self, take_ports: bool) {
        let Some(sent) = self.waiting.pop_front() else {
            assert!(nothing(&self.receiver));
            return;
        };
        let event = self.receiver.try_recv().unwrap().unwrap();
        check(&event, &sent, self.trusted);
        if take_ports {
            let far = event.take_ports();
            drop(event);
            self.put(&sent.ports, far);
        } else {
            drop(event);
            self.closed(&sent.ports, CloseReason::ClosedByPeer);
        }
    }

    /// The ports of these numbers are closed, and their peers are told.
    fn closed(&mut self, numbers: &[usize], reason: CloseReason) {
        for &number in numbers {
            let near = self.near[number].take().unwrap();
            assert_eq!(ports::told(&near), reason);
        }
    }

    fn hold(&mut self, count: usize) {
        let count = count.min(self.waiting.len());
        let all: Vec<Sent> = self.waiting.drain(..count).collect();
        let mut events: Vec<_> = all.iter().map(|_| self.receiver.recv().unwrap()).collect();
        for (event, sent) in events.iter().zip(&all) {
            check(event, sent, self.trusted);
        }
        // The last one's first; then they go in yet another order.
        let far: Vec<_> = events
            .iter()
            .rev()
            .map(|event| event.take_ports())
            .collect();
        while !events.is_empty() {
            drop(events.swap_remove(events.len() / 2));
        }
        drop(events);
        for (sent, far) in all.iter().rev().zip(far) {
            self.put(&sent.ports, far);
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Post { way, count } => {
                self.post(way, count);
            }
            Step::Burst { way, times } => {
                let _ = (0..times).all(|_| self.post(way, 1));
            }
            Step::Plain => match self.poster.try_post_bytes(&sample(self.posted)) {
                Ok(()) => {
                    let (way, index, ports) = (0, self.posted, Vec::new());
                    self.waiting.push_back(Sent { way, index, ports });
                    self.posted += 1;
                }
                Err(PostError::Full { .. }) => assert!(!self.waiting.is_empty()),
                Err(other) => panic!("{other:?}"),
            },
            Step::ClosedPort { count, at } => {
                let at = at.min(count);
                let (numbers, mut far) = self.take(count);
                let (_stays, closed) = channel();
                closed.close();
                far.insert(at, closed);
                let error = self.poster.try_post_bytes_with(b"", far).unwrap_err();
                let named =
                    matches!(error.error(), PostError::ClosedPort { index } if *index == at);
                assert!(named, "{error:?}");
                let mut far = error.into_ports();
                assert!(far.remove(at).is_closed());
                self.put(&numbers, far);
            }
            Step::OwnPeer { count, at } => {
                let at = at.min(count);
                let (numbers, mut far) = self.take(count);
                let (_, stand_in) = channel();
                far.insert(at, std::mem::replace(&mut self.receiver, stand_in));
                let error = self.poster.try_post_bytes_with(b"", far).unwrap_err();
                let named = matches!(error.error(), PostError::OwnPeer { index } if *index == at);
                assert!(named, "{error:?}");
                let mut far = error.into_ports();
                self.receiver = far.remove(at);
                self.put(&numbers, far);
            }
            Step::TooLarge { count } => {
                let (numbers, far) = self.take(count);
                let bytes = vec![0; self.poster.max_message_len() + 1];
                let answer = self.poster.post_bytes_with(&bytes, far);
                self.refused(&numbers, answer, |error| {
                    matches!(error, PostError::TooLarge { .. })
                });
            }
            Step::Busy { count } => {
                let (numbers, far) = self.take(count);
                let slot = self.poster.try_reserve(0);
                let busy = slot.is_ok();
                let answer = self
                    .poster
                    .post_bytes_with_timeout(b"", far, Duration::ZERO);
                drop(slot);
                if busy {
                    self.refused(&numbers, answer, |error| matches!(error, PostError::Busy));
                } else {
                    self.refused(&numbers, answer, |error| {
                        matches!(error, PostError::Full { .. })
                    });
                }
            }
            Step::Receive { count, all } => {
                (0..count).for_each(|index| self.receive(all || index % 2 == 0));
            }
            Step::Hold { count } => self.hold(count),
            Step::MovePoster => {
                let (_, stand_in) = channel();
                let poster = std::mem::replace(&mut self.poster, stand_in);
                self.poster = carry(&self.outer.0, &self.outer.1, poster);
            }
            Step::MoveReceiver => {
                let (_, stand_in) = channel();
                let receiver = std::mem::replace(&mut self.receiver, stand_in);
                self.receiver = carry(&self.outer.1, &self.outer.0, receiver);
                trust_if(&self.receiver, self.trusted);
            }
        }
    }
}

/// The event shows what was sent.
#[track_caller]
fn check(event: &MessageEvent<'_>, sent: &Sent, trusted: bool) {
    WAYS[sent.way].assert_posted(event, sent.index);
    assert_eq!(event.port_count(), sent.ports.len());
    assert_eq!(event.is_in_place(), trusted);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn s12_every_port_is_where_it_should_be_whatever_came_before(
        capacity in proptest::sample::select(&[4096, 8192, 65536]),
        trusted in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let _quiet = common::descriptors();
        let mut ledger = Ledger::new(capacity, trusted);
        steps.iter().for_each(|step| ledger.run(step));
        // What is still at hand works, what still waits is closed with the receiver.
        for (number, port) in &ledger.at_hand {
            assert_entangled(ledger.near[*number].as_ref().unwrap(), port);
        }
        let (_, stand_in) = channel();
        drop(std::mem::replace(&mut ledger.receiver, stand_in));
        while let Some(sent) = ledger.waiting.pop_front() {
            ledger.closed(&sent.ports, CloseReason::PeerGone);
        }
    }
}
