//! Power cuts: every change to a directory is recorded, and what a power cut could leave of it at any moment is built.
//! What an engine then finds there is held against what was acknowledged.
//!
//! - `recorder`: the changes, in order; it makes them fail too
//! - `cut`: what may be on a disk after a power cut
//! - `story`: what happens before; `history`: what must, and what may, be there afterwards
//! - `steps`: cuts after a single step

mod cut;
mod history;
pub mod recorder;
mod steps;
mod story;

use std::{fs, path::Path, sync::Arc};

use fastrand::Rng;
use rustix::io::Errno;

use self::{
    cut::Disk,
    recorder::{Change, Event, Recorder},
    story::{Plot, Story, home},
};
use super::{
    Engine, Options, Storage, SyncMode,
    compact_tests::{self, Model, SMALL, body, check, delete, get, put},
};

/// As many cuts as all tests here make together: a minute of two cores. `BACKPACK_CUTS` asks for more.
const CUTS: usize = 5_000;
/// Cuts of one story.
const CUTS_OF_A_STORY: usize = 250;
/// What happened before a cut that went wrong.
const SHOWN_EVENTS: usize = 60;
/// Versions of what is written after the cut are greater than all before.
const AFTER: u64 = 1_000_000;

fn number_from_environment(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

/// Tells stories of that plot, and cuts the power in them: that part, in percent, of all cuts.
fn cut_stories(plot: Plot, percent: usize) {
    let cuts = number_from_environment("BACKPACK_CUTS").map_or(CUTS, |cuts| cuts as usize) * percent / 100;
    let first_seed = number_from_environment("BACKPACK_SEED").unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for seed in (first_seed..).take(cuts.div_ceil(CUTS_OF_A_STORY)) {
        let story = runtime.block_on(Story::tell(plot, seed));
        let mut random = Rng::with_seed(seed);
        let mut positions: Vec<usize> = (0..CUTS_OF_A_STORY).map(|_| position(&story, &mut random)).collect();
        positions.sort_unstable();
        let mut disk = Disk::default();
        let mut events = story.events.iter();
        let mut happened = 0;
        for position in positions {
            events.by_ref().take(position - happened).for_each(|event| disk.happen(event));
            happened = position;
            let scene = Scene { story: &story, seed, position, cut_seed: random.u64(..) };
            runtime.block_on(scene.play(&disk));
        }
    }
}

/// Somewhere in the story; where the index is saved, which has many events, rarely.
fn position(story: &Story, random: &mut Rng) -> usize {
    loop {
        let position = random.usize(1..=story.events.len());
        let is_rare = story.is_of_index(&story.events[position - 1]);
        if !is_rare || random.u8(0..50) == 0 {
            return position;
        }
    }
}

/// A power cut, and what comes after it.
struct Scene<'a> {
    story: &'a Story,
    seed: u64,
    position: usize,
    cut_seed: u64,
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { story, seed, position, cut_seed } = self;
            eprintln!("BACKPACK_SEED={seed}, cut at event {position} with seed {cut_seed}, after:");
            let events = story.events.iter().enumerate().take(*position);
            // Without those of which there are too many.
            let all: Vec<_> = events.filter(|(_, event)| !story.is_of_index(event)).collect();
            for (at, event) in &all[all.len().saturating_sub(SHOWN_EVENTS)..] {
                eprintln!("{at}: {}", brief(event));
            }
        }
    }
}

fn brief(event: &Event) -> String {
    match event {
        Event::Write { file, bytes, offset } => {
            let bytes = bytes.len();
            format!("Write {{ file: {file}, offset: {offset}, {bytes} bytes }}")
        }
        other => format!("{other:?}"),
    }
}

impl Scene<'_> {
    async fn play(&self, disk: &Disk) {
        let Story { options, history, names, .. } = self.story;
        let mut random = Rng::with_seed(self.cut_seed);
        let home = home();
        let dir = home.path().join("cut");
        disk.cut(&mut random, &dir);
        let history = history.at(self.position);
        if random.u8(0..6) > 0 {
            let engine = Engine::open(&dir, options.clone()).unwrap();
            let model = history.settle(&engine, names, options).await;
            go_on(engine, &dir, model, self.story).await;
            return;
        }
        // And once more, while what the first cut left is put in order, or soon after.
        let recorder = Recorder::new(&dir);
        let first = recorder.position();
        let engine = Engine::open(&dir, options.clone()).unwrap();
        let opened = recorder.position();
        let model = history.settle(&engine, names, options).await;
        drop(engine);
        let events = recorder.events();
        let again = home.path().join("again");
        let position = random.usize(first..=events.len());
        Disk::after(&events[..position]).cut(&mut random, &again);
        let engine = Engine::open(&again, options.clone()).unwrap();
        let settled = history.settle(&engine, names, options).await;
        if position >= opened && options.sync != SyncMode::Never {
            assert_eq!(settled, model, "what was shown once stays");
        }
        go_on(engine, &again, settled, self.story).await;
    }
}

/// Writes, and starts again: everything is there.
async fn go_on(engine: Arc<Engine>, dir: &Path, mut model: Model, story: &Story) {
    let Story { options, names, .. } = story;
    hold(&engine, &model, story).await;
    if options.sync != SyncMode::Never {
        let is_whole = |(_, length): &&(u64, Option<usize>)| {
            length.is_some_and(|length| length as u64 > options.small_limit)
        };
        assert_eq!(files(&dir.join("blobs")), model.values().filter(is_whole).count());
    }
    assert_eq!(files(&dir.join("tmp")), 0);
    put(&engine, &names[0], AFTER, 300).await.unwrap();
    put(&engine, &names[1], AFTER, options.small_limit as usize + 1).await.unwrap();
    delete(&engine, &names[2], AFTER).await.unwrap();
    model.insert(names[0].clone(), (AFTER, Some(300)));
    model.insert(names[1].clone(), (AFTER, Some(options.small_limit as usize + 1)));
    model.insert(names[2].clone(), (AFTER, None));
    engine.close().await.unwrap();
    drop(engine);
    let engine = Engine::open(dir, options.clone()).unwrap();
    hold(&engine, &model, story).await;
}

/// Holds the engine against the model, with all its lists and counts. Where nothing is synced, keys may be damaged, and
/// are not in the model.
async fn hold(engine: &Engine, model: &Model, Story { options, names, .. }: &Story) {
    if options.sync == SyncMode::Never {
        for (name, (n, length)) in model {
            let held = get(engine, name).await.unwrap();
            assert_eq!(held, Some((*n, length.map(|length| body(name, *n, length)))), "{name}");
        }
    } else {
        check(engine, model, names, false).await;
    }
}

/// How many files are in a folder and those in it.
fn files(folder: &Path) -> usize {
    let count = |entry: fs::DirEntry| if entry.path().is_dir() { files(&entry.path()) } else { 1 };
    fs::read_dir(folder).unwrap().map(|entry| count(entry.unwrap())).sum()
}

#[test]
fn the_first_start() {
    let plot = Plot { sync: SyncMode::Group, steps: 3, compactions: 0, stops: 0, kills: 50, faults: 0 };
    cut_stories(plot, 10);
}

#[test]
fn groups_of_writes() {
    let plot = Plot { sync: SyncMode::Group, steps: 40, compactions: 0, stops: 5, kills: 5, faults: 0 };
    cut_stories(plot, 30);
}

#[test]
fn compaction() {
    let plot = Plot { sync: SyncMode::Group, steps: 60, compactions: 25, stops: 5, kills: 5, faults: 0 };
    cut_stories(plot, 30);
}

#[test]
fn syncs_that_fail() {
    let plot = Plot { sync: SyncMode::Group, steps: 40, compactions: 15, stops: 5, kills: 0, faults: 20 };
    cut_stories(plot, 10);
}

#[test]
fn a_sync_for_each_write() {
    let plot = Plot { sync: SyncMode::Always, steps: 40, compactions: 15, stops: 5, kills: 5, faults: 0 };
    cut_stories(plot, 10);
}

#[test]
fn no_syncs() {
    let plot = Plot { sync: SyncMode::Never, steps: 40, compactions: 15, stops: 5, kills: 5, faults: 0 };
    cut_stories(plot, 10);
}

/// Cuts the power many times after that; opens what is left, and has it looked at.
async fn cut_after(events: &[Event], look: impl AsyncFn(&Engine)) {
    let disk = Disk::after(events);
    for seed in 0..100 {
        let home = home();
        disk.cut(&mut Rng::with_seed(seed), &home.path().join("cut"));
        look(&Engine::open(home.path().join("cut"), compact_tests::options()).unwrap()).await;
    }
}

/// Its superblock says where the volume before it ends, and that one was written to afterwards.
#[tokio::test]
async fn a_volume_that_could_not_be_begun_takes_nothing_with_it_when_it_comes_back() {
    let options = Options { sync: SyncMode::Group, ..compact_tests::options() };
    for restart in [false, true] {
        let home = home();
        let recorder = Recorder::new(home.path());
        let mut engine = Engine::open(home.path(), options.clone()).unwrap();
        let mut n = 0;
        // Until only small ones fit.
        while engine.shared.volumes.last().is_none_or(|last| last.end() + SMALL < options.volume_bytes) {
            n += 1;
            put(&engine, "a", n, SMALL as usize).await.unwrap();
        }
        recorder.fail(|change, path| {
            let is_second = path.ends_with("volumes/00000002.vol");
            (is_second && matches!(change, Change::Sync(_))).then_some(Errno::IO)
        });
        assert!(put(&engine, "b", 1, SMALL as usize).await.is_err());
        recorder.heal();
        if restart {
            drop(engine);
            engine = Engine::open(home.path(), options.clone()).unwrap();
        }
        put(&engine, "c", 1, 100).await.unwrap();
        cut_after(&recorder.events(), async |engine| {
            assert!(get(engine, "c").await.unwrap().is_some(), "it was acknowledged");
        })
        .await;
    }
}
