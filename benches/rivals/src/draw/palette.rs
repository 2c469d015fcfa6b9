//! All colours, each with its face on a light and on a dark page.
//!
//! The hues differ in lightness too, so that colour-blind readers can tell them apart.

use std::fmt::Write;

use plotters::style::RGBColor;

/// One colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ink {
    /// As drawn, and on a light page.
    pub light: RGBColor,
    dark: RGBColor,
}

impl Ink {
    const fn new(light: u32, dark: u32) -> Self {
        Ink {
            light: rgb(light),
            dark: rgb(dark),
        }
    }
}

const fn rgb(hex: u32) -> RGBColor {
    RGBColor((hex >> 16) as u8, (hex >> 8) as u8, hex as u8)
}

/// As an SVG attribute has it.
pub fn hex(colour: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2)
}

/// Every colour there is. The light faces all differ: the dark ones are found by them.
pub struct Palette {
    pub background: Ink,
    pub text: Ink,
    pub muted: Ink,
    pub grid: Ink,
    pub reached: Ink,
    pub missed: Ink,
    pub ringport: Ink,
    pub in_place: Ink,
    pub iceoryx2: Ink,
    pub unix_stream: Ink,
    pub unix_seqpacket: Ink,
    pub pipe: Ink,
    pub ipc_channel: Ink,
    pub mqueue: Ink,
    pub rtrb: Ink,
    pub crossbeam: Ink,
    pub floor: Ink,
    pub other: Ink,
}

pub const PALETTE: Palette = Palette {
    background: Ink::new(0xFFFFFF, 0x0D1117),
    text: Ink::new(0x1F2328, 0xE6EDF3),
    muted: Ink::new(0x57606A, 0x9DA7B1),
    grid: Ink::new(0xDDE1E6, 0x2B3138),
    reached: Ink::new(0x6AA9DE, 0x2F6FA8),
    missed: Ink::new(0xC2410C, 0xF0884A),
    ringport: Ink::new(0x0059B3, 0x58A6FF),
    in_place: Ink::new(0x2E9BE6, 0xA5D6FF),
    iceoryx2: Ink::new(0xD9730D, 0xF0A04B),
    unix_stream: Ink::new(0x00785A, 0x2FBF95),
    unix_seqpacket: Ink::new(0x4FB286, 0x8FE0BC),
    pipe: Ink::new(0xC2408F, 0xF07FC0),
    ipc_channel: Ink::new(0x8A7A00, 0xD9C93B),
    mqueue: Ink::new(0x8B5A2B, 0xC79A6B),
    rtrb: Ink::new(0x5B3FA8, 0xB39DFF),
    crossbeam: Ink::new(0x9A7FE0, 0xD6C8FF),
    floor: Ink::new(0x8C959F, 0x7D8590),
    other: Ink::new(0x3D444D, 0xC9D1D9),
};

impl Palette {
    fn all(&self) -> [Ink; 18] {
        [
            self.background,
            self.text,
            self.muted,
            self.grid,
            self.reached,
            self.missed,
            self.ringport,
            self.in_place,
            self.iceoryx2,
            self.unix_stream,
            self.unix_seqpacket,
            self.pipe,
            self.ipc_channel,
            self.mqueue,
            self.rtrb,
            self.crossbeam,
            self.floor,
            self.other,
        ]
    }
}

/// The rules by which a browser shows the dark faces: they go before attributes such as
/// `fill="#1F2328"`. Only the colours that occur in `svg` are named.
pub fn dark_rules(svg: &str) -> String {
    let mut rules = String::from("@media (prefers-color-scheme:dark){\n");
    for ink in PALETTE.all() {
        for property in ["fill", "stroke"] {
            let attribute = format!("{property}=\"{}\"", hex(ink.light));
            if svg.contains(&attribute) {
                writeln!(rules, "[{attribute}]{{{property}:{}}}", hex(ink.dark))
                    .expect("a String takes all");
            }
        }
    }
    rules + "}\n"
}

/// The colours of a map from least to most. They become steadily lighter, so they can be told apart
/// without their hue, and they are the same on every page.
const HEAT: [RGBColor; 4] = [rgb(0x1B2A5E), rgb(0x2B6C94), rgb(0x55B49A), rgb(0xF6E27A)];

/// The colour of a map at a part (0 to 1) of its range.
pub fn heat(part: f64) -> RGBColor {
    let place = part.clamp(0.0, 1.0) * (HEAT.len() - 1) as f64;
    let below = (place as usize).min(HEAT.len() - 2);
    let (from, to) = (HEAT[below], HEAT[below + 1]);
    let between = |from: u8, to: u8| {
        let (from, to) = (f64::from(from), f64::from(to));
        (from + (to - from) * (place - below as f64)).round() as u8
    };
    RGBColor(
        between(from.0, to.0),
        between(from.1, to.1),
        between(from.2, to.2),
    )
}

/// Black or white, whichever stands out more from this colour; neither is one that a dark page changes.
pub fn ink_on(colour: RGBColor) -> RGBColor {
    // Relative luminance as in WCAG 2; black and white contrast equally with 0.179.
    let linear = |part: u8| (f64::from(part) / 255.0).powf(2.2);
    let luminance =
        0.2126 * linear(colour.0) + 0.7152 * linear(colour.1) + 0.0722 * linear(colour.2);
    rgb(if luminance > 0.179 {
        0x0B0B0B
    } else {
        0xFEFEFE
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_colours_look_the_same_in_the_file() {
        let all = PALETTE.all();
        let faces: BTreeSet<_> = all.iter().map(|ink| hex(ink.light)).collect();
        assert_eq!(faces.len(), all.len());
    }

    #[test]
    fn only_colours_that_occur_get_a_rule() {
        let rules = dark_rules("<rect fill=\"#FFFFFF\"/>");
        assert!(
            rules.contains("[fill=\"#FFFFFF\"]{fill:#0D1117}"),
            "{rules}"
        );
        assert_eq!(rules.lines().count(), 3);
    }
}
