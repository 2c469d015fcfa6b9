//! A port's turn: a bounded number of its messages, each to its handler, and the close after the last.

use super::handlers::{Entry, OnMessage, Place};
use super::slot::{PortEvent, Use};
use super::{CloseEvent, EventLoop, MessageErrorEvent};
use crate::error::{CloseReason, DetachError, RecvError};
use crate::port::MessagePort;
use std::rc::Rc;
use std::time::Duration;

/// Messages a turn.
pub(super) const BUDGET: usize = 64;
/// How long a port rests on which a message cannot be received for lack of descriptors, memory or maps.
pub(super) const REST: Duration = Duration::from_millis(10);

/// What a port may have of its turn.
struct Share {
    /// Messages.
    left: usize,
    /// The position up to which messages waited when it began, if there were more than one.
    until: Option<u64>,
}

/// Why a handler gets no more messages.
enum Pause {
    /// The turn is over.
    Over,
    /// There is another one.
    Replaced,
}

/// A turn under way. Its end, also by a panic of the handler, finds the port its next place.
struct Turn<'t, 'h> {
    events: &'t EventLoop<'h>,
    entry: &'t Rc<Entry<'h>>,
}

impl Drop for Turn<'_, '_> {
    fn drop(&mut self) {
        self.events.find_place(self.entry);
    }
}

impl<'h> EventLoop<'h> {
    /// Gives a port its turn, and says whether anything was to be done.
    pub(super) fn take_turn(&self, entry: &Rc<Entry<'h>>) -> bool {
        if entry.place.get() != Place::Ready {
            return false;
        }
        entry.place.set(Place::Running);
        entry.served.set(self.round.get());
        let _turn = Turn {
            events: self,
            entry,
        };
        let on_room = Use::of(&entry.slot).and_then(|used| entry.take_on_room(used.port()));
        let Some(on_room) = on_room else {
            return self.dispatch(entry, None);
        };
        // What it posts to itself comes in a later turn.
        let until = Use::of(&entry.slot).and_then(|used| waiting(used.port()));
        on_room(self, entry.slot.id());
        if is_short_of(entry, until) && !self.is_over() {
            self.dispatch(entry, until);
        }
        true
    }

    /// Calls the message handler for each message that waited when the turn began (up to there, if that is known), as
    /// far as the budget goes.
    fn dispatch(&self, entry: &Rc<Entry<'h>>, until: Option<u64>) -> bool {
        if !entry.is_enabled() {
            let end = Use::of(&entry.slot).and_then(|used| used.port().end());
            return end.is_some_and(|reason| self.end(entry, reason));
        }
        let mut share = Share {
            left: BUDGET,
            until,
        };
        let outcome = loop {
            let outcome = entry
                .on_message
                .run(|handler| self.dispatch_to(handler, entry, &mut share));
            if !matches!(outcome, Some(Ok(Pause::Replaced))) {
                break outcome;
            }
        };
        match outcome {
            Some(Ok(_) | Err(RecvError::Forked)) | None => share.left < BUDGET,
            Some(Err(RecvError::Closed(reason))) => self.end(entry, reason),
            Some(Err(error)) => self.rest(entry, error),
        }
    }

    /// The same for one handler.
    ///
    /// An event goes from where it is made to its handler without being looked at: it would be written to memory
    /// in words and read back in pairs, which the CPU does not forward before all that was written has left it.
    #[inline(always)]
    fn dispatch_to(
        &self,
        handler: &mut OnMessage<'h>,
        entry: &Rc<Entry<'h>>,
        share: &mut Share,
    ) -> Result<Pause, RecvError> {
        loop {
            let Some(event) = PortEvent::receive(&entry.slot)? else {
                return Ok(Pause::Over);
            };
            self.dispatched.set(self.dispatched.get() + 1);
            if share.left == BUDGET && share.until.is_none() {
                share.until = Use::of(&entry.slot).and_then(|used| waiting(used.port()));
            }
            share.left -= 1;
            handler(self, event);
            if !is_short_of(entry, share.until) || share.left == 0 || self.is_over() {
                return Ok(Pause::Over);
            }
            if entry.on_message.is_newer() {
                return Ok(Pause::Replaced);
            }
        }
    }

    /// The channel has ended, and everything was dispatched: tells the handler, unless it was ended here, and lets
    /// the port go.
    fn end(&self, entry: &Rc<Entry<'h>>, reason: CloseReason) -> bool {
        struct Leave<'t, 'h>(&'t EventLoop<'h>, &'t Rc<Entry<'h>>, CloseReason);
        impl Drop for Leave<'_, '_> {
            fn drop(&mut self) {
                let Leave(events, entry, reason) = self;
                let port = entry.slot.id();
                entry.tell_leave(*reason);
                if let Err(DetachError::InUse) = events.remove(port) {
                    // Its handler has forgotten an event (`mem::forget`), which nobody can use any more.
                    entry.place.set(Place::Gone);
                    let _source = events.sources.borrow_mut().remove(&port.0);
                    entry.forget_handlers();
                }
            }
        }
        let port = entry.slot.id();
        let _leave = Leave(self, entry, reason);
        if reason != CloseReason::ClosedHere {
            let event = CloseEvent { port, reason };
            entry.on_close.run(|handler| handler(self, event));
        }
        true
    }

    /// Receiving has failed for lack of something: nothing is lost, and it is tried again in a while.
    fn rest(&self, entry: &Rc<Entry<'h>>, error: RecvError) -> bool {
        entry.place.set(Place::Resting);
        let port = entry.slot.id();
        self.set_timeout(REST, move |events| {
            if let Some(entry) = events.entry(port) {
                if entry.place.get() == Place::Resting {
                    events.make_ready(&entry);
                }
            }
        });
        self.message_error(MessageErrorEvent::Receive { port, error });
        true
    }

    /// Calls the message-error handler.
    pub(super) fn message_error(&self, event: MessageErrorEvent<'_>) {
        if let Some(entry) = self.entry(event.port()) {
            entry.on_message_error.run(|handler| handler(self, event));
        }
    }

    fn find_place(&self, entry: &Rc<Entry<'h>>) {
        if entry.place.get() != Place::Running || !self.home.is_here() {
            return;
        }
        let Some(used) = Use::of(&entry.slot) else {
            return entry.place.set(Place::Gone);
        };
        let port = used.port();
        // Watched or ready, it looks for itself.
        port.doorbell.has_read();
        let wants = entry.wants();
        if port.ended_here() || wants != 0 && entry.is_ready(port) {
            self.make_ready(entry);
        } else if wants != 0 {
            port.zero_ahead(wants);
            self.watch(entry);
        } else {
            entry.place.set(Place::Quiet);
            self.tune(entry, port);
        }
    }
}

/// Whether the port is still here and has not received up to that position.
#[inline(always)]
fn is_short_of(entry: &Entry<'_>, until: Option<u64>) -> bool {
    Use::of(&entry.slot)
        .zip(until)
        .is_some_and(|(used, until)| until.wrapping_sub(used.port().consumer.position()) as i64 > 0)
}

/// Up to where messages wait, by the peer's word; `None` if there are none.
///
/// Of those that come later none is dispatched in the same turn: not even those that the handler posts to
/// itself, so that it cannot keep its turn.
fn waiting(port: &MessagePort) -> Option<u64> {
    // The peer's line is fetched only if there is something.
    let more = port.consumer.has_news();
    // PEER: any value is possible; a wrong one makes the turn shorter or as long as the budget.
    more.then(|| port.doorbell.signal().peer_write_position())
}
