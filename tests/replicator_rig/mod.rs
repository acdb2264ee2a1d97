//! Replicators in the test's own process, on a real queue and a map that the test changes.

#![allow(dead_code, reason = "each test crate compiles this module and uses its own part of it")]

use std::{sync::Arc, time::Duration};

use backpack::{
    client::{Servers, Timeouts},
    daemon::{Shutdown, unix_ms},
    model::{ClusterMap, Operation, PoolName, Server, Shard, Task, Version},
    queue::{DeadLetter, EmbeddedQueue, Filter, Queue, QueueStats, TargetStats},
    replicator::{self, Config, Deps},
    telemetry::health::Readiness,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::support::{original_node::OriginalNode, queue::WatchedQueue, wait::eventually};

/// Longer than any test: what a test proves does not depend on how fast a server answers. Those that wait for the end
/// of a time-out set their own.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(60),
    answer: Duration::from_secs(600),
    stall: Duration::from_secs(600),
};

/// Longer than any test, for the same reason: no claim is taken over.
pub const LEASE: Duration = Duration::from_secs(600);

/// The shortest that settings take, for tests that wait until a claim is taken over.
pub const SHORT_LEASE: Duration = Duration::from_secs(3);

/// Whatever a test waits for happens far sooner, on a slow machine too.
pub const SOON: Duration = Duration::from_secs(120);

/// Longer than whatever a test leaves in flight on a node.
pub const DRAIN_OF_NODES: Duration = Duration::from_secs(300);

/// Settings with short waits between tries.
pub fn config() -> Config {
    Config {
        concurrency: 8,
        attempts: 5,
        lease: LEASE.as_secs(),
        retry_first_ms: 20,
        retry_max_ms: 200,
        ..Config::default()
    }
}

/// A queue and a map.
pub struct Rig {
    pub queue: Arc<WatchedQueue>,
    /// Of the replicators that are started from now on.
    pub timeouts: Timeouts,
    map: watch::Sender<Arc<ClusterMap>>,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// An empty map and the queue of one machine.
    pub fn new() -> Self {
        Self::with_lease(LEASE)
    }

    /// An empty map and the queue of one machine, whose claims are taken over after this. The settings of a replicator
    /// must say the same.
    pub fn with_lease(lease: Duration) -> Self {
        let dir = tempfile::tempdir().expect("make a folder for the queue");
        let queue = EmbeddedQueue::open(dir.path(), lease).expect("open the queue");
        Self::on(Arc::new(queue), dir)
    }

    /// An empty map and this queue.
    pub fn on(queue: Arc<dyn Queue>, dir: tempfile::TempDir) -> Self {
        let map = watch::Sender::new(Arc::new(ClusterMap::default()));
        Self { queue: Arc::new(WatchedQueue::new(queue)), timeouts: TIMEOUTS, map, _dir: dir }
    }

    /// Adds a server at `127.0.0.1:port` to the map, or gives it another address.
    pub fn add_server(&self, id: &str, addr: &str) {
        let port =
            addr.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an address with a port");
        let server = Server { id: id.parse().expect("an id"), host: "127.0.0.1".to_owned(), port };
        self.change_map(|map| drop(map.servers.insert(server.id.clone(), Arc::new(server))));
    }

    /// Adds a shard of these servers to the map.
    pub fn add_shard(&self, id: &str, servers: &[&str]) {
        let shard = Shard {
            id: id.parse().expect("an id"),
            servers: servers.iter().map(|id| id.parse().expect("an id")).collect(),
            stages: Default::default(),
            read_only: false,
            pool: PoolName::default(),
            size: None,
        };
        self.change_map(|map| drop(map.shards.insert(shard.id.clone(), Arc::new(shard))));
    }

    /// The map as it is now.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.map.borrow().clone()
    }

    /// The current map, as it changes.
    pub fn follow_map(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.map.subscribe()
    }

    /// Has a server announce itself.
    pub fn set_live(&self, id: &str) {
        self.change_map(|map| map.live.extend([id.parse().expect("an id")]));
    }

    fn change_map(&self, change: impl FnOnce(&mut ClusterMap)) {
        self.map.send_modify(|map| change(Arc::make_mut(map)));
    }

    /// Stand-ins for the original's node, in the map under these ids.
    pub fn originals<const N: usize>(&self, ids: [&str; N]) -> [OriginalNode; N] {
        ids.map(|id| {
            let node = OriginalNode::start();
            self.add_server(id, &node.addr());
            node
        })
    }

    /// Starts a replicator.
    pub fn start(&self, config: Config) -> Replicator {
        self.start_draining(config, SOON)
    }

    /// Starts a replicator that gives tasks in flight this time to finish when it is stopped.
    pub fn start_draining(&self, config: Config, drain: Duration) -> Replicator {
        let (shutdown, readiness) = (Shutdown::new(drain), Readiness::default());
        let deps = Deps {
            map: self.map.subscribe(),
            queue: self.queue.clone(),
            servers: Arc::new(Servers::new(self.timeouts.clone())),
            readiness: readiness.clone(),
            probes: None,
        };
        let settings = config.check().expect("settings that hold");
        let serving = tokio::spawn(replicator::serve(settings, deps, shutdown.clone()));
        Replicator { readiness, shutdown, serving }
    }

    /// Puts tasks on the queue.
    pub async fn push(&self, tasks: &[Task]) {
        self.queue.push(tasks, Duration::ZERO).await.expect("the queue takes tasks");
    }

    pub async fn stats(&self) -> QueueStats {
        self.queue.stats().await.expect("the queue counts")
    }

    /// What is left of one target.
    pub async fn of_target(&self, id: &str) -> TargetStats {
        self.stats().await.targets.get(&id.parse().expect("an id")).cloned().unwrap_or_default()
    }

    /// Waits until nothing is left to be done.
    pub async fn drained(&self, within: Duration) {
        eventually("every task is done", within, async || self.stats().await.backlog() == 0).await;
    }

    /// Waits until nothing of one target is left to be done.
    pub async fn drained_of(&self, id: &str, within: Duration) {
        let what = format!("every task of {id} is done");
        eventually(&what, within, async || self.of_target(id).await.backlog() == 0).await;
    }

    pub async fn dead(&self) -> Vec<DeadLetter> {
        self.queue.dead(&Filter::default(), 1000).await.expect("the queue lists")
    }
}

/// A running replicator.
pub struct Replicator {
    pub readiness: Readiness,
    pub shutdown: Shutdown,
    serving: JoinHandle<()>,
}

impl Replicator {
    /// Asks it to stop and waits for its end.
    pub async fn stop(self) {
        self.shutdown.begin();
        tokio::time::timeout(SOON, self.serving).await.expect("it stops in time").expect("it does not panic");
    }
}

/// The version with this number.
pub fn version(number: u128) -> Version {
    Version::from_parts(1_000, number)
}

/// A copy to be made.
pub fn copy(key: &str, number: Option<u128>, from: &[&str], to: &str) -> Task {
    Task {
        op: Operation::Copy,
        shard: None,
        key: key.parse().expect("a key"),
        version: number.map(version),
        from: from.iter().map(|id| id.parse().expect("an id")).collect(),
        to: to.parse().expect("an id"),
        length: 0,
        created_ms: unix_ms(),
        request_id: format!("req-{to}"),
    }
}

/// A delete to be made.
pub fn delete(key: &str, number: u128, to: &str) -> Task {
    Task { op: Operation::Delete, ..copy(key, Some(number), &[], to) }
}

/// How many requests of that method a stand-in saw.
pub fn count(node: &OriginalNode, method: &str) -> usize {
    node.seen().iter().filter(|request| request.method == method).count()
}
