//! A channel outlives who arranged it: A talks with C through a port that B passed on, when B is gone.
//!
//! Three processes: A starts B, and B starts C. A makes a channel and sends one end to B. B sends it on to C,
//! without looking at what waits in it, and exits. A and C talk on directly: nobody was ever between them.
//!
//! ```text
//! $ cargo run --release --example delegate
//! A makes a channel.
//! A says: Hello, whoever gets the other end.
//! A sends the other end to B.
//! B passes it on to C and exits.
//! A sees that B is gone (exit status: 0).
//! A says: Is anybody there?
//! C says: I am C. I heard "Hello, whoever gets the other end." and "Is anybody there?"
//! A says: Then B kept its word. Goodbye.
//! C closes its end.
//! A sees that C has closed.
//! ```
//!
//! The lines come in this order because each is printed before the message that leads to the next one.

use std::error::Error;
use std::process::Command;

use ringport::{CloseReason, MessageChannel, MessagePort, RecvError, Worker, parent_port};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    match std::env::args().nth(1).as_deref() {
        None => a(),
        Some("B") => b(&parent()?),
        Some("C") => c(&parent()?),
        Some(_) => Err("usage: delegate (it starts the others by itself)".into()),
    }
}

/// Starts this program once more, in another role.
fn start(role: &str) -> Outcome<Worker> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role);
    Ok(Worker::spawn(command)?)
}

fn parent() -> Outcome<MessagePort> {
    Ok(parent_port()?.ok_or("B and C are started by the program itself")?)
}

fn say(who: &str, text: &str, port: &MessagePort) -> Outcome<()> {
    println!("{who} says: {text}");
    Ok(port.post_message(&text.to_string())?)
}

fn hear(port: &MessagePort) -> Outcome<String> {
    Ok(port.recv()?.data::<String>()?.to_string())
}

/// Waits for the other end to be closed, in good order.
fn see_closed(port: &MessagePort) -> Outcome<()> {
    match port.recv() {
        Err(RecvError::Closed(CloseReason::ClosedByPeer)) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err("a message came, where a close was due".into()),
    }
}

fn a() -> Outcome<()> {
    let mut b = start("B")?;
    println!("A makes a channel.");
    let MessageChannel { port1, port2 } = MessageChannel::new()?;
    say("A", "Hello, whoever gets the other end.", &port1)?;
    println!("A sends the other end to B.");
    b.port().post_message_with(&"for C".to_string(), [port2])?;

    let status = b.wait()?;
    println!("A sees that B is gone ({status}).");
    say("A", "Is anybody there?", &port1)?;
    hear(&port1)?;
    say("A", "Then B kept its word. Goodbye.", &port1)?;
    see_closed(&port1)?;
    println!("A sees that C has closed.");
    Ok(())
}

fn b(a: &MessagePort) -> Outcome<()> {
    let c = start("C")?;
    // The event's text says what the port is for; the port itself is in the event beside it.
    let event = a.recv()?;
    let text = event.data::<String>()?.to_string();
    println!("B passes it on to C and exits.");
    Ok(c.port().post_message_with(&text, event.take_ports())?)
}

fn c(b: &MessagePort) -> Outcome<()> {
    let port = b.recv()?.take_ports().pop().ok_or("no port came")?;
    let (first, second) = (hear(&port)?, hear(&port)?);
    see_closed(b)?; // B is gone from here as well
    let heard = format!("I am C. I heard {first:?} and {second:?}");
    say("C", &heard, &port)?;
    hear(&port)?;
    println!("C closes its end.");
    Ok(()) // dropping a port closes it
}
