//! What carries messages between two threads of one process: no IPC, but about the best a queue can do.

use std::hint::spin_loop;
use std::sync::Arc;

use crossbeam_channel as crossbeam;
use rtrb::{PushError, RingBuffer};

use crate::harness::threads::Thread;
use crate::harness::work::{self, End, Tally};
use crate::harness::{Waiting, payload};

use super::{Job, Work, lead_works};

/// The longest message: they are moved by value.
pub const LONGEST: usize = 4096;

/// What carries messages between two threads.
pub trait ThreadCarrier {
    /// The first part of a contender's name.
    const NAME: &'static str;

    /// Both ends of a channel with about `capacity` bytes each way.
    fn pair<const LENGTH: usize>(
        capacity: usize,
        waiting: Waiting,
    ) -> (impl End<LENGTH>, impl End<LENGTH> + Send + 'static);
}

/// The life of a lead whose peer is a thread. Not a part of its caller, where the buffers of lengths beyond
/// [`LONGEST`], which are never used, would lie on everybody's stack.
#[inline(never)]
pub fn run<const LENGTH: usize, C: ThreadCarrier>(job: Job) {
    let (_, tally) = Tally::make();
    let tally = Arc::new(tally);
    let (mut end, mut peers_end) = C::pair::<LENGTH>(job.capacity, job.waiting);
    let mut peer = Thread::start({
        let tally = tally.clone();
        let mut sequence = 0;
        move |units| match job.work {
            Work::Stream => work::count_stream(&mut peers_end, &mut sequence, units, &tally),
            _ => work::answer_rounds(&mut peers_end, &mut sequence, units),
        }
    });
    lead_works(&mut end, &mut peer, job, &tally);
    peer.finish();
}

/// rtrb: `push` and `pop`, one by one.
pub struct Rtrb;

/// One end.
struct RtrbEnd<const LENGTH: usize> {
    to: rtrb::Producer<[u8; LENGTH]>,
    from: rtrb::Consumer<[u8; LENGTH]>,
}

impl<const LENGTH: usize> End<LENGTH> for RtrbEnd<LENGTH> {
    fn send(&mut self, sequence: u64) {
        let mut bytes = [0; LENGTH];
        payload::fill(&mut bytes, sequence);
        while let Err(PushError::Full(back)) = self.to.push(bytes) {
            bytes = back;
            spin_loop();
        }
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        loop {
            match self.from.pop() {
                Ok(bytes) => return look(&bytes),
                Err(_) => spin_loop(),
            }
        }
    }
}

impl ThreadCarrier for Rtrb {
    const NAME: &'static str = "rtrb";

    fn pair<const LENGTH: usize>(
        capacity: usize,
        waiting: Waiting,
    ) -> (impl End<LENGTH>, impl End<LENGTH> + Send + 'static) {
        assert!(waiting == Waiting::Spin, "rtrb has nothing to sleep in");
        let count = (capacity / LENGTH).max(2);
        let (to_peer, from_lead) = RingBuffer::new(count);
        let (to_lead, from_peer) = RingBuffer::new(count);
        (
            RtrbEnd {
                to: to_peer,
                from: from_peer,
            },
            RtrbEnd {
                to: to_lead,
                from: from_lead,
            },
        )
    }
}

/// crossbeam-channel: bounded channels.
pub struct Crossbeam;

/// One end.
struct CrossbeamEnd<const LENGTH: usize> {
    to: crossbeam::Sender<[u8; LENGTH]>,
    from: crossbeam::Receiver<[u8; LENGTH]>,
    waiting: Waiting,
}

impl<const LENGTH: usize> End<LENGTH> for CrossbeamEnd<LENGTH> {
    fn send(&mut self, sequence: u64) {
        let mut bytes = [0; LENGTH];
        payload::fill(&mut bytes, sequence);
        if self.waiting == Waiting::Sleep {
            return self.to.send(bytes).expect("the other side is alive");
        }
        while let Err(error) = self.to.try_send(bytes) {
            assert!(error.is_full(), "the other side is gone");
            bytes = error.into_inner();
            spin_loop();
        }
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        if self.waiting == Waiting::Sleep {
            return look(&self.from.recv().expect("the other side is alive"));
        }
        loop {
            match self.from.try_recv() {
                Ok(bytes) => return look(&bytes),
                Err(error) => assert!(error.is_empty(), "the other side is gone"),
            }
            spin_loop();
        }
    }
}

impl ThreadCarrier for Crossbeam {
    const NAME: &'static str = "crossbeam-channel";

    fn pair<const LENGTH: usize>(
        capacity: usize,
        waiting: Waiting,
    ) -> (impl End<LENGTH>, impl End<LENGTH> + Send + 'static) {
        let count = (capacity / LENGTH).max(2);
        let (to_peer, from_lead) = crossbeam::bounded(count);
        let (to_lead, from_peer) = crossbeam::bounded(count);
        (
            CrossbeamEnd {
                to: to_peer,
                from: from_peer,
                waiting,
            },
            CrossbeamEnd {
                to: to_lead,
                from: from_lead,
                waiting,
            },
        )
    }
}
