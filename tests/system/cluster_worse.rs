//! Worse than one killed part: several at once, all of a kind, or parts that hang instead of ending. As in
//! `cluster_kill.rs`, nothing that was acknowledged is lost. A part that hangs goes on only after more uploads have ended
//! than there are clients: none of them waits for it.

use crate::{
    cluster_load::{UPLOADS, cluster},
    support::{
        cluster::{Cluster, stats},
        daemon::Daemon,
        wait::{START_WITHIN, wait_until},
    },
};

fn node(cluster: &Cluster, number: usize) -> &Daemon {
    cluster.servers[number - 1].daemon().expect("the servers are our own nodes")
}

#[test]
fn one_of_everything_killed_at_once() {
    let cluster = cluster().start();
    let kill = |time: usize| {
        cluster.zookeeper.kill();
        cluster.redis[time % 2].kill();
        cluster.replicators[time % 2].kill();
        cluster.servers[time].kill();
    };
    let restart = |time: usize| {
        cluster.zookeeper.restart();
        cluster.redis[time % 2].restart();
        cluster.replicators[time % 2].restart();
        cluster.servers[time].restart();
    };
    let record = crate::cluster_load::disturbed(&cluster, kill, restart);
    record.assert_failures_are_clean(false);
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn all_redis_servers_killed() {
    let cluster = cluster().start();
    let all = || cluster.redis.iter();
    let restart = |_| all().for_each(|redis| redis.restart());
    let record = crate::cluster_load::disturbed(&cluster, |_| all().for_each(|redis| redis.kill()), restart);
    assert_eq!(record.acknowledged().count(), record.uploads.len(), "copies are made at once instead");
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn a_whole_shard_killed() {
    let cluster = cluster().start();
    let all = || cluster.servers[..2].iter();
    let restart = |_| all().for_each(|server| server.restart());
    let record =
        crate::cluster_load::disturbed(&cluster, |_| all().for_each(|server| server.kill()), restart);
    record.assert_failures_are_clean(false);
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn a_node_that_hangs() {
    let cluster = cluster().start();
    let record = crate::cluster_load::run(&cluster, UPLOADS, |load| {
        load.wait_for_acknowledged(UPLOADS / 3);
        node(&cluster, 1).stop();
        load.wait_for_more(UPLOADS / 3);
        node(&cluster, 1).cont();
    });
    record.assert_failures_are_clean(false);
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn a_redis_that_hangs() {
    let cluster = cluster().start();
    let hang = |time: usize| cluster.redis[time % 2].stop();
    let record = crate::cluster_load::disturbed(&cluster, hang, |time| cluster.redis[time % 2].cont());
    assert_eq!(record.acknowledged().count(), record.uploads.len(), "one of two Redis servers is enough");
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn a_zookeeper_that_hangs() {
    let cluster = cluster().start();
    let record = crate::cluster_load::run(&cluster, UPLOADS, |load| {
        load.wait_for_acknowledged(UPLOADS / 3);
        cluster.zookeeper.stop();
        wait_until("the map is known to be old", START_WITHIN, || {
            stats(&cluster.coordinators[0])["map_state"] != "current"
        });
        load.wait_for_more(UPLOADS / 3);
        cluster.zookeeper.cont();
    });
    assert_eq!(record.acknowledged().count(), record.uploads.len(), "no upload waits for ZooKeeper");
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}
