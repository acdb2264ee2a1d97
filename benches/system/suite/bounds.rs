//! What a bare loop in the place of a node, a coordinator or a replicator reaches, beside the same others: about what is left when that
//! costs nothing.

use std::time::Instant;

use super::{
    CONNECTIONS, Scale,
    bare::{Bare, Keep},
    coordinator, cpu, get, kib,
    line::Line,
    load::{Answered, Load},
    put, relay, replicator,
    sheet::Sheet,
    turns::{Round, Turns, clear, settle},
    wire::Wire,
};
use crate::support::{cluster::Cluster, redis::Redis, shard_server::ShardServer};

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    let nginx = get::Static::start();
    for (size, _) in get::SIZES {
        reads(scale, size, &nginx, sheet);
    }
    for (size, _) in put::SIZES {
        not_synced(scale, size, sheet);
    }
    for (size, _) in put::SIZES {
        durable(scale, size, sheet);
    }
    let cluster = coordinator::without_replicator();
    for (size, _) in coordinator::SIZES {
        uploads(scale, &cluster, size, sheet);
    }
    copies(scale, &cluster, sheet);
}

fn reads(scale: &Scale, size: usize, nginx: &get::Static, sheet: &mut Sheet) {
    let bare = Bare::start(Keep::InMemory);
    let load = || Load::get(scale, bare.addr(), bare.addr(), size, get::blobs(size)).run();
    let turns = nginx.beside(scale, size, || bare.round(load));
    let what = format!("GET of {} from a bare loop / from nginx", kib(size));
    sheet.add(Line::ratio(what.clone(), "per CPU s", &turns, Round::per_cpu_second));
    sheet.add(Line::ratio(what, "a second", &turns, Round::per_second));
}

fn not_synced(scale: &Scale, size: usize, sheet: &mut Sheet) {
    let bare = Bare::start(Keep::OnDisk { synced: false });
    let load = || Load::put(scale, bare.addr(), size).run();
    let turns = put::beside_nginx(scale, size, || bare.round(load));
    let what = format!("PUT of {} to a bare loop, not synced / to nginx", kib(size));
    sheet.add(Line::ratio(what, "a second", &turns, Round::per_second));
}

fn durable(scale: &Scale, size: usize, sheet: &mut Sheet) {
    let bare = Bare::start(Keep::OnDisk { synced: true });
    let load = || Load::put(scale, bare.addr(), size).run();
    let turns = put::beside_the_disk(scale, size, || bare.round(load));
    let what = format!("PUT of {} to a bare loop, durable / fdatasync per {CONNECTIONS}", kib(size));
    sheet.add(Line::ratio(what, "a second", &turns, Round::per_second));
}

fn uploads(scale: &Scale, cluster: &Cluster, size: usize, sheet: &mut Sheet) {
    let nodes: Vec<String> = cluster.servers.iter().map(ShardServer::addr).collect();
    let redis = redis(cluster);
    let bare = Bare::of(move |listener, stop| relay::uploads(listener, stop, &nodes, &redis));
    let turns = coordinator::beside_a_node(scale, cluster, size, |load| {
        let mut own = 0.0;
        let mut round = Round::of(&coordinator::behind(cluster), || {
            let round = bare.round(|| load(bare.addr()));
            own = round.cpu_seconds;
            round.answered
        });
        round.cpu_seconds += own;
        round
    });
    coordinator::lines("a bare relay", size, &turns).into_iter().for_each(|line| sheet.add(line));
}

fn copies(scale: &Scale, cluster: &Cluster, sheet: &mut Sheet) {
    let nodes = [0, 1].map(|at| cluster.servers[at].addr());
    let mut turns = Turns::default();
    for round in 0..scale.rounds {
        // Half of them on each node.
        let targets = [0, 1].map(|node| -> Vec<String> {
            (0..scale.backlog / 2).map(|at| format!("/bare/{round}/{node}/{at}")).collect()
        });
        let count = targets.iter().map(Vec::len).sum::<usize>() as u64;
        clear(scale);
        nodes.iter().zip(&targets).for_each(|(node, targets)| upload(node, targets));
        settle();
        let before = cpu::own();
        let mut ours = Round::of(&coordinator::behind(cluster), || {
            let started = Instant::now();
            relay::copies(&nodes, &redis(cluster), &targets, replicator::CONNECTIONS).expect("copy");
            let per_second = count as f64 / started.elapsed().as_secs_f64();
            Answered { requests: count, per_second, ..Answered::default() }
        });
        ours.cpu_seconds += cpu::own() - before;
        turns.ours.push(ours);
        clear(scale);
        turns.peer.push(replicator::straight(scale, cluster));
    }
    replicator::lines("a bare relay", &turns).into_iter().for_each(|line| sheet.add(line));
}

/// Uploads blobs of 16 KiB, for others to copy.
fn upload(node: &str, targets: &[String]) {
    std::thread::scope(|scope| {
        for part in targets.chunks(targets.len().div_ceil(CONNECTIONS as usize)) {
            scope.spawn(move || {
                let mut wire = Wire::connect(node);
                for target in part {
                    assert_eq!(wire.ask("PUT", target, "", &[7; replicator::SIZE]), 201);
                }
            });
        }
    });
}

fn redis(cluster: &Cluster) -> Vec<String> {
    cluster.redis.iter().map(Redis::addr).collect()
}
