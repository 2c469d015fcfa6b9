//! A forked child and the loop of its parent: it can do nothing with that, and nothing to it (S63). And messages that
//! a handler forgets.

#[path = "forking/child.rs"]
mod child;
mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;
#[path = "common/ports.rs"]
mod ports;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use child::{Forked, fork, in_a_fork, leave};
use common::{PATIENCE, STRATEGIES, channel, channel_of, closed, now, sample};
use place::Place;
use ringport::{
    AddError, ChildId, CloseReason, DetachError, EventLoop, EventLoopError, Listener, ListenerId,
    MessagePort, PortEvent, PortId, PostError, RecvError, TimerId, WaitStrategy,
};
use stage::{Log, lull, readable, run_until};

/// A fork in the middle of a handler. The child goes on only after its parent has posted a lot.
struct Fork {
    go: UnixStream,
    gone: UnixStream,
    child: Cell<Option<Forked>>,
    is_child: Cell<bool>,
}

/// Messages that are posted before, during and after the child's part.
const PART: u64 = 100;

impl Fork {
    fn new() -> Fork {
        let (go, gone) = UnixStream::pair().unwrap();
        Fork {
            go,
            gone,
            child: Cell::new(None),
            is_child: Cell::new(false),
        }
    }

    /// Forks, and posts on the loop's port both before that and while the child waits.
    fn here(&self, events: &EventLoop<'_>, port: PortId) {
        let port = events.port(port).unwrap();
        ports::post(&port, 0..PART);
        match fork() {
            None => {
                self.is_child.set(true);
                (&self.gone).read_exact(&mut [0]).unwrap();
            }
            Some(child) => {
                self.child.set(Some(child));
                ports::post(&port, PART..2 * PART);
                (&self.go).write_all(&[0]).unwrap();
            }
        }
        // The child's handler returns as the parent's does.
    }
}

/// What calls the handler that forks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Caller {
    Message,
    MessageThenPanic,
    Room,
    Close,
    Timer,
    Wake,
    Client,
    Exit,
}

const CALLERS: [Caller; 8] = [
    Caller::Message,
    Caller::MessageThenPanic,
    Caller::Room,
    Caller::Close,
    Caller::Timer,
    Caller::Wake,
    Caller::Client,
    Caller::Exit,
];

roles! { echoes, idles }

fn idles() {
    common::idle();
}

/// A process that ends.
fn process() -> Child {
    let mut command = common::command("nothing");
    command.env_remove(common::ROLE).spawn().unwrap()
}

#[test]
fn s63_a_child_that_returns_from_a_handler_is_told_and_spoils_nothing() {
    let _quiet = common::descriptors();
    for (turn, strategy) in STRATEGIES.into_iter().enumerate() {
        for (index, caller) in CALLERS.into_iter().enumerate() {
            let place = Place::new();
            // The port to which much is posted, and the one whose handler forks, if a port's does.
            let (port1, port2) = channel_of(1 << 16);
            let (other1, other2) = channel();
            let (heard, fork) = (Cell::new(0), Fork::new());
            let (fork_here, heard_here) = (&fork, &heard);
            let mut events = EventLoop::new().unwrap();
            events.set_wait_strategy(strategy);
            let id = events.add(port2).unwrap().id();
            let hear = move |_: &EventLoop<'_>, event: PortEvent<'_>| {
                assert_eq!(event.bytes(), sample(heard_here.get()));
                heard_here.set(heard_here.get() + 1);
            };
            events.port(id).unwrap().on_message(hear);
            let other = events.add(other2).unwrap();
            let other_id = other.id();
            let mut client = None;
            match caller {
                Caller::Message | Caller::MessageThenPanic => {
                    // On the very port that is posted to.
                    let port = events.port(id).unwrap();
                    port.on_message(move |events, event| {
                        assert_eq!(event.bytes(), b"fork");
                        events.port(id).unwrap().on_message(hear);
                        fork_here.here(events, id);
                        if fork_here.is_child.get() && caller == Caller::MessageThenPanic {
                            std::panic::resume_unwind(Box::new("on purpose"));
                        }
                    });
                    port1.post_bytes(b"fork").unwrap();
                }
                Caller::Room => {
                    other.on_room(10, move |events, _| fork_here.here(events, id));
                }
                Caller::Close => {
                    other.on_close(move |events, _| fork_here.here(events, id));
                    other1.close();
                }
                Caller::Timer => {
                    events.set_timeout(Duration::ZERO, move |events| fork_here.here(events, id));
                }
                Caller::Wake => {
                    events.on_wake(move |events| fork_here.here(events, id));
                    events.waker().wake();
                }
                Caller::Client => {
                    let listener = Listener::bind(place.join("here")).unwrap();
                    client = Some(parties::connecting(listener.path()).0);
                    let fork = move |events: &EventLoop<'_>, _| fork_here.here(events, id);
                    events.add_listener(listener, fork).unwrap();
                }
                Caller::Exit => {
                    let fork = move |events: &EventLoop<'_>, _| fork_here.here(events, id);
                    events.add_child(process(), fork).unwrap();
                }
            }
            drop(other);
            let mut answers = Vec::new();
            let mut told = None;
            while told.is_none() {
                // By one call or the other.
                let run = catch_unwind(AssertUnwindSafe(|| match (index + turn) % 2 {
                    0 => events.run_once(Some(PATIENCE)).map(drop),
                    _ => {
                        events.set_timeout(Duration::from_millis(1), |events| events.stop());
                        events.run()
                    }
                }));
                if fork.is_child.get() {
                    leave(|| {
                        if caller == Caller::MessageThenPanic {
                            assert!(run.is_err());
                        } else {
                            assert!(matches!(run, Ok(Err(EventLoopError::Forked))), "{run:?}");
                        }
                        let again = events.run_once(None);
                        assert!(matches!(again, Err(EventLoopError::Forked)), "{again:?}");
                        drop(events);
                    });
                }
                answers.push(run);
                told = fork.child.take();
            }
            told.unwrap().ends_well();
            for answer in answers {
                assert!(matches!(answer, Ok(Ok(()))), "{caller:?}: {answer:?}");
            }
            ports::receive(&port1, 0..2 * PART);
            // Both ways, and at once.
            ports::post(&events.port(id).unwrap(), 2 * PART..3 * PART);
            ports::receive(&port1, 2 * PART..3 * PART);
            lull(&mut events);
            ports::post(&port1, heard.get()..PART);
            let what = format!("the parent hears: {strategy:?}, {caller:?}");
            run_until(&mut events, &what, || heard.get() == PART);
            assert_eq!(events.port(other_id).is_none(), caller == Caller::Close);
            if let Some(client) = client {
                drop(client.join().unwrap());
            }
        }
    }
}

/// What there is in the parent's loop: a port that hears, one that waits for room, a listener, a process, timers.
struct Ids {
    heard: PortId,
    full: PortId,
    listener: ListenerId,
    child: ChildId,
    timer: TimerId,
    /// One that is due soon.
    tick: TimerId,
}

/// What is done in a forked child, with its copy of the loop.
type Deed = fn(EventLoop<'_>, &Ids);

const DEEDS: [(&str, Deed); 9] = [
    ("dropping the loop", |events, _| drop(events)),
    ("running", |mut events, _| {
        events.set_timeout(Duration::ZERO, |_| panic!("it cannot run"));
        for answer in [
            events.run(),
            events.run_once(None).map(drop),
            events.run_once(Some(Duration::ZERO)).map(drop),
        ] {
            assert!(matches!(answer, Err(EventLoopError::Forked)), "{answer:?}");
        }
        mem::forget(events);
    }),
    ("taking ports out", |events, ids| {
        for id in [ids.heard, ids.full] {
            let port = events.remove(id).unwrap();
            assert_forked(&port);
            drop(port);
        }
    }),
    ("using ports", |events, ids| {
        for id in [ids.heard, ids.full] {
            let port = events.port(id).unwrap();
            assert_forked(&port);
            port.on_message(|_, _| ())
                .on_message_error(|_, _| ())
                .on_close(|_, _| ())
                .on_room(1, |_, _| ())
                .start();
            port.close();
            assert!(!port.is_closed());
            assert_eq!(events.remove(id).unwrap_err(), DetachError::InUse);
        }
    }),
    ("forgetting that a port is used", |events, ids| {
        for id in [ids.heard, ids.full] {
            mem::forget(events.port(id).unwrap());
        }
    }),
    ("adding", |events, _| {
        let (own1, own2) = channel();
        let own2 = forked(events.add(own2));
        ports::assert_entangled(&own1, &own2);
        let place = Place::new();
        let listener = Listener::bind(place.join("here")).unwrap();
        let listener = forked(events.add_listener(listener, |_, _| ()));
        drop(parties::meet(&listener));
        let mut child = forked(events.add_child(process(), |_, _| ()));
        assert!(child.wait().unwrap().success());
        let worker = common::worker("echoes");
        let mut worker = forked(events.add_worker(worker, |_, _| ()));
        ports::ask(worker.port(), 0..3);
        worker.port().close();
        assert!(worker.wait().unwrap().success());
    }),
    ("taking out a listener and a process", |events, ids| {
        drop(events.remove_listener(ids.listener).unwrap());
        drop(events.remove_child(ids.child).unwrap());
    }),
    ("timers", |events, ids| {
        let interval = events.set_interval(Duration::ZERO, |_| ());
        for timer in [interval, ids.timer, ids.tick] {
            assert!(events.clear_timer(timer));
        }
    }),
    ("nesting and stopping", |events, _| {
        let _fd = events.as_fd();
        events.stop();
        events.on_wake(|_| ());
        drop(events.waker());
        events.set_wait_strategy(WaitStrategy::Spin);
    }),
];

#[track_caller]
fn forked<A, T>(answer: Result<A, AddError<T>>) -> T {
    let error = answer.err().expect("added by a forked child");
    assert!(matches!(error.error(), EventLoopError::Forked));
    assert!(error.to_string().contains("fork"), "{error}");
    error.into_inner()
}

#[track_caller]
fn assert_forked(port: &MessagePort) {
    assert!(matches!(port.try_recv(), Err(RecvError::Forked)));
    assert!(matches!(
        port.recv_timeout(PATIENCE),
        Err(RecvError::Forked)
    ));
    let posted = port.post_bytes(b"x");
    assert!(matches!(posted, Err(PostError::Forked)), "{posted:?}");
}

fn echoes() {
    ports::echo(&common::parent());
}

/// Nothing that a forked child does to its copy of a loop is felt by the loop. `is_nested`: another one waits for it.
fn leaves_the_parents_loop_alone(is_nested: bool) {
    for strategy in STRATEGIES {
        let place = Place::new();
        let listener = Listener::bind(place.join("here")).unwrap();
        let path = listener.path().to_owned();
        let (port1, port2) = channel_of(1 << 16);
        let (full1, full2) = channel_of(4096);
        let (heard, rooms, clients) = (&Cell::new(0), &Cell::new(0), &Cell::new(0));
        let (ends, ticks) = (&Cell::new(0), &Cell::new(0));
        let mut kept = Some(EventLoop::new().unwrap());
        let events = kept.as_mut().unwrap();
        events.set_wait_strategy(strategy);
        if is_nested {
            let _ = events.as_fd();
        }
        let attached = events.add(port2).unwrap();
        attached.on_message(|_, event| {
            assert_eq!(event.bytes(), sample(heard.get()));
            heard.set(heard.get() + 1);
        });
        let on_exit = move |_: &EventLoop<'_>, status: io::Result<ExitStatus>| {
            assert!(!status.unwrap().success());
            ends.set(ends.get() + 1);
        };
        let child = common::command("idles").spawn().unwrap();
        let process = child.id() as libc::pid_t;
        let timer = events.set_timeout(PATIENCE * 100, |_| panic!("too early"));
        let mut ids = Ids {
            heard: attached.id(),
            full: events.add(full2).unwrap().id(),
            listener: events
                .add_listener(listener, |_, client| {
                    drop(client.unwrap());
                    clients.set(clients.get() + 1);
                })
                .unwrap(),
            child: events.add_child(child, on_exit).unwrap(),
            timer,
            tick: timer,
        };
        drop(attached);
        let mut round = 0;
        for (what, deed) in DEEDS {
            for quiet in [true, false] {
                let events = kept.as_mut().unwrap();
                let full = events.port(ids.full).unwrap();
                ports::fill(&full);
                full.on_room(300, |_, _| rooms.set(rooms.get() + 1));
                drop(full);
                lull(events);
                if !quiet {
                    // It is heard from just now, and is not armed.
                    let next = heard.get() + 1;
                    ports::post(&port1, heard.get()..next);
                    run_until(events, "it is heard", || heard.get() == next);
                }
                let tick = || ticks.set(ticks.get() + 1);
                ids.tick = events.set_timeout(Duration::from_millis(10), move |_| tick());
                in_a_fork(|| deed(kept.take().unwrap(), &ids));
                let events = kept.as_mut().unwrap();
                round += 1;
                let told = |events: &EventLoop<'_>| {
                    assert!(!is_nested || readable(events, PATIENCE), "{what}");
                };
                // What was planned before comes at its time.
                told(events);
                run_until(events, what, || ticks.get() == round);
                let next = heard.get() + PART;
                ports::post(&port1, heard.get()..next);
                told(events);
                run_until(events, what, || heard.get() == next);
                while full1.try_recv().unwrap().is_some() {}
                told(events);
                run_until(events, what, || rooms.get() == round);
                let (client, _) = parties::connecting(&path);
                told(events);
                run_until(events, what, || clients.get() == round);
                drop(client.join().unwrap().unwrap());
                ports::post(&events.port(ids.heard).unwrap(), 0..3);
                ports::receive(&port1, 0..3);
                assert_eq!((ends.get(), events.len()), (0, 4), "{what}");
            }
        }
        let events = kept.as_mut().unwrap();
        assert!(events.clear_timer(ids.timer));
        // SAFETY: a signal to a child of ours that nobody has waited for.
        assert_eq!(unsafe { libc::kill(process, libc::SIGKILL) }, 0);
        run_until(events, "the end is told", || ends.get() == 1);
        drop(events.remove_listener(ids.listener).unwrap());
        drop((port1, full1));
        events.run().unwrap();
    }
}

#[test]
fn s63_what_a_child_does_with_its_copy_leaves_the_parents_loop_alone() {
    let _quiet = common::descriptors();
    leaves_the_parents_loop_alone(false);
}

#[test]
fn s63_what_a_child_does_with_its_copy_leaves_a_nested_loop_alone() {
    let _quiet = common::descriptors();
    leaves_the_parents_loop_alone(true);
}

#[test]
fn s63_a_waker_in_a_child_does_not_wake_the_parents_loop() {
    let _quiet = common::descriptors();
    for is_nested in [false, true] {
        let wakes = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        if is_nested {
            let _ = events.as_fd();
        }
        events.on_wake(|_| wakes.set(wakes.get() + 1));
        let waker = events.waker();
        in_a_fork(|| {
            waker.wake();
            waker.clone().wake();
            events.waker().wake();
        });
        assert!(!readable(&events, Duration::ZERO));
        assert!(!events.run_once(Some(Duration::ZERO)).unwrap());
        assert_eq!(wakes.get(), 0);
        waker.wake();
        run_until(&mut events, "the parent's own wake", || wakes.get() == 1);
    }
}

#[test]
fn s48_the_end_is_told_once_though_a_handler_has_forgotten_events() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        for closed_here in [false, true] {
            let (port1, port2) = channel();
            let (count, ends) = (Cell::new(0), Log::new());
            let mut events = EventLoop::new().unwrap();
            events.set_wait_strategy(strategy);
            let port = events.add(port2).unwrap();
            port.on_message(|_, event| {
                assert_eq!(event.bytes(), sample(count.get()));
                count.set(count.get() + 1);
                mem::forget(event);
            });
            port.on_close(|_, event| ends.add((event.port, event.reason)));
            let id = port.id();
            drop(port);
            for last in 1..=3 {
                ports::post(&port1, 3 * (last - 1)..3 * last);
                run_until(&mut events, "they come", || count.get() == 3 * last);
                assert_eq!(events.remove(id).unwrap_err(), DetachError::InUse);
            }
            // It is as good as any other.
            events.port(id).unwrap().post_bytes(b"x").unwrap();
            assert_eq!(now(&port1), b"x");
            let expected = if closed_here {
                events.port(id).unwrap().close();
                vec![]
            } else {
                port1.close();
                vec![(id, CloseReason::ClosedByPeer)]
            };
            // Nothing is left in it, so it ends.
            events.run().unwrap();
            assert_eq!(ends.take(), expected);
            assert!(events.port(id).is_none());
            assert_eq!(events.remove(id).unwrap_err(), DetachError::Unknown);
            if closed_here {
                assert_eq!(closed(port1.recv()), CloseReason::ClosedByPeer);
            }
        }
    }
}

#[test]
fn s47_a_loop_that_is_dropped_closes_the_ports_of_forgotten_events_too() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let mut events = EventLoop::new().unwrap();
    let port = events.add(port2).unwrap();
    port.on_message(|events, event| {
        mem::forget(event);
        events.stop();
    });
    drop(port);
    ports::post(&port1, 0..3);
    events.run().unwrap();
    drop(events);
    assert_eq!(closed(port1.recv()), CloseReason::ClosedByPeer);
}
