//! The tasks that requests leave: how they are made, and how they come onto the queue.

use std::{sync::Arc, time::Duration};

use super::{Coordinator, together::Together};
use crate::{
    daemon::unix_ms,
    http::RequestId,
    model::{Key, ServerId, ShardId, Task, Version, task::Operation},
    queue::{Queue, QueueError},
};

/// The queue answers within milliseconds or is in trouble; then the copies are made at once instead.
pub(super) const QUEUE_DEADLINE: Duration = Duration::from_secs(3);

/// What all tasks of one request have in common.
pub(super) struct TaskOrigin<'a> {
    pub shard: &'a ShardId,
    pub key: &'a Key,
    /// `None` where the source did not say which version it holds.
    pub version: Option<Version>,
    pub id: &'a RequestId,
}

impl TaskOrigin<'_> {
    /// A copy from one of `from`, the best source first, to `to`. `length` is in bytes, 0 if unknown.
    pub fn copy(&self, from: &[ServerId], to: &ServerId, length: u64) -> Task {
        self.task(Operation::Copy, from, to, length)
    }

    /// A delete on `to`.
    pub fn delete(&self, to: &ServerId) -> Task {
        self.task(Operation::Delete, &[], to, 0)
    }

    fn task(&self, op: Operation, from: &[ServerId], to: &ServerId, length: u64) -> Task {
        Task {
            op,
            shard: Some(self.shard.clone()),
            key: self.key.clone(),
            version: self.version,
            from: from.to_vec(),
            to: to.clone(),
            length,
            created_ms: unix_ms(),
            request_id: self.id.as_str().to_owned(),
        }
    }
}

/// Tasks of uploads that end at the same time go to the queue together.
pub(super) type Pushes = Arc<Together<Task, QueueError>>;

/// Tasks of one push: of so many Redis makes one call.
const MOST_TOGETHER: usize = 500;

/// Pushes to this queue.
pub(super) fn pushes(queue: Arc<dyn Queue>) -> Pushes {
    Together::new(MOST_TOGETHER, move |tasks: Vec<Task>| {
        let queue = queue.clone();
        Box::pin(async move { queue.push(&tasks, Duration::ZERO).await })
    })
}

impl Coordinator {
    /// Puts tasks on the queue, but for those of servers that are to be compared instead. `holders` have what the others lack.
    /// The error says why they are not there.
    pub(super) async fn push(&self, mut tasks: Vec<Task>, holders: &[ServerId]) -> Result<(), String> {
        let (map, all) = (self.view.map(), tasks.len());
        tasks.retain(|task| !self.backlogs.leaves_out(task, holders, &map));
        if tasks.len() < all {
            metrics::counter!("backpack_coordinator_tasks_left_out_total")
                .increment((all - tasks.len()) as u64);
        }
        if tasks.is_empty() {
            return Ok(());
        }
        match tokio::time::timeout(QUEUE_DEADLINE, self.pushes.run(tasks)).await {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(error))) => Err(error.to_string()),
            Ok(None) => Err("the push was given up".to_owned()),
            Err(_) => Err(format!("the queue did not answer for {} s", QUEUE_DEADLINE.as_secs())),
        }
    }
}
