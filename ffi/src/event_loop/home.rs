//! Where a thing with a handle is: behind that, or in a loop.
//!
//! A handle that is in no loop may be another thread's, so what leaves a loop keeps nothing of it: the loop tells the handle,
//! in the loop's thread, whatever makes it leave.

use super::ringport_loop;
use crate::failure::{Answer, Failure};
use crate::status::*;
use std::cell::{Cell, RefCell};
use std::ptr;
use std::rc::{Rc, Weak};

/// What the handlers of a loop know of a handle: where it is, or NULL once it has nothing to do with the loop any more. They
/// own nothing of it, so that it can be handed to another thread from inside one of them.
pub(crate) struct Resident<H>(Rc<Cell<*const H>>);

impl<H> Resident<H> {
    pub(crate) fn new(handle: *const H) -> Resident<H> {
        Resident(Rc::new(Cell::new(handle)))
    }

    /// The handle; NULL if it has left.
    pub(crate) fn pointer(&self) -> *mut H {
        self.0.get().cast_mut()
    }

    /// The handle, if it has not left.
    pub(crate) fn get(&self) -> Option<&H> {
        // SAFETY: it is NULL as soon as the handle is freed, or leaves the loop for another thread.
        unsafe { self.0.get().as_ref() }
    }

    pub(crate) fn leave(&self) {
        self.0.set(ptr::null());
    }
}

impl<H> Clone for Resident<H> {
    fn clone(&self) -> Resident<H> {
        Resident(Rc::clone(&self.0))
    }
}

/// Of a listener or a process. Ports have a place of their own, since they are used in a loop too.
pub(crate) struct Home<T, Id>(RefCell<Place<T, Id>>);

enum Place<T, Id> {
    Here(T),
    InLoop(Weak<ringport_loop>, Id, Resident<Home<T, Id>>),
    Gone,
}

/// Goes with the callback. As that is dropped, what it is for has left the loop.
pub(super) struct Stay<T, Id>(Resident<Home<T, Id>>);

impl<T, Id> Drop for Stay<T, Id> {
    fn drop(&mut self) {
        if let Some(home) = self.0.get() {
            home.set(Place::Gone);
        }
    }
}

impl<T, Id> Home<T, Id> {
    pub(crate) fn new(what: T) -> Home<T, Id> {
        Home(RefCell::new(Place::Here(what)))
    }

    fn set(&self, place: Place<T, Id>) {
        let before = self.0.replace(place);
        if let Place::InLoop(_, _, resident) = &before {
            resident.leave();
        }
        drop(before);
    }
}

impl<T, Id: Copy> Home<T, Id> {
    /// Calls with what is behind the handle.
    pub(crate) fn with<R>(&self, call: impl FnOnce(&mut T) -> Answer<R>) -> Answer<R> {
        match &mut *self.0.borrow_mut() {
            Place::Here(what) => call(what),
            Place::InLoop(..) => Err(Failure::new(
                RINGPORT_BUSY,
                "it is in an event loop: take it out first",
            )),
            Place::Gone => Err(gone()),
        }
    }

    /// Puts it into a loop by `add`, which gives it back if it fails.
    pub(super) fn enter(
        &self,
        events: &Rc<ringport_loop>,
        add: impl FnOnce(T, Stay<T, Id>) -> Result<Id, Box<(T, Failure)>>,
    ) -> Answer<()> {
        self.with(|_| Ok(()))?;
        let Place::Here(what) = self.0.replace(Place::Gone) else {
            return Err(gone());
        };
        let resident = Resident::new(self);
        match add(what, Stay(resident.clone())) {
            Ok(id) => {
                self.set(Place::InLoop(Rc::downgrade(events), id, resident));
                Ok(())
            }
            Err(refused) => {
                let (what, failure) = *refused;
                self.set(Place::Here(what));
                Err(failure)
            }
        }
    }

    /// Takes it out of the loop by `take`, which gives `None` if it is not in it.
    pub(super) fn come_back(
        &self,
        events: &ringport_loop,
        take: impl FnOnce(&ringport_loop, Id) -> Option<T>,
    ) -> Answer<()> {
        let what = match self.in_loop() {
            Some((its_loop, id)) if ptr::eq(&raw const *its_loop, events) => take(events, id),
            _ => None,
        };
        let Some(what) = what else {
            return Err(Failure::new(
                RINGPORT_NOT_IN_LOOP,
                "it is not in this event loop",
            ));
        };
        self.set(Place::Here(what));
        Ok(())
    }

    /// Sees to it that it is in no loop, as its handle is freed.
    pub(crate) fn leave(&self, take: impl FnOnce(&ringport_loop, Id) -> Option<T>) {
        if let Some((events, id)) = self.in_loop() {
            let what = take(&events, id);
            self.set(Place::Gone);
            drop(what);
        }
    }

    fn in_loop(&self) -> Option<(Rc<ringport_loop>, Id)> {
        match &*self.0.borrow() {
            Place::InLoop(events, id, _) => Some((events.upgrade()?, *id)),
            _ => None,
        }
    }
}

fn gone() -> Failure {
    Failure::new(
        RINGPORT_DETACHED,
        "it has ended with its event loop, or its end was told",
    )
}
