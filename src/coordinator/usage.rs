//! Used bytes of the shards: reserved in memory when an upload starts, settled when it ends, written to the map store
//! in batches. Nothing here ever fails an upload.
//!
//! What this coordinator knows of a shard = what the map says + what it settled and did not write yet + what uploads
//! in flight reserved.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::RwLock;

use crate::model::{Shard, ShardId, map::ShardSize};

/// Usage of all shards.
#[derive(Default)]
pub struct Usage {
    shards: RwLock<HashMap<ShardId, Arc<ShardUsage>>>,
}

#[derive(Default)]
struct ShardUsage {
    reserved: AtomicU64,
    /// Settled, not yet written; negative after deletes.
    pending: AtomicI64,
}

/// Bytes reserved for one upload, given back when dropped.
pub struct Reservation {
    shard: Arc<ShardUsage>,
    bytes: u64,
    /// Bytes the shard had left by the map, for what is pending and reserved together.
    room: u64,
}

impl Reservation {
    /// Reserves at least so many bytes, for a body whose length shows only as it comes. `false` when the shard has no
    /// room for them.
    #[must_use]
    pub fn grow_to(&mut self, bytes: u64) -> bool {
        if bytes <= self.bytes {
            return true;
        }
        let reserved = self.shard.reserved.fetch_add(bytes - self.bytes, Relaxed) + (bytes - self.bytes);
        self.bytes = bytes;
        reserved.saturating_add_signed(self.shard.pending.load(Relaxed)) <= self.room
    }

    /// The upload is stored: from now on these bytes count instead of the reservation.
    pub fn settle(self, delta: i64) {
        self.shard.pending.fetch_add(delta, Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shard.reserved.fetch_sub(self.bytes, Relaxed);
    }
}

impl Usage {
    fn shard(&self, id: &ShardId) -> Arc<ShardUsage> {
        if let Some(shard) = self.shards.read().get(id) {
            return Arc::clone(shard);
        }
        Arc::clone(self.shards.write().entry(id.clone()).or_default())
    }

    /// Reserves bytes for an upload.
    pub fn reserve(&self, shard: &Shard, bytes: u64) -> Reservation {
        let room = shard.size.map_or(0, ShardSize::free);
        let shard = self.shard(&shard.id);
        shard.reserved.fetch_add(bytes, Relaxed);
        Reservation { shard, bytes, room }
    }

    /// Counts bytes that came or went without a reservation (a delete).
    pub fn add(&self, id: &ShardId, delta: i64) {
        self.shard(id).pending.fetch_add(delta, Relaxed);
    }

    /// Used bytes of a shard as this coordinator knows them, reservations included.
    pub fn used(&self, shard: &Shard) -> u64 {
        let written = shard.size.map_or(0, |size| size.used);
        match self.shards.read().get(&shard.id) {
            Some(usage) => written
                .saturating_add_signed(usage.pending.load(Relaxed))
                .saturating_add(usage.reserved.load(Relaxed)),
            None => written,
        }
    }

    /// What waits to be written: shards and what to add to each. It goes on counting until [`Usage::written`].
    pub fn pending(&self) -> Vec<(ShardId, i64)> {
        let shards = self.shards.read();
        let pending = shards.iter().map(|(id, usage)| (id.clone(), usage.pending.load(Relaxed)));
        pending.filter(|(_, delta)| *delta != 0).collect()
    }

    /// So much of what was pending stands in the map store now.
    pub fn written(&self, id: &ShardId, delta: i64) {
        self.shard(id).pending.fetch_sub(delta, Relaxed);
    }

    /// Sum of what waits to be written, without sign.
    pub fn pending_bytes(&self) -> u64 {
        self.shards.read().values().map(|usage| usage.pending.load(Relaxed).unsigned_abs()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PoolName;

    #[test]
    fn reserved_then_settled_then_written() {
        let usage = Usage::default();
        let shard = Shard {
            id: "1".parse().unwrap(),
            servers: vec![],
            stages: Default::default(),
            read_only: false,
            pool: PoolName::default(),
            size: Some(ShardSize { capacity: 1000, used: 100 }),
        };
        let mut upload = usage.reserve(&shard, 50);
        assert_eq!(usage.used(&shard), 150);
        assert!(upload.grow_to(80));
        assert_eq!(usage.used(&shard), 180);
        drop(usage.reserve(&shard, 500));
        assert_eq!(usage.used(&shard), 180);
        assert!(!usage.reserve(&shard, 10).grow_to(830));
        upload.settle(70);
        assert_eq!(usage.used(&shard), 170);
        usage.add(&shard.id, -20);
        assert_eq!(usage.pending(), [(shard.id.clone(), 50)]);
        assert_eq!(usage.pending_bytes(), 50);
        usage.written(&shard.id, 50);
        assert_eq!(usage.pending(), []);
        assert_eq!(usage.used(&shard), 100);
    }
}
