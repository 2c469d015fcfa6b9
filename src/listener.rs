//! Being found: a socket with a path, and the port that comes out of each connection.

mod claim;

use crate::address;
use crate::channel::MAX_CAPACITY;
use crate::error::{AcceptError, BindError, ImportFault, SystemError};
use crate::fork::Home;
use crate::handshake::{self, Answer, HELLO_LEN};
use crate::segment::Segment;
use crate::{MessagePort, descriptors, doorbell, wait};
use claim::Claim;
use core::cell::RefCell;
use core::fmt;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a client has to say hello.
const PATIENCE: Duration = Duration::from_secs(1);
/// Clients that have not said hello yet; when there are more, the oldest goes.
const MOST_UNFINISHED: usize = 64;
/// Clients looked at in one attempt to accept, so that it ends though they keep coming.
const MOST_AT_ONCE: usize = 256;
const DEFAULT_LARGEST: usize = 64 << 20;
const DEFAULT_BACKLOG: u16 = 128;

/// Who may connect to a listener, and with what.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    users: Vec<u32>,
    any_user: bool,
    largest_capacity: usize,
    backlog: u16,
}

impl Default for ListenerOptions {
    fn default() -> ListenerOptions {
        ListenerOptions {
            users: Vec::new(),
            any_user: false,
            largest_capacity: DEFAULT_LARGEST,
            backlog: DEFAULT_BACKLOG,
        }
    }
}

impl ListenerOptions {
    /// This process's user only, rings of at most 64 MiB, a queue of 128 connections.
    pub fn new() -> ListenerOptions {
        ListenerOptions::default()
    }

    /// Allows another user, by its id. The kernel tells who connects; nobody can pretend.
    ///
    /// Other users cannot get at names, which live in a directory of this user's own: listen at a path.
    pub fn allow_user(mut self, user_id: u32) -> ListenerOptions {
        self.users.push(user_id);
        self
    }

    /// Allows every user who can get at the socket's path.
    pub fn allow_any_user(mut self) -> ListenerOptions {
        self.any_user = true;
        self
    }

    /// Sets the largest capacity of a client's rings, in bytes each. The client makes the channel; what it
    /// posts takes memory here too when it is received.
    pub fn largest_capacity(mut self, bytes: usize) -> ListenerOptions {
        self.largest_capacity = bytes.min(MAX_CAPACITY);
        self
    }

    /// Sets how many connections the kernel keeps waiting until they are accepted. When there are more,
    /// who connects waits.
    pub fn backlog(mut self, connections: u16) -> ListenerOptions {
        self.backlog = connections;
        self
    }

    fn allows(&self, user_id: u32) -> bool {
        let own = nix::unistd::geteuid().as_raw();
        self.any_user || user_id == own || self.users.contains(&user_id)
    }

    fn for_others(&self) -> bool {
        self.any_user || !self.users.is_empty()
    }
}

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

/// A connection that is no channel yet.
struct Client {
    socket: OwnedFd,
    credentials: Credentials,
    deadline: Instant,
}

/// What became of a client.
enum Outcome {
    Port(MessagePort),
    /// It has not said all of its hello.
    Unfinished,
    /// It was answered to, or not, and is to be hung up.
    Gone,
}

/// Why a segment did not become a port.
enum Refusal {
    /// This process lacks something.
    Shortage(SystemError),
    /// The client is told what was wrong.
    Answer(Answer),
}

impl From<ImportFault> for Refusal {
    fn from(fault: ImportFault) -> Refusal {
        let unusable = Refusal::Answer(Answer::Unusable);
        fault.into_shortage().map_or(unusable, Refusal::Shortage)
    }
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
    /// [`AcceptError::System`] when this process is out of descriptors, memory or maps: the client waits
    /// for the next call. [`AcceptError::Forked`] in a forked child.
    pub fn accept(&self) -> Result<(MessagePort, Credentials), AcceptError> {
        loop {
            if let Some(accepted) = self.try_accept()? {
                return Ok(accepted);
            }
            doorbell::wait_for(self.epoll.0.as_fd(), libc::POLLIN, None)?;
        }
    }

    /// Gives the port to a client if one is there.
    ///
    /// # Errors
    ///
    /// As [`accept`](Listener::accept).
    pub fn try_accept(&self) -> Result<Option<(MessagePort, Credentials)>, AcceptError> {
        if !self.home.is_here() {
            return Err(AcceptError::Forked);
        }
        self.hear()?;
        let accepted = match self.finish_one() {
            Ok(None) => self.accept_one(),
            other => other,
        };
        self.set_timer()?;
        accepted.map_err(AcceptError::from)
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
            doorbell::wait_for(self.epoll.0.as_fd(), libc::POLLIN, left)?;
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

    /// Goes on with clients that have not finished.
    fn finish_one(&self) -> Result<Option<(MessagePort, Credentials)>, SystemError> {
        let mut unfinished = self.unfinished.borrow_mut();
        let now = Instant::now();
        let mut index = 0;
        while let Some(client) = unfinished.get(index) {
            let outcome = match self.proceed(client)? {
                Outcome::Unfinished if now >= client.deadline => Outcome::Gone,
                outcome => outcome,
            };
            if matches!(outcome, Outcome::Unfinished) {
                index += 1;
                continue;
            }
            let gone = unfinished.remove(index);
            if let (Outcome::Port(port), Some(client)) = (outcome, gone) {
                return Ok(Some((port, client.credentials)));
            }
        }
        Ok(None)
    }

    /// Looks at connections that nobody has looked at.
    fn accept_one(&self) -> Result<Option<(MessagePort, Credentials)>, SystemError> {
        for _ in 0..MOST_AT_ONCE {
            let socket = match self.socket.accept() {
                Ok((stream, _)) => OwnedFd::from(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(SystemError::new("accept4", error)),
            };
            let Some(client) = self.admit(socket) else {
                continue;
            };
            let outcome = self.proceed(&client);
            if let Ok(Outcome::Port(port)) = outcome {
                return Ok(Some((port, client.credentials)));
            }
            if !matches!(outcome, Ok(Outcome::Gone)) {
                self.keep(client)?;
            }
            outcome?;
        }
        Ok(None)
    }

    /// Asks the kernel who it is, before anything it says is looked at.
    fn admit(&self, socket: OwnedFd) -> Option<Client> {
        let found = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
        let credentials = Credentials {
            process_id: found.pid() as u32,
            user_id: found.uid(),
            group_id: found.gid(),
        };
        if !self.options.allows(credentials.user_id) {
            answer(&socket, Answer::NotAllowed);
            return None;
        }
        Some(Client {
            socket,
            credentials,
            deadline: Instant::now() + PATIENCE,
        })
    }

    fn keep(&self, client: Client) -> Result<(), SystemError> {
        let mut unfinished = self.unfinished.borrow_mut();
        if unfinished.len() == MOST_UNFINISHED {
            unfinished.pop_front();
        }
        // Edge-triggered: half a hello stays in the queue and must not be told of again and again.
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        watch(&self.epoll, &client.socket, events)?;
        unfinished.push_back(client);
        Ok(())
    }

    /// Hears what a client has said. What fails for want of something here can be tried again.
    fn proceed(&self, client: &Client) -> Result<Outcome, SystemError> {
        let mut hello = [0; HELLO_LEN];
        let peeked = match descriptors::peek(client.socket.as_fd(), &mut hello) {
            Ok(peeked) if peeked.len == 0 => return Ok(Outcome::Gone),
            Ok(peeked) => peeked,
            Err(Errno::EAGAIN) => return Ok(Outcome::Unfinished),
            Err(errno @ (Errno::ENOMEM | Errno::ENOBUFS)) => {
                return Err(SystemError::new("recvmsg", errno));
            }
            Err(_) => return Ok(Outcome::Gone),
        };
        if peeked.len < HELLO_LEN {
            return Ok(Outcome::Unfinished);
        }
        if let Err(wrong) = handshake::check_hello(&hello) {
            answer(&client.socket, wrong);
            return Ok(Outcome::Gone);
        }
        let mut segments = peeked.descriptors.into_iter();
        let segment = match (segments.next(), segments.next()) {
            (Some(segment), None) => segment,
            (None, None) if peeked.truncated => {
                return Err(SystemError::new("recvmsg(SCM_RIGHTS)", Errno::EMFILE));
            }
            _ => {
                answer(&client.socket, Answer::Unusable);
                return Ok(Outcome::Gone);
            }
        };
        match self.import(client, segment) {
            Ok(port) => Ok(self.welcome(client, port)),
            Err(Refusal::Shortage(error)) => Err(error),
            Err(Refusal::Answer(wrong)) => {
                answer(&client.socket, wrong);
                Ok(Outcome::Gone)
            }
        }
    }

    fn import(&self, client: &Client, segment: OwnedFd) -> Result<MessagePort, Refusal> {
        // Before it is mapped: one that cannot be mapped for its size is not a shortage here.
        let largest = self.options.largest_capacity as u64;
        if Segment::capacities_of(&segment)?
            .into_iter()
            .any(|capacity| capacity > largest)
        {
            return Err(Refusal::Answer(Answer::TooLarge(largest)));
        }
        let socket = client
            .socket
            .try_clone()
            .map_err(|error| SystemError::new("fcntl(F_DUPFD_CLOEXEC)", error))
            .map_err(Refusal::Shortage)?;
        Ok(MessagePort::import_second(segment, socket, self.home)?)
    }

    /// The last steps with a client whose segment is one.
    fn welcome(&self, client: &Client, port: MessagePort) -> Outcome {
        // The port's socket is watched by the port from here on, wherever it moves.
        let _ = self.epoll.delete(&client.socket);
        let mut hello = [0; HELLO_LEN];
        let taken = descriptors::read_past(client.socket.as_fd(), &mut hello);
        if taken == Ok(HELLO_LEN) && answer(&client.socket, Answer::Accepted) {
            Outcome::Port(port)
        } else {
            port.leave();
            Outcome::Gone
        }
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

/// Says something to a client; `false` if it is gone.
fn answer(socket: &OwnedFd, answer: Answer) -> bool {
    let bytes = answer.to_bytes();
    descriptors::send(socket.as_fd(), &bytes, &[]) == Ok(bytes.len())
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
