//! The keys of all records in order, for listings: derived from the volumes, and made anew where it is lost.
//!
//! Records are known by their place, which grows. The keys of the newest ones are in a *memtable*. A full one is written
//! as a *run*, an immutable file; runs that lie side by side are merged, so that there are few. Runs and memtables have
//! every record that the index holds; what they have beside that is dead, and left out by the next merge. Places that
//! nothing covers, because a run was damaged or the disk was full, are walked through by each listing until they are in a
//! run again.
//!
//! - `entry`, `block`: the format, pure; `run`, `run_file`: a run, read and written; `reach`: whether it may be believed
//! - `memtable`, `merge`: keys in memory, and several sources as one
//! - `tiers`: decisions, pure; `worker`: the thread that carries them out; `folder`: the start; `walk`: without all that

mod block;
mod entry;
mod folder;
mod memtable;
mod merge;
mod reach;
mod run;
mod run_file;
#[cfg(test)]
mod tests;
mod tiers;
mod walk;
mod worker;

use std::{
    io,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use memtable::Memtable;
use merge::{Merge, Source};
use parking_lot::{Condvar, Mutex};
use run::Run;

pub use entry::KeyEntry;
pub use run::BadRun;
pub use walk::walk;
pub use worker::run;

use super::{
    index::Place,
    layout::Layout,
    options::Options,
    volume::{Volume, Volumes},
};

/// Memtables that wait to be written. With more, where the disk is full or slow, their places are left uncovered.
const MAX_WAITING: usize = 2;

/// The runs and memtables.
#[derive(Debug)]
pub struct Keys {
    state: Mutex<State>,
    changed: Condvar,
    /// A memtable that takes more is written.
    memtable_bytes: usize,
}

/// A full memtable, and what it covers.
type Waiting = (Range<Place>, Arc<Memtable>);

#[derive(Debug)]
struct State {
    /// Ascending. They do not overlap, but there may be gaps between them.
    runs: Vec<Arc<Run>>,
    /// Ascending.
    waiting: Vec<Waiting>,
    /// What the writer adds to, and from where on it has all records.
    newest: Arc<Memtable>,
    newest_from: Place,
    /// Every record that readers can see lies before this place.
    end: Place,
    /// Runs whose files are to be removed.
    removed: Vec<Arc<Run>>,
    stopped: bool,
}

/// What the worker does next.
#[derive(Debug)]
enum Job {
    /// Remove the files of these.
    Remove(Vec<Arc<Run>>),
    /// Write a memtable.
    Write(Range<Place>, Arc<Memtable>),
    /// Make one of these.
    Merge(Vec<Arc<Run>>),
    /// Find out what is there.
    Rebuild(Range<Place>),
}

impl State {
    /// The places before the end that no run and no memtable covers.
    fn gaps(&self) -> Vec<Range<Place>> {
        let mut covered: Vec<Range<Place>> = self.runs.iter().map(|run| run.range.clone()).collect();
        covered.extend(self.waiting.iter().map(|(range, _)| range.clone()));
        covered.push(self.newest_from..self.end);
        covered.sort_unstable_by_key(|range| range.start);
        tiers::gaps(covered.into_iter(), self.end)
    }

    /// Begins a new memtable at the end; gives the one before it, if that is to be forgotten.
    fn rotate(&mut self) -> Option<Arc<Memtable>> {
        let range = self.newest_from..self.end;
        let full = std::mem::take(&mut self.newest);
        self.newest_from = self.end;
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push((range, full));
            return None;
        }
        tracing::warn!(
            ?range,
            "keys are not written fast enough: these are read from the volumes until they are"
        );
        Some(full)
    }

    fn next_job(&mut self, memtable_bytes: usize) -> Option<Job> {
        if !self.removed.is_empty() {
            return Some(Job::Remove(std::mem::take(&mut self.removed)));
        }
        if let Some((range, memtable)) = self.waiting.first() {
            return Some(Job::Write(range.clone(), memtable.clone()));
        }
        if self.stopped {
            return None;
        }
        let sizes: Vec<_> = self.runs.iter().map(|run| (run.range.clone(), run.bytes)).collect();
        if let Some(chosen) = tiers::choose(&sizes, memtable_bytes as u64) {
            return Some(Job::Merge(self.runs[chosen].to_vec()));
        }
        self.gaps().into_iter().next().map(Job::Rebuild)
    }
}

impl Keys {
    /// The keys of these volumes, which nothing is written to yet. Those runs are used that were made of records before
    /// the place that is `believed`, if any.
    pub fn open(
        layout: &Layout,
        options: &Options,
        volumes: &Volumes,
        believed: Option<Place>,
    ) -> io::Result<Self> {
        let end = volumes.last().map_or(Place::new(0, 0), |last| Place::new(last.number, last.end()));
        let state = State {
            runs: folder::load(layout, volumes, believed)?,
            waiting: Vec::new(),
            newest: Arc::default(),
            newest_from: end,
            end,
            removed: Vec::new(),
            stopped: false,
        };
        let memtable_bytes = options.memtable_bytes;
        Ok(Self { state: Mutex::new(state), changed: Condvar::new(), memtable_bytes })
    }

    /// Makes records known that become visible now, all of which lie before `end`: `show` puts them into the index. Who
    /// looks at runs and memtables sees both or neither.
    pub fn enter<'a>(
        &self,
        end: Place,
        records: impl Iterator<Item = (&'a [u8], KeyEntry)>,
        show: impl FnOnce(),
    ) {
        let mut state = self.state.lock();
        show();
        let bytes = state.newest.add(records);
        state.end = end;
        if bytes < self.memtable_bytes {
            return;
        }
        let forgotten = state.rotate();
        drop(state);
        drop(forgotten);
        self.changed.notify_all();
    }

    /// Has what is in memory written soon, so that after a crash not much more of the volumes is walked through than a
    /// start reads anyway.
    pub fn write_soon(&self) {
        let mut state = self.state.lock();
        if state.newest_from < state.end && state.waiting.len() < MAX_WAITING {
            state.rotate();
            self.changed.notify_all();
        }
    }

    /// Ends the worker, as soon as it has written what is in memory. The writer has ended.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        let rest = (state.newest_from..state.end, std::mem::take(&mut state.newest));
        state.newest_from = state.end;
        if !rest.0.is_empty() {
            state.waiting.push(rest);
        }
        self.changed.notify_all();
    }

    /// A run that cannot be read is used no more.
    pub fn withdraw(&self, BadRun(bad): &BadRun) {
        let mut state = self.state.lock();
        let before = state.runs.len();
        state.runs.retain(|run| !Arc::ptr_eq(run, bad));
        if state.runs.len() < before {
            tracing::error!(file = %bad.path.display(), "a file of keys is damaged: it is made anew from the volumes");
            state.removed.push(bad.clone());
            self.changed.notify_all();
        }
    }

    /// What there is now, for a listing.
    pub fn view(&self, volumes: &Volumes) -> View {
        let state = self.state.lock();
        let waiting = state.waiting.iter().map(|(_, memtable)| memtable.clone());
        View {
            runs: state.runs.clone(),
            memtables: waiting.chain([state.newest.clone()]).collect(),
            gaps: state.gaps(),
            end: state.end,
            volumes: volumes.all(),
        }
    }

    /// Bytes of all runs on the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.state.lock().runs.iter().map(|run| run.bytes).sum()
    }

    /// A run was written: it takes the place of those and of that memtable.
    fn install(&self, run: Run, merged: &[Arc<Run>], written: Option<&Arc<Memtable>>) {
        let mut state = self.state.lock();
        let is_merged = |run: &Arc<Run>| merged.iter().any(|merged| Arc::ptr_eq(run, merged));
        let gone = state.runs.extract_if(.., |run| is_merged(run)).collect::<Vec<_>>();
        state.removed.extend(gone);
        let at = state.runs.partition_point(|other| other.range.start < run.range.start);
        state.runs.insert(at, Arc::new(run));
        state.waiting.retain(|(_, memtable)| written.is_none_or(|written| !Arc::ptr_eq(memtable, written)));
    }

    /// The next thing to do; waits for it. `None` when it was stopped and all is written.
    fn wait_for_job(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.next_job(self.memtable_bytes) {
                return Some(job);
            }
            if state.stopped {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits that long, or until it is stopped; says whether it was.
    fn wait(&self, time: Duration) -> bool {
        let (mut state, until) = (self.state.lock(), Instant::now() + time);
        while !state.stopped && !self.changed.wait_until(&mut state, until).timed_out() {}
        state.stopped
    }

    /// Whether it was stopped, and the first memtable that waits.
    fn look(&self) -> (bool, Option<Waiting>) {
        let state = self.state.lock();
        (state.stopped, state.waiting.first().cloned())
    }

    fn end(&self) -> Place {
        self.state.lock().end
    }
}

/// The runs and memtables of a moment. They have every record that the index held then, except for those in the gaps. A
/// record that the index holds later lies at `end` or behind it.
pub struct View {
    /// The runs.
    runs: Vec<Arc<Run>>,
    /// The memtables. The newest goes on changing.
    memtables: Vec<Arc<Memtable>>,
    /// Places that only the volumes know.
    pub gaps: Vec<Range<Place>>,
    /// Where the records of the moment end.
    pub end: Place,
    /// The volumes of the moment, ascending: compaction may remove one meanwhile.
    pub volumes: Vec<Arc<Volume>>,
}

impl View {
    /// The keys from that one on, in order.
    pub fn keys(&self, from: &[u8]) -> Result<Merge, BadRun> {
        let runs = self.runs.iter().map(|run| run.seek(from).map(Source::Run));
        let mut sources = runs.collect::<Result<Vec<_>, _>>()?;
        sources.extend(self.memtables.iter().map(|memtable| Source::Memtable(memtable.seek(from))));
        Merge::new(sources, from)
    }
}
