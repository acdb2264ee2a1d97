//! What no task says any more is found by comparing the servers of a shard, by a cluster that nobody looks after.

mod support;

use std::time::Duration;

use support::{
    cluster::{Cluster, ClusterBuilder, ROOT},
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
    assert_eq!(cluster.queue_stats().backlog(), keys.len() as u64, "no copy was made yet");
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
