//! What it takes to try things often: numbers that are the same each run, nearly right ones among them, and
//! an attacker that does not rest while the victim works.

#![allow(dead_code)] // each test binary uses a part of it

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// How often to try. Without optimisation everything takes several times as long.
pub const fn rounds(count: u64) -> u64 {
    if cfg!(debug_assertions) {
        count / 4
    } else {
        count
    }
}

/// Numbers that are the same each run.
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Seeded {
        Seeded(seed.wrapping_mul(0xd134_2543_de82_ef95))
    }

    pub fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number that is nearly `value`, or one of those at which arithmetic goes wrong.
    pub fn near(&mut self, value: u64, capacity: u64) -> u64 {
        let steps = [
            0,
            1,
            8,
            16,
            24,
            32,
            capacity / 2,
            capacity - 16,
            capacity,
            capacity + 16,
            2 * capacity,
            1 << 31,
            1 << 32,
            1 << 62,
            1 << 63,
        ];
        let ends = [0, 7, 8, 9, u32::MAX.into(), 1 << 63, u64::MAX - 7, u64::MAX];
        match self.below(16) {
            0 => self.pick(&ends),
            1 => self.next(),
            2..=5 => value ^ 1 << self.below(64),
            6..=10 => value.wrapping_add(self.pick(&steps)),
            _ => value.wrapping_sub(self.pick(&steps)),
        }
    }

    /// A position of a record: on the first lap, later, or where counting begins anew.
    pub fn position(&mut self) -> u64 {
        let lap = [0, 1 << 12, (1 << 32) - (1 << 13), 1 << 63, u64::MAX << 12];
        (self.pick(&lap) + self.below(256) * 16) | 8
    }
}

/// Says which seed it was when a round fails.
pub struct Round(pub u64);

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}", self.0);
        }
    }
}

/// Runs `attack` again and again in a thread of its own while `work` lasts.
pub fn during<T>(mut attack: impl FnMut() + Send, work: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                attack();
            }
        });
        // Also when `work` panics.
        let _stop = Stop(&over);
        work()
    })
}
