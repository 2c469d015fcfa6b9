//! A process that lacks descriptors, maps or memory cannot receive a message with ports, and loses nothing by
//! trying (S46): once it has what it lacked, the same message is received whole.
//!
//! Limits concern the whole process, so each test lowers those of a process of its own.

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::fs::File;
use std::process::Child;

use common::{Counters, channel_of, nothing, now, on_stage, sample, sample_of, victim};
use ringport::{CloseReason, MessagePort, RecvError, WaitStrategy};

roles! {
    receives_without_descriptors, gets_some_descriptors, iterates_without_descriptors, posts_without_descriptors,
    receives_without_room_for_maps, receives_without_memory,
}

/// The limit of descriptors, once lowered.
const LIMIT: u64 = 200;
/// Far more attempts than there are descriptors.
const MANY: u64 = 3 * LIMIT;

/// A role whose messages are posted before it looks at its port, so that it never has to wait for one.
fn short_of(role: &str, post: impl FnOnce(&MessagePort)) -> (MessagePort, Child, Counters) {
    let (carrier, child, counters) = victim(role, WaitStrategy::Block, "");
    post(&carrier);
    counters.set(Counters::READY, 1);
    (carrier, child, counters)
}

/// In such a role: the port, on which everything is posted by now.
fn well_supplied() -> MessagePort {
    let (carrier, counters) = on_stage();
    counters.until(Counters::READY, 1);
    carrier
}

/// Sets a limit, and leaves the hard one, so that it can be raised again.
fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live rlimit.
    assert_eq!(unsafe { libc::getrlimit(resource, &mut limit) }, 0);
    limit.rlim_cur = value.min(limit.rlim_max);
    // SAFETY: the pointer is to a live rlimit.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
}

/// Opens descriptors until there are no more.
fn use_all_descriptors() -> Vec<File> {
    limit(libc::RLIMIT_NOFILE, LIMIT);
    let mut files = vec![File::open("/dev/null").unwrap()];
    loop {
        match files[0].try_clone() {
            Ok(file) => files.push(file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                return files;
            }
        }
    }
}

/// How many descriptors are open. Looking into `/proc` would take one.
fn open_descriptors() -> u64 {
    // SAFETY: asks about a number, whether or not it is open.
    let open = |fd: &i32| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1;
    (0..LIMIT as i32).filter(open).count() as u64
}

/// This attempt fails for lack of something, and says so.
#[track_caller]
fn lacks<T>(answer: Result<T, RecvError>, errno: i32) {
    match answer {
        Err(error @ RecvError::System { .. }) => {
            let RecvError::System { call, source } = &error else {
                unreachable!();
            };
            assert_eq!(source.raw_os_error(), Some(errno), "{error}");
            assert!(!call.is_empty() && error.to_string().contains(call));
        }
        Err(other) => panic!("wanted a shortage, got {other:?}"),
        Ok(_) => panic!("wanted a shortage, got a message or nothing"),
    }
}

/// Every way to receive fails for this lack, often, and nothing changes by it.
#[track_caller]
fn cannot_receive(carrier: &MessagePort, errno: i32, times: u64) {
    let before = (carrier.pending(), carrier.stats());
    for _ in 0..times {
        lacks(carrier.try_recv(), errno);
        lacks(carrier.recv(), errno);
        lacks(carrier.recv_timeout(common::PATIENCE), errno);
    }
    let after = (carrier.pending(), carrier.stats());
    assert_eq!(after.0, before.0);
    assert_eq!(after.1.messages_received, before.1.messages_received);
    assert_eq!(after.1.ports_received, before.1.ports_received);
    assert!(!carrier.is_closed());
}

/// Answers once on each port.
fn answer_on(ports: &[MessagePort], first: u64) {
    for (port, index) in ports.iter().zip(first..) {
        assert_eq!(now(port), sample(index));
        port.post_bytes(&sample(index + 1)).unwrap();
    }
}

/// Ports to send, in each of which a message waits, and their peers.
fn ports_with_messages(count: usize, first: u64) -> (Vec<MessagePort>, Vec<MessagePort>) {
    let (near, far) = ports::channels(count);
    for (near, index) in near.iter().zip(first..) {
        near.post_bytes(&sample(index)).unwrap();
    }
    (near, far)
}

#[track_caller]
fn assert_answered(near: &[MessagePort], first: u64) {
    for (near, index) in near.iter().zip(first..) {
        ports::receive(near, index + 1..index + 2);
    }
}

#[test]
fn s46_receiving_without_descriptors_loses_nothing() {
    let _quiet = common::descriptors();
    let (near, far) = ports_with_messages(4, 0);
    let mut far = far.into_iter();
    let role = "receives_without_descriptors";
    let (carrier, child, _counters) = short_of(role, |carrier| {
        carrier.post_bytes(b"plain").unwrap();
        let three = far.by_ref().take(3);
        carrier.post_bytes_with(b"three ports", three).unwrap();
        carrier.post_bytes(b"plain again").unwrap();
        carrier.post_bytes_with(b"one port", far).unwrap();
    });
    assert_answered(&near, 0);
    assert_eq!(ports::told(&carrier), CloseReason::ClosedByPeer);
    common::end_well(child);
}

fn receives_without_descriptors() {
    let carrier = well_supplied();
    let mut files = use_all_descriptors();
    // What carries no port needs no descriptor.
    assert_eq!(now(&carrier), b"plain");
    // Six are needed; with fewer it is as with none.
    for free in 0..6 {
        let taken = LIMIT - free;
        files.truncate(files.len() - usize::from(free > 0));
        assert_eq!(open_descriptors(), taken);
        cannot_receive(&carrier, libc::EMFILE, MANY);
        assert_eq!(open_descriptors(), taken);
    }
    files.pop();
    let event = carrier.try_recv().unwrap().expect("the same message");
    assert_eq!(event.bytes(), b"three ports");
    let three = event.take_ports();
    assert_eq!((three.len(), open_descriptors()), (3, LIMIT));
    answer_on(&three, 0);
    drop(event);
    // What follows has kept its place.
    assert_eq!(now(&carrier), b"plain again");
    cannot_receive(&carrier, libc::EMFILE, 10);
    drop(three);
    let event = carrier.recv().unwrap();
    assert_eq!(event.bytes(), b"one port");
    answer_on(&event.take_ports(), 3);
    drop(event);
    assert!(nothing(&carrier));
    assert_eq!(open_descriptors(), LIMIT - 6);
}

#[test]
fn s46_as_many_descriptors_as_a_message_carries_are_enough_and_one_less_is_not() {
    let _quiet = common::descriptors();
    let (near, far) = ports_with_messages(50, 0);
    let role = "gets_some_descriptors";
    let (carrier, child, _counters) = short_of(role, |carrier| {
        carrier.post_bytes_with(b"fifty ports", far).unwrap();
    });
    assert_answered(&near, 0);
    assert_eq!(ports::told(&carrier), CloseReason::ClosedByPeer);
    common::end_well(child);
}

fn gets_some_descriptors() {
    let carrier = well_supplied();
    // Reading in place makes no difference: the message stays where it is.
    common::trust(&carrier);
    let mut files = use_all_descriptors();
    for free in 0..100 {
        cannot_receive(&carrier, libc::EMFILE, 3);
        assert_eq!(open_descriptors(), LIMIT - free);
        files.pop().unwrap();
    }
    let ports = ports::next_ports(&carrier);
    assert_eq!((ports.len(), open_descriptors()), (50, LIMIT));
    answer_on(&ports, 0);
}

#[test]
fn s46_an_iteration_ends_and_another_goes_on_with_the_same_message() {
    let _quiet = common::descriptors();
    let (near, far) = ports_with_messages(3, 0);
    let role = "iterates_without_descriptors";
    let (carrier, child, _counters) = short_of(role, |carrier| {
        for (far, index) in far.into_iter().zip(0..) {
            carrier.post_bytes(&sample(index)).unwrap();
            carrier.post_bytes_with(&sample(index), [far]).unwrap();
        }
    });
    assert_answered(&near, 0);
    assert_eq!(ports::told(&carrier), CloseReason::ClosedByPeer);
    common::end_well(child);
}

fn iterates_without_descriptors() {
    let carrier = well_supplied();
    let mut files = use_all_descriptors();
    let mut held = Vec::new();
    for index in 0..3 {
        let plain: Vec<_> = carrier.iter().map(|event| event.bytes().to_vec()).collect();
        assert_eq!(plain, [sample(index)]);
        assert_eq!(carrier.close_reason(), None, "it ended for another reason");
        files.truncate(files.len() - 2);
        let event = carrier.iter().next().unwrap();
        assert_eq!(event.bytes(), sample(index));
        held.extend(event.take_ports());
        assert_eq!(open_descriptors(), LIMIT);
    }
    answer_on(&held, 0);
}

#[test]
fn s46_posting_ports_needs_no_descriptor() {
    let _quiet = common::descriptors();
    let role = "posts_without_descriptors";
    let (carrier, child, _counters) = short_of(role, |_| ());
    for count in [1, 3] {
        let event = carrier.recv_timeout(common::PATIENCE).unwrap().unwrap();
        assert_eq!(event.port_count(), count);
        answer_on(&event.take_ports(), 0);
    }
    assert_eq!(ports::told(&carrier), CloseReason::ClosedByPeer);
    common::end_well(child);
}

fn posts_without_descriptors() {
    let carrier = well_supplied();
    let (near, far) = ports_with_messages(1, 0);
    let (nears, fars) = ports_with_messages(3, 0);
    let files = use_all_descriptors();
    assert_eq!(open_descriptors(), LIMIT);
    carrier.post_bytes_with(b"", far).unwrap();
    carrier.try_post_bytes_with(b"", fars).unwrap();
    assert_eq!(open_descriptors(), LIMIT - 8, "what was posted is gone");
    drop(files);
    assert_answered(&near, 0);
    assert_answered(&nears, 0);
}

/// Bytes of address space in use.
fn address_space() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    // SAFETY: no precondition.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64
}

const MIB: usize = 1 << 20;

#[test]
fn s46_receiving_without_room_for_maps_loses_nothing() {
    let _quiet = common::descriptors();
    let (small, far1) = channel_of(4096);
    let (large, far2) = channel_of(32 * MIB);
    let (also_small, far3) = channel_of(4096);
    let near = [small, large, also_small];
    for (near, index) in near.iter().zip(0..) {
        near.post_bytes(&sample(index)).unwrap();
    }
    let role = "receives_without_room_for_maps";
    let (carrier, child, _counters) = short_of(role, |carrier| {
        // The first can be mapped, the second cannot.
        let all = [far1, far2, far3];
        carrier.post_bytes_with(b"three ports", all).unwrap();
        carrier.post_bytes(b"plain").unwrap();
    });
    assert_answered(&near, 0);
    assert_eq!(ports::told(&carrier), CloseReason::ClosedByPeer);
    common::end_well(child);
}

fn receives_without_room_for_maps() {
    let carrier = well_supplied();
    limit(libc::RLIMIT_NOFILE, LIMIT);
    let (open, mapped) = (open_descriptors(), address_space());
    limit(libc::RLIMIT_AS, mapped + 16 * MIB as u64);
    cannot_receive(&carrier, libc::ENOMEM, MANY);
    assert_eq!(open_descriptors(), open);
    assert!(address_space() < mapped + MIB as u64);
    limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
    let event = carrier.recv().unwrap();
    assert_eq!(event.bytes(), b"three ports");
    let ports = event.take_ports();
    assert_eq!(ports[1].capacity(), 32 * MIB);
    answer_on(&ports, 0);
    drop(event);
    assert_eq!(now(&carrier), b"plain");
}

/// A message that must be copied, for which there is no memory.
const LARGE: usize = 12 * MIB;

#[test]
fn s46_receiving_without_memory_for_the_copy_loses_nothing() {
    let _quiet = common::descriptors();
    let (large1, large2) = channel_of(64 * MIB);
    let (near, far) = ports_with_messages(2, 0);
    // The allocator then asks the system for what it has not got, which is what is limited here.
    let mut command = common::command("receives_without_memory");
    command.env("MALLOC_ARENA_MAX", "1");
    let (carrier, child) = ringport::Worker::spawn(command).unwrap().into_parts();
    large1.post_bytes(&sample_of(1, LARGE)).unwrap();
    large1.post_bytes_with(&sample_of(2, LARGE), far).unwrap();
    large1.post_bytes(b"small").unwrap();
    carrier.post_bytes_with(b"", [large2]).unwrap();
    assert_answered(&near, 0);
    assert_eq!(ports::told(&large1), CloseReason::ClosedByPeer);
    common::end_well(child);
}

fn receives_without_memory() {
    let large = ports::next_port(&common::parent());
    limit(libc::RLIMIT_NOFILE, LIMIT);
    let open = open_descriptors();
    for index in 1..3 {
        let mapped = address_space();
        limit(libc::RLIMIT_AS, mapped + 4 * MIB as u64);
        cannot_receive(&large, libc::ENOMEM, MANY);
        assert_eq!(open_descriptors(), open);
        limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
        let event = large.try_recv().unwrap().expect("the same message");
        assert!(event.bytes() == sample_of(index, LARGE));
        let ports = event.take_ports();
        assert_eq!(ports.len(), if index == 2 { 2 } else { 0 });
        answer_on(&ports, 0);
        // Kept apart, so that its memory does not serve for the next one.
        std::mem::forget(event.into_owned());
    }
    assert_eq!(now(&large), b"small");
}
