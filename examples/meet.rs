//! Processes that are not parent and child meet at a listener, which introduces them to each other.
//!
//! The listener welcomes each client that connects. With the welcome goes a port to every client that came before, and
//! each of those is sent the other end. The newcomer greets them all, directly: the listener made their channels, and
//! has no part in them.
//!
//! ```text
//! $ cargo run --release --example meet          # a listener and three clients, in a directory of their own
//! client 1 is process 4712 of user 1000
//! client 2 is process 4713 of user 1000
//! client 1 heard: "Hello, I am client 2."
//! client 2 heard: "Welcome! I am client 1."
//! client 3 is process 4714 of user 1000
//! …
//! $ cargo run --release --example meet -- listen mixer    # by hand: this in one terminal,
//! $ cargo run --release --example meet -- client mixer    # and this in several others
//! ```
//!
//! Instead of a name such as `mixer`, which only processes of the same user find, it can be a path.

use std::error::Error;
use std::path::Path;
use std::process::{Child, Command};
use std::{env, fs, io, process};

use ringport::rkyv::{Archive, Deserialize, Serialize};
use ringport::{Listener, MessageChannel, MessagePort, RecvError, connect};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the listener tells a client.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringport::rkyv)]
enum News {
    /// This is your number; with it goes a port to each of the others.
    Welcome { number: u32 },
    /// Somebody came; with it goes a port to whoever it is.
    Newcomer,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => everything(),
        ["listen", address] => {
            let listener = Listener::bind(address)?;
            println!("listening at {}", listener.path().display());
            listen(&listener, u32::MAX)
        }
        ["client", address] => client(&connect(address)?),
        _ => Err("usage: meet [listen ADDRESS | client ADDRESS]".into()),
    }
}

/// Plays the listener, and starts three clients, in a directory that is removed again.
fn everything() -> Outcome<()> {
    let directory = env::temp_dir().join(format!("ringport-meet-{}", process::id()));
    fs::create_dir(&directory)?;
    let met = meet_in(&directory);
    fs::remove_dir_all(&directory)?;
    met
}

fn meet_in(directory: &Path) -> Outcome<()> {
    let listener = Listener::bind(directory.join("socket"))?;
    let start = |_| -> io::Result<Child> {
        Command::new(env::current_exe()?)
            .arg("client")
            .arg(listener.path())
            .spawn()
    };
    let clients: Vec<Child> = (0..3).map(start).collect::<Result<_, _>>()?;
    // It ends with the third; with it go its ports, and so the clients know that nobody else will come.
    listen(&listener, 3)?;
    for mut client in clients {
        let status = client.wait()?;
        if !status.success() {
            return Err(format!("a client ended with {status}").into());
        }
    }
    Ok(())
}

/// Welcomes so many clients.
fn listen(listener: &Listener, most: u32) -> Outcome<()> {
    let mut present: Vec<MessagePort> = Vec::new();
    for number in 1..=most {
        let (newcomer, credentials) = listener.accept()?;
        let (process, user) = (credentials.process_id, credentials.user_id);
        println!("client {number} is process {process} of user {user}");

        present.retain(|client| !client.is_closed());
        let mut ports = Vec::new();
        for client in &present {
            let MessageChannel { port1, port2 } = MessageChannel::new()?;
            // If it leaves just now, the newcomer finds the other end closed.
            let _ = client.post_message_with(&News::Newcomer, [port1]);
            ports.push(port2);
        }
        // They have all met when the newcomer says so. If it leaves before that, it is not missed.
        let welcome = newcomer.post_message_with(&News::Welcome { number }, ports);
        if welcome.is_ok() && newcomer.recv().is_ok() {
            present.push(newcomer);
        }
    }
    Ok(())
}

/// Greets, and is greeted, until the listener is gone.
fn client(listener: &MessagePort) -> Outcome<()> {
    let mut me = 0;
    loop {
        let event = match listener.recv() {
            Ok(event) => event,
            Err(RecvError::Closed(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match event.data::<News>()? {
            ArchivedNews::Welcome { number } => {
                me = number.to_native();
                for other in event.take_ports() {
                    // Of a close `hear` tells.
                    let _ = other.post_message(&format!("Hello, I am client {me}."));
                    hear(me, &other)?;
                }
                listener.post_bytes(b"met")?;
            }
            ArchivedNews::Newcomer => {
                for other in event.take_ports() {
                    hear(me, &other)?;
                    let _ = other.post_message(&format!("Welcome! I am client {me}."));
                }
            }
        }
    }
}

fn hear(me: u32, other: &MessagePort) -> Outcome<()> {
    match other.recv() {
        Ok(event) => println!("client {me} heard: {:?}", event.data::<String>()?.as_str()),
        Err(RecvError::Closed(_)) => println!("client {me} met somebody who has left"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
