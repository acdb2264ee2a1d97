//! A storage of several directories, one on each disk of a machine: a lost disk loses only its blobs.
//!
//! - [`open`]: what a node starts; `plan`: which directories, and which of them a key is in
//!
//! A key has one home. It is chosen by the key's hash when the key is new and stays until the key is gone; when disks are
//! added, only new keys go by the new choice. So nothing is ever moved, and no two disks hold the same key.

mod plan;
mod start;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;

pub use start::open;

use super::{
    AtHand, BlobWriter, Damaged, Engine, Found, Listed, NewBlob, Spot, Storage, StorageError, Usage, Written,
};
use crate::model::{Key, Version};
use plan::Plan;

/// One of the directories.
struct Disk {
    dir: PathBuf,
    /// `None`: it was there once, and was not at the start.
    engine: Option<Arc<Engine>>,
}

/// Several directories as one storage.
struct DiskSet {
    plan: Plan,
    /// In the plan's order.
    disks: Vec<Disk>,
    /// For each slot the disks that may hold its keys, the one for new keys first.
    homes: Vec<Box<[usize]>>,
}

impl DiskSet {
    /// The plan's disks, those that have no engine among these being lost.
    fn new(plan: Plan, engines: &[Arc<Engine>]) -> Self {
        let disks = plan.disks.iter().map(|member| {
            let engine = engines.iter().find(|engine| engine.id() == member.id).cloned();
            Disk { dir: member.dir.clone(), engine }
        });
        Self { disks: disks.collect(), homes: plan.homes(), plan }
    }

    /// The disks that may hold a key, the one for a new key first.
    fn homes(&self, key: &Key) -> impl Iterator<Item = &Disk> {
        self.homes[self.plan.slot(key.as_str().as_bytes())].iter().map(|&disk| &self.disks[disk])
    }

    /// Those that are there.
    fn engines(&self) -> impl Iterator<Item = &Engine> {
        self.disks.iter().filter_map(|disk| disk.engine().ok())
    }

    /// Where a key is to be written: where it is, else where new ones go.
    async fn home(&self, key: &Key) -> Result<&Engine, StorageError> {
        let homes = || self.homes(key).map(|disk| disk.engine().map_err(read_only));
        let mut all = homes();
        let new = all.next().unwrap_or_else(|| Err(read_only(StorageError::Lost("no disk".to_owned()))));
        if all.next().is_none() {
            return new;
        }
        let mut missing = None;
        for engine in homes() {
            match engine {
                // What is damaged is there too.
                Ok(engine) if engine.may_hold(key) && !matches!(engine.open(key).await, Ok(None)) => {
                    return Ok(engine);
                }
                Ok(_) => {}
                Err(error) => missing = Some(error),
            }
        }
        // It may hold the key, in a version that nobody knows.
        missing.map_or(new, Err)
    }
}

impl Disk {
    fn engine(&self) -> Result<&Engine, StorageError> {
        self.engine.as_deref().ok_or_else(|| StorageError::Lost(self.dir.display().to_string()))
    }
}

/// For whoever wants to write there.
fn read_only(error: StorageError) -> StorageError {
    StorageError::ReadOnly(error.to_string())
}

#[async_trait]
impl Storage for DiskSet {
    fn id(&self) -> Version {
        self.plan.id
    }

    async fn create(&self, blob: NewBlob) -> Result<Box<dyn BlobWriter>, StorageError> {
        self.home(&blob.key).await?.create(blob).await
    }

    fn at_hand(&self, key: &Key) -> Option<Arc<AtHand>> {
        let there = self.homes(key).filter_map(|disk| disk.engine().ok());
        let mut holding = there.filter(|engine| engine.may_hold(key));
        match (holding.next(), holding.next()) {
            (Some(engine), None) => engine.at_hand(key),
            // Nobody has it, or `open` has to compare what they have.
            _ => None,
        }
    }

    async fn open(&self, key: &Key) -> Result<Option<Found>, StorageError> {
        let (mut newest, mut missing) = (None, None);
        for disk in self.homes(key) {
            match disk.engine() {
                Ok(engine) if engine.may_hold(key) => {
                    let found = engine.open(key).await?;
                    newest = newest.into_iter().chain(found).max_by_key(Found::version);
                }
                Ok(_) => {}
                Err(error) => missing = Some(error),
            }
        }
        // Where it was found, it is on no other disk.
        newest.map_or_else(|| missing.map_or(Ok(None), Err), |found| Ok(Some(found)))
    }

    async fn delete(&self, key: &Key, version: Version) -> Result<Written, StorageError> {
        self.home(key).await?.delete(key, version).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, StorageError> {
        let mut all = Vec::new();
        // Whoever asks for everything must not take what is left for it.
        for disk in &self.disks {
            all.extend(disk.engine()?.list(prefix, after, limit).await?);
        }
        all.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        all.truncate(limit);
        Ok(all)
    }

    fn usage(&self) -> Usage {
        let mut sum = Usage::default();
        self.engines().for_each(|engine| sum.add(engine.usage()));
        let lost = self.disks.len() - self.engines().count();
        sum.failed_disks += lost as u64;
        if sum.failed_disks < self.disks.len() as u64 {
            sum.read_only = None;
        }
        sum
    }

    fn pause_compaction(&self, paused: bool) {
        self.engines().for_each(|engine| engine.pause_compaction(paused));
    }

    fn pause_scrub(&self, paused: bool) {
        self.engines().for_each(|engine| engine.pause_scrub(paused));
    }

    fn start_scrub(&self) {
        self.engines().for_each(Engine::start_scrub);
    }

    fn settle_deletes(&self, before_ms: u64) {
        self.engines().for_each(|engine| engine.settle_deletes(before_ms));
    }

    fn settle_stretch(&self, spot: Spot) {
        let disk = self.disks.get(spot.disk as usize);
        if let Some(engine) = disk.and_then(|disk| disk.engine.as_ref()) {
            engine.settle_stretch(Spot { disk: 0, ..spot });
        }
    }

    async fn damaged(&self, after: Option<Spot>, limit: usize) -> Result<Vec<Damaged>, StorageError> {
        let mut all: Vec<Damaged> = Vec::new();
        for (number, disk) in self.disks.iter().enumerate() {
            let Some(engine) = &disk.engine else { continue };
            let disk = number as u32;
            if after.is_some_and(|after| after.disk > disk) {
                continue;
            }
            let behind = after.filter(|after| after.disk == disk).map(|after| Spot { disk: 0, ..after });
            let page = engine.damaged(behind, limit - all.len()).await?;
            all.extend(page.into_iter().map(|one| Damaged { place: Spot { disk, ..one.place }, ..one }));
        }
        Ok(all)
    }

    async fn close(&self) -> Result<(), StorageError> {
        let closing: Vec<_> = self.engines().map(|engine| engine.close()).collect();
        futures_util::future::join_all(closing).await.into_iter().collect()
    }
}
