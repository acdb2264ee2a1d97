//! The queues that go through the cases.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backpack::{
    embedded::{Error, Store},
    model::{ClusterMap, QueueInfo, QueueServer},
    queue::{EmbeddedQueue, FollowQueue, MeteredQueue, Queue, QueueOptions, RedisQueue, connect},
};
use tempfile::TempDir;
use tokio::sync::watch;

use super::NEVER;
use crate::support::redis::{Redis, RedisOptions};

/// The queue's key of all tests.
pub const KEY: &str = "backpack-queue";

/// Something that holds a queue, for as long as it lives.
#[async_trait]
pub trait Backend: Sized + Send + Sync {
    /// An empty one with this lease.
    fn start(lease: Duration) -> Self;

    /// A handle of its own on the queue, as another process would have it.
    fn open(&self) -> Arc<dyn Queue>;

    /// Ends what holds the queue without warning and starts it again with what it had made durable. Handles opened before
    /// need not work any more.
    fn crash(&mut self);

    /// Puts something that is no task where the ready tasks of a target stand.
    async fn poison(&self, target: &str, raw: &str);
}

pub fn server(redis: &Redis) -> QueueServer {
    QueueServer { host: "127.0.0.1".to_owned(), port: redis.port(), tls: false }
}

/// With this lease, and otherwise such that nothing depends on how fast a server is.
pub fn options(lease: Duration) -> QueueOptions {
    QueueOptions {
        lease,
        backup_delay: NEVER,
        connect_timeout: NEVER,
        command_timeout: NEVER,
        ..QueueOptions::default()
    }
}

/// What a map says of a queue on these servers.
pub fn info(servers: &[&Redis]) -> QueueInfo {
    QueueInfo { key: KEY.to_owned(), servers: servers.iter().map(|redis| server(redis)).collect() }
}

pub fn map_with(queue: Option<QueueInfo>) -> Arc<ClusterMap> {
    Arc::new(ClusterMap { queue, ..ClusterMap::default() })
}

pub fn durable_redis() -> Redis {
    Redis::start_with(&RedisOptions { appendonly: true, ..RedisOptions::default() })
}

pub fn poison_redis(redis: &Redis, target: &str, raw: &str) {
    redis.command(&format!("SADD {KEY}:targets {target}"));
    redis.command(&format!("XADD {KEY}:ready:{target} * attempts 0 task '{raw}'"));
    redis.command(&format!("ZADD {KEY}:agenda 0 {target}"));
}

/// One Redis server.
pub struct OneRedis {
    pub redis: Redis,
    lease: Duration,
}

#[async_trait]
impl Backend for OneRedis {
    fn start(lease: Duration) -> Self {
        Self { redis: durable_redis(), lease }
    }

    fn open(&self) -> Arc<dyn Queue> {
        Arc::new(RedisQueue::new(KEY, &server(&self.redis), &options(self.lease)).unwrap())
    }

    fn crash(&mut self) {
        self.redis.restart();
    }

    async fn poison(&self, target: &str, raw: &str) {
        poison_redis(&self.redis, target, raw);
    }
}

/// The embedded queue. A process that dies while it writes is the business of the store's own tests.
pub struct Embedded {
    dir: TempDir,
    lease: Duration,
}

#[async_trait]
impl Backend for Embedded {
    fn start(lease: Duration) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), lease }
    }

    fn open(&self) -> Arc<dyn Queue> {
        Arc::new(EmbeddedQueue::open(self.dir.path(), self.lease).unwrap())
    }

    fn crash(&mut self) {
        // What the disk holds now, without what an orderly end would add.
        let copy = tempfile::tempdir().unwrap();
        for file in ["data.mdb", "lock.mdb"] {
            std::fs::copy(self.dir.path().join(file), copy.path().join(file)).unwrap();
        }
        self.dir = copy;
    }

    async fn poison(&self, target: &str, raw: &str) {
        let queue = self.open();
        queue.push(&[super::task(target, "poison")], Duration::ZERO).await.unwrap();
        let store = Store::open(self.dir.path()).unwrap();
        let prefix = format!("queue/ready/{target}/").into_bytes();
        let raw = [&[0; 4], raw.as_bytes()].concat();
        let write = store.write(move |writer| {
            let key = writer.reader().scan(&prefix)?.last().unwrap()?.0.to_vec();
            writer.put(&key, &raw)?;
            Ok::<_, Error>(())
        });
        write.await.unwrap();
    }
}

/// Two Redis servers as one queue.
pub struct TwoRedis {
    pub servers: [Redis; 2],
    lease: Duration,
}

#[async_trait]
impl Backend for TwoRedis {
    fn start(lease: Duration) -> Self {
        Self { servers: [durable_redis(), durable_redis()], lease }
    }

    fn open(&self) -> Arc<dyn Queue> {
        let [one, other] = &self.servers;
        connect(&info(&[one, other]), &options(self.lease), None).unwrap()
    }

    fn crash(&mut self) {
        self.servers.iter().for_each(Redis::restart);
    }

    async fn poison(&self, target: &str, raw: &str) {
        poison_redis(&self.servers[0], target, raw);
    }
}

/// The queue of a map that changed to these servers after it was opened, with its counters.
pub struct Followed(TwoRedis);

#[async_trait]
impl Backend for Followed {
    fn start(lease: Duration) -> Self {
        Self(TwoRedis::start(lease))
    }

    fn open(&self) -> Arc<dyn Queue> {
        let (maps, map) = watch::channel(map_with(None));
        let follow = FollowQueue::new(map, options(self.0.lease), None);
        let [one, other] = &self.0.servers;
        maps.send_replace(map_with(Some(info(&[one, other]))));
        Arc::new(MeteredQueue::new(Arc::new(follow)))
    }

    fn crash(&mut self) {
        self.0.crash();
    }

    async fn poison(&self, target: &str, raw: &str) {
        self.0.poison(target, raw).await;
    }
}
