//! Names and labels of the replicator's metrics; `docs/metrics.md` says what they mean.

use std::{collections::HashMap, sync::Arc, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use parking_lot::RwLock;

use super::{breaker::State, gates::Door, outcome::Outcome};
use crate::{model::ServerId, telemetry::Kept};

/// What every task counts, at hand.
pub(super) struct Metrics {
    targets: RwLock<HashMap<ServerId, Arc<Target>>>,
    task_seconds: Kept<Outcome, Histogram>,
    lag_seconds: Histogram,
}

/// What is counted for one target.
struct Target {
    name: String,
    in_flight: Gauge,
    tasks: Kept<Outcome, Counter>,
    bytes: Counter,
}

impl Default for Metrics {
    /// The recorder must have been installed, or they count into nothing.
    fn default() -> Self {
        let lag_seconds = histogram!("backpack_replicator_lag_seconds");
        Self { targets: RwLock::default(), task_seconds: Kept::default(), lag_seconds }
    }
}

impl Metrics {
    /// A try ended so.
    pub(super) fn ended(&self, target: &ServerId, outcome: Outcome, took: Duration) {
        let target = self.target(target);
        let tasks = || {
            let target = target.name.clone();
            counter!("backpack_replicator_tasks_total", "target" => target, "outcome" => outcome.label())
        };
        target.tasks.with(outcome, tasks, |tasks| tasks.increment(1));
        let seconds = || histogram!("backpack_replicator_task_seconds", "outcome" => outcome.label());
        self.task_seconds.with(outcome, seconds, |seconds| seconds.record(took));
    }

    /// A copy was made, so long after its upload.
    pub(super) fn copied(&self, target: &ServerId, bytes: u64, lag: Duration) {
        self.target(target).bytes.increment(bytes);
        self.lag_seconds.record(lag);
    }

    /// So many claims more or fewer are held.
    pub(super) fn in_flight(&self, target: &ServerId, change: f64) {
        self.target(target).in_flight.increment(change);
    }

    fn target(&self, id: &ServerId) -> Arc<Target> {
        if let Some(target) = self.targets.read().get(id) {
            return target.clone();
        }
        let target = || {
            let name = id.to_string();
            Arc::new(Target {
                in_flight: gauge!("backpack_replicator_in_flight", "target" => name.clone()),
                tasks: Kept::default(),
                bytes: counter!("backpack_replicator_bytes_total", "target" => name.clone()),
                name,
            })
        };
        self.targets.write().entry(id.clone()).or_insert_with(target).clone()
    }
}

/// A breaker turned.
pub(super) fn breaker(server: &ServerId, door: Door, state: State) {
    let door = match door {
        Door::Write => "write",
        Door::Room => "room",
        Door::Read => "read",
    };
    let value = match state {
        State::Closed => 0.0,
        State::Probing => 1.0,
        State::Open { .. } => 2.0,
    };
    gauge!("backpack_replicator_breaker", "server" => server.to_string(), "door" => door).set(value);
}

/// A task panicked.
pub(super) fn panicked() {
    counter!("backpack_replicator_panics_total").increment(1);
}

/// The queue did not do what was asked.
pub(super) fn queue_failed(verb: &'static str) {
    counter!("backpack_replicator_queue_errors_total", "verb" => verb).increment(1);
}
