//! From what the map says of the queue to the queue.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{EmbeddedQueue, Queue, QueueError, QueueOptions, RedisQueue, ReplicatedQueue};
use crate::model::{QueueInfo, QueueServer};

/// The queue that the map names: its Redis servers, or, where it names none, the embedded one in `embedded_dir` (of which
/// there is one, whatever the map's key). Returns at once; connections are made when they are needed, so a server that is down is no error here.
pub fn connect(
    info: &QueueInfo,
    options: &QueueOptions,
    embedded_dir: Option<&Path>,
) -> Result<Arc<dyn Queue>, QueueError> {
    Connector::new(options.clone(), embedded_dir.map(Path::to_owned)).connect(info)
}

/// Makes queues and keeps the connections of servers that the next one has too.
pub(super) struct Connector {
    options: QueueOptions,
    embedded_dir: Option<PathBuf>,
    /// By the queue's key and the server.
    members: Mutex<HashMap<(String, QueueServer), Weak<RedisQueue>>>,
}

impl Connector {
    pub(super) fn new(options: QueueOptions, embedded_dir: Option<PathBuf>) -> Self {
        Self { options, embedded_dir, members: Mutex::default() }
    }

    /// See [`connect`]. Keeps the connections of a queue made before if that one is dropped only afterwards.
    pub(super) fn connect(&self, info: &QueueInfo) -> Result<Arc<dyn Queue>, QueueError> {
        if info.servers.is_empty() {
            return self.embedded();
        }
        let mut members: Vec<(String, Arc<dyn Queue>)> = Vec::new();
        for server in &info.servers {
            let name = server.to_string();
            // A server that the map names twice is one.
            if members.iter().all(|(known, _)| *known != name) {
                members.push((name, self.member(&info.key, server)?));
            }
        }
        // One server too: receipts then stay good when the map names more.
        let mut queue = ReplicatedQueue::new(members, self.options.backup_delay);
        queue.wait_for_backups = self.options.wait_for_backups;
        Ok(Arc::new(queue))
    }

    fn embedded(&self) -> Result<Arc<dyn Queue>, QueueError> {
        let Some(dir) = &self.embedded_dir else {
            let help = "the map names no Redis server, and this process has no directory for an embedded queue: run set-queue";
            return Err(QueueError::Failed(help.to_owned()));
        };
        Ok(Arc::new(EmbeddedQueue::open(dir, self.options.lease)?))
    }

    fn member(&self, key: &str, server: &QueueServer) -> Result<Arc<RedisQueue>, QueueError> {
        let mut members = self.members.lock();
        members.retain(|_, member| member.strong_count() > 0);
        let place = (key.to_owned(), server.clone());
        if let Some(member) = members.get(&place).and_then(Weak::upgrade) {
            return Ok(member);
        }
        let member = Arc::new(RedisQueue::new(key, server, &self.options)?);
        members.insert(place, Arc::downgrade(&member));
        Ok(member)
    }
}
