//! Commands that ask the servers: `status`, `recount` and `scrub`, with nodes of ours, the original's, and one that is down.

use serde_json::Value;

use super::Cluster;
use crate::support::{
    daemon::Daemon, http::Request, original_node::OriginalNode, port::free_port, redis::Redis,
};

const NODE: &str = env!("CARGO_BIN_EXE_backpack-node");

struct Servers {
    cluster: Cluster,
    _redis: Redis,
    _original: OriginalNode,
    node: String,
    _daemon: Daemon,
    _data: tempfile::TempDir,
}

/// Shard 1 on a node of ours that announces itself and the original's; shard 2 on the original's and one that is down.
fn start() -> Servers {
    let (cluster, redis, original) = (Cluster::new(), Redis::start(), OriginalNode::start());
    let second = OriginalNode::start();
    cluster.ok("coordinator-init", &format!("q {}", redis.addr()));
    let data = tempfile::tempdir().unwrap();
    let (port, dead) = (free_port(), free_port());
    let folder = data.path().to_str().unwrap().to_owned();
    let port_text = port.to_string();
    let args = [&folder, "127.0.0.1", &port_text, "--id", "1", "--zk", &cluster.zk, "--root", &cluster.root];
    let daemon = Daemon::start(NODE, args);
    let node = format!("127.0.0.1:{port}");
    daemon.wait_ready(&node);
    for (id, addr) in [("1", &node), ("2", &original.addr()), ("3", &second.addr())] {
        cluster.ok("add-server", &format!("{id} {addr}"));
    }
    cluster.ok("add-server", &format!("4 127.0.0.1:{dead}"));
    cluster.ok("add-shard", "1 1,2 1mb");
    cluster.ok("add-shard", "2 3,4 1mb");
    cluster.ok("enable-shard", "1");
    drop(second);
    Servers { cluster, _redis: redis, _original: original, node, _daemon: daemon, _data: data }
}

#[test]
fn scrub_says_what_is_missing_and_queues_it() {
    let servers = start();
    let cluster = &servers.cluster;
    for key in ["a", "b?x=%20"] {
        let stored = Request::put(&servers.node, &format!("/{key}"), "bytes").send_blocking().unwrap();
        assert_eq!(stored.status, 201);
    }
    let dry = cluster.ok("scrub", "--shard 1 --dry-run");
    assert!(
        dry.starts_with("Shard 1: 2 keys compared, 2 copies missing; nothing was queued (--dry-run)"),
        "{dry}"
    );
    assert!(dry.contains("server 2 cannot list, so it was asked key by key"), "{dry}");
    let done = cluster.json("scrub", "--shard 1");
    assert_eq!(done["shards"][0]["found"]["queued"], 2);
    assert_eq!(cluster.json("scrub", "--shard 1")["shards"][0]["found"]["already_queued"], 2);
    let listed = cluster.json("queue list", "--target 2");
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(cluster.document("/scrub-1")["last"]["found"]["missing_copies"], 2);

    let refused = cluster.refused(1, "scrub", "");
    assert!(refused.contains("Shard 2: not compared: there are no two servers to compare"), "{refused}");
    assert!(refused.contains("server 4 does not answer"), "{refused}");
    assert!(cluster.refused(1, "scrub", "--shard 9").contains("unknown shard 9"));
    assert!(cluster.refused(1, "scrub", "--server 9").contains("unknown server 9"));
}

#[test]
fn recount_sets_what_the_nodes_say_and_leaves_the_rest_alone() {
    let servers = start();
    let cluster = &servers.cluster;
    for (key, bytes) in [("a", 1000), ("b", 24)] {
        let stored = Request::put(&servers.node, &format!("/{key}"), vec![7; bytes]).send_blocking().unwrap();
        assert_eq!(stored.status, 201);
    }
    let dry = cluster.ok("recount", "--dry-run");
    let expected =
        "Shard 1: would be set to 1kb, was 0b (server 1 holds 1kb; server 2 does not say how much it holds)";
    assert_eq!(dry.lines().next(), Some(expected));
    assert!(dry.lines().nth(1).unwrap().starts_with("Shard 2: left alone (server 3 does not"), "{dry}");
    assert_eq!(cluster.document("/shard-size-1")["current"], 0);

    let counted = cluster.json("recount", "");
    assert_eq!(
        (&counted["shards"][0]["used"], &counted["shards"][0]["changed"]),
        (&1024.into(), &true.into())
    );
    assert_eq!(counted["shards"][1]["used"], Value::Null);
    assert_eq!(cluster.document("/shard-size-1")["current"], 1024);
    assert!(cluster.ok("recount", "--shard 1").starts_with("Shard 1: 1kb, as before"));
    let refused = cluster.refused(1, "recount", "--shard 2");
    assert!(refused.contains("no shard could be counted\nShard 2: left alone"), "{refused}");
}

#[test]
fn status_shows_the_cluster_and_what_needs_attention() {
    let servers = start();
    let cluster = &servers.cluster;
    cluster.ok("queue push", "1 2 /hi.txt");
    cluster.ok("queue pause", "2");
    let text = cluster.ok("status", "");
    let row = |start: &str| {
        let line =
            text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start} in {text}"));
        line.split_whitespace().collect::<Vec<_>>()
    };
    assert!(text.starts_with("Servers: 2 of 4 answer\n"), "{text}");
    assert_eq!(row("1  ")[1..5], [&servers.node, "up", "yes", env!("CARGO_PKG_VERSION")]);
    assert_eq!(row("2  ")[2..4], ["up", "-"]);
    assert_eq!(row("4  ")[2], "down");
    assert!(text.contains("Shards: 1 of 2 take uploads\n") && text.contains("] 0%"), "{text}");
    assert!(text.contains(": 1 to copy, the oldest for"), "{text}");
    let attention: Vec<&str> = text.split("Needs attention:\n").nth(1).unwrap().lines().collect();
    let says =
        |part: &str| assert!(attention.iter().any(|line| line.contains(part)), "{part}: {attention:?}");
    says("No server of shard 2 answers");
    says("does not answer: cannot connect");
    says("Tasks of server 2 are paused, 1 wait");
    says("Shard 1 may lack copies that nobody knows of: its servers were never compared");
    assert_eq!(attention.len(), 6, "{attention:?}");
    assert!(text.contains("\nMissing copies: 1, the oldest for"), "{text}");

    let json = cluster.json("status", "");
    assert_eq!(json["servers"][0]["announced"], true);
    assert_eq!(json["servers"][3]["up"], false);
    assert_eq!(json["queue"]["backlog"], 1);
    assert_eq!(json["attention"].as_array().unwrap().len(), 6);
    assert_eq!(json["deficits"]["1"]["missing"], 1);
}
