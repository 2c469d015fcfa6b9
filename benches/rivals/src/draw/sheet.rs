//! A sheet of SVG: its frame (title, what is shown, where it comes from), and the few shapes that
//! the pictures are made of. Coordinates are pixels from the upper left.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Result;
use super::looks::{self, Look, Marker};
use super::palette::{self, Ink, PALETTE};

/// The width of all pictures.
pub const WIDTH: u32 = 960;
/// Nothing but the background is nearer to an edge.
pub const MARGIN: i32 = 24;
/// The size of most text.
pub const BODY: u32 = 13;
/// The size of the smallest text.
pub const SMALL: u32 = 12;

/// Room above the drawing for the title, without its lines of explanation.
const TITLE: i32 = 46;
const LINE: i32 = 18;

/// Where a picture draws.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What is written around a drawing.
pub struct Frame<'a> {
    pub title: &'a str,
    /// What is shown, and which direction is good.
    pub lead: &'a [&'a str],
    /// Date, commit, machine.
    pub foot: &'a [String],
}

impl Frame<'_> {
    /// The whole picture as SVG. `drawing` gets everything and draws in the `height` pixels from the
    /// y coordinate it is told.
    pub fn around(
        &self,
        height: i32,
        drawing: impl FnOnce(&Area, i32) -> Result<()>,
    ) -> Result<String> {
        let top = TITLE + LINE * self.lead.len() as i32 + 10;
        let bottom = top + height;
        let full = bottom + LINE * self.foot.len() as i32 + 20;
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, (WIDTH, full as u32)).into_drawing_area();
            area.fill(&PALETTE.background.light)?;
            let title = Lettering::new(18, PALETTE.text).bold();
            title.write(&area, (MARGIN, 30), self.title)?;
            for (line, text) in self.lead.iter().enumerate() {
                let at = (MARGIN, TITLE + 10 + LINE * line as i32);
                Lettering::new(BODY, PALETTE.muted).write(&area, at, text)?;
            }
            drawing(&area, top)?;
            for (line, text) in self.foot.iter().enumerate() {
                let at = (MARGIN, bottom + 14 + LINE * line as i32);
                Lettering::new(SMALL, PALETTE.muted).write(&area, at, text)?;
            }
            area.present()?;
        }
        Ok(finish(&svg, self.title))
    }
}

/// What plotters says of every shape although it need not be said.
const IDLE: [&str; 4] = [
    " opacity=\"1\"",
    " stroke=\"none\"",
    " text-anchor=\"start\"",
    " font-family=\"sans-serif\"",
];

/// Adds what plotters cannot say: the name for screen readers, dashes, the dark page. Leaves out what
/// is idle.
fn finish(svg: &str, title: &str) -> String {
    let svg = IDLE.iter().fold(svg.replace(" \"/>", "\"/>"), |svg, idle| {
        svg.replace(idle, "")
    });
    let svg = looks::dash(&svg);
    let rules = palette::dark_rules(&svg);
    let head = format!(
        " role=\"img\" font-family=\"sans-serif\">\n<title>{title}</title>\n<style>\n{rules}</style>\n"
    );
    svg.replacen(">\n", &head, 1)
}

/// How a text is written. It stands upon the height it is given, in the middle of it.
#[derive(Clone, Copy)]
pub struct Lettering {
    size: u32,
    colour: RGBColor,
    bold: bool,
    side: HPos,
}

impl Lettering {
    pub fn new(size: u32, ink: Ink) -> Self {
        Self::coloured(size, ink.light)
    }

    /// In a colour that is the same on every page.
    pub fn coloured(size: u32, colour: RGBColor) -> Self {
        Lettering {
            size,
            colour,
            bold: false,
            side: HPos::Left,
        }
    }

    pub fn bold(self) -> Self {
        Lettering { bold: true, ..self }
    }

    /// Ends where it is put instead of beginning there.
    pub fn to_the_left(self) -> Self {
        Lettering {
            side: HPos::Right,
            ..self
        }
    }

    /// Has its middle where it is put.
    pub fn centred(self) -> Self {
        Lettering {
            side: HPos::Center,
            ..self
        }
    }

    pub fn write(self, area: &Area, at: (i32, i32), text: &str) -> Result<()> {
        let weight = match self.bold {
            true => FontStyle::Bold,
            false => FontStyle::Normal,
        };
        // plotters writes 1/1.24 of a font's size into the SVG.
        let size = f64::from(self.size) * 1.24;
        let style = FontDesc::new(FontFamily::SansSerif, size, weight)
            .color(&self.colour)
            .pos(Pos::new(self.side, VPos::Center));
        Ok(area.draw(&Text::new(text, at, style))?)
    }

    /// About how wide a text becomes, rather more: the reader's font is not known here.
    pub fn width(self, text: &str) -> i32 {
        let em = if self.bold { 0.64 } else { 0.58 };
        (text.chars().count() as f64 * f64::from(self.size) * em).ceil() as i32
    }
}

/// A line through these points.
pub fn stroke(area: &Area, points: &[(i32, i32)], ink: Ink, width: u32) -> Result<()> {
    Ok(area.draw(&PathElement::new(points, ink.light.stroke_width(width)))?)
}

/// A filled rectangle.
pub fn fill(area: &Area, corners: [(i32, i32); 2], colour: RGBColor) -> Result<()> {
    Ok(area.draw(&Rectangle::new(corners, colour.filled()))?)
}

/// The outline of a rectangle.
pub fn outline(area: &Area, corners: [(i32, i32); 2], colour: RGBColor, width: u32) -> Result<()> {
    let [(left, top), (right, bottom)] = corners;
    let around = [
        (left, top),
        (right, top),
        (right, bottom),
        (left, bottom),
        (left, top),
        (right, top),
    ];
    Ok(area.draw(&PathElement::new(around, colour.stroke_width(width)))?)
}

/// A contender's marker; a hollow one has the page's colour inside.
pub fn mark(area: &Area, at: (i32, i32), look: &Look) -> Result<()> {
    shape(area, at, look.marker, 5, look.ink)?;
    if look.hollow {
        shape(area, at, look.marker, 3, PALETTE.background)?;
    }
    Ok(())
}

fn shape(area: &Area, (x, y): (i32, i32), marker: Marker, radius: i32, ink: Ink) -> Result<()> {
    let r = radius;
    let corners: &[(i32, i32)] = match marker {
        Marker::None => return Ok(()),
        Marker::Circle => {
            return Ok(area.draw(&Circle::new((x, y), r, ink.light.filled()))?);
        }
        Marker::Square => &[
            (-r + 1, -r + 1),
            (r - 1, -r + 1),
            (r - 1, r - 1),
            (-r + 1, r - 1),
        ],
        Marker::Diamond => &[(0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)],
        Marker::Up => &[(0, -r - 1), (r + 1, r - 1), (-r - 1, r - 1)],
        Marker::Down => &[(0, r + 1), (r + 1, -r + 1), (-r - 1, -r + 1)],
    };
    let corners: Vec<_> = corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
    Ok(area.draw(&Polygon::new(corners, ink.light.filled()))?)
}
