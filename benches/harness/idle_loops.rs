//! What event loops cost that wait, with many ports in them.

use std::cell::Cell;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringport::{EventLoop, LoopWaker, MessageChannel, MessagePort, PortId};

use super::idle::{bar, join, switches_while_asleep};
use super::{Options, limits};

/// As many of the ports that are wanted as fit into this process with both their ends.
pub fn most(wanted: usize) -> usize {
    limits::most(wanted, 2 * limits::A_PORT)
}

/// Lets a loop with so many started ports wait, and counts how often it had a CPU in ten seconds (two, if it is to
/// be quick). All ports are used afterwards: it did wait for each.
pub fn started(options: &Options, ports: usize) -> String {
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..ports).map(|_| channel_of_ports()).unzip();
    let thread = Looping::start(move |events, heard| {
        for port in ours {
            let port = events.add(port).expect("room for one more");
            port.on_message(move |events, event| {
                assert_eq!(event.bytes(), b"wake up");
                count(heard, ports, events);
            });
        }
    });
    let length = length(options);
    let switched = switches_while_asleep(1, length, || ());
    for port in &theirs {
        port.post_bytes(b"wake up")
            .expect("the other side is alive");
    }
    assert_eq!(thread.join(), ports);
    println!(
        "\na loop with {ports} started ports waited for {length:?}: {switched} context switches"
    );
    let name = format!("loop-idle-{ports}");
    bar(options, "loop-idle", &name, switched, length)
}

/// The same with ports that are not started. On each a message waits, another comes meanwhile, and some have ports
/// with them. All are received afterwards: none was lost.
pub fn not_started(options: &Options, ports: usize) -> String {
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..ports).map(|_| channel_of_ports()).unzip();
    let mut other_ends = Vec::new();
    let mut post_to_all = || {
        for (number, port) in theirs.iter().enumerate() {
            let mut gifts = Vec::new();
            if has_gift(number) {
                let (gift, other_end) = channel_of_ports();
                gifts.push(gift);
                other_ends.push(other_end);
            }
            port.post_bytes_with(b"waiting", gifts)
                .expect("the other side is alive");
        }
    };
    post_to_all();
    let thread = Looping::start(move |events, heard| {
        let add = |(number, port)| {
            let port = events.add(port).expect("room for one more");
            port.on_message_after_start(move |events, event| {
                assert_eq!(event.bytes(), b"waiting");
                assert_eq!(event.take_ports().len(), usize::from(has_gift(number)));
                count(heard, 2 * ports, events);
            });
            port.id()
        };
        let ids: Vec<PortId> = ours.into_iter().enumerate().map(add).collect();
        events.on_wake(move |events| {
            for id in &ids {
                events.port(*id).expect("it was added").start();
            }
        });
    });
    let length = length(options);
    let switched = switches_while_asleep(1, length, post_to_all);
    thread.waker.wake();
    assert_eq!(thread.join(), 2 * ports);
    println!(
        "\na loop with {ports} ports that were not started waited for {length:?}, while {ports} messages \
         came: {switched} context switches"
    );
    let name = format!("loop-idle-{ports}-not-started");
    bar(options, "loop-idle", &name, switched, length)
}

/// Whether messages to the port of this number have a port with them.
fn has_gift(number: usize) -> bool {
    number % 100 == 0
}

fn channel_of_ports() -> (MessagePort, MessagePort) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel can be made");
    (port1, port2)
}

fn length(options: &Options) -> Duration {
    Duration::from_secs(if options.quick { 2 } else { 10 })
}

/// Counts a message, and stops the loop after the last.
fn count(heard: &Cell<usize>, last: usize, events: &EventLoop) {
    heard.set(heard.get() + 1);
    if heard.get() == last {
        events.stop();
    }
}

/// A loop that runs in a thread of its own until it is stopped.
struct Looping {
    waker: LoopWaker,
    thread: JoinHandle<usize>,
}

impl Looping {
    /// Starts it with what `set_up` puts into the loop, which gets something to count with.
    fn start(
        set_up: impl for<'h> FnOnce(&EventLoop<'h>, &'h Cell<usize>) + Send + 'static,
    ) -> Looping {
        let (send, receive) = channel();
        let thread = thread::spawn(move || {
            let heard = Cell::new(0);
            let mut events = EventLoop::new().expect("a loop can be made");
            set_up(&events, &heard);
            send.send(events.waker()).expect("somebody waits for it");
            events.run().expect("the loop can wait");
            drop(events);
            heard.get()
        });
        let waker = receive.recv().expect("the loop was set up");
        Looping { waker, thread }
    }

    /// Waits until it has ended, and says what it counted.
    fn join(self) -> usize {
        join(self.thread)
    }
}
