//! A coordinator in this process with real parts: embedded map store (or another one) and queue, our nodes, and stand-ins
//! for the original's node.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use backpack::{
    client::{Servers, Timeouts},
    cluster::{
        self, LIVE, MapStore, StoreOptions,
        edit::{self, NewShard},
        format::{Document, size_path},
        view::View,
    },
    coordinator::{self, Config, Deps},
    daemon::{Shutdown, VersionClock, install_tls_provider},
    model::{QueueInfo, Server, ServerId, ShardId, Task},
    node,
    queue::{BACKUP_DELAY, CLAIM_LEASE, EmbeddedQueue, Filter, Listed, Queue, ReplicatedQueue},
    storage::{Engine, Options},
};
use clap::Parser;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::support::{
    http::Request,
    original_node::OriginalNode,
    queue::WatchedQueue,
    wait::{START_WITHIN, eventually},
};

/// Bytes in which none is where another one could be.
pub fn body(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

/// What stands behind a server of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// Our own node.
    Node,
    /// A stand-in for the original's node.
    Original,
}

/// One coordinator and what it works with.
pub struct Cluster {
    /// Address of the coordinator.
    pub addr: String,
    /// Addresses of our nodes, in the order of the shards.
    pub nodes: Vec<String>,
    /// The stand-ins, in the order of the shards.
    pub originals: Vec<OriginalNode>,
    store: Arc<dyn MapStore>,
    /// Two as one, as with two Redis servers.
    queue: Arc<dyn Queue>,
    members: [Arc<WatchedQueue>; 2],
    settings: Settings,
    /// Of the coordinator; the nodes go on until the test ends.
    shutdown: Shutdown,
    serving: Option<JoinHandle<()>>,
    dir: tempfile::TempDir,
}

/// How coordinators are started.
#[derive(Clone)]
pub struct Settings {
    /// Flags beside those that all tests have.
    pub flags: Vec<&'static str>,
    /// Towards the servers.
    pub timeouts: Timeouts,
    /// How long what is in flight may take at a stop.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { flags: Vec::new(), timeouts: Timeouts::default(), drain: Duration::from_secs(120) }
    }
}

/// Longer than any test: whatever ends sooner was not ended by a time-out of the client.
pub const NO_TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(600),
    answer: Duration::from_secs(600),
    stall: Duration::from_secs(600),
};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

const CAPACITY: u64 = 100 << 30;

impl Cluster {
    /// One enabled shard of 100 GiB for each list of members; shards and servers are numbered from 1.
    pub async fn start(shards: &[&[Member]]) -> Self {
        let sized: Vec<_> = shards.iter().map(|members| (*members, CAPACITY)).collect();
        Self::start_with(&sized).await
    }

    /// The same with settings of one's own.
    pub async fn start_set(shards: &[&[Member]], settings: Settings) -> Self {
        let sized: Vec<_> = shards.iter().map(|members| (*members, CAPACITY)).collect();
        let dir = tempfile::tempdir().unwrap();
        let store = embedded(&dir);
        Self::start_in(dir, store, &sized, settings).await
    }

    /// The same with capacities of one's own.
    pub async fn start_with(shards: &[(&[Member], u64)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = embedded(&dir);
        Self::start_in(dir, store, shards, Settings::default()).await
    }

    /// The same on a map store of one's own, which is empty.
    pub async fn start_on(store: Arc<dyn MapStore>, shards: &[&[Member]]) -> Self {
        let sized: Vec<_> = shards.iter().map(|members| (*members, CAPACITY)).collect();
        Self::start_in(tempfile::tempdir().unwrap(), store, &sized, Settings::default()).await
    }

    async fn start_in(
        dir: tempfile::TempDir,
        store: Arc<dyn MapStore>,
        shards: &[(&[Member], u64)],
        settings: Settings,
    ) -> Self {
        let info = QueueInfo { key: "q".to_owned(), servers: Vec::new() };
        edit::init(&*store, &info).await.unwrap();
        let until_the_end = Shutdown::new(settings.drain);
        let shutdown = until_the_end.child();
        let (mut nodes, mut originals, mut number) = (Vec::new(), Vec::new(), 0);
        for (index, (members, capacity)) in shards.iter().enumerate() {
            let mut ids = Vec::new();
            for member in *members {
                number += 1;
                let id: ServerId = number.to_string().parse().unwrap();
                let port = match member {
                    Member::Original => {
                        let original = OriginalNode::start();
                        let port = original.port();
                        originals.push(original);
                        port
                    }
                    Member::Node => {
                        let data = dir.path().join(format!("node-{number}"));
                        let addr = start_node(data, until_the_end.child()).await;
                        nodes.push(addr.to_string());
                        addr.port()
                    }
                };
                let server = Server { id: id.clone(), host: "127.0.0.1".to_owned(), port };
                edit::add_server(&*store, &server).await.unwrap();
                if *member == Member::Node {
                    announce(&*store, &id).await;
                }
                ids.push(id);
            }
            let id: ShardId = (index + 1).to_string().parse().unwrap();
            let new = NewShard { id: id.clone(), servers: ids, capacity: *capacity, pool: None };
            edit::add_shard(&*store, &new, false).await.unwrap();
            edit::set_read_only(&*store, &id, false).await.unwrap();
        }
        let members = ["queue-1", "queue-2"].map(|name| {
            let inner = EmbeddedQueue::open(&dir.path().join(name), CLAIM_LEASE).unwrap();
            Arc::new(WatchedQueue::new(Arc::new(inner)))
        });
        let named = members.iter().zip(["1", "2"]);
        let named = named.map(|(member, name)| (name.to_owned(), member.clone() as Arc<dyn Queue>));
        let queue: Arc<dyn Queue> = Arc::new(ReplicatedQueue::new(named.collect(), BACKUP_DELAY));
        let (addr, serving) =
            start_coordinator(&store, &queue, VersionClock::default(), dir.path(), &shutdown, &settings)
                .await;
        let serving = Some(serving);
        Self { addr, nodes, originals, store, queue, members, settings, shutdown, serving, dir }
    }

    /// Another coordinator, whose machine's clock is off by so much. Its address; it ends with the first one.
    pub async fn add_coordinator(&self, off_ms: i64) -> String {
        let clock = VersionClock::off_by(off_ms);
        start_coordinator(&self.store, &self.queue, clock, self.dir.path(), &self.shutdown, &self.settings)
            .await
            .0
    }

    /// An upload.
    pub fn put(&self, target: &str, body: Vec<u8>) -> Request {
        Request::put(&self.addr, target, body)
    }

    /// Reads through the coordinator; must succeed.
    pub async fn get(&self, target: &str) -> Vec<u8> {
        let reply = Request::get(&self.addr, target).send().await.unwrap();
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        reply.body
    }

    /// All tasks in the queue.
    pub async fn tasks(&self) -> Vec<Task> {
        self.listed().await.into_iter().map(|listed| listed.task).collect()
    }

    /// The same with where they stand.
    pub async fn listed(&self) -> Vec<Listed> {
        self.queue.list(&Filter::default(), 1000).await.unwrap()
    }

    /// From now on a stand-in is taken for a node of ours, which says that it is there.
    pub async fn announce(&self, id: &str) {
        let server_id = id.parse().unwrap();
        announce(&*self.store, &server_id).await;
        eventually("the coordinator sees it", START_WITHIN, || async {
            let map = Request::get(&self.addr, "/-/map").send().await.unwrap().text();
            let map: serde_json::Value = serde_json::from_str(&map).unwrap();
            map["servers"][id]["announced"] == true
        })
        .await;
    }

    /// From now on the queue takes nothing.
    pub fn break_queue(&self) {
        self.members.iter().for_each(|member| member.full.store(true, SeqCst));
    }

    /// Another server takes the place of one in the map.
    pub async fn replace_server(&self, id: &str, port: u16) {
        let server = Server { id: id.parse().unwrap(), host: "127.0.0.1".to_owned(), port };
        edit::add_server(&*self.store, &server).await.unwrap();
        let expected = format!("127.0.0.1:{port}");
        eventually("the coordinator sees it", START_WITHIN, || async {
            Request::get(&self.addr, "/-/map").send().await.unwrap().text().contains(&expected)
        })
        .await;
    }

    /// Ends [`Cluster::break_queue`].
    pub fn mend_queue(&self) {
        self.members.iter().for_each(|member| member.full.store(false, SeqCst));
    }

    /// Used bytes of a shard in the map store.
    pub async fn used(&self, shard: &str) -> u64 {
        let entry = self.store.get(&size_path(&shard.parse().unwrap())).await.unwrap().unwrap();
        let size = Document::parse(&entry.data).unwrap().size();
        size.value.unwrap().used
    }

    /// Enables or disables a shard.
    pub async fn set_read_only(&self, shard: &str, read_only: bool) {
        let id = shard.parse().unwrap();
        edit::set_read_only(&*self.store, &id, read_only).await.unwrap();
        let expected = format!("\"read_only\":{read_only}");
        eventually("the coordinator sees it", START_WITHIN, || async {
            let map = Request::get(&self.addr, "/-/map").send().await.unwrap().text();
            map.replace(' ', "").contains(&expected)
        })
        .await;
    }

    /// Stops gracefully and waits for the end.
    pub async fn stop(&mut self) {
        self.shutdown.begin();
        self.serving.take().unwrap().await.unwrap();
    }
}

async fn announce(store: &dyn MapStore, id: &ServerId) {
    store.announce(&format!("{LIVE}/{id}"), "{}".into()).await.unwrap();
}

fn embedded(dir: &tempfile::TempDir) -> Arc<dyn MapStore> {
    install_tls_provider();
    let url = format!("embedded:{}", dir.path().join("map").display());
    cluster::connect(&url, "/", &StoreOptions::default()).unwrap()
}

async fn start_coordinator(
    store: &Arc<dyn MapStore>,
    queue: &Arc<dyn Queue>,
    clock: VersionClock,
    spool_dir: &Path,
    shutdown: &Shutdown,
    settings: &Settings,
) -> (String, JoinHandle<()>) {
    let view = View::start(store.clone(), shutdown.child());
    view.loaded().await;
    let mut config = Flags::parse_from(["coordinator", "--flush", "50"].iter().chain(&settings.flags)).config;
    config.spool_dir = spool_dir.to_owned();
    let deps = Deps {
        store: store.clone(),
        view,
        queue: queue.clone(),
        servers: Arc::new(Servers::new(settings.timeouts.clone())),
        statsd: None,
        clock,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (addr, tokio::spawn(coordinator::serve(listener, config, deps, shutdown.clone())))
}

async fn start_node(data: PathBuf, shutdown: Shutdown) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let storage = Engine::open(data, Options::default()).unwrap();
    let deps = node::Deps { storage, limits: node::Limits::default(), live: None };
    tokio::spawn(node::serve(listener, deps, shutdown));
    addr
}
