//! Where a listener or a process is: behind its handle, or in a loop.

use super::ringport_loop;
use crate::failure::{Answer, Failure};
use crate::status::*;
use std::cell::RefCell;
use std::rc::{Rc, Weak};

pub(crate) struct Home<T, Id>(RefCell<Place<T, Id>>);

enum Place<T, Id> {
    Here(T),
    InLoop(Weak<ringport_loop>, Id),
    Gone,
}

impl<T, Id: Copy> Home<T, Id> {
    pub(crate) fn new(what: T) -> Home<T, Id> {
        Home(RefCell::new(Place::Here(what)))
    }

    /// Calls with what is behind the handle.
    pub(crate) fn with<R>(&self, call: impl FnOnce(&mut T) -> Answer<R>) -> Answer<R> {
        match &mut *self.0.borrow_mut() {
            Place::Here(what) => call(what),
            Place::InLoop(events, _) if events.upgrade().is_none_or(|events| events.is_over()) => {
                Err(gone())
            }
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
        add: impl FnOnce(T) -> Result<Id, Box<(T, Failure)>>,
    ) -> Answer<()> {
        self.with(|_| Ok(()))?;
        let Place::Here(what) = self.0.replace(Place::Gone) else {
            return Err(gone());
        };
        let (place, answer) = match add(what) {
            Ok(id) => (Place::InLoop(Rc::downgrade(events), id), Ok(())),
            Err(refused) => {
                let (what, failure) = *refused;
                (Place::Here(what), Err(failure))
            }
        };
        self.0.replace(place);
        answer
    }

    /// Takes it out of the loop by `take`, which gives `None` if it is not in it.
    pub(super) fn come_back(
        &self,
        events: &ringport_loop,
        take: impl FnOnce(&ringport_loop, Id) -> Option<T>,
    ) -> Answer<()> {
        self.check_kept()?;
        if self.return_from(events, take) {
            Ok(())
        } else {
            Err(Failure::new(
                RINGPORT_NOT_IN_LOOP,
                "it is not in this event loop",
            ))
        }
    }

    /// The same, and says whether it was in the loop.
    pub(super) fn return_from(
        &self,
        events: &ringport_loop,
        take: impl FnOnce(&ringport_loop, Id) -> Option<T>,
    ) -> bool {
        let id = match &*self.0.borrow() {
            Place::InLoop(its_loop, id) if std::ptr::eq(its_loop.as_ptr(), events) => *id,
            _ => return false,
        };
        let Some(what) = take(events, id) else {
            return false;
        };
        self.0.replace(Place::Here(what));
        true
    }

    fn check_kept(&self) -> Answer<()> {
        match &*self.0.borrow() {
            Place::InLoop(events, _) if events.upgrade().is_none_or(|events| events.is_over()) => {
                Err(gone())
            }
            _ => Ok(()),
        }
    }

    /// Sees to it that it is in no loop, as its handle is freed.
    pub(crate) fn leave(&self, take: impl FnOnce(&ringport_loop, Id) -> Option<T>) {
        if let Some((events, id)) = self.in_loop() {
            let what = take(&events, id);
            self.0.replace(Place::Gone);
            drop(what);
        }
    }

    /// It has left the loop by ending.
    pub(super) fn ended(&self) {
        self.0.replace(Place::Gone);
    }

    fn in_loop(&self) -> Option<(Rc<ringport_loop>, Id)> {
        match &*self.0.borrow() {
            Place::InLoop(events, id) => Some((events.upgrade()?, *id)),
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
