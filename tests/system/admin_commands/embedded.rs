//! All commands on the embedded parts, while another process has them open.

use std::fs;

use super::Cluster;
use crate::support::{daemon::Daemon, http::Request, port::free_port};

const BACKPACK: &str = env!("CARGO_BIN_EXE_backpack");

#[test]
fn a_one_machine_system_that_runs_is_looked_after() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let addr = format!("127.0.0.1:{}", free_port());
    let system = Daemon::start(BACKPACK, ["--data", &data, "--listen", &addr]);
    system.wait_ready(&addr);
    let cluster = Cluster::at(&format!("embedded:{data}"), "/");
    assert!(fs::metadata(format!("{data}/map")).unwrap().is_dir(), "the map lies in the data folder");
    assert!(fs::metadata(format!("{data}/queue")).unwrap().is_dir(), "and the queue beside it");

    let stored = Request::put(&addr, "/hi.txt", "hello, backpack!").send_blocking().unwrap();
    assert_eq!((stored.status, stored.text().as_str()), (200, "{\"shard_id\":\"1\"}\n"));
    assert!(cluster.ok("print-stats", "").starts_with("Shards:\n1 [1, 2]: "));
    assert!(cluster.ok("status", "").starts_with("Servers: 2 of 2 answer\n"));
    assert_eq!(cluster.json("recount", "")["shards"][0]["used"], 16);
    assert!(cluster.ok("nginx-config", "").contains("backpack-shard-1"));

    // The system that runs sees what is changed.
    assert!(cluster.ok("disable-shard", "1").contains("No shard takes uploads now"));
    crate::support::wait::wait_until("uploads are refused", crate::support::wait::START_WITHIN, || {
        Request::put(&addr, "/more", "x").send_blocking().is_ok_and(|reply| reply.status == 503)
    });
    cluster.ok("enable-shard", "1");
    cluster.ok("queue pause", "2");
    assert_eq!(cluster.json("queue stats", "")["targets"]["2"]["paused"], true);
    cluster.ok("queue push", "1 2 /hi.txt");
    assert_eq!(cluster.json("queue list", "")[0]["stage"], "ready");
    cluster.ok("queue resume", "2");
    crate::support::wait::wait_until("the copy is made", crate::support::wait::START_WITHIN, || {
        cluster.json("queue stats", "")["backlog"] == 0
    });
}

#[test]
fn an_embedded_cluster_is_set_up_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::at(&format!("embedded:{}", folder.path().display()), "/backpack");
    cluster.set_up("embedded");
    assert!(cluster.ok("print-stats", "").ends_with("Overall: 0b / 300gb (0%)\n"));
    assert_eq!(cluster.document("/queue")["servers"], serde_json::json!([]));
    cluster.ok("queue push", "1 4 /hi.txt");
    assert!(cluster.ok("queue stats", "").starts_with("Queue backpack-queue in the data folder: 1 to copy"));
    assert!(cluster.refused(1, "enable-shard", "9").contains("unknown shard 9"));
}
