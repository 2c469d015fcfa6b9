//! Every pair of descriptors that is no port (S58): the refusal names what is wrong with which value,
//! and gives the descriptors back.

mod common;

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener};

use common::{channel_of, closed, now};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ringport::{CloseReason, ImportFault, MessagePort, PortHandle};

/// Where the header's fields are.
const MAGIC: usize = 0;
const VERSION: usize = 8;
const LOWEST_VERSION: usize = 12;
const FEATURES: usize = 16;
const CAPACITY_1_TO_2: usize = 24;
const CAPACITY_2_TO_1: usize = 32;
const LENGTH: usize = 40;
/// Endpoint 1's write position, in the first of its lines; its read position, in the second.
const WRITE_POSITION: usize = 1024;
const READ_POSITION: usize = 1024 + 128;

/// The seals a segment must have.
fn good_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// A port's handle, and the peer.
fn handle() -> (PortHandle, MessagePort) {
    let (port1, port2) = channel_of(4096);
    (port1.into_handle(), port2)
}

/// A memory file with the given content and seals.
fn memory(bytes: &[u8], seals: SealFlag) -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create("forged", flags).unwrap());
    file.write_all(bytes).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file.into()
}

/// A segment's bytes.
fn content(segment: &OwnedFd) -> Vec<u8> {
    let file = File::from(segment.try_clone().unwrap());
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The handle with its segment replaced by a copy that differs in one place.
fn forged(offset: usize, bytes: &[u8]) -> (PortHandle, MessagePort) {
    let (mut handle, peer) = handle();
    let mut all = content(&handle.segment);
    all[offset..offset + bytes.len()].copy_from_slice(bytes);
    handle.segment = memory(&all, good_seals());
    (handle, peer)
}

/// What tells one open file from another.
fn identity(fd: &OwnedFd) -> (u64, u64) {
    let metadata = File::from(fd.try_clone().unwrap()).metadata().unwrap();
    (metadata.dev(), metadata.ino())
}

/// The handle is refused with a fault that `expected` accepts and a text that has every part of
/// `named`; the descriptors come back, the same and alone.
#[track_caller]
fn refused(handle: PortHandle, expected: fn(&ImportFault) -> bool, named: &[&str]) {
    let before = (identity(&handle.segment), identity(&handle.doorbell));
    let numbers = (handle.segment.as_raw_fd(), handle.doorbell.as_raw_fd());
    let open = common::count_descriptors();
    let Err(error) = MessagePort::from_handle(handle) else {
        panic!("this passed for a port");
    };
    assert!(expected(error.fault()), "{:?}", error.fault());
    let shown = error.to_string();
    for name in named {
        assert!(shown.contains(name), "{name:?} is not in {shown:?}");
    }
    assert!(shown.len() > 20, "says too little: {shown:?}");
    let _: &dyn std::error::Error = &error;
    let handle = error.into_handle();
    assert_eq!(
        (identity(&handle.segment), identity(&handle.doorbell)),
        before
    );
    assert_eq!(
        (handle.segment.as_raw_fd(), handle.doorbell.as_raw_fd()),
        numbers
    );
    assert_eq!(common::count_descriptors(), open);
}

#[test]
fn a_faithful_copy_of_a_segment_is_accepted() {
    // Otherwise the refusals below would prove nothing.
    let _quiet = common::descriptors();
    let (handle, peer) = forged(MAGIC, b"RINGPORT");
    let port = MessagePort::from_handle(handle).unwrap();
    assert_eq!(port.capacity(), 4096);
    drop(port);
    assert_eq!(
        closed(peer.recv()),
        CloseReason::PeerGone,
        "CLOSED was set in the copy only"
    );
}

#[test]
fn s58_a_segment_must_be_sealed_memory() {
    let _quiet = common::descriptors();
    let not_a_segment = |fault: &ImportFault| matches!(fault, ImportFault::NotASegment { .. });
    let bad_seals = |fault: &ImportFault| matches!(fault, ImportFault::Seals { .. });

    let (mut with, _peer) = handle();
    let bytes = content(&with.segment);
    let path = std::env::temp_dir().join(format!("not-a-segment-{}", std::process::id()));
    std::fs::write(&path, &bytes).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    with.segment = file.into();
    // Where files of /tmp are in memory, as those of /dev are, they have no such seals.
    let either = |fault: &ImportFault| {
        matches!(
            fault,
            ImportFault::NotASegment { .. } | ImportFault::Seals { .. }
        )
    };
    refused(with, either, &[]);
    let (mut with, _peer) = handle();
    with.segment = File::open("/dev/null").unwrap().into();
    refused(with, either, &[]);
    let (mut with, _peer) = handle();
    with.segment = File::open("/proc/self/maps").unwrap().into();
    refused(with, not_a_segment, &[]);

    use SealFlag as Seal;
    let lacking = [
        Seal::empty(),
        Seal::F_SEAL_SHRINK,
        Seal::F_SEAL_GROW,
        Seal::F_SEAL_SEAL,
        Seal::F_SEAL_SHRINK | Seal::F_SEAL_GROW,
        Seal::F_SEAL_SHRINK | Seal::F_SEAL_SEAL,
        Seal::F_SEAL_GROW | Seal::F_SEAL_SEAL,
    ];
    let writing = [
        good_seals() | Seal::F_SEAL_WRITE,
        good_seals() | Seal::F_SEAL_FUTURE_WRITE,
    ];
    for seals in lacking.into_iter().chain(writing) {
        let (mut with, _peer) = handle();
        with.segment = memory(&bytes, seals);
        let shown = format!("{:#x}", seals.bits());
        let shown = shown.trim_start_matches("0x");
        refused(with, bad_seals, &[shown]);
    }
}

#[test]
fn s58_a_segment_must_not_be_of_huge_pages() {
    let _quiet = common::descriptors();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB;
    let Ok(huge) = memfd_create("huge", flags) else {
        return; // a kernel without huge pages cannot be asked for them either
    };
    let file = File::from(huge);
    file.set_len(2 << 20).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(good_seals())).unwrap();
    let (mut with, _peer) = handle();
    with.segment = file.into();
    refused(
        with,
        |fault| matches!(fault, ImportFault::NotASegment { .. }),
        &[],
    );
}

#[test]
fn a_segment_must_be_as_long_as_its_header_says() {
    let _quiet = common::descriptors();
    let bad_length = |fault: &ImportFault| matches!(fault, ImportFault::Length { .. });
    let (whole, _peer) = handle();
    let bytes = content(&whole.segment);
    for length in [0, 1, 100, 4095, 4096, bytes.len() - 1, bytes.len() - 4096] {
        let (mut with, _peer) = handle();
        with.segment = memory(&bytes[..length], good_seals());
        refused(with, bad_length, &[&length.to_string()]);
    }
    let (mut with, _peer) = handle();
    let mut longer = bytes.clone();
    longer.resize(bytes.len() + 4096, 0);
    with.segment = memory(&longer, good_seals());
    refused(
        with,
        bad_length,
        &[&longer.len().to_string(), &bytes.len().to_string()],
    );

    for length in [0, 4096, bytes.len() as u64 + 1, u64::MAX] {
        let (with, _peer) = forged(LENGTH, &length.to_le_bytes());
        refused(with, bad_length, &[&bytes.len().to_string()]);
    }
}

#[test]
fn a_header_must_say_what_this_library_understands() {
    let _quiet = common::descriptors();
    for magic in [b"\0\0\0\0\0\0\0\0", b"RINGPORU", b"ringport"] {
        let (with, _peer) = forged(MAGIC, magic);
        refused(
            with,
            |fault| matches!(fault, ImportFault::Magic { .. }),
            &["RINGPORT"],
        );
    }
    let bad_version = |fault: &ImportFault| matches!(fault, ImportFault::Version { .. });
    let (with, _peer) = forged(VERSION, &0_u32.to_le_bytes());
    refused(with, bad_version, &["0", "1"]);
    for lowest in [2, 77, u32::MAX] {
        let both = [lowest.to_le_bytes(), lowest.to_le_bytes()].concat();
        let (with, _peer) = forged(VERSION, &both);
        refused(with, bad_version, &[&lowest.to_string(), "1"]);
    }
    let (with, _peer) = forged(LOWEST_VERSION, &9_u32.to_le_bytes());
    refused(with, bad_version, &["9", "1"]);
    // A later layout that says the first can read it is read.
    let later = [3_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat();
    let (with, _peer) = forged(VERSION, &later);
    assert!(MessagePort::from_handle(with).is_ok());

    let (whole, _peer) = handle();
    let ours = u64::from_le_bytes(content(&whole.segment)[FEATURES..][..8].try_into().unwrap());
    for features in [ours ^ (1 << 63), ours ^ (1 << 40), !ours, !0] {
        let (with, _peer) = forged(FEATURES, &features.to_le_bytes());
        refused(
            with,
            |fault| matches!(fault, ImportFault::Features { .. }),
            &[],
        );
    }
    for field in [CAPACITY_1_TO_2, CAPACITY_2_TO_1] {
        for capacity in [0, 1, 4095, 4097, 6144, 1 << 31, 1 << 63, u64::MAX] {
            let (with, _peer) = forged(field, &u64::to_le_bytes(capacity));
            let capacity = capacity.to_string();
            refused(
                with,
                |fault| matches!(fault, ImportFault::Capacity { .. }),
                &[&capacity],
            );
        }
        // A capacity that could be, but not in a segment of this length.
        let (with, _peer) = forged(field, &8192_u64.to_le_bytes());
        refused(
            with,
            |fault| matches!(fault, ImportFault::Length { .. }),
            &[],
        );
    }
}

#[test]
fn positions_must_be_possible() {
    let _quiet = common::descriptors();
    let bad = |fault: &ImportFault| matches!(fault, ImportFault::Positions { .. });
    for position in [0, 9, 16, 8 + 4096 + 16, 1 << 63 | 8, u64::MAX] {
        let (with, _peer) = forged(WRITE_POSITION, &position.to_le_bytes());
        refused(with, bad, &[&position.to_string()]);
    }
    // The last two could be positions, but nothing was posted that far.
    for position in [0, 1, 4096, u64::MAX, 24, 1 << 63 | 8] {
        let (with, _peer) = forged(READ_POSITION, &position.to_le_bytes());
        refused(with, bad, &[&position.to_string()]);
    }
}

#[test]
fn a_segment_must_be_writable() {
    let _quiet = common::descriptors();
    let (mut with, _peer) = handle();
    let path = format!("/proc/self/fd/{}", with.segment.as_raw_fd());
    with.segment = File::open(path).unwrap().into();
    refused(with, |_| true, &[]);
}

#[test]
fn a_doorbell_must_be_a_connected_unix_stream_socket() {
    let _quiet = common::descriptors();
    let (pipe, _writer) = nix::unistd::pipe().unwrap();
    let (datagram, _other) = UnixDatagram::pair().unwrap();
    let directory = std::env::temp_dir().join(format!("doorbells-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let listening = UnixListener::bind(directory.join("listening")).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp_connected = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let wrong: [(&str, OwnedFd); 10] = [
        ("a pipe", pipe),
        ("a datagram socket", datagram.into()),
        ("a packet socket", socket(libc::SOCK_SEQPACKET)),
        ("an unconnected socket", socket(libc::SOCK_STREAM)),
        ("a listening socket", listening.into()),
        ("a listening internet socket", tcp.into()),
        ("an internet socket", tcp_connected.into()),
        ("an eventfd", eventfd()),
        ("a file", File::open("/dev/null").unwrap().into()),
        ("memory", memory(b"no socket", SealFlag::empty())),
    ];
    for (what, doorbell) in wrong {
        let (mut with, _peer) = handle();
        with.doorbell = doorbell;
        println!("{what}");
        refused(
            with,
            |fault| matches!(fault, ImportFault::NotADoorbell { .. }),
            &["doorbell"],
        );
    }
}

#[test]
fn descriptors_in_each_others_place_are_no_port() {
    let _quiet = common::descriptors();
    let (PortHandle { segment, doorbell }, _peer) = handle();
    let swapped = PortHandle {
        segment: doorbell,
        doorbell: segment,
    };
    let either = |fault: &ImportFault| {
        matches!(
            fault,
            ImportFault::NotASegment { .. } | ImportFault::NotADoorbell { .. }
        )
    };
    refused(swapped, either, &[]);
}

#[test]
fn s47_a_refused_handle_is_still_a_port_when_it_is_mended() {
    let _quiet = common::descriptors();
    let (with, peer) = handle();
    let PortHandle { segment, doorbell } = with;
    let broken = PortHandle {
        segment,
        doorbell: eventfd(),
    };
    let mended = MessagePort::from_handle(broken).unwrap_err().into_handle();
    let handle = PortHandle {
        segment: mended.segment,
        doorbell,
    };
    let port = MessagePort::from_handle(handle).unwrap();
    port.post_bytes(b"mended").unwrap();
    assert_eq!(now(&peer), b"mended");
}

/// An unconnected Unix socket of the given type.
fn socket(kind: i32) -> OwnedFd {
    // SAFETY: `socket` takes numbers and has no precondition.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0);
    // SAFETY: `fd` is open and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn eventfd() -> OwnedFd {
    // SAFETY: `eventfd` takes numbers and has no precondition.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: `fd` is open and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
