//! Connecting and accepting: how long they wait, in whose loop, how large a channel may be, and what a shortage of
//! descriptors does.

mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{AT_ONCE, PATIENCE, next};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use parties::{accept, address, assert_entangled, at, connecting, connecting_with, meet, readable};
use place::Place;
use ringport::{
    AcceptError, ChannelOptions, ConnectError, ConnectOptions, Listener, ListenerOptions,
    MessagePort, NewError, connect, connect_with,
};

roles! { accepts_without_descriptors, accepts_without_memory, connects_without_descriptors }

#[test]
fn nobody_listens_where_there_is_no_listener() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let nobody = |path: &Path| match connect(path) {
        Err(ConnectError::NobodyListens {
            path: named,
            source,
        }) => {
            assert_eq!(named, path);
            source.raw_os_error()
        }
        other => panic!("wanted NobodyListens, got {other:?}"),
    };
    assert_eq!(nobody(&place.join("here")), Some(libc::ENOENT));
    assert_eq!(nobody(&place.join("no/such/directory")), Some(libc::ENOENT));
    drop(Listener::bind(place.join("here")).unwrap());
    assert_eq!(nobody(&place.join("here")), Some(libc::ENOENT));
    // A socket that was left behind.
    drop(std::os::unix::net::UnixListener::bind(place.join("left")).unwrap());
    assert_eq!(nobody(&place.join("left")), Some(libc::ECONNREFUSED));
    assert_eq!(place.names(), ["left"], "connecting makes nothing");
}

#[test]
fn connecting_gives_up_in_time() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    for after in [Duration::ZERO, Duration::from_millis(150)] {
        let options = ConnectOptions::new().timeout(after);
        let start = Instant::now();
        let answer = connect_with(listener.path(), &options);
        let took = start.elapsed();
        match answer {
            Err(ConnectError::TimedOut { path, after: named }) => {
                assert_eq!((path.as_path(), named), (listener.path(), after));
            }
            other => panic!("wanted TimedOut, got {other:?}"),
        }
        assert!(took >= after && took < after + AT_ONCE, "{took:?}");
    }
    // Who gave up is gone; who still waits is accepted.
    let (accepted, connected) = meet(&listener);
    assert_entangled(&accepted, &connected);
    assert!(listener.try_accept().unwrap().is_none());
}

#[test]
fn a_timeout_can_be_as_long_as_there_is() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    for longest in [Duration::MAX, Duration::from_secs(u64::MAX / 2)] {
        let path = listener.path().to_owned();
        let client = thread::spawn(move || {
            connect_with(path, &ConnectOptions::new().timeout(longest)).unwrap()
        });
        let (accepted, _) = listener.accept_timeout(longest).unwrap().expect("a client");
        assert_entangled(&accepted, &client.join().unwrap());
    }
}

#[test]
fn accepting_gives_up_in_time() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    assert!(listener.try_accept().unwrap().is_none());
    for after in [Duration::ZERO, Duration::from_millis(150)] {
        let start = Instant::now();
        assert!(listener.accept_timeout(after).unwrap().is_none());
        let took = start.elapsed();
        assert!(took >= after && took < after + AT_ONCE, "{took:?}");
    }
}

#[test]
fn a_listener_that_waits_is_woken_by_a_client() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let mut listener = Listener::bind(place.join("here")).unwrap();
    for _ in 0..20 {
        let (tell, told) = mpsc::channel();
        // A listener can be given to another thread.
        let accepting = thread::spawn(move || {
            tell.send(common::thread_id()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            (listener, accepted)
        });
        common::until_asleep(std::process::id(), told.recv().unwrap());
        let connected = connect(place.join("here")).unwrap();
        let accepted;
        (listener, accepted) = accepting.join().unwrap();
        assert_entangled(&accepted, &connected);
    }
}

/// Accepts as an event loop does: it looks only when the descriptor says so.
#[track_caller]
fn accept_when_readable(listener: &Listener) -> MessagePort {
    for _ in 0..100 {
        assert!(readable(listener, PATIENCE), "no wake-up for a client");
        if let Some((port, _)) = listener.try_accept().unwrap() {
            return port;
        }
    }
    panic!("readable again and again, for nothing");
}

#[test]
fn an_event_loop_is_told_of_clients() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    for _ in 0..20 {
        assert!(!readable(&listener, Duration::ZERO), "nobody is there");
        let (client, _) = connecting(listener.path());
        let accepted = accept_when_readable(&listener);
        assert_entangled(&accepted, &client.join().unwrap().unwrap());
        assert!(listener.try_accept().unwrap().is_none());
    }

    // Who was not accepted yet is told of again.
    let clients: Vec<_> = (0..3).map(|_| connecting(listener.path())).collect();
    for (_, thread) in &clients {
        common::until_asleep(std::process::id(), *thread);
    }
    let accepted: Vec<_> = (0..3).map(|_| accept_when_readable(&listener)).collect();
    for (client, _) in clients {
        client.join().unwrap().unwrap();
    }
    assert!(listener.try_accept().unwrap().is_none());
    assert!(!readable(&listener, Duration::ZERO), "nobody is left");
    drop(accepted);
}

#[test]
fn the_channel_is_as_the_connecting_side_wants_it() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let channel = ChannelOptions::new()
        .capacity_1_to_2(8192)
        .capacity_2_to_1(16384)
        .prefault(true);
    let options = ConnectOptions::new().channel(channel);
    let (client, _) = connecting_with(listener.path(), options);
    let (accepted, _) = accept(&listener);
    let connected = client.join().unwrap().unwrap();
    assert_eq!((connected.capacity(), accepted.capacity()), (8192, 16384));
    assert_entangled(&accepted, &connected);

    let (accepted, connected) = meet(&listener);
    let default = common::channel().0.capacity();
    assert_eq!(
        (connected.capacity(), accepted.capacity()),
        (default, default)
    );

    let options = ConnectOptions::new().channel(ChannelOptions::new().capacity(5000));
    match connect_with(listener.path(), &options) {
        Err(ConnectError::Channel(NewError::Capacity { value: 5000 })) => {}
        other => panic!("wanted Channel, got {other:?}"),
    }
    assert!(listener.try_accept().unwrap().is_none());
}

#[test]
fn s62_a_channel_larger_than_the_listener_allows_is_refused() {
    let _quiet = common::descriptors();
    let place = Place::new();
    const MIB: usize = 1 << 20;
    let few = ListenerOptions::new().largest_capacity(8192);
    let uneven = ListenerOptions::new().largest_capacity(10_000);
    for (name, options, largest, fits, too_large) in [
        ("few", few, 8192, 8192, 16384),
        ("uneven", uneven, 10_000, 8192, 16384),
        (
            "default",
            ListenerOptions::default(),
            64 * MIB,
            64 * MIB,
            128 * MIB,
        ),
    ] {
        let listener = Listener::bind_with(place.join(name), &options).unwrap();
        let small = ChannelOptions::new().capacity(4096);
        for channel in [
            small.clone().capacity_1_to_2(too_large),
            small.clone().capacity_2_to_1(too_large),
            small.clone().capacity(too_large),
        ] {
            let options = ConnectOptions::new().channel(channel);
            let (client, _) = connecting_with(listener.path(), options);
            while !client.is_finished() {
                let answer = listener.accept_timeout(Duration::from_millis(5)).unwrap();
                assert!(answer.is_none(), "{name}");
            }
            match client.join().unwrap() {
                Err(ConnectError::Capacity {
                    largest: told,
                    asked,
                }) => {
                    assert_eq!((told, asked), (largest, too_large), "{name}");
                }
                other => panic!("wanted Capacity, got {other:?}"),
            }
        }
        let options = ConnectOptions::new().channel(small.capacity(fits));
        let (client, _) = connecting_with(listener.path(), options);
        let (accepted, _) = accept(&listener);
        assert_eq!(accepted.capacity(), fits);
        assert_entangled(&accepted, &client.join().unwrap().unwrap());
    }
}

/// Connects without waiting, as a client that is never going to say anything.
fn connect_silently(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

#[test]
fn connecting_gives_up_in_time_also_where_too_many_wait_before_it() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let options = ListenerOptions::new().backlog(3);
    let listener = Listener::bind_with(place.join("here"), &options).unwrap();
    let mut silent = Vec::new();
    let full = loop {
        match connect_silently(listener.path()) {
            Ok(socket) => silent.push(socket),
            Err(errno) => break errno,
        }
        assert!(silent.len() < 100, "the backlog is not what was asked for");
    };
    assert_eq!(full, Errno::EAGAIN);
    let after = Duration::from_millis(150);
    let start = Instant::now();
    let answer = connect_with(listener.path(), &ConnectOptions::new().timeout(after));
    assert!(
        matches!(answer, Err(ConnectError::TimedOut { .. })),
        "{answer:?}"
    );
    // The kernel counts this wait in ticks of its own, up to ten milliseconds each.
    let took = start.elapsed() + Duration::from_millis(10);
    assert!(took >= after && took < after + AT_ONCE, "{took:?}");

    let (client, thread) = connecting(listener.path());
    common::until_asleep(std::process::id(), thread);
    let (accepted, _) = accept(&listener);
    assert_entangled(&accepted, &client.join().unwrap().unwrap());
}

/// Opens descriptors until the process may have but `spare` more.
fn hoard(spare: usize) -> Vec<File> {
    let mut hoard = Vec::new();
    let error = loop {
        match File::open("/dev/null") {
            Ok(file) => hoard.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    hoard.truncate(hoard.len() - spare);
    hoard
}

/// In a role: few descriptors from here on.
fn limit_descriptors() {
    let few = libc::rlimit {
        rlim_cur: 100,
        rlim_max: 100,
    };
    // SAFETY: `few` is a valid rlimit for the length of the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &few) }, 0);
}

#[test]
fn a_listener_out_of_descriptors_loses_nobody() {
    let _quiet = common::descriptors();
    let status = common::command("accepts_without_descriptors").status();
    assert!(status.unwrap().success());
}

fn accepts_without_descriptors() {
    limit_descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let mut shortages = 0;
    for spare in 0..12 {
        let (client, thread) = connecting(listener.path());
        assert!(readable(&listener, PATIENCE));
        // The client has all its descriptors, and its hello is sent.
        common::until_asleep(std::process::id(), thread);
        let held = hoard(spare);
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(listener.accept_timeout(PATIENCE));
            if !matches!(answers.last(), Some(Err(_))) {
                break;
            }
        }
        drop(held);
        let mut accepted = None;
        for answer in answers {
            match answer {
                Ok(client) => accepted = client,
                Err(AcceptError::System { source, .. }) => {
                    assert_eq!(source.raw_os_error(), Some(libc::EMFILE), "{source}");
                    shortages += 1;
                }
                Err(other) => panic!("wanted System, got {other:?}"),
            }
        }
        let accepted = accepted.map_or_else(|| accept_when_readable(&listener), |(port, _)| port);
        assert_entangled(&accepted, &client.join().unwrap().unwrap());
        assert!(spare > 0 || shortages == 3, "{shortages}");
    }
    assert!(shortages < 36, "there was never enough");
}

#[test]
fn s57_a_client_that_is_too_large_for_the_memory_keeps_nobody_out() {
    let _quiet = common::descriptors();
    let status = common::command("accepts_without_memory").status();
    assert!(status.unwrap().success());
}

fn accepts_without_memory() {
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let large = ChannelOptions::new().capacity(64 << 20);
    let (large, thread) = connecting_with(listener.path(), ConnectOptions::new().channel(large));
    // It has its memory, and its hello is sent.
    assert!(readable(&listener, PATIENCE));
    common::until_asleep(std::process::id(), thread);
    let (small, thread) = connecting(listener.path());
    common::until_asleep(std::process::id(), thread);
    let most = libc::rlimit {
        rlim_cur: address_space() + (60 << 20),
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: `most` is a valid rlimit for the length of the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &most) }, 0);

    let (accepted, _) = accept(&listener);
    assert_entangled(&accepted, &small.join().unwrap().unwrap());
    // For the large one there is not enough, and it is hung up when its time is over.
    let start = Instant::now();
    while !large.is_finished() {
        assert!(start.elapsed() < AT_ONCE, "it is kept for ever");
        match listener.try_accept() {
            Ok(None) => {}
            Err(AcceptError::System { source, .. }) => {
                assert_eq!(source.raw_os_error(), Some(libc::ENOMEM), "{source}");
            }
            other => panic!("wanted a shortage, got {other:?}"),
        }
    }
    assert!(matches!(
        large.join().unwrap(),
        Err(ConnectError::Refused { .. })
    ));
    assert!(listener.try_accept().unwrap().is_none());
}

/// Bytes of address space that this process uses.
fn address_space() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn connecting_without_descriptors_leaves_nothing_behind() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let (_port, mut child) = at(listener.path(), "connects_without_descriptors");
    let status = loop {
        let client = listener.accept_timeout(Duration::from_millis(20)).unwrap();
        if let Some((port, _)) = client {
            // One that failed after it was accepted is gone again.
            let _ = port.post_bytes(b"welcome");
            let _ = port.recv_timeout(PATIENCE);
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    assert!(status.success());
}

fn connects_without_descriptors() {
    limit_descriptors();
    // The first use may open what stays open.
    drop(connect(address()).unwrap());
    let (mut shortages, mut connected) = (0, 0);
    for spare in 0..12 {
        let before = common::count_descriptors();
        let held = hoard(spare);
        let answer = connect(address());
        drop(held);
        let short = |source: &io::Error| source.raw_os_error() == Some(libc::EMFILE);
        match answer {
            Ok(port) => {
                assert_eq!(next(&port), b"welcome");
                connected += 1;
            }
            Err(ConnectError::System { source, .. }) if short(&source) => shortages += 1,
            Err(ConnectError::Channel(NewError::System { source, .. })) if short(&source) => {
                shortages += 1;
            }
            Err(other) => panic!("{spare} descriptors to spare: {other}"),
        }
        assert_eq!(common::count_descriptors(), before, "{spare} to spare");
    }
    assert!(shortages > 0 && connected > 0, "{shortages}, {connected}");
}
