//! Running: how long `run` and `run_once` wait, what wakes them, what ends them, and that a panic of a handler breaks
//! nothing.

mod common;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{AT_ONCE, PATIENCE, STRATEGIES, channel, closed, now, sample};
use ringport::{CloseReason, EventLoop, WaitStrategy};
use stage::{Log, run_to_the_end, run_until, settle};

#[test]
fn run_returns_at_once_when_nothing_is_left_and_not_before() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let log = &Log::new();
    let mut events = EventLoop::new().unwrap();
    events.run().unwrap();
    assert!(!events.run_once(None).unwrap(), "nothing could happen");
    events.set_timeout(Duration::from_millis(5), |_| log.add("timeout"));
    events.run().unwrap();
    assert_eq!(log.take(), ["timeout"]);
    // A port that is not started counts as well: its peer can close it.
    let id = events.add(port2).unwrap().id();
    events.set_timeout(Duration::from_millis(5), move |events| {
        log.add("timeout");
        drop(events.remove(id).unwrap());
    });
    events.run().unwrap();
    assert_eq!(log.take(), ["timeout"]);
    assert!(port1.is_closed());
    let timer = events.set_interval(Duration::from_millis(1), |_| log.add("interval"));
    events.set_timeout(Duration::from_millis(20), move |events| {
        assert!(events.clear_timer(timer));
        assert!(!events.clear_timer(timer));
    });
    events.run().unwrap();
    assert!(log.len() > 1);
}

#[test]
fn a_handler_for_wakes_keeps_run_running() {
    let _quiet = common::descriptors();
    let wakes = Cell::new(0);
    let mut events = EventLoop::new().unwrap();
    events.on_wake(|events| {
        wakes.set(wakes.get() + 1);
        events.stop();
    });
    let waker = events.waker();
    let thread = common::thread_id();
    for strategy in STRATEGIES {
        events.set_wait_strategy(strategy);
        wakes.set(0);
        let waker = waker.clone();
        let other = thread::spawn(move || {
            common::until_asleep(std::process::id(), thread);
            waker.wake();
        });
        events.run().unwrap();
        assert_eq!(wakes.get(), 1, "{strategy:?}");
        other.join().unwrap();
    }
}

#[test]
fn wakes_that_come_together_are_one_call_and_those_after_it_another() {
    let _quiet = common::descriptors();
    let wakes = Cell::new(0);
    let mut events = EventLoop::new().unwrap();
    let (waker, again) = (events.waker(), events.waker());
    events.on_wake(move |_| {
        wakes.set(wakes.get() + 1);
        if wakes.get() == 1 {
            again.wake();
            again.wake();
        }
        assert!(wakes.get() <= 2);
    });
    (0..100).for_each(|_| waker.wake());
    assert!(events.run_once(Some(Duration::ZERO)).unwrap());
    assert!(events.run_once(Some(Duration::ZERO)).unwrap());
    assert!(!events.run_once(Some(Duration::ZERO)).unwrap());
    drop(events);
    // Nobody is there any more, which harms nobody.
    waker.wake();
}

#[test]
fn no_wake_is_lost_however_they_fall() {
    let _quiet = common::descriptors();
    const WAKES: u64 = 20_000;
    for strategy in STRATEGIES {
        let (asked, seen) = (AtomicU64::new(0), Cell::new(0));
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let waker = events.waker();
        events.on_wake(|events| {
            seen.set(asked.load(Ordering::SeqCst));
            if seen.get() == WAKES {
                events.stop();
            }
        });
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..WAKES {
                    asked.fetch_add(1, Ordering::SeqCst);
                    waker.wake();
                }
            });
            events.run().unwrap();
        });
        assert_eq!(seen.get(), WAKES, "{strategy:?}");
    }
}

#[test]
fn a_wake_ends_a_run_once_also_without_a_handler() {
    let _quiet = common::descriptors();
    let (_port1, port2) = channel();
    for strategy in STRATEGIES {
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let (_other1, other2) = channel();
        events.add(other2).unwrap().on_message(|_, _| ());
        let waker = events.waker();
        let thread = common::thread_id();
        let other = thread::spawn(move || {
            // One that spins does so for its port, which had no turn yet.
            if strategy != WaitStrategy::Spin {
                common::until_asleep(std::process::id(), thread);
            }
            waker.wake();
        });
        let start = Instant::now();
        events.run_once(Some(PATIENCE)).unwrap();
        assert!(start.elapsed() < AT_ONCE, "{strategy:?}");
        other.join().unwrap();
    }
    drop(port2);
}

#[test]
fn run_once_keeps_its_timeout_and_says_whether_there_was_anything() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (port1, port2) = channel();
        let count = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let id = events.add(port2).unwrap().id();
        let attached = events.port(id).unwrap();
        attached.on_message(|_, _| count.set(count.get() + 1));
        drop(attached);
        settle(&mut events);
        for micros in [0, 1, 300, 2_500, 20_000] {
            // With a port that was just busy, and with one that sleeps.
            for busy in [true, false] {
                if busy {
                    port1.post_bytes(b"x").unwrap();
                    count.set(0);
                    assert!(events.run_once(Some(PATIENCE)).unwrap());
                    assert_eq!(count.get(), 1);
                }
                let timeout = Duration::from_micros(micros);
                let start = Instant::now();
                assert!(!events.run_once(Some(timeout)).unwrap());
                let waited = start.elapsed();
                assert!(waited >= timeout, "{strategy:?}, {timeout:?}: {waited:?}");
                assert!(waited < timeout + AT_ONCE);
            }
        }
        port1.post_bytes(b"x").unwrap();
        assert!(events.run_once(Some(Duration::MAX)).unwrap());
        port1.post_bytes(b"x").unwrap();
        assert!(events.run_once(None).unwrap());
        // What was taken by hand, or taken out, is nothing that happens.
        port1.post_bytes(b"x").unwrap();
        assert_eq!(now(&events.port(id).unwrap()), b"x");
        let start = Instant::now();
        assert!(!events.run_once(Some(Duration::from_millis(20))).unwrap());
        assert!(start.elapsed() >= Duration::from_millis(20), "{strategy:?}");
        let (other1, other2) = channel();
        let other = events.add(other2).unwrap().on_message(|_, _| ()).id();
        other1.post_bytes(b"x").unwrap();
        settle(&mut events);
        drop(events.remove(other).unwrap());
        let start = Instant::now();
        assert!(!events.run_once(Some(Duration::from_millis(20))).unwrap());
        assert!(start.elapsed() >= Duration::from_millis(20), "{strategy:?}");
    }
}

#[test]
fn a_stop_from_outside_ends_the_next_run_at_once_and_only_that() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let count = Cell::new(0);
    let mut events = EventLoop::new().unwrap();
    events
        .add(port2)
        .unwrap()
        .on_message(|_, _| count.set(count.get() + 1));
    events.stop();
    port1.post_bytes(b"x").unwrap();
    events.run().unwrap();
    assert_eq!(count.get(), 0);
    drop(port1);
    events.run().unwrap();
    assert_eq!(count.get(), 1);
    let (_port1, port2) = channel();
    events.add(port2).unwrap().on_message(|_, _| ());
    events.stop();
    let start = Instant::now();
    assert!(
        !events.run_once(Some(PATIENCE)).unwrap(),
        "run would return"
    );
    assert!(start.elapsed() < AT_ONCE);
    let timeout = Duration::from_millis(10);
    assert!(!events.run_once(Some(timeout)).unwrap());
    assert!(start.elapsed() >= timeout, "that one was not stopped");
}

#[test]
fn a_stop_from_outside_ends_a_run_once_that_would_wait_for_long_and_only_that() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (port1, port2) = channel();
        let count = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let port = events.add(port2).unwrap();
        port.on_message(|_, _| count.set(count.get() + 1));
        drop(port);
        let timer = events.set_timeout(PATIENCE, |_| panic!("it was called off"));
        let later = events.set_timeout(PATIENCE, |_| panic!("it was called off"));
        assert!(timer < later, "later ids are greater");
        for waiting in [false, true] {
            if waiting {
                port1.post_bytes(b"x").unwrap();
            }
            let start = Instant::now();
            events.stop();
            events.stop();
            assert!(!events.run_once(None).unwrap(), "{strategy:?}");
            assert!(start.elapsed() < AT_ONCE, "{strategy:?}");
            assert_eq!(count.get(), 0, "nothing runs in one that is stopped");
        }
        assert!(events.run_once(None).unwrap(), "that one was not stopped");
        assert_eq!(count.get(), 1);
        assert!(events.clear_timer(timer) && events.clear_timer(later));
    }
}

#[test]
fn timers_come_when_due_in_order_and_none_is_early() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let log = Log::new();
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let log = &log;
        for index in 0..200u64 {
            let delay = Duration::from_micros(index * 7919 % 200 * 50);
            let due = Instant::now() + delay;
            events.set_timeout(delay, move |_| {
                assert!(Instant::now() >= due, "{strategy:?}: early");
                log.add(due);
            });
        }
        events.run().unwrap();
        let seen = log.take();
        assert_eq!(seen.len(), 200);
        // Those that were set later by less than what their delays differ.
        let swapped = seen.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert_eq!(swapped, 0, "{strategy:?}");
    }
}

#[test]
fn a_timer_set_by_a_timer_comes_in_a_later_round_and_may_call_off_others() {
    let _quiet = common::descriptors();
    let log = &Log::new();
    let own = &Cell::new(None);
    let mut events = EventLoop::new().unwrap();
    let never = events.set_timeout(Duration::from_millis(1), |_| panic!("it was called off"));
    events.set_timeout(Duration::ZERO, move |events| {
        log.add(1);
        assert!(events.clear_timer(never));
        events.set_timeout(Duration::ZERO, |_| log.add(3));
    });
    events.set_timeout(Duration::ZERO, |_| log.add(2));
    let interval = events.set_interval(Duration::from_micros(1), |events| {
        let timer = own.get().unwrap();
        assert!(events.clear_timer(timer), "it would have come again");
        assert!(!events.clear_timer(timer));
    });
    own.set(Some(interval));
    events.run().unwrap();
    assert_eq!(log.take(), [1, 2, 3]);
    // Longer than the clock can tell.
    let timer = events.set_timeout(Duration::MAX, |_| panic!("too early"));
    assert!(!events.run_once(Some(Duration::from_millis(1))).unwrap());
    assert!(events.clear_timer(timer));
}

#[test]
fn an_interval_that_was_missed_is_left_out() {
    let _quiet = common::descriptors();
    let count = Cell::new(0);
    let start = Instant::now();
    let mut events = EventLoop::new().unwrap();
    events.set_interval(Duration::from_millis(2), |events| {
        count.set(count.get() + 1);
        if count.get() == 1 {
            // Busy for ten periods.
            while start.elapsed() < Duration::from_millis(22) {
                std::hint::spin_loop();
            }
        }
        if count.get() == 5 {
            events.stop();
        }
    });
    events.run().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(28), "made up for");
}

#[test]
fn a_panic_comes_out_of_run_and_the_loop_goes_on() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (port1, port2) = channel();
        let (other1, other2) = channel();
        let log = Log::new();
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        events.add(port2).unwrap().on_message(|_, event| {
            log.add(event.bytes().to_vec());
            if event.bytes()[0] % 2 == 1 {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
        });
        events
            .add(other2)
            .unwrap()
            .on_message(|_, event| log.add(event.bytes().to_vec()));
        (0..6u8).for_each(|index| port1.post_bytes(&[index]).unwrap());
        (10..13u8).for_each(|index| other1.post_bytes(&[index]).unwrap());
        let mut panics = 0;
        while log.len() < 9 {
            let run = catch_unwind(AssertUnwindSafe(|| {
                events.run_once(Some(PATIENCE)).unwrap()
            }));
            panics += u32::from(run.is_err());
        }
        assert_eq!(panics, 3);
        let mut seen = log.take();
        seen.sort();
        assert_eq!(seen.concat(), [0, 1, 2, 3, 4, 5, 10, 11, 12]);
        assert_eq!(events.len(), 2);
        // The handler is still there, and so is the port's end.
        port1.post_bytes(&[8]).unwrap();
        drop((port1, other1));
        run_to_the_end(&mut events);
        assert_eq!(log.take(), [[8]]);
    }
}

#[test]
fn a_panic_in_any_other_handler_breaks_nothing_either() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (other1, other2) = channel();
    let log = Log::new();
    let panic = |text: &'static str| {
        log.add(text);
        std::panic::resume_unwind(Box::new(text));
    };
    let mut events = EventLoop::new().unwrap();
    events
        .add(port2)
        .unwrap()
        .on_message_error(|_, _| panic("error"))
        .on_data::<String>(|_, _| log.add("data"))
        .on_close(|_, _| panic("close"));
    events.add(other2).unwrap().on_message(|_, event| {
        event.port().post_bytes(b"echo").unwrap();
    });
    events.on_wake(|_| panic("wake"));
    let interval = events.set_interval(Duration::from_millis(1), |_| panic("interval"));
    let expect = |events: &mut EventLoop<'_>, what: &str, again: bool| {
        let start = Instant::now();
        let mut seen = Vec::new();
        while !seen.contains(&what) {
            let run = catch_unwind(AssertUnwindSafe(|| {
                events.run_once(Some(PATIENCE)).unwrap()
            }));
            assert!(run.is_err() || log.is_empty() || log.take() == ["data"]);
            seen.append(&mut log.take());
            assert!(start.elapsed() < PATIENCE, "no {what}");
        }
        assert!(again || seen.iter().filter(|seen| **seen == what).count() == 1);
    };
    expect(&mut events, "interval", true);
    expect(&mut events, "interval", true);
    events.set_timeout(Duration::from_millis(3), |_| panic("timeout"));
    expect(&mut events, "timeout", false);
    port1.post_bytes(&[0xff; 3]).unwrap();
    expect(&mut events, "error", false);
    port1.post_bytes(&[0xff; 3]).unwrap();
    expect(&mut events, "error", false);
    drop(port1);
    expect(&mut events, "close", false);
    assert!(events.clear_timer(interval));
    assert_eq!(events.len(), 1, "also whose close handler panics has left");
    let waker = events.waker();
    for _ in 0..2 {
        waker.wake();
        let run = catch_unwind(AssertUnwindSafe(|| events.run()));
        assert!(run.is_err());
        assert_eq!(log.take(), ["wake"]);
    }
    other1.post_bytes(b"x").unwrap();
    run_until(&mut events, "it echoes", || other1.pending() > 0);
    assert_eq!(now(&other1), b"echo");
    drop(events);
    assert_eq!(closed(other1.recv()), CloseReason::ClosedByPeer);
}

/// Does nothing, so that a signal interrupts system calls and no more.
extern "C" fn on_signal(_signal: libc::c_int) {}

#[test]
fn signals_do_not_end_a_run() {
    let _quiet = common::descriptors();
    // SAFETY: an all-zero sigaction is one without flags, so that system calls are not restarted.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    // SAFETY: a handler that does nothing is safe at any time; no old action is asked for.
    let set = unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    for strategy in [WaitStrategy::Adaptive, WaitStrategy::Block] {
        let (port1, port2) = channel();
        let (count, ticks) = (Cell::new(0), Cell::new(0));
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        events
            .add(port2)
            .unwrap()
            .on_message(|_, event| {
                assert_eq!(event.bytes(), sample(count.get()));
                count.set(count.get() + 1);
            })
            .on_close(|events, _| events.stop());
        events.set_interval(Duration::from_micros(700), |_| ticks.set(ticks.get() + 1));
        let thread = common::thread_id() as i32;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    // SAFETY: a signal that is handled, to a thread of this process that runs until `over`.
                    unsafe {
                        libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1)
                    };
                    thread::yield_now();
                }
            });
            scope.spawn(move || {
                for index in 0..300 {
                    port1.post_bytes(&sample(index)).unwrap();
                    thread::park_timeout(Duration::from_micros(100));
                }
            });
            events.run().unwrap();
            over.store(true, Ordering::SeqCst);
        });
        assert_eq!(count.get(), 300);
        assert!(ticks.get() > 0);
        let start = Instant::now();
        assert!(events.run_once(None).is_ok());
        assert!(start.elapsed() < AT_ONCE);
    }
}
