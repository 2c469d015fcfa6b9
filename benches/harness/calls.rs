//! The bare system calls that moving and making a port come down to, each of which must succeed. What
//! is measured as a floor goes through nothing but these: no allocation, no buffer that is larger than
//! it must be.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType};
use nix::sys::{socket, stat};
use nix::unistd::{self, ftruncate};

/// Bytes of the segment of a channel as it is by default: a page, and 64 KiB each way.
pub const SEGMENT: usize = 4096 + 2 * 64 * 1024;

/// Bytes of a control message with two descriptors, from its beginning to their end.
const PAIR_LENGTH: usize = {
    // SAFETY: arithmetic on its argument.
    unsafe { libc::CMSG_LEN(size_of::<[RawFd; 2]>() as u32) as usize }
};

/// Bytes of a buffer for one.
const PAIR_SPACE: usize = {
    // SAFETY: arithmetic on its argument.
    unsafe { libc::CMSG_SPACE(size_of::<[RawFd; 2]>() as u32) as usize }
};

/// `socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)`
pub fn socket_pair() -> (OwnedFd, OwnedFd) {
    let family = AddressFamily::Unix;
    socket::socketpair(family, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
        .expect("two connected sockets")
}

/// `fstat`: the number by which a file or a socket is known.
pub fn inode(descriptor: &OwnedFd) -> u64 {
    stat::fstat(descriptor).expect("an open descriptor").st_ino
}

/// `memfd_create(MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL)`, the last where the kernel has it.
pub fn memory_file() -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let not_executable = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    memfd_create(c"bench", flags | not_executable)
        .or_else(|_| memfd_create(c"bench", flags))
        .expect("a memfd")
}

/// `ftruncate`
pub fn set_length(file: &OwnedFd, length: usize) {
    ftruncate(file, length as i64).expect("a length that can be");
}

/// `pwrite64` to the file's beginning.
pub fn write_at_start(file: &File, bytes: &[u8]) {
    file.write_all_at(bytes, 0).expect("memory for a page");
}

/// `fcntl(F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)`
pub fn seal(file: &impl AsFd) {
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(file, FcntlArg::F_ADD_SEALS(seals)).expect("a memfd can be sealed");
}

/// `fcntl(F_DUPFD_CLOEXEC)`
pub fn duplicate(descriptor: &impl AsFd) -> OwnedFd {
    let copy = descriptor.as_fd().try_clone_to_owned();
    copy.expect("room for one more descriptor")
}

/// `shutdown(SHUT_RDWR)`
pub fn shut_down(socket: &OwnedFd) {
    socket::shutdown(socket.as_raw_fd(), Shutdown::Both).expect("a connected socket");
}

/// `close`
pub fn close(descriptor: impl Into<OwnedFd>) {
    unistd::close(descriptor.into()).expect("an open descriptor");
}

/// A file in this process's memory.
pub struct Mapping {
    start: NonNull<libc::c_void>,
    length: usize,
}

impl Mapping {
    /// `mmap(PROT_READ | PROT_WRITE, MAP_SHARED)` of the whole file.
    pub fn map(file: &impl AsFd, length: usize) -> Mapping {
        // SAFETY: with no address asked for, the kernel chooses one where nothing lies.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_fd().as_raw_fd(),
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        let start = NonNull::new(start).expect("the kernel does not choose address zero");
        Mapping { start, length }
    }

    /// The word at the file's beginning, which other processes may have mapped too.
    pub fn word(&self) -> &AtomicU64 {
        // SAFETY: the mapping begins on a page, is at least that long, and lives as long as `self`;
        // everybody touches the word only through atomics.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().cast()) }
    }

    /// Where the file's bytes are.
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr().cast()
    }

    /// `munmap`
    pub fn unmap(self) {
        // SAFETY: exactly what `map` mapped; `self` is given up, so that no reference into it is left.
        let result = unsafe { libc::munmap(self.start.as_ptr(), self.length) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

/// Aligned as control messages must be.
#[repr(C, align(8))]
struct Control([u8; PAIR_SPACE]);

/// `sendmsg` of one byte and two descriptors.
pub fn send_pair(socket: &OwnedFd, byte: u8, pair: [BorrowedFd<'_>; 2]) {
    let mut bytes = [byte];
    let mut part = part_of(&mut bytes);
    let mut control = Control([0; PAIR_SPACE]);
    let message = message(&mut part, &mut control);
    // SAFETY: the message says where its control buffer is.
    let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    // SAFETY: the buffer is alive, aligned, zeroed, and has room for a header.
    let fields = unsafe { header.as_mut() }.expect("room for a header");
    fields.cmsg_level = libc::SOL_SOCKET;
    fields.cmsg_type = libc::SCM_RIGHTS;
    fields.cmsg_len = PAIR_LENGTH;
    let numbers = pair.map(|descriptor| descriptor.as_raw_fd());
    // SAFETY: arithmetic on its argument, which stays within the buffer.
    let place = unsafe { libc::CMSG_DATA(header) }.cast::<[RawFd; 2]>();
    // SAFETY: behind the header there is room for these two numbers.
    unsafe { place.write_unaligned(numbers) };
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: all that the message points to is alive.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) };
    assert_eq!(sent, 1, "{}", io::Error::last_os_error());
}

/// `recvmsg` of one byte and two descriptors; `None` if nothing is there yet and `flags` say not to wait.
pub fn receive_pair(socket: &OwnedFd, flags: libc::c_int) -> Option<(u8, [OwnedFd; 2])> {
    let mut bytes = [0];
    let mut part = part_of(&mut bytes);
    let mut control = Control([0; PAIR_SPACE]);
    let mut message = message(&mut part, &mut control);
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: all that the message points to is alive, and as long as it says.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) };
    if got < 0 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
        return None;
    }
    assert_eq!(got, 1, "the other side has hung up");
    assert_eq!(message.msg_flags & libc::MSG_CTRUNC, 0, "too many came");
    // SAFETY: the message says where its control buffer is, and how much of it the kernel wrote.
    let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    // SAFETY: null, or what the kernel wrote.
    let fields = unsafe { header.as_ref() }.expect("descriptors");
    assert_eq!(fields.cmsg_type, libc::SCM_RIGHTS);
    assert_eq!(fields.cmsg_len, PAIR_LENGTH, "not two descriptors");
    // SAFETY: arithmetic on its argument, which stays within the buffer.
    let place = unsafe { libc::CMSG_DATA(header) }.cast::<[RawFd; 2]>();
    // SAFETY: the header says that two numbers lie behind it.
    let numbers = unsafe { place.read_unaligned() };
    // SAFETY: the kernel has just opened them for this process, and each is taken once.
    let pair = numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) });
    Some((bytes[0], pair))
}

fn part_of(bytes: &mut [u8; 1]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}

/// A message of one part, valid as long as both arguments are.
fn message(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: integers and pointers, for which zero is valid; on some targets there is padding that
    // has no name.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    message
}

/// What two ports are to the kernel: a pair of sockets, and memory that nobody can take away, with a
/// descriptor and a map for each port, so that each can go its own way. All of it made and given back;
/// if `touched`, the first page is written through both maps meanwhile.
pub fn make_and_drop_channel(touched: bool) {
    // socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0, [3, 4])    = 0
    let (bell1, bell2) = socket_pair();
    // fstat(3, …)                                                 = 0   which end is endpoint 1
    let inode = inode(&bell1);
    // memfd_create("bench", MFD_CLOEXEC|MFD_ALLOW_SEALING|MFD_NOEXEC_SEAL) = 5
    let memory = memory_file();
    // ftruncate(5, 135168)                                        = 0
    set_length(&memory, SEGMENT);
    // pwrite64(5, header, 56, 0)                                  = 56
    let memory = File::from(memory);
    write_at_start(&memory, &[inode as u8; 56]);
    // fcntl(5, F_ADD_SEALS, F_SEAL_SEAL|F_SEAL_SHRINK|F_SEAL_GROW) = 0
    seal(&memory);
    // mmap(NULL, 135168, PROT_READ|PROT_WRITE, MAP_SHARED, 5, 0)
    let map1 = Mapping::map(&memory, SEGMENT);
    // fcntl(5, F_DUPFD_CLOEXEC, 3)                                = 6
    let again = duplicate(&memory);
    // mmap(NULL, 135168, PROT_READ|PROT_WRITE, MAP_SHARED, 6, 0)
    let map2 = Mapping::map(&again, SEGMENT);
    if touched {
        // Two page faults, of a page that is there already.
        for map in [&map1, &map2] {
            map.word().store(inode, Ordering::Relaxed);
        }
    }
    // shutdown(3, SHUT_RDWR)                                      = 0   one call shuts both ends
    shut_down(&bell1);
    // munmap, munmap                                              = 0
    map1.unmap();
    map2.unmap();
    // close(3), close(4), close(5), close(6)                      = 0
    close(bell1);
    close(bell2);
    close(memory);
    close(again);
}
