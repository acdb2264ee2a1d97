//! A queue that counts what goes through it. Wrap the outermost one, or a task that two servers hold counts twice.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use metrics::{Counter, Histogram, counter, histogram};

use super::{Ahead, Claim, DeadLetter, Filter, Listed, Queue, QueueError, QueueStats, Want};
use crate::model::{ServerId, Task};

/// Counts calls that succeeded, by tasks: `backpack_queue_pushed_total`, `.._claimed_total`, `.._acked_total`,
/// `.._retried_total`, `.._released_total`, `.._buried_total`; and the time that every push was waited for, failed or not, of one that
/// began before what it is for had happened from then on: `backpack_queue_push_seconds`.
pub struct MeteredQueue {
    inner: Arc<dyn Queue>,
    pushes: Pushes,
    claimed: Counter,
    acked: Counter,
    retried: Counter,
    released: Counter,
    buried: Counter,
}

impl MeteredQueue {
    /// Counts what goes through `inner`. The recorder must have been installed, or it counts into nothing.
    pub fn new(inner: Arc<dyn Queue>) -> Self {
        Self {
            inner,
            pushes: Pushes {
                seconds: histogram!("backpack_queue_push_seconds"),
                tasks: counter!("backpack_queue_pushed_total"),
            },
            claimed: counter!("backpack_queue_claimed_total"),
            acked: counter!("backpack_queue_acked_total"),
            retried: counter!("backpack_queue_retried_total"),
            released: counter!("backpack_queue_released_total"),
            buried: counter!("backpack_queue_buried_total"),
        }
    }
}

#[derive(Clone)]
struct Pushes {
    seconds: Histogram,
    tasks: Counter,
}

impl Pushes {
    /// Counts a push of so many tasks.
    async fn note(
        &self,
        tasks: usize,
        push: impl Future<Output = Result<(), QueueError>>,
    ) -> Result<(), QueueError> {
        let begun = Instant::now();
        let result = push.await;
        self.seconds.record(begun.elapsed());
        result?;
        self.tasks.increment(tasks as u64);
        Ok(())
    }
}

struct MeteredAhead {
    inner: Box<dyn Ahead>,
    tasks: usize,
    pushes: Pushes,
}

#[async_trait]
impl Ahead for MeteredAhead {
    async fn happened(self: Box<Self>) -> Result<(), QueueError> {
        self.pushes.note(self.tasks, self.inner.happened()).await
    }
}

#[async_trait]
impl Queue for MeteredQueue {
    async fn push(&self, tasks: &[Task], delay: Duration) -> Result<(), QueueError> {
        self.pushes.note(tasks.len(), self.inner.push(tasks, delay)).await
    }

    fn push_ahead(&self, tasks: &[Task]) -> Option<Box<dyn Ahead>> {
        let inner = self.inner.push_ahead(tasks)?;
        Some(Box::new(MeteredAhead { inner, tasks: tasks.len(), pushes: self.pushes.clone() }))
    }

    async fn settle(&self) {
        self.inner.settle().await;
    }

    async fn cancel(&self, tasks: &[Task]) -> Result<(), QueueError> {
        self.inner.cancel(tasks).await
    }

    async fn claim(&self, want: &Want, wait: Duration) -> Result<Vec<Claim>, QueueError> {
        let claims = self.inner.claim(want, wait).await?;
        self.claimed.increment(claims.len() as u64);
        Ok(claims)
    }

    async fn renew(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.inner.renew(claims).await
    }

    async fn ack(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.inner.ack(claims).await?;
        self.acked.increment(claims.len() as u64);
        Ok(())
    }

    async fn retry(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.inner.retry(claim, delay).await?;
        self.retried.increment(1);
        Ok(())
    }

    async fn release(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.inner.release(claim, delay).await?;
        self.released.increment(1);
        Ok(())
    }

    async fn bury(&self, claim: &Claim, reason: &str) -> Result<(), QueueError> {
        self.inner.bury(claim, reason).await?;
        self.buried.increment(1);
        Ok(())
    }

    async fn stats(&self) -> Result<QueueStats, QueueError> {
        self.inner.stats().await
    }

    async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Listed>, QueueError> {
        self.inner.list(filter, limit).await
    }

    async fn dead(&self, filter: &Filter, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.inner.dead(filter, limit).await
    }

    async fn redrive(&self, filter: &Filter) -> Result<u64, QueueError> {
        self.inner.redrive(filter).await
    }

    async fn discard(&self, filter: &Filter) -> Result<u64, QueueError> {
        self.inner.discard(filter).await
    }

    async fn pause(&self, target: &ServerId) -> Result<(), QueueError> {
        self.inner.pause(target).await
    }

    async fn resume(&self, target: &ServerId) -> Result<(), QueueError> {
        self.inner.resume(target).await
    }
}
