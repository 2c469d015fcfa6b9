//! What a received message shows, and how long it may be held: S18, S20 and S21.

mod common;

use std::sync::mpsc;
use std::thread;

use common::{Greeting, channel, channel_of, closed, greeting, nothing, now, sample, trust_if};
use ringport::{CloseReason, DataError, MessageEvent, MessagePort, OwnedMessageEvent};
use rkyv::{Archive, Serialize};

roles! { sends_typed, posts_many }

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
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(!cause.contains("without error information"), "{cause}");
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
        trust_if(&port2, trusted);
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
        trust_if(&port2, trusted);
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
    trust_if(&port2, true);
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
fn s21_who_waits_for_room_is_woken_when_the_oldest_is_dropped() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port1, port2) = channel_of(4096);
        trust_if(&port2, true);
        port1.set_wait_strategy(strategy);
        for index in 0..3 {
            port1.post_bytes(&common::sample_of(index, 1200)).unwrap();
        }
        let mut held: Vec<_> = (0..3).map(|_| port2.recv().unwrap()).collect();
        let (started, waits) = mpsc::channel();
        let poster = thread::spawn(move || {
            started.send(common::thread_id()).unwrap();
            port1.post_bytes(&common::sample_of(3, 1200)).unwrap();
            port1.post_bytes(&common::sample_of(4, 1200)).unwrap();
        });
        let thread = waits.recv().unwrap();
        let asleep = || {
            if strategy != ringport::WaitStrategy::Spin {
                common::until_asleep(std::process::id(), thread);
            }
        };
        asleep();
        drop(held.remove(1));
        asleep();
        assert!(nothing(&port2));
        drop(held.remove(0));
        assert_eq!(common::next(&port2), common::sample_of(3, 1200));
        assert_eq!(held[0].bytes(), common::sample_of(2, 1200));
        drop(held);
        assert_eq!(common::next(&port2), common::sample_of(4, 1200));
        poster.join().unwrap();
    }
}

#[test]
fn s21_a_leaked_message_holds_its_room_until_the_port_moves() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    trust_if(&port2, true);
    port1.post_bytes(&[1; 1500]).unwrap();
    std::mem::forget(port2.recv().unwrap());
    port1.post_bytes(&[2; 1500]).unwrap();
    assert_eq!(now(&port2), [2; 1500]);
    assert!(port1.try_post_bytes(&[3; 1500]).is_err());
    let port2 = MessagePort::from_handle(port2.into_handle()).unwrap();
    port1.try_post_bytes(&[3; 1500]).unwrap();
    assert_eq!(now(&port2), [3; 1500]);
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
        trust_if(&port, trusted);
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

#[test]
fn an_owned_message_outlives_its_port_and_goes_to_another_thread() {
    let _quiet = common::descriptors();
    for trusted in [false, true] {
        let (port1, port2) = channel_of(4096);
        trust_if(&port2, trusted);
        let mut owned: Vec<OwnedMessageEvent> = Vec::new();
        for index in 0..100 {
            port1.try_post_message(&greeting(index)).unwrap();
            owned.push(port2.recv().unwrap().into_owned());
        }
        port1.post_bytes(b"").unwrap();
        let empty = port2.recv().unwrap().into_owned();
        assert!(empty.is_empty() && empty.bytes().is_empty());
        assert_eq!(empty.len(), 0);
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
