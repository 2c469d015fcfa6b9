//! The right to listen at a path, and the socket file there.
//!
//! A lock on a file beside the socket decides who may listen, so that a socket left behind by a death can
//! be told from one in use. The lock is the kernel's and ends with its holder, whatever becomes of the file.
//!
//! Unsafe relies on: `flock` takes two integers and touches no memory of ours.
#![allow(unsafe_code)]

use crate::address::LOCK_SUFFIX;
use crate::error::BindError;
use crate::fork::Home;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A path at which nobody else listens. Dropping it removes the socket and the lock file.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    lock_path: PathBuf,
    /// The lock is let go when the last copy of this is closed. A forked child that drops its copy lets go
    /// nothing, since it does not unlock.
    lock: File,
    /// Device and inode of the socket file, once there is one.
    socket: Option<(u64, u64)>,
    home: Home,
}

impl Claim {
    /// Takes the lock, and removes a socket that nobody listens at any more.
    pub(super) fn stake(path: PathBuf, home: Home) -> Result<Claim, BindError> {
        let mut lock_path = OsString::from(&path);
        lock_path.push(LOCK_SUFFIX);
        let lock_path = PathBuf::from(lock_path);
        let claim = Claim {
            lock: lock(&lock_path, &path)?,
            path,
            lock_path,
            socket: None,
            home,
        };
        claim.clear()?;
        Ok(claim)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, call: &'static str, source: impl Into<io::Error>) -> BindError {
        BindError::system(call, &self.path, source)
    }

    fn in_use(&self) -> BindError {
        BindError::InUse {
            path: self.path.clone(),
        }
    }

    fn clear(&self) -> Result<(), BindError> {
        let found = match self.path.symlink_metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.failed("lstat", error)),
        };
        if !found.file_type().is_socket() {
            return Err(BindError::NotASocket {
                path: self.path.clone(),
            });
        }
        // We have the lock, so no ringport listens there; another program may.
        let probe = self.socket()?;
        let address = self.address()?;
        match connect(probe.as_raw_fd(), &address) {
            Err(Errno::ECONNREFUSED) => {}
            Err(Errno::ENOENT) => return Ok(()),
            // EAGAIN: its queue is full. EPROTOTYPE: it is a socket of another type.
            Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => return Err(self.in_use()),
            Err(errno) => return Err(self.failed("connect", errno)),
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("unlink", error))
            }
            _ => Ok(()),
        }
    }

    fn socket(&self) -> Result<OwnedFd, BindError> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .map_err(|errno| self.failed("socket", errno))
    }

    fn address(&self) -> Result<UnixAddr, BindError> {
        UnixAddr::new(&self.path).map_err(|errno| self.failed("bind", errno))
    }

    /// Makes the socket and listens.
    pub(super) fn listen(&mut self, for_others: bool, backlog: u16) -> Result<OwnedFd, BindError> {
        let socket = self.socket()?;
        // The file gets the socket's mode, less the umask: so it is never open to others by mistake.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| self.failed("fchmod", errno))?;
        match bind(socket.as_raw_fd(), &self.address()?) {
            Ok(()) => {}
            // Another program was faster.
            Err(Errno::EADDRINUSE) => return Err(self.in_use()),
            Err(errno) => return Err(self.failed("bind", errno)),
        }
        self.socket = identity(&self.path);
        if for_others {
            // Who of them may connect is asked of the kernel.
            self.open_to_all()
                .map_err(|error| self.failed("chmod", error))?;
        }
        let backlog =
            Backlog::new(i32::from(backlog).min(libc::SOMAXCONN)).unwrap_or(Backlog::MAXCONN);
        listen(&socket, backlog).map_err(|errno| self.failed("listen", errno))?;
        Ok(socket)
    }
}

impl Claim {
    /// Lets every user connect who can get at the path. What lies there is held on to first, so that nobody
    /// can have the mode of something else changed.
    fn open_to_all(&self) -> io::Result<()> {
        let socket = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(&self.path)?;
        if !socket.metadata()?.file_type().is_socket() {
            return Err(Errno::ENOTSOCK.into());
        }
        // `fchmod` refuses such a descriptor.
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        fs::set_permissions(path, Permissions::from_mode(0o666))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.home.is_here() {
            return;
        }
        // What lies there now may be somebody else's.
        if self.socket.is_some() && identity(&self.path) == self.socket {
            let _ = fs::remove_file(&self.path);
        }
        // While the lock is held: who opened the file before and locks it afterwards finds that it is gone.
        if is_at(&self.lock, &self.lock_path) {
            let _ = fs::remove_file(&self.lock_path);
        }
    }
}

/// Locks the file at `lock_path`, made if need be.
fn lock(lock_path: &Path, path: &Path) -> Result<File, BindError> {
    /// Each turn means that another listener came or went just then.
    const TURNS: u32 = 1000;
    for _ in 0..TURNS {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(lock_path)
            .map_err(|error| BindError::system("open", lock_path, error))?;
        // SAFETY: the descriptor is open; nothing else is asked of the call.
        let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        match Errno::result(locked) {
            // A listener that ended meanwhile has removed the file that we have locked.
            Ok(_) if is_at(&file, lock_path) => return Ok(file),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EWOULDBLOCK) => break,
            Err(errno) => return Err(BindError::system("flock", lock_path, errno)),
        }
    }
    Err(BindError::InUse { path: path.into() })
}

/// Whether this file is the one that the path leads to.
fn is_at(file: &File, path: &Path) -> bool {
    let found = file.metadata().map(|found| (found.dev(), found.ino()));
    found.is_ok_and(|found| identity(path) == Some(found))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = path.symlink_metadata().ok()?;
    Some((found.dev(), found.ino()))
}
