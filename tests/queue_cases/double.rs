//! A queue that fails on demand, around one that does not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use backpack::{
    model::{ServerId, Task},
    queue::{Claim, DeadLetter, Filter, Listed, Queue, QueueError, QueueStats, Want},
};

/// Its claims are made at once and answered late.
pub struct Slow {
    inner: Arc<dyn Queue>,
    claim_ms: AtomicU64,
}

impl Slow {
    pub fn new(inner: Arc<dyn Queue>, claim: Duration) -> Arc<Self> {
        Arc::new(Self { inner, claim_ms: AtomicU64::new(claim.as_millis() as u64) })
    }

    pub fn heal(&self) {
        self.claim_ms.store(0, Ordering::SeqCst);
    }
}

#[async_trait]
impl Queue for Slow {
    async fn claim(&self, want: &Want, wait: Duration) -> Result<Vec<Claim>, QueueError> {
        let claims = self.inner.claim(want, wait).await;
        tokio::time::sleep(Duration::from_millis(self.claim_ms.load(Ordering::SeqCst))).await;
        claims
    }

    async fn push(&self, tasks: &[Task], delay: Duration) -> Result<(), QueueError> {
        self.inner.push(tasks, delay).await
    }

    async fn cancel(&self, tasks: &[Task]) -> Result<(), QueueError> {
        self.inner.cancel(tasks).await
    }

    async fn renew(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.inner.renew(claims).await
    }

    async fn ack(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.inner.ack(claims).await
    }

    async fn retry(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.inner.retry(claim, delay).await
    }

    async fn release(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.inner.release(claim, delay).await
    }

    async fn bury(&self, claim: &Claim, reason: &str) -> Result<(), QueueError> {
        self.inner.bury(claim, reason).await
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
