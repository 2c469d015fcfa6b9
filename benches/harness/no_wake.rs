//! This bench once more, built so that no post looks whether the other side sleeps. Such a library
//! would sleep through messages; it only serves to measure what the look costs.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::target_directory;

/// What rustc is told.
const CFG: [&str; 2] = ["--cfg", "ringport_no_wake"];

/// Builds bench `name` in the profile of this one and answers where it is; `None`, with a word on
/// why, where there is no cargo.
pub fn build(name: &str) -> Option<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command
        .args([
            "bench",
            "--bench",
            name,
            "--no-run",
            "--message-format=json",
        ])
        .arg("--target-dir")
        .arg(target_directory().join("no-wake"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit());
    // Flags in the environment would hide those in a configuration, so they are added where flags
    // already are: the two builds then differ in nothing else.
    if let Ok(flags) = env::var("CARGO_ENCODED_RUSTFLAGS") {
        command.env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("{flags}\x1f{}", CFG.join("\x1f")),
        );
    } else if let Ok(flags) = env::var("RUSTFLAGS") {
        command.env("RUSTFLAGS", format!("{flags} {}", CFG.join(" ")));
    } else {
        command.args(["--config", &format!("build.rustflags={CFG:?}")]);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            println!(
                "post-cost skipped: {} does not run: {error}",
                Path::new(&cargo).display()
            );
            return None;
        }
    };
    assert!(
        output.status.success(),
        "the build failed: {}",
        output.status
    );
    let messages = String::from_utf8(output.stdout).expect("cargo writes JSON in UTF-8");
    let program = messages.lines().find_map(executable);
    Some(program.expect("cargo names the executable it made"))
}

/// The executable that one of cargo's messages tells of.
fn executable(message: &str) -> Option<PathBuf> {
    let (_, rest) = message.split_once(r#""executable":""#)?;
    let (path, _) = rest.split_once('"')?;
    Some(path.into())
}
