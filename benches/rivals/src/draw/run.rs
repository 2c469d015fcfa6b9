//! Which lines of the record a picture shows: those of the latest run, in the regime most of it ran in.

use std::collections::BTreeMap;

use super::record::Recorded;

/// The regime of figures for which the CPUs' distance does not matter.
pub const ANY: &str = "any";

/// Keeps the lines of the latest run among these.
pub fn latest<T: Recorded>(rows: &mut Vec<T>) {
    let last = rows.iter().map(|row| row.origin().date.clone()).max();
    rows.retain(|row| Some(&row.origin().date) == last.as_ref());
}

/// The regime that most of these lines' slices ran in; of equals the closest one.
pub fn main_regime<'a, T: Recorded + 'a>(rows: impl IntoIterator<Item = &'a T>) -> String {
    let mut weights = BTreeMap::<_, u64>::new();
    for row in rows {
        let regime = row.origin().regime.as_str();
        *weights.entry((closeness(regime), regime)).or_default() += row.weight();
    }
    let heaviest = weights.into_iter().rev().max_by_key(|&(_, weight)| weight);
    heaviest.map_or_else(String::new, |((_, regime), _)| regime.to_string())
}

/// The order of regimes.
pub fn closeness(regime: &str) -> usize {
    let known = ["siblings", "near", "far"];
    known
        .iter()
        .position(|&it| it == regime)
        .unwrap_or(known.len())
}

/// Where these lines come from: when, what of, on which machine, how far apart its CPUs were.
pub fn provenance<T: Recorded>(rows: &[T]) -> String {
    let distance = distance(rows).unwrap_or_default();
    format!("{} {distance}", machine(rows)).trim_end().into()
}

/// The same without the distance, for lines of several regimes.
pub fn machine<T: Recorded>(rows: &[T]) -> String {
    rows.first().map_or_else(String::new, |row| {
        let origin = row.origin();
        let (day, commit) = (day(&origin.date), &origin.commit);
        format!(
            "{day}, commit {commit}, {}, CPUs {}",
            origin.cpu, origin.cpus
        )
    })
}

/// How far apart the CPUs were: `far apart: line 290 ns`, the floor being the median over these lines.
/// `None` if these are figures for which it does not matter.
pub fn distance<'a, T: Recorded + 'a>(
    rows: impl IntoIterator<Item = &'a T> + Clone,
) -> Option<String> {
    let words = match main_regime(rows.clone()).as_str() {
        "siblings" => "siblings of one core".to_string(),
        "near" => "near each other".to_string(),
        "far" => "far apart".to_string(),
        "" | ANY => return None,
        other => other.to_string(),
    };
    let floors = rows.into_iter().filter_map(|row| row.origin().floor_ns);
    let mut floors: Vec<f64> = floors.collect();
    floors.sort_by(f64::total_cmp);
    Some(match floors.get(floors.len() / 2) {
        Some(floor) => format!("{words}: line {floor:.0} ns"),
        None => words,
    })
}

/// The day of a run.
pub fn day(date: &str) -> &str {
    date.split('T').next().unwrap_or(date)
}

#[cfg(test)]
mod tests {
    use super::super::record::{Figure, tests::figures};
    use super::*;

    #[test]
    fn the_latest_run_and_its_main_regime_count() {
        let mut rows = figures(
            "2026-11-23T08:00:00Z,b,x,0+1,small,near,100,n,1,time,line,1,1,1,1,10\n\
             2026-11-23T08:00:00Z,b,x,0+1,small,far,300,n,1,time,line,1,1,1,1,30\n\
             2026-11-23T08:00:00Z,b,x,0+1,small,near,100,m,1,time,line,1,1,1,1,15\n\
             2026-11-22T14:05:00Z,a,x,0+1,small,siblings,40,n,1,time,line,1,1,1,1,90\n",
        )
        .unwrap();
        latest(&mut rows);
        assert!(rows.len() == 3 && rows.iter().all(|row| row.origin.commit == "b"));
        assert_eq!(main_regime(&rows), "far");
        assert_eq!(main_regime(&rows[..1]), "near");
        rows[1].slices = 25;
        assert_eq!(main_regime(&rows), "near", "the closest of equals");
        assert_eq!(main_regime::<Figure>([]), "");
    }

    #[test]
    fn it_is_said_where_figures_come_from() {
        let rows = figures(
            "2026-11-23T08:00:00Z,b,x,0+1,small,far,300,n,1,time,line,1,1,1,1,30\n\
             2026-11-23T08:00:00Z,b,x,0+1,small,far,310,n,1,time,line,1,1,1,1,30\n\
             2026-11-23T08:00:00Z,b,x,0+1,small,far,290,n,1,time,line,1,1,1,1,30\n\
             2026-11-23T08:00:00Z,b,x,0+1,idle,any,,n,,time,,1,1,1,1,1\n",
        )
        .unwrap();
        let told = "2026-11-23, commit b, x, CPUs 0+1 far apart: line 300 ns";
        assert_eq!(provenance(&rows[..3]), told);
        assert_eq!(provenance(&rows[3..]), "2026-11-23, commit b, x, CPUs 0+1");
    }
}
