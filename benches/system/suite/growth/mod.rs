//! What changes as a cluster grows: each figure beside the same one of the smallest (in the columns of the peer), so that the lines of
//! one thing are a curve.
//!
//! - [`blobs`]: a node with more and more blobs
//! - [`map`]: a coordinator whose map has more and more shards and servers; [`grown`]: such a cluster; [`patience`]: what those notice
//!   who ask meanwhile

pub mod blobs;
mod grown;
pub mod map;
mod patience;

use super::{
    figures::Figures,
    line::Line,
    turns::{Round, Turns},
};

/// A figure of the rounds of this step beside the one of the first step.
fn curve(what: String, unit: &'static str, [now, first]: [&[Round]; 2], of: impl Fn(&Round) -> f64) -> Line {
    Line::ratio(what, unit, &Turns { ours: now.to_vec(), peer: first.to_vec() }, of)
}

/// The same of figures that are of no rounds.
fn curve_of(what: String, unit: &'static str, [now, first]: [&Figures; 2]) -> Line {
    Line::beside(what, unit, [now.clone(), first.clone()], |now, first| now / first)
}

/// `10 thousand`.
fn number(number: u64) -> String {
    match number {
        1_000_000.. if number.is_multiple_of(1_000_000) => format!("{} million", number / 1_000_000),
        10_000.. if number.is_multiple_of(1_000) => format!("{} thousand", number / 1_000),
        _ => number.to_string(),
    }
}
