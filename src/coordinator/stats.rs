//! What the coordinator says of itself: `/stats` with the original's fields, gauges, and the totals behind both.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use metrics::{Gauge, gauge};
use parking_lot::RwLock;
use serde::Serialize;

use crate::{
    daemon::unix_ms,
    model::{ClusterMap, ShardId},
    queue::QueueStats,
    scrub::{self, Deficit, Known},
};

/// Counts since the start, and the queue as it was last seen.
pub(super) struct Totals {
    started: Instant,
    uploads: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    queue: RwLock<Result<QueueStats, String>>,
    /// What is known of the comparisons of servers; `None` before it was first read.
    known: RwLock<Option<Known>>,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            uploads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            queue: RwLock::new(Err("not asked yet".to_owned())),
            known: RwLock::new(None),
        }
    }
}

impl Totals {
    pub(super) fn upload(&self, bytes: u64) {
        self.uploads.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn failed_upload(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub(super) fn see_comparisons(&self, known: Known) {
        *self.known.write() = Some(known);
    }

    /// What is missing in each shard; `None` before anything is known.
    pub(super) fn deficits(&self, map: &ClusterMap) -> Option<BTreeMap<ShardId, Deficit>> {
        let (queue, known) = (self.queue.read(), self.known.read());
        known.as_ref().map(|known| scrub::deficits(known, map, queue.as_ref().ok()))
    }

    pub(super) fn see_queue(&self, stats: Result<QueueStats, String>) {
        *self.queue.write() = stats;
    }

    /// Copies still to be made; `None` while the queue does not answer.
    pub(super) fn queue_length(&self) -> Option<u64> {
        self.queue.read().as_ref().ok().map(QueueStats::backlog)
    }
}

/// Sums over the shards of a map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Space {
    pub total_size: u64,
    pub used_size: u64,
    pub usage_ratio: f64,
    pub available_space: u64,
    pub total_shards: usize,
    pub writable_shards: usize,
}

impl Space {
    pub(super) fn of(map: &ClusterMap) -> Self {
        let mut space = Self { total_shards: map.shards.len(), ..Self::default() };
        for shard in map.shards.values() {
            let size = shard.size.unwrap_or_default();
            space.total_size += size.capacity;
            space.used_size += size.used;
            if shard.is_writable() {
                space.writable_shards += 1;
                space.available_space += size.free();
            }
        }
        space.usage_ratio = ratio(space.used_size, space.total_size);
        space
    }
}

/// Rounded up to four digits as the original does; 1 when there is no capacity at all.
fn ratio(used: u64, total: u64) -> f64 {
    if total == 0 { 1.0 } else { (used as f64 / total as f64 * 10_000.0).ceil() / 10_000.0 }
}

/// The answer to `GET /stats`: the original's fields first, then ours.
#[derive(Debug, Serialize)]
pub(super) struct Stats {
    uptime: u64,
    processed_uploads: u64,
    processed_bytes: u64,
    failed_uploads: u64,
    #[serde(flatten)]
    space: Space,
    queue_length: Option<u64>,
    queue_error: Option<String>,
    dead_letters: Option<u64>,
    oldest_task_seconds: Option<f64>,
    missing_copies: Option<u64>,
    unsure_shards: Option<usize>,
    uncounted_bytes: u64,
    map_state: String,
    version: &'static str,
}

impl Stats {
    pub(super) fn new(totals: &Totals, map: &ClusterMap, uncounted_bytes: u64, map_state: String) -> Self {
        let deficits = totals.deficits(map);
        let queue = totals.queue.read();
        let known = queue.as_ref().ok();
        let oldest = known.and_then(QueueStats::oldest_ms);
        Self {
            uptime: totals.started.elapsed().as_millis() as u64,
            processed_uploads: totals.uploads.load(Relaxed),
            processed_bytes: totals.bytes.load(Relaxed),
            failed_uploads: totals.failed.load(Relaxed),
            space: Space::of(map),
            queue_length: known.map(QueueStats::backlog),
            queue_error: queue.as_ref().err().cloned(),
            dead_letters: known.map(QueueStats::dead),
            // Of what the map's servers lack, not of servers that are gone.
            missing_copies: deficits.as_ref().and_then(|shards| shards.values().map(Deficit::lacking).sum()),
            unsure_shards: deficits
                .map(|shards| shards.values().filter(|shard| !shard.unsure.is_empty()).count()),
            oldest_task_seconds: oldest.map(|ms| unix_ms().saturating_sub(ms) as f64 / 1000.0),
            uncounted_bytes,
            map_state,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

const MISSING_COPIES: &str = "backpack_shard_missing_copies";
const OLDEST_MISSING_COPY: &str = "backpack_shard_oldest_missing_copy_age_seconds";
/// Of shards, and not known while the queue does not answer.
const OF_THE_QUEUE: [&str; 2] = [MISSING_COPIES, OLDEST_MISSING_COPY];

/// The gauges of the map and the queue. Labels are ids of shards and servers: as many as the map has. They are looked up in the
/// recorder once: for ten thousand shards that takes a tenth of a second, in which this thread serves nobody.
#[derive(Default)]
pub(super) struct Gauges {
    /// By name and label, then by the label's value. The recorder keeps each for ever; that of a shard or server that is gone
    /// falls to zero.
    kept: HashMap<(&'static str, &'static str), HashMap<String, Kept>>,
    /// How often they were set.
    turn: u64,
}

struct Kept {
    gauge: Gauge,
    /// When it was last set.
    turn: u64,
}

impl Gauges {
    /// `queue` is `None` while it does not answer.
    pub(super) fn set(
        &mut self,
        map: &ClusterMap,
        queue: Option<&QueueStats>,
        deficits: Option<&BTreeMap<ShardId, Deficit>>,
        used: impl Fn(&ShardId) -> u64,
    ) {
        self.turn += 1;
        for shard in map.shards.values() {
            let (id, capacity) = (shard.id.as_str(), shard.size.map_or(0, |size| size.capacity));
            self.labelled("backpack_shard_capacity_bytes", "shard", id, capacity as f64);
            self.labelled("backpack_shard_used_bytes", "shard", id, used(&shard.id) as f64);
            self.labelled("backpack_shard_writable", "shard", id, f64::from(shard.is_writable()));
        }
        for (id, deficit) in deficits.into_iter().flatten() {
            let unsure = f64::from(!deficit.unsure.is_empty());
            self.labelled("backpack_shard_deficit_unsure", "shard", id.as_str(), unsure);
            let Some(lacking) = deficit.lacking() else { continue };
            let age = deficit.oldest_ms.map_or(0.0, |ms| unix_ms().saturating_sub(ms) as f64 / 1000.0);
            self.labelled(MISSING_COPIES, "shard", id.as_str(), lacking as f64);
            self.labelled(OLDEST_MISSING_COPY, "shard", id.as_str(), age);
        }
        match queue {
            Some(queue) => self.set_queue(map, queue),
            None => {
                // Nothing is known of tasks, but that no server is up.
                for server in map.queue.iter().flat_map(|queue| &queue.servers) {
                    self.labelled("backpack_queue_server_up", "server", &server.to_string(), 0.0);
                }
                self.keep_of_the_queue(map);
            }
        }
        for kept in self.kept.values_mut() {
            kept.retain(|_, kept| {
                let stays = kept.turn == self.turn;
                if !stays {
                    kept.gauge.set(0.0);
                }
                stays
            });
        }
    }

    /// What the queue said last stays, but for shards that are gone.
    fn keep_of_the_queue(&mut self, map: &ClusterMap) {
        let shards: HashSet<&str> = map.shards.keys().map(ShardId::as_str).collect();
        for ((name, label), kept) in &mut self.kept {
            for (value, kept) in kept {
                let stays = match *label {
                    "shard" => OF_THE_QUEUE.contains(name) && shards.contains(value.as_str()),
                    _ => *name != "backpack_queue_server_up",
                };
                if stays {
                    kept.turn = self.turn;
                }
            }
        }
    }

    fn set_queue(&mut self, map: &ClusterMap, queue: &QueueStats) {
        gauge!("backpack_queue_backlog_tasks").set(queue.backlog() as f64);
        gauge!("backpack_queue_dead_letters").set(queue.dead() as f64);
        let now = unix_ms();
        let age = |oldest: Option<u64>| oldest.map_or(0.0, |ms| now.saturating_sub(ms) as f64 / 1000.0);
        gauge!("backpack_queue_oldest_task_age_seconds").set(age(queue.oldest_ms()));
        // Servers without tasks are left out of the stats.
        let none = crate::queue::TargetStats::default();
        for id in map.servers.keys().chain(queue.targets.keys().filter(|id| !map.servers.contains_key(*id))) {
            let target = queue.targets.get(id).unwrap_or(&none);
            let (id, backlog, age) = (id.as_str(), target.backlog() as f64, age(target.oldest_ms));
            self.labelled("backpack_queue_target_backlog_tasks", "target", id, backlog);
            self.labelled("backpack_queue_target_dead_letters", "target", id, target.dead as f64);
            self.labelled("backpack_queue_target_oldest_task_age_seconds", "target", id, age);
        }
        for server in &queue.servers {
            let up = f64::from(server.error.is_none());
            self.labelled("backpack_queue_server_up", "server", &server.name, up);
            self.labelled("backpack_queue_server_entries", "server", &server.name, server.entries as f64);
        }
    }

    fn labelled(&mut self, name: &'static str, label: &'static str, of: &str, value: f64) {
        let kept = self.kept.entry((name, label)).or_default();
        if !kept.contains_key(of) {
            let gauge = gauge!(name, label => of.to_owned());
            kept.insert(of.to_owned(), Kept { gauge, turn: 0 });
        }
        if let Some(kept) = kept.get_mut(of) {
            kept.gauge.set(value);
            kept.turn = self.turn;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::model::{PoolName, Shard, map::ShardSize};

    fn shard(id: &str, size: ShardSize, read_only: bool) -> (ShardId, Arc<Shard>) {
        let id: ShardId = id.parse().unwrap();
        let (servers, stages, pool) = (vec![], Default::default(), PoolName::default());
        (id.clone(), Arc::new(Shard { id, servers, stages, read_only, pool, size: Some(size) }))
    }

    #[test]
    fn gauges_of_shards_that_are_gone_fall_to_zero_and_those_of_the_queue_stay_while_it_is_silent() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let size = ShardSize { capacity: 7, used: 0 };
        let map = |ids: &[&str]| ClusterMap {
            shards: ids.iter().map(|id| shard(id, size, false)).collect(),
            ..ClusterMap::default()
        };
        let lacking = Deficit { missing: Some(3), given_up: Some(0), ..Deficit::default() };
        let deficits = ["1", "2"].map(|id| (id.parse().unwrap(), lacking.clone())).into();
        let mut gauges = Gauges::default();
        metrics::with_local_recorder(&recorder, || {
            gauges.set(&map(&["1", "2"]), Some(&QueueStats::default()), Some(&deficits), |_| 5);
            gauges.set(&map(&["1"]), None, None, |_| 6);
        });
        let text = recorder.handle().render();
        let of = |name: &str, shard: &str| {
            let prefix = format!("{name}{{shard=\"{shard}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or("none").to_owned()
        };
        let both = |name| [of(name, "1"), of(name, "2")];
        assert_eq!(both("backpack_shard_used_bytes"), ["6", "0"]);
        assert_eq!(both("backpack_shard_capacity_bytes"), ["7", "0"]);
        assert_eq!(both(MISSING_COPIES), ["3", "0"]);
    }

    #[test]
    fn space_counts_as_the_original_counts() {
        assert_eq!(Space::of(&ClusterMap::default()).usage_ratio, 1.0);
        let mut map = ClusterMap::default();
        for (id, capacity, used, read_only) in
            [("1", 1000, 1, false), ("2", 2000, 0, true), ("3", 10, 20, false)]
        {
            map.shards.extend([shard(id, ShardSize { capacity, used }, read_only)]);
        }
        let space = Space::of(&map);
        assert_eq!((space.total_size, space.used_size, space.available_space), (3010, 21, 999));
        assert_eq!((space.total_shards, space.writable_shards), (3, 1));
        assert_eq!(space.usage_ratio, 0.007);
    }
}
