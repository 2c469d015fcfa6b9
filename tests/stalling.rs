//! Clients that come to a listener and do not finish their hello: they are hung up, and delay nobody.

mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;
#[path = "meeting/raw.rs"]
mod raw;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, next};
use parties::{accept, assert_entangled, meet, readable};
use place::Place;
use raw::{hello, hung_up, read_answer, segment_for};
use ringport::{ChannelOptions, Listener, MessagePort, connect};

/// Accepts whoever comes, in a thread, while `body` runs.
fn while_accepting<T>(listener: Listener, body: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let accepting = scope.spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let client = listener.accept_timeout(Duration::from_millis(50)).unwrap();
                if let Some((port, _)) = client {
                    // Held until the client closes it.
                    port.post_bytes(b"welcome").unwrap();
                    let _ = port.recv_timeout(PATIENCE);
                }
            }
        });
        // Also when the body fails: a scope waits for its threads.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        stop.store(true, Ordering::SeqCst);
        accepting.join().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// An honest client: how long it took to be let in.
fn honest(path: &Path) -> Duration {
    let start = Instant::now();
    let port: MessagePort = connect(path).unwrap();
    assert_eq!(next(&port), b"welcome");
    start.elapsed()
}

/// Clients that never finish their hello, each in another way.
fn stalled(path: &Path) -> Vec<(&'static str, UnixStream)> {
    let whole = hello(1, 1);
    let connected = || UnixStream::connect(path).unwrap();
    let silent = connected();
    let half = connected();
    raw::send(&half, &whole[..7], &[]);
    let almost = connected();
    raw::send(&almost, &whole[..15], &[]);
    let half_with_segment = connected();
    let segment = segment_for(&half_with_segment, &ChannelOptions::new());
    raw::send(&half_with_segment, &whole[..8], &[segment.as_fd()]);
    let bare = connected();
    raw::send(&bare, &whole, &[]);
    vec![
        ("silent", silent),
        ("half a hello", half),
        ("all but a byte", almost),
        ("half, with a segment", half_with_segment),
        ("no segment", bare),
    ]
}

#[test]
fn s62_a_stalled_client_is_hung_up_and_delays_nobody() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let path = listener.path().to_owned();
    while_accepting(listener, || {
        let start = Instant::now();
        let all = stalled(&path);
        // The machine may be busy once, but not each time.
        let fastest = (0..3).map(|_| honest(&path)).min().unwrap();
        assert!(fastest < Duration::from_millis(500), "{fastest:?}");
        for (what, client) in &all {
            assert!(hung_up(client, PATIENCE), "{what}");
            let stayed = start.elapsed();
            assert!(stayed < Duration::from_secs(5), "{what}: {stayed:?}");
            // What is plainly wrong need not be waited for.
            let patient = *what == "no segment" || stayed > Duration::from_millis(500);
            assert!(patient, "{what}: {stayed:?}");
        }
        honest(&path);
    });
}

#[test]
fn s62_a_client_cannot_stay_by_saying_little() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let path = listener.path().to_owned();
    while_accepting(listener, || {
        let start = Instant::now();
        let mut client = UnixStream::connect(&path).unwrap();
        // A byte now and then: 15 of them would last three seconds.
        for byte in hello(1, 1).into_iter().take(15) {
            let _ = client.write(&[byte]);
            if hung_up(&client, Duration::from_millis(200)) {
                break;
            }
        }
        let stayed = start.elapsed();
        assert!(stayed > Duration::from_millis(500), "{stayed:?}");
        assert!(stayed < Duration::from_millis(2500), "{stayed:?}");
    });
}

#[test]
fn s62_an_event_loop_hangs_up_stalled_clients_too() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let clients = stalled(listener.path());
    let start = Instant::now();
    let mut calls = 0;
    for (what, client) in &clients {
        // It calls only when the descriptor says so.
        while !hung_up(client, Duration::ZERO) {
            assert!(readable(&listener, PATIENCE), "{what}: not woken for it");
            assert!(listener.try_accept().unwrap().is_none());
            calls += 1;
        }
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(calls < 100, "{calls} calls: it was kept busy");
    assert!(!readable(&listener, Duration::ZERO));
    let (accepted, connected) = meet(&listener);
    assert_entangled(&accepted, &connected);
}

#[test]
fn s62_two_hundred_stalled_clients_keep_nobody_out() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let path = listener.path().to_owned();
    while_accepting(listener, || {
        let mut fastest = Duration::MAX;
        for _ in 0..3 {
            let clients: Vec<_> = (0..200)
                .map(|_| UnixStream::connect(&path).unwrap())
                .collect();
            fastest = fastest.min(honest(&path));
            // Of so many, the oldest have gone: at most 64 stay.
            let gone = |client: &&UnixStream| hung_up(client, Duration::ZERO);
            let gone = clients.iter().take_while(gone).count();
            assert!(gone >= 200 - 64, "{gone} of 200 are gone");
        }
        assert!(fastest < Duration::from_millis(500), "{fastest:?}");
    });
}

#[test]
fn s62_clients_that_were_stalled_are_accepted_when_they_go_on() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let whole = hello(1, 1);
    let clients: Vec<_> = (1..16)
        .map(|len| {
            let client = UnixStream::connect(listener.path()).unwrap();
            raw::send(&client, &whole[..len], &[]);
            (len, client)
        })
        .collect();
    assert!(listener.try_accept().unwrap().is_none());
    for (len, client) in clients.iter().rev() {
        let segment = segment_for(client, &ChannelOptions::new());
        raw::send(client, &whole[*len..], &[segment.as_fd()]);
        let (port, _) = accept(&listener);
        let answer = read_answer(client).expect("an answer");
        assert_eq!(answer.status, raw::ACCEPTED, "{len} bytes at first");
        // From now on the connection is the channel's doorbell, and no business of the listener's.
        raw::send(client, &[0x01], &[]);
        assert!(!readable(&listener, Duration::ZERO), "woken for nothing");
        assert!(!port.is_closed());
        drop(port);
        assert!(hung_up(client, PATIENCE));
    }
}
