//! What is known of a shard's comparisons: `/scrub-<shard>` in the map store. It says how far the one that goes on came, so
//! that another process can go on with it, and what the last one found.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Behind, Found, ScrubError,
    behind::SETTLES_IN,
    storages::{self, Storages},
};
use crate::{
    cluster::{
        MapStore,
        edit::{self, EditError},
    },
    daemon::unix_ms,
    model::{Key, Server, ServerId, ShardId},
};

/// A comparison is taken over by others when nothing was heard of it for so long. Clocks may differ by minutes.
pub const LEASE: Duration = Duration::from_secs(300);
/// Where it is, is saved so often: what is lost with a process is gone over again.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// A comparison that was left in the middle is gone on with for so long; then it begins again.
const RESUME_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// Writes that were on their way while a comparison began may have been seen by some servers and not by others. Uploads and
/// copies take less than this, and clocks are closer to each other.
pub(super) const IN_FLIGHT: Duration = Duration::from_secs(3600);

/// Where a shard's record stands.
pub fn path(shard: &ShardId) -> String {
    format!("/scrub-{shard}")
}

/// The record of a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The comparison that goes on, or was left in the middle.
    pub going: Option<Going>,
    /// The last one that came to its end.
    pub last: Option<Last>,
    /// Why the last try did not come to its end, and when; none behind one that did.
    pub failed: Option<Failed>,
    /// All deletes made before this are known to every server, or have nothing left to delete anywhere: a server may forget
    /// them. Milliseconds since 1970.
    pub settled_ms: u64,
}

/// A comparison that goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Going {
    /// Names who makes it.
    pub by: String,
    /// When it was last heard of, milliseconds since 1970; 0 if it was left.
    pub heard_ms: u64,
    /// When it began.
    pub began_ms: u64,
    /// Up to which key it came.
    pub after: Option<Key>,
    /// What it found so far.
    pub found: Found,
    /// When the oldest write was made that some server lacked, milliseconds since 1970; `u64::MAX` if none did.
    pub oldest_missing_ms: u64,
    /// Which storage each server had when it began.
    pub storages: BTreeMap<ServerId, String>,
}

/// A comparison that came to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Last {
    /// When it began.
    pub began_ms: u64,
    /// When it ended.
    pub ended_ms: u64,
    /// What it found.
    pub found: Found,
    /// Which storage each server had when it began.
    pub storages: BTreeMap<ServerId, String>,
}

/// A comparison that did not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failed {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Why.
    pub why: String,
}

impl Going {
    /// One that begins now.
    pub(super) fn fresh(now_ms: u64) -> Self {
        Self { began_ms: now_ms, oldest_missing_ms: u64::MAX, ..Self::default() }
    }
}

impl Record {
    /// Whether somebody is at it now.
    pub fn is_going(&self, now_ms: u64) -> bool {
        self.going.as_ref().is_some_and(|going| now_ms < going.heard_ms + LEASE.as_millis() as u64)
    }

    /// Where a comparison begins: where the one before it was left, or anew.
    fn begin(&mut self, by: &str, now_ms: u64, storages: &Storages) -> Going {
        let left = self.going.take().filter(|left| now_ms < left.began_ms + RESUME_WITHIN.as_millis() as u64);
        let going = left.unwrap_or_else(|| Going { storages: storages.clone(), ..Going::fresh(now_ms) });
        let going = Going { by: by.to_owned(), heard_ms: now_ms, ..going };
        self.going = Some(going.clone());
        going
    }

    /// Whether it is still that one's.
    fn is_of(&self, by: &str) -> bool {
        self.going.as_ref().is_some_and(|going| going.by == by)
    }

    fn end(&mut self, going: &Going, now_ms: u64) {
        self.going = None;
        self.failed = None;
        if going.found.who.is_complete() {
            let settled = going.began_ms.saturating_sub(IN_FLIGHT.as_millis() as u64);
            self.settled_ms = self.settled_ms.max(settled.min(going.oldest_missing_ms));
        }
        let Going { began_ms, found, storages, .. } = going.clone();
        self.last = Some(Last { began_ms, ended_ms: now_ms, found, storages });
    }
}

/// Keeps the record of one comparison.
pub struct Keeper {
    store: Arc<dyn MapStore>,
    shard: ShardId,
    by: String,
    saved: Instant,
}

impl Keeper {
    /// For that shard; `by` names this process and comparison.
    pub fn new(store: Arc<dyn MapStore>, shard: ShardId, by: String) -> Self {
        Self { store, shard, by, saved: Instant::now() }
    }

    /// Says of these servers that a comparison is going to see what they lack, so that tasks are kept for them again. Those
    /// that were behind, once nobody leaves tasks out any more.
    pub(super) async fn close_behind(&self, servers: &[Arc<Server>]) -> Result<Vec<ServerId>, ScrubError> {
        let mut behind = Vec::new();
        for server in servers {
            if Behind::close(&*self.store, &server.id, &self.by).await? {
                behind.push(server.id.clone());
            }
        }
        if !behind.is_empty() {
            tokio::time::sleep(SETTLES_IN).await;
        }
        Ok(behind)
    }

    /// What they lack is on the queue.
    pub(super) async fn end_behind(&self, servers: &[ServerId]) -> Result<(), ScrubError> {
        for server in servers {
            Behind::end(&*self.store, server, &self.by).await?;
        }
        Ok(())
    }

    async fn update<R>(&self, change: impl Fn(&mut Record) -> R) -> Result<R, ScrubError> {
        Ok(edit::update(&*self.store, &path(&self.shard), change).await?)
    }

    /// The record as it is.
    pub async fn read(&self) -> Result<Record, ScrubError> {
        self.update(|record: &mut Record| record.clone()).await
    }

    /// Takes the comparison of these servers, from whoever had it.
    pub(super) async fn begin(&mut self, servers: &[ServerId]) -> Result<(Going, u64), ScrubError> {
        self.saved = Instant::now();
        // Before any server is asked: a storage that takes over from now on is not the one that is noted.
        let storages = storages::read(&*self.store, servers.iter()).await.map_err(EditError::from)?;
        let now = unix_ms();
        self.update(|record| (record.begin(&self.by, now, &storages), record.settled_ms)).await
    }

    pub(super) fn is_due(&self) -> bool {
        self.saved.elapsed() >= SAVE_EVERY
    }

    /// Saves how far it came. All that was found up to there must be on the queue.
    pub(super) async fn save(&mut self, going: &Going) -> Result<(), ScrubError> {
        self.saved = Instant::now();
        self.change_own(|record| {
            record.going = Some(Going { by: self.by.clone(), heard_ms: unix_ms(), ..going.clone() });
        })
        .await
    }

    /// Writes what came out of it. Gives [`Record::settled_ms`].
    pub(super) async fn end(&self, going: &Going) -> Result<u64, ScrubError> {
        let now = unix_ms();
        self.change_own(|record| {
            record.end(going, now);
            record.settled_ms
        })
        .await
    }

    /// Leaves it where it was last saved, for others to go on with: at once, or later because something failed.
    pub(super) async fn leave(&self, failed: Option<&str>) {
        let now = unix_ms();
        let left = self.change_own(|record| {
            if let Some(going) = &mut record.going {
                going.heard_ms = 0;
            }
            record.failed = failed.map(|why| Failed { at_ms: now, why: why.to_owned() });
        });
        // Without it the others wait for the lease.
        if let Err(error) = left.await {
            tracing::debug!(%error, shard = %self.shard, "a comparison that failed could not be noted");
        }
    }

    async fn change_own<R>(&self, change: impl Fn(&mut Record) -> R) -> Result<R, ScrubError> {
        let changed =
            self.update(|record: &mut Record| record.is_of(&self.by).then(|| change(record))).await?;
        changed.ok_or(ScrubError::TakenOver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn a_comparison_goes_on_where_it_was_left_unless_that_is_long_ago() {
        let mut record = Record::default();
        let going = record.begin("a", 100 * HOUR, &Storages::new());
        assert_eq!((going.began_ms, going.after.as_ref(), going.by.as_str()), (100 * HOUR, None, "a"));
        assert!(record.is_going(100 * HOUR + 1) && !record.is_going(101 * HOUR));
        record.going.as_mut().unwrap().after = Some("k".parse().unwrap());
        let resumed = record.begin("b", 101 * HOUR, &Storages::new());
        assert_eq!((resumed.began_ms, resumed.after.is_some()), (100 * HOUR, true));
        assert!(record.is_of("b") && !record.is_of("a"));
        let anew = record.begin("c", 125 * HOUR, &Storages::new());
        assert_eq!((anew.began_ms, anew.after), (125 * HOUR, None));
    }

    #[test]
    fn only_a_complete_comparison_settles_deletes_and_only_those_before_what_is_missing() {
        let settled = |oldest_missing_ms, complete: bool| {
            let mut record = Record { settled_ms: 7, ..Record::default() };
            let mut going = Going { began_ms: 100 * HOUR, oldest_missing_ms, ..Going::default() };
            if !complete {
                going.found.who.left_out.insert("4".parse().unwrap(), "does not answer".into());
            }
            record.end(&going, 101 * HOUR);
            assert_eq!(record.last.as_ref().map(|last| last.ended_ms), Some(101 * HOUR));
            record.settled_ms
        };
        assert_eq!(settled(u64::MAX, true), 99 * HOUR);
        assert_eq!(settled(50 * HOUR, true), 50 * HOUR);
        assert_eq!(settled(3, true), 7, "it never goes back");
        assert_eq!(settled(u64::MAX, false), 7);
    }
}
