//! How many ports a process can hold.

use std::io;

/// Descriptors that are left for everything else.
const OTHERS: usize = 256;

/// Descriptors that a port takes.
pub const A_PORT: usize = 2;

/// As many of the ports that are wanted as this process may have descriptors for, if each takes so many. Raises
/// what it may have as far as every user can.
pub fn most(wanted: usize, descriptors: usize) -> usize {
    wanted.min(raise().saturating_sub(OTHERS) / descriptors)
}

/// Lets this process have as many descriptors as the system lets it, and says how many.
pub fn raise() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is good for a write of that struct.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is good for a read of that struct.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    limit.rlim_cur as usize
}
