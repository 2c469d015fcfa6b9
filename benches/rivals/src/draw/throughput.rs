//! How many bytes a second, over the size of the message.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Result;
use super::lines::{self, Axes, Names, Series};
use super::name::size;
use super::record::{self, Figure};
use super::run;
use super::sheet::Frame;

const HEIGHT: i32 = 480;

/// Draws the contest `sizes` of `rivals-sizes.csv`.
pub fn picture(record: &Path) -> Result<Option<String>> {
    let mut rows: Vec<Figure> = record::read(&record.join("rivals-sizes.csv"))?;
    rows.retain(|row| row.origin.contest == "sizes" && row.origin.name.what != "line");
    run::latest(&mut rows);
    let regime = run::main_regime(&rows);
    rows.retain(|row| row.origin.regime == regime);

    let mut lines = BTreeMap::<&str, BTreeMap<u64, f64>>::new();
    for row in &rows {
        if let (Some(length), Some(each)) = (row.origin.name.length, row.each_ns) {
            // A contender has a line a rival, but one time a message.
            let line = lines.entry(&row.origin.name.what).or_default();
            line.entry(length).or_insert(length as f64 / each);
        }
    }
    let lengths: BTreeSet<u64> = lines
        .values()
        .flat_map(|line| line.keys().copied())
        .collect();
    let Some(&longest) = lengths.last() else {
        return Ok(None);
    };
    let series = lines.into_iter().map(|(what, line)| Series {
        what: what.into(),
        note: match line.last_key_value() {
            Some((&end, _)) if end < longest => format!(", up to {}", size(end)),
            _ => String::new(),
        },
        points: line
            .into_iter()
            .map(|(length, rate)| (octave(length), rate))
            .collect(),
    });
    let series: Vec<Series> = series.collect();
    let ticks: Vec<_> = apart(&lengths)
        .into_iter()
        .map(|length| (octave(length), size(length)))
        .collect();

    let frame = Frame {
        title: "Throughput by message size: higher is better",
        lead: &[
            "Bytes a second in one direction, all of them written by the producer and read by the consumer.",
            "Two processes on two CPUs; dashed: two threads of one process; dotted: the floor. Both axes are logarithmic.",
        ],
        foot: &[run::provenance(&rows)],
    };
    let axes = Axes {
        ticks: &ticks,
        height: rate,
        names: Names::AsEnded,
    };
    let drawn = frame.around(HEIGHT, |area, top| {
        lines::chart(area, (top + 8, HEIGHT - 8), &axes, series)
    })?;
    Ok(Some(drawn))
}

fn octave(length: u64) -> f64 {
    (length.max(1) as f64).log2()
}

/// Of these lengths those that have room for their names: three octaves each, and the last always.
fn apart(lengths: &BTreeSet<u64>) -> Vec<u64> {
    let mut kept: Vec<u64> = Vec::new();
    let far = |a: u64, b: u64| octave(b) - octave(a) >= 3.0;
    let Some(&longest) = lengths.last() else {
        return kept;
    };
    for &length in lengths {
        let clear = kept.last().is_none_or(|&last| far(last, length));
        if length == longest || (clear && far(length, longest)) {
            kept.push(length);
        }
    }
    kept
}

/// Bytes a nanosecond, as people write them.
fn rate(gigabytes: f64) -> String {
    match gigabytes {
        ..0.000_999 => format!("{:.0} kB/s", gigabytes * 1e6),
        ..0.999 => format!("{:.0} MB/s", gigabytes * 1e3),
        _ => format!("{gigabytes:.0} GB/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_without_room_have_no_tick() {
        let all: BTreeSet<u64> = (3..=24).map(|exponent| 1 << exponent).collect();
        let kept: Vec<u32> = apart(&all).into_iter().map(u64::ilog2).collect();
        assert_eq!(kept, [3, 6, 9, 12, 15, 18, 21, 24]);
        assert_eq!(apart(&BTreeSet::from([8, 64, 1024])), [8, 64, 1024]);
        assert_eq!(apart(&BTreeSet::from([8])), [8]);
    }

    #[test]
    fn rates_have_their_unit() {
        assert_eq!(
            [0.01, 0.1, 1.0, 50.0].map(rate),
            ["10 MB/s", "100 MB/s", "1 GB/s", "50 GB/s"]
        );
    }
}
