//! Contenders in C: the C interface, built in the profile of this bench, and a program that links with it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::target_directory;

/// Builds `benches/NAME.c` and answers where it is; `None`, with a word on why, where there is no C compiler.
pub fn build(name: &str) -> Option<PathBuf> {
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let found = Command::new(&compiler).arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        println!(
            "{name} in C skipped: {} does not run",
            Path::new(&compiler).display()
        );
        return None;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = target_directory();
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo)
        .args([
            "build",
            "--profile",
            "bench",
            "--package",
            "ringport-ffi",
            "--target-dir",
        ])
        .arg(&target)
        .current_dir(folder));
    let library = target.join("release");
    let program = library.join(format!("{name}-in-c"));
    run(Command::new(compiler)
        .args(["-std=c99", "-O2", "-Wall", "-Wextra", "-I"])
        .arg(folder.join("include"))
        .arg("-o")
        .arg(&program)
        .arg(folder.join("benches").join(name).with_extension("c"))
        .arg("-L")
        .arg(&library)
        .args(["-lringport", "-Wl,--disable-new-dtags"])
        .arg(format!("-Wl,-rpath,{}", library.display())));
    // Programs look for the library by its soname.
    let link = library.join("libringport.so.0.1");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink("libringport.so", &link).expect("a link in the target directory");
    Some(program)
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).status().expect("it runs");
    assert!(status.success(), "{command:?}: {status}");
}
