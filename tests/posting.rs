//! Posting: S5 to S9 and S15. Sizes and room are in `room.rs`, slots and batches in `reserving.rs`.

mod common;

use std::cell::RefCell;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{
    Counters, Greeting, channel, channel_of, closed, greeting, next, nothing, now, post_closed,
    sample,
};
use ringport::{CloseReason, MessagePort, PostError, ReserveError};

roles! {
    posts_in_order, posts_and_exits, publishes_and_aborts, never_receives, closes_its_port,
    posts_empty_messages,
}

const MANY: u64 = 5000;

/// Posts message `index` in one of the five ways there are.
fn post_somehow(port: &MessagePort, index: u64) {
    let bytes = sample(index);
    match index % 5 {
        0 => port.post_bytes(&bytes).unwrap(),
        1 => {
            let mut slot = port.reserve(bytes.len()).unwrap();
            slot.write(&bytes);
            slot.commit();
        }
        2 => {
            // One published alone is as good as many.
            let mut batch = port.batch();
            match batch.post_bytes(&bytes) {
                Ok(()) => assert_eq!(batch.publish(), 1),
                Err(PostError::Full { .. }) => {
                    drop(batch);
                    port.post_bytes(&bytes).unwrap();
                }
                Err(other) => panic!("{other}"),
            }
        }
        3 => {
            let mut slot = port.reserve(bytes.len() + 40).unwrap();
            slot.write_at(8, &bytes[8..]);
            slot.write(&bytes[..8]);
            slot.truncate(bytes.len());
            slot.commit();
        }
        _ => port.post_bytes_timeout(&bytes, common::PATIENCE).unwrap(),
    }
}

#[test]
fn s05_messages_arrive_in_order_each_once_and_whole_on_one_thread() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(8192);
    let mut posted = 0;
    let mut received = 0;
    while received < MANY {
        // Bursts of different lengths, so that the ring is found empty, full and in between.
        for _ in 0..=(received * 31 % 17) {
            if posted < MANY && port1.try_post_bytes(&sample(posted)).is_ok() {
                posted += 1;
            }
        }
        for _ in 0..=(posted * 13 % 11) {
            if let Some(event) = port2.try_recv().unwrap() {
                assert_eq!(event.bytes(), sample(received));
                received += 1;
            }
        }
    }
    assert!(nothing(&port2));
}

#[test]
fn s05_messages_arrive_in_order_each_once_and_whole_across_threads() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let many = common::turns(strategy, MANY);
        let (port1, port2) = channel_of(4096);
        port1.set_wait_strategy(strategy);
        port2.set_wait_strategy(strategy);
        let poster = thread::spawn(move || (0..many).for_each(|index| post_somehow(&port1, index)));
        for index in 0..many {
            assert_eq!(next(&port2), sample(index), "{strategy:?}");
        }
        assert_eq!(closed(port2.recv()), CloseReason::ClosedByPeer);
        poster.join().unwrap();
    }
}

#[test]
fn s05_messages_arrive_in_order_each_once_and_whole_across_processes() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let many = common::turns(strategy, MANY);
        let mut command = common::command("posts_in_order");
        common::tell(&mut command, strategy, "");
        let (port, child) = ringport::Worker::spawn(command).unwrap().into_parts();
        port.set_wait_strategy(strategy);
        for index in 0..many {
            assert_eq!(next(&port), sample(index), "{strategy:?}");
        }
        assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
        common::end_well(child);
    }
}

fn posts_in_order() {
    let port = common::parent();
    port.set_wait_strategy(common::strategy());
    let many = common::turns(common::strategy(), MANY);
    (0..many).for_each(|index| post_somehow(&port, index));
}

#[test]
fn s05_typed_messages_and_bytes_keep_one_order() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let poster = thread::spawn(move || {
        for index in 0..3000 {
            if index % 3 == 0 {
                port1.post_bytes(&sample(index)).unwrap();
            } else {
                port1.post_message(&greeting(index)).unwrap();
            }
        }
    });
    for index in 0..3000 {
        let event = port2.recv().unwrap();
        if index % 3 == 0 {
            assert_eq!(event.bytes(), sample(index));
        } else {
            let archived = event.data::<Greeting>().unwrap();
            let value: Greeting =
                rkyv::deserialize::<Greeting, rkyv::rancor::Error>(archived).unwrap();
            assert_eq!(value, greeting(index));
        }
    }
    poster.join().unwrap();
}

#[test]
fn s06_the_value_is_archived_when_it_is_posted() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let mut value = greeting(1);
    port1.post_message(&value).unwrap();
    value.text.make_ascii_uppercase();
    value.numbers.clear();
    port1.post_message(&value).unwrap();
    drop(value);
    let mut bytes = *b"before";
    port1.post_bytes(&bytes).unwrap();
    bytes.fill(0);

    let first = port2.recv().unwrap();
    let first = first.data::<Greeting>().unwrap();
    assert_eq!(first.text, greeting(1).text);
    assert_eq!(first.numbers.len(), greeting(1).numbers.len());
    let second = port2.recv().unwrap();
    let second = second.data::<Greeting>().unwrap();
    assert_eq!(second.text, greeting(1).text.to_uppercase());
    assert!(second.numbers.is_empty());
    assert_eq!(now(&port2), b"before");
}

#[test]
fn s06_the_value_is_archived_when_it_is_posted_not_when_it_is_received() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (posted, all_posted) = mpsc::channel::<()>();
    let receiver = thread::spawn(move || {
        all_posted.recv().unwrap();
        for index in 0..50 {
            let event = port2.recv().unwrap();
            assert_eq!(event.data::<Greeting>().unwrap().text, greeting(index).text);
            assert_eq!(next(&port2), [index as u8; 40]);
        }
    });
    let (mut value, mut bytes) = (greeting(0), [0; 40]);
    for index in 0..50 {
        value.clone_from(&greeting(index));
        bytes.fill(index as u8);
        port1.post_message(&value).unwrap();
        port1.post_bytes(&bytes).unwrap();
    }
    posted.send(()).unwrap();
    receiver.join().unwrap();
}

#[test]
fn s07_a_message_is_there_when_post_returns() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    for index in 0..2000 {
        port1.post_bytes(&sample(index)).unwrap();
        assert_eq!(now(&port2), sample(index));
    }
    port1.post_message(&greeting(3)).unwrap();
    assert!(
        port2
            .try_recv()
            .unwrap()
            .unwrap()
            .data::<Greeting>()
            .is_ok()
    );
}

#[test]
fn s07_a_message_is_there_whatever_the_poster_does_next() {
    let _quiet = common::descriptors();
    for role in ["posts_and_exits", "publishes_and_aborts"] {
        let (port, mut child) = common::worker(role).into_parts();
        child.wait().unwrap();
        for index in 0..5 {
            assert_eq!(now(&port), sample(index), "{role}");
        }
        assert_eq!(closed(port.recv()), CloseReason::PeerGone, "{role}");
    }
}

fn posts_and_exits() {
    let port = common::parent();
    (0..5).for_each(|index| port.post_bytes(&sample(index)).unwrap());
    std::process::exit(0);
}

fn publishes_and_aborts() {
    let port = common::parent();
    let mut batch = port.batch();
    (0..5).for_each(|index| batch.post_bytes(&sample(index)).unwrap());
    batch.publish();
    std::process::abort();
}

#[test]
fn s08_post_returns_before_anything_of_the_receiver_runs() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let log = RefCell::new(Vec::new());
    port1.post_bytes(&[3]).unwrap();
    while let Some(event) = port2.try_recv().unwrap() {
        let left = event.bytes()[0];
        log.borrow_mut().push(format!("begin {left}"));
        for _ in 0..left.min(2) {
            port1.post_bytes(&[left - 1]).unwrap();
        }
        log.borrow_mut().push(format!("end {left}"));
    }
    let log = log.into_inner();
    for pair in log.chunks(2) {
        assert_eq!(
            pair[0].replace("begin", "end"),
            pair[1],
            "a receipt within a post"
        );
    }
    // 3 posts 2, 2; each 2 posts 1, 1; each 1 posts 0.
    assert_eq!(log.len(), 2 * (1 + 2 + 4 + 4));
}

#[test]
fn s08_post_needs_no_receiver_that_runs() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (release, held) = mpsc::channel::<()>();
    let receiver = thread::spawn(move || {
        held.recv().unwrap();
        (0..100).for_each(|index| assert_eq!(now(&port2), sample(index)));
    });
    (0..100).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    release.send(()).unwrap();
    receiver.join().unwrap();
}

#[test]
fn s08_post_needs_no_receiving_process_that_runs() {
    let _quiet = common::descriptors();
    let counters = Counters::new();
    let mut command = common::command("never_receives");
    counters.give_to(&mut command);
    let worker = ringport::Worker::spawn(command).unwrap();
    counters.until(Counters::READY, 1);
    (0..100).for_each(|index| worker.port().post_bytes(&sample(index)).unwrap());
    let (port, mut child) = worker.into_parts();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(closed(port.recv()), CloseReason::PeerGone);
}

fn never_receives() {
    let _port = common::parent();
    Counters::given().ready();
    loop {
        thread::park();
    }
}

#[test]
fn s09_an_empty_message_is_a_message() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    assert!(nothing(&port2));
    port1.post_bytes(b"").unwrap();
    port1.try_post_bytes(b"").unwrap();
    port1.reserve(0).unwrap().commit();
    let mut batch = port1.batch();
    batch.post_bytes(b"").unwrap();
    batch.post_bytes(b"x").unwrap();
    batch.post_bytes(b"").unwrap();
    batch.publish();
    port1.post_message(&()).unwrap();
    for length in [0, 0, 0, 0, 1, 0, 0] {
        let event = port2
            .try_recv()
            .unwrap()
            .expect("a message, if an empty one");
        assert_eq!((event.len(), event.is_empty()), (length, length == 0));
        assert_eq!(event.bytes().len(), length);
    }
    assert!(nothing(&port2));

    port1.post_message(&()).unwrap();
    port2.recv().unwrap().data::<()>().unwrap();
}

#[test]
fn s09_empty_messages_are_counted_one_by_one_across_threads() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let poster = thread::spawn(move || (0..MANY).for_each(|_| port1.post_bytes(b"").unwrap()));
    assert_eq!(
        port2.iter().filter(|event| event.is_empty()).count() as u64,
        MANY
    );
    poster.join().unwrap();
}

#[test]
fn s09_empty_messages_of_another_process_are_counted_one_by_one() {
    let _quiet = common::descriptors();
    let (port, child) = common::worker("posts_empty_messages").into_parts();
    let lengths: Vec<_> = port.iter().map(|event| event.len()).collect();
    assert_eq!(lengths.len(), 900);
    for (length, index) in lengths.into_iter().zip(0..) {
        assert_eq!(length, usize::from(index % 3 == 0));
    }
    common::end_well(child);
}

fn posts_empty_messages() {
    let port = common::parent();
    for index in 0..900 {
        let bytes: &[u8] = if index % 3 == 0 { b"x" } else { b"" };
        port.post_bytes(bytes).unwrap();
    }
}

#[test]
fn s15_posting_to_a_port_closed_by_its_peer_is_an_error() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    drop(port2);
    assert!(port1.is_closed());
    assert_all_posts_are_closed(&port1, CloseReason::ClosedByPeer);
}

#[test]
fn s15_posting_to_a_port_closed_here_is_an_error() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port1.close();
    assert_all_posts_are_closed(&port1, CloseReason::ClosedHere);
    assert_eq!(closed(port2.try_recv()), CloseReason::ClosedByPeer);
    assert_all_posts_are_closed(&port2, CloseReason::ClosedByPeer);
}

#[test]
fn s15_posting_to_a_full_ring_whose_reader_closed_is_closed_not_full() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    while port1.try_post_bytes(&[7; 200]).is_ok() {}
    drop(port2);
    assert_eq!(
        post_closed(port1.post_bytes(&[7; 200])),
        CloseReason::ClosedByPeer
    );
    assert_all_posts_are_closed(&port1, CloseReason::ClosedByPeer);
}

#[test]
fn s15_posting_to_a_process_that_closed_is_an_error() {
    let _quiet = common::descriptors();
    let mut worker = common::worker("closes_its_port");
    assert_eq!(closed(worker.port().recv()), CloseReason::ClosedByPeer);
    assert_all_posts_are_closed(worker.port(), CloseReason::ClosedByPeer);
    assert!(worker.wait().unwrap().success());
}

fn closes_its_port() {
    common::parent().close();
}

#[track_caller]
fn assert_all_posts_are_closed(port: &MessagePort, reason: CloseReason) {
    let second = Duration::from_secs(1);
    assert_eq!(post_closed(port.post_bytes(b"x")), reason);
    assert_eq!(post_closed(port.try_post_bytes(b"x")), reason);
    assert_eq!(post_closed(port.post_bytes_timeout(b"x", second)), reason);
    assert_eq!(post_closed(port.post_message(&greeting(1))), reason);
    assert_eq!(post_closed(port.try_post_message(&greeting(1))), reason);
    assert_eq!(
        post_closed(port.post_message_timeout(&greeting(1), second)),
        reason
    );
    assert_eq!(post_closed(port.batch().post_bytes(b"x")), reason);
    assert_eq!(post_closed(port.batch().post(&greeting(1))), reason);
    let reserved = [
        port.reserve(1).err(),
        port.try_reserve(1).err(),
        port.reserve_timeout(1, second).err(),
        port.reserve_aligned(1, 64).err(),
    ];
    for error in reserved {
        assert!(
            matches!(error, Some(ReserveError::Closed(why)) if why == reason),
            "{error:?}"
        );
    }
    let shown = PostError::Closed(reason).to_string();
    assert!(shown.contains(&reason.to_string()), "{shown}");
}
