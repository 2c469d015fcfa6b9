//! What should be: for each end of each channel where it is, what waits on it, and how it has ended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::time::Instant;

use ringport::{CloseReason, PortId};

use super::letter::Letter;

/// One end of a channel: twice the channel's number, plus its side.
pub type End = usize;

pub fn peer(end: End) -> End {
    end ^ 1
}

/// A message that was posted and not received.
#[derive(Debug)]
pub struct Waiting {
    pub letter: Letter,
    pub cargo: Vec<End>,
    /// Whether it is there already, or only promised by a far end.
    pub here: bool,
    /// When it was posted.
    pub since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// With the test, in no loop.
    Held,
    Looped(PortId),
    /// In a message that waits at that end.
    Riding(End),
    /// In a message that was received, and that the test has kept with its ports.
    Kept,
    /// In a loop of another thread or process.
    Far,
    Nowhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Open,
    /// By its holder.
    Closed,
    /// With a message that nobody received, or with its holder.
    Lost,
    /// One of the two: it was far away, and that channel has ended.
    Either,
}

impl Fate {
    /// Whether it explains what the peer was told.
    pub fn explains(self, reason: CloseReason) -> bool {
        match self {
            Fate::Open => false,
            Fate::Closed => reason == CloseReason::ClosedByPeer,
            Fate::Lost => reason == CloseReason::PeerGone,
            Fate::Either => {
                matches!(reason, CloseReason::ClosedByPeer | CloseReason::PeerGone)
            }
        }
    }
}

/// A handler, by the token that it was given.
pub type Token = u64;

/// What was set on a port since it is in the loop.
#[derive(Debug, Default)]
pub struct Stay {
    pub started: bool,
    /// And whether it takes archives only.
    pub on_message: Option<(Token, bool)>,
    pub on_error: Option<Token>,
    pub on_close: Option<Token>,
    /// And the length of the message that it waits for.
    pub on_room: Option<(Token, usize)>,
}

impl Stay {
    pub fn is_enabled(&self) -> bool {
        self.started && self.on_message.is_some()
    }

    /// The handlers that live until the port leaves.
    fn lasting(&self) -> impl Iterator<Item = Token> {
        let on_message = self.on_message.map(|(token, _)| token);
        let all = [on_message, self.on_error, self.on_close];
        all.into_iter().flatten()
    }
}

pub struct Side {
    pub place: Place,
    pub stay: Stay,
    pub inbox: VecDeque<Waiting>,
    /// The number of the next message posted here.
    pub next: u64,
    pub fate: Fate,
    /// Whether its end is still to happen, far away.
    pub late: bool,
    /// Whether its holder was killed, so that what it promised may never come.
    pub cut: bool,
    pub capacity: usize,
    /// Things that have happened to it in the loop.
    pub progress: u64,
    /// When it was put into the loop, or enabled.
    since: Instant,
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (waiting, first) = (self.inbox.len(), self.inbox.front());
        write!(f, "{:?}, {:?}", self.place, self.fate)?;
        write!(f, "{}", if self.late { " soon" } else { "" })?;
        write!(f, "{}", if self.cut { " by force" } else { "" })?;
        write!(f, ", {:?}, {waiting} waiting: {first:?}", self.stay)
    }
}

/// What the loop has to do for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Message,
    Close,
    /// It leaves without an event: this side has closed it, or nobody wants to know.
    Leave,
}

#[derive(Default)]
pub struct Model {
    sides: Vec<Side>,
    ids: HashMap<PortId, End>,
    /// Channels that are not over.
    alive: Vec<usize>,
}

/// Looking.
impl Model {
    pub fn side(&self, end: End) -> &Side {
        &self.sides[end]
    }

    pub fn side_mut(&mut self, end: End) -> &mut Side {
        &mut self.sides[end]
    }

    pub fn ends(&self) -> std::ops::Range<End> {
        0..self.sides.len()
    }

    pub fn at(&self, port: PortId) -> Option<End> {
        self.ids.get(&port).copied()
    }

    pub fn looped(&self) -> impl ExactSizeIterator<Item = End> {
        self.ids.values().copied()
    }

    pub fn channels(&self) -> usize {
        self.alive.len()
    }

    /// A channel by any number; those that are over are forgotten on the way.
    pub fn any(&mut self, number: u64) -> Option<End> {
        loop {
            let ends = 2 * self.alive.len();
            if ends == 0 {
                return None;
            }
            let pick = (number % ends as u64) as usize;
            let end = self.alive[pick / 2] * 2 + pick % 2;
            let is_over = |end| matches!(self.side(end).place, Place::Far | Place::Nowhere);
            if !(is_over(end) && is_over(peer(end))) {
                return Some(end);
            }
            self.alive.swap_remove(pick / 2);
        }
    }

    /// Whether a message of it can be dispatched now.
    pub fn is_waiting(&self, end: End) -> bool {
        self.due(end) == Some(Due::Message)
    }

    /// Who of the others than `served` has been waiting for a turn since then, or longer.
    pub fn waits_since(&self, then: Instant, served: End) -> Option<End> {
        self.looped().find(|end| {
            let side = self.side(*end);
            let front = side.inbox.front();
            let is_old = front.is_some_and(|waiting| waiting.since.max(side.since) <= then);
            *end != served && is_old && self.is_waiting(*end)
        })
    }

    pub fn due(&self, end: End) -> Option<Due> {
        let side = self.side(end);
        if !matches!(side.place, Place::Looped(_)) {
            return None;
        }
        if side.fate != Fate::Open {
            return Some(Due::Leave);
        }
        match side.inbox.front() {
            Some(waiting) => (waiting.here && side.stay.is_enabled()).then_some(Due::Message),
            None => {
                let peer = self.side(peer(end));
                let is_over = peer.fate != Fate::Open && !peer.late;
                is_over.then_some(match side.stay.on_close {
                    Some(_) => Due::Close,
                    None => Due::Leave,
                })
            }
        }
    }

    /// Whether the loop may have let it go without a word.
    pub fn may_have_left(&self, end: End) -> bool {
        let (side, peer) = (self.side(end), self.side(peer(end)));
        let is_heard_out = side.inbox.is_empty() || peer.cut;
        side.fate != Fate::Open
            || side.stay.on_close.is_none() && peer.fate != Fate::Open && is_heard_out
    }

    /// Whether something is still to come from far away.
    pub fn is_expecting(&self) -> bool {
        self.looped().any(|end| {
            let side = self.side(end);
            let front = side.inbox.front();
            let is_promised = front.is_some_and(|waiting| !waiting.here);
            // What waits keeps an end that is not started from being told of anything behind it.
            let is_hearing = side.stay.is_enabled() || front.is_none();
            is_hearing && (is_promised || self.side(peer(end)).late)
        })
    }

    /// Whoever holds what this end is in, in the end.
    fn root(&self, mut end: End) -> End {
        while let Place::Riding(on) = self.side(end).place {
            end = on;
        }
        end
    }

    /// Whether a port can be posted on that one, so that somebody can receive it.
    pub fn can_ride(&self, end: End, carrier: End) -> bool {
        let is_here = matches!(self.side(end).place, Place::Held | Place::Looped(_));
        let is_open = self.side(end).fate == Fate::Open;
        is_here && is_open && end != carrier && self.root(peer(carrier)) != end
    }

    /// Bytes of its ring that are in use at most, and the messages with ports.
    pub fn load(&self, from: End) -> (usize, usize) {
        let inbox = self.side(peer(from)).inbox.iter();
        inbox.fold((0, 0), |(bytes, transfers), waiting| {
            let ports = waiting.cargo.len();
            let bytes = bytes + waiting.letter.most_room(ports);
            (bytes, transfers + usize::from(ports > 0))
        })
    }

    /// The handlers that the loop has when nothing is left to be done; and those that it may have dropped already,
    /// as it may have learned of something that is far away.
    pub fn handlers(&self) -> [HashSet<Token>; 2] {
        let (mut certain, mut doubtful) = (HashSet::new(), HashSet::new());
        for end in self.looped() {
            let (stay, peer) = (&self.side(end).stay, self.side(peer(end)));
            certain.extend(stay.lasting());
            // There is no more room to wait for once the channel has ended.
            let on_room = stay.on_room.map(|(token, _)| token);
            match peer.fate {
                Fate::Open => certain.extend(on_room),
                _ if peer.late => doubtful.extend(on_room),
                _ => {}
            }
        }
        [certain, doubtful]
    }
}

/// What happens.
impl Model {
    pub fn make(&mut self, capacity: usize) -> [End; 2] {
        self.alive.push(self.sides.len() / 2);
        [(); 2].map(|()| {
            self.sides.push(Side {
                place: Place::Held,
                stay: Stay::default(),
                inbox: VecDeque::new(),
                next: 0,
                fate: Fate::Open,
                late: false,
                cut: false,
                capacity,
                progress: 0,
                since: Instant::now(),
            });
            self.sides.len() - 1
        })
    }

    /// It was put into the loop.
    pub fn enter(&mut self, end: End, port: PortId) {
        let side = &mut self.sides[end];
        side.place = Place::Looped(port);
        side.stay = Stay::default();
        side.progress += 1;
        side.since = Instant::now();
        let before = self.ids.insert(port, end);
        assert_eq!(before, None, "no two ports have the same id");
    }

    /// Its handler was set, or it was started.
    pub fn change(&mut self, end: End, change: impl FnOnce(&mut Stay)) {
        let side = &mut self.sides[end];
        let was_enabled = side.stay.is_enabled();
        change(&mut side.stay);
        if !was_enabled && side.stay.is_enabled() {
            side.since = Instant::now();
        }
    }

    /// It has left the loop.
    pub fn leave(&mut self, end: End, place: Place) {
        if let Place::Looped(port) = self.side(end).place {
            self.ids.remove(&port);
        }
        self.side_mut(end).place = place;
        self.side_mut(end).stay = Stay::default();
    }

    /// It was posted on `letter.from`, which had an open peer.
    pub fn post(&mut self, letter: Letter, cargo: Vec<End>, here: bool) {
        let to = peer(letter.from);
        self.side_mut(letter.from).next += 1;
        for end in &cargo {
            self.leave(*end, Place::Riding(to));
        }
        self.side_mut(to).inbox.push_back(Waiting {
            letter,
            cargo,
            here,
            since: Instant::now(),
        });
    }

    pub fn take(&mut self, end: End) -> Option<Waiting> {
        let side = self.side_mut(end);
        side.progress += 1;
        let waiting = side.inbox.pop_front()?;
        for end in &waiting.cargo {
            self.side_mut(*end).place = Place::Kept;
        }
        Some(waiting)
    }

    /// Its holder has closed or dropped it. One that is in the loop is yet to leave it.
    pub fn close(&mut self, end: End) {
        if !matches!(self.side(end).place, Place::Looped(_)) {
            self.side_mut(end).place = Place::Nowhere;
        }
        if self.side(end).fate == Fate::Open {
            self.side_mut(end).fate = Fate::Closed;
            self.discard(end, false);
        }
    }

    /// It was posted to an end that is going, and is lost somewhere.
    pub fn vanish(&mut self, end: End) {
        self.leave(end, Place::Nowhere);
        self.side_mut(end).fate = Fate::Either;
        self.side_mut(end).late = true;
        self.discard(end, true);
    }

    /// What waits there is never received, nor what waits at the ports in it. `late`: it is still to happen.
    pub fn discard(&mut self, end: End, late: bool) {
        let mut ends = vec![(end, late)];
        while let Some((end, late)) = ends.pop() {
            for waiting in std::mem::take(&mut self.side_mut(end).inbox) {
                let late = late || !waiting.here;
                for end in waiting.cargo {
                    let side = self.side_mut(end);
                    side.place = Place::Nowhere;
                    side.fate = if waiting.here {
                        Fate::Lost
                    } else {
                        Fate::Either
                    };
                    side.late = late;
                    ends.push((end, late));
                }
            }
        }
    }

    /// The process that held it was killed. What it has posted before will come.
    pub fn kill(&mut self, end: End) {
        let side = self.side_mut(end);
        side.fate = match side.fate {
            Fate::Open => Fate::Lost,
            _ => Fate::Either,
        };
        side.late = true;
        side.cut = true;
        side.place = Place::Nowhere;
    }
}
