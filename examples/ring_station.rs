//! A station of the ring of `examples/ring.rs`, in Rust: takes some numbers from the port that comes by, and passes it on.
//!
//! It is started by the conductor, `examples/ring.rs`, where it says how to run all of them. It prints nothing.

use std::error::Error;

use ringport::{CloseReason, MessageEvent, MessagePort, RecvError, parent_port};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let conductor = parent_port()?.ok_or("a station is started by the conductor")?;
    let start = conductor.recv()?;
    let [numbers_per_turn] = numbers(start.bytes())?;
    let Ok([successor, predecessor]) = <[MessagePort; 2]>::try_from(start.take_ports()) else {
        return Err("a station has two neighbours".into());
    };
    let station = Station {
        numbers_per_turn,
        successor,
    };
    // Until the last turn of all, or until the ring was ended: the predecessor is closed, in good order.
    loop {
        match predecessor.recv() {
            Ok(carrier) if station.take_turn(&carrier)? => return Ok(()),
            Ok(_) => {}
            Err(RecvError::Closed(CloseReason::ClosedByPeer)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The numbers that a message consists of, little-endian.
fn numbers<const N: usize>(bytes: &[u8]) -> Outcome<[u64; N]> {
    if bytes.len() != 8 * N {
        return Err(format!("{} bytes are not {N} numbers", bytes.len()).into());
    }
    let number = |index| u64::from_le_bytes(std::array::from_fn(|byte| bytes[8 * index + byte]));
    Ok(std::array::from_fn(number))
}

struct Station {
    numbers_per_turn: u64,
    /// Dropping it tells the successor that the ring has ended.
    successor: MessagePort,
}

impl Station {
    /// Answers its numbers and passes the port on with all that waits on it. Whether it was the last turn of all: then
    /// nobody gets the port, and it is closed.
    fn take_turn(&self, carrier: &MessageEvent<'_>) -> Outcome<bool> {
        let [first, turns_left] = numbers(carrier.bytes())?;
        let port = carrier.take_ports().pop().ok_or("a carrier has a port")?;
        let next = first + self.numbers_per_turn;
        for expected in first..next {
            answer(&port, expected)?;
        }
        if turns_left == 1 {
            return Ok(true);
        }
        let carrier = [next, turns_left - 1].map(u64::to_le_bytes).concat();
        self.successor.post_bytes_with(&carrier, [port])?;
        Ok(false)
    }
}

/// Takes one number, which has to be this one, and answers it with the language.
fn answer(port: &MessagePort, expected: u64) -> Outcome<()> {
    let [number] = numbers(port.recv()?.bytes())?;
    if number != expected {
        return Err(format!("{number} came instead of {expected}").into());
    }
    port.post_bytes(&[number.to_le_bytes(), *b"Rust\0\0\0\0"].concat())?;
    Ok(())
}
