//! Makes what a comparison finds missing at once and at a set rate, instead of putting it on the queue: a server that is to be
//! filled lacks everything.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;

use crate::{
    client::{ByteRate, Copied, CopyPlan, Servers},
    http::RequestId,
    model::{ClusterMap, Operation, Server, Task},
};

/// Copies and deletes that are made here and now.
pub struct Carrier {
    servers: Arc<Servers>,
    rate: ByteRate,
    at_once: usize,
    /// Told of the bytes of each copy.
    copied: Box<dyn Fn(u64) + Send + Sync>,
    carried: Mutex<Carried>,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// Copies made.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Deletes made.
    pub deletes: u64,
    /// Copies and deletes that could not be made.
    pub failed: u64,
    /// Why the last of them could not.
    pub why: Option<String>,
}

impl Carrier {
    /// So many at once, and so many bytes per second, if that is limited.
    pub fn new(
        servers: Arc<Servers>,
        bytes_per_second: Option<u64>,
        at_once: usize,
        copied: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        let rate = ByteRate::new(bytes_per_second);
        Self { servers, rate, at_once, copied: Box::new(copied), carried: Mutex::default() }
    }

    /// What was done since this was last asked.
    pub fn take(&self) -> Carried {
        std::mem::take(&mut self.carried.lock())
    }

    /// Carries tasks out. The error says why not one of them could be: then there is no use in going on.
    pub(super) async fn carry(&self, tasks: &[Task], map: &ClusterMap, id: &RequestId) -> Result<(), String> {
        let work: Vec<_> = tasks.iter().map(|task| self.one(task, map, id).boxed()).collect();
        let done: Vec<_> = stream::iter(work).buffer_unordered(self.at_once).collect().await;
        let failed = done.iter().filter(|done| done.is_err()).count();
        let carried = self.carried.lock();
        if failed == tasks.len() { Err(carried.why.clone().unwrap_or_default()) } else { Ok(()) }
    }

    async fn one(&self, task: &Task, map: &ClusterMap, id: &RequestId) -> Result<(), ()> {
        let done = self.make(task, map, id).await;
        let mut carried = self.carried.lock();
        match done {
            Ok(None) => carried.deletes += 1,
            Ok(Some(bytes)) => {
                carried.copies += 1;
                carried.bytes += bytes;
                (self.copied)(bytes);
            }
            Err(why) => {
                tracing::debug!(key = %task.key, to = %task.to, why, "a copy could not be made");
                carried.failed += 1;
                carried.why = Some(format!("{} on server {}: {why}", task.key, task.to));
                return Err(());
            }
        }
        Ok(())
    }

    /// The bytes of a copy; nothing for a delete.
    async fn make(&self, task: &Task, map: &ClusterMap, id: &RequestId) -> Result<Option<u64>, String> {
        let target = map.servers.get(&task.to).ok_or("it is not in the map")?;
        if let (Operation::Delete, Some(version)) = (task.op, task.version) {
            let deleted = self.servers.delete(target, &task.key, version, id).await;
            return deleted.map(|_| None).map_err(|error| error.to_string());
        }
        let sources: Vec<Arc<Server>> =
            task.from.iter().filter_map(|id| map.servers.get(id)).cloned().collect();
        let (key, version) = (&task.key, task.version);
        // A source may be slow: nobody waits for a single copy.
        let plan = CopyPlan { key, version, sources: &sources, target, patience: None, is_new: false };
        match self.servers.copy(&plan, &self.rate, id).await {
            Ok(Copied::Copied(bytes)) => Ok(Some(bytes)),
            Ok(Copied::AlreadyThere | Copied::Newer(_) | Copied::Deleted) => Ok(Some(0)),
            Err(error) => Err(error.to_string()),
        }
    }
}
