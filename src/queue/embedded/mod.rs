//! The queue of one machine with nothing installed, on the embedded store. Several processes may have it open, so that
//! `backpack-admin queue ...` works on a system that is running.
//!
//! - `layout`: keys and values; `table`: each step, inside one write; `look`: what is read

mod layout;
mod look;
mod table;

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use self::{layout::Entry, look::Look, table::Table};
use super::{
    Claim, DeadLetter, Filter, Listed, Queue, QueueError, QueueStats, Want, letter::to_json, poll::deadline,
};
use crate::{
    daemon::unix_ms,
    embedded::{self, Store},
    model::{ServerId, Task},
};

/// A write waits for one fsync of the disk; one that takes longer than this is as good as failed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Dead letters that one write redrives or discards: keeps it short.
const LETTERS_AT_ONCE: usize = 500;

/// A queue in a directory.
pub struct EmbeddedQueue {
    store: Store,
    lease: Duration,
}

impl EmbeddedQueue {
    /// Opens the queue in `dir`, which is made where missing. It may be shared with the embedded map store.
    pub fn open(dir: &Path, lease: Duration) -> Result<Self, QueueError> {
        Ok(Self { store: Store::open(dir)?, lease })
    }

    async fn write<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Table<'_, '_>) -> Result<T, embedded::Error> + Send + 'static,
    ) -> Result<T, QueueError> {
        let write = self.store.write(move |writer| f(&mut Table { writer, now_ms: unix_ms() }));
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(QueueError::Unavailable(format!("no write within {WRITE_TIMEOUT:?}"))),
        }
    }

    fn read<T>(&self, f: impl FnOnce(&Look<'_, '_>) -> Result<T, embedded::Error>) -> Result<T, QueueError> {
        Ok(self.store.read(|reader| f(&Look { reader, now_ms: unix_ms() }))?)
    }

    /// A read that may take long, away from the runtime's threads.
    async fn read_much<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Look<'_, '_>) -> Result<T, embedded::Error> + Send + 'static,
    ) -> Result<T, QueueError> {
        let store = self.store.clone();
        let read = move || store.read(|reader| f(&Look { reader, now_ms: unix_ms() }));
        match tokio::task::spawn_blocking(read).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(QueueError::Failed(error.to_string())),
        }
    }

    async fn claim_now(&self, want: &Want) -> Result<Vec<Claim>, QueueError> {
        let (want, lease_ms) = (want.clone(), self.lease.as_millis() as u64);
        self.write(move |table| table.claim(&want, lease_ms)).await
    }

    /// A claim back into the queue. The task is added even if its claim is gone: twice is harmless where lost is not.
    async fn give_back(&self, claim: &Claim, attempts: u32, delay: Duration) -> Result<(), QueueError> {
        let number = number(claim);
        let target = claim.task.to.clone();
        let entry = Entry { attempts, task: to_json(&claim.task).into_bytes() };
        self.write(move |table| {
            if let Some(number) = number {
                table.end(target.as_str(), number)?;
            }
            table.add(target.as_str(), &entry, due(table.now_ms, delay))
        })
        .await
    }

    /// Removes the letters that are meant, some at a time, with `then` done for each that was there; how many.
    async fn remove_letters(
        &self,
        filter: &Filter,
        then: fn(&mut Table<'_, '_>, &DeadLetter) -> Result<(), embedded::Error>,
        meant: fn(&DeadLetter) -> bool,
    ) -> Result<u64, QueueError> {
        let mut letters = self.dead(filter, usize::MAX).await?;
        letters.retain(meant);
        let mut count = 0;
        for chunk in letters.chunks(LETTERS_AT_ONCE) {
            let chunk = chunk.to_vec();
            let removed = self.write(move |table| {
                let mut removed = 0;
                for letter in &chunk {
                    if table.unbury(letter)? {
                        then(table, letter)?;
                        removed += 1;
                    }
                }
                Ok(removed)
            });
            count += removed.await?;
        }
        Ok(count)
    }
}

#[async_trait]
impl Queue for EmbeddedQueue {
    async fn push(&self, tasks: &[Task], delay: Duration) -> Result<(), QueueError> {
        let entries: Vec<_> = tasks.iter().map(|task| (task.to.clone(), to_entry(task))).collect();
        self.write(move |table| {
            let due_ms = due(table.now_ms, delay);
            entries.iter().try_for_each(|(target, entry)| table.add(target.as_str(), entry, due_ms))
        })
        .await
    }

    async fn cancel(&self, tasks: &[Task]) -> Result<(), QueueError> {
        let entries: Vec<_> = tasks.iter().map(|task| (task.to.clone(), to_json(task))).collect();
        self.write(move |table| {
            entries.iter().try_for_each(|(target, task)| table.cancel(target.as_str(), task.as_bytes()))
        })
        .await
    }

    async fn claim(&self, want: &Want, wait: Duration) -> Result<Vec<Claim>, QueueError> {
        let deadline = deadline(wait);
        let mut changes = self.store.changes();
        loop {
            // From before the look, so that a change during it ends the wait.
            changes.mark_unchanged();
            let next_ms = self.read(|look| look.next_ms(want))?;
            let left_ms = next_ms.map(|next_ms| next_ms.saturating_sub(unix_ms()));
            if left_ms == Some(0) && want.max > 0 && want.max_per_target > 0 {
                let claims = self.claim_now(want).await?;
                if !claims.is_empty() {
                    return Ok(claims);
                }
            }
            if Instant::now() >= deadline {
                return Ok(Vec::new());
            }
            let due = left_ms.map(|left_ms| Instant::now() + Duration::from_millis(left_ms.max(1)));
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(due.map_or(deadline, |due| due.min(deadline))) => {}
            }
        }
    }

    async fn renew(&self, claims: &[Claim]) -> Result<(), QueueError> {
        let (ours, lease_ms) = (ours(claims), self.lease.as_millis() as u64);
        self.write(move |table| {
            ours.iter().try_for_each(|(target, number)| table.renew(target.as_str(), *number, lease_ms))
        })
        .await
    }

    async fn ack(&self, claims: &[Claim]) -> Result<(), QueueError> {
        let ours = ours(claims);
        self.write(move |table| {
            ours.iter().try_for_each(|(target, number)| table.end(target.as_str(), *number).map(drop))
        })
        .await
    }

    async fn retry(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.give_back(claim, claim.attempts.saturating_add(1), delay).await
    }

    async fn release(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.give_back(claim, claim.attempts, delay).await
    }

    async fn bury(&self, claim: &Claim, reason: &str) -> Result<(), QueueError> {
        let (target, number) = (claim.task.to.clone(), number(claim));
        let letter = DeadLetter::of_task(&claim.task, claim.attempts, reason);
        self.write(move |table| {
            if let Some(number) = number {
                table.end(target.as_str(), number)?;
            }
            table.bury(&letter)
        })
        .await
    }

    async fn stats(&self) -> Result<QueueStats, QueueError> {
        self.read_much(|look| look.stats()).await
    }

    async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Listed>, QueueError> {
        let filter = filter.clone();
        self.read_much(move |look| look.list(&filter, limit)).await
    }

    async fn dead(&self, filter: &Filter, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let filter = filter.clone();
        self.read_much(move |look| look.dead(&filter, limit)).await
    }

    async fn redrive(&self, filter: &Filter) -> Result<u64, QueueError> {
        let again = |table: &mut Table<'_, '_>, letter: &DeadLetter| match &letter.task {
            Some(task) => table.add(task.to.as_str(), &to_entry(task), 0),
            None => Ok(()),
        };
        self.remove_letters(filter, again, |letter| letter.task.is_some()).await
    }

    async fn discard(&self, filter: &Filter) -> Result<u64, QueueError> {
        self.remove_letters(filter, |_, _| Ok(()), |_| true).await
    }

    async fn pause(&self, target: &ServerId) -> Result<(), QueueError> {
        let key = format!("{}{target}", layout::PAUSED);
        self.write(move |table| table.writer.put(key.as_bytes(), b"")).await
    }

    async fn resume(&self, target: &ServerId) -> Result<(), QueueError> {
        let key = format!("{}{target}", layout::PAUSED);
        self.write(move |table| table.writer.delete(key.as_bytes()).map(drop)).await
    }
}

impl From<embedded::Error> for QueueError {
    fn from(error: embedded::Error) -> Self {
        match error {
            embedded::Error::GivenUp => Self::Unavailable(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

fn to_entry(task: &Task) -> Entry {
    Entry { attempts: 0, task: to_json(task).into_bytes() }
}

fn due(now_ms: u64, delay: Duration) -> u64 {
    // Rounded up: a delay of less than a millisecond is one still.
    now_ms.saturating_add(u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// How a claim names its entry. The sign tells it from the receipts of other queues, which may still come in after the map
/// changed to this one.
fn receipt(number: u64) -> String {
    format!("#{number}")
}

fn number(claim: &Claim) -> Option<u64> {
    claim.receipt.strip_prefix('#')?.parse().ok()
}

fn ours(claims: &[Claim]) -> Vec<(ServerId, u64)> {
    claims.iter().filter_map(|claim| Some((claim.task.to.clone(), number(claim)?))).collect()
}
