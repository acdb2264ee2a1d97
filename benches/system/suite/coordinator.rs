//! Uploads through a coordinator, durable on one server and with a durable task for the copy, beside the same uploads straight
//! to the node; and beside what the original's coordinator does without syncing anything.

use super::{
    Scale, kib,
    line::{Line, Target},
    load::Load,
    sheet::Sheet,
    turns::{Round, Turns},
};
use crate::support::{
    cluster::{Cluster, ClusterBuilder},
    process::Process,
    shard_server::Kind,
};

/// Sizes, and how many uploads a second the original's coordinator takes from 64 connections: measured on a machine of 2 cores
/// that it shared with the load, in November 2026, the median of three. It keeps each upload in a temporary file
/// and syncs nothing.
const SIZES: [(usize, f64); 2] = [(1 << 10, 1395.0), (16 << 10, 1149.0)];

/// How many times the original's uploads are wanted.
const OF_THE_ORIGINAL: Target = Target::AtLeast(10.0);

/// Part of a node's own speed that is wanted.
const OF_A_NODE: Target = Target::AtLeast(0.5);

/// Milliseconds that a coordinator may add at half of its load.
const ADDED_P50: Target = Target::AtMost(1.0);
const ADDED_P99: Target = Target::AtMost(3.0);

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    // Tasks pile up, since nobody does them; that would change how they are kept.
    let cluster = ClusterBuilder::new().usual_times().env("BACKPACK_COORDINATOR_MAX_BACKLOG", "100000000");
    let cluster = cluster.shard(&[Kind::Node; 2]).replicators(0).start();
    for (size, original) in SIZES {
        let closed = take_turns(scale, &cluster, size, None);
        let what = format!("PUT of {} through a coordinator / to a node", kib(size));
        let line = Line::ratio(what.clone(), "a second", &closed, Round::per_second);
        let half = (line.ours.median() / 2.0).max(1.0);
        sheet.add(line.target(OF_A_NODE));
        sheet.add(Line::ratio(what, "per CPU s", &closed, Round::per_cpu_second));
        let what = format!("PUT of {} through a coordinator / the original's", kib(size));
        let line = Line::by_constant(what, "a second", &closed.ours, Round::per_second, original);
        sheet.add(line.target(OF_THE_ORIGINAL));

        let open = take_turns(scale, &cluster, size, Some(half));
        let added = |of| format!("added by a coordinator to a PUT of {}, {of}", kib(size));
        let line = Line::difference(added("p50"), "ms", &open, |round| round.answered.p50_ms);
        sheet.add(line.target(ADDED_P50));
        let line = Line::difference(added("p99"), "ms", &open, |round| round.answered.p99_ms);
        sheet.add(line.target(ADDED_P99));
    }
}

/// Uploads as fast as they go, or so many a second.
fn take_turns(scale: &Scale, cluster: &Cluster, size: usize, rate: Option<f64>) -> Turns {
    let put = |addr: &str| {
        let load = Load::put(scale, addr, size);
        match rate {
            None => load.run(),
            Some(rate) => load.with("--rate", rate).run(),
        }
    };
    Turns::take(
        scale,
        || Round::of(&behind(cluster), || put(cluster.coordinators[0].addr())),
        || Round::of(&cluster.nodes()[..1], || put(&cluster.servers[0].addr())),
    )
}

/// A coordinator, and whatever works for it.
pub fn behind(cluster: &Cluster) -> Vec<&Process> {
    let redis = cluster.redis.iter().map(|redis| &**redis);
    let coordinators = cluster.coordinators.iter().map(|coordinator| &**coordinator.daemon());
    redis.chain(coordinators).chain(cluster.nodes()).collect()
}
