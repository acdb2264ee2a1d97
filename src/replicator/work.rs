//! One try of one task: ask the breakers, make the copy or the tombstone, say how it ended.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, watch};

use super::{
    gates::{Door, Gates, Permit},
    outcome::Ending,
    sources::sources,
};
use crate::{
    client::{ByteRate, Copied, CopyError, CopyPlan, ServerError, Servers},
    daemon::unix_ms,
    http::RequestId,
    model::{ClusterMap, Operation, Server, Task},
    queue::BACKUP_DELAY,
};

/// What every try needs.
pub(super) struct Worker {
    pub(super) map: watch::Receiver<Arc<ClusterMap>>,
    pub(super) servers: Arc<Servers>,
    pub(super) gates: Arc<Gates>,
    pub(super) rate: ByteRate,
    /// For copies from sources that crawl, where no other has the blob: they take long, and others need their slots.
    pub(super) patient: Semaphore,
}

/// Leave to use a target.
struct Entry {
    write: Permit,
    room: Option<Permit>,
}

/// One source, in one try.
struct Try<'a> {
    source: &'a Arc<Server>,
    read: Permit,
    /// See [`CopyPlan::patience`].
    patience: Option<Duration>,
    /// See [`CopyPlan::is_new`].
    is_new: bool,
}

/// How one source did.
enum Tried {
    /// The task is over, one way or the other.
    Ended(Ending),
    /// It has not got it.
    Missing,
    /// It failed, or is left alone: the blob may be there.
    Failed(Ending),
    /// It has it, and gives it so slowly that another one had better be asked.
    Slow(ServerError, Permit),
}

impl Worker {
    /// Tries a task once. Ends within the client's time-outs, save for the bytes that flow.
    pub(super) async fn run(&self, task: &Task, attempts: u32, id: &RequestId) -> Ending {
        let map = self.map.borrow().clone();
        let Some(target) = map.servers.get(&task.to) else { return Ending::UnknownTarget };
        let mut entry = match self.enter(target, task.op) {
            Ok(entry) => entry,
            Err(pause) => return Ending::Held(pause),
        };
        match task.op {
            Operation::Delete => self.delete(task, target, &mut entry, id).await,
            Operation::Copy => {
                let is_new = is_new(task, attempts);
                self.copy(task, &map, target, &mut entry, is_new, id).await
            }
        }
    }

    fn enter(&self, target: &Server, op: Operation) -> Result<Entry, Duration> {
        let write = self.gates.enter(&target.id, Door::Write)?;
        let room = match op {
            Operation::Copy => Some(self.gates.enter(&target.id, Door::Room)?),
            Operation::Delete => None,
        };
        Ok(Entry { write, room })
    }

    async fn delete(&self, task: &Task, target: &Server, entry: &mut Entry, id: &RequestId) -> Ending {
        let Some(version) = task.version else {
            let message = "a delete without a version".to_owned();
            return entry.failed(ServerError::Refused { status: 0, message });
        };
        match self.servers.delete(target, &task.key, version, id).await {
            Ok(_) => {
                entry.write.worked();
                Ending::Deleted
            }
            Err(error) => entry.failed(error),
        }
    }

    async fn copy(
        &self,
        task: &Task,
        map: &ClusterMap,
        target: &Server,
        entry: &mut Entry,
        is_new: bool,
        id: &RequestId,
    ) -> Ending {
        let patience = Some(self.servers.timeouts().stall);
        let (mut last, mut slow): (_, Option<(_, _, Permit)>) = (Ending::NoSource, None);
        for source in sources(task, map) {
            let read = match self.gates.enter(&source.id, Door::Read) {
                Ok(read) => read,
                Err(pause) => {
                    last = Ending::Held(pause);
                    continue;
                }
            };
            let source_try = Try { source: &source, read, patience, is_new };
            match self.copy_from(task, source_try, target, entry, id).await {
                Tried::Ended(ending) => {
                    if let Some((_, _, mut read)) = slow {
                        read.failed();
                    }
                    return ending;
                }
                Tried::Missing => {}
                Tried::Slow(error, read) => slow = Some((source, error, read)),
                // A source that may come back says more than one that answered badly.
                Tried::Failed(ending) if may_pass(&ending) || !may_pass(&last) => last = ending,
                Tried::Failed(_) => {}
            }
        }
        let Some((source, error, mut read)) = slow else { return last };
        // No other has it. Then slowly, if not too many are copied so already.
        let Ok(_slot) = self.patient.try_acquire() else {
            return Ending::Source(source.id.clone(), error, read.failed());
        };
        let patient_try = Try { source: &source, read, patience: None, is_new: false };
        match self.copy_from(task, patient_try, target, entry, id).await {
            Tried::Ended(ending) | Tried::Failed(ending) => ending,
            Tried::Missing | Tried::Slow(..) => last,
        }
    }

    /// One source at a time, so that each is judged for itself.
    async fn copy_from(
        &self,
        task: &Task,
        Try { source, mut read, patience, is_new }: Try<'_>,
        target: &Server,
        entry: &mut Entry,
        id: &RequestId,
    ) -> Tried {
        let sources = std::slice::from_ref(source);
        let plan = CopyPlan { key: &task.key, version: task.version, sources, target, patience, is_new };
        match self.servers.copy(&plan, &self.rate, id).await {
            Ok(copied) => {
                entry.worked(&copied);
                if !matches!(copied, Copied::AlreadyThere | Copied::Newer(_)) {
                    read.worked();
                }
                Tried::Ended(Ending::Copied(copied))
            }
            Err(CopyError::Target(error)) => Tried::Ended(entry.failed(error)),
            Err(CopyError::NoSource) => {
                read.worked();
                Tried::Missing
            }
            Err(CopyError::Source { error: error @ ServerError::Slow(_), .. }) => Tried::Slow(error, read),
            Err(CopyError::Source { error, .. }) => {
                let standing = if error.is_down() { read.failed() } else { read.worked() };
                Tried::Failed(Ending::Source(source.id.clone(), error, standing))
            }
        }
    }
}

impl Entry {
    fn worked(&mut self, copied: &Copied) {
        self.write.worked();
        if let (Copied::Copied(_), Some(room)) = (copied, &mut self.room) {
            room.worked();
        }
    }

    /// What a target's error says about it: down, full, or working but unwilling.
    fn failed(&mut self, error: ServerError) -> Ending {
        let standing = match (&error, &mut self.room) {
            (ServerError::Full, Some(room)) => {
                self.write.worked();
                room.failed()
            }
            (error, _) if error.is_down() => self.write.failed(),
            _ => self.write.worked(),
        };
        Ending::Target(error, standing)
    }
}

/// Whether nobody can have made the copy by this task: it was not tried before, nor is its backup due.
fn is_new(task: &Task, attempts: u32) -> bool {
    let age = Duration::from_millis(unix_ms().saturating_sub(task.created_ms));
    attempts == 0 && age < BACKUP_DELAY
}

/// Whether time alone may mend it.
fn may_pass(ending: &Ending) -> bool {
    match ending {
        Ending::Held(_) => true,
        Ending::Source(_, error, _) => error.is_down(),
        _ => false,
    }
}
