//! Who only pretends to listen: whatever it answers, `connect` ends in time, with the right error, and keeps nothing.

mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;
#[path = "meeting/raw.rs"]
mod raw;

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use common::{AT_ONCE, PATIENCE, closed};
use place::{Place, user};
use raw::{
    ACCEPTED, MAGIC, NOT_ALLOWED, OTHER_VERSION, Random, TOO_LARGE, UNUSABLE, answer, hung_up, send,
};
use ringport::{
    ChannelOptions, CloseReason, ConnectError, ConnectOptions, MessagePort, connect_with,
};

/// Long enough for any answer, and short enough to wait for none.
const SOON: Duration = Duration::from_millis(150);

/// Connects to somebody who does `this` with the connection, and then holds it until `connect` is done.
fn connect_to(
    patience: Duration,
    this: impl FnOnce(&UnixStream) + Send,
) -> (Result<MessagePort, ConnectError>, UnixStream) {
    let place = Place::new();
    let listener = UnixListener::bind(place.join("here")).unwrap();
    thread::scope(|scope| {
        let impostor = scope.spawn(|| {
            let (client, _) = listener.accept().unwrap();
            this(&client);
            client
        });
        let options = ConnectOptions::new()
            .channel(ChannelOptions::new().capacity(8192))
            .timeout(patience);
        let start = Instant::now();
        let result = connect_with(place.join("here"), &options);
        let took = start.elapsed();
        assert!(took < patience + AT_ONCE, "{took:?}");
        match &result {
            Err(ConnectError::TimedOut { after, .. }) => {
                assert!(*after == patience && took >= patience, "{took:?}");
            }
            Err(ConnectError::Refused { path } | ConnectError::NotAllowed { path, .. }) => {
                assert_eq!(*path, place.join("here"));
            }
            _ => {}
        }
        (result, impostor.join().unwrap())
    })
}

/// What connecting to somebody who answers so fails with.
#[track_caller]
fn error_of(bytes: Vec<u8>) -> ConnectError {
    let (result, client) = connect_to(PATIENCE, move |client| send(client, &bytes, &[]));
    let error = result.expect_err("this passed for a listener");
    assert!(hung_up(&client, PATIENCE), "the connection is kept");
    assert!(error.to_string().len() > 20, "says too little: {error}");
    error
}

#[test]
fn every_refusal_is_told_apart() {
    let _quiet = common::descriptors();
    let own = user();
    match error_of(answer(1, NOT_ALLOWED, 0)) {
        ConnectError::NotAllowed { user, .. } => assert_eq!(user, own),
        other => panic!("wanted NotAllowed, got {other:?}"),
    }
    for version in [0, 2, 77, u32::MAX] {
        match error_of(answer(version, OTHER_VERSION, 0)) {
            ConnectError::Version { theirs, ours } => assert_eq!((theirs, ours), (version, 1)),
            other => panic!("wanted Version, got {other:?}"),
        }
    }
    for limit in [0, 4096, u64::MAX] {
        match error_of(answer(1, TOO_LARGE, limit)) {
            ConnectError::Capacity { largest, asked } => {
                assert_eq!((largest as u64, asked), (limit, 8192));
            }
            other => panic!("wanted Capacity, got {other:?}"),
        }
    }
    let refused = |bytes: Vec<u8>| {
        let error = error_of(bytes);
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    };
    refused(answer(1, UNUSABLE, 0));
    for status in [5, 6, 1 << 31, u32::MAX] {
        refused(answer(1, status, 0));
    }
    for at in 0..8 {
        for status in [ACCEPTED, NOT_ALLOWED, OTHER_VERSION, TOO_LARGE, UNUSABLE] {
            let mut bytes = answer(1, status, 0);
            bytes[at] ^= 1;
            refused(bytes);
        }
    }
    refused(b"HTTP/1.1 400 Bad Request\r\n".to_vec());
    refused(vec![0; 24]);
}

#[test]
fn who_accepts_in_another_version_is_not_a_listener() {
    let _quiet = common::descriptors();
    for version in [0, 2, u32::MAX] {
        let error = error_of(answer(version, ACCEPTED, 0));
        assert!(
            matches!(
                error,
                ConnectError::Version { .. } | ConnectError::Refused { .. }
            ),
            "{error:?}"
        );
    }
}

#[test]
fn half_an_answer_is_none() {
    let _quiet = common::descriptors();
    let whole = answer(1, ACCEPTED, 0);
    for len in [0, 1, 7, 8, 12, 16, 23] {
        let bytes = whole[..len].to_vec();
        // Then silence.
        if len % 2 == 1 || len == 0 {
            let silent = bytes.clone();
            let (result, client) = connect_to(SOON, move |client| {
                if len > 0 {
                    send(client, &silent, &[]);
                }
            });
            let timed_out = matches!(result, Err(ConnectError::TimedOut { .. }));
            assert!(timed_out, "{len}: {result:?}");
            assert!(hung_up(&client, PATIENCE));
        }
        // Or a hang-up.
        let (result, _) = connect_to(PATIENCE, move |client| {
            if len > 0 {
                send(client, &bytes, &[]);
            }
            client.shutdown(std::net::Shutdown::Both).unwrap();
        });
        let refused = matches!(result, Err(ConnectError::Refused { .. }));
        assert!(refused, "{len}: {result:?}");
    }
}

#[test]
fn an_answer_in_pieces_is_an_answer() {
    let _quiet = common::descriptors();
    let (result, client) = connect_to(PATIENCE, |client| {
        for byte in answer(1, ACCEPTED, 0) {
            send(client, &[byte], &[]);
            thread::yield_now();
        }
    });
    let port = result.unwrap();
    assert!(!port.is_closed());
    drop(port);
    assert!(hung_up(&client, PATIENCE));
}

#[test]
fn an_answer_that_drips_does_not_prolong_the_wait() {
    let _quiet = common::descriptors();
    let (result, _) = connect_to(SOON, |client| {
        // 23 bytes, one every 50 milliseconds, or until the other side has given up.
        for byte in answer(1, ACCEPTED, 0).into_iter().take(23) {
            send(client, &[byte], &[]);
            // What is read is the hello; then nothing, and then the end.
            if hung_up(client, Duration::from_millis(50)) {
                break;
            }
        }
    });
    let timed_out = matches!(result, Err(ConnectError::TimedOut { .. }));
    assert!(timed_out, "{result:?}");
}

#[test]
fn s61_descriptors_that_come_with_an_answer_are_closed() {
    let _quiet = common::descriptors();
    for (count, status) in [(1, ACCEPTED), (2, NOT_ALLOWED), (253, ACCEPTED)] {
        for at in [0, 5, 23] {
            let (result, client) = connect_to(PATIENCE, move |client| {
                let bytes = answer(1, status, 0);
                let (sent, _) = UnixStream::pair().unwrap();
                let many: Vec<_> = (0..count).map(|_| sent.as_fd()).collect();
                if at > 0 {
                    send(client, &bytes[..at], &[]);
                }
                send(client, &bytes[at..], &many);
            });
            // No listener sends any.
            let refused = matches!(result, Err(ConnectError::Refused { .. }));
            assert!(refused, "{count} at {at}: {result:?}");
            assert!(hung_up(&client, PATIENCE));
        }
    }
}

#[test]
fn who_hangs_up_after_accepting_is_gone() {
    let _quiet = common::descriptors();
    let (result, client) = connect_to(PATIENCE, |client| {
        send(client, &answer(1, ACCEPTED, 0), &[])
    });
    let port = result.unwrap();
    drop(client);
    assert_eq!(closed(port.recv()), CloseReason::PeerGone);
}

#[test]
fn what_follows_the_answer_belongs_to_the_channel() {
    let _quiet = common::descriptors();
    // A ring of the doorbell does no harm; anything else is corrupt.
    for (byte, corrupt) in [(0x01, false), (0x00, true), (0x80, true), (0xff, true)] {
        let (result, client) = connect_to(PATIENCE, move |client| {
            let bytes = [&answer(1, ACCEPTED, 0)[..], &[byte]].concat();
            send(client, &bytes, &[]);
        });
        let port = result.unwrap();
        assert!(
            port.recv_timeout(Duration::ZERO)
                .map_or(corrupt, |event| event.is_none())
        );
        let reason = corrupt.then_some(CloseReason::Corrupt);
        assert_eq!(port.close_reason(), reason, "{byte:#x}");
        drop(port);
        assert!(hung_up(&client, PATIENCE));
    }
}

#[test]
fn s57_answers_at_random_end_in_an_error_or_a_port() {
    let _quiet = common::descriptors();
    let mut random = Random(57);
    let (mut ports, mut errors) = (0, 0);
    for _ in 0..400 {
        let status = random.one_of(&[ACCEPTED, ACCEPTED, NOT_ALLOWED, OTHER_VERSION, TOO_LARGE, 9]);
        let mut bytes = answer(1, status, random.next());
        for _ in 0..random.below(3) {
            let bit = random.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        bytes.extend((0..random.below(40)).map(|_| random.next() as u8));
        bytes.truncate(random.one_of(&[5, 24, 24, 64]));
        let descriptors = random.one_of(&[0, 0, 0, 1, 7]);
        let claimed =
            bytes.starts_with(&MAGIC) && bytes[8..].starts_with(&[1, 0, 0, 0, 0, 0, 0, 0]);
        let acceptable = descriptors == 0 && claimed && bytes.len() >= 24;
        let (result, client) = connect_to(PATIENCE, move |client| {
            let (sent, _) = UnixStream::pair().unwrap();
            let some: Vec<_> = (0..descriptors).map(|_| sent.as_fd()).collect();
            send(client, &bytes, &some);
            let _ = client.shutdown(std::net::Shutdown::Both);
        });
        match result {
            Ok(port) => {
                assert!(acceptable, "this passed for a listener");
                let end = port.recv().map(drop);
                assert!(matches!(
                    closed(end),
                    CloseReason::PeerGone | CloseReason::Corrupt
                ));
                ports += 1;
            }
            Err(error) => {
                assert!(!matches!(error, ConnectError::System { .. }), "{error}");
                assert!(!acceptable, "{error}");
                errors += 1;
            }
        }
        drop(client);
    }
    assert!(ports > 20 && errors > 100, "{ports} ports, {errors} errors");
}
