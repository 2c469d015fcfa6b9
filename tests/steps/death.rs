//! One victim after the other, each dying a stop later.

use std::collections::BTreeSet;
use std::process::Child;

use ringport::MessagePort;

use crate::common::{self, Counters, channel, next, parent, sample};
use crate::tracer::{Stop, Traced};

/// No operation here takes as many steps.
const MOST_STOPS: usize = 4000;

/// One victim's death.
pub struct Death {
    /// So many stops it lives.
    after: usize,
    /// The system calls it came to.
    seen: BTreeSet<libc::c_long>,
    /// Whether it has come out of a `sendmsg`.
    pub sent: bool,
    /// Whether it lived to the end.
    pub finished: bool,
}

impl Death {
    fn after(after: usize) -> Death {
        Death {
            after,
            seen: BTreeSet::new(),
            sent: false,
            finished: false,
        }
    }

    /// Lets the victim go on from its beginning, and kills it at its stop.
    #[track_caller]
    pub fn strike(&mut self, child: &mut Child, counters: &Counters) {
        let mut traced = Traced::wait_for(child, counters);
        for _ in 0..self.after {
            match traced.next() {
                Stop::Entry(call) => _ = self.seen.insert(call),
                Stop::Exit(call) => self.sent |= call == libc::SYS_sendmsg,
                Stop::End => {
                    self.finished = true;
                    break;
                }
            }
        }
        traced.kill();
    }
}

/// Plays a scene again and again, its victim dying one stop later each time. `calls` are known to be among
/// its steps: without them nothing was covered. Returns the number of stops.
pub fn at_every_stop(calls: &[libc::c_long], mut scene: impl FnMut(&mut Death)) -> usize {
    let mut bystander = Bystander::new();
    let mut seen = BTreeSet::new();
    for after in 0..MOST_STOPS {
        let mut death = Death::after(after);
        scene(&mut death);
        bystander.assert_undisturbed();
        seen.append(&mut death.seen);
        if death.finished {
            for call in calls {
                assert!(seen.contains(call), "system call {call} was not seen");
            }
            // An entry and an exit each.
            assert!(after > 2 * calls.len(), "only {after} stops");
            println!("{after} stops, {} kinds of system calls", seen.len());
            bystander.leave();
            return after;
        }
    }
    panic!("not finished after {MOST_STOPS} stops");
}

/// Channels that have nothing to do with the victim: one to another process, one within this one.
struct Bystander {
    port: MessagePort,
    child: Child,
    inside: (MessagePort, MessagePort),
    asked: u64,
}

impl Bystander {
    fn new() -> Bystander {
        let (port, child) = common::worker("echoes").into_parts();
        Bystander {
            port,
            child,
            inside: channel(),
            asked: 0,
        }
    }

    #[track_caller]
    fn assert_undisturbed(&mut self) {
        self.asked += 1;
        for (asks, answers) in [(&self.port, &self.port), (&self.inside.0, &self.inside.1)] {
            asks.post_bytes(&sample(self.asked)).unwrap();
            assert_eq!(next(answers), sample(self.asked));
            assert!(common::nothing(answers));
        }
    }

    fn leave(self) {
        drop(self.port);
        common::end_well(self.child);
    }
}

pub fn echoes() {
    let port = parent();
    for event in port.iter() {
        port.post_bytes(event.bytes()).unwrap();
    }
}
