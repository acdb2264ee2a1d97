//! How fast a replicator makes the copies that wait, beside uploads straight to a node; and how long copies wait while
//! uploads go on.

use std::time::{Duration, Instant};

use super::{
    Scale,
    coordinator::behind,
    figures::Figures,
    line::{Line, Target},
    load::{Answered, Load},
    sheet::Sheet,
    turns::{Round, Turns, clear, settle},
};
use crate::support::{
    cluster::{Cluster, ClusterBuilder},
    http::Request,
    shard_server::Kind,
};

pub const SIZE: usize = 16 << 10;

/// As many copies as a replicator makes at the same time.
pub const CONNECTIONS: usize = backpack::replicator::DEFAULT_CONCURRENCY;

/// Part of a node's own speed that is wanted.
const OF_A_NODE: Target = Target::AtLeast(0.7);

/// Milliseconds that nearly all copies may wait.
const LAG: Target = Target::AtMost(1000.0);

/// What is uploaded to be copied takes no longer.
const FILLED_WITHIN: Duration = Duration::from_secs(600);

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    let cluster = ClusterBuilder::new().usual_times().shard(&[Kind::Node; 2]).replicators(0);
    let mut cluster = cluster.start();
    let mut ours = Vec::new();
    let mut peer = Vec::new();
    for _ in 0..scale.rounds {
        clear(scale);
        ours.push(drained(scale, &mut cluster));
        clear(scale);
        peer.push(straight(scale, &cluster));
    }
    let turns = Turns { ours, peer };
    let [per_second, per_cpu_second] = lines("a replicator", &turns);
    sheet.add(per_second.target(OF_A_NODE));
    sheet.add(per_cpu_second);

    let rounds: Vec<Round> = (0..scale.rounds).map(|_| lag(scale, &mut cluster)).collect();
    let rate: Figures = rounds.iter().map(Round::per_second).collect();
    let what = format!("p99 from upload to copy, at {rate} uploads a second");
    sheet.add(Line::alone(what, "ms", &rounds, |round| round.answered.p99_ms).target(LAG));
}

/// What turns of copies and of uploads straight to a node say: how many a second, and for a second of processor time.
pub fn lines(by: &str, turns: &Turns) -> [Line; 2] {
    let what = format!("copies of 16 KiB that {by} makes / PUT to a node");
    [
        Line::ratio(what.clone(), "a second", turns, Round::per_second),
        Line::ratio(what, "per CPU s", turns, Round::per_cpu_second),
    ]
}

/// Uploads straight to a node, as many at once as a replicator makes copies.
pub fn straight(scale: &Scale, cluster: &Cluster) -> Round {
    let load = Load::put(scale, &cluster.servers[0].addr(), SIZE).with("--concurrency", CONNECTIONS);
    Round::of(&cluster.nodes()[..1], || load.run())
}

/// Uploads that nobody copies, then a replicator that does, from when it is ready.
fn drained(scale: &Scale, cluster: &mut Cluster) -> Round {
    let load = Load::put(scale, cluster.coordinators[0].addr(), SIZE).within(FILLED_WITHIN);
    load.with("--count", scale.backlog).run();
    settle();
    cluster.start_replicator();
    cluster.wait_ready();
    let mut servers = behind(cluster);
    servers.push(cluster.replicators[0].daemon());
    let round = Round::of(&servers, || {
        let (started, requests) = (Instant::now(), cluster.queue_stats().backlog());
        cluster.wait_drained();
        let per_second = requests as f64 / started.elapsed().as_secs_f64();
        Answered { requests, per_second, ..Answered::default() }
    });
    cluster.replicators.clear();
    round
}

/// Steady uploads, and a replicator that has nothing else to do.
fn lag(scale: &Scale, cluster: &mut Cluster) -> Round {
    cluster.start_replicator();
    cluster.wait_ready();
    let mut servers = behind(cluster);
    servers.push(cluster.replicators[0].daemon());
    let mut round = Round::of(&servers, || {
        let load = Load::put(scale, cluster.coordinators[0].addr(), SIZE).within(scale.steady);
        let count = f64::from(scale.steady_rate) * scale.steady.as_secs_f64();
        load.with("--rate", scale.steady_rate).with("--count", count).run()
    });
    cluster.wait_drained();
    let metrics = Request::get(cluster.replicators[0].addr(), "/-/metrics").send_blocking();
    let metrics = metrics.expect("a replicator tells its metrics").text();
    round.answered.p99_ms = quantile(&metrics, "backpack_replicator_lag_seconds", 0.99) * 1000.0;
    cluster.replicators.clear();
    round
}

/// What this part of a histogram's samples is below: as if those of a bucket stood at even distances in it.
fn quantile(metrics: &str, name: &str, part: f64) -> f64 {
    let prefix = format!("{name}_bucket{{le=\"");
    let buckets = metrics.lines().filter_map(|line| line.strip_prefix(&prefix)?.split_once("\"} "));
    let buckets: Vec<(f64, f64)> =
        buckets.filter_map(|(most, count)| Some((most.parse().ok()?, count.parse().ok()?))).collect();
    let (_, all) = *buckets.last().unwrap_or_else(|| panic!("no histogram {name}:\n{metrics}"));
    let at = buckets.iter().position(|(_, count)| *count >= all * part).expect("the last one has all");
    let (least, before) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
    let (most, count) = buckets[at];
    // Beyond the last limit nothing is known.
    if most.is_infinite() { most } else { least + (most - least) * (all * part - before) / (count - before) }
}
