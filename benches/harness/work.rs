//! What a contender implements, and the loops that all of them go through: round trips and streams.

use std::env;
use std::hint::spin_loop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use super::stopwatch::Stopwatch;
use super::{Partner, Waiting, lead, payload, peer};

/// One end of whatever carries messages of `LENGTH` bytes, in order.
pub trait End<const LENGTH: usize> {
    /// Sends message `sequence`, all of whose words it writes anew ([`payload::fill`]), in place if the
    /// carrier can. Waits for room.
    fn send(&mut self, sequence: u64);

    /// Waits for the next message and shows its bytes, in place if the carrier can.
    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R;
}

/// Calls a function that is generic over a length with one that is known at run time only. A program knows
/// how long its messages are; so the benches are built for each.
#[macro_export]
macro_rules! for_length {
    ($length:expr, $function:ident $(::<$type:ty>)? ($($argument:expr),* $(,)?)) => {
        $crate::for_length!(@ $length, $function [$($type,)?] ($($argument),*)
            8 48 56 64 256 512 1024 4096 16384 32768 262144 1048576 2097152 16777216)
    };
    (@ $length:expr, $function:ident $types:tt $arguments:tt $($known:literal)*) => {
        match $length {
            $($known => $crate::for_length!(! $function $known $types $arguments),)*
            other => panic!("no contender is built for {other} bytes"),
        }
    };
    (! $function:ident $known:literal [$($type:ty,)?] ($($argument:expr),*)) => {
        $function::<$known $(, $type)?>($($argument),*)
    };
}

/// What the answer to message `sequence` is numbered: anything but the same.
pub fn answer(sequence: u64) -> u64 {
    !sequence
}

/// Reads all of a message, and checks that it is the one expected.
#[inline(always)]
pub fn check<const LENGTH: usize>(bytes: &[u8], sequence: u64) {
    assert_eq!(bytes.len(), LENGTH);
    let sum = payload::expected(LENGTH, sequence, 1);
    assert_eq!(payload::sum(bytes), sum, "message {sequence}");
}

/// The lead of a contender that does round trips: sends a question, takes its answer.
pub fn lead_rounds<const LENGTH: usize>(
    end: &mut impl End<LENGTH>,
    partner: &mut impl Partner,
    waiting: Waiting,
    mut watch: Option<Stopwatch>,
) {
    let mut sequence = 0;
    lead(partner, waiting, |units| {
        if let Some(watch) = &mut watch {
            watch.reset();
        }
        for _ in 0..units {
            end.send(sequence);
            end.take(|bytes| check::<LENGTH>(bytes, answer(sequence)));
            sequence += 1;
            if let Some(watch) = &mut watch {
                watch.lap();
            }
        }
        watch.as_ref().map_or_else(String::new, Stopwatch::note)
    });
}

/// The peer of [`lead_rounds`]: takes every question, sends its answer.
pub fn peer_rounds<const LENGTH: usize>(end: &mut impl End<LENGTH>) {
    let mut sequence = 0;
    peer(|units| answer_rounds(end, &mut sequence, units));
}

/// The same for a peer that is a thread, which gets its orders otherwise.
pub fn answer_rounds<const LENGTH: usize>(
    end: &mut impl End<LENGTH>,
    sequence: &mut u64,
    units: u64,
) {
    for _ in 0..units {
        end.take(|bytes| check::<LENGTH>(bytes, *sequence));
        end.send(answer(*sequence));
        *sequence += 1;
    }
}

/// The lead of a contender that streams: sends so many messages, and waits until the other side has said
/// what it counted.
pub fn lead_stream<const LENGTH: usize>(
    end: &mut impl End<LENGTH>,
    partner: &mut impl Partner,
    waiting: Waiting,
    tally: &Tally,
) {
    let mut sequence = 0;
    lead(partner, waiting, |units| {
        for number in sequence..sequence + units {
            end.send(number);
        }
        tally.expect::<LENGTH>(sequence, units);
        sequence += units;
        String::new()
    });
}

/// The peer of [`lead_stream`]: reads every word of every message.
pub fn peer_stream<const LENGTH: usize>(end: &mut impl End<LENGTH>, tally: &Tally) {
    let mut sequence = 0;
    peer(|units| count_stream(end, &mut sequence, units, tally));
}

/// The same for a peer that is a thread, which gets its orders otherwise.
pub fn count_stream<const LENGTH: usize>(
    end: &mut impl End<LENGTH>,
    sequence: &mut u64,
    units: u64,
    tally: &Tally,
) {
    let (mut count, mut sum) = (0, 0u64);
    for _ in 0..units {
        sum = sum.wrapping_add(end.take(|bytes| sum_of::<LENGTH>(bytes, *sequence + count)));
        count += 1;
    }
    *sequence += count;
    tally.say(*sequence, sum);
}

/// The sum of all words of message `sequence` of a stream.
#[inline(always)]
pub fn sum_of<const LENGTH: usize>(bytes: &[u8], sequence: u64) -> u64 {
    assert_eq!(bytes.len(), LENGTH);
    assert_eq!(bytes[..8], sequence.to_le_bytes(), "out of order");
    payload::sum(bytes)
}

const MAP: &str = "RINGPORT_BENCH_TALLY";

/// A page of memory in which the taking side of a stream says what it counted, so that a contender need not
/// carry anything back.
pub struct Tally(MmapRaw);

impl Tally {
    /// How many messages came so far; the sum of those of the last half. A line each.
    const COUNT: usize = 0;
    const SUM: usize = 128;
    const LENGTH: usize = 4096;

    /// A new page, and the file to hand on.
    pub fn make() -> (OwnedFd, Tally) {
        // Not close-on-exec: the peer inherits the descriptor under its number.
        let file = memfd_create("bench-tally", MFdFlags::empty()).expect("a memfd");
        ftruncate(&file, Tally::LENGTH as i64).expect("a page of memory");
        let tally = Tally::map(file.as_raw_fd());
        (file, tally)
    }

    /// Lets the process that `command` starts find the page in `file`.
    pub fn hand_on<'a>(command: &'a mut Command, file: &OwnedFd) -> &'a mut Command {
        command.env(MAP, file.as_raw_fd().to_string())
    }

    /// The page that was handed on to this process.
    pub fn inherited() -> Tally {
        let file = env::var(MAP).expect("the lead says which descriptor");
        Tally::map(file.parse().expect("a descriptor is a number"))
    }

    fn map(file: i32) -> Tally {
        let map = MmapOptions::new().len(Tally::LENGTH).map_raw(file);
        Tally(map.expect("a page can be mapped"))
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset < Tally::LENGTH && offset % 8 == 0);
        // SAFETY: the offset was just checked; the memory stays mapped as long as `self`, and both sides
        // touch it only through atomics.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().add(offset).cast()) }
    }

    /// Says that so many messages came in all, and the sum of those of this half.
    pub fn say(&self, count: u64, sum: u64) {
        self.word(Tally::SUM).store(sum, Ordering::Relaxed);
        self.word(Tally::COUNT).store(count, Ordering::Release);
    }

    /// Waits until the messages of this half have come, and checks their sum.
    pub fn expect<const LENGTH: usize>(&self, sequence: u64, units: u64) {
        while self.word(Tally::COUNT).load(Ordering::Acquire) != sequence + units {
            spin_loop();
        }
        let sum = self.word(Tally::SUM).load(Ordering::Relaxed);
        assert_eq!(sum, payload::expected(LENGTH, sequence, units));
    }
}
