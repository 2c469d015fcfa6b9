//! Draws the record: CSV files in, SVG pictures out, into the same folder.
//!
//! ```text
//! rivals-sizes.csv ──► throughput.svg      latency.csv ──► latency.svg
//! stream.csv ────────► sweep.svg           every file with targets ──► bars.svg
//! ```
//!
//! The same record gives the same bytes, so the pictures can be checked in beside it.

mod bars;
mod ladder;
mod latency;
mod lines;
mod looks;
mod name;
mod palette;
mod record;
mod run;
mod sheet;
mod sweep;
mod throughput;

use std::error::Error;
use std::fs;
use std::path::Path;

/// What can go wrong between a record and its picture; every message names the file.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Reads what one picture needs and draws it; `None` if nothing is recorded for it.
type Picture = fn(&Path) -> Result<Option<String>>;

const PICTURES: [(&str, Picture); 4] = [
    ("throughput.svg", throughput::picture),
    ("latency.svg", latency::picture),
    ("bars.svg", bars::picture),
    ("sweep.svg", sweep::picture),
];

/// Draws every picture that the files in the folder `record` have something for, and says on stdout
/// which it drew, which it left out and which files it missed.
///
/// # Errors
/// A file that cannot be read or written, or a record that does not make sense: the message names
/// the file, and the line where there is one.
pub fn draw(record: &Path) -> Result<()> {
    for (name, picture) in PICTURES {
        let to = record.join(name);
        match picture(record)? {
            Some(svg) => {
                fs::write(&to, svg).map_err(|error| format!("{}: {error}", to.display()))?;
                println!("drew {}", to.display());
            }
            None => println!("left out {name}: nothing is recorded for it"),
        }
    }
    Ok(())
}
