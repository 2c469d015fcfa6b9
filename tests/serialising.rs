//! Values that fail, panic, or meddle with the carrier while they are serialised, posted with ports (S12).

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::cell::RefCell;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use common::channel_of;
use ports::{Carrier, assert_all_entangled, given_back};
use ringport::{CloseReason, MessagePort, PostError, TransferError};
use rkyv::rancor::{Fallible, Source};
use rkyv::ser::Writer;
use rkyv::{Archive, Place, Serialize};

type Act = Box<dyn FnOnce() -> Result<(), Refused>>;

thread_local! {
    static ACT: RefCell<Option<Act>> = const { RefCell::new(None) };
}

/// A value that does something while it is serialised, once, after it has written a little.
struct Acting;

#[derive(Debug)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this value does not want to be sent")
    }
}

impl Error for Refused {}

impl Archive for Acting {
    type Archived = rkyv::Archived<u32>;
    type Resolver = ();

    fn resolve(&self, (): (), out: Place<Self::Archived>) {
        out.write(77.into());
    }
}

impl<S: Fallible<Error: Source> + Writer + ?Sized> Serialize<S> for Acting {
    fn serialize(&self, serializer: &mut S) -> Result<(), S::Error> {
        serializer.write(&[0xee; 12])?;
        ACT.take().map_or(Ok(()), |act| act()).map_err(Source::new)
    }
}

/// Posts a value with ports that does `act` while it is serialised.
fn post_acting(
    carrier: &MessagePort,
    far: Vec<MessagePort>,
    act: impl FnOnce() -> Result<(), Refused> + 'static,
) -> Result<(), TransferError> {
    ACT.set(Some(Box::new(act)));
    carrier.post_message_with(&Acting, far)
}

#[test]
fn s12_a_value_that_fails_to_serialise_gives_the_ports_back() {
    let _quiet = common::descriptors();
    let carrier = Carrier::new();
    let (near, mut far) = ports::channels(3);
    for _ in 0..3 {
        let answer = post_acting(&carrier.port, far, || Err(Refused));
        far = given_back(answer, &near, |error| {
            matches!(error, PostError::Serialize(_)) && error.to_string().contains("does not want")
        });
    }
    carrier.assert_untouched();
    carrier.assert_usable();
}

#[test]
fn a_value_that_panics_while_it_is_serialised_closes_the_ports_and_leaves_the_carrier_usable() {
    let _quiet = common::descriptors();
    let mut carrier = Carrier::new();
    let (near, far) = ports::channels(3);
    let attempt = AssertUnwindSafe(|| post_acting(&carrier.port, far, || panic!("as told")));
    assert!(catch_unwind(attempt).is_err());
    for near in &near {
        assert_eq!(ports::told(near), CloseReason::ClosedByPeer);
    }
    carrier.assert_untouched();
    carrier.assert_usable();
    // The same for a list that panics before it is complete.
    carrier.before = carrier.port.stats();
    let (near, far) = ports::channels(3);
    let mut taken = 0;
    let list = far.into_iter().inspect(|_| {
        taken += 1;
        assert!(taken < 2, "as told");
    });
    let attempt = AssertUnwindSafe(|| carrier.port.post_bytes_with(b"", list));
    assert!(catch_unwind(attempt).is_err());
    for near in &near {
        assert_eq!(ports::told(near), CloseReason::ClosedByPeer);
    }
    carrier.assert_untouched();
    carrier.assert_usable();
}

#[test]
fn s12_what_a_value_does_to_the_carrier_while_it_is_serialised_loses_no_port() {
    let _quiet = common::descriptors();
    let (port, peer) = channel_of(4096);
    let port = Rc::new(port);
    let (near, far) = ports::channels(4);
    let mut far = far.into_iter();
    let inner: Vec<_> = far.next_back().into_iter().collect();
    let list: Vec<_> = far.collect();
    // It posts again: that is busy. The outer post goes through.
    let came_back = Rc::new(RefCell::new(Vec::new()));
    let (keep, again) = (Rc::clone(&came_back), Rc::clone(&port));
    post_acting(&port, list, move || {
        let error = again.post_bytes_with(b"inner", inner).unwrap_err();
        assert!(matches!(error.error(), PostError::Busy));
        keep.borrow_mut().extend(error.into_ports());
        Ok(())
    })
    .unwrap();
    assert_all_entangled(&near[3..], &came_back.take());
    let list = ports::next_ports(&peer);
    assert_all_entangled(&near[..3], &list);
    // It closes the carrier: nothing is sent through what is closed, be it a plain message.
    let (plain, _peer) = channel_of(4096);
    let plain = Rc::new(plain);
    let closing = Rc::clone(&plain);
    let answer = post_acting(&plain, Vec::new(), move || {
        closing.close();
        Ok(())
    });
    drop(given_back(answer, &[], |error| {
        matches!(error, PostError::Closed(CloseReason::ClosedHere))
    }));
    assert_eq!(plain.stats().messages_posted, 0);
    let closing = Rc::clone(&port);
    let answer = post_acting(&port, list, move || {
        closing.close();
        Ok(())
    });
    let closed_here = |error: &PostError| matches!(error, PostError::Closed(_));
    drop(given_back(answer, &near[..3], closed_here));
    assert_eq!(ports::told(&peer), CloseReason::ClosedByPeer);
}

#[derive(Archive, Serialize)]
#[rkyv(attr(repr(C, align(32))))]
struct Wide(u64);

#[test]
fn s12_a_value_that_wants_more_than_16_gives_the_ports_back() {
    let _quiet = common::descriptors();
    let carrier = Carrier::new();
    let (near, far) = ports::channels(2);
    let answer = carrier.port.post_message_with(&Wide(1), far);
    let alignment = |error: &PostError| matches!(error, PostError::Alignment { wanted: 32, .. });
    drop(given_back(answer, &near, alignment));
    carrier.assert_untouched();
    carrier.assert_usable();
}

#[test]
fn a_value_may_move_other_ports_while_it_is_serialised() {
    let _quiet = common::descriptors();
    let carrier = Carrier::new();
    let (other1, other2) = channel_of(4096);
    let (near, far) = ports::channels(3);
    let mut far = far.into_iter();
    let inner = far.next_back();
    post_acting(&carrier.port, far.collect(), move || {
        other1.post_bytes_with(b"inner", inner).unwrap();
        Ok(())
    })
    .unwrap();
    assert_all_entangled(&near[2..], &ports::next_ports(&other2));
    assert_all_entangled(&near[..2], &ports::next_ports(&carrier.peer));
    carrier.assert_usable();
}
