//! Comparisons that nobody asks for: each shard once in a while, and when a server of it comes back or has damage.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::{counter, gauge};
use tokio::sync::watch;

use super::{
    Behind, Found, Keeper, QueueSeen, Record, Scrub, ScrubError, Sink, behind,
    due::{self, due},
    many, record,
};
use crate::{
    client::Servers,
    cluster::{LIVE, MapStore, edit::EditError},
    daemon::{Shutdown, unix_ms},
    http::RequestId,
    model::{ClusterMap, Server, ServerId, Shard, ShardId},
    queue::{Queue, TargetStats},
};

/// With several replicators the first one that sees what is due takes it. A look costs each server one short answer.
const DEFAULT_LOOK_SECONDS: u64 = 30;
/// So much of that more or less, that they do not all look at the same moment.
const SPREAD: f64 = 0.3;

/// Damage looked at: who has more is in trouble anyway, and is compared once in a while.
const DAMAGED_LIMIT: usize = 100;
/// A shard whose server gets many copies does not hold up the others: it is gone on with at the next look.
const PATIENCE: Duration = Duration::from_secs(10);
/// The only server of a shard is told so often that nobody else needs its deletes.
const TELL_ALONE_EVERY: Duration = Duration::from_secs(3600);

/// When servers are compared.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "scrub")]
#[command(next_help_heading = "Scrub between servers")]
pub struct Config {
    /// Hours after which the servers of a shard are compared again, also without a reason; 0: never
    #[arg(long, env = "BACKPACK_SCRUB_HOURS", default_value_t = DEFAULT_SCRUB_HOURS, value_name = "HOURS")]
    pub scrub_hours: u32,

    /// Seconds between looks at what is due: a server that was started, damage, a queue that lost what it held
    #[arg(
        long,
        env = "BACKPACK_SCRUB_LOOK_SECONDS",
        default_value_t = DEFAULT_LOOK_SECONDS,
        value_parser = clap::value_parser!(u64).range(1..),
        value_name = "SECONDS"
    )]
    pub scrub_look_seconds: u64,
}

/// What a lost queue forgot is found within a day. A comparison costs seconds of a core for a million blobs.
const DEFAULT_SCRUB_HOURS: u32 = 24;

impl Default for Config {
    fn default() -> Self {
        Self { scrub_hours: DEFAULT_SCRUB_HOURS, scrub_look_seconds: DEFAULT_LOOK_SECONDS }
    }
}

/// What the schedule works with.
pub struct Deps {
    /// Where the records are.
    pub store: Arc<dyn MapStore>,
    /// The current map.
    pub map: watch::Receiver<Arc<ClusterMap>>,
    /// Where tasks go.
    pub queue: Arc<dyn Queue>,
    /// Connections to servers.
    pub servers: Arc<Servers>,
}

/// Compares what is due, one shard at a time, until the shutdown begins.
pub async fn run(config: Config, deps: Deps, shutdown: Shutdown) {
    if config.scrub_hours == 0 {
        return;
    }
    let every = Duration::from_secs(u64::from(config.scrub_hours) * 3600);
    let by = RequestId::fresh().as_str().to_owned();
    let mut schedule = Schedule { every, by, deps, known: HashMap::new(), told_alone: None };
    let look_every = Duration::from_secs(config.scrub_look_seconds);
    while shutdown.sleep(look_every.mul_f64(1.0 + SPREAD * (fastrand::f64() - 0.5))).await {
        tokio::select! {
            // What it did by then stays, and others go on with it.
            () = shutdown.wait() => return,
            looked = schedule.look() => if let Err(error) = looked {
                tracing::debug!(%error, "it could not be seen which shards are to be compared");
            }
        }
    }
}

struct Schedule {
    every: Duration,
    /// Names this process in records.
    by: String,
    deps: Deps,
    /// The records as they were last read. What others did since can only put off what is due.
    known: HashMap<ShardId, Record>,
    /// When servers that are alone were last told that nobody else needs their deletes.
    told_alone: Option<Instant>,
}

impl Schedule {
    /// Compares all that is due.
    async fn look(&mut self) -> Result<(), ScrubError> {
        let map = self.deps.map.borrow().clone();
        if self.told_alone.is_none_or(|told| told.elapsed() >= TELL_ALONE_EVERY) {
            self.tell_alone(&map).await;
            self.told_alone = Some(Instant::now());
        }
        let started = self.started(&map).await;
        let damaged = self.damaged(&map).await;
        // Without a queue nothing could be done about what is found.
        let stats = self.deps.queue.stats().await?;
        let queue = QueueSeen::update(&*self.deps.store, &stats).await?;
        let behind = self.behind(&map).await;
        let backlog = |id: &ServerId| stats.targets.get(id).map_or(0, TargetStats::backlog);
        let is_behind = |id: &ServerId| behind.contains_key(id);
        let has_caught_up = |id: &ServerId| behind.get(id).is_none_or(|mark| mark.has_caught_up(backlog(id)));
        self.known.retain(|shard, _| map.shards.contains_key(shard));
        let mut shards: Vec<&Arc<Shard>> = map.shards.values().collect();
        // Replicators that begin at the same moment begin with different ones.
        fastrand::shuffle(&mut shards);
        // Of a server of several shards nobody can tell which of its blobs are whose.
        let shards_of = map.shards_of_each();
        let can_be_compared = |id: &&ServerId| map.live.contains(*id) && shards_of.get(*id) == Some(&1);
        for shard in shards {
            // One that is being filled is seen to by whoever fills it.
            let members = || shard.servers.iter().filter(|id| !shard.is_joining(id));
            let servers = due::Servers {
                all: members().cloned().collect(),
                live: members().filter(can_be_compared).cloned().collect(),
                // One that has tasks for long is compared when they are done.
                started_ms: members()
                    .filter(|id| has_caught_up(id))
                    .filter_map(|id| started.get(id))
                    .copied()
                    .max()
                    .unwrap_or(0),
                queue_lost_ms: queue.lost_ms,
                is_behind: members().any(|id| is_behind(id) && has_caught_up(id)),
                damaged_ms: members().filter_map(|id| damaged.get(id)).copied().max().unwrap_or(0),
            };
            let is_due = |record: &Record| due(record, &servers, self.every, unix_ms());
            if self.known.get(&shard.id).is_some_and(|known| is_due(known).is_none()) {
                continue;
            }
            let mut record = self.record(&shard.id).await?;
            if let Some(why) = is_due(&record) {
                self.compare(&map, shard, why).await;
                record = self.record(&shard.id).await?;
            }
            self.known.insert(shard.id.clone(), record);
        }
        Ok(())
    }

    async fn record(&self, shard: &ShardId) -> Result<Record, ScrubError> {
        // One that cannot be read is not believed; the comparison then says so.
        Ok(many::read(&*self.deps.store, &record::path(shard)).await.map_err(EditError::from)?)
    }

    /// When the servers that announce themselves were started.
    async fn started(&self, map: &ClusterMap) -> BTreeMap<ServerId, u64> {
        let ask = |id: &ServerId| {
            let (id, path) = (id.clone(), format!("{LIVE}/{id}"));
            async move {
                let entry = self.deps.store.get(&path).await.ok()??;
                let document: serde_json::Value = serde_json::from_slice(&entry.data).ok()?;
                Some((id, document.get("started")?.as_u64()?))
            }
        };
        many::all(map.live.iter().map(ask)).await.into_iter().flatten().collect()
    }

    /// Servers for which tasks were left out.
    async fn behind(&self, map: &ClusterMap) -> BTreeMap<ServerId, Behind> {
        let ask = |id: &ServerId| {
            let (id, path) = (id.clone(), behind::path(id));
            async move {
                let behind: Behind = many::read(&*self.deps.store, &path).await.ok()?;
                behind.is_behind().then_some((id, behind))
            }
        };
        many::all(map.servers.keys().map(ask)).await.into_iter().flatten().collect()
    }

    /// When servers found the damage that they found last, as far as a page of it says.
    async fn damaged(&self, map: &ClusterMap) -> BTreeMap<ServerId, u64> {
        let id = RequestId::fresh();
        let ask = |server: &Arc<Server>| {
            let (server, id, servers) = (server.clone(), id.clone(), &self.deps.servers);
            async move {
                let page = servers.damaged(&server, None, DAMAGED_LIMIT, &id).await.ok()?;
                Some((server.id.clone(), page.iter().map(|line| line.found_ms).max()?))
            }
        };
        let live = map.servers.values().filter(|server| map.live.contains(&server.id));
        many::all(live.map(ask)).await.into_iter().flatten().collect()
    }

    /// Tells servers that are alone in their shard that no other server needs their deletes.
    async fn tell_alone(&self, map: &ClusterMap) {
        let id = RequestId::fresh();
        let before_ms = unix_ms().saturating_sub(record::IN_FLIGHT.as_millis() as u64);
        let shared = map.shards.values().filter(|shard| shard.servers.len() > 1);
        let shared: BTreeSet<&ServerId> = shared.flat_map(|shard| &shard.servers).collect();
        let alone: BTreeSet<&ServerId> = map.shards.values().flat_map(|shard| &shard.servers).collect();
        let tell = alone.difference(&shared).filter_map(|server| map.servers.get(*server)).map(|server| {
            let (server, id, servers) = (server.clone(), id.clone(), &self.deps.servers);
            // One that is not told, or is no node of ours, keeps them, or has none.
            async move { drop(servers.settle_deletes(&server, before_ms, &id).await) }
        });
        many::all(tell).await;
    }

    async fn compare(&self, map: &ClusterMap, shard: &Shard, why: &str) {
        let Deps { store, queue, servers, .. } = &self.deps;
        let scrub = Scrub {
            map,
            shard,
            only: None,
            servers: servers.clone(),
            sink: Sink::Queue(queue.clone()),
            patience: PATIENCE,
            progress: &|_| {},
        };
        tracing::info!(shard = %shard.id, why, "the servers of a shard are compared");
        let keeper = Keeper::new(store.clone(), shard.id.clone(), self.by.clone());
        match scrub.run(keeper).await {
            Ok(found) => note(shard, &found),
            // It has its reasons, and they stand in the record.
            Err(error @ (ScrubError::TakenOver | ScrubError::Nothing(_) | ScrubError::NoRoom { .. })) => {
                tracing::debug!(shard = %shard.id, %error, "a shard was not compared");
            }
            Err(error) => {
                counter!("backpack_scrub_failed_total").increment(1);
                tracing::warn!(shard = %shard.id, %error, "the comparison of a shard failed; it goes on later");
            }
        }
    }
}

fn note(shard: &Shard, found: &Found) {
    let label = shard.id.to_string();
    counter!("backpack_scrub_compared_total", "shard" => label.clone()).increment(1);
    counter!("backpack_scrub_queued_total", "shard" => label.clone()).increment(found.queued);
    gauge!("backpack_scrub_conflicts", "shard" => label).set(found.conflicts as f64);
    let (keys, differences, queued) = (found.keys, found.differences(), found.queued);
    if differences > 0 || !found.who.left_out.is_empty() {
        let left_out = found.who.left_out.len();
        tracing::warn!(shard = %shard.id, keys, differences, queued, left_out, "the servers of a shard differ");
    } else {
        tracing::info!(shard = %shard.id, keys, "the servers of a shard hold the same");
    }
}
