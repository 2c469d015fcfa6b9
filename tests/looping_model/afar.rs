//! A round with ends in another thread and in another process, which is killed perhaps.

use std::os::unix::process::ExitStatusExt;
use std::thread;

use ringport::MessagePort;

use super::far::{give, obey};
use super::model::{End, Fate, Place, peer};
use super::round::{Player, Witness};
use super::world::World;
use crate::common;

/// Channels to each far loop, each time that it is given some, and channels here.
const FAR: usize = 40;
const HERE: usize = 20;
const STEPS: usize = 200;
/// Between two such times.
const PERIOD: usize = 50;
/// When the process is killed: some of its channels have just begun, and some have ended.
const END: usize = 2 * PERIOD + 10;

/// Plays it.
pub fn play_afar(seed: u64, kill: bool) {
    let world = World::new(seed);
    let _witness = Witness {
        seed,
        world: &world,
    };
    let mut player = Player::new(&world);
    let (to_thread, theirs) = common::channel();
    let far_thread = thread::spawn(move || obey(theirs));
    let (to_child, child) = common::worker("obeys").into_parts();
    let process = child.id();
    let mut at_child = Vec::new();
    let exit = |_: &_, status: std::io::Result<_>| world.exits.borrow_mut().push(status.unwrap());
    player.events.add_child(child, exit).unwrap();
    let mut is_alive = true;
    for step in 0..STEPS {
        if step % PERIOD == 0 {
            send_away(&player, &to_thread);
            if is_alive {
                at_child.extend(send_away(&player, &to_child));
            }
        }
        player.populate(HERE + 2 * FAR);
        player.step(200);
        if step % PERIOD == PERIOD - 1 {
            player.settle(true);
        }
        if step == END && kill {
            kill_far(&mut player, process, &at_child);
            is_alive = false;
        }
    }
    // They end when they have nothing left.
    to_thread.close();
    to_child.close();
    player.finish();
    far_thread.join().unwrap();
    let exits = world.exits.borrow();
    let [exit] = exits[..] else {
        panic!("one process has ended, once: {exits:?}");
    };
    assert!(if kill {
        exit.signal() == Some(libc::SIGKILL)
    } else {
        exit.success()
    });
    println!("{:?}", world.tally);
}

/// Makes channels, one end here, the other one at the far loop.
fn send_away(player: &Player<'_>, control: &MessagePort) -> Vec<End> {
    let world = player.world;
    let channels: Vec<_> = (0..FAR).map(|_| world.make()).collect();
    let mut away = Vec::new();
    for [near, far] in channels {
        world.attach(&player.events, near);
        let port = world.held.borrow_mut().remove(&far).expect("just made");
        world.model.borrow_mut().side_mut(far).place = Place::Far;
        away.push((far, port));
    }
    let ends = away.iter().map(|(end, _)| *end).collect();
    give(control, away);
    ends
}

/// Kills the process while it answers.
fn kill_far(player: &mut Player<'_>, process: u32, ends: &[End]) {
    let world = player.world;
    world.calm.set(true);
    // No port is with the process but those that are named here: what became of others nobody could tell.
    player.gather();
    let mut posted = 0;
    for end in ends {
        let near = peer(*end);
        let place = world.model.borrow().side(near).place;
        let is_open = world.model.borrow().side(near).fate == Fate::Open;
        if is_open && matches!(place, Place::Held | Place::Looped(_)) {
            let more = (0..3).take_while(|_| world.post(&player.events, near));
            posted += more.count();
        }
    }
    assert!(posted > 0, "nobody is left to be killed");
    // SAFETY: kill takes two integers; the loop has not waited for the process yet.
    assert_eq!(unsafe { libc::kill(process as i32, libc::SIGKILL) }, 0);
    for end in ends {
        world.model.borrow_mut().kill(*end);
    }
    player.settle(true);
    world.calm.set(false);
}
