//! Something happens to an engine: writes in groups, deletes, compaction, stops, ends of the process, syncs that fail.

use std::{collections::HashSet, fs, path::PathBuf, sync::Arc, time::Duration};

use fastrand::Rng;
use futures_util::future::join_all;
use rustix::io::Errno;

use super::{
    super::{
        Engine, Options, Storage, SyncMode,
        compact_tests::{self, FOR_EVER, delete, find_tombstones, next, put, rewrite_some},
    },
    cut::Disk,
    history::{Deed, History},
    recorder::{Change, Event, FileId, Recorder},
};

/// Bigger blobs get a file of their own, if not still bigger ones, of more than one block, are small.
const LEAST_SMALL: usize = 3_000;

/// What may happen.
#[derive(Debug, Clone, Copy)]
pub struct Plot {
    pub sync: SyncMode,
    pub steps: usize,
    /// Of 100 steps, how many are a compaction, and so on.
    pub compactions: u8,
    pub stops: u8,
    pub kills: u8,
    pub faults: u8,
}

/// All that happened.
pub struct Story {
    pub options: Options,
    pub names: Vec<String>,
    pub events: Vec<Event>,
    pub history: History,
    /// Files that a saved index was written to.
    indexes: HashSet<FileId>,
}

/// An engine to which things happen.
struct Run {
    home: tempfile::TempDir,
    place: u32,
    options: Options,
    random: Rng,
    names: Vec<String>,
    history: History,
    n: u64,
    recorder: Option<Recorder>,
    engine: Option<Arc<Engine>>,
}

/// A folder in memory, if there is such a place: nothing here needs a disk.
pub fn home() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir().canonicalize().unwrap() };
    tempfile::tempdir_in(folder).unwrap()
}

fn options(plot: Plot, random: &mut Rng) -> Options {
    let small_limit = if random.u8(0..6) == 0 { 70_000 } else { LEAST_SMALL as u64 };
    Options {
        sync: plot.sync,
        small_limit,
        volume_bytes: small_limit + (64 << 10),
        index_save_bytes: [1, 20_000, 1 << 30][random.usize(0..3)],
        tombstone_age: if random.bool() { Duration::ZERO } else { FOR_EVER },
        ..compact_tests::options()
    }
}

impl Story {
    /// Has one happen.
    pub async fn tell(plot: Plot, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let options = options(plot, &mut random);
        let home = home();
        let dir = home.path().join("0");
        fs::create_dir(&dir).unwrap();
        let recorder = Some(Recorder::new(&dir));
        let engine = Some(Engine::open(&dir, options.clone()).unwrap());
        let names = (0..8).map(|n| format!("key/{n}")).chain((0..8).map(|n| format!("filler/{n}"))).collect();
        let (history, n, place) = (History::default(), 0, 0);
        let mut run = Run { home, place, options, random, names, history, n, recorder, engine };
        for _ in 0..plot.steps {
            run.step(plot).await;
        }
        if run.random.bool() {
            run.stop().await;
        }
        run.engine = None;
        let Run { options, names, history, recorder, .. } = run;
        let events = recorder.unwrap().events();
        let index = |event: &Event| match event {
            Event::Create { file, path } => path.starts_with("INDEX.new").then_some(*file),
            _ => None,
        };
        let indexes = events.iter().filter_map(index).collect();
        Self { options, names, history, events, indexes }
    }

    /// Whether that is a write of a saved index: there are many of them.
    pub fn is_of_index(&self, event: &Event) -> bool {
        matches!(event, Event::Write { file, .. } if self.indexes.contains(file))
    }
}

impl Run {
    fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().unwrap()
    }

    fn recorder(&self) -> &Recorder {
        self.recorder.as_ref().unwrap()
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join(self.place.to_string())
    }

    async fn step(&mut self, plot: Plot) {
        let mut die = i16::from(self.random.u8(0..100));
        let mut is = |part: u8| {
            die -= i16::from(part);
            die < 0
        };
        if is(plot.compactions) {
            self.compact().await;
        } else if is(plot.stops) {
            self.stop().await;
            self.open();
        } else if is(plot.kills) {
            self.kill().await;
        } else if is(plot.faults) {
            self.fail().await;
        } else {
            self.write_some().await;
        }
        if self.engine().usage().read_only.is_some() {
            self.stop().await;
            self.open();
        }
    }

    /// Some deeds, not yet done.
    fn plan(&mut self) -> Vec<Deed> {
        let fill = self.random.u8(0..5) == 0;
        let count = if fill { 8 } else { self.random.usize(1..6) };
        (0..count)
            .map(|at| {
                self.n += 1;
                let name = self.names[if fill { 8 + at } else { self.random.usize(0..8) }].clone();
                let small = self.options.small_limit as usize;
                let length = match self.random.u8(0..20) {
                    _ if fill => Some(LEAST_SMALL),
                    0..4 => None,
                    // A whole file.
                    4 | 5 => Some(small + self.random.usize(1..8_000)),
                    6 | 7 => Some(self.random.usize(0..=small)),
                    _ => Some(self.random.usize(0..700)),
                };
                Deed { name, n: self.n, length, asked: 0, acknowledged: None }
            })
            .collect()
    }

    async fn write_some(&mut self) {
        let deeds = self.plan();
        let done = join_all(deeds.into_iter().map(|deed| self.write(deed))).await;
        self.history.deeds.extend(done);
    }

    async fn write(&self, mut deed: Deed) -> Deed {
        deed.asked = self.recorder().position();
        let done = match deed.length {
            Some(length) => put(self.engine(), &deed.name, deed.n, length).await,
            None => delete(self.engine(), &deed.name, deed.n).await,
        };
        deed.acknowledged = done.is_ok().then(|| self.recorder().position());
        deed
    }

    /// Some volumes, while others write.
    async fn compact(&mut self) {
        for _ in 0..self.random.usize(1..4) {
            find_tombstones(self.engine()).await;
            let Some(number) = next(self.engine()) else { return self.write_some().await };
            let steps = if self.random.bool() { usize::MAX } else { self.random.usize(1..60) };
            let engine = self.engine().clone();
            let (_, ()) = tokio::join!(rewrite_some(&engine, number, steps), self.write_some());
        }
    }

    async fn stop(&mut self) {
        // It may be read-only.
        let _ = self.engine().close().await;
        self.engine = None;
        self.recorder().all_closed();
    }

    fn open(&mut self) {
        self.engine = Some(Engine::open(self.dir(), self.options.clone()).unwrap());
    }

    /// The process ends, now or a little earlier.
    async fn kill(&mut self) {
        let mut events = self.recorder().events();
        events.truncate(events.len() - self.random.usize(0..events.len().min(12)));
        self.history = self.history.at(events.len());
        self.recorder = None;
        self.engine = None;
        fs::remove_dir_all(self.dir()).unwrap();
        self.place += 1;
        Disk::after(&events).kill(&self.dir());
        self.recorder = Some(Recorder::resume(&self.dir(), events));
        self.open();
    }

    /// Now and then a sync fails, or there is no room.
    async fn fail(&mut self) {
        let mut random = self.random.fork();
        let (one_in, full) = (random.u8(2..12), random.u8(0..3) == 0);
        self.recorder().fail(move |change, _| {
            let error = match change {
                Change::Sync(_) | Change::SyncFolder(_) | Change::SetLen { .. } if !full => Errno::IO,
                Change::Write { .. } if full => Errno::NOSPC,
                _ => return None,
            };
            (random.u8(0..one_in) == 0).then_some(error)
        });
        for _ in 0..3 {
            self.write_some().await;
        }
        self.recorder().heal();
    }
}
