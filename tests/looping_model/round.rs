//! A round: deeds are done and the loop is run, now and then until nothing is left to be done, and in the end all is
//! closed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringport::{EventLoop, EventLoopError, MessagePort};

use super::model::{Due, End, Fate, Place, peer};
use super::shortage::Shortage;
use super::world::{Planned, World};
use crate::common;

pub struct Round {
    pub seed: u64,
    /// Channels with both ends here: when some are over, others are made.
    pub channels: usize,
    pub steps: usize,
    /// Posts of a step at most.
    pub energy: u64,
    /// See [`World::is_busy`].
    pub is_busy: bool,
}

/// Complete runs within which whoever has something to be done has had it done, or some of it. A run takes 128 rings
/// from the kernel, and every eighth looks for those that were served lately.
const PATROL: u32 = 64;

/// Tells the seed if something goes wrong.
pub struct Witness<'w> {
    pub seed: u64,
    pub world: &'w World,
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.seed;
            eprintln!("with RINGPORT_CAMPAIGN_SEED={seed}, after");
            self.world.print_trail();
        }
    }
}

/// A loop under way.
pub struct Player<'h> {
    pub world: &'h World,
    pub events: EventLoop<'h>,
    /// Whether the loop's descriptor is waited for, as an outer loop does.
    is_nested: bool,
    /// Complete runs since the last look for whoever waits too long, and who waited then.
    runs: u32,
    waited: Vec<(End, Due, u64)>,
    /// The most ports that were in the loop at a time.
    pub most: usize,
}

impl<'h> Player<'h> {
    pub fn new(world: &'h World) -> Player<'h> {
        let events = EventLoop::new().unwrap();
        if world.one_in(2) {
            world.set_on_wake(&events);
        }
        Player {
            world,
            events,
            is_nested: world.one_in(2),
            runs: 0,
            waited: Vec::new(),
            most: 0,
        }
    }

    /// Makes channels until there are enough.
    pub fn populate(&mut self, channels: usize) {
        let (world, events) = (self.world, &self.events);
        for _ in 0..8 {
            // Those that are over are forgotten when they are picked.
            let number = world.below(1 << 40);
            world.model.borrow_mut().any(number);
        }
        while world.model.borrow().channels() < channels {
            for end in world.make() {
                if !world.one_in(20) {
                    world.attach(events, end);
                }
            }
        }
        self.most = self.most.max(world.model.borrow().looped().len());
    }

    /// Brings all ports into the loop, with their handlers.
    fn revive(&mut self) {
        let held: Vec<End> = self.world.held.borrow().keys().copied().collect();
        for end in held {
            self.world.attach(&self.events, end);
        }
        let ends: Vec<End> = self.world.model.borrow().looped().collect();
        for end in ends {
            self.world.dress_fully(&self.events, end);
        }
    }

    /// Some deeds from outside, and a run.
    pub fn step(&mut self, energy: u64) {
        let world = self.world;
        world.energy.set(energy);
        for _ in 0..world.below(if world.is_busy.get() { 6 } else { 30 }) {
            world.deed(&self.events);
        }
        if world.is_busy.get() && world.one_in(4) {
            self.revive();
        }
        self.assert_told();
        if world.one_in(if world.is_busy.get() { 2 } else { 10 }) {
            // Until a timer ends it, or a handler.
            self.events
                .set_timeout(Duration::from_micros(500), |events| {
                    world.interrupt();
                    world.stopped.set(true);
                    events.stop();
                });
            self.run(false, |events| events.run().map(|()| true));
        } else {
            let pause = world.pause();
            self.run(true, |events| events.run_once(Some(pause)));
            self.assert_nobody_starves();
        }
    }

    /// Runs, and lets planned panics pass. Says whether anything was to be done; `None` if it was stopped before
    /// the end.
    fn run(
        &mut self,
        once: bool,
        act: impl FnOnce(&mut EventLoop<'h>) -> Result<bool, EventLoopError>,
    ) -> Option<bool> {
        let world = self.world;
        world.turns.borrow_mut().begin(once);
        let answer = catch_unwind(AssertUnwindSafe(|| act(&mut self.events)));
        world.in_use.set(None);
        let was_stopped = world.stopped.replace(false);
        match answer {
            Ok(any) => {
                let is_complete = once && !was_stopped;
                world.run_is_over(is_complete);
                self.runs += u32::from(is_complete);
                Some(any.unwrap()).filter(|_| !was_stopped)
            }
            Err(panic) if panic.is::<Planned>() => {
                world.run_is_over(false);
                None
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Whoever waits for the loop's descriptor is told when there is something to do.
    fn assert_told(&self) {
        if !self.is_nested {
            return;
        }
        let fd = std::os::fd::AsFd::as_fd(&self.events);
        let dues = self.world.dues(&self.events);
        if dues.is_empty() {
            return;
        }
        let mut poll_fd = [PollFd::new(fd, PollFlags::POLLIN)];
        // Not in no time: a timer that is due at once may be told of a moment later.
        let timeout = PollTimeout::try_from(common::AT_ONCE).unwrap();
        let ready = poll(&mut poll_fd, timeout).unwrap();
        assert_eq!(ready, 1, "nobody is told from outside of {dues:?}");
    }

    fn assert_nobody_starves(&mut self) {
        if self.runs < PATROL {
            return;
        }
        self.runs = 0;
        let dues = self.world.dues(&self.events);
        let model = self.world.model.borrow();
        let waiting = dues.into_iter();
        let waiting: Vec<_> = waiting
            .map(|(end, due)| (end, due, model.side(end).progress))
            .collect();
        for one in &waiting {
            assert!(
                !self.waited.contains(one),
                "{one:?} has waited for {PATROL} runs: {:?}",
                model.side(one.0)
            );
        }
        self.waited = waiting;
    }

    /// Runs until nothing is left to be done; then nothing may be left undone. `patiently`: something may take its
    /// time, far away or because it rests.
    pub fn settle(&mut self, patiently: bool) {
        let world = self.world;
        world.energy.set(0);
        let start = Instant::now();
        loop {
            let mut pause = Duration::ZERO;
            if patiently {
                world.turns.borrow_mut().forget();
                pause = Duration::from_millis(5);
            }
            let is_over = self.run(true, |events| events.run_once(Some(pause))) == Some(false);
            if patiently {
                world.note_who_has_left(&self.events);
            }
            let dues = world.dues(&self.events);
            if is_over {
                assert!(patiently || dues.is_empty(), "left undone: {dues:?}");
                if dues.is_empty() && !(patiently && world.model.borrow().is_expecting()) {
                    break;
                }
            }
            assert!(
                start.elapsed() < common::PATIENCE,
                "it does not come to rest: {dues:?}"
            );
        }
        let woken = world.woken.get() && world.is_told_of_wakes.get();
        assert!(!woken, "a wake without a call");
        let [certain, doubtful] = world.model.borrow().handlers();
        let handlers = world.handlers.borrow();
        let wrong = handlers.symmetric_difference(&certain);
        let wrong: Vec<_> = wrong.filter(|token| !doubtful.contains(token)).collect();
        assert!(wrong.is_empty(), "handlers too few or too many: {wrong:?}");
    }
}

impl Player<'_> {
    /// Ports come while this process is out of descriptors: nothing is lost, and once it has some all is as before.
    pub fn starve(&mut self) {
        let world = self.world;
        for _ in 0..20 {
            world.transfer_some(&self.events);
        }
        world.calm.set(true);
        let shortage = Shortage::begin();
        for _ in 0..3 {
            world.turns.borrow_mut().forget();
            self.run(false, |events| events.run_once(Some(Duration::ZERO)));
        }
        drop(shortage);
        self.settle(true);
        world.calm.set(false);
    }
}

/// The end of a round.
impl<'h> Player<'h> {
    /// Brings everything into the loop, has it talk once more, and closes it; then the loop is empty.
    pub fn finish(mut self) {
        let world = self.world;
        world.calm.set(true);
        self.clear_timers();
        self.gather();
        let open = self.open_channels();
        for end in open.iter().flat_map(|end| [*end, peer(*end)]) {
            let is_far = |end| world.model.borrow().side(end).place == Place::Far;
            if !is_far(end) {
                let was_posted = world.post(&self.events, end);
                // Who is far away may not have made room.
                assert!(was_posted || is_far(peer(end)));
            }
        }
        self.settle(true);
        for end in self.open_channels() {
            let end = end + world.below(2) as usize;
            self.close(end);
        }
        if world.is_told_of_wakes.get() {
            self.settle(true);
        } else {
            world.turns.borrow_mut().forget();
            self.run(false, |events| events.run().map(|()| true));
        }
        world.dues(&self.events);
        assert_eq!(world.model.borrow().looped().len(), 0);
        // A process that has nothing left to do takes a moment to end.
        let start = Instant::now();
        while !self.events.is_empty() {
            assert!(start.elapsed() < common::PATIENCE, "something stays");
            self.run(false, |events| {
                events.run_once(Some(Duration::from_millis(5)))
            });
        }
        assert!(
            world.handlers.borrow().is_empty(),
            "handlers are dropped with their ports"
        );
    }

    /// Drops the loop with everything in it, and finishes with another one.
    pub fn abandon(self) {
        let Player { world, events, .. } = self;
        drop(events);
        assert!(
            world.handlers.borrow().is_empty(),
            "handlers are dropped with the loop"
        );
        world.timers.borrow_mut().clear();
        world.is_told_of_wakes.set(false);
        world.woken.set(false);
        let mut model = world.model.borrow_mut();
        for end in model.ends() {
            if let Place::Looped(_) = model.side(end).place {
                model.leave(end, Place::Held);
                model.close(end);
            }
        }
        drop(model);
        world.turns.borrow_mut().forget();
        let mut other = Player::new(world);
        other.settle(true);
        other.finish();
    }

    fn clear_timers(&self) {
        for timer in std::mem::take(&mut *self.world.timers.borrow_mut()).into_values() {
            assert!(self.events.clear_timer(timer.id));
        }
    }

    /// Everything that is anywhere comes into the loop, with handlers for everything.
    pub fn gather(&mut self) {
        let world = self.world;
        loop {
            while !world.kept.borrow().is_empty() {
                world.look_at_kept(&self.events);
            }
            self.revive();
            self.settle(true);
            if world.held.borrow().is_empty() && world.kept.borrow().is_empty() {
                return;
            }
        }
    }

    /// The first ends of channels that are open, all of which must be in the loop by now, and quiet.
    fn open_channels(&self) -> Vec<End> {
        let model = self.world.model.borrow();
        let mut open = Vec::new();
        for end in model.ends() {
            let (side, other) = (model.side(end), model.side(peer(end)));
            let is_looped = matches!(side.place, Place::Looped(_));
            let is_over = matches!(side.place, Place::Far | Place::Nowhere);
            assert!(is_looped || is_over, "end {end} is {side:?}");
            assert!(side.inbox.is_empty(), "end {end} is {side:?}");
            let is_open = side.fate == Fate::Open && other.fate == Fate::Open;
            let is_first = end % 2 == 0 || other.place == Place::Far;
            if is_looped && is_open && is_first {
                open.push(end);
            }
        }
        open
    }

    fn close(&self, end: End) {
        let world = self.world;
        let end = if world.model.borrow().side(end).place == Place::Far {
            peer(end)
        } else {
            end
        };
        let closed = world.with_port(&self.events, end, MessagePort::close);
        closed.expect("it is in the loop");
        world.model.borrow_mut().close(end);
    }
}

/// Plays in one thread: the model knows at each moment what there is.
pub fn play(round: &Round) {
    let world = World::new(round.seed);
    let _witness = Witness {
        seed: round.seed,
        world: &world,
    };
    world.is_busy.set(round.is_busy);
    let mut player = Player::new(&world);
    for step in 0..round.steps {
        player.populate(round.channels);
        player.step(round.energy);
        match step % 100 {
            49 => player.starve(),
            99 => player.settle(false),
            _ => {}
        }
    }
    player.settle(false);
    let turns = world.turns.borrow();
    println!(
        "{} ports, {} turns, {} full, {:?}",
        player.most, turns.count, turns.full, world.tally
    );
    drop(turns);
    if round.seed % 2 == 0 {
        player.abandon();
    } else {
        player.finish();
    }
}
