//! The event loop, with callbacks.
//!
//! A handle that is in a loop leads to it, and the loop's handlers to the handle; the loop is shared by those who use
//! something of it, so it can be freed from inside a callback.

pub mod callback;
mod home;
pub mod running;
pub mod sources;

use crate::arguments::{given, output};
use crate::failure::{Answer, Failure, answer};
use crate::port::{Place, ringport_port};
use crate::process::ringport_child;
use crate::status::*;
use callback::{
    User, ringport_free_user, ringport_on_close, ringport_on_message, ringport_on_message_error,
    ringport_on_room,
};
use ringport_rs::{Attached, EventLoop, MessageErrorEvent};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::rc::Rc;

pub(crate) use home::{Home, Resident};

/// Ports, listeners, processes and timers, and callbacks for what happens to them, all on one thread.
pub struct ringport_loop {
    events: EventLoop<'static>,
    running: Cell<bool>,
    /// Whether C has freed it, though it still runs or something of it is in use.
    freed: Cell<bool>,
    /// The handles of the processes in it, each there until it is freed or its process has left.
    children: RefCell<BTreeSet<*const ringport_child>>,
}

impl ringport_loop {
    pub(crate) fn events(&self) -> &EventLoop<'static> {
        &self.events
    }

    /// Empties it for good, as C has freed it. Processes outlive their loop, so they return to their handles.
    unsafe fn clear(&self) {
        // One by one: what is freed with a callback may free handles, also this one, and those still listed leave the list.
        while let Some(child) = self.next_child() {
            Rc::increment_strong_count(child);
            let child = Rc::from_raw(child);
            let _ = child.home.come_back(self, ringport_loop::let_go_of_child);
        }
        self.events.clear_shared();
    }

    fn next_child(&self) -> Option<*const ringport_child> {
        self.children.borrow_mut().pop_first()
    }

    /// One more owner of a loop that C has.
    unsafe fn share(events: *const ringport_loop) -> Rc<ringport_loop> {
        Rc::increment_strong_count(events);
        Rc::from_raw(events)
    }
}

/// ## The event loop
///
/// Makes a loop with nothing in it. It takes three descriptors. The caller frees it.
///
/// Ports have their turns one after the other, each at most 64 messages. A callback is called by ringport_loop_run and
/// ringport_loop_run_once only, never from inside a post; it may post, add and remove ports, set timers, and stop or free the
/// loop. It must not throw (longjmp, C++ exceptions): nothing unwinds through this library.
///
/// With each callback go a pointer for it, `user`, and a function that frees that, `free_user`, or NULL. It is called once, when
/// the callback is not needed any more: replaced, its port, listener or child has left the loop, its timer is over, the loop is
/// freed; and never while the callback runs. If setting the callback fails it is not called. It may call this library, and free
/// the very handles that are used by the call that it comes from.
///
/// Answers RINGPORT_SYSTEM when the process is out of descriptors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_new(events: *mut *mut ringport_loop) -> ringport_status {
    answer(|| {
        let output = output(events, "events")?;
        let made = ringport_loop {
            events: EventLoop::new()?,
            running: Cell::new(false),
            freed: Cell::new(false),
            children: RefCell::default(),
        };
        output.write(Rc::into_raw(Rc::new(made)).cast_mut());
        Ok(())
    })
}

/// Frees a loop: ports in it are closed, listeners end, processes run on. Their handles are still to be freed: calls on those of
/// ports answer RINGPORT_CLOSED, on those of listeners RINGPORT_DETACHED; those of processes are as before they were added. In a
/// callback of the loop all that comes after the callback has returned. NULL is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_free(events: *mut ringport_loop) {
    answer(|| {
        if !events.is_null() {
            let events = Rc::from_raw(events.cast_const());
            events.freed.set(true);
            if events.running.get() {
                events.events.stop();
            } else {
                events.clear();
            }
        }
        Ok(())
    });
}

/// Puts a port into the loop, not started: messages wait. Its handle stays the caller's, can be used as before, and is freed by
/// the caller, which takes the port out of the loop. A call on it that waits keeps the whole loop waiting; one that receives
/// takes the message from the callback.
///
/// When its channel has ended and everything was dispatched, the port leaves the loop: after its close callback, if that has
/// not removed it; from then on calls on the handle answer RINGPORT_CLOSED.
///
/// Answers RINGPORT_BUSY if it is in a loop, or while a reservation or messages in place are open; RINGPORT_CLOSED if it has ended
/// in a loop before; RINGPORT_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_add(
    events: *mut ringport_loop,
    port: *mut ringport_port,
) -> ringport_status {
    answer(|| {
        let (events, handle) = (
            given(events, "events").map(|_| ringport_loop::share(events))?,
            given(port, "port")?,
        );
        match events.events.add(handle.take()?) {
            Ok(attached) => {
                let resident = Resident::new(port.cast_const());
                let place = Place::InLoop(Rc::downgrade(&events), attached.id(), resident.clone());
                handle.set(place);
                attached.on_leave(move |reason| {
                    if let Some(handle) = resident.get() {
                        handle.set(Place::Ended(reason));
                    }
                });
                Ok(())
            }
            Err(error) => {
                let (error, port) = error.into_parts();
                handle.put_back(port);
                Err(error.into())
            }
        }
    })
}

/// Takes a port out of the loop, with everything that waits on it. Its callbacks are gone. To send a port away from inside its
/// own message callback: free the message, remove the port, post it.
///
/// Answers RINGPORT_NOT_IN_LOOP; RINGPORT_CLOSED if it has left the loop by ending; RINGPORT_BUSY while a reservation or messages in
/// place are open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_remove(
    events: *mut ringport_loop,
    port: *mut ringport_port,
) -> ringport_status {
    answer(|| {
        given(events, "events")?;
        given(port, "port")?;
        // Both outlive the call, whatever those do who free what belongs to the callbacks.
        let (events, handle) = (ringport_loop::share(events), ringport_port::share(port));
        let Some((its_loop, id)) = handle
            .in_loop()
            .filter(|(its_loop, _)| Rc::ptr_eq(its_loop, &events))
        else {
            handle.with(|_| Ok(()))?;
            return Err(Failure::new(
                RINGPORT_NOT_IN_LOOP,
                "the port is not in this event loop",
            ));
        };
        let resident = handle.resident();
        let port = its_loop.events.remove(id)?;
        // Unless its handle was freed by one of them.
        if resident.is_some_and(|resident| !resident.pointer().is_null()) {
            handle.put_back(port);
        }
        Ok(())
    })
}

/// Sets what is called with `user` for a port that is in a loop.
unsafe fn set(
    port: *mut ringport_port,
    user: *mut c_void,
    free_user: ringport_free_user,
    set: impl FnOnce(&Attached<'static, 'static>, Resident<ringport_port>, *mut ringport_loop, User),
) -> Answer<()> {
    given(port, "port")?;
    // It outlives the call, whatever that does which frees what belonged to the callback before.
    let handle = ringport_port::share(port);
    handle.with_attached(|attached, events| {
        if let Some(resident) = handle.resident() {
            let user = User::new(user, free_user);
            set(attached, resident, Rc::as_ptr(events).cast_mut(), user);
        }
    })
}

/// Has `call` called for each message of a port in a loop, and starts the port. The message is the callback's: it frees it, at once
/// or later.
///
/// Answers RINGPORT_NOT_IN_LOOP, RINGPORT_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_on_message(
    port: *mut ringport_port,
    call: ringport_on_message,
    user: *mut c_void,
    free_user: ringport_free_user,
) -> ringport_status {
    answer(|| on_message(port, call, user, free_user, true))
}

/// The same without starting the port: messages wait until ringport_port_start.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_on_message_after_start(
    port: *mut ringport_port,
    call: ringport_on_message,
    user: *mut c_void,
    free_user: ringport_free_user,
) -> ringport_status {
    answer(|| on_message(port, call, user, free_user, false))
}

unsafe fn on_message(
    port: *mut ringport_port,
    call: ringport_on_message,
    user: *mut c_void,
    free_user: ringport_free_user,
    starts: bool,
) -> Answer<()> {
    let call = callback::given(call)?;
    set(port, user, free_user, |attached, resident, events, user| {
        if starts {
            // First: what is freed with the callback before may do anything to the port.
            attached.start();
        }
        attached.on_message_after_start(move |_, event| {
            let port = resident.pointer();
            if !port.is_null() {
                let message = ringport_port::message_in_loop(port, event);
                call(events, port, message, user.pointer());
            }
        });
    })
}

/// Starts a port in a loop, for good: its messages are dispatched from then on, and wait as long as there is no callback for them.
/// A second call does nothing. Answers RINGPORT_NOT_IN_LOOP, RINGPORT_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_start(port: *mut ringport_port) -> ringport_status {
    answer(|| {
        given(port, "port")?.with_attached(|attached, _| {
            attached.start();
        })
    })
}

/// Has `call` called when a message of a port in a loop cannot be received for want of descriptors, memory or maps: RINGPORT_SYSTEM,
/// and ringport_last_error says the rest. Nothing is lost; it is tried again every 10 ms. Does not start the port.
///
/// Answers RINGPORT_NOT_IN_LOOP, RINGPORT_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_on_message_error(
    port: *mut ringport_port,
    call: ringport_on_message_error,
    user: *mut c_void,
    free_user: ringport_free_user,
) -> ringport_status {
    answer(|| {
        let call = callback::given(call)?;
        set(port, user, free_user, |attached, resident, events, user| {
            attached.on_message_error(move |_, event| {
                // Of the other kind there is none: nothing here asks for a type.
                let port = resident.pointer();
                if let (MessageErrorEvent::Receive { error, .. }, false) = (event, port.is_null()) {
                    let status = Failure::from(error).tell() as i32;
                    call(events, port, status, user.pointer());
                }
            });
        })
    })
}

/// Has `call` called once, when the channel of a port in a loop has ended and everything posted before was dispatched, with a
/// ringport_close_reason; not if this side has closed it. Does not start the port; one that is not started is told when nothing
/// waits on it. The callback may free the port's handle.
///
/// Answers RINGPORT_NOT_IN_LOOP, RINGPORT_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_on_close(
    port: *mut ringport_port,
    call: ringport_on_close,
    user: *mut c_void,
    free_user: ringport_free_user,
) -> ringport_status {
    answer(|| {
        let call = callback::given(call)?;
        set(port, user, free_user, |attached, resident, events, user| {
            attached.on_close(move |_, event| {
                let port = resident.pointer();
                if !port.is_null() {
                    let reason = crate::port::ringport_close_reason::from(event.reason) as i32;
                    call(events, port, reason, user.pointer());
                }
            });
        })
    })
}

/// Has `call` called once, when a message of `len` bytes can be posted on a port in a loop, `with_ports` or without: what to do
/// after a post has answered RINGPORT_FULL or RINGPORT_TRANSFERS_FULL. It takes the place of one set before, and is not called if
/// the channel ends before that. The port need not be started. A message longer than any that can be posted is not waited for:
/// the post says RINGPORT_TOO_LARGE.
///
/// Answers RINGPORT_NOT_IN_LOOP, RINGPORT_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_on_room(
    port: *mut ringport_port,
    len: usize,
    with_ports: bool,
    call: ringport_on_room,
    user: *mut c_void,
    free_user: ringport_free_user,
) -> ringport_status {
    answer(|| {
        let call = callback::given(call)?;
        set(port, user, free_user, |attached, resident, events, user| {
            let tell = move |_: &EventLoop<'static>, _| {
                let port = resident.pointer();
                if !port.is_null() {
                    call(events, port, user.pointer());
                }
            };
            if with_ports {
                attached.on_room_with_ports(len, tell);
            } else {
                attached.on_room(len, tell);
            }
        })
    })
}
