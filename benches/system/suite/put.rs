//! Uploads to a node: not synced beside nginx, and durable beside the disk without a server.

use super::{
    CONNECTIONS, Scale, kib,
    line::{Line, Target},
    load::Load,
    raw,
    servers::{Node, uploads},
    sheet::Sheet,
    turns::{Round, Turns},
};

/// Sizes, and how many times as many uploads as nginx are wanted.
pub const SIZES: [(usize, Option<Target>); 2] = [(1 << 10, Some(Target::AtLeast(20.0))), (16 << 10, None)];

/// Part of the disk's own speed that is wanted.
const OF_THE_DISK: Target = Target::AtLeast(0.8);

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    for (size, target) in SIZES {
        not_synced(scale, size, target, sheet);
    }
    for (size, _) in SIZES {
        durable(scale, size, sheet);
    }
}

fn not_synced(scale: &Scale, size: usize, target: Option<Target>, sheet: &mut Sheet) {
    let node = Node::start("never");
    let load = || Load::put(scale, node.addr(), size).run();
    let turns = beside_nginx(scale, size, || Round::of(&[node.process()], load));
    let what = format!("PUT of {} to a node, not synced / to nginx", kib(size));
    let line = Line::ratio(what.clone(), "a second", &turns, Round::per_second);
    sheet.add(Line { target, ..line });
    sheet.add(Line::ratio(what, "per CPU s", &turns, Round::per_cpu_second));
}

fn durable(scale: &Scale, size: usize, sheet: &mut Sheet) {
    let node = Node::start("group");
    let load = || Load::put(scale, node.addr(), size).run();
    let turns = beside_the_disk(scale, size, || Round::of(&[node.process()], load));
    let what = format!("PUT of {} to a node, durable / fdatasync per {CONNECTIONS}", kib(size));
    sheet.add(Line::ratio(what, "a second", &turns, Round::per_second).target(OF_THE_DISK));
}

/// Turns of some server, and of nginx with the same uploads.
pub fn beside_nginx(scale: &Scale, size: usize, ours: impl FnMut() -> Round) -> Turns {
    let nginx = uploads();
    Turns::take(scale, ours, || Round::of(&[&nginx], || Load::put(scale, &nginx.addr(), size).run()))
}

/// Turns of some server, and of the disk without one.
pub fn beside_the_disk(scale: &Scale, size: usize, ours: impl FnMut() -> Round) -> Turns {
    Turns::take(scale, ours, || raw::appends(scale, size, CONNECTIONS))
}
