//! Warm reads from a node, beside nginx with files that it keeps open.

use super::{
    Scale, kib,
    line::{Line, Target},
    load::Load,
    servers::{Node, files, uploads},
    sheet::Sheet,
    turns::{Round, Turns},
};

/// Size, and how many times as many reads as nginx for the same processor time are wanted.
const SIZES: [(usize, f64); 4] = [(1 << 10, 1.3), (16 << 10, 1.0), (100 << 10, 1.3), (1 << 20, 1.0)];

/// Blobs that are read again and again. They are uploaded in a node's turn, which must not be seen in its processor time.
const BLOBS: u64 = 200;

/// Bytes of them at most, for the same reason.
const BYTES: u64 = 32 << 20;

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    let (node, uploads) = (Node::start("never"), uploads());
    let files = files(&uploads.files());
    for (size, target) in SIZES {
        let blobs = BLOBS.min(BYTES / size as u64);
        let turns = Turns::take(
            scale,
            || Round::of(&[node.process()], || Load::get(scale, node.addr(), node.addr(), size, blobs).run()),
            || Round::of(&[&files], || Load::get(scale, &uploads.addr(), &files.addr(), size, blobs).run()),
        );
        let what = format!("GET of {} from a node / from nginx", kib(size));
        sheet.add(
            Line::ratio(what.clone(), "per CPU s", &turns, Round::per_cpu_second)
                .target(Target::AtLeast(target)),
        );
        sheet.add(Line::ratio(what, "a second", &turns, Round::per_second));
    }
}
