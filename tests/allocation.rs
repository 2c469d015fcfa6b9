//! What does not allocate: posting a value, and receiving one in the default mode, once a thread and a
//! port have warmed up.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::mpsc;
use std::thread;

use common::{Greeting, channel, channel_of, greeting, sample};
use ringport::{MessagePort, WaitStrategy};

/// Counts the allocations of each thread apart, so that other tests do not disturb.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local that
// needs neither an allocation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises about `old`, `layout` and `size` are passed on.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about `old` and `layout` is passed on.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations this thread makes in `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    let _quiet = common::descriptors();
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn posting_a_value_makes_no_allocation() {
    let _quiet = common::descriptors();
    // A small ring: it is wrapped around many times.
    let (port1, port2) = channel_of(4096);
    let values: Vec<Greeting> = (0..20).map(greeting).collect();
    port1.post_message(&values[0]).unwrap();
    drop(port2.recv().unwrap());
    for value in values.iter().cycle().take(2000) {
        let posting = allocations(|| port1.post_message(value).unwrap());
        assert_eq!(posting, 0);
        drop(port2.recv().unwrap());
    }
    let batches = allocations(|| {
        for pair in values.chunks(2) {
            let mut batch = port1.batch();
            pair.iter().for_each(|value| batch.post(value).unwrap());
            batch.publish();
        }
    });
    assert_eq!(batches, 0);
}

#[test]
fn only_the_first_post_of_a_thread_may_allocate() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port1.post_message(&greeting(1)).unwrap();
    let other = thread::spawn(move || {
        let value = greeting(2);
        port1.post_message(&value).unwrap();
        allocations(|| (0..100).for_each(|_| port1.post_message(&value).unwrap()))
    });
    assert_eq!(other.join().unwrap(), 0);
    assert_eq!(port2.iter().count(), 102);
}

#[test]
fn posting_bytes_makes_no_allocation() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    for index in 0..1000 {
        let bytes = sample(index);
        let posting = allocations(|| {
            port1.post_bytes(&bytes).unwrap();
            let mut slot = port1.reserve(bytes.len()).unwrap();
            slot.write(&bytes);
            slot.commit();
            let mut batch = port1.batch();
            batch.post_bytes(&bytes).unwrap();
            batch.publish();
        });
        assert_eq!(posting, 0);
        (0..3).for_each(|_| drop(port2.recv().unwrap()));
    }
}

#[test]
fn a_ring_that_is_full_or_a_message_too_large_makes_no_allocation() {
    let _quiet = common::descriptors();
    let (port1, _port2) = channel_of(4096);
    let large = vec![0; 5000];
    let value = greeting(8);
    port1.post_message(&value).unwrap();
    let refusals = allocations(|| {
        while port1.try_post_message(&value).is_ok() {}
        assert!(port1.try_post_message(&value).is_err());
        assert!(port1.post_bytes(&large).is_err());
    });
    assert_eq!(refusals, 0);
}

#[test]
fn receiving_makes_no_allocation_when_the_event_is_dropped() {
    let _quiet = common::descriptors();
    for trusted in [false, true] {
        let (port1, port2) = channel_of(4096);
        if trusted {
            // SAFETY: the other end is held by this test only, which posts through the library.
            unsafe { port2.trust_peer() };
        }
        // The largest there will be comes first: its buffer serves all others.
        port1.post_bytes(&vec![1; port1.max_message_len()]).unwrap();
        drop(port2.recv().unwrap());
        for index in 0..2000 {
            if index % 2 == 0 {
                port1.post_message(&greeting(index)).unwrap();
            } else {
                port1.post_bytes(&sample(index)).unwrap();
            }
            let receiving = allocations(|| {
                let event = port2.try_recv().unwrap().unwrap();
                if index % 2 == 0 {
                    let archived = event.data::<Greeting>().unwrap();
                    assert_eq!(archived.numbers.len() as u64, 1 + index % 9);
                }
                drop(event);
                assert!(port2.try_recv().unwrap().is_none());
            });
            assert_eq!(receiving, 0, "trusted: {trusted}");
        }
    }
}

#[test]
fn a_round_trip_that_sleeps_makes_no_allocation() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port1, port2) = channel_of(4096);
        let turns = common::turns(strategy, 300);
        let (counted, count) = mpsc::channel();
        let serve = move |port: &MessagePort, first: bool| {
            let value = greeting(3);
            let turn = || {
                if first {
                    port.post_message(&value).unwrap();
                }
                let event = port.recv().unwrap();
                assert_eq!(event.data::<Greeting>().unwrap().text, value.text);
                drop(event);
                if !first {
                    port.post_message(&value).unwrap();
                }
            };
            // The first turns make the buffer and what the first sleep needs.
            (0..50).for_each(|_| turn());
            allocations(|| (0..turns).for_each(|_| turn()))
        };
        port1.set_wait_strategy(strategy);
        port2.set_wait_strategy(strategy);
        let other = thread::spawn(move || counted.send((serve(&port2, false), port2)).unwrap());
        assert_eq!(serve(&port1, true), 0, "{strategy:?}");
        let (far, port2) = count.recv().unwrap();
        assert_eq!(far, 0, "{strategy:?}");
        if strategy == WaitStrategy::Block {
            assert!(port1.stats().sleeps > 0 && port2.stats().sleeps > 0);
        }
        other.join().unwrap();
    }
}
