//! The oracle itself: content with a history that keeps the promises, and not with one that breaks any.

use super::history::History;
use super::log::{Event, Reason};
use super::oracle::judge;
use super::parcel::{PortId, Stay};
use crate::common;

fn stay(port: PortId, hop: u64) -> Stay {
    Stay { port, hop }
}

/// A post that returned, and its receipt.
fn post(message: u64, from: Stay, number: u64, passengers: &[Stay]) -> [Event; 2] {
    let posting = Event::Posting {
        message,
        from,
        number,
        last: false,
        passengers: passengers.to_vec(),
    };
    [posting, Event::Posted { message }]
}

fn receipt(message: u64, at: Stay, number: u64, passengers: &[Stay]) -> Event {
    Event::Received {
        at,
        message,
        from: at.port ^ 1,
        number,
        passengers: passengers.to_vec(),
        ports: passengers.len(),
    }
}

/// Actor 0 starts actor 1, which has port 3 to its port 2. It makes the channel of ports 4 and 5, posts one
/// message from 4, sends 5 away, posts one more, closes 4. Both say their last on 2 and 3.
fn history() -> Vec<History> {
    let moved = [stay(5, 1)];
    let mut hub = vec![
        Event::Made { channel: 1 },
        Event::Given { port: 3, to: 1 },
        Event::Made { channel: 2 },
    ];
    hub.extend(post(10, stay(4, 0), 0, &[]));
    hub.extend(post(11, stay(2, 0), 0, &moved));
    hub.extend(post(12, stay(4, 0), 1, &[]));
    hub.extend([
        Event::Closing { stay: stay(4, 0) },
        Event::Closed { stay: stay(4, 0) },
    ]);
    hub.extend(post(13, stay(2, 0), 1, &[]));
    hub.push(receipt(20, stay(2, 0), 0, &[]));
    hub.push(Event::Finished { stay: stay(2, 0) });
    let mut worker = vec![
        receipt(11, stay(3, 1), 0, &moved),
        receipt(10, stay(5, 1), 0, &[]),
        receipt(12, stay(5, 1), 1, &[]),
        Event::Ended {
            stay: stay(5, 1),
            reason: Reason::ByPeer,
        },
        receipt(13, stay(3, 1), 1, &[]),
    ];
    worker.extend(post(20, stay(3, 1), 0, &[]));
    worker.push(Event::Finished { stay: stay(3, 1) });
    [(0, hub), (1, worker)]
        .into_iter()
        .map(|(actor, events)| History {
            actor,
            killed: false,
            events,
        })
        .collect()
}

/// The faults found in a history after somebody changed it.
fn faults(change: impl FnOnce(&mut Vec<Event>, &mut Vec<Event>)) -> Vec<String> {
    let mut histories = history();
    let [hub, worker] = &mut histories[..] else {
        unreachable!("two of them");
    };
    change(&mut hub.events, &mut worker.events);
    let faults = judge(&histories).faults;
    faults.into_iter().map(|(_, what)| what).collect()
}

#[track_caller]
fn assert_found(fault: &str, change: impl FnOnce(&mut Vec<Event>, &mut Vec<Event>)) {
    let faults = faults(change);
    let found = faults.iter().any(|what| what.contains(fault));
    assert!(found, "wanted {fault:?}, got {faults:?}");
}

#[test]
fn the_oracle_is_content_with_what_keeps_the_promises() {
    let _quiet = common::descriptors();
    assert_eq!(faults(|_, _| ()), Vec::<String>::new());
}

#[test]
fn the_oracle_is_content_when_the_dead_leave_things_undone() {
    let _quiet = common::descriptors();
    // The worker is killed at any line of its log; the hub learns of it instead of finishing.
    for line in 0..history()[1].events.len() {
        let mut histories = history();
        histories[1].killed = true;
        histories[1].events.truncate(line);
        // What it had said before is received.
        let said = histories[1].events.contains(&Event::Posted { message: 20 });
        let hub = &mut histories[0].events;
        hub.truncate(hub.len() - if said { 1 } else { 2 });
        let reason = Reason::PeerGone;
        hub.push(Event::Ended {
            stay: stay(2, 0),
            reason,
        });
        assert_eq!(judge(&histories).faults, [], "killed at line {line}");
    }
}

#[test]
fn the_oracle_finds_each_kind_of_fault() {
    let _quiet = common::descriptors();
    assert_found("was posted and never came", |_, worker| {
        _ = worker.remove(2)
    });
    assert_found("where 0 was due", |_, worker| worker.swap(1, 2));
    assert_found("came twice", |_, worker| {
        worker.insert(2, worker[1].clone())
    });
    assert_found("was never posted", |hub, _| _ = hub.drain(3..5));
    assert_found("was refused and came", |hub, _| {
        hub[4] = Event::Refused {
            message: 10,
            closed: None,
        };
    });
    assert_found("was received twice", |_, worker| {
        worker.insert(1, worker[0].clone())
    });
    assert_found("is not what was posted", |_, worker| {
        worker[0] = receipt(11, stay(3, 1), 0, &[]);
    });
    assert_found("with 0 ports is not", |_, worker| {
        if let Event::Received { ports, .. } = &mut worker[0] {
            *ports = 0;
        }
    });
    assert_found("came to", |_, worker| {
        if let Event::Received { at, .. } = &mut worker[2] {
            at.port = 3;
        }
    });
    assert_found("was never told how it ends", |_, worker| _ = worker.pop());
    assert_found("is still closing", |hub, _| _ = hub.remove(10));
    for reason in [Reason::PeerGone, Reason::Wrong] {
        assert_found("but its peer is Closed", |_, worker| {
            worker[3] = Event::Ended {
                stay: stay(5, 1),
                reason,
            };
        });
    }
    // An end for which nobody is the cause.
    assert_found("but its peer is Finished", |hub, _| {
        let stay = stay(2, 0);
        *hub.last_mut().unwrap() = Event::Ended {
            stay,
            reason: Reason::ByPeer,
        };
    });
    assert_found("a post at", |_, worker| {
        let closed = Some(Reason::PeerGone);
        let [posting, _] = post(30, stay(3, 1), 0, &[]);
        worker.splice(
            5..5,
            [
                posting,
                Event::Refused {
                    message: 30,
                    closed,
                },
            ],
        );
    });
    assert_found("actor 1: it went wrong", |_, worker| {
        let what = "it went wrong".to_owned();
        worker.push(Event::Fault { what });
    });
}
