//! Where a listener is found: a name in a directory of the user's own, or a path given whole.

use nix::unistd::geteuid;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The longest path of a Unix socket in bytes: `sun_path` has 108, one of them for the NUL at the end.
pub(crate) const MAX_PATH: usize = 107;

/// What the path of a listener's lock file ends in.
pub(crate) const LOCK_SUFFIX: &str = ".lock";

/// What is wrong with an address.
pub(crate) enum AddressFault {
    Name {
        name: PathBuf,
    },
    PathTooLong {
        path: PathBuf,
        len: usize,
    },
    Directory {
        path: PathBuf,
        fault: &'static str,
    },
    System {
        call: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// Whether an address is a name, and not a path given whole.
pub(crate) fn is_name(address: &Path) -> bool {
    !address.as_os_str().as_bytes().contains(&b'/')
}

/// The socket's path for an address. The directory for names is made if `make` says so.
pub(crate) fn resolve(address: &Path, make: bool) -> Result<PathBuf, AddressFault> {
    let bytes = address.as_os_str().as_bytes();
    let name = bytes.rsplit(|byte| *byte == b'/').next().unwrap_or(bytes);
    if matches!(name, b"" | b"." | b"..")
        || bytes.contains(&0)
        || name.ends_with(LOCK_SUFFIX.as_bytes())
    {
        return Err(AddressFault::Name {
            name: address.into(),
        });
    }
    let path = if !is_name(address) {
        address.to_path_buf()
    } else {
        let directory = directory();
        let path = directory.join(address);
        check_len(&path)?;
        prepare(&directory, make).map_err(|fault| match fault {
            // Nobody can be found in a directory that is not there: what is missing is the name.
            AddressFault::System { call, source, .. }
                if source.kind() == io::ErrorKind::NotFound =>
            {
                let path = path.clone();
                AddressFault::System { call, path, source }
            }
            fault => fault,
        })?;
        path
    };
    check_len(&path)?;
    Ok(path)
}

fn check_len(path: &Path) -> Result<(), AddressFault> {
    let len = path.as_os_str().len();
    if len > MAX_PATH {
        return Err(AddressFault::PathTooLong {
            path: path.into(),
            len,
        });
    }
    Ok(())
}

/// Where names live. Relative paths do not count, by the XDG Base Directory Specification.
fn directory() -> PathBuf {
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match given.filter(|path| path.is_absolute()) {
        Some(runtime) => runtime.join("ringport"),
        None => PathBuf::from(format!("/tmp/ringport-{}", geteuid())),
    }
}

/// Makes sure that nobody else can put anything there, or take anything away.
fn prepare(directory: &Path, make: bool) -> Result<(), AddressFault> {
    let system = |call, source| AddressFault::System {
        call,
        path: directory.into(),
        source,
    };
    if make {
        match std::fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(system("mkdir", error));
            }
            _ => {}
        }
    }
    let found = match directory.symlink_metadata() {
        Ok(found) => found,
        Err(error) => return Err(system("lstat", error)),
    };
    let fault = if !found.is_dir() {
        "is no directory"
    } else if found.uid() != geteuid().as_raw() {
        "belongs to another user"
    } else if found.mode() & 0o077 != 0 {
        "is open to other users (it should have mode 0700)"
    } else {
        return Ok(());
    };
    Err(AddressFault::Directory {
        path: directory.into(),
        fault,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_as_it_is() {
        for path in ["/run/mixer", "./mixer", "a/b"] {
            let resolved = resolve(Path::new(path), false).ok();
            assert_eq!(resolved.as_deref(), Some(Path::new(path)));
        }
    }

    #[test]
    fn some_names_are_none() {
        for name in [
            "",
            ".",
            "..",
            "a/",
            "/",
            "a/..",
            "mixer.lock",
            "/run/mixer.lock",
            "a\0b",
        ] {
            let fault = resolve(Path::new(name), false).err();
            assert!(matches!(fault, Some(AddressFault::Name { .. })), "{name:?}");
        }
    }

    #[test]
    fn a_path_has_at_most_107_bytes() {
        let path = |len: usize| format!("/{}", "x".repeat(len - 1));
        assert!(resolve(Path::new(&path(107)), false).is_ok());
        let fault = resolve(Path::new(&path(108)), false).err();
        assert!(matches!(
            fault,
            Some(AddressFault::PathTooLong { len: 108, .. })
        ));
    }
}
