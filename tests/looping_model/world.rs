//! The loop's surroundings: ports that are in it and ports that are not, the handlers, and what these find wrong.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use ringport::{
    Attached, EventLoop, MessageErrorEvent, MessagePort, OwnedMessageEvent, PortEvent, PortId,
    TimerId,
};

use super::letter::Typed;
use super::model::{Due, End, Model, Place, Token};
use super::turns::{self, Turns};
use crate::ports::Random;

/// A timer that was set and has not fired.
pub struct Timer {
    pub id: TimerId,
    /// It is due then, or a little before.
    pub due: Instant,
}

/// Messages of one port in a row while another one waits: up to 64 until its turn is over, up to 64 until the kernel is
/// asked who else is there, and one more turn.
const MOST_IN_A_ROW: usize = 3 * turns::MOST;
/// They only count from then on: while messages come very fast, the kernel is not asked after each turn.
const UNASKED: Duration = Duration::from_micros(50);

/// What has happened so far.
#[derive(Debug, Default)]
pub struct Tally {
    pub dispatched: Cell<u64>,
    pub errors: Cell<u64>,
    pub closes: Cell<u64>,
    pub moved: Cell<u64>,
    pub detached: Cell<u64>,
    pub refused: Cell<u64>,
    pub rooms: Cell<u64>,
    pub timers: Cell<u64>,
    pub wakes: Cell<u64>,
    pub woken: Cell<u64>,
    pub stops: Cell<u64>,
    pub panics: Cell<u64>,
    pub starved: Cell<u64>,
}

pub fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// The panic of a handler that is to take place.
pub struct Planned;

/// Through which handler a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Plain,
    Data,
    Error,
}

pub struct World {
    pub model: RefCell<Model>,
    pub turns: RefCell<Turns>,
    pub held: RefCell<HashMap<End, MessagePort>>,
    pub kept: RefCell<Vec<(OwnedMessageEvent, Vec<End>)>>,
    pub timers: RefCell<BTreeMap<u64, Timer>>,
    random: RefCell<Random>,
    /// Posts that may still be made.
    pub energy: Cell<u64>,
    tokens: Cell<u64>,
    /// Handlers that the loop has not dropped yet.
    pub handlers: RefCell<HashSet<Token>>,
    /// Whether a handler has stopped the loop.
    pub stopped: Cell<bool>,
    /// The port whose handler runs, as long as its event is alive.
    pub in_use: Cell<Option<PortId>>,
    /// Whether there is much traffic, and every message is answered with one to its own port.
    pub is_busy: Cell<bool>,
    /// Whether nothing is done by chance any more: all is being brought to its end.
    pub calm: Cell<bool>,
    /// Whether there was a wake that no handler was called for.
    pub woken: Cell<bool>,
    pub is_told_of_wakes: Cell<bool>,
    /// Where the last messages were dispatched, all at the same end, and when each of them was.
    row: RefCell<(End, VecDeque<Instant>)>,
    /// When the last handler had run.
    pub last: Cell<Option<Instant>>,
    pub tally: Tally,
    /// How processes have ended.
    pub exits: RefCell<Vec<ExitStatus>>,
    trail: RefCell<VecDeque<(&'static str, End, u64)>>,
}

/// What a handler owns: how it is told from others, and how it is known that it was dropped.
pub struct Ticket<'h> {
    world: &'h World,
    token: Token,
}

impl<'h> Ticket<'h> {
    /// By a method, so that closures own the whole ticket and not copies of its fields.
    fn show(&self) -> (&'h World, Token) {
        (self.world, self.token)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.world.handlers.borrow_mut().remove(&self.token);
    }
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            model: RefCell::default(),
            turns: RefCell::default(),
            held: RefCell::default(),
            kept: RefCell::default(),
            timers: RefCell::default(),
            random: RefCell::new(Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)),
            energy: Cell::new(0),
            tokens: Cell::new(0),
            handlers: RefCell::default(),
            stopped: Cell::new(false),
            in_use: Cell::new(None),
            is_busy: Cell::new(false),
            calm: Cell::new(false),
            woken: Cell::new(false),
            is_told_of_wakes: Cell::new(false),
            row: RefCell::default(),
            last: Cell::new(None),
            tally: Tally::default(),
            exits: RefCell::default(),
            trail: RefCell::default(),
        }
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    pub fn one_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Remembers what was done last, for whoever has to find out why something went wrong.
    pub fn trace(&self, what: &'static str, end: End, number: u64) {
        let mut trail = self.trail.borrow_mut();
        if trail.len() == 40 {
            trail.pop_front();
        }
        trail.push_back((what, end, number));
    }

    pub fn print_trail(&self) {
        for (what, end, number) in &*self.trail.borrow() {
            eprintln!("  {what}: end {end}, {number}");
        }
    }

    pub fn ticket(&self) -> Ticket<'_> {
        let token = self.tokens.get() + 1;
        self.tokens.set(token);
        self.handlers.borrow_mut().insert(token);
        Ticket { world: self, token }
    }

    pub fn is_waiting(&self, port: PortId) -> bool {
        let model = self.model.borrow();
        model.at(port).is_some_and(|end| model.is_waiting(end))
    }

    /// What any handler begins with that is not a message's.
    pub fn interrupt(&self) {
        self.assert_not_stopped();
        self.turns.borrow_mut().end(|port| self.is_waiting(port));
    }

    pub fn assert_not_stopped(&self) {
        assert!(!self.stopped.get(), "a handler runs after `stop`");
    }

    pub fn run_is_over(&self, fairly: bool) {
        let mut turns = self.turns.borrow_mut();
        if fairly {
            turns.assert_all_served(|port| self.is_waiting(port));
        } else {
            turns.end(|port| self.is_waiting(port));
        }
    }

    /// However many messages follow each other at one port, whoever waits meanwhile has his turn before long.
    pub fn assert_others_had_their_turns(&self, end: End) {
        let (last, row) = &mut *self.row.borrow_mut();
        // In calm a port may rest, for lack of descriptors.
        if *last != end || self.calm.get() {
            *last = end;
            row.clear();
        }
        row.push_back(Instant::now());
        if row.len() > MOST_IN_A_ROW + 16 {
            let then = row[16] - UNASKED;
            // Looking at all of them takes its time.
            row.drain(..16);
            let waits = self.model.borrow().waits_since(then, end);
            assert_eq!(waits, None, "it waits while end {end} has all the turns");
        }
    }

    /// Timers go before turns: those that were due when the last handler had run have fired.
    pub fn assert_timers_are_not_late(&self) {
        if let Some(last) = self.last.get() {
            let timers = self.timers.borrow();
            let is_late = timers.values().any(|timer| timer.due < last);
            assert!(!is_late, "a timer is late");
        }
    }
}

/// Handlers.
impl<'h> World {
    pub fn set_on_message(
        &'h self,
        attached: &Attached<'_, 'h>,
        end: End,
        data: bool,
        start: bool,
    ) {
        let ticket = self.ticket();
        let token = ticket.token;
        if data {
            // An error without a handler would be a message that nobody sees.
            self.set_on_error(attached, end);
            attached.on_data::<Typed>(move |events, event| {
                let (world, token) = ticket.show();
                world.message(events, event.into_event(), token, Way::Data);
            });
        } else {
            let handler = move |events: &EventLoop<'h>, event: PortEvent<'_>| {
                let (world, token) = ticket.show();
                world.message(events, event, token, Way::Plain);
            };
            if start {
                attached.on_message(handler);
            } else {
                attached.on_message_after_start(handler);
            }
        }
        self.model.borrow_mut().change(end, |stay| {
            stay.on_message = Some((token, data));
            stay.started |= data || start;
        });
    }

    fn set_on_error(&'h self, attached: &Attached<'_, 'h>, end: End) {
        let ticket = self.ticket();
        self.model.borrow_mut().side_mut(end).stay.on_error = Some(ticket.token);
        attached.on_message_error(move |events, error| match error {
            MessageErrorEvent::Data { event, .. } => {
                let (world, token) = ticket.show();
                world.message(events, event, token, Way::Error);
            }
            MessageErrorEvent::Receive { port, .. } => {
                let (world, token) = ticket.show();
                world.cannot_receive(port, token);
            }
            other => panic!("{other:?}"),
        });
    }

    pub fn set_on_close(&'h self, attached: &Attached<'_, 'h>, end: End) {
        let ticket = self.ticket();
        self.model.borrow_mut().side_mut(end).stay.on_close = Some(ticket.token);
        attached.on_close(move |events, event| {
            let (world, token) = ticket.show();
            world.closed(events, event, token);
        });
    }

    pub fn set_on_room(&'h self, attached: &Attached<'_, 'h>, end: End, len: usize) {
        let ticket = self.ticket();
        self.model.borrow_mut().side_mut(end).stay.on_room = Some((ticket.token, len));
        attached.on_room(len, move |events, port| {
            let (world, token) = ticket.show();
            world.has_room(events, port, token);
        });
    }
}

/// The end of it.
impl World {
    /// Takes the model along where the loop lets a port go without a word; says whether it has.
    pub fn has_left(&self, events: &EventLoop<'_>, end: End) -> bool {
        let Place::Looped(port) = self.model.borrow().side(end).place else {
            return true;
        };
        if events.port(port).is_some() {
            return false;
        }
        let mut model = self.model.borrow_mut();
        assert!(model.may_have_left(end), "end {end} has left the loop");
        model.leave(end, Place::Nowhere);
        model.close(end);
        true
    }

    /// Takes the model along where ports have left by now.
    pub fn note_who_has_left(&self, events: &EventLoop<'_>) {
        let model = self.model.borrow();
        let ends: Vec<End> = model
            .looped()
            .filter(|end| model.may_have_left(*end))
            .collect();
        drop(model);
        for end in ends {
            self.has_left(events, end);
        }
    }

    /// What the loop has left undone.
    pub fn dues(&self, events: &EventLoop<'_>) -> Vec<(End, Due)> {
        let model = self.model.borrow();
        let due = |end| Some((end, model.due(end)?));
        let mut dues: Vec<_> = model.looped().filter_map(due).collect();
        drop(model);
        dues.retain(|(end, due)| *due != Due::Leave || !self.has_left(events, *end));
        dues
    }

    pub fn pause(&self) -> Duration {
        Duration::from_micros([0, 0, 300, 1000][self.below(4) as usize])
    }
}
