//! The cluster of a plan: the real roles, each on a host of its own, on disks, a queue and a map store of memory.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use backpack::{
    client::Servers,
    cluster::{MapStore, View},
    coordinator,
    daemon::{Shutdown, VersionClock},
    model::{Key, Stage, Version},
    node,
    queue::{Queue, ReplicatedQueue},
    replicator,
    storage::{Found, Storage},
    telemetry::health::Readiness,
};
use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use serde_json::json;
use turmoil::Sim;

use super::{
    map::MemoryMap,
    memory::Memory,
    moody::MoodyQueue,
    network::{Dialler, PORT, Port, timeouts},
    plan::{Mood, Plan},
    queue::MemoryQueue,
    trace::Trace,
};

/// The shortest lease that replicators take.
const LEASE_SECONDS: u64 = 3;

/// Longer than most copies take, short enough that a simulation of some seconds meets it.
const BACKUP_DELAY: Duration = Duration::from_secs(5);

/// Of an upload, as much can be sent again: less than the largest ones have.
pub const REPLAY: u64 = 8 << 10;

/// More than all uploads of a simulation together.
const CAPACITY: u64 = 1 << 30;

/// What outlives crashes, and is looked at from outside.
#[derive(Clone)]
pub struct Cluster {
    /// The disks of all nodes, the first shard's first. Node 1 is the first.
    pub disks: Vec<Arc<Memory>>,
    /// Of each shard, its disks.
    pub shards: Vec<std::ops::Range<usize>>,
    /// All servers of the queue as one, whatever their moods.
    pub queue: Arc<ReplicatedQueue>,
    pub trace: Trace,
    /// Of each node, whether a hasty one stands in its place.
    pub hasty: Vec<Arc<AtomicBool>>,
    on_its_way: Option<usize>,
    store: Arc<MemoryMap>,
    queues: [Arc<MemoryQueue>; 2],
    moods: Arc<Mutex<[Mood; 2]>>,
}

/// As every process sees the servers of the queue.
fn as_one(queues: [Arc<impl Queue>; 2]) -> ReplicatedQueue {
    let [one, other] = queues.map(|queue| queue as Arc<dyn Queue>);
    ReplicatedQueue::new(vec![("one".to_owned(), one), ("other".to_owned(), other)], BACKUP_DELAY)
}

/// What a server holds under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    Nothing,
    Tombstone(Version),
    Blob(Version, Bytes),
}

impl Held {
    pub fn version(&self) -> Option<Version> {
        match self {
            Self::Nothing => None,
            Self::Tombstone(version) | Self::Blob(version, _) => Some(*version),
        }
    }
}

impl Cluster {
    /// Starts every host of the plan.
    pub fn start(plan: &Plan, sim: &mut Sim<'_>, trace: Trace) -> Self {
        let shards = plan.members();
        let disks: Vec<_> = (0..plan.servers()).map(|_| Arc::new(Memory::default())).collect();
        let queues = [0; 2].map(|_| Arc::new(MemoryQueue::new(Duration::from_secs(LEASE_SECONDS))));
        let cluster = Self {
            store: Arc::new(MemoryMap::holding(documents(&shards, plan.on_its_way))),
            hasty: disks.iter().map(|_| Arc::default()).collect(),
            on_its_way: plan.on_its_way.map(|(number, _)| number),
            disks,
            shards,
            queue: Arc::new(as_one(queues.clone())),
            queues,
            moods: Arc::default(),
            trace,
        };
        for disk in 0..cluster.disks.len() {
            cluster.start_node(sim, disk);
        }
        for (number, off_ms) in plan.clocks_ms.iter().enumerate() {
            cluster.start_coordinator(sim, number, *off_ms);
        }
        for number in 0..plan.replicators {
            cluster.start_replicator(sim, number);
        }
        cluster
    }

    fn start_node(&self, sim: &mut Sim<'_>, number: usize) {
        let (disk, hasty) = (self.disks[number].clone(), self.hasty[number].clone());
        sim.host(format!("node-{}", number + 1), move || {
            let (storage, hasty): (Arc<dyn Storage>, _) = (disk.clone(), hasty.clone());
            async move {
                let deps = node::Deps { storage, limits: node::Limits::default(), live: None };
                Ok(node::serve(Port::listen_unless(hasty).await?, deps, Shutdown::default()).await?)
            }
        });
    }

    fn start_coordinator(&self, sim: &mut Sim<'_>, number: usize, off_ms: i64) {
        let host = format!("coordinator-{number}");
        let (store, queues) = (self.store.clone(), self.queues_for(&host));
        sim.host(host, move || {
            let store: Arc<dyn MapStore> = store.clone();
            let queue = Arc::new(as_one(queues.clone()));
            async move {
                let shutdown = Shutdown::default();
                let deps = coordinator::Deps {
                    view: View::start(store.clone(), shutdown.clone()),
                    store,
                    queue,
                    servers: Arc::new(Servers::dialling(Arc::new(Dialler), timeouts())),
                    statsd: None,
                    clock: VersionClock::off_by(off_ms),
                };
                coordinator::serve(Port::listen().await?, coordinator_config(), deps, shutdown).await;
                Ok(())
            }
        });
    }

    fn start_replicator(&self, sim: &mut Sim<'_>, number: usize) {
        let host = format!("replicator-{number}");
        let (store, queues) = (self.store.clone(), self.queues_for(&host));
        sim.host(host, move || {
            let store: Arc<dyn MapStore> = store.clone();
            let queue = Arc::new(as_one(queues.clone()));
            async move {
                let shutdown = Shutdown::default();
                let view = View::start(store, shutdown.clone());
                view.loaded().await;
                let deps = replicator::Deps {
                    map: view.changes(),
                    queue,
                    servers: Arc::new(Servers::dialling(Arc::new(Dialler), timeouts())),
                    readiness: Readiness::default(),
                    probes: None,
                };
                replicator::serve(replicator_settings(), deps, shutdown).await;
                Ok(())
            }
        });
    }

    fn queues_for(&self, host: &str) -> [Arc<MoodyQueue>; 2] {
        [0, 1].map(|number| {
            Arc::new(MoodyQueue {
                inner: self.queues[number].clone(),
                number,
                moods: self.moods.clone(),
                host: host.to_owned(),
                trace: self.trace.clone(),
            })
        })
    }

    /// From now on these servers of the queue are so.
    pub fn set_mood(&self, which: &[usize], mood: Mood) {
        which.iter().for_each(|number| self.moods.lock()[*number] = mood);
    }

    /// Whether that server of a shard is on its way into it or out of it.
    pub fn is_on_its_way(&self, shard: usize, place: usize) -> bool {
        self.on_its_way == Some(self.shards[shard].start + place)
    }

    /// Whether one of its servers is.
    pub fn has_one_on_its_way(&self, shard: usize) -> bool {
        self.on_its_way.is_some_and(|number| self.shards[shard].contains(&number))
    }

    /// What each server of a shard holds under a key, in the order of the shard.
    pub fn held(&self, shard: usize, key: &str) -> Vec<Held> {
        let key: Key = key.parse().unwrap();
        self.disks[self.shards[shard].clone()].iter().map(|disk| held(disk, &key)).collect()
    }
}

/// An engine of memory answers at once.
fn held(disk: &Memory, key: &Key) -> Held {
    match disk.open(key).now_or_never().unwrap().unwrap() {
        None => Held::Nothing,
        Some(Found::Tombstone(version)) => Held::Tombstone(version),
        Some(Found::Blob(blob)) => {
            let info = blob.info();
            let bytes = blob.read(0, info.length).now_or_never().unwrap().unwrap();
            Held::Blob(info.version, bytes)
        }
    }
}

/// What `coordinator-init`, `add-server`, `add-shard` and `enable-shard` would have written.
fn documents(
    shards: &[std::ops::Range<usize>],
    on_its_way: Option<(usize, Stage)>,
) -> Vec<(String, serde_json::Value)> {
    let servers: Vec<usize> = shards.iter().cloned().flatten().collect();
    let server = |number: &usize| {
        let id = number + 1;
        (id.to_string(), json!({ "host": format!("node-{id}"), "port": PORT.to_string() }))
    };
    let shard = |(number, servers): (usize, &std::ops::Range<usize>)| {
        let nodes: Vec<_> = servers.clone().map(|number| (number + 1).to_string()).collect();
        let mut shard = json!({ "nodes": nodes });
        if let Some((server, stage)) = on_its_way.filter(|(server, _)| servers.contains(server)) {
            shard["stages"] = json!({ (server + 1).to_string(): stage });
        }
        ((number + 1).to_string(), shard)
    };
    let map = |entries: serde_json::Map<_, _>| serde_json::Value::Object(entries);
    let mut documents = vec![
        ("/servers-map".to_owned(), map(servers.iter().map(server).collect())),
        ("/shards-map".to_owned(), map(shards.iter().enumerate().map(shard).collect())),
    ];
    // All of them are ours, and nobody notices so soon that one is away.
    documents.extend(servers.iter().map(|number| (format!("/live/{}", number + 1), json!({}))));
    for number in 1..=shards.len() {
        documents.push((format!("/shard-size-{number}"), json!({ "capacity": CAPACITY, "current": 0 })));
    }
    documents
}

fn coordinator_config() -> coordinator::Config {
    coordinator::Config {
        replay: REPLAY,
        replay_room: 1 << 30,
        max_body: 1 << 30,
        body_idle: 5,
        flush: 1000,
        connections: 100,
        max_backlog: 100_000,
        patience: 2000,
        hedge_after: 100,
        spool_dir: std::env::temp_dir(),
    }
}

fn replicator_settings() -> replicator::Settings {
    let config = replicator::Config {
        concurrency: 4,
        lease: LEASE_SECONDS,
        retry_first_ms: 200,
        retry_max_ms: 4000,
        ..replicator::Config::default()
    };
    config.check().unwrap()
}
