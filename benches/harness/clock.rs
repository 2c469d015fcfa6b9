//! For contenders of whose work only a part is to be timed: what is moved has to be made first, and
//! put away afterwards.

use std::process;
use std::time::{Duration, Instant};

use super::{Order, Partner, Waiting, next_order};

/// Adds up the time of some parts of the work.
pub struct Clock(Duration);

impl Clock {
    /// Times this part. Reading the clock twice is in it, and nothing beside the microseconds of a
    /// system call.
    pub fn time<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let begun = Instant::now();
        let result = work();
        self.0 += begun.elapsed();
        result
    }
}

/// As [`lead`](super::lead), but what counts is the time that `half` takes between its calls of
/// [`Clock::time`]. There are not so many units in a slice here, so a quarter is warm-up enough.
pub fn lead(partner: &mut impl Partner, waiting: Waiting, mut half: impl FnMut(u64, &mut Clock)) {
    while let Some(order) = next_order() {
        let order = Order {
            warm_up: order.warm_up.min(order.units / 4),
            ..order
        };
        partner.tell(order);
        half(order.warm_up, &mut Clock(Duration::ZERO));
        let waited = || waiting.waited(process::id(), partner.process());
        let waited_before = waited();
        let mut clock = Clock(Duration::ZERO);
        let begun = Instant::now();
        half(order.units, &mut clock);
        // Of what they waited, as much fell into the timed parts as these are of the whole.
        let timed = clock.0.as_secs_f64() / begun.elapsed().as_secs_f64();
        let waited = (waited() - waited_before) as f64 * timed;
        println!("{} {waited:.0} ", clock.0.as_nanos());
    }
}

/// The partner of a lead that does all of the work.
pub struct Nobody;

impl Partner for Nobody {
    fn tell(&mut self, _: Order) {}

    /// No process, so it never waits.
    fn process(&self) -> u32 {
        0
    }
}
