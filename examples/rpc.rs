//! Calls: a request goes with a port for its reply, so replies find their callers, in any order.
//!
//! A server process has a port from each of its clients. Each call makes a channel of its own and sends one end of it
//! along with the request. What comes on the other end is the reply to this call. If that end closes instead, the
//! call has failed, whatever has happened; and whoever closes it has given the call up. (A channel costs some twenty
//! system calls. Who makes a hundred thousand calls a second numbers them instead, and keeps a table.)
//!
//! ```text
//! $ cargo run --release --example rpc
//! client 1: 84 / 2 is 42
//! client 1: 1 / 0 is refused: there is no such number
//! client 1: 8², in 20 ms, is 64
//! client 1: 7², in 500 ms, is 49
//! client 1: 9², in 3600000 ms, has timed out
//! the server is killed.
//! client 1: 10², in 3600000 ms, is lost: the peer is gone without closing it
//! client 1: 11², in 3600000 ms, is lost: the peer is gone without closing it
//! client 1: 12², in 3600000 ms, is lost: the peer is gone without closing it
//! ```
//!
//! There are three clients, and the lines of the others come in between.

use std::cell::Cell;
use std::error::Error;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;
use std::{env, fmt};

use ringport::rkyv::result::ArchivedResult;
use ringport::rkyv::{Archive, Deserialize, Serialize};
use ringport::{CloseReason, EventLoop, MessageChannel, MessagePort, Worker, parent_port};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringport::rkyv)]
enum Request {
    Divide {
        dividend: i64,
        divisor: i64,
    },
    /// Which takes that long.
    Square {
        number: i64,
        milliseconds: u64,
    },
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Divide { dividend, divisor } => write!(f, "{dividend} / {divisor}"),
            Request::Square {
                number,
                milliseconds,
            } => write!(f, "{number}², in {milliseconds} ms,"),
        }
    }
}

/// The result, or what was wrong with the request.
type Reply = Result<i64, String>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => everything(),
        ["server"] => serve(parent()?),
        ["client", number] => be_client(number.parse()?, &parent()?),
        _ => Err("usage: rpc (it starts the others by itself)".into()),
    }
}

/// Starts a server and three clients, gives each client a channel to the server, and ends the server's life.
fn everything() -> Outcome<()> {
    let mut server = start(&["server"])?;
    let mut clients = Vec::new();
    for number in 1..=3 {
        let client = start(&["client", &number.to_string()])?;
        let MessageChannel { port1, port2 } = MessageChannel::new()?;
        server.port().post_bytes_with(b"a client", [port1])?;
        client.port().post_bytes_with(b"the server", [port2])?;
        clients.push(client);
    }
    for client in &clients {
        client.port().recv()?; // its last calls are pending
    }
    println!("the server is killed.");
    server.kill()?;
    server.wait()?;
    for mut client in clients {
        let status = client.wait()?;
        if !status.success() {
            return Err(format!("a client ended with {status}").into());
        }
    }
    Ok(())
}

fn start(role: &[&str]) -> Outcome<Worker> {
    let mut command = Command::new(env::current_exe()?);
    command.args(role);
    Ok(Worker::spawn(command)?)
}

fn parent() -> Outcome<MessagePort> {
    Ok(parent_port()?.ok_or("servers and clients are started by the program itself")?)
}

/// Serves the clients whose ports come from the parent, until that is gone.
fn serve(parent: MessagePort) -> Outcome<()> {
    let mut events = EventLoop::new()?;
    let parent = events.add(parent)?;
    parent.on_message(|events, event| {
        for client in event.take_ports() {
            if let Err(error) = admit(events, client) {
                eprintln!("a client cannot be served: {error}");
            }
        }
    });
    parent.on_close(|events, _| events.stop());
    drop(parent);
    Ok(events.run()?)
}

fn admit(events: &EventLoop<'_>, client: MessagePort) -> Outcome<()> {
    events.add(client)?.on_data::<Request>(|events, request| {
        // Who sends no port along does not want to know.
        if let Some(reply) = request.take_ports().pop() {
            answer(events, request.data(), reply);
        }
    });
    Ok(())
}

fn answer(events: &EventLoop<'_>, request: &ArchivedRequest, reply: MessagePort) {
    let refused = Err("there is no such number".to_string());
    match request {
        ArchivedRequest::Divide { dividend, divisor } => {
            let quotient = dividend.to_native().checked_div(divisor.to_native());
            send(&reply, &quotient.map_or(refused, Ok));
        }
        ArchivedRequest::Square {
            number,
            milliseconds,
        } => {
            let square = number.to_native().checked_pow(2);
            let delay = Duration::from_millis(milliseconds.to_native());
            let reply = match events.add(reply) {
                Ok(reply) => reply,
                Err(error) => return send(&error.into_inner(), &Err("too busy".to_string())),
            };
            let id = reply.id();
            let timer = events.set_timeout(delay, move |events| {
                if let Ok(reply) = events.remove(id) {
                    send(&reply, &square.map_or(refused, Ok));
                }
            });
            // The caller has given the call up.
            reply.on_close(move |events, _| {
                events.clear_timer(timer);
            });
        }
    }
}

/// The one message on its channel: there is room. It fails if the caller is gone, who needs it no more.
fn send(port: &MessagePort, reply: &Reply) {
    let _ = port.try_post_message(reply);
}

/// Why there is no result.
enum Failure {
    Refused(String),
    TimedOut,
    Lost(CloseReason),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(error) => write!(f, "is refused: {error}"),
            Failure::TimedOut => f.write_str("has timed out"),
            Failure::Lost(reason) => write!(f, "is lost: {reason}"),
        }
    }
}

/// Calls the server, and has `done` called once: with the result, or because the time is over, or because there
/// will be no result.
fn call<'h>(
    events: &EventLoop<'h>,
    server: &MessagePort,
    request: &Request,
    patience: Duration,
    done: impl FnOnce(Result<i64, Failure>) + 'h,
) -> Outcome<()> {
    let MessageChannel { port1, port2 } = MessageChannel::new()?;
    let reply = events.add(port1)?;
    server.post_message_with(request, [port2])?;

    // Three handlers could call it: each ends the other two.
    let done = Rc::new(Cell::new(Some(done)));
    let done = move |result| done.take().map_or((), |done| done(result));
    let (id, done_late, done_lost) = (reply.id(), done.clone(), done.clone());
    let timer = events.set_timeout(patience, move |events| {
        let _ = events.remove(id); // and so closes it, which tells the server
        done_late(Err(Failure::TimedOut));
    });
    reply.on_close(move |events, close| {
        events.clear_timer(timer);
        done_lost(Err(Failure::Lost(close.reason)));
    });
    reply.on_data::<Reply>(move |events, reply| {
        events.clear_timer(timer);
        done(match reply.data() {
            ArchivedResult::Ok(value) => Ok(value.to_native()),
            ArchivedResult::Err(error) => Err(Failure::Refused(error.to_string())),
        });
        let _ = events.detach(reply.into_event()); // one reply a call
    });
    Ok(())
}

fn be_client(client: u32, parent: &MessagePort) -> Outcome<()> {
    let server = parent.recv()?.take_ports().pop().ok_or("no port came")?;
    let mut events = EventLoop::new()?;
    let ask = |events: &EventLoop<'_>, request: Request, patience: Duration| {
        let asked = request.to_string();
        call(
            events,
            &server,
            &request,
            patience,
            move |result| match result {
                Ok(value) => println!("client {client}: {asked} is {value}"),
                Err(failure) => println!("client {client}: {asked} {failure}"),
            },
        )
    };
    let divide = |dividend, divisor| Request::Divide { dividend, divisor };
    let square = |number, milliseconds| Request::Square {
        number,
        milliseconds,
    };
    const HOUR: u64 = 3_600_000;
    let patience = Duration::from_secs(60);

    // Asked in this order, answered in another.
    ask(&events, square(7, 500), patience)?;
    ask(&events, square(8, 20), patience)?;
    ask(&events, divide(84, 2), patience)?;
    ask(&events, divide(1, 0), patience)?;
    events.run()?; // until no call is pending

    ask(&events, square(9, HOUR), Duration::from_millis(50))?;
    events.run()?;

    for number in 10..=12 {
        ask(&events, square(number, HOUR), patience)?;
    }
    parent.post_bytes(b"waiting")?;
    Ok(events.run()?)
}
