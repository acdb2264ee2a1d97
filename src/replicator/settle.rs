//! Tells the queue what became of tasks. Acknowledgements are collected for a moment and sent together.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{metrics, outcome::Decision};
use crate::{
    daemon::Backoff,
    queue::{Claim, Queue, QueueError},
};

/// Acknowledgements sent together.
const BATCH: usize = 256;

/// The first acknowledgement of a batch waits this long for others. It holds up nobody: the copy is made, its slot is free.
const BATCH_FOR: Duration = Duration::from_millis(20);

/// Works whose acknowledgement waits. When the queue does not take them, workers wait here, and nothing more is claimed.
const WAITING: usize = 256;

/// Between tries to tell the queue. After the lease it is no use: others have the task by then.
const TRIES: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };

/// Where workers hand in their claims.
#[derive(Clone)]
pub(super) struct Settler {
    queue: Arc<dyn Queue>,
    acks: mpsc::Sender<Vec<Claim>>,
    lease: Duration,
}

impl Settler {
    /// The settler, and what sends its acknowledgements until every clone of it is gone.
    pub(super) fn new(
        queue: Arc<dyn Queue>,
        lease: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (acks, waiting) = mpsc::channel(WAITING);
        (Self { queue: queue.clone(), acks, lease }, send_acks(queue, waiting, lease))
    }

    /// Carries out a decision for all claims of one work.
    pub(super) async fn settle(&self, claims: Vec<Claim>, decision: &Decision) {
        if *decision == Decision::Ack {
            // Nobody receives only when the process ends in mid work: the lease gives the task to others.
            let _ = self.acks.send(claims).await;
            return;
        }
        for claim in &claims {
            match decision {
                Decision::Ack => {}
                Decision::Retry(delay) => {
                    insist("retry", self.lease, || self.queue.retry(claim, *delay)).await;
                }
                Decision::Release(delay) => {
                    insist("release", self.lease, || self.queue.release(claim, *delay)).await;
                }
                Decision::Bury(reason) => {
                    insist("bury", self.lease, || self.queue.bury(claim, reason)).await;
                }
            }
        }
    }
}

async fn send_acks(queue: Arc<dyn Queue>, mut waiting: mpsc::Receiver<Vec<Claim>>, lease: Duration) {
    while let Some(mut batch) = waiting.recv().await {
        let until = Instant::now() + BATCH_FOR;
        while batch.len() < BATCH {
            match timeout_at(until, waiting.recv()).await {
                Ok(Some(more)) => batch.extend(more),
                Ok(None) | Err(_) => break,
            }
        }
        insist("ack", lease, || queue.ack(&batch)).await;
    }
}

/// Tries until the queue takes it or the lease is over.
async fn insist<F>(verb: &'static str, lease: Duration, call: impl Fn() -> F)
where
    F: Future<Output = Result<(), QueueError>>,
{
    let deadline = Instant::now() + lease;
    let mut failures = 0;
    while let Err(error) = call().await {
        failures += 1;
        metrics::queue_failed(verb);
        let pause = TRIES.jittered(failures);
        if Instant::now() + pause >= deadline {
            tracing::warn!(verb, %error, "the queue was not told what became of a task; it will be done again");
            return;
        }
        tracing::debug!(verb, %error, "the queue does not take it; trying again");
        tokio::time::sleep(pause).await;
    }
}
