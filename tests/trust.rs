//! Reading a copy, and reading in place: S59 and S60.

mod common;

use std::os::fd::OwnedFd;
use std::thread;

use common::{
    Greeting, channel, channel_of, closed, greeting, nothing, now, sample, sample_of, trust,
};
use memmap2::{MmapOptions, MmapRaw};
use ringport::{CloseReason, MessagePort};

roles! { is_untrusting_at_first, trusts_in_turn }

/// Where the rings begin in a segment.
const RINGS: usize = 4096;

/// A second look at a channel's memory, such as a dishonest holder might keep.
struct Spy(MmapRaw);

impl Spy {
    /// Looks through `port`, which stays what it is.
    fn on(port: MessagePort) -> (Spy, MessagePort) {
        let handle = port.into_handle();
        let spy = Spy::of(&handle.segment);
        (spy, MessagePort::from_handle(handle).unwrap())
    }

    fn of(segment: &OwnedFd) -> Spy {
        Spy(MmapOptions::new().map_raw(segment).unwrap())
    }

    /// Writes over everything in both rings.
    fn scribble(&self, byte: u8) {
        for at in RINGS..self.0.len() {
            // SAFETY: `at` lies within this map, which nothing else in this process refers to by
            // reference.
            unsafe { self.0.as_mut_ptr().add(at).write_volatile(byte) };
        }
    }
}

/// Whether an address lies in memory that another process may have mapped too.
fn is_shared(bytes: &[u8]) -> bool {
    let address = bytes.as_ptr() as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| {
        let range = line.split(' ').next().unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let parse = |number| usize::from_str_radix(number, 16).unwrap();
        (parse(from)..parse(to)).contains(&address)
    });
    line.expect("the address is mapped").contains("/memfd:")
}

#[test]
fn s59_a_message_cannot_change_under_its_reader() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let (spy, port1) = Spy::on(port1);
    for index in 0..5 {
        port1.post_message(&greeting(index)).unwrap();
    }
    let held: Vec<_> = (0..5).map(|_| port2.recv().unwrap()).collect();
    let archived: Vec<_> = held
        .iter()
        .map(|event| event.data::<Greeting>().unwrap())
        .collect();
    let before: Vec<_> = held.iter().map(|event| event.bytes().to_vec()).collect();
    for byte in [0xff, 0, 0x55] {
        spy.scribble(byte);
        for (index, event) in held.iter().enumerate() {
            assert_eq!(event.bytes(), before[index]);
            assert_eq!(archived[index].text, greeting(index as u64).text);
            assert!(event.data::<Greeting>().is_ok());
        }
    }
}

#[test]
fn s59_a_message_is_a_private_copy_by_default() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    for length in [1, 47, 48, 49, 1000, 20_000] {
        port1.post_bytes(&vec![1; length]).unwrap();
        let event = port2.recv().unwrap();
        assert!(!event.is_in_place());
        assert!(!is_shared(event.bytes()));
        assert!(!is_shared(event.into_owned().bytes()));
    }
}

#[test]
fn s59_a_copy_is_aligned_for_any_archive() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let mut held = Vec::new();
    for index in 0..200 {
        port1.post_bytes(&sample(index)).unwrap();
        let event = port2.recv().unwrap();
        assert_eq!(event.bytes().as_ptr() as usize % 16, 0);
        held.push(event);
        if held.len() > 7 {
            held.swap_remove(index as usize % 7);
        }
    }
}

#[test]
fn s59_a_copy_is_independent_of_the_ring() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    port1.post_bytes(&sample_of(0, 2000)).unwrap();
    let held = port2.recv().unwrap();
    for index in 1..500 {
        port1.try_post_bytes(&sample_of(index, 2000)).unwrap();
        assert_eq!(now(&port2), sample_of(index, 2000));
    }
    drop(port1);
    assert_eq!(closed(port2.recv()), CloseReason::ClosedByPeer);
    port2.close();
    assert_eq!(held.bytes(), sample_of(0, 2000));
}

#[test]
fn s60_reading_in_place_is_decided_per_port() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let (other1, other2) = channel();
    trust(&port2);
    for length in [1, 48, 1000, 20_000] {
        for (poster, receiver) in [(&port1, &port2), (&port2, &port1), (&other1, &other2)] {
            poster.post_bytes(&sample_of(3, length.max(8))).unwrap();
            let event = receiver.recv().unwrap();
            let trusted = std::ptr::eq(receiver, &port2);
            assert_eq!(event.is_in_place(), trusted);
            assert_eq!(is_shared(event.bytes()), trusted);
            assert_eq!(event.bytes(), sample_of(3, length.max(8)));
        }
    }
    port1.post_message(&greeting(4)).unwrap();
    let event = port2.recv().unwrap();
    assert!(event.is_in_place());
    assert_eq!(event.data::<Greeting>().unwrap().text, greeting(4).text);
    assert!(
        event.data::<[u64; 900]>().is_err(),
        "validated in place too"
    );
    let owned = event.into_owned();
    assert!(!is_shared(owned.bytes()));
    assert_eq!(owned.data::<Greeting>().unwrap().text, greeting(4).text);
}

#[test]
fn s60_what_was_received_before_the_decision_stays_a_copy() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port1.post_bytes(b"early").unwrap();
    port1.post_bytes(b"late").unwrap();
    let early = port2.recv().unwrap();
    trust(&port2);
    let late = port2.recv().unwrap();
    assert_eq!((early.is_in_place(), late.is_in_place()), (false, true));
    assert_eq!((early.bytes(), late.bytes()), (&b"early"[..], &b"late"[..]));
}

#[test]
fn s60_a_port_made_of_a_handle_starts_untrusted() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    trust(&port2);
    let port2 = MessagePort::from_handle(port2.into_handle()).unwrap();
    port1.post_bytes(b"x").unwrap();
    let event = port2.recv().unwrap();
    assert!(!event.is_in_place() && !is_shared(event.bytes()));
}

#[test]
fn s60_a_port_in_another_thread_keeps_the_decision() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    trust(&port2);
    let receiver = thread::spawn(move || {
        let mut received = 0;
        for event in port2.iter() {
            assert!(event.is_in_place());
            assert_eq!(event.bytes(), sample(received));
            received += 1;
        }
        received
    });
    (0..5000).for_each(|index| port1.post_bytes(&sample(index)).unwrap());
    drop(port1);
    assert_eq!(receiver.join().unwrap(), 5000);
}

#[test]
fn s60_a_parent_port_starts_untrusted() {
    let _quiet = common::descriptors();
    let mut worker = common::worker("is_untrusting_at_first");
    trust(worker.port());
    worker.port().post_bytes(b"x").unwrap();
    let event = worker.port().recv().unwrap();
    assert!(
        event.is_in_place(),
        "a decision on this side holds on this side"
    );
    assert_eq!(event.bytes(), b"copied");
    drop(event);
    assert!(worker.wait().unwrap().success());
}

fn is_untrusting_at_first() {
    let port = common::parent();
    let event = port.recv().unwrap();
    assert!(!event.is_in_place() && !is_shared(event.bytes()));
    port.post_bytes(b"copied").unwrap();
}

#[test]
fn s60_both_ends_read_in_place_across_processes() {
    let _quiet = common::descriptors();
    let (port, child) = common::worker("trusts_in_turn").into_parts();
    trust(&port);
    for index in 0..2000 {
        port.post_bytes(&sample(index)).unwrap();
        let event = port.recv().unwrap();
        assert!(event.is_in_place());
        assert_eq!(event.bytes(), sample(index));
    }
    drop(port);
    common::end_well(child);
}

fn trusts_in_turn() {
    let port = common::parent();
    trust(&port);
    for event in port.iter() {
        assert!(event.is_in_place() && is_shared(event.bytes()));
        port.post_bytes(event.bytes()).unwrap();
    }
}

#[test]
fn s60_a_slot_is_readable_memory_only_when_trusted() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let mut slot = port1.reserve(64).unwrap();
    assert!(slot.as_mut_slice().is_none());
    drop(slot);
    trust(&port1);
    let mut slot = port1.reserve(64).unwrap();
    slot.as_mut_slice()
        .unwrap()
        .copy_from_slice(&sample_of(1, 64));
    assert_eq!(slot.as_mut_slice().unwrap(), sample_of(1, 64));
    slot.commit();
    assert_eq!(now(&port2), sample_of(1, 64));
}

#[test]
fn s60_an_aligned_slot_is_aligned_for_who_reads_it_in_place() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    trust(&port2);
    for round in 0..100 {
        let align = 16 << (round % 4);
        let mut slot = port1.reserve_aligned(200, align).unwrap();
        slot.write(&sample_of(round, 200));
        slot.commit();
        let event = port2.recv().unwrap();
        assert_eq!(event.bytes().as_ptr() as usize % align, 0, "{align}");
        assert_eq!(event.bytes(), sample_of(round, 200));
        drop(event);
        port1.post_bytes(&sample(round)).unwrap();
        assert_eq!(now(&port2), sample(round));
    }
    assert!(nothing(&port2));
}
