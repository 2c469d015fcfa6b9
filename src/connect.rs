//! Connecting to a listener: make the channel, hand over its other end.

use crate::address::{self, AddressFault};
use crate::channel::ChannelOptions;
use crate::error::{ConnectError, NewError, SystemError};
use crate::fork::Home;
use crate::handshake::{self, ANSWER_LEN, Answer};
use crate::segment::Segment;
use crate::socket::{inode_of, keep_in_line, set_option, wait_for};
use crate::{MessagePort, descriptors};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_to, getsockopt, socket, sockopt,
};
use nix::unistd::geteuid;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    channel: ChannelOptions,
    timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions {
            channel: ChannelOptions::new(),
            timeout: Duration::from_secs(10),
        }
    }
}

impl ConnectOptions {
    /// A channel of 64 KiB each way, and ten seconds of patience.
    pub fn new() -> ConnectOptions {
        ConnectOptions::default()
    }

    /// What the channel should be like. The connecting side is its `port1`.
    pub fn channel(mut self, options: ChannelOptions) -> ConnectOptions {
        self.channel = options;
        self
    }

    /// How long to wait until the listener has accepted.
    pub fn timeout(mut self, timeout: Duration) -> ConnectOptions {
        self.timeout = timeout;
        self
    }
}

/// Connects to a [`Listener`](crate::Listener): by its name, if that is one of this user's, or by its path,
/// recognised by a `/`. Waits until it has accepted, at most ten seconds.
///
/// Whoever may write to a directory can listen there: a path in one that others may write to can lead to
/// anybody. Names are looked for in a directory of this user's own.
///
/// # Errors
///
/// [`ConnectError`], which says what was wrong.
///
/// # Examples
///
/// ```no_run
/// let port = ringport::connect("mixer")?;
/// port.post_bytes(b"hello")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn connect(address: impl AsRef<Path>) -> Result<MessagePort, ConnectError> {
    connect_with(address, &ConnectOptions::new())
}

/// Connects as `options` say; see [`connect`].
///
/// # Errors
///
/// [`ConnectError`], which says what was wrong.
pub fn connect_with(
    address: impl AsRef<Path>,
    options: &ConnectOptions,
) -> Result<MessagePort, ConnectError> {
    options.channel.checked_capacities()?;
    let address = address.as_ref();
    let path = match address::resolve(address, false) {
        // The directory for names: without it there is no name.
        Err(AddressFault::System { path, source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            return Err(ConnectError::NobodyListens { path, source });
        }
        resolved => resolved?,
    };
    let attempt = Attempt {
        path,
        is_name: address::is_name(address),
        options,
        deadline: Instant::now().checked_add(options.timeout),
    };
    let home = Home::here().map_err(NewError::from)?;
    let socket = attempt.socket()?;
    // Before connecting: the listener's patience is short, and memory may take its time.
    let inode = inode_of(&socket).map_err(NewError::from)?;
    let segment = Segment::create(&options.channel, inode)?;
    attempt.reach(&socket)?;
    attempt.greet(&socket, &segment)?;
    attempt.check(attempt.hear(&socket)?)?;
    Ok(MessagePort::first(segment, socket, home))
}

/// One attempt to connect.
struct Attempt<'a> {
    path: PathBuf,
    is_name: bool,
    options: &'a ConnectOptions,
    /// `None`: never.
    deadline: Option<Instant>,
}

impl Attempt<'_> {
    fn time_left(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn failed(&self, call: &'static str, errno: Errno) -> ConnectError {
        ConnectError::system(call, &self.path, errno)
    }

    fn socket(&self) -> Result<OwnedFd, ConnectError> {
        let socket = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(|errno| self.failed("socket", errno))?;
        keep_in_line(&socket);
        Ok(socket)
    }

    /// Waits until the listener's queue has room.
    fn reach(&self, socket: &OwnedFd) -> Result<(), ConnectError> {
        let address = UnixAddr::new(&self.path).map_err(|errno| self.failed("connect", errno))?;
        loop {
            // While the listener's queue is full, `connect` waits as long as a send would.
            let left = self.time_left();
            if left == Some(Duration::ZERO) {
                return Err(self.timed_out());
            }
            set_send_timeout(socket, left);
            match connect_to(socket.as_raw_fd(), &address) {
                Ok(()) => break,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(self.timed_out()),
                Err(errno @ (Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR)) => {
                    return Err(ConnectError::NobodyListens {
                        path: self.path.clone(),
                        source: errno.into(),
                    });
                }
                Err(Errno::EACCES | Errno::EPERM) => return Err(self.not_allowed()),
                // Somebody listens, with another kind of socket.
                Err(Errno::EPROTOTYPE) => return Err(self.refused()),
                Err(errno) => return Err(self.failed("connect", errno)),
            }
        }
        set_send_timeout(socket, None);
        self.check_user(socket)
    }

    /// Names are of one user. Somebody else may have put a directory in the place of the one that was looked at.
    fn check_user(&self, socket: &OwnedFd) -> Result<(), ConnectError> {
        let found = getsockopt(socket, sockopt::PeerCredentials)
            .map_err(|errno| self.failed("getsockopt(SO_PEERCRED)", errno))?;
        if self.is_name && found.uid() != geteuid().as_raw() {
            return Err(ConnectError::OtherUser {
                path: self.path.clone(),
                user: found.uid(),
            });
        }
        Ok(())
    }

    fn greet(&self, socket: &OwnedFd, segment: &Segment) -> Result<(), ConnectError> {
        let hello = handshake::hello();
        match descriptors::send(socket.as_fd(), &hello, &[segment.file().as_raw_fd()]) {
            Ok(sent) if sent == hello.len() => Ok(()),
            Ok(_) => Err(self.refused()),
            // It has hung up, perhaps not without a word.
            Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            Err(errno) => Err(self.failed("sendmsg", errno)),
        }
    }

    /// Waits for the answer.
    fn hear(&self, socket: &OwnedFd) -> Result<Answer, ConnectError> {
        let mut answer = [0; ANSWER_LEN];
        let mut heard = 0;
        while heard < ANSWER_LEN {
            let rest = &mut answer[heard..];
            let _ = descriptors::hurry(socket.as_fd());
            // No more than the answer: what follows it belongs to the channel.
            match descriptors::read_past(socket.as_fd(), rest) {
                Ok((len, false)) if len > 0 => heard += len,
                Err(Errno::EAGAIN) => self.wait_for(socket)?,
                // Hung up, or descriptors, which do not belong to an answer.
                _ => return Err(self.refused()),
            }
        }
        Answer::from_bytes(&answer).ok_or_else(|| self.refused())
    }

    fn wait_for(&self, socket: &OwnedFd) -> Result<(), ConnectError> {
        let left = self.time_left();
        if left == Some(Duration::ZERO) {
            return Err(self.timed_out());
        }
        match wait_for(socket.as_fd(), libc::POLLIN, left) {
            Ok(_) => Ok(()),
            Err(SystemError { call, source }) => {
                Err(ConnectError::system(call, &self.path, source))
            }
        }
    }

    fn check(&self, answer: Answer) -> Result<(), ConnectError> {
        match answer {
            Answer::Accepted => Ok(()),
            Answer::NotAllowed => Err(self.not_allowed()),
            Answer::Version(theirs) => Err(ConnectError::Version {
                theirs,
                ours: handshake::VERSION,
            }),
            Answer::TooLarge(largest) => Err(ConnectError::Capacity {
                largest: usize::try_from(largest).unwrap_or(usize::MAX),
                asked: self.options.channel.largest_capacity(),
            }),
            Answer::Unusable => Err(self.refused()),
        }
    }

    fn not_allowed(&self) -> ConnectError {
        ConnectError::NotAllowed {
            path: self.path.clone(),
            user: geteuid().as_raw(),
        }
    }

    fn refused(&self) -> ConnectError {
        ConnectError::Refused {
            path: self.path.clone(),
        }
    }

    fn timed_out(&self) -> ConnectError {
        ConnectError::TimedOut {
            path: self.path.clone(),
            after: self.options.timeout,
        }
    }
}

/// `None`: none. A socket knows no timeout of zero, which the caller has ruled out.
fn set_send_timeout(socket: &OwnedFd, timeout: Option<Duration>) {
    let timeout = timeout.unwrap_or(Duration::ZERO);
    let timeout = libc::timeval {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        // Rounded up, so that a short one does not become none.
        tv_usec: libc::suseconds_t::from(timeout.subsec_nanos().div_ceil(1000).min(999_999)),
    };
    set_option(socket, libc::SO_SNDTIMEO, &timeout);
}
