//! iceoryx2: publish-subscribe, one service each way: a sample is loaned, filled in place, sent, and read in
//! place over there. For round trips the next one is loaned while the answer is on its way, as its own benchmark
//! does it. To sleep there is an event service each way besides: who publishes notifies, who finds nothing waits
//! for a notification.
//!
//! Its queues keep both of their positions in one cache line, at which both sides look for each message; so a
//! stream is the faster the less they do so at the same time. Three settings together gave almost twice the
//! rate of the benchmark's way: the subscriber lets many come before it looks again, and gives samples back
//! many at a time; and the publisher has no more samples than the buffer holds, so that it waits for room by
//! loaning, and need not ask the buffer. Tried as well, and no faster: payloads of a fixed type, samples that
//! begin at a cache line, many loans at a time, other depths, to publish again what was discarded, to ask whether
//! there are samples, `ipc_threadsafe`, a lower log level, and optimising across all crates.

use std::env;
use std::fs;
use std::hint::spin_loop;
use std::mem::MaybeUninit;
use std::process::{self, Command};
use std::thread;

use iceoryx2::port::LoanError;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::sample::Sample;
use iceoryx2::sample_mut_uninit::SampleMutUninit;
use iceoryx2::service::port_factory::{event, publish_subscribe};

use crate::harness::work::End;
use crate::harness::{Peer, Waiting, payload, peer_command};

use super::{Carrier, depth, while_it_comes_up};

/// What the services of this pair are called.
const NAME: &str = "RINGPORT_BENCH_SERVICES";

/// Publish-subscribe of slices of bytes, as in its benchmark; arrays of a fixed length were no faster.
pub struct Iceoryx;

/// How the names of all services begin, and of their files; the lead's process comes next.
const PREFIX: &str = "ringport-bench-";

/// The way of the questions, and that of the answers.
const WAYS: [&str; 2] = ["there", "back"];

/// The services of one way.
struct Way {
    messages: publish_subscribe::PortFactory<ipc::Service, [u8], ()>,
    wakes: event::PortFactory<ipc::Service>,
}

impl Way {
    /// Makes the services of this name, or finds them if they exist.
    fn open(node: &Node<ipc::Service>, name: &str, depth: usize, held: usize) -> Self {
        let name = ServiceName::new(name).expect("a short name");
        let messages = node
            .service_builder(&name)
            .publish_subscribe::<[u8]>()
            .payload_alignment(Alignment::new(8).expect("a power of two"))
            .max_nodes(2)
            .max_publishers(1)
            .max_subscribers(1)
            .history_size(0)
            .subscriber_max_borrowed_samples(held)
            .subscriber_max_buffer_size(depth)
            // It never does, with as many samples as the buffer holds; else the publisher would ask each time.
            .enable_safe_overflow(true)
            .open_or_create()
            .expect("a service");
        let wakes = node
            .service_builder(&name)
            .event()
            .max_nodes(2)
            .max_notifiers(1)
            .max_listeners(1)
            .event_id_max_value(0)
            .open_or_create()
            .expect("a service");
        Way { messages, wakes }
    }

    /// Whether both ends of this way are there.
    fn is_complete(&self) -> bool {
        let (messages, wakes) = (self.messages.dynamic_config(), self.wakes.dynamic_config());
        messages.number_of_publishers() == 1
            && messages.number_of_subscribers() == 1
            && wakes.number_of_notifiers() == 1
            && wakes.number_of_listeners() == 1
    }
}

/// One end.
struct Ports {
    /// Where the next message will be written, if it was loaned already.
    next: Option<Loan>,
    /// Whether anything was sent from here; who only takes is the end of a stream.
    sends: bool,
    /// What was taken, and not yet given back: never so many as `most_held`.
    held: Vec<Sample<ipc::Service, [u8], ()>>,
    most_held: usize,
    /// How often to spin before the end of a stream looks again.
    pauses: usize,
    publisher: Publisher<ipc::Service, [u8], ()>,
    subscriber: Subscriber<ipc::Service, [u8], ()>,
    notifier: Notifier<ipc::Service>,
    listener: Listener<ipc::Service>,
    waiting: Waiting,
    ways: [Way; 2],
    /// Last, as what is left is known only when all of the above is gone.
    leftovers: Option<Leftovers>,
}

/// Room for a message.
type Loan = SampleMutUninit<ipc::Service, [MaybeUninit<u8>], ()>;

impl Ports {
    /// The end of the services of this name that sends this way, and receives the other way.
    fn new(sends: &str, name: &str, length: usize, capacity: usize, waiting: Waiting) -> Self {
        set_log_level(LogLevel::Error);
        let mut config = Config::default();
        config.global.prefix = FileName::new(name.as_bytes()).expect("a short name");
        let root = Path::new(format!("/tmp/{name}").as_bytes()).expect("a short path");
        config.global.set_root_path(&root);
        let node = NodeBuilder::new()
            .config(&config)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<ipc::Service>()
            .expect("a node");
        let depth = depth(length, capacity);
        // What is held back stays out of use; with long messages that costs more than it saves.
        let most_held = if length < LONG { depth / 2 } else { 1 };
        let ways = WAYS.map(|way| Way::open(&node, &format!("{name}/{way}"), depth, most_held));
        let [to, from] = if sends == WAYS[0] { [0, 1] } else { [1, 0] };
        let messages = &ways[from].messages;
        let subscriber = messages
            .subscriber_builder()
            .create()
            .expect("its only one");
        let listener = ways[from].wakes.listener_builder().create();
        let publisher = ways[to]
            .messages
            .publisher_builder()
            .initial_max_slice_len(length)
            .max_loaned_samples(1)
            .override_sample_preallocation(move |_| depth)
            .create();
        let notifier = ways[to].wakes.notifier_builder().create();
        Ports {
            next: None,
            sends: false,
            held: Vec::with_capacity(most_held),
            most_held,
            pauses: (2 * depth).min(MOST_PAUSES),
            publisher: publisher.expect("its only one"),
            subscriber,
            notifier: notifier.expect("its only one"),
            listener: listener.expect("its only one"),
            waiting,
            ways,
            leftovers: None,
        }
    }

    /// Gives samples back when there are many.
    fn hold(&mut self, sample: Sample<ipc::Service, [u8], ()>) {
        self.held.push(sample);
        if self.held.len() == self.most_held {
            self.held.clear();
        }
    }

    /// Waits until one of the samples is free.
    fn loan(&self, length: usize) -> Loan {
        loop {
            match self.publisher.loan_slice_uninit(length) {
                Ok(sample) => return sample,
                Err(LoanError::OutOfMemory) => pause(LOAN_PAUSES),
                Err(error) => panic!("a sound publisher: {error}"),
            }
        }
    }
}

/// Messages from here on are given back one by one.
const LONG: usize = 32 << 10;

/// How often to spin at most where the end of a stream found nothing: a few microseconds, in which some tens of
/// short messages come.
const MOST_PAUSES: usize = 256;

/// How often to spin where no sample was free.
const LOAN_PAUSES: usize = 64;

fn pause(times: usize) {
    for _ in 0..times {
        spin_loop();
    }
}

impl<const LENGTH: usize> End<LENGTH> for Ports {
    fn send(&mut self, sequence: u64) {
        let mut sample = self.next.take().unwrap_or_else(|| self.loan(LENGTH));
        let start = sample.payload_mut().as_mut_ptr().cast();
        // SAFETY: the payload is this long, and ours to write until it is sent.
        unsafe { payload::fill_at(start, LENGTH, sequence) };
        // SAFETY: all of its bytes have just been written.
        let sample = unsafe { sample.assume_init() };
        let receivers = sample.send().expect("the other side is there");
        assert_eq!(receivers, 1);
        if self.waiting == Waiting::Sleep {
            self.notifier.notify().expect("the other side is there");
        }
        self.sends = true;
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        if self.sends && self.next.is_none() {
            self.next = Some(self.loan(LENGTH));
        }
        loop {
            if let Some(sample) = self.subscriber.receive().expect("a sound connection") {
                let result = look(sample.payload());
                if !self.sends {
                    self.hold(sample);
                }
                return result;
            }
            match self.waiting {
                Waiting::Spin if self.sends => spin_loop(),
                Waiting::Spin => pause(self.pauses),
                Waiting::Sleep => {
                    let woken = self.listener.blocking_wait(|_| ());
                    woken.expect("a sound listener");
                }
            }
        }
    }
}

impl Carrier for Iceoryx {
    const NAME: &'static str = "iceoryx2";

    /// Its buffer counts messages, however long.
    fn longest(_: usize) -> usize {
        usize::MAX
    }

    fn lead<const LENGTH: usize>(
        name: &str,
        capacity: usize,
        waiting: Waiting,
        prepare: impl FnOnce(&mut Command),
    ) -> (impl End<LENGTH>, Peer) {
        Leftovers::remove();
        let services = format!("{PREFIX}{}_", process::id());
        let mut end = Ports::new(WAYS[0], &services, LENGTH, capacity, waiting);
        end.leftovers = Some(Leftovers);
        let mut command = peer_command(name);
        prepare(command.env(NAME, services));
        let peer = Peer::new(command.spawn().expect("a peer can be started"));
        // What is published before the subscriber is there would not reach it.
        while_it_comes_up(|| {
            while !end.ways.iter().all(Way::is_complete) {
                thread::yield_now();
            }
        });
        (end, peer)
    }

    fn peer<const LENGTH: usize>(capacity: usize, waiting: Waiting) -> impl End<LENGTH> {
        let services = env::var(NAME).expect("the lead says which");
        Ports::new(WAYS[1], &services, LENGTH, capacity, waiting)
    }
}

/// Takes away what iceoryx2 leaves in files: a little even if all goes well, all of it if it is killed.
struct Leftovers;

impl Leftovers {
    /// Removes the files of this process's services, and of processes that are no more.
    fn remove() {
        for directory in ["/dev/shm", "/tmp"] {
            for file in fs::read_dir(directory).into_iter().flatten().flatten() {
                let name = file.file_name();
                let process = name
                    .to_str()
                    .and_then(|name| name.strip_prefix(PREFIX)?.split_once('_'))
                    .and_then(|(process, _)| process.parse::<u32>().ok());
                let is_over = |process| {
                    process == process::id()
                        || !fs::exists(format!("/proc/{process}")).unwrap_or(true)
                };
                if process.is_some_and(is_over) {
                    let path = file.path();
                    // What cannot be removed is not worth a failed bench.
                    let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
                }
            }
        }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        Leftovers::remove();
    }
}
