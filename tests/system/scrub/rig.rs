//! A shard of nodes on real engines in the test's own process, and what a comparison of them puts on the queue.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use backpack::{
    client::Servers,
    cluster::{self, MapStore, StoreOptions},
    daemon::Shutdown,
    model::{Meta, Operation, ServerId, Version},
    node::{self, Limits},
    queue::{Filter, Queue},
    scrub::{Found, Keeper, Record, Scrub, ScrubError, Sink, record_path},
    storage::{Engine, NewBlob, Options, Storage},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{replicator_rig::DRAIN_OF_NODES, support::http::Request};

/// A node.
pub struct Node {
    pub addr: String,
    pub storage: Arc<dyn Storage>,
    shutdown: Shutdown,
    serving: JoinHandle<Result<(), backpack::storage::StorageError>>,
}

impl Node {
    pub async fn start(dir: &Path) -> Self {
        let storage: Arc<dyn Storage> = Engine::open(dir, options()).expect("open an engine");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let addr = listener.local_addr().expect("an address").to_string();
        let shutdown = Shutdown::new(DRAIN_OF_NODES);
        let deps = node::Deps { storage: storage.clone(), limits: Limits::default(), live: None };
        let serving = tokio::spawn(node::serve(listener, deps, shutdown.clone()));
        Self { addr, storage, shutdown, serving }
    }

    /// Stops it properly.
    pub async fn stop(self) {
        self.shutdown.begin();
        self.serving.await.expect("it does not panic").expect("it closes");
    }

    pub async fn put(&self, key: &str, number: u64, bytes: &[u8]) {
        let blob = NewBlob {
            key: key.parse().expect("a key"),
            version: version(number),
            meta: Meta::default(),
            length: Some(bytes.len() as u64),
        };
        let mut writer = self.storage.create(blob).await.expect("a writer");
        writer.write(bytes.to_vec().into()).await.expect("bytes are taken");
        writer.commit().await.expect("a blob is stored");
    }

    pub async fn delete(&self, key: &str, number: u64) {
        self.storage.delete(&key.parse().expect("a key"), version(number)).await.expect("a delete is stored");
    }

    /// Everything it holds: key, version, whether it was deleted.
    pub async fn holds(&self) -> BTreeSet<(String, Version, bool)> {
        let listed = self.storage.list("", None, 100_000).await.expect("it lists");
        listed.into_iter().map(|listed| (listed.key.to_string(), listed.version, listed.deleted)).collect()
    }

    pub async fn status(&self, key: &str) -> u16 {
        Request::get(&self.addr, &format!("/{key}")).send().await.expect("it answers").status
    }
}

fn options() -> Options {
    Options { volume_bytes: 64 << 20, ..Options::default() }
}

/// The version with this number: one made that many minutes after 1970, so an old one.
pub fn version(number: u64) -> Version {
    Version::from_parts(number * 60_000, 0)
}

/// Shard "s" of nodes "1", "2", ...
pub struct Rig {
    pub tasks: crate::replicator_rig::Rig,
    pub store: Arc<dyn MapStore>,
    pub nodes: Vec<Node>,
    dirs: Vec<TempDir>,
    _store_dir: TempDir,
}

impl Rig {
    pub async fn new(nodes: usize) -> Self {
        let rig = Self::without_shard(nodes).await;
        let ids: Vec<String> = (1..=nodes).map(|id| id.to_string()).collect();
        rig.tasks.add_shard("s", &ids.iter().map(String::as_str).collect::<Vec<_>>());
        rig
    }

    /// The nodes alone.
    pub async fn without_shard(nodes: usize) -> Self {
        let store_dir = tempfile::tempdir().expect("a folder");
        let address = format!("embedded:{}", store_dir.path().display());
        let store = cluster::connect(&address, "/", &StoreOptions::default()).expect("a store");
        store.init().await.expect("the store is made");
        let mut rig = Self {
            tasks: crate::replicator_rig::Rig::new(),
            store,
            nodes: Vec::new(),
            dirs: Vec::new(),
            _store_dir: store_dir,
        };
        for at in 0..nodes {
            let dir = tempfile::tempdir().expect("a folder");
            rig.nodes.push(Node::start(dir.path()).await);
            rig.dirs.push(dir);
            rig.tasks.add_server(&(at + 1).to_string(), &rig.nodes[at].addr);
        }
        rig
    }

    /// The directory of a node.
    pub fn dir(&self, at: usize) -> &Path {
        self.dirs[at].path()
    }

    /// Stops a node.
    pub async fn stop(&mut self, at: usize) {
        self.nodes.remove(at).stop().await;
    }

    /// Starts a node on what a stopped one left, at its place.
    pub async fn start(&mut self, at: usize) {
        let node = Node::start(self.dirs[at].path()).await;
        self.tasks.add_server(&(at + 1).to_string(), &node.addr);
        self.nodes.insert(at, node);
    }

    pub async fn put_on(&self, nodes: &[usize], key: &str, number: u64) {
        for &at in nodes {
            self.nodes[at].put(key, number, format!("{key} {number}").as_bytes()).await;
        }
    }

    pub async fn scrub(&self) -> Found {
        self.try_scrub(true, None).await.expect("a comparison that comes to its end")
    }

    pub async fn try_scrub(&self, queues: bool, only: Option<&str>) -> Result<Found, ScrubError> {
        let map = self.tasks.map();
        let shard = &map.shards[&"s".parse().expect("an id")];
        let only: Option<ServerId> = only.map(|only| only.parse().expect("an id"));
        let queue: Arc<dyn Queue> = self.tasks.queue.clone();
        let scrub = Scrub {
            map: &map,
            shard,
            only: only.as_ref(),
            servers: Arc::new(Servers::default()),
            sink: if queues { Sink::Queue(queue) } else { Sink::Nowhere },
            patience: crate::replicator_rig::SOON,
            progress: &|_| {},
        };
        let keeper = Keeper::new(self.store.clone(), shard.id.clone(), "the test".to_owned());
        scrub.run(keeper).await
    }

    /// What is on the queue: operation, key, version, target.
    pub async fn queued(&self) -> BTreeSet<(Operation, String, Version, String)> {
        let listed = self.tasks.queue.list(&Filter::default(), 1_000_000).await.expect("the queue lists");
        let tasks = listed.into_iter().map(|listed| listed.task);
        tasks
            .map(|task| {
                let version = task.version.expect("every task has a version");
                (task.op, task.key.to_string(), version, task.to.to_string())
            })
            .collect()
    }

    /// What is remembered of comparisons.
    pub async fn record(&self) -> Record {
        let path = record_path(&"s".parse().expect("an id"));
        let entry = self.store.get(&path).await.expect("the store answers");
        entry.map(|entry| serde_json::from_slice(&entry.data).expect("a record")).unwrap_or_default()
    }

    /// Has replicators carry out what is on the queue.
    pub async fn replicate(&self) {
        let replicator = self.tasks.start(crate::replicator_rig::config());
        self.tasks.drained(crate::replicator_rig::SOON).await;
        replicator.stop().await;
    }
}
