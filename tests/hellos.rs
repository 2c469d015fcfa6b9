//! Hellos that no ringport says, thousands of them: the listener answers as documented, keeps nothing of what came
//! with them, and goes on.

mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;
#[path = "meeting/raw.rs"]
mod raw;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{PATIENCE, next};
use nix::fcntl::SealFlag;
use place::Place;
use raw::{
    ACCEPTED, Answer, OTHER_VERSION, Random, TOO_LARGE, UNUSABLE, hello, hung_up, read_answer,
    resealed, segment_for, send,
};
use ringport::{
    ChannelOptions, ConnectOptions, Listener, ListenerOptions, MessagePort, connect_with,
};

/// The listener's limit.
const LARGEST: usize = 16 << 10;

/// A listener in a thread of its own that closes what it has accepted, and counts it.
struct Accepting<'a> {
    path: &'a Path,
    accepted: &'a AtomicUsize,
}

fn with_listener(body: impl FnOnce(Accepting<'_>)) {
    let place = Place::new();
    let options = ListenerOptions::new().largest_capacity(LARGEST);
    let listener = Listener::bind_with(place.join("here"), &options).unwrap();
    let path = listener.path().to_owned();
    let (stop, accepted) = (AtomicBool::new(false), AtomicUsize::new(0));
    let open = common::count_descriptors();
    thread::scope(|scope| {
        let (stop, accepted) = (&stop, &accepted);
        let accepting = scope.spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let client = listener.accept_timeout(Duration::from_millis(20)).unwrap();
                if let Some((port, _)) = client {
                    accepted.fetch_add(1, Ordering::SeqCst);
                    use_it(&port);
                }
            }
            listener
        });
        let path = path.as_path();
        let run = || {
            body(Accepting { path, accepted });
            // Who left with half a hello unsaid is kept for a second.
            common::until("nothing of the clients is left", || {
                common::count_descriptors() == open
            });
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        stop.store(true, Ordering::SeqCst);
        let listener = accepting.join().unwrap();
        drop(listener);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Whatever is in the segment of an accepted port, using it does no harm.
fn use_it(port: &MessagePort) {
    let _ = port.post_bytes_timeout(b"welcome", Duration::from_millis(1));
    let _ = port.try_recv();
    let _ = port.pending();
}

/// An honest client is let in.
#[track_caller]
fn assert_healthy(accepting: &Accepting<'_>) {
    let before = accepting.accepted.load(Ordering::SeqCst);
    let options = ConnectOptions::new().channel(small());
    let port = connect_with(accepting.path, &options).unwrap();
    assert_eq!(next(&port), b"welcome");
    assert_eq!(accepting.accepted.load(Ordering::SeqCst), before + 1);
}

/// The answer is the one documented for this status, and after it the connection is hung up: by the
/// listener, or, if it was accepted, by the drop of the port.
#[track_caller]
fn assert_answered(socket: &UnixStream, status: u32, what: &str) {
    let answer = read_answer(socket).unwrap_or_else(|| panic!("{what}: no answer"));
    let detail = if status == TOO_LARGE {
        LARGEST as u64
    } else {
        0
    };
    let wanted = Answer {
        version: 1,
        status,
        detail,
    };
    assert_eq!(answer, wanted, "{what}");
    assert!(hung_up(socket, PATIENCE), "{what}: not hung up");
}

fn small() -> ChannelOptions {
    ChannelOptions::new().capacity(4096)
}

fn good_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// Descriptors that are no segments.
fn other_things() -> Vec<(&'static str, OwnedFd)> {
    let (stream, _) = UnixStream::pair().unwrap();
    let (pipe, _) = nix::unistd::pipe().unwrap();
    let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::EPOLL_CLOEXEC);
    vec![
        ("a socket", stream.into()),
        ("a pipe", pipe),
        ("a device", File::open("/dev/null").unwrap().into()),
        ("a directory", File::open("/tmp").unwrap().into()),
        ("a file", File::open("/proc/self/exe").unwrap().into()),
        ("an epoll", epoll.unwrap().0),
        ("empty memory", resealed_empty().into()),
    ]
}

fn resealed_empty() -> File {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    File::from(nix::sys::memfd::memfd_create("empty", flags).unwrap())
}

#[test]
fn s62_a_hello_of_another_version_is_answered_with_ours() {
    let _quiet = common::descriptors();
    with_listener(|accepting| {
        // The client speaks from the second to the first; this listener speaks 1.
        for (version, lowest, status) in [
            (1, 1, ACCEPTED),
            (1, 0, ACCEPTED),
            (2, 1, ACCEPTED),
            (u32::MAX, 0, ACCEPTED),
            (0, 0, OTHER_VERSION),
            (2, 2, OTHER_VERSION),
            (u32::MAX, 2, OTHER_VERSION),
            (u32::MAX, u32::MAX, OTHER_VERSION),
        ] {
            let client = UnixStream::connect(accepting.path).unwrap();
            let segment = segment_for(&client, &small());
            send(&client, &hello(version, lowest), &[segment.as_fd()]);
            assert_answered(&client, status, &format!("{version}, {lowest}"));
        }
        assert_healthy(&accepting);
    });
}

#[test]
fn s61_what_comes_with_a_hello_but_one_segment_is_closed() {
    let _quiet = common::descriptors();
    with_listener(|accepting| {
        for count in [0, 2, 3, 4, 100, 252, 253] {
            let client = UnixStream::connect(accepting.path).unwrap();
            let segment = segment_for(&client, &small());
            let many: Vec<BorrowedFd<'_>> = (0..count).map(|_| segment.as_fd()).collect();
            send(&client, &hello(1, 1), &many);
            assert_answered(&client, UNUSABLE, &format!("{count} descriptors"));
        }
        for (what, thing) in other_things() {
            let client = UnixStream::connect(accepting.path).unwrap();
            send(&client, &hello(1, 1), &[thing.as_fd()]);
            assert_answered(&client, UNUSABLE, what);
        }
        // Its own connection, which would keep itself open.
        let client = UnixStream::connect(accepting.path).unwrap();
        send(&client, &hello(1, 1), &[client.as_fd()]);
        assert_answered(&client, UNUSABLE, "the connection");
        assert_healthy(&accepting);
    });
}

#[test]
fn s58_a_segment_that_could_be_taken_away_is_refused() {
    let _quiet = common::descriptors();
    with_listener(|accepting| {
        use SealFlag as Seal;
        for (seals, status) in [
            (good_seals(), ACCEPTED),
            (Seal::empty(), UNUSABLE),
            (Seal::F_SEAL_SHRINK | Seal::F_SEAL_GROW, UNUSABLE),
            (Seal::F_SEAL_SHRINK | Seal::F_SEAL_SEAL, UNUSABLE),
            (Seal::F_SEAL_GROW | Seal::F_SEAL_SEAL, UNUSABLE),
            (good_seals() | Seal::F_SEAL_WRITE, UNUSABLE),
            (good_seals() | Seal::F_SEAL_FUTURE_WRITE, UNUSABLE),
        ] {
            let client = UnixStream::connect(accepting.path).unwrap();
            let segment = resealed(&segment_for(&client, &small()), seals);
            send(&client, &hello(1, 1), &[segment.as_fd()]);
            assert_answered(&client, status, &format!("{seals:?}"));
        }
        assert_healthy(&accepting);
    });
}

/// The inodes of the sockets that this process has open.
fn open_sockets() -> BTreeSet<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links
        .filter_map(|link| {
            let link = link.to_str()?.strip_prefix("socket:[")?;
            link.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

#[test]
fn s57_a_segment_cannot_make_both_ends_the_same() {
    let _quiet = common::descriptors();
    with_listener(|accepting| {
        let before = open_sockets();
        let client = UnixStream::connect(accepting.path).unwrap();
        let own = raw::inode_of(&client);
        // The listener's end of the connection, which a client can guess: such numbers are in sequence.
        let mut theirs = None;
        common::until("the listener has looked at the connection", || {
            let mut new = open_sockets();
            new.retain(|inode| !before.contains(inode) && *inode != own);
            theirs = new.first().copied();
            theirs.is_some()
        });
        let segment = segment_for(&client, &small());
        let inode = theirs.unwrap().to_le_bytes();
        segment.write_all_at(&inode, raw::INODE).unwrap();
        send(&client, &hello(1, 1), &[segment.as_fd()]);
        assert_answered(&client, UNUSABLE, "the listener's own inode");
        assert_healthy(&accepting);
    });
}

/// One hostile client: what it does, and what it must be told; `None` where more than one answer is right.
fn misbehave(path: &Path, random: &mut Random) -> (&'static str, Option<u32>) {
    let client = UnixStream::connect(path).unwrap();
    let good = hello(1, 1);
    let segment = segment_for(&client, &small());
    let segment_fd = [segment.as_fd()];
    let (what, status) = match random.below(11) {
        0 => {
            send(&client, &good, &segment_fd);
            ("all right", Some(ACCEPTED))
        }
        1 => {
            let mut bytes = good;
            bytes[random.below(8)] ^= 1 << random.below(8);
            send(&client, &bytes, &segment_fd);
            ("a wrong magic", Some(UNUSABLE))
        }
        2 => {
            let numbers = [0, 1, 2, 3, 1 << 31, u32::MAX];
            let (version, lowest) = (random.one_of(&numbers), random.one_of(&numbers));
            send(&client, &hello(version, lowest), &segment_fd);
            let speaks_ours = version >= 1 && lowest <= 1;
            let status = if speaks_ours { ACCEPTED } else { OTHER_VERSION };
            ("some versions", Some(status))
        }
        3 => {
            let count = random.one_of(&[0, 2, 3, 17, 253]);
            let many: Vec<_> = (0..count).map(|_| segment.as_fd()).collect();
            send(&client, &good, &many);
            ("too few or too many", Some(UNUSABLE))
        }
        4 => {
            // A bit of the header flipped: not in its version, which may be higher if ours can read it all the
            // same, and not in the inode, which only the client knows.
            let at = random.one_of(&[0, 3, 7, 13, 15, 16, 17, 23, 25, 33, 40, 47]);
            let mut byte = [0];
            segment.read_exact_at(&mut byte, at).unwrap();
            byte[0] ^= 1 << random.below(8);
            segment.write_all_at(&byte, at).unwrap();
            send(&client, &good, &segment_fd);
            ("a wrong header", Some(UNUSABLE))
        }
        5 => {
            let large = random.one_of(&[2 * LARGEST, 4 * LARGEST]);
            let options = random.one_of(&[
                ChannelOptions::capacity as fn(ChannelOptions, usize) -> ChannelOptions,
                ChannelOptions::capacity_1_to_2,
                ChannelOptions::capacity_2_to_1,
            ])(small(), large);
            let segment = segment_for(&client, &options);
            send(&client, &good, &[segment.as_fd()]);
            ("too large", Some(TOO_LARGE))
        }
        6 => {
            // Positions that cannot be.
            let at = random.one_of(&[1024, 1024 + 128, 1536, 1536 + 128]);
            let position = random.one_of(&[0, 9, 16, 8 + 4096 + 16, 1 << 63, u64::MAX]);
            segment.write_all_at(&position.to_le_bytes(), at).unwrap();
            send(&client, &good, &segment_fd);
            ("impossible positions", Some(UNUSABLE))
        }
        7 => {
            // Anything at all in the endpoints' lines and the rings.
            for _ in 0..8 {
                let at = 1024 + random.below(3072 + 8192 - 8) as u64;
                let word = random.next() >> random.below(64);
                segment.write_all_at(&word.to_le_bytes(), at).unwrap();
            }
            send(&client, &good, &segment_fd);
            ("a scribbled segment", None)
        }
        8 => {
            let bytes: Vec<u8> = (0..1 + random.below(64))
                .map(|_| random.next() as u8)
                .collect();
            let count = random.below(3);
            let some: Vec<_> = (0..count).map(|_| segment.as_fd()).collect();
            send(&client, &bytes, &some);
            let whole = bytes.len() >= good.len();
            ("noise", whole.then_some(UNUSABLE))
        }
        9 => {
            // In pieces; the segment comes with the last.
            let cut = 1 + random.below(good.len() - 1);
            send(&client, &good[..cut], &[]);
            send(&client, &good[cut..], &segment_fd);
            ("pieces", Some(ACCEPTED))
        }
        _ => {
            // More than a hello, and then gone.
            let rest: Vec<u8> = (0..random.below(80)).map(|_| random.next() as u8).collect();
            send(&client, &[&good[..], &rest].concat(), &segment_fd);
            return ("left at once", None);
        }
    };
    match status {
        Some(status) => assert_answered(&client, status, what),
        // Of noise too short to be a hello nothing is known yet; it leaves.
        None if what == "noise" => {}
        None => {
            let status = read_answer(&client).expect("an answer").status;
            assert!(status == ACCEPTED || status == UNUSABLE, "{status}");
            assert!(hung_up(&client, PATIENCE));
        }
    }
    (what, status)
}

#[test]
fn s57_thousands_of_hostile_hellos() {
    let _quiet = common::descriptors();
    with_listener(|accepting| {
        let mut random = Random(62);
        let mut kinds = BTreeMap::new();
        let (mut least, mut doubtful) = (0, 0);
        for round in 0..4000 {
            let (what, status) = misbehave(accepting.path, &mut random);
            *kinds.entry(what).or_insert(0) += 1;
            match status {
                Some(ACCEPTED) => least += 1,
                None => doubtful += 1,
                _ => {}
            }
            if round % 100 == 0 {
                assert_healthy(&accepting);
                least += 1;
            }
        }
        let accepted = accepting.accepted.load(Ordering::SeqCst);
        assert!(
            (least..=least + doubtful).contains(&accepted),
            "{accepted} accepted, {least} of them surely, {doubtful} perhaps"
        );
        assert_eq!(kinds.len(), 11, "{kinds:?}");
        assert!(kinds.values().all(|count| *count > 200), "{kinds:?}");
        assert_healthy(&accepting);
    });
}
