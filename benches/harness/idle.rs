//! What ports cost that wait.

use std::fs;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringport::{MessageChannel, MessagePort};

use super::report::plain_bar;
use super::{Options, PATIENCE as SECONDS, watchdog};

const PORTS: usize = 100;

/// Nothing here may take longer to come to rest.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lets a hundred ports wait, each in a thread of its own, and counts how often any of them had a CPU in ten
/// seconds (one, if it is to be quick). All are woken afterwards: they did wait.
pub fn measure(options: &Options) -> String {
    let length = Duration::from_secs(if options.quick { 1 } else { 10 });
    let wait = |port: MessagePort| {
        let event = port.recv().expect("the other side is alive");
        assert_eq!(event.bytes(), b"wake up");
    };
    let (ports, threads): (Vec<_>, Vec<_>) = (0..PORTS)
        .map(|_| {
            let MessageChannel { port1, port2 } =
                MessageChannel::new().expect("a channel can be made");
            (port1, thread::spawn(move || wait(port2)))
        })
        .unzip();
    let switched = switches_while_asleep(PORTS, length, || ());
    for port in &ports {
        port.post_bytes(b"wake up")
            .expect("the other side is alive");
    }
    for thread in threads {
        join(thread);
    }
    println!("\n{PORTS} ports waited for {length:?}: {switched} context switches");
    bar(options, "idle", "idle", switched, length)
}

/// Waits for a thread that has been told to end. One that does not ends the bench: it must not hang.
pub(super) fn join<T>(thread: JoinHandle<T>) -> T {
    watchdog(SECONDS);
    let result = thread.join().expect("it got what was posted");
    watchdog(0);
    result
}

/// The bar of so many context switches in such a time: none.
pub(super) fn bar(
    options: &Options,
    contest: &str,
    name: &str,
    switched: u64,
    length: Duration,
) -> String {
    let each_second = switched as f64 / length.as_secs_f64();
    plain_bar(options, contest, name, each_second, 0.0)
}

/// Waits until so many threads sleep, all there are beside the first, and counts how often any of them had a CPU
/// from then on for such a time, in the middle of which something else is done.
pub(super) fn switches_while_asleep(
    threads: usize,
    length: Duration,
    meanwhile: impl FnOnce(),
) -> u64 {
    let begun = Instant::now();
    while asleep() < threads {
        assert!(begun.elapsed() < PATIENCE, "they do not come to rest");
        thread::yield_now();
    }
    let before = switches();
    thread::sleep(length / 2);
    meanwhile();
    thread::sleep(length / 2);
    let switched = switches() - before;
    assert_eq!(asleep(), threads, "all of them still wait");
    switched
}

/// The status of all threads of this process but the first, which does the counting.
fn statuses() -> impl Iterator<Item = String> {
    let own = std::process::id().to_string();
    let threads = fs::read_dir("/proc/self/task").expect("every process has this");
    let others = threads
        .flatten()
        .filter(move |thread| *thread.file_name() != *own);
    others.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
}

fn asleep() -> usize {
    statuses()
        .filter(|status| status.contains("\nState:\tS"))
        .count()
}

/// How often they have given up or lost their CPU.
fn switches() -> u64 {
    let count = |status: String| -> u64 {
        let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
        let numbers = counts.filter_map(|line| line.split_once('\t')?.1.parse::<u64>().ok());
        numbers.sum()
    };
    statuses().map(count).sum()
}
