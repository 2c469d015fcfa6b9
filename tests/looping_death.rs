//! Deaths, seen from a loop: S51 to S53, S23. The peers are processes, and they are killed.

#[path = "looping/clocks.rs"]
mod clocks;
mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::{Cell, RefCell};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use clocks::time_by;
use common::{
    AT_ONCE, Counters, STRATEGIES, channel, channel_of, idle, index_of, kill, on_stage, sample,
    victim,
};
use place::Place;
use ringport::{
    CloseReason, EventLoop, Listener, MessageChannel, MessagePort, PortId, WaitStrategy, Worker,
};
use stage::{Log, lull, run_to_the_end, run_until, settle};

roles! {
    is_quiet, keeps_ports, floods_five_ports, echoes, ends_as_told, posts_ports, connects_and_idles,
}

fn is_quiet() {
    let (_port, counters) = on_stage();
    counters.ready();
    idle();
}

fn echoes() {
    let (port, counters) = on_stage();
    counters.ready();
    for event in &port {
        port.post_bytes(event.bytes()).unwrap();
    }
}

/// Writes down when the end of a port was told, and why.
type Ends = Log<(PortId, CloseReason, Instant)>;

fn watch_end<'h>(events: &EventLoop<'h>, port: MessagePort, ends: &'h Ends) -> PortId {
    let attached = events.add(port).unwrap();
    attached.on_close(|_, event| ends.add((event.port, event.reason, Instant::now())));
    attached.id()
}

/// The clock of what this thread computes, for others to read.
fn clock_of_this_thread() -> libc::clockid_t {
    let mut clock = 0;
    // SAFETY: the pointer is to a live clock id, and this thread is alive.
    let got = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
    assert_eq!(got, 0);
    clock
}

/// Kills once the loop's thread sleeps, or spins, and says when.
fn kill_when_it_waits(strategy: WaitStrategy, thread: u32, child: &mut Child) -> Instant {
    if strategy != WaitStrategy::Spin {
        common::until_asleep(std::process::id(), thread);
    }
    let before = Instant::now();
    kill(child);
    before
}

#[test]
fn s52_a_waiting_loop_learns_at_once_who_has_died_and_that_no_other_has() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let ends = Ends::new();
        let echoed = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let mut victims = Vec::new();
        for index in 0..10 {
            let role = if index % 2 == 0 { "is_quiet" } else { "echoes" };
            let (port, child, counters) = victim(role, WaitStrategy::Block, "");
            counters.until(Counters::READY, 1);
            let id = watch_end(&events, port, &ends);
            if index % 4 < 2 {
                let attached = events.port(id).unwrap();
                attached.on_message(|_, _| echoed.set(echoed.get() + 1));
            }
            victims.push((id, child));
        }
        let thread = common::thread_id();
        while let Some((victim, mut child)) = victims.pop() {
            // Some were heard just before, and are looked at without the kernel.
            for attached in victims.iter().map(|(id, _)| events.port(*id).unwrap()) {
                if attached.is_started() {
                    attached.post_bytes(b"x").unwrap();
                }
            }
            settle(&mut events);
            let killed = thread::scope(|scope| {
                let killer = scope.spawn(|| kill_when_it_waits(strategy, thread, &mut child));
                run_until(&mut events, "its end is told", || !ends.is_empty());
                killer.join().unwrap()
            });
            let told = ends.take();
            assert_eq!(told.len(), 1, "{strategy:?}");
            let (id, reason, at) = told[0];
            assert_eq!((id, reason), (victim, CloseReason::PeerGone));
            assert!(at - killed < AT_ONCE, "{strategy:?}: {:?}", at - killed);
            assert_eq!(events.len(), victims.len());
        }
        assert!(echoed.get() > 0);
        assert!(events.is_empty());
    }
}

#[test]
fn s52_there_is_no_interval_between_two_looks() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        // One that spins is measured by what it computes until it notices: others may have its CPU for milliseconds.
        let clock = match strategy {
            WaitStrategy::Spin => clock_of_this_thread(),
            _ => libc::CLOCK_MONOTONIC,
        };
        let ends = Log::new();
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let (keep1, keep2) = channel();
        events.add(keep2).unwrap().on_message(|_, _| ());
        let thread = common::thread_id();
        let quickest = (0..20).map(|_| {
            let (port1, port2) = channel();
            let noticed = |_: &EventLoop<'_>, _| ends.add(time_by(clock));
            events.add(port2).unwrap().on_close(noticed);
            keep1.post_bytes(b"x").unwrap();
            settle(&mut events);
            // A handle that nobody adopts is as good as a death, and one can say when it was.
            let handle = port1.into_handle();
            let dropped = thread::scope(|scope| {
                let dropper = scope.spawn(move || {
                    if strategy != WaitStrategy::Spin {
                        common::until_asleep(std::process::id(), thread);
                    }
                    let before = time_by(clock);
                    drop(handle);
                    before
                });
                run_until(&mut events, "its end is told", || !ends.is_empty());
                dropper.join().unwrap()
            });
            ends.take()[0] - dropped
        });
        let quickest = quickest.min().unwrap();
        // Promised are 100 µs for one that spins; a loop that polled would not be below its interval ever.
        assert!(
            quickest < Duration::from_millis(1),
            "{strategy:?}: {quickest:?}"
        );
    }
}

#[test]
fn s52_a_process_that_held_many_ports_takes_all_of_them_along() {
    let _quiet = common::descriptors();
    const PORTS: usize = 120;
    for strategy in STRATEGIES {
        let (carrier, mut child, counters) = victim("keeps_ports", WaitStrategy::Block, "");
        let ends = Ends::new();
        let messages = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let mut ids = Vec::new();
        let mut sent = Vec::new();
        for index in 0..PORTS {
            let (stays, goes) = channel_of(4096);
            let id = watch_end(&events, stays, &ends);
            if index % 3 > 0 {
                let attached = events.port(id).unwrap();
                attached.on_message(|_, _| messages.set(messages.get() + 1));
            }
            ids.push(id);
            sent.push(goes);
        }
        carrier.post_bytes_with(b"keep them", sent).unwrap();
        ids.push(watch_end(&events, carrier, &ends));
        counters.until(Counters::READY, 1);
        // It has posted one on each, which those that are not started keep.
        run_until(&mut events, "they come", || messages.get() == PORTS / 3 * 2);
        lull(&mut events);
        assert!(ends.is_empty());
        let thread = common::thread_id();
        let killed = thread::scope(|scope| {
            let killer = scope.spawn(|| kill_when_it_waits(strategy, thread, &mut child));
            // Those with a message that waits are told when it was received.
            run_until(&mut events, "the ends are told", || {
                ends.len() == PORTS / 3 * 2 + 1
            });
            killer.join().unwrap()
        });
        lull(&mut events);
        assert_eq!(events.len(), PORTS / 3);
        for id in ids.iter().step_by(3).take(PORTS / 3) {
            let attached = events.port(*id).unwrap();
            attached.on_message(|_, _| messages.set(messages.get() + 1));
        }
        run_to_the_end(&mut events);
        assert_eq!(messages.get(), PORTS);
        let mut told: Vec<_> = ends.take();
        assert!(told.iter().all(|end| end.1 == CloseReason::PeerGone));
        assert!(told[PORTS / 3 * 2].2 - killed < AT_ONCE, "{strategy:?}");
        told.sort_by_key(|end| end.0);
        ids.sort();
        let told: Vec<_> = told.iter().map(|end| end.0).collect();
        assert_eq!(told, ids, "each of them, once");
    }
}

fn keeps_ports() {
    let (port, counters) = on_stage();
    let event = port.recv().unwrap();
    let ports = event.take_ports();
    ports.iter().for_each(|port| port.post_bytes(b"x").unwrap());
    counters.ready();
    idle();
}

#[test]
fn s51_every_message_whose_post_had_returned_comes_before_the_close() {
    let _quiet = common::descriptors();
    const PORTS: u64 = 5;
    for round in 0..12 {
        let strategy = STRATEGIES[round % 3];
        let (carrier, mut child, counters) = victim("floods_five_ports", strategy, "");
        let ended = Cell::new(0);
        let counts: Vec<_> = (0..PORTS).map(|_| Cell::new(0)).collect();
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let mut sent = Vec::new();
        for (first, count) in (0..).zip(&counts) {
            let (stays, goes) = channel_of(16384);
            let ended = &ended;
            events
                .add(stays)
                .unwrap()
                .on_message(move |_, event| {
                    assert_eq!(index_of(event.bytes()), first + PORTS * count.get());
                    assert_eq!(event.bytes(), sample(index_of(event.bytes())));
                    count.set(count.get() + 1);
                })
                .on_close(|_, event| {
                    assert_eq!(event.reason, CloseReason::PeerGone);
                    ended.set(ended.get() + 1);
                });
            sent.push(goes);
        }
        carrier.post_bytes_with(b"", sent).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                counters.until(Counters::DONE, 300 + 777 * round as u64);
                kill(&mut child);
            });
            run_to_the_end(&mut events);
        });
        assert_eq!(ended.get(), PORTS);
        let received: u64 = counts.iter().map(Cell::get).sum();
        let returned = counters.get(Counters::DONE);
        // It may have died after a post and before it could count that.
        assert!(
            received == returned || received == returned + 1,
            "{strategy:?}: {received} of {returned}"
        );
    }
}

fn floods_five_ports() {
    let (port, counters) = on_stage();
    let ports = port.recv().unwrap().take_ports();
    for index in 0.. {
        ports[index % 5].post_bytes(&sample(index as u64)).unwrap();
        counters.set(Counters::DONE, index as u64 + 1);
    }
}

#[test]
fn s51_ports_in_messages_of_the_dead_arrive_and_their_end_is_told_too() {
    let _quiet = common::descriptors();
    let (port, mut child, counters) = victim("posts_ports", WaitStrategy::Block, "");
    let (arrived, log) = (Cell::new(0), Log::new());
    let mut events = EventLoop::new().unwrap();
    let attached = events.add(port).unwrap();
    attached
        .on_message(|events, event| {
            let [port] = <[MessagePort; 1]>::try_from(event.take_ports()).unwrap();
            arrived.set(arrived.get() + 1);
            let attached = events.add(port).unwrap();
            attached
                .on_message(|_, event| log.add(Ok(event.bytes().to_vec())))
                .on_close(|_, event| log.add(Err(event.reason)));
        })
        .on_close(|_, event| assert_eq!(event.reason, CloseReason::PeerGone));
    drop(attached);
    counters.until(Counters::READY, 1);
    kill(&mut child);
    run_to_the_end(&mut events);
    assert_eq!(arrived.get(), 20);
    let log = log.take();
    let good = log.iter().filter_map(|entry| entry.as_ref().ok());
    let mut good: Vec<_> = good.cloned().collect();
    good.sort_by_key(|bytes| index_of(bytes));
    assert_eq!(good, (0..20).map(sample).collect::<Vec<_>>());
    let gone = log.iter().filter(|end| **end == Err(CloseReason::PeerGone));
    assert_eq!(gone.count(), 20);
}

fn posts_ports() {
    let (port, counters) = on_stage();
    let mut kept = Vec::new();
    for index in 0..20 {
        let (stays, goes) = channel_of(4096);
        stays.post_bytes(&sample(index)).unwrap();
        port.post_bytes_with(b"", [goes]).unwrap();
        kept.push(stays);
    }
    counters.ready();
    idle();
}

/// Sends a signal to a child.
fn signal(child: &Child, signal: i32) {
    // SAFETY: the process is a child that has not been waited for; its number is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[test]
fn s23_a_stopped_process_is_not_a_dead_one() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (port, child, counters) = victim("echoes", WaitStrategy::Block, "");
        let (answers, ends) = (Cell::new(0), Ends::new());
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let id = watch_end(&events, port, &ends);
        let attached = events.port(id).unwrap();
        attached.on_message(|_, event| {
            assert_eq!(event.bytes(), sample(answers.get()));
            answers.set(answers.get() + 1);
        });
        drop(attached);
        counters.until(Counters::READY, 1);
        events.port(id).unwrap().post_bytes(&sample(0)).unwrap();
        run_until(&mut events, "the first answer", || answers.get() == 1);
        signal(&child, libc::SIGSTOP);
        common::until("it stopped", || {
            common::state(child.id(), child.id()) == Some('T')
        });
        events.port(id).unwrap().post_bytes(&sample(1)).unwrap();
        // Time passes because that is what must not matter.
        assert!(!events.run_once(Some(Duration::from_millis(100))).unwrap());
        assert!(ends.is_empty() && answers.get() == 1);
        signal(&child, libc::SIGCONT);
        run_until(&mut events, "the second answer", || answers.get() == 2);
        events.port(id).unwrap().close();
        run_to_the_end(&mut events);
        assert!(ends.is_empty());
        common::end_well(child);
    }
}

/// What is told of a worker.
#[derive(Debug, PartialEq)]
enum Told {
    Messages(u64),
    End(CloseReason),
    Exit(ExitStatus),
}

#[test]
fn s52_workers_tell_their_messages_their_end_and_their_status() {
    let _quiet = common::descriptors();
    let exits = |code: i32| ExitStatus::from_raw(code << 8);
    let ways = [
        ("exit 0", CloseReason::ClosedByPeer, exits(0)),
        ("exit 7", CloseReason::PeerGone, exits(7)),
        (
            "abort",
            CloseReason::PeerGone,
            ExitStatus::from_raw(libc::SIGABRT),
        ),
        (
            "kill",
            CloseReason::PeerGone,
            ExitStatus::from_raw(libc::SIGKILL),
        ),
    ];
    for strategy in STRATEGIES {
        // All of them at once.
        let logs: Vec<Log<Told>> = ways.iter().map(|_| Log::new()).collect();
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        for ((how, ..), log) in ways.iter().zip(&logs) {
            let mut command = common::command("ends_as_told");
            common::tell(&mut command, strategy, how);
            command.stderr(std::process::Stdio::null());
            let worker = Worker::spawn(command).unwrap();
            let add = move |_: &EventLoop<'_>, status: std::io::Result<ExitStatus>| {
                log.add(Told::Exit(status.unwrap()));
            };
            let (attached, _) = events.add_worker(worker, add).unwrap();
            assert!(!attached.is_started());
            let mut count = 0;
            attached
                .on_message(move |_, event| {
                    assert_eq!(event.bytes(), sample(count));
                    count += 1;
                    if count == 100 {
                        log.add(Told::Messages(count));
                    }
                })
                .on_close(|_, event| log.add(Told::End(event.reason)));
        }
        assert_eq!(events.len(), 2 * ways.len());
        events.run().unwrap();
        for ((how, reason, status), log) in ways.iter().zip(&logs) {
            let told = log.take();
            assert_eq!(told.len(), 3, "{how}: {told:?}");
            let place = |wanted: &Told| told.iter().position(|told| told == wanted);
            let messages = place(&Told::Messages(100)).expect("all messages");
            let end = place(&Told::End(*reason)).expect("the end");
            assert!(messages < end, "{how}: {told:?}");
            assert!(place(&Told::Exit(*status)).is_some(), "{how}: {told:?}");
        }
    }
}

fn ends_as_told() {
    let port = common::parent();
    (0..100).for_each(|index| port.post_bytes(&sample(index)).unwrap());
    match common::how().as_str() {
        "exit 0" => drop(port),
        "exit 7" => std::process::exit(7),
        "abort" => std::process::abort(),
        _ => {
            // SAFETY: a signal of ours to ourselves.
            unsafe { libc::raise(libc::SIGKILL) };
        }
    }
}

#[test]
fn s52_clients_of_a_listener_that_are_killed_end_their_channels_and_nothing_else() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let path = listener.path().to_owned();
    let (ends, accepted) = (Ends::new(), RefCell::new(Vec::new()));
    let mut events = EventLoop::new().unwrap();
    let listener = events.add_listener(listener, |events, client| {
        let (port, client) = client.unwrap();
        let id = watch_end(events, port, &ends);
        accepted.borrow_mut().push((id, client.process_id));
    });
    let listener = listener.unwrap();
    let mut clients: Vec<_> = (0..6)
        .map(|_| parties::at(&path, "connects_and_idles"))
        .collect();
    run_until(&mut events, "all of them come", || {
        accepted.borrow().len() == clients.len()
    });
    lull(&mut events);
    while let Some((_port, mut child)) = clients.pop() {
        let process = child.id();
        kill(&mut child);
        run_until(&mut events, "its end is told", || !ends.is_empty());
        let told = ends.take();
        assert_eq!(told.len(), 1);
        assert!(accepted.borrow().contains(&(told[0].0, process)));
        assert_eq!(told[0].1, CloseReason::PeerGone);
        assert_eq!(events.len(), clients.len() + 1);
    }
    // And it still listens.
    let (client, _) = parties::connecting(&path);
    run_until(&mut events, "one more comes", || {
        accepted.borrow().len() == 7
    });
    drop(client.join().unwrap().unwrap());
    run_until(&mut events, "it leaves in good order", || {
        ends.take()
            .iter()
            .any(|end| end.1 == CloseReason::ClosedByPeer)
    });
    drop(events.remove_listener(listener).unwrap());
    assert!(events.is_empty());
}

fn connects_and_idles() {
    let _parent = common::parent();
    let _port = ringport::connect(parties::address()).unwrap();
    idle();
}

#[test]
fn s52_a_death_is_noticed_while_another_port_keeps_the_loop_busy() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (port, mut child, counters) = victim("is_quiet", WaitStrategy::Block, "");
        counters.until(Counters::READY, 1);
        let MessageChannel { port1, port2 } = MessageChannel::new().unwrap();
        let (ends, killed) = (Ends::new(), Cell::new(None));
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        watch_end(&events, port, &ends);
        port1.post_bytes(b"x").unwrap();
        let ends = &ends;
        let mut count = 0;
        events.add(port2).unwrap().on_message(move |events, event| {
            port1.post_bytes(event.bytes()).unwrap();
            count += 1;
            if count == 1000 {
                kill(&mut child);
                killed.set(Some(Instant::now()));
            }
            if let Some(killed) = killed.get() {
                assert!(killed.elapsed() < AT_ONCE, "{strategy:?}: unnoticed");
            }
            if !ends.is_empty() {
                events.stop();
            }
        });
        events.run().unwrap();
        assert_eq!(ends.take()[0].1, CloseReason::PeerGone);
    }
}
