//! A real queue that is watched and can be made to fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use backpack::{
    model::{Key, ServerId, Task},
    queue::{Claim, DeadLetter, Filter, Listed, Queue, QueueError, QueueStats, Want},
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// Counts what is done to the queue, and fails or is slow on demand.
pub struct WatchedQueue {
    inner: Arc<dyn Queue>,
    /// Every call of a replicator is answered with an error.
    pub down: AtomicBool,
    /// Pushes are answered with an error.
    pub full: AtomicBool,
    /// Pushes are made when this is no longer so.
    pub holds_pushes: watch::Sender<bool>,
    /// Acknowledgements are answered with an error.
    pub deaf: AtomicBool,
    /// A retry of this key panics.
    pub panics: Mutex<Option<Key>>,
    /// Claims are made at once and answered so much later.
    pub claim_delay: Mutex<Duration>,
    /// Claims are made at once and answered when this is no longer so.
    pub holds_claims: watch::Sender<bool>,
    /// Cancels are made so much later.
    pub cancel_delay: Mutex<Duration>,
    /// Calls of [`Queue::push`], by how many tasks they had.
    pub pushes: Mutex<Vec<usize>>,
    /// Calls of [`Queue::claim`].
    pub claims: AtomicUsize,
    /// Calls of [`Queue::ack`].
    pub acks: AtomicUsize,
    released: AtomicUsize,
    /// Tasks given back counted.
    pub retried: AtomicUsize,
}

impl WatchedQueue {
    pub fn new(inner: Arc<dyn Queue>) -> Self {
        Self {
            inner,
            down: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            full: AtomicBool::new(false),
            holds_pushes: watch::Sender::new(false),
            panics: Mutex::new(None),
            claim_delay: Mutex::new(Duration::ZERO),
            holds_claims: watch::Sender::new(false),
            cancel_delay: Mutex::new(Duration::ZERO),
            pushes: Mutex::new(Vec::new()),
            claims: AtomicUsize::new(0),
            acks: AtomicUsize::new(0),
            released: AtomicUsize::new(0),
            retried: AtomicUsize::new(0),
        }
    }

    /// Tasks given back uncounted.
    pub fn released(&self) -> usize {
        self.released.load(SeqCst)
    }

    fn check(&self) -> Result<(), QueueError> {
        fail_if(&self.down)
    }
}

#[async_trait]
impl Queue for WatchedQueue {
    async fn push(&self, tasks: &[Task], delay: Duration) -> Result<(), QueueError> {
        self.pushes.lock().push(tasks.len());
        // Its sender lives as long as this.
        let _ = self.holds_pushes.subscribe().wait_for(|holds| !holds).await;
        fail_if(&self.full)?;
        self.inner.push(tasks, delay).await
    }

    async fn cancel(&self, tasks: &[Task]) -> Result<(), QueueError> {
        let delay = *self.cancel_delay.lock();
        tokio::time::sleep(delay).await;
        self.inner.cancel(tasks).await
    }

    async fn claim(&self, want: &Want, wait: Duration) -> Result<Vec<Claim>, QueueError> {
        self.claims.fetch_add(1, SeqCst);
        self.check()?;
        let claims = self.inner.claim(want, wait).await?;
        let delay = *self.claim_delay.lock();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // Its sender lives as long as this.
        let _ = self.holds_claims.subscribe().wait_for(|holds| !holds).await;
        Ok(claims)
    }

    async fn renew(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.check()?;
        self.inner.renew(claims).await
    }

    async fn ack(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.check()?;
        self.acks.fetch_add(1, SeqCst);
        if self.deaf.load(SeqCst) {
            return Err(QueueError::Failed("the test says so".to_owned()));
        }
        self.inner.ack(claims).await
    }

    async fn retry(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.check()?;
        let panics = self.panics.lock().as_ref() == Some(&claim.task.key);
        assert!(!panics, "the test says so");
        self.retried.fetch_add(1, SeqCst);
        self.inner.retry(claim, delay).await
    }

    async fn release(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.check()?;
        self.released.fetch_add(1, SeqCst);
        self.inner.release(claim, delay).await
    }

    async fn bury(&self, claim: &Claim, reason: &str) -> Result<(), QueueError> {
        self.check()?;
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

fn fail_if(fault: &AtomicBool) -> Result<(), QueueError> {
    match fault.load(SeqCst) {
        true => Err(QueueError::Unavailable("the test says so".to_owned())),
        false => Ok(()),
    }
}
