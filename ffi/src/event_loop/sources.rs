//! Listeners and processes in a loop.

use super::callback::{self, User, ringport_free_user, ringport_on_connect, ringport_on_exit};
use super::ringport_loop;
use crate::arguments::given;
use crate::failure::{Failure, answer};
use crate::meeting::{ringport_credentials, ringport_listener};
use crate::port::ringport_port;
use crate::process::{raw, ringport_child};
use crate::status::*;
use ringport_rs::{ChildId, Listener, ListenerId};
use std::cell::RefCell;
use std::ffi::c_void;
use std::process::Child;
use std::ptr;
use std::rc::Rc;

impl ringport_loop {
    pub(crate) fn take_listener(&self, listener: ListenerId) -> Option<Listener> {
        self.events.remove_listener(listener)
    }

    pub(super) fn let_go_of_child(&self, child: ChildId) -> Option<Child> {
        self.events.remove_child(child)
    }

    /// Takes out the process of a handle that is freed, or gets it back.
    pub(crate) fn take_child(
        &self,
        handle: *const ringport_child,
        child: ChildId,
    ) -> Option<Child> {
        self.children.borrow_mut().remove(&handle);
        self.let_go_of_child(child)
    }
}

/// What a source is called with, until it is known whether the loop has taken it.
fn shared(user: *mut c_void, free_user: ringport_free_user) -> Rc<RefCell<User>> {
    Rc::new(RefCell::new(User::new(user, free_user)))
}

/// Puts a listener into the loop: `call` gets the port to each client, and who it is. When accepting fails, for want of
/// descriptors, memory or maps, it gets the status; the client waits on, and is tried again after 10 ms. The listener's handle
/// stays the caller's.
///
/// Answers RINGPORT_BUSY if it is in a loop; RINGPORT_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_add_listener(
    events: *mut ringport_loop,
    listener: *mut ringport_listener,
    call: ringport_on_connect,
    user: *mut c_void,
    free_user: ringport_free_user,
) -> ringport_status {
    answer(|| {
        let handle = given(listener, "listener")?;
        given(events, "events")?;
        let call = callback::given(call)?;
        let shared_loop = ringport_loop::share(events);
        let user = shared(user, free_user);
        let used = Rc::clone(&user);
        let entered = handle.home.enter(&shared_loop, |listener, stay| {
            let added = shared_loop
                .events
                .add_listener(listener, move |_, accepted| {
                    let _goes_with_this = &stay;
                    let pointer = used.borrow().pointer();
                    match accepted {
                        Ok((port, client)) => {
                            let client = ringport_credentials::from(client);
                            call(
                                events,
                                RINGPORT_OK as i32,
                                ringport_port::new(port),
                                &client,
                                pointer,
                            );
                        }
                        Err(error) => {
                            let status = Failure::from(error).tell() as i32;
                            call(events, status, ptr::null_mut(), ptr::null(), pointer);
                        }
                    }
                });
            added.map_err(|error| {
                user.borrow_mut().disown();
                let (error, listener) = error.into_parts();
                Box::new((listener, error.into()))
            })
        });
        if entered.is_err() {
            user.borrow_mut().disown();
        }
        entered
    })
}

/// Takes a listener out of the loop; clients wait on. Answers RINGPORT_NOT_IN_LOOP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_remove_listener(
    events: *mut ringport_loop,
    listener: *mut ringport_listener,
) -> ringport_status {
    answer(|| {
        given(events, "events")?;
        given(listener, "listener")?;
        // Both outlive the call, whatever that does which frees what belongs to the callback.
        Rc::increment_strong_count(listener.cast_const());
        let (events, handle) = (
            ringport_loop::share(events),
            Rc::from_raw(listener.cast_const()),
        );
        handle.home.come_back(&events, ringport_loop::take_listener)
    })
}

/// Has `call` called once, when the process ends, with its status. Messages that it has posted arrive as those of any other port,
/// perhaps after this. The child's handle stays the caller's, and has left the loop then.
///
/// Answers RINGPORT_BUSY if it is in a loop; RINGPORT_SYSTEM: it takes one descriptor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_add_child(
    events: *mut ringport_loop,
    child: *mut ringport_child,
    call: ringport_on_exit,
    user: *mut c_void,
    free_user: ringport_free_user,
) -> ringport_status {
    answer(|| {
        let handle = given(child, "child")?;
        handle.check_home()?;
        given(events, "events")?;
        let call = callback::given(call)?;
        let shared_loop = ringport_loop::share(events);
        let user = shared(user, free_user);
        let used = Rc::clone(&user);
        let listed = child.cast_const();
        let entered = handle.home.enter(&shared_loop, |child, stay| {
            let added = shared_loop.events.add_child(child, move |_, ended| {
                (*events).children.borrow_mut().remove(&listed);
                // From here on the handle may be another thread's.
                drop(stay);
                let pointer = used.borrow().pointer();
                match ended {
                    Ok(status) => call(events, RINGPORT_OK as i32, raw(status), pointer),
                    Err(error) => {
                        let text = error.to_string();
                        let status = Failure::system(&error, text).tell() as i32;
                        call(events, status, 0, pointer);
                    }
                }
            });
            added.map_err(|error| {
                user.borrow_mut().disown();
                let (error, child) = error.into_parts();
                Box::new((child, error.into()))
            })
        });
        if entered.is_err() {
            user.borrow_mut().disown();
        } else {
            shared_loop.children.borrow_mut().insert(listed);
        }
        entered
    })
}

/// Takes a process out of the loop. Answers RINGPORT_NOT_IN_LOOP, also when its end was told.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_loop_remove_child(
    events: *mut ringport_loop,
    child: *mut ringport_child,
) -> ringport_status {
    answer(|| {
        given(events, "events")?;
        given(child, "child")?;
        Rc::increment_strong_count(child.cast_const());
        let (events, handle) = (
            ringport_loop::share(events),
            Rc::from_raw(child.cast_const()),
        );
        let take = |events: &ringport_loop, id| events.take_child(child, id);
        handle.home.come_back(&events, take)
    })
}
