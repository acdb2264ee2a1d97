//! Warm reads from a node, beside nginx with files that it keeps open.

use super::{
    Scale, kib,
    line::{Line, Target},
    load::Load,
    servers::{Node, files, uploads},
    sheet::Sheet,
    turns::{Round, Turns},
};
use crate::support::nginx::Nginx;

/// Size, and how many times as many reads as nginx for the same processor time are wanted.
pub const SIZES: [(usize, f64); 4] = [(1 << 10, 1.3), (16 << 10, 1.0), (100 << 10, 1.3), (1 << 20, 1.0)];

/// Blobs that are read again and again. They are uploaded in a node's turn, which must not be seen in its processor time.
const BLOBS: u64 = 200;

/// Bytes of them at most, for the same reason.
const BYTES: u64 = 32 << 20;

/// How many of this size.
pub fn blobs(size: usize) -> u64 {
    BLOBS.min(BYTES / size as u64)
}

/// nginx with files that it keeps open, and another one that takes them.
pub struct Static {
    uploads: Nginx,
    files: Nginx,
}

impl Static {
    /// Starts both.
    pub fn start() -> Self {
        let uploads = uploads();
        let files = files(&uploads.files());
        Self { uploads, files }
    }

    /// Turns of some server, and of this with the same reads.
    pub fn beside(&self, scale: &Scale, size: usize, ours: impl FnMut() -> Round) -> Turns {
        let (uploads, files) = (self.uploads.addr(), self.files.addr());
        let load = || Load::get(scale, &uploads, &files, size, blobs(size)).run();
        Turns::take(scale, ours, || Round::of(&[&self.files], load))
    }
}

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    let nginx = Static::start();
    let beside = |node: &Node, size: usize, from: &str, target: Option<f64>, sheet: &mut Sheet| {
        let load = || Load::get(scale, node.addr(), node.addr(), size, blobs(size)).run();
        let turns = nginx.beside(scale, size, || Round::of(&[node.process()], load));
        let what = format!("GET of {} {from} / from nginx", kib(size));
        let line = Line::ratio(what.clone(), "per CPU s", &turns, Round::per_cpu_second);
        sheet.add(match target {
            Some(ratio) => line.target(Target::AtLeast(ratio)),
            None => line,
        });
        sheet.add(Line::ratio(what, "a second", &turns, Round::per_second));
    };
    let node = Node::start("never");
    for (size, target) in SIZES {
        beside(&node, size, "from a node", Some(target), sheet);
    }
    drop(node);
    // What is not read often enough to be kept in a node's memory, if it is in the page cache.
    let node = Node::with(&["--sync", "never", "--read-memory", "0"]);
    for (size, _) in SIZES {
        beside(&node, size, "from a node's page cache", None, sheet);
    }
}
