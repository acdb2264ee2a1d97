//! The life of a replicator: stops, leases, a queue that is away, a task that panics, limits on bytes.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use backpack::{
    queue::{Filter, Queue},
    replicator::Config,
};

use crate::{
    replicator_rig::{Rig, SHORT_LEASE, SOON, config, copy, count},
    support::{original_node::Fault, wait::eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_mid_work_loses_nothing_and_counts_no_attempt() {
    const TASKS: usize = 400;
    let rig = Rig::new();
    let [source, target] = rig.originals(["s", "t"]);
    for number in 0..TASKS {
        source.insert(&format!("k{number}"), "blob");
    }
    let tasks: Vec<_> = (0..TASKS).map(|number| copy(&format!("k{number}"), Some(1), &["s"], "t")).collect();
    rig.push(&tasks).await;
    let mut stops = 0;
    while rig.stats().await.backlog() > 0 {
        // The target holds what comes after these until the replicator was told to stop.
        let answered = target.seen().len() + 100;
        target.set_fault(Fault::HoldAfter(answered));
        let replicator = rig.start(config());
        eventually("tasks are under way, or none is left", SOON, async || {
            target.seen().len() > answered || rig.stats().await.backlog() == 0
        })
        .await;
        replicator.shutdown.begin();
        target.set_fault(Fault::None);
        replicator.stop().await;
        stops += 1;
        let stats = rig.stats().await;
        let claimed: u64 = stats.targets.values().map(|target| target.claimed).sum();
        assert_eq!(claimed, 0, "nothing is left claimed");
        let done = TASKS as u64 - stats.backlog();
        assert_eq!(done, count(&target, "PUT") as u64, "what was copied is acknowledged");
    }
    assert!(stops > 2, "{stops} stops");
    assert_eq!(rig.queue.retried.load(SeqCst), 0);
    assert!(rig.dead().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_cuts_off_what_does_not_end_and_gives_it_back() {
    let rig = Rig::new();
    let [source, target] = rig.originals(["s", "t"]);
    source.insert("k", "blob");
    target.set_fault(Fault::Hang);
    rig.push(&[copy("k", None, &["s"], "t")]).await;
    let replicator = rig.start_draining(config(), Duration::from_millis(300));
    eventually("it hangs", SOON, async || !target.seen().is_empty()).await;
    let readiness = replicator.readiness.clone();
    assert!(readiness.is_ready());
    // The target still hangs, and the time-out for its answer is far longer than this may take.
    replicator.stop().await;
    assert!(!readiness.is_ready());
    let left = rig.of_target("t").await;
    assert_eq!((left.ready + left.delayed, left.claimed), (1, 0), "another replicator may have it at once");
    assert_eq!(rig.queue.list(&Filter::default(), 1).await.unwrap()[0].attempts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_copy_keeps_its_lease() {
    // Renewed three times in its time: a machine that stands still for seconds does not lose it.
    const LEASE: Duration = Duration::from_secs(12);
    let rig = Rig::with_lease(LEASE);
    let config = || Config { lease: LEASE.as_secs(), ..config() };
    let [source, target] = rig.originals(["s", "t"]);
    // Longer than two leases, always moving.
    let blob = vec![3; 600 * 1024];
    source.insert("k", blob.clone());
    source.set_fault(Fault::Bandwidth(blob.len() as u64 / (2 * LEASE.as_secs() + 1)));
    rig.push(&[copy("k", None, &["s"], "t")]).await;
    let started = Instant::now();
    let replicators = [rig.start(config()), rig.start(config())];
    rig.drained(SOON).await;
    assert!(started.elapsed() > 2 * LEASE, "{:?}", started.elapsed());
    assert_eq!(target.blob("k"), Some(blob));
    assert_eq!((count(&source, "GET"), count(&target, "PUT")), (1, 1), "the other did not take it over");
    for replicator in replicators {
        replicator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_away_is_waited_for_without_haste() {
    let rig = Rig::new();
    let [source, target] = rig.originals(["s", "t"]);
    source.insert("k", "blob");
    rig.queue.down.store(true, SeqCst);
    let replicator = rig.start(config());
    let missing = || replicator.readiness.missing().join(", ");
    eventually("it is not ready", SOON, async || missing().contains("the queue does not answer")).await;
    let (started, before) = (Instant::now(), rig.queue.claims.load(SeqCst));
    eventually("it asks again", SOON, async || rig.queue.claims.load(SeqCst) >= before + 3).await;
    assert!(started.elapsed() > Duration::from_millis(300), "no hot loop: {:?}", started.elapsed());

    rig.push(&[copy("k", None, &["s"], "t")]).await;
    rig.queue.down.store(false, SeqCst);
    rig.drained(SOON).await;
    assert!(replicator.readiness.is_ready(), "{}", missing());
    assert!(target.blob("k").is_some());
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_wait_for_a_queue_that_does_not_take_them() {
    let rig = Rig::new();
    let [source, target] = rig.originals(["s", "t"]);
    rig.queue.deaf.store(true, SeqCst);
    for number in 0..20 {
        source.insert(&format!("k{number}"), "blob");
    }
    let tasks: Vec<_> = (0..20).map(|number| copy(&format!("k{number}"), None, &["s"], "t")).collect();
    rig.push(&tasks).await;
    let replicator = rig.start(config());
    eventually("copies are made", SOON, async || count(&target, "PUT") == 20).await;
    rig.queue.deaf.store(false, SeqCst);
    rig.drained(SOON).await;
    assert_eq!(count(&target, "PUT"), 20);
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_panics_ends_nothing_else() {
    let rig = Rig::with_lease(SHORT_LEASE);
    let [source, target] = rig.originals(["s", "t"]);
    source.insert("fine", "blob");
    // Nobody has "bad", so it is retried, which panics.
    *rig.queue.panics.lock() = Some("bad".parse().unwrap());
    rig.push(&[copy("bad", None, &["s"], "t")]).await;
    let replicator = rig.start(Config { concurrency: 1, lease: SHORT_LEASE.as_secs(), ..config() });
    eventually("it was tried", SOON, async || count(&source, "GET") >= 1).await;
    rig.push(&[copy("fine", None, &["s"], "t")]).await;
    eventually("the next one is copied", SOON, async || target.blob("fine").is_some()).await;
    eventually("the bad one alone is left, to its lease", SOON, async || {
        let left = rig.of_target("t").await;
        (left.claimed, left.backlog()) == (1, 1)
    })
    .await;

    *rig.queue.panics.lock() = None;
    source.insert("bad", "mended");
    rig.drained(SOON).await;
    assert_eq!(target.blob("bad").as_deref(), Some(&b"mended"[..]));
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_byte_rate_holds() {
    const RATE: u64 = 2 << 20;
    const BLOB: usize = 256 * 1024;
    const TASKS: usize = 32;
    let rig = Rig::new();
    let [source, _a, _b] = rig.originals(["s", "a", "b"]);
    let mut tasks = Vec::new();
    for number in 0..TASKS {
        let key = format!("k{number}");
        source.insert(&key, vec![9; BLOB]);
        tasks.push(copy(&key, None, &["s"], ["a", "b"][number % 2]));
    }
    rig.push(&tasks).await;
    let started = Instant::now();
    let replicator = rig.start(Config { bytes_per_second: Some(RATE), ..config() });
    rig.drained(SOON).await;
    let seconds = started.elapsed().as_secs_f64();
    let expected = (TASKS * BLOB) as f64 / RATE as f64;
    assert!(seconds > expected * 0.8, "{seconds} s instead of {expected} s");
    replicator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicators_share_the_work() {
    const TASKS: usize = 200;
    let rig = Rig::new();
    let [source, target] = rig.originals(["s", "t"]);
    target.set_fault(Fault::Delay(Duration::from_millis(2)));
    for number in 0..TASKS {
        source.insert(&format!("k{number}"), "blob");
    }
    let tasks: Vec<_> = (0..TASKS).map(|number| copy(&format!("k{number}"), None, &["s"], "t")).collect();
    rig.push(&tasks).await;
    let replicators = [rig.start(config()), rig.start(config())];
    rig.drained(SOON).await;
    assert_eq!(count(&target, "PUT"), TASKS, "no task is done twice");
    for replicator in replicators {
        replicator.stop().await;
    }
}
