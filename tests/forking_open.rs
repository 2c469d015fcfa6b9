//! What is open while a process forks stays the parent's: slots, batches, events and the ports in them (S63).

#[path = "forking/child.rs"]
mod child;
mod common;
#[path = "forking/spy.rs"]
mod spy;

use child::{fork, leave};
use common::{channel, nothing, now, sample, sample_of};
use ringport::{MessageEvent, MessagePort, OwnedMessageEvent, PostError};
use spy::{Spy, assert_alive, assert_forked};

#[test]
fn s63_a_slot_over_a_fork_is_the_parents() {
    let _quiet = common::descriptors();
    let (spy, port1, port2) = Spy::channel(4096);
    for commit in [true, false] {
        let mut slot = port1.reserve(64).unwrap();
        slot.write(&sample_of(1, 64));
        let before = spy.look();
        let Some(child) = fork() else {
            leave(move || {
                // The bytes are the parent's too.
                slot.write(b"WRONG");
                assert!(slot.as_mut_slice().is_none());
                if commit { slot.commit() } else { drop(slot) }
            })
        };
        child.ends_well();
        spy.assert_as(&before);
        assert!(nothing(&port2));
        assert!(matches!(port1.post_bytes(b"x"), Err(PostError::Busy)));
        slot.commit();
        assert_eq!(now(&port2), sample_of(1, 64));
        assert_alive(&port1, &port2);
    }
}

#[test]
fn s63_a_batch_over_a_fork_is_the_parents() {
    let _quiet = common::descriptors();
    let (spy, port1, port2) = Spy::channel(4096);
    for publish in [true, false] {
        let mut batch = port1.batch();
        (0..3).for_each(|index| batch.post_bytes(&sample(index)).unwrap());
        let before = spy.look();
        let Some(child) = fork() else {
            leave(move || {
                assert!(matches!(batch.post_bytes(b"x"), Err(PostError::Forked)));
                if publish {
                    assert_eq!(batch.publish(), 0);
                }
            })
        };
        child.ends_well();
        spy.assert_as(&before);
        assert!(nothing(&port2));
        batch.post_bytes(&sample(3)).unwrap();
        assert_eq!(batch.publish(), 4);
        (0..4).for_each(|index| assert_eq!(now(&port2), sample(index)));
        assert_alive(&port1, &port2);
    }
}

/// Holds events, over a fork or not; says how many messages fit the ring when they are given back.
fn hold_events(in_place: bool, forks: bool) -> u64 {
    let (spy, port1, port2) = Spy::channel(4096);
    common::trust_if(&port2, in_place);
    (0..4).for_each(|index| port1.post_bytes(&sample_of(index, 400)).unwrap());
    let held = [port2.recv().unwrap(), port2.recv().unwrap()];
    let owned = port2.recv().unwrap().into_owned();
    if forks {
        let before = spy.look();
        let Some(child) = fork() else {
            leave(move || {
                assert_eq!(held[1].bytes(), sample_of(1, 400));
                let [first, second] = held;
                assert_eq!(first.into_owned().bytes(), sample_of(0, 400));
                drop((second, owned));
            })
        };
        child.ends_well();
        spy.assert_as(&before);
    }
    for (index, event) in held.iter().enumerate() {
        assert_eq!(event.bytes(), sample_of(index as u64, 400));
    }
    assert_eq!(owned.bytes(), sample_of(2, 400));
    assert_eq!(now(&port2), sample_of(3, 400));
    drop(held);
    let mut fit = 0;
    while port1.try_post_bytes(&sample_of(fit, 400)).is_ok() {
        fit += 1;
    }
    (0..fit).for_each(|index| assert_eq!(now(&port2), sample_of(index, 400)));
    assert_alive(&port1, &port2);
    fit
}

#[test]
fn s63_events_over_a_fork_stay_the_parents() {
    let _quiet = common::descriptors();
    for in_place in [true, false] {
        // All of the room comes back, and it comes back once.
        assert_eq!(hold_events(in_place, true), hold_events(in_place, false));
    }
}

#[test]
fn s63_ports_in_an_event_over_a_fork_stay_the_parents() {
    let _quiet = common::descriptors();
    for (owned, taken) in [(false, false), (false, true), (true, false), (true, true)] {
        let (port1, port2) = channel();
        let (spy, inner1, inner2) = Spy::channel(4096);
        inner1.post_bytes(b"waiting").unwrap();
        port1.post_bytes_with(b"x", [inner2]).unwrap();
        let event = port2.recv().unwrap();
        let event = if owned {
            Ok(event.into_owned())
        } else {
            Err(event)
        };
        let take = |event: &Result<OwnedMessageEvent, MessageEvent<'_>>| match event {
            Ok(event) => event.take_ports(),
            Err(event) => event.take_ports(),
        };
        let before = spy.look();
        let Some(child) = fork() else {
            leave(move || {
                if taken {
                    let ports = take(&event);
                    ports.iter().for_each(assert_forked);
                }
                drop(event);
            })
        };
        child.ends_well();
        spy.assert_as(&before);
        let [inner2] = <[MessagePort; 1]>::try_from(take(&event)).unwrap();
        assert_eq!(now(&inner2), b"waiting");
        assert_alive(&inner1, &inner2);
    }
}

#[test]
fn s63_a_message_with_ports_is_not_taken_by_the_child() {
    let _quiet = common::descriptors();
    let (spy, port1, port2) = Spy::channel(4096);
    let (inner1, inner2) = channel();
    port1.post_bytes_with(b"x", [inner2]).unwrap();
    let before = spy.look();
    let Some(child) = fork() else {
        leave(move || {
            assert_forked(&port2);
            drop((port1, port2));
        })
    };
    child.ends_well();
    spy.assert_as(&before);
    let event = port2.recv().unwrap();
    let [inner2] = <[MessagePort; 1]>::try_from(event.take_ports()).unwrap();
    assert_alive(&inner1, &inner2);
}
