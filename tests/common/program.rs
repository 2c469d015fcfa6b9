//! The examples as programs: found, built if need be, and their output read with a limit of time.

#![allow(dead_code)] // each test binary uses a part of it

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

/// Longer than anything here takes on a busy machine: what is lost fails the test, it does not hang it.
pub const LIMIT: Duration = Duration::from_secs(120);

/// An example's executable, beside this test's own, built first if `cargo test --test` left it out.
pub fn program(example: &str) -> PathBuf {
    /// Tests of one binary take turns, so that one build serves them all.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let test = std::env::current_exe().expect("the test's own path");
    let profile_dir = test
        .parent()
        .and_then(Path::parent)
        .expect("…/PROFILE/deps/test");
    let program = profile_dir.join("examples").join(example);
    if is_stale(&program, example) {
        build(profile_dir, example);
    }
    assert!(program.exists(), "cargo built no {}", program.display());
    program
}

/// Whether the executable is missing or older than what it is made of.
fn is_stale(program: &Path, example: &str) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let Ok(built) = modified(program) else {
        return true;
    };
    let mut newest = SystemTime::UNIX_EPOCH;
    let mut paths = vec![
        PathBuf::from(format!("examples/{example}.rs")),
        PathBuf::from("src"),
    ];
    while let Some(path) = paths.pop() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        newest = newest.max(modified(&path).expect("a source of the example"));
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a source folder");
            paths.extend(entries.map(|entry| entry.expect("a source file").path()));
        }
    }
    built < newest
}

fn build(profile_dir: &Path, example: &str) {
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("no profile in {}", profile_dir.display()),
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["build", "--example", example, "--profile", profile])
        .args(cfg!(feature = "tokio").then_some("--features=tokio"))
        .arg("--target-dir")
        .arg(profile_dir.parent().expect("a target folder"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "building {example}: {status}");
}

/// The lines of a stream, read by a thread of their own, so that waiting for one can have a limit and the
/// program never waits for this test. Dropping them closes the stream, as `head -1` does, at the next line.
pub struct Lines(Receiver<Vec<u8>>);

impl Lines {
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let (lines, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            loop {
                let mut line = Vec::new();
                let len = stream
                    .read_until(b'\n', &mut line)
                    .expect("the program's output");
                if len == 0 || lines.send(line).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// Those of a stream that nobody reads.
    pub fn none() -> Self {
        Self(mpsc::channel().1)
    }

    /// The next line, without its newline; `None` at the end.
    pub fn next(&self) -> Option<Vec<u8>> {
        match self.0.recv_timeout(LIMIT) {
            Ok(mut line) => {
                assert_eq!(line.pop(), Some(b'\n'), "only whole lines are shown");
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {LIMIT:?}"),
        }
    }

    pub fn rest(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// Ends a process of the test's own.
pub fn kill(process: i32) {
    // SAFETY: kill takes two integers and touches no memory of this process.
    let result = unsafe { libc::kill(process, libc::SIGKILL) };
    assert!(
        result == 0 || thread::panicking(),
        "killing process {process}"
    );
}
