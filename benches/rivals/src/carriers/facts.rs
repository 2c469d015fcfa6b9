//! What the carriers can do beside carrying, and whence that is known.

/// How something is known.
#[derive(Clone, Copy)]
pub enum Source {
    /// It was tried, with this crate's carriers or the calls they make.
    Tried,
    /// It is said there.
    Documented(&'static str),
}

/// An answer: yes or no, a few words on how, and whence that is known.
pub struct Fact(pub &'static str, pub &'static str, pub Source);

/// The answers for one carrier.
pub struct Facts {
    /// The first part of its contenders' names.
    pub name: &'static str,
    /// Can an end move to another process while messages wait in it, and do they come along?
    pub moves: Fact,
    /// Does it take a message that is longer than its buffer?
    pub beyond: Fact,
    /// Does who receives notice that the other process was ended by `SIGKILL`?
    pub death: Fact,
    /// Does anything stay behind in the file system after `SIGKILL`?
    pub leaves: Fact,
}

use Source::{Documented, Tried};

/// In process memory there is nothing to move, to outlive, or to leave behind.
const fn of_threads(name: &'static str) -> Facts {
    Facts {
        name,
        moves: Fact("no", "both ends are in one process", Documented("its API")),
        beyond: Fact("no", "elements of a fixed type", Documented("its API")),
        death: Fact("-", "both ends die together", Documented("its API")),
        leaves: Fact("no", "memory of the process", Documented("its API")),
    }
}

/// All carriers, in the order in which they are best told.
pub const FACTS: [Facts; 9] = [
    Facts {
        name: "ringport",
        moves: Fact(
            "yes",
            "in a message, with all that waits in it",
            Documented("README; benches/transfer"),
        ),
        beyond: Fact(
            "no",
            "half a ring less 24 bytes, TooLarge beyond",
            Documented("MessagePort::max_message_len"),
        ),
        death: Fact("yes", "recv: Closed(PeerGone), awake or asleep", Tried),
        leaves: Fact("no", "sockets and memory without a name", Tried),
    },
    Facts {
        name: "iceoryx2",
        moves: Fact(
            "no",
            "a port belongs to its process; others make their own",
            Documented("API of 0.10"),
        ),
        beyond: Fact(
            "yes",
            "buffers count messages; slices may outgrow what was planned",
            Documented("allocation_strategy"),
        ),
        death: Fact(
            "no",
            "receive finds nothing, blocking_wait sleeps on; Node::list tells who asks",
            Tried,
        ),
        leaves: Fact(
            "yes",
            "in /dev/shm and /tmp, until a later node cleans up",
            Tried,
        ),
    },
    Facts {
        name: "ipc-channel",
        moves: Fact("yes", "in a message, with all that waits in it", Tried),
        beyond: Fact("yes", "in fragments over a socket of their own", Tried),
        death: Fact("yes", "recv fails, awake or asleep", Tried),
        leaves: Fact("no", "once the one-shot server was used", Tried),
    },
    Facts {
        name: "unix-stream",
        moves: Fact("yes", "SCM_RIGHTS, with all that waits in it", Tried),
        beyond: Fact("yes", "piece by piece", Tried),
        death: Fact("yes", "end of file or ECONNRESET", Tried),
        leaves: Fact("no", "a pair has no name", Tried),
    },
    Facts {
        name: "unix-seqpacket",
        moves: Fact("yes", "SCM_RIGHTS, with all that waits in it", Tried),
        beyond: Fact("no", "EMSGSIZE", Tried),
        death: Fact("yes", "end of file or ECONNRESET", Tried),
        leaves: Fact("no", "a pair has no name", Tried),
    },
    Facts {
        name: "pipe",
        moves: Fact("yes", "SCM_RIGHTS, with all that waits in it", Tried),
        beyond: Fact("yes", "piece by piece", Tried),
        death: Fact("yes", "end of file", Tried),
        leaves: Fact("no", "it has no name", Tried),
    },
    Facts {
        name: "mqueue",
        moves: Fact("yes", "SCM_RIGHTS, on Linux only", Tried),
        beyond: Fact("no", "EMSGSIZE", Tried),
        death: Fact("no", "mq_receive sleeps on, EAGAIN if it may not", Tried),
        leaves: Fact("no", "if its name was taken away at once, as here", Tried),
    },
    of_threads("rtrb"),
    of_threads("crossbeam-channel"),
];

/// The answers as a table for a terminal or a README.
pub fn table() -> String {
    let mut table = String::from(
        "| carrier | an end moves with what waits in it | takes more than its buffer \
         | notices `SIGKILL` of the other side | leaves files after `SIGKILL` |\n\
         |---|---|---|---|---|\n",
    );
    for facts in &FACTS {
        table += &format!("| {}", facts.name);
        for Fact(answer, how, source) in [&facts.moves, &facts.beyond, &facts.death, &facts.leaves]
        {
            let source = match source {
                Tried => "tried".into(),
                Documented(place) => format!("documented: {place}"),
            };
            table += &format!(" | {answer}: {how} ({source})");
        }
        table += " |\n";
    }
    table
}
