//! Receiving, and what a message shows.
//!
//! Unsafe relies on: a message keeps alive what it shows, the handle of its port or the loop that the port is in, and says
//! in the handle that the port is lent.

use crate::arguments::{Patience, given, given_mut, invalid, output, patience, slice};
use crate::failure::{Answer, Failure, answer};
use crate::port::{Attachment, ringport_port};
use crate::post::handles;
use crate::status::*;
use ringport_rs::{MessageEvent, MessagePort, OwnedMessageEvent, PortEvent, wait_any};
use std::ffi::c_void;
use std::mem;
use std::ptr;
use std::rc::Rc;

/// A message that has arrived.
pub struct ringport_message {
    /// A copy. One that was freed is kept for the next message. What it shows is not noted beside it: it was written just now,
    /// in two words, which the CPU does not forward to who copies them as a pair.
    copied: Option<OwnedMessageEvent>,
    // Boxed, since it is rare, and every message is moved about.
    lent: Option<Box<Lent>>,
    /// Those that came along; emptied one by one.
    ports: Vec<Option<MessagePort>>,
    /// Where it came from: to be told when it ends.
    from: Option<Rc<ringport_port>>,
}

/// A message that is shown in place.
enum Lent {
    Here(MessageEvent<'static>, Option<Attachment>),
    InLoop(PortEvent<'static>, Attachment),
}

impl Lent {
    fn bytes(&self) -> &[u8] {
        match self {
            Lent::Here(event, _) => event.bytes(),
            Lent::InLoop(event, _) => event.bytes(),
        }
    }
}

impl ringport_message {
    #[cold]
    fn new() -> Box<ringport_message> {
        Box::new(ringport_message {
            copied: None,
            lent: None,
            ports: Vec::new(),
            from: None,
        })
    }

    /// Gives the memory of the message that was here before to the port that will need it.
    #[inline(always)]
    fn feed(&mut self, port: &MessagePort) {
        if let Some(event) = self.copied.take() {
            port.reuse(event);
        }
    }

    #[inline(always)]
    fn bring(&mut self, count: usize, take: impl FnOnce() -> Vec<MessagePort>) {
        if count != 0 {
            self.ports = take().into_iter().map(Some).collect();
        }
    }

    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        match (&self.copied, &self.lent) {
            (Some(event), _) => event.bytes(),
            (None, Some(lent)) => lent.bytes(),
            (None, None) => &[],
        }
    }

    /// Makes it the message that C gets.
    #[inline(always)]
    fn hand_out(mut self: Box<Self>, from: Rc<ringport_port>) -> *mut ringport_message {
        if self.lent.is_some() {
            from.lent.set(from.lent.get() + 1);
        }
        self.from = Some(from);
        Box::into_raw(self)
    }
}

impl ringport_port {
    /// The last message that was freed, or a new one.
    #[inline(always)]
    fn shell(&self) -> Box<ringport_message> {
        self.spare.take().unwrap_or_else(ringport_message::new)
    }

    /// The message that a loop has brought to a handle, for C.
    pub(crate) unsafe fn message_in_loop(
        handle: *const ringport_port,
        event: PortEvent<'_>,
    ) -> *mut ringport_message {
        let this = ringport_port::share(handle);
        let mut shell = this.shell();
        shell.feed(event.port());
        shell.bring(event.port_count(), || event.take_ports());
        let attachment = if event.is_in_place() {
            this.attach().ok()
        } else {
            None
        };
        match attachment {
            Some(attachment) => {
                // The attachment keeps what the event borrows from, and is dropped after it.
                let event = mem::transmute::<PortEvent<'_>, PortEvent<'static>>(event);
                shell.lent = Some(Box::new(Lent::InLoop(event, attachment)));
            }
            None => shell.copied = Some(event.into_owned()),
        }
        shell.hand_out(this)
    }

    /// Receives a message into `shell`.
    #[inline(always)]
    unsafe fn receive(&self, shell: &mut ringport_message, timeout_ns: i64) -> Answer<()> {
        self.with(|port| {
            shell.feed(port);
            let event = match patience(timeout_ns) {
                Patience::Endless => port.recv()?,
                Patience::None => port.try_recv()?.ok_or(Failure::NotYet)?,
                Patience::For(time) => port.recv_timeout(time)?.ok_or(Failure::NotYet)?,
            };
            shell.bring(event.port_count(), || event.take_ports());
            if event.is_in_place() {
                return self.lend_event(shell, event);
            }
            shell.copied = Some(event.into_owned());
            Ok(())
        })
    }

    #[cold]
    unsafe fn lend_event(
        &self,
        shell: &mut ringport_message,
        event: MessageEvent<'_>,
    ) -> Answer<()> {
        // The handle keeps the port, or the attachment does, and is dropped after the event.
        let event = mem::transmute::<MessageEvent<'_>, MessageEvent<'static>>(event);
        let attachment = match self.in_loop() {
            Some(_) => Some(self.attach()?),
            None => None,
        };
        shell.lent = Some(Box::new(Lent::Here(event, attachment)));
        Ok(())
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
        if let Err(failure) = handle.receive(&mut shell, timeout_ns) {
            handle.spare.set(Some(shell));
            return Err(failure);
        }
        output.write(shell.hand_out(ringport_port::share(port)));
        Ok(())
    })
}

/// Waits until one of a handful of ports has a message, or its channel has ended, and says which: its index in `ports`.
/// When several are ready they take turns. A port whose channel has ended is ready from then on: leave it out. It takes one
/// more descriptor a port. For more than a few dozen there is the event loop.
///
/// Answers RINGPORT_NOT_YET if the time was over before; RINGPORT_INVALID if there is no port; RINGPORT_CLOSED if one of them was
/// in a loop and ended there; RINGPORT_SYSTEM.
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

/// The message's bytes, aligned to 16. They stay as they are, and where they are, until the message is freed or made owned.
/// NULL only for NULL.
///
/// They are a private copy, unless the port trusts its peer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_message_data(message: *const ringport_message) -> *const c_void {
    message
        .as_ref()
        .map_or(ptr::null(), |message| message.bytes().as_ptr().cast())
}

/// The message's length in bytes. 0 for NULL, and for an empty message, which is a message all the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_message_len(message: *const ringport_message) -> usize {
    message.as_ref().map_or(0, |message| message.bytes().len())
}

/// Whether this shows the ring itself and not a copy: see ringport_port_trust_peer. False for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_message_is_in_place(message: *const ringport_message) -> bool {
    message
        .as_ref()
        .is_some_and(|message| message.lent.is_some())
}

/// How many ports came with the message, taken or not. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_message_port_count(message: *const ringport_message) -> usize {
    message.as_ref().map_or(0, |message| message.ports.len())
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
        let (message, output) = (given_mut(message, "message")?, output(port, "port")?);
        let count = message.ports.len();
        let Some(slot) = message.ports.get_mut(index) else {
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
        let message = given_mut(message, "message")?;
        if let Some(lent) = message.lent.take() {
            let (owned, attachment) = match *lent {
                Lent::Here(event, attachment) => (event.into_owned(), attachment),
                Lent::InLoop(event, attachment) => (event.into_owned(), Some(attachment)),
            };
            drop(attachment);
            message.copied = Some(owned);
            if let Some(from) = &message.from {
                from.lent.set(from.lent.get() - 1);
            }
        }
        message.from = None;
        Ok(())
    })
}

/// Frees a message. Ports in it that were not taken are closed. NULL is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_message_free(message: *mut ringport_message) {
    if message.is_null() {
        return;
    }
    let mut message = Box::from_raw(message);
    if message.lent.is_some() || !message.ports.is_empty() {
        return free_slowly(*message);
    }
    match message.from.take() {
        Some(from) if Rc::strong_count(&from) > 1 => {
            let handle = Rc::into_raw(from);
            // Not the last owner, as was just seen.
            Rc::decrement_strong_count(handle);
            // The next message takes its place.
            if let Some(other) = (*handle).spare.replace(Some(message)) {
                free_slowly(*other);
            }
        }
        from => {
            message.from = from;
            free_slowly(*message);
        }
    }
}

#[cold]
fn free_slowly(message: ringport_message) {
    answer(|| {
        if let (Some(_), Some(from)) = (&message.lent, &message.from) {
            from.lent.set(from.lent.get() - 1);
        }
        // What is shown in place goes before the handle that it came from.
        drop(message);
        Ok(())
    });
}
