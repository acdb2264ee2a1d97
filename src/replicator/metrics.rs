//! Names and labels of the replicator's metrics; `docs/metrics.md` says what they mean.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use super::{breaker::State, gates::Door, outcome::Outcome};
use crate::model::ServerId;

/// A try ended so.
pub(super) fn ended(target: &str, outcome: Outcome, took: Duration) {
    let target = target.to_owned();
    counter!("backpack_replicator_tasks_total", "target" => target, "outcome" => outcome.label())
        .increment(1);
    histogram!("backpack_replicator_task_seconds", "outcome" => outcome.label()).record(took.as_secs_f64());
}

/// A copy was made, so long after its upload.
pub(super) fn copied(target: &str, bytes: u64, lag: Duration) {
    counter!("backpack_replicator_bytes_total", "target" => target.to_owned()).increment(bytes);
    histogram!("backpack_replicator_lag_seconds").record(lag.as_secs_f64());
}

/// So many claims more or fewer are held.
pub(super) fn in_flight(target: &ServerId, change: f64) {
    gauge!("backpack_replicator_in_flight", "target" => target.to_string()).increment(change);
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
