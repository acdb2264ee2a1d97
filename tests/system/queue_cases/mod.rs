//! What every sentence of the `Queue` trait promises, as cases that each implementation is put through.

pub mod backend;
pub mod claims;
pub mod letters;
pub mod tasks;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use backpack::{
    daemon::unix_ms,
    model::{Operation, ServerId, Task, Version},
    queue::{Claim, Queue, QueueStats, Want},
};

pub use self::backend::Backend;
use crate::support::wait::eventually;

/// Never reached when all is well, on a slow machine too; longer than [`LEASE`].
pub const SOON: Duration = Duration::from_secs(120);

/// Longer than a case works on a claim, on a slow machine too.
pub const LEASE: Duration = Duration::from_secs(60);

/// Longer than any case.
pub const NEVER: Duration = Duration::from_secs(3600);

/// For waits that end by themselves: long enough that the machine's pauses do not matter.
pub const MOMENT: Duration = Duration::from_millis(300);

pub const NOW: Duration = Duration::ZERO;

/// Times on a queue are whole milliseconds of its server's clock, so what waits may come this much early.
const TICK: Duration = Duration::from_millis(1);

/// Asserts that so much time has passed.
pub fn has_waited(begun: Instant, least: Duration) {
    let waited = begun.elapsed();
    assert!(waited + TICK >= least, "{waited:?}");
}

pub fn id(name: &str) -> ServerId {
    name.parse().unwrap()
}

/// A copy of `key` to `target`, made now.
pub fn task(target: &str, key: &str) -> Task {
    Task {
        op: Operation::Copy,
        shard: Some("1".parse().unwrap()),
        key: key.parse().unwrap(),
        version: Some(Version::from_parts(unix_ms(), fastrand::u128(..))),
        from: vec![id("source")],
        to: id(target),
        length: 5,
        created_ms: unix_ms(),
        request_id: "request".to_owned(),
    }
}

/// So many copies to `target`, with the keys `<prefix>0`, `<prefix>1`, ...
pub fn tasks(target: &str, prefix: &str, count: usize) -> Vec<Task> {
    (0..count).map(|n| task(target, &format!("{prefix}{n}"))).collect()
}

pub fn want(max: usize) -> Want {
    Want { max, max_per_target: max, except: HashSet::new() }
}

/// Claims until there are `count`.
pub async fn claim_all(queue: &Arc<dyn Queue>, count: usize) -> Vec<Claim> {
    let deadline = std::time::Instant::now() + SOON;
    let mut claims = Vec::new();
    while claims.len() < count {
        assert!(std::time::Instant::now() < deadline, "only {} of {count} tasks", claims.len());
        claims.extend(queue.claim(&want(count - claims.len()), MOMENT).await.unwrap());
    }
    claims
}

pub async fn claim_one(queue: &Arc<dyn Queue>) -> Claim {
    claim_all(queue, 1).await.remove(0)
}

/// Nothing is given out now, nor within a moment.
pub async fn nothing_to_claim(queue: &Arc<dyn Queue>) {
    assert_eq!(queue.claim(&want(100), MOMENT).await.unwrap(), []);
}

pub fn keys(claims: &[Claim]) -> Vec<&str> {
    claims.iter().map(|claim| claim.task.key.as_str()).collect()
}

pub fn per_target(claims: &[Claim]) -> BTreeMap<&str, usize> {
    claims.iter().fold(BTreeMap::new(), |mut counts, claim| {
        *counts.entry(claim.task.to.as_str()).or_default() += 1;
        counts
    })
}

/// What a call gives that waits for nobody: time-outs that it must not wait for are [`NEVER`] over.
pub async fn soon<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, call).await.expect("it ends soon")
}

/// Waits until the counts of a target are ready, delayed, claimed, dead. At once on one server; several need a moment to
/// take back their second copies.
pub async fn counts(queue: &Arc<dyn Queue>, target: &str, expected: [u64; 4]) {
    let look = || async {
        let stats = queue.stats().await.unwrap();
        let now = stats.targets.get(&id(target)).cloned().unwrap_or_default();
        [now.ready, now.delayed, now.claimed, now.dead] == expected
    };
    eventually(&format!("the counts of {target} are {expected:?}"), SOON, look).await;
}

pub async fn stats(queue: &Arc<dyn Queue>) -> QueueStats {
    queue.stats().await.unwrap()
}
