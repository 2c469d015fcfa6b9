//! How much memory does a channel take? Bars: `memory-idle` and `memory-used`, in KiB a channel.
//!
//! Counted is what the process has in memory of its own, and what there is of the segments, whoever has mapped
//! it. What the kernel keeps for its descriptors is not.

mod harness;

use std::fs;
use std::os::unix::fs::MetadataExt;

use harness::{Options, Role, plain_bar};
use ringport::MessageChannel;

const CHANNELS: usize = 200;

fn main() {
    if let Some(Role::Coordinator(options)) = harness::role("memory") {
        harness::run(&[("memory", memory)], &options);
    }
}

fn memory(options: &Options) -> Vec<String> {
    let before = resident();
    let channels: Vec<_> = (0..CHANNELS)
        .map(|_| MessageChannel::new().expect("a channel can be made"))
        .collect();
    let idle = each(resident() - before);
    for MessageChannel { port1, port2 } in &channels {
        for (from, to) in [(port1, port2), (port2, port1)] {
            from.post_bytes(&[7; 48]).expect("there is room");
            assert_eq!(to.recv().expect("it was posted").bytes(), [7; 48]);
        }
    }
    let used = each(resident() - before);
    println!(
        "\nKiB for each of {CHANNELS} channels: {idle:.2} new, {used:.2} after 48 bytes each way"
    );
    let bar = |name, value, target| plain_bar(options, "memory", name, value, target);
    vec![
        bar("memory-idle", idle, 12.0),
        bar("memory-used", used, 20.0),
    ]
}

fn each(bytes: u64) -> f64 {
    bytes as f64 / CHANNELS as f64 / 1024.0
}

/// Bytes of this process's own memory, and of the memory files that it has open.
fn resident() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("every process has this");
    let own = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    let kib = own.and_then(|line| line.trim().strip_suffix("kB"));
    let own: u64 = kib
        .and_then(|kib| kib.trim().parse().ok())
        .expect("a number of KiB");

    let mut files: Vec<(u64, u64)> = fs::read_dir("/proc/self/fd")
        .expect("every process has this")
        .flatten()
        .filter(|file| {
            let to = fs::read_link(file.path()).unwrap_or_default();
            to.to_string_lossy().starts_with("/memfd:ringport")
        })
        .filter_map(|file| fs::metadata(file.path()).ok())
        .map(|file| (file.ino(), file.blocks() * 512))
        .collect();
    files.sort_unstable();
    files.dedup();
    own * 1024 + files.iter().map(|(_, bytes)| bytes).sum::<u64>()
}
