//! The coordinator: takes uploads, streams them to a shard's servers, leaves durable tasks for the other copies.
//!
//! - [`serve`]: the role, started by the programs, standalone and the tests alike
//! - `routes`: which request is what; `error`: what a client is told
//! - `upload` -> `fanout` (`running`) -> `finish`: an upload's way; `source`: its body; `replay`: of which the beginning is kept; `placement`: where it goes
//! - `fleet`: what is known of the servers; `tasks`: what is left for the replicators; `backlog`: what is not;
//!   `usage` and `flush`: used bytes; `pace` and `lag`: who is slow
//! - `read`, `delete`: the other verbs; `ask` and `hedge`: which servers a read asks, and when; `repairs`: what it found missing
//! - `clock`: whether the coordinators' clocks agree
//! - `stats`, `statsd`, `dump`: what is said about all this; `counted`: of each upload

mod ask;
mod backlog;
mod clock;
mod config;
mod counted;
mod delete;
mod dump;
mod error;
mod fanout;
mod finish;
mod fleet;
mod flush;
mod hedge;
mod lag;
mod pace;
mod placement;
mod read;
mod repairs;
mod replay;
mod routes;
mod running;
mod source;
mod stats;
mod statsd;
mod tasks;
mod upload;
mod usage;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

pub use config::Config;
use error::RequestError;
pub use statsd::Statsd;

use crate::{
    client::Servers,
    cluster::{
        MapStore, OPERATION_TIMEOUT,
        view::{View, ViewState},
    },
    daemon::{Shutdown, VersionClock},
    http::{Limits, Listener, Server},
    model::{self, ClusterMap, Shard},
    queue::Queue,
    scrub::{self, Known},
    telemetry::health::{Condition, Readiness},
};

/// How often the queue is asked for its counts: often enough for `/-/ready`, seldom enough for a big queue.
const LOOK_AT_QUEUE_EVERY: Duration = Duration::from_secs(5);

/// How often a queue that does not answer is asked: a restart should not be "not ready" for long.
const LOOK_AT_LOST_QUEUE_EVERY: Duration = Duration::from_millis(500);

/// How often it is read what is known of the comparisons of servers: one short document for each shard.
const LOOK_AT_COMPARISONS_EVERY: Duration = Duration::from_secs(30);

/// How often the original sends its gauges.
const STATSD_EVERY: Duration = Duration::from_secs(10);

/// Packets to statsd are filled before they are sent, but wait no longer than this.
const STATSD_FLUSH_EVERY: Duration = Duration::from_secs(1);

/// For what is left of uploads whose clients are gone, once the drain is over: longer than the queue's deadline.
const LAST_TASKS: Duration = Duration::from_secs(5);

/// For the last write of used bytes; a stop must not hang on a store that is away.
const LAST_FLUSH: Duration = Duration::from_secs(5);

/// How long a request that comes right after the start waits for the map.
const FIRST_MAP_WITHIN: Duration = OPERATION_TIMEOUT;

/// What a coordinator works with.
pub struct Deps {
    /// Where used bytes are written.
    pub store: Arc<dyn MapStore>,
    /// The current map.
    pub view: View,
    /// Where tasks go.
    pub queue: Arc<dyn Queue>,
    /// Connections to the servers.
    pub servers: Arc<Servers>,
    /// Where statsd metrics go, if anywhere.
    pub statsd: Option<Statsd>,
    /// Gives the versions.
    pub clock: VersionClock,
}

struct Coordinator {
    config: Config,
    store: Arc<dyn MapStore>,
    view: View,
    queue: Arc<dyn Queue>,
    servers: Arc<Servers>,
    statsd: Option<Statsd>,
    fleet: fleet::Fleet,
    backlogs: backlog::Backlogs,
    usage: usage::Usage,
    repairs: repairs::Repairs,
    hedges: hedge::Budget,
    replays: Arc<replay::Room>,
    totals: stats::Totals,
    counted: counted::Uploads,
    clock: VersionClock,
    batches: flush::Batches,
    /// Work that goes on when its client goes away.
    tasks: TaskTracker,
}

struct Conditions {
    running: Condition,
    map: Condition,
    queue: Condition,
    shards: Condition,
}

/// Serves until the shutdown begins, then finishes what is in flight and writes the last used bytes.
pub async fn serve(listener: impl Listener, config: Config, deps: Deps, shutdown: Shutdown) {
    let limits = Limits { connections: config.connections, ..Limits::default() };
    let replays = replay::Room::new(config.replay_room);
    let coordinator = Arc::new(Coordinator {
        config,
        store: deps.store,
        view: deps.view,
        queue: deps.queue,
        servers: deps.servers,
        statsd: deps.statsd,
        fleet: fleet::Fleet::default(),
        backlogs: backlog::Backlogs::default(),
        usage: usage::Usage::default(),
        repairs: repairs::Repairs::default(),
        hedges: hedge::Budget::default(),
        replays,
        totals: stats::Totals::default(),
        counted: counted::Uploads::default(),
        clock: deps.clock,
        batches: flush::Batches::default(),
        tasks: TaskTracker::new(),
    });
    let readiness = Readiness::default();
    let conditions = Conditions {
        running: readiness.condition("running"),
        map: readiness.condition("map"),
        queue: readiness.condition("queue"),
        shards: readiness.condition("shards"),
    };
    conditions.running.ok();
    let mut workers = JoinSet::new();
    workers.spawn(coordinator.clone().flush_until(shutdown.clone()));
    workers.spawn(coordinator.clone().watch_map(shutdown.clone(), conditions.map, conditions.shards));
    workers.spawn(coordinator.clone().watch_queue(shutdown.clone(), conditions.queue));
    workers.spawn(coordinator.clone().send_gauges(shutdown.clone()));
    workers.spawn(coordinator.clone().watch_comparisons(shutdown.clone()));
    workers.spawn(coordinator.clone().watch_clock(shutdown.clone()));
    let running = conditions.running;
    let stopping = shutdown.clone();
    workers.spawn(async move {
        stopping.wait().await;
        running.fail("stopping");
    });
    let server = Server::new(coordinator.clone(), readiness, limits);
    server.serve(listener, shutdown).await;
    while workers.join_next().await.is_some() {}
    coordinator.finish_tasks().await;
    tokio::join!(coordinator.last_pushes(), coordinator.last_flush());
}

/// Whether the map is current. Coordinators go on serving on an old one, but say so.
fn freshness(state: ViewState) -> Result<(), String> {
    match state {
        ViewState::Fresh => Ok(()),
        ViewState::NeverLoaded => Err("not read yet: the map store does not answer".to_owned()),
        ViewState::Stale { since } => {
            Err(format!("the map store does not answer; the map is {} s old", since.elapsed().as_secs()))
        }
    }
}

impl Coordinator {
    /// The map. Without one, everything that exists would be denied.
    async fn known_map(&self) -> Result<Arc<ClusterMap>, RequestError> {
        let unknown = self.view.state() == ViewState::NeverLoaded;
        if unknown && tokio::time::timeout(FIRST_MAP_WITHIN, self.view.loaded()).await.is_err() {
            return Err(RequestError::NoMap);
        }
        Ok(self.view.map())
    }

    /// The servers of a shard, the best first, for a body of known or unknown length (or none).
    fn order_for_write(
        &self,
        map: &ClusterMap,
        shard: &Shard,
        length_known: bool,
    ) -> Vec<Arc<model::Server>> {
        let standing = |id: &_| self.fleet.standing_for_write(id, length_known);
        placement::order_servers(map, shard, standing, || fastrand::u64(..))
    }

    /// The servers of a shard, the best to read first.
    fn order_for_read(&self, map: &ClusterMap, shard: &Shard) -> Vec<Arc<model::Server>> {
        let standing = |id: &_| self.fleet.standing_for_read(id);
        let mut servers = placement::order_servers(map, shard, standing, || fastrand::u64(..));
        servers.retain(|server| shard.is_read(&server.id));
        servers
    }

    /// Takes over each change of the map, and says whether uploads can be taken.
    async fn watch_map(self: Arc<Self>, shutdown: Shutdown, fresh: Condition, shards: Condition) {
        fresh.set(freshness(self.view.state()));
        tokio::select! {
            () = self.view.loaded() => {}
            () = shutdown.wait() => return,
        }
        let mut changes = self.view.changes();
        loop {
            let map = changes.borrow_and_update().clone();
            self.fleet.follow(&map);
            fresh.set(freshness(self.view.state()));
            let writable = map.shards.values().any(|shard| shard.is_writable());
            shards.set(if writable { Ok(()) } else { Err("no shard takes uploads".to_owned()) });
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                // The state turns stale without a change of the map.
                more = shutdown.sleep(Duration::from_secs(1)) => if !more { break },
            }
        }
    }

    async fn watch_queue(self: Arc<Self>, shutdown: Shutdown, ready: Condition) {
        let mut gauges = stats::Gauges::default();
        loop {
            let stats = tokio::time::timeout(tasks::QUEUE_DEADLINE, self.queue.stats()).await;
            let stats =
                stats.map_err(|_| "no answer".to_owned()).and_then(|stats| stats.map_err(|e| e.to_string()));
            ready.set(stats.as_ref().map(|_| ()).map_err(Clone::clone));
            let map = self.view.map();
            let used = |id: &_| map.shards.get(id).map_or(0, |shard| self.usage.used(shard));
            let pause = if stats.is_ok() { LOOK_AT_QUEUE_EVERY } else { LOOK_AT_LOST_QUEUE_EVERY };
            self.totals.see_queue(stats.clone());
            if let Ok(stats) = &stats {
                self.backlogs.see(stats, self.config.max_backlog, &*self.store).await;
            }
            gauges.set(&map, stats.as_ref().ok(), self.totals.deficits(&map).as_ref(), used);
            if !shutdown.sleep(pause).await {
                break;
            }
        }
    }

    /// Reads what is known of the comparisons of servers. While the map store is away, what was read last stays.
    async fn watch_comparisons(self: Arc<Self>, shutdown: Shutdown) {
        tokio::select! {
            () = self.view.loaded() => {}
            () = shutdown.wait() => return,
        }
        loop {
            let map = self.view.map();
            let (known, damaged) =
                tokio::join!(Known::read(&*self.store, &map), scrub::damaged(&self.servers, &map));
            match known {
                Ok(known) => self.totals.see_comparisons(known.with_damaged(damaged)),
                Err(error) => tracing::debug!(%error, "what is known of comparisons could not be read"),
            }
            if !shutdown.sleep(LOOK_AT_COMPARISONS_EVERY).await {
                break;
            }
        }
    }

    async fn send_gauges(self: Arc<Self>, shutdown: Shutdown) {
        let Some(statsd) = &self.statsd else { return };
        let mut sent = Instant::now();
        while shutdown.sleep(STATSD_FLUSH_EVERY).await {
            if sent.elapsed() >= STATSD_EVERY {
                statsd.gauges(&self.view.map(), self.totals.queue_length());
                sent = Instant::now();
            }
            statsd.flush();
        }
    }

    /// What clients no longer wait for is still to be made safe and counted.
    async fn finish_tasks(&self) {
        self.tasks.close();
        if tokio::time::timeout(LAST_TASKS, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                tasks = self.tasks.len(),
                "uploads and deletes nobody waits for were not finished in time"
            );
        }
    }

    /// The last uploads' tasks are to be given out at once, not when their backups come due.
    async fn last_pushes(&self) {
        // What is not done by then comes later.
        let _ = tokio::time::timeout(tasks::QUEUE_DEADLINE, self.queue.settle()).await;
    }

    async fn last_flush(&self) {
        let flush = async {
            // What came after a batch of unknown outcome is written after it.
            self.flush().await;
            self.flush().await;
        };
        let flushed = tokio::time::timeout(LAST_FLUSH, flush).await;
        let left = self.usage.pending_bytes();
        if flushed.is_err() || left > 0 {
            tracing::error!(
                bytes = left,
                "used bytes could not be written before the stop: run backpack-admin recount"
            );
        }
    }
}
