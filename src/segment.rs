//! The memory behind a channel: a sealed memfd, mapped shared.
//!
//! The seals make the mapping safe to keep: a segment that can neither shrink nor grow cannot be taken
//! away under whoever maps it. A segment from elsewhere is checked before it is mapped, and its
//! header is copied out once and never read again.
//!
//! Unsafe relies on: the mapping is as long as the header says, which was checked before it was made.
#![allow(unsafe_code)]

use crate::channel::{ChannelOptions, MAX_CAPACITY, MIN_CAPACITY};
use crate::error::{ImportFault, NewError, SystemError};
use crate::ring::layout::{
    ENDPOINTS, Endpoint, FIRST_POSITION, HEADER_LEN, Header, MAGIC, RINGS, VERSION,
};
use crate::ring::{Memory, Shared};
use crate::sync::{AtomicU64, Ordering};
use core::ptr::NonNull;
use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The length of the smallest segment, in bytes.
pub(crate) const SHORTEST: u64 = RINGS as u64 + 2 * MIN_CAPACITY as u64;

/// A segment, mapped. The two ports of a new channel share the mapping until both are gone from the process.
pub(crate) struct Segment {
    // Unmapped before the descriptor closes; nothing depends on it.
    map: Arc<MmapRaw>,
    file: File,
    header: Header,
}

impl Segment {
    /// Makes a segment, empty, sealed and mapped.
    pub(crate) fn create(
        options: &ChannelOptions,
        doorbell_inode: u64,
    ) -> Result<Segment, NewError> {
        let capacities = options.checked_capacities()?;
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            reader_version: VERSION,
            features: features(),
            capacities,
            segment_len: segment_len(capacities),
            doorbell_inode,
        };
        let bytes = header.segment_len;
        let file = File::from(new_memfd()?);
        let no_memory = |source: std::io::Error| NewError::Memory { bytes, source };
        file.set_len(bytes).map_err(no_memory)?;
        if options.prefault {
            commit(&file, bytes).map_err(|errno| no_memory(errno.into()))?;
        }
        // A call, and not a store through the map, so that a lack of memory is an error and no SIGBUS.
        file.write_all_at(&header.to_bytes(), 0)
            .map_err(no_memory)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))
            .map_err(|errno| SystemError::new("fcntl(F_ADD_SEALS)", errno))?;
        let segment =
            Segment::map(file, header).map_err(|source| NewError::Memory { bytes, source })?;
        for endpoint in ENDPOINTS {
            // SAFETY: the offset lies inside the mapping, which nobody else knows of yet.
            unsafe {
                segment
                    .endpoint_at(endpoint)
                    .write(Endpoint::new(FIRST_POSITION, FIRST_POSITION));
            }
        }
        if options.lock_memory {
            segment.lock()?;
        }
        Ok(segment)
    }

    /// The same segment with a descriptor of its own, so that it can move on its own.
    pub(crate) fn again(&self) -> Result<Segment, SystemError> {
        let file = self
            .file
            .try_clone()
            .map_err(|error| SystemError::new("fcntl(F_DUPFD_CLOEXEC)", error))?;
        Ok(Segment {
            map: Arc::clone(&self.map),
            file,
            header: self.header,
        })
    }

    /// Checks a segment that somebody else made, and says what the capacities of its rings are.
    pub(crate) fn capacities_of(file: &OwnedFd) -> Result<[u64; 2], ImportFault> {
        check(file).map(|header| header.capacities)
    }

    /// Checks and maps a segment that somebody else made.
    pub(crate) fn import(file: OwnedFd) -> Result<Segment, (ImportFault, OwnedFd)> {
        let header = match check(&file) {
            Ok(header) => header,
            Err(fault) => return Err((fault, file)),
        };
        let file = File::from(file);
        match map_raw(&file, &header) {
            Ok(map) => Ok(Segment {
                map: Arc::new(map),
                file,
                header,
            }),
            Err(error) => Err((SystemError::new("mmap", error).into(), file.into())),
        }
    }

    fn map(file: File, header: Header) -> std::io::Result<Segment> {
        let map = Arc::new(map_raw(&file, &header)?);
        Ok(Segment { map, file, header })
    }

    fn lock(&self) -> Result<(), NewError> {
        self.map.lock().map_err(|source| NewError::Lock {
            bytes: self.header.segment_len,
            source,
        })
    }

    /// Inode of the doorbell of endpoint 1.
    pub(crate) fn doorbell_inode(&self) -> u64 {
        self.header.doorbell_inode
    }

    /// Bytes of the ring in which endpoint 1 (`index` 0) or 2 (`index` 1) posts.
    pub(crate) fn capacity(&self, index: usize) -> usize {
        // Checked at creation and import to be at most 1 GiB.
        self.header.capacities[index] as usize
    }

    /// The descriptor itself, to be sent.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether both are mappings of one segment.
    pub(crate) fn is_same(&self, other: &Segment) -> bool {
        let identity = |segment: &Segment| {
            let stat = nix::sys::stat::fstat(&segment.file);
            stat.map(|stat| (stat.st_dev, stat.st_ino)).ok()
        };
        // The header's inode tells nearly all apart without a call, but somebody may have forged it.
        self.header.doorbell_inode == other.header.doorbell_inode
            && identity(self).is_some()
            && identity(self) == identity(other)
    }

    /// Gives the descriptor up and unmaps.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.file.into()
    }

    fn endpoint_at(&self, offset: usize) -> NonNull<Endpoint> {
        // SAFETY: mappings do not lie at address zero, and the offset is inside this one.
        unsafe { NonNull::new_unchecked(self.map.as_mut_ptr().add(offset).cast()) }
    }

    /// The lines of endpoint 1 (`index` 0) or 2 (`index` 1).
    ///
    /// # Safety
    ///
    /// The result is not used after the segment is dropped.
    pub(crate) unsafe fn endpoint(&self, index: usize) -> Shared<Endpoint> {
        // SAFETY: inside the mapping, page-aligned plus a multiple of 128, all atomics, for which
        // every bit pattern is valid; that it stays mapped is the caller's promise.
        unsafe { Shared::new(self.endpoint_at(ENDPOINTS[index])) }
    }

    /// The bytes of the ring in which endpoint 1 (`index` 0) or 2 (`index` 1) posts.
    ///
    /// # Safety
    ///
    /// The result is not used after the segment is dropped.
    pub(crate) unsafe fn ring(&self, index: usize) -> Memory {
        let offset = RINGS + index * self.capacity(0);
        // SAFETY: creation and import checked both capacities and that the segment is as long as
        // they ask, so all of it is mapped; capacities are multiples of 4096, so it is page-aligned.
        unsafe {
            let base = NonNull::new_unchecked(self.map.as_mut_ptr().add(offset));
            Memory::new(base, self.capacity(index))
        }
    }
}

fn segment_len(capacities: [u64; 2]) -> u64 {
    RINGS as u64 + capacities[0] + capacities[1]
}

fn map_raw(file: &File, header: &Header) -> std::io::Result<MmapRaw> {
    MmapOptions::new()
        .len(header.segment_len as usize)
        .map_raw(file)
}

/// Has the kernel provide all of the file's memory.
fn commit(file: &File, bytes: u64) -> Result<(), Errno> {
    /// A signal ends the call and undoes it, so that it goes by pieces.
    const PIECE: u64 = 16 << 20;
    let mut at = 0;
    while at < bytes {
        let len = PIECE.min(bytes - at);
        let flags = FallocateFlags::empty();
        match fallocate(file, flags, at as libc::off_t, len as libc::off_t) {
            Ok(()) => at += len,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn new_memfd() -> Result<OwnedFd, SystemError> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Not executable, where the kernel knows the flag (6.3); older ones answer EINVAL.
    let not_executable = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    match memfd_create(c"ringport", flags | not_executable) {
        Err(Errno::EINVAL) => memfd_create(c"ringport", flags),
        result => result,
    }
    .map_err(|errno| SystemError::new("memfd_create", errno))
}

/// Everything that can be known of a segment without mapping it.
fn check(file: &OwnedFd) -> Result<Header, ImportFault> {
    // Asked first, because it asks nothing of the file system, which could be a hostile one that never
    // answers. EINVAL: neither tmpfs nor hugetlbfs, or something there that is no file.
    let seals = match fcntl(file, FcntlArg::F_GET_SEALS) {
        Ok(seals) => seals,
        Err(Errno::EINVAL | Errno::EBADF) => {
            return Err(ImportFault::NotASegment { file_system: None });
        }
        Err(errno) => return Err(SystemError::new("fcntl(F_GET_SEALS)", errno).into()),
    };
    const NEEDED: i32 = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    const FORBIDDEN: i32 = libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE;
    if seals & NEEDED != NEEDED || seals & FORBIDDEN != 0 {
        return Err(ImportFault::Seals { found: seals });
    }
    let stat =
        nix::sys::stat::fstat(file.as_fd()).map_err(|errno| SystemError::new("fstat", errno))?;
    check_file_system(file, stat.st_dev)?;
    let found = stat.st_size as u64;
    let mut bytes = [0; HEADER_LEN];
    if found < SHORTEST {
        return Err(ImportFault::Length {
            found,
            expected: SHORTEST,
        });
    }
    let read = nix::sys::uio::pread(file, &mut bytes, 0)
        .map_err(|errno| SystemError::new("pread", errno))?;
    if read != HEADER_LEN {
        return Err(ImportFault::Length {
            found: read as u64,
            expected: HEADER_LEN as u64,
        });
    }
    let header = Header::from_bytes(&bytes);
    check_header(&header, found)?;
    Ok(header)
}

/// Checks that a file that can be sealed is in memory, and not on hugetlbfs.
fn check_file_system(file: &OwnedFd, device: libc::dev_t) -> Result<(), ImportFault> {
    /// The device of the kernel's one file system for such files, once it is known: it is never unmounted.
    static MEMORY: AtomicU64 = AtomicU64::new(0);
    // Relaxed, because the number stands for nothing but itself.
    if MEMORY.load(Ordering::Relaxed) == device {
        return Ok(());
    }
    let file_system = nix::sys::statfs::fstatfs(file)
        .map_err(|errno| SystemError::new("fstatfs", errno))?
        .filesystem_type();
    if file_system != nix::sys::statfs::TMPFS_MAGIC {
        return Err(ImportFault::NotASegment {
            file_system: Some(file_system.0),
        });
    }
    MEMORY.store(device, Ordering::Relaxed);
    Ok(())
}

fn check_header(header: &Header, found_len: u64) -> Result<(), ImportFault> {
    if header.magic != MAGIC {
        return Err(ImportFault::Magic {
            found: header.magic,
        });
    }
    if header.reader_version > VERSION || header.version < VERSION {
        return Err(ImportFault::Version {
            needed: header.reader_version,
            found: header.version,
        });
    }
    if header.features != features() {
        return Err(ImportFault::Features {
            found: header.features,
            expected: features(),
        });
    }
    for found in header.capacities {
        let range = MIN_CAPACITY as u64..=MAX_CAPACITY as u64;
        if !found.is_power_of_two() || !range.contains(&found) {
            return Err(ImportFault::Capacity { found });
        }
    }
    let expected = segment_len(header.capacities);
    if header.segment_len != expected || found_len != expected {
        return Err(ImportFault::Length {
            found: found_len,
            expected,
        });
    }
    Ok(())
}

/// The shape of archives as this program was built: rkyv's endianness (bit 0: little), alignment
/// (bit 1: aligned) and pointer width in bytes (bits 8–15).
fn features() -> u64 {
    use rkyv::primitive::{ArchivedU32, ArchivedUsize};
    // SAFETY: an archived `u32` is four bytes without padding, whatever its features.
    let one: [u8; 4] = unsafe { core::mem::transmute(ArchivedU32::from_native(1)) };
    let little_endian = u64::from(one == [1, 0, 0, 0]);
    let aligned = u64::from(align_of::<ArchivedU32>() == 4);
    let pointer_width = size_of::<ArchivedUsize>() as u64;
    little_endian | aligned << 1 | pointer_width << 8
}
