//! Receiving: S17, S18, S20 to S23, and what a port tells about itself.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{
    AT_ONCE, Counters, Greeting, channel, channel_of, closed, greeting, next, nothing, now, sample,
};
use ringport::{CloseReason, DataError, MessageEvent, MessagePort, OwnedMessageEvent, RecvError};
use rkyv::{Archive, Serialize};

roles! { asks_and_waits, echo, sends_typed, posts_many }

/// Sends back what comes, until the end.
fn echo() {
    let port = common::parent();
    port.set_wait_strategy(common::strategy());
    for event in port.iter() {
        port.post_bytes(event.bytes()).unwrap();
    }
}

#[test]
fn s17_try_recv_never_waits() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    for _ in 0..3 {
        assert!(port2.try_recv().unwrap().is_none());
    }
    port1.post_bytes(b"x").unwrap();
    assert_eq!(port2.try_recv().unwrap().unwrap().bytes(), b"x");
    assert!(port2.try_recv().unwrap().is_none());
}

#[test]
fn s17_recv_timeout_waits_so_long_and_no_longer() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port1, port2) = channel();
        port2.set_wait_strategy(strategy);
        for millis in [0, 1, 40] {
            let timeout = Duration::from_millis(millis);
            let start = Instant::now();
            assert!(port2.recv_timeout(timeout).unwrap().is_none());
            assert!(start.elapsed() >= timeout, "{strategy:?}: too early");
            assert!(
                start.elapsed() < timeout + AT_ONCE,
                "{strategy:?}: too late"
            );
        }
        port1.post_bytes(b"x").unwrap();
        // With a message there is nothing to wait for, however long one would.
        let event = port2.recv_timeout(Duration::MAX).unwrap().unwrap();
        assert_eq!(event.bytes(), b"x");
        drop(event);
        port1.post_bytes(b"y").unwrap();
        assert!(port2.recv_timeout(Duration::ZERO).unwrap().is_some());
    }
}

#[test]
fn s17_recv_waits_for_a_message_of_another_thread() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port1, port2) = channel();
        port2.set_wait_strategy(strategy);
        let (started, waits) = mpsc::channel();
        let receiver = thread::spawn(move || {
            started.send(common::thread_id()).unwrap();
            assert_eq!(port2.recv().unwrap().bytes(), b"first");
            let event = port2.recv_timeout(common::PATIENCE).unwrap().unwrap();
            assert_eq!(event.bytes(), b"second");
            drop(event);
            let event = port2.recv_timeout(Duration::MAX).unwrap().unwrap();
            assert_eq!(event.bytes(), b"third");
        });
        let thread = waits.recv().unwrap();
        for message in ["first", "second", "third"] {
            if strategy != ringport::WaitStrategy::Spin {
                common::until_asleep(std::process::id(), thread);
            }
            port1.post_bytes(message.as_bytes()).unwrap();
        }
        receiver.join().unwrap();
    }
}

#[test]
fn s17_many_round_trips_across_threads_and_processes() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port, far) = channel();
        let thread = thread::spawn(move || {
            far.set_wait_strategy(strategy);
            far.iter()
                .for_each(|event| far.post_bytes(event.bytes()).unwrap());
        });
        let mut command = common::command("echo");
        common::tell(&mut command, strategy, "");
        let (process, child) = ringport::Worker::spawn(command).unwrap().into_parts();
        for port in [&port, &process] {
            port.set_wait_strategy(strategy);
            for index in 0..500 {
                port.post_bytes(&sample(index)).unwrap();
                assert_eq!(port.recv().unwrap().bytes(), sample(index), "{strategy:?}");
            }
        }
        drop((port, process));
        thread.join().unwrap();
        common::end_well(child);
    }
}

#[test]
fn s17_recv_waits_for_a_message_of_another_process() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let counters = Counters::new();
        let mut command = common::command("asks_and_waits");
        counters.give_to(&mut command);
        common::tell(&mut command, strategy, "");
        let (port, child) = ringport::Worker::spawn(command).unwrap().into_parts();
        port.set_wait_strategy(strategy);
        assert_eq!(port.recv().unwrap().bytes(), b"what?");
        counters.until(Counters::READY, 1);
        if strategy != ringport::WaitStrategy::Spin {
            counters.until_asleep(child.id());
        }
        port.post_bytes(b"that").unwrap();
        assert_eq!(port.recv().unwrap().bytes(), b"that, then");
        common::end_well(child);
    }
}

fn asks_and_waits() {
    let (port, counters) = (common::parent(), Counters::given());
    port.set_wait_strategy(common::strategy());
    port.post_bytes(b"what?").unwrap();
    counters.ready();
    assert_eq!(port.recv().unwrap().bytes(), b"that");
    port.post_bytes(b"that, then").unwrap();
}

#[test]
fn s18_a_message_shows_its_bytes_and_its_archive() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let value = greeting(7);
    port1.post_message(&value).unwrap();
    let event = port2.recv().unwrap();
    assert_shows(&event, &value);
    // The bytes are the archive as rkyv makes it, so that others can read it.
    let archived = rkyv::access::<rkyv::Archived<Greeting>, rkyv::rancor::Error>(event.bytes());
    assert_eq!(archived.unwrap().text, value.text);
}

#[track_caller]
fn assert_shows(event: &MessageEvent<'_>, value: &Greeting) {
    assert_eq!(event.len(), event.bytes().len());
    let archived = event.data::<Greeting>().unwrap();
    assert_eq!(archived.text, value.text);
    let numbers: Vec<u64> = archived
        .numbers
        .iter()
        .map(|number| number.to_native())
        .collect();
    assert_eq!(numbers, value.numbers);
}

#[test]
fn s18_a_message_of_another_process_shows_its_archive() {
    let _quiet = common::descriptors();
    let (port, child) = common::worker("sends_typed").into_parts();
    for index in 0..100 {
        assert_shows(&port.recv().unwrap(), &greeting(index));
    }
    assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
    common::end_well(child);
}

fn sends_typed() {
    let port = common::parent();
    (0..100).for_each(|index| port.post_message(&greeting(index)).unwrap());
}

/// A type of another shape: no greeting is one.
#[derive(Archive, Serialize)]
struct Picture {
    name: String,
    title: Option<String>,
    pixels: Vec<(u8, bool, char)>,
    more: [u64; 9],
}

#[test]
fn s20_the_wrong_type_is_an_error_and_the_right_one_may_be_tried_next() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port1.post_message(&greeting(1)).unwrap();
    port1.post_bytes(&[0xff; 64]).unwrap();
    port1.post_message(&greeting(2)).unwrap();

    let event = port2.recv().unwrap();
    let Err(error) = event.data::<Picture>() else {
        panic!("a greeting passed for a picture");
    };
    let DataError::Invalid { type_name, len, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(type_name.contains("Picture"), "{type_name}");
    assert_eq!(*len, event.len());
    let shown = error.to_string();
    assert!(
        shown.contains("Picture") && shown.contains(&len.to_string()),
        "{shown}"
    );
    assert!(std::error::Error::source(&error).is_some());
    assert_shows(&event, &greeting(1));
    assert!(event.data::<Picture>().is_err());
    assert_shows(&event, &greeting(1));
    drop(event);

    let event = port2.recv().unwrap();
    assert!(event.data::<Greeting>().is_err());
    assert!(event.data::<Picture>().is_err());
    assert_eq!(event.bytes(), [0xff; 64]);
    drop(event);
    assert!(!port2.is_closed());
    assert_shows(&port2.recv().unwrap(), &greeting(2));
}

#[test]
fn s20_too_few_bytes_are_no_value() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port1.post_message(&greeting(5)).unwrap();
    let whole = now(&port2);
    for length in 0..whole.len() {
        port1.post_bytes(&whole[whole.len() - length..]).unwrap();
        let event = port2.recv().unwrap();
        assert!(
            event.data::<Greeting>().is_err(),
            "{length} of {} bytes",
            whole.len()
        );
    }
    port1.post_bytes(&whole).unwrap();
    assert_shows(&port2.recv().unwrap(), &greeting(5));
}

/// A list that nests as deep as it is long.
#[derive(Archive, Serialize)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer, __S::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(
    __C: rkyv::validation::ArchiveContext,
    __C::Error: rkyv::rancor::Source,
)))]
struct Node {
    number: u32,
    #[rkyv(omit_bounds)]
    next: Option<Box<Node>>,
}

impl Node {
    fn list(length: u32) -> Node {
        let mut head = Node {
            number: 0,
            next: None,
        };
        for number in 1..length {
            head = Node {
                number,
                next: Some(Box::new(head)),
            };
        }
        head
    }
}

impl Drop for Node {
    // One after the other: the derived drop would nest as deep as the list.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut node) = next {
            next = node.next.take();
        }
    }
}

#[test]
fn s20_nesting_beyond_the_limit_is_an_error_not_an_overflow() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(16 << 20);
    // Serialising nests too, so the sender needs a big stack. The receiver must do with little.
    let sender = thread::Builder::new().stack_size(512 << 20);
    let sender = sender.spawn(move || {
        for length in [1, 2, 100, 1000, 100_000] {
            port1.post_message(&Node::list(length)).unwrap();
        }
        port1.post_message(&greeting(1)).unwrap();
    });
    sender.unwrap().join().unwrap();
    let receiver = thread::Builder::new().stack_size(256 << 10).spawn(move || {
        for length in [1, 2, 100] {
            let event = port2.recv().unwrap();
            let mut node = event.data::<Node>().unwrap();
            let mut seen = 1;
            while let Some(next) = node.next.as_ref() {
                node = next.get();
                seen += 1;
            }
            assert_eq!(seen, length);
        }
        for _ in [1000, 100_000] {
            let event = port2.recv().unwrap();
            assert!(event.data::<Node>().is_err());
            // Owned, on its way elsewhere, it is no more dangerous.
            assert!(event.into_owned().data::<Node>().is_err());
        }
        assert_shows(&port2.recv().unwrap(), &greeting(1));
    });
    receiver.unwrap().join().unwrap();
}

#[test]
fn s21_several_messages_are_held_at_once_and_dropped_in_any_order() {
    let _quiet = common::descriptors();
    for trusted in [false, true] {
        let (port1, port2) = channel_of(4096);
        trust(&port2, trusted);
        for round in 0..300 {
            for index in 0..5 {
                port1.try_post_bytes(&sample(round * 5 + index)).unwrap();
            }
            let mut held: Vec<_> = (0..5).map(|_| port2.try_recv().unwrap().unwrap()).collect();
            assert!(nothing(&port2));
            let mut left: Vec<_> = (0..5).collect();
            while !held.is_empty() {
                for (event, index) in held.iter().zip(&left) {
                    assert_eq!(
                        event.bytes(),
                        sample(round * 5 + index),
                        "trusted: {trusted}"
                    );
                }
                let victim = (round as usize * 7 + held.len() * 3) % held.len();
                drop(held.remove(victim));
                left.remove(victim);
            }
        }
    }
}

#[test]
fn s21_the_last_message_is_held_while_the_next_is_received() {
    let _quiet = common::descriptors();
    for trusted in [false, true] {
        let (port1, port2) = channel_of(4096);
        trust(&port2, trusted);
        let poster = thread::spawn(move || {
            (0..2000).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
        });
        let mut last = port2.recv().unwrap();
        for index in 1..2000 {
            assert_eq!(last.bytes(), sample(index - 1));
            // Here the old one is dropped after the new one came.
            last = port2.recv().unwrap();
        }
        assert_eq!(last.bytes(), sample(1999));
        poster.join().unwrap();
    }
}

#[test]
fn s21_room_returns_up_to_the_oldest_message_held_in_place() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    trust(&port2, true);
    for round in 0..100 {
        let length = 100 + round % 7 * 100;
        let mut posted = 0;
        while port1
            .try_post_bytes(&common::sample_of(posted, length))
            .is_ok()
        {
            posted += 1;
        }
        let mut held: Vec<_> = (0..posted)
            .map(|_| port2.try_recv().unwrap().unwrap())
            .collect();
        let refused = || {
            port1
                .try_post_bytes(&common::sample_of(posted, length))
                .is_err()
        };
        assert!(refused(), "they are received, but still held");
        let newest = held.pop().unwrap();
        while held.len() > 1 {
            drop(held.pop());
            assert!(refused(), "there is room before the oldest was dropped");
        }
        let oldest = held.pop().unwrap();
        assert_eq!(oldest.bytes(), common::sample_of(0, length));
        drop(oldest);
        port1
            .try_post_bytes(&common::sample_of(posted, length))
            .unwrap();
        assert_eq!(newest.bytes(), common::sample_of(posted - 1, length));
        drop(newest);
        assert_eq!(now(&port2), common::sample_of(posted, length));
    }
}

#[test]
fn s21_messages_copied_out_hold_no_room() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let mut held = Vec::new();
    for index in 0..200 {
        port1
            .try_post_bytes(&common::sample_of(index, 1000))
            .unwrap();
        held.push(port2.try_recv().unwrap().unwrap());
    }
    for (event, index) in held.iter().zip(0..) {
        assert_eq!(event.bytes(), common::sample_of(index, 1000));
    }
}

#[test]
fn s21_messages_of_another_process_are_held_too() {
    let _quiet = common::descriptors();
    for trusted in [false, true] {
        let (port, child) = common::worker("posts_many").into_parts();
        trust(&port, trusted);
        let mut held = std::collections::VecDeque::new();
        for index in 0..3000_u64 {
            held.push_back(port.recv().unwrap());
            if held.len() == 20 {
                let oldest = held.pop_front().unwrap();
                assert_eq!(oldest.bytes(), sample(index - 19), "trusted: {trusted}");
            }
        }
        drop(held);
        assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
        common::end_well(child);
    }
}

fn posts_many() {
    let port = common::parent();
    (0..3000).for_each(|index| port.post_bytes(&sample(index)).unwrap());
}

fn trust(port: &MessagePort, yes: bool) {
    if yes {
        // SAFETY: the other end is held by these tests only, which post through the library.
        unsafe { port.trust_peer() };
    }
}

#[test]
fn s22_receiving_needs_no_start() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    (0..4).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    drop(port1);
    assert_eq!(port2.recv().unwrap().bytes(), sample(0));
    assert_eq!(port2.try_recv().unwrap().unwrap().bytes(), sample(1));
    let third = port2.recv_timeout(Duration::from_secs(1)).unwrap().unwrap();
    assert_eq!(third.bytes(), sample(2));
    let rest: Vec<_> = port2.iter().map(|event| event.bytes().to_vec()).collect();
    assert_eq!(rest, [sample(3)]);
}

#[test]
fn s23_a_stopped_peer_is_not_a_closed_peer() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let mut command = common::command("echo");
        common::tell(&mut command, strategy, "");
        let (port, child) = ringport::Worker::spawn(command).unwrap().into_parts();
        port.set_wait_strategy(strategy);
        port.post_bytes(b"awake?").unwrap();
        assert_eq!(next(&port), b"awake?");

        let process = child.id();
        signal(process, libc::SIGSTOP);
        common::until("it stopped", || {
            common::state(process, process) == Some('T')
        });
        port.post_bytes(b"and now?").unwrap();
        assert!(
            port.recv_timeout(Duration::from_millis(50))
                .unwrap()
                .is_none()
        );
        assert!(nothing(&port));
        assert!(!port.is_closed());
        assert_eq!(port.close_reason(), None);
        signal(process, libc::SIGCONT);
        assert_eq!(next(&port), b"and now?", "{strategy:?}");
        drop(port);
        common::end_well(child);
    }
}

fn signal(process: u32, signal: i32) {
    // SAFETY: the process is a child that has not been waited for; its number is its own.
    assert_eq!(unsafe { libc::kill(process as i32, signal) }, 0);
}

#[test]
fn iter_gives_every_message_and_ends_with_the_channel() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let poster = thread::spawn(move || {
        (0..1000).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    });
    let mut expected = 0;
    for event in port2.iter() {
        assert_eq!(event.bytes(), sample(expected));
        expected += 1;
    }
    assert_eq!(expected, 1000);
    assert!(port2.iter().next().is_none());
    poster.join().unwrap();
}

#[test]
fn an_owned_message_outlives_its_port_and_goes_to_another_thread() {
    let _quiet = common::descriptors();
    for trusted in [false, true] {
        let (port1, port2) = channel_of(4096);
        trust(&port2, trusted);
        let mut owned: Vec<OwnedMessageEvent> = Vec::new();
        for index in 0..100 {
            port1.try_post_message(&greeting(index)).unwrap();
            owned.push(port2.recv().unwrap().into_owned());
        }
        port1.post_bytes(b"").unwrap();
        let empty = port2.recv().unwrap().into_owned();
        assert!(empty.is_empty() && empty.len() == 0 && empty.bytes().is_empty());
        drop((port1, port2));
        let elsewhere = thread::spawn(move || {
            for (event, index) in owned.iter().zip(0..) {
                assert_eq!(event.len(), event.bytes().len());
                assert!(event.data::<Picture>().is_err());
                assert_eq!(event.data::<Greeting>().unwrap().text, greeting(index).text);
            }
        });
        elsewhere.join().unwrap();
    }
}

#[test]
fn pending_counts_the_bytes_that_wait() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    assert_eq!((port1.pending(), port2.pending()), (0, 0));
    let mut before = 0;
    for index in 0..10 {
        port1.post_bytes(&sample(index)).unwrap();
        let grown = port2.pending() - before;
        assert!(grown > sample(index).len() && grown <= sample(index).len() + 24);
        before = port2.pending();
    }
    assert_eq!(port1.pending(), 0);
    while let Some(event) = port2.try_recv().unwrap() {
        drop(event);
        assert!(port2.pending() < before);
        before = port2.pending();
    }
    assert_eq!(port2.pending(), 0);
}

#[test]
fn stats_count_messages_and_bytes_each_way() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let mut bytes = 0;
    for index in 0..50 {
        port1.post_bytes(&sample(index)).unwrap();
        bytes += sample(index).len() as u64;
    }
    let mut batch = port1.batch();
    batch.post_bytes(b"12345").unwrap();
    batch.post_bytes(b"").unwrap();
    batch.publish();
    drop(port1.reserve(100).unwrap());
    (0..20).for_each(|index| assert_eq!(now(&port2), sample(index)));
    let (stats1, stats2) = (port1.stats(), port2.stats());
    assert_eq!(
        (stats1.messages_posted, stats1.bytes_posted),
        (52, bytes + 5)
    );
    assert_eq!((stats1.messages_received, stats1.bytes_received), (0, 0));
    assert_eq!((stats2.messages_posted, stats2.bytes_posted), (0, 0));
    let received: usize = (0..20).map(|index| sample(index).len()).sum();
    assert_eq!(
        (stats2.messages_received, stats2.bytes_received),
        (20, received as u64)
    );
    assert_eq!(
        (stats1.sleeps, stats1.wakeups, stats1.room_waits),
        (0, 0, 0)
    );
}

#[test]
fn stats_count_sleeps_and_wakeups() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port2.set_wait_strategy(ringport::WaitStrategy::Block);
    let (started, waits) = mpsc::channel();
    let receiver = thread::spawn(move || {
        started.send(common::thread_id()).unwrap();
        assert_eq!(port2.recv().unwrap().bytes(), b"wake");
        port2.stats()
    });
    common::until_asleep(std::process::id(), waits.recv().unwrap());
    port1.post_bytes(b"wake").unwrap();
    let stats = receiver.join().unwrap();
    assert!((1..=2).contains(&stats.sleeps), "{stats:?}");
    assert_eq!(port1.stats().wakeups, 1, "{:?}", port1.stats());
}

#[test]
fn a_port_tells_about_itself() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    assert_eq!(port1.capacity(), 64 << 10);
    assert_eq!(port1.max_message_len(), (64 << 10) / 2 - 24);
    assert_eq!(port1.wait_strategy(), ringport::WaitStrategy::Adaptive);
    port1.set_wait_strategy(ringport::WaitStrategy::Spin);
    assert_eq!(port1.wait_strategy(), ringport::WaitStrategy::Spin);
    assert_eq!(port2.wait_strategy(), ringport::WaitStrategy::Adaptive);
    let shown = format!("{port1:?}");
    assert!(
        shown.contains("MessagePort") && shown.contains("65536"),
        "{shown}"
    );
    port1.close();
    assert!(format!("{port1:?}").contains("ClosedHere"), "{port1:?}");
    let error = RecvError::Closed(CloseReason::PeerGone);
    assert!(
        error
            .to_string()
            .contains(&CloseReason::PeerGone.to_string()),
        "{error}"
    );
}
