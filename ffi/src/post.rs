//! Posting: bytes, with ports, in place, many at once.

use crate::arguments::{Patience, bytes, given, output, patience, slice};
use crate::failure::{Answer, Failure, answer};
use crate::port::{Open, Reserved, closed, ringport_port};
use crate::status::*;
use ringport_rs::{CloseReason, MessagePort, Slot};
use std::collections::HashSet;
use std::ffi::c_void;
use std::ptr;

/// A timeout: as long as it takes. Any negative number is.
pub const RINGPORT_FOREVER: i64 = -1;
/// A timeout: try once and do not wait.
pub const RINGPORT_NO_WAIT: i64 = 0;
/// Ports that travel in one message at most: the kernel passes 253 descriptors at once, and a port is two.
pub const RINGPORT_MAX_PORTS: usize = 126;

/// ## Posting
///
/// Posts a message of `len` bytes, waiting for room at most `timeout_ns` nanoseconds (RINGPORT_NO_WAIT, RINGPORT_FOREVER).
/// They are copied at once. When this has returned RINGPORT_OK the message will arrive, whatever becomes of this process.
/// `data` may be NULL if `len` is 0: an empty message is a message.
///
/// Answers RINGPORT_FULL, RINGPORT_TOO_LARGE, RINGPORT_CLOSED, RINGPORT_BUSY while a reservation or batch is open, or
/// RINGPORT_SYSTEM if it cannot wait. Nothing was sent then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_post(
    port: *mut ringport_port,
    data: *const c_void,
    len: usize,
    timeout_ns: i64,
) -> ringport_status {
    answer(|| {
        let (port, data) = (given(port, "port")?, bytes(data, len)?);
        port.with(|port| {
            match patience(timeout_ns) {
                Patience::Endless => port.post_bytes(data),
                Patience::None => port.try_post_bytes(data),
                Patience::For(time) => port.post_bytes_timeout(data, time),
            }?;
            Ok(())
        })
    })
}

/// Posts a message together with `port_count` ports, which move to whoever receives it, with all that waits on them; their
/// peers notice nothing. At most RINGPORT_MAX_PORTS.
///
/// On success their handles are dead: every call on them answers RINGPORT_DETACHED, and they are still to be freed. On
/// failure nothing was sent and nothing has moved. It is looked for in this order, each in the whole list:
/// RINGPORT_SELF_TRANSFER, RINGPORT_DUPLICATE_PORT, RINGPORT_DETACHED, RINGPORT_CLOSED_PORT, RINGPORT_OWN_PEER, RINGPORT_BUSY
/// (a port of the list is in a loop, or has a reservation or messages in place), RINGPORT_TOO_MANY_PORTS; what ringport_post
/// answers; RINGPORT_TRANSFERS_FULL, RINGPORT_TOO_MANY_IN_FLIGHT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_post_with_ports(
    port: *mut ringport_port,
    data: *const c_void,
    len: usize,
    ports: *const *mut ringport_port,
    port_count: usize,
    timeout_ns: i64,
) -> ringport_status {
    answer(|| {
        let (port, data) = (given(port, "port")?, bytes(data, len)?);
        let handles = handles(slice(ports, port_count, "ports")?)?;
        check_list(port, &handles)?;
        port.with(|port| {
            let items = handles
                .iter()
                .map(|handle| handle.take())
                .collect::<Answer<Vec<MessagePort>>>()?;
            let posted = match patience(timeout_ns) {
                Patience::Endless => port.post_bytes_with(data, items),
                Patience::None => port.try_post_bytes_with(data, items),
                Patience::For(time) => port.post_bytes_with_timeout(data, items, time),
            };
            posted.map_err(|error| {
                let (error, items) = error.into_parts();
                for (handle, item) in handles.iter().zip(items) {
                    handle.put_back(item);
                }
                error.into()
            })
        })
    })
}

pub(crate) unsafe fn handles<'a>(
    pointers: &[*mut ringport_port],
) -> Answer<Vec<&'a ringport_port>> {
    let handles = pointers.iter().enumerate().map(|(index, pointer)| {
        let nowhere = || Failure::new(RINGPORT_NULL, format!("`ports[{index}]` is NULL"));
        pointer.as_ref().ok_or_else(nowhere)
    });
    handles.collect()
}

/// What could be wrong with ports to be sent, in its order, before any of them is taken.
unsafe fn check_list(carrier: &ringport_port, handles: &[&ringport_port]) -> Answer<()> {
    if let Some(index) = handles.iter().position(|handle| ptr::eq(*handle, carrier)) {
        return Err(Failure::new(
            RINGPORT_SELF_TRANSFER,
            format!("port {index} of those to be sent is the one that it would be posted on"),
        ));
    }
    let mut seen = HashSet::new();
    if let Some(index) = handles
        .iter()
        .position(|handle| !seen.insert(ptr::from_ref(*handle)))
    {
        return Err(Failure::new(
            RINGPORT_DUPLICATE_PORT,
            format!("port {index} of those to be sent is listed before"),
        ));
    }
    let mut moved = handles.iter().map(|handle| handle.check_not_moved());
    if let Some(index) = moved.position(|checked| checked.is_err()) {
        return Err(Failure::new(
            RINGPORT_DETACHED,
            format!("port {index} of those to be sent has moved away from its handle"),
        ));
    }
    for (index, handle) in handles.iter().enumerate() {
        handle.check_not_ended(format_args!("port {index} of those to be sent"))?;
    }
    carrier.with(|carrier| {
        // Those in a loop are in use as long as they are lent.
        let ports = handles.iter().map(|handle| handle.lend());
        let ports = ports.collect::<Answer<Vec<_>>>()?;
        Ok(carrier.check_cargo(ports.iter().map(|(port, _)| *port))?)
    })?;
    handles.iter().try_for_each(|handle| handle.check_free())
}

/// Reserves a message of `len` bytes, to be written where it will be read, waiting for room as ringport_post does. `*data`
/// is aligned to 16; only write there, what is read the peer may have changed. What is not written keeps the bytes that
/// were there. Valid until ringport_commit or ringport_abort; meanwhile posting here is RINGPORT_BUSY, receiving is not.
///
/// Answers RINGPORT_FULL, RINGPORT_TOO_LARGE, RINGPORT_CLOSED, RINGPORT_BUSY, RINGPORT_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_reserve(
    port: *mut ringport_port,
    len: usize,
    timeout_ns: i64,
    data: *mut *mut c_void,
) -> ringport_status {
    reserve(port, data, |port| {
        Ok(match patience(timeout_ns) {
            Patience::Endless => port.reserve(len),
            Patience::None => port.try_reserve(len),
            Patience::For(time) => port.reserve_timeout(len, time),
        }?)
    })
}

/// The same for bytes aligned to `align`, here and where they are received: a power of two up to 128. Waits as long as it
/// takes. Also answers RINGPORT_ALIGNMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_reserve_aligned(
    port: *mut ringport_port,
    len: usize,
    align: usize,
    data: *mut *mut c_void,
) -> ringport_status {
    reserve(port, data, |port| Ok(port.reserve_aligned(len, align)?))
}

unsafe fn reserve(
    port: *mut ringport_port,
    data: *mut *mut c_void,
    call: impl FnOnce(&'static MessagePort) -> Answer<Slot<'static>>,
) -> ringport_status {
    answer(|| {
        let (handle, output) = (given(port, "port")?, output(data, "data")?);
        let (port, attachment) = handle.lend()?;
        let mut slot = call(port)?;
        output.write(slot.as_mut_ptr().cast());
        let what = Reserved::Slot(slot);
        handle.open.replace(Some(Open { what, attachment }));
        Ok(())
    })
}

/// Posts the first `len` bytes of what was reserved.
///
/// Answers RINGPORT_INVALID if nothing is reserved; RINGPORT_TOO_LARGE if `len` is more than that, and the reservation stays
/// open; RINGPORT_CLOSED if this port was closed meanwhile, and the message is discarded. Whether the peer has closed is asked by
/// the next ringport_reserve: one who has, receives nothing any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_commit(port: *mut ringport_port, len: usize) -> ringport_status {
    answer(|| {
        let handle = given(port, "port")?;
        let mut open = handle.open.borrow_mut();
        let reserved = match &*open {
            Some(Open {
                what: Reserved::Slot(slot),
                ..
            }) => slot.len(),
            _ => {
                let otherwise = format_args!("nothing is reserved on the port");
                return Err(handle.nothing_open(otherwise));
            }
        };
        if len > reserved {
            return Err(Failure::new(
                RINGPORT_TOO_LARGE,
                format!("{len} bytes are more than the {reserved} that were reserved"),
            ));
        }
        let Some(Open {
            what: Reserved::Slot(mut slot),
            attachment,
        }) = open.take()
        else {
            return Ok(());
        };
        drop(open);
        slot.truncate(len);
        let posted = went_out(handle, || slot.commit());
        drop(attachment);
        posted
    })
}

/// Whether something was posted, and if not, why.
fn went_out(handle: &ringport_port, post: impl FnOnce()) -> Answer<()> {
    let posted = |port: &MessagePort| Ok(port.stats().messages_posted);
    let before = handle.with(posted)?;
    post();
    handle.with(|port| {
        if posted(port)? != before {
            return Ok(());
        }
        // It says so if this is a forked child.
        drop(port.try_reserve(0)?);
        Err(closed(
            port.close_reason().unwrap_or(CloseReason::ClosedHere),
        ))
    })
}

/// Begins a batch: messages that become visible all at once. Answers RINGPORT_BUSY while a reservation or batch is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_batch_begin(port: *mut ringport_port) -> ringport_status {
    answer(|| {
        let handle = given(port, "port")?;
        if handle.open.borrow().is_some() {
            return Err(Failure::new(
                RINGPORT_BUSY,
                "a reservation or batch of the port is open already",
            ));
        }
        let (port, attachment) = handle.lend()?;
        let what = Reserved::Batch(port.batch());
        handle.open.replace(Some(Open { what, attachment }));
        Ok(())
    })
}

/// Adds a message to the batch. It never waits.
///
/// Answers RINGPORT_INVALID without a batch; RINGPORT_FULL when the ring has no room for it beside the rest of the batch:
/// publish that, and begin another; RINGPORT_TOO_LARGE, RINGPORT_CLOSED. The batch stays as it was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_batch_post(
    port: *mut ringport_port,
    data: *const c_void,
    len: usize,
) -> ringport_status {
    answer(|| {
        let (handle, data) = (given(port, "port")?, bytes(data, len)?);
        match &mut *handle.open.borrow_mut() {
            Some(Open {
                what: Reserved::Batch(batch),
                ..
            }) => Ok(batch.post_bytes(data)?),
            _ => Err(no_batch(handle)),
        }
    })
}

/// Posts all messages of the batch, and says how many they were. `count` may be NULL.
///
/// Answers RINGPORT_INVALID without a batch; RINGPORT_CLOSED if this port was closed meanwhile, and the messages are
/// discarded. Whether the peer has closed is asked by ringport_batch_post.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_batch_publish(
    port: *mut ringport_port,
    count: *mut usize,
) -> ringport_status {
    answer(|| {
        let handle = given(port, "port")?;
        let mut open = handle.open.borrow_mut();
        if !matches!(
            &*open,
            Some(Open {
                what: Reserved::Batch(_),
                ..
            })
        ) {
            return Err(no_batch(handle));
        }
        let Some(Open {
            what: Reserved::Batch(batch),
            attachment,
        }) = open.take()
        else {
            return Ok(());
        };
        drop(open);
        let messages = batch.len();
        let posted = if messages == 0 {
            drop(batch);
            Ok(())
        } else {
            went_out(handle, || {
                batch.publish();
            })
        };
        drop(attachment);
        posted?;
        if !count.is_null() {
            count.write(messages);
        }
        Ok(())
    })
}

fn no_batch(handle: &ringport_port) -> Failure {
    handle.nothing_open(format_args!("no batch was begun on the port"))
}

/// Gives up the reservation or batch that is open, if any. It leaves no trace.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_abort(port: *mut ringport_port) -> ringport_status {
    answer(|| {
        let handle = given(port, "port")?;
        let open = handle.open.take();
        drop(open);
        handle.check_not_moved()
    })
}
