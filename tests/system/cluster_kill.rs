//! Under a steady load, one part of a cluster after the other is killed with SIGKILL in the middle of its work and started
//! again. Whatever was acknowledged is there in the end, on every server of its shard, and counted; nothing else died.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use crate::{
    cluster_load::{Answer, UPLOADS, cluster},
    support::{
        cluster::{ClusterBuilder, ROOT, stats},
        http::Request,
        shard_server::{Kind, ShardServer},
        wait::wait_until,
    },
};

/// For one answer.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_killed_coordinator() {
    // What one had not written before it was killed is counted by nobody: the bytes that it names, and those of uploads
    // that it acknowledges between naming them and its death.
    let cluster = cluster().start();
    let (mut kills, ends) = (Vec::new(), RefCell::new(Vec::new()));
    let kill = |round: usize| {
        let (coordinator, asked) = (&cluster.coordinators[round % 2], Instant::now());
        let unwritten = stats(coordinator)["uncounted_bytes"].as_u64().unwrap();
        coordinator.kill();
        kills.push((round % 2, asked, unwritten));
    };
    let restart = |round: usize| {
        ends.borrow_mut().push(Instant::now());
        cluster.coordinators[round % 2].restart();
    };
    let record = crate::cluster_load::disturbed(&cluster, kill, restart);
    let kills: Vec<_> = kills.into_iter().zip(ends.into_inner()).collect();
    record.assert_failures_are_clean(true);
    let refused = record.uploads.iter().find(|upload| matches!(upload.answer, Answer::Refused { .. }));
    assert!(refused.is_none(), "one that has just started knows the map before it answers: {refused:?}");
    record.assert_nothing_is_lost(&cluster);

    let lost = |coordinator: usize, at: Instant| {
        kills.iter().any(|((killed, asked, _), end)| *killed == coordinator && (*asked..=*end).contains(&at))
    };
    let uncounted = record.acknowledged().map(|(upload, ..)| upload);
    let uncounted = uncounted.filter(|upload| !upload.overwrites && lost(upload.coordinator, upload.at));
    let unwritten: u64 = kills.iter().map(|((.., unwritten), _)| unwritten).sum();
    let uncounted = unwritten + uncounted.map(|upload| upload.size as u64).sum::<u64>();
    let (least, most) = record.used();
    let counted = cluster.used("1") + cluster.used("2");
    println!("counted {counted}, stored {least} to {most}, of which {uncounted} may not be counted");
    assert!(counted + uncounted >= least, "counted {counted}, stored {least}, {uncounted} not counted yet");
    assert!(counted <= most, "counted {counted}, stored at most {most}");
}

#[test]
fn a_coordinator_that_starts_while_zookeeper_is_away() {
    let cluster = ClusterBuilder::new().shard(&[Kind::Node, Kind::Node]).start();
    assert_eq!(cluster.put(0, "hi.txt", "hello").send_blocking().unwrap().status, 200);
    cluster.zookeeper.kill();
    let coordinator = &cluster.coordinators[0];
    coordinator.daemon().restart();
    wait_until("it answers", SOON, || Request::get(coordinator.addr(), "/-/live").send_blocking().is_ok());
    for request in [Request::get(coordinator.addr(), "/1:hi.txt"), cluster.put(0, "late.txt", "hello")] {
        let reply = request.send_blocking().unwrap();
        assert_eq!(reply.status, 503, "what it does not know it does not deny: {}", reply.text());
    }
    cluster.zookeeper.restart();
    coordinator.wait_ready();
    assert_eq!(Request::get(coordinator.addr(), "/1:hi.txt").send_blocking().unwrap().text(), "hello");
    assert_eq!(cluster.put(0, "late.txt", "hello").send_blocking().unwrap().status, 200);
}

#[test]
fn a_killed_node() {
    let cluster = cluster().start();
    // Nodes of both shards, and one of those of the keys that are overwritten.
    let node = |round: usize| &cluster.servers[[0, 3, 5][round]];
    let record =
        crate::cluster_load::disturbed(&cluster, |round| node(round).kill(), |round| node(round).restart());
    record.assert_failures_are_clean(false);
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn a_killed_replicator() {
    let cluster = cluster().start();
    let kill = |round: usize| cluster.replicators[round % 2].kill();
    let record =
        crate::cluster_load::disturbed(&cluster, kill, |round| cluster.replicators[round % 2].restart());
    record.assert_failures_are_clean(false);
    assert_eq!(record.acknowledged().count(), record.uploads.len(), "no upload needs a replicator");
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn a_killed_redis() {
    let cluster = cluster().start();
    let kill = |round: usize| cluster.redis[round % 2].kill();
    let record = crate::cluster_load::disturbed(&cluster, kill, |round| cluster.redis[round % 2].restart());
    record.assert_failures_are_clean(false);
    assert_eq!(record.acknowledged().count(), record.uploads.len(), "one of two Redis servers is enough");
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn a_killed_zookeeper() {
    let cluster = cluster().start();
    let record = crate::cluster_load::disturbed(
        &cluster,
        |_| cluster.zookeeper.kill(),
        |_| cluster.zookeeper.restart(),
    );
    record.assert_failures_are_clean(false);
    assert_eq!(record.acknowledged().count(), record.uploads.len(), "no upload waits for ZooKeeper");
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn a_shard_that_is_added_meanwhile_is_used_without_a_restart() {
    let mut cluster = cluster().watch().start();
    let mut added = Vec::new();
    let record = crate::cluster_load::run(&cluster, UPLOADS, |load| {
        load.wait_for_acknowledged(UPLOADS / 4);
        for id in ["7", "8"] {
            let server = ShardServer::start(Kind::Node, id, &cluster.zookeeper.addr(), ROOT);
            server.wait_ready();
            cluster.admin.ok("add-server", [id, &format!("http://{}", server.addr())]);
            added.push(server);
        }
        cluster.admin.ok("add-shard", ["4", "7,8", "100gb"]);
        cluster.admin.ok("enable-shard", ["4"]);
        load.wait_for_shard("4");
        load.wait_for_more(UPLOADS / 4);
    });
    cluster.servers.extend(added);
    cluster.shards.push(vec![7, 8]);
    record.assert_failures_are_clean(false);
    assert_eq!(record.acknowledged().count(), record.uploads.len(), "nothing failed meanwhile");
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2", "4"]);
}
