//! Claims tasks and gives each to a worker: never more than there are free slots, never of a target at its limit.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
};

use super::{
    Settings,
    gates::Gates,
    in_flight::{InFlight, Work},
    metrics,
    outcome::{self, Decision, Ending, Outcome},
    settle::Settler,
    work::Worker,
};
use crate::{
    client::Copied,
    daemon::{Backoff, Shutdown, unix_ms},
    http::RequestId,
    model::{ClusterMap, Task},
    queue::{Claim, Queue, Want},
    telemetry::health::Condition,
};

/// How long a claim waits for work: a stop is noticed after this, and a server that came back.
const CLAIM_WAIT: Duration = Duration::from_secs(1);

/// While some targets are at their limits, the others are asked for again after this. A waiting claim would not see that
/// a slot of theirs came free.
const AT_LIMIT_WAIT: Duration = Duration::from_millis(50);

/// After a claim, so many slots are to come free, one in this many of all, before the next ..
const ENOUGH_PART: usize = 2;

/// .. or this time is to pass: a claim of one task costs the servers of the queue nearly as much as one of many.
const BETWEEN_CLAIMS: Duration = Duration::from_millis(10);

/// Between tries while the queue does not answer.
const QUEUE_PAUSES: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };

/// The claiming side of the replicator.
pub(super) struct Claimer {
    pub(super) settings: Settings,
    pub(super) queue: Arc<dyn Queue>,
    pub(super) map: watch::Receiver<Arc<ClusterMap>>,
    pub(super) worker: Arc<Worker>,
    pub(super) gates: Arc<Gates>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) settler: Settler,
    pub(super) reachable: Condition,
    pub(super) workers: JoinSet<()>,
}

/// What the claimer does next.
enum Next {
    Claim,
    /// Until a worker ends, at most this long.
    Wait(Duration),
}

impl Claimer {
    /// Claims until the shutdown begins.
    pub(super) async fn run(&mut self, shutdown: &Shutdown) {
        let (mut failures, mut claimed) = (0, Instant::now());
        while !shutdown.begun() {
            while let Some(ended) = self.workers.try_join_next() {
                note_end(ended);
            }
            if self.map.has_changed().is_ok_and(|changed| changed) {
                self.gates.keep_only(&self.map.borrow_and_update());
            }
            let rest = BETWEEN_CLAIMS.saturating_sub(claimed.elapsed());
            let next = match self.free() {
                0 => Next::Wait(CLAIM_WAIT),
                few if few < self.settings.concurrency / ENOUGH_PART && !rest.is_zero() => Next::Wait(rest),
                free => {
                    let (want, wait) = self.want(free);
                    let next = self.claim(&want, wait, &mut failures, shutdown).await;
                    claimed = Instant::now();
                    next
                }
            };
            if let Next::Wait(time) = next {
                tokio::select! {
                    Some(ended) = self.workers.join_next() => note_end(ended),
                    () = tokio::time::sleep(time) => {}
                    () = shutdown.wait() => {}
                }
            }
        }
    }

    /// Lets the workers end until the deadline, then cuts them off and gives their tasks back.
    pub(super) async fn drain(&mut self, deadline: tokio::time::Instant) {
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.workers.join_next()).await {
            note_end(ended);
        }
        let left = self.workers.len();
        if left > 0 {
            tracing::warn!(left, "some tasks did not finish in time and are given back");
        }
        self.workers.shutdown().await;
        self.give_back(self.in_flight.take_cut_off()).await;
    }

    async fn claim(&mut self, want: &Want, wait: Duration, failures: &mut u32, shutdown: &Shutdown) -> Next {
        match self.queue.claim(want, wait).await {
            Ok(claims) => {
                *failures = 0;
                self.reachable.ok();
                if shutdown.begun() {
                    self.give_back(claims).await;
                    return Next::Claim;
                }
                let none = claims.is_empty();
                for claim in claims {
                    self.start(claim);
                }
                if none && wait.is_zero() { Next::Wait(AT_LIMIT_WAIT) } else { Next::Claim }
            }
            Err(error) => {
                *failures += 1;
                metrics::queue_failed("claim");
                self.reachable.fail(error.to_string());
                Next::Wait(QUEUE_PAUSES.jittered(*failures))
            }
        }
    }

    /// Slots that are not taken.
    fn free(&self) -> usize {
        let taken = self.workers.len() + self.in_flight.followers();
        self.settings.concurrency.saturating_sub(taken)
    }

    /// What to claim for so many slots, and how long to wait for it.
    fn want(&self, free: usize) -> (Want, Duration) {
        let mut rooms = self.gates.rooms();
        let mut at_limit = false;
        for (target, taken) in self.in_flight.per_target() {
            let limit = self.settings.per_target.saturating_sub(taken);
            at_limit |= limit == 0;
            let room = rooms.entry(target).or_insert(usize::MAX);
            *room = (*room).min(limit);
        }
        // One number is asked of all targets: what the fullest has room for. The others are asked again at once.
        let max_per_target = rooms.values().copied().filter(|room| *room > 0).min();
        let except: HashSet<_> =
            rooms.into_iter().filter(|(_, room)| *room == 0).map(|(target, _)| target).collect();
        let max_per_target = max_per_target.unwrap_or(self.settings.per_target).min(self.settings.per_target);
        let wait = if at_limit { Duration::ZERO } else { CLAIM_WAIT };
        (Want { max: free, max_per_target, except }, wait)
    }

    fn start(&mut self, claim: Claim) {
        let Some(work) = self.in_flight.begin(claim) else { return };
        let worker = self.worker.clone();
        let settler = self.settler.clone();
        let policy = self.settings.policy;
        // In memory of its own, or the runtime would move all of it at every turn of its life.
        self.workers.spawn(Box::pin(async move {
            let id = RequestId::parse(&work.task.request_id).unwrap_or_else(RequestId::fresh);
            let started = Instant::now();
            let ending = worker.run(&work.task, work.attempts, &id).await;
            let (outcome, decision) =
                outcome::decide(work.task.op, &ending, work.attempts, &policy, fastrand::f64());
            note(&work, &id, &ending, outcome, &decision, started.elapsed());
            settler.settle(work.end(), &decision).await;
        }));
    }

    /// Untried, for others to have at once.
    async fn give_back(&self, claims: Vec<Claim>) {
        let released = join_all(claims.iter().map(|claim| self.queue.release(claim, Duration::ZERO))).await;
        for error in released.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "a task was not given back; others get it after its lease");
        }
    }
}

fn note_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        metrics::panicked();
        tracing::error!(%error, "a task panicked; it is left to its lease");
    }
}

fn note(work: &Work, id: &RequestId, ending: &Ending, outcome: Outcome, decision: &Decision, took: Duration) {
    let task = &work.task;
    work.metrics().ended(&task.to, outcome, took);
    if let Ending::Copied(Copied::Copied(bytes)) = ending {
        let lag = Duration::from_millis(unix_ms().saturating_sub(task.created_ms));
        work.metrics().copied(&task.to, *bytes, lag);
    }
    log(task, work.attempts, id, ending, outcome, decision, took.as_secs_f64());
}

fn log(
    task: &Task,
    attempts: u32,
    id: &RequestId,
    ending: &Ending,
    outcome: Outcome,
    decision: &Decision,
    seconds: f64,
) {
    let (key, target, op, outcome) = (&task.key, &task.to, task.op, outcome.label());
    match decision {
        Decision::Ack => {
            tracing::debug!(request_id = %id, %target, %key, ?op, outcome, seconds, "task done");
        }
        Decision::Release(delay) => {
            tracing::debug!(request_id = %id, %target, %key, ?op, outcome, %ending, ?delay, "task given back");
        }
        Decision::Retry(delay) => {
            tracing::info!(request_id = %id, %target, %key, ?op, outcome, attempts, %ending, ?delay, "task failed");
        }
        Decision::Bury(reason) => {
            tracing::warn!(request_id = %id, %target, %key, ?op, outcome, attempts, reason, "task given up");
        }
    }
}
