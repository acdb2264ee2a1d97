//! One target's trouble is no other's: dead, hung, slow and full targets beside healthy ones.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use backpack::{model::Task, replicator::Config};

use crate::{
    node_double::TestNode,
    replicator_rig::{Rig, SOON, config, copy, count},
    support::{
        original_node::{Fault, OriginalNode},
        wait::eventually,
    },
};

/// Tasks of each target.
const EACH: usize = 60;

/// So many copies to each of the targets, mixed, with the source "s" that has every blob.
fn tasks(rig_targets: &[&str]) -> Vec<Task> {
    (0..EACH)
        .flat_map(|number| rig_targets.iter().map(move |to| copy(&format!("k{number}"), None, &["s"], to)))
        .collect()
}

/// Three targets of which "bad" has a fault, and a source. The others' tasks are done while the fault lasts, and by then
/// none of the bad one's: nothing waited for it. Once it is healed its tasks are done too.
async fn beside(fault: Fault, blob: usize) -> (Rig, [OriginalNode; 4]) {
    let rig = Rig::new();
    let nodes = rig.originals(["s", "bad", "b", "c"]);
    for number in 0..EACH {
        nodes[0].insert(&format!("k{number}"), vec![7; blob]);
    }
    nodes[1].set_fault(fault);
    rig.push(&tasks(&["bad", "b", "c"])).await;
    let replicator = rig.start(config());
    rig.drained_of("b", SOON).await;
    rig.drained_of("c", SOON).await;
    assert_eq!(nodes[2].blob("k1").map(|blob| blob.len()), Some(blob));
    assert_eq!(rig.of_target("bad").await.backlog() as usize, EACH);
    assert_eq!(
        rig.queue.retried.load(SeqCst),
        0,
        "no attempt is counted against a task whose target is down"
    );
    if fault == Fault::Refuse {
        let given_back = rig.queue.released();
        assert!(given_back < EACH, "the breaker keeps most in the queue, {given_back} were given back");
    } else {
        assert_eq!(rig.queue.released(), 0, "the first tasks of the bad one were under way all the time");
    }
    nodes[1].set_fault(Fault::None);
    rig.drained_of("bad", SOON).await;
    assert!(rig.dead().await.is_empty(), "a target that was down kills no task");
    assert!(nodes[1].most_at_once() <= 4, "half of the slots are for others");
    replicator.stop().await;
    (rig, nodes)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dead_target_of_three_delays_nothing_else() {
    let (rig, nodes) = beside(Fault::Refuse, 1000).await;
    assert_eq!(count(&nodes[1], "PUT"), EACH);
    assert_eq!(rig.queue.retried.load(SeqCst), 0, "nor when it is back");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hung_target_of_three_delays_nothing_else() {
    beside(Fault::Hang, 1000).await;
}

/// A blob takes longer than the others' tasks may.
#[tokio::test(flavor = "multi_thread")]
async fn one_target_at_1_kib_per_second_delays_nothing_else() {
    beside(Fault::Bandwidth(1024), 2 * SOON.as_secs() as usize * 1024).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_hangs_delays_only_what_it_alone_has() {
    let mut rig = Rig::new();
    // The one wait that is meant: for the source that does not answer.
    rig.timeouts.answer = Duration::from_secs(5);
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
    let replicator = rig.start(Config { attempts: 100, ..config() });
    eventually("the others are copied", SOON, async || rig.of_target("t").await.backlog() == 1).await;
    assert_eq!((0..EACH).filter(|number| target.blob(&format!("k{number}")).is_none()).count(), 0);
    // One round of time-outs, then a probe now and then: most tasks did not wait for it.
    let asked = hung.seen().len();
    assert!((3..EACH / 2).contains(&asked), "{asked} requests to the one that hangs");
    assert!(rig.dead().await.is_empty());
    hung.set_fault(Fault::None);
    rig.drained(SOON).await;
    assert_eq!(target.blob("only").as_deref(), Some(&b"here"[..]));
    replicator.stop().await;
}

/// Bytes a second of a source that crawls; it gives some every quarter of a second, so no time-out ends a copy from it.
const CRAWLING: u64 = 64 * 1024;

/// Bytes that take such a source longer than a test may.
const LONG_BLOB: usize = 2 * SOON.as_secs() as usize * CRAWLING as usize;

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_crawls_is_left_for_another_one() {
    let mut rig = Rig::new();
    rig.timeouts.stall = Duration::from_secs(2);
    let [slow, healthy, target] = rig.originals(["slow", "healthy", "t"]);
    rig.add_shard("1", &["slow", "healthy", "t"]);
    slow.set_fault(Fault::Bandwidth(CRAWLING));
    let mut tasks = Vec::new();
    for number in 0..EACH {
        let key = format!("k{number}");
        slow.insert(&key, vec![7; LONG_BLOB / 20]);
        healthy.insert(&key, vec![7; LONG_BLOB / 20]);
        let task = copy(&key, None, &["slow"], "t");
        tasks.push(Task { shard: Some("1".parse().unwrap()), ..task });
    }
    rig.push(&tasks).await;
    let replicator = rig.start(config());
    rig.drained(SOON).await;
    assert_eq!(target.blob("k1").map(|blob| blob.len()), Some(LONG_BLOB / 20));
    let asked = count(&slow, "GET");
    assert!((1..EACH / 2).contains(&asked), "{asked} copies began at the one that crawls");
    assert!(rig.dead().await.is_empty());
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_crawls_delays_only_what_it_alone_has() {
    let mut rig = Rig::new();
    rig.timeouts.stall = Duration::from_secs(2);
    let [slow, healthy, b, c] = rig.originals(["slow", "healthy", "b", "c"]);
    slow.set_fault(Fault::Bandwidth(CRAWLING));
    let (mut only, mut others) = (Vec::new(), Vec::new());
    for number in 0..4 {
        slow.insert(&format!("only{number}"), vec![7; LONG_BLOB]);
        only.extend(["b", "c"].map(|to| copy(&format!("only{number}"), None, &["slow"], to)));
    }
    for number in 0..EACH {
        healthy.insert(&format!("k{number}"), "blob");
        others.extend(["b", "c"].map(|to| copy(&format!("k{number}"), None, &["healthy"], to)));
    }
    // Enough to take all slots, before the others come.
    rig.push(&only).await;
    let replicator = rig.start(config());
    eventually("the source that crawls is asked", SOON, async || count(&slow, "GET") > 0).await;
    rig.push(&others).await;
    eventually("the others are copied", SOON, async || {
        rig.stats().await.backlog() as usize <= only.len()
            && (0..EACH).all(|number| [&b, &c].iter().all(|to| to.blob(&format!("k{number}")).is_some()))
    })
    .await;
    assert!(b.blob("only0").is_none() && c.blob("only0").is_none(), "it crawls all the time");
    slow.set_fault(Fault::None);
    rig.drained(SOON).await;
    assert_eq!(b.blob("only0").map(|blob| blob.len()), Some(LONG_BLOB));
    assert!(rig.dead().await.is_empty());
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_and_the_limit_per_target_hold() {
    let rig = Rig::new();
    let [source, a, b] = rig.originals(["s", "a", "b"]);
    for number in 0..EACH {
        source.insert(&format!("k{number}"), "blob");
    }
    for server in [&source, &a, &b] {
        server.set_fault(Fault::Delay(Duration::from_millis(20)));
    }
    rig.push(&tasks(&["a", "b"])).await;
    let replicator = rig.start(Config { concurrency: 5, per_target: Some(3), ..config() });
    rig.drained(SOON).await;
    assert!(source.most_at_once() <= 5, "{} at once", source.most_at_once());
    for target in [&a, &b] {
        assert!(target.most_at_once() <= 3, "{} of one", target.most_at_once());
    }
    assert!(rig.queue.acks.load(SeqCst) <= 2 * EACH);
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_target_gets_deletes_at_once_and_copies_when_it_has_room_again() {
    let (rig, source, target) = (Rig::new(), TestNode::start().await, TestNode::start().await);
    rig.add_server("s", &source.addr);
    rig.add_server("t", &target.addr);
    for number in 0..EACH {
        let put = crate::support::http::Request::put(&source.addr, &format!("/k{number}"), "blob");
        let put = put.header("x-backpack-version", &crate::replicator_rig::version(1).to_string());
        assert_eq!(put.send().await.unwrap().status, 201);
    }
    target.storage.full.store(true, SeqCst);
    let copies: Vec<_> = (0..EACH).map(|number| copy(&format!("k{number}"), Some(1), &["s"], "t")).collect();
    rig.push(&copies).await;
    let replicator = rig.start(config());
    eventually("it is found full", SOON, async || rig.of_target("t").await.delayed as usize == EACH).await;

    rig.push(&[crate::replicator_rig::delete("gone", 9, "t")]).await;
    eventually("a delete is made", SOON, async || rig.of_target("t").await.backlog() as usize == EACH).await;
    assert_eq!(rig.queue.retried.load(SeqCst), 0, "no attempt is counted");

    target.storage.full.store(false, SeqCst);
    rig.drained(SOON).await;
    assert_eq!(target.storage.len(), EACH + 1);
    assert!(rig.dead().await.is_empty());
    replicator.stop().await;
}
