//! The queue's commands on real Redis servers.

use std::{sync::Arc, time::Duration};

use backpack::{
    model::{QueueInfo, QueueServer},
    queue::{self, Queue, QueueOptions, Want},
};

use super::Cluster;
use crate::support::{
    redis::{Redis, RedisOptions},
    wait::START_WITHIN,
};

/// A cluster whose queue is on these servers.
fn cluster(servers: &[&Redis]) -> Cluster {
    let cluster = Cluster::new();
    let addrs: Vec<String> = servers.iter().map(|server| server.addr()).collect();
    cluster.set_up(&addrs.join(","));
    cluster
}

/// Does something to the queue past the program.
fn on_queue<T>(server: &Redis, work: impl AsyncFnOnce(Arc<dyn Queue>) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let server = QueueServer { host: "127.0.0.1".into(), port: server.port(), tls: false };
        let info = QueueInfo { key: "backpack-queue".into(), servers: vec![server] };
        let options = QueueOptions {
            connect_timeout: START_WITHIN,
            command_timeout: START_WITHIN,
            ..QueueOptions::default()
        };
        work(queue::connect(&info, &options, None).unwrap()).await
    })
}

/// Claims everything and gives it up.
fn bury_all(server: &Redis, reason: &str) {
    on_queue(server, async |queue| {
        let want = Want { max: 100, max_per_target: 100, ..Want::default() };
        for claim in queue.claim(&want, START_WITHIN).await.unwrap() {
            queue.bury(&claim, reason).await.unwrap();
        }
    });
}

#[test]
fn tasks_are_pushed_listed_and_counted() {
    let (one, two) = (Redis::start(), Redis::start());
    let cluster = cluster(&[&one, &two]);
    assert_eq!(cluster.ok("queue push", "1 4 /hi.txt"), "Pushed the copy of /hi.txt from 1 to 4\n");
    cluster.ok("queue push", "2,1 5 a/b?x=%20y");
    let json = cluster.json("queue push", "1 4 /%D1%84:2");
    assert_eq!(json["pushed"]["key"], "%D1%84:2");

    let listed = cluster.ok("queue list", "");
    let head: Vec<&str> = listed.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["TARGET", "STAGE", "WHAT", "KEY", "VERSION", "FROM", "TRIES", "AGE"]);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    let of_5 = cluster.json("queue list", "--target 5");
    assert_eq!(of_5.as_array().unwrap().len(), 1);
    assert_eq!(of_5[0]["task"]["key"], "a/b?x=%20y");
    assert_eq!(of_5[0]["task"]["from"], serde_json::json!(["2", "1"]));
    assert_eq!(cluster.json("queue list", "--key hi.txt")[0]["task"]["to"], "4");
    assert!(cluster.ok("queue list", "--limit 1").contains("--limit shows more"));

    let stats = cluster.json("queue stats", "");
    assert_eq!((&stats["backlog"], &stats["dead"]), (&3.into(), &0.into()));
    // One server gives a task out, the other keeps it as a backup.
    let of_4 = |stage: &str| stats["targets"]["4"][stage].as_u64().unwrap();
    assert_eq!(of_4("ready") + of_4("delayed"), 2);
    assert_eq!(stats["servers"].as_array().unwrap().len(), 2);
    let text = cluster.ok("queue stats", "");
    let first = format!("Queue backpack-queue on {}, {}: 3 to copy, the oldest for", one.addr(), two.addr());
    assert!(text.starts_with(&first), "{text}");

    let unknown = cluster.refused(1, "queue push", "1 9 /hi.txt");
    assert!(unknown.contains("unknown server 9"), "{unknown}");
}

#[test]
fn a_target_is_paused_and_resumed() {
    let redis = Redis::start();
    let cluster = cluster(&[&redis]);
    cluster.ok("queue push", "1 4 /hi.txt");
    assert!(cluster.ok("queue pause", "4").starts_with("Tasks of server 4 are paused\n"));
    assert!(
        cluster.ok("queue pause", "4").starts_with("Tasks of server 4 are paused\n"),
        "twice is harmless"
    );
    assert_eq!(cluster.json("queue stats", "")["targets"]["4"]["paused"], true);
    let want = Want { max: 1, max_per_target: 1, ..Want::default() };
    let claimed = |wait| on_queue(&redis, async |queue| queue.claim(&want, wait).await.unwrap().len());
    assert_eq!(claimed(Duration::ZERO), 0);
    assert_eq!(cluster.ok("queue resume", "4"), "Tasks of server 4 are given out\n");
    assert_eq!(claimed(START_WITHIN), 1);
    assert!(cluster.ok("queue pause", "77").contains("There is no server 77 in the map"));
}

#[test]
fn dead_letters_are_listed_given_out_again_and_removed() {
    let redis = Redis::start();
    let cluster = cluster(&[&redis]);
    for (to, key) in [("4", "a"), ("4", "b"), ("5", "c")] {
        cluster.ok("queue push", &format!("1 {to} /{key}"));
    }
    bury_all(&redis, "the source lost it");
    let text = cluster.ok("queue dead", "");
    assert!(text.contains("the source lost it") && text.contains("queue redrive"), "{text}");
    let dead = cluster.json("queue dead", "--target 4");
    assert_eq!(dead.as_array().unwrap().len(), 2);
    let id = dead[0]["id"].as_str().unwrap();
    assert_eq!(cluster.json("queue dead", &format!("--id {id}")).as_array().unwrap().len(), 1);

    assert_eq!(cluster.ok("queue redrive", "--target 5"), "Gave 1 dead letter out again.\n");
    assert_eq!(cluster.ok("queue discard", &format!("--id {id}")), "Removed 1 dead letter.\n");
    assert_eq!(cluster.ok("queue discard", &format!("--id {id}")), "There was no such dead letter.\n");
    let stats = cluster.json("queue stats", "");
    assert_eq!((&stats["backlog"], &stats["dead"]), (&1.into(), &1.into()));
    assert_eq!(cluster.json("queue redrive", "--all")["redriven"], 1);
    bury_all(&redis, "again");
    assert_eq!(cluster.json("queue discard", "--all")["discarded"], 2);
    assert_eq!(cluster.ok("queue dead", ""), "No such dead letter.\n");
}

#[test]
fn the_password_comes_from_the_environment_or_a_file_and_is_never_shown() {
    let redis = Redis::start_with(&RedisOptions { password: Some("sesame"), ..RedisOptions::default() });
    let cluster = cluster(&[&redis]);
    let refused = cluster.refused(1, "queue stats", "");
    assert!(refused.contains("refuses access"), "{refused}");
    cluster.env("BACKPACK_REDIS_PASSWORD", "sesame").ok("queue stats", "");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "sesame\n").unwrap();
    cluster.env("BACKPACK_REDIS_PASSWORD_FILE", file.to_str().unwrap()).ok("queue stats", "");
    let wrong = cluster.env("BACKPACK_REDIS_PASSWORD", "barley").refused(1, "queue stats", "--log trace");
    assert!(!wrong.contains("barley"), "{wrong}");
    let lost = cluster.env("BACKPACK_REDIS_PASSWORD_FILE", "/nowhere").refused(1, "queue stats", "");
    assert!(lost.contains("/nowhere"), "{lost}");
}

#[test]
fn maps_are_edited_and_read_while_redis_is_down() {
    let redis = Redis::start();
    let cluster = cluster(&[&redis]);
    redis.kill();
    cluster.ok("add-server", "7 127.0.0.1:10007");
    cluster.ok("set-queue", &format!("other {}", redis.addr()));
    cluster.ok("print-stats", "");
    let status = cluster.call("status", "");
    assert_eq!(status.code, 0, "{status:?}");
    assert!(status.stdout.contains("The queue cannot be seen: the queue does not answer"), "{status:?}");
    let refused = cluster.refused(1, "queue stats", "");
    assert!(refused.contains("the queue does not answer") && refused.contains(&redis.addr()), "{refused}");
}
