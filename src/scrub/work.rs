//! Tasks on their way to the queue: each once, and no more than the queue should hold. Or to whoever makes the copies at once.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use xxhash_rust::xxh3::Xxh3;

use super::{Carrier, Found, compare::ScrubError};
use crate::{
    http::RequestId,
    model::{ClusterMap, Server, ServerId, Task},
    queue::{Filter, Queue},
};

/// Tasks pushed at once: some hundred KiB.
const BATCH: usize = 500;
/// Tasks of one target that may wait; more are not put on the queue until some are done. With two hundred bytes each this is
/// 10 MB of Redis, and an hour's work or so.
const MAX_BACKLOG: u64 = 50_000;
/// So many of a target's tasks are known, not to be put there twice. Twice would cost a look at the target and nothing more.
const MAX_KNOWN: usize = 100_000;
/// Between looks at a queue that is full enough.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where what is missing goes.
#[derive(Clone)]
pub enum Sink<'a> {
    /// It is only counted.
    Nowhere,
    /// Replicators see to it.
    Queue(Arc<dyn Queue>),
    /// It is made at once.
    Copies(&'a Carrier),
}

/// Collects tasks and passes them on.
pub(super) struct Work<'a> {
    sink: Sink<'a>,
    map: &'a ClusterMap,
    /// Hashes of the identities of tasks that are on the queue.
    known: HashSet<u128>,
    waiting: Vec<Task>,
    patience: Duration,
}

impl<'a> Work<'a> {
    /// Reads what is on the queue for these servers.
    pub async fn new(
        sink: Sink<'a>,
        map: &'a ClusterMap,
        targets: &[Arc<Server>],
        patience: Duration,
    ) -> Result<Self, ScrubError> {
        let mut known = HashSet::new();
        if let Sink::Queue(queue) = &sink {
            let stats = queue.stats().await?;
            let has_backlog = |target: &&Arc<Server>| {
                stats.targets.get(&target.id).is_some_and(|stats| stats.backlog() > 0)
            };
            for target in targets.iter().filter(has_backlog) {
                let filter = Filter { target: Some(target.id.clone()), ..Filter::default() };
                let listed = queue.list(&filter, MAX_KNOWN).await?;
                known.extend(listed.iter().map(|listed| identity(&listed.task)));
            }
        }
        Ok(Self { sink, map, known, waiting: Vec::new(), patience })
    }

    /// Takes a task, unless it is on the queue.
    pub async fn add(&mut self, task: Task, found: &mut Found) -> Result<(), ScrubError> {
        match self.sink {
            Sink::Nowhere => return Ok(()),
            Sink::Queue(_) if !self.known.insert(identity(&task)) => {
                found.already_queued += 1;
                return Ok(());
            }
            Sink::Queue(_) | Sink::Copies(_) => {}
        }
        self.waiting.push(task);
        if self.waiting.len() >= BATCH { self.flush(found).await } else { Ok(()) }
    }

    /// Passes on what was collected.
    pub async fn flush(&mut self, found: &mut Found) -> Result<(), ScrubError> {
        let tasks = std::mem::take(&mut self.waiting);
        match &self.sink {
            _ if tasks.is_empty() => Ok(()),
            Sink::Nowhere => Ok(()),
            Sink::Queue(queue) => {
                push(&**queue, &tasks, self.patience).await?;
                found.queued += tasks.len() as u64;
                Ok(())
            }
            Sink::Copies(carrier) => {
                let id = RequestId::fresh();
                carrier.carry(&tasks, self.map, &id).await.map_err(ScrubError::NotCarried)
            }
        }
    }
}

/// Pushes tasks once the queue has room for them. If it has none for long, what was collected is found again.
async fn push(queue: &dyn Queue, tasks: &[Task], patience: Duration) -> Result<(), ScrubError> {
    let targets: HashSet<&ServerId> = tasks.iter().map(|task| &task.to).collect();
    let began = Instant::now();
    loop {
        let stats = queue.stats().await?;
        let is_full = |target: &&ServerId| {
            stats.targets.get(*target).is_some_and(|stats| stats.backlog() >= MAX_BACKLOG)
        };
        let Some(full) = targets.iter().find(|target| is_full(target)) else { break };
        if began.elapsed() >= patience {
            return Err(ScrubError::NoRoom { server: (*full).clone() });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    queue.push(tasks, Duration::ZERO).await?;
    Ok(())
}

fn identity(task: &Task) -> u128 {
    let (target, key, version) = task.identity();
    let mut hash = Xxh3::new();
    hash.update(target.as_str().as_bytes());
    hash.update(&[0xff]);
    hash.update(key.as_str().as_bytes());
    hash.update(&[0xff]);
    hash.update(&version.map(|version| version.to_bytes()).unwrap_or_default());
    hash.digest128()
}
