//! What the slowest round trips take: percentiles of round trips timed one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Result;
use super::lines::{self, Axes, Names, Series};
use super::looks::{Rank, look_of};
use super::name::size;
use super::palette::PALETTE;
use super::record::{self, Percentiles};
use super::run;
use super::sheet::{BODY, Frame, Lettering, MARGIN};

const PANEL: i32 = 400;
const HEADING: i32 = 30;

/// Draws the contest `rtt` of `latency.csv`, a panel a message length.
pub fn picture(record: &Path) -> Result<Option<String>> {
    let mut rows: Vec<Percentiles> = record::read(&record.join("latency.csv"))?;
    // Names without a length are of the library's own bench, which has no rivals.
    rows.retain(|row| row.origin.contest == "rtt" && row.origin.name.length.is_some());
    run::latest(&mut rows);
    let regime = run::main_regime(&rows);
    let elsewhere = |row: &&Percentiles| row.origin.regime != regime;
    let left_out = rows
        .iter()
        .filter(elsewhere)
        .map(|row| row.origin.name.to_string());
    let left_out: Vec<String> = left_out.collect();
    rows.retain(|row| row.origin.regime == regime);
    let mut foot = vec![run::provenance(&rows)];
    for names in left_out.chunks(4) {
        foot.push(format!(
            "Left out, as the CPUs were at another distance meanwhile: {}",
            names.join("; ")
        ));
    }

    let floor = |row: &&Percentiles| look_of(&row.origin.name.what).rank == Rank::Floor;
    let contenders = rows.iter().filter(|row| !floor(row));
    let lengths: BTreeSet<u64> = contenders
        .filter_map(|row| row.origin.name.length)
        .collect();
    if lengths.is_empty() {
        return Ok(None);
    }
    let ticks: Vec<_> = (0..)
        .map(f64::from)
        .zip(Percentiles::NAMES.map(String::from))
        .collect();
    let axes = Axes {
        ticks: &ticks,
        height: time,
        names: Names::AsBegun,
    };
    let frame = Frame {
        title: "Round trip times: lower is better",
        lead: &[
            "There and back, every round trip timed by itself, the clock read included; beside the names the median. The height is logarithmic.",
            "Two processes on two CPUs; dashed: two threads of one process; dotted: the floor.",
        ],
        foot: &foot,
    };
    let drawn = frame.around(PANEL * lengths.len() as i32, |area, top| {
        for (panel, &length) in (0..).zip(&lengths) {
            // The floor's length does not matter, so it is in every panel.
            let here = |row: &&Percentiles| row.origin.name.length == Some(length) || floor(row);
            let top = top + PANEL * panel;
            let heading = size(length) + " each way";
            let lettering = Lettering::new(BODY, PALETTE.text).bold();
            lettering.write(area, (MARGIN, top + HEADING / 2), &heading)?;
            let at = (top + HEADING, PANEL - HEADING - 6);
            lines::chart(area, at, &axes, series(rows.iter().filter(here)))?;
        }
        Ok(())
    })?;
    Ok(Some(drawn))
}

/// One line a contender.
fn series<'a>(rows: impl Iterator<Item = &'a Percentiles>) -> Vec<Series> {
    let mut lines = BTreeMap::new();
    for row in rows {
        lines.entry(row.origin.name.what.as_str()).or_insert(row.ns);
    }
    let places = || (0..).map(f64::from);
    let series = lines.into_iter().map(|(what, ns)| Series {
        what: what.into(),
        note: ns[0].map_or_else(String::new, |median| format!(", {}", precise(median))),
        points: places()
            .zip(ns)
            .filter_map(|(place, ns)| Some((place, ns?)))
            .collect(),
    });
    series.collect()
}

/// Nanoseconds to three digits.
fn precise(ns: f64) -> String {
    match ns {
        ..999.5 => format!("{ns:.0} ns"),
        ..9_995.0 => format!("{:.2} µs", ns / 1e3),
        ..99_950.0 => format!("{:.1} µs", ns / 1e3),
        _ => time(ns),
    }
}

/// Round nanoseconds, as people write them.
fn time(ns: f64) -> String {
    match ns {
        ..999.0 => format!("{ns:.0} ns"),
        ..999e3 => format!("{:.0} µs", ns / 1e3),
        ..999e6 => format!("{:.0} ms", ns / 1e6),
        _ => format!("{:.0} s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_their_unit() {
        assert_eq!(
            [200.0, 1e3, 5e5, 1e7].map(time),
            ["200 ns", "1 µs", "500 µs", "10 ms"]
        );
        assert_eq!(
            [449.0, 2304.0, 15_630.0, 8.1e6].map(precise),
            ["449 ns", "2.30 µs", "15.6 µs", "8 ms"]
        );
    }
}
