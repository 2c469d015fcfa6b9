//! What a contest has shown, and how it is told: a table for each regime, a line for each bar, Markdown.

use super::Options;
use super::contest::{Measure, Regime, Row};
use super::record;

/// One row, in one regime.
pub struct Finding<'a> {
    /// What was asked.
    pub row: &'a Row,
    /// The CPUs' distance meanwhile.
    pub regime: Regime,
    /// Nanoseconds a unit, the median.
    pub each: f64,
    /// First quartile, median, third quartile of the ratios.
    pub ratio: [f64; 3],
    /// How many ratios there were.
    pub slices: usize,
}

/// All of a contest.
pub struct Findings<'a> {
    /// What the contest is called.
    pub contest: &'static str,
    /// The line floor in each regime that occurred: nanoseconds there and back, quartiles.
    pub floors: Vec<(Regime, [f64; 3])>,
    /// Regime by regime, in the order of the rows.
    pub found: Vec<Finding<'a>>,
    /// Slices in all.
    pub slices: usize,
    /// Slices left out because somebody else had a CPU.
    pub disturbed: usize,
    /// Slices left out because the floor changed.
    pub unsteady: usize,
}

impl Findings<'_> {
    /// Prints a table for each regime that occurred, adds the results to the record if that was asked for, and
    /// returns the lines of the bars, to be printed at the end.
    pub fn report(&self, options: &Options) -> Vec<String> {
        self.record(options);
        for (regime, [q1, median, q3]) in &self.floors {
            println!(
                "\n{}: line {median:.1} ns (quartiles {q1:.1}, {q3:.1})",
                regime.name()
            );
            println!(
                "  {:20}{:>11}{:>9}{:>8}{:>8}{:>8}{:>8}  ratio is",
                "", "ns each", "M/s", "ratio", "q1", "q3", "slices"
            );
            for found in self.found.iter().filter(|found| found.regime == *regime) {
                let [q1, ratio, q3] = found.ratio;
                println!(
                    "  {:20}{:>11.1}{:>9.2}{ratio:>8.2}{q1:>8.2}{q3:>8.2}{:>8}  {} {}",
                    found.row.name,
                    found.each,
                    1e3 / found.each,
                    found.slices,
                    match found.row.measure {
                        Measure::Time => "time ÷",
                        Measure::Rate => "rate ÷",
                    },
                    found.row.against,
                );
            }
        }
        println!(
            "\nof {} slices {} left out: somebody else had a CPU; {}: the floor changed around them",
            self.slices, self.disturbed, self.unsteady,
        );
        self.bars()
    }

    /// Adds the results to the record, if that was asked for.
    pub fn record(&self, options: &Options) {
        record::record(options, self);
    }

    /// The lines of the bars.
    pub fn bars(&self) -> Vec<String> {
        self.found.iter().filter_map(Finding::bar).collect()
    }
}

impl Finding<'_> {
    /// What is to be reached in this regime.
    pub fn target(&self) -> Option<f64> {
        self.row.target.map(|targets| targets[self.regime as usize])
    }

    fn bar(&self) -> Option<String> {
        let target = self.target()?;
        let [q1, ratio, q3] = self.ratio;
        let reached = match self.row.measure {
            Measure::Time => ratio <= target,
            Measure::Rate => ratio >= target,
        };
        let (name, regime) = (self.row.title(), self.regime.name());
        let verdict = if reached { "ok" } else { "short" };
        Some(format!(
            "bar {name}/{regime} {ratio:.2} {q1:.2} {q3:.2} target {target} {verdict}"
        ))
    }
}

/// The bar of a figure that is no ratio but a small amount, and is told once.
pub fn plain_bar(options: &Options, contest: &str, name: &str, amount: f64, most: f64) -> String {
    record::record_amount(options, contest, name, amount, most);
    let verdict = if amount <= most { "ok" } else { "short" };
    format!("bar {name} {amount:.2} {amount:.2} {amount:.2} target {most} {verdict}")
}
