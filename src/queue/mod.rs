//! The seam to the tasks still to be done: at least once, never lost.
//!
//! - [`Queue`]: the trait; [`connect()`] makes the queue that the map names
//! - [`redis`]: one Redis server; [`embedded`]: one machine, nothing installed
//! - [`replicated`]: several queues as one: a task goes to two of them
//! - [`follow`]: a queue that changes when the map says so
//! - [`metered`]: counts what goes through a queue
//! - [`QueueArgs`]: the flags of every program
//! - `letter`: dead letters and their names; `poll`: waiting without blocking the server

mod args;
mod connect;
pub mod embedded;
pub mod follow;
mod letter;
pub mod metered;
mod poll;
pub mod redis;
pub mod replicated;

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use async_trait::async_trait;
use secrecy::SecretString;

use crate::model::{Key, ServerId, Task};
pub use args::QueueArgs;
pub use connect::connect;
pub use embedded::EmbeddedQueue;
pub use follow::FollowQueue;
pub use metered::MeteredQueue;
pub use redis::RedisQueue;
pub use replicated::ReplicatedQueue;

/// A claimed task comes back to others after this long without [`Queue::renew`]: its replicator is taken for dead.
pub const CLAIM_LEASE: Duration = Duration::from_secs(20);

/// Of several servers, the one that keeps a task as a backup gives it out so much later than the first, unless it is done
/// by then: long enough for nearly every copy, short enough that a server's death delays copies little.
pub const BACKUP_DELAY: Duration = Duration::from_secs(60);

/// A Redis server on the same network answers a connect in milliseconds; one that needs a second is as good as down.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Our Redis scripts take milliseconds, and an upload may be waiting for the answer.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// How to reach the queue, for all its servers.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// User of Redis' access lists; `None` is Redis' default user.
    pub username: Option<String>,
    /// Password, where the servers ask for one.
    pub password: Option<SecretString>,
    /// Trust this PEM file of certificates for servers with TLS, instead of the system's.
    pub tls_ca: Option<PathBuf>,
    /// See [`CLAIM_LEASE`], the default. All processes on one queue should have the same.
    pub lease: Duration,
    /// See [`BACKUP_DELAY`], the default.
    pub backup_delay: Duration,
    /// A push answers only when its backup was made too, or failed: for a process that ends behind it. Else as soon as one server
    /// has the tasks.
    pub wait_for_backups: bool,
    /// See [`CONNECT_TIMEOUT`], the default.
    pub connect_timeout: Duration,
    /// See [`COMMAND_TIMEOUT`], the default.
    pub command_timeout: Duration,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            username: None,
            password: None,
            tls_ca: None,
            lease: CLAIM_LEASE,
            backup_delay: BACKUP_DELAY,
            wait_for_backups: false,
            connect_timeout: CONNECT_TIMEOUT,
            command_timeout: COMMAND_TIMEOUT,
        }
    }
}

/// Why the queue did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// No server answers in time. A push may or may not have happened; doing it again is harmless.
    #[error("the queue does not answer: {0}")]
    Unavailable(String),
    /// Wrong password or missing rights. Trying again does not help.
    #[error("the queue refuses access: {0}")]
    Denied(String),
    /// The map names no queue.
    #[error("no queue is set: run coordinator-init or set-queue")]
    NotSet,
    /// The server answered something that makes no sense, or the disk failed.
    #[error("the queue failed: {0}")]
    Failed(String),
}

/// What a replicator would take now.
#[derive(Debug, Clone, Default)]
pub struct Want {
    /// At most so many tasks in all.
    pub max: usize,
    /// At most so many of each target.
    pub max_per_target: usize,
    /// No tasks of these targets: at their limit, or their breaker is open.
    pub except: HashSet<ServerId>,
}

/// A task that this process works on. Others get it when the lease ends without renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What is to be done.
    pub task: Task,
    /// How often it was tried before and failed; a lease that ended counts, so that a task that kills its replicator is
    /// given up at last.
    pub attempts: u32,
    /// The implementation's own handle; opaque to callers.
    pub receipt: String,
}

/// A task given up, kept until someone redrives or discards it. One per task: given up again, the newer one stays.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadLetter {
    /// Names it in `redrive` and `discard`; the same for the same task, wherever it died.
    pub id: String,
    /// The task; `None` where the entry was no task at all (poison).
    pub task: Option<Task>,
    /// What stood in the queue, at most 4 KiB of it.
    pub raw: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: String,
    /// When, milliseconds since 1970.
    pub died_ms: u64,
}

/// Where a listed task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Waits for a replicator.
    Ready,
    /// Waits for its next try.
    Delayed,
    /// A replicator works on it.
    Claimed,
}

impl Stage {
    /// Its name, as programs read it: `ready`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Delayed => "delayed",
            Self::Claimed => "claimed",
        }
    }
}

/// A task as `queue list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    /// The task.
    pub task: Task,
    /// Where it stands.
    pub stage: Stage,
    /// How often it was tried and failed.
    pub attempts: u32,
}

/// Which tasks or dead letters an operator means; what is `None` is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of this target.
    pub target: Option<ServerId>,
    /// Only of this key.
    pub key: Option<Key>,
    /// Only this dead letter.
    pub id: Option<String>,
}

impl Filter {
    /// Whether a task is meant (dead letters match their id beside this).
    pub fn matches(&self, task: Option<&Task>) -> bool {
        let target = self.target.as_ref().is_none_or(|target| task.is_some_and(|task| task.to == *target));
        let key = self.key.as_ref().is_none_or(|key| task.is_some_and(|task| task.key == *key));
        target && key
    }

    /// Whether a dead letter is meant.
    pub fn matches_letter(&self, letter: &DeadLetter) -> bool {
        self.id.as_ref().is_none_or(|id| letter.id == *id) && self.matches(letter.task.as_ref())
    }
}

/// Counts of one target's tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct TargetStats {
    /// Wait for a replicator.
    pub ready: u64,
    /// Wait for their next try.
    pub delayed: u64,
    /// Worked on.
    pub claimed: u64,
    /// Given up.
    pub dead: u64,
    /// Since when the oldest of those not given up waits for its copy, milliseconds since 1970. Of many it is the oldest
    /// among the first of each stage: never older than the truth, and seldom much younger.
    pub oldest_ms: Option<u64>,
    /// No tasks of this target are given out.
    pub paused: bool,
}

impl TargetStats {
    /// Copies still to be made: ready, delayed and claimed.
    pub fn backlog(&self) -> u64 {
        self.ready + self.delayed + self.claimed
    }
}

/// One queue server as [`Queue::stats`] found it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct QueueServerStats {
    /// `host:port`, or `embedded`.
    pub name: String,
    /// A name that it gave itself when it was empty: another one says that it lost what it held. `None` where that is not
    /// known: it does not answer, or it keeps what it has beside the map and would lose both.
    pub id: Option<String>,
    /// What is wrong with it; `None` if it answers.
    pub error: Option<String>,
    /// Entries it holds (ready, delayed and claimed), duplicates of other servers included.
    pub entries: u64,
}

/// What is in the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct QueueStats {
    /// Per target; targets with nothing at all are left out.
    pub targets: BTreeMap<ServerId, TargetStats>,
    /// Per queue server.
    pub servers: Vec<QueueServerStats>,
    /// Dead letters that are no tasks, and so have no target.
    pub poison: u64,
}

impl QueueStats {
    /// Copies still to be made, over all targets.
    pub fn backlog(&self) -> u64 {
        self.targets.values().map(TargetStats::backlog).sum()
    }

    /// Dead letters, over all targets, and poison.
    pub fn dead(&self) -> u64 {
        self.targets.values().map(|target| target.dead).sum::<u64>() + self.poison
    }

    /// Since when the oldest task waits, milliseconds since 1970.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.targets.values().filter_map(|target| target.oldest_ms).min()
    }
}

/// A push that began before what its tasks are for has happened. Dropped, it is called off: the tasks are taken back. Where that fails, as
/// when the process dies, they are given out some time, though it has not happened: who carries them out must find that then.
#[async_trait]
pub trait Ahead: Send {
    /// It has happened. From here on this is a [`Queue::push`] without a delay, of which a part was made before. If this fails, a push may
    /// still succeed.
    async fn happened(self: Box<Self>) -> Result<(), QueueError>;
}

/// Tasks that wait to be done. Every call ends within the implementation's timeout (a `claim` within that and its
/// `wait`; a call that goes through many tasks or letters does so in pages, and each page has the timeout). An
/// implementation reconnects by itself.
///
/// A task is at any time ready, delayed, claimed or dead. Its attempts are counted by the queue.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Adds tasks; when this returns `Ok` they are durable. They are given out after `delay` (zero: at once).
    /// The same task may be there twice; but one that waits for its time and is pushed with another delay is there once,
    /// with the earlier time.
    async fn push(&self, tasks: &[Task], delay: Duration) -> Result<(), QueueError>;

    /// Begins to add tasks for what is still happening, where that can be begun before it has happened. `None` where it cannot: they
    /// are to be pushed when it has.
    fn push_ahead(&self, tasks: &[Task]) -> Option<Box<dyn Ahead>> {
        let _ = tasks;
        None
    }

    /// Ends when all that was begun behind the callers' backs has ended; before a process stops.
    async fn settle(&self) {}

    /// Takes back tasks that wait for their time and are no longer needed. Best effort: one that is not found (given out
    /// already, say) is no error.
    async fn cancel(&self, tasks: &[Task]) -> Result<(), QueueError>;

    /// Takes tasks to work on, the oldest of each target first, waiting up to `wait` for the first. Includes due
    /// retries and tasks whose claim's lease ended. An entry that is no task goes to the dead letters by itself.
    ///
    /// The future must be driven to its end: what it claimed would otherwise wait for the lease.
    async fn claim(&self, want: &Want, wait: Duration) -> Result<Vec<Claim>, QueueError>;

    /// Starts the leases of these claims anew; for copies that take long.
    async fn renew(&self, claims: &[Claim]) -> Result<(), QueueError>;

    /// The work is done: forget these tasks.
    async fn ack(&self, claims: &[Claim]) -> Result<(), QueueError>;

    /// The work failed: give the task out again after `delay`, with one more attempt counted. It leaves the claim at
    /// once, so waiting costs no worker.
    async fn retry(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError>;

    /// Give the task back untried, after `delay`: no attempt is counted (a target that is down or paused is not the
    /// task's fault).
    async fn release(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError>;

    /// The work can never succeed, or was tried too often: to the dead letters.
    async fn bury(&self, claim: &Claim, reason: &str) -> Result<(), QueueError>;

    /// Counts, ages and states. `Ok` as long as one server answers; the others say their error inside.
    async fn stats(&self) -> Result<QueueStats, QueueError>;

    /// Tasks that are not dead, at most `limit`.
    async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Listed>, QueueError>;

    /// Dead letters, the oldest first, at most `limit`.
    async fn dead(&self, filter: &Filter, limit: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// Gives dead letters out again with no attempts counted; how many. Poison stays.
    async fn redrive(&self, filter: &Filter) -> Result<u64, QueueError>;

    /// Removes dead letters; how many.
    async fn discard(&self, filter: &Filter) -> Result<u64, QueueError>;

    /// Gives out no more tasks of this target until [`Queue::resume`]; kept over restarts.
    async fn pause(&self, target: &ServerId) -> Result<(), QueueError>;

    /// Ends [`Queue::pause`].
    async fn resume(&self, target: &ServerId) -> Result<(), QueueError>;
}
