//! How each contender is drawn, the same in every picture.
//!
//! Blue is ours, dashed are threads, dotted is a floor. Where two colours come close, the markers differ.

use super::palette::{Ink, PALETTE, hex};

/// The shape of a contender's points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    None,
    Circle,
    Square,
    Diamond,
    Up,
    Down,
}

/// How a contender is drawn, the same in every picture.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub ink: Ink,
    pub marker: Marker,
    /// Only the outline of the marker.
    pub hollow: bool,
    /// Lengths of dashes and gaps; empty for a line without.
    dash: &'static str,
    /// What a reader has to know besides the name.
    pub note: &'static str,
    pub rank: Rank,
}

/// Who a contender is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    Floor,
    Rival,
    Ours,
}

const fn look(ink: Ink, marker: Marker) -> Look {
    Look {
        ink,
        marker,
        hollow: false,
        dash: "",
        note: "",
        rank: Rank::Rival,
    }
}

const fn ours(ink: Ink, hollow: bool) -> Look {
    Look {
        hollow,
        rank: Rank::Ours,
        ..look(ink, Marker::Circle)
    }
}

const fn hollow(ink: Ink, marker: Marker) -> Look {
    Look {
        hollow: true,
        ..look(ink, marker)
    }
}

const fn threads(ink: Ink, marker: Marker) -> Look {
    Look {
        dash: "7 4",
        note: " (threads)",
        ..look(ink, marker)
    }
}

const fn floor(note: &'static str) -> Look {
    Look {
        dash: "2 4",
        note,
        rank: Rank::Floor,
        ..look(PALETTE.floor, Marker::None)
    }
}

const LOOKS: [(&str, Look); 12] = [
    ("ringport", ours(PALETTE.ringport, false)),
    ("ringport-in-place", ours(PALETTE.in_place, true)),
    ("iceoryx2", look(PALETTE.iceoryx2, Marker::Square)),
    ("unix-stream", look(PALETTE.unix_stream, Marker::Up)),
    ("unix-seqpacket", hollow(PALETTE.unix_seqpacket, Marker::Up)),
    ("pipe", look(PALETTE.pipe, Marker::Diamond)),
    ("ipc-channel", look(PALETTE.ipc_channel, Marker::Down)),
    ("mqueue", hollow(PALETTE.mqueue, Marker::Square)),
    ("rtrb", threads(PALETTE.rtrb, Marker::Diamond)),
    (
        "crossbeam-channel",
        threads(PALETTE.crossbeam, Marker::Down),
    ),
    ("copy", floor(" (memcpy, floor)")),
    ("line", floor(" (bare cache line, floor)")),
];

/// How to draw the contender `what`: as its name says, or the longest name it continues (`rtrb-u64`
/// is an `rtrb`).
pub fn look_of(what: &str) -> Look {
    let continues = |name: &str| {
        let rest = what.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let known = LOOKS.iter().filter(|(name, _)| continues(name));
    let longest = known.max_by_key(|(name, _)| name.len());
    longest.map_or(hollow(PALETTE.other, Marker::Circle), |&(_, look)| look)
}

/// Makes the lines dashed whose colour says so: plotters itself would write every dash as a line.
pub fn dash(svg: &str) -> String {
    let dashed = LOOKS.iter().filter(|(_, look)| !look.dash.is_empty());
    dashed.fold(svg.to_string(), |svg, (_, look)| {
        let plain = |more| format!("stroke=\"{}\"{more} stroke-width", hex(look.ink.light));
        let dashes = format!(" stroke-dasharray=\"{}\"", look.dash);
        svg.replace(&plain(""), &plain(&dashes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_are_known_by_the_longest_name() {
        assert_eq!(look_of("ringport-in-place").ink, PALETTE.in_place);
        assert_eq!(look_of("rtrb-u64").ink, PALETTE.rtrb);
        assert_eq!(look_of("pipes").ink, PALETTE.other);
    }
}
