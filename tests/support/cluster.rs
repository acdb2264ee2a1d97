//! A whole cluster of our own programs: ZooKeeper, Redis, servers of shards, coordinators, replicators and nginx, on free
//! ports and in temporary folders, set up by `backpack-admin` as an operator would.
//!
//! Every process can be killed and started again. What a test needs to know of the queue it reads through the library.

use std::{thread, time::Duration};

use backpack::{
    model::{QueueInfo, QueueServer},
    queue::{self, DeadLetter, Filter, Queue, QueueOptions, QueueStats},
};

use super::{
    admin::Admin,
    daemon::{Daemon, Service},
    front::Front,
    http::{Reply, Request},
    port::free_port,
    process::Process,
    redis::{Redis, RedisOptions},
    shard_server::{Kind, ShardServer},
    wait::{wait_for, wait_until},
    znodes::Znodes,
    zookeeper::ZooKeeper,
};

/// Where the cluster stands in ZooKeeper.
pub const ROOT: &str = "/backpack";

/// What its keys in Redis begin with.
pub const QUEUE_KEY: &str = "backpack-queue";

/// How long the queue may take to drain: leases that end, backups that come due, pauses of breakers, a busy machine.
const DRAIN_WITHIN: Duration = Duration::from_secs(180);

/// With the defaults, tests of a lost Redis server, and of what is found by comparing servers, would take a minute.
const TIMES: [(&str, &str); 2] = [("BACKPACK_QUEUE_BACKUP_DELAY", "5"), ("BACKPACK_SCRUB_LOOK_SECONDS", "1")];

/// What a cluster is made of.
pub struct ClusterBuilder {
    shards: Vec<(Vec<Kind>, &'static str)>,
    coordinators: usize,
    replicators: usize,
    watch: bool,
    env: Vec<(&'static str, &'static str)>,
}

impl ClusterBuilder {
    /// Two Redis servers, one coordinator, one replicator, nginx, and no shard yet.
    pub fn new() -> Self {
        Self { shards: Vec::new(), coordinators: 1, replicators: 1, watch: false, env: TIMES.to_vec() }
    }

    /// Adds an enabled shard of 100 GiB. Shards and servers are numbered from 1.
    pub fn shard(self, servers: &[Kind]) -> Self {
        self.shard_in("default", servers)
    }

    /// The same in a pool.
    pub fn shard_in(mut self, pool: &'static str, servers: &[Kind]) -> Self {
        self.shards.push((servers.to_vec(), pool));
        self
    }

    /// That many coordinators.
    pub fn coordinators(mut self, count: usize) -> Self {
        self.coordinators = count;
        self
    }

    /// That many replicators.
    pub fn replicators(mut self, count: usize) -> Self {
        self.replicators = count;
        self
    }

    /// Coordinators and replicators have this in their environment.
    pub fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.env.push((name, value));
        self
    }

    /// All times are as operators have them.
    pub fn usual_times(mut self) -> Self {
        self.env.retain(|set| !TIMES.contains(set));
        self
    }

    /// nginx follows the maps.
    pub fn watch(mut self) -> Self {
        self.watch = true;
        self
    }

    /// Starts it; everything is ready when this returns.
    pub fn start(self) -> Cluster {
        let mut cluster = Cluster::start_stores();
        cluster.env = self.env;
        cluster.admin.ok("coordinator-init", [QUEUE_KEY, &cluster.redis_addrs()]);
        for (servers, pool) in &self.shards {
            let ids: Vec<_> = servers.iter().map(|kind| cluster.start_server(*kind)).collect();
            cluster.make_shard(pool, &ids.join(","));
        }
        (0..self.coordinators).for_each(|_| cluster.start_coordinator());
        (0..self.replicators).for_each(|_| cluster.start_replicator());
        cluster.wait_ready();
        cluster.start_front(self.watch);
        cluster
    }
}

/// A running cluster.
pub struct Cluster {
    /// The commands of its operator.
    pub admin: Admin,
    /// nginx, once it was started.
    pub front: Option<Front>,
    /// The coordinators.
    pub coordinators: Vec<Service>,
    /// The replicators.
    pub replicators: Vec<Service>,
    /// The servers of all shards: the one of id 1 is the first.
    pub servers: Vec<ShardServer>,
    /// The servers of each shard by their ids: those of shard 1 are the first.
    pub shards: Vec<Vec<usize>>,
    /// The queue's servers.
    pub redis: Vec<Redis>,
    /// What exists.
    pub zookeeper: ZooKeeper,
    env: Vec<(&'static str, &'static str)>,
    runtime: tokio::runtime::Runtime,
}

impl Cluster {
    /// ZooKeeper and two Redis servers, with nothing in them.
    pub fn start_stores() -> Self {
        let (zookeeper, redis) = thread::scope(|scope| {
            let zookeeper = scope.spawn(ZooKeeper::start);
            let options = RedisOptions { appendonly: true, ..RedisOptions::default() };
            let redis = [0; 2].map(|_| Redis::start_with(&options));
            (zookeeper.join().expect("ZooKeeper starts"), Vec::from(redis))
        });
        Self {
            admin: Admin::new(&zookeeper.addr(), ROOT),
            front: None,
            coordinators: Vec::new(),
            replicators: Vec::new(),
            servers: Vec::new(),
            shards: Vec::new(),
            redis,
            zookeeper,
            env: TIMES.to_vec(),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("make a runtime"),
        }
    }

    /// The Redis servers as commands take them.
    pub fn redis_addrs(&self) -> String {
        self.redis.iter().map(Redis::addr).collect::<Vec<_>>().join(",")
    }

    /// Starts a server, adds it to the map under the next number, and gives that.
    pub fn start_server(&mut self, kind: Kind) -> String {
        let id = (self.servers.len() + 1).to_string();
        let server = ShardServer::start(kind, &id, &self.zookeeper.addr(), ROOT);
        self.admin.ok("add-server", [&id, &format!("http://{}", server.addr())]);
        self.servers.push(server);
        id
    }

    /// Adds and enables a shard of these servers (`1,2`) under the next number, and gives that.
    pub fn make_shard(&mut self, pool: &str, servers: &str) -> String {
        let id = (self.shards.len() + 1).to_string();
        self.admin.ok("add-shard", [&id, servers, "100gb", "--pool", pool]);
        self.admin.ok("enable-shard", [&id]);
        let number = |id: &str| id.parse().expect("servers are numbered");
        self.shards.push(servers.split(',').map(number).collect());
        id
    }

    /// Starts one more coordinator, without waiting for it.
    pub fn start_coordinator(&mut self) {
        let port = free_port().to_string();
        let args = [&self.zookeeper.addr(), ROOT, "127.0.0.1", &port];
        let daemon = Daemon::start_with_env(env!("CARGO_BIN_EXE_backpack-coordinator"), args, &self.env);
        self.coordinators.push(Service::new(daemon, format!("127.0.0.1:{port}")));
    }

    /// Starts one more replicator, without waiting for it.
    pub fn start_replicator(&mut self) {
        let addr = format!("127.0.0.1:{}", free_port());
        let args = [&self.zookeeper.addr(), ROOT, "--listen", &addr];
        let daemon = Daemon::start_with_env(env!("CARGO_BIN_EXE_backpack-replicator"), args, &self.env);
        self.replicators.push(Service::new(daemon, addr));
    }

    /// Starts nginx in front of the shards; with `watch` it follows the maps.
    pub fn start_front(&mut self, watch: bool) {
        self.front = Some(Front::start(&self.admin, watch));
    }

    /// Waits until everything started so far is ready.
    pub fn wait_ready(&self) {
        self.servers.iter().for_each(ShardServer::wait_ready);
        self.coordinators.iter().chain(&self.replicators).for_each(Service::wait_ready);
    }

    /// An upload through the coordinator of that number.
    pub fn put(&self, coordinator: usize, key: &str, body: impl Into<Vec<u8>>) -> Request {
        Request::put(self.coordinators[coordinator].addr(), &format!("/{key}"), body)
    }

    /// The processes of our own nodes.
    pub fn nodes(&self) -> Vec<&Process> {
        self.servers.iter().filter_map(ShardServer::daemon).map(|daemon| &**daemon).collect()
    }

    /// A read through nginx, to be sent.
    pub fn read_request(&self, shard: &str, key: &str) -> Request {
        let front = self.front.as_ref().expect("nginx was started");
        Request::get(front.addr(), &format!("/{shard}:{key}"))
    }

    /// A read through nginx that must be answered.
    pub fn read(&self, shard: &str, key: &str) -> Reply {
        let reply = self.read_request(shard, key).send_blocking();
        reply.unwrap_or_else(|error| panic!("nginx gave no answer about {shard}:{key}: {error}"))
    }

    /// A read from one server.
    pub fn read_from(&self, server: usize, key: &str) -> Reply {
        let reply = Request::get(&self.servers[server - 1].addr(), &format!("/{key}")).send_blocking();
        reply.unwrap_or_else(|error| panic!("server {server} gave no answer about {key}: {error}"))
    }

    /// What each server of a shard answers about a key, by the server's number.
    pub fn copies(&self, shard: &str, key: &str) -> Vec<(usize, Reply)> {
        let shard: usize = shard.parse().expect("shards are numbered");
        self.shards[shard - 1].iter().map(|server| (*server, self.read_from(*server, key))).collect()
    }

    /// Asserts that every server of a blob's shard has these bytes.
    pub fn assert_every_copy_is(&self, shard: &str, key: &str, bytes: &[u8]) {
        for (server, copy) in self.copies(shard, key) {
            assert_eq!(copy.status, 200, "{shard}:{key} on server {server}");
            assert!(copy.body == bytes, "{shard}:{key} on server {server} has other bytes");
        }
    }

    /// What is in the queue.
    pub fn queue_stats(&self) -> QueueStats {
        let queue = self.queue();
        wait_for("the queue answers", DRAIN_WITHIN, || self.runtime.block_on(queue.stats()).ok())
    }

    /// Tasks that were given up.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        let (queue, all) = (self.queue(), Filter::default());
        wait_for("the queue answers", DRAIN_WITHIN, || self.runtime.block_on(queue.dead(&all, 1000)).ok())
    }

    /// Waits until no copy is still to be made.
    pub fn wait_drained(&self) {
        let queue = self.queue();
        wait_until("the queue drains", DRAIN_WITHIN, || {
            let Ok(stats) = self.runtime.block_on(queue.stats()) else { return false };
            stats.servers.iter().all(|server| server.error.is_none()) && stats.backlog() == 0
        });
    }

    /// Used bytes of a shard in ZooKeeper, once no coordinator has any that it did not write yet.
    pub fn used(&self, shard: &str) -> u64 {
        wait_until("used bytes are written", DRAIN_WITHIN, || {
            self.coordinators.iter().all(|coordinator| stats(coordinator)["uncounted_bytes"] == 0)
        });
        let size = Znodes::connect(&self.zookeeper.addr()).get(&format!("{ROOT}/shard-size-{shard}"));
        let size: serde_json::Value =
            serde_json::from_str(&size.expect("it has a size")).expect("it is JSON");
        size["current"].as_u64().unwrap_or_else(|| panic!("used bytes of shard {shard}: {size}"))
    }

    /// Panics when one of our programs has ended.
    pub fn assert_all_run(&self) {
        let nodes = self.servers.iter().filter_map(ShardServer::daemon);
        let services = self.coordinators.iter().chain(&self.replicators).map(Service::daemon);
        let watch = self.front.iter().filter_map(Front::watch);
        for daemon in nodes.chain(services).chain(watch) {
            let ended = daemon.ended();
            assert!(ended.is_none(), "a program ended by itself: {ended:?}\n{}", daemon.log());
        }
    }

    fn queue(&self) -> std::sync::Arc<dyn Queue> {
        let server = |redis: &Redis| QueueServer { host: "127.0.0.1".into(), port: redis.port(), tls: false };
        let info = QueueInfo { key: QUEUE_KEY.into(), servers: self.redis.iter().map(server).collect() };
        let _inside = self.runtime.enter();
        queue::connect(&info, &QueueOptions::default(), None).expect("the queue's address is right")
    }
}

/// `GET /stats` of one of our programs.
pub fn stats(service: &Service) -> serde_json::Value {
    wait_for("/stats is answered", DRAIN_WITHIN, || {
        let reply = Request::get(service.addr(), "/stats").send_blocking().ok()?;
        serde_json::from_slice(&reply.body).ok()
    })
}
