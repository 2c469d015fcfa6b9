//! Things with a descriptor that are no port, ports that are, and how both get to a victim.

#![allow(dead_code)] // each test binary uses a part of it

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ringport::{CloseReason, MessagePort, PortHandle};

use crate::common::{AT_ONCE, assert_over, channel_of, closed, count_descriptors};
use crate::forger::{Forger, PORT};
use crate::witness::end_of;

/// The victim's end of a channel, and a forger at the other.
pub fn carrier() -> (MessagePort, Forger) {
    let (port1, port2) = channel_of(4096);
    // Its waits need a descriptor, which is not to be counted as a leak.
    port1.as_fd().unwrap();
    (port1, Forger::of(port2))
}

/// A port that travels, and its peer.
pub fn genuine() -> (PortHandle, MessagePort) {
    let (stays, goes) = channel_of(4096);
    stays.as_fd().unwrap();
    (goes.into_handle(), stays)
}

/// Receives until something comes or the channel ends, by one of the ways to do that.
pub fn hear(victim: &MessagePort, way: usize) -> Result<Vec<MessagePort>, CloseReason> {
    let event = match way % 3 {
        0 => victim.recv_timeout(AT_ONCE),
        1 => victim.recv().map(Some),
        _ => {
            let start = Instant::now();
            loop {
                match victim.try_recv() {
                    Ok(None) if start.elapsed() < AT_ONCE => {}
                    answer => break answer,
                }
            }
        }
    };
    match event {
        Ok(Some(event)) => Ok(event.take_ports()),
        Ok(None) => panic!("neither a message nor the end"),
        end => Err(closed(end)),
    }
}

/// Sends something to a victim, whose channel must end by it. What `send` gives are the peers of the ports
/// among it: they learn that nobody took those, while the victim's port is still there.
#[track_caller]
pub fn ends_the_channel(what: &str, way: usize, send: impl FnOnce(&Forger) -> Vec<MessagePort>) {
    let (victim, forger) = carrier();
    let before = count_descriptors();
    let peers = send(&forger);
    let mine = count_descriptors();
    match hear(&victim, way) {
        Err(reason) => assert_eq!(reason, CloseReason::Corrupt, "{what}"),
        Ok(ports) => panic!("{what}: a message with {ports:?}"),
    }
    assert_eq!(count_descriptors(), mine, "{what}: left over");
    assert_over(&victim, CloseReason::Corrupt);
    for peer in &peers {
        assert_eq!(end_of(peer), CloseReason::PeerGone, "{what}");
    }
    drop(peers);
    assert_eq!(count_descriptors(), before, "{what}: left over");
}

/// Both descriptors of each handle, in the order in which they travel.
pub fn pairs(handles: &[PortHandle]) -> Vec<BorrowedFd<'_>> {
    let pairs = handles
        .iter()
        .flat_map(|handle| [handle.segment.as_fd(), handle.doorbell.as_fd()]);
    pairs.collect()
}

/// The seals of a segment.
pub fn sealed() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

pub fn content(segment: &OwnedFd) -> Vec<u8> {
    let file = File::from(segment.try_clone().unwrap());
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// A memory file with the given content and seals.
pub fn memory(bytes: &[u8], seals: SealFlag) -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create("forged", flags).unwrap());
    file.write_all(bytes).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file.into()
}

/// Owns what a system call gave.
#[track_caller]
pub fn owned(fd: libc::c_long) -> OwnedFd {
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a system call has just given it, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

pub fn socket(family: i32, kind: i32) -> OwnedFd {
    // SAFETY: `socket` takes numbers and has no precondition.
    owned(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) }.into())
}

/// The same file, opened anew.
pub fn reopened(file: &OwnedFd, flags: i32) -> OwnedFd {
    let path = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    // SAFETY: a path that ends with a zero, and flags that need no mode.
    owned(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }.into())
}

/// Things with a descriptor that are neither a segment nor a doorbell.
pub fn things() -> Vec<(&'static str, OwnedFd)> {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixListener};
    let path = std::env::temp_dir().join(format!("stowaways-{}", std::process::id()));
    std::fs::create_dir(&path).unwrap();
    let file = File::create_new(path.join("file")).unwrap();
    file.set_len(3 * 4096).unwrap();
    let directory = File::open(&path).unwrap();
    let listening = UnixListener::bind(path.join("socket")).unwrap();
    std::fs::remove_dir_all(&path).unwrap();
    let (read_end, write_end) = nix::unistd::pipe().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::EPOLL_CLOEXEC);
    // SAFETY: these take numbers and have no precondition.
    let (event, pidfd, timer, inotify) = unsafe {
        (
            libc::eventfd(0, libc::EFD_CLOEXEC).into(),
            libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0),
            libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC).into(),
            libc::inotify_init1(libc::IN_CLOEXEC).into(),
        )
    };
    let (packets, _) = nix::sys::socket::socketpair(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::SeqPacket,
        None,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    vec![
        ("a pipe to read", read_end),
        ("a pipe to write", write_end),
        ("a file", file.into()),
        ("a directory", directory.into()),
        ("nothing", File::open("/dev/null").unwrap().into()),
        (
            "zeros",
            File::options()
                .read(true)
                .write(true)
                .open("/dev/zero")
                .unwrap()
                .into(),
        ),
        (
            "a list of maps",
            File::open("/proc/self/maps").unwrap().into(),
        ),
        ("an epoll", epoll.unwrap().0),
        ("an eventfd", owned(event)),
        ("a process", owned(pidfd)),
        ("a timer", owned(timer)),
        ("a watch", owned(inotify)),
        ("a datagram socket", UnixDatagram::pair().unwrap().0.into()),
        ("a packet socket", packets),
        ("a lone socket", socket(libc::AF_UNIX, libc::SOCK_STREAM)),
        ("a listening socket", listening.into()),
        ("a listening internet socket", tcp.into()),
        ("an internet socket", connected.into()),
        (
            "an internet datagram socket",
            UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        ),
        (
            "a lone internet socket",
            socket(libc::AF_INET, libc::SOCK_STREAM),
        ),
        (
            "a socket to the kernel",
            socket(libc::AF_NETLINK, libc::SOCK_RAW),
        ),
        ("empty memory", memory(&[], SealFlag::empty())),
        ("a file that is only a place", {
            reopened(&File::open("/").unwrap().into(), libc::O_PATH)
        }),
    ]
}

/// Memory files that are nearly segments: copies of one that lack one thing each, and itself, opened
/// otherwise.
pub fn near_segments(segment: &OwnedFd) -> Vec<(&'static str, OwnedFd)> {
    use SealFlag as Seal;
    let bytes = content(segment);
    let mut list = vec![
        ("only readable", reopened(segment, libc::O_RDONLY)),
        ("only a place", reopened(segment, libc::O_PATH)),
        ("without seals", memory(&bytes, Seal::empty())),
        (
            "able to shrink",
            memory(&bytes, Seal::F_SEAL_GROW | Seal::F_SEAL_SEAL),
        ),
        (
            "able to grow",
            memory(&bytes, Seal::F_SEAL_SHRINK | Seal::F_SEAL_SEAL),
        ),
        (
            "open to more seals",
            memory(&bytes, Seal::F_SEAL_SHRINK | Seal::F_SEAL_GROW),
        ),
        (
            "not writable",
            memory(&bytes, sealed() | Seal::F_SEAL_WRITE),
        ),
        (
            "soon not writable",
            memory(&bytes, sealed() | Seal::F_SEAL_FUTURE_WRITE),
        ),
        ("without content", memory(&[], sealed())),
        ("of some bytes", memory(&bytes[..100], sealed())),
        ("without rings", memory(&bytes[..4096], sealed())),
        ("a byte short", memory(&bytes[..bytes.len() - 1], sealed())),
        (
            "a page short",
            memory(&bytes[..bytes.len() - 4096], sealed()),
        ),
    ];
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB;
    match memfd_create("huge", flags) {
        Ok(huge) => {
            let file = File::from(huge);
            file.set_len(2 << 20).unwrap();
            fcntl(&file, FcntlArg::F_ADD_SEALS(sealed())).unwrap();
            list.push(("of huge pages", file.into()));
        }
        Err(error) => eprintln!("not tried: memory of huge pages ({error})"),
    }
    list
}

/// A message with one port, whose two descriptors are these.
pub fn post_pair(forger: &Forger, segment: impl AsFd, doorbell: impl AsFd) {
    let byte = [forger.descriptor_byte()];
    forger
        .send(&byte, &[segment.as_fd(), doorbell.as_fd()])
        .unwrap();
    forger.post(&[PORT], b"a port, is it not?");
}
