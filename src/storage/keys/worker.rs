//! The thread that writes runs: full memtables, several runs as one, and what nothing covers.
//!
//! A run is written beside the others, synced, renamed, its folder synced; then it is used, and what it replaces is
//! removed. A crash in between leaves runs of the same records, of which the next start takes the wider.

use std::{io, ops::Range, sync::Arc, time::Duration};

use super::{
    BadRun, Job, KeyEntry,
    folder::{NEW, RUN},
    memtable::Memtable,
    merge::{Merge, Source},
    reach::Reach,
    run::{Run, Unusable},
    run_file::RunFile,
    walk,
};
use crate::storage::{disk, index::Place, saver::sync_volumes, shared::Shared};

/// After a failure, a full disk say, it is tried again so late.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// After so many keys it is seen whether something more urgent waits.
const LOOK_EVERY: u64 = 4096;

/// Why a run was not written.
enum Failure {
    /// The disk.
    Io(io::Error),
    /// One of the runs to be merged.
    Bad(BadRun),
    /// It was told to stop.
    Stopped,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<BadRun> for Failure {
    fn from(bad: BadRun) -> Self {
        Self::Bad(bad)
    }
}

/// Works until it is stopped and all is written. Volumes with a smaller number than `durable_before` are durable.
pub fn run(shared: &Shared, durable_before: u32) {
    let mut worker = Worker { shared, durable_before };
    let mut fails = false;
    while let Some(job) = shared.keys.wait_for_job() {
        match worker.step(job) {
            Ok(()) => fails = false,
            Err(Failure::Stopped) => {}
            Err(Failure::Bad(bad)) => shared.keys.withdraw(&bad),
            Err(Failure::Io(error)) => {
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!(%error, "keys could not be written: listings may take longer until they are");
                }
                if shared.keys.wait(TRY_AGAIN_AFTER) {
                    return;
                }
            }
        }
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    durable_before: u32,
}

impl Worker<'_> {
    fn step(&mut self, job: Job) -> Result<(), Failure> {
        match job {
            Job::Remove(runs) => self.remove(&runs),
            Job::Write(range, memtable) => self.write(range, &memtable),
            Job::Merge(runs) => self.merge(&runs),
            Job::Rebuild(range) => self.rebuild(range),
        }
    }

    fn remove(&self, runs: &[Arc<Run>]) -> Result<(), Failure> {
        for run in runs {
            // One that stays is removed by the next start.
            if let Err(error) = disk::already_gone(disk::remove(&run.path)) {
                tracing::warn!(file = %run.path.display(), %error, "a file of keys that nobody needs could not be removed");
            }
        }
        Ok(disk::sync_folder(&self.shared.layout.keys())?)
    }

    fn write(&mut self, range: Range<Place>, memtable: &Arc<Memtable>) -> Result<(), Failure> {
        let source = Source::Memtable(memtable.seek(&[]));
        let run = self.write_run(range, [source], memtable.bytes() as u64, |_| Ok(()))?;
        self.shared.keys.install(run, &[], Some(memtable));
        Ok(())
    }

    fn merge(&mut self, runs: &[Arc<Run>]) -> Result<(), Failure> {
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return Ok(()) };
        let range = first.range.start..last.range.end;
        let sources = runs.iter().map(|run| run.seek(&[]).map(Source::Run)).collect::<Result<Vec<_>, _>>()?;
        let bytes = runs.iter().map(|run| run.bytes).sum();
        let run = self.write_run(range, sources, bytes, Self::write_waiting)?;
        self.shared.keys.install(run, runs, None);
        Ok(())
    }

    /// Writes a run of the first of these places: as much as fits a memtable.
    fn rebuild(&mut self, range: Range<Place>) -> Result<(), Failure> {
        let shared = self.shared;
        self.check_room(shared.keys.memtable_bytes as u64)?;
        let (volumes, found) = (shared.volumes.all(), Arc::new(Memtable::default()));
        let (mut met, mut failure) = (0, None);
        let reached = walk(&volumes, &range, |place, head| {
            met += 1;
            if met % LOOK_EVERY == 0 {
                failure = self.write_waiting().err();
            }
            let is_needed = shared.index.holds(shared.hash(head.key), place);
            let record = is_needed.then(|| (head.key, KeyEntry::of(place, head)));
            found.add(record.into_iter()) < shared.keys.memtable_bytes && failure.is_none()
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let source = Source::Memtable(found.seek(&[]));
        let run =
            self.write_run(range.start..reached, [source], found.bytes() as u64, Self::write_waiting)?;
        shared.keys.install(run, &[], None);
        Ok(())
    }

    /// Between the keys of something long: stops if it is told to, and writes the memtables that wait.
    fn write_waiting(&mut self) -> Result<(), Failure> {
        match self.shared.keys.look() {
            (true, _) => Err(Failure::Stopped),
            (false, Some((range, memtable))) => self.write(range, &memtable),
            (false, None) => Ok(()),
        }
    }

    /// An error if there is not so much room, beside what blobs and compaction need more.
    fn check_room(&self, bytes: u64) -> Result<(), Failure> {
        let shared = self.shared;
        // After a failed sync nobody knows what is durable.
        shared.health.check().map_err(io::Error::other)?;
        let needed = bytes + shared.options.reserve_bytes + shared.room_bytes;
        if shared.layout.free_bytes() < needed {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        Ok(())
    }

    /// Writes a run of these keys, of at most about that many bytes, as far as they are needed. Calls `between` now and
    /// then.
    fn write_run(
        &mut self,
        range: Range<Place>,
        sources: impl IntoIterator<Item = Source>,
        bytes: u64,
        between: fn(&mut Self) -> Result<(), Failure>,
    ) -> Result<Run, Failure> {
        self.check_room(bytes)?;
        let layout = &self.shared.layout;
        layout.make_keys()?;
        let name = format!("{:016x}-{:016x}", range.start.to_number(), range.end.to_number());
        let path = layout.keys().join(name).with_extension(RUN);
        let new = path.with_extension(NEW);
        let mut file = RunFile::begin(disk::create_empty(&new)?, layout.store, &range);
        let written = self.fill(&mut file, sources, between).and_then(|()| Ok(file.finish(&self.reach()?)?));
        if let Err(failure) = written {
            // What cannot be removed is removed by the next start.
            let _ = disk::remove(&new);
            return Err(failure);
        }
        disk::rename(&new, &path)?;
        disk::sync_folder(&layout.keys())?;
        match Run::open(&path, layout.store) {
            Ok((run, _)) => Ok(run),
            Err(Unusable::Io(error)) => Err(error.into()),
            Err(Unusable::Wrong(what)) => Err(io::Error::other(what).into()),
        }
    }

    fn fill(
        &mut self,
        file: &mut RunFile,
        sources: impl IntoIterator<Item = Source>,
        between: fn(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut keys = Merge::new(sources, &[])?;
        for count in 1.. {
            let Some((key, entries)) = keys.next()? else { break };
            let hash = self.shared.hash(&key);
            if let Some(entry) = entries.iter().find(|entry| self.shared.index.holds(hash, entry.place)) {
                file.add(&key, entry)?;
            }
            if count % LOOK_EVERY == 0 {
                between(self)?;
            }
        }
        Ok(())
    }

    /// What the run was made of, durable: what was left out was replaced by a record that must not be lost.
    fn reach(&mut self) -> io::Result<Reach> {
        let end = self.shared.keys.end();
        let reach = Reach::of(&self.shared.volumes.all(), end)?;
        sync_volumes(self.shared, self.durable_before)?;
        self.durable_before = end.volume();
        Ok(reach)
    }
}
