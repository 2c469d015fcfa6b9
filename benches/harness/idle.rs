//! What ports cost that wait.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use ringport::{MessageChannel, MessagePort};

use super::Options;
use super::report::plain_bar;

const PORTS: u64 = 100;

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
    let begun = Instant::now();
    while asleep() < PORTS {
        assert!(begun.elapsed() < PATIENCE, "they do not come to rest");
        thread::yield_now();
    }
    let before = switches();
    thread::sleep(length);
    let switched = switches() - before;
    assert_eq!(asleep(), PORTS, "all of them still wait");
    for port in &ports {
        port.post_bytes(b"wake up")
            .expect("the other side is alive");
    }
    for thread in threads {
        thread.join().expect("it got its message");
    }
    let each_second = switched as f64 / length.as_secs_f64();
    println!("\n{PORTS} ports waited for {length:?}: {switched} context switches");
    plain_bar(options, "idle", "idle", each_second, 0.0)
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

fn asleep() -> u64 {
    statuses()
        .filter(|status| status.contains("\nState:\tS"))
        .count() as u64
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
