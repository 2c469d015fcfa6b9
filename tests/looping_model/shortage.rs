//! A shortage of descriptors.

/// This process may have no more descriptors until it ends, also by a panic.
pub struct Shortage {
    before: libc::rlimit,
}

impl Shortage {
    pub fn begin() -> Shortage {
        let mut before = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the pointer is to a live rlimit.
        let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut before) };
        // Descriptor 0 is open, so that there is none that could be had. (`poll` asks for as many as it polls.)
        let limit = libc::rlimit {
            rlim_cur: 1,
            ..before
        };
        // SAFETY: the pointer is to a live rlimit.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        assert_eq!((got, set), (0, 0));
        Shortage { before }
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        // SAFETY: the pointer is to a live rlimit.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &self.before) };
    }
}
