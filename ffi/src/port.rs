//! The handle of a port: where the port is now, what of it is under way, and how it ends.
//!
//! A handle outlives its port: when that is sent away, what stays says so. Messages share the handle, so that one which
//! shows the ring stays valid when the handle was freed.
//!
//! Unsafe relies on: a reference to the port for longer than a call is made by `lend` only, and the port stays where it is
//! as long as `is_lent` says that there is one, which its holders keep true.

use crate::arguments::{given, invalid, output};
use crate::event_loop::{Resident, ringport_loop};
use crate::failure::{Answer, Failure, answer, answer_or};
use crate::receive::ringport_message;
use crate::status::*;
use ringport_rs::{Attached, Batch, CloseReason, MessagePort, PortId, Slot};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem;
use std::rc::{Rc, Weak};

/// One end of a channel.
pub struct ringport_port {
    /// The reservation that is open. Dropped before the port.
    pub(crate) open: RefCell<Option<Open>>,
    /// Messages that are shown in place.
    pub(crate) lent: Cell<usize>,
    /// The last message that was freed, for the next one.
    pub(crate) spare: Cell<Option<Box<ringport_message>>>,
    place: RefCell<Place>,
}

/// Where the port is. It is here almost always, so it is not boxed.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Place {
    Here(MessagePort),
    InLoop(Weak<ringport_loop>, PortId, Resident<ringport_port>),
    /// With somebody else.
    Moved,
    /// It has left its loop, and is no more.
    Ended(CloseReason),
}

/// A reservation under way.
pub(crate) struct Open {
    // Dropped before what it borrows from.
    pub(crate) what: Reserved,
    pub(crate) attachment: Option<Attachment>,
}

pub(crate) enum Reserved {
    Slot(Slot<'static>),
    Batch(Batch<'static>),
}

/// The use of a port that is in a loop: as long as this lives the port is not taken out.
pub(crate) struct Attachment {
    // Dropped before the loop that it borrows.
    pub(crate) attached: Attached<'static, 'static>,
    events: Rc<ringport_loop>,
}

impl Attachment {
    pub(crate) fn new(events: Rc<ringport_loop>, port: PortId) -> Option<Attachment> {
        let attached = events.events().port(port)?;
        // SAFETY: the loop that it borrows lives as long as this does, and is dropped after it.
        let attached = unsafe {
            mem::transmute::<Attached<'_, 'static>, Attached<'static, 'static>>(attached)
        };
        Some(Attachment { attached, events })
    }
}

impl ringport_port {
    /// A handle for C, which owns it.
    pub(crate) fn new(port: MessagePort) -> *mut ringport_port {
        let handle = ringport_port {
            open: RefCell::new(None),
            lent: Cell::new(0),
            spare: Cell::new(None),
            place: RefCell::new(Place::Here(port)),
        };
        Rc::into_raw(Rc::new(handle)).cast_mut()
    }

    /// One more owner of a handle that C has.
    #[inline(always)]
    pub(crate) unsafe fn share(handle: *const ringport_port) -> Rc<ringport_port> {
        Rc::increment_strong_count(handle);
        Rc::from_raw(handle)
    }

    /// Calls with the port, wherever that is. There is one call, so that it is inlined.
    #[inline(always)]
    pub(crate) fn with<R>(&self, call: impl FnOnce(&MessagePort) -> Answer<R>) -> Answer<R> {
        let place = self.place.borrow();
        let attachment;
        let port: &MessagePort = match &*place {
            Place::Here(port) => port,
            _ => {
                attachment = self.attach()?;
                &attachment.attached
            }
        };
        call(port)
    }

    /// The port in its loop.
    #[cold]
    pub(crate) fn attach(&self) -> Answer<Attachment> {
        let (events, id) = match &*self.place.borrow() {
            Place::InLoop(events, id, _) => (events.upgrade(), *id),
            Place::Here(_) => {
                return Err(Failure::new(
                    RINGPORT_NOT_IN_LOOP,
                    "the port is in no event loop",
                ));
            }
            Place::Moved => return Err(moved()),
            Place::Ended(reason) => return Err(closed(*reason)),
        };
        let attachment = events.and_then(|events| Attachment::new(events, id));
        // Of any other end its loop has told this handle.
        attachment.ok_or_else(|| closed(CloseReason::ClosedHere))
    }

    /// Why the port is no more, if it has left its loop by ending, or with it.
    fn ended(&self) -> Option<CloseReason> {
        match &*self.place.borrow() {
            Place::Ended(reason) => Some(*reason),
            _ => None,
        }
    }

    /// Calls with the port as its loop has it.
    pub(crate) fn with_attached(
        &self,
        call: impl FnOnce(&Attached<'static, 'static>, &Rc<ringport_loop>),
    ) -> Answer<()> {
        let attachment = self.attach()?;
        call(&attachment.attached, &attachment.events);
        Ok(())
    }

    /// The port for longer than a call. Who has it sees to it that `is_lent` says so, and keeps the handle.
    pub(crate) unsafe fn lend(&self) -> Answer<(&'static MessagePort, Option<Attachment>)> {
        if let Place::Here(port) = &*self.place.borrow() {
            return Ok((&*std::ptr::from_ref(port), None));
        }
        let attachment = self.attach()?;
        let port: &MessagePort = &attachment.attached;
        Ok((&*std::ptr::from_ref(port), Some(attachment)))
    }

    fn is_lent(&self) -> bool {
        self.lent.get() != 0 || self.open.borrow().is_some()
    }

    /// Whether the port could be taken now.
    pub(crate) fn check_free(&self) -> Answer<()> {
        if let Some(reason) = self.ended() {
            return Err(closed(reason));
        }
        match &*self.place.borrow() {
            Place::Here(_) if self.open.borrow().is_some() => Err(busy(
                "a reservation or a batch of the port is open: commit, publish or abort it first",
            )),
            Place::Here(_) if self.lent.get() != 0 => Err(busy(
                "messages of the port are shown in place: free them, or make them owned, first",
            )),
            Place::Here(_) => Ok(()),
            Place::InLoop(..) => Err(busy("the port is in an event loop: take it out first")),
            Place::Moved => Err(moved()),
            Place::Ended(reason) => Err(closed(*reason)),
        }
    }

    pub(crate) fn check_not_moved(&self) -> Answer<()> {
        match &*self.place.borrow() {
            Place::Moved => Err(moved()),
            _ => Ok(()),
        }
    }

    /// That the port is there to be sent, and not gone with its end.
    pub(crate) fn check_not_ended(&self, name: fmt::Arguments<'_>) -> Answer<()> {
        match self.ended() {
            Some(reason) => Err(Failure::new(
                RINGPORT_CLOSED_PORT,
                format!("{name} has ended before: {reason}"),
            )),
            None => Ok(()),
        }
    }

    /// Why a call that needs what is open has failed, if the port has gone, and `otherwise` if not.
    #[cold]
    pub(crate) fn nothing_open(&self, otherwise: fmt::Arguments<'_>) -> Failure {
        match &*self.place.borrow() {
            Place::Moved => moved(),
            Place::Ended(reason) => closed(*reason),
            _ => invalid(otherwise),
        }
    }

    /// Takes the port out of its handle, which is dead from then on.
    pub(crate) fn take(&self) -> Answer<MessagePort> {
        self.check_free()?;
        match self.place.replace(Place::Moved) {
            Place::Here(port) => Ok(port),
            // Not so, as was just seen.
            other => {
                self.place.replace(other);
                Err(moved())
            }
        }
    }

    /// Undoes `take`.
    pub(crate) fn put_back(&self, port: MessagePort) {
        self.set(Place::Here(port));
    }

    pub(crate) fn set(&self, place: Place) {
        let before = self.place.replace(place);
        if let Place::InLoop(_, _, resident) = &before {
            resident.leave();
        }
        drop(before);
    }

    /// What the handlers of its loop know of it.
    pub(crate) fn resident(&self) -> Option<Resident<ringport_port>> {
        match &*self.place.borrow() {
            Place::InLoop(_, _, resident) => Some(resident.clone()),
            _ => None,
        }
    }

    /// In which loop the port is, and as what.
    pub(crate) fn in_loop(&self) -> Option<(Rc<ringport_loop>, PortId)> {
        match &*self.place.borrow() {
            Place::InLoop(events, id, _) => Some((events.upgrade()?, *id)),
            _ => None,
        }
    }

    /// Ends the port, now or with the last message that shows its ring.
    fn give_up(&self) {
        drop(self.open.take());
        if let Some((events, id)) = self.in_loop() {
            // No more callbacks with this handle.
            self.resident().iter().for_each(Resident::leave);
            if let Ok(port) = events.events().remove(id) {
                self.set(Place::Moved);
                drop(port);
                return;
            }
        }
        if self.is_lent() || self.in_loop().is_some() {
            let _ = self.with(|port| {
                port.close();
                Ok(())
            });
        } else {
            self.set(Place::Moved);
        }
    }
}

fn busy(why: &'static str) -> Failure {
    Failure::new(RINGPORT_BUSY, why)
}

#[cold]
fn moved() -> Failure {
    Failure::new(
        RINGPORT_DETACHED,
        "the port has moved away from this handle",
    )
}

#[cold]
pub(crate) fn closed(reason: CloseReason) -> Failure {
    Failure::new(RINGPORT_CLOSED, format!("the channel is closed: {reason}"))
}

/// Frees a port's handle, and closes the port if it is still behind it. That works anywhere: also in a loop, out of which
/// it is taken, and in the port's own callbacks. Messages that came from the port stay valid. NULL is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_free(port: *mut ringport_port) {
    answer(|| {
        if !port.is_null() {
            let port = Rc::from_raw(port.cast_const());
            port.give_up();
        }
        Ok(())
    });
}

/// Ends the channel for both ends. The peer still receives what was posted before; what this side has not received yet is
/// discarded, and ports in it are closed. Closing twice does nothing more. The handle is still to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_close(port: *mut ringport_port) -> ringport_status {
    answer(|| {
        let port = given(port, "port")?;
        // One that its loop has let go has ended.
        if port.ended().is_some() {
            return Ok(());
        }
        port.with(|port| {
            port.close();
            Ok(())
        })
    })
}

/// Why a channel has ended.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ringport_close_reason {
    /// It has not, as far as can be known now.
    RINGPORT_OPEN = 0,
    /// This port was closed by its holder.
    RINGPORT_CLOSED_HERE = 1,
    /// The peer was closed, or freed, in good order.
    RINGPORT_CLOSED_BY_PEER = 2,
    /// The peer is gone without having closed: its process died, or nobody ever received it.
    RINGPORT_PEER_GONE = 3,
    /// The peer wrote what no ringport writes. The channel was ended here, to be safe.
    RINGPORT_CORRUPT = 4,
}

impl From<CloseReason> for ringport_close_reason {
    fn from(reason: CloseReason) -> ringport_close_reason {
        match reason {
            CloseReason::ClosedHere => ringport_close_reason::RINGPORT_CLOSED_HERE,
            CloseReason::ClosedByPeer => ringport_close_reason::RINGPORT_CLOSED_BY_PEER,
            CloseReason::PeerGone => ringport_close_reason::RINGPORT_PEER_GONE,
            CloseReason::Corrupt => ringport_close_reason::RINGPORT_CORRUPT,
        }
    }
}

/// Says why the channel has ended, or RINGPORT_OPEN. Messages may still wait to be received.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_close_reason(
    port: *const ringport_port,
    reason: *mut ringport_close_reason,
) -> ringport_status {
    answer(|| {
        let (port, output) = (given(port, "port")?, output(reason, "reason")?);
        let reason = match port.ended() {
            None => port.with(|port| Ok(port.close_reason()))?,
            ended => ended,
        };
        output.write(reason.map_or(ringport_close_reason::RINGPORT_OPEN, Into::into));
        Ok(())
    })
}

/// Bytes of the ring in which the port posts. 0 if there is no port behind the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_capacity(port: *const ringport_port) -> usize {
    answer_or(0, || given(port, "port")?.with(|port| Ok(port.capacity())))
}

/// The longest message that can be posted, in bytes: half the capacity less 24. Ports that go with it (16 bytes and up, with
/// their number) and an alignment beyond 16 take some of that: ringport_last_error then names what is left. 0 if there is no
/// port behind the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_max_message_len(port: *const ringport_port) -> usize {
    answer_or(0, || {
        given(port, "port")?.with(|port| Ok(port.max_message_len()))
    })
}

/// Bytes that wait to be received, headers and padding included; 0 if nothing does. While the peer posts it may lag behind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_pending(port: *const ringport_port) -> usize {
    answer_or(0, || given(port, "port")?.with(|port| Ok(port.pending())))
}
