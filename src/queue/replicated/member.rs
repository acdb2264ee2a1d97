//! One of the queues that act as one, and what is known of its health.

use std::{
    sync::{
        Arc,
        atomic::{AtomicIsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{lane::Lane, take_back::TakeBacks};
use crate::{
    model::Task,
    queue::{Claim, Queue, QueueError},
};

/// A member that failed is chosen last for so long. Short, because a member that is down fails at once anyway.
const DOWN_FOR: Duration = Duration::from_secs(1);

/// Between a member's name and its receipt. No host name or address has it.
const SEPARATOR: char = '|';

/// One of the queues.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) queue: Arc<dyn Queue>,
    down_until: Mutex<Option<Instant>>,
    /// Claims asked of it that nobody waits for any more.
    pub(super) late: AtomicIsize,
    pub(super) lane: Lane,
    take_backs: TakeBacks,
}

impl Member {
    pub(super) fn new(name: String, queue: Arc<dyn Queue>) -> Self {
        Self {
            name,
            queue,
            lane: Lane::default(),
            down_until: Mutex::new(None),
            late: AtomicIsize::new(0),
            take_backs: TakeBacks::default(),
        }
    }

    /// Did not fail of late, and owes no answer.
    pub(super) fn is_well(&self) -> bool {
        let down = self.down_until.lock().is_some_and(|until| Instant::now() < until);
        !down && self.late.load(Ordering::Relaxed) == 0
    }

    /// Remembers how a call went.
    pub(super) fn note<T>(&self, result: &Result<T, QueueError>) {
        *self.down_until.lock() = result.is_err().then(|| Instant::now() + DOWN_FOR);
    }

    /// Takes back the backups of these tasks, soon and if possible.
    pub(super) fn take_back(&self, tasks: impl Iterator<Item = Task>) {
        self.take_backs.add(&self.queue, tasks);
    }

    /// A claim of this member, as the callers of all members see it. Named by the member, not by its place among them:
    /// the receipt must mean the same after the map names other servers.
    pub(super) fn outward(&self, claim: Claim) -> Claim {
        Claim { receipt: format!("{}{SEPARATOR}{}", self.name, claim.receipt), ..claim }
    }

    /// A claim as this member gave it; `None` if another did.
    pub(super) fn inward(&self, claim: &Claim) -> Option<Claim> {
        let receipt = claim.receipt.strip_prefix(&self.name)?.strip_prefix(SEPARATOR)?;
        Some(Claim { receipt: receipt.to_owned(), ..claim.clone() })
    }
}

/// One error for several that all have failed; each names its server.
pub(super) fn all_failed(errors: Vec<QueueError>) -> QueueError {
    let denied = errors.iter().all(|error| matches!(error, QueueError::Denied(_)));
    let text = |error: &QueueError| match error {
        QueueError::Unavailable(text) | QueueError::Denied(text) | QueueError::Failed(text) => text.clone(),
        QueueError::NotSet => error.to_string(),
    };
    let texts = errors.iter().map(text).collect::<Vec<_>>().join("; ");
    if denied { QueueError::Denied(texts) } else { QueueError::Unavailable(texts) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_together() {
        let (down, denied) = (QueueError::Unavailable("a: down".into()), QueueError::Denied("b: no".into()));
        assert_eq!(all_failed(vec![down, denied.clone()]), QueueError::Unavailable("a: down; b: no".into()));
        assert_eq!(all_failed(vec![denied.clone()]), denied);
    }
}
