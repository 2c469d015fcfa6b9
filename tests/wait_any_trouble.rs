//! Waiting for one of several ports when things go wrong: deaths, stopped peers, shortages, forks, signals, and rings
//! that mean nothing.

#[path = "forking/child.rs"]
mod child;
mod common;
#[path = "common/forger.rs"]
mod forger;
#[path = "polling/gauges.rs"]
mod gauges;
#[path = "common/ports.rs"]
mod ports;

use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use child::{fork, leave};
use common::{
    AT_ONCE, Counters, PATIENCE, STRATEGIES, channel, closed, kill, nothing, now, on_stage, sample,
    victim,
};
use forger::{Forger, PORT, RING};
use gauges::{A_WHILE, Cost, assert_idle};
use ringport::{CloseReason, MessagePort, RecvError, WaitStrategy, wait_any};

roles! { is_quiet, answers, lacks_descriptors }

fn is_quiet() {
    let (_port, counters) = on_stage();
    counters.ready();
    common::idle();
}

/// Which of these is ready, which one must be before long.
#[track_caller]
fn found(ports: &[&MessagePort]) -> usize {
    let found = wait_any(ports, Some(PATIENCE)).unwrap();
    found.expect("one that is ready, in time")
}

#[test]
fn s52_a_death_wakes_at_once() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (port, mut child, counters) = victim("is_quiet", WaitStrategy::Block, "");
        counters.until(Counters::READY, 1);
        let (near, _far) = channel();
        near.set_wait_strategy(strategy);
        port.set_wait_strategy(strategy);
        let waiter = ports::waiting(strategy, move || {
            assert_eq!(found(&[&near, &port]), 1);
            assert_eq!(closed(port.try_recv()), CloseReason::PeerGone);
        });
        let start = Instant::now();
        kill(&mut child);
        waiter.join().unwrap();
        assert!(start.elapsed() < AT_ONCE);
    }
}

#[test]
fn s52_a_death_is_told_also_beside_one_that_is_always_ready() {
    let _quiet = common::descriptors();
    let (port, mut child, counters) = victim("is_quiet", WaitStrategy::Block, "");
    counters.until(Counters::READY, 1);
    let (busy, far) = channel();
    far.post_bytes(b"there").unwrap();
    kill(&mut child);
    common::until("the death is found", || found(&[&busy, &port]) == 1);
    assert_eq!(closed(port.try_recv()), CloseReason::PeerGone);
}

#[test]
fn s23_a_stopped_peer_is_not_ready() {
    let _quiet = common::descriptors();
    let (port, child, counters) = victim("answers", WaitStrategy::Block, "");
    counters.until(Counters::READY, 1);
    let (near, _far) = channel();
    let signal = |signal| {
        // SAFETY: takes two numbers; the process is a child that was not waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
    };
    for round in 0..3 {
        signal(libc::SIGSTOP);
        common::until("it has stopped", || {
            common::state(child.id(), child.id()) == Some('T')
        });
        port.post_bytes(&sample(round)).unwrap();
        let waited = wait_any(&[&near, &port], Some(Duration::from_millis(100)));
        assert_eq!(waited.unwrap(), None);
        signal(libc::SIGCONT);
        assert_eq!(found(&[&near, &port]), 1);
        assert_eq!(now(&port), sample(round));
    }
    port.close();
    common::end_well(child);
}

fn answers() {
    let (port, counters) = on_stage();
    counters.ready();
    ports::echo(&port);
}

#[test]
fn s46_without_descriptors_it_fails_and_loses_nothing() {
    let _quiet = common::descriptors();
    let (port, child, counters) = victim("lacks_descriptors", WaitStrategy::Block, "");
    counters.set(Counters::READY, 1);
    assert_eq!(common::next(&port), b"ask");
    port.post_bytes(b"answer").unwrap();
    common::end_well(child);
}

fn lacks_descriptors() {
    let (boss, counters) = on_stage();
    counters.until(Counters::READY, 1);
    let (near, far) = channel();
    near.set_wait_strategy(WaitStrategy::Block);
    let mut files = vec![File::open("/dev/null").unwrap()];
    let limit = libc::rlimit {
        rlim_cur: 100,
        rlim_max: 100,
    };
    // SAFETY: `limit` is a valid rlimit for the length of the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    while let Ok(file) = files[0].try_clone() {
        files.push(file);
    }
    let list = [&boss, &near];
    // Each of the two needs one.
    for _spare in 0..2 {
        for _ in 0..10 {
            match wait_any(&list, Some(PATIENCE)) {
                Err(RecvError::System { source, .. }) => {
                    assert_eq!(source.raw_os_error(), Some(libc::EMFILE));
                }
                other => panic!("wanted a shortage, got {other:?}"),
            }
        }
        // What is there is found without.
        far.post_bytes(b"there").unwrap();
        assert_eq!(wait_any(&list, None).unwrap(), Some(1));
        assert_eq!(now(&near), b"there");
        files.pop();
    }
    boss.post_bytes(b"ask").unwrap();
    assert_eq!(found(&list), 0);
    assert_eq!(now(&boss), b"answer");
}

#[test]
fn s63_a_forked_child_cannot_wait() {
    let _quiet = common::descriptors();
    let (near, far) = channel();
    let (other, _kept) = channel();
    far.post_bytes(b"the parent's").unwrap();
    let Some(child) = fork() else {
        leave(move || {
            let (own, peer) = channel();
            peer.post_bytes(b"!").unwrap();
            for list in [&[&near][..], &[&own, &other], &[&near, &own]] {
                for timeout in [None, Some(Duration::ZERO)] {
                    let answer = wait_any(list, timeout);
                    assert!(matches!(answer, Err(RecvError::Forked)), "{answer:?}");
                }
            }
            assert_eq!(wait_any(&[&own], None).unwrap(), Some(0));
        })
    };
    child.ends_well();
    assert_eq!(found(&[&other, &near]), 1);
    assert_eq!(now(&near), b"the parent's");
}

#[test]
fn s17_a_signal_does_not_end_it() {
    static HEARD: AtomicU32 = AtomicU32::new(0);
    extern "C" fn hear(_: libc::c_int) {
        HEARD.fetch_add(1, Ordering::SeqCst);
    }
    let _quiet = common::descriptors();
    // SAFETY: zeroes are a valid sigaction; the handler only adds to an atomic.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = hear as *const () as usize;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()),
            0
        );
    }
    let (near, far) = channel();
    near.set_wait_strategy(WaitStrategy::Block);
    let (id, thread) = std::sync::mpsc::channel();
    let waiter = thread::spawn(move || {
        id.send(common::thread_id()).unwrap();
        let start = Instant::now();
        assert_eq!(wait_any(&[&near], Some(A_WHILE)).unwrap(), None);
        assert!(start.elapsed() >= A_WHILE);
        id.send(0).unwrap();
        assert_eq!(found(&[&near]), 0);
        assert_eq!(now(&near), b"!");
    });
    let id = thread.recv().unwrap();
    let interrupt = || {
        common::until_asleep(std::process::id(), id);
        let heard = HEARD.load(Ordering::SeqCst);
        // SAFETY: takes three numbers; the thread was not joined.
        let sent =
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), id, libc::SIGUSR1) };
        assert_eq!(sent, 0);
        common::until("the handler ran", || HEARD.load(Ordering::SeqCst) > heard);
    };
    (0..5).for_each(|_| interrupt());
    assert_eq!(thread.recv().unwrap(), 0);
    (0..5).for_each(|_| interrupt());
    far.post_bytes(b"!").unwrap();
    waiter.join().unwrap();
}

#[test]
fn s52_rings_for_nothing_end_nothing() {
    let _quiet = common::descriptors();
    let (near, far) = channel();
    let (other, _kept) = channel();
    near.set_wait_strategy(WaitStrategy::Block);
    other.set_wait_strategy(WaitStrategy::Block);
    let forger = Forger::of(far);
    for _ in 0..10 {
        forger.send(&[RING; 5], &[]).unwrap();
        let waited = wait_any(&[&near, &other], Some(Duration::from_millis(2)));
        assert_eq!(waited.unwrap(), None);
    }
    // Nor are they heard of for ever.
    let list = [&near, &other];
    let (waited, cost) = Cost::of(|| wait_any(&list, Some(A_WHILE)).unwrap());
    assert_eq!(waited, None);
    assert_idle(cost);
    forger.post(&[], b"!");
    forger.send(&[RING], &[]).unwrap();
    assert_eq!(found(&[&near, &other]), 0);
    assert_eq!(now(&near), b"!");
}

#[test]
fn s53_a_peer_that_breaks_the_protocol_is_found() {
    let _quiet = common::descriptors();
    let (near, far) = channel();
    let (other, _kept) = channel();
    let forger = Forger::of(far);
    forger.set(forger.at(forger.cursor()), 0xdead_beef);
    assert_eq!(found(&[&other, &near]), 1);
    assert_eq!(closed(near.try_recv()), CloseReason::Corrupt);
    assert_eq!(found(&[&other, &near]), 1);
    assert!(nothing(&other));
}

/// Descriptors that no record has announced yet, and many rings behind them.
fn clogged() -> (MessagePort, Forger, MessagePort) {
    let (near, far) = channel();
    let forger = Forger::of(far);
    let (kept, sent) = channel();
    forger.send_ports(vec![sent]).unwrap();
    forger.send(&[RING; 60], &[]).unwrap();
    assert!(!near.is_closed());
    (near, forger, kept)
}

#[test]
fn s52_one_that_cannot_be_rung_keeps_no_other_from_waking() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (near, forger, kept) = clogged();
        let (other, far) = channel();
        near.set_wait_strategy(strategy);
        other.set_wait_strategy(strategy);
        let waited = wait_any(&[&near, &other], Some(Duration::from_millis(20)));
        assert_eq!(waited.unwrap(), None);
        let waiter = ports::waiting(strategy, move || {
            assert_eq!(found(&[&near, &other]), 1);
            (near, other)
        });
        far.post_bytes(b"!").unwrap();
        let (near, other) = waiter.join().unwrap();
        assert_eq!(now(&other), b"!");
        // Also what comes there is found, though nobody rings for it.
        let waiter = ports::waiting(strategy, move || {
            assert_eq!(found(&[&near, &other]), 0);
            near
        });
        forger.post(&[PORT], b"late");
        let near = waiter.join().unwrap();
        let port = near.recv().unwrap().take_ports().remove(0);
        ports::assert_entangled(&kept, &port);
    }
}

#[test]
fn s52_the_end_of_one_that_cannot_be_rung_is_found() {
    let _quiet = common::descriptors();
    let (near, forger, kept) = clogged();
    let (other, _far) = channel();
    near.set_wait_strategy(WaitStrategy::Block);
    let waiter = ports::waiting(WaitStrategy::Block, move || {
        assert_eq!(found(&[&other, &near]), 1);
        closed(near.try_recv())
    });
    drop(forger);
    assert_eq!(waiter.join().unwrap(), CloseReason::PeerGone);
    assert_eq!(ports::told(&kept), CloseReason::PeerGone);
}

#[test]
fn s32_ports_that_arrive_join_the_list() {
    let _quiet = common::descriptors();
    let (boss, far) = channel();
    let mut clients = Vec::new();
    let mut received = vec![boss];
    for client in 0..20u64 {
        let (near, other) = channel();
        near.post_bytes(&sample(client)).unwrap();
        far.post_bytes_with(b"a client", [other]).unwrap();
        clients.push(near);
    }
    let mut heard = 0;
    while heard < 20 {
        let list: Vec<_> = received.iter().collect();
        let index = found(&list);
        if index == 0 {
            let port = received[0].recv().unwrap().take_ports().remove(0);
            received.push(port);
        } else {
            assert_eq!(now(&received[index]), sample(index as u64 - 1));
            heard += 1;
        }
    }
    drop(far);
    drop(clients);
    while !received.is_empty() {
        let list: Vec<_> = received.iter().collect();
        let index = found(&list);
        assert_eq!(
            closed(received[index].try_recv()),
            CloseReason::ClosedByPeer
        );
        received.remove(index);
    }
}
