//! The queue that the map names now: when the map changes, the next call goes to the new one. Nobody holds a queue that was
//! closed or replaced.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Ahead, Claim, DeadLetter, Filter, Listed, Queue, QueueError, QueueOptions, QueueStats, Want,
    connect::Connector,
};
use crate::model::{ClusterMap, QueueInfo, ServerId, Task};

/// Delegates to the queue of the current map. Calls under way when the map changes end on the queue where they began;
/// claims of a server that is no longer named are forgotten there with their lease, a retry of one goes to the new queue.
pub struct FollowQueue {
    maps: watch::Receiver<Arc<ClusterMap>>,
    connector: Connector,
    current: Mutex<Option<(QueueInfo, Arc<dyn Queue>)>>,
}

impl FollowQueue {
    /// Follows these maps. `embedded_dir` is where the embedded queue is, for a map that names no server.
    pub fn new(
        maps: watch::Receiver<Arc<ClusterMap>>,
        options: QueueOptions,
        embedded_dir: Option<PathBuf>,
    ) -> Self {
        Self { maps, connector: Connector::new(options, embedded_dir), current: Mutex::new(None) }
    }

    fn queue(&self) -> Result<Arc<dyn Queue>, QueueError> {
        self.queue_of(&Arc::clone(&self.maps.borrow()))
    }

    fn queue_of(&self, map: &ClusterMap) -> Result<Arc<dyn Queue>, QueueError> {
        let info = map.queue.as_ref().ok_or(QueueError::NotSet)?;
        let mut current = self.current.lock();
        if let Some((known, queue)) = &*current
            && known == info
        {
            return Ok(Arc::clone(queue));
        }
        let queue = self.connector.connect(info)?;
        let servers = info.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::info!(key = info.key, servers, "queue of the map");
        *current = Some((info.clone(), Arc::clone(&queue)));
        Ok(queue)
    }
}

/// A push to the queue that the map named when it began.
struct FollowAhead {
    inner: Box<dyn Ahead>,
    map: Arc<ClusterMap>,
    maps: watch::Receiver<Arc<ClusterMap>>,
}

#[async_trait]
impl Ahead for FollowAhead {
    async fn happened(self: Box<Self>) -> Result<(), QueueError> {
        // Perhaps nobody claims from that one any more.
        if self.maps.borrow().queue != self.map.queue {
            return Err(QueueError::Unavailable("the map names another queue since".to_owned()));
        }
        self.inner.happened().await
    }
}

#[async_trait]
impl Queue for FollowQueue {
    async fn push(&self, tasks: &[Task], delay: Duration) -> Result<(), QueueError> {
        self.queue()?.push(tasks, delay).await
    }

    fn push_ahead(&self, tasks: &[Task]) -> Option<Box<dyn Ahead>> {
        let map = Arc::clone(&self.maps.borrow());
        let inner = self.queue_of(&map).ok()?.push_ahead(tasks)?;
        Some(Box::new(FollowAhead { inner, map, maps: self.maps.clone() }))
    }

    async fn settle(&self) {
        if let Ok(queue) = self.queue() {
            queue.settle().await;
        }
    }

    async fn cancel(&self, tasks: &[Task]) -> Result<(), QueueError> {
        self.queue()?.cancel(tasks).await
    }

    async fn claim(&self, want: &Want, wait: Duration) -> Result<Vec<Claim>, QueueError> {
        self.queue()?.claim(want, wait).await
    }

    async fn renew(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.queue()?.renew(claims).await
    }

    async fn ack(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.queue()?.ack(claims).await
    }

    async fn retry(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.queue()?.retry(claim, delay).await
    }

    async fn release(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.queue()?.release(claim, delay).await
    }

    async fn bury(&self, claim: &Claim, reason: &str) -> Result<(), QueueError> {
        self.queue()?.bury(claim, reason).await
    }

    async fn stats(&self) -> Result<QueueStats, QueueError> {
        self.queue()?.stats().await
    }

    async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Listed>, QueueError> {
        self.queue()?.list(filter, limit).await
    }

    async fn dead(&self, filter: &Filter, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.queue()?.dead(filter, limit).await
    }

    async fn redrive(&self, filter: &Filter) -> Result<u64, QueueError> {
        self.queue()?.redrive(filter).await
    }

    async fn discard(&self, filter: &Filter) -> Result<u64, QueueError> {
        self.queue()?.discard(filter).await
    }

    async fn pause(&self, target: &ServerId) -> Result<(), QueueError> {
        self.queue()?.pause(target).await
    }

    async fn resume(&self, target: &ServerId) -> Result<(), QueueError> {
        self.queue()?.resume(target).await
    }
}
