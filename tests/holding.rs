//! Messages held in place take up room, and only that: who waits for the rest of the ring is woken,
//! however the holder goes on (S11, S21).

mod common;

use common::{channel_of, until_asleep};
use ringport::{Armed, Interest, MessagePort, WaitStrategy};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

/// Posts `len` bytes from a thread of its own, and returns once it is asleep for want of room.
fn post_asleep(port: MessagePort, len: usize) -> JoinHandle<MessagePort> {
    port.set_wait_strategy(WaitStrategy::Block);
    let (tell, told) = mpsc::channel();
    let poster = thread::spawn(move || {
        tell.send(common::thread_id()).unwrap();
        // Without a timeout, at whose end it would look again: if nobody wakes it, the watchdog does.
        port.post_bytes(&vec![b'Y'; len]).unwrap();
        port
    });
    until_asleep(std::process::id(), told.recv().unwrap());
    poster
}

/// Fills a ring of 4096 bytes with records of 64; says how many there are.
fn fill(port: &MessagePort) -> usize {
    let mut posted = 0;
    while port.try_post_bytes(&[b'x'; 56]).is_ok() {
        posted += 1;
    }
    posted
}

/// A port and how it gets its next message, other than by sleeping in `recv`.
type Receive = fn(&MessagePort) -> Vec<u8>;

fn by_spinning(port: &MessagePort) -> Vec<u8> {
    port.set_wait_strategy(WaitStrategy::Spin);
    common::next(port)
}

fn by_trying(port: &MessagePort) -> Vec<u8> {
    let mut found = None;
    common::until("a message came", || {
        found = port.try_recv().unwrap().map(|event| event.bytes().to_vec());
        found.is_some()
    });
    found.unwrap()
}

fn by_arming(port: &MessagePort) -> Vec<u8> {
    common::until("it is ready", || {
        port.arm(Interest::Message).unwrap() == Armed::Ready
    });
    common::now(port)
}

fn by_sleeping(port: &MessagePort) -> Vec<u8> {
    port.set_wait_strategy(WaitStrategy::Block);
    common::next(port)
}

const ALL: [Receive; 4] = [by_spinning, by_trying, by_arming, by_sleeping];

#[test]
fn s21_room_beside_a_held_message_is_enough() {
    let _quiet = common::descriptors();
    for receive in ALL {
        let (near, far) = channel_of(4096);
        common::trust(&far);
        let posted = fill(&near);
        let poster = post_asleep(near, 56);
        for _ in 0..2 {
            drop(far.recv().unwrap());
        }
        // Held, it keeps all that comes after it from going back: a quarter is never free.
        let held = far.recv().unwrap();
        for _ in 3..posted {
            drop(far.recv().unwrap());
        }
        assert_eq!(receive(&far), [b'Y'; 56]);
        assert_eq!(held.bytes(), [b'x'; 56]);
        poster.join().unwrap();
    }
}

#[test]
fn s21_room_that_a_wrap_gives_back_is_offered() {
    let _quiet = common::descriptors();
    for receive in ALL {
        let (near, far) = channel_of(4096);
        common::trust(&far);
        near.post_bytes(&[1; 2024]).unwrap();
        near.post_bytes(&[2; 56]).unwrap();
        drop(far.recv().unwrap());
        drop(far.recv().unwrap());
        // This one does not fit before the ring's end; what it skips comes back as it is received.
        near.post_bytes(&[3; 2024]).unwrap();
        let poster = post_asleep(near, 1992);
        let held = far.recv().unwrap();
        assert_eq!(receive(&far), [b'Y'; 1992]);
        assert_eq!(held.bytes(), [3; 2024]);
        poster.join().unwrap();
    }
}

#[test]
fn s21_a_port_that_moves_on_gives_forgotten_room_back() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    common::trust(&far);
    near.post_bytes(&[1; 2024]).unwrap();
    near.post_bytes(&[2; 1992]).unwrap();
    let poster = post_asleep(near, 2024);
    for _ in 0..2 {
        std::mem::forget(far.recv().unwrap());
    }
    let handle = far.into_handle();
    // It was woken by the port that left: nobody has the new one yet.
    let near = poster.join().unwrap();
    let far = MessagePort::from_handle(handle).unwrap();
    assert_eq!(common::now(&far), [b'Y'; 2024]);
    drop(near);
}

#[test]
fn s21_a_reader_in_place_does_not_wake_the_poster_for_every_message() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    common::trust(&far);
    let posted = fill(&near);
    let poster = post_asleep(near, 56);
    // Up to a quarter of the ring less what the poster's own message takes.
    for _ in 0..posted / 4 - 1 {
        drop(far.recv().unwrap());
        assert_eq!(far.stats().wakeups, 0);
    }
    for _ in posted / 4 - 1..posted {
        drop(far.recv().unwrap());
    }
    assert_eq!(common::next(&far), [b'Y'; 56]);
    assert_eq!(far.stats().wakeups, 1);
    poster.join().unwrap();
}
