//! The tasks that requests leave: how they are made, and how they come onto the queue.

use std::time::Duration;

use tokio::time::timeout;

use super::Coordinator;
use crate::{
    daemon::unix_ms,
    http::RequestId,
    model::{Key, ServerId, ShardId, Task, Version, task::Operation},
    queue::{Ahead, QueueError},
};

/// Tasks for a blob that is about to be stored on one server.
pub(super) struct PushedAhead {
    /// Has it then, and nobody else.
    pub holder: ServerId,
    pub push: Box<dyn Ahead>,
}

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

impl Coordinator {
    /// Puts tasks on the queue, but for those of servers that are to be compared instead. `holders` have what the others lack.
    /// The error says why they are not there.
    pub(super) async fn push(&self, tasks: Vec<Task>, holders: &[ServerId]) -> Result<(), String> {
        in_time(self.push_wanted(tasks, holders)).await
    }

    /// The same of what may have been begun ahead.
    pub(super) async fn push_on(
        &self,
        ahead: Option<Box<dyn Ahead>>,
        tasks: impl FnOnce() -> Vec<Task>,
        holders: &[ServerId],
    ) -> Result<(), String> {
        let push = async {
            if let Some(ahead) = ahead
                && ahead.happened().await.is_ok()
            {
                return Ok(());
            }
            self.push_wanted(tasks(), holders).await
        };
        in_time(push).await
    }

    async fn push_wanted(&self, mut tasks: Vec<Task>, holders: &[ServerId]) -> Result<(), QueueError> {
        let (map, all) = (self.view.map(), tasks.len());
        tasks.retain(|task| !self.backlogs.leaves_out(task, holders, &map));
        if tasks.len() < all {
            metrics::counter!("backpack_coordinator_tasks_left_out_total")
                .increment((all - tasks.len()) as u64);
        }
        if tasks.is_empty() { Ok(()) } else { self.queue.push(&tasks, Duration::ZERO).await }
    }

    /// Begins to put these on the queue before what they are for has happened. `None` if the queue cannot do that, or some are to be
    /// left out: for so long as the upload may take, that cannot be said now.
    pub(super) fn begin_push(&self, tasks: &[Task], holders: &[ServerId]) -> Option<Box<dyn Ahead>> {
        let map = self.view.map();
        let leaves_out = tasks.iter().any(|task| self.backlogs.leaves_out(task, holders, &map));
        if leaves_out { None } else { self.queue.push_ahead(tasks) }
    }
}

async fn in_time(push: impl Future<Output = Result<(), QueueError>>) -> Result<(), String> {
    match timeout(QUEUE_DEADLINE, push).await {
        Ok(pushed) => pushed.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the queue did not answer for {} s", QUEUE_DEADLINE.as_secs())),
    }
}
