//! Uploads through a coordinator, durable on one server and with a durable task for the copy, beside the same uploads straight
//! to the node; and beside what the original's coordinator does without syncing anything.

use super::{
    Scale,
    figures::Figures,
    kib,
    line::{Line, Target},
    load::{Answered, Load},
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
pub const SIZES: [(usize, f64); 2] = [(1 << 10, 1395.0), (16 << 10, 1149.0)];

/// How many times the original's uploads are wanted.
const OF_THE_ORIGINAL: Target = Target::AtLeast(10.0);

/// Part of a node's own speed that is wanted.
const OF_A_NODE: Target = Target::AtLeast(0.5);

/// Milliseconds that a coordinator may add at half of its load.
const ADDED_P50: Target = Target::AtMost(1.0);
const ADDED_P99: Target = Target::AtMost(3.0);

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    let cluster = without_replicator();
    for (size, original) in SIZES {
        let put = |load: &dyn Fn(&str) -> Answered| {
            Round::of(&behind(&cluster), || load(cluster.coordinators[0].addr()))
        };
        let turns = beside_a_node(scale, &cluster, size, put);
        let [per_second, per_cpu_second, p50, p99] = lines("a coordinator", size, &turns);
        sheet.add(per_second.target(OF_A_NODE));
        sheet.add(per_cpu_second);
        let what = format!("PUT of {} through a coordinator / the original's", kib(size));
        let line = Line::by_constant(what, "a second", &turns[0].ours, Round::per_second, original);
        sheet.add(line.target(OF_THE_ORIGINAL));
        sheet.add(p50.target(ADDED_P50));
        sheet.add(p99.target(ADDED_P99));
    }
}

/// A coordinator, two Redis servers and two nodes.
pub fn without_replicator() -> Cluster {
    // Tasks pile up, since nobody does them; that would change how they are kept.
    let cluster = ClusterBuilder::new().usual_times().env("BACKPACK_COORDINATOR_MAX_BACKLOG", "100000000");
    cluster.shard(&[Kind::Node; 2]).replicators(0).start()
}

/// Turns of uploads in some way, and straight to a node: as fast as they go, and half as many of both as went that way.
pub fn beside_a_node(
    scale: &Scale,
    cluster: &Cluster,
    size: usize,
    ours: impl Fn(&dyn Fn(&str) -> Answered) -> Round,
) -> [Turns; 2] {
    let take = |load: &dyn Fn(&str) -> Answered| {
        let node = || Round::of(&cluster.nodes()[..1], || load(&cluster.servers[0].addr()));
        Turns::take(scale, || ours(load), node)
    };
    let load = |addr: &str| Load::put(scale, addr, size);
    let closed = take(&|addr| load(addr).run());
    let half = (rate(&closed).median() / 2.0).max(1.0);
    let open = take(&|addr| load(addr).with("--rate", half).run());
    [closed, open]
}

/// What these turns say: uploads a second, uploads for a second of processor time, and what is added to half of them and to one in a
/// hundred.
pub fn lines(by: &str, size: usize, [closed, open]: &[Turns; 2]) -> [Line; 4] {
    let what = format!("PUT of {} through {by} / to a node", kib(size));
    let rate = rate(open);
    let added = |of| format!("added by {by} to a PUT of {}, {rate} a second, {of}", kib(size));
    [
        Line::ratio(what.clone(), "a second", closed, Round::per_second),
        Line::ratio(what, "per CPU s", closed, Round::per_cpu_second),
        Line::difference(added("p50"), "ms", open, |round| round.answered.p50_ms),
        Line::difference(added("p99"), "ms", open, |round| round.answered.p99_ms),
    ]
}

/// Uploads a second that went our way.
fn rate(turns: &Turns) -> Figures {
    turns.ours.iter().map(Round::per_second).collect()
}

/// A coordinator, and whatever works for it.
pub fn behind(cluster: &Cluster) -> Vec<&Process> {
    let redis = cluster.redis.iter().map(|redis| &**redis);
    let coordinators = cluster.coordinators.iter().map(|coordinator| &**coordinator.daemon());
    redis.chain(coordinators).chain(cluster.nodes()).collect()
}
