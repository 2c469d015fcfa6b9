//! Ports that somebody meddles with while they are under way, that come where they should not, or that nobody ever
//! receives: they are over when they arrive, and who has no part in it is not harmed (S44, S57, S61).

mod common;
#[path = "common/forger.rs"]
mod forger;

#[path = "hostile/chances.rs"]
mod chances;
#[path = "hostile/smuggle.rs"]
mod smuggle;
#[path = "hostile/witness.rs"]
mod witness;

use std::os::fd::AsFd;
use std::time::Duration;

use chances::Seeded;
use common::{AT_ONCE, assert_over, channel_of, count_descriptors, now};
use forger::{CLOSED, Forger, PORT, STATE};
use ringport::{Armed, CloseReason, Interest, MessagePort, PortHandle, PostError};
use smuggle::{carrier, content, genuine, hear, memory, pairs, post_pair, sealed};
use witness::{Innocent, end_of};

#[test]
fn s57_a_port_whose_memory_says_what_cannot_be_is_over_when_it_arrives() {
    let _quiet = common::descriptors();
    let mut random = Seeded::new(5);
    // Each bit of the header, and each of the positions of both endpoints, and values near theirs.
    let positions = [1024, 1024 + 128, 1536, 1536 + 128];
    let flips = (0..56)
        .step_by(8)
        .chain(positions)
        .flat_map(|at| (0..64).map(move |bit| (at, Some(bit))));
    let near = (0..600).map(|_| (random.pick(&positions), None));
    let cases: Vec<_> = flips.chain(near).collect();
    let (mut good, mut bad) = (0, 0);
    for (way, (at, bit)) in cases.into_iter().enumerate() {
        let (victim, forger) = carrier();
        let (handle, peer) = genuine();
        let mut bytes = content(&handle.segment);
        let word = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let wrong = match bit {
            Some(bit) => word ^ 1 << bit,
            None => random.near(word, 4096),
        };
        bytes[at..at + 8].copy_from_slice(&wrong.to_le_bytes());
        let forged = PortHandle {
            segment: memory(&bytes, sealed()),
            doorbell: handle.doorbell,
        };
        post_pair(&forger, &forged.segment, &forged.doorbell);
        // A handle that came another way is looked at in the same way.
        let can_be = match MessagePort::from_handle(forged) {
            Ok(port) => {
                drop(port.into_handle());
                true
            }
            Err(_) => false,
        };
        let ports = hear(&victim, way).unwrap();
        let [port] = &ports[..] else {
            panic!("{wrong:#x} at {at}: {ports:?}");
        };
        if can_be {
            assert_ne!(port.close_reason(), Some(CloseReason::Corrupt));
            good += 1;
        } else {
            assert_over(port, CloseReason::Corrupt);
            assert_eq!(end_of(&peer), CloseReason::PeerGone);
            bad += 1;
        }
        assert_eq!(victim.close_reason(), None);
        forger.post(&[], b"it goes on");
        assert_eq!(now(&victim), b"it goes on");
    }
    assert!(good > 100 && bad > 500, "{good} good, {bad} bad");
}

#[test]
fn s57_who_scribbles_on_a_port_under_way_ends_that_port_and_not_its_carrier() {
    let _quiet = common::descriptors();
    // Who holds the far end of a port that two others hand on to each other has no part in their channel.
    for at in [0, 8, 16, 24, 32, 40, 1024, 1024 + 128, 1536, 1536 + 128] {
        let (near, far) = channel_of(4096);
        let (stays, goes) = channel_of(4096);
        let (also_stays, also_goes) = channel_of(4096);
        let forger = Forger::of(stays);
        near.try_post_bytes_with(b"with ports", [goes, also_goes])
            .unwrap();
        forger.set(at, 0x0101_0101_0101_0101);
        near.try_post_bytes(b"and without").unwrap();
        let event = far.recv_timeout(AT_ONCE).unwrap().unwrap();
        assert_eq!(event.bytes(), b"with ports");
        let ports = event.take_ports();
        assert_eq!(ports.len(), 2, "word {at}");
        assert_over(&ports[0], CloseReason::Corrupt);
        also_stays.try_post_bytes(b"not the other's fault").unwrap();
        assert_eq!(now(&ports[1]), b"not the other's fault");
        assert_eq!(now(&far), b"and without");
        assert_eq!((near.close_reason(), far.close_reason()), (None, None));
        // Who did it finds himself alone.
        let forger = MessagePort::from_handle(forger.duplicate());
        assert!(forger.is_err() || forger.is_ok_and(|port| port.is_closed()));
    }
}

#[test]
fn s57_a_port_that_is_over_when_it_arrives_does_nothing_and_goes_nowhere() {
    let _quiet = common::descriptors();
    let (near, far) = channel_of(4096);
    let (stays, goes) = channel_of(4096);
    stays.try_post_bytes(b"never seen").unwrap();
    let forger = Forger::of(stays);
    near.try_post_bytes_with(b"", [goes]).unwrap();
    forger.set(0, 0);
    let port = far.try_recv().unwrap().unwrap().take_ports().remove(0);
    assert_eq!(
        (port.pending(), port.stats()),
        (0, ringport::Stats::default())
    );
    assert!(format!("{port:?}").contains("Corrupt"));
    assert_eq!(port.arm(Interest::Message).unwrap(), Armed::Ready);
    assert!(port.batch().post_bytes(b"x").is_err());
    port.close();
    assert_eq!(port.close_reason(), Some(CloseReason::Corrupt));
    let error = far.try_post_bytes_with(b"take it", [port]).unwrap_err();
    assert!(matches!(error.error(), PostError::ClosedPort { index: 0 }));
    let port = error.into_ports().remove(0);
    // Nor does it become one by way of its handle.
    let again = MessagePort::from_handle(port.into_handle());
    assert!(again.is_err() || again.is_ok_and(|port| port.is_closed()));
}

#[test]
fn s57_the_same_port_twice_and_the_carriers_own_ends() {
    let _quiet = common::descriptors();
    let before = count_descriptors();
    let sends: [fn(&Forger, &PortHandle) -> Vec<PortHandle>; 5] = [
        // The memory of one, the doorbell of the other.
        |_, _| {
            let ((one, _), (other, _)) = (genuine(), genuine());
            vec![PortHandle {
                segment: one.segment,
                doorbell: other.doorbell,
            }]
        },
        |_, _| {
            let (handle, _) = genuine();
            let again = PortHandle {
                segment: handle.segment.try_clone().unwrap(),
                doorbell: handle.doorbell.try_clone().unwrap(),
            };
            vec![handle, again]
        },
        // The forger's own end.
        |forger, _| vec![forger.duplicate()],
        // The victim's own end.
        |_, own| {
            vec![PortHandle {
                segment: own.segment.try_clone().unwrap(),
                doorbell: own.doorbell.try_clone().unwrap(),
            }]
        },
        // Both.
        |forger, own| {
            let own = PortHandle {
                segment: own.segment.try_clone().unwrap(),
                doorbell: own.doorbell.try_clone().unwrap(),
            };
            vec![own, forger.duplicate()]
        },
    ];
    let mut innocent = Innocent::new();
    for (way, send) in (0..3).flat_map(|way| sends.iter().map(move |send| (way, send))) {
        let (port1, port2) = channel_of(4096);
        let handle = port1.into_handle();
        let kept = PortHandle {
            segment: handle.segment.try_clone().unwrap(),
            doorbell: handle.doorbell.try_clone().unwrap(),
        };
        let victim = MessagePort::from_handle(handle).unwrap();
        let forger = Forger::of(port2);
        let sent = send(&forger, &kept);
        drop(kept);
        let byte = [forger.descriptor_byte()];
        forger.send(&byte, &pairs(&sent)).unwrap();
        forger.post(&vec![PORT; sent.len()], b"who is who?");
        drop(sent);
        match hear(&victim, way) {
            Err(reason) => assert_eq!(reason, CloseReason::Corrupt),
            Ok(ports) => {
                for port in &ports {
                    let _ = port.try_post_bytes(b"to whom?");
                    let _ = port.recv_timeout(Duration::from_millis(1)).map(drop);
                    let _ = victim.try_post_bytes(b"to whom?");
                    let _ = victim.recv_timeout(Duration::from_millis(1)).map(drop);
                }
            }
        }
        drop((victim, forger));
        innocent.works();
    }
    drop(innocent);
    assert_eq!(count_descriptors(), before);
}

fn receive_all(victim: &Option<MessagePort>) {
    while victim.as_ref().unwrap().recv().is_ok() {}
}

/// An end of a channel, at the hands of the victim or of the forger.
type End = dyn Fn(&mut Option<MessagePort>, &mut Option<Forger>);

#[test]
fn s44_ports_that_were_sent_and_never_received_are_closed() {
    let _quiet = common::descriptors();
    let ends: [(&str, &End); 6] = [
        ("the victim closes", &|victim, _| {
            victim.as_ref().unwrap().close();
        }),
        ("the victim is dropped", &|victim, _| drop(victim.take())),
        ("the victim's handle is dropped", &|victim, _| {
            drop(victim.take().map(MessagePort::into_handle));
        }),
        ("the forger leaves", &|victim, forger| {
            drop(forger.take());
            receive_all(victim);
        }),
        ("the forger says that it closed", &|victim, forger| {
            let forger = forger.as_ref().unwrap();
            forger.set32(forger.mine(STATE), CLOSED);
            receive_all(victim);
        }),
        ("the forger posts nonsense", &|victim, forger| {
            let forger = forger.as_ref().unwrap();
            forger.set(forger.at(forger.cursor()), !0);
            receive_all(victim);
        }),
    ];
    for (what, end) in ends {
        for messages in [1, 3, 60] {
            for published in [true, false] {
                let (victim, forger) = carrier();
                let mut peers = Vec::new();
                for count in (0..messages).map(|message| 1 + message % 3) {
                    let (stay, go): (Vec<_>, Vec<_>) = (0..count).map(|_| channel_of(4096)).unzip();
                    if published {
                        forger.post_ports(b"", go);
                    } else {
                        forger.send_ports(go).unwrap();
                    }
                    peers.extend(stay);
                }
                // Whoever is left keeps what he has until all peers were told.
                let (mut victim, mut forger) = (Some(victim), Some(forger));
                end(&mut victim, &mut forger);
                for peer in &peers {
                    let reason = end_of(peer);
                    let received = published && reason == CloseReason::ClosedByPeer;
                    assert!(
                        received || reason == CloseReason::PeerGone,
                        "{what}: {reason:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn s61_descriptors_whose_message_never_comes_are_closed_with_the_channel() {
    let _quiet = common::descriptors();
    for says_so in [false, true] {
        for way in 0..3 {
            let (victim, forger) = carrier();
            let before = count_descriptors();
            let (near, far) = channel_of(4096);
            forger.post(&[], b"the last one");
            forger.send_ports(vec![far]).unwrap();
            if says_so {
                forger.set32(forger.mine(STATE), CLOSED);
            }
            drop(forger);
            assert!(hear(&victim, way).unwrap().is_empty());
            let reason = if says_so {
                CloseReason::ClosedByPeer
            } else {
                CloseReason::PeerGone
            };
            assert_eq!(hear(&victim, way).unwrap_err(), reason);
            // The victim's port is still there.
            assert_eq!(end_of(&near), CloseReason::PeerGone);
            assert_over(&victim, reason);
            drop(near);
            assert!(count_descriptors() < before);
        }
    }
}

#[test]
fn s57_a_queue_full_of_descriptors_stops_nothing_else() {
    let _quiet = common::descriptors();
    let (victim, forger) = carrier();
    let (handle, peer) = genuine();
    let one = [handle.doorbell.as_fd()];
    let mut sent = 0;
    while sent < 500 && forger.send(&[0x80], &one).is_ok() {
        sent += 1;
    }
    assert!(sent > 60, "{sent}");
    drop(handle);
    let mut innocent = Innocent::new();
    for index in 0..200 {
        forger.post(&[], &common::sample(index));
        assert_eq!(common::next(&victim), common::sample(index));
        victim.try_post_bytes(&common::sample(index)).unwrap();
        forger.read_all();
        let moment = std::time::Duration::from_micros(100);
        assert!(victim.recv_timeout(moment).unwrap().is_none());
        innocent.works();
    }
    forger.post(&[PORT], b"one of them");
    assert_eq!(hear(&victim, 0).unwrap_err(), CloseReason::Corrupt);
    assert_eq!(end_of(&peer), CloseReason::PeerGone);
}
