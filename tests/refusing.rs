//! A post with ports that fails has done nothing: every error gives all the ports back, in order and working
//! (S12), and the checks have their order (S13). Values that fail are in `serialising.rs`, too many transfers
//! under way in `limits.rs`.

mod common;
#[path = "common/ports.rs"]
mod ports;

use std::error::Error;

use common::{channel, channel_of, closed, next, now, sample, victim};
use ports::{Carrier, MOMENT, WAYS, assert_all_entangled, assert_entangled, fill, given_back};
use ringport::{CloseReason, MessagePort, PostError, WaitStrategy};

roles! { waits_to_be_killed }

#[test]
fn s43_a_port_that_its_holder_has_closed_cannot_move() {
    let _quiet = common::descriptors();
    let carrier = Carrier::new();
    for at in 0..3 {
        let (near, mut far) = ports::channels(3);
        far[at].close();
        for way in &WAYS {
            let error = way.post(&carrier.port, 0, far).unwrap_err();
            let named = matches!(error.error(), PostError::ClosedPort { index } if *index == at);
            assert!(named, "{:?}", error.error());
            assert!(error.to_string().contains(&at.to_string()), "{error}");
            far = error.into_ports();
            assert_eq!(far.len(), 3);
        }
        for index in 0..3 {
            if index == at {
                assert_eq!(closed(far[index].try_recv()), CloseReason::ClosedHere);
                assert_eq!(ports::told(&near[index]), CloseReason::ClosedByPeer);
            } else {
                assert_entangled(&near[index], &far[index]);
            }
        }
        carrier.assert_untouched();
    }
    carrier.assert_usable();
}

#[test]
fn s14_a_port_is_not_posted_to_itself() {
    let _quiet = common::descriptors();
    for at in 0..3 {
        let (carrier, peer) = channel_of(4096);
        let (near, mut list) = ports::channels(2);
        list.insert(at, peer);
        for way in &WAYS {
            let error = way.post(&carrier, 0, list).unwrap_err();
            let named = matches!(error.error(), PostError::OwnPeer { index } if *index == at);
            assert!(named, "{:?}", error.error());
            list = error.into_ports();
        }
        let peer = list.remove(at);
        assert_all_entangled(&near, &list);
        let carrier = Carrier {
            before: channel().0.stats(),
            port: carrier,
            peer,
        };
        carrier.assert_untouched();
        carrier.assert_usable();
    }
}

#[test]
fn s12_too_many_ports_come_back() {
    let _quiet = common::descriptors();
    let mut carrier = Carrier::new();
    for count in [127, 128, 200] {
        let (near, mut far) = ports::channels(count);
        // Where there is no room either, nobody waits for it in vain.
        let posted = if count == 200 { fill(&carrier.port) } else { 0 };
        carrier.before = carrier.port.stats();
        for way in &WAYS {
            let too_many = |error: &PostError| matches!(error, PostError::TooManyPorts { count: found, max: 126 } if *found == count);
            far = given_back(way.post(&carrier.port, 0, far), &near, too_many);
        }
        ports::receive(&carrier.peer, 0..posted);
    }
    carrier.assert_untouched();
    carrier.assert_usable();
}

#[test]
fn s12_a_full_ring_gives_the_ports_back() {
    let _quiet = common::descriptors();
    let mut carrier = Carrier::new();
    let posted = fill(&carrier.port);
    // Not even room for an empty message.
    while carrier.port.try_post_bytes(b"").is_ok() {}
    carrier.before = carrier.port.stats();
    let full =
        |error: &PostError| matches!(error, PostError::Full { needed, free } if needed > free);
    carrier.refuses(|way| !way.waits, full);
    let (near, far) = ports::channels(2);
    let start = std::time::Instant::now();
    let answer = carrier.port.post_bytes_with_timeout(b"", far, MOMENT * 5);
    drop(given_back(answer, &near, full));
    assert!(start.elapsed() >= MOMENT * 5);
    ports::receive(&carrier.peer, 0..posted);
    while carrier.peer.try_recv().unwrap().is_some() {}
    carrier.assert_untouched();
    carrier.assert_usable();
}

#[test]
fn s12_too_large_a_message_gives_the_ports_back_also_when_the_ring_is_full() {
    let _quiet = common::descriptors();
    for full in [false, true] {
        let mut carrier = Carrier::new();
        let posted = if full { fill(&carrier.port) } else { 0 };
        carrier.before = carrier.port.stats();
        let length = carrier.port.max_message_len() + 1;
        let bytes = vec![1; length];
        let value = "x".repeat(length);
        let (near, mut far) = ports::channels(2);
        let too_large = |error: &PostError| {
            let TransferSizes { len, max } = TransferSizes::of(error);
            len >= length && max < length
        };
        let port = &carrier.port;
        // Waiting could not help, so none of them waits.
        far = given_back(port.post_bytes_with(&bytes, far), &near, too_large);
        far = given_back(port.try_post_bytes_with(&bytes, far), &near, too_large);
        far = given_back(port.post_message_with(&value, far), &near, too_large);
        far = given_back(port.try_post_message_with(&value, far), &near, too_large);
        let answer = port.post_message_with_timeout(&value, far, common::PATIENCE);
        drop(given_back(answer, &near, too_large));
        ports::receive(&carrier.peer, 0..posted);
        carrier.assert_untouched();
        carrier.assert_usable();
    }
}

/// What `TooLarge` says.
struct TransferSizes {
    len: usize,
    max: usize,
}

impl TransferSizes {
    #[track_caller]
    fn of(error: &PostError) -> TransferSizes {
        match error {
            PostError::TooLarge { len, max } => TransferSizes {
                len: *len,
                max: *max,
            },
            other => panic!("wanted TooLarge, got {other:?}"),
        }
    }
}

#[test]
fn s10_the_largest_message_with_ports_fits_at_every_offset_of_the_ring() {
    let _quiet = common::descriptors();
    let (carrier1, carrier2) = channel_of(4096);
    for count in [1, 16, 17, 126] {
        let (near, far) = ports::channels(count);
        let too_large = vec![1; carrier1.max_message_len()];
        let answer = carrier1.try_post_bytes_with(&too_large, far);
        let (error, mut far) = answer.unwrap_err().into_parts();
        // The ports take room too, so that the largest is a little less.
        let TransferSizes { len, max } = TransferSizes::of(&error);
        assert_eq!(len, too_large.len());
        assert!(max < len && max + 16 + count > len, "{max} with {count}");
        for index in 0..280 {
            let largest = common::sample_of(index, max);
            carrier1.try_post_bytes_with(&largest, far).unwrap();
            let event = carrier2.try_recv().unwrap().unwrap();
            assert_eq!(event.bytes(), largest);
            far = event.take_ports();
            assert_eq!(far.len(), count);
            drop(event);
            // Shifts the next one by another multiple of 16.
            let shift = vec![9; (index % 5 * 16) as usize];
            carrier1.try_post_bytes(&shift).unwrap();
            assert_eq!(now(&carrier2), shift);
        }
        assert_all_entangled(&near, &far);
    }
}

#[test]
fn s12_a_closed_carrier_gives_the_ports_back() {
    let _quiet = common::descriptors();
    let is = |reason| move |error: &PostError| matches!(error, PostError::Closed(found) if *found == reason);
    let here = Carrier::new();
    here.port.close();
    here.refuses(|_| true, is(CloseReason::ClosedHere));

    let Carrier { port, peer, before } = Carrier::new();
    peer.close();
    let by_peer = Carrier { port, peer, before };
    by_peer.refuses(|_| true, is(CloseReason::ClosedByPeer));

    let (port, mut child, _counters) = victim("waits_to_be_killed", WaitStrategy::Block, "");
    common::kill(&mut child);
    for way in WAYS {
        let (near, far) = ports::channels(2);
        let answer = way.post(&port, 0, far);
        drop(given_back(answer, &near, is(CloseReason::PeerGone)));
    }
    assert_eq!(port.stats().messages_posted, 0);
}

fn waits_to_be_killed() {
    let (_port, _counters) = common::on_stage();
    common::idle();
}

#[test]
fn s12_a_busy_carrier_gives_the_ports_back() {
    let _quiet = common::descriptors();
    let carrier = Carrier::new();
    let busy = |error: &PostError| matches!(error, PostError::Busy);
    let mut slot = carrier.port.reserve(8).unwrap();
    slot.write(b"the slot");
    carrier.refuses(|_| true, busy);
    carrier.assert_untouched();
    slot.commit();
    assert_eq!(now(&carrier.peer), b"the slot");
    let mut batch = carrier.port.batch();
    batch.post_bytes(b"the batch").unwrap();
    carrier.refuses(|_| true, busy);
    assert_eq!(batch.publish(), 1);
    assert_eq!(now(&carrier.peer), b"the batch");
    carrier.assert_usable();
}

/// What fails later than the first two checks of S13.
const TROUBLES: [&str; 5] = ["closed", "busy", "full", "too many", "too large"];

/// Posts a list that ends with the carrier's own peer, if asked for, and a port that was closed, if asked
/// for, while something else is wrong as well. Gives the error, and where in the list the last of them was.
fn troubled(trouble: &str, own_peer: bool, closed_port: bool) -> (PostError, usize) {
    let (carrier, peer) = channel_of(4096);
    let (mut list, mut length, mut slot) = (Vec::new(), 0, None);
    match trouble {
        "closed" => carrier.close(),
        "busy" => slot = Some(carrier.reserve(8).unwrap()),
        "full" => assert!(fill(&carrier) > 0),
        "too many" => list = ports::channels(130).1,
        "too large" => length = 5000,
        other => panic!("no such trouble: {other}"),
    }
    let mut peer = Some(peer);
    if own_peer {
        list.extend(peer.take());
    }
    if closed_port {
        let (_, closed) = channel();
        closed.close();
        list.push(closed);
    }
    let count = list.len();
    let answer = carrier.post_bytes_with(&vec![0; length], list);
    let (error, list) = answer.unwrap_err().into_parts();
    assert_eq!(list.len(), count);
    drop((slot, peer));
    (error, count - 1)
}

#[test]
fn s13_the_checks_come_in_their_order() {
    let _quiet = common::descriptors();
    for trouble in TROUBLES {
        for own_peer in [false, true] {
            let (error, at) = troubled(trouble, own_peer, true);
            let first = matches!(error, PostError::ClosedPort { index } if index == at);
            assert!(first, "{trouble}: {error:?}");
        }
        let (error, at) = troubled(trouble, true, false);
        let second = matches!(error, PostError::OwnPeer { index } if index == at);
        assert!(second, "{trouble}: {error:?}");
    }
}

#[test]
fn s14_the_peer_of_a_closed_carrier_is_still_its_own_peer() {
    let _quiet = common::descriptors();
    let (carrier, peer) = channel();
    carrier.close();
    assert!(peer.is_closed());
    let error = carrier.post_bytes_with(b"", [peer]).unwrap_err();
    assert!(matches!(error.error(), PostError::OwnPeer { index: 0 }));
}

#[test]
fn the_error_of_a_transfer_tells_the_cause_and_carries_the_ports() {
    fn is_an_error<T: Error + Send + Sync + 'static>(_: &T) {}
    let _quiet = common::descriptors();
    let carrier = Carrier::new();
    carrier.port.close();
    let (near, far) = ports::channels(2);
    let error = carrier.port.post_bytes_with(b"", far).unwrap_err();
    is_an_error(&error);
    let source = error.source().unwrap().downcast_ref::<PostError>();
    assert!(matches!(source, Some(PostError::Closed(_))));
    assert!(error.to_string().contains(&error.error().to_string()));
    assert!(!format!("{error:?}").is_empty());
    let (cause, far) = error.into_parts();
    assert!(matches!(cause, PostError::Closed(CloseReason::ClosedHere)));
    assert_all_entangled(&near, &far);
    // Another thread may be the one to have them back.
    let error = carrier.port.post_bytes_with(b"", far).unwrap_err();
    let other = std::thread::spawn(move || error.into_ports());
    assert_all_entangled(&near, &other.join().unwrap());
}

#[test]
fn an_error_of_a_transfer_that_is_dropped_or_converted_closes_the_ports() {
    fn posts(carrier: &MessagePort, far: Vec<MessagePort>) -> Result<(), PostError> {
        carrier.post_bytes_with(b"", far)?;
        Ok(())
    }
    let _quiet = common::descriptors();
    let carrier = Carrier::new();
    carrier.port.close();
    for convert in [false, true] {
        let (near, far) = ports::channels(2);
        if convert {
            let error = posts(&carrier.port, far).unwrap_err();
            assert!(matches!(error, PostError::Closed(CloseReason::ClosedHere)));
        } else {
            drop(carrier.port.post_bytes_with(b"", far));
        }
        for near in &near {
            assert_eq!(ports::told(near), CloseReason::ClosedByPeer);
        }
    }
}

#[test]
fn s12_ports_that_came_back_carry_on_where_they_were() {
    let _quiet = common::descriptors();
    let (carrier, _peer) = channel();
    carrier.close();
    let (near, far) = channel_of(4096);
    ports::post(&near, 0..10);
    ports::post(&far, 0..10);
    far.set_wait_strategy(WaitStrategy::Block);
    let sent = far.stats();
    assert_eq!(next(&far), sample(0));
    let far = ports::only(
        carrier
            .post_bytes_with(b"", [far])
            .unwrap_err()
            .into_ports(),
    );
    // It is the same port: what it had learned and counted is still there.
    assert_eq!(far.wait_strategy(), WaitStrategy::Block);
    assert_eq!(far.stats().messages_posted, sent.messages_posted);
    assert_eq!(far.stats().messages_received, 1);
    ports::receive(&far, 1..10);
    ports::receive(&near, 0..10);
    assert_entangled(&near, &far);
}
