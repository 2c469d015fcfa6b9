//! How fast the stream is for every capacity of the ring and length of the payload: a map.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use plotters::style::RGBColor;

use super::Result;
use super::name::{size, three_digits};
use super::palette::{self, PALETTE};
use super::record::{self, Figure};
use super::run;
use super::sheet::{self, Area, BODY, Frame, Lettering, MARGIN, SMALL, WIDTH};

const CELL_HEIGHT: i32 = 28;
/// The lengths left of the cells, and the heading above, the capacities below them.
const LEFT: i32 = 120;
const HEADING: i32 = 30;
const BELOW: i32 = 48;

/// The rates of a regime by payload and capacity, in GB/s.
type Rates = BTreeMap<(u64, u64), f64>;

/// What all panels share, so that they can be compared.
struct Scale {
    lengths: BTreeSet<u64>,
    capacities: BTreeSet<u64>,
    slowest: f64,
    fastest: f64,
}

/// Draws the contest `sweep` of `stream.csv`, a panel a regime.
pub fn picture(record: &Path) -> Result<Option<String>> {
    let mut rows: Vec<Figure> = record::read(&record.join("stream.csv"))?;
    rows.retain(|row| row.origin.contest == "sweep" && row.origin.name.what == "copied");
    run::latest(&mut rows);

    let mut regimes = BTreeMap::<(usize, &str), (Vec<&Figure>, Rates)>::new();
    for row in &rows {
        let name = &row.origin.name;
        let rate = row.each_ns.zip(name.length);
        let rate = rate.map(|(each, length)| length as f64 / each);
        let rate = rate.filter(|rate| rate.is_finite() && *rate > 0.0);
        if let (Some(length), Some(capacity), Some(rate)) = (name.length, name.capacity, rate) {
            let regime = row.origin.regime.as_str();
            let key = (run::closeness(regime), regime);
            let (rows, rates) = regimes.entry(key).or_default();
            rows.push(row);
            rates.entry((length, capacity)).or_insert(rate);
        }
    }
    if regimes.is_empty() {
        return Ok(None);
    }
    let cells = || regimes.values().flat_map(|(_, rates)| rates);
    let scale = Scale {
        lengths: cells().map(|(place, _)| place.0).collect(),
        capacities: cells().map(|(place, _)| place.1).collect(),
        slowest: cells().map(|cell| *cell.1).fold(f64::MAX, f64::min),
        fastest: cells().map(|cell| *cell.1).fold(0.0, f64::max),
    };

    let panel = HEADING + scale.height() + BELOW;
    let frame = Frame {
        title: "Stream rate by ring capacity and payload: more is better",
        lead: &[
            "GB/s in one direction between two spinning processes, default mode (copied). Brighter is faster; colours are logarithmic.",
            "Outlined: the best capacity for a payload. A cell without a number: does not fit into the ring, or was not measured at this distance.",
        ],
        foot: &[run::machine(&rows)],
    };
    let drawn = frame.around(panel * regimes.len() as i32, |area, top| {
        for (at, (rows, rates)) in (0..).zip(regimes.values()) {
            let top = top + panel * at;
            let heading = Lettering::new(BODY, PALETTE.text).bold();
            let distance = run::distance(rows.iter().copied()).unwrap_or("anywhere".into());
            let at = (MARGIN, top + HEADING / 2);
            heading.write(area, at, &format!("CPUs {distance}"))?;
            scale.panel(area, top + HEADING, rates)?;
        }
        Ok(())
    })?;
    Ok(Some(drawn))
}

impl Scale {
    fn height(&self) -> i32 {
        CELL_HEIGHT * self.lengths.len() as i32
    }

    fn width(&self) -> i32 {
        let all = WIDTH as i32 - 2 * MARGIN - LEFT;
        (all / self.capacities.len() as i32).min(120)
    }

    /// Corners of the cell in this column and row; the shortest payload is at the bottom, as on an axis.
    fn cell(&self, top: i32, column: i32, row: i32) -> [(i32, i32); 2] {
        let x = MARGIN + LEFT + self.width() * column;
        let y = top + self.height() - CELL_HEIGHT * (row + 1);
        [(x, y), (x + self.width() - 2, y + CELL_HEIGHT - 2)]
    }

    fn shade(&self, rate: f64) -> RGBColor {
        let range = (self.fastest / self.slowest).ln();
        palette::heat(if range > 0.0 {
            (rate / self.slowest).ln() / range
        } else {
            1.0
        })
    }

    fn panel(&self, area: &Area, top: i32, rates: &Rates) -> Result<()> {
        for (row, &length) in (0..).zip(&self.lengths) {
            let mut best: Option<(f64, i32)> = None;
            for (column, &capacity) in (0..).zip(&self.capacities) {
                let corners = self.cell(top, column, row);
                let rate = rates.get(&(length, capacity));
                self.draw_cell(area, corners, rate.copied())?;
                if let Some(&rate) = rate.filter(|rate| best.is_none_or(|it| it.0 < **rate)) {
                    best = Some((rate, column));
                }
            }
            if let Some((rate, column)) = best {
                let [(left, top), (right, bottom)] = self.cell(top, column, row);
                let inside = [(left + 2, top + 2), (right - 2, bottom - 2)];
                let colour = palette::ink_on(self.shade(rate));
                sheet::outline(area, inside, colour, 2)?;
            }
        }
        self.axes(area, top)
    }

    fn draw_cell(&self, area: &Area, corners: [(i32, i32); 2], rate: Option<f64>) -> Result<()> {
        let Some(rate) = rate else {
            return sheet::outline(area, corners, PALETTE.grid.light, 1);
        };
        let [(left, top), (right, bottom)] = corners;
        let colour = self.shade(rate);
        sheet::fill(area, corners, colour)?;
        let number = Lettering::coloured(SMALL, palette::ink_on(colour)).centred();
        let middle = ((left + right) / 2, (top + bottom) / 2);
        number.write(area, middle, &three_digits(rate))
    }

    fn axes(&self, area: &Area, top: i32) -> Result<()> {
        let muted = Lettering::new(BODY, PALETTE.muted);
        let (left, bottom) = (MARGIN + LEFT - 10, top + self.height());
        for (row, &length) in (0..).zip(&self.lengths) {
            let [(_, upper), (_, lower)] = self.cell(top, 0, row);
            let name = muted.to_the_left();
            name.write(area, (left, (upper + lower) / 2), &size(length))?;
        }
        for (column, &capacity) in (0..).zip(&self.capacities) {
            let [(from, _), (to, _)] = self.cell(top, column, 0);
            let name = muted.centred();
            name.write(area, ((from + to) / 2, bottom + 12), &size(capacity))?;
        }
        let name = muted.to_the_left();
        name.write(area, (left, bottom + 12), "payload")?;
        let across = MARGIN + LEFT + self.width() * self.capacities.len() as i32 / 2;
        let name = muted.centred();
        name.write(area, (across, bottom + 32), "capacity of the ring")
    }
}
