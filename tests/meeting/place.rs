//! A directory of a test's own, for sockets to lie in.

#![allow(dead_code)] // each test binary uses a part of it

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The directory. It is removed when this is dropped, with all that is in it.
pub struct Place(PathBuf);

impl Place {
    /// A new one, for this user alone. Its path is short, as the paths of sockets must be.
    pub fn new() -> Place {
        static MADE: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = MADE.fetch_add(1, Ordering::Relaxed);
            let path = format!("/tmp/ringport-test-{}-{number}", std::process::id());
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    set_mode(Path::new(&path), 0o700); // whatever the umask
                    return Place(PathBuf::from(path));
                }
                // Of a process that had this number, and was killed.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{path}: {error}"),
            }
        }
    }

    /// Lets everybody reach what is in it.
    pub fn open_to_all(self) -> Place {
        set_mode(&self.0, 0o755);
        self
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The names in it, sorted.
    pub fn names(&self) -> Vec<String> {
        names_in(&self.0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.0);
        assert!(
            removed.is_ok() || std::thread::panicking(),
            "{}: {removed:?}",
            self.0.display()
        );
    }
}

/// The names in a directory, sorted.
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The permission bits of whatever lies there, not of what it points to.
pub fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// This process's effective user.
pub fn user() -> u32 {
    // SAFETY: `geteuid` has no precondition.
    unsafe { libc::geteuid() }
}

/// This process's effective group.
pub fn group() -> u32 {
    // SAFETY: `getegid` has no precondition.
    unsafe { libc::getegid() }
}
