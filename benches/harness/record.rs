//! The record: results of runs with `--record` as CSV under `benches/record`, one file a bench, one row a
//! result, new runs at the end.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::contest::{Measure, Regime};
use super::latency::Latency;
use super::report::Findings;
use super::{Options, cpu_model};

const RESULTS: &str = "date,commit,cpu,cpus,contest,regime,floor_ns,name,each_ns,measure,against,ratio,q1,q3,target,slices";
const LATENCIES: &str =
    "date,commit,cpu,cpus,contest,regime,floor_ns,name,p50_ns,p90_ns,p99_ns,p999_ns,max_ns,count";

/// When and on what a run was made: the first columns of all its rows.
#[derive(Clone)]
pub struct Run(String);

impl Run {
    /// A run that begins now, on these CPUs.
    pub fn begin(cpus: [usize; 2]) -> Run {
        Run(format!(
            "{},{},\"{}\",{}+{}",
            date(),
            commit(),
            cpu_model(),
            cpus[0],
            cpus[1]
        ))
    }
}

/// Adds all of a contest.
pub fn record(options: &Options, findings: &Findings) {
    let Some(Run(run)) = &options.record else {
        return;
    };
    let rows = findings.found.iter().map(|found| {
        let floor = findings
            .floors
            .iter()
            .find(|(regime, _)| *regime == found.regime);
        let [q1, ratio, q3] = found.ratio;
        format!(
            "{run},{},{},{:.1},{},{:.1},{},{},{ratio:.4},{q1:.4},{q3:.4},{},{}",
            findings.contest,
            found.regime.name(),
            floor.map_or(0.0, |(_, [_, median, _])| *median),
            found.row.title(),
            found.each,
            match found.row.measure {
                Measure::Time => "time",
                Measure::Rate => "rate",
            },
            found.row.against,
            found
                .target()
                .map_or(String::new(), |target| target.to_string()),
            found.slices,
        )
    });
    append(&format!("{}.csv", options.bench), RESULTS, rows);
}

/// Adds a figure that is no ratio and belongs to no regime.
pub fn record_amount(options: &Options, contest: &str, name: &str, amount: f64, most: f64) {
    let Some(Run(run)) = &options.record else {
        return;
    };
    let row =
        format!("{run},{contest},any,,{name},,time,,{amount:.2},{amount:.2},{amount:.2},{most},1");
    append(
        &format!("{}.csv", options.bench),
        RESULTS,
        [row].into_iter(),
    );
}

/// Adds what a stopwatch has seen, beside the line's round trip of the same minute.
pub fn record_latency(options: &Options, contest: &str, line: f64, name: &str, latency: &Latency) {
    let Some(Run(run)) = &options.record else {
        return;
    };
    let regime = Regime::of(line).name();
    let times = latency.times.map(|time| time.to_string()).join(",");
    let count = latency.count;
    let row = format!("{run},{contest},{regime},{line:.1},{name},{times},{count}");
    append("latency.csv", LATENCIES, [row].into_iter());
}

fn append(file: &str, header: &str, rows: impl Iterator<Item = String>) {
    let path = record_folder().join(file);
    let new = !path.exists();
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let mut file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = if new {
        format!("{header}\n")
    } else {
        String::new()
    };
    for row in rows {
        text += &row;
        text.push('\n');
    }
    file.write_all(text.as_bytes())
        .expect("the record can be written");
}

/// `benches/record`, also for the crate in `benches/rivals`.
pub fn record_folder() -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut benches = project.map(|folder| folder.join("benches"));
    let record = benches
        .find(|benches| benches.is_dir())
        .expect("this is one of them");
    let record = record.join("record");
    fs::create_dir_all(&record).expect("a folder can be made");
    record
}

/// The commit that is measured; with a `+` if the files are others by now.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(arguments)
            .output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let Some(hash) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".into();
    };
    // The record itself changes while it is written, and texts change nothing.
    match git(&[
        "status",
        "--porcelain",
        "--",
        ":/",
        ":(exclude,top)benches/record",
        ":(exclude,top)*.md",
    ]) {
        Some(changes) if changes.is_empty() => hash,
        _ => format!("{hash}+"),
    }
}

/// Now, in UTC, as ISO 8601 writes it.
fn date() -> String {
    let output = Command::new("date").args(["-u", "+%FT%TZ"]).output();
    let output = output.expect("every system has a date");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}
