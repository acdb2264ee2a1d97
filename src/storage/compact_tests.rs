//! Tests of compaction: stopped or crashed at each of its steps, beside damage, readers and tombstones.

#[path = "../../tests/support/files.rs"]
mod files;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

pub use self::files::copy;
use super::{
    Before, Engine, Found, NewBlob, Options, Storage, StorageError, SyncMode, compact,
    rewrite::{Rewritten, Stop, rewrite},
    tombstones,
    volume::Volume,
};
use crate::model::{Meta, Version};

/// Bigger blobs get a file of their own.
pub const SMALL: u64 = 8_000;
pub const FOR_EVER: Duration = Duration::from_secs(1 << 40);

/// Small volumes, and no compaction but what the test does.
pub fn options() -> Options {
    Options {
        sync: SyncMode::Never,
        volume_bytes: SMALL + (64 << 10),
        small_limit: SMALL,
        reserve_bytes: 4096,
        compact_bytes_per_second: 0,
        scrub_bytes_per_second: 0,
        compact_dead_ratio: 0.05,
        tombstone_age: FOR_EVER,
        ..Options::default()
    }
}

/// The bytes of that version of a key: what is read tells what was written.
pub fn body(name: &str, n: u64, length: usize) -> Vec<u8> {
    let part = format!("{name}@{n};");
    let mut bytes = part.repeat(length / part.len() + 1).into_bytes();
    bytes.truncate(length);
    bytes
}

fn version(n: u64) -> Version {
    Version::from_parts(n, 1)
}

pub async fn put(engine: &Engine, name: &str, n: u64, length: usize) -> Result<Before, StorageError> {
    let new =
        NewBlob { key: name.parse().unwrap(), version: version(n), meta: Meta::default(), length: None };
    let mut writer = engine.create(new).await?;
    writer.write(Bytes::from(body(name, n, length))).await?;
    writer.commit().await.map(|written| written.before)
}

pub async fn delete(engine: &Engine, name: &str, n: u64) -> Result<Before, StorageError> {
    engine.delete(&name.parse().unwrap(), version(n)).await.map(|written| written.before)
}

/// What a key holds: the version and the bytes; no bytes for a tombstone.
pub type Held = Option<(u64, Option<Vec<u8>>)>;

pub async fn get(engine: &Engine, name: &str) -> Result<Held, StorageError> {
    Ok(match engine.open(&name.parse().unwrap()).await? {
        None => None,
        Some(Found::Tombstone(version)) => Some((version.unix_ms(), None)),
        Some(Found::Blob(blob)) => {
            let bytes = blob.read(0, blob.info().length).await?;
            Some((blob.info().version.unix_ms(), Some(bytes.to_vec())))
        }
    })
}

/// Rewrites that volume; stops where `steps` are used up.
pub async fn rewrite_some(engine: &Engine, number: u32, mut steps: usize) -> Result<Rewritten, Stop> {
    let shared = engine.shared.clone();
    let work = move || {
        rewrite(&shared, number, &mut |_| {
            steps = steps.saturating_sub(1);
            steps > 0
        })
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

pub fn next(engine: &Engine) -> Option<u32> {
    compact::next(&engine.shared, &HashMap::new())
}

/// Rewrites all that is worth it.
pub async fn compact(engine: &Engine) {
    for _ in 0..100 {
        let Some(number) = next(engine) else { return };
        rewrite_some(engine, number, usize::MAX).await.unwrap();
    }
    panic!("compaction does not come to an end");
}

/// Finds tombstones that may go.
pub async fn find_tombstones(engine: &Engine) {
    let shared = engine.shared.clone();
    let find = move || {
        let needless = tombstones::find(&shared, usize::MAX, &mut |_| true).unwrap();
        *shared.compaction.needless.lock() = needless;
    };
    tokio::task::spawn_blocking(find).await.unwrap();
}

pub fn block_on<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// Bytes of live records and how many there are, by volume, as they are counted while the engine runs.
pub fn counted(engine: &Engine) -> Vec<(u32, u64, u64, u64)> {
    let count =
        |volume: &Arc<Volume>| (volume.number, volume.end(), volume.live_records(), volume.live_bytes());
    engine.shared.volumes.all().iter().map(count).collect()
}

/// What the keys hold: version, and the length of the blob or `None` for a tombstone.
pub type Model = BTreeMap<String, (u64, Option<usize>)>;

/// Holds the engine against the model. Where tombstones may go, a deleted key may hold nothing.
pub async fn check(engine: &Engine, model: &Model, names: &[String], tombstones_go: bool) {
    for name in names {
        let held = get(engine, name).await.unwrap();
        match model.get(name) {
            None => assert_eq!(held, None, "{name}"),
            Some((n, Some(length))) => {
                assert!(held == Some((*n, Some(body(name, *n, *length)))), "{name} has not version {n}");
            }
            Some((n, None)) => {
                let gone = tombstones_go && held.is_none();
                assert!(
                    gone || held == Some((*n, None)),
                    "{name} was deleted by {n}, is {:?}",
                    held.map(|h| h.0)
                );
            }
        }
    }
    let listed = engine.list("", None, usize::MAX).await.unwrap();
    let blobs = |(name, (n, length)): (&String, &(u64, Option<usize>))| {
        length.map(|length| (name.clone(), *n, length as u64))
    };
    let expected: Vec<_> = model.iter().filter_map(blobs).collect();
    let found = listed.iter().filter(|one| !one.deleted);
    let found: Vec<_> =
        found.map(|one| (one.key.as_str().to_owned(), one.version.unix_ms(), one.length)).collect();
    assert_eq!(found, expected);
    let usage = engine.usage();
    assert_eq!((usage.blobs, usage.damaged), (expected.len() as u64, 0));
    assert_eq!(usage.blob_bytes, expected.iter().map(|(_, _, length)| length).sum::<u64>());
    assert_eq!(usage.tombstones, listed.len() as u64 - expected.len() as u64);
    let live: u64 = counted(engine).iter().map(|(_, _, records, _)| records).sum();
    assert_eq!(live, listed.len() as u64);
}

/// Three volumes that hold something of everything, the second of them worth compacting, and a fourth.
pub async fn some_volumes(engine: &Engine) -> Model {
    let mut model = Model::new();
    let mut n = 0;
    let mut write = async |name: &str, length: Option<usize>| {
        n += 1;
        match length {
            Some(length) => put(engine, name, n, length).await.unwrap(),
            None => delete(engine, name, n).await.unwrap(),
        };
        model.insert(name.to_owned(), (n, length));
    };
    for volume in 0..4 {
        for key in 0..8 {
            write(&format!("{volume}/{key}"), Some(SMALL as usize - key)).await;
        }
        write(&format!("{volume}/whole"), Some(20_000)).await;
        write(&format!("{volume}/overwritten"), Some(10)).await;
        // Deletes and overwrites of what is in the volume before.
        write("1/whole", None).await;
        write(&format!("{}/0", volume.max(1) - 1), None).await;
        write(&format!("{}/overwritten", volume.max(1) - 1), Some(11)).await;
        write("1/7", Some(5_000)).await;
        write(&format!("{volume}/never"), None).await;
    }
    model
}

pub fn names_of(model: &Model) -> Vec<String> {
    model.keys().cloned().collect()
}

/// The volume that the tests below compact: neither the first nor the last.
pub const VICTIM: u32 = 2;

#[test]
fn a_crash_or_a_stop_at_any_step_leaves_everything_as_it_was() {
    // Of the first volume tombstones may go; before the second one there are dead records.
    for (victim, tombstones_go) in [(VICTIM, false), (VICTIM, true), (1, true)] {
        block_on(async {
            let home = tempfile::tempdir().unwrap();
            let (live, crashed) = (home.path().join("live"), home.path().join("crashed"));
            let tombstone_age = if tombstones_go { Duration::ZERO } else { FOR_EVER };
            let options = Options { tombstone_age, ..options() };
            let mut ends = 0;
            for steps in 1.. {
                let engine = Engine::open(&live, options.clone()).unwrap();
                let model = some_volumes(&engine).await;
                let names = names_of(&model);
                find_tombstones(&engine).await;
                let stopped = rewrite_some(&engine, victim, steps).await;
                check(&engine, &model, &names, tombstones_go).await;
                copy(&live, &crashed);
                // Whether it crashed there or goes on.
                for dir in [Some(&crashed), None] {
                    let reopened = dir.map(|dir| Engine::open(dir, options.clone()).unwrap());
                    let engine = reopened.as_ref().unwrap_or(&engine);
                    check(engine, &model, &names, tombstones_go).await;
                    compact(engine).await;
                    check(engine, &model, &names, tombstones_go).await;
                    assert!(engine.shared.volumes.get(victim).is_none());
                }
                drop(engine);
                check(&Engine::open(&crashed, options.clone()).unwrap(), &model, &names, tombstones_go).await;
                fs::remove_dir_all(&live).unwrap();
                fs::remove_dir_all(&crashed).unwrap();
                if stopped.is_ok() {
                    ends = steps;
                    break;
                }
            }
            assert!(ends > 9, "it has {ends} steps");
        });
    }
}

#[test]
fn volumes_removed_in_any_order_leave_the_chain_of_superblocks_whole() {
    block_on(async {
        for steps in 1.. {
            let home = tempfile::tempdir().unwrap();
            let engine = Engine::open(home.path(), options()).unwrap();
            let model = some_volumes(&engine).await;
            let first = engine.shared.volumes.get(1).unwrap();
            if rewrite_some(&engine, VICTIM + 1, steps).await.is_ok() {
                assert!(steps > 6, "it was stopped before each of {steps} steps");
                break;
            }
            rewrite_some(&engine, VICTIM, usize::MAX).await.unwrap();
            rewrite_some(&engine, VICTIM + 1, usize::MAX).await.unwrap();
            let next = engine.shared.volumes.after(1).unwrap();
            let superblock = Volume::superblock(&next.file, engine.shared.layout.store, next.number);
            let superblock = superblock.unwrap().unwrap();
            assert_eq!((superblock.previous, superblock.previous_length), (1, first.end()), "{steps} steps");
            check(&engine, &model, &names_of(&model), false).await;
        }
    });
}

#[test]
fn a_tombstone_stays_while_it_is_young_or_an_older_record_of_its_key_is_left() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let passed = Options { tombstone_age: Duration::ZERO, compact_dead_ratio: 0.9, ..options() };
        let mut number = 1;
        // Blobs that are overwritten at once, until the last volume is full.
        let mut fill = async |engine: &Engine| {
            let last = engine.shared.volumes.last().unwrap().number;
            while engine.shared.volumes.last().unwrap().number == last {
                number += 1;
                put(engine, "filler", number, SMALL as usize).await.unwrap();
            }
        };
        let gone = |engine: &Engine, volume| engine.shared.volumes.get(volume).is_none();
        let deleted = async |engine: &Engine, name| match get(engine, name).await.unwrap() {
            None => false,
            Some((2, None)) => true,
            other => panic!("{other:?}"),
        };
        let engine =
            Engine::open(home.path(), Options { tombstone_age: FOR_EVER, ..passed.clone() }).unwrap();
        for name in ["kept/1", "kept/2", "deleted"] {
            put(&engine, name, 1, SMALL as usize).await.unwrap();
        }
        fill(&engine).await;
        for name in ["deleted", "never"] {
            delete(&engine, name, 2).await.unwrap();
        }
        fill(&engine).await;
        find_tombstones(&engine).await;
        compact(&engine).await;
        assert!(gone(&engine, 2) && !gone(&engine, 1));
        assert!(deleted(&engine, "deleted").await && deleted(&engine, "never").await, "they are young");
        drop(engine);

        // Their age has passed. The first volume has what one of them deleted.
        let engine = Engine::open(home.path(), passed.clone()).unwrap();
        assert!(deleted(&engine, "deleted").await && deleted(&engine, "never").await);
        fill(&engine).await;
        compact(&engine).await;
        assert!(gone(&engine, 3) && engine.usage().tombstones == 2, "nobody looked whether they are needed");
        fill(&engine).await;
        find_tombstones(&engine).await;
        compact(&engine).await;
        assert!(deleted(&engine, "deleted").await && !deleted(&engine, "never").await);
        drop(engine);

        let engine =
            Engine::open(home.path(), Options { compact_dead_ratio: 0.05, ..passed.clone() }).unwrap();
        assert!(deleted(&engine, "deleted").await && !deleted(&engine, "never").await);
        compact(&engine).await;
        assert!(gone(&engine, 1) && deleted(&engine, "deleted").await);
        fill(&engine).await;
        find_tombstones(&engine).await;
        compact(&engine).await;
        drop(engine);
        let engine = Engine::open(home.path(), passed).unwrap();
        assert_eq!(engine.usage().tombstones, 0);
        assert!(!deleted(&engine, "deleted").await);
        assert_eq!(get(&engine, "kept/2").await.unwrap().unwrap().0, 1);
    });
}

#[test]
fn a_volume_with_damage_stays_until_it_is_repaired() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = Engine::open(home.path(), options()).unwrap();
        let model = some_volumes(&engine).await;
        drop(engine);
        let path = home.path().join(format!("volumes/{VICTIM:08}.vol"));
        let mut bytes = fs::read(&path).unwrap();
        let wound = body("1/5", model["1/5"].0, 30);
        let at = bytes.windows(wound.len()).position(|part| part == wound).unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();

        let engine = Engine::open(home.path(), options()).unwrap();
        for _ in 0..2 {
            let stopped = rewrite_some(&engine, VICTIM, usize::MAX).await;
            assert!(matches!(stopped, Err(Stop::LeaveAlone(_))), "{stopped:?}");
            assert!(matches!(get(&engine, "1/5").await, Err(StorageError::Damaged(_))));
            assert_eq!(engine.usage().damaged, 1);
        }
        drop(engine);
        let engine = Engine::open(home.path(), options()).unwrap();
        assert!(matches!(get(&engine, "1/5").await, Err(StorageError::Damaged(_))));
        let (n, length) = model["1/5"];
        put(&engine, "1/5", n, length.unwrap()).await.unwrap();
        rewrite_some(&engine, VICTIM, usize::MAX).await.unwrap();
        check(&engine, &model, &names_of(&model), false).await;
    });
}

#[test]
fn a_damaged_stretch_and_lost_bytes_keep_their_volume() {
    block_on(async {
        for lost in [false, true] {
            let home = tempfile::tempdir().unwrap();
            let engine = Engine::open(home.path(), options()).unwrap();
            some_volumes(&engine).await;
            drop(engine);
            let path = home.path().join(format!("volumes/{VICTIM:08}.vol"));
            let mut bytes = fs::read(&path).unwrap();
            if lost {
                bytes.truncate(bytes.len() - 100);
            } else {
                bytes[64..80].fill(0);
            }
            fs::write(&path, bytes).unwrap();
            // A start that has it does not read the heads.
            fs::remove_file(home.path().join("INDEX")).unwrap();
            for _ in 0..2 {
                let engine = Engine::open(home.path(), options()).unwrap();
                assert_eq!(engine.usage().damaged, 1);
                let stopped = rewrite_some(&engine, VICTIM, usize::MAX).await;
                assert!(matches!(stopped, Err(Stop::LeaveAlone(_))), "{stopped:?}");
                // What is told of a volume that lost its end stays, though the one that told it goes.
                let next = rewrite_some(&engine, VICTIM + 1, usize::MAX).await;
                assert!(next.is_ok() || engine.shared.volumes.get(VICTIM + 1).is_none());
            }
        }
    });
}

#[test]
fn a_stretch_that_is_settled_is_no_damage_and_keeps_its_volume() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = Engine::open(home.path(), options()).unwrap();
        some_volumes(&engine).await;
        drop(engine);
        let path = home.path().join(format!("volumes/{VICTIM:08}.vol"));
        let mut bytes = fs::read(&path).unwrap();
        bytes[64..80].fill(0);
        fs::write(&path, bytes).unwrap();
        fs::remove_file(home.path().join("INDEX")).unwrap();
        for start in 0..2 {
            let engine = Engine::open(home.path(), options()).unwrap();
            let found = engine.damaged(None, 9).await.unwrap();
            assert_eq!(
                (found.len(), engine.usage().damaged),
                (1, 1),
                "start {start}: sought again after each"
            );
            engine.settle_stretch(found[0].place);
            assert!(engine.damaged(None, 9).await.unwrap().is_empty());
            assert_eq!(engine.usage().damaged, 0);
            let stopped = rewrite_some(&engine, VICTIM, usize::MAX).await;
            assert!(
                matches!(stopped, Err(Stop::LeaveAlone(_))),
                "it may hold what no other server has: {stopped:?}"
            );
            put(&engine, "more", 1000 + start, 10).await.unwrap();
            engine.close().await.unwrap();
        }
    });
}

#[test]
fn a_blob_that_is_open_stays_readable_when_its_volume_is_gone() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let options = Options { small_limit: 1 << 20, volume_bytes: 2 << 20, ..options() };
        let engine = Engine::open(home.path(), options).unwrap();
        // Too long to be read with its head.
        put(&engine, "open", 1, 1_000_000).await.unwrap();
        put(&engine, "other", 1, 900_000).await.unwrap();
        put(&engine, "other", 2, 900_000).await.unwrap();
        let Some(Found::Blob(blob)) = engine.open(&"open".parse().unwrap()).await.unwrap() else { panic!() };
        rewrite_some(&engine, 1, usize::MAX).await.unwrap();
        assert!(!home.path().join("volumes/00000001.vol").exists());
        assert!(blob.read(0, 1_000_000).await.unwrap() == body("open", 1, 1_000_000));
        assert!(get(&engine, "open").await.unwrap() == Some((1, Some(body("open", 1, 1_000_000)))));
    });
}

#[test]
fn readers_and_listings_see_everything_all_the_time() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = Engine::open(home.path(), options()).unwrap();
        for key in 0..30 {
            put(&engine, &format!("k{key:02}"), 1, SMALL as usize / 2).await.unwrap();
        }
        let done = Arc::new(AtomicBool::new(false));
        let reads = |seed: u64| {
            let (engine, done) = (engine.clone(), done.clone());
            async move {
                let mut random = fastrand::Rng::with_seed(seed);
                for read in 0.. {
                    let name = format!("k{:02}", random.usize(..30));
                    let (n, bytes) = get(&engine, &name).await.unwrap().unwrap();
                    assert!(bytes.unwrap() == body(&name, n, SMALL as usize / 2), "{name}");
                    if read % 50 == 0 {
                        let listed = engine.list("k", None, 100).await.unwrap();
                        assert_eq!(listed.len(), 30);
                    }
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                }
            }
        };
        let readers: Vec<_> = (0..3).map(|seed| tokio::spawn(reads(seed))).collect();
        for round in 2..40 {
            for key in (round % 3..30).step_by(3) {
                put(&engine, &format!("k{key:02}"), round, SMALL as usize / 2).await.unwrap();
            }
            compact(&engine).await;
        }
        assert!(engine.usage().reclaimed_bytes > 5 * engine.usage().disk_bytes);
        done.store(true, Ordering::SeqCst);
        for reader in readers {
            reader.await.unwrap();
        }
    });
}
