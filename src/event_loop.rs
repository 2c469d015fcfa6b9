//! One thread, many ports: handlers that are called when messages arrive.
//!
//! A port in the loop is *quiet*, and its peer rings when there is something; or *watched*, since it was
//! busy a moment ago and is looked at without the kernel; or *ready*, and has its turn next. Nothing is done for
//! quiet ones, however many. Before the loop sleeps all the watched ones become quiet, with one barrier.

mod attached;
mod attending;
mod handlers;
mod running;
mod slot;
mod sources;
mod timers;
mod turn;

use crate::error::{
    AddError, CloseReason, DataError, DetachError, EventLoopError, RecvError, SystemError,
};
use crate::fork::Home;
use crate::port::MessagePort;
use crate::wait::{Patrol, Spinner};
use core::cell::{Cell, RefCell};
use core::fmt;
use handlers::{Entry, Handler, Place};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use slot::Use;
use sources::Source;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use timers::Timers;

pub use attached::Attached;
pub use running::LoopWaker;
pub use slot::{PortEvent, TypedEvent};
pub use sources::{ChildId, ListenerId};
pub use timers::TimerId;

/// A port in an [`EventLoop`]. No two are ever the same in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(u64);

/// A channel has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseEvent {
    /// The port here.
    pub port: PortId,
    /// Why it has ended.
    pub reason: CloseReason,
}

/// A message could not be handed to a message handler.
#[derive(Debug)]
#[non_exhaustive]
pub enum MessageErrorEvent<'e> {
    /// It is no archive of the type that the handler takes. It may be one of another type.
    Data {
        /// The message.
        event: PortEvent<'e>,
        /// What is wrong with it.
        error: DataError,
    },
    /// It cannot be received: this process is out of descriptors, of memory or of maps. Nothing is lost. It is tried
    /// again every 10 ms, and this told each time.
    Receive {
        /// The port here.
        port: PortId,
        /// What was lacking.
        error: RecvError,
    },
}

impl MessageErrorEvent<'_> {
    /// The port on which the message has arrived.
    pub fn port(&self) -> PortId {
        match self {
            MessageErrorEvent::Data { event, .. } => event.id(),
            MessageErrorEvent::Receive { port, .. } => *port,
        }
    }
}

/// Ports, listeners, processes and timers, and handlers for what happens to them, all run on one thread.
///
/// Handlers may borrow what outlives the loop (`'h`): what is declared before it. They get the loop itself as their
/// first argument, to add ports, set timers, or stop it. None is ever called from inside a post: only by [`run`](EventLoop::run) and
/// [`run_once`](EventLoop::run_once), one at a time.
///
/// Ports have their turns one after the other, each at most 64 messages; what a handler posts to itself comes in
/// a later turn. A port costs nothing as long as nothing arrives on it. A handler that panics takes the panic out
/// of `run`; it has had its message, and the loop can be run again.
///
/// # Examples
///
/// ```
/// use ringport::{EventLoop, MessageChannel};
///
/// let MessageChannel { port1, port2 } = MessageChannel::new()?;
/// let mut answers = Vec::new();
///
/// let mut events = EventLoop::new()?;
/// events.add(port2)?.on_message(|_, event| {
///     event.port().post_bytes(event.bytes()).expect("the peer is there"); // the event may still be alive
/// });
/// let asking = events.add(port1)?.on_message(|events, event| {
///     answers.push(event.bytes().to_vec());
///     events.stop();
/// }).id();
/// events.port(asking).expect("it was added").post_bytes(b"hello")?;
/// events.run()?;
///
/// drop(events);
/// assert_eq!(answers, [b"hello"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct EventLoop<'h> {
    epoll: Epoll,
    /// Makes the epoll descriptor readable when a timer is due.
    alarm: TimerFd,
    /// What the alarm is set to.
    alarm_at: Cell<Option<Instant>>,
    wakes: Arc<EventFd>,
    on_wake: Handler<dyn FnMut(&EventLoop<'h>) + 'h>,
    sources: RefCell<HashMap<u64, Source<'h>>>,
    timers: Timers<'h>,
    ready: RefCell<VecDeque<Rc<Entry<'h>>>>,
    watched: RefCell<Vec<Rc<Entry<'h>>>>,
    /// Listeners, processes and the waker, by what epoll knows them by.
    told: RefCell<VecDeque<u64>>,
    round: Cell<u64>,
    /// Messages dispatched since the kernel was last asked.
    dispatched: Cell<usize>,
    /// When it was asked while there was enough to do.
    asked: Cell<Option<Instant>>,
    /// The round in which ports that were not served lately were last looked for.
    weeded: Cell<u64>,
    patrol: Patrol,
    spinner: Spinner,
    stopped: Cell<bool>,
    running: Cell<bool>,
    /// Whether somebody waits for the loop's descriptor.
    nested: Cell<bool>,
    home: Home,
}

/// What epoll knows the waker and the alarm by; the sources have greater numbers.
const WAKER: u64 = 0;
const ALARM: u64 = 1;

/// A number for a source or a timer, unique in this process; later ones are greater.
fn new_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(ALARM + 1);
    // Relaxed, because the number stands for nothing but itself.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Making and running.
impl<'h> EventLoop<'h> {
    /// Makes a loop with nothing in it.
    ///
    /// # Errors
    ///
    /// [`EventLoopError::System`] when the process is out of descriptors: a loop takes three.
    pub fn new() -> Result<EventLoop<'h>, EventLoopError> {
        let failed = |call| move |errno| SystemError::new(call, errno);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed("epoll_create1"))?;
        let wakes = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(failed("eventfd"))?;
        let alarm = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )
        .map_err(failed("timerfd_create"))?;
        // Edge-triggered: neither is ever read.
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        for (fd, id) in [(wakes.as_fd(), WAKER), (alarm.as_fd(), ALARM)] {
            epoll
                .add(fd, EpollEvent::new(edge, id))
                .map_err(failed("epoll_ctl"))?;
        }
        Ok(EventLoop {
            epoll,
            alarm,
            alarm_at: Cell::new(None),
            wakes: Arc::new(wakes),
            on_wake: Handler::new(),
            sources: RefCell::default(),
            timers: Timers::default(),
            ready: RefCell::default(),
            watched: RefCell::default(),
            told: RefCell::default(),
            round: Cell::new(0),
            dispatched: Cell::new(0),
            asked: Cell::new(None),
            weeded: Cell::new(0),
            patrol: Patrol::default(),
            spinner: Spinner::new(),
            stopped: Cell::new(false),
            running: Cell::new(false),
            nested: Cell::new(false),
            home: Home::here()?,
        })
    }

    /// Ports, listeners and processes in the loop.
    pub fn len(&self) -> usize {
        self.sources.borrow().len()
    }

    /// Whether there is no port, listener or process in the loop.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything leaves the loop, as when it is dropped, though something of it is in use: a port that is is closed, and goes when
    /// it is not any more. For the C interface, where whoever frees a loop does not know who else has it.
    #[doc(hidden)]
    pub fn clear_shared(&self) {
        // What handlers own is dropped after each borrow has ended.
        let sources = self.sources.take();
        for source in sources.values() {
            let Source::Port(entry) = source else {
                continue;
            };
            entry.place.set(Place::Gone);
            entry.tell_leave(CloseReason::ClosedHere);
            entry.forget_handlers();
            if let Some(port) = entry.slot.take() {
                port.doorbell.remove_from(&self.epoll);
                port.stand_down_all();
            } else if let Some(used) = Use::of(&entry.slot) {
                used.port().close();
            }
        }
        drop(sources);
        drop((self.ready.take(), self.watched.take()));
        self.timers.clear_all();
        self.on_wake.clear();
    }

    fn check_home(&self) -> Result<(), EventLoopError> {
        if self.home.is_here() {
            Ok(())
        } else {
            Err(EventLoopError::Forked)
        }
    }
}

/// Ports.
impl<'h> EventLoop<'h> {
    /// Puts a port into the loop, not [started](Attached::start).
    ///
    /// # Errors
    ///
    /// [`AddError`], which gives the port back, when the user has too many epoll watches or memory is short, or in
    /// a forked child.
    pub fn add(&self, port: MessagePort) -> Result<Attached<'_, 'h>, AddError<MessagePort>> {
        if !(self.home.is_here() && port.is_home()) {
            return Err(AddError::new(EventLoopError::Forked, port));
        }
        port.disarm();
        port.stand_down_all();
        let id = new_id();
        if let Err(errno) = port.doorbell.add_to(&self.epoll, false, id) {
            let error = SystemError::new("epoll_ctl", errno);
            return Err(AddError::new(error.into(), port));
        }
        let entry = Rc::new(Entry::new(PortId(id), port));
        let source = Source::Port(Rc::clone(&entry));
        self.sources.borrow_mut().insert(id, source);
        let Some(used) = Use::of(entry) else {
            unreachable!("nobody else knows of the port yet")
        };
        Ok(Attached { events: self, used })
    }

    /// The port, as long as it is in the loop.
    pub fn port(&self, port: PortId) -> Option<Attached<'_, 'h>> {
        let used = Use::of(self.entry(port)?)?;
        Some(Attached { events: self, used })
    }

    /// Takes a port out of the loop, with everything that waits on it. Its handlers are dropped.
    ///
    /// # Errors
    ///
    /// [`DetachError::Unknown`] when it is not in the loop (any more); [`DetachError::InUse`] when it is in use: an
    /// event of it or an [`Attached`] is alive. In its own message handler use [`detach`](EventLoop::detach).
    pub fn remove(&self, port: PortId) -> Result<MessagePort, DetachError> {
        let entry = self.entry(port).ok_or(DetachError::Unknown)?;
        if entry.slot.is_used() {
            return Err(DetachError::InUse);
        }
        let port = entry.slot.take().ok_or(DetachError::Unknown)?;
        port.doorbell.remove_from(&self.epoll);
        port.stand_down_all();
        entry.place.set(Place::Gone);
        self.sources.borrow_mut().remove(&entry.slot.id().0);
        entry.forget_handlers();
        Ok(port)
    }

    /// Takes out of the loop the very port whose handler runs, giving up its event: so a port can be transferred
    /// from inside its own message handler. The rest of its queue goes with it.
    ///
    /// # Errors
    ///
    /// As [`remove`](EventLoop::remove): when an [`Attached`] of the port is alive, or the event is another
    /// loop's. The event is given up all the same.
    pub fn detach(&self, event: PortEvent<'_>) -> Result<MessagePort, DetachError> {
        let port = event.id();
        drop(event);
        self.remove(port)
    }

    fn entry(&self, port: PortId) -> Option<Rc<Entry<'h>>> {
        match self.sources.borrow().get(&port.0) {
            Some(Source::Port(entry)) => Some(Rc::clone(entry)),
            _ => None,
        }
    }
}

/// The loop's own descriptor, for a loop around it: readable, level-triggered, when
/// [`run_once`](EventLoop::run_once) has something to do. From the first call on the loop keeps it so whenever it
/// does not run.
impl AsFd for EventLoop<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        if !self.nested.replace(true) {
            self.stir();
        }
        self.epoll.0.as_fd()
    }
}

impl AsRawFd for EventLoop<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for EventLoop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop")
            .field("sources", &self.len())
            .field("ready", &self.ready.borrow().len())
            .field("watched", &self.watched.borrow().len())
            .finish_non_exhaustive()
    }
}
