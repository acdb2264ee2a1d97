//! What becomes of a task: where its blob is found, which version wins, when it is given up.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use backpack::{
    model::{Task, Version},
    queue::{Filter, Queue},
    replicator::Config,
};

use crate::{
    node_double::TestNode,
    replicator_rig::{Rig, SOON, config, copy, count, delete, version},
    support::{
        http::{Reply, Request},
        nginx::Nginx,
        original_node::{Fault, OriginalNode},
        wait::eventually,
    },
};

async fn put(node: &TestNode, key: &str, version: Version, bytes: &[u8]) {
    let request = Request::put(&node.addr, &format!("/{key}"), bytes);
    let reply = request.header("x-backpack-version", &version.to_string()).send().await.unwrap();
    assert!((200..300).contains(&reply.status), "{reply:?}");
}

async fn get(addr: &str, key: &str) -> Reply {
    Request::get(addr, &format!("/{key}")).send().await.unwrap()
}

/// Two of our nodes, "a" and "b", in shard "1".
async fn two_nodes() -> (Rig, TestNode, TestNode) {
    let (rig, a, b) = (Rig::new(), TestNode::start().await, TestNode::start().await);
    rig.add_server("a", &a.addr);
    rig.add_server("b", &b.addr);
    rig.add_shard("1", &["a", "b"]);
    (rig, a, b)
}

fn in_shard(task: Task) -> Task {
    Task { shard: Some("1".parse().unwrap()), ..task }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_lost_the_blob_is_passed_over_for_the_rest_of_its_shard() {
    let rig = Rig::new();
    let [lost, other, target] = rig.originals(["lost", "other", "t"]);
    rig.add_shard("1", &["lost", "other", "t"]);
    other.insert("k", "still here");
    rig.push(&[in_shard(copy("k", None, &["lost"], "t"))]).await;
    let replicator = rig.start(config());
    rig.drained(SOON).await;
    assert_eq!(target.blob("k").as_deref(), Some(&b"still here"[..]));
    assert_eq!(count(&lost, "GET"), 1);
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_every_source_lost_becomes_a_dead_letter_that_says_so() {
    let rig = Rig::new();
    let [a, b, _target] = rig.originals(["a", "b", "t"]);
    rig.add_shard("1", &["a", "b", "t"]);
    rig.push(&[in_shard(copy("k", None, &["a"], "t"))]).await;
    let replicator = rig.start(config());
    rig.drained(SOON).await;
    let dead = rig.dead().await;
    assert_eq!(dead.len(), 1);
    assert!(dead[0].reason.contains("no source has it"), "{}", dead[0].reason);
    assert_eq!(
        (count(&a, "GET"), count(&b, "GET")),
        (5, 5),
        "each was asked at every attempt: one may lag behind"
    );

    // Found again and redriven, it is copied.
    b.insert("k", "found");
    assert_eq!(rig.queue.redrive(&Filter::default()).await.unwrap(), 1);
    rig.drained(SOON).await;
    assert!(rig.dead().await.is_empty());
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_lags_behind_is_waited_for() {
    let rig = Rig::new();
    let [source, target] = rig.originals(["s", "t"]);
    rig.push(&[copy("k", None, &["s"], "t")]).await;
    let replicator = rig.start(Config { attempts: 1000, retry_max_ms: 50, ..config() });
    eventually("it was looked for", SOON, async || count(&source, "GET") >= 2).await;
    source.insert("k", "late");
    rig.drained(SOON).await;
    assert_eq!(target.blob("k").as_deref(), Some(&b"late"[..]));
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_source_makes_no_copy() {
    let (rig, a, b) = two_nodes().await;
    put(&a, "k", version(1), &[5; 300_000]).await;
    a.storage.damaged_from.lock().insert("k".to_owned(), 200_000);
    rig.push(&[in_shard(copy("k", Some(1), &["a"], "b"))]).await;
    let replicator = rig.start(config());
    eventually("it was tried", SOON, async || rig.of_target("b").await.claimed == 0).await;
    assert_eq!(get(&b.addr, "k").await.status, 404);

    // The damage is repaired meanwhile: the task is still there, or its letter is redriven.
    a.storage.damaged_from.lock().clear();
    eventually("the copy is made", SOON, async || {
        rig.queue.redrive(&Filter::default()).await.unwrap();
        get(&b.addr, "k").await.status == 200
    })
    .await;
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_copied_byte_for_byte() {
    let keys = [
        "a:b:c.jpg",
        "q?x=1&y=%2F",
        "100%25",
        "sp%20ace/%C3%A9",
        "фото/1.jpg",
        "日本語?ключ=знач",
        "//double//slash/",
        "p+l&us;=,@!$'()*~[]|\\^{}\"",
    ];
    let (rig, a, b) = two_nodes().await;
    let [original] = rig.originals(["o"]);
    for (number, key) in keys.iter().enumerate() {
        put(&a, key, version(1), key.as_bytes()).await;
        rig.push(&[copy(key, Some(1), &["a"], "b"), copy(key, Some(1), &["a"], "o")]).await;
        assert_eq!(rig.stats().await.backlog(), 2 * (number as u64 + 1));
    }
    let replicator = rig.start(config());
    rig.drained(SOON).await;
    assert!(rig.dead().await.is_empty());
    for key in keys {
        assert_eq!(get(&b.addr, key).await.body, key.as_bytes(), "{key}");
        assert_eq!(original.blob(key).as_deref(), Some(key.as_bytes()), "{key}");
    }
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_no_request_can_carry_is_given_up() {
    let (rig, ..) = two_nodes().await;
    rig.push(&[copy("a<b>`c", Some(1), &["a"], "b")]).await;
    let replicator = rig.start(config());
    rig.drained(SOON).await;
    assert!(rig.dead().await[0].reason.contains("is no address"), "{:?}", rig.dead().await);
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_task_twice_is_one_copy() {
    let rig = Rig::new();
    let [source, target] = rig.originals(["s", "t"]);
    // Slow, so that both are in flight at once.
    target.set_fault(Fault::Delay(Duration::from_millis(300)));
    source.insert("k", "blob");
    let task = copy("k", Some(1), &["s"], "t");
    rig.push(&[task.clone(), task.clone(), task.clone()]).await;
    let replicator = rig.start(config());
    rig.drained(SOON).await;
    assert_eq!(count(&target, "PUT"), 1);

    // Later, it is found to be there by its bytes, for this server has no versions.
    rig.push(&[task]).await;
    rig.drained(SOON).await;
    assert_eq!(count(&target, "PUT"), 1);
    assert!(rig.dead().await.is_empty());
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_failing_task_twice_is_tried_once_and_given_up_alike() {
    let rig = Rig::new();
    let [source, target] = rig.originals(["s", "t"]);
    target.set_fault(Fault::Status(403));
    source.insert("k", "blob");
    let task = copy("k", Some(1), &["s"], "t");
    rig.push(&[task.clone(), task]).await;
    let replicator = rig.start(Config { attempts: 1, ..config() });
    rig.drained(SOON).await;
    assert_eq!(target.seen().len(), 1);
    assert!(!rig.dead().await.is_empty());
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_out_of_order_end_at_the_newer() {
    let (rig, a, b) = two_nodes().await;
    put(&a, "k", version(2), b"second").await;
    put(&b, "newer", version(9), b"ninth").await;
    put(&a, "newer", version(3), b"third").await;
    rig.push(&[
        in_shard(copy("k", Some(2), &["a"], "b")),
        in_shard(copy("k", Some(1), &["a"], "b")),
        in_shard(copy("newer", Some(3), &["a"], "b")),
    ])
    .await;
    let replicator = rig.start(config());
    rig.drained(SOON).await;
    for (key, bytes, number) in [("k", "second", 2), ("newer", "ninth", 9)] {
        let reply = get(&b.addr, key).await;
        assert_eq!(reply.text(), bytes);
        assert_eq!(reply.header("x-backpack-version"), Some(version(number).to_string().as_str()));
    }
    assert!(rig.dead().await.is_empty());
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_copy_does_not_undo_a_delete() {
    let (rig, a, b) = two_nodes().await;
    put(&a, "k", version(1), b"old").await;
    rig.push(&[in_shard(delete("k", 2, "b")), in_shard(copy("k", Some(1), &["a"], "b"))]).await;
    let replicator = rig.start(Config { concurrency: 1, ..config() });
    rig.drained(SOON).await;
    assert_eq!(get(&b.addr, "k").await.status, 410);

    // The delete reaches the other server too; a copy back finds nothing to revive.
    rig.push(&[in_shard(delete("k", 2, "a"))]).await;
    rig.drained(SOON).await;
    rig.push(&[in_shard(copy("k", Some(1), &["b"], "a"))]).await;
    rig.drained(SOON).await;
    assert_eq!(get(&a.addr, "k").await.status, 410);
    assert!(rig.dead().await.is_empty());
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_are_made_where_they_can_be_and_given_up_where_not() {
    let (rig, a, _b) = two_nodes().await;
    let nginx = Nginx::webdav();
    rig.add_server("x", &nginx.addr());
    let [original] = rig.originals(["o"]);
    put(&a, "k", version(1), b"old").await;
    std::fs::write(nginx.files().join("k"), "old").unwrap();
    original.insert("k", "old");
    rig.push(&[delete("k", 2, "a"), delete("k", 2, "x"), delete("k", 2, "o"), delete("none", 2, "x")]).await;
    let replicator = rig.start(config());
    rig.drained(SOON).await;
    assert_eq!(get(&a.addr, "k").await.status, 410);
    assert!(!nginx.files().join("k").exists());
    let dead = rig.dead().await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].reason, "the target cannot delete");
    assert_eq!(count(&original, "DELETE"), 1, "what can never succeed is not tried again");
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_target_waits_for_the_map_and_an_unknown_source_for_nothing() {
    let rig = Rig::new();
    let [source] = rig.originals(["s"]);
    source.insert("k", "blob");
    rig.push(&[copy("k", None, &["s"], "later"), copy("k", None, &["nobody"], "s")]).await;
    let replicator = rig.start(config());
    rig.drained_of("s", SOON).await;
    assert!(rig.dead().await[0].reason.contains("no source has it"));
    eventually("the unknown one waits", SOON, async || rig.of_target("later").await.delayed == 1).await;
    let listed = rig.queue.list(&Filter::default(), 10).await.unwrap();
    assert!(listed[0].attempts > 0, "each look counts");

    // A task that comes after the server is done at once, without a restart.
    let later = OriginalNode::start();
    rig.add_server("later", &later.addr());
    rig.push(&[copy("k", None, &["s"], "later")]).await;
    eventually("it is copied", SOON, async || later.blob("k").is_some()).await;
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_moved_is_found_at_its_new_address() {
    let rig = Rig::new();
    let [source, old] = rig.originals(["s", "t"]);
    source.insert("k", "blob");
    old.set_fault(Fault::Refuse);
    rig.push(&[copy("k", None, &["s"], "t")]).await;
    let replicator = rig.start(config());
    eventually("it is found down", SOON, async || rig.queue.released() > 0).await;
    let new = OriginalNode::start();
    rig.add_server("t", &new.addr());
    rig.drained(SOON).await;
    assert!(new.blob("k").is_some());
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_is_asked_a_few_times() {
    let rig = Rig::new();
    let [source, target] = rig.originals(["s", "t"]);
    source.insert("k", "blob");
    target.set_fault(Fault::Status(403));
    rig.push(&[copy("k", None, &["s"], "t")]).await;
    let replicator = rig.start(config());
    rig.drained(SOON).await;
    let dead = rig.dead().await;
    assert!(dead[0].reason.starts_with("target: the server refuses (403)"), "{}", dead[0].reason);
    assert_eq!(target.seen().len(), 3);
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_target_gets_nothing_until_it_is_resumed() {
    let rig = Rig::new();
    let [source, paused, other] = rig.originals(["s", "paused", "other"]);
    source.insert("k", "blob");
    let id = "paused".parse().unwrap();
    rig.queue.pause(&id).await.unwrap();
    rig.push(&[copy("k", None, &["s"], "paused"), copy("k", None, &["s"], "other")]).await;
    let replicator = rig.start(config());
    rig.drained_of("other", SOON).await;
    assert!(other.blob("k").is_some());
    // Tasks that come later pass it too.
    source.insert("k2", "blob");
    rig.push(&[copy("k2", None, &["s"], "other")]).await;
    rig.drained_of("other", SOON).await;
    assert_eq!(paused.seen(), []);
    rig.queue.resume(&id).await.unwrap();
    rig.drained(SOON).await;
    assert!(paused.blob("k").is_some());
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_id_of_an_upload_reaches_every_server() {
    let rig = Rig::new();
    let [source, target] = rig.originals(["s", "t"]);
    source.insert("k", "blob");
    rig.push(&[Task { request_id: "upload-17".to_owned(), ..copy("k", None, &["s"], "t") }]).await;
    let replicator = rig.start(config());
    rig.drained(SOON).await;
    for request in source.seen().iter().chain(&target.seen()) {
        assert_eq!(request.header("x-request-id"), Some("upload-17"), "{request:?}");
    }
    assert_eq!(rig.queue.retried.load(SeqCst), 0);
    replicator.stop().await;
}
