//! Tests of listings through runs and memtables: against a model, beside writers, with runs that are lost, damaged or
//! older than the volumes, on a disk that is full.

use std::{
    fs,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use rustix::io::Errno;

use super::{MAX_WAITING, run::Run, tiers::MAX_RUNS};
use crate::storage::{
    Engine, Listed, Options, Storage,
    compact_tests::{self, Model, block_on, compact, copy, delete, put},
    power_cut::recorder::{Change, Recorder},
};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs of a few keys, so that there are many.
fn options() -> Options {
    Options { memtable_bytes: 1000, ..compact_tests::options() }
}

fn open(dir: &Path) -> Arc<Engine> {
    Engine::open(dir, options()).unwrap()
}

async fn close(engine: Arc<Engine>) {
    engine.close().await.unwrap();
}

/// Waits until all that was shown is in runs as it should be.
fn settle(engine: &Engine) {
    let (keys, until) = (&engine.shared.keys, Instant::now() + DEADLINE);
    let is_busy = || keys.state.lock().next_job_is_there(keys.memtable_bytes);
    while is_busy() {
        assert!(Instant::now() < until, "keys are not written");
        thread::sleep(Duration::from_millis(1));
    }
}

impl super::State {
    fn next_job_is_there(&mut self, memtable_bytes: usize) -> bool {
        // Who only looks must not take what is to be removed.
        !self.removed.is_empty() || self.next_job(memtable_bytes).is_some()
    }
}

fn runs(engine: &Engine) -> Vec<Arc<Run>> {
    engine.shared.keys.state.lock().runs.clone()
}

/// The files of runs in a directory, in the order of what they cover.
fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(folder) = fs::read_dir(dir.join("keys")) else { return Vec::new() };
    let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at % bytes.len();
    bytes[at] ^= 1 << (at % 8);
    fs::write(path, bytes).unwrap();
}

/// What a listing says of a key: its name, version, length, whether it was deleted.
type Line = (String, u64, u64, bool);

fn line(listed: &Listed) -> Line {
    (listed.key.to_string(), listed.version.unix_ms(), listed.length, listed.deleted)
}

async fn list(engine: &Engine, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Line> {
    engine.list(prefix, after, limit).await.unwrap().iter().map(line).collect()
}

fn expected(model: &Model, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Line> {
    let after = after.map_or(Bound::Unbounded, Bound::Excluded);
    let keys = model.range::<str, _>((after, Bound::Unbounded)).filter(|(name, _)| name.starts_with(prefix));
    let line = |(name, (n, length)): (&String, &(u64, Option<usize>))| {
        (name.clone(), *n, length.unwrap_or(0) as u64, length.is_none())
    };
    keys.take(limit).map(line).collect()
}

async fn holds_all(engine: &Engine, model: &Model, what: &str) {
    assert_eq!(list(engine, "", None, usize::MAX).await, expected(model, "", None, usize::MAX), "{what}");
}

/// So many keys, in an order that has nothing to do with theirs; the versions from `from` on.
async fn write_keys(engine: &Engine, model: &mut Model, count: u64, from: u64) {
    for n in 0..count {
        let name = format!("key/{:04}", n * 7919 % count);
        put(engine, &name, from + n, n as usize % 50).await.unwrap();
        model.insert(name, (from + n, Some(n as usize % 50)));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize, usize),
    Delete(usize),
    /// So many keys that are not met before.
    New(usize),
    Compact,
    Settle,
    Reopen,
    Crash,
    LoseIndex,
    /// The run at that place is gone when the engine is opened again.
    LoseRun(prop::sample::Index),
    LoseRuns,
    /// A bit of a run is another when the engine is opened again.
    Flip(prop::sample::Index, usize),
    /// A bit of a run becomes another while the engine is open.
    FlipOpen(prop::sample::Index, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![8 => 0_usize..2_000, 1 => 9_000_usize..20_000];
    let run = any::<prop::sample::Index>;
    let step = prop_oneof![
        20 => (0_usize..NAMES, length).prop_map(|(key, length)| Step::Put(key, length)),
        6 => (0_usize..NAMES).prop_map(Step::Delete),
        6 => (1_usize..40).prop_map(Step::New),
        3 => Just(Step::Compact),
        3 => Just(Step::Settle),
        2 => Just(Step::Reopen),
        2 => Just(Step::Crash),
        1 => Just(Step::LoseIndex),
        1 => run().prop_map(Step::LoseRun),
        1 => Just(Step::LoseRuns),
        2 => (run(), any::<usize>()).prop_map(|(run, at)| Step::Flip(run, at)),
        2 => (run(), any::<usize>()).prop_map(|(run, at)| Step::FlipOpen(run, at)),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A page that is asked for: prefix, the key after which it begins, limit.
fn pages() -> impl Strategy<Value = Vec<(usize, Option<usize>, usize)>> {
    proptest::collection::vec((0..PREFIXES.len(), proptest::option::of(0..NAMES), 0_usize..30), 1..20)
}

const NAMES: usize = 30;
const PREFIXES: [&str; 7] = ["", "a", "a/", "a/1", "b/", "new/", "z"];

fn name(key: usize) -> String {
    format!("{}/{}", ["a", "b", "é"][key % 3], key)
}

/// An engine beside its model.
struct Beside {
    home: tempfile::TempDir,
    place: u32,
    engine: Option<Arc<Engine>>,
    options: Options,
    model: Model,
    n: u64,
}

impl Beside {
    fn dir(&self) -> PathBuf {
        self.home.path().join(self.place.to_string())
    }

    async fn write(&mut self, name: String, length: Option<usize>) {
        self.n += 1;
        let engine = self.engine.as_ref().unwrap();
        match length {
            Some(length) => put(engine, &name, self.n, length).await.unwrap(),
            None => delete(engine, &name, self.n).await.unwrap(),
        };
        self.model.insert(name, (self.n, length));
    }

    async fn reopen(&mut self, meanwhile: impl FnOnce(&Path)) {
        close(self.engine.take().unwrap()).await;
        meanwhile(&self.dir());
        self.engine = Some(Engine::open(self.dir(), self.options.clone()).unwrap());
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Put(key, length) => self.write(name(key), Some(length)).await,
            Step::Delete(key) => self.write(name(key), None).await,
            Step::New(count) => {
                for _ in 0..count {
                    self.write(format!("new/{}", self.n), Some(10)).await;
                }
            }
            Step::Compact => compact(self.engine.as_ref().unwrap()).await,
            Step::Settle => settle(self.engine.as_ref().unwrap()),
            Step::Reopen => self.reopen(|_| {}).await,
            Step::Crash => {
                let from = self.dir();
                self.place += 1;
                copy(&from, &self.dir());
                self.engine = Some(Engine::open(self.dir(), self.options.clone()).unwrap());
            }
            Step::LoseIndex => self.reopen(|dir| drop(fs::remove_file(dir.join("INDEX")))).await,
            Step::LoseRuns => self.reopen(|dir| drop(fs::remove_dir_all(dir.join("keys")))).await,
            Step::LoseRun(run) => {
                self.reopen(|dir| {
                    let files = files(dir);
                    if !files.is_empty() {
                        fs::remove_file(&files[run.index(files.len())]).unwrap();
                    }
                })
                .await;
            }
            Step::Flip(run, at) => {
                self.reopen(|dir| {
                    let files = files(dir);
                    if !files.is_empty() {
                        flip(&files[run.index(files.len())], at);
                    }
                })
                .await;
            }
            Step::FlipOpen(run, at) => {
                settle(self.engine.as_ref().unwrap());
                let runs = runs(self.engine.as_ref().unwrap());
                if !runs.is_empty() {
                    flip(&runs[run.index(runs.len())].path, at);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_listing_is_what_the_model_says(steps in steps(), pages in pages(), collide: bool) {
        block_on(async {
            let home = tempfile::tempdir().unwrap();
            let mut options = options();
            if collide {
                options.key_hash = |key, _| (key.len() as u64) << 61;
            }
            let engine = Some(Engine::open(home.path().join("0"), options.clone()).unwrap());
            let mut beside = Beside { home, place: 0, engine, options, model: Model::new(), n: 0 };
            let mut pages = pages.iter().cycle();
            for step in steps.into_iter().chain([Step::Crash, Step::Settle, Step::Reopen]) {
                let what = format!("{step:?}");
                beside.step(step).await;
                let (engine, model) = (beside.engine.as_ref().unwrap(), &beside.model);
                for (prefix, after, limit) in pages.by_ref().take(3) {
                    let (prefix, after) = (PREFIXES[*prefix], after.map(name));
                    assert_eq!(
                        list(engine, prefix, after.as_deref(), *limit).await,
                        expected(model, prefix, after.as_deref(), *limit),
                        "{what}: {prefix} after {after:?}"
                    );
                }
                holds_all(engine, model, &what).await;
            }
            settle(beside.engine.as_ref().unwrap());
            assert_eq!(beside.engine.as_ref().unwrap().shared.keys.state.lock().gaps(), []);
        });
    }
}

#[test]
fn there_are_few_runs_however_many_keys_and_dead_ones_leave() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (engine, mut model) = (open(home.path()), Model::new());
        for round in 0..4 {
            write_keys(&engine, &mut model, 600, 1 + round * 600).await;
        }
        settle(&engine);
        let all = runs(&engine);
        assert!((2..30).contains(&all.len()), "{} runs", all.len());
        assert!(all.windows(2).all(|two| two[0].range.end == two[1].range.start));
        holds_all(&engine, &model, "written").await;
        compact(&engine).await;
        close(engine).await;
        // Made of nothing but what is needed.
        fs::remove_dir_all(home.path().join("keys")).unwrap();
        let engine = open(home.path());
        holds_all(&engine, &model, "while runs are made anew").await;
        settle(&engine);
        holds_all(&engine, &model, "made anew").await;
        let bytes = engine.shared.keys.disk_bytes();
        assert!(bytes < 600 * 60 + 20_000, "{bytes} bytes");
    });
}

#[test]
fn a_stop_leaves_nothing_to_walk_through() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (engine, mut model) = (open(home.path()), Model::new());
        write_keys(&engine, &mut model, 50, 1).await;
        // What was too fast for a slow disk is not waited for.
        settle(&engine);
        write_keys(&engine, &mut model, 3, 100).await;
        close(engine).await;
        let engine = open(home.path());
        assert_eq!(engine.shared.keys.state.lock().gaps(), []);
        // The heads of the records are not looked at.
        let volume = engine.shared.layout.volume(1);
        let mut bytes = fs::read(&volume).unwrap();
        bytes[64..].fill(0);
        fs::write(&volume, bytes).unwrap();
        holds_all(&engine, &model, "opened again").await;
    });
}

/// What is not read cannot be found damaged.
/// Between the two a listing would find the record that the index does not hold any more, and no other.
#[test]
fn the_index_and_the_keys_change_together() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = open(home.path());
        let keys = &engine.shared.keys;
        let mut is_shown = false;
        keys.enter(keys.end(), std::iter::empty(), || is_shown = keys.state.try_lock().is_none());
        assert!(is_shown, "while nobody else looks at the keys");
    });
}

#[test]
fn a_page_reads_its_own_part_of_a_run() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let options = Options { memtable_bytes: 8 << 20, ..options() };
        let (engine, mut model) = (Engine::open(home.path(), options.clone()).unwrap(), Model::new());
        write_keys(&engine, &mut model, 3000, 1).await;
        close(engine).await;
        let engine = Engine::open(home.path(), options).unwrap();
        let [run] = runs(&engine).try_into().unwrap();
        let far = run.bytes as usize * 2 / 3;
        flip(&run.path, far);
        for after in ["key/0000", "key/0500", "key/1000"] {
            assert_eq!(list(&engine, "", Some(after), 100).await, expected(&model, "", Some(after), 100));
        }
        assert_eq!(runs(&engine).len(), 1, "it is not known to be damaged");
        holds_all(&engine, &model, "all of it").await;
        settle(&engine);
        assert!(!Arc::ptr_eq(&runs(&engine)[0], &run), "it was made anew");
        holds_all(&engine, &model, "made anew").await;
    });
}

#[test]
fn a_merge_that_was_cut_short_leaves_one_of_each() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (live, before) = (home.path().join("live"), home.path().join("before"));
        let mut model = Model::new();
        for round in 0..7 {
            let engine = open(&live);
            write_keys(&engine, &mut model, 5, 1 + round * 5).await;
            close(engine).await;
        }
        copy(&live, &before);
        assert_eq!(files(&before).len(), 7, "each stop leaves a run");
        let engine = open(&live);
        write_keys(&engine, &mut model, 6, 100).await;
        engine.shared.keys.write_soon();
        settle(&engine);
        let [merged] = runs(&engine).try_into().unwrap();
        close(engine).await;
        assert_eq!(files(&live), [merged.path.as_path()]);
        let (name, bytes) = (merged.path.file_name().unwrap(), fs::read(&merged.path).unwrap());
        // Cut short while it is written; when it has its name; when some of the others are gone.
        for (n, (written, left)) in
            [(bytes.len() / 2, 7), (bytes.len(), 7), (bytes.len(), 3)].iter().enumerate()
        {
            let crashed = home.path().join(n.to_string());
            copy(&live, &crashed);
            let is_whole = *written == bytes.len();
            let path = crashed.join("keys").join(name);
            fs::remove_file(&path).unwrap();
            let path = if is_whole { path } else { path.with_extension("new") };
            fs::write(&path, &bytes[..*written]).unwrap();
            for old in files(&before).iter().rev().take(*left) {
                fs::copy(old, crashed.join("keys").join(old.file_name().unwrap())).unwrap();
            }
            let engine = open(&crashed);
            holds_all(&engine, &model, &format!("crash {n}")).await;
            if is_whole {
                assert_eq!(engine.shared.keys.state.lock().gaps(), []);
                assert_eq!(files(&crashed), [path], "crash {n}");
            }
            settle(&engine);
            holds_all(&engine, &model, &format!("crash {n}, settled")).await;
            assert_eq!(files(&crashed).len(), runs(&engine).len(), "nothing is left over");
        }
    });
}

/// A run leaves out what was replaced. Where the volumes do not have what replaced it, it must not be believed.
#[test]
fn runs_that_are_newer_than_the_volumes_are_not_believed() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (live, old) = (home.path().join("live"), home.path().join("old"));
        let (engine, mut model) = (open(&live), Model::new());
        write_keys(&engine, &mut model, 60, 1).await;
        close(engine).await;
        copy(&live, &old);
        let engine = open(&live);
        write_keys(&engine, &mut Model::new(), 60, 1000).await;
        close(engine).await;
        // Made anew: the first of them cover what the old volumes have, and have nothing of it.
        fs::remove_dir_all(live.join("keys")).unwrap();
        let engine = open(&live);
        settle(&engine);
        close(engine).await;
        fs::remove_dir_all(old.join("keys")).unwrap();
        copy(&live.join("keys"), &old.join("keys"));
        let engine = open(&old);
        holds_all(&engine, &model, "older volumes").await;
        settle(&engine);
        holds_all(&engine, &model, "older volumes, settled").await;
    });
}

#[test]
fn a_flip_anywhere_in_a_run_is_found_and_no_key_is_missed() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (stored, tried) = (home.path().join("stored"), home.path().join("tried"));
        let options = Options { memtable_bytes: 8 << 20, ..options() };
        let (engine, mut model) = (Engine::open(&stored, options.clone()).unwrap(), Model::new());
        write_keys(&engine, &mut model, 1500, 1).await;
        close(engine).await;
        let [run] = files(&stored).try_into().unwrap();
        let length = fs::metadata(&run).unwrap().len() as usize;
        let mut random = fastrand::Rng::with_seed(5);
        let anywhere = (0..20).map(|_| random.usize(..length));
        for at in [0, 8, 47, 48, length - 1, length - 33].into_iter().chain(anywhere) {
            copy(&stored, &tried);
            flip(&tried.join("keys").join(run.file_name().unwrap()), at);
            let engine = Engine::open(&tried, options.clone()).unwrap();
            holds_all(&engine, &model, &format!("byte {at}")).await;
            settle(&engine);
            holds_all(&engine, &model, &format!("byte {at}, made anew")).await;
            close(engine).await;
            assert_eq!(files(&tried).len(), 1);
            assert_ne!(length, 0);
            fs::remove_dir_all(&tried).unwrap();
        }
    });
}

#[test]
fn a_disk_that_takes_no_runs_costs_neither_keys_nor_memory() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().canonicalize().unwrap();
        let (recorder, mut model) = (Recorder::new(&dir), Model::new());
        recorder.fail(|change, path| {
            (path.starts_with("keys") && matches!(change, Change::Write { .. })).then_some(Errno::NOSPC)
        });
        let engine = open(&dir);
        write_keys(&engine, &mut model, 300, 1).await;
        {
            let state = engine.shared.keys.state.lock();
            assert!(state.waiting.len() <= MAX_WAITING && state.runs.is_empty());
            assert!(state.newest.bytes() < 1000 && !state.gaps().is_empty());
        }
        holds_all(&engine, &model, "no runs").await;
        recorder.heal();
        close(engine).await;
        let engine = open(&dir);
        settle(&engine);
        assert_eq!(engine.shared.keys.state.lock().gaps(), []);
        holds_all(&engine, &model, "room again").await;
    });
}

/// Keys that stay, keys that are overwritten all the time, keys that come and go; compaction and merges beside them.
#[test]
fn listings_beside_writers_miss_nothing_and_show_nothing_stale() {
    const STAYING: u64 = 200;
    const WRITERS: u64 = 4;
    const ROUNDS: u64 = 400;
    const LISTINGS: u64 = 4;
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = open(home.path());
        for n in 0..STAYING {
            put(&engine, &format!("k/{n:03}/stays"), 1, 10).await.unwrap();
        }
        // Of each writer's key: the version that was acknowledged, and the one that was begun.
        let told: Arc<Vec<[AtomicU64; 2]>> = Arc::new((0..WRITERS).map(|_| Default::default()).collect());
        let listings = Arc::new(AtomicU64::new(0));
        let writers = (0..WRITERS).map(|writer| {
            let (engine, told, listings) = (engine.clone(), told.clone(), listings.clone());
            tokio::spawn(async move {
                for n in 1..=ROUNDS {
                    told[writer as usize][1].store(n, Ordering::SeqCst);
                    put(&engine, &format!("k/{:03}/writer", writer * 50), n, 1500).await.unwrap();
                    told[writer as usize][0].store(n, Ordering::SeqCst);
                    put(&engine, &format!("x/{writer}/{n}"), n, 5).await.unwrap();
                    // However fast writes are, some listings are made beside them.
                    while listings.load(Ordering::SeqCst) < n * LISTINGS / ROUNDS {
                        tokio::task::yield_now().await;
                    }
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        let compactor = tokio::spawn({
            let engine = engine.clone();
            async move {
                while engine.usage().blobs < STAYING + WRITERS * (ROUNDS + 1) {
                    compact(&engine).await;
                    tokio::task::yield_now().await;
                }
            }
        });
        while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
            let acknowledged: Vec<u64> = told.iter().map(|of| of[0].load(Ordering::SeqCst)).collect();
            let mut found = Vec::new();
            loop {
                let after = found.last().map(|(name, ..): &Line| name.clone());
                let page = list(&engine, "k/", after.as_deref(), 37).await;
                if page.is_empty() {
                    break;
                }
                found.extend(page);
            }
            assert!(found.is_sorted());
            let staying = found.iter().filter(|(name, n, ..)| name.ends_with("stays") && *n == 1).count();
            assert_eq!(staying as u64, STAYING);
            for (writer, acknowledged) in acknowledged.into_iter().enumerate() {
                let name = format!("k/{:03}/writer", writer * 50);
                let n = found.iter().find(|(found, ..)| *found == name).map_or(0, |(_, n, ..)| *n);
                let begun = told[writer][1].load(Ordering::SeqCst);
                assert!((acknowledged..=begun).contains(&n), "{name}: {n}, not {acknowledged} to {begun}");
            }
            listings.fetch_add(1, Ordering::SeqCst);
        }
        for writer in writers {
            writer.await.unwrap();
        }
        compactor.await.unwrap();
        assert!(listings.load(Ordering::SeqCst) >= LISTINGS);
        assert!(engine.usage().reclaimed_bytes > 0, "volumes were removed meanwhile");
        settle(&engine);
        assert!(runs(&engine).len() <= MAX_RUNS);
        assert_eq!(list(&engine, "x/", None, usize::MAX).await.len() as u64, WRITERS * ROUNDS);
    });
}
