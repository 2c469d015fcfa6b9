//! A round: actors are started, killed and replaced, then all are heard out.

use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use ringport::{WaitStrategy, Worker};

use super::actor::{Actor, Sabotage, look_for_cycles};
use super::history::History;
use super::log::{Event, Log};
use super::parcel::{PortId, Stay};
use crate::common;

/// Actors at a time, besides the coordinator, which is one as well.
const CREW: usize = 4;
/// A round is over after so long, however little has happened.
const LONGEST: Duration = Duration::from_secs(4);
/// An actor that may kill itself does so in one of so many steps.
const SELDOM: usize = 3000;

/// What is played.
pub struct Round {
    pub seed: u64,
    /// So many lines in all logs together, then it ends.
    pub lines: u64,
    pub kills: u64,
    /// Of one actor.
    pub sabotage: Sabotage,
}

struct Member {
    actor: u64,
    child: Child,
    log: Log,
    /// Its port to the coordinator: the coordinator's end.
    control: PortId,
    /// Whether it was killed, once it has ended.
    ended: Option<bool>,
}

struct Crew<'r> {
    round: &'r Round,
    hub: Actor,
    members: Vec<Member>,
}

/// The role: an actor, until the coordinator says its last.
pub fn acts() {
    let how = common::how();
    let told: Vec<u64> = how.split(' ').map(|word| word.parse().unwrap()).collect();
    let [seed, me, control, mortal, sabotage] = told[..] else {
        panic!("not told what to do: {how:?}");
    };
    let port = common::parent();
    let sabotage = Sabotage::ALL[sabotage as usize];
    let mut actor = Actor::new(me, seed, Log::given(), sabotage);
    let stay = Stay {
        port: control,
        hop: 1,
    };
    actor.hold(port, stay, 0, true);
    while !actor.finishing {
        actor.step();
        if mortal == 1 && actor.dice.one_in(SELDOM) {
            // SAFETY: `raise` takes a signal number and has no precondition.
            unsafe { libc::raise(libc::SIGKILL) };
        }
    }
    actor.finish(actor.patience);
}

/// Plays a round and gives what every process wrote down.
pub fn play(round: &Round) -> Vec<History> {
    let mut crew = Crew {
        round,
        hub: Actor::new(0, round.seed, Log::new(), Sabotage::None),
        members: Vec::new(),
    };
    (0..CREW).for_each(|_| crew.enlist());
    let start = Instant::now();
    let mut kills = 0;
    while !crew.has_done_enough() && start.elapsed() < LONGEST {
        (0..16).for_each(|_| crew.hub.step());
        crew.bury();
        let due = round.lines * (kills + 1) / (round.kills + 1);
        if kills < round.kills && crew.lines() > due {
            crew.kill_one();
            kills += 1;
        }
        if crew.living().len() < CREW && (crew.living().len() < 2 || crew.hub.dice.one_in(8)) {
            crew.enlist();
        }
    }
    crew.hub.finish(Duration::from_millis(20));
    crew.discharge()
}

impl Crew<'_> {
    fn living(&self) -> Vec<usize> {
        let living = |index: &usize| self.members[*index].ended.is_none();
        (0..self.members.len()).filter(living).collect()
    }

    /// The actor with the sabotage must have had its chance.
    fn has_done_enough(&self) -> bool {
        let least = match self.round.sabotage {
            Sabotage::None => 0,
            _ => self.round.lines / 4,
        };
        self.lines() >= self.round.lines && self.members[0].log.lines() >= least
    }

    fn lines(&self) -> u64 {
        let logs = self.members.iter().map(|member| &member.log);
        logs.chain([&self.hub.log]).map(Log::lines).sum()
    }

    /// Starts an actor, which gets two channels to each of the others.
    fn enlist(&mut self) {
        let round = self.round;
        let me = self.members.len() as u64 + 1;
        let channel = self.hub.name();
        let control = channel * 2;
        let log = Log::new();
        let mut command = common::command("acts");
        log.give_to(&mut command);
        let mortal = u64::from(round.kills > 0);
        let sabotage = if me == 1 { round.sabotage as u64 } else { 0 };
        let how = format!("{} {me} {} {mortal} {sabotage}", round.seed, control + 1);
        common::tell(&mut command, WaitStrategy::Adaptive, &how);
        self.hub.log.write(&Event::Made { channel });
        let (port, child) = Worker::spawn(command).unwrap().into_parts();
        let given = Event::Given {
            port: control + 1,
            to: me,
        };
        self.hub.log.write(&given);
        let stay = Stay {
            port: control,
            hop: 0,
        };
        self.hub.hold(port, stay, 0, true);
        for other in self.living() {
            let other = self.members[other].control;
            for _ in 0..2 {
                let [end1, end2] = self.hub.make_channel();
                self.hub.post(control, &[end1], false);
                self.hub.post(other, &[end2], false);
            }
        }
        self.members.push(Member {
            actor: me,
            child,
            log,
            control,
            ended: None,
        });
    }

    /// Kills one in the middle of whatever it does.
    fn kill_one(&mut self) {
        let living = self.living();
        let Some(index) = self.hub.dice.pick(&living) else {
            return;
        };
        let member = &mut self.members[index];
        let lines = member.log.lines() + self.hub.dice.below(60) as u64;
        let start = Instant::now();
        while member.log.lines() < lines && start.elapsed() < Duration::from_millis(3) {
            thread::yield_now();
        }
        common::kill(&mut member.child);
        member.ended = Some(true);
    }

    /// Notices who has ended by itself.
    fn bury(&mut self) {
        for index in self.living() {
            let member = &mut self.members[index];
            let Some(status) = member.child.try_wait().unwrap() else {
                continue;
            };
            let killed = status.signal() == Some(libc::SIGKILL);
            member.ended = Some(killed);
            if !killed && !status.success() {
                let what = format!("actor {} ended with {status}", member.actor);
                self.hub.log.write(&Event::Fault { what });
            }
        }
    }

    /// Waits for all that live. What the dead ones left may need a look for cycles.
    fn discharge(mut self) -> Vec<History> {
        common::until("all actors have ended", || {
            look_for_cycles();
            self.bury();
            self.living().is_empty()
        });
        let hub = History {
            actor: 0,
            killed: false,
            events: self.hub.log.read(),
        };
        let members = self.members.iter().map(|member| History {
            actor: member.actor,
            killed: member.ended == Some(true),
            events: member.log.read(),
        });
        [hub].into_iter().chain(members).collect()
    }
}
