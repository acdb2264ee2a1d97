//! Takes back the backups of tasks that are done, behind the callers' backs and many at once. Best effort: a backup that
//! stays comes due, and its task is then found done.

use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use crate::{model::Task, queue::Queue};

/// Tasks that wait to be taken back from one member: seconds of work for it. Beyond, backups stay.
const WAITING: usize = 10_000;

/// Tasks taken back by one call.
const BATCH: usize = 500;

/// What is to be taken back from one member. The work ends when this is dropped, after what waits.
#[derive(Default)]
pub(super) struct TakeBacks(OnceLock<mpsc::Sender<Task>>);

impl TakeBacks {
    /// Takes these back from `queue`, always the same one, soon.
    pub(super) fn add(&self, queue: &Arc<dyn Queue>, tasks: impl Iterator<Item = Task>) {
        let waiting = self.0.get_or_init(|| {
            let (waiting, work) = mpsc::channel(WAITING);
            tokio::spawn(take_back(Arc::clone(queue), work));
            waiting
        });
        for task in tasks {
            if waiting.try_send(task).is_err() {
                return;
            }
        }
    }
}

async fn take_back(queue: Arc<dyn Queue>, mut work: mpsc::Receiver<Task>) {
    let mut batch = Vec::with_capacity(BATCH);
    while work.recv_many(&mut batch, BATCH).await > 0 {
        if let Err(error) = queue.cancel(&batch).await {
            tracing::debug!(%error, tasks = batch.len(), "backups stay and will be found done");
        }
        batch.clear();
    }
}
