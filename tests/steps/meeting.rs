//! Death between every two steps of a meeting: a client that connects, a listener that accepts.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use ringport::{
    CloseReason, ConnectError, ConnectOptions, Credentials, Listener, MessagePort, WaitStrategy,
};

use crate::common::{
    self, AT_ONCE, Counters, PATIENCE, closed, next, on_stage, rest, sample, victim,
};
use crate::death::at_every_stop;
use crate::tracer;

/// The slot for "the two have met".
const MET: usize = 3;

/// A directory for sockets, removed with all that the dead left in it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let name = format!("ringport-steps-{name}-{}", std::process::id());
        let place = std::env::temp_dir().join(name);
        std::fs::create_dir(&place).unwrap();
        Place(place)
    }

    fn address(&self) -> PathBuf {
        self.0.join("here")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tell_address(control: &MessagePort, address: &Path) {
    control
        .post_bytes(address.to_str().unwrap().as_bytes())
        .unwrap();
}

fn told_address(control: &MessagePort) -> PathBuf {
    PathBuf::from(String::from_utf8(next(control)).unwrap())
}

/// Accepts until this process itself has connected: all that came before, and that one.
fn accept_all(listener: &Listener) -> Vec<(MessagePort, Credentials)> {
    let mut accepted = Vec::new();
    loop {
        let one = listener
            .accept_timeout(PATIENCE)
            .unwrap()
            .expect("a client");
        let own = one.1.process_id == std::process::id();
        accepted.push(one);
        if own {
            return accepted;
        }
    }
}

#[test]
fn s62_a_client_killed_between_any_two_steps_of_connecting_holds_up_nobody() {
    let _quiet = common::descriptors();
    let place = Place::new("connect");
    let mut accepted_at = Vec::new();
    let mut listener = Listener::bind(place.address()).unwrap();
    at_every_stop(
        &[libc::SYS_socket, libc::SYS_connect, libc::SYS_sendmsg],
        |death| {
            let (control, mut child, counters) = victim("connects", WaitStrategy::Block, "");
            tell_address(&control, &place.address());
            let (accepted, port) = thread::scope(|scope| {
                let listener = &mut listener;
                let acceptor = scope.spawn(move || accept_all(listener));
                death.strike(&mut child, &counters);
                let port = ringport::connect(place.address()).unwrap();
                (acceptor.join().unwrap(), port)
            });
            let mut strangers = 0;
            for (accepted, who) in accepted {
                if who.process_id == std::process::id() {
                    port.post_bytes(&sample(3)).unwrap();
                    assert_eq!(next(&accepted), sample(3));
                    continue;
                }
                strangers += 1;
                assert_eq!(who.process_id, child.id());
                let (posted, reason) = rest(&accepted, 0);
                assert!(posted >= counters.get(Counters::DONE));
                assert_eq!(reason, CloseReason::PeerGone);
                common::assert_over(&accepted, reason);
            }
            assert!(strangers <= 1);
            assert!(
                counters.get(MET) == 0 || strangers == 1,
                "connect had returned"
            );
            accepted_at.push(strangers == 1);
            assert_eq!(closed(control.recv()), CloseReason::PeerGone);
        },
    );
    assert!(accepted_at.contains(&false) && accepted_at.contains(&true));
}

/// Connects, and says one thing.
pub fn connects() {
    let (control, counters) = on_stage();
    let address = told_address(&control);
    tracer::begin(&counters);
    let port = ringport::connect(address).unwrap();
    counters.set(MET, 1);
    port.post_bytes(&sample(0)).unwrap();
    counters.set(Counters::DONE, 1);
    tracer::end();
}

#[test]
fn s62_a_listener_killed_between_any_two_steps_of_accepting_leaves_nobody_waiting() {
    let _quiet = common::descriptors();
    let place = Place::new("accept");
    let mut connected_at = Vec::new();
    at_every_stop(
        &[libc::SYS_accept4, libc::SYS_recvmsg, libc::SYS_mmap],
        |death| {
            let (control, mut child, counters) = victim("accepts", WaitStrategy::Block, "");
            // What the one before left behind is in nobody's way.
            tell_address(&control, &place.address());
            assert_eq!(next(&control), b"bound");
            let address = place.address();
            let (started, thread) = mpsc::channel();
            let client = thread::spawn(move || {
                started.send(common::thread_id()).unwrap();
                let options = ConnectOptions::new().timeout(PATIENCE);
                (ringport::connect_with(address, &options), Instant::now())
            });
            common::until_asleep(std::process::id(), thread.recv().unwrap());
            control.post_bytes(b"go").unwrap();
            death.strike(&mut child, &counters);
            let struck = Instant::now();
            let (answer, when) = client.join().unwrap();
            assert!(when.saturating_duration_since(struck) < AT_ONCE);
            connected_at.push(answer.is_ok());
            match answer {
                Ok(port) => {
                    let (posted, reason) = rest(&port, 0);
                    assert!(posted >= counters.get(Counters::DONE));
                    assert_eq!(reason, CloseReason::PeerGone);
                    common::assert_over(&port, reason);
                }
                Err(ConnectError::Refused { .. }) => assert_eq!(counters.get(MET), 0),
                Err(other) => panic!("wanted Refused, got {other:?}"),
            }
            assert_eq!(closed(control.recv()), CloseReason::PeerGone);
        },
    );
    assert!(connected_at.contains(&false) && connected_at.contains(&true));
}

/// Accepts one client, and says one thing to it.
pub fn accepts() {
    let (control, counters) = on_stage();
    let listener = Listener::bind(told_address(&control)).unwrap();
    control.post_bytes(b"bound").unwrap();
    assert_eq!(next(&control), b"go");
    tracer::begin(&counters);
    let (port, _) = listener.accept().unwrap();
    counters.set(MET, 1);
    port.post_bytes(&sample(0)).unwrap();
    counters.set(Counters::DONE, 1);
    tracer::end();
}

#[test]
fn s62_a_listener_killed_between_any_two_steps_of_its_life_is_in_nobodys_way() {
    let _quiet = common::descriptors();
    let place = Place::new("bind");
    at_every_stop(
        &[libc::SYS_flock, libc::SYS_bind, libc::SYS_listen],
        |death| {
            let (control, mut child, counters) = victim("binds", WaitStrategy::Block, "");
            tell_address(&control, &place.address());
            death.strike(&mut child, &counters);
            let error = ringport::connect(place.address()).unwrap_err();
            assert!(
                matches!(error, ConnectError::NobodyListens { .. }),
                "{error:?}"
            );
            // Its successor needs nobody to clear up.
            let listener = Listener::bind(place.address()).unwrap();
            let client = thread::scope(|scope| {
                let client = scope.spawn(|| ringport::connect(place.address()).unwrap());
                let (port, who) = listener
                    .accept_timeout(PATIENCE)
                    .unwrap()
                    .expect("a client");
                assert_eq!(who.process_id, std::process::id());
                port.post_bytes(&sample(0)).unwrap();
                drop(port);
                client.join().unwrap()
            });
            assert_eq!(rest(&client, 0), (1, CloseReason::ClosedByPeer));
            assert_eq!(closed(control.recv()), CloseReason::PeerGone);
        },
    );
    let left = std::fs::read_dir(&place.0).unwrap().count();
    assert_eq!(left, 0, "a listener that is dropped removes its files");
}

/// Listens, and then not.
pub fn binds() {
    let (control, counters) = on_stage();
    let address = told_address(&control);
    tracer::begin(&counters);
    drop(Listener::bind(address).unwrap());
    tracer::end();
}
