//! The record: one line of CSV is one figure, and a file keeps the lines of many runs.
//!
//! All files begin with the same eight columns (where and when a figure was taken, and of what);
//! the others are read by name, so a file may gain columns without anything here changing.

use std::fs::File;
use std::io;
use std::path::Path;
use std::str::FromStr;

use csv::{Reader, StringRecord};

use super::Result;
use super::name::Name;

/// Where and when a line was recorded, and what of.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The run, as `2026-11-22T14:05:00Z`: sorts as text.
    pub date: String,
    /// Short hash.
    pub commit: String,
    /// The model's name.
    pub cpu: String,
    /// The two that were used, as `0+1`.
    pub cpus: String,
    /// The part of a bench this belongs to.
    pub contest: String,
    /// `siblings`, `near` or `far`.
    pub regime: String,
    /// Median round trip of the bare cache line.
    pub floor_ns: Option<f64>,
    /// The contender.
    pub name: Name,
}

/// What a ratio says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Ours ÷ theirs: small is good, the target is a ceiling.
    Time,
    /// Ours ÷ theirs: large is good, the target is what must be reached.
    Rate,
}

impl FromStr for Measure {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        match text {
            "time" => Ok(Measure::Time),
            "rate" => Ok(Measure::Rate),
            _ => Err(()),
        }
    }
}

/// A line of a bench's file: a contender, and its ratio to another. Fields that do not apply are empty.
#[derive(Clone, Debug)]
pub struct Figure {
    pub origin: Origin,
    pub each_ns: Option<f64>,
    pub measure: Option<Measure>,
    pub against: Name,
    pub ratio: Option<f64>,
    pub q1: Option<f64>,
    pub q3: Option<f64>,
    pub target: Option<f64>,
    pub slices: u64,
}

/// A line of `latency.csv`: round trips timed one by one.
#[derive(Clone, Debug)]
pub struct Percentiles {
    pub origin: Origin,
    /// At [`Percentiles::NAMES`].
    pub ns: [Option<f64>; 5],
    pub count: u64,
}

impl Percentiles {
    pub const NAMES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];
}

/// What all lines have.
pub trait Recorded: Sized {
    fn parse(line: &Line) -> Result<Self>;
    fn origin(&self) -> &Origin;
    /// How much it rests on.
    fn weight(&self) -> u64;
}

impl Recorded for Figure {
    fn parse(line: &Line) -> Result<Self> {
        Ok(Figure {
            origin: line.origin()?,
            each_ns: line.value("each_ns")?,
            measure: line.value("measure")?,
            against: Name::parse(line.text("against")?),
            ratio: line.value("ratio")?,
            q1: line.value("q1")?,
            q3: line.value("q3")?,
            target: line.value("target")?,
            slices: line.value("slices")?.unwrap_or(0),
        })
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn weight(&self) -> u64 {
        self.slices
    }
}

impl Recorded for Percentiles {
    fn parse(line: &Line) -> Result<Self> {
        let [p50, p90, p99, p999, max] =
            ["p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"].map(|column| line.value(column));
        Ok(Percentiles {
            origin: line.origin()?,
            ns: [p50?, p90?, p99?, p999?, max?],
            count: line.value("count")?.unwrap_or(0),
        })
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn weight(&self) -> u64 {
        self.count
    }
}

/// All lines of a file; none, said on stdout, if it is not there.
pub fn read<T: Recorded>(path: &Path) -> Result<Vec<T>> {
    match File::open(path) {
        Ok(file) => parse(&path.display().to_string(), file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("skipped {}: not there", path.display());
            Ok(Vec::new())
        }
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

fn parse<T: Recorded>(file: &str, text: impl io::Read) -> Result<Vec<T>> {
    let mut reader = Reader::from_reader(text);
    let in_file = |error| format!("{file}: {error}");
    let header = reader.headers().map_err(in_file)?.clone();
    let mut rows = Vec::new();
    for fields in reader.records() {
        let fields = fields.map_err(in_file)?;
        let line = Line {
            file,
            header: &header,
            fields: &fields,
        };
        rows.push(T::parse(&line)?);
    }
    Ok(rows)
}

/// One line of a file, its fields found by their column's name.
pub struct Line<'a> {
    file: &'a str,
    header: &'a StringRecord,
    fields: &'a StringRecord,
}

impl Line<'_> {
    fn text(&self, column: &str) -> Result<&str> {
        let at = self.header.iter().position(|name| name == column);
        at.and_then(|at| self.fields.get(at))
            .ok_or_else(|| format!("{}:1: no column {column}", self.file).into())
    }

    /// The value of a field; `None` if it is empty.
    fn value<V: FromStr>(&self, column: &str) -> Result<Option<V>> {
        let text = self.text(column)?;
        if text.is_empty() {
            return Ok(None);
        }
        let line = self.fields.position().map_or(0, |position| position.line());
        let wrong = |_| format!("{}:{line}: {column} cannot be {text:?}", self.file);
        Ok(Some(text.parse().map_err(wrong)?))
    }

    fn origin(&self) -> Result<Origin> {
        let text = |column| self.text(column).map(str::to_string);
        Ok(Origin {
            date: text("date")?,
            commit: text("commit")?,
            cpu: text("cpu")?,
            cpus: text("cpus")?,
            contest: text("contest")?,
            regime: text("regime")?,
            floor_ns: self.value("floor_ns")?,
            name: Name::parse(self.text("name")?),
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const HEADER: &str = "date,commit,cpu,cpus,contest,regime,floor_ns,name,each_ns,measure,against,ratio,q1,q3,target,slices\n";

    pub fn figures(lines: &str) -> Result<Vec<Figure>> {
        parse("some.csv", format!("{HEADER}{lines}").as_bytes())
    }

    #[test]
    fn a_line_is_read_by_its_columns() {
        let rows = figures(
            "2026-11-22T14:05:00Z,abc,\"Some CPU, 2 GHz\",0+1,small,far,290.5,rtt@48,350,time,line,1.2,1.1,1.3,1.35,40\n\
             2026-11-22T14:05:00Z,abc,x,0+1,small,far,,idle,,,,,,,,\n",
        )
        .unwrap();
        assert_eq!(rows[0].origin.cpu, "Some CPU, 2 GHz");
        assert_eq!(rows[0].origin.name.length, Some(48));
        assert_eq!(rows[0].origin.floor_ns, Some(290.5));
        assert_eq!(rows[0].measure, Some(Measure::Time));
        assert_eq!((rows[0].target, rows[0].slices), (Some(1.35), 40));
        assert_eq!((rows[1].ratio, rows[1].slices), (None, 0));
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_line() {
        let good = "d,c,x,0+1,small,far,1,n,1,time,line,1,1,1,1,4\n";
        let bad = "d,c,x,0+1,small,far,1,n,soon,time,line,1,1,1,1,4\n";
        let wrong = figures(&format!("{good}{bad}")).unwrap_err();
        assert_eq!(wrong.to_string(), "some.csv:3: each_ns cannot be \"soon\"");
        let short = figures("d,c\n").unwrap_err().to_string();
        assert!(
            short.contains("some.csv") && short.contains("line: 2"),
            "{short}"
        );
        let column = parse::<Figure>("some.csv", "date\nd\n".as_bytes()).unwrap_err();
        assert_eq!(column.to_string(), "some.csv:1: no column commit");
    }
}
