//! A contest as a Markdown table.

use crate::harness::{Finding, Findings};

/// Prints a table for each regime that occurred, and who could not take part.
pub fn print(findings: &Findings, work: &str, length: usize, unable: &[&str]) {
    let streams = work == "stream";
    for (regime, [_, line, _]) in &findings.floors {
        // A bar is told elsewhere.
        let is_told = |found: &&Finding| found.regime == *regime && found.row.target.is_none();
        let found: Vec<_> = findings.found.iter().filter(is_told).collect();
        if found.is_empty() {
            continue;
        }
        println!(
            "{}: the line takes {line:.0} ns there and back\n",
            regime.name()
        );
        if streams {
            println!("| carrier | ns each | M/s | GB/s | rate ÷ ringport's (quartiles) |");
        } else {
            println!("| carrier | ns there and back | ÷ line | time ÷ ringport's (quartiles) |");
        }
        println!("|---|{}", "--:|".repeat(if streams { 4 } else { 3 }));
        for found in found {
            let each = found.each;
            let columns = if streams {
                format!(
                    "{each:.1} | {:.2} | {:.2}",
                    1e3 / each,
                    length as f64 / each
                )
            } else {
                format!("{each:.0} | {:.2}", each / line)
            };
            let [q1, ratio, q3] = found.ratio;
            let name = told(&found.row.name);
            println!("| {name} | {columns} | {ratio:.3} ({q1:.3}–{q3:.3}) |");
        }
        for what in unable {
            println!(
                "| {} | no |{}",
                told(what),
                " |".repeat(if streams { 3 } else { 2 })
            );
        }
        println!();
    }
}

/// How a reader knows a contender.
fn told(name: &str) -> String {
    let (what, _) = name.split_once('@').unwrap_or((name, ""));
    match what {
        "ringport" => "**ringport** (default: copied, untrusted)".into(),
        "ringport-in-place" => "**ringport**, read in place (trusted)".into(),
        "rtrb" | "crossbeam-channel" => format!("{what} (two threads)"),
        "copy" => "memcpy, one process".into(),
        "eventfd" => "eventfd, no message".into(),
        _ => what.into(),
    }
}

/// A size as people write it.
pub fn bytes(count: usize) -> String {
    match count {
        ..1024 => format!("{count} B"),
        1024..0x10_0000 => format!("{} KiB", count >> 10),
        _ => format!("{} MiB", count >> 20),
    }
}
