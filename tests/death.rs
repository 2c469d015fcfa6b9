//! Every way to die, in every state, against every way to wait: S51 and S52.
//!
//! The survivor must receive each message whose post had returned, then learn why it was the last.
//! What had returned is told by counters in memory of the test's own, which outlives the victim.

mod common;

use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use common::{AT_ONCE, Counters, closed, next, now, post_closed, sample, sample_of};
use ringport::{CloseReason, MessagePort, PostError, WaitStrategy, Worker};

roles! {
    floods, floods_with_batches, drains, answers, has_a_batch_open, has_a_slot_open, has_an_event_in_place,
    receives_again_and_again, posts_for_ever, ends_as_told, never_asks, is_quiet,
}

/// A victim that plays `role`, with counters that outlive it.
fn victim(role: &str, strategy: WaitStrategy, how: &str) -> (MessagePort, Child, Counters) {
    let counters = Counters::new();
    let mut command = common::command(role);
    counters.give_to(&mut command);
    common::tell(&mut command, strategy, how);
    if !how.is_empty() {
        // What it says as it dies is not a failure of this test.
        command.stderr(std::process::Stdio::null());
    }
    let (port, child) = Worker::spawn(command).unwrap().into_parts();
    (port, child, counters)
}

/// What every role begins with.
fn on_stage() -> (MessagePort, Counters) {
    let port = common::parent();
    port.set_wait_strategy(common::strategy());
    (port, Counters::given())
}

/// Kills and buries.
fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Receives what is left, which must be `first`, `first + 1`, … and gives how many and the end.
#[track_caller]
fn rest(port: &MessagePort, first: u64) -> (u64, CloseReason) {
    let mut index = first;
    loop {
        match port.recv_timeout(common::PATIENCE) {
            Ok(Some(event)) => assert_eq!(event.bytes(), sample(index)),
            Ok(None) => panic!("neither a message nor the end"),
            end => return (index, closed(end)),
        }
        index += 1;
    }
}

/// The channel is over: every call says so, and says why.
#[track_caller]
fn assert_over(port: &MessagePort, reason: CloseReason) {
    for _ in 0..2 {
        assert_eq!(closed(port.recv()), reason);
        assert_eq!(closed(port.try_recv()), reason);
        assert_eq!(closed(port.recv_timeout(AT_ONCE)), reason);
        assert_eq!(post_closed(port.post_bytes(b"x")), reason);
        assert_eq!(post_closed(port.try_post_bytes(b"x")), reason);
        assert_eq!(post_closed(port.post_bytes_timeout(b"x", AT_ONCE)), reason);
        assert_eq!(
            post_closed(port.reserve(9).map(drop).map_err(PostError::from)),
            reason
        );
        assert!(port.is_closed());
        assert_eq!(port.close_reason(), Some(reason));
    }
}

#[test]
fn s51_every_returned_post_of_a_killed_producer_is_received() {
    let _quiet = common::descriptors();
    for round in 0..12 {
        let strategy = common::STRATEGIES[round % 3];
        let (port, mut child, counters) = victim("floods", strategy, "");
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
            received == returned || received == returned + 1,
            "{received} of {returned}"
        );
        assert_eq!(reason, CloseReason::PeerGone, "{strategy:?}");
        assert_over(&port, reason);
    }
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
    let _quiet = common::descriptors();
    for round in 0..9 {
        let strategy = common::STRATEGIES[round % 3];
        let (port, mut child, counters) = victim("floods_with_batches", strategy, "");
        port.set_wait_strategy(strategy);
        let (received, reason) = thread::scope(|scope| {
            scope.spawn(|| {
                counters.until(Counters::DONE, 200 + 333 * round as u64);
                kill(&mut child);
            });
            rest(&port, 0)
        });
        let published = counters.get(Counters::DONE);
        assert!(
            received == published || received == published + 7,
            "{received} of {published}"
        );
        assert_eq!(reason, CloseReason::PeerGone, "{strategy:?}");
        assert_over(&port, reason);
    }
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

fn idle() {
    loop {
        thread::park();
    }
}

/// Lets a thread wait in `wait`, kills the peer under it, and says how long it took to notice and how
/// often it slept meanwhile.
fn noticed(
    strategy: WaitStrategy,
    prepare: impl FnOnce(&MessagePort),
    wait: fn(&MessagePort) -> CloseReason,
) -> (Duration, u64) {
    let (port, mut child, counters) = victim("is_quiet", strategy, "");
    port.set_wait_strategy(strategy);
    counters.until(Counters::READY, 1);
    prepare(&port);
    let before = port.stats().sleeps;
    let (started, waits) = std::sync::mpsc::channel();
    let waiter = thread::spawn(move || {
        started.send(common::thread_id()).unwrap();
        let reason = wait(&port);
        let noticed = Instant::now();
        assert_eq!(reason, CloseReason::PeerGone);
        let sleeps = port.stats().sleeps - before;
        assert_over(&port, reason);
        (noticed, sleeps)
    });
    let thread = waits.recv().unwrap();
    if strategy != WaitStrategy::Spin {
        common::until_asleep(std::process::id(), thread);
    }
    let start = Instant::now();
    kill(&mut child);
    let (noticed, sleeps) = waiter.join().unwrap();
    (noticed.duration_since(start), sleeps)
}

fn is_quiet() {
    let (_port, counters) = on_stage();
    counters.ready();
    idle();
}

#[test]
fn s52_a_death_wakes_who_waits_for_a_message() {
    let _quiet = common::descriptors();
    let waits: [fn(&MessagePort) -> CloseReason; 3] = [
        |port| closed(port.recv()),
        |port| closed(port.recv_timeout(common::PATIENCE)),
        |port| {
            assert!(port.iter().next().is_none());
            port.close_reason().unwrap()
        },
    ];
    for strategy in common::STRATEGIES {
        for wait in waits {
            let (time, sleeps) = noticed(strategy, |_| (), wait);
            assert!(time < AT_ONCE, "{strategy:?}: noticed after {time:?}");
            assert!(sleeps <= 2, "{strategy:?}: {sleeps} sleeps, it polled");
        }
    }
}

#[test]
fn s52_a_death_wakes_who_waits_for_room() {
    let _quiet = common::descriptors();
    let fill = |port: &MessagePort| while port.try_post_bytes(&[1; 100]).is_ok() {};
    let waits: [fn(&MessagePort) -> CloseReason; 4] = [
        |port| post_closed(port.post_bytes(&[2; 100])),
        |port| post_closed(port.post_bytes_timeout(&[2; 100], common::PATIENCE)),
        |port| post_closed(port.post_message(&common::greeting(8))),
        |port| post_closed(port.reserve(100).map(drop).map_err(PostError::from)),
    ];
    for strategy in common::STRATEGIES {
        for wait in waits {
            let (time, sleeps) = noticed(strategy, fill, wait);
            assert!(time < AT_ONCE, "{strategy:?}: noticed after {time:?}");
            assert!(sleeps <= 2, "{strategy:?}: {sleeps} sleeps, it polled");
        }
    }
}

#[test]
fn s52_who_sleeps_until_a_death_is_not_woken_in_between() {
    let _quiet = common::descriptors();
    let (port, mut child, counters) = victim("is_quiet", WaitStrategy::Block, "");
    port.set_wait_strategy(WaitStrategy::Block);
    counters.until(Counters::READY, 1);
    // Time passes here because it is what the test is about: a poller would count sleeps.
    assert!(
        port.recv_timeout(Duration::from_millis(300))
            .unwrap()
            .is_none()
    );
    assert!(port.stats().sleeps <= 2, "{:?}", port.stats());
    kill(&mut child);
    assert_eq!(closed(port.recv()), CloseReason::PeerGone);
    assert!(port.stats().sleeps <= 3, "{:?}", port.stats());
}

#[test]
fn s52_who_does_not_wait_learns_of_a_death_by_asking() {
    let _quiet = common::descriptors();
    let (port, mut child, counters) = victim("is_quiet", WaitStrategy::Block, "");
    counters.until(Counters::READY, 1);
    assert!(!port.is_closed());
    kill(&mut child);
    assert!(port.is_closed());
    assert_eq!(port.close_reason(), Some(CloseReason::PeerGone));
    assert_over(&port, CloseReason::PeerGone);
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
