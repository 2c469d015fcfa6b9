//! A connection on its way to becoming a channel.

use super::options::ListenerOptions;
use super::{Credentials, PATIENCE};
use crate::error::{ImportFault, SystemError};
use crate::fork::Home;
use crate::handshake::{self, Answer, HELLO_LEN};
use crate::segment::Segment;
use crate::socket::keep_in_line;
use crate::{MessagePort, descriptors};
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// Somebody who has connected and is allowed to.
pub(super) struct Client {
    pub(super) socket: OwnedFd,
    pub(super) credentials: Credentials,
    /// Until when it has to say hello.
    pub(super) deadline: Instant,
}

/// What became of a client.
pub(super) enum Outcome {
    Port(Box<MessagePort>),
    /// It has not said all of its hello.
    Unfinished,
    /// It was told what is wrong, or went by itself, and is to be hung up.
    Gone,
}

/// Why a hello did not become a port.
enum Refusal {
    /// This process lacks something; it may go well another time.
    Shortage(SystemError),
    /// What the client is told.
    Answer(Answer),
    /// Nobody is there to be told.
    Silent,
}

impl From<SystemError> for Refusal {
    fn from(error: SystemError) -> Refusal {
        Refusal::Shortage(error)
    }
}

impl From<ImportFault> for Refusal {
    fn from(fault: ImportFault) -> Refusal {
        let unusable = Refusal::Answer(Answer::Unusable);
        fault.into_shortage().map_or(unusable, Refusal::Shortage)
    }
}

impl Client {
    /// Asks the kernel who it is, before anything it says is looked at. Who is not allowed is told so.
    pub(super) fn admit(socket: OwnedFd, options: &ListenerOptions) -> Option<Client> {
        keep_in_line(&socket);
        let found = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
        let client = Client {
            socket,
            credentials: Credentials {
                process_id: found.pid() as u32,
                user_id: found.uid(),
                group_id: found.gid(),
            },
            deadline: Instant::now() + PATIENCE,
        };
        if options.allows(client.credentials.user_id) {
            return Some(client);
        }
        client.refuse(Answer::NotAllowed);
        client.dismiss();
        None
    }

    /// Goes on as far as what the client has said allows. What fails for want of something here can be tried
    /// again.
    pub(super) fn proceed(&self, largest: usize, home: Home) -> Result<Outcome, SystemError> {
        match self.hear(largest as u64, home) {
            Ok(Some(port)) => Ok(Outcome::Port(Box::new(port))),
            Ok(None) => Ok(Outcome::Unfinished),
            Err(Refusal::Shortage(error)) => Err(error),
            Err(Refusal::Silent) => Ok(Outcome::Gone),
            Err(Refusal::Answer(answer)) => {
                self.refuse(answer);
                Ok(Outcome::Gone)
            }
        }
    }

    /// Hears the hello, and makes its segment a port; `None` if it is not all there.
    fn hear(&self, largest: u64, home: Home) -> Result<Option<MessagePort>, Refusal> {
        let Some(segment) = self.peek_segment()? else {
            return Ok(None);
        };
        // Before it is mapped: one that cannot be mapped for its size is not a shortage here.
        let capacities = Segment::capacities_of(&segment)?;
        if capacities.into_iter().any(|capacity| capacity > largest) {
            return Err(Refusal::Answer(Answer::TooLarge(largest)));
        }
        let socket = self
            .socket
            .try_clone()
            .map_err(|error| SystemError::new("fcntl(F_DUPFD_CLOEXEC)", error))?;
        let port = MessagePort::import_second(segment, socket, home)?;
        // Nothing can be lacking from here on, so the hello is taken.
        let mut hello = [0; HELLO_LEN];
        let taken = descriptors::read_past(self.socket.as_fd(), &mut hello);
        if taken == Ok((HELLO_LEN, true)) && self.answer(Answer::Accepted) {
            Ok(Some(port))
        } else {
            port.leave();
            Err(Refusal::Silent)
        }
    }

    /// The segment that comes with the hello, which stays in the queue.
    fn peek_segment(&self) -> Result<Option<OwnedFd>, Refusal> {
        let mut hello = [0; HELLO_LEN];
        let peeked = match descriptors::peek(self.socket.as_fd(), &mut hello) {
            Ok(peeked) if peeked.len == 0 => return Err(Refusal::Silent),
            Ok(peeked) if peeked.len < HELLO_LEN => return Ok(None),
            Ok(peeked) => peeked,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(errno @ (Errno::ENOMEM | Errno::ENOBUFS)) => {
                return Err(SystemError::new("recvmsg", errno).into());
            }
            Err(_) => return Err(Refusal::Silent),
        };
        handshake::check_hello(&hello).map_err(Refusal::Answer)?;
        let mut segments = peeked.descriptors.into_iter();
        match (segments.next(), segments.next()) {
            (Some(segment), None) => Ok(Some(segment)),
            (None, None) if peeked.truncated => {
                Err(SystemError::new("recvmsg(SCM_RIGHTS)", Errno::EMFILE).into())
            }
            _ => Err(Refusal::Answer(Answer::Unusable)),
        }
    }

    /// Says what was wrong. What the client has sent goes first: should its own end be in it, the answer would
    /// be discarded too.
    fn refuse(&self, answer: Answer) {
        descriptors::discard(self.socket.as_fd());
        self.answer(answer);
    }

    /// Hangs up.
    pub(super) fn dismiss(self) {
        descriptors::discard(self.socket.as_fd());
    }

    /// Says something to the client; `false` if it is gone.
    fn answer(&self, answer: Answer) -> bool {
        let bytes = answer.to_bytes();
        descriptors::send(self.socket.as_fd(), &bytes, &[]) == Ok(bytes.len())
    }
}
