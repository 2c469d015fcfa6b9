//! Being found: a socket with a path, and the port that comes out of each connection.

mod claim;
mod client;
mod options;

use crate::address;
use crate::error::{AcceptError, BindError, SystemError};
use crate::fork::Home;
use crate::socket::wait_for;
use crate::{MessagePort, wait};
use claim::Claim;
use client::{Client, Outcome};
use core::cell::RefCell;
use core::fmt;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

pub use options::ListenerOptions;

/// How long a client has to say hello.
const PATIENCE: Duration = Duration::from_secs(1);
/// Clients that have not said hello yet; when there are more, the oldest goes.
const MOST_UNFINISHED: usize = 64;
/// Clients looked at in one attempt to accept, so that it ends though they keep coming.
const MOST_AT_ONCE: usize = 256;

/// Who has connected, by the kernel's word: as it was when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process's id.
    pub process_id: u32,
    /// The id of its effective user.
    pub user_id: u32,
    /// The id of its effective group.
    pub group_id: u32,
}

/// A place where other processes can find this one: [`connect`](crate::connect) there gives a port here.
///
/// Dropping it ends the listening and removes the socket. Ports that came out of it stay.
///
/// # Examples
///
/// ```no_run
/// use ringport::Listener;
///
/// let listener = Listener::bind("mixer")?;
/// loop {
///     let (port, client) = listener.accept()?;
///     println!("process {} says {:?}", client.process_id, port.recv()?.bytes());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Listener {
    // The path is given up before the socket is closed: nobody finds one that does not answer.
    claim: Claim,
    socket: UnixListener,
    options: ListenerOptions,
    unfinished: RefCell<VecDeque<Client>>,
    /// Watches the socket, the unfinished clients, and the timer.
    epoll: Epoll,
    /// When the patience with the oldest client ends.
    timer: TimerFd,
    home: Home,
}

impl Listener {
    /// Listens at a name, or at a path, recognised by a `/`.
    ///
    /// Names lie in `$XDG_RUNTIME_DIR/ringport`, or in `/tmp/ringport-UID` if that variable is not set, and
    /// are for the processes of one user. A socket left behind by a process that died is replaced.
    ///
    /// # Errors
    ///
    /// [`BindError::InUse`] when somebody listens there; [`BindError`] tells the rest.
    pub fn bind(address: impl AsRef<Path>) -> Result<Listener, BindError> {
        Listener::bind_with(address, &ListenerOptions::new())
    }

    /// Listens as `options` say; see [`bind`](Listener::bind).
    ///
    /// # Errors
    ///
    /// As [`bind`](Listener::bind).
    pub fn bind_with(
        address: impl AsRef<Path>,
        options: &ListenerOptions,
    ) -> Result<Listener, BindError> {
        let path = address::resolve(address.as_ref(), true)?;
        let failed = |error: SystemError| BindError::system(error.call, &path, error.source);
        let home = Home::here().map_err(failed)?;
        let epoll = new_epoll().map_err(failed)?;
        let timer = new_timer().map_err(failed)?;
        watch(&epoll, &timer, EpollFlags::EPOLLIN).map_err(failed)?;
        let mut claim = Claim::stake(path.clone(), home)?;
        let socket = claim.listen(options.for_others(), options.backlog)?;
        watch(&epoll, &socket, EpollFlags::EPOLLIN).map_err(failed)?;
        Ok(Listener {
            claim,
            socket: socket.into(),
            options: options.clone(),
            unfinished: RefCell::default(),
            epoll,
            timer,
            home,
        })
    }

    /// The socket's path. The lock beside it is a file of the same name with `.lock` after it.
    pub fn path(&self) -> &Path {
        self.claim.path()
    }

    /// Waits for a client and gives the port to it, and who it is.
    ///
    /// A client that is not allowed, or does not speak this protocol, is hung up and not waited for; one
    /// that says nothing is hung up after a second.
    ///
    /// # Errors
    ///
    /// [`AcceptError::System`] when this process is out of descriptors, memory or maps, and nobody else could
    /// be accepted: the client can be by another call within its second. [`AcceptError::Forked`] in a
    /// forked child.
    pub fn accept(&self) -> Result<(MessagePort, Credentials), AcceptError> {
        loop {
            if let Some(accepted) = self.try_accept()? {
                return Ok(accepted);
            }
            wait_for(self.epoll.0.as_fd(), libc::POLLIN, None)?;
        }
    }

    /// Whether this is the process that listens, and not a forked child of it.
    pub(crate) fn is_home(&self) -> bool {
        self.home.is_here()
    }

    /// Gives the port to a client if one is there.
    ///
    /// # Errors
    ///
    /// As [`accept`](Listener::accept).
    pub fn try_accept(&self) -> Result<Option<(MessagePort, Credentials)>, AcceptError> {
        if !self.is_home() {
            return Err(AcceptError::Forked);
        }
        self.hear()?;
        // Somebody for whom there is no room here must not keep others out: all are looked at first.
        let mut lacking = Ok(());
        let mut accepted = self.finish_one(&mut lacking);
        if accepted.is_none() {
            accepted = self.accept_one(&mut lacking);
        }
        let timer = self.set_timer();
        if accepted.is_none() {
            lacking?;
            timer?;
        }
        Ok(accepted)
    }

    /// Waits for a client, at most `timeout`; `None` if none came.
    ///
    /// # Errors
    ///
    /// As [`accept`](Listener::accept).
    pub fn accept_timeout(
        &self,
        timeout: Duration,
    ) -> Result<Option<(MessagePort, Credentials)>, AcceptError> {
        let deadline = wait::deadline(timeout);
        loop {
            if let Some(accepted) = self.try_accept()? {
                return Ok(Some(accepted));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            wait_for(self.epoll.0.as_fd(), libc::POLLIN, left)?;
        }
    }

    /// Takes in what the epoll descriptor tells, so that it becomes readable anew.
    fn hear(&self) -> Result<(), SystemError> {
        // All that can be ready at once: the socket, the timer, the clients.
        let mut events = [EpollEvent::empty(); MOST_UNFINISHED + 2];
        match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(SystemError::new("epoll_wait", errno)),
        }
    }

    /// Goes on with clients that have not finished. An error of one of them is left in `lacking`.
    fn finish_one(
        &self,
        lacking: &mut Result<(), SystemError>,
    ) -> Option<(MessagePort, Credentials)> {
        let mut unfinished = self.unfinished.borrow_mut();
        let now = Instant::now();
        let mut index = 0;
        while let Some(client) = unfinished.get(index) {
            let outcome = match self.proceed(client, lacking) {
                Outcome::Unfinished if now < client.deadline => {
                    index += 1;
                    continue;
                }
                outcome => outcome,
            };
            let client = unfinished.remove(index)?;
            // A port watches its socket itself, wherever it moves; and a forked child may keep one open that
            // is closed here.
            let _ = self.epoll.delete(&client.socket);
            match outcome {
                Outcome::Port(port) => return Some((*port, client.credentials)),
                Outcome::Unfinished | Outcome::Gone => client.dismiss(),
            }
        }
        None
    }

    /// Looks at connections that nobody has looked at. An error is left in `lacking`.
    fn accept_one(
        &self,
        lacking: &mut Result<(), SystemError>,
    ) -> Option<(MessagePort, Credentials)> {
        for _ in 0..MOST_AT_ONCE {
            let socket = match self.socket.accept() {
                Ok((stream, _)) => OwnedFd::from(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    *lacking = Err(SystemError::new("accept4", error));
                    break;
                }
            };
            let Some(client) = Client::admit(socket, &self.options) else {
                continue;
            };
            match self.proceed(&client, lacking) {
                Outcome::Port(port) => return Some((*port, client.credentials)),
                Outcome::Gone => client.dismiss(),
                Outcome::Unfinished => self.keep(client, lacking),
            }
        }
        None
    }

    fn proceed(&self, client: &Client, lacking: &mut Result<(), SystemError>) -> Outcome {
        let outcome = client.proceed(self.options.largest_capacity, self.home);
        outcome.unwrap_or_else(|error| {
            *lacking = Err(error);
            Outcome::Unfinished
        })
    }

    fn keep(&self, client: Client, lacking: &mut Result<(), SystemError>) {
        // Edge-triggered: half a hello stays in the queue and must not be told of again and again.
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        if let Err(error) = watch(&self.epoll, &client.socket, events) {
            *lacking = Err(error);
            return client.dismiss();
        }
        let mut unfinished = self.unfinished.borrow_mut();
        if unfinished.len() == MOST_UNFINISHED {
            if let Some(oldest) = unfinished.pop_front() {
                let _ = self.epoll.delete(&oldest.socket);
                oldest.dismiss();
            }
        }
        unfinished.push_back(client);
    }

    /// Has the timer wake whoever waits when the patience with the oldest client ends.
    fn set_timer(&self) -> Result<(), SystemError> {
        let oldest = self
            .unfinished
            .borrow()
            .front()
            .map(|client| client.deadline);
        let set = match oldest {
            None => self.timer.unset(),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                // Zero would stop the timer.
                let left = TimeSpec::from_duration(left.max(Duration::from_nanos(1)));
                self.timer
                    .set(Expiration::OneShot(left), TimerSetTimeFlags::empty())
            }
        };
        set.map_err(|errno| SystemError::new("timerfd_settime", errno))
    }
}

/// Becomes readable when [`try_accept`](Listener::try_accept) should be called, level-triggered; sometimes
/// for nothing.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("path", &self.path())
            .field("options", &self.options)
            .field("unfinished", &self.unfinished.borrow().len())
            .finish_non_exhaustive()
    }
}

fn new_epoll() -> Result<Epoll, SystemError> {
    Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
        .map_err(|errno| SystemError::new("epoll_create1", errno))
}

fn new_timer() -> Result<TimerFd, SystemError> {
    TimerFd::new(
        ClockId::CLOCK_MONOTONIC,
        TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
    )
    .map_err(|errno| SystemError::new("timerfd_create", errno))
}

fn watch(epoll: &Epoll, fd: impl AsFd, events: EpollFlags) -> Result<(), SystemError> {
    epoll
        .add(fd, EpollEvent::new(events, 0))
        .map_err(|errno| SystemError::new("epoll_ctl", errno))
}
