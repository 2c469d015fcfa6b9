//! Waiting beside the loop: blocking calls on its ports, in handlers and between two runs. Whoever waits, the loop
//! hears of everything afterwards.

mod common;
#[path = "common/ports.rs"]
mod ports;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use common::{PATIENCE, STRATEGIES, channel, channel_of, sample};
use ports::fill;
use ringport::{
    Attached, CloseReason, EventLoop, MessagePort, PostError, RecvError, WaitStrategy, wait_any,
};
use stage::{Log, lull, run_until, settle};

roles! { answers_twice }

/// A short wait for nothing.
const IN_VAIN: Duration = Duration::from_millis(1);

/// What a handler waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wait {
    Recv,
    RecvTimeout,
    RecvInVain,
    Any,
    AnyInVain,
    Room,
    RoomInVain,
    /// So often that the doorbell is read meanwhile, which has rung for a message.
    RoomOftenInVain,
    /// Not at all, but what is received carries a port: that, too, reads the doorbell.
    Ports,
}

const WAITS: [Wait; 9] = [
    Wait::Recv,
    Wait::RecvTimeout,
    Wait::RecvInVain,
    Wait::Any,
    Wait::AnyInVain,
    Wait::Room,
    Wait::RoomInVain,
    Wait::RoomOftenInVain,
    Wait::Ports,
];

/// What the peer is asked to do.
enum Deed {
    Post(u64),
    /// Posts a message with a port.
    PostPort(u64),
    /// Posts, then receives everything.
    PostAndEmpty(u64),
}

/// The peer in a thread of its own. It does things once the loop's thread sleeps, if that is going to.
fn peer(
    port: MessagePort,
    deeds: mpsc::Receiver<(Deed, bool)>,
    looping: u32,
    done: Arc<AtomicU64>,
) {
    for (deed, asleep) in deeds {
        if asleep {
            common::until_asleep(std::process::id(), looping);
        }
        match deed {
            Deed::Post(index) => port.post_bytes(&sample(index)).unwrap(),
            Deed::PostPort(index) => {
                let (_kept, sent) = channel();
                port.post_bytes_with(&sample(index), [sent]).unwrap();
            }
            Deed::PostAndEmpty(index) => {
                port.post_bytes(&sample(index)).unwrap();
                while port.try_recv().unwrap().is_some() {}
            }
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
}

/// A port in a loop whose messages are received in handlers and by hand, in order in any case.
struct Scene {
    deeds: mpsc::Sender<(Deed, bool)>,
    done: Arc<AtomicU64>,
    posted: Cell<u64>,
    seen: Cell<u64>,
    dispatched: Cell<u64>,
}

impl Scene {
    /// Has the peer post, once this thread sleeps if `asleep`.
    fn ask(&self, deed: impl FnOnce(u64) -> Deed, asleep: bool) {
        let index = self.posted.replace(self.posted.get() + 1);
        self.deeds.send((deed(index), asleep)).unwrap();
    }

    /// Waits until the peer has done all that it was asked for.
    fn until_done(&self) {
        common::until("the peer has done all", || {
            self.done.load(Ordering::SeqCst) == self.posted.get()
        });
    }

    /// Posts until there is no room. The peer, who is idle then, is to make some.
    fn fill(&self, port: &MessagePort) {
        self.until_done();
        fill(port);
        while port.try_post_bytes(b"").is_ok() {}
    }

    /// Waits in vain for room.
    #[track_caller]
    fn cannot_post(&self, port: &MessagePort, timeout: Duration) {
        let posted = port.post_bytes_timeout(&[0; 1000], timeout);
        assert!(matches!(posted, Err(PostError::Full { .. })), "{posted:?}");
    }

    #[track_caller]
    fn see(&self, bytes: &[u8]) {
        assert_eq!(bytes, sample(self.seen.get()));
        self.seen.set(self.seen.get() + 1);
    }

    fn wait(&self, wait: Wait, port: &Attached<'_, '_>, other: &MessagePort) {
        let asleep = port.wait_strategy() != WaitStrategy::Spin;
        match wait {
            Wait::Recv => {
                self.ask(Deed::Post, asleep);
                self.see(port.recv().unwrap().bytes());
            }
            Wait::RecvTimeout => {
                self.ask(Deed::Post, asleep);
                let event = port.recv_timeout(PATIENCE).unwrap();
                self.see(event.expect("a message").bytes());
            }
            Wait::RecvInVain => assert!(port.recv_timeout(IN_VAIN).unwrap().is_none()),
            Wait::Any => {
                // It stays on the port, and is the loop's.
                self.ask(Deed::Post, asleep);
                let ready = wait_any(&[other, port], Some(PATIENCE)).unwrap();
                assert_eq!(ready, Some(1));
            }
            Wait::AnyInVain => {
                let ready = wait_any(&[other, port], Some(IN_VAIN)).unwrap();
                assert_eq!(ready, None);
            }
            Wait::Room => {
                self.fill(port);
                // A message comes first, and wakes for nothing.
                self.ask(Deed::PostAndEmpty, asleep);
                port.post_bytes(&sample(1)).unwrap();
            }
            Wait::RoomInVain => {
                self.fill(port);
                self.cannot_post(port, IN_VAIN);
                self.ask(Deed::PostAndEmpty, false);
            }
            Wait::RoomOftenInVain => {
                self.fill(port);
                self.ask(Deed::Post, false);
                self.until_done();
                (0..40).for_each(|_| self.cannot_post(port, IN_VAIN / 10));
                self.ask(Deed::PostAndEmpty, false);
            }
            Wait::Ports => {
                self.ask(Deed::Post, false);
                self.ask(Deed::PostPort, false);
                self.until_done();
                while self.seen.get() < self.posted.get() {
                    let event = port.try_recv().unwrap();
                    self.see(event.expect("it was posted").bytes());
                }
            }
        }
    }
}

fn hears_all(in_handler: bool) {
    let looping = common::thread_id();
    for strategy in STRATEGIES {
        for waiting in STRATEGIES {
            let (port1, port2) = channel_of(4096);
            let (asks, asked) = channel();
            // One that is waited for beside the other.
            let (_silent, silent) = channel();
            let (deeds, told) = mpsc::channel();
            let done = Arc::new(AtomicU64::new(0));
            let thread = thread::spawn({
                let done = Arc::clone(&done);
                move || peer(port1, told, looping, done)
            });
            port2.set_wait_strategy(waiting);
            let owned = Scene {
                deeds,
                done,
                posted: Cell::new(0),
                seen: Cell::new(0),
                dispatched: Cell::new(0),
            };
            let scene = &owned;
            let (waits, done) = (&Cell::new(WAITS[0]), &Cell::new(0));
            let mut events = EventLoop::new().unwrap();
            events.set_wait_strategy(strategy);
            let port = events.add(port2).unwrap();
            port.on_message(|_, event| {
                scene.see(event.bytes());
                scene.dispatched.set(scene.dispatched.get() + 1);
            });
            let id = port.id();
            drop(port);
            let silent = events.add(silent).unwrap();
            silent.on_message(|_, _| panic!("nothing was posted"));
            let silent_id = silent.id();
            drop(silent);
            events.add(asked).unwrap().on_message(move |events, _| {
                let ports = [id, silent_id].map(|id| events.port(id).unwrap());
                scene.wait(waits.get(), &ports[0], &ports[1]);
                done.set(done.get() + 1);
            });
            let waits_twice = WAITS.into_iter().chain(WAITS);
            for (round, wait) in waits_twice.enumerate() {
                // It has been quiet for a while, or was heard from just now.
                if round % 2 == 0 {
                    lull(&mut events);
                }
                if in_handler {
                    waits.set(wait);
                    asks.post_bytes(b"wait").unwrap();
                    run_until(&mut events, "it has waited", || done.get() > round);
                } else {
                    let ports = [id, silent_id].map(|id| events.port(id).unwrap());
                    scene.wait(wait, &ports[0], &ports[1]);
                }
                let before = scene.dispatched.get();
                scene.ask(Deed::Post, strategy != WaitStrategy::Spin);
                let what = format!("all is heard: {strategy:?}, {waiting:?}, {wait:?}");
                run_until(&mut events, &what, || {
                    scene.seen.get() == scene.posted.get()
                });
                assert!(scene.dispatched.get() > before);
            }
            drop(events);
            drop(owned);
            thread.join().unwrap();
        }
    }
}

#[test]
fn s52_a_wait_in_another_ports_handler_costs_the_loop_no_wake_up() {
    let _quiet = common::descriptors();
    hears_all(true);
}

#[test]
fn s52_a_wait_between_two_runs_costs_the_loop_no_wake_up() {
    let _quiet = common::descriptors();
    hears_all(false);
}

#[test]
fn s05_a_handler_that_asks_another_process_leaves_the_rest_of_its_answers_to_the_loop() {
    let _quiet = common::descriptors();
    const ROUNDS: u64 = 200;
    for strategy in STRATEGIES {
        let (asks, asked) = channel();
        let (answers, child) = common::worker("answers_twice").into_parts();
        let (seen, dispatched, asked_for) = (&Cell::new(0), &Cell::new(0), &Cell::new(0));
        let see = |bytes: &[u8]| {
            assert_eq!(bytes, sample(seen.get() / 2));
            seen.set(seen.get() + 1);
        };
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        let attached = events.add(answers).unwrap();
        attached.set_wait_strategy(strategy);
        attached.on_message(|_, event| {
            see(event.bytes());
            dispatched.set(dispatched.get() + 1);
        });
        let id = attached.id();
        drop(attached);
        events.add(asked).unwrap().on_message(|events, _| {
            let index = asked_for.replace(asked_for.get() + 1);
            let port = events.port(id).unwrap();
            port.post_bytes(&sample(index)).unwrap();
            // The second answer of the round before may come first.
            while seen.get() <= 2 * index {
                let event = port.recv_timeout(PATIENCE).unwrap();
                see(event.expect("an answer").bytes());
            }
        });
        for round in 1..=ROUNDS {
            asks.post_bytes(b"ask").unwrap();
            run_until(&mut events, "it is asked", || asked_for.get() == round);
            if round % 20 == 0 {
                // The last of them must be brought by the loop.
                run_until(&mut events, "all has come", || seen.get() == 2 * round);
            }
        }
        assert!(dispatched.get() >= ROUNDS / 20);
        drop(events);
        common::end_well(child);
    }
}

fn answers_twice() {
    let port = common::parent();
    for event in &port {
        port.post_bytes(event.bytes()).unwrap();
        port.post_bytes(event.bytes()).unwrap();
    }
}

#[test]
fn s48_an_end_that_a_wait_in_a_handler_has_met_is_told_once() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        for waiting in STRATEGIES {
            for started in [false, true] {
                let ends = Log::new();
                let (port1, port2) = channel();
                let (asks, asked) = channel();
                port2.set_wait_strategy(waiting);
                let looping = common::thread_id();
                let (tell, told) = mpsc::channel();
                let closing = thread::spawn(move || {
                    told.recv().unwrap();
                    if waiting != WaitStrategy::Spin {
                        common::until_asleep(std::process::id(), looping);
                    }
                    port1.close();
                });
                let mut events = EventLoop::new().unwrap();
                events.set_wait_strategy(strategy);
                let port = events.add(port2).unwrap();
                port.on_close(|_, event| ends.add((event.port, event.reason)));
                if started {
                    port.on_message(|_, _| panic!("nothing was posted"));
                }
                let id = port.id();
                drop(port);
                lull(&mut events);
                events.add(asked).unwrap().on_message(move |events, _| {
                    tell.send(()).unwrap();
                    let port = events.port(id).unwrap();
                    let answer = port.recv_timeout(PATIENCE);
                    assert!(matches!(answer, Err(RecvError::Closed(_))), "{answer:?}");
                });
                asks.post_bytes(b"wait").unwrap();
                run_until(&mut events, "the end is told", || !ends.is_empty());
                settle(&mut events);
                assert_eq!(ends.take(), [(id, CloseReason::ClosedByPeer)]);
                assert_eq!(events.len(), 1);
                closing.join().unwrap();
            }
        }
    }
}
