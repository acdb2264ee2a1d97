//! A node whose disk stops answering says so: requests get 503 in time instead of piling up, probes and metrics go on, and
//! when the disk goes on, so does the node.

use std::time::Duration;

use backpack::node::Limits;
use futures_util::future::join_all;

use crate::{
    node_double::TestNode,
    support::{
        http::{Reply, Request},
        wait::eventually,
    },
};

const WITHIN: Duration = Duration::from_secs(60);

/// More requests than may be given up before none is let to the disk any more.
const MANY: usize = 40;

/// All permits of the double.
const ALL: u32 = 1000;

async fn start() -> TestNode {
    let limits = Limits { disk_answer: Duration::from_millis(200), ..Limits::default() };
    TestNode::start_with(limits, None).await
}

async fn get(node: &TestNode, target: &str) -> Reply {
    Request::get(&node.addr, target).send().await.unwrap()
}

async fn put(node: &TestNode, key: &str) -> u16 {
    Request::put(&node.addr, key, "blob").send().await.unwrap().status
}

async fn ready(node: &TestNode) -> (u16, String) {
    let reply = get(node, "/-/ready").await;
    (reply.status, reply.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_hang_are_refused_in_time_and_done_when_the_disk_goes_on() {
    let node = start().await;
    assert_eq!(put(&node, "/before").await, 201);
    let hang = node.storage.commits.acquire_many(ALL).await.unwrap();
    let keys: Vec<_> = (0..MANY).map(|n| format!("/k{n}")).collect();
    // The disk hangs all the time: nothing but the deadline answers.
    assert_eq!(join_all(keys.iter().map(|key| put(&node, key))).await, vec![503; MANY]);
    eventually("it is not ready", WITHIN, async || ready(&node).await.0 == 503).await;
    assert!(ready(&node).await.1.contains("storage: the disk does not answer"), "{:?}", ready(&node).await);
    assert!(node.metric("backpack_node_stuck", "verb=\"write\"") >= 16);

    // Now they are refused before the disk is asked: none of these waits there.
    let before = node.metric("backpack_node_stuck", "verb=\"write\"");
    for _ in 0..MANY {
        let refused = Request::put(&node.addr, "/late", "blob").send().await.unwrap();
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("30")), "{}", refused.text());
    }
    assert_eq!(get(&node, "/before").await.text(), "blob", "reads go on");
    assert_eq!(get(&node, "/-/live").await.status, 200);
    assert_eq!(get(&node, "/stats").await.status, 200);
    let metrics = get(&node, "/-/metrics").await;
    assert!(metrics.text().contains("backpack_node_stuck"));
    assert!(node.metric("backpack_node_stuck", "verb=\"write\"") <= before.max(MANY as u64));
    assert_eq!(get(&node, "/late").await.status, 404);

    drop(hang);
    eventually("it is ready again", WITHIN, async || ready(&node).await.0 == 200).await;
    assert_eq!(put(&node, "/after").await, 201);
    assert_eq!(get(&node, "/late").await.status, 404, "what was refused was never written");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_hang_are_refused_in_time_and_writes_go_on() {
    let node = start().await;
    assert_eq!(put(&node, "/k").await, 201);
    let hang = node.storage.reads.acquire_many(ALL).await.unwrap();
    let reads = join_all((0..MANY).map(|_| get(&node, "/k"))).await;
    assert!(reads.iter().all(|reply| reply.status == 503));
    eventually("it is not ready", WITHIN, async || ready(&node).await.0 == 503).await;
    assert_eq!(put(&node, "/while").await, 201);
    drop(hang);
    eventually("it is ready again", WITHIN, async || ready(&node).await.0 == 200).await;
    assert_eq!(get(&node, "/k").await.text(), "blob");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_wait_for_the_deadline_hide_no_hung_disk() {
    let node = start().await;
    let hang = node.storage.commits.acquire_many(ALL).await.unwrap();
    let in_haste =
        |n: usize| Request::put(&node.addr, &format!("/k{n}"), "blob").within(Duration::from_millis(50));
    join_all((0..MANY).map(|n| async move { in_haste(n).send().await.unwrap_err() })).await;
    eventually("it is not ready", WITHIN, async || ready(&node).await.0 == 503).await;
    drop(hang);
    eventually("it is ready again", WITHIN, async || ready(&node).await.0 == 200).await;
    node.stop().await;
}
