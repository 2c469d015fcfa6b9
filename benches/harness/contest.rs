//! Slices in alternation, and what may be concluded from them.
//!
//! Which cache lines are near changes from minute to minute on a shared or virtual machine, so no
//! absolute figure is worth much. Every figure here is a ratio of a slice to the slices of its rival
//! right before and right after it, and belongs to the regime that the line floor showed around it.

use super::Options;
use super::pair::Pair;
use super::report::{Finding, Findings};

/// How far apart the two CPUs seem to be, told by the line floor's round trip.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Regime {
    /// Below 70 ns: two threads of one core.
    Siblings,
    /// 70 to 200 ns: neighbours on one chip.
    Near,
    /// Above 200 ns: different chiplets or sockets.
    Far,
}

impl Regime {
    const ALL: [Regime; 3] = [Regime::Siblings, Regime::Near, Regime::Far];

    /// The regime in which the line's round trip takes so many nanoseconds.
    pub fn of(line: f64) -> Self {
        match line {
            ..70.0 => Regime::Siblings,
            ..=200.0 => Regime::Near,
            _ => Regime::Far,
        }
    }

    /// As tables and the record call it.
    pub fn name(self) -> &'static str {
        ["siblings", "near", "far"][self as usize]
    }
}

/// What a row's ratio says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Our time ÷ theirs: small is good, the target is a ceiling.
    Time,
    /// Our rate ÷ theirs: large is good, the target is what must be reached.
    Rate,
}

/// One row of the report: a contender against another.
pub struct Row {
    /// Whose slices are looked at; a row with a target is a bar of this name.
    pub name: String,
    /// The contender whose slices are the other side of the ratio.
    pub against: String,
    /// What the ratio says.
    pub measure: Measure,
    /// The bar to clear among siblings, near and far.
    pub target: Option<[f64; 3]>,
    /// What the bar is called, if not as the contender.
    title: Option<&'static str>,
}

impl Row {
    /// The time of `name` ÷ that of `against`.
    pub fn time(name: impl Into<String>, against: impl Into<String>) -> Row {
        Row {
            name: name.into(),
            against: against.into(),
            measure: Measure::Time,
            target: None,
            title: None,
        }
    }

    /// Calls the bar so.
    pub fn called(self, title: &'static str) -> Row {
        Row {
            title: Some(title),
            ..self
        }
    }

    /// What the bar, and the row of the record, is called.
    pub fn title(&self) -> &str {
        self.title.unwrap_or(&self.name)
    }

    /// The rate of `name` ÷ that of `against`.
    pub fn rate(name: impl Into<String>, against: impl Into<String>) -> Row {
        Row {
            measure: Measure::Rate,
            ..Row::time(name, against)
        }
    }

    /// Makes it a bar.
    pub fn bar(self, target: f64) -> Row {
        self.bars([target; 3])
    }

    /// Makes it a bar that lies elsewhere among siblings, near and far.
    pub fn bars(self, targets: [f64; 3]) -> Row {
        Row {
            target: Some(targets),
            ..self
        }
    }
}

/// The contenders, and the journal of their slices in the order they were run.
pub struct Contest {
    name: &'static str,
    pairs: Vec<Pair>,
    journal: Vec<(String, f64)>,
    disturbed: usize,
}

impl Contest {
    /// Gathers contenders; one of them must be called `line`. The name is for the record.
    pub fn new(name: &'static str, pairs: Vec<Pair>) -> Self {
        assert!(pairs.iter().any(|pair| pair.name() == "line"));
        Contest {
            name,
            pairs,
            journal: Vec::new(),
            disturbed: 0,
        }
    }

    /// Goes through `cycle` again and again, and closes with its first two, so that everything has a
    /// rival before and after it.
    pub fn run<'a>(mut self, cycle: &[&str], rows: &'a [Row], options: &Options) -> Findings<'a> {
        for pair in &mut self.pairs {
            pair.calibrate(options.slice);
        }
        let rounds = cycle.iter().cycle().take(cycle.len() * options.rounds);
        for &name in rounds.chain(&cycle[..2]) {
            let pair = self.pairs.iter_mut().find(|pair| pair.name() == name);
            let slice = pair
                .expect("the cycle names contenders")
                .slice(options.slice);
            if slice.disturbed {
                self.disturbed += 1;
            } else {
                self.journal.push((name.into(), slice.each));
            }
        }
        self.pairs.drain(..).for_each(Pair::finish);
        self.conclude(rows)
    }

    fn conclude(self, rows: &[Row]) -> Findings<'_> {
        let journal = Journal(self.journal);
        let mut findings = Findings {
            contest: self.name,
            floors: Vec::new(),
            found: Vec::new(),
            slices: journal.0.len() + self.disturbed,
            disturbed: self.disturbed,
            unsteady: (0..journal.0.len())
                .filter(|&at| journal.regime(at).is_none())
                .count(),
        };
        for regime in Regime::ALL {
            let floors: Vec<f64> = journal.times_of("line", regime);
            if floors.is_empty() {
                continue;
            }
            findings.floors.push((regime, quartiles(floors)));
            for row in rows {
                let ratios = journal.ratios(row, regime);
                if !ratios.is_empty() {
                    findings.found.push(Finding {
                        row,
                        regime,
                        each: quartiles(journal.times_of(&row.name, regime))[1],
                        slices: ratios.len(),
                        ratio: quartiles(ratios),
                    });
                }
            }
        }
        findings
    }
}

struct Journal(Vec<(String, f64)>);

impl Journal {
    /// The slices of `name` next before and next after the one at `at`.
    fn around(&self, at: usize, name: &str) -> Option<(f64, f64)> {
        let is_it = |slice: &&(String, f64)| slice.0 == name;
        let before = self.0[..at].iter().rev().find(is_it);
        let after = self.0[at + 1..].iter().find(is_it);
        Some((before?.1, after?.1))
    }

    /// The regime of the slice at `at`, unless the floor before and after it disagree.
    fn regime(&self, at: usize) -> Option<Regime> {
        if self.0[at].0 == "line" {
            return Some(Regime::of(self.0[at].1));
        }
        let (before, after) = self.around(at, "line")?;
        let steady = before.max(after) < 1.5 * before.min(after);
        (steady && Regime::of(before) == Regime::of(after)).then_some(Regime::of(before))
    }

    /// Where the slices of `name` are that ran in this regime.
    fn places(&self, name: &str, regime: Regime) -> impl Iterator<Item = usize> {
        (0..self.0.len()).filter(move |&at| self.0[at].0 == name && self.regime(at) == Some(regime))
    }

    fn times_of(&self, name: &str, regime: Regime) -> Vec<f64> {
        self.places(name, regime).map(|at| self.0[at].1).collect()
    }

    fn ratios(&self, row: &Row, regime: Regime) -> Vec<f64> {
        let ratio = |at: usize| {
            let (before, after) = self.around(at, &row.against)?;
            let theirs = (before + after) / 2.0;
            Some(match row.measure {
                Measure::Time => self.0[at].1 / theirs,
                Measure::Rate => theirs / self.0[at].1,
            })
        };
        self.places(&row.name, regime).filter_map(ratio).collect()
    }
}

/// First quartile, median, third quartile of at least one value.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [0.25, 0.5, 0.75].map(|part| {
        let place = part * (values.len() - 1) as f64;
        let (low, high) = (
            values[place.floor() as usize],
            values[place.ceil() as usize],
        );
        low + (high - low) * place.fract()
    })
}
