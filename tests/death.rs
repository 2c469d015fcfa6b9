//! Every way to die, in every state, against every way to wait: S51.
//!
//! The survivor must receive each message whose post had returned, then learn why it was the last.
//! What had returned is told by counters in memory of the test's own, which outlives the victim.

mod common;

use std::thread;

use common::{
    Counters, assert_over, closed, idle, kill, next, now, on_stage, post_closed, rest, sample,
    sample_of, victim,
};
use ringport::{CloseReason, WaitStrategy};

roles! {
    floods, floods_with_batches, drains, answers, has_a_batch_open, has_a_slot_open, has_an_event_in_place,
    receives_again_and_again, posts_for_ever, ends_as_told, never_asks,
}

/// Kills a producer in the middle of its work, again and again. It counts its messages when it has
/// published them, so many at a time.
fn kill_while_it_floods(role: &str, at_a_time: u64, rounds: usize) {
    let _quiet = common::descriptors();
    for round in 0..rounds {
        let strategy = common::STRATEGIES[round % 3];
        let (port, mut child, counters) = victim(role, strategy, "");
        port.set_wait_strategy(strategy);
        let (received, reason) = thread::scope(|scope| {
            scope.spawn(|| {
                counters.until(Counters::DONE, 200 + 333 * round as u64);
                kill(&mut child);
            });
            rest(&port, 0)
        });
        // It may have died after it published and before it could count that.
        let returned = counters.get(Counters::DONE);
        assert!(
            received == returned || received == returned + at_a_time,
            "{received} of {returned}"
        );
        assert_eq!(reason, CloseReason::PeerGone, "{strategy:?}");
        assert_over(&port, reason);
    }
}

#[test]
fn s51_every_returned_post_of_a_killed_producer_is_received() {
    kill_while_it_floods("floods", 1, 12);
}

fn floods() {
    let (port, counters) = on_stage();
    for index in 0.. {
        port.post_bytes(&sample(index)).unwrap();
        counters.set(Counters::DONE, index + 1);
    }
}

#[test]
fn s51_a_batch_of_a_killed_producer_is_there_whole_or_not_at_all() {
    kill_while_it_floods("floods_with_batches", 7, 9);
}

fn floods_with_batches() {
    let (port, counters) = on_stage();
    let mut index = 0;
    loop {
        let mut batch = port.batch();
        let posted = (0..7).take_while(|more| batch.post_bytes(&sample(index + more)).is_ok());
        if posted.count() == 7 {
            batch.publish();
            index += 7;
            counters.set(Counters::DONE, index);
        } else {
            drop(batch);
            thread::yield_now();
        }
    }
}

#[test]
fn s51_a_killed_consumer_ends_the_posting() {
    let _quiet = common::descriptors();
    for round in 0..6 {
        let strategy = common::STRATEGIES[round % 3];
        let (port, mut child, counters) = victim("drains", strategy, "");
        port.set_wait_strategy(strategy);
        let error = thread::scope(|scope| {
            scope.spawn(|| {
                counters.until(Counters::DONE, 500);
                kill(&mut child);
            });
            // A test of the bound too: the ring is full soon after the reader died.
            (0..u64::MAX).find_map(|index| port.post_bytes(&sample(index)).err())
        });
        assert_eq!(
            post_closed(Err(error.unwrap())),
            CloseReason::PeerGone,
            "{strategy:?}"
        );
        assert_over(&port, CloseReason::PeerGone);
    }
}

fn drains() {
    let (port, counters) = on_stage();
    for (event, index) in port.iter().zip(0..) {
        assert_eq!(event.bytes(), sample(index));
        counters.set(Counters::DONE, index + 1);
    }
}

#[test]
fn s51_a_peer_killed_between_question_and_answer() {
    let _quiet = common::descriptors();
    for round in 0..6 {
        let strategy = common::STRATEGIES[round % 3];
        let (port, mut child, counters) = victim("answers", strategy, "");
        port.set_wait_strategy(strategy);
        let (answers, asked) = thread::scope(|scope| {
            scope.spawn(|| {
                counters.until(Counters::DONE, 100);
                kill(&mut child);
            });
            let mut index = 0;
            loop {
                if port.post_bytes(&sample(index)).is_err() {
                    break (index, index);
                }
                match port.recv_timeout(common::PATIENCE) {
                    Ok(event) => assert_eq!(event.expect("an answer").bytes(), sample(index)),
                    Err(_) => break (index, index + 1),
                }
                index += 1;
            }
        });
        let returned = counters.get(Counters::DONE);
        assert!(
            answers >= returned && answers <= asked,
            "{answers} answers of {returned}"
        );
        assert_over(&port, CloseReason::PeerGone);
    }
}

fn answers() {
    let (port, counters) = on_stage();
    for (event, index) in port.iter().zip(0..) {
        port.post_bytes(event.bytes()).unwrap();
        counters.set(Counters::DONE, index + 1);
    }
}

/// Kills a victim of each strategy as soon as it is ready, then looks at what it left.
fn killed_when_ready(role: &str, asleep: bool) {
    for strategy in common::STRATEGIES {
        let (port, mut child, counters) = victim(role, strategy, "");
        counters.until(Counters::READY, 1);
        if asleep && strategy != WaitStrategy::Spin {
            counters.until_asleep(child.id());
        }
        kill(&mut child);
        let (received, reason) = rest(&port, 0);
        assert_eq!(
            received,
            counters.get(Counters::DONE),
            "{role}, {strategy:?}"
        );
        assert_eq!(reason, CloseReason::PeerGone, "{role}, {strategy:?}");
        assert_over(&port, reason);
    }
}

#[test]
fn s51_killed_with_a_batch_open() {
    let _quiet = common::descriptors();
    killed_when_ready("has_a_batch_open", true);
}

fn has_a_batch_open() {
    let (port, counters) = on_stage();
    (0..3).for_each(|index| port.post_bytes(&sample(index)).unwrap());
    counters.set(Counters::DONE, 3);
    let mut batch = port.batch();
    (0..5).for_each(|_| batch.post_bytes(b"never published").unwrap());
    counters.ready();
    idle();
}

#[test]
fn s51_killed_with_a_slot_open() {
    let _quiet = common::descriptors();
    killed_when_ready("has_a_slot_open", true);
}

fn has_a_slot_open() {
    let (port, counters) = on_stage();
    (0..3).for_each(|index| port.post_bytes(&sample(index)).unwrap());
    counters.set(Counters::DONE, 3);
    let mut slot = port.reserve(4000).unwrap();
    slot.write(&[0xff; 4000]);
    counters.ready();
    idle();
}

#[test]
fn s51_killed_while_it_waits_for_a_message() {
    let _quiet = common::descriptors();
    killed_when_ready("receives_again_and_again", true);
}

/// Waits for messages that never come: spins, or sleeps.
fn receives_again_and_again() {
    let (port, counters) = on_stage();
    (0..3).for_each(|index| port.post_bytes(&sample(index)).unwrap());
    counters.set(Counters::DONE, 3);
    counters.ready();
    let _ = port.recv().map(drop);
}

#[test]
fn s51_killed_while_it_waits_for_room() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port, mut child, counters) = victim("posts_for_ever", strategy, "");
        counters.until(Counters::READY, 1);
        if strategy != WaitStrategy::Spin {
            counters.until_asleep(child.id());
        }
        kill(&mut child);
        let (received, reason) = rest(&port, 0);
        assert_eq!(received, counters.get(Counters::DONE), "{strategy:?}");
        assert!(received > 100);
        assert_eq!(reason, CloseReason::PeerGone, "{strategy:?}");
        assert_over(&port, reason);
    }
}

/// Fills the ring, then waits for room that never comes.
fn posts_for_ever() {
    let (port, counters) = on_stage();
    for index in 0.. {
        if port.try_post_bytes(&sample(index)).is_err() {
            counters.set(Counters::DONE, index);
            counters.ready();
            port.post_bytes(&sample(index)).unwrap();
        }
    }
}

#[test]
fn s51_killed_with_a_message_in_its_hands() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port, mut child, counters) = victim("has_an_event_in_place", strategy, "");
        for index in 0..10 {
            port.post_bytes(&sample_of(index, 1000)).unwrap();
        }
        counters.until(Counters::READY, 1);
        kill(&mut child);
        assert_eq!(now(&port), sample(0));
        assert_over(&port, CloseReason::PeerGone);
    }
}

fn has_an_event_in_place() {
    let (port, counters) = on_stage();
    // SAFETY: the other end is held by the test, which posts through the library only.
    unsafe { port.trust_peer() };
    let _first = port.recv().unwrap();
    let _second = port.recv().unwrap();
    port.post_bytes(&sample(0)).unwrap();
    counters.ready();
    idle();
}

#[test]
fn s51_killed_with_a_ring_of_the_doorbell_unheard() {
    let _quiet = common::descriptors();
    for strategy in [WaitStrategy::Adaptive, WaitStrategy::Block] {
        let (port, mut child, counters) = victim("receives_again_and_again", strategy, "");
        counters.until_asleep(child.id());
        // Stopped, it cannot take the byte; a socket that dies with bytes unread says so to its peer.
        // SAFETY: the process is a child that has not been waited for; its number is its own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGSTOP) }, 0);
        common::until("it stopped", || {
            common::state(child.id(), child.id()) == Some('T')
        });
        port.post_bytes(b"wake up").unwrap();
        assert_eq!(port.stats().wakeups, 1, "{strategy:?}");
        kill(&mut child);
        assert_eq!(rest(&port, 0), (3, CloseReason::PeerGone), "{strategy:?}");
        assert_over(&port, CloseReason::PeerGone);
    }
}

#[test]
fn s51_a_worker_that_never_asked_for_its_port_is_gone_when_it_ends() {
    let _quiet = common::descriptors();
    let (port, child, _counters) = victim("never_asks", WaitStrategy::Block, "");
    port.set_wait_strategy(WaitStrategy::Block);
    let _ = port.post_bytes(b"anybody?");
    assert_eq!(closed(port.recv()), CloseReason::PeerGone);
    assert_over(&port, CloseReason::PeerGone);
    common::end_well(child);
}

fn never_asks() {}

#[test]
fn s51_every_way_to_end_is_a_close_and_says_which() {
    let _quiet = common::descriptors();
    use CloseReason::{ClosedByPeer, PeerGone};
    let ways = [
        ("abort", PeerGone),
        ("exit", PeerGone),
        ("kill", PeerGone),
        ("segfault", PeerGone),
        ("forgotten", PeerGone),
        // A panic unwinds through the owner of the port, whose drop closes it.
        ("panic", ClosedByPeer),
        ("return", ClosedByPeer),
        ("close", ClosedByPeer),
        ("close and abort", ClosedByPeer),
    ];
    for (how, reason) in ways {
        for strategy in common::STRATEGIES {
            let (port, mut child, _counters) = victim("ends_as_told", strategy, how);
            port.set_wait_strategy(strategy);
            assert_eq!(rest(&port, 0), (10, reason), "{how}, {strategy:?}");
            assert_over(&port, reason);
            let status = child.wait().unwrap();
            let orderly = ["exit", "forgotten", "return", "close"].contains(&how);
            assert_eq!(status.success(), orderly, "{how}: {status}");
        }
    }
}

fn ends_as_told() {
    let (port, _counters) = on_stage();
    (0..10).for_each(|index| port.post_bytes(&sample(index)).unwrap());
    match common::how().as_str() {
        "abort" => std::process::abort(),
        "exit" => std::process::exit(0),
        "kill" => die_of(libc::SIGKILL),
        "segfault" => die_of(libc::SIGSEGV),
        "forgotten" => std::mem::forget(port),
        "panic" => panic!("as told"),
        "return" => drop(port),
        "close" => port.close(),
        "close and abort" => {
            port.close();
            std::process::abort();
        }
        other => panic!("no such end: {other}"),
    }
}

fn die_of(signal: i32) {
    // SAFETY: a signal of ours to ourselves; the default action is wanted, also over std's handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: `raise` takes a signal number and has no precondition.
    unsafe { libc::raise(signal) };
    idle();
}

#[test]
fn s51_a_death_breaks_no_other_channel() {
    let _quiet = common::descriptors();
    let (dead, mut victim_child, _dead_counters) = victim("answers", WaitStrategy::Block, "");
    let (alive, child, _counters) = victim("answers", WaitStrategy::Block, "");
    alive.post_bytes(&sample(0)).unwrap();
    assert_eq!(next(&alive), sample(0));
    kill(&mut victim_child);
    assert_eq!(closed(dead.recv()), CloseReason::PeerGone);
    alive.post_bytes(&sample(1)).unwrap();
    assert_eq!(next(&alive), sample(1));
    drop(alive);
    common::end_well(child);
}
