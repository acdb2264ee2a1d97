//! Writes used bytes to the map store in batches, each exactly once. Nothing here fails an upload or ends the process:
//! what could not be written is kept and tried again.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;

use super::Coordinator;
use crate::{
    cluster::edit::{self, WriterStamp},
    daemon::{Shutdown, VersionClock},
    model::ShardId,
};

/// Shards written at once; each is one round trip to the store.
const CONCURRENT_WRITES: usize = 16;

/// Shards that are written at a time while there are uploads: those with most to write. Every process of a cluster is told of each
/// write of the map store, so their number must not grow with that of the shards. What is small waits: it decides nothing.
const SHARDS_AT_A_TIME: usize = 100;

/// Batches on their way. One of unknown outcome is tried again unchanged, before the shard's next one, so that the
/// store can tell whether it was added.
pub(super) struct Batches {
    writer: String,
    state: Mutex<State>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    last_seq: u64,
    open: HashMap<ShardId, Batch>,
}

#[derive(Clone)]
struct Batch {
    stamp: WriterStamp,
    delta: i64,
    failures: u32,
}

impl Default for Batches {
    fn default() -> Self {
        let writer = VersionClock::default().next().to_string();
        Self { writer, state: Mutex::default(), one_at_a_time: tokio::sync::Mutex::default() }
    }
}

impl Batches {
    /// The batch that is open for this shard, else a new one of `pending` bytes.
    fn take(&self, shard: &ShardId, pending: i64) -> Batch {
        let mut state = self.state.lock();
        if let Some(open) = state.open.get(shard) {
            return open.clone();
        }
        state.last_seq += 1;
        let stamp = WriterStamp { writer: self.writer.clone(), seq: state.last_seq };
        let batch = Batch { stamp, delta: pending, failures: 0 };
        state.open.insert(shard.clone(), batch.clone());
        batch
    }

    /// Shards with a batch of unknown outcome.
    fn open(&self) -> HashSet<ShardId> {
        self.state.lock().open.keys().cloned().collect()
    }

    fn close(&self, shard: &ShardId) {
        self.state.lock().open.remove(shard);
    }

    /// Notes a failure; says whether it is the batch's first.
    fn failed(&self, shard: &ShardId) -> bool {
        let mut state = self.state.lock();
        let Some(batch) = state.open.get_mut(shard) else { return false };
        batch.failures += 1;
        batch.failures == 1
    }
}

impl Coordinator {
    /// Flushes until the shutdown begins. The last flush, after the last upload, is the caller's.
    pub(super) async fn flush_until(self: Arc<Self>, shutdown: Shutdown) {
        while shutdown.sleep(self.config.flush_every()).await {
            self.flush_most(SHARDS_AT_A_TIME).await;
        }
    }

    /// Writes all that is pending, once.
    pub(super) async fn flush(&self) {
        self.flush_most(usize::MAX).await;
    }

    async fn flush_most(&self, at_a_time: usize) {
        let _one_at_a_time = self.batches.one_at_a_time.lock().await;
        let writes = stream::iter(most(self.usage.pending(), self.batches.open(), at_a_time));
        writes.for_each_concurrent(CONCURRENT_WRITES, |(shard, delta)| self.write_used(shard, delta)).await;
        metrics::gauge!("backpack_coordinator_uncounted_bytes").set(self.usage.pending_bytes() as f64);
    }

    async fn write_used(&self, shard: ShardId, pending: i64) {
        if !self.view.map().shards.contains_key(&shard) {
            tracing::warn!(%shard, bytes = pending, "the shard left the map; its used bytes are not counted any more");
            self.usage.written(&shard, pending);
            self.batches.close(&shard);
            return;
        }
        let batch = self.batches.take(&shard, pending);
        match edit::add_used(&*self.store, &shard, batch.delta, &batch.stamp).await {
            Ok(_) => {
                self.usage.written(&shard, batch.delta);
                self.batches.close(&shard);
            }
            Err(error) => {
                metrics::counter!("backpack_coordinator_flush_errors_total").increment(1);
                if self.batches.failed(&shard) {
                    let bytes = batch.delta;
                    tracing::warn!(%shard, bytes, %error, "used bytes could not be written; trying on");
                }
            }
        }
    }
}

/// What is to be written: of so many shards those with most that is pending, and all with an open batch, which may stand in the
/// store although what came after it makes the sum zero.
fn most(pending: Vec<(ShardId, i64)>, open: HashSet<ShardId>, at_a_time: usize) -> HashMap<ShardId, i64> {
    let (mut most, mut rest): (Vec<_>, Vec<_>) = pending.into_iter().partition(|(id, _)| open.contains(id));
    if rest.len() > at_a_time {
        rest.select_nth_unstable_by_key(at_a_time, |(_, delta)| Reverse(delta.unsigned_abs()));
        rest.truncate(at_a_time);
    }
    most.append(&mut rest);
    open.into_iter().map(|id| (id, 0)).chain(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_with_most_are_written_and_those_with_an_open_batch() {
        let id = |id: &str| -> ShardId { id.parse().unwrap() };
        let pending =
            || [("1", 5), ("2", -70), ("3", 60), ("4", 1)].map(|(name, delta)| (id(name), delta)).into();
        let written = |open: &[&str], at_a_time| {
            let open = open.iter().map(|name| id(name)).collect();
            let mut written: Vec<_> = most(pending(), open, at_a_time).into_iter().collect();
            written.sort();
            written
        };
        assert_eq!(written(&[], 2), [(id("2"), -70), (id("3"), 60)]);
        assert_eq!(written(&["4", "5"], 1), [(id("2"), -70), (id("4"), 1), (id("5"), 0)]);
        assert_eq!(written(&[], usize::MAX), pending() as Vec<_>);
        assert_eq!(written(&[], 4), pending() as Vec<_>);
    }
}
