//! A process of one's own, with a port between: spawn here, `parent_port` there.
//!
//! Unsafe relies on: a descriptor number with the kind and the inode that the parent announced is the
//! one it left here for us.
#![allow(unsafe_code)]

use crate::error::{ImportError, SpawnError, SystemError};
use crate::socket::inode_of;
use crate::{MessageChannel, MessagePort, NewError, PortHandle};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells the child its two descriptors, each with its inode: `SEGMENT,INODE,DOORBELL,INODE`.
const VARIABLE: &str = "RINGPORT_PARENT";

/// A process started with one end of a channel; this is the other end.
///
/// Dropping it closes the port, and neither kills the process nor waits for it.
#[derive(Debug)]
pub struct Worker {
    port: MessagePort,
    child: Child,
}

impl Worker {
    /// Starts `command` with a port to this process, which it gets from [`parent_port`].
    ///
    /// The child inherits the port's two descriptors and learns of them from the environment variable
    /// `RINGPORT_PARENT`. Nothing else is inherited that would not have been anyway.
    ///
    /// # Errors
    ///
    /// [`SpawnError::Channel`] if the channel cannot be made, [`SpawnError::Spawn`], naming the program,
    /// if the process cannot be started.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use ringport::Worker;
    /// use std::process::Command;
    ///
    /// let worker = Worker::spawn(Command::new("./decoder"))?;
    /// worker.port().post_bytes(b"frame")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn spawn(mut command: Command) -> Result<Worker, SpawnError> {
        let MessageChannel { port1, port2 } = MessageChannel::new()?;
        let handle = port2.into_handle();
        let segment = above_stdio(handle.segment).map_err(NewError::from)?;
        let doorbell = above_stdio(handle.doorbell).map_err(NewError::from)?;
        let inherited = [segment.as_raw_fd(), doorbell.as_raw_fd()];
        let inodes = [&segment, &doorbell].map(inode_of);
        let [segment_inode, doorbell_inode] = inodes;
        command.env(
            VARIABLE,
            format!(
                "{},{},{},{}",
                inherited[0],
                segment_inode.map_err(NewError::from)?,
                inherited[1],
                doorbell_inode.map_err(NewError::from)?
            ),
        );
        // SAFETY: the closure runs between fork and exec; `fcntl` is async-signal-safe and it
        // allocates nothing. The descriptors are open until `spawn` has returned.
        unsafe {
            command.pre_exec(move || {
                for fd in inherited {
                    keep_over_exec(BorrowedFd::borrow_raw(fd))?;
                }
                Ok(())
            });
        }
        match command.spawn() {
            Ok(child) => Ok(Worker { port: port1, child }),
            Err(source) => Err(SpawnError::Spawn {
                program: command.get_program().to_string_lossy().into_owned(),
                directory: command.get_current_dir().map(Path::to_path_buf),
                source,
            }),
        }
    }

    /// The port to the process.
    pub fn port(&self) -> &MessagePort {
        &self.port
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process itself, for what was piped from and to it.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until the process has ended. Its standard input, if piped, is closed first.
    ///
    /// # Errors
    ///
    /// What the system says; see [`Child::wait`].
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// How the process has ended, if it has.
    ///
    /// # Errors
    ///
    /// What the system says; see [`Child::try_wait`].
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Kills the process, by SIGKILL.
    ///
    /// # Errors
    ///
    /// What the system says; see [`Child::kill`].
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    pub(crate) fn from_parts(port: MessagePort, child: Child) -> Worker {
        Worker { port, child }
    }

    /// The port and the process, apart.
    pub fn into_parts(self) -> (MessagePort, Child) {
        (self.port, self.child)
    }
}

/// A descriptor that becomes readable when the process has ended (Linux 5.3). It must not have been
/// waited for before: its number may be another's then.
pub(crate) fn pidfd_of(child: &Child) -> Result<OwnedFd, Errno> {
    // SAFETY: it takes two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) })?;
    // SAFETY: the call has just made it, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Descriptors 0 to 2 become the child's standard streams, so those that it inherits lie above.
fn above_stdio(fd: OwnedFd) -> Result<OwnedFd, SystemError> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // `try_clone_to_owned` gives the lowest free descriptor that is 3 or more.
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|error| SystemError::new("fcntl(F_DUPFD_CLOEXEC)", error))
}

fn keep_over_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// The port to the process that started this one by [`Worker::spawn`].
///
/// `None` in any other process, and from the second call on. Call it early, before other threads are
/// started: then it also removes the variable `RINGPORT_PARENT`, so that no child sees it. From this
/// call on the descriptors are not inherited further, so a child that sees the variable is told `None`
/// all the same. A program that starts others without ever making this call passes its port on to them.
///
/// # Errors
///
/// [`ImportError`] if what was inherited is no port.
pub fn parent_port() -> Result<Option<MessagePort>, ImportError> {
    static ANSWERED: AtomicBool = AtomicBool::new(false);
    // Relaxed, because the flag stands for nothing but itself.
    if ANSWERED.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    let Some(handle) = inherited_handle() else {
        return Ok(None);
    };
    remove_variable();
    MessagePort::from_handle(handle).map(Some)
}

fn inherited_handle() -> Option<PortHandle> {
    let variable = std::env::var(VARIABLE).ok()?;
    let numbers: Vec<u64> = variable
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let [segment, segment_inode, doorbell, doorbell_inode] = numbers[..] else {
        return None;
    };
    // Both are looked at before either is taken.
    let segment = inherited_descriptor(segment, segment_inode, SFlag::S_IFREG)?;
    let doorbell = inherited_descriptor(doorbell, doorbell_inode, SFlag::S_IFSOCK)?;
    for fd in [segment, doorbell] {
        // SAFETY: it was open a moment ago; if not, this answers EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    }
    // SAFETY: kind and inode say that this is what the parent left here for us; nobody else in this
    // process knows of it.
    let segment = unsafe { OwnedFd::from_raw_fd(segment) };
    // SAFETY: as above.
    let doorbell = unsafe { OwnedFd::from_raw_fd(doorbell) };
    Some(PortHandle { segment, doorbell })
}

/// The descriptor of that number, if it is of that kind and has that inode: a grandchild that inherits
/// the variable but not the descriptors must not take strange ones.
fn inherited_descriptor(number: u64, inode: u64, kind: SFlag) -> Option<RawFd> {
    let number = RawFd::try_from(number).ok().filter(|number| *number > 2)?;
    // SAFETY: only borrowed to ask what it is; a number that is not open answers EBADF.
    let stat = fstat(unsafe { BorrowedFd::borrow_raw(number) }).ok()?;
    let found = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    (found == kind && stat.st_ino == inode).then_some(number)
}

/// Removes the variable if this is the only thread, for only then nobody can be reading the environment.
fn remove_variable() {
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if alone {
        // SAFETY: no other thread exists.
        unsafe { std::env::remove_var(VARIABLE) };
    }
}
