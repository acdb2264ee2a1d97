//! Tests of the engine on a disk that fails: what was acknowledged stays, what was not is never seen.

use std::{
    fs::File,
    io::{self, IoSlice},
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
    append::{AppendFile, Wrap},
    compact_tests::{self, SMALL, VICTIM, check, copy, names_of, rewrite_some, some_volumes},
    rewrite::Stop,
};
use crate::model::{Meta, Version};

/// A file that fails as often as its test says.
struct Failing {
    file: Arc<File>,
    faults: &'static Faults,
}

/// How many of the next calls fail.
#[derive(Default)]
struct Faults {
    syncs: AtomicU32,
    full_writes: AtomicU32,
    cuts: AtomicU32,
}

impl Faults {
    const fn none() -> Self {
        Self { syncs: AtomicU32::new(0), full_writes: AtomicU32::new(0), cuts: AtomicU32::new(0) }
    }
}

fn fails(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl AppendFile for Failing {
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        // Short writes, always: the system may do that.
        let part =
            parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| &part[..part.len().min(7)]);
        let written = rustix::io::pwritev(&self.file, &[IoSlice::new(part)], offset)?;
        if fails(&self.faults.full_writes) { Err(Errno::NOSPC.into()) } else { Ok(written) }
    }

    fn sync(&self) -> io::Result<()> {
        if fails(&self.faults.syncs) { Err(Errno::IO.into()) } else { self.file.sync_data() }
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        if fails(&self.faults.cuts) { Err(Errno::IO.into()) } else { self.file.set_len(length) }
    }
}

fn open(dir: &Path, wrap: Wrap) -> Arc<Engine> {
    Engine::open_through(dir, Options::default(), wrap).unwrap()
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
    static FAULTS: Faults = Faults::none();
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), |file| Box::new(Failing { file, faults: &FAULTS }));
    put(&engine, "before").await.unwrap();
    // Not even cutting works: the next volume must say what is valid.
    FAULTS.syncs.store(1, Ordering::SeqCst);
    FAULTS.cuts.store(1, Ordering::SeqCst);
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
async fn a_disk_that_goes_on_failing_makes_the_engine_read_only() {
    static FAULTS: Faults = Faults::none();
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), |file| Box::new(Failing { file, faults: &FAULTS }));
    put(&engine, "before").await.unwrap();
    FAULTS.syncs.store(u32::MAX, Ordering::SeqCst);
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
    static FAULTS: Faults = Faults::none();
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), |file| Box::new(Failing { file, faults: &FAULTS }));
    put(&engine, "before").await.unwrap();
    let length = || std::fs::metadata(dir.path().join("volumes/00000001.vol")).unwrap().len();
    let before = length();
    FAULTS.full_writes.store(1, Ordering::SeqCst);
    assert!(matches!(put(&engine, "failed").await, Err(StorageError::Full)));
    assert_eq!(length(), before);
    // A delete gets the reserve.
    FAULTS.full_writes.store(1, Ordering::SeqCst);
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
    static FAULTS: Faults = Faults::none();
    for fault in [&FAULTS.syncs, &FAULTS.full_writes] {
        let dir = tempfile::tempdir().unwrap();
        let wrap: Wrap = |file| Box::new(Failing { file, faults: &FAULTS });
        let engine = Engine::open_through(dir.path(), compacted(), wrap).unwrap();
        let model = some_volumes(&engine).await;
        let names = names_of(&model);
        // A group that finds no room is tried one by one: all of them find none.
        fault.store(if std::ptr::eq(fault, &FAULTS.syncs) { 1 } else { u32::MAX }, Ordering::SeqCst);
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

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_acknowledged_stays_out_of_sight_when_the_volume_that_says_so_goes() {
    static FAULTS: Faults = Faults::none();
    let home = tempfile::tempdir().unwrap();
    let (live, copied, crashed) = (home.path().join("1"), home.path().join("2"), home.path().join("3"));
    let wrap: Wrap = |file| Box::new(Failing { file, faults: &FAULTS });
    let engine = Engine::open_through(&live, compacted(), wrap).unwrap();
    put(&engine, "before").await.unwrap();
    FAULTS.syncs.store(1, Ordering::SeqCst);
    FAULTS.cuts.store(1, Ordering::SeqCst);
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
        let engine = Engine::open(&crashed, compacted()).unwrap();
        assert!(has(&engine, "before").await && !has(&engine, "failed").await, "{steps}");
        assert_eq!(engine.usage().damaged, 0);
        std::fs::remove_dir_all(&copied).unwrap();
        std::fs::remove_dir_all(&crashed).unwrap();
        if whole {
            break;
        }
    }
}
