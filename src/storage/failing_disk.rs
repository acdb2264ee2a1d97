//! Tests of the engine on a disk that fails: what was acknowledged stays, what was not is never seen.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use rustix::io::Errno;

use super::{
    Before, Engine, Found, NewBlob, Options, Storage, StorageError, SyncMode,
    compact_tests::{self, SMALL, VICTIM, check, copy, names_of, rewrite_some, some_volumes},
    power_cut::recorder::{Change, Recorder},
    rewrite::Stop,
    volume::Volume,
};
use crate::model::{Meta, Version};

/// How many of the next calls for a volume fail.
#[derive(Default)]
struct Faults {
    syncs: AtomicU32,
    full_writes: AtomicU32,
    cuts: AtomicU32,
}

impl Faults {
    /// Has them come up in that directory, while the recorder lives.
    fn of(dir: &Path) -> (Arc<Self>, Recorder) {
        let (faults, recorder) = (Arc::new(Self::default()), Recorder::new(dir));
        let planned = faults.clone();
        recorder.fail(move |change, path| {
            let (left, error) = match change {
                Change::Sync(_) => (&planned.syncs, Errno::IO),
                Change::Write { .. } => (&planned.full_writes, Errno::NOSPC),
                Change::SetLen { .. } => (&planned.cuts, Errno::IO),
                _ => return None,
            };
            (path.starts_with("volumes") && fails(left)).then_some(error)
        });
        (faults, recorder)
    }
}

fn fails(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn open(dir: &Path) -> Arc<Engine> {
    Engine::open(dir, Options::default()).unwrap()
}

async fn put(engine: &Engine, name: &str) -> Result<Before, StorageError> {
    let version = Version::from_parts(1, 1);
    let new = NewBlob { key: name.parse().unwrap(), version, meta: Meta::default(), length: None };
    let mut writer = engine.create(new).await?;
    writer.write(Bytes::from(name.repeat(100))).await?;
    writer.commit().await.map(|written| written.before)
}

async fn has(engine: &Engine, name: &str) -> bool {
    match engine.open(&name.parse().unwrap()).await.unwrap() {
        Some(Found::Blob(blob)) => {
            let length = blob.info().length;
            assert_eq!(blob.read(0, length).await.unwrap(), name.repeat(100));
            true
        }
        _ => false,
    }
}

#[tokio::test]
async fn after_a_failed_sync_the_volume_is_left_and_a_new_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (faults, _recorder) = Faults::of(dir.path());
    let engine = open(dir.path());
    put(&engine, "before").await.unwrap();
    // Not even cutting works: the next volume must say what is valid.
    faults.syncs.store(1, Ordering::SeqCst);
    faults.cuts.store(1, Ordering::SeqCst);
    assert!(matches!(put(&engine, "failed").await, Err(StorageError::Io { .. })));
    assert!(!has(&engine, "failed").await);
    put(&engine, "after").await.unwrap();
    assert!(dir.path().join("volumes/00000002.vol").exists());
    let first = std::fs::read(dir.path().join("volumes/00000001.vol")).unwrap();
    assert!(first.windows(6).any(|part| part == b"failed"), "it stands in the volume all the same");
    drop(engine);
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    assert!(has(&engine, "before").await && has(&engine, "after").await);
    assert!(!has(&engine, "failed").await, "an error was answered: it must not come back");
    assert_eq!(engine.usage().damaged, 0);
}

#[tokio::test]
async fn a_large_blob_is_synced_as_it_comes_and_fails_with_any_of_its_syncs() {
    const PART: usize = 4 << 20;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for (parts, failing) in [(20, None), (20, Some(1)), (20, Some(2)), (20, Some(3)), (5, Some(1))] {
        let recorder = Recorder::new(dir.path());
        let syncs = Arc::new(AtomicU32::new(0));
        let counted = syncs.clone();
        recorder.fail(move |change, path| {
            let is_upload = matches!(change, Change::Sync(_)) && path.starts_with("tmp");
            let count = if is_upload { counted.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
            (is_upload && Some(count) == failing).then_some(Errno::IO)
        });
        let key = format!("{parts}-{failing:?}").parse().unwrap();
        let new = NewBlob { key, version: Version::from_parts(1, 1), meta: Meta::default(), length: None };
        let key = new.key.clone();
        let mut writer = engine.create(new).await.unwrap();
        let mut stored = Ok(());
        for _ in 0..parts {
            stored = stored.and(writer.write(Bytes::from(vec![7; PART])).await);
        }
        let stored = match stored {
            Ok(()) => writer.commit().await.map(drop),
            failed => failed,
        };
        let usual = if parts == 20 { 3 } else { 1 };
        let expected = failing.map_or(Ok(usual), Err);
        let got = stored.map(|()| syncs.load(Ordering::SeqCst)).map_err(|_| failing.unwrap_or_default());
        assert_eq!(got, expected, "{parts} parts, sync {failing:?} fails");
        assert_eq!(engine.open(&key).await.unwrap().is_some(), failing.is_none());
    }
}

#[tokio::test]
async fn a_disk_that_goes_on_failing_makes_the_engine_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let (faults, _recorder) = Faults::of(dir.path());
    let engine = open(dir.path());
    put(&engine, "before").await.unwrap();
    faults.syncs.store(u32::MAX, Ordering::SeqCst);
    assert!(put(&engine, "failed").await.is_err());
    assert!(matches!(put(&engine, "late").await, Err(StorageError::ReadOnly(_))));
    let key = "before".parse().unwrap();
    assert!(matches!(engine.delete(&key, Version::from_parts(2, 1)).await, Err(StorageError::ReadOnly(_))));
    let reason = engine.usage().read_only.unwrap();
    assert!(reason.contains("writing failed"), "{reason}");
    assert!(has(&engine, "before").await);
}

#[tokio::test]
async fn a_full_disk_leaves_the_volume_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (faults, _recorder) = Faults::of(dir.path());
    let engine = open(dir.path());
    put(&engine, "before").await.unwrap();
    let length = || std::fs::metadata(dir.path().join("volumes/00000001.vol")).unwrap().len();
    let before = length();
    faults.full_writes.store(1, Ordering::SeqCst);
    assert!(matches!(put(&engine, "failed").await, Err(StorageError::Full)));
    assert_eq!(length(), before);
    // A delete gets the reserve.
    faults.full_writes.store(1, Ordering::SeqCst);
    let deleted = engine.delete(&"before".parse().unwrap(), Version::from_parts(2, 1)).await.unwrap();
    assert_eq!(deleted.before, Before::Older { length: 600 });
    // There is space after all: the reserve comes back, and blobs are taken again.
    put(&engine, "after").await.unwrap();
    assert!(has(&engine, "after").await && !has(&engine, "before").await && !has(&engine, "failed").await);
    assert!(dir.path().join("RESERVE").exists());
}

/// Small volumes and a sync for each batch.
fn compacted() -> Options {
    Options { sync: SyncMode::Group, ..compact_tests::options() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_that_cannot_write_moves_nothing_out_of_sight() {
    for a_sync in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (faults, _recorder) = Faults::of(dir.path());
        let engine = Engine::open(dir.path(), compacted()).unwrap();
        let model = some_volumes(&engine).await;
        let names = names_of(&model);
        // A group that finds no room is tried one by one: all of them find none.
        let (fault, times) = if a_sync { (&faults.syncs, 1) } else { (&faults.full_writes, u32::MAX) };
        fault.store(times, Ordering::SeqCst);
        let stopped = rewrite_some(&engine, VICTIM, usize::MAX).await;
        assert!(matches!(stopped, Err(Stop::LeaveAlone(_))), "{stopped:?}");
        check(&engine, &model, &names, false).await;
        fault.store(0, Ordering::SeqCst);
        rewrite_some(&engine, VICTIM, usize::MAX).await.unwrap();
        check(&engine, &model, &names, false).await;
        drop(engine);
        check(&Engine::open(dir.path(), compacted()).unwrap(), &model, &names, false).await;
    }
}

/// Its successor says already that it is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_cannot_be_removed_leaves_the_chain_of_superblocks_whole() {
    for is_gone in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(dir.path());
        let engine = Engine::open(dir.path(), compacted()).unwrap();
        let model = some_volumes(&engine).await;
        let first = engine.shared.volumes.get(1).unwrap();
        let path = engine.shared.layout.volume(VICTIM + 1);
        let removed = path.clone();
        recorder.fail(move |change, _| match change {
            Change::Remove(path) => (!is_gone && *path == removed).then_some(Errno::IO),
            Change::SyncFolder(_) => (!removed.exists()).then_some(Errno::IO),
            _ => None,
        });
        let stopped = rewrite_some(&engine, VICTIM + 1, usize::MAX).await;
        assert!(matches!(stopped, Err(Stop::LeaveAlone(_))), "{stopped:?}");
        assert_eq!(path.exists(), !is_gone);
        recorder.heal();
        check(&engine, &model, &names_of(&model), false).await;
        // Whose file is gone must be forgotten first.
        for victim in if is_gone { [VICTIM + 1, VICTIM] } else { [VICTIM, VICTIM + 1] } {
            rewrite_some(&engine, victim, usize::MAX).await.unwrap();
        }
        let next = engine.shared.volumes.after(1).unwrap();
        let superblock = Volume::superblock(&next.file, engine.shared.layout.store, next.number);
        let superblock = superblock.unwrap().unwrap();
        assert_eq!((superblock.previous, superblock.previous_length), (1, first.end()));
        drop(engine);
        let engine = Engine::open(dir.path(), compacted()).unwrap();
        check(&engine, &model, &names_of(&model), false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_acknowledged_stays_out_of_sight_when_the_volume_that_says_so_goes() {
    let home = tempfile::tempdir().unwrap();
    let (live, copied, crashed) = (home.path().join("1"), home.path().join("2"), home.path().join("3"));
    std::fs::create_dir(&live).unwrap();
    let (faults, _recorder) = Faults::of(&live);
    let engine = Engine::open(&live, compacted()).unwrap();
    put(&engine, "before").await.unwrap();
    faults.syncs.store(1, Ordering::SeqCst);
    faults.cuts.store(1, Ordering::SeqCst);
    assert!(put(&engine, "failed").await.is_err());
    for n in 1..30 {
        compact_tests::put(&engine, "filler", n, SMALL as usize).await.unwrap();
    }
    assert!(engine.shared.volumes.last().unwrap().number > 3);
    rewrite_some(&engine, 2, usize::MAX).await.unwrap();
    // Now its successor is gone, and then the volume itself goes: at each step it must be told how much of it is valid.
    let mut whole = false;
    for steps in 1.. {
        copy(&live, &copied);
        let engine = Engine::open(&copied, compacted()).unwrap();
        assert!(has(&engine, "before").await && !has(&engine, "failed").await, "{steps}");
        whole |= rewrite_some(&engine, 1, steps).await.is_ok();
        copy(&copied, &crashed);
        let after = Engine::open(&crashed, compacted()).unwrap();
        assert!(has(&after, "before").await && !has(&after, "failed").await, "{steps}");
        assert_eq!(after.usage().damaged, 0);
        drop((engine, after));
        std::fs::remove_dir_all(&copied).unwrap();
        std::fs::remove_dir_all(&crashed).unwrap();
        if whole {
            break;
        }
    }
}
