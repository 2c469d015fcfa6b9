//! The system's clocks: those too that count what a thread computes.

use std::time::Duration;

/// What a clock shows. `CLOCK_THREAD_CPUTIME_ID` is the time that this thread has computed.
pub fn time_by(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec.
    let got = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(got, 0, "clock {clock}");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
