//! The whole system in one process on one machine: embedded map store and queue, nodes, coordinator, replicator, each
//! started through the same `serve` as in a cluster.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    client::Servers,
    cluster::{
        self, MapStore, StoreOptions,
        edit::{self, NewShard},
        format,
        view::View,
    },
    coordinator,
    daemon::{Shutdown, VersionClock},
    http::listen,
    model::{QueueInfo, Server, ServerId, ShardId},
    node,
    queue::{FollowQueue, MeteredQueue, QueueArgs, QueueOptions},
    replicator,
    scrub::schedule,
    storage::{Engine, Options, Storage},
    telemetry::health::Readiness,
};

/// The first node's port is the coordinator's plus this.
const NODE_PORT_OFFSET: u16 = 100;

/// Two copies survive a damaged one.
const DEFAULT_NODES: u16 = 2;

/// More nodes than this in one process help nobody: they share one disk.
const MAX_NODES: u16 = 16;

/// Percent of the free disk space that the shard may fill, all copies together.
const DISK_PERCENT: u64 = 90;

/// The one shard of a new system.
const FIRST_SHARD: &str = "1";

/// Name of the embedded queue in the map; in a cluster, the prefix of its keys in Redis.
const QUEUE_KEY: &str = "backpack-queue";

/// Settings of the one-machine system.
#[derive(Debug, Clone, Args)]
#[group(id = "standalone")]
pub struct Config {
    /// Folder that holds everything
    #[arg(long, env = "BACKPACK_DATA", default_value = "backpack-data", value_name = "DIR")]
    pub data: PathBuf,

    /// Address of the coordinator; nodes listen on the same host, on the ports from 100 above it
    #[arg(long, env = "BACKPACK_LISTEN", default_value = "127.0.0.1:12001", value_name = "HOST:PORT")]
    pub listen: SocketAddr,

    /// Nodes, and so copies of each blob, in a new folder [default: 2]
    #[arg(long, env = "BACKPACK_NODES", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)), value_name = "N")]
    pub nodes: Option<u16>,

    #[command(flatten)]
    coordinator: coordinator::Config,
}

/// Runs the whole system until the shutdown begins.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.data).with_context(|| format!("make {}", config.data.display()))?;
    let count = count_nodes(&config)?;
    let listeners = Listeners::bind(&config, count).await?;
    let nodes = open_nodes(&config, count).await?;
    let store_url = format!("embedded:{}", config.data.display());
    let store = cluster::connect(&store_url, "/", &StoreOptions::default()).context("open the map store")?;
    set_up(&*store, &config, &listeners).await?;

    // Parts stop in this order: the coordinator takes no more uploads, the replicator no more tasks, and last the nodes,
    // which both of them need.
    let front = shutdown.clone();
    let middle = Shutdown::new(shutdown.drain());
    let back = Shutdown::new(shutdown.drain());
    let view = View::start(store.clone(), back.clone());
    let queue_dir = QueueArgs::default().embedded_dir(&store_url);
    let queue = FollowQueue::new(view.changes(), QueueOptions::default(), queue_dir);
    let queue = Arc::new(MeteredQueue::new(Arc::new(queue)));
    let servers = Arc::new(Servers::default());

    let nodes_listen = listeners.addresses()?;
    let mut node_tasks = JoinSet::new();
    for (listener, storage) in listeners.nodes.into_iter().zip(nodes) {
        let deps = node::Deps { storage, limits: node::Limits::default(), live: None };
        node_tasks.spawn(node::serve(listener, deps, back.clone()));
    }
    let replicator_deps = replicator::Deps {
        map: view.changes(),
        queue: queue.clone(),
        servers: servers.clone(),
        readiness: Readiness::default(),
        probes: None,
    };
    let comparing = schedule::Deps {
        store: store.clone(),
        map: view.changes(),
        queue: queue.clone(),
        servers: servers.clone(),
    };
    let comparing = tokio::spawn(schedule::run(schedule::Config::default(), comparing, middle.clone()));
    let settings =
        replicator::Config::default().check().map_err(|complaints| anyhow!(complaints.join("; ")))?;
    let replicator = tokio::spawn(replicator::serve(settings, replicator_deps, middle.clone()));
    say_what_to_try(&config, &nodes_listen);
    let deps =
        coordinator::Deps { store, view, queue, servers, statsd: None, clock: VersionClock::default() };
    coordinator::serve(listeners.coordinator, config.coordinator, deps, front).await;

    middle.begin();
    replicator.await.context("the replicator failed")?;
    comparing.await.context("the comparison of the nodes failed")?;
    back.begin();
    while let Some(ended) = node_tasks.join_next().await {
        ended.context("a node failed")?.context("close a node's storage")?;
    }
    Ok(())
}

/// All sockets, bound before anything is opened: a second process on the same ports changes nothing.
struct Listeners {
    coordinator: TcpListener,
    nodes: Vec<TcpListener>,
}

impl Listeners {
    async fn bind(config: &Config, count: u16) -> anyhow::Result<Self> {
        let coordinator = bind(config.listen).await?;
        let mut nodes = Vec::new();
        for index in 0..count {
            let port = coordinator.local_addr()?.port().checked_add(NODE_PORT_OFFSET + index);
            let Some(port) = port else {
                bail!("--listen: the port leaves no room for the nodes' ports above it")
            };
            nodes.push(bind(SocketAddr::new(config.listen.ip(), port)).await?);
        }
        Ok(Self { coordinator, nodes })
    }

    fn addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.nodes.iter().map(TcpListener::local_addr).collect()
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let hint = "is another backpack running? --listen chooses other ports";
    listen(address).await.with_context(|| format!("listen on {address} ({hint})"))
}

fn node_dir(data: &Path, number: u16) -> PathBuf {
    data.join(format!("node-{number}"))
}

/// As many nodes as the folder was made with.
fn count_nodes(config: &Config) -> anyhow::Result<u16> {
    let made = (1..=MAX_NODES).take_while(|number| node_dir(&config.data, *number).exists()).count() as u16;
    match config.nodes {
        _ if made == 0 => Ok(config.nodes.unwrap_or(DEFAULT_NODES)),
        Some(asked) if asked != made => {
            bail!(
                "{} was made with {made} nodes: leave --nodes out, or choose another --data",
                config.data.display()
            )
        }
        _ => Ok(made),
    }
}

async fn open_nodes(config: &Config, count: u16) -> anyhow::Result<Vec<Arc<dyn Storage>>> {
    let mut nodes: Vec<Arc<dyn Storage>> = Vec::new();
    for number in 1..=count {
        let dir = node_dir(&config.data, number);
        let options = Options { tombstones_wait: true, ..Options::default() };
        let open = tokio::task::spawn_blocking(move || Engine::open(&dir, options));
        let engine =
            open.await?.with_context(|| format!("open node {number} in {}", config.data.display()))?;
        nodes.push(engine);
    }
    Ok(nodes)
}

/// Makes the maps of a new system; in an old one, takes over the nodes' addresses and leaves the rest as it is.
async fn set_up(store: &dyn MapStore, config: &Config, listeners: &Listeners) -> anyhow::Result<()> {
    let queue = QueueInfo { key: QUEUE_KEY.to_owned(), servers: Vec::new() };
    edit::init(store, &queue).await.context("make the maps")?;
    let mut ids = Vec::new();
    for (index, listener) in listeners.nodes.iter().enumerate() {
        let id: ServerId = (index + 1).to_string().parse()?;
        let address = listener.local_addr()?;
        let server =
            Server { id: id.clone(), host: reachable(address.ip()).to_string(), port: address.port() };
        edit::add_server(store, &server).await.with_context(|| format!("add node {id} to the map"))?;
        ids.push(id);
    }
    let shard: ShardId = FIRST_SHARD.parse()?;
    if store.get(&format::size_path(&shard)).await?.is_none() {
        let capacity = capacity(config, ids.len())?;
        let new = NewShard { id: shard.clone(), servers: ids, capacity, pool: None };
        edit::add_shard(store, &new, false).await.context("add the first shard")?;
        edit::set_read_only(store, &shard, false).await.context("enable the first shard")?;
    }
    Ok(())
}

/// Where a listener on all addresses is reached from this machine.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        given => given,
    }
}

/// What one copy may fill of the disk.
fn capacity(config: &Config, copies: usize) -> anyhow::Result<u64> {
    let disk = rustix::fs::statvfs(&config.data).context("ask for the free disk space")?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    Ok(free / 100 * DISK_PERCENT / copies as u64)
}

/// A few lines for whoever started this for the first time.
fn say_what_to_try(config: &Config, nodes: &[SocketAddr]) {
    let (data, listen) = (config.data.display(), config.listen);
    let nodes: Vec<String> = nodes.iter().map(|address| format!("http://{address}")).collect();
    println!("Backpack runs in {data}: coordinator on http://{listen}, nodes on {}", nodes.join(", "));
    println!("Try:");
    println!("  curl -T hello.txt http://{listen}/hi.txt      # store a file; answers its shard");
    println!("  curl http://{listen}/1:hi.txt                 # read it back by /<shard>:<key>");
    println!("  backpack-admin status embedded:{data} /       # what is in it");
}
