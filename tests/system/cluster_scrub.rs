//! What no task says any more is found by comparing the servers of a shard, by a cluster that nobody looks after.

use std::time::Duration;

use crate::support::{
    cluster::{Cluster, ClusterBuilder, ROOT},
    http::Request,
    shard_server::Kind,
    wait::wait_until,
    znodes::Znodes,
};

/// Some looks, a comparison, and the copies.
const SOON: Duration = Duration::from_secs(180);

fn record(cluster: &Cluster, shard: &str) -> serde_json::Value {
    let znode = Znodes::connect(&cluster.zookeeper.addr()).get(&format!("{ROOT}/scrub-{shard}"));
    znode.map_or(serde_json::Value::Null, |text| serde_json::from_str(&text).expect("it is JSON"))
}

#[test]
fn copies_that_a_lost_queue_forgot_are_made() {
    let cluster = ClusterBuilder::new().shard(&[Kind::Node, Kind::Node]).start();
    wait_until("the shard was compared", SOON, || record(&cluster, "1")["last"].is_object());
    for target in ["1", "2"] {
        cluster.admin.ok("queue pause", [target]);
    }
    let keys: Vec<String> = (0..50).map(|n| format!("k/{n}")).collect();
    for key in &keys {
        let stored = cluster.put(0, key, format!("bytes of {key}")).send_blocking().expect("an answer");
        assert_eq!(stored.status, 200, "{stored:?}");
    }
    // A comparison beside the uploads may have put a task there twice.
    assert!(cluster.queue_stats().backlog() >= keys.len() as u64, "no copy was made yet");
    for redis in &cluster.redis {
        redis.command("FLUSHALL");
    }
    let every_copy_is_there =
        || keys.iter().all(|key| cluster.copies("1", key).iter().all(|(_, copy)| copy.status == 200));
    wait_until("every copy is made", SOON, every_copy_is_there);
    for key in &keys {
        cluster.assert_every_copy_is("1", key, format!("bytes of {key}").as_bytes());
    }
    cluster.assert_all_run();
}

#[test]
fn a_server_that_is_down_for_long_fills_no_queue_and_lacks_nothing_in_the_end() {
    // Fewer than make a server fall behind, or the comparison that puts them on the queue would make it fall behind again.
    let some = 10;
    let cluster = ClusterBuilder::new()
        .shard(&[Kind::Node, Kind::Node])
        .env("BACKPACK_COORDINATOR_MAX_BACKLOG", "20")
        .start();
    wait_until("the shard was compared", SOON, || record(&cluster, "1")["last"].is_object());
    cluster.servers[1].kill();
    let mut keys = Vec::new();
    let left_out = || {
        let metrics =
            Request::get(cluster.coordinators[0].addr(), "/-/metrics").send_blocking().expect("an answer");
        let text = metrics.text();
        let line =
            text.lines().find_map(|line| line.strip_prefix("backpack_coordinator_tasks_left_out_total "));
        line.map_or(0, |count| count.parse::<u64>().expect("a number"))
    };
    // Some hundred uploads: until the coordinator has looked at the queue.
    wait_until("tasks are left out", SOON, || {
        let key = format!("k/{}", keys.len());
        let stored = cluster.put(0, &key, format!("bytes of {key}")).send_blocking().expect("an answer");
        assert_eq!(stored.status, 200, "{stored:?}");
        keys.push(key);
        left_out() >= some
    });
    assert!(
        cluster.queue_stats().backlog() + left_out() >= keys.len() as u64,
        "no task is lost without the mark"
    );
    let behind = || {
        let znode = Znodes::connect(&cluster.zookeeper.addr()).get(&format!("{ROOT}/behind-2"));
        let behind: serde_json::Value =
            serde_json::from_str(&znode.expect("it was marked")).expect("it is JSON");
        behind["since_ms"].as_u64().expect("a time")
    };
    assert!(behind() > 0);
    let status = cluster.admin.ok("status", Vec::<String>::new());
    assert!(status.contains("tasks for server 2 are left out until it is compared"), "{status}");

    cluster.servers[1].restart();
    wait_until("the mark is taken away", SOON, || behind() == 0);
    cluster.wait_drained();
    for key in &keys {
        cluster.assert_every_copy_is("1", key, format!("bytes of {key}").as_bytes());
    }
    cluster.assert_all_run();
}
