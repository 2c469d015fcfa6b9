//! Judges what happened, by what every process wrote down.
//!
//! It knows nothing of the library: it follows each port from stay to stay, each message from its post to its
//! receipt, and says what does not fit the promises.

use std::collections::BTreeMap;

use super::history::History;
use super::log::{Event, Reason};
use super::parcel::{PortId, Stay, peer};

/// What the oracle has to say.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What is wrong, each with a port that it concerns.
    pub faults: Vec<(PortId, String)>,
    /// Messages received, and how many ports were in them.
    pub received: u64,
    pub moved: u64,
    /// Ports that said and heard the last, that learned of a close, of a loss.
    pub finished: u64,
    pub closed: u64,
    pub gone: u64,
    /// Ports that were posted and never received.
    pub lost: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// The process died in the post: either may have happened.
    Unknown,
    Posted,
    Refused,
}

struct Message {
    from: PortId,
    number: u64,
    passengers: Vec<Stay>,
    outcome: Outcome,
    receipts: usize,
}

/// What became of a port in its last stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Held, and nothing is known to have happened.
    Held,
    /// Its holder was killed.
    Died,
    /// Posted by that message, and never received.
    Lost(u64),
    /// Its holder was killed as it closed it.
    Closing,
    Closed,
    Ended(Reason),
    Finished,
}

struct Holder {
    actor: u64,
    killed: bool,
    fate: Fate,
}

#[derive(Default)]
struct Oracle {
    /// Of each port, who held it, stay by stay.
    ports: BTreeMap<PortId, BTreeMap<u64, Holder>>,
    messages: BTreeMap<u64, Message>,
    /// Of each port, the numbers of what was posted on it and received at it, by stay and then as logged.
    posted: BTreeMap<PortId, Vec<(u64, u64)>>,
    received: BTreeMap<PortId, Vec<(u64, u64)>>,
    /// Posts that were told the port's channel is closed.
    told: Vec<(Stay, Reason)>,
    verdict: Verdict,
}

/// Judges a whole round.
pub fn judge(histories: &[History]) -> Verdict {
    let mut oracle = Oracle::default();
    for history in histories {
        oracle.read(history, histories);
    }
    // Receipts can stand in logs read before those of the posts.
    for history in histories {
        oracle.match_receipts(history);
    }
    oracle.check_order();
    oracle.check_ends();
    oracle.check_completeness();
    oracle.verdict
}

impl Oracle {
    fn fault(&mut self, port: PortId, what: String) {
        self.verdict.faults.push((port, what));
    }

    fn begin(&mut self, stay: Stay, history: &History) {
        let holder = Holder {
            actor: history.actor,
            killed: history.killed,
            fate: if history.killed {
                Fate::Died
            } else {
                Fate::Held
            },
        };
        let stays = self.ports.entry(stay.port).or_default();
        if let Some(other) = stays.insert(stay.hop, holder) {
            let (a, b) = (other.actor, history.actor);
            self.fault(
                stay.port,
                format!("{stay:?} was received twice, by actors {a} and {b}"),
            );
        }
    }

    fn end(&mut self, stay: Stay, fate: Fate) {
        let stays = self.ports.get_mut(&stay.port);
        match stays.and_then(|stays| stays.get_mut(&stay.hop)) {
            Some(holder) => holder.fate = fate,
            None => self.fault(stay.port, format!("{stay:?} is {fate:?}, and never began")),
        }
    }

    fn read(&mut self, history: &History, all: &[History]) {
        for event in &history.events {
            match event {
                Event::Made { channel } => {
                    for port in [channel * 2, channel * 2 + 1] {
                        self.begin(Stay { port, hop: 0 }, history);
                    }
                }
                Event::Given { port, to } => match all.iter().find(|other| other.actor == *to) {
                    Some(other) => self.begin(
                        Stay {
                            port: *port,
                            hop: 1,
                        },
                        other,
                    ),
                    None => self.fault(*port, format!("port {port} was given to nobody")),
                },
                Event::Posting {
                    message,
                    from,
                    number,
                    passengers,
                    ..
                } => {
                    let posted = Message {
                        from: from.port,
                        number: *number,
                        passengers: passengers.clone(),
                        outcome: Outcome::Unknown,
                        receipts: 0,
                    };
                    self.messages.insert(*message, posted);
                    self.posted
                        .entry(from.port)
                        .or_default()
                        .push((from.hop, *number));
                    for next in passengers {
                        let now = Stay {
                            hop: next.hop - 1,
                            ..*next
                        };
                        self.end(now, Fate::Lost(*message));
                    }
                }
                Event::Posted { message } => self.resolve(*message, Outcome::Posted),
                Event::Refused { message, closed } => self.refused(history, *message, *closed),
                Event::Received { passengers, .. } => {
                    passengers
                        .iter()
                        .for_each(|stay| self.begin(*stay, history));
                }
                Event::Closing { stay } => self.end(*stay, Fate::Closing),
                Event::Closed { stay } => self.end(*stay, Fate::Closed),
                Event::Ended { stay, reason } => self.end(*stay, Fate::Ended(*reason)),
                Event::Finished { stay } => self.end(*stay, Fate::Finished),
                Event::Fault { what } => self.fault(0, format!("actor {}: {what}", history.actor)),
            }
        }
    }

    fn resolve(&mut self, message: u64, outcome: Outcome) {
        if let Some(message) = self.messages.get_mut(&message) {
            message.outcome = outcome;
        }
    }

    /// The ports are back, and the number is free for the next attempt.
    fn refused(&mut self, history: &History, message: u64, closed: Option<Reason>) {
        self.resolve(message, Outcome::Refused);
        let Some(refused) = self.messages.get(&message) else {
            return;
        };
        let (from, passengers) = (refused.from, refused.passengers.clone());
        let here = if history.killed {
            Fate::Died
        } else {
            Fate::Held
        };
        for next in passengers {
            self.end(
                Stay {
                    hop: next.hop - 1,
                    ..next
                },
                here,
            );
        }
        if let Some((hop, _)) = self.posted.get_mut(&from).and_then(Vec::pop) {
            self.told
                .extend(closed.map(|reason| (Stay { port: from, hop }, reason)));
        }
    }

    fn match_receipts(&mut self, history: &History) {
        for event in &history.events {
            let Event::Received {
                at,
                message,
                from,
                number,
                passengers,
                ports,
            } = event
            else {
                continue;
            };
            self.verdict.received += 1;
            self.verdict.moved += passengers.len() as u64;
            self.received
                .entry(at.port)
                .or_default()
                .push((at.hop, *number));
            let Some(posted) = self.messages.get_mut(message) else {
                self.fault(
                    at.port,
                    format!("message {message:#x} at {at:?} was never posted"),
                );
                continue;
            };
            posted.receipts += 1;
            let as_posted = posted.from == *from
                && posted.number == *number
                && posted.passengers == *passengers
                && passengers.len() == *ports;
            let (twice, outcome) = (posted.receipts > 1, posted.outcome);
            if !as_posted {
                self.fault(
                    at.port,
                    format!(
                        "message {message:#x} at {at:?} with {ports} ports is not what was posted"
                    ),
                );
            }
            if peer(*from) != at.port {
                self.fault(
                    at.port,
                    format!("message {message:#x} of port {from} came to {at:?}"),
                );
            }
            if twice {
                self.fault(
                    at.port,
                    format!("message {message:#x} came twice, the second time to {at:?}"),
                );
            }
            if outcome == Outcome::Refused {
                self.fault(
                    at.port,
                    format!("message {message:#x} was refused and came to {at:?}"),
                );
            }
        }
    }

    /// In each direction: numbers without gaps, across all holders of either port.
    fn check_order(&mut self) {
        let posted = std::mem::take(&mut self.posted);
        let received = std::mem::take(&mut self.received);
        for (what, list) in [("posted on", &posted), ("received at", &received)] {
            for (port, numbers) in list {
                // Stable: within a stay, as logged.
                let mut numbers = numbers.clone();
                numbers.sort_by_key(|(hop, _)| *hop);
                let wrong = numbers
                    .iter()
                    .zip(0..)
                    .find(|((_, number), index)| number != index);
                if let Some(((hop, number), index)) = wrong {
                    self.fault(*port, format!(
                        "number {number} was {what} port {port} in stay {hop}, where {index} was due"
                    ));
                }
            }
        }
    }

    fn fate(&self, port: PortId) -> Fate {
        let stays = self.ports.get(&port);
        let last = stays.and_then(|stays| stays.last_key_value());
        last.map_or(Fate::Held, |(_, holder)| holder.fate)
    }

    /// Every port comes to an end, and for each end there is a cause.
    fn check_ends(&mut self) {
        let mut faults = Vec::new();
        for (port, stays) in &self.ports {
            let Some((hop, holder)) = stays.last_key_value() else {
                continue;
            };
            let who = format!(
                "port {port}, last held by actor {} (stay {hop}),",
                holder.actor
            );
            match holder.fate {
                Fate::Held => faults.push((*port, format!("{who} was never told how it ends"))),
                Fate::Closing if !holder.killed => {
                    faults.push((*port, format!("{who} is still closing")))
                }
                Fate::Lost(_) => self.verdict.lost += 1,
                Fate::Finished => self.verdict.finished += 1,
                Fate::Ended(reason) => {
                    match reason {
                        Reason::ByPeer => self.verdict.closed += 1,
                        _ => self.verdict.gone += 1,
                    }
                    let cause = self.fate(peer(*port));
                    if !explains(cause, reason) {
                        faults.push((
                            *port,
                            format!("{who} ended by {reason:?}, but its peer is {cause:?}"),
                        ));
                    }
                }
                Fate::Died | Fate::Closing | Fate::Closed => {}
            }
        }
        for (stay, reason) in &self.told {
            let cause = self.fate(peer(stay.port));
            if !explains(cause, *reason) {
                faults.push((
                    stay.port,
                    format!("a post at {stay:?} said {reason:?}, but the peer is {cause:?}"),
                ));
            }
        }
        self.verdict.faults.append(&mut faults);
    }

    /// Whoever received to the end has received whatever had been posted.
    fn check_completeness(&mut self) {
        let mut faults = Vec::new();
        for (number, message) in &self.messages {
            let receiver = self.fate(peer(message.from));
            let to_the_end = matches!(receiver, Fate::Ended(_) | Fate::Finished);
            if message.outcome == Outcome::Posted && message.receipts == 0 && to_the_end {
                let what = format!(
                    "message {number:#x}, number {} of port {}, was posted and never came, and the receiver is {receiver:?}",
                    message.number, message.from
                );
                faults.push((message.from, what));
            }
        }
        self.verdict.faults.append(&mut faults);
    }
}

/// Whether a port may hear of this reason when that became of its peer.
fn explains(peer: Fate, reason: Reason) -> bool {
    match peer {
        Fate::Closed => reason == Reason::ByPeer,
        Fate::Died | Fate::Lost(_) => reason == Reason::PeerGone,
        Fate::Closing => reason != Reason::Wrong,
        Fate::Held | Fate::Ended(_) | Fate::Finished => false,
    }
}
