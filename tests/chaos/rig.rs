//! The cluster that suffers: real processes, with one of our proxies on every link that can have one.
//!
//! Clients reach coordinators, everybody reaches nodes and Redis servers, and each process of ours reaches ZooKeeper through a
//! proxy. The operator's commands and nginx's own reach ZooKeeper without.

use std::{fs, mem, slice, thread, time::Duration};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    clock::Clock,
    plan::{COPIES, Link, NODES, PAIR, Part, SESSION_SECONDS, SHARDS, SMALL_DISKS},
    proxy::Proxy,
    support::{
        admin::Admin,
        cluster::{QUEUE_KEY, ROOT},
        daemon::Daemon,
        front::Front,
        port::free_port,
        process::Process,
        redis::{Redis, RedisOptions},
        small_disk::SmallDisk,
        wait::wait_until,
        zookeeper::ZooKeeperEnsemble,
    },
};

/// For a command of the operator, while ZooKeeper elects or a machine is busy.
const COMMAND_WITHIN: Duration = Duration::from_secs(90);

/// Of a disk that can be filled. Nobody needs so much, and only what is used is taken from the memory.
const SMALL_DISK_BYTES: u64 = 1 << 30;

/// - sessions that end soon, so that they can be lost
/// - looks, backups, drains and retries within seconds: with the defaults everything here would take minutes
const ENV: [(&str, &str); 7] = [
    ("BACKPACK_ZK_SESSION_TIMEOUT", SESSION_SECONDS),
    ("BACKPACK_QUEUE_BACKUP_DELAY", "5"),
    ("BACKPACK_SCRUB_LOOK_SECONDS", "1"),
    ("BACKPACK_NODE_DRAIN", "10"),
    ("BACKPACK_REPLICATOR_DRAIN", "10"),
    // Small ones, so that compaction has something to do, and there are blobs with a file of their own.
    ("BACKPACK_NODE_VOLUME_SIZE", "8mb"),
    ("BACKPACK_NODE_SMALL_BLOB_SIZE", "200kb"),
];

/// A process of ours with what stands between it and the others.
pub struct Role {
    /// Its process.
    pub daemon: Daemon,
    /// Where it listens itself.
    pub addr: String,
    /// Where the others reach it; replicators are reached by nobody.
    pub door: Option<Proxy>,
    zookeeper: Proxy,
    /// Its clock, where that can be set.
    pub clock: Option<Clock>,
}

/// A node's directory.
pub enum Disk {
    /// On the disk of all temporary files.
    Folder(TempDir),
    /// On one of its own.
    Small(SmallDisk),
}

impl Disk {
    /// Where the node keeps its blobs: it may remove this folder.
    pub fn data(&self) -> std::path::PathBuf {
        match self {
            Self::Folder(folder) => folder.path().join("data"),
            Self::Small(disk) => disk.path().join("data"),
        }
    }
}

/// A node with its disk.
pub struct Machine {
    _role: Role,
    _disk: Disk,
}

/// All of it.
pub struct Rig {
    /// The operator's commands.
    pub admin: Admin,
    /// nginx.
    pub front: Front,
    /// Coordinators.
    pub coordinators: Vec<Role>,
    /// Replicators.
    pub replicators: Vec<Role>,
    /// Nodes: server `i + 1` is the one of index `i`.
    pub nodes: Vec<Role>,
    /// Their disks.
    pub disks: Vec<Disk>,
    /// The nodes of each shard; in the beginning the first three are shard 1.
    pub members: Vec<Vec<usize>>,
    /// A node that is of no shard, where machines are changed.
    pub spare: Option<usize>,
    /// It can take a place in a shard.
    pub spare_is_empty: bool,
    /// The queue.
    pub redis: Vec<Redis>,
    redis_doors: Vec<Proxy>,
    /// What exists.
    pub zookeepers: ZooKeeperEnsemble,
    // Dropped last: the proxies run in it.
    runtime: Runtime,
}

impl Rig {
    /// Starts it, with a spare node or without; everything is ready when this returns.
    pub fn start(with_spare: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("make a runtime for proxies");
        let (zookeepers, redis) = thread::scope(|scope| {
            let zookeepers = scope.spawn(ZooKeeperEnsemble::start);
            let options = RedisOptions { appendonly: true, ..RedisOptions::default() };
            let redis: Vec<_> = (0..PAIR).map(|_| Redis::start_with(&options)).collect();
            (zookeepers.join().expect("ZooKeeper starts"), redis)
        });
        let redis_doors: Vec<_> =
            redis.iter().map(|redis| Proxy::start(runtime.handle(), &[redis.addr()])).collect();
        let admin = Admin::new(&zookeepers.addrs(), ROOT);
        let queue: Vec<_> = redis_doors.iter().map(Proxy::addrs).collect();
        operate(&admin, "coordinator-init", &[QUEUE_KEY, &queue.join(",")]);
        let spare = with_spare.then_some(NODES);
        let disks: Vec<_> = (0..NODES).chain(spare).map(disk).collect();
        let makes = Maker { runtime: &runtime, zookeepers: &zookeepers };
        let nodes: Vec<_> =
            disks.iter().enumerate().map(|(node, disk)| makes.node(node, disk, &[])).collect();
        for (node, role) in nodes.iter().enumerate() {
            operate(&admin, "add-server", &[&server(node), &url(role)]);
        }
        let members: Vec<Vec<_>> =
            (0..SHARDS).map(|shard| (shard * COPIES..(shard + 1) * COPIES).collect()).collect();
        for (shard, nodes) in members.iter().enumerate() {
            let servers: Vec<_> = nodes.iter().copied().map(server).collect();
            operate(&admin, "add-shard", &[&shard_id(shard), &servers.join(","), "100gb"]);
            operate(&admin, "enable-shard", &[&shard_id(shard)]);
        }
        let coordinators: Vec<_> = (0..PAIR).map(|_| makes.coordinator()).collect();
        let replicators: Vec<_> = (0..PAIR).map(|_| makes.replicator()).collect();
        for role in nodes.iter().chain(&coordinators).chain(&replicators) {
            role.wait_ready();
        }
        let front = Front::start(&admin, true);
        Self {
            admin,
            front,
            coordinators,
            replicators,
            nodes,
            disks,
            members,
            spare,
            spare_is_empty: true,
            redis,
            redis_doors,
            zookeepers,
            runtime,
        }
    }

    /// A command of the operator, who tries again until it is done.
    pub fn operate(&self, command: &str, rest: &[&str]) {
        operate(&self.admin, command, rest);
    }

    /// A process.
    pub fn process(&self, part: Part) -> &Process {
        match part {
            Part::Coordinator(number) => &self.coordinators[number].daemon,
            Part::Replicator(number) => &self.replicators[number].daemon,
            Part::Node(number) => &self.nodes[number].daemon,
            Part::Redis(number) => &self.redis[number],
            Part::ZooKeeper(number) => &self.zookeepers.servers[number],
            Part::Nginx => self.front.process(),
        }
    }

    /// The proxy of a link.
    pub fn proxy(&self, link: Link) -> &Proxy {
        match link {
            Link::Clients(number) => self.coordinators[number].door(),
            Link::Node(number) => self.nodes[number].door(),
            Link::Redis(number) => &self.redis_doors[number],
            Link::ZooKeeper(part) => &self.role(part).expect("only ours have one").zookeeper,
        }
    }

    /// A process of ours; nothing for the others.
    pub fn role(&self, part: Part) -> Option<&Role> {
        match part {
            Part::Coordinator(number) => self.coordinators.get(number),
            Part::Replicator(number) => self.replicators.get(number),
            Part::Node(number) => self.nodes.get(number),
            Part::Redis(_) | Part::ZooKeeper(_) | Part::Nginx => None,
        }
    }

    /// All processes of ours, with their names.
    pub fn roles(&self) -> impl Iterator<Item = (String, &Role)> {
        let named = |name: &'static str, roles: &'_ Vec<Role>| {
            (0..roles.len()).map(move |number| format!("{name} {}", number + 1)).collect::<Vec<_>>()
        };
        let names = [
            named("coordinator", &self.coordinators),
            named("replicator", &self.replicators),
            named("node", &self.nodes),
        ];
        names.into_iter().flatten().zip(self.coordinators.iter().chain(&self.replicators).chain(&self.nodes))
    }

    /// Starts another machine for the id of a node: empty, at an address that nobody knows yet. Gives the old one, which may still run.
    pub fn put_machine(&mut self, node: usize) -> Machine {
        let disk = disk(node);
        let makes = Maker { runtime: &self.runtime, zookeepers: &self.zookeepers };
        let new = makes.node(node, &disk, &["--replace-storage"]);
        new.wait_ready();
        let role = mem::replace(&mut self.nodes[node], new);
        Machine { _role: role, _disk: mem::replace(&mut self.disks[node], disk) }
    }

    /// The shard that a node is of.
    pub fn shard_of(&self, node: usize) -> Option<usize> {
        self.members.iter().position(|nodes| nodes.contains(&node))
    }

    /// Takes away what a node holds; it runs again when this returns.
    pub fn empty_disk(&self, node: usize) {
        let role = &self.nodes[node];
        role.daemon.kill();
        fs::remove_dir_all(self.disks[node].data()).expect("remove a node's blobs");
        role.daemon.start_again_with(["--replace-storage"]);
        role.wait_ready();
    }

    /// Empties the spare node, if it is not: by now everything that it has is elsewhere too.
    pub fn empty_spare(&mut self) {
        if let Some(spare) = self.spare.filter(|_| !self.spare_is_empty) {
            self.empty_disk(spare);
            self.spare_is_empty = true;
        }
    }
}

impl Role {
    /// Where the others reach it.
    pub fn door(&self) -> &Proxy {
        self.door.as_ref().expect("coordinators and nodes have one")
    }

    /// Waits until it is ready.
    pub fn wait_ready(&self) {
        self.daemon.wait_ready(&self.addr);
    }
}

/// The id of a node's server.
pub fn server(node: usize) -> String {
    (node + 1).to_string()
}

/// The id of a shard.
pub fn shard_id(shard: usize) -> String {
    (shard + 1).to_string()
}

/// Where the others reach a node.
pub fn url(node: &Role) -> String {
    format!("http://{}", node.door().addrs())
}

fn disk(node: usize) -> Disk {
    let small = SMALL_DISKS.contains(&node).then(|| SmallDisk::mount(SMALL_DISK_BYTES)).flatten();
    small.map_or_else(|| Disk::Folder(tempfile::tempdir().expect("make a folder for a node")), Disk::Small)
}

fn operate(admin: &Admin, command: &str, rest: &[&str]) {
    let mut said = None;
    let done = || {
        said = Some(admin.run(command, rest));
        said.as_ref().is_some_and(|said| said.code == 0)
    };
    wait_until(&format!("backpack-admin {command} {rest:?} succeeds"), COMMAND_WITHIN, done);
}

struct Maker<'a> {
    runtime: &'a Runtime,
    zookeepers: &'a ZooKeeperEnsemble,
}

impl Maker<'_> {
    fn node(&self, node: usize, disk: &Disk, more: &[&str]) -> Role {
        let (zookeeper, clock, port) = (self.zookeeper(), Clock::new(), free_port());
        let data = disk.data().display().to_string();
        let (id, port_text, zk) = (server(node), port.to_string(), zookeeper.addrs());
        let args = [&data, "127.0.0.1", &port_text, "--id", &id, "--zk", &zk, "--root", ROOT];
        let daemon = start(env!("CARGO_BIN_EXE_backpack-node"), &args, Some(&clock));
        if !more.is_empty() {
            // For one start only, as an operator does it.
            daemon.start_again_with(more);
        }
        self.role(daemon, port, zookeeper, Some(clock), true)
    }

    fn coordinator(&self) -> Role {
        let (zookeeper, clock, port) = (self.zookeeper(), Clock::new(), free_port());
        let args = [&zookeeper.addrs(), ROOT, "127.0.0.1", &port.to_string()];
        let daemon = start(env!("CARGO_BIN_EXE_backpack-coordinator"), &args, Some(&clock));
        self.role(daemon, port, zookeeper, Some(clock), true)
    }

    fn replicator(&self) -> Role {
        let (zookeeper, port) = (self.zookeeper(), free_port());
        let args = [&zookeeper.addrs(), ROOT, "--listen", &format!("127.0.0.1:{port}")];
        let daemon = start(env!("CARGO_BIN_EXE_backpack-replicator"), &args, None);
        self.role(daemon, port, zookeeper, None, false)
    }

    fn role(&self, daemon: Daemon, port: u16, zookeeper: Proxy, clock: Option<Clock>, reached: bool) -> Role {
        let addr = format!("127.0.0.1:{port}");
        let door = reached.then(|| Proxy::start(self.runtime.handle(), slice::from_ref(&addr)));
        Role { daemon, addr, door, zookeeper, clock }
    }

    fn zookeeper(&self) -> Proxy {
        let servers: Vec<_> = self.zookeepers.servers.iter().map(|server| server.addr()).collect();
        Proxy::start(self.runtime.handle(), &servers)
    }
}

fn start(program: &str, args: &[&str], clock: Option<&Clock>) -> Daemon {
    let clock = clock.map(Clock::env);
    let clock = clock.iter().flatten().map(|(name, value)| (*name, value.as_str()));
    let env: Vec<_> = ENV.into_iter().chain(clock).collect();
    Daemon::start_with_env(program, args, &env)
}
