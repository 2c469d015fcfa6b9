//! What comes over the doorbell: bytes that ring no bell, and descriptors that are no ports, too many, too few,
//! at the wrong time. The channel they come through ends as Corrupt, no other does, and whatever came with
//! them is closed (S57, S58, S61).

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

use chances::{Round, Seeded, rounds};
use common::{assert_over, channel_of, closed, count_descriptors};
use forger::{Forger, MESSAGE, PORT, RING, header};
use proptest::prelude::*;
use ringport::{CloseReason, MessagePort};
use smuggle::{
    carrier, ends_the_channel, genuine, hear, memory, near_segments, pairs, post_pair, sealed,
    things,
};
use witness::{Holdings, Innocent, end_of, works};

roles! { is_sent_stowaways }

#[test]
fn s61_what_is_sent_as_it_should_be_arrives() {
    // Otherwise the ends of channels below would prove nothing.
    let _quiet = common::descriptors();
    for sent_before in [0, 126, 127, 128, u32::MAX - 1] {
        let (port1, port2) = channel_of(4096);
        let victim = port1.into_handle();
        let forger = Forger::of(port2);
        forger.count_descriptors_from(sent_before);
        let victim = MessagePort::from_handle(victim).unwrap();
        for count in [1, 2, 126, 1] {
            let (stay, go): (Vec<_>, Vec<_>) = (0..count).map(|_| channel_of(4096)).unzip();
            forger.post_ports(b"ports", go);
            let ports = hear(&victim, count).unwrap();
            assert_eq!(ports.len(), count);
            for (near, far) in stay.into_iter().zip(ports).take(3) {
                works(near, far);
            }
        }
        assert_eq!(victim.stats().ports_received, 130);
    }
}

/// What a victim that looks at its doorbell, one way or another, says of the channel.
fn looks(victim: &MessagePort, way: usize) -> Option<CloseReason> {
    let answer = match way % 3 {
        0 => return victim.close_reason(),
        1 => victim.recv_timeout(std::time::Duration::from_micros(200)),
        _ => {
            let mut looks = (0..50).map(|_| victim.try_recv());
            looks.find(Result::is_err).unwrap_or(Ok(None))
        }
    };
    match answer {
        // To wait is to look now and then; to ask is to look now.
        Ok(None) => victim.close_reason(),
        end => Some(closed(end)),
    }
}

#[test]
fn s57_a_byte_that_rings_no_bell_ends_the_channel() {
    let _quiet = common::descriptors();
    let mut innocent = Innocent::new();
    for byte in 0..=255 {
        for (way, run) in [1, 2, 3, 64].into_iter().enumerate() {
            for rings_before in [0, 32] {
                let (victim, forger) = carrier();
                forger.send(&vec![RING; rings_before], &[]).unwrap();
                forger.send(&vec![byte; run], &[]).unwrap();
                let end = looks(&victim, way);
                let rings = if byte == RING { run } else { 0 } + rings_before;
                match byte {
                    RING if rings <= 64 => assert_eq!(end, None, "{rings} rings"),
                    // Also those that announce descriptors, of which there are none.
                    _ => assert_eq!(end, Some(CloseReason::Corrupt), "{run} times {byte:#x}"),
                }
                if end.is_none() {
                    forger.post(&[PORT], b"where is it?");
                    assert_eq!(hear(&victim, way).unwrap_err(), CloseReason::Corrupt);
                }
                assert_over(&victim, CloseReason::Corrupt);
            }
        }
        innocent.works();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 100 } else { 500 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn s57_any_bytes_on_a_doorbell(
        sends in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![30 => Just(RING), 1 => any::<u8>()], 1..30),
            1..6,
        ),
        way in 0..3usize,
    ) {
        let _quiet = common::descriptors();
        let (victim, forger) = carrier();
        for bytes in &sends {
            forger.send(bytes, &[]).unwrap();
        }
        let end = looks(&victim, way);
        let all = sends.concat();
        let rings = all.iter().take_while(|byte| **byte == RING).count();
        match all.get(rings) {
            None if rings <= 64 => assert_eq!(end, None),
            _ => assert_eq!(end, Some(CloseReason::Corrupt)),
        }
    }
}

#[test]
fn s61_a_ring_that_carries_descriptors_ends_the_channel() {
    let _quiet = common::descriptors();
    for (way, ports) in [1, 1, 1, 2, 126, 126].into_iter().enumerate() {
        for rings_before in [0, 1, 20] {
            let (victim, forger) = carrier();
            let before = count_descriptors();
            let (handles, peers): (Vec<_>, Vec<_>) = (0..ports).map(|_| genuine()).unzip();
            forger.send(&vec![RING; rings_before], &[]).unwrap();
            forger.send(&[RING], &pairs(&handles)).unwrap();
            drop(handles);
            assert_eq!(looks(&victim, way), Some(CloseReason::Corrupt));
            for peer in &peers {
                assert_eq!(end_of(peer), CloseReason::PeerGone);
            }
            drop(peers);
            assert_eq!(count_descriptors(), before);
        }
    }
}

#[test]
fn s61_a_byte_that_means_nothing_ends_the_channel_also_with_descriptors() {
    let _quiet = common::descriptors();
    for byte in (0..0x80).filter(|byte| *byte != RING) {
        let (victim, forger) = carrier();
        let (handle, peer) = genuine();
        forger.send(&[byte], &pairs(&[handle])).unwrap();
        assert_eq!(looks(&victim, byte.into()), Some(CloseReason::Corrupt));
        assert_eq!(end_of(&peer), CloseReason::PeerGone);
    }
}

#[test]
fn s61_too_few_and_too_many_descriptors_end_the_channel() {
    let _quiet = common::descriptors();
    let mut innocent = Innocent::new();
    for items in [1, 2, 5, 126] {
        for count in [0, 1, 2, 3, 4, 5, 9, 10, 11, 251, 252, 253] {
            if count == 2 * items {
                continue;
            }
            ends_the_channel(&format!("{count} for {items}"), count, |forger| {
                let (handles, peers): (Vec<_>, Vec<_>) = (0..3).map(|_| genuine()).unzip();
                let descriptors: Vec<_> = pairs(&handles).into_iter().cycle().take(count).collect();
                let byte = [forger.descriptor_byte()];
                forger.send(&byte, &descriptors).unwrap();
                forger.post(&vec![PORT; items], b"count them");
                peers
            });
        }
        innocent.works();
    }
}

#[test]
fn s61_descriptors_out_of_turn_end_the_channel() {
    let _quiet = common::descriptors();
    for (way, wrong) in (1..128).enumerate() {
        ends_the_channel(&format!("{wrong} ahead"), way, |forger| {
            let (handle, peer) = genuine();
            let byte = [0x80 | (forger.descriptor_byte() + wrong) & 0x7f];
            forger.send(&byte, &pairs(&[handle])).unwrap();
            forger.post(&[PORT], b"out of turn");
            vec![peer]
        });
    }
    // The same number a second time.
    let (victim, forger) = carrier();
    for turn in 0..2 {
        let (handle, peer) = genuine();
        forger.send(&[0x80], &pairs(&[handle])).unwrap();
        forger.post(&[PORT], b"a port");
        match hear(&victim, turn) {
            Ok(ports) if turn == 0 => works(peer, ports.into_iter().next().unwrap()),
            Err(CloseReason::Corrupt) if turn == 1 => {
                assert_eq!(end_of(&peer), CloseReason::PeerGone);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn s61_items_that_cannot_be_end_the_channel() {
    let _quiet = common::descriptors();
    let post = |forger: &Forger, header: u64, items: &[u8]| {
        let (handle, peer) = genuine();
        forger
            .send(&[forger.descriptor_byte()], &pairs(&[handle]))
            .unwrap();
        let position = forger.cursor();
        forger.write(forger.at(position) + 8, items);
        forger.set(forger.at(position), header);
        vec![peer]
    };
    for code in (0..=255).filter(|code| *code != PORT) {
        ends_the_channel(&format!("item {code}"), code.into(), |forger| {
            post(forger, header(5, 1, 1, 0), &[code])
        });
    }
    for (items, pad) in [
        (1, 0),
        (17, 1),
        (126, 7),
        (127, 8),
        (128, 8),
        (255, 16),
        (255, 15),
    ] {
        ends_the_channel(&format!("{items} items in {pad}"), pad, |forger| {
            post(forger, header(5, items, pad as u64, 0), &[PORT; 255])
        });
    }
    for bit in 0..64 {
        // The length is the poster's affair, as long as the record fits; so are whole paddings.
        let word = header(5, 1, 1, 0) ^ 1 << bit;
        let can_be = matches!(bit, 0..=10 | 49..=54 | 56..=62) && word & 0xffff_ffff < 2000;
        if can_be || bit == 32 {
            continue;
        }
        ends_the_channel(&format!("bit {bit}"), bit, |forger| {
            post(forger, word, &[PORT; 40])
        });
    }
    for kind in (0..256).filter(|kind| *kind != MESSAGE) {
        ends_the_channel(&format!("kind {kind}"), kind as usize, |forger| {
            post(
                forger,
                header(5, 1, 1, 0) & !(0xff << 40) | kind << 40,
                &[PORT],
            )
        });
    }
    // A record that needs what has not come.
    ends_the_channel("no byte", 0, |forger| {
        forger.post(&[PORT], b"");
        vec![]
    });
}

#[test]
fn s58_things_that_are_no_port_end_the_channel() {
    let _quiet = common::descriptors();
    let mut innocent = Innocent::new();
    for index in 0..things().len() {
        for place in 0..3 {
            let what = things()[index].0;
            ends_the_channel(&format!("{what} in place {place}"), place, |forger| {
                let (handle, peer) = genuine();
                let (_, thing) = things().swap_remove(index);
                match place {
                    0 => post_pair(forger, thing, handle.doorbell),
                    1 => post_pair(forger, handle.segment, thing),
                    _ => post_pair(forger, thing.try_clone().unwrap(), thing),
                }
                vec![peer]
            });
        }
        innocent.works();
    }
    ends_the_channel("the one for the other", 0, |forger| {
        let (handle, peer) = genuine();
        post_pair(forger, handle.doorbell, handle.segment);
        vec![peer]
    });
    // Behind good ones, which then do not arrive either.
    ends_the_channel("the last of three", 1, |forger| {
        let (mut handles, peers): (Vec<_>, Vec<_>) = (0..3).map(|_| genuine()).unzip();
        handles[2].segment = memory(b"no segment", sealed());
        let byte = [forger.descriptor_byte()];
        forger.send(&byte, &pairs(&handles)).unwrap();
        forger.post(&[PORT; 3], b"three ports");
        peers
    });
}

#[test]
fn s58_files_that_are_nearly_segments_end_the_channel() {
    let _quiet = common::descriptors();
    let all = near_segments(&genuine().0.segment);
    let names: Vec<_> = all.into_iter().map(|(name, _)| name).collect();
    for (index, what) in names.into_iter().enumerate() {
        ends_the_channel(what, index, |forger| {
            let (handle, peer) = genuine();
            let (_, segment) = near_segments(&handle.segment).swap_remove(index);
            post_pair(forger, segment, handle.doorbell);
            vec![peer]
        });
    }
}

#[test]
fn s57_a_victim_in_another_process_keeps_nothing() {
    let _quiet = common::descriptors();
    let (control, child) = common::worker("is_sent_stowaways").into_parts();
    for seed in 0..rounds(800) {
        let _round = Round(seed);
        let mut random = Seeded::new(seed);
        let (victim, forger) = carrier();
        let (handle, peer) = genuine();
        let mut things = things();
        let (_, thing) = things.swap_remove(random.below(things.len() as u64) as usize);
        drop(things);
        // Half of it comes along in the victim's queue, half while it waits. A ring is looked at only now and then.
        let (kind, first) = (random.below(6), random.one_in(2));
        let mut victim = Some(victim);
        let mut hand_over = |now| {
            if let (true, Some(victim)) = (now, victim.take_if(|_| now)) {
                control.post_bytes_with(b"hear this", [victim]).unwrap();
            }
        };
        hand_over(!first && kind != 0);
        let byte = [forger.descriptor_byte()];
        let mut wants = CloseReason::Corrupt;
        match kind {
            0 => drop(
                forger
                    .send(&[RING], &pairs(std::slice::from_ref(&handle)))
                    .unwrap(),
            ),
            1 => post_pair(&forger, &handle.doorbell, &handle.segment),
            2 => post_pair(&forger, &handle.segment, &thing),
            3 => post_pair(&forger, &thing, &handle.doorbell),
            4 => {
                let count = random.pick(&[1, 3, 100, 253]);
                forger.send(&byte, &vec![thing.as_fd(); count]).unwrap();
                forger.post(&[PORT], b"");
            }
            _ => {
                let pair = pairs(std::slice::from_ref(&handle));
                forger.send(&byte, &pair).unwrap();
                wants = CloseReason::PeerGone;
            }
        }
        if wants == CloseReason::PeerGone {
            drop(forger);
        } else if !first {
            // It may sleep by now, or have ended the channel.
            let _ = forger.send(&[RING], &[]);
        }
        drop((handle, thing));
        hand_over(true);
        assert_eq!(common::next(&control), format!("{wants:?}").as_bytes());
        // What was sent is closed there, while that channel's port is still there.
        assert_eq!(end_of(&peer), CloseReason::PeerGone);
        control.post_bytes(b"that was it").unwrap();
    }
    drop(control);
    common::end_well(child);
}

fn is_sent_stowaways() {
    let control = common::parent();
    let mut innocent = Innocent::new();
    let mut before = None;
    for (round, event) in control.iter().enumerate() {
        let victim = event.take_ports().pop().unwrap();
        drop(event);
        let reason = hear(&victim, round).map_err(|reason| format!("{reason:?}"));
        control.post_bytes(reason.unwrap_err().as_bytes()).unwrap();
        assert_eq!(control.recv().unwrap().bytes(), b"that was it");
        drop(victim);
        innocent.works();
        if round == 50 {
            before = Some(Holdings::now());
        }
    }
    Holdings::now().assert_as(&before.unwrap());
}
