//! Copies that reads found missing: each gets a task, once in a while.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Coordinator, tasks::TaskOrigin};
use crate::{
    http::RequestId,
    model::{Key, Server, ServerId, Shard, Task, Version},
};

/// One repair of a key on a server is asked for at most this often, however often it is read meanwhile.
const REPAIR_EVERY: Duration = Duration::from_secs(60);

/// Repairs remembered; past that a few may be asked for twice, which is harmless.
const MAX_REPAIRS_REMEMBERED: usize = 10_000;

/// Repairs asked for lately.
#[derive(Default)]
pub(super) struct Repairs(Mutex<HashMap<(Key, ServerId), Instant>>);

impl Repairs {
    /// Whether this repair is to be asked for now.
    fn is_due(&self, key: &Key, server: &Server) -> bool {
        let mut asked = self.0.lock();
        if asked.len() >= MAX_REPAIRS_REMEMBERED {
            asked.retain(|_, at| at.elapsed() < REPAIR_EVERY);
            if asked.len() >= MAX_REPAIRS_REMEMBERED {
                asked.clear();
            }
        }
        let entry = asked.entry((key.clone(), server.id.clone()));
        match entry {
            std::collections::hash_map::Entry::Occupied(mut at) if at.get().elapsed() >= REPAIR_EVERY => {
                at.insert(Instant::now());
                true
            }
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(Instant::now());
                true
            }
        }
    }

    /// These were not asked for after all.
    fn forget(&self, tasks: &[Task]) {
        let mut asked = self.0.lock();
        for task in tasks {
            asked.remove(&(task.key.clone(), task.to.clone()));
        }
    }
}

impl Coordinator {
    /// Queues the copies that a read found missing, without holding the read up.
    pub(super) fn repair(
        self: &Arc<Self>,
        shard: &Shard,
        key: &Key,
        version: Option<Version>,
        source: &Server,
        lacking: Vec<Arc<Server>>,
        id: &RequestId,
    ) {
        let due = lacking.into_iter().filter(|server| self.repairs.is_due(key, server));
        let origin = TaskOrigin { shard: &shard.id, key, version, id };
        let from = std::slice::from_ref(&source.id);
        let tasks: Vec<Task> = due.map(|to| origin.copy(from, &to.id, 0)).collect();
        if tasks.is_empty() {
            return;
        }
        metrics::counter!("backpack_coordinator_read_repairs_total").increment(tasks.len() as u64);
        let (coordinator, source) = (Arc::clone(self), source.id.clone());
        self.tasks.spawn(async move {
            if let Err(error) = coordinator.push(tasks.clone(), &[source]).await {
                tracing::warn!(error, "a missing copy could not be queued; the next read asks again");
                coordinator.repairs.forget(&tasks);
            }
        });
    }
}
