//! Reads through nginx with the configuration that we ship, beside nginx that passes them on to nginx; and what it costs when
//! the first server that is asked has no such blob.

use super::{
    Scale,
    figures::Figures,
    kib,
    line::{Line, Target},
    load::Load,
    servers::{files, proxy, uploads},
    sheet::Sheet,
    turns::{Round, Turns},
};
use crate::support::{
    cluster::{Cluster, ClusterBuilder},
    process::Process,
    shard_server::Kind,
};

const SIZES: [usize; 2] = [1 << 10, 16 << 10];

/// Blobs that are read again and again.
const BLOBS: u64 = 200;

/// Part of the other's speed that is wanted.
const OF_NGINX: Target = Target::AtLeast(0.95);

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    // Nobody makes the copies that are missing: which servers have a blob is what the write level says.
    let cluster = ClusterBuilder::new().usual_times().shard(&[Kind::Node; 2]).replicators(0).start();
    for size in SIZES {
        through_nginx(scale, &cluster, size, sheet);
    }
    a_miss(scale, &cluster, sheet);
}

fn through_nginx(scale: &Scale, cluster: &Cluster, size: usize, sheet: &mut Sheet) {
    let ours = read_path(cluster);
    let uploads = uploads();
    let servers = [files(&uploads.files()), files(&uploads.files())];
    let proxy = proxy(&servers);
    let turns = Turns::take(
        scale,
        || Round::of(&ours, || read(scale, cluster, size, "all").run()),
        || {
            let load = Load::get(scale, &uploads.addr(), &proxy.addr(), size, BLOBS);
            Round::of(&[&proxy, &servers[0], &servers[1]], || load.run())
        },
    );
    let what = format!("GET of {} through nginx from nodes / from nginx", kib(size));
    sheet.add(Line::ratio(what.clone(), "a second", &turns, Round::per_second).target(OF_NGINX));
    sheet.add(Line::ratio(what, "per CPU s", &turns, Round::per_cpu_second));
}

/// Reads of blobs that every server has, and of blobs that only one of two has: nginx asks in turn, so every other read of these
/// asks the wrong one first.
fn a_miss(scale: &Scale, cluster: &Cluster, sheet: &mut Sheet) {
    let (size, servers) = (SIZES[0], read_path(cluster));
    let alone = |load: Load| load.with("--concurrency", 1);
    let mut straight = Vec::new();
    let turns = Turns::take(
        scale,
        || Round::of(&servers, || alone(read(scale, cluster, size, "one")).run()),
        || {
            let node = cluster.servers[0].addr();
            straight.push(Round::of(&servers, || alone(Load::get(scale, &node, &node, size, BLOBS)).run()));
            Round::of(&servers, || alone(read(scale, cluster, size, "all")).run())
        },
    );
    let mean = |rounds: &[Round]| -> Figures { rounds.iter().map(|round| round.answered.mean_ms).collect() };
    // Half of the reads met one.
    let miss = mean(&turns.ours).with(&mean(&turns.peer), |some, none| 2.0 * (some - none));
    let turn = mean(&straight);
    let what = "a miss on the first server / GET straight from a node".to_owned();
    let line = Line::ratio(what, "ms", &turns, |round| round.answered.mean_ms);
    let compared = miss.with(&turn, |miss, turn| miss / turn);
    let line = Line { ours: miss, peer: Some(turn), compared, ..line };
    sheet.add(line.target(Target::AtMost(1.0)));
}

/// nginx, and the nodes behind it.
fn read_path(cluster: &Cluster) -> Vec<&Process> {
    let front = cluster.front.as_ref().expect("a cluster has one");
    [front.process()].into_iter().chain(cluster.nodes()).collect()
}

fn read(scale: &Scale, cluster: &Cluster, size: usize, level: &str) -> Load {
    let front = cluster.front.as_ref().expect("a cluster has one");
    Load::get(scale, cluster.coordinators[0].addr(), front.addr(), size, BLOBS).with("--write-level", level)
}
