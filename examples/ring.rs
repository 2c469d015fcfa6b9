//! Processes in four languages that pass one port around in a ring, while messages flow through it without pause.
//!
//! This is the conductor. It starts the stations, whose programs it is given, and joins each with the next by a channel. Then
//! it makes one more channel, keeps one end, and streams numbers into it. The other end goes round: a station that has it takes
//! a hundred numbers from it, answers each with its language, and passes it on in a message, with all that waits on it. After
//! fifty rounds the last station closes it, and ends, and so do the others, one after the other, as their predecessors have
//! closed.
//!
//! The stations are `ring/station.c`, `ring/station.cpp` and `ring/station.py`, the last of which is not compiled but needs
//! to know where the C library is (`RINGPORT_LIBRARY`), and `ring_station.rs`. Each is given as a command, with `--` in
//! between; there may be any number of them, in any order:
//!
//! ```text
//! $ cargo run --release --example ring -- ./station-c -- ./station-cpp -- python3 examples/ring/station.py -- ./ring_station
//! 4 stations had the port 50 times each: 20000 numbers, each answered once and in order
//! station 1, in C, answered 5000
//! station 2, in C++, answered 5000
//! station 3, in Python, answered 5000
//! station 4, in Rust, answered 5000
//! all have ended well
//! ```
//!
//! The conductor is told of none of the moves, and does nothing for them.

use std::error::Error;
use std::ffi::OsString;
use std::process::Command;
use std::task::Poll;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringport::{CloseReason, MessageChannel, MessagePort, RecvError, Worker};

type Outcome<T> = Result<T, Box<dyn Error>>;

const ROUNDS: u64 = 50;
const NUMBERS_PER_TURN: u64 = 100;

fn main() -> Outcome<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let commands = arguments.split(|argument| argument == "--");
    let mut stations = commands.map(start).collect::<Outcome<Vec<Worker>>>()?;
    let port = join(&stations)?;
    let languages = stream(&port, stations.len() as u64)?;
    for (number, station) in (1..).zip(&mut stations) {
        let status = station.wait()?;
        if !status.success() {
            return Err(format!("station {number} ended with {status}").into());
        }
    }

    let (count, each) = (stations.len() as u64, ROUNDS * NUMBERS_PER_TURN);
    let all = count * each;
    println!(
        "{count} stations had the port {ROUNDS} times each: {all} numbers, each answered once and in order"
    );
    for (number, language) in (1..).zip(languages) {
        println!("station {number}, in {language}, answered {each}");
    }
    println!("all have ended well");
    Ok(())
}

fn start(command: &[OsString]) -> Outcome<Worker> {
    let [program, arguments @ ..] = command else {
        return Err("usage: ring COMMAND [-- COMMAND]...".into());
    };
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(Worker::spawn(command)?)
}

/// Gives each station a port to its successor and one to its predecessor, and puts a port into the ring, whose other end
/// is this one.
fn join(stations: &[Worker]) -> Outcome<MessagePort> {
    let (mut successors, mut predecessors) = (Vec::new(), Vec::new());
    for _ in stations {
        let channel = MessageChannel::new()?;
        successors.push(channel.port1);
        predecessors.push(channel.port2);
    }
    predecessors.rotate_right(1);

    // It waits for the first station as if the last one had posted it, and goes to the last one with the port.
    let going_round = MessageChannel::new()?;
    let turns = stations.len() as u64 * ROUNDS;
    let carrier = [0, turns].map(u64::to_le_bytes).concat();
    let last = successors.last().expect("there is a station");
    last.post_bytes_with(&carrier, [going_round.port2])?;

    let neighbours = successors.into_iter().zip(predecessors);
    for (station, (successor, predecessor)) in stations.iter().zip(neighbours) {
        let start = NUMBERS_PER_TURN.to_le_bytes();
        let port = station.port();
        port.post_bytes_with(&start, [successor, predecessor])?;
    }
    Ok(going_round.port1)
}

/// Posts all numbers as fast as there is room, takes the answers, and waits until the last station has closed the port.
/// Gives the stations' languages.
fn stream(port: &MessagePort, stations: u64) -> Outcome<Vec<String>> {
    let mut answers = Answers::new(stations);
    let mut posted: u64 = 0;
    loop {
        while posted < answers.due {
            match port.poll_post_bytes(&posted.to_le_bytes()) {
                Poll::Ready(done) => done?,
                Poll::Pending => break,
            }
            posted += 1;
        }
        loop {
            match port.poll_recv() {
                Poll::Ready(Ok(answer)) => answers.take(answer.bytes())?,
                Poll::Ready(Err(RecvError::Closed(CloseReason::ClosedByPeer))) => {
                    return answers.languages();
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => break,
            }
        }
        // Both are pending, unless all is posted. It waits for neither alone, as a station may wait for room too.
        match poll(
            &mut [PollFd::new(port.as_fd()?, PollFlags::POLLIN)],
            PollTimeout::NONE,
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The answers so far.
struct Answers {
    due: u64,
    taken: u64,
    /// Of each station, as soon as it has answered.
    languages: Vec<Option<[u8; 8]>>,
}

impl Answers {
    fn new(stations: u64) -> Answers {
        Answers {
            due: stations * ROUNDS * NUMBERS_PER_TURN,
            taken: 0,
            languages: vec![None; stations as usize],
        }
    }

    /// An answer is to the next number, and from the station whose turn it is.
    fn take(&mut self, answer: &[u8]) -> Outcome<()> {
        let answer: &[u8; 16] = answer.try_into()?;
        let number = u64::from_le_bytes(std::array::from_fn(|byte| answer[byte]));
        let language = std::array::from_fn(|byte| answer[8 + byte]);
        if number != self.taken {
            return Err(format!("{number} was answered instead of {}", self.taken).into());
        }
        let station = (number / NUMBERS_PER_TURN) as usize % self.languages.len();
        if *self.languages[station].get_or_insert(language) != language {
            return Err(format!("{number} was not answered by station {}", station + 1).into());
        }
        self.taken += 1;
        Ok(())
    }

    /// After the last answer.
    fn languages(self) -> Outcome<Vec<String>> {
        if self.taken != self.due {
            return Err(format!("only {} of {} were answered", self.taken, self.due).into());
        }
        let languages = self.languages.iter().flatten();
        Ok(languages.map(text).collect())
    }
}

fn text(padded: &[u8; 8]) -> String {
    let len = padded.iter().position(|byte| *byte == 0).unwrap_or(8);
    String::from_utf8_lossy(&padded[..len]).into_owned()
}
