//! Running a loop, its timers, and waking it.

use super::callback::{self, User, ringport_free_user, ringport_on_event};
use super::ringport_loop;
use crate::arguments::{given, output, patience};
use crate::failure::{Answer, Failure, answer};
use crate::settings::strategy;
use crate::status::*;
use ringport_rs::{LoopWaker, TimerId};
use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::Duration;

/// What wakes a loop, from any thread.
pub struct ringport_waker(LoopWaker);

/// Runs `call` with a loop that nobody runs, and keeps it as long as that takes.
unsafe fn run(
    events: *mut ringport_loop,
    call: impl FnOnce(&ringport_loop) -> Answer<()>,
) -> Answer<()> {
    struct Running(Rc<ringport_loop>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.running.set(false);
            if self.0.freed.get() {
                // SAFETY: the handles in its list are there: they leave it when they are freed.
                unsafe { self.0.clear() };
            }
        }
    }
    given(events, "events")?;
    let events = ringport_loop::share(events);
    if events.running.replace(true) {
        return Err(Failure::new(
            RINGPORT_BUSY,
            "the event loop runs already: this is one of its callbacks",
        ));
    }
    let running = Running(events);
    call(&running.0)
}

/// Runs callbacks until ringport_loop_stop is called, or nothing is left that could happen: no port, no listener, no process, no
/// timer, and no callback for wakes.
///
/// Answers RINGPORT_BUSY in a callback of the loop; RINGPORT_SYSTEM if it cannot wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_run(events: *mut ringport_loop) -> ringport_status {
    answer(|| run(events, |events| Ok(events.events.run_shared()?)))
}

/// Waits at most `timeout_ns` nanoseconds (RINGPORT_NO_WAIT, RINGPORT_FOREVER) until something happens, and runs the callbacks for
/// what is there. Every port that is ready has one turn.
///
/// Answers RINGPORT_NOT_YET if nothing happened in time, or when ringport_loop_run would return; else as that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_run_once(
    events: *mut ringport_loop,
    timeout_ns: i64,
) -> ringport_status {
    answer(|| {
        run(events, |events| {
            let any = events
                .events
                .run_once_shared(patience(timeout_ns).limit())?;
            if any { Ok(()) } else { Err(Failure::NotYet) }
        })
    })
}

/// Ends ringport_loop_run after the callback that runs now; what is not dispatched yet is when it is run again. When nothing runs,
/// the next run returns at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_stop(events: *mut ringport_loop) -> ringport_status {
    answer(|| {
        given(events, "events")?.events.stop();
        Ok(())
    })
}

/// Has `call` called once, after `delay_ns` nanoseconds or a little later. `timer` may be NULL; it gets the timer's number, which no
/// other has in this process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_set_timeout(
    events: *mut ringport_loop,
    delay_ns: u64,
    call: ringport_on_event,
    user: *mut c_void,
    free_user: ringport_free_user,
    timer: *mut u64,
) -> ringport_status {
    set_timer(events, call, timer, |inner, call| {
        let user = User::new(user, free_user);
        inner
            .events
            .set_timeout(Duration::from_nanos(delay_ns), move |_| {
                call(events, user.pointer())
            })
    })
}

/// Has `call` called every `period_ns` nanoseconds, less than a thousand counting as that, for the first time after one period.
/// When the loop is busy for longer than that, calls are left out.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_set_interval(
    events: *mut ringport_loop,
    period_ns: u64,
    call: ringport_on_event,
    user: *mut c_void,
    free_user: ringport_free_user,
    timer: *mut u64,
) -> ringport_status {
    set_timer(events, call, timer, |inner, call| {
        let user = User::new(user, free_user);
        inner
            .events
            .set_interval(Duration::from_nanos(period_ns), move |_| {
                call(events, user.pointer())
            })
    })
}

type Call = unsafe extern "C" fn(events: *mut ringport_loop, user: *mut c_void);

unsafe fn set_timer(
    events: *mut ringport_loop,
    call: ringport_on_event,
    timer: *mut u64,
    set: impl FnOnce(&ringport_loop, Call) -> TimerId,
) -> ringport_status {
    answer(|| {
        let (inner, call) = (given(events, "events")?, callback::given(call)?);
        let id = set(inner, call);
        if !timer.is_null() {
            timer.write(id.into());
        }
        Ok(())
    })
}

/// Calls off a timer. Answers RINGPORT_NOT_IN_LOOP if it is over, or was called off before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_clear_timer(
    events: *mut ringport_loop,
    timer: u64,
) -> ringport_status {
    answer(|| {
        given(events, "events")?;
        // It outlives the call, whatever that does which frees what belongs to the callback.
        let events = ringport_loop::share(events);
        if events.events.clear_timer(TimerId::from(timer)) {
            Ok(())
        } else {
            Err(Failure::new(
                RINGPORT_NOT_IN_LOOP,
                format!("timer {timer} is not set in this event loop"),
            ))
        }
    })
}

/// Has `call` called after ringport_waker_wake: once for all wakes since the last time. It stays until it is replaced, and as long
/// as it is there ringport_loop_run goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_on_wake(
    events: *mut ringport_loop,
    call: ringport_on_event,
    user: *mut c_void,
    free_user: ringport_free_user,
) -> ringport_status {
    answer(|| {
        given(events, "events")?;
        let (inner, call) = (ringport_loop::share(events), callback::given(call)?);
        let user = User::new(user, free_user);
        inner.events.on_wake(move |_| call(events, user.pointer()));
        Ok(())
    })
}

/// Makes what wakes the loop from another thread. The caller frees it, before or after the loop.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_waker(
    events: *mut ringport_loop,
    waker: *mut *mut ringport_waker,
) -> ringport_status {
    answer(|| {
        let (events, output) = (given(events, "events")?, output(waker, "waker")?);
        output.write(Box::into_raw(Box::new(ringport_waker(
            events.events.waker(),
        ))));
        Ok(())
    })
}

/// Wakes the loop, from any thread: its wake callback is called, and in any case a ringport_loop_run_once that waits returns. When
/// the loop is gone nothing happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_waker_wake(waker: *const ringport_waker) -> ringport_status {
    answer(|| {
        given(waker, "waker")?.0.wake();
        Ok(())
    })
}

/// Frees a waker. NULL is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_waker_free(waker: *mut ringport_waker) {
    answer(|| {
        if !waker.is_null() {
            drop(Box::from_raw(waker));
        }
        Ok(())
    });
}

/// The loop's own descriptor, for a loop around it: readable, level-triggered, when ringport_loop_run_once has something to do. It
/// stays the loop's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_fd(
    events: *mut ringport_loop,
    fd: *mut c_int,
) -> ringport_status {
    answer(|| {
        let (events, output) = (given(events, "events")?, output(fd, "fd")?);
        output.write(events.events.as_fd().as_raw_fd());
        Ok(())
    })
}

/// Chooses how the loop waits; how its ports would by themselves does not matter. `strategy` is a ringport_wait_strategy;
/// RINGPORT_INVALID if not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_set_wait_strategy(
    events: *mut ringport_loop,
    strategy: i32,
) -> ringport_status {
    answer(|| {
        given(events, "events")?
            .events
            .set_wait_strategy(self::strategy(strategy)?);
        Ok(())
    })
}
