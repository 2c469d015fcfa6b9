//! Other users at a listener: kept out, unless they are allowed, and named by the kernel.
//!
//! Clients that say nothing are in `stalling.rs`, what is said wrongly is in `hellos.rs`, and who only pretends to
//! listen in `impostors.rs`. To become another user takes root: without it, the tests that need one end at once and
//! say so.

mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;
#[path = "meeting/raw.rs"]
mod raw;

use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{PATIENCE, next};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixCredentials, sendmsg};
use parties::{accept, address, assert_entangled, meet};
use place::{Place, group, set_mode, user};
use raw::{NOT_ALLOWED, hello, hung_up, read_answer, segment_for};
use ringport::{
    ChannelOptions, ConnectError, Credentials, Listener, ListenerOptions, WaitStrategy, Worker,
    connect,
};

roles! { is_a_stranger }

/// Two users that are neither root nor each other. They need no name.
const STRANGER: u32 = 54_321;
const OTHER: u32 = 54_322;

/// The group of such a user: not its own number, so that the two cannot be taken for each other.
fn group_of(user: u32) -> u32 {
    user + 1000
}

/// Whether this process can be another user.
fn can_change_users() -> bool {
    let can = user() == 0;
    if !can {
        eprintln!("not tested: becoming another user takes root");
    }
    can
}

/// What a process of another user was told, who it was, and whom the listener let in meanwhile.
struct Visit {
    told: String,
    process: u32,
    accepted: Vec<Credentials>,
}

/// Has user `id` do something at `path` while `listener`, if given, accepts.
fn visit(id: u32, path: &Path, what: &str, listener: Option<&Listener>) -> Visit {
    let mut command = common::command("is_a_stranger");
    command.env(parties::ADDRESS, path);
    common::tell(&mut command, WaitStrategy::Block, &format!("{id} {what}"));
    let (port, child) = Worker::spawn(command).unwrap().into_parts();
    let process = child.id();
    let mut accepted = Vec::new();
    let start = Instant::now();
    let told = loop {
        assert!(start.elapsed() < PATIENCE, "the stranger says nothing");
        if let Some(listener) = listener {
            if let Some((port, who)) = listener.try_accept().unwrap() {
                port.post_bytes(b"welcome").unwrap();
                assert_eq!(next(&port), b"thanks");
                accepted.push(who);
            }
        }
        if let Some(event) = port.recv_timeout(Duration::from_millis(1)).unwrap() {
            break String::from_utf8(event.bytes().to_vec()).unwrap();
        }
    };
    drop(port);
    common::end_well(child);
    Visit {
        told,
        process,
        accepted,
    }
}

fn is_a_stranger() {
    let parent = common::parent();
    let how = common::how();
    let (id, what) = how.split_once(' ').unwrap();
    let id: u32 = id.parse().unwrap();
    // SAFETY: an empty list, which is not looked at.
    assert_eq!(unsafe { libc::setgroups(0, std::ptr::null()) }, 0);
    // SAFETY: these take numbers and have no precondition.
    let became = unsafe { (libc::setgid(group_of(id)), libc::setuid(id)) };
    assert_eq!(became, (0, 0));
    let told = match what {
        "connects" => match connect(address()) {
            Ok(port) => {
                assert_eq!(next(&port), b"welcome");
                port.post_bytes(b"thanks").unwrap();
                "connected".to_owned()
            }
            Err(ConnectError::NotAllowed { path, user }) => {
                assert_eq!(path, address());
                format!("not allowed: {user}")
            }
            Err(ConnectError::Directory { path, .. }) => format!("directory {}", path.display()),
            Err(other) => format!("{other:?}"),
        },
        "says nothing" => {
            let socket = UnixStream::connect(address()).unwrap();
            let answer = read_answer(&socket).expect("an answer");
            assert!(hung_up(&socket, PATIENCE));
            format!("{} {} {}", answer.version, answer.status, answer.detail)
        }
        "listens" => {
            let listener = Listener::bind(address()).unwrap();
            parent.post_bytes(b"listening").unwrap();
            while !parent.is_closed() {
                let client = listener.accept_timeout(Duration::from_millis(5)).unwrap();
                assert!(client.is_none(), "{client:?}");
            }
            return;
        }
        other => panic!("no such thing to do: {other}"),
    };
    parent.post_bytes(told.as_bytes()).unwrap();
}

#[test]
fn s62_another_user_is_not_let_in() {
    let _quiet = common::descriptors();
    if !can_change_users() {
        return;
    }
    let place = Place::new().open_to_all();
    let listener = Listener::bind(place.join("here")).unwrap();
    // Kept out by the socket's mode, then by the listener's own look.
    for mode in [0o600, 0o666] {
        set_mode(listener.path(), mode);
        let visit = visit(STRANGER, listener.path(), "connects", Some(&listener));
        assert_eq!(visit.told, format!("not allowed: {STRANGER}"), "{mode:o}");
        assert_eq!(visit.accepted, []);
        assert!(listener.try_accept().unwrap().is_none());
    }
    let (accepted, connected) = meet(&listener);
    assert_entangled(&accepted, &connected);
}

#[test]
fn s62_who_is_not_allowed_is_told_so_before_it_says_anything() {
    let _quiet = common::descriptors();
    if !can_change_users() {
        return;
    }
    let place = Place::new().open_to_all();
    let options = ListenerOptions::new().allow_user(OTHER);
    let listener = Listener::bind_with(place.join("here"), &options).unwrap();
    let visit = visit(STRANGER, listener.path(), "says nothing", Some(&listener));
    assert_eq!(visit.told, format!("1 {NOT_ALLOWED} 0"));
}

#[test]
fn s62_users_that_are_allowed_are_let_in_and_named() {
    let _quiet = common::descriptors();
    if !can_change_users() {
        return;
    }
    let place = Place::new().open_to_all();
    let one = ListenerOptions::new().allow_user(STRANGER);
    let both = one.clone().allow_user(OTHER);
    let any = ListenerOptions::new().allow_any_user();
    for (name, options, others) in [
        ("one", one, false),
        ("both", both, true),
        ("any", any, true),
    ] {
        let listener = Listener::bind_with(place.join(name), &options).unwrap();
        for (id, allowed) in [(STRANGER, true), (OTHER, others), (STRANGER, true)] {
            let visit = visit(id, listener.path(), "connects", Some(&listener));
            if allowed {
                assert_eq!(visit.told, "connected", "{name}, {id}");
                let who = Credentials {
                    process_id: visit.process,
                    user_id: id,
                    group_id: group_of(id),
                };
                assert_eq!(visit.accepted, [who], "{name}, {id}");
            } else {
                assert_eq!(visit.told, format!("not allowed: {id}"), "{name}");
                assert_eq!(visit.accepted, [], "{name}, {id}");
            }
        }
        // The listener's own user need not be named.
        let (accepted, connected) = meet(&listener);
        assert_entangled(&accepted, &connected);
    }
}

#[test]
fn s62_root_is_another_user_too() {
    let _quiet = common::descriptors();
    if !can_change_users() {
        return;
    }
    let place = Place::new().open_to_all();
    set_mode(place.path(), 0o777);
    let mut command = common::command("is_a_stranger");
    command.env(parties::ADDRESS, place.join("here"));
    let how = format!("{STRANGER} listens");
    common::tell(&mut command, WaitStrategy::Block, &how);
    let (port, child) = Worker::spawn(command).unwrap().into_parts();
    assert_eq!(next(&port), b"listening");
    match connect(place.join("here")) {
        Err(ConnectError::NotAllowed { user: 0, .. }) => {}
        other => panic!("wanted NotAllowed, got {other:?}"),
    }
    drop(port);
    common::end_well(child);
}

#[test]
fn s62_names_are_not_shared_with_other_users() {
    let _quiet = common::descriptors();
    if !can_change_users() {
        return;
    }
    // As when the environment is kept while the user changes.
    let place = Place::new().open_to_all();
    let directory = place.join("ringport");
    std::fs::create_dir(&directory).unwrap();
    set_mode(&directory, 0o700);
    let mut command = common::command("is_a_stranger");
    command
        .env(parties::ADDRESS, "mixer")
        .env("XDG_RUNTIME_DIR", place.path());
    let how = format!("{STRANGER} connects");
    common::tell(&mut command, WaitStrategy::Block, &how);
    let (port, child) = Worker::spawn(command).unwrap().into_parts();
    let told = String::from_utf8(next(&port)).unwrap();
    assert_eq!(told, format!("directory {}", directory.display()));
    common::end_well(child);
}

#[test]
fn s62_the_credentials_are_the_kernels_word() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let listener = Listener::bind(place.join("here")).unwrap();
    let socket = UnixStream::connect(listener.path()).unwrap();
    let segment = segment_for(&socket, &ChannelOptions::new());
    // Only root may lie to the kernel, and to ask for the truth is no lie.
    let claimed = if user() == 0 { 1 } else { user() };
    let claimed = UnixCredentials::from(libc::ucred {
        pid: std::process::id() as i32,
        uid: claimed,
        gid: group(),
    });
    let rights = [segment.as_raw_fd()];
    let control = [
        ControlMessage::ScmRights(&rights),
        ControlMessage::ScmCredentials(&claimed),
    ];
    let data = hello(1, 1);
    let data = [IoSlice::new(&data)];
    sendmsg::<()>(socket.as_raw_fd(), &data, &control, MsgFlags::empty(), None).unwrap();
    let (_port, who) = accept(&listener);
    let own = Credentials {
        process_id: std::process::id(),
        user_id: user(),
        group_id: group(),
    };
    assert_eq!(who, own);
}
