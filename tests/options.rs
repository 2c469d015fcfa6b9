//! What a channel can be asked for, and what it answers when that cannot be had.

mod common;

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use common::{closed, next, now, sample_of};
use ringport::{ChannelOptions, CloseReason, MessageChannel, MessagePort, NewError};

roles! {
    locks_without_permission, locks_with_permission, has_no_descriptors_left, may_make_no_large_files,
}

/// Runs `role`, which needs limits of its own, in a process that may lower its.
#[track_caller]
fn apart(role: &str) {
    let status = common::command(role).status().unwrap();
    assert!(status.success(), "{role}: {status}");
}

fn lower(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: `limit` is a valid rlimit for the length of the call.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
}

#[test]
fn the_default_is_64_kib_each_way() {
    let _quiet = common::descriptors();
    for options in [ChannelOptions::new(), ChannelOptions::default()] {
        let MessageChannel { port1, port2 } = MessageChannel::with_options(&options).unwrap();
        assert_eq!((port1.capacity(), port2.capacity()), (65_536, 65_536));
    }
    assert!(format!("{:?}", ChannelOptions::new().capacity(8192)).contains("8192"));
}

#[test]
fn a_capacity_is_a_power_of_two_from_4_kib_to_1_gib() {
    let _quiet = common::descriptors();
    let bad = [
        0,
        1,
        64,
        2048,
        4095,
        4097,
        12_288,
        65_535,
        (1 << 30) + 1,
        1 << 31,
        1 << 63,
        usize::MAX,
    ];
    for capacity in bad {
        let options = [
            ChannelOptions::new().capacity(capacity),
            ChannelOptions::new().capacity_1_to_2(capacity),
            ChannelOptions::new().capacity_2_to_1(capacity),
        ];
        for options in options {
            let Err(error) = MessageChannel::with_options(&options) else {
                panic!("{capacity} was accepted");
            };
            assert!(
                matches!(error, NewError::Capacity { value } if value == capacity),
                "{error:?}"
            );
            let shown = error.to_string();
            assert!(shown.contains(&capacity.to_string()), "{shown}");
            assert!(
                shown.contains("power of two"),
                "says what would be right: {shown}"
            );
        }
    }
    for shift in [12, 13, 16, 20, 24, 30] {
        let capacity = 1 << shift;
        let options = ChannelOptions::new().capacity(capacity);
        let MessageChannel { port1, port2 } = MessageChannel::with_options(&options).unwrap();
        assert_eq!((port1.capacity(), port2.capacity()), (capacity, capacity));
        assert_eq!(port1.max_message_len(), capacity / 2 - 24);
        port1.post_bytes(&sample_of(1, 100)).unwrap();
        assert_eq!(now(&port2), sample_of(1, 100));
    }
}

#[test]
fn the_later_option_counts() {
    let _quiet = common::descriptors();
    let options = ChannelOptions::new().capacity(8192).capacity_2_to_1(4096);
    let copy = options.clone().capacity(16_384);
    let MessageChannel { port1, port2 } = MessageChannel::with_options(&options).unwrap();
    assert_eq!((port1.capacity(), port2.capacity()), (8192, 4096));
    let MessageChannel { port1, port2 } = MessageChannel::with_options(&copy).unwrap();
    assert_eq!((port1.capacity(), port2.capacity()), (16_384, 16_384));
}

#[test]
fn a_message_of_half_a_large_ring_goes_through() {
    let _quiet = common::descriptors();
    let (port1, port2) = common::channel_of(8 << 20);
    let large = sample_of(1, port1.max_message_len());
    for _ in 0..3 {
        port1.post_bytes(&large).unwrap();
        assert!(now(&port2) == large);
    }
}

/// The bytes of memory behind a port, and the bytes it could use.
fn committed(port: MessagePort) -> (u64, u64) {
    let metadata = File::from(port.into_handle().segment).metadata().unwrap();
    (metadata.blocks() * 512, metadata.len())
}

#[test]
fn memory_is_committed_as_it_is_used() {
    let _quiet = common::descriptors();
    let MessageChannel {
        port1,
        port2: _port2,
    } = MessageChannel::with_options(&ChannelOptions::new().capacity(4 << 20)).unwrap();
    let (used, length) = committed(port1);
    assert!(length >= 8 << 20);
    assert!(
        used <= 64 << 10,
        "{used} of {length} bytes are committed to an idle channel"
    );
}

#[test]
fn prefault_commits_all_of_it_at_once() {
    let _quiet = common::descriptors();
    let options = ChannelOptions::new().capacity(1 << 20).prefault(true);
    let MessageChannel { port1, port2 } = MessageChannel::with_options(&options).unwrap();
    port1.post_bytes(b"usable").unwrap();
    assert_eq!(now(&port2), b"usable");
    let (used, length) = committed(port1);
    assert!(length >= 2 << 20);
    assert!(used >= length, "{used} of {length} bytes");
    drop(port2);

    let not = options.prefault(false);
    let MessageChannel {
        port1,
        port2: _port2,
    } = MessageChannel::with_options(&not).unwrap();
    let (used, length) = committed(port1);
    assert!(used < length);
}

#[test]
fn memory_that_cannot_be_had_is_an_error_that_names_the_size() {
    let _quiet = common::descriptors();
    apart("may_make_no_large_files");
}

fn may_make_no_large_files() {
    // SAFETY: ignoring a signal is always allowed; nothing here relies on its default.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    lower(libc::RLIMIT_FSIZE, 1 << 20);
    let open = common::count_descriptors();
    for prefault in [false, true] {
        let options = ChannelOptions::new().capacity(4 << 20).prefault(prefault);
        match MessageChannel::with_options(&options) {
            Err(error @ NewError::Memory { bytes, .. }) => {
                assert!(bytes >= 8 << 20);
                assert!(error.to_string().contains(&bytes.to_string()), "{error}");
                assert!(std::error::Error::source(&error).is_some());
            }
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("the limit did not bite"),
        }
        assert_eq!(common::count_descriptors(), open);
    }
    let (port1, port2) = common::channel_of(4096);
    port1.post_bytes(b"small is possible").unwrap();
    assert_eq!(next(&port2), b"small is possible");
}

#[test]
fn locking_memory_without_permission_is_an_error_that_names_the_size() {
    let _quiet = common::descriptors();
    apart("locks_without_permission");
}

fn locks_without_permission() {
    drop_ipc_lock();
    lower(libc::RLIMIT_MEMLOCK, 0);
    let open = common::count_descriptors();
    for capacity in [4096, 65_536] {
        let options = ChannelOptions::new().capacity(capacity).lock_memory(true);
        match MessageChannel::with_options(&options) {
            Err(error @ NewError::Lock { bytes, .. }) => {
                assert!(bytes >= 2 * capacity as u64, "{bytes}");
                assert!(error.to_string().contains(&bytes.to_string()), "{error}");
                assert!(std::error::Error::source(&error).is_some());
            }
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("the limit did not bite"),
        }
        assert_eq!(locked(), 0);
        assert_eq!(common::count_descriptors(), open);
    }
    let (port1, port2) = common::channel_of(4096);
    port1.post_bytes(b"not locked").unwrap();
    assert_eq!(next(&port2), b"not locked");
}

#[test]
fn locked_memory_is_locked_until_the_ports_are_gone() {
    let _quiet = common::descriptors();
    apart("locks_with_permission");
}

fn locks_with_permission() {
    let before = locked();
    let options = ChannelOptions::new().capacity(4096).lock_memory(true);
    let MessageChannel { port1, port2 } = MessageChannel::with_options(&options).unwrap();
    assert!(
        locked() >= before + 3 * 4096,
        "{} bytes are locked",
        locked() - before
    );
    port1.post_bytes(b"locked").unwrap();
    assert_eq!(now(&port2), b"locked");
    drop(port1);
    assert_eq!(closed(port2.recv()), CloseReason::ClosedByPeer);
    drop(port2);
    assert_eq!(locked(), before);
}

/// How many bytes this process has locked.
fn locked() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let number = line.unwrap().trim().trim_end_matches("kB").trim();
    number.parse::<u64>().unwrap() * 1024
}

/// Gives up the capability that lifts the limit on locked memory, if this user has it.
fn drop_ipc_lock() {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_IPC_LOCK: u32 = 14;
    let header = [VERSION_3, 0];
    // Two times effective, permitted, inheritable; the second for capabilities from 32 on.
    let mut sets = [0_u32; 6];
    // SAFETY: the kernel reads 8 bytes of `header` and writes 24 into `sets`; both are that long.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    assert_eq!(got, 0);
    sets[0] &= !(1 << CAP_IPC_LOCK);
    sets[1] &= !(1 << CAP_IPC_LOCK);
    sets[2] &= !(1 << CAP_IPC_LOCK);
    // SAFETY: the kernel reads 8 bytes of `header` and 24 of `sets`; both are that long.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(set, 0);
}

#[test]
fn a_process_out_of_descriptors_is_told_so_and_nothing_leaks() {
    let _quiet = common::descriptors();
    apart("has_no_descriptors_left");
}

fn has_no_descriptors_left() {
    // Descriptors are given out from the lowest free number on, so this is how many there can be.
    let holes = (0..100)
        .map(|_| File::open("/dev/null").unwrap())
        .collect::<Vec<_>>();
    lower(libc::RLIMIT_NOFILE, 100);
    drop(holes);
    let open = common::count_descriptors();
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    let mut errors = 0;
    // One more is free each time: it fails at another place, until it does not fail.
    loop {
        match MessageChannel::new() {
            Err(NewError::System { call, source }) => {
                assert_eq!(source.raw_os_error(), Some(libc::EMFILE), "{call}");
                let shown = NewError::System { call, source }.to_string();
                assert!(shown.contains(call), "{shown}");
                errors += 1;
            }
            Err(other) => panic!("{other:?}"),
            Ok(MessageChannel { port1, port2 }) => {
                port1.post_bytes(b"enough").unwrap();
                assert_eq!(now(&port2), b"enough");
                break;
            }
        }
        hoard.pop();
    }
    assert!(
        (1..=6).contains(&errors),
        "{errors} descriptors are missing"
    );
    drop(hoard);
    assert_eq!(common::count_descriptors(), open);
}
