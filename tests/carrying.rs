//! Messages that carry ports: what their events show, and how long they hold what they carry (S18, S19, S21).

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::collections::VecDeque;
use std::thread;

use common::{PATIENCE, channel, channel_of, greeting, nothing, now, sample, trust, trust_if};
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ports::{assert_all_entangled, assert_entangled, carry, drain, fill};
use ringport::{Armed, CloseReason, Interest, MessagePort, OwnedMessageEvent};

#[test]
fn s19_a_port_need_not_be_mentioned_in_the_value() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, far) = ports::channels(3);
    let mut far = far.into_iter();
    carrier1.post_bytes_with(b"", far.next()).unwrap();
    carrier1.post_message_with(&(), far.next()).unwrap();
    carrier1.post_message_with(&greeting(7), far).unwrap();
    let mut received = Vec::new();
    for length in [Some(0), Some(0), None] {
        let event = carrier2.try_recv().unwrap().unwrap();
        assert_eq!(event.port_count(), 1);
        if let Some(length) = length {
            assert_eq!((event.len(), event.bytes().len()), (length, length));
        } else {
            // Before and after, the value shows the same.
            let archived = event.data::<common::Greeting>().unwrap();
            received.extend(event.take_ports());
            assert_eq!(archived.text, greeting(7).text);
        }
        received.extend(event.take_ports());
    }
    assert_all_entangled(&near, &received);
}

#[test]
fn s18_ports_are_taken_in_list_order_and_once() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    for count in [1, 2, 15, 16, 17, 64] {
        let (near, far) = ports::channels(count);
        carrier1.post_bytes_with(&sample(3), far).unwrap();
        let event = carrier2.try_recv().unwrap().unwrap();
        assert_eq!(event.port_count(), count);
        let received = event.take_ports();
        assert_eq!(event.port_count(), 0);
        assert!(event.take_ports().is_empty(), "each is taken once");
        assert_eq!(event.bytes(), sample(3));
        drop(event);
        assert_all_entangled(&near, &received);
    }
}

#[test]
fn s18_a_message_without_ports_is_a_plain_one() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    carrier1.post_bytes_with(&sample(1), []).unwrap();
    carrier1.post_message_with(&greeting(2), None).unwrap();
    carrier1.try_post_bytes(&sample(3)).unwrap();
    for plain in 1..=3 {
        let event = carrier2.try_recv().unwrap().unwrap();
        assert_eq!((event.port_count(), event.take_ports().len()), (0, 0));
        match plain {
            2 => assert!(event.data::<common::Greeting>().is_ok()),
            _ => assert_eq!(event.bytes(), sample(plain)),
        }
    }
    let posted = carrier1.stats();
    assert_eq!((posted.messages_posted, posted.ports_posted), (3, 0));
}

#[test]
fn s18_every_port_arrives_with_its_own_message_however_many_messages_there_are() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let mut random = ports::Random(0x5eed);
    let mut waiting: VecDeque<Vec<MessagePort>> = VecDeque::new();
    let (mut posted, mut received) = (0, 0);
    while received < 1000 {
        // Up to 64 messages with ports wait at a time, in between plain ones, with rings of the doorbell
        // between their descriptors whenever the receiver has said that it is going to wait.
        for _ in 0..random.below(24) {
            if random.below(3) == 0 && waiting.is_empty() {
                let armed = carrier2.arm(Interest::Message).unwrap();
                assert_eq!(armed, Armed::Wait);
            }
            let count = random.below(3) as usize;
            let with_ports = waiting.iter().filter(|near| !near.is_empty());
            if with_ports.count() == 64 {
                break;
            }
            let (near, far) = ports::channels(count);
            carrier1.try_post_bytes_with(&sample(posted), far).unwrap();
            waiting.push_back(near);
            posted += 1;
        }
        for _ in 0..random.below(24) {
            let Some(near) = waiting.pop_front() else {
                assert!(nothing(&carrier2));
                break;
            };
            let event = carrier2.try_recv().unwrap().unwrap();
            assert_eq!(event.bytes(), sample(received));
            assert_all_entangled(&near, &event.take_ports());
            received += 1;
        }
    }
}

#[test]
fn s21_events_can_be_held_while_ports_move() {
    let _quiet = common::descriptors();
    for trusted in [false, true] {
        let (carrier1, carrier2) = channel_of(4096);
        trust_if(&carrier2, trusted);
        let (near, far) = ports::channels(6);
        let mut far = far.into_iter();
        for index in 0..3 {
            let pair = far.by_ref().take(2);
            carrier1.try_post_bytes_with(&sample(index), pair).unwrap();
        }
        let events: Vec<_> = (0..3).map(|_| carrier2.recv().unwrap()).collect();
        // Meanwhile others move on the way back, and elsewhere.
        let (other1, other2) = channel_of(4096);
        let (stays, moves) = channel_of(4096);
        let moves = carry(&carrier2, &carrier1, moves);
        let moves = carry(&other1, &other2, moves);
        assert_entangled(&stays, &moves);
        for (event, index) in events.iter().zip(0..) {
            assert_eq!((event.bytes(), event.port_count()), (&*sample(index), 2));
            assert_eq!(event.is_in_place(), trusted);
        }
        // Out of order, and one of them never.
        assert_all_entangled(&near[4..], &events[2].take_ports());
        let first = events[0].take_ports();
        drop(events);
        assert_all_entangled(&near[..2], &first);
        assert_eq!(ports::told(&near[2]), CloseReason::ClosedByPeer);
        assert_eq!(ports::told(&near[3]), CloseReason::ClosedByPeer);
        // What was held has given its room back.
        let room = fill(&carrier1);
        assert_eq!(drain(&carrier2, 0), room);
        assert!(room > 15);
    }
}

#[test]
fn s21_an_event_that_was_leaked_in_place_does_not_hold_on_to_the_room_of_a_port_that_moved() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (near, far) = channel_of(4096);
    trust(&far);
    (0..3).for_each(|index| near.post_bytes(&sample(index)).unwrap());
    std::mem::forget(far.recv().unwrap());
    let far = carry(&carrier1, &carrier2, far);
    // It was received, so that the next one is next.
    assert_eq!((now(&far), now(&far)), (sample(1), sample(2)));
    assert!(nothing(&far));
    let room = fill(&near);
    assert_eq!(drain(&far, 0), room);
    assert_eq!(fill(&near), room);
}

#[test]
fn an_event_apart_from_its_port_keeps_the_ports() {
    let _quiet = common::descriptors();
    for trusted in [false, true] {
        let (carrier1, carrier2) = channel();
        trust_if(&carrier2, trusted);
        let (near, far) = ports::channels(3);
        let message = greeting(5);
        carrier1.post_message_with(&message, far).unwrap();
        let event: OwnedMessageEvent = carrier2.recv().unwrap().into_owned();
        drop((carrier1, carrier2));
        assert_eq!(event.port_count(), 3);
        let holder = thread::spawn(move || {
            let far = event.take_ports();
            assert_eq!((event.port_count(), event.take_ports().len()), (0, 0));
            let archived = event.data::<common::Greeting>().unwrap();
            assert_eq!(archived.text, greeting(5).text);
            drop(event);
            far.iter()
                .map(ports::echo)
                .map(|(answered, _)| answered)
                .sum::<u64>()
        });
        for near in near {
            ports::ask(&near, 0..50);
        }
        assert_eq!(holder.join().unwrap(), 150);
    }
}

#[test]
fn received_ports_are_not_inherited_over_exec() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (_near, far) = ports::channels(3);
    carrier1.post_bytes_with(b"", far).unwrap();
    for port in ports::next_ports(&carrier2) {
        let handle = port.into_handle();
        for fd in [&handle.segment, &handle.doorbell] {
            let flags = fcntl(fd, FcntlArg::F_GETFD).unwrap();
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
    }
}

#[test]
fn ports_are_counted() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let (_near, far) = ports::channels(5);
    let mut far = far.into_iter();
    carrier1
        .post_bytes_with(b"abc", far.by_ref().take(2))
        .unwrap();
    carrier1.post_bytes(b"plain").unwrap();
    carrier1.post_bytes_with(b"de", far).unwrap();
    for ports in [2, 0, 3] {
        let event = carrier2.recv().unwrap();
        assert_eq!(event.port_count(), ports);
        drop(event.take_ports());
    }
    let (posted, received) = (carrier1.stats(), carrier2.stats());
    assert_eq!((posted.ports_posted, posted.ports_received), (5, 0));
    assert_eq!((received.ports_posted, received.ports_received), (0, 5));
    assert_eq!((posted.messages_posted, posted.bytes_posted), (3, 10));
    assert_eq!(
        (received.messages_received, received.bytes_received),
        (3, 10)
    );
}

#[test]
fn a_foreign_loop_is_told_of_messages_with_ports() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel();
    let readable = |within: PollTimeout| {
        let mut fds = [PollFd::new(carrier2.as_fd().unwrap(), PollFlags::POLLIN)];
        poll(&mut fds, within).unwrap() == 1
    };
    for round in 0..100 {
        assert_eq!(carrier2.arm(Interest::Message).unwrap(), Armed::Wait);
        assert!(!readable(PollTimeout::ZERO));
        let (near, far) = ports::channels(1 + round % 3);
        let mut far = far.into_iter();
        carrier1.post_bytes_with(b"first", far.next()).unwrap();
        carrier1.post_bytes_with(b"second", far).unwrap();
        assert!(readable(PollTimeout::try_from(PATIENCE).unwrap()));
        // What was not received yet makes it ready at once.
        let first = ports::next_ports(&carrier2);
        assert_eq!(carrier2.arm(Interest::Message).unwrap(), Armed::Ready);
        assert_all_entangled(&near[..1], &first);
        assert_all_entangled(&near[1..], &ports::next_ports(&carrier2));
    }
}
