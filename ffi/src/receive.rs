//! Receiving, and what a message shows.
//!
//! Unsafe relies on: a message keeps alive what it shows, the handle of its port or the loop that the port is in, and says
//! in the handle that the port is lent.

use crate::arguments::{Patience, given, invalid, output, patience, slice};
use crate::failure::{Answer, Failure, answer, answer_or};
use crate::port::{Attachment, ringport_port};
use crate::post::handles;
use crate::status::*;
use ringport_rs::{MessageEvent, MessagePort, OwnedMessageEvent, PortEvent, wait_any};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::mem;
use std::ptr;
use std::rc::Rc;

/// A message that has arrived.
pub struct ringport_message {
    content: RefCell<Content>,
    /// Those that came along; emptied one by one.
    ports: RefCell<Vec<Option<MessagePort>>>,
    /// Where it came from: to be told when it ends.
    from: Cell<Option<Rc<ringport_port>>>,
}

enum Content {
    None,
    Copied(OwnedMessageEvent),
    Lent(MessageEvent<'static>, Option<Attachment>),
    LentInLoop(PortEvent<'static>, Attachment),
}

impl Content {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        match self {
            Content::None => &[],
            Content::Copied(event) => event.bytes(),
            Content::Lent(event, _) => event.bytes(),
            Content::LentInLoop(event, _) => event.bytes(),
        }
    }

    fn is_lent(&self) -> bool {
        matches!(self, Content::Lent(..) | Content::LentInLoop(..))
    }

    /// The message apart from its port.
    fn owned(self) -> Content {
        match self {
            Content::Lent(event, attachment) => {
                let owned = event.into_owned();
                drop(attachment);
                Content::Copied(owned)
            }
            Content::LentInLoop(event, attachment) => {
                let owned = event.into_owned();
                drop(attachment);
                Content::Copied(owned)
            }
            other => other,
        }
    }
}

impl ringport_message {
    fn new() -> Box<ringport_message> {
        Box::new(ringport_message {
            content: RefCell::new(Content::None),
            ports: RefCell::default(),
            from: Cell::new(None),
        })
    }

    /// Gives the memory of the message that was here before to the port that will need it.
    #[inline(always)]
    fn feed(&mut self, port: &MessagePort) {
        if let Content::Copied(event) = mem::replace(self.content.get_mut(), Content::None) {
            port.reuse(event);
        }
    }

    /// Makes it the message that C gets.
    #[inline(always)]
    fn fill(
        mut self: Box<Self>,
        content: Content,
        from: Rc<ringport_port>,
    ) -> *mut ringport_message {
        if content.is_lent() {
            from.lent.set(from.lent.get() + 1);
        }
        *self.content.get_mut() = content;
        self.from.set(Some(from));
        Box::into_raw(self)
    }

    #[inline(always)]
    fn bring(&mut self, count: usize, take: impl FnOnce() -> Vec<MessagePort>) {
        if count != 0 {
            *self.ports.get_mut() = take().into_iter().map(Some).collect();
        }
    }
}

impl ringport_port {
    /// The last message that was freed, or a new one.
    #[inline(always)]
    fn shell(&self) -> Box<ringport_message> {
        self.spare.take().unwrap_or_else(ringport_message::new)
    }

    /// The message that a loop has brought, for C.
    pub(crate) fn message_in_loop(self: &Rc<Self>, event: PortEvent<'_>) -> *mut ringport_message {
        let mut shell = self.shell();
        shell.feed(event.port());
        shell.bring(event.port_count(), || event.take_ports());
        let attachment = if event.is_in_place() {
            self.attach().ok()
        } else {
            None
        };
        let content = match attachment {
            Some(attachment) => {
                // SAFETY: the attachment keeps what the event borrows from, and is dropped after it.
                let event = unsafe { mem::transmute::<PortEvent<'_>, PortEvent<'static>>(event) };
                Content::LentInLoop(event, attachment)
            }
            None => Content::Copied(event.into_owned()),
        };
        shell.fill(content, Rc::clone(self))
    }
}

/// ## Receiving
///
/// Receives the next message, waiting at most `timeout_ns` nanoseconds (RINGPORT_NO_WAIT, RINGPORT_FOREVER). The caller
/// frees it. Several may be held at once.
///
/// Answers RINGPORT_NOT_YET if there is none in time; RINGPORT_CLOSED once the channel has ended and everything posted before
/// was received; RINGPORT_SYSTEM for want of descriptors, memory or maps: nothing was lost, the next call receives the same
/// message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_recv(
    port: *mut ringport_port,
    timeout_ns: i64,
    message: *mut *mut ringport_message,
) -> ringport_status {
    answer(|| {
        let (handle, output) = (given(port, "port")?, output(message, "message")?);
        let mut shell = handle.shell();
        let received = handle.with(|port| {
            shell.feed(port);
            let event = match patience(timeout_ns) {
                Patience::Endless => Some(port.recv()?),
                Patience::None => port.try_recv()?,
                Patience::For(time) => port.recv_timeout(time)?,
            };
            let event = event.ok_or(Failure::NotYet)?;
            shell.bring(event.port_count(), || event.take_ports());
            if !event.is_in_place() {
                return Ok(Content::Copied(event.into_owned()));
            }
            // The handle keeps the port, or the attachment does, and is dropped after the event.
            let event = mem::transmute::<MessageEvent<'_>, MessageEvent<'static>>(event);
            let attachment = if handle.in_loop().is_some() {
                Some(handle.attach()?)
            } else {
                None
            };
            Ok(Content::Lent(event, attachment))
        });
        match received {
            Ok(content) => {
                output.write(shell.fill(content, ringport_port::share(port)));
                Ok(())
            }
            Err(failure) => {
                handle.spare.set(Some(shell));
                Err(failure)
            }
        }
    })
}

/// Waits until one of a handful of ports has a message, or its channel has ended, and says which: its index in `ports`.
/// When several are ready they take turns. A port whose channel has ended is ready from then on: leave it out. It takes one
/// more descriptor a port. For more than a few dozen there is the event loop.
///
/// Answers RINGPORT_NOT_YET if the time was over before; RINGPORT_INVALID if there is no port; RINGPORT_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_wait_any(
    ports: *const *mut ringport_port,
    count: usize,
    timeout_ns: i64,
    index: *mut usize,
) -> ringport_status {
    answer(|| {
        let output = output(index, "index")?;
        let handles = handles(slice(ports, count, "ports")?)?;
        if handles.is_empty() {
            return Err(invalid(format_args!("there is no port to wait for")));
        }
        let lent = handles
            .iter()
            .map(|handle| handle.lend())
            .collect::<Answer<Vec<_>>>()?;
        let ports: Vec<&MessagePort> = lent.iter().map(|(port, _)| *port).collect();
        let ready = wait_any(&ports, patience(timeout_ns).limit())?;
        output.write(ready.ok_or(Failure::NotYet)?);
        Ok(())
    })
}

/// The message's bytes, aligned to 16. They stay as they are until it is freed. NULL only for NULL.
///
/// They are a private copy, unless the port trusts its peer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_message_data(message: *const ringport_message) -> *const c_void {
    answer_or(ptr::null(), || {
        Ok(given(message, "message")?
            .content
            .borrow()
            .bytes()
            .as_ptr()
            .cast())
    })
}

/// The message's length in bytes. 0 for NULL, and for an empty message, which is a message all the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_message_len(message: *const ringport_message) -> usize {
    answer_or(0, || {
        Ok(given(message, "message")?.content.borrow().bytes().len())
    })
}

/// Whether this shows the ring itself and not a copy: see ringport_port_trust_peer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_message_is_in_place(message: *const ringport_message) -> bool {
    answer_or(false, || {
        Ok(given(message, "message")?.content.borrow().is_lent())
    })
}

/// How many ports came with the message, taken or not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_message_port_count(message: *const ringport_message) -> usize {
    answer_or(0, || Ok(given(message, "message")?.ports.borrow().len()))
}

/// Takes a port that came with the message, by its index in the list that was posted. The caller frees it. It is not
/// trusted and in no loop, whatever it was before.
///
/// Answers RINGPORT_INVALID for an index beyond the last; RINGPORT_DETACHED if it was taken before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_message_take_port(
    message: *mut ringport_message,
    index: usize,
    port: *mut *mut ringport_port,
) -> ringport_status {
    answer(|| {
        let (message, output) = (given(message, "message")?, output(port, "port")?);
        let mut ports = message.ports.borrow_mut();
        let count = ports.len();
        let Some(slot) = ports.get_mut(index) else {
            return Err(invalid(format_args!(
                "there is no port {index}: {count} came with the message"
            )));
        };
        let Some(port) = slot.take() else {
            return Err(Failure::new(
                RINGPORT_DETACHED,
                format!("port {index} was taken out of the message before"),
            ));
        };
        output.write(ringport_port::new(port));
        Ok(())
    })
}

/// Sets the message apart from its port: from then on any thread may have it, and nothing of the ring is held. A message
/// that is a copy is not copied again; the bytes of one that was shown in place move.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_message_make_owned(
    message: *mut ringport_message,
) -> ringport_status {
    answer(|| {
        let message = given(message, "message")?;
        let content = message.content.replace(Content::None);
        let was_lent = content.is_lent();
        message.content.replace(content.owned());
        if let (Some(from), true) = (message.from.take(), was_lent) {
            from.lent.set(from.lent.get() - 1);
        }
        Ok(())
    })
}

/// Frees a message. Ports in it that were not taken are closed. NULL is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_message_free(message: *mut ringport_message) {
    answer(|| {
        if message.is_null() {
            return Ok(());
        }
        let mut message = Box::from_raw(message);
        if !message.ports.get_mut().is_empty() {
            drop(mem::take(message.ports.get_mut()));
        }
        if let Some(from) = message.from.take() {
            if message.content.get_mut().is_lent() {
                drop(mem::replace(message.content.get_mut(), Content::None));
                from.lent.set(from.lent.get() - 1);
            }
            // The next message takes its place.
            from.spare.set(Some(message));
        }
        Ok(())
    });
}
