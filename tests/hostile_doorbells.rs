//! Doorbells that others still have a hand on: options set on the socket before it was handed on and after (the
//! open socket is shared), bytes stolen from it or sent out of band, descriptors that are slow to close, and rings
//! that lie unread behind a port's descriptors. It harms the channel it is done to, within bounds, and no
//! other (S57).

mod common;
#[path = "common/forger.rs"]
mod forger;

#[path = "hostile/chances.rs"]
mod chances;
#[path = "hostile/smuggle.rs"]
mod smuggle;
#[path = "hostile/witness.rs"]
mod witness;

use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use chances::{Seeded, during, rounds};
use common::{AT_ONCE, PATIENCE, channel_of, count_descriptors, next, now, sample, sample_of};
use forger::{CLOSED, FENCED, Forger, PORT, RING, STATE, WANTS_MESSAGE};
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use ringport::{Armed, CloseReason, Interest, MessagePort, PostError, RecvError, WaitStrategy};
use smuggle::{carrier, ends_the_channel, genuine, hear, pairs, post_pair};
use witness::{Innocent, end_of, works};

/// Newer than the C library's headers: Linux 6.5 and 6.16.
const SO_PASSPIDFD: i32 = 76;
const SO_PASSRIGHTS: i32 = 83;
const A_MICROSECOND: libc::timeval = libc::timeval {
    tv_sec: 0,
    tv_usec: 1,
};

fn set<T>(socket: BorrowedFd<'_>, option: i32, value: T) {
    // SAFETY: the pointer and length are those of a live value. An option that this kernel does not know cannot
    // do harm.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
}

fn set_flags(socket: BorrowedFd<'_>, flags: i32) {
    // SAFETY: F_SETFL takes a number.
    let result = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, flags) };
    assert_eq!(result, 0);
}

type Setting = (&'static str, fn(BorrowedFd<'_>));

/// What somebody with the same open socket can set on it.
const SETTINGS: [Setting; 14] = [
    ("peeks further on", |socket| {
        set(socket, libc::SO_PEEK_OFF, 1000)
    }),
    ("peeks on and on", |socket| {
        set(socket, libc::SO_PEEK_OFF, 0)
    }),
    ("wants credentials", |socket| {
        set(socket, libc::SO_PASSCRED, 1)
    }),
    ("wants labels", |socket| set(socket, libc::SO_PASSSEC, 1)),
    ("wants processes", |socket| set(socket, SO_PASSPIDFD, 1)),
    ("wants all three", |socket| {
        [libc::SO_PASSCRED, libc::SO_PASSSEC, SO_PASSPIDFD]
            .into_iter()
            .for_each(|option| set(socket, option, 1));
    }),
    ("wants no descriptors", |socket| {
        set(socket, SO_PASSRIGHTS, 0)
    }),
    ("sends little", |socket| set(socket, libc::SO_SNDBUF, 1)),
    ("takes little", |socket| set(socket, libc::SO_RCVBUF, 1)),
    ("waits for much", |socket| {
        set(socket, libc::SO_RCVLOWAT, 100_000)
    }),
    ("does not wait long", |socket| {
        set(socket, libc::SO_RCVTIMEO, A_MICROSECOND);
        set(socket, libc::SO_SNDTIMEO, A_MICROSECOND);
    }),
    ("sees what is out of band", |socket| {
        set(socket, libc::SO_OOBINLINE, 1)
    }),
    ("lingers", |socket| set(socket, libc::SO_LINGER, [1, 1000])),
    ("does not block, and signals", |socket| {
        set_flags(socket, libc::O_NONBLOCK | libc::O_ASYNC);
    }),
];

#[test]
fn s58_what_was_set_on_a_doorbell_before_it_came_does_no_harm() {
    let _quiet = common::descriptors();
    for (what, set) in SETTINGS {
        // In a message, and by its handle; what was set on either end.
        for (way, on_the_peer) in [(0, false), (1, false), (0, true), (1, true)] {
            println!("{what}, {way}, {on_the_peer}");
            let (stays, goes) = channel_of(4096);
            let (mut stays, goes) = (stays, goes.into_handle());
            if on_the_peer {
                let handle = stays.into_handle();
                set(handle.doorbell.as_fd());
                stays = MessagePort::from_handle(handle).unwrap();
            } else {
                set(goes.doorbell.as_fd());
            }
            stays.try_post_bytes(b"on its way").unwrap();
            let goes = if way == 0 {
                let (victim, forger) = carrier();
                post_pair(&forger, &goes.segment, &goes.doorbell);
                drop(goes);
                hear(&victim, way).unwrap().remove(0)
            } else {
                MessagePort::from_handle(goes).unwrap()
            };
            assert_eq!(now(&goes), b"on its way");
            works(stays, goes);
        }
    }
}

#[test]
fn s58_a_port_that_came_can_ring_as_often_as_may_be_unheard() {
    let _quiet = common::descriptors();
    for (what, set) in SETTINGS {
        let (stays, goes) = channel_of(4096);
        let handle = goes.into_handle();
        set(handle.doorbell.as_fd());
        let port = MessagePort::from_handle(handle).unwrap();
        let peer = Forger::of(stays);
        for rung in 1..=64 {
            peer.set32(peer.mine(STATE), FENCED | WANTS_MESSAGE);
            port.try_post_bytes(b"!").unwrap();
            peer.read_all();
            assert_eq!(port.stats().wakeups, rung, "{what}");
        }
    }
}

#[test]
fn s58_a_doorbell_that_was_shut_down_is_a_port_that_has_ended() {
    let _quiet = common::descriptors();
    for how in [Shutdown::Read, Shutdown::Write, Shutdown::Both] {
        for way in 0..3 {
            let (victim, forger) = carrier();
            let (handle, peer) = genuine();
            peer.try_post_bytes(b"before that").unwrap();
            let socket = UnixStream::from(handle.doorbell.try_clone().unwrap());
            socket.shutdown(how).unwrap();
            drop(socket);
            post_pair(&forger, &handle.segment, &handle.doorbell);
            drop(handle);
            let ports = hear(&victim, way).unwrap();
            assert_eq!(now(&ports[0]), b"before that");
            // One of the two learns of it by himself, the other from him.
            let first = ports[0].recv_timeout(Duration::from_millis(1)).is_err();
            drop(ports);
            let second = end_of(&peer);
            assert!(first || second == CloseReason::ClosedByPeer, "{how:?}");
            assert_eq!(victim.close_reason(), None);
        }
    }
}

/// Everything that a channel is used for, for a while, whatever comes of it. Only its time is bounded.
fn uses(near: &MessagePort, far: &MessagePort) {
    let start = Instant::now();
    let moment = Duration::from_micros(200);
    for index in 0..60 {
        for (from, to) in [(near, far), (far, near)] {
            let (stays, goes) = channel_of(4096);
            let ports = (index % 3 == 0).then_some(goes);
            let posted = from.post_bytes_with_timeout(&sample(index), ports, moment);
            if let Err(error) = posted {
                bounded(error.error());
            }
            let _ = to.arm(Interest::Either(100)).unwrap();
            match to.recv_timeout(moment) {
                Ok(Some(event)) => {
                    for port in event.take_ports() {
                        let _ = port.try_post_bytes(b"arrived");
                    }
                }
                Ok(None) | Err(RecvError::Closed(_) | RecvError::System { .. }) => {}
                Err(other) => panic!("{other:?}"),
            }
            drop(stays);
        }
        if near.is_closed() && far.is_closed() {
            break;
        }
    }
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[track_caller]
fn bounded(error: &PostError) {
    let expected = matches!(
        error,
        PostError::Closed(_)
            | PostError::Full { .. }
            | PostError::TransfersFull { .. }
            | PostError::System { .. }
    );
    assert!(expected, "{error:?}");
}

/// A channel of which somebody kept one end's socket. The one in whose hands it is comes first.
fn with_a_former_holder() -> (MessagePort, MessagePort, OwnedFd) {
    let (near, far) = channel_of(4096);
    let handle = near.into_handle();
    let kept = handle.doorbell.try_clone().unwrap();
    let near = MessagePort::from_handle(handle).unwrap();
    near.as_fd().unwrap();
    far.as_fd().unwrap();
    (near, far, kept)
}

#[test]
fn s57_what_a_former_holder_sets_on_a_doorbell_harms_that_channel_only() {
    let _quiet = common::descriptors();
    let mut innocent = Innocent::new();
    for (what, set) in SETTINGS {
        println!("{what}");
        for always in [false, true] {
            let (near, far, kept) = with_a_former_holder();
            let before = count_descriptors();
            set(kept.as_fd());
            if always {
                // Also whenever the library has set it right.
                during(|| set(kept.as_fd()), || uses(&near, &far));
            } else {
                uses(&near, &far);
            }
            assert_eq!(count_descriptors(), before, "{what}");
            innocent.works();
        }
    }
}

#[test]
fn s57_who_steals_from_a_doorbell_harms_that_channel_only() {
    let _quiet = common::descriptors();
    let mut innocent = Innocent::new();
    for round in 0..rounds(80) {
        let (near, far, kept) = with_a_former_holder();
        let before = count_descriptors();
        let mut random = Seeded::new(round);
        let steal = || {
            let mut bytes = [0; 8];
            let flags = MsgFlags::MSG_DONTWAIT;
            let _ = recv(kept.as_raw_fd(), &mut bytes, flags);
            if random.one_in(100) {
                // He can also ring, both ends.
                let _ = forger::send(kept.as_fd(), &[RING], &[]);
            }
        };
        near.set_wait_strategy(common::STRATEGIES[round as usize % 3]);
        during(steal, || uses(&near, &far));
        assert_eq!(count_descriptors(), before);
        drop((near, kept));
        assert!(matches!(
            end_of(&far),
            CloseReason::ClosedByPeer | CloseReason::PeerGone | CloseReason::Corrupt
        ));
        innocent.works();
    }
}

#[test]
fn s57_who_says_that_it_closed_and_goes_on_sending_holds_nobody_up() {
    let _quiet = common::descriptors();
    for way in 0..3 {
        let (victim, forger) = carrier();
        let before = count_descriptors();
        let (handle, peer) = genuine();
        forger.set32(forger.mine(STATE), CLOSED);
        let many = vec![handle.doorbell.as_fd(); 253];
        let flood = || drop(forger.send(&[0x80], &many));
        during(flood, || {
            for _ in 0..3 {
                let start = Instant::now();
                let reason = hear(&victim, way).unwrap_err();
                assert_eq!(reason, CloseReason::ClosedByPeer);
                assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
            }
            let start = Instant::now();
            drop(victim);
            assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
        });
        drop(handle);
        assert_eq!(end_of(&peer), CloseReason::PeerGone);
        drop(peer);
        assert!(count_descriptors() < before);
    }
}

/// Sends a byte out of band, where the kernel knows that for such sockets (5.15).
fn send_out_of_band(forger: &Forger, byte: u8, descriptors: &[BorrowedFd<'_>]) -> bool {
    let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&numbers)];
    let control = &control[..usize::from(!numbers.is_empty())];
    let flags = MsgFlags::MSG_OOB | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let data = [byte];
    let data = [std::io::IoSlice::new(&data)];
    sendmsg::<()>(forger.doorbell().as_raw_fd(), &data, control, flags, None).is_ok()
}

#[test]
fn s57_bytes_out_of_band_are_no_way_in() {
    let _quiet = common::descriptors();
    let mut innocent = Innocent::new();
    for seed in 0..rounds(400) {
        let mut random = Seeded::new(seed);
        let (victim, forger) = carrier();
        victim.set_wait_strategy(random.pick(&common::STRATEGIES));
        let before = count_descriptors();
        let start = Instant::now();
        let mut peers = Vec::new();
        for _ in 0..1 + random.below(12) {
            let byte = random.pick(&[RING, RING, 0, 0x80, forger.descriptor_byte()]);
            match random.below(6) {
                0 | 1 => drop(send_out_of_band(&forger, byte, &[])),
                2 => {
                    let (handle, peer) = genuine();
                    send_out_of_band(&forger, byte, &pairs(&[handle]));
                    peers.push(peer);
                }
                3 => drop(forger.send(&[RING], &[])),
                4 => drop(forger.post(&[], b"plain")),
                _ => {
                    let (stays, goes) = channel_of(4096);
                    if !victim.is_closed() {
                        forger.post_ports(b"with a port", vec![goes]);
                    }
                    peers.push(stays);
                }
            }
            let answer = victim.recv_timeout(Duration::from_micros(100));
            match answer.map(drop) {
                Ok(()) | Err(RecvError::Closed(CloseReason::Corrupt)) => {}
                Err(other) => panic!("seed {seed}: {other:?}"),
            }
        }
        assert!(start.elapsed() < AT_ONCE);
        drop((victim, forger));
        for peer in peers {
            assert!(matches!(
                end_of(&peer),
                CloseReason::ClosedByPeer | CloseReason::PeerGone
            ));
        }
        assert!(count_descriptors() < before);
        innocent.works();
    }
}

/// A socket whose last holder waits in `close`, so long, for a peer who reads nothing.
fn lingering(seconds: i32) -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (reads_nothing, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let much = vec![0; 1 << 16];
    while std::io::Write::write(&mut &socket, &much).is_ok() {}
    set(socket.as_fd(), libc::SO_LINGER, [1, seconds]);
    (socket.into(), reads_nothing)
}

#[test]
fn s57_a_stray_socket_that_lingers_does_not_hold_up_its_receiver() {
    let _quiet = common::descriptors();
    type Stray = fn(&Forger, OwnedFd);
    let strays: [(&str, Stray); 4] = [
        ("in place of a doorbell", |forger, socket| {
            let (handle, _) = genuine();
            post_pair(forger, handle.segment, socket);
        }),
        ("one too many", |forger, socket| {
            let (handle, _) = genuine();
            let three = [
                handle.segment.as_fd(),
                handle.doorbell.as_fd(),
                socket.as_fd(),
            ];
            forger.send(&[forger.descriptor_byte()], &three).unwrap();
            forger.post(&[PORT], b"");
        }),
        ("with a ring", |forger, socket| {
            forger.send(&[RING], &[socket.as_fd()]).unwrap();
            forger.post(&[PORT], b"");
        }),
        ("behind what is wrong", |forger, socket| {
            forger.send(&[forger.descriptor_byte()], &[]).unwrap();
            forger
                .send(&[forger.descriptor_byte()], &[socket.as_fd()])
                .unwrap();
            forger.post(&[PORT], b"");
        }),
    ];
    for (way, (what, stray)) in strays.into_iter().enumerate() {
        held_up(what, |socket| {
            let (victim, forger) = carrier();
            stray(&forger, socket);
            assert_eq!(hear(&victim, way).unwrap_err(), CloseReason::Corrupt);
        });
    }
    held_up("in a message that nobody receives", |socket| {
        let (_victim, forger) = carrier();
        let byte = [forger.descriptor_byte()];
        forger.send(&byte, &[socket.as_fd()]).unwrap();
    });
}

/// Fails if somebody had to wait for a lingering socket to close.
#[track_caller]
fn held_up(what: &str, by: impl FnOnce(OwnedFd)) {
    let (socket, _reads_nothing) = lingering(2 * AT_ONCE.as_secs() as i32);
    let start = Instant::now();
    by(socket);
    let took = start.elapsed();
    assert!(took < AT_ONCE, "{what}: held up for {took:?}");
}

#[test]
fn s57_a_socket_that_lingers_out_of_sight_does_not_hold_up_its_receiver() {
    let _quiet = common::descriptors();
    held_up("out of band", |socket| {
        let (_victim, forger) = carrier();
        send_out_of_band(&forger, RING, &[socket.as_fd()]);
    });
    held_up("in the queue of another socket", |socket| {
        let (victim, forger) = carrier();
        let (outer, inner) = UnixStream::pair().unwrap();
        forger::send(inner.as_fd(), b"!", &[socket.as_fd()]).unwrap();
        drop((socket, inner));
        forger.send(&[RING], &[outer.as_fd()]).unwrap();
        drop(outer);
        assert_eq!(victim.close_reason(), Some(CloseReason::Corrupt));
    });
    held_up("while what is looked at lies further on", |socket| {
        let (victim, far, kept) = with_a_former_holder();
        set(kept.as_fd(), libc::SO_PEEK_OFF, 1000);
        drop(kept);
        let forger = Forger::of(far);
        forger.send(&[RING], &[socket.as_fd()]).unwrap();
        drop(socket);
        drop(victim);
    });
}

/// How somebody who never receives waits for room.
type WaitForRoom = fn(&MessagePort, u64, &[u8]);

#[test]
fn s57_who_sleeps_for_room_beside_unreceived_ports_is_woken_each_time() {
    let _quiet = common::descriptors();
    let waits: [WaitForRoom; 2] = [
        |port, index, bytes| {
            if let Err(error) = port.post_bytes_timeout(bytes, PATIENCE) {
                panic!("message {index}: a wake-up was lost: {error}");
            }
        },
        |port, index, bytes| {
            let start = Instant::now();
            while port.try_post_bytes(bytes).is_err() {
                if port.arm(Interest::Room(bytes.len())).unwrap() == Armed::Wait {
                    let mut poll = libc::pollfd {
                        fd: port.as_fd().unwrap().as_raw_fd(),
                        events: libc::POLLIN,
                        revents: 0,
                    };
                    // SAFETY: one valid pollfd, which lives through the call.
                    let ready = unsafe { libc::poll(&mut poll, 1, PATIENCE.as_millis() as i32) };
                    assert_eq!(ready, 1, "message {index}: a wake-up was lost");
                }
                assert!(
                    start.elapsed() < PATIENCE,
                    "message {index}: ready for nothing"
                );
            }
        },
    ];
    let messages = rounds(2000);
    for (wait, waiting) in waits
        .into_iter()
        .flat_map(|wait| [1, 64].map(|waiting| (wait, waiting)))
    {
        let (victim, peer) = channel_of(4096);
        victim.set_wait_strategy(WaitStrategy::Block);
        let mut peers = Vec::new();
        for index in 0..waiting {
            let (stays, goes) = channel_of(4096);
            peer.try_post_bytes_with(&sample_of(index, 8), [goes])
                .unwrap();
            peers.push(stays);
        }
        let slow = thread::spawn(move || {
            let mut random = Seeded::new(waiting);
            for index in 0..messages {
                assert_eq!(next(&peer), sample_of(index, 1000));
                // Long enough that the other sleeps before the next one is taken, most of the time.
                (0..random.below(3000)).for_each(|_| std::hint::spin_loop());
            }
            peer.try_post_bytes(b"that was the last").unwrap();
            peer
        });
        for index in 0..messages {
            wait(&victim, index, &sample_of(index, 1000));
        }
        let peer = slow.join().unwrap();
        assert_eq!(victim.close_reason(), None);
        for (index, stays) in (0..).zip(&peers) {
            let event = victim.try_recv().unwrap().unwrap();
            assert_eq!(event.bytes(), sample_of(index, 8));
            let ports = event.take_ports();
            ports[0].try_post_bytes(b"received in the end").unwrap();
            assert_eq!(now(stays), b"received in the end");
        }
        assert_eq!(now(&victim), b"that was the last");
        // The rings are all read now, and nothing is wrong with them.
        assert!(
            victim
                .recv_timeout(Duration::from_millis(1))
                .unwrap()
                .is_none()
        );
        assert_eq!(victim.close_reason(), None);
        works(victim, peer);
    }
}

#[test]
fn s61_descriptors_behind_rings_end_the_channel_as_well() {
    let _quiet = common::descriptors();
    for rings in [1, 63, 64] {
        ends_the_channel(&format!("{rings} rings before"), rings, |forger| {
            let (handle, peer) = genuine();
            forger.send(&vec![RING; rings], &[]).unwrap();
            forger
                .send(&[forger.descriptor_byte()], &[handle.segment.as_fd()])
                .unwrap();
            forger.post(&[PORT], b"half a port");
            vec![peer]
        });
    }
}
