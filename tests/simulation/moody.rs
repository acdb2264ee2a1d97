//! A server of the queue as each host sees it: watched, and failing on demand.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backpack::{
    model::{ServerId, Task},
    queue::{Claim, DeadLetter, Filter, Listed, Queue, QueueError, QueueStats, Want},
};
use parking_lot::Mutex;

use super::{plan::Mood, queue::MemoryQueue, trace::Trace};

/// Longer than any caller's patience, and not for ever: real implementations have a time-out too.
const HANGS: Duration = Duration::from_secs(5);

/// The queue for the host of that name.
pub struct MoodyQueue {
    pub inner: Arc<MemoryQueue>,
    /// Which of the servers this is.
    pub number: usize,
    pub moods: Arc<Mutex<[Mood; 2]>>,
    pub host: String,
    pub trace: Trace,
}

impl MoodyQueue {
    async fn call<T>(
        &self,
        what: String,
        call: impl Future<Output = Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        let mood = self.moods.lock()[self.number];
        if mood != Mood::Well {
            self.trace.note(format_args!("{} queue {} {mood:?}: {what}", self.host, self.number));
        }
        let failed = Err(QueueError::Unavailable(format!("{mood:?}")));
        match mood {
            Mood::Well => {
                let result = call.await;
                if !what.is_empty() {
                    self.trace.note(format_args!("{} queue {}: {what}", self.host, self.number));
                }
                result
            }
            Mood::Refuses => failed,
            Mood::LosesAnswers => call.await.and(failed),
            Mood::Hangs => {
                tokio::time::sleep(HANGS).await;
                failed
            }
        }
    }
}

fn named<'a>(verb: &str, tasks: impl IntoIterator<Item = &'a Task>) -> String {
    tasks.into_iter().fold(verb.to_owned(), |line, task| {
        let version = task.version.map_or_else(String::new, |version| version.to_string());
        format!("{line} [{:?} {} {version} to {}]", task.op, task.key, task.to)
    })
}

#[async_trait]
impl Queue for MoodyQueue {
    async fn push(&self, tasks: &[Task], delay: Duration) -> Result<(), QueueError> {
        self.call(named("push", tasks), self.inner.push(tasks, delay)).await
    }

    async fn cancel(&self, tasks: &[Task]) -> Result<(), QueueError> {
        self.call(named("cancel", tasks), self.inner.cancel(tasks)).await
    }

    async fn claim(&self, want: &Want, wait: Duration) -> Result<Vec<Claim>, QueueError> {
        let claims = self.call(String::new(), self.inner.claim(want, wait)).await?;
        if !claims.is_empty() {
            let line = named("claim", claims.iter().map(|claim| &claim.task));
            self.trace.note(format_args!("{} {line}", self.host));
        }
        Ok(claims)
    }

    async fn renew(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.call(String::new(), self.inner.renew(claims)).await
    }

    async fn ack(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.call(named("ack", claims.iter().map(|claim| &claim.task)), self.inner.ack(claims)).await
    }

    async fn retry(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.call(named("retry", [&claim.task]), self.inner.retry(claim, delay)).await
    }

    async fn release(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.call(named("release", [&claim.task]), self.inner.release(claim, delay)).await
    }

    async fn bury(&self, claim: &Claim, reason: &str) -> Result<(), QueueError> {
        let line = format!("{} ({reason})", named("bury", [&claim.task]));
        self.call(line, self.inner.bury(claim, reason)).await
    }

    async fn stats(&self) -> Result<QueueStats, QueueError> {
        self.call(String::new(), self.inner.stats()).await
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
