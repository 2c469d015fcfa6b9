//! A chat: a server that strangers connect to, and clients that come, talk, leave and die.
//!
//! Everybody is told who comes, who leaves, and what the others say. The server waits for nobody and keeps nothing
//! for anybody: a client that does not read misses what there is no room for in its ring, and the others do not
//! notice. As soon as there is room again it is told how much it has missed.
//!
//! ```text
//! $ cargo run --release --example chat_server    # a server, four clients, and a conversation
//! ann sees: * nobody else is here
//! bob sees: * here: ann
//! ann sees: * bob has come
//! bob says: hello, ann
//! ann sees: bob: hello, ann
//! cem sees: * here: ann, bob
//! ann sees: * cem has come
//! bob sees: * cem has come
//! cem is killed.
//! ann sees: * cem has left
//! bob sees: * cem has left
//! dee sees: * here: ann, bob
//! ann sees: * dee has come
//! bob sees: * dee has come
//! dee looks away, and bob counts to 300.
//! ann has seen all of it, dee a part, and how much is missing.
//! ann says: are you there, dee?
//! bob sees: ann: are you there, dee?
//! dee sees: ann: are you there, dee?
//! dee leaves.
//! ann sees: * dee has left
//! bob sees: * dee has left
//! $ cargo run --release --example chat_server -- serve lobby       # by hand: this in one terminal,
//! $ cargo run --release --example chat_server -- join lobby ann    # and this in several others
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::{env, fs, process, thread};

use ringport::rkyv::{Archive, Deserialize, Serialize};
use ringport::{
    EventLoop, Listener, MessageChannel, MessagePort, PortId, Worker, connect, parent_port,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What a client tells the server.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringport::rkyv)]
enum Word {
    /// The first one: my name.
    Join(String),
    Say(String),
}

/// What the server tells a client.
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = ringport::rkyv)]
enum News {
    /// The first one: who else is here.
    Here(Vec<String>),
    Came(String),
    Said {
        name: String,
        text: String,
    },
    Left(String),
    /// For so many of all these there was no room.
    Missed(u64),
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => demonstrate(),
        ["serve", address] => serve(address),
        ["join", address, name] => join(address, name),
        _ => Err("usage: chat_server [serve ADDRESS | join ADDRESS NAME]".into()),
    }
}

fn serve(address: &str) -> Outcome<()> {
    let room = Room::default(); // handlers borrow it, so it outlives the loop
    let mut events = EventLoop::new()?;
    let listener = Listener::bind(address)?;
    println!("listening at {}", listener.path().display());
    events.add_listener(listener, |events, accepted| {
        let accepted = accepted.map_err(Into::into);
        if let Err(error) = accepted.and_then(|(client, _)| room.admit(events, client)) {
            eprintln!("a client was not admitted: {error}");
        }
    })?;
    // If another program has started it, it ends with that one.
    if let Some(parent) = parent_port()? {
        parent.post_bytes(b"listening")?;
        events.add(parent)?.on_close(|events, _| events.stop());
    }
    Ok(events.run()?)
}

/// Those who have joined, by their ports.
#[derive(Default)]
struct Room(RefCell<BTreeMap<PortId, Member>>);

struct Member {
    name: String,
    missed: Cell<u64>,
}

impl Room {
    fn admit<'h>(&'h self, events: &EventLoop<'h>, client: MessagePort) -> Outcome<()> {
        let client = events.add(client)?;
        client.on_data::<Word>(|events, word| match word.data() {
            ArchivedWord::Join(name) => self.join(events, word.id(), name),
            ArchivedWord::Say(text) => self.say(events, word.id(), text),
        });
        client.on_close(|events, close| self.leave(events, close.port));
        // Whoever sends something else is shown out. The side that closes is not told of its close.
        client.on_message_error(|events, error| {
            self.leave(events, error.port());
            if let Some(client) = events.port(error.port()) {
                client.close();
            }
        });
        Ok(())
    }

    fn join<'h>(&'h self, events: &EventLoop<'h>, id: PortId, name: &str) {
        if self.0.borrow().contains_key(&id) {
            return; // one name is enough
        }
        self.tell_others(events, id, &News::Came(name.to_string()));
        let mut members = self.0.borrow_mut();
        let names = members.values().map(|member| member.name.clone()).collect();
        let member = members.entry(id).or_insert(Member {
            name: name.to_string(),
            missed: Cell::new(0),
        });
        self.tell(events, id, member, &News::Here(names));
    }

    fn say<'h>(&'h self, events: &EventLoop<'h>, id: PortId, text: &str) {
        let name = self.0.borrow().get(&id).map(|member| member.name.clone());
        if let Some(name) = name {
            let text = text.to_string();
            self.tell_others(events, id, &News::Said { name, text });
        }
    }

    fn leave<'h>(&'h self, events: &EventLoop<'h>, id: PortId) {
        let member = self.0.borrow_mut().remove(&id);
        if let Some(member) = member {
            self.tell_others(events, id, &News::Left(member.name));
        }
    }

    fn tell_others<'h>(&'h self, events: &EventLoop<'h>, id: PortId, news: &News) {
        for (other, member) in &*self.0.borrow() {
            if *other != id {
                self.tell(events, *other, member, news);
            }
        }
    }

    /// Tells a client what is new, or counts it as missed: so also as long as something missed was not told.
    fn tell<'h>(&'h self, events: &EventLoop<'h>, id: PortId, member: &Member, news: &News) {
        let Some(client) = events.port(id) else {
            return;
        };
        let missed = member.missed.get();
        if missed == 0 && client.try_post_message(news).is_ok() {
            return;
        }
        member.missed.set(missed + 1);
        if missed == 0 {
            // Not before a good part is free, so that it is not told of each line that it has missed.
            let room = client.capacity() / 4;
            client.on_room(room, |events, id| self.tell_missed(events, id));
        }
    }

    fn tell_missed(&self, events: &EventLoop<'_>, id: PortId) {
        if let (Some(client), Some(member)) = (events.port(id), self.0.borrow().get(&id)) {
            // There is room, so this fails only if the client has just left.
            let _ = client.try_post_message(&News::Missed(member.missed.take()));
        }
    }
}

fn join(address: &str, name: &str) -> Outcome<()> {
    let server = connect(address)?;
    server.post_message(&Word::Join(name.to_string()))?;

    // Standard input is no port: a thread waits for it, and posts what comes.
    let MessageChannel { port1, port2 } = MessageChannel::new()?;
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if let Err(error) = port1.post_message(&Word::Say(line)) {
                eprintln!("not said: {error}");
            }
        }
    });

    let end = Cell::new(Ok(()));
    let mut events = EventLoop::new()?;
    let server = events
        .add(server)?
        .on_data::<News>(|events, news| {
            if writeln!(io::stdout(), "{}", in_words(news.data())).is_err() {
                events.stop(); // nobody looks any more
            }
        })
        .on_close(|events, close| {
            end.set(Err(format!("the server: {}", close.reason).into()));
            events.stop();
        })
        .id();
    events
        .add(port2)?
        .on_message(move |events, word| {
            if let Some(server) = events.port(server) {
                // It may wait for room: the server waits for nobody. Of a close `on_close` tells.
                let _ = server.post_bytes(word.bytes());
            }
        })
        .on_close(|events, _| events.stop());
    events.run()?;
    drop(events);
    end.into_inner()
}

fn in_words(news: &ArchivedNews) -> String {
    match news {
        ArchivedNews::Here(names) if names.is_empty() => "* nobody else is here".to_string(),
        ArchivedNews::Here(names) => {
            let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            format!("* here: {}", names.join(", "))
        }
        ArchivedNews::Came(name) => format!("* {name} has come"),
        ArchivedNews::Said { name, text } => format!("{name}: {text}"),
        ArchivedNews::Left(name) => format!("* {name} has left"),
        ArchivedNews::Missed(count) => format!("* you have missed {count} lines"),
    }
}

/// Plays the conversation above, in a directory that is removed again.
fn demonstrate() -> Outcome<()> {
    let directory = env::temp_dir().join(format!("ringport-chat-{}", process::id()));
    fs::create_dir(&directory)?;
    let played = play(&directory.join("socket"));
    fs::remove_dir_all(&directory)?;
    played
}

fn play(socket: &Path) -> Outcome<()> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("serve").arg(socket).stdout(Stdio::null());
    let mut server = Worker::spawn(command)?;
    server.port().recv()?; // it listens

    let mut ann = Seat::take("ann", socket)?;
    ann.sees("* nobody else is here")?;
    let mut bob = Seat::take("bob", socket)?;
    bob.sees("* here: ann")?;
    ann.sees("* bob has come")?;
    bob.says("hello, ann")?;
    ann.sees("bob: hello, ann")?;

    let mut cem = Seat::take("cem", socket)?;
    cem.sees("* here: ann, bob")?;
    ann.sees("* cem has come")?;
    bob.sees("* cem has come")?;
    println!("cem is killed.");
    cem.client.kill()?;
    cem.client.wait()?;
    ann.sees("* cem has left")?;
    bob.sees("* cem has left")?;

    let mut dee = Seat::take("dee", socket)?;
    dee.sees("* here: ann, bob")?;
    ann.sees("* dee has come")?;
    bob.sees("* dee has come")?;
    println!("dee looks away, and bob counts to 300.");
    let line = |number| format!("{number} {}", ".".repeat(1000));
    for number in 1..=300 {
        bob.types(&line(number))?;
        assert_eq!(ann.next()?, format!("bob: {}", line(number)));
    }
    let (mut counted, mut missed) = (0, 0);
    while counted < 300 {
        let next = dee.next()?;
        if next == format!("bob: {}", line(counted + 1)) {
            counted += 1;
        } else {
            let gap = next.strip_prefix("* you have missed ");
            let gap = gap.and_then(|gap| gap.strip_suffix(" lines"));
            let gap: u64 = gap.ok_or_else(|| format!("dee sees: {next}"))?.parse()?;
            counted += gap;
            missed += gap;
        }
    }
    assert!(missed > 0 && counted == 300, "{missed} of {counted}");
    println!("ann has seen all of it, dee a part, and how much is missing.");
    ann.says("are you there, dee?")?;
    bob.sees("ann: are you there, dee?")?;
    dee.sees("ann: are you there, dee?")?;
    println!("dee leaves.");
    dee.leave()?;
    ann.sees("* dee has left")?;
    bob.sees("* dee has left")?;

    ann.leave()?;
    bob.leave()?;
    server.port().close();
    succeeded(server.wait()?)
}

fn succeeded(status: ExitStatus) -> Outcome<()> {
    if status.success() {
        Ok(())
    } else {
        Err(format!("a process ended with {status}").into())
    }
}

/// Somebody at a client.
struct Seat {
    name: &'static str,
    client: Child,
    screen: io::Lines<BufReader<ChildStdout>>,
}

impl Seat {
    fn take(name: &'static str, socket: &Path) -> Outcome<Seat> {
        let mut client = Command::new(env::current_exe()?)
            .arg("join")
            .args([socket.as_os_str(), name.as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let screen = BufReader::new(client.stdout.take().expect("it is piped")).lines();
        Ok(Seat {
            name,
            client,
            screen,
        })
    }

    fn types(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.client.stdin.as_mut().expect("it is piped"), "{line}")
    }

    fn says(&mut self, line: &str) -> io::Result<()> {
        println!("{} says: {line}", self.name);
        self.types(line)
    }

    fn next(&mut self) -> Outcome<String> {
        Ok(self.screen.next().ok_or("the client has ended")??)
    }

    fn sees(&mut self, line: &str) -> Outcome<()> {
        assert_eq!(self.next()?, line);
        println!("{} sees: {line}", self.name);
        Ok(())
    }

    /// Ends its input.
    fn leave(mut self) -> Outcome<()> {
        succeeded(self.client.wait()?)
    }
}
