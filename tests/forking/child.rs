//! A forked child that runs a piece of a test, and tells by its exit code how that went.

#![allow(dead_code)] // each test binary uses a part of it

use std::panic::{self, AssertUnwindSafe};

use crate::common;

/// A forked child of this process. One that was not waited for is killed.
pub struct Forked(Option<libc::pid_t>);

/// Forks, without exec: `None` in the child, which must [`leave`].
///
/// The child is a copy of the calling thread alone. It allocates, which glibc keeps possible, and takes no lock
/// that another thread of the parent may hold: those are waiting for their turn, or for time to pass.
pub fn fork() -> Option<Forked> {
    // SAFETY: the child goes on as above says, and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    // Not `then_some`: a `Forked` of the number 0 would be dropped, and 0 is a whole group of processes.
    (pid > 0).then(|| Forked(Some(pid)))
}

/// In the child: does this and ends, without running what the parent has planned for its own end.
pub fn leave(this: impl FnOnce()) -> ! {
    // SAFETY: `alarm` takes a number and has no precondition.
    unsafe { libc::alarm(60) };
    // What the test harness would keep of a panic's message dies with this process.
    panic::set_hook(Box::new(|panic| {
        let text = format!("in the forked child: {panic}\n");
        // SAFETY: the pointer and length are those of a live string.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }));
    let result = panic::catch_unwind(AssertUnwindSafe(this));
    // SAFETY: `_exit` has no precondition.
    unsafe { libc::_exit(i32::from(result.is_err())) }
}

impl Forked {
    pub fn id(&self) -> u32 {
        self.0.expect("not waited for yet") as u32
    }

    /// Lets it outlive this process; its id.
    pub fn lives_on(mut self) -> u32 {
        self.0.take().expect("not waited for yet") as u32
    }

    /// Waits until it has ended, which it must before long, content with what it saw.
    #[track_caller]
    pub fn ends_well(mut self) {
        let pid = self.0.expect("not waited for yet");
        let mut status = 0;
        common::until("the forked child has ended", || {
            // SAFETY: `status` is a live int.
            unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) == pid }
        });
        self.0 = None;
        assert_eq!(status, 0, "the forked child failed");
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // SAFETY: a child that was not waited for; its number is its own. No status is asked for.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
        }
    }
}

/// Runs a piece of a test in a forked child, to its end.
#[track_caller]
pub fn in_a_fork(this: impl FnOnce()) {
    match fork() {
        Some(child) => child.ends_well(),
        None => leave(this),
    }
}
