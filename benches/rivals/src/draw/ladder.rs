//! Horizontal bars one below the other, on a scale where 1 is the target and less is better.

use super::Result;
use super::name::three_digits;
use super::palette::PALETTE;
use super::record::Measure;
use super::sheet::{self, Area, BODY, Lettering, MARGIN, WIDTH};

const ROW: i32 = 28;
const HEADING: i32 = 40;
const THICKNESS: i32 = 16;
/// The steps of the line in a bar that is missed.
const ZIGZAG: i32 = 6;
/// The numbers right of the bars.
const NUMBERS: i32 = 270;
/// The names left of the bars, at most.
const LABELS: i32 = 420;
/// The names of the scale below.
const BELOW: i32 = 34;
/// A bar more than so many times off its target is cut here.
const END: f64 = 3.0;

/// One bar, drawn to the scale where 1 is the target and less is better.
pub struct Bar {
    pub label: String,
    pub measure: Measure,
    pub ratio: f64,
    pub quartiles: Option<(f64, f64)>,
    pub target: f64,
}

impl Bar {
    /// Where a ratio is on the scale.
    fn scaled(&self, ratio: f64) -> f64 {
        let (part, whole) = match self.measure {
            Measure::Time => (ratio, self.target),
            Measure::Rate => (self.target, ratio),
        };
        // Nothing of nothing: a target of zero that is met.
        if part == 0.0 { 0.0 } else { part / whole }
    }

    /// Whether it is at its target or better.
    pub fn reached(&self) -> bool {
        match self.measure {
            Measure::Time => self.ratio <= self.target,
            Measure::Rate => self.ratio >= self.target,
        }
    }
}

/// Bars under a heading.
pub struct Group {
    pub heading: String,
    pub bars: Vec<Bar>,
}

/// The scale: where it begins and ends on the sheet, and its value at the end.
struct Scale {
    left: i32,
    right: i32,
    end: f64,
}

impl Scale {
    fn of<'a>(bars: impl Iterator<Item = &'a Bar>) -> Self {
        let (mut labels, mut end) = (0, 1.2_f64);
        for bar in bars {
            labels = labels.max(Lettering::new(BODY, PALETTE.text).width(&bar.label));
            let (q1, q3) = bar.quartiles.unwrap_or((bar.ratio, bar.ratio));
            for ratio in [bar.ratio, q1, q3] {
                end = end.max(bar.scaled(ratio));
            }
        }
        Scale {
            left: MARGIN + labels.min(LABELS) + 10,
            right: WIDTH as i32 - MARGIN - NUMBERS,
            end: ((end * 4.0).ceil() / 4.0).min(END),
        }
    }

    fn x(&self, part: f64) -> i32 {
        let width = f64::from(self.right - self.left);
        self.left + (width * part.min(self.end) / self.end).round() as i32
    }
}

/// The pixels that [`plot`] takes.
pub fn height(groups: &[Group]) -> i32 {
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    HEADING * groups.len() as i32 + ROW * bars as i32 + BELOW
}

/// Draws the groups one below the other, all to the same scale.
pub fn plot(area: &Area, top: i32, groups: &[Group]) -> Result<()> {
    let scale = Scale::of(groups.iter().flat_map(|group| &group.bars));
    let body = Lettering::new(BODY, PALETTE.text);
    let muted = Lettering::new(BODY, PALETTE.muted);
    let numbers_at = scale.right + 16;
    for (dx, name) in [(0, "ratio"), (50, "quartiles"), (138, "target")] {
        muted.write(area, (numbers_at + dx, top + HEADING - 14), name)?;
    }
    let mut y = top;
    for group in groups {
        y += HEADING;
        body.bold().write(area, (MARGIN, y - 14), &group.heading)?;
        let bottom = y + ROW * group.bars.len() as i32;
        for quarter in 0..=(scale.end * 4.0) as i32 {
            let x = scale.x(f64::from(quarter) / 4.0);
            sheet::stroke(area, &[(x, y), (x, bottom)], PALETTE.grid, 1)?;
        }
        for (row, bar) in (0..).zip(&group.bars) {
            let middle = y + ROW * row + ROW / 2;
            let label = body.to_the_left();
            label.write(area, (scale.left - 10, middle), &bar.label)?;
            draw_bar(area, middle, bar, &scale)?;
            numbers(area, (numbers_at, middle), bar)?;
        }
        // Over the bars: each is seen to end before or behind it.
        let x = scale.x(1.0);
        sheet::stroke(area, &[(x, y - 2), (x, bottom + 2)], PALETTE.text, 2)?;
        y = bottom;
    }
    for half in 0..=(scale.end * 2.0) as i32 {
        let part = f64::from(half) / 2.0;
        let (name, lettering) = match half {
            2 => ("target".into(), body.bold()),
            _ => (part.to_string(), muted),
        };
        let at = (scale.x(part), y + 16);
        lettering.centred().write(area, at, &name)?;
    }
    Ok(())
}

fn draw_bar(area: &Area, middle: i32, bar: &Bar, scale: &Scale) -> Result<()> {
    let (upper, lower) = (middle - THICKNESS / 2, middle + THICKNESS / 2);
    let length = bar.scaled(bar.ratio);
    let (from, to) = (scale.x(0.0), scale.x(length));
    if bar.reached() {
        sheet::fill(area, [(from, upper), (to, lower)], PALETTE.reached.light)?;
    } else {
        sheet::outline(area, [(from, upper), (to, lower)], PALETTE.missed.light, 2)?;
        let steps = (0..=(to - from) / ZIGZAG).zip([lower, upper].into_iter().cycle());
        let zigzag: Vec<_> = steps.map(|(step, y)| (from + ZIGZAG * step, y)).collect();
        sheet::stroke(area, &zigzag, PALETTE.missed, 2)?;
    }
    if length > scale.end {
        let tip = (to + 12, middle);
        sheet::stroke(
            area,
            &[(to + 4, upper), tip, (to + 4, lower)],
            PALETTE.missed,
            2,
        )?;
    }
    let Some((q1, q3)) = bar.quartiles else {
        return Ok(());
    };
    if bar.scaled(q1).min(bar.scaled(q3)) >= scale.end {
        return Ok(());
    }
    let (a, b) = (scale.x(bar.scaled(q1)), scale.x(bar.scaled(q3)));
    let (up, down) = (middle - 5, middle + 5);
    let whisker = [
        (a, up),
        (a, down),
        (a, middle),
        (b, middle),
        (b, up),
        (b, down),
    ];
    // An edge in the page's colour makes it stand out from the bar.
    sheet::stroke(area, &whisker, PALETTE.background, 5)?;
    sheet::stroke(area, &whisker, PALETTE.text, 2)
}

fn numbers(area: &Area, (x, y): (i32, i32), bar: &Bar) -> Result<()> {
    let body = Lettering::new(BODY, PALETTE.text);
    let sign = match bar.measure {
        Measure::Time => '≤',
        Measure::Rate => '≥',
    };
    body.bold()
        .to_the_left()
        .write(area, (x + 40, y), &three_digits(bar.ratio))?;
    if let Some((q1, q3)) = bar.quartiles {
        let range = format!("{}–{}", three_digits(q1), three_digits(q3));
        Lettering::new(BODY, PALETTE.muted).write(area, (x + 50, y), &range)?;
    }
    body.write(area, (x + 138, y), &format!("{sign} {}", bar.target))?;
    let verdict = if bar.reached() {
        body
    } else {
        Lettering::new(BODY, PALETTE.missed).bold()
    };
    let word = if bar.reached() { "reached" } else { "missed" };
    verdict.write(area, (x + 196, y), word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_is_better_on_the_scale_of_both_measures() {
        let bar = |measure, ratio, target| Bar {
            label: String::new(),
            measure,
            ratio,
            quartiles: None,
            target,
        };
        let on_scale = |bar: Bar| (bar.scaled(bar.ratio), bar.reached());
        assert_eq!(on_scale(bar(Measure::Time, 3.0, 1.5)), (2.0, false));
        assert_eq!(on_scale(bar(Measure::Rate, 3.0, 1.5)), (0.5, true));
        assert_eq!(on_scale(bar(Measure::Time, 1.5, 1.5)), (1.0, true));
        assert_eq!(on_scale(bar(Measure::Time, 0.0, 0.0)), (0.0, true));
        let (part, reached) = on_scale(bar(Measure::Time, 1.0, 0.0));
        assert!(part.is_infinite() && !reached);
    }
}
