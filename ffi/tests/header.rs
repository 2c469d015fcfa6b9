//! The checked-in header is what the code says.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// What is exported, in the order of a port's life.
const ORDER: [&str; 17] = [
    "version.rs",
    "status.rs",
    "channel.rs",
    "port.rs",
    "post.rs",
    "receive.rs",
    "archive.rs",
    "handle.rs",
    "foreign_loop.rs",
    "settings.rs",
    "process.rs",
    "meeting.rs",
    "event_loop.rs",
    "event_loop/callback.rs",
    "event_loop/running.rs",
    "event_loop/sources.rs",
    "event_loop/home.rs",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// The header, with a line between the groups of functions.
fn generated() -> String {
    let config =
        cbindgen::Config::from_file(folder().join("cbindgen.toml")).expect("the configuration");
    let sources = ORDER.iter().map(|file| folder().join("src").join(file));
    let builder = sources.fold(cbindgen::Builder::new(), cbindgen::Builder::with_src);
    let bindings = builder
        .with_config(config)
        .generate()
        .expect("the code is read");
    let mut header = Vec::new();
    bindings.write(&mut header);
    let header = String::from_utf8(header).expect("the sources are UTF-8");
    let mut sections = String::new();
    let mut lines = header.lines().peekable();
    while let Some(line) = lines.next() {
        // A comment that begins with a title gets it as a comment of its own.
        let title = lines.peek().and_then(|next| next.strip_prefix(" * ## "));
        match title {
            Some(title) if line == "/**" => {
                sections += &format!(
                    "/* ---- {title} {} */\n\n/**\n",
                    "-".repeat(100 - title.len())
                );
                lines.nth(1); // and the empty line after it
            }
            _ => {
                // A number below zero in brackets, for whoever computes with it.
                sections += line
                    .replace("RINGPORT_FOREVER -1", "RINGPORT_FOREVER (-1)")
                    .trim_end();
                sections.push('\n');
            }
        }
    }
    sections
}

/// `RINGPORT_WRITE_HEADER=1 cargo test -p ringport-ffi --test header` writes it anew.
#[test]
fn the_header_is_up_to_date() {
    let path = folder().join("../include/ringport.h");
    let generated = generated();
    if env::var_os("RINGPORT_WRITE_HEADER").is_some() {
        fs::write(&path, &generated).expect("the header can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let differs = found
        .lines()
        .zip(generated.lines())
        .position(|(found, made)| found != made);
    assert!(
        found == generated,
        "include/ringport.h is not what the code says (from line {} on): \
         RINGPORT_WRITE_HEADER=1 cargo test -p ringport-ffi --test header",
        differs.map_or(0, |line| line + 1)
    );
}

/// A function in a file that is not in the list would be missing.
#[test]
fn every_exported_function_is_in_the_header() {
    let header = generated();
    let mut count = 0;
    for folder in [folder().join("src"), folder().join("src/event_loop")] {
        for file in fs::read_dir(folder).expect("the sources") {
            let path = file.expect("a source").path();
            let source = fs::read_to_string(&path).unwrap_or_default();
            for line in source
                .lines()
                .filter(|line| line.contains("extern \"C\" fn ringport_"))
            {
                let name = line
                    .split("fn ")
                    .nth(1)
                    .and_then(|rest| rest.split('(').next());
                let name = name.expect("a name");
                assert!(header.contains(&format!("{name}(")), "{name} of {path:?}");
                count += 1;
            }
        }
    }
    assert!(count > 80, "{count} functions");
}
