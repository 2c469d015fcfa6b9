//! Listeners in a loop: every client gets a port, however it comes; a listener is taken out as it was put in; and what
//! becomes of one whose loop is dropped, and of a process.

mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;
#[path = "common/ports.rs"]
mod ports;
#[path = "meeting/raw.rs"]
mod raw;
#[path = "looping/shortage.rs"]
mod shortage;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, STRATEGIES, channel, closed, index_of, next, nothing, sample};
use place::Place;
use ringport::{
    AcceptError, ChannelOptions, CloseReason, ConnectError, EventLoop, Listener, PortEvent, connect,
};
use shortage::hoard;
use stage::{run_until, settle};

roles! { asks, answers, accepts_without_descriptors, accepts_without_segments }

fn echo<'h>(_: &EventLoop<'h>, event: PortEvent<'_>) {
    event.port().try_post_bytes(event.bytes()).unwrap();
}

/// A process that answers each message with its like.
fn answers() {
    ports::echo(&common::parent());
}

#[test]
fn every_client_gets_a_port_be_it_a_thread_or_a_process() {
    let _quiet = common::descriptors();
    const THREADS: usize = 20;
    const PROCESSES: usize = 3;
    for strategy in STRATEGIES {
        let place = Place::new();
        let listener = Listener::bind(place.join("here")).unwrap();
        let path = listener.path().to_owned();
        let (clients, ends) = (RefCell::new(Vec::new()), Cell::new(0));
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        // More of them wait than are accepted at once.
        let threads: Vec<_> = (0..THREADS).map(|_| parties::connecting(&path)).collect();
        for (_, thread) in &threads {
            common::until_asleep(std::process::id(), *thread);
        }
        let listener = events.add_listener(listener, |events, client| {
            let (port, client) = client.unwrap();
            clients.borrow_mut().push(client.process_id);
            let attached = events.add(port).unwrap();
            attached.on_message(echo).on_close(|_, event| {
                assert_eq!(event.reason, CloseReason::ClosedByPeer);
                ends.set(ends.get() + 1);
            });
        });
        let listener = listener.unwrap();
        let asking = thread::spawn(move || {
            for (client, _) in threads {
                ports::ask(&client.join().unwrap().unwrap(), 0..20);
            }
        });
        let others: Vec<_> = (0..PROCESSES).map(|_| parties::at(&path, "asks")).collect();
        run_until(&mut events, "all have come and gone", || {
            ends.get() == THREADS + PROCESSES
        });
        asking.join().unwrap();
        assert_eq!(events.len(), 1, "the listener is left");
        let mut clients = clients.borrow_mut();
        clients.sort();
        let mut expected = vec![std::process::id(); THREADS];
        for (_port, child) in others {
            expected.push(child.id());
            common::end_well(child);
        }
        expected.sort();
        assert_eq!(*clients, expected, "{strategy:?}");
        drop(events.remove_listener(listener).unwrap());
        assert!(place.names().is_empty());
    }
}

fn asks() {
    let _parent = common::parent();
    ports::ask(&connect(parties::address()).unwrap(), 0..20);
}

#[test]
fn a_listener_that_is_taken_out_keeps_the_clients_that_wait() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let path = listener.path().to_owned();
    let (accepted, out) = (RefCell::new(Vec::new()), RefCell::new(None));
    let id = Cell::new(None);
    let mut events = EventLoop::new().unwrap();
    let clients: Vec<_> = (0..4).map(|_| parties::connecting(&path)).collect();
    for (_, thread) in &clients {
        common::until_asleep(std::process::id(), *thread);
    }
    // Before it was heard of at all.
    let unheard = |_: &EventLoop<'_>, _| panic!("it was taken out before");
    let unheard = events.add_listener(listener, unheard).unwrap();
    let listener = events.remove_listener(unheard).unwrap();
    assert!(events.remove_listener(unheard).is_none());
    assert!(!events.run_once(Some(Duration::from_millis(5))).unwrap());
    // By its own handler, at the second client.
    let listener = events.add_listener(listener, |events, client| {
        accepted.borrow_mut().push(client.unwrap().0);
        if accepted.borrow().len() == 2 {
            *out.borrow_mut() = events.remove_listener(id.get().unwrap());
            assert!(events.remove_listener(id.get().unwrap()).is_none());
        }
    });
    id.set(Some(listener.unwrap()));
    events.run().unwrap();
    assert_eq!(accepted.borrow().len(), 2);
    // One by hand, the last in a loop again.
    let listener = out.take().unwrap();
    accepted.borrow_mut().push(parties::accept(&listener).0);
    let last = events.add_listener(listener, |events, client| {
        accepted.borrow_mut().push(client.unwrap().0);
        events.stop();
    });
    assert!(unheard < *last.as_ref().unwrap(), "later ids are greater");
    events.run().unwrap();
    drop(events.remove_listener(last.unwrap()));
    assert_eq!(accepted.borrow().len(), 4);
    let mut accepted = accepted.take();
    for (client, _) in clients {
        let client = client.join().unwrap().unwrap();
        client.post_bytes(b"who are you?").unwrap();
        let peer = accepted.iter().position(|peer| !nothing(peer)).unwrap();
        parties::assert_entangled(&accepted.swap_remove(peer), &client);
    }
}

#[test]
fn a_listeners_handler_may_stop_the_loop_panic_and_end_the_listening() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let path = listener.path().to_owned();
    let (calls, id) = (Cell::new(0), Cell::new(None));
    let mut events = EventLoop::new().unwrap();
    let clients: Vec<_> = (0..4).map(|_| parties::connecting(&path)).collect();
    for (_, thread) in &clients {
        common::until_asleep(std::process::id(), *thread);
    }
    let listener = events.add_listener(listener, |events, client| {
        let (port, _) = client.unwrap();
        calls.set(calls.get() + 1);
        port.post_bytes(&sample(calls.get())).unwrap();
        match calls.get() {
            1 => events.stop(),
            2 => std::panic::resume_unwind(Box::new("on purpose")),
            _ => drop(events.remove_listener(id.get().unwrap())),
        }
    });
    id.set(Some(listener.unwrap()));
    events.run().unwrap();
    assert_eq!(calls.get(), 1, "stopped between two clients");
    let panicked = catch_unwind(AssertUnwindSafe(|| events.run()));
    assert!(panicked.is_err() && calls.get() == 2);
    events.run().unwrap();
    assert_eq!((calls.get(), events.len()), (3, 0));
    let mut greeted = Vec::new();
    let mut refused = 0;
    for (client, _) in clients {
        // The one whose listener has gone meanwhile is refused, the others were greeted.
        match client.join().unwrap() {
            Ok(client) => {
                greeted.push(next(&client));
                assert_eq!(closed(client.recv()), CloseReason::ClosedByPeer);
            }
            Err(_) => refused += 1,
        }
    }
    greeted.sort_by_key(|bytes| index_of(bytes));
    assert_eq!(greeted, [sample(1), sample(2), sample(3)]);
    assert_eq!(refused, 1);
    assert!(matches!(
        connect(&path),
        Err(ConnectError::NobodyListens { .. })
    ));
}

#[test]
fn a_client_for_whom_there_are_no_descriptors_is_told_of_and_accepted_later() {
    let _quiet = common::descriptors();
    let status = common::command("accepts_without_descriptors").status();
    assert!(status.unwrap().success());
}

fn accepts_without_descriptors() {
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let path = listener.path().to_owned();
    let (port1, port2) = channel();
    let (failed, ticks) = (&Cell::new(0), &Cell::new(0));
    let (accepted, rested) = (&RefCell::new(Vec::new()), &Cell::new(false));
    let port1 = &port1;
    let mut events = EventLoop::new().unwrap();
    events.add(port2).unwrap().on_message(|_, event| {
        ticks.set(ticks.get() + 1);
        assert_eq!(event.bytes(), sample(ticks.get()));
    });
    let listener = events.add_listener(listener, |_, client| match client {
        Ok((port, _)) => accepted.borrow_mut().push(port),
        Err(AcceptError::System { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(libc::EMFILE), "{source}");
            failed.set(failed.get() + 1);
            port1.post_bytes(&sample(failed.get())).unwrap();
        }
        Err(other) => panic!("{other:?}"),
    });
    let listener = listener.unwrap();
    let (client, thread) = parties::connecting(&path);
    // It has all its descriptors, and its hello is sent.
    common::until_asleep(std::process::id(), thread);
    let files = hoard(0);
    let start = Instant::now();
    run_until(&mut events, "it is tried again", || {
        failed.get() == 5 && ticks.get() == 5
    });
    // Four rests of 10 ms lie between five attempts.
    assert!(start.elapsed() >= Duration::from_millis(40));
    drop(files);
    run_until(&mut events, "it is accepted", || {
        !accepted.borrow().is_empty()
    });
    assert_eq!(failed.get(), 5);
    parties::assert_entangled(&accepted.take()[0], &client.join().unwrap().unwrap());
    // It is heard of at once again.
    let (client, _) = parties::connecting(&path);
    run_until(&mut events, "another is accepted", || {
        !accepted.borrow().is_empty()
    });
    drop(client.join().unwrap().unwrap());

    // One that rests can be taken out, and its rest disturbs nobody.
    let (client, thread) = parties::connecting(&path);
    common::until_asleep(std::process::id(), thread);
    let files = hoard(0);
    run_until(&mut events, "it fails once more", || failed.get() == 6);
    let listener = events.remove_listener(listener).unwrap();
    drop(files);
    let (accepted, _) = parties::accept(&listener);
    // So long a rest lasts.
    events.set_timeout(Duration::from_millis(11), |_| rested.set(true));
    run_until(&mut events, "the rest is over", || rested.get());
    settle(&mut events);
    parties::assert_entangled(&accepted, &client.join().unwrap().unwrap());
    assert_eq!((failed.get(), events.len()), (6, 1));
}

/// What a client sends.
fn say_hello(client: &UnixStream) {
    let segment = raw::segment_for(client, &ChannelOptions::new());
    raw::send(client, &raw::hello(1, 1), &[segment.as_fd()]);
}

/// So many clients, of all of whom the listener knows, send their hellos at one moment. `also` is what the handler does
/// for each, beside accepting. All are accepted by rounds that do not wait for anything.
fn hellos_come_together(count: usize, also: fn(&EventLoop<'_>)) {
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let path = listener.path().to_owned();
    let accepted = RefCell::new(Vec::new());
    let mut events = EventLoop::new().unwrap();
    events
        .add_listener(listener, |events, client| {
            accepted.borrow_mut().push(client.unwrap().0);
            also(events);
        })
        .unwrap();
    let clients: Vec<_> = (0..count)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    settle(&mut events);
    clients.iter().for_each(say_hello);
    let start = Instant::now();
    let mut any = true;
    while any {
        let run = || events.run_once(Some(Duration::ZERO)).unwrap();
        // A panic was one of the handler's.
        any = catch_unwind(AssertUnwindSafe(run)).unwrap_or(true);
        assert!(start.elapsed() < PATIENCE, "it never comes to rest");
    }
    assert_eq!(accepted.borrow().len(), count, "without waiting");
    for client in &clients {
        let answer = raw::read_answer(client).expect("an answer");
        assert_eq!(answer.status, raw::ACCEPTED);
    }
}

#[test]
fn clients_whose_hellos_come_together_are_accepted_at_once_however_many() {
    let _quiet = common::descriptors();
    for count in [2, 16, 17, 40] {
        hellos_come_together(count, |_| ());
    }
}

#[test]
fn clients_whose_hellos_come_together_are_accepted_at_once_though_the_handler_stops_or_panics() {
    let _quiet = common::descriptors();
    for count in [2, 20] {
        hellos_come_together(count, |events| events.stop());
        hellos_come_together(count, |_| {
            std::panic::resume_unwind(Box::new("on purpose"));
        });
    }
}

#[test]
fn a_client_for_whose_segment_there_is_no_descriptor_is_tried_again_soon() {
    let _quiet = common::descriptors();
    let status = common::command("accepts_without_segments").status();
    assert!(status.unwrap().success());
}

fn accepts_without_segments() {
    const TIMES: u64 = 5;
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let client = UnixStream::connect(listener.path()).unwrap();
    say_hello(&client);
    let (failed, accepted) = (Cell::new(0), RefCell::new(None));
    let mut events = EventLoop::new().unwrap();
    let on_client = |_: &EventLoop<'_>, client: Result<_, AcceptError>| match client {
        Ok((port, _)) => *accepted.borrow_mut() = Some(port),
        Err(_) => failed.set(failed.get() + 1),
    };
    events.add_listener(listener, on_client).unwrap();
    // One for the connection: what came with the hello finds no place.
    let files = hoard(1);
    let start = Instant::now();
    run_until(&mut events, "it is tried again", || failed.get() == TIMES);
    // Between them lie rests of 10 ms. Its second is not over, at whose end it would be tried once more in any case.
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(10 * (TIMES - 1)), "{took:?}");
    assert!(took < Duration::from_millis(800), "{took:?}");
    drop(files);
    run_until(&mut events, "it is accepted", || {
        accepted.borrow().is_some()
    });
    assert_eq!(failed.get(), TIMES);
    assert_eq!(raw::read_answer(&client).unwrap().status, raw::ACCEPTED);
}

#[test]
fn a_loop_that_is_dropped_ends_its_listening_and_leaves_processes_alone() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let path = listener.path().to_owned();
    let token = Rc::new(());
    let (port, child) = common::worker("answers").into_parts();
    let process = child.id() as libc::pid_t;
    let events = EventLoop::new().unwrap();
    let owned = [Rc::clone(&token), Rc::clone(&token)];
    let [one, two] = owned;
    let client = parties::connecting(&path);
    events.add_child(child, move |_, _| drop(one)).unwrap();
    events
        .add_listener(listener, move |_, _| assert!(Rc::strong_count(&two) > 0))
        .unwrap();
    common::until_asleep(std::process::id(), client.1);
    drop(events);
    assert_eq!(Rc::strong_count(&token), 1, "what the handlers owned");
    assert!(client.0.join().unwrap().is_err(), "who waited is refused");
    let nobody = connect(&path);
    assert!(matches!(nobody, Err(ConnectError::NobodyListens { .. })));
    assert!(place.names().is_empty());
    // It was neither killed nor waited for.
    ports::ask(&port, 0..10);
    drop(port);
    let mut status = -1;
    // SAFETY: a child of ours that nobody has waited for; `status` is a live int.
    let waited = unsafe { libc::waitpid(process, &mut status, 0) };
    assert_eq!((waited, status), (process, 0));
}
