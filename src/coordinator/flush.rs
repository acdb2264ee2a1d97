//! Writes used bytes to the map store in batches, each exactly once. Nothing here fails an upload or ends the process:
//! what could not be written is kept and tried again.

use std::{collections::HashMap, sync::Arc};

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
    fn open(&self) -> Vec<ShardId> {
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
            self.flush().await;
        }
    }

    /// Writes what is pending, once.
    pub(super) async fn flush(&self) {
        let _one_at_a_time = self.batches.one_at_a_time.lock().await;
        let mut pending: HashMap<_, _> = self.usage.pending().into_iter().collect();
        // An open batch may stand in the store although what came after it makes the sum zero.
        for shard in self.batches.open() {
            pending.entry(shard).or_insert(0);
        }
        let writes = stream::iter(pending);
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
