//! The claims that this process works on. Two claims of the same task (it stood on two queue servers) are one piece
//! of work: the second waits for the end of the first.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::metrics::Metrics;
use crate::{
    model::{Key, Operation, ServerId, Task, Version},
    queue::Claim,
};

/// What makes two tasks the same work.
type Identity = (Operation, ServerId, Key, Option<Version>);

fn identity(task: &Task) -> Identity {
    let (to, key, version) = task.identity();
    (task.op, to.clone(), key.clone(), version)
}

/// All claims at hand.
#[derive(Default)]
pub(super) struct InFlight {
    claims: Mutex<HashMap<Identity, Vec<Claim>>>,
    /// Of work that was cut off.
    cut_off: Mutex<Vec<Claim>>,
    metrics: Metrics,
}

impl InFlight {
    /// Takes a claim in. `None` if the same work is under way: the claim shares its end.
    pub(super) fn begin(self: &Arc<Self>, claim: Claim) -> Option<Work> {
        let task = claim.task.clone();
        let attempts = claim.attempts;
        let mut claims = self.claims.lock();
        let same = claims.entry(identity(&task)).or_default();
        same.push(claim);
        let first = same.len() == 1;
        drop(claims);
        self.metrics.in_flight(&task.to, 1.0);
        first.then(|| Work { task, attempts, all: self.clone(), ended: false })
    }

    /// How many claims wait for the end of another.
    pub(super) fn followers(&self) -> usize {
        self.claims.lock().values().map(|same| same.len() - 1).sum()
    }

    /// How many claims are held per target.
    pub(super) fn per_target(&self) -> HashMap<ServerId, usize> {
        let mut counts = HashMap::new();
        for (identity, same) in self.claims.lock().iter() {
            *counts.entry(identity.1.clone()).or_default() += same.len();
        }
        counts
    }

    /// All claims, to renew their leases or to give them back.
    pub(super) fn claims(&self) -> Vec<Claim> {
        self.claims.lock().values().flatten().cloned().collect()
    }

    /// The claims of work that was cut off by a stop, to be given back.
    pub(super) fn take_cut_off(&self) -> Vec<Claim> {
        std::mem::take(&mut self.cut_off.lock())
    }

    fn remove(&self, task: &Task) -> Vec<Claim> {
        let same = self.claims.lock().remove(&identity(task)).unwrap_or_default();
        self.metrics.in_flight(&task.to, -(same.len() as f64));
        same
    }
}

/// One piece of work. Dropped without [`Work::end`] its claims are to be given back, except after a panic: then they are
/// left to their leases, so that a task that panics is not at once tried again.
pub(super) struct Work {
    /// What is to be done.
    pub(super) task: Task,
    /// How often it was tried before and failed.
    pub(super) attempts: u32,
    all: Arc<InFlight>,
    /// From then on the identity may be somebody else's.
    ended: bool,
}

impl Work {
    /// Where its end is counted.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.all.metrics
    }

    /// The work is over: its claims, all of which are to be settled alike.
    pub(super) fn end(mut self) -> Vec<Claim> {
        self.ended = true;
        self.all.remove(&self.task)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let claims = self.all.remove(&self.task);
        if !std::thread::panicking() {
            self.all.cut_off.lock().extend(claims);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(key: &str, to: &str, receipt: &str) -> Claim {
        let task = Task {
            op: Operation::Copy,
            shard: None,
            key: key.parse().unwrap(),
            version: Some(Version::from_parts(1, 1)),
            from: vec![],
            to: to.parse().unwrap(),
            length: 0,
            created_ms: 0,
            request_id: String::new(),
        };
        Claim { task, attempts: 0, receipt: receipt.to_owned() }
    }

    #[test]
    fn the_same_task_twice_is_one_work_with_two_claims() {
        let all = Arc::new(InFlight::default());
        let first = all.begin(claim("k", "1", "a")).unwrap();
        assert!(all.begin(claim("k", "1", "b")).is_none());
        let other = all.begin(claim("k", "2", "c")).unwrap();
        assert_eq!(all.followers(), 1);
        assert_eq!(all.per_target()[&"1".parse().unwrap()], 2);
        let receipts: Vec<_> = first.end().into_iter().map(|claim| claim.receipt).collect();
        assert_eq!(receipts, ["a", "b"]);
        let again = all.begin(claim("k", "1", "d")).expect("after the end it is new work");
        again.end();
        assert_eq!(all.take_cut_off().len(), 0);
        drop(other);
        assert_eq!(all.take_cut_off().len(), 1, "work that was cut off leaves its claim");
    }
}
