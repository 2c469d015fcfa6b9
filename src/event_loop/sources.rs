//! What else can be in a loop: listeners, and processes that will exit.

use super::handlers::{Entry, Handler};
use super::turn::REST;
use super::{Attached, EventLoop, WAKER, new_id};
use crate::error::{AcceptError, AddError, EventLoopError, SystemError};
use crate::listener::{Credentials, Listener};
use crate::port::MessagePort;
use crate::worker::{Worker, pidfd_of};
use core::cell::{Cell, RefCell};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::rc::Rc;

/// A listener in an [`EventLoop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(u64);

/// A process in an [`EventLoop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId(u64);

/// Clients accepted before others have their turn.
const MOST_AT_ONCE: usize = 16;

type Accepted = Result<(MessagePort, Credentials), AcceptError>;
type OnConnect<'h> = dyn FnMut(&EventLoop<'h>, Accepted) + 'h;
type OnExit<'h> = Box<dyn FnOnce(&EventLoop<'h>, io::Result<ExitStatus>) + 'h>;

/// What an id stands for.
pub(super) enum Source<'h> {
    Port(Rc<Entry<'h>>),
    Listener(Rc<Listening<'h>>),
    Child(Rc<Exiting<'h>>),
}

pub(super) struct Listening<'h> {
    listener: RefCell<Option<Listener>>,
    handler: Handler<OnConnect<'h>>,
}

pub(super) struct Exiting<'h> {
    child: RefCell<Option<Child>>,
    /// Readable when the process has ended; `None` if it had ended before.
    pidfd: Option<OwnedFd>,
    handler: Cell<Option<OnExit<'h>>>,
}

/// Listeners and processes.
impl<'h> EventLoop<'h> {
    /// Puts a listener into the loop: `handler` gets the port to each client, and who it is. The port is in no loop
    /// yet.
    ///
    /// When accepting fails, for lack of descriptors, memory or maps, it gets the error. The client waits on, and is
    /// accepted within its second if it then can be: it is tried again after 10 ms.
    ///
    /// Dropping the loop ends the listening.
    ///
    /// # Errors
    ///
    /// As [`add`](EventLoop::add).
    pub fn add_listener(
        &self,
        listener: Listener,
        handler: impl FnMut(&EventLoop<'h>, Accepted) + 'h,
    ) -> Result<ListenerId, AddError<Listener>> {
        if !(self.home.is_here() && listener.is_home()) {
            return Err(AddError::new(EventLoopError::Forked, listener));
        }
        let id = new_id();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, id);
        if let Err(errno) = self.epoll.add(listener.as_fd(), event) {
            let error = SystemError::new("epoll_ctl", errno);
            return Err(AddError::new(error.into(), listener));
        }
        let source = Listening {
            listener: RefCell::new(Some(listener)),
            handler: Handler::new(),
        };
        source.handler.set(Box::new(handler));
        let source = Source::Listener(Rc::new(source));
        self.sources.borrow_mut().insert(id, source);
        Ok(ListenerId(id))
    }

    /// Takes a listener out of the loop; `None` if it is not in it. Clients wait on.
    pub fn remove_listener(&self, listener: ListenerId) -> Option<Listener> {
        let source = self.listening(listener.0)?;
        let listener_itself = source.listener.take()?;
        // A forked child leaves its parent's epoll alone.
        if self.home.is_here() {
            let _ = self.epoll.delete(listener_itself.as_fd());
        }
        let gone = self.sources.borrow_mut().remove(&listener.0);
        // What the handler owns is dropped after the borrow has ended.
        drop(gone);
        Some(listener_itself)
    }

    /// Has `handler` called when a process ends, with its status.
    ///
    /// Messages that it has posted arrive as those of any other port, perhaps after this. Dropping the loop neither ends
    /// the process nor waits for its end.
    ///
    /// # Errors
    ///
    /// As [`add`](EventLoop::add), and when the process is out of descriptors: it takes one.
    pub fn add_child(
        &self,
        mut child: Child,
        handler: impl FnOnce(&EventLoop<'h>, io::Result<ExitStatus>) + 'h,
    ) -> Result<ChildId, AddError<Child>> {
        if !self.home.is_here() {
            return Err(AddError::new(EventLoopError::Forked, child));
        }
        let id = new_id();
        let pidfd = match self.watch_child(&mut child, id) {
            Ok(pidfd) => pidfd,
            Err(error) => return Err(AddError::new(error.into(), child)),
        };
        let has_ended = pidfd.is_none();
        let handler: OnExit<'h> = Box::new(handler);
        let source = Exiting {
            child: RefCell::new(Some(child)),
            pidfd,
            handler: Cell::new(Some(handler)),
        };
        let source = Source::Child(Rc::new(source));
        self.sources.borrow_mut().insert(id, source);
        if has_ended {
            self.tell_soon(id);
        }
        Ok(ChildId(id))
    }

    /// Puts a worker's port into the loop, and has `handler` called when its process ends, with its status.
    ///
    /// # Errors
    ///
    /// As [`add`](EventLoop::add), and when the process is out of descriptors: it takes one.
    pub fn add_worker(
        &self,
        worker: Worker,
        handler: impl FnOnce(&EventLoop<'h>, io::Result<ExitStatus>) + 'h,
    ) -> Result<(Attached<'_, 'h>, ChildId), AddError<Worker>> {
        let (port, child) = worker.into_parts();
        let child = match self.add_child(child, handler) {
            Ok(child) => child,
            Err(failed) => {
                return Err(failed.map(|child| Worker::from_parts(port, child)));
            }
        };
        match self.add(port) {
            Ok(port) => Ok((port, child)),
            Err(failed) => {
                let (error, port) = failed.into_parts();
                match self.remove_child(child) {
                    Some(child) => Err(AddError::new(error, Worker::from_parts(port, child))),
                    None => unreachable!("it was added a moment ago"),
                }
            }
        }
    }

    /// Takes a process out of the loop; `None` if it is not in it, or its end was told.
    pub fn remove_child(&self, child: ChildId) -> Option<Child> {
        let source = self.exiting(child.0)?;
        let child_itself = source.child.take()?;
        self.forget_child(child.0, &source);
        Some(child_itself)
    }

    fn watch_child(&self, child: &mut Child, id: u64) -> Result<Option<OwnedFd>, SystemError> {
        // One that was waited for has no process any more.
        let Ok(None) = child.try_wait() else {
            return Ok(None);
        };
        let pidfd = pidfd_of(child).map_err(|errno| SystemError::new("pidfd_open", errno))?;
        // Once the process has ended it stays readable, and is taken out when that is told.
        self.epoll
            .add(&pidfd, EpollEvent::new(EpollFlags::EPOLLIN, id))
            .map_err(|errno| SystemError::new("epoll_ctl", errno))?;
        Ok(Some(pidfd))
    }

    fn forget_child(&self, id: u64, source: &Exiting<'h>) {
        if let (Some(pidfd), true) = (&source.pidfd, self.home.is_here()) {
            let _ = self.epoll.delete(pidfd);
        }
        let gone = self.sources.borrow_mut().remove(&id);
        // What the handler owns is dropped after the borrow has ended.
        drop(gone);
    }

    fn listening(&self, id: u64) -> Option<Rc<Listening<'h>>> {
        match self.sources.borrow().get(&id) {
            Some(Source::Listener(source)) => Some(Rc::clone(source)),
            _ => None,
        }
    }

    fn exiting(&self, id: u64) -> Option<Rc<Exiting<'h>>> {
        match self.sources.borrow().get(&id) {
            Some(Source::Child(source)) => Some(Rc::clone(source)),
            _ => None,
        }
    }

    /// Runs the handler of whatever has told something, and says whether there was anything.
    pub(super) fn tell(&self, id: u64) -> bool {
        if id == WAKER {
            self.on_wake.run(|handler| handler(self));
            true
        } else if let Some(source) = self.listening(id) {
            self.accept(id, &source)
        } else if let Some(source) = self.exiting(id) {
            self.bury(id, &source)
        } else {
            false
        }
    }

    /// Has it told in the next round.
    pub(super) fn tell_soon(&self, id: u64) {
        let is_known = self.told.borrow().contains(&id);
        if !is_known {
            self.told.borrow_mut().push_back(id);
        }
        self.stir();
    }

    fn accept(&self, id: u64, source: &Listening<'h>) -> bool {
        let mut others = Others {
            events: self,
            listener: id,
            may_wait: true,
        };
        for count in 0..MOST_AT_ONCE {
            let accepted = match &*source.listener.borrow() {
                Some(listener) => listener.try_accept(),
                None => Ok(None),
            };
            let Some(accepted) = accepted.transpose() else {
                others.may_wait = false;
                return count > 0;
            };
            let failed = accepted.is_err();
            if failed {
                others.may_wait = false;
                self.rest_source(id);
            }
            source.handler.run(|handler| handler(self, accepted));
            if failed || self.is_over() {
                break;
            }
        }
        true
    }

    /// Takes a process out that has ended, and tells its status.
    fn bury(&self, id: u64, source: &Exiting<'h>) -> bool {
        let ended = match &mut *source.child.borrow_mut() {
            Some(child) => child.try_wait().transpose(),
            None => return false,
        };
        let Some(status) = ended else {
            // Somebody traces it, and has to hear of its end first.
            self.rest_source(id);
            return false;
        };
        source.child.take();
        let handler = source.handler.take();
        self.forget_child(id, source);
        if let Some(handler) = handler {
            handler(self, status);
        }
        true
    }

    /// Leaves a source alone for a while, which would otherwise be told of at once.
    fn rest_source(&self, id: u64) {
        self.ask_for(id, EpollFlags::empty());
        self.set_timeout(REST, move |events| {
            events.ask_for(id, EpollFlags::EPOLLIN);
            // What is lacking no more is not told by the kernel.
            events.tell_soon(id);
        });
    }

    /// Changes what the kernel is asked to tell of a source.
    fn ask_for(&self, id: u64, flags: EpollFlags) {
        let ask = |fd: BorrowedFd<'_>| {
            // It cannot fail for a descriptor that is watched.
            let _ = self.epoll.modify(fd, &mut EpollEvent::new(flags, id));
        };
        if let Some(source) = self.listening(id) {
            if let Some(listener) = &*source.listener.borrow() {
                ask(listener.as_fd());
            }
        } else if let Some(source) = self.exiting(id) {
            if let Some(pidfd) = &source.pidfd {
                ask(pidfd.as_fd());
            }
        }
    }
}

/// Those who came with a client that is being accepted. The kernel has told of all of them at once, so the listener is
/// looked at again unless nobody is left, also if a handler panics.
struct Others<'l, 'h> {
    events: &'l EventLoop<'h>,
    listener: u64,
    may_wait: bool,
}

impl Drop for Others<'_, '_> {
    fn drop(&mut self) {
        if self.may_wait && self.events.home.is_here() {
            self.events.tell_soon(self.listener);
        }
    }
}
