//! A chart of lines over a logarithmic height, with the names right of it.

use plotters::prelude::*;

use super::Result;
use super::looks::{Rank, look_of};
use super::palette::PALETTE;
use super::sheet::{self, Area, BODY, Lettering, MARGIN, WIDTH};

/// Between the middles of two names.
const NAME_HEIGHT: f64 = 20.0;
/// The numbers left of the chart and the ticks' names below it.
const LEFT: i32 = 64;
const BELOW: i32 = 30;
/// From the end of the lines to the sample before a name, and how long that is.
const LEADER: i32 = 26;
const SAMPLE: i32 = 26;

/// One contender.
pub struct Series {
    /// Its name in the record.
    pub what: String,
    /// What to add to the name.
    pub note: String,
    /// By ascending x.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    fn label(&self) -> String {
        format!("{}{}{}", self.what, look_of(&self.what).note, self.note)
    }
}

/// The axes.
pub struct Axes<'a> {
    /// Where on the x axis there is a name, and which.
    pub ticks: &'a [(f64, String)],
    /// How a value of the y axis is written.
    pub height: fn(f64) -> String,
    pub names: Names,
}

/// Where the names stand, right of the chart.
#[derive(Clone, Copy)]
pub enum Names {
    /// In the order, and about at the height, in which the lines begin: where they all end together.
    AsBegun,
    /// Beside the ends of the lines.
    AsEnded,
}

/// Draws the lines into the `height` pixels from `top`, as wide as the sheet is.
pub fn chart(
    area: &Area,
    (top, height): (i32, i32),
    axes: &Axes,
    mut series: Vec<Series>,
) -> Result<()> {
    for series in &mut series {
        // A logarithm is taken of each.
        series
            .points
            .retain(|point| point.1.is_finite() && point.1 > 0.0);
    }
    series.retain(|series| !series.points.is_empty());
    // The important ones are drawn last, over the others.
    series.sort_by_key(|series| look_of(&series.what).rank);
    let points = || series.iter().flat_map(|series| &series.points);
    let places = points().map(|point| point.0);
    let places = places.chain(axes.ticks.iter().map(|tick| tick.0));
    let (Some((first, last)), Some((least, most))) =
        (extremes(places), extremes(points().map(|point| point.1)))
    else {
        return Ok(());
    };
    // An axis without extent has no places on it.
    let (first, last) = if first < last {
        (first, last)
    } else {
        (first - 1.0, last + 1.0)
    };
    let low = floor_125(least);
    let high = ceil_125(most).max(2.0 * low);

    let names = series.iter().map(|series| {
        let bold = look_of(&series.what).rank == Rank::Ours;
        lettering(bold).width(&series.label())
    });
    let right = LEADER + SAMPLE + 8 + names.max().unwrap_or(0);
    let width = WIDTH as i32 - 2 * MARGIN - LEFT - right;
    let frame = area.clone().shrink(
        (MARGIN + LEFT, top),
        (width as u32, (height - BELOW) as u32),
    );
    let mut chart =
        ChartBuilder::on(&frame).build_cartesian_2d(first..last, (low..high).log_scale())?;

    for value in values_125(low, high) {
        let decade = is_decade(value);
        let (left, y) = chart.backend_coord(&(first, value));
        let (end, _) = chart.backend_coord(&(last, value));
        if decade || high / low < 1e3 {
            let number = Lettering::new(BODY, PALETTE.muted).to_the_left();
            number.write(area, (left - 8, y), &(axes.height)(value))?;
        }
        let weight = if decade { 2 } else { 1 };
        sheet::stroke(area, &[(left, y), (end, y)], PALETTE.grid, weight)?;
    }
    for (place, name) in axes.ticks {
        let (x, bottom) = chart.backend_coord(&(*place, low));
        let (_, top) = chart.backend_coord(&(*place, high));
        sheet::stroke(area, &[(x, top), (x, bottom + 4)], PALETTE.grid, 1)?;
        let below = Lettering::new(BODY, PALETTE.muted).centred();
        below.write(area, (x, bottom + 16), name)?;
    }

    for series in &series {
        let look = look_of(&series.what);
        let line = look.ink.light.stroke_width(thickness(look.rank));
        chart.draw_series(LineSeries::new(series.points.iter().copied(), line))?;
    }
    for series in &series {
        for point in &series.points {
            sheet::mark(area, chart.backend_coord(point), &look_of(&series.what))?;
        }
    }

    // The names, from the highest line to the lowest.
    let place = |series: &Series| *match axes.names {
        Names::AsBegun => &series.points[0],
        Names::AsEnded => &series.points[series.points.len() - 1],
    };
    series.sort_by(|a, b| {
        let higher = place(b).1.total_cmp(&place(a).1);
        higher.then(a.what.cmp(&b.what))
    });
    let places = series.iter().map(|it| chart.backend_coord(&place(it)));
    let places: Vec<(i32, i32)> = places.collect();
    let wanted: Vec<f64> = places.iter().map(|place| f64::from(place.1)).collect();
    let limits = (f64::from(top), f64::from(top + height - BELOW));
    let edge = chart.backend_coord(&(last, low)).0;
    for ((series, at), y) in series.iter().zip(places).zip(spread(&wanted, limits)) {
        let look = look_of(&series.what);
        let y = y.round() as i32;
        let sample = edge + LEADER;
        if at.0 == edge {
            let leader = [(edge + 7, at.1), (sample - 3, y)];
            sheet::stroke(area, &leader, PALETTE.muted, 1)?;
        }
        let from_to = [(sample, y), (sample + SAMPLE, y)];
        sheet::stroke(area, &from_to, look.ink, thickness(look.rank))?;
        sheet::mark(area, (sample + SAMPLE / 2, y), &look)?;
        let name = lettering(look.rank == Rank::Ours);
        name.write(area, (sample + SAMPLE + 8, y), &series.label())?;
    }
    Ok(())
}

fn lettering(ours: bool) -> Lettering {
    let plain = Lettering::new(BODY, PALETTE.text);
    if ours { plain.bold() } else { plain }
}

fn thickness(rank: Rank) -> u32 {
    if rank == Rank::Ours { 4 } else { 2 }
}

fn extremes(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |so_far, value| {
        let (least, most) = so_far.unwrap_or((value, value));
        Some((least.min(value), most.max(value)))
    })
}

/// 1, 2 and 5 times every power of ten, from the last not above `low` to the first not below `high`.
fn values_125(low: f64, high: f64) -> Vec<f64> {
    let exponents = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let values = exponents.flat_map(|exponent| [1.0, 2.0, 5.0].map(|it| it * 10f64.powi(exponent)));
    // A little room for what rounding does to powers of ten.
    let within = |value: &f64| *value > low * 0.999 && *value < high * 1.001;
    values.filter(within).collect()
}

fn floor_125(value: f64) -> f64 {
    *values_125(value / 10.0, value).last().unwrap_or(&value)
}

fn ceil_125(value: f64) -> f64 {
    *values_125(value, value * 10.0).first().unwrap_or(&value)
}

fn is_decade(value: f64) -> bool {
    (value.log10() - value.log10().round()).abs() < 1e-6
}

/// As near as possible to the wanted heights (ascending), but apart from each other and within limits.
///
/// Without the limits this is a regression: what would overlap forms a block around its mean.
fn spread(wanted: &[f64], (top, bottom): (f64, f64)) -> Vec<f64> {
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for (at, wanted) in wanted.iter().enumerate() {
        let mut block = (wanted - at as f64 * NAME_HEIGHT, 1);
        while let Some(&(mean, count)) = blocks.last().filter(|last| last.0 > block.0) {
            let both = count + block.1;
            block.0 = (mean * count as f64 + block.0 * block.1 as f64) / both as f64;
            block.1 = both;
            blocks.pop();
        }
        blocks.push(block);
    }
    let lowest = bottom - wanted.len().saturating_sub(1) as f64 * NAME_HEIGHT;
    let means = blocks
        .into_iter()
        .flat_map(|(mean, count)| (0..count).map(move |_| mean.min(lowest).max(top)));
    means
        .enumerate()
        .map(|(at, mean)| mean + at as f64 * NAME_HEIGHT)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_apart_and_stay_near() {
        let limits = (0.0, 400.0);
        assert_eq!(spread(&[10.0, 100.0], limits), [10.0, 100.0]);
        assert_eq!(spread(&[50.0, 50.0], limits), [40.0, 60.0]);
        assert_eq!(spread(&[50.0, 50.0, 77.0], limits), [39.0, 59.0, 79.0]);
        assert_eq!(spread(&[0.0, 0.0], limits), [0.0, 20.0]);
        assert_eq!(spread(&[395.0, 400.0], limits), [380.0, 400.0]);
        assert_eq!(spread(&[], limits), [0.0; 0]);
    }

    #[test]
    fn the_axis_ends_at_round_values() {
        assert_eq!((floor_125(0.0078), ceil_125(0.0078)), (0.005, 0.01));
        assert_eq!((floor_125(290.0), ceil_125(8.1e6)), (200.0, 1e7));
        assert_eq!(values_125(5.0, 100.0), [5.0, 10.0, 20.0, 50.0, 100.0]);
        assert!(is_decade(1000.0) && is_decade(0.01) && !is_decade(20.0));
    }
}
