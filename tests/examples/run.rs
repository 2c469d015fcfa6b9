//! One run of an example: what it prints, what is typed to it, how it ends.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::place::Place;
use crate::program::{LIMIT, Lines, kill, program};

/// One run of an example.
pub struct Run {
    pub output: Lines,
    pub errors: Lines,
    pub process: u32,
    typing: Option<ChildStdin>,
    ended: Receiver<ExitStatus>,
    has_ended: bool,
}

impl Run {
    /// Without input.
    pub fn start(example: &str, arguments: &[&OsStr], runtime_dir: Option<&Place>) -> Self {
        Run::spawn(example, arguments, runtime_dir, Stdio::null())
    }

    /// With somebody to [type](Run::type_line).
    pub fn start_typing(example: &str, arguments: &[&OsStr], runtime_dir: Option<&Place>) -> Self {
        Run::spawn(example, arguments, runtime_dir, Stdio::piped())
    }

    fn spawn(
        example: &str,
        arguments: &[&OsStr],
        runtime_dir: Option<&Place>,
        input: Stdio,
    ) -> Self {
        let mut command = Command::new(program(example));
        command
            .args(arguments)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(place) = runtime_dir {
            command.env("XDG_RUNTIME_DIR", place.path());
        }
        let mut child: Child = command.spawn().expect("the example starts");
        let typing = child.stdin.take();
        let output = Lines::of(child.stdout.take().expect("a pipe"));
        let errors = Lines::of(child.stderr.take().expect("a pipe"));
        let process = child.id();
        let (status, ended) = mpsc::channel();
        thread::spawn(move || {
            let _ = status.send(child.wait().expect("the example's status"));
        });
        Self {
            output,
            errors,
            process,
            typing,
            ended,
            has_ended: false,
        }
    }

    pub fn type_line(&mut self, line: &str) {
        let typing = self.typing.as_mut().expect("an input");
        writeln!(typing, "{line}").expect("the example takes a line");
    }

    /// Nothing more is typed.
    pub fn end_typing(&mut self) {
        self.typing = None;
    }

    #[track_caller]
    pub fn line(&self) -> String {
        let line = self.output.next().expect("a line");
        String::from_utf8(line).expect("text")
    }

    pub fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.output.next())
            .map(|line| String::from_utf8(line).expect("text"))
            .collect()
    }

    /// All that was said on standard error.
    pub fn told(&self) -> String {
        let told = self.errors.rest().concat();
        String::from_utf8_lossy(&told).into_owned()
    }

    pub fn status(&mut self) -> ExitStatus {
        let status = self.ended.recv_timeout(LIMIT).expect("the example ends");
        self.has_ended = true;
        status
    }

    /// It has said everything, nothing of it on standard error, and ends well.
    #[track_caller]
    pub fn ends_well(mut self) {
        assert_eq!(self.rest(), Vec::<String>::new());
        assert_eq!(self.told(), "");
        assert!(self.status().success());
    }
}

impl Drop for Run {
    /// A failed test leaves no process behind. (The others of an example end when their peers do.)
    fn drop(&mut self) {
        if !self.has_ended && self.ended.try_recv().is_err() {
            kill(self.process as i32);
        }
    }
}

/// What an example's comment says that it prints: its block of text, without the commands.
pub fn promised(example: &str) -> Vec<String> {
    let path = format!("{}/examples/{example}.rs", env!("CARGO_MANIFEST_DIR"));
    let source = fs::read_to_string(path).expect("the example's source");
    let comment = source.lines().map_while(|line| line.strip_prefix("//!"));
    let block = comment
        .map(str::trim_start)
        .skip_while(|line| *line != "```text")
        .skip(1)
        .take_while(|line| *line != "```");
    block
        .filter(|line| !line.starts_with("$ "))
        .map(str::to_owned)
        .collect()
}

/// Runs an example several times, each time to its end: it prints what its comment says, no more and no less.
#[track_caller]
pub fn prints_what_its_comment_says(example: &str, lines: usize) {
    let promised = promised(example);
    assert_eq!(promised.len(), lines, "{promised:?}");
    for _ in 0..5 {
        let run = Run::start(example, &[], None);
        for line in &promised {
            assert_eq!(&run.line(), line);
        }
        run.ends_well();
    }
}
