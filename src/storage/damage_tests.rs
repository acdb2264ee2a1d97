//! Tests of disks that cannot read, and of what the start knows of damage.

use std::{
    fs,
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Damaged, Engine, Options, Storage, StorageError, SyncMode, Wrong,
    compact_tests::{
        Held, block_on, check, copy, delete, get, names_of, options, put, rewrite_some, some_volumes,
    },
    power_cut::recorder::{Event, Recorder},
    pread::broken::break_part,
    rewrite::Stop,
    scrub,
};

const WITHIN: Duration = Duration::from_secs(120);
const PAGE: u64 = 4096;

fn big() -> Options {
    Options { small_limit: 300_000, volume_bytes: 4_000_000, ..options() }
}

fn names() -> Vec<String> {
    let kinds = ["small", "blocks", "whole"];
    (0..8).flat_map(|n| kinds.map(|kind| format!("{kind}/{n}"))).collect()
}

fn length(name: &str) -> usize {
    match name.split_once('/').unwrap().0 {
        "small" => 3000,
        "blocks" => 100_000,
        _ => 400_000,
    }
}

async fn write_all(engine: &Engine) {
    for name in names() {
        put(engine, &name, 1, length(&name)).await.unwrap();
    }
}

fn volume(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("volumes/{number:08}.vol"))
}

fn record(engine: &Engine, name: &str) -> Range<u64> {
    let entries = engine.shared.index.candidates(engine.shared.hash(name.as_bytes()));
    let entry = *entries.iter().next().unwrap();
    entry.place.offset()..entry.place.offset() + entry.record_bound()
}

fn file(engine: &Engine, name: &str) -> PathBuf {
    let hash = engine.shared.hash(name.as_bytes());
    let entry = *engine.shared.index.candidates(hash).iter().next().unwrap();
    engine.shared.layout.blob(engine.shared.index.file(hash, entry.place).unwrap().id)
}

fn is_whole(held: &Result<Held, StorageError>, name: &str) -> bool {
    matches!(held, Ok(Some((1, Some(bytes)))) if bytes.len() == length(name))
}

async fn listed(engine: &Engine) -> Vec<Damaged> {
    engine.damaged(None, 1000).await.unwrap()
}

fn scrub_all(engine: &Engine) {
    scrub::begin(&engine.shared, true);
    scrub::round(&engine.shared, &mut |_| true).unwrap();
}

/// Reads all: those of `lost` are damaged, all others are whole.
async fn only_lost(engine: &Engine, lost: &[String]) {
    for name in names() {
        let held = get(engine, &name).await;
        let is_damaged = matches!(held, Err(StorageError::Damaged(_)));
        assert_eq!(
            (is_damaged, is_whole(&held, &name)),
            (lost.contains(&name), !lost.contains(&name)),
            "{name}"
        );
    }
}

#[test]
fn what_the_disk_cannot_read_costs_that_blob_and_nothing_else() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = Engine::open(home.path(), big()).unwrap();
        write_all(&engine).await;
        // A page of data; a page with a head, which may hold the end of the record before; a page of a file.
        let in_data = record(&engine, "blocks/2").start + 50_000;
        let at_head = record(&engine, "blocks/5").start;
        let pages = [in_data, at_head].map(|at| at / PAGE * PAGE..at / PAGE * PAGE + PAGE);
        let _broken = pages.each_ref().map(|page| break_part(&volume(home.path(), 1), page.clone()));
        let broken_file = break_part(&file(&engine, "whole/3"), 200_000..200_001);
        let touched = |name: &String| {
            let record = record(&engine, name);
            // The index rounds the length up.
            pages.iter().any(|page| record.start < page.end && page.start + 3 < record.end)
        };
        let mut lost: Vec<String> = names().into_iter().filter(touched).collect();
        assert!(lost.len() >= 2 && lost.len() <= 4, "{lost:?}");
        lost.push("whole/3".to_owned());
        only_lost(&engine, &lost).await;
        scrub_all(&engine);
        let found = listed(&engine).await;
        assert_eq!(found.len(), lost.len(), "{found:?}");
        let stopped = rewrite_some(&engine, 1, usize::MAX).await;
        assert!(matches!(stopped, Err(Stop::LeaveAlone(_))), "{stopped:?}");
        only_lost(&engine, &lost).await;
        // What can be read again is given out again.
        drop(broken_file);
        scrub_all(&engine);
        lost.pop();
        only_lost(&engine, &lost).await;
        let listed_keys = engine.list("", None, 1000).await.unwrap().len();
        assert!(listed_keys >= names().len() - heads(&engine, &pages), "{listed_keys}");
        engine.close().await.unwrap();
        drop(engine);
        let engine = Engine::open(home.path(), big()).unwrap();
        only_lost(&engine, &lost).await;
        drop(engine);
        // Without the index nobody knows whose heads are on those pages.
        fs::remove_file(home.path().join("INDEX")).unwrap();
        let engine = Engine::open(home.path(), big()).unwrap();
        assert!(listed(&engine).await.iter().any(|one| one.what == Wrong::NoRecord));
        for name in names() {
            let held = get(&engine, &name).await;
            assert!(is_whole(&held, &name) || lost.contains(&name), "{name}");
        }
    });
}

/// How many records begin on these pages.
fn heads(engine: &Engine, pages: &[Range<u64>]) -> usize {
    names()
        .iter()
        .filter(|name| {
            pages.iter().any(|page| {
                let head = record(engine, name).start;
                head < page.end && head + 100 > page.start
            })
        })
        .count()
}

#[test]
fn a_page_of_the_tail_that_cannot_be_read_is_no_write_that_never_ended() {
    block_on(async {
        // Of the last record, and of one before it: the data, then the head.
        for (name, at) in [("last", 5000), ("last", 20), ("middle", 5000), ("middle", 20)] {
            let home = tempfile::tempdir().unwrap();
            let (live, crashed) = (home.path().join("live"), home.path().join("crashed"));
            let options = Options { sync: SyncMode::Group, ..big() };
            let engine = Engine::open(&live, options.clone()).unwrap();
            for name in ["first", "middle", "last"] {
                put(&engine, name, 1, 10_000).await.unwrap();
            }
            copy(&live, &crashed);
            let place = record(&engine, name).start + at;
            let _broken = break_part(&volume(&crashed, 1), place..place + 1);
            let before = fs::metadata(volume(&crashed, 1)).unwrap().len();
            for start in 0..2 {
                let engine = Engine::open(&crashed, options.clone()).unwrap();
                assert_eq!(fs::metadata(volume(&crashed, 1)).unwrap().len(), before, "nothing is cut off");
                // The record of a damaged blob is in the saved index, and seen again when it is read.
                assert_eq!(engine.usage().damaged, u64::from(start == 0 || at == 20), "{name} at {at}");
                for other in ["first", "middle", "last"].into_iter().filter(|other| *other != name) {
                    assert!(get(&engine, other).await.unwrap().is_some(), "{other} beside {name} at {at}");
                }
                if at == 5000 {
                    assert!(matches!(get(&engine, name).await, Err(StorageError::Damaged(_))), "{name}");
                }
                put(&engine, "more", 1, 100).await.unwrap();
                assert!(volume(&crashed, 2).exists(), "nothing is written behind it");
                engine.close().await.unwrap();
            }
        }
    });
}

#[test]
fn a_superblock_that_cannot_be_read_costs_neither_the_start_nor_the_saved_index() {
    block_on(async {
        for unreadable in [false, true] {
            let home = tempfile::tempdir().unwrap();
            let engine = Engine::open(home.path(), options()).unwrap();
            let model = some_volumes(&engine).await;
            let ends: Vec<u64> = engine.shared.volumes.all().iter().map(|volume| volume.end()).collect();
            drop(engine);
            let broken = unreadable.then(|| break_part(&volume(home.path(), 3), 0..1));
            if !unreadable {
                let mut bytes = fs::read(volume(home.path(), 3)).unwrap();
                bytes[40] ^= 1;
                fs::write(volume(home.path(), 3), bytes).unwrap();
            }
            // What was never acknowledged, which the damaged superblock said is none of the volume before.
            let mut second = fs::read(volume(home.path(), 2)).unwrap();
            second.extend_from_slice(b"half a record");
            fs::write(volume(home.path(), 2), second).unwrap();
            let index = || fs::metadata(home.path().join("INDEX")).unwrap().ino();
            let saved = index();
            for _ in 0..2 {
                let engine = Engine::open(home.path(), options()).unwrap();
                assert_eq!(index(), saved, "it was used");
                let found: Vec<u64> = engine.shared.volumes.all().iter().map(|volume| volume.end()).collect();
                assert_eq!(found, ends);
                let found: Vec<_> = listed(&engine).await.into_iter().map(|one| one.what).collect();
                assert_eq!(found, [Wrong::Superblock]);
                // As below, but for the damage.
                for name in names_of(&model) {
                    let (n, length) = model[&name];
                    assert!(get(&engine, &name).await.unwrap().unwrap().0 == n, "{name} {length:?}");
                }
            }
            drop(broken);
            let engine = Engine::open(home.path(), options()).unwrap();
            scrub_all(&engine);
            check(&engine, &model, &names_of(&model), false).await;
        }
    });
}

#[test]
fn a_stretch_without_records_is_counted_once_and_goes_with_its_volume() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = Engine::open(home.path(), options()).unwrap();
        some_volumes(&engine).await;
        drop(engine);
        let mut bytes = fs::read(volume(home.path(), 2)).unwrap();
        bytes[64..80].fill(0);
        fs::write(volume(home.path(), 2), bytes).unwrap();
        fs::remove_file(home.path().join("INDEX")).unwrap();
        let mut place = None;
        for n in 1..4 {
            let engine = Engine::open(home.path(), options()).unwrap();
            let found = listed(&engine).await;
            assert_eq!((found.len(), engine.usage().damaged), (1, 1), "start {n}");
            let now = Some((found[0].place, found[0].found_ms));
            assert!(place.is_none() || place == now, "{place:?}, {now:?}");
            place = now;
            scrub_all(&engine);
            assert_eq!(engine.usage().damaged, 1);
            // So that the index is saved again.
            put(&engine, "more", n, 10).await.unwrap();
        }
        fs::remove_file(volume(home.path(), 2)).unwrap();
        assert_eq!(Engine::open(home.path(), options()).unwrap().usage().damaged, 0);
    });
}

#[test]
fn a_whole_file_whose_head_is_unreadable_goes_when_it_is_replaced() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = Engine::open(home.path(), big()).unwrap();
        for name in ["overwritten", "deleted", "kept"] {
            put(&engine, name, 1, 400_000).await.unwrap();
        }
        let files = ["overwritten", "deleted"].map(|name| file(&engine, name));
        let _broken = ["overwritten", "deleted"].map(|name| {
            let at = record(&engine, name).start;
            break_part(&volume(home.path(), 1), at..at + 1)
        });
        put(&engine, "overwritten", 2, 10).await.unwrap();
        delete(&engine, "deleted", 2).await.unwrap();
        assert_eq!((engine.usage().blobs, engine.usage().blob_bytes), (2, 400_010));
        let numbers = engine.shared.totals.numbers();
        assert_eq!(numbers.file_bytes, super::whole::file_length(400_000));
        // They are removed by another thread.
        let started = Instant::now();
        while files.iter().any(|file| file.exists()) {
            assert!(started.elapsed() < WITHIN, "their space is not given back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn what_is_saved_is_not_saved_again_at_the_stop() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let options = Options { index_save_bytes: 1, ..options() };
        let engine = Engine::open(home.path(), options.clone()).unwrap();
        put(&engine, "one", 1, 100).await.unwrap();
        let index = home.path().join("INDEX");
        let started = Instant::now();
        while !index.exists() {
            assert!(started.elapsed() < WITHIN, "no index was saved");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let saved = fs::metadata(&index).unwrap().ino();
        engine.close().await.unwrap();
        drop(engine);
        assert_eq!(fs::metadata(&index).unwrap().ino(), saved);
        let engine = Engine::open(home.path(), Options { index_save_bytes: u64::MAX, ..options }).unwrap();
        assert!(get(&engine, "one").await.unwrap().is_some());
        put(&engine, "two", 1, 100).await.unwrap();
        engine.close().await.unwrap();
        assert_ne!(fs::metadata(&index).unwrap().ino(), saved, "there was something new");
    });
}

/// Which files were synced, by the last name each had.
fn synced(events: &[Event]) -> Vec<PathBuf> {
    let mut names: std::collections::HashMap<usize, PathBuf> = std::collections::HashMap::new();
    let mut synced = Vec::new();
    for event in events {
        match event {
            Event::Create { file, path } => drop(names.insert(*file, path.clone())),
            Event::Rename { from, to } => {
                names.values_mut().filter(|name| *name == from).for_each(|name| name.clone_from(to));
            }
            Event::Sync { file } => synced.extend(names.get(file).cloned()),
            _ => {}
        }
    }
    synced
}

#[test]
fn files_of_blobs_are_durable_before_a_saved_index_names_them() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("data");
        fs::create_dir(&dir).unwrap();
        let recorder = Recorder::new(&dir);
        let options = Options { sync: SyncMode::Never, ..big() };
        let engine = Engine::open(&dir, options).unwrap();
        put(&engine, "whole", 1, 400_000).await.unwrap();
        let name = file(&engine, "whole").strip_prefix(&dir).unwrap().to_owned();
        assert!(!synced(&recorder.events()).contains(&name), "never means never");
        engine.close().await.unwrap();
        let events = recorder.events();
        let saved = |event: &Event| matches!(event, Event::Rename { to, .. } if to == Path::new("INDEX"));
        let saved = events.iter().position(saved).unwrap();
        assert!(synced(&events[..saved]).contains(&name));
        let folder = name.parent().unwrap();
        let is_folder = |event: &Event| matches!(event, Event::SyncFolder { path } if path == folder);
        assert!(events[..saved].iter().any(is_folder));
    });
}

#[test]
fn files_of_a_process_that_was_killed_are_synced_too() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (live, killed) = (home.path().join("live"), home.path().join("killed"));
        let engine = Engine::open(&live, Options { sync: SyncMode::Never, ..big() }).unwrap();
        put(&engine, "whole", 1, 400_000).await.unwrap();
        copy(&live, &killed);
        let engine: Arc<Engine> = Engine::open(&killed, Options { sync: SyncMode::Group, ..big() }).unwrap();
        assert_eq!(engine.shared.unsynced_files.lock().len(), 1);
        engine.close().await.unwrap();
        assert!(engine.shared.unsynced_files.lock().is_empty());
    });
}
