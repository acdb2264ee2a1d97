//! The queue on one Redis server (6.2 or later): a stream per target with one consumer group, retries in a sorted set
//! beside it. One stream per target makes limits, pause, backlog and age of a target plain, and a dead target's backlog
//! stands in nobody's way.
//!
//! - `link`: the connection, and failing fast without one
//! - `scripts` and the `.lua` files: every step, atomic on the server
//! - `operate`: stats, lists, dead letters
//!
//! A pushed task is as durable as the server makes its writes: `appendonly yes` survives a crash of Redis,
//! `appendfsync always` a power cut too. A server that lost everything works on, empty.

mod link;
mod operate;
mod scripts;

use std::time::Duration;

use async_trait::async_trait;
use deadpool_redis::redis::{Script, ScriptInvocation};

use self::link::Link;
use super::{
    Claim, DeadLetter, Filter, Listed, Queue, QueueError, QueueOptions, QueueStats, Want,
    letter::{to_json, to_task},
    poll::Poll,
};
use crate::model::{QueueServer, ServerId, Task};

/// Tasks pushed by one script: keeps each call of the server short.
const PUSH_CHUNK: usize = 500;

/// A queue on one Redis server.
pub struct RedisQueue {
    link: Link,
    key: String,
    lease: Duration,
}

impl RedisQueue {
    /// The queue with this key on this server. Connects at the first call, inside a tokio runtime. Fails only if the
    /// options make no sense, as with a file of certificates that cannot be read.
    pub fn new(key: &str, server: &QueueServer, options: &QueueOptions) -> Result<Self, QueueError> {
        Ok(Self { link: Link::new(server, options)?, key: key.to_owned(), lease: options.lease })
    }

    fn call(&self, script: &'static Script) -> ScriptInvocation<'static> {
        script.key(&self.key)
    }

    /// Runs a script that answers nothing.
    async fn run(&self, call: &ScriptInvocation<'_>) -> Result<(), QueueError> {
        self.link.run(call).await
    }

    async fn claim_now(&self, want: &Want) -> Result<Vec<Claim>, QueueError> {
        if want.max == 0 || want.max_per_target == 0 {
            return Ok(Vec::new());
        }
        let mut call = self.call(&scripts::CLAIM);
        call.arg(want.max).arg(want.max_per_target).arg(millis(self.lease)).arg(fastrand::u32(..));
        for target in &want.except {
            call.arg(target.as_str());
        }
        let entries: Vec<(String, String, u32, Vec<u8>)> = self.link.run(&call).await?;
        let mut claims = Vec::with_capacity(entries.len());
        for (target, id, attempts, raw) in entries {
            match to_task(&raw, &target) {
                Ok(task) => claims.push(Claim { task, attempts, receipt: id }),
                Err(reason) => self.bury_poison(&target, &id, &raw, &reason).await,
            }
        }
        Ok(claims)
    }

    /// Poison that cannot be buried now comes again when its lease ends.
    async fn bury_poison(&self, target: &str, id: &str, raw: &[u8], reason: &str) {
        let letter = DeadLetter::poison(raw, reason);
        tracing::warn!(target, reason, letter = letter.id, "an entry of the queue is no task: dead letter");
        if let Err(error) = self.bury_entry(target, id, &letter).await {
            tracing::warn!(target, %error, "a poisonous entry was not buried yet");
        }
    }

    async fn bury_entry(&self, target: &str, id: &str, letter: &DeadLetter) -> Result<(), QueueError> {
        let mut call = self.call(&scripts::BURY);
        call.arg(target).arg(id).arg(&letter.id).arg(letter.target()).arg(letter.died_ms);
        call.arg(serde_json::to_string(letter).map_err(|error| QueueError::Failed(error.to_string()))?);
        self.run(&call).await
    }

    async fn give_back(&self, claim: &Claim, attempts: u32, delay: Duration) -> Result<(), QueueError> {
        let mut call = self.call(&scripts::BACK);
        call.arg(claim.task.to.as_str()).arg(entry_id(claim)).arg(attempts).arg(millis(delay));
        call.arg(to_json(&claim.task));
        self.run(&call).await
    }

    /// Runs a script that takes target and entry of each claim, claims of other servers left out.
    async fn run_on_claims(&self, script: &'static Script, claims: &[Claim]) -> Result<(), QueueError> {
        let mut call = self.call(script);
        let mut any = false;
        for claim in claims.iter().filter(|claim| !entry_id(claim).is_empty()) {
            call.arg(claim.task.to.as_str()).arg(entry_id(claim));
            any = true;
        }
        if any { self.run(&call).await } else { Ok(()) }
    }
}

#[async_trait]
impl Queue for RedisQueue {
    async fn push(&self, tasks: &[Task], delay: Duration) -> Result<(), QueueError> {
        for chunk in tasks.chunks(PUSH_CHUNK) {
            let mut call = self.call(&scripts::PUSH);
            call.arg(millis(delay));
            for task in chunk {
                call.arg(task.to.as_str()).arg(to_json(task));
            }
            self.run(&call).await?;
        }
        Ok(())
    }

    async fn cancel(&self, tasks: &[Task]) -> Result<(), QueueError> {
        for chunk in tasks.chunks(PUSH_CHUNK) {
            let mut call = self.call(&scripts::CANCEL);
            for task in chunk {
                call.arg(task.to.as_str()).arg(to_json(task));
            }
            self.run(&call).await?;
        }
        Ok(())
    }

    async fn claim(&self, want: &Want, wait: Duration) -> Result<Vec<Claim>, QueueError> {
        let mut poll = Poll::new(wait);
        loop {
            let claims = self.claim_now(want).await?;
            if !claims.is_empty() || !poll.again().await {
                return Ok(claims);
            }
        }
    }

    async fn renew(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.run_on_claims(&scripts::RENEW, claims).await
    }

    async fn ack(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.run_on_claims(&scripts::ACK, claims).await
    }

    async fn retry(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.give_back(claim, claim.attempts.saturating_add(1), delay).await
    }

    async fn release(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.give_back(claim, claim.attempts, delay).await
    }

    async fn bury(&self, claim: &Claim, reason: &str) -> Result<(), QueueError> {
        let letter = DeadLetter::of_task(&claim.task, claim.attempts, reason);
        self.bury_entry(claim.task.to.as_str(), entry_id(claim), &letter).await
    }

    async fn stats(&self) -> Result<QueueStats, QueueError> {
        self.read_stats().await
    }

    async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Listed>, QueueError> {
        self.read_list(filter, limit).await
    }

    async fn dead(&self, filter: &Filter, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.read_dead(filter, limit).await
    }

    async fn redrive(&self, filter: &Filter) -> Result<u64, QueueError> {
        self.redrive_all(filter).await
    }

    async fn discard(&self, filter: &Filter) -> Result<u64, QueueError> {
        self.discard_all(filter).await
    }

    async fn pause(&self, target: &ServerId) -> Result<(), QueueError> {
        self.run(self.call(&scripts::PAUSE).arg(target.as_str()).arg("pause")).await
    }

    async fn resume(&self, target: &ServerId) -> Result<(), QueueError> {
        self.run(self.call(&scripts::PAUSE).arg(target.as_str()).arg("resume")).await
    }
}

/// The stream entry of a claim; empty where the claim was not made here, as after the map changed to other servers.
fn entry_id(claim: &Claim) -> &str {
    let is_id =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if is_id(&claim.receipt) { &claim.receipt } else { "" }
}

fn millis(duration: Duration) -> u64 {
    // Rounded up: a delay of less than a millisecond is one still.
    duration.as_nanos().div_ceil(1_000_000).min(u128::from(u64::MAX)) as u64
}
