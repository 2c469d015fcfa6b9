//! Receiving: S17, S22 and S23. What a message shows is in `reading.rs`.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{AT_ONCE, Counters, channel, channel_of, next, nothing, sample};
use ringport::MessagePort;

roles! { asks_and_waits, echo }

/// Sends back what comes, until the end.
fn echo() {
    let port = common::parent();
    port.set_wait_strategy(common::strategy());
    for event in port.iter() {
        port.post_bytes(event.bytes()).unwrap();
    }
}

#[test]
fn s17_try_recv_never_waits() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    for _ in 0..3 {
        assert!(port2.try_recv().unwrap().is_none());
    }
    port1.post_bytes(b"x").unwrap();
    assert_eq!(port2.try_recv().unwrap().unwrap().bytes(), b"x");
    assert!(port2.try_recv().unwrap().is_none());
}

#[test]
fn s17_recv_timeout_waits_so_long_and_no_longer() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port1, port2) = channel();
        port2.set_wait_strategy(strategy);
        for millis in [0, 1, 40] {
            let timeout = Duration::from_millis(millis);
            let start = Instant::now();
            assert!(port2.recv_timeout(timeout).unwrap().is_none());
            assert!(start.elapsed() >= timeout, "{strategy:?}: too early");
            assert!(
                start.elapsed() < timeout + AT_ONCE,
                "{strategy:?}: too late"
            );
        }
        port1.post_bytes(b"x").unwrap();
        // With a message there is nothing to wait for, however long one would.
        let event = port2.recv_timeout(Duration::MAX).unwrap().unwrap();
        assert_eq!(event.bytes(), b"x");
        drop(event);
        port1.post_bytes(b"y").unwrap();
        assert!(port2.recv_timeout(Duration::ZERO).unwrap().is_some());
    }
}

#[test]
fn s17_recv_waits_for_a_message_of_another_thread() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port1, port2) = channel();
        port2.set_wait_strategy(strategy);
        let (started, waits) = mpsc::channel();
        let receiver = thread::spawn(move || {
            started.send(common::thread_id()).unwrap();
            assert_eq!(port2.recv().unwrap().bytes(), b"first");
            let event = port2.recv_timeout(common::PATIENCE).unwrap().unwrap();
            assert_eq!(event.bytes(), b"second");
            drop(event);
            let event = port2.recv_timeout(Duration::MAX).unwrap().unwrap();
            assert_eq!(event.bytes(), b"third");
        });
        let thread = waits.recv().unwrap();
        for message in ["first", "second", "third"] {
            if strategy != ringport::WaitStrategy::Spin {
                common::until_asleep(std::process::id(), thread);
            }
            port1.post_bytes(message.as_bytes()).unwrap();
        }
        receiver.join().unwrap();
    }
}

#[test]
fn s17_many_round_trips_across_threads_and_processes() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port, far) = channel();
        let thread = thread::spawn(move || {
            far.set_wait_strategy(strategy);
            far.iter()
                .for_each(|event| far.post_bytes(event.bytes()).unwrap());
        });
        let mut command = common::command("echo");
        common::tell(&mut command, strategy, "");
        let (process, child) = ringport::Worker::spawn(command).unwrap().into_parts();
        for port in [&port, &process] {
            port.set_wait_strategy(strategy);
            for index in 0..common::turns(strategy, 500) {
                port.post_bytes(&sample(index)).unwrap();
                assert_eq!(port.recv().unwrap().bytes(), sample(index), "{strategy:?}");
            }
        }
        drop((port, process));
        thread.join().unwrap();
        common::end_well(child);
    }
}

#[test]
fn s17_recv_waits_for_a_message_of_another_process() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let counters = Counters::new();
        let mut command = common::command("asks_and_waits");
        counters.give_to(&mut command);
        common::tell(&mut command, strategy, "");
        let (port, child) = ringport::Worker::spawn(command).unwrap().into_parts();
        port.set_wait_strategy(strategy);
        assert_eq!(port.recv().unwrap().bytes(), b"what?");
        counters.until(Counters::READY, 1);
        if strategy != ringport::WaitStrategy::Spin {
            counters.until_asleep(child.id());
        }
        port.post_bytes(b"that").unwrap();
        assert_eq!(port.recv().unwrap().bytes(), b"that, then");
        common::end_well(child);
    }
}

fn asks_and_waits() {
    let (port, counters) = (common::parent(), Counters::given());
    port.set_wait_strategy(common::strategy());
    port.post_bytes(b"what?").unwrap();
    counters.ready();
    assert_eq!(port.recv().unwrap().bytes(), b"that");
    port.post_bytes(b"that, then").unwrap();
}

#[test]
fn s17_a_signal_does_not_end_a_wait() {
    let _quiet = common::descriptors();
    extern "C" fn ignore(_: libc::c_int) {}
    let handler = ignore as extern "C" fn(libc::c_int);
    // SAFETY: a zeroed sigaction is a valid one without flags, so calls are not restarted.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: `action` is valid for the call, and its handler does nothing at all.
    let set = unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let waits: [fn(&MessagePort) -> Vec<u8>; 2] = [
        |port| port.recv().unwrap().bytes().to_vec(),
        |port| next(port),
    ];
    for wait in waits {
        let (port1, port2) = channel();
        port2.set_wait_strategy(ringport::WaitStrategy::Block);
        let (started, waiting) = mpsc::channel();
        let receiver = thread::spawn(move || {
            started.send(common::thread_id()).unwrap();
            wait(&port2)
        });
        let (process, thread) = (std::process::id(), waiting.recv().unwrap());
        for _ in 0..20 {
            common::until_asleep(process, thread);
            // SAFETY: takes three numbers; the thread is ours and has not ended.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
            assert_eq!(sent, 0);
        }
        common::until_asleep(process, thread);
        port1.post_bytes(b"at last").unwrap();
        assert_eq!(receiver.join().unwrap(), b"at last");
    }
}

#[test]
fn s22_receiving_needs_no_start() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    (0..4).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    drop(port1);
    assert_eq!(port2.recv().unwrap().bytes(), sample(0));
    assert_eq!(port2.try_recv().unwrap().unwrap().bytes(), sample(1));
    let third = port2.recv_timeout(Duration::from_secs(1)).unwrap().unwrap();
    assert_eq!(third.bytes(), sample(2));
    let rest: Vec<_> = port2.iter().map(|event| event.bytes().to_vec()).collect();
    assert_eq!(rest, [sample(3)]);
}

#[test]
fn s23_a_stopped_peer_is_not_a_closed_peer() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let mut command = common::command("echo");
        common::tell(&mut command, strategy, "");
        let (port, child) = ringport::Worker::spawn(command).unwrap().into_parts();
        port.set_wait_strategy(strategy);
        port.post_bytes(b"awake?").unwrap();
        assert_eq!(next(&port), b"awake?");

        let process = child.id();
        signal(process, libc::SIGSTOP);
        common::until("it stopped", || {
            common::state(process, process) == Some('T')
        });
        port.post_bytes(b"and now?").unwrap();
        assert!(
            port.recv_timeout(Duration::from_millis(50))
                .unwrap()
                .is_none()
        );
        assert!(nothing(&port));
        assert!(!port.is_closed());
        assert_eq!(port.close_reason(), None);
        signal(process, libc::SIGCONT);
        assert_eq!(next(&port), b"and now?", "{strategy:?}");
        drop(port);
        common::end_well(child);
    }
}

fn signal(process: u32, signal: i32) {
    // SAFETY: the process is a child that has not been waited for; its number is its own.
    assert_eq!(unsafe { libc::kill(process as i32, signal) }, 0);
}

#[test]
fn iter_gives_every_message_and_ends_with_the_channel() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let poster = thread::spawn(move || {
        (0..1000).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    });
    let mut expected = 0;
    for event in port2.iter() {
        assert_eq!(event.bytes(), sample(expected));
        expected += 1;
    }
    assert_eq!(expected, 1000);
    assert!(port2.iter().next().is_none());
    poster.join().unwrap();
}
