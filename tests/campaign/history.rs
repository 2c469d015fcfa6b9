//! What one process did, and how to find one channel in it.

use super::log::Event;
use super::parcel::{PortId, peer};

/// What one process did.
pub struct History {
    pub actor: u64,
    /// By SIGKILL, whoever sent it.
    pub killed: bool,
    pub events: Vec<Event>,
}

/// All lines that name a port, for whoever reads a fault.
pub fn trail(histories: &[History], port: PortId) -> String {
    let mut trail = String::new();
    for history in histories {
        for (line, event) in history.events.iter().enumerate() {
            if names(event, port) {
                trail += &format!("  actor {} line {line}: {event:?}\n", history.actor);
            }
        }
    }
    trail
}

fn names(event: &Event, port: PortId) -> bool {
    let is = |other: &PortId| *other == port || peer(*other) == port;
    match event {
        Event::Made { channel } => is(&(channel * 2)),
        Event::Given { port, .. } => is(port),
        Event::Posting {
            from, passengers, ..
        } => is(&from.port) || passengers.iter().any(|stay| is(&stay.port)),
        Event::Received { at, passengers, .. } => {
            is(&at.port) || passengers.iter().any(|stay| is(&stay.port))
        }
        Event::Closing { stay }
        | Event::Closed { stay }
        | Event::Ended { stay, .. }
        | Event::Finished { stay } => is(&stay.port),
        Event::Posted { .. } | Event::Refused { .. } | Event::Fault { .. } => false,
    }
}
