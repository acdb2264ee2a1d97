//! Worse than one killed part: several at once, all of a kind, or parts that hang instead of ending. As in
//! `cluster_kill.rs`, nothing that was acknowledged is lost.

mod cluster_load;
mod support;

use std::time::Duration;

use cluster_load::{UPLOADS, cluster};
use support::{
    cluster::{Cluster, stats},
    daemon::Daemon,
    wait::wait_until,
};

/// The longest that a client waits when a queue or map server hangs: the queue is given three seconds, then copies are
/// made at once, on a busy machine.
const WITHOUT_A_STORE: Duration = Duration::from_secs(15);

/// The same when a server of blobs hangs: it is given twenty seconds for its answer.
const WITHOUT_A_SERVER: Duration = Duration::from_secs(35);

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
    let record = cluster_load::disturbed(&cluster, kill, restart);
    record.assert_failures_are_clean(false);
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn all_redis_servers_killed() {
    let cluster = cluster().start();
    let all = || cluster.redis.iter();
    let restart = |_| all().for_each(|redis| redis.restart());
    let record = cluster_load::disturbed(&cluster, |_| all().for_each(|redis| redis.kill()), restart);
    assert_eq!(record.acknowledged().count(), record.uploads.len(), "copies are made at once instead");
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn a_whole_shard_killed() {
    let cluster = cluster().start();
    let all = || cluster.servers[..2].iter();
    let restart = |_| all().for_each(|server| server.restart());
    let record = cluster_load::disturbed(&cluster, |_| all().for_each(|server| server.kill()), restart);
    record.assert_failures_are_clean(false);
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn a_node_that_hangs() {
    let cluster = cluster().start();
    let record = cluster_load::run(&cluster, UPLOADS, |load| {
        load.wait_for_acknowledged(UPLOADS / 3);
        node(&cluster, 1).stop();
        load.wait_for_more(UPLOADS / 3);
        node(&cluster, 1).cont();
    });
    record.assert_failures_are_clean(false);
    assert!(record.slowest() < WITHOUT_A_SERVER, "{:?}", record.slowest());
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn a_redis_that_hangs() {
    let cluster = cluster().start();
    let hang = |time: usize| cluster.redis[time % 2].stop();
    let record = cluster_load::disturbed(&cluster, hang, |time| cluster.redis[time % 2].cont());
    assert_eq!(record.acknowledged().count(), record.uploads.len(), "one of two Redis servers is enough");
    assert!(record.slowest() < WITHOUT_A_STORE, "{:?}", record.slowest());
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}

#[test]
fn a_zookeeper_that_hangs() {
    let cluster = cluster().start();
    let record = cluster_load::run(&cluster, UPLOADS, |load| {
        load.wait_for_acknowledged(UPLOADS / 3);
        cluster.zookeeper.stop();
        wait_until("the map is known to be old", Duration::from_secs(30), || {
            stats(&cluster.coordinators[0])["map_state"] != "current"
        });
        load.wait_for_more(UPLOADS / 3);
        cluster.zookeeper.cont();
    });
    assert_eq!(record.acknowledged().count(), record.uploads.len(), "no upload waits for ZooKeeper");
    assert!(record.slowest() < WITHOUT_A_STORE, "{:?}", record.slowest());
    record.assert_nothing_is_lost(&cluster);
    record.assert_all_is_counted(&cluster, &["1", "2"]);
}
