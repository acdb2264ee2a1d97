//! One target's trouble is no other's: dead, hung, slow and full targets beside healthy ones.

mod node_double;
mod replicator_rig;
mod support;

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use backpack::{model::Task, replicator::Config};
use node_double::TestNode;
use replicator_rig::{Rig, SOON, config, copy, count};
use support::{original_node::Fault, wait::eventually};

/// Tasks of each target.
const EACH: usize = 60;

/// So many copies to each of the targets, mixed, with the source "s" that has every blob.
fn tasks(rig_targets: &[&str]) -> Vec<Task> {
    (0..EACH)
        .flat_map(|number| rig_targets.iter().map(move |to| copy(&format!("k{number}"), None, &["s"], to)))
        .collect()
}

/// Three targets of which "bad" has a fault from the start, and a source; how long the others' tasks took.
async fn beside(
    fault: Fault,
    blob: usize,
    config: Config,
) -> (Rig, [support::original_node::OriginalNode; 4], Duration) {
    let rig = Rig::new();
    let nodes = rig.originals(["s", "bad", "b", "c"]);
    for number in 0..EACH {
        nodes[0].insert(&format!("k{number}"), vec![7; blob]);
    }
    nodes[1].set_fault(fault);
    rig.push(&tasks(&["bad", "b", "c"])).await;
    let started = Instant::now();
    let replicator = rig.start(config);
    rig.drained_of("b", SOON).await;
    rig.drained_of("c", SOON).await;
    let took = started.elapsed();
    assert_eq!(nodes[2].blob("k1").map(|blob| blob.len()), Some(blob));
    assert_eq!(rig.of_target("bad").await.backlog() as usize, EACH);
    assert!(rig.queue.most_of("bad") <= 4, "half of the slots are for others");
    assert!(rig.dead().await.is_empty());
    nodes[1].set_fault(Fault::None);
    rig.drained_of("bad", SOON).await;
    assert!(rig.dead().await.is_empty(), "a target that was down kills no task");
    replicator.stop().await;
    (rig, nodes, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dead_target_of_three_delays_nothing_else() {
    let (rig, nodes, took) = beside(Fault::Refuse, 1000, config()).await;
    assert!(took < Duration::from_secs(5), "the healthy targets took {took:?}");
    assert_eq!(count(&nodes[1], "PUT"), EACH);
    assert_eq!(
        rig.queue.retried.load(SeqCst),
        0,
        "no attempt is counted against a task whose target is down"
    );
    assert!(
        rig.queue.released() < EACH,
        "the breaker keeps most of its tasks in the queue, {} were given back",
        rig.queue.released()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hung_target_of_three_delays_nothing_else() {
    let (_, _, took) = beside(Fault::Hang, 1000, config()).await;
    // Its slots hang until the time-out; the others' are free.
    assert!(took < replicator_rig::TIMEOUTS.answer, "the healthy targets took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_target_at_1_kib_per_second_delays_nothing_else() {
    let (_, _, took) = beside(Fault::Bandwidth(1024), 16 * 1024, config()).await;
    assert!(took < replicator_rig::TIMEOUTS.answer, "the healthy targets took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_hangs_delays_only_what_it_alone_has() {
    let rig = Rig::new();
    let [hung, healthy, target] = rig.originals(["hung", "healthy", "t"]);
    rig.add_shard("1", &["hung", "healthy", "t"]);
    hung.set_fault(Fault::Hang);
    hung.insert("only", "here");
    let mut tasks = vec![copy("only", None, &["hung"], "t")];
    for number in 0..EACH {
        healthy.insert(&format!("k{number}"), "blob");
        let task = copy(&format!("k{number}"), None, &["hung"], "t");
        tasks.push(Task { shard: Some("1".parse().unwrap()), ..task });
    }
    rig.push(&tasks).await;
    let started = Instant::now();
    let replicator = rig.start(config());
    eventually("the others are copied", SOON, async || count(&target, "PUT") == EACH).await;
    // One round of time-outs, and the source is left alone.
    assert!(started.elapsed() < 5 * replicator_rig::TIMEOUTS.answer, "{:?}", started.elapsed());
    assert!(rig.dead().await.is_empty());
    hung.set_fault(Fault::None);
    rig.drained(SOON).await;
    assert_eq!(target.blob("only").as_deref(), Some(&b"here"[..]));
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_and_the_limit_per_target_hold() {
    let rig = Rig::new();
    let [source, a, b] = rig.originals(["s", "a", "b"]);
    for number in 0..EACH {
        source.insert(&format!("k{number}"), "blob");
    }
    for target in [&a, &b] {
        target.set_fault(Fault::Delay(Duration::from_millis(20)));
    }
    rig.push(&tasks(&["a", "b"])).await;
    let replicator = rig.start(Config { concurrency: 5, per_target: Some(3), ..config() });
    rig.drained(SOON).await;
    // What is being acknowledged has left its slot; a batch takes milliseconds.
    let queue = &rig.queue;
    assert!(queue.most_held.load(SeqCst) <= 5 + 5, "{} at once", queue.most_held.load(SeqCst));
    assert!(queue.most_of("a") <= 3 + 3, "{} of one", queue.most_of("a"));
    assert!(queue.acks.load(SeqCst) <= 2 * EACH);
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_target_gets_deletes_at_once_and_copies_when_it_has_room_again() {
    let (rig, source, target) = (Rig::new(), TestNode::start().await, TestNode::start().await);
    rig.add_server("s", &source.addr);
    rig.add_server("t", &target.addr);
    for number in 0..EACH {
        let put = support::http::Request::put(&source.addr, &format!("/k{number}"), "blob");
        let put = put.header("x-backpack-version", &replicator_rig::version(1).to_string());
        assert_eq!(put.send().await.unwrap().status, 201);
    }
    target.storage.full.store(true, SeqCst);
    let copies: Vec<_> = (0..EACH).map(|number| copy(&format!("k{number}"), Some(1), &["s"], "t")).collect();
    rig.push(&copies).await;
    let replicator = rig.start(config());
    eventually("it is found full", SOON, async || rig.of_target("t").await.delayed as usize == EACH).await;

    rig.push(&[replicator_rig::delete("gone", 9, "t")]).await;
    eventually("a delete is made", SOON, async || rig.of_target("t").await.backlog() as usize == EACH).await;
    assert_eq!(rig.queue.retried.load(SeqCst), 0, "no attempt is counted");

    target.storage.full.store(false, SeqCst);
    rig.drained(SOON).await;
    assert_eq!(target.storage.len(), EACH + 1);
    assert!(rig.dead().await.is_empty());
    replicator.stop().await;
}
