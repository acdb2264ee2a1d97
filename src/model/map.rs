//! The map: the immutable picture of servers, shards, pools and the queue that a process holds. A change makes a
//! new map; nobody edits one in place.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Serialize};

use super::{PoolName, ServerId, ShardId};

/// What exists, as one process last read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterMap {
    /// Every server of the map.
    pub servers: BTreeMap<ServerId, Arc<Server>>,
    /// Every shard of the map.
    pub shards: BTreeMap<ShardId, Arc<Shard>>,
    /// Pools with settings of their own; a pool that is not here has [`Pool::default`].
    pub pools: BTreeMap<PoolName, Pool>,
    /// Where the tasks are kept; `None` before `coordinator-init`.
    pub queue: Option<QueueInfo>,
    /// Servers that announce themselves under `/live`. Only our own nodes do, so absence says nothing about others.
    pub live: BTreeSet<ServerId>,
    /// Follows from the rest: see [`ClusterMap::writable`].
    pub writable: Writable,
}

/// The shards of each pool that take uploads, put together when a map is first asked for them. A copy of the map, which may be
/// changed, has none yet.
#[derive(Debug, Default)]
pub struct Writable(OnceLock<HashMap<PoolName, Vec<Arc<Shard>>>>);

impl Clone for Writable {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Writable {
    /// It follows from what else is equal.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Writable {}

impl ClusterMap {
    /// The shards of a pool that take uploads. A map that was asked for them is changed no more.
    pub fn writable(&self, pool: &PoolName) -> &[Arc<Shard>] {
        let by_pool = self.writable.0.get_or_init(|| {
            let mut by_pool: HashMap<_, Vec<_>> = HashMap::new();
            for shard in self.shards.values().filter(|shard| shard.is_writable()) {
                by_pool.entry(shard.pool.clone()).or_default().push(Arc::clone(shard));
            }
            by_pool
        });
        by_pool.get(pool).map_or(&[], Vec::as_slice)
    }

    /// To how many shards each server belongs: for whoever wants to know it of all of them.
    pub fn shards_of_each(&self) -> HashMap<&ServerId, usize> {
        let mut shards = HashMap::new();
        for server in self.shards.values().flat_map(|shard| &shard.servers) {
            *shards.entry(server).or_default() += 1;
        }
        shards
    }

    /// The servers of a shard that are in the map, in the shard's order.
    pub fn servers_of<'a>(&'a self, shard: &'a Shard) -> impl Iterator<Item = &'a Arc<Server>> {
        shard.servers.iter().filter_map(|id| self.servers.get(id))
    }

    /// The shards that a server belongs to. Of several of them it cannot tell which of its blobs are whose.
    pub fn shards_of<'a>(&'a self, server: &'a ServerId) -> impl Iterator<Item = &'a Arc<Shard>> {
        self.shards.values().filter(move |shard| shard.servers.contains(server))
    }

    /// The servers of a shard that are in the map and are read, in the shard's order.
    pub fn readable<'a>(&'a self, shard: &'a Shard) -> impl Iterator<Item = &'a Arc<Server>> {
        self.servers_of(shard).filter(|server| shard.is_read(&server.id))
    }

    /// The settings of a pool.
    pub fn pool(&self, name: &PoolName) -> Pool {
        self.pools.get(name).cloned().unwrap_or_default()
    }
}

/// An entry of the map: where a server of any kind listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// Its name.
    pub id: ServerId,
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Server {
    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

/// A set of servers that hold the same blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its name.
    pub id: ShardId,
    /// Its servers, in the order of the map; a server named here need not be in the map.
    pub servers: Vec<ServerId>,
    /// Those of them that are on their way in or out.
    pub stages: BTreeMap<ServerId, Stage>,
    /// Takes no uploads. New shards are read-only.
    pub read_only: bool,
    /// The pool it belongs to.
    pub pool: PoolName,
    /// `None` while its `/shard-size-<id>` is missing or unreadable: then it takes no uploads.
    pub size: Option<ShardSize>,
}

impl Shard {
    /// Takes uploads: enabled, with a known size and room left.
    pub fn is_writable(&self) -> bool {
        !self.read_only && self.size.is_some_and(|size| size.used < size.capacity)
    }

    /// Whether readers ask this server. One that joins has not everything yet.
    pub fn is_read(&self, server: &ServerId) -> bool {
        !matches!(self.stages.get(server), Some(Stage::Joining | Stage::Left))
    }

    /// Whether an upload may be acknowledged that only this server has: all readers ask it, and it stays.
    pub fn is_first(&self, server: &ServerId) -> bool {
        !self.stages.contains_key(server)
    }

    /// Whether the server is being filled: what it lacks is copied by whoever fills it, and is no task.
    pub fn is_joining(&self, server: &ServerId) -> bool {
        self.stages.get(server) == Some(&Stage::Joining)
    }
}

/// How far a server is on its way into a shard, or out of it. In every stage it gets what is written to the shard. No server of a
/// shard is in a stage but while `replace-server`, `move-shard` or `drain-server` is at work, and then one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It is being filled: not read yet.
    Joining,
    /// It has everything, and is read by those who have seen that: nothing is left to it alone yet.
    Joined,
    /// Another one took its place: still read, but nothing is left to it alone.
    Leaving,
    /// No more read, but by those who have not seen that yet.
    Left,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Joining => "joining",
            Self::Joined => "joined",
            Self::Leaving => "leaving",
            Self::Left => "left",
        })
    }
}

/// What `/shard-size-<id>` says, in bytes of one copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardSize {
    /// How much it may hold.
    pub capacity: u64,
    /// How much it holds (`current` in ZooKeeper). May pass the capacity.
    pub used: u64,
}

impl ShardSize {
    /// Bytes left, 0 when over-full.
    pub fn free(self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }
}

/// How many durable copies an upload waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteLevel {
    /// One copy; the others are tasks.
    #[default]
    One,
    /// More than half of the shard's servers.
    Quorum,
    /// Every server of the shard.
    All,
}

impl WriteLevel {
    /// Copies needed in a shard of so many servers.
    pub fn copies(self, servers: usize) -> usize {
        match self {
            Self::One => servers.min(1),
            Self::Quorum => servers / 2 + servers.min(1),
            Self::All => servers,
        }
    }
}

impl FromStr for WriteLevel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "one" => Ok(Self::One),
            "quorum" => Ok(Self::Quorum),
            "all" => Ok(Self::All),
            other => Err(format!("{other:?} is not a write level: one, quorum or all")),
        }
    }
}

impl fmt::Display for WriteLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "one",
            Self::Quorum => "quorum",
            Self::All => "all",
        })
    }
}

/// Settings of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The level of uploads that ask for none.
    #[serde(default)]
    pub write: WriteLevel,
    /// Values of `Host` (without port) that choose this pool.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// Where the tasks are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueInfo {
    /// Prefix of every key in Redis.
    pub key: String,
    /// The Redis servers; empty means the embedded queue.
    pub servers: Vec<QueueServer>,
}

/// One Redis server. Its password is never part of the map: it comes from the environment or a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueServer {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Speak TLS to it.
    pub tls: bool,
}

impl fmt::Display for QueueServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss://" } else { "" };
        if self.host.contains(':') {
            write!(f, "{scheme}[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_a_level_needs() {
        let of = |level: WriteLevel| (0..6).map(|n| level.copies(n)).collect::<Vec<_>>();
        assert_eq!(of(WriteLevel::One), [0, 1, 1, 1, 1, 1]);
        assert_eq!(of(WriteLevel::Quorum), [0, 1, 2, 2, 3, 3]);
        assert_eq!(of(WriteLevel::All), [0, 1, 2, 3, 4, 5]);
    }

    fn shard(id: &str) -> Shard {
        Shard {
            id: id.parse().unwrap(),
            servers: vec![],
            stages: Default::default(),
            read_only: false,
            pool: PoolName::default(),
            size: None,
        }
    }

    #[test]
    fn writable_shards_of_a_copy_are_those_that_it_has() {
        let mut map = ClusterMap::default();
        let add = |id: &str, map: &mut ClusterMap| {
            let size = Some(ShardSize { capacity: 10, used: 0 });
            map.shards.insert(id.parse().unwrap(), Arc::new(Shard { size, ..shard(id) }));
        };
        add("1", &mut map);
        map.shards.insert("full".parse().unwrap(), Arc::new(shard("full")));
        let ids = |map: &ClusterMap| -> Vec<String> {
            map.writable(&PoolName::default()).iter().map(|shard| shard.id.to_string()).collect()
        };
        assert_eq!(ids(&map), ["1"]);
        assert!(map.writable(&"other".parse().unwrap()).is_empty());
        let mut grown = map.clone();
        add("2", &mut grown);
        assert_eq!((ids(&grown), ids(&map)), (vec!["1".to_owned(), "2".to_owned()], vec!["1".to_owned()]));
    }

    #[test]
    fn shards_of_each_server_are_counted_as_of_one() {
        let mut map = ClusterMap::default();
        for (id, servers) in [("1", ["a", "b"]), ("2", ["b", "c"])] {
            let servers = servers.map(|id| id.parse().unwrap()).into();
            map.shards.insert(id.parse().unwrap(), Arc::new(Shard { servers, ..shard(id) }));
        }
        let counts = map.shards_of_each();
        for id in ["a", "b", "c", "d"].map(|id| id.parse().unwrap()) {
            assert_eq!(counts.get(&id).copied().unwrap_or(0), map.shards_of(&id).count(), "{id}");
        }
    }

    #[test]
    fn writable_needs_a_known_size_with_room() {
        let mut shard = shard("1");
        assert!(!shard.is_writable());
        shard.size = Some(ShardSize { capacity: 10, used: 9 });
        assert!(shard.is_writable());
        shard.size = Some(ShardSize { capacity: 10, used: 10 });
        assert!(!shard.is_writable());
        shard.size = Some(ShardSize { capacity: 10, used: 0 });
        shard.read_only = true;
        assert!(!shard.is_writable());
    }
}
