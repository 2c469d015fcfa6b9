//! A process that stops at every step it takes, so that it can be killed between any two of them.
//!
//! The library's steps are separated by system calls, and the kernel stops a traced thread at the entry and
//! at the exit of each one. A thread killed at an entry never makes the call; one killed at an exit has made
//! it and does nothing more. So no hook in the library is needed. Where that is too coarse, the thread can go
//! on by single instructions.
//!
//! All of it must be asked for by the thread that started the process: it is the one the kernel tells.

#![allow(dead_code)] // each test binary uses a part of it

use std::io;
use std::process::Child;

use crate::common::{self, Counters};

/// The slot of the counters for the errno of a kernel that does not permit tracing.
const REFUSED: usize = 7;

/// Where a traced thread stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Before the system call of that number.
    Entry(libc::c_long),
    /// After it.
    Exit(libc::c_long),
    /// It has said [`end`].
    End,
}

/// In the victim: from here on the calling thread stops at every step.
pub fn begin(counters: &Counters) {
    counters.set(Counters::THREAD, common::thread_id().into());
    let traced = request(libc::PTRACE_TRACEME, 0, 0, 0);
    if let Err(error) = &traced {
        let errno = error.raw_os_error().unwrap_or(libc::EPERM);
        counters.set(REFUSED, errno as u64);
    }
    counters.set(Counters::READY, 1);
    if traced.is_err() {
        std::process::exit(1);
    }
    // SAFETY: `raise` takes a signal number; the tracer takes the signal away again.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// In the victim: the operation is over. Told by a system call that the library has no use for.
pub fn end() {
    // SAFETY: `getppid` has no precondition. Called by number, so that nothing answers in its place.
    unsafe { libc::syscall(libc::SYS_getppid) };
}

/// A child of the calling thread, one of whose threads stands still until it is told to go on.
pub struct Traced<'c> {
    child: &'c mut Child,
    thread: libc::pid_t,
    /// The system call it has entered.
    inside: Option<libc::c_long>,
}

impl<'c> Traced<'c> {
    /// Waits until the child has said [`begin`].
    ///
    /// # Panics
    ///
    /// Where tracing is not permitted: then nothing of what these tests promise can be shown.
    #[track_caller]
    pub fn wait_for(child: &'c mut Child, counters: &Counters) -> Traced<'c> {
        counters.until(Counters::READY, 1);
        let refused = counters.get(REFUSED);
        if refused != 0 {
            let error = io::Error::from_raw_os_error(refused as i32);
            panic!(
                "ptrace is not permitted here ({error}); this test needs it (a container: --cap-add SYS_PTRACE)"
            );
        }
        let thread = counters.get(Counters::THREAD) as libc::pid_t;
        let traced = Traced {
            child,
            thread,
            inside: None,
        };
        assert_eq!(traced.stopped_by(), libc::SIGSTOP);
        // A victim must not outlive its test.
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        request(libc::PTRACE_SETOPTIONS, thread, 0, options as usize).unwrap();
        traced
    }

    /// Lets it go on to its next stop.
    #[track_caller]
    pub fn next(&mut self) -> Stop {
        self.go_on(libc::PTRACE_SYSCALL, libc::SIGTRAP | 0x80);
        match self.inside.take() {
            Some(call) => Stop::Exit(call),
            None => {
                let call = self.entered();
                self.inside = Some(call);
                if call == libc::SYS_getppid {
                    Stop::End
                } else {
                    Stop::Entry(call)
                }
            }
        }
    }

    /// Lets it go on for one instruction, which may be a whole system call.
    #[track_caller]
    pub fn step(&mut self) {
        self.go_on(libc::PTRACE_SINGLESTEP, libc::SIGTRAP);
    }

    /// Kills it where it stands, and buries it.
    pub fn kill(self) {
        self.child.kill().unwrap();
        if self.thread as u32 != self.child.id() {
            // The process is not gone before its tracer has heard of each traced thread's end.
            let status = self.wait();
            assert!(libc::WIFSIGNALED(status), "status {status:#x}");
        }
        self.child.wait().unwrap();
    }

    /// Resumes it until the wanted kind of stop. Signals that come in between are passed on.
    #[track_caller]
    fn go_on(&self, how: u32, wanted: libc::c_int) {
        let mut signal = 0;
        loop {
            request(how, self.thread, 0, signal as usize).unwrap();
            signal = self.stopped_by();
            if signal == wanted {
                return;
            }
        }
    }

    #[track_caller]
    fn stopped_by(&self) -> libc::c_int {
        let status = self.wait();
        assert!(
            libc::WIFSTOPPED(status),
            "the victim ended by itself: status {status:#x}"
        );
        libc::WSTOPSIG(status)
    }

    /// The watchdog bounds this wait.
    fn wait(&self) -> libc::c_int {
        let mut status = 0;
        // SAFETY: one valid place for the status; the thread is traced by this one.
        let waited = unsafe { libc::waitpid(self.thread, &mut status, libc::__WALL) };
        assert_eq!(waited, self.thread, "{}", io::Error::last_os_error());
        status
    }

    /// The number of the system call at whose entry it stands.
    fn entered(&self) -> libc::c_long {
        // `struct ptrace_syscall_info`: the kind of stop in the first byte, the number in the fourth word.
        const ENTRY: u64 = 1;
        let mut info = [0u64; 12];
        let place = info.as_mut_ptr() as usize;
        request(
            libc::PTRACE_GET_SYSCALL_INFO,
            self.thread,
            size_of_val(&info),
            place,
        )
        .unwrap();
        assert_eq!(info[0] & 0xff, ENTRY, "entries and exits take turns");
        info[3] as libc::c_long
    }
}

fn request(what: u32, thread: libc::pid_t, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: where the request writes to `data`, the caller gives the address and size of an array of its
    // own; the others take plain numbers.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            what as libc::c_long,
            thread,
            address,
            data,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
