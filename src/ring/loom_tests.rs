//! The ring and the sleeping protocol under loom: every interleaving, every value a load may see.
//!
//! Each model lists the outcomes it allows. Those that break the protocol on purpose show that loom
//! would notice: each must fail.

use super::layout::{Endpoint, RECORD_ALIGN, state};
use super::{Consumer, Memory, Producer, Refused, Shared};
use crate::barrier::Signal;
use crate::sync::{AtomicU64, Ordering, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::sync::Arc;

/// A doorbell for loom: bytes that wait, and whether the line was hung up.
#[derive(Default)]
struct Bell {
    line: Mutex<(u32, bool)>,
    rung: Condvar,
}

impl Bell {
    fn ring(&self) {
        self.line.lock().unwrap().0 += 1;
        self.rung.notify_one();
    }

    fn hang_up(&self) {
        self.line.lock().unwrap().1 = true;
        self.rung.notify_one();
    }

    /// Sleeps until rung or hung up. Nobody ever rings: loom reports a deadlock.
    fn sleep(&self) {
        let mut line = self.line.lock().unwrap();
        while *line == (0, false) {
            line = self.rung.wait(line).unwrap();
        }
        line.0 = 0;
    }
}

/// One side of a channel with a single ring from endpoint 1 to endpoint 2.
struct Poster {
    producer: Producer,
    signal: Signal,
    /// Wakes this side; wakes the other.
    own: Arc<Bell>,
    peer: Arc<Bell>,
}

struct Taker {
    consumer: Consumer,
    memory: Memory,
    signal: Signal,
    own: Arc<Bell>,
    peer: Arc<Bell>,
}

fn channel(capacity: usize, start: u64) -> (Poster, Taker) {
    let memory = Memory::zeroed(capacity);
    let one = Shared::of(Endpoint::new(start, start));
    let two = Shared::of(Endpoint::new(start, start));
    let (bell1, bell2) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let poster = Poster {
        producer: Producer::new(memory.clone(), one.clone(), two.clone(), start, start),
        signal: Signal::new(one.clone(), two.clone()),
        own: bell1.clone(),
        peer: bell2.clone(),
    };
    let taker = Taker {
        consumer: Consumer::new(memory.clone(), two.clone(), start),
        memory,
        signal: Signal::new(two, one),
        own: bell2,
        peer: bell1,
    };
    (poster, taker)
}

impl Poster {
    /// As `MessagePort::attempt_bytes` and `publish` do it.
    fn post(&self, words: &[u64]) -> Result<(), Refused> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut draft = self.producer.draft();
        let place = self
            .producer
            .place(draft.cursor(), bytes.len(), RECORD_ALIGN)?;
        self.producer.memory().write(place.payload(), &bytes);
        self.producer.append(&mut draft, &place);
        self.producer.publish(draft);
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        let wants = self.signal.look_for_sleeper() & state::WANTS_MESSAGE;
        if wants != 0 && self.signal.claim(wants) {
            self.peer.ring();
        }
    }

    /// As `sleep_until` does it for room.
    fn post_waiting(&self, words: &[u64]) {
        while self.post(words).is_err() {
            self.producer.store_room_target();
            self.signal.arm(state::WANTS_ROOM);
            if self.post(words).is_ok() {
                return;
            }
            self.own.sleep();
        }
    }
}

impl Taker {
    /// As `MessagePort::take` and `gave_room` do it.
    fn take(&self) -> Option<Vec<u64>> {
        let record = self.consumer.peek().unwrap()?;
        let words = (0..record.len / 8)
            .map(|at| {
                let word = self.memory.word(record.payload + at * 8);
                word.load(Ordering::Relaxed)
            })
            .collect();
        self.consumer.take(&record);
        let wants = self.signal.look_for_sleeper() & state::WANTS_ROOM;
        if wants != 0
            && self.consumer.should_wake_poster(
                self.signal.peer_room_target(),
                self.signal.peer_write_position(),
            )
            && self.signal.claim(wants)
        {
            self.peer.ring();
        }
        Some(words)
    }

    /// As `sleep_until` does it for a message.
    fn take_waiting(&self) -> Vec<u64> {
        loop {
            if let Some(words) = self.take() {
                return words;
            }
            self.signal.arm(state::WANTS_MESSAGE);
            if let Some(words) = self.take() {
                self.signal.disarm(state::WANTS_MESSAGE);
                return words;
            }
            self.own.sleep();
        }
    }

    fn peer_closed(&self) -> bool {
        self.signal.peer_state() & state::CLOSED != 0
    }
}

/// Capacity 128: records of up to 40 bytes of payload.
const CAPACITY: usize = 128;

#[test]
fn loom_a_message_is_seen_whole_or_not_at_all() {
    loom::model(|| {
        let (poster, taker) = channel(CAPACITY, 8);
        let posting = thread::spawn(move || poster.post(&[7, 8]).unwrap());
        // Allowed: nothing yet, or all of it.
        if let Some(words) = taker.take() {
            assert_eq!(words, [7, 8]);
        }
        posting.join().unwrap();
        let rest = taker.take();
        assert!(rest.is_none() || rest == Some(vec![7, 8]));
    });
}

#[test]
fn loom_messages_come_in_order_over_the_wrap() {
    loom::model(|| {
        // The first record ends where only a WRAP fits.
        let (poster, taker) = channel(CAPACITY, 8 + 80);
        let posting = thread::spawn(move || {
            poster.post(&[1, 2]).unwrap();
            poster.post(&[3, 4]).unwrap();
        });
        let mut seen = Vec::new();
        while seen.len() < 2 {
            match taker.take() {
                Some(words) => seen.push(words),
                None => thread::yield_now(),
            }
        }
        assert_eq!(seen, [[1, 2], [3, 4]]);
        posting.join().unwrap();
        assert!(taker.take().is_none());
    });
}

#[test]
fn loom_room_given_back_is_written_only_after_it_was_read() {
    loom::model(|| {
        let (poster, taker) = channel(64, 8);
        let posting = thread::spawn(move || {
            // Three records of 16 bytes fill the ring of 64; the fourth takes the first one's place.
            for value in 1..=4 {
                while poster.post(&[value]).is_err() {
                    thread::yield_now();
                }
            }
        });
        for value in 1..=4 {
            let words = loop {
                match taker.take() {
                    Some(words) => break words,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(words, [value]);
        }
        posting.join().unwrap();
    });
}

#[test]
fn loom_a_batch_shows_at_once() {
    loom::model(|| {
        let (poster, taker) = channel(CAPACITY, 8);
        let posting = thread::spawn(move || {
            let mut draft = poster.producer.draft();
            for value in [5u64, 6] {
                let place = poster
                    .producer
                    .place(draft.cursor(), 8, RECORD_ALIGN)
                    .unwrap();
                poster
                    .producer
                    .memory()
                    .write(place.payload(), &value.to_ne_bytes());
                poster.producer.append(&mut draft, &place);
            }
            poster.producer.publish(draft);
        });
        // Allowed: neither, or both.
        if let Some(first) = taker.take() {
            assert_eq!(first, [5]);
            assert_eq!(taker.take(), Some(vec![6]));
        }
        posting.join().unwrap();
    });
}

#[test]
fn loom_a_sleeper_for_messages_is_woken() {
    loom::model(|| {
        let (poster, taker) = channel(CAPACITY, 8);
        let posting = thread::spawn(move || {
            poster.post(&[1]).unwrap();
            poster.post(&[2]).unwrap();
        });
        // A lost wake-up would be a deadlock.
        assert_eq!(taker.take_waiting(), [1]);
        assert_eq!(taker.take_waiting(), [2]);
        posting.join().unwrap();
    });
}

#[test]
fn loom_a_sleeper_for_room_is_woken() {
    loom::model(|| {
        let (poster, taker) = channel(64, 8);
        for value in 1..=3 {
            poster.post(&[value]).unwrap();
        }
        let posting = thread::spawn(move || poster.post_waiting(&[4]));
        let mut next = 1;
        while next <= 4 {
            match taker.take() {
                Some(words) => {
                    assert_eq!(words, [next]);
                    next += 1;
                }
                None => thread::yield_now(),
            }
        }
        posting.join().unwrap();
    });
}

#[test]
fn loom_s48_messages_come_before_the_close() {
    loom::model(|| {
        let (poster, taker) = channel(CAPACITY, 8);
        let posting = thread::spawn(move || {
            poster.post(&[1]).unwrap();
            poster.signal.close();
            poster.peer.hang_up();
        });
        // As `MessagePort::take` does it: what was known before looking decides.
        let mut seen = Vec::new();
        loop {
            let closed = taker.peer_closed();
            if let Some(words) = taker.take() {
                seen.push(words);
            } else if closed {
                break;
            } else {
                taker.signal.arm(state::WANTS_MESSAGE);
                if taker.peer_closed() {
                    continue;
                }
                match taker.take() {
                    Some(words) => seen.push(words),
                    None => taker.own.sleep(),
                }
            }
        }
        assert_eq!(seen, [[1]]);
        posting.join().unwrap();
    });
}

/// Runs a model that must fail, and says how it did.
fn must_fail(model: impl Fn() + Sync + Send + 'static) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| loom::model(model)));
    assert!(result.is_err(), "loom did not notice");
}

/// The heart of the sleeping protocol, by hand, so that its barriers can be left out.
fn post_against_sleep(poster_fences: bool, sleeper_fences: bool) {
    let message = Arc::new(AtomicU64::new(0));
    let wants = Arc::new(AtomicU64::new(0));
    let (message2, wants2) = (message.clone(), wants.clone());
    let posting = thread::spawn(move || {
        message2.store(1, Ordering::Release);
        if poster_fences {
            fence(Ordering::SeqCst);
        }
        wants2.load(Ordering::Relaxed) != 0
    });
    wants.fetch_or(1, Ordering::AcqRel);
    if sleeper_fences {
        fence(Ordering::SeqCst);
    }
    let seen = message.load(Ordering::Acquire) != 0;
    let rings = posting.join().unwrap();
    assert!(seen || rings, "asleep beside a message");
}

#[test]
fn loom_two_fences_suffice() {
    loom::model(|| post_against_sleep(true, true));
}

#[test]
fn loom_a_poster_without_a_fence_is_noticed() {
    must_fail(|| post_against_sleep(false, true));
}

#[test]
fn loom_a_sleeper_without_a_fence_is_noticed() {
    must_fail(|| post_against_sleep(true, false));
}

/// A sleeper for two ports that says so for both and then pays for one barrier, as the event loop and `wait_any` do;
/// or that pays in between.
fn posts_against_one_sleeper(pays_last: bool) {
    let ports = [(); 2].map(|()| Arc::new((AtomicU64::new(0), AtomicU64::new(0))));
    let posting = ports.clone().map(|port| {
        thread::spawn(move || {
            let (message, wants) = &*port;
            message.store(1, Ordering::Release);
            fence(Ordering::SeqCst);
            wants.load(Ordering::Relaxed) != 0
        })
    });
    let [(_, wants1), (_, wants2)] = [&*ports[0], &*ports[1]];
    wants1.fetch_or(1, Ordering::AcqRel);
    if !pays_last {
        fence(Ordering::SeqCst);
    }
    wants2.fetch_or(1, Ordering::AcqRel);
    if pays_last {
        fence(Ordering::SeqCst);
    }
    let seen = [&ports[0], &ports[1]].map(|port| port.0.load(Ordering::Acquire) != 0);
    let rings = posting.map(|posting| posting.join().unwrap());
    for (seen, rings) in seen.into_iter().zip(rings) {
        assert!(seen || rings, "asleep beside a message");
    }
}

#[test]
fn loom_one_barrier_is_enough_for_two_ports() {
    loom::model(|| posts_against_one_sleeper(true));
}

#[test]
fn loom_a_barrier_before_the_second_port_is_noticed() {
    must_fail(|| posts_against_one_sleeper(false));
}

#[test]
fn loom_publishing_before_zeroing_is_noticed() {
    must_fail(|| {
        let (poster, taker) = channel(CAPACITY, 8);
        // What an earlier lap left where the second header will stand: it looks like a message.
        let stale = super::layout::message_header(8, 0, 0, 0);
        taker.memory.word(24).store(stale, Ordering::Relaxed);
        let posting = thread::spawn(move || {
            let memory = poster.producer.memory();
            memory.write(16, &7u64.to_ne_bytes());
            memory.word(8).store(stale, Ordering::Release);
            memory.word(24).store(0, Ordering::Relaxed);
        });
        if taker.take().is_some() {
            assert!(taker.take().is_none(), "took old bytes for a message");
        }
        posting.join().unwrap();
    });
}

#[test]
fn loom_publishing_without_release_is_noticed() {
    must_fail(|| {
        let (poster, taker) = channel(CAPACITY, 8);
        let posting = thread::spawn(move || {
            let memory = poster.producer.memory();
            memory.write(16, &7u64.to_ne_bytes());
            let header = super::layout::message_header(8, 0, 0, 0);
            memory.word(8).store(header, Ordering::Relaxed);
        });
        if let Some(words) = taker.take() {
            assert_eq!(words, [7]);
        }
        posting.join().unwrap();
    });
}

#[test]
fn loom_what_was_zeroed_ahead_is_no_message() {
    loom::model(|| {
        let (poster, taker) = channel(256, 8);
        // An earlier lap left what looks like messages, everywhere but at the first header.
        let stale = super::layout::message_header(8, 0, 0, 0);
        for at in (24..256).step_by(16) {
            taker.memory.word(at).store(stale, Ordering::Relaxed);
        }
        let posting = thread::spawn(move || {
            poster.producer.zero_ahead();
            poster.post(&[1]).unwrap();
            poster.producer.zero_ahead();
            poster.post(&[2]).unwrap();
        });
        let mut expected = 1;
        for _ in 0..4 {
            if let Some(words) = taker.take() {
                assert_eq!(words, [expected]);
                expected += 1;
            }
        }
        posting.join().unwrap();
        while let Some(words) = taker.take() {
            assert_eq!(words, [expected]);
            expected += 1;
        }
        assert_eq!(expected, 3);
    });
}
