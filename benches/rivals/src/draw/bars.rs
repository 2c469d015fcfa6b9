//! All bars in one picture: how far each is from its target.

use std::path::Path;

use super::Result;
use super::ladder::{self, Bar, Group};
use super::record::{self, Figure};
use super::run;
use super::sheet::Frame;

/// The benches that have bars, in the order drawn.
const BENCHES: [&str; 8] = [
    "rtt",
    "stream",
    "wake",
    "many",
    "transfer",
    "create",
    "memory",
    "rivals-stream",
];

/// Draws every line that has a target, of the latest run of each bench.
pub fn picture(record: &Path) -> Result<Option<String>> {
    let mut groups = Vec::new();
    let mut machines = Vec::new();
    for bench in BENCHES {
        let mut rows: Vec<Figure> = record::read(&record.join(format!("{bench}.csv")))?;
        rows.retain(|row| row.target.is_some());
        run::latest(&mut rows);
        if let Some(group) = group(bench, &rows) {
            groups.push(group);
            let machine = format!("{}, CPUs {}", rows[0].origin.cpu, rows[0].origin.cpus);
            if !machines.contains(&machine) {
                machines.push(machine);
            }
        }
    }
    if groups.is_empty() {
        return Ok(None);
    }
    let bars = || groups.iter().flat_map(|group| &group.bars);
    let missed = bars().filter(|bar| !bar.reached()).count();
    let title = match missed {
        0 => format!(
            "All {} targets are reached: shorter is better",
            bars().count()
        ),
        _ => format!(
            "{} of {} targets are reached: shorter is better",
            bars().count() - missed,
            bars().count()
        ),
    };
    let frame = Frame {
        title: &title,
        lead: &[
            "How far each ratio is from its target, to the same scale: at the line it is met, half as long is twice as good.",
            "Medians at the CPUs' most frequent distance; the thin line goes from quartile to quartile; a bar with a zigzag is missed.",
        ],
        foot: &machines,
    };
    Ok(Some(
        frame.around(ladder::height(&groups), |area, top| {
            ladder::plot(area, top, &groups)
        })?,
    ))
}

/// The bars of one bench: each in the regime most of its slices ran in.
fn group(bench: &str, rows: &[Figure]) -> Option<Group> {
    let mut bars: Vec<(_, Vec<&Figure>)> = Vec::new();
    for row in rows {
        let key = (&row.origin.contest, &row.origin.name, &row.against);
        match bars.iter_mut().find(|(bar, _)| *bar == key) {
            Some((_, rows)) => rows.push(row),
            None => bars.push((key, vec![row])),
        }
    }
    let main = run::main_regime(rows);
    let in_main: Vec<Figure> = rows
        .iter()
        .filter(|row| row.origin.regime == main)
        .cloned()
        .collect();
    let origin = &in_main.first()?.origin;
    let bar = |rows: &[&Figure]| {
        let regime = run::main_regime(rows.iter().copied());
        let row = rows.iter().find(|row| row.origin.regime == regime)?;
        self::bar(row, &main)
    };
    let mut heading = format!(
        "{bench}: {}, commit {}",
        run::day(&origin.date),
        origin.commit
    );
    if let Some(distance) = run::distance(&in_main) {
        heading += &format!(", CPUs {distance}");
    }
    Some(Group {
        heading,
        bars: bars.iter().filter_map(|(_, rows)| bar(rows)).collect(),
    })
}

/// One line as a bar; `None` if it lacks what a bar needs.
fn bar(row: &Figure, main_regime: &str) -> Option<Bar> {
    let regime = &row.origin.regime;
    let name = &row.origin.name;
    let mut against = row.against.clone();
    // Said once is enough.
    against.length = against.length.filter(|_| against.length != name.length);
    against.capacity = against
        .capacity
        .filter(|_| against.capacity != name.capacity);
    let mut label = match against.what.as_str() {
        "" => name.to_string(),
        _ => format!("{name} ÷ {against}"),
    };
    if regime != main_regime && regime != run::ANY {
        label += &format!(" ({regime})");
    }
    Some(Bar {
        label,
        measure: row.measure?,
        ratio: row.ratio?,
        // A figure taken once has no spread.
        quartiles: row.q1.zip(row.q3).filter(|(q1, q3)| q1 != q3),
        target: row.target?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::figures;
    use super::*;

    #[test]
    fn every_bar_is_there_once_in_its_main_regime() {
        let rows = figures(
            "d,c,x,0+1,a,far,300,one@48,1,time,line@48,1.2,1.1,1.3,1.35,40\n\
             d,c,x,0+1,a,near,100,one@48,1,time,line@48,1.9,1.8,2.0,1.35,4\n\
             d,c,x,0+1,b,near,100,two@1024/65536,1,rate,copy@8,0.3,0.2,0.4,0.25,9\n",
        );
        let group = group("rtt", &rows.unwrap()).unwrap();
        assert_eq!(
            group.heading,
            "rtt: d, commit c, CPUs far apart: line 300 ns"
        );
        let bars: Vec<_> = group
            .bars
            .iter()
            .map(|bar| (bar.label.as_str(), bar.ratio))
            .collect();
        let one = ("one, 48 B ÷ line", 1.2);
        let two = ("two, 1 KiB, ring 64 KiB ÷ copy, 8 B (near)", 0.3);
        assert_eq!(bars, [one, two]);
    }
}
