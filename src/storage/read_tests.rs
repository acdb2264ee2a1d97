//! How many reads of files a request costs: one for a GET of a small blob, whether it is in memory or not.

use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::{
    Engine, Found, NewBlob, Options, READ_CHUNK_BYTES, Storage, StorageError, SyncMode, hot,
    pread::read_cached, verify::Wrong,
};
use crate::model::{Meta, Version};

async fn put(engine: &Engine, name: &str, version: u64, length: usize) {
    let (key, version) = (name.parse().unwrap(), Version::from_parts(version, 1));
    let new = NewBlob { key, version, meta: Meta::default(), length: Some(length as u64) };
    let mut writer = engine.create(new).await.unwrap();
    writer.write(Bytes::from(vec![7; length])).await.unwrap();
    writer.commit().await.unwrap();
}

async fn get(engine: &Engine, name: &str) -> u64 {
    let Some(Found::Blob(blob)) = engine.open(&name.parse().unwrap()).await.unwrap() else {
        panic!("{name}")
    };
    let (length, mut done) = (blob.info().length, 0);
    while done < length {
        let end = length.min(done + READ_CHUNK_BYTES);
        done += blob.read(done, end).await.unwrap().len() as u64;
    }
    length
}

/// Throws what is written out of the page cache, where the file system can.
fn evict(engine: &Engine) {
    for volume in engine.shared.volumes.all() {
        volume.file.sync_all().unwrap();
        rustix::fs::fadvise(&*volume.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

/// Reads that what is done costs.
async fn costs(engine: &Engine, work: impl Future<Output = ()>) -> u64 {
    let all = |(memory, disk)| memory + disk;
    let before = all(engine.shared.reads.counts());
    work.await;
    all(engine.shared.reads.counts()) - before
}

#[tokio::test]
async fn a_get_of_a_small_blob_is_one_read_cold_or_warm() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { sync: SyncMode::Never, ..Options::default() };
    let engine = Engine::open(dir.path(), options).unwrap();
    let chunk = READ_CHUNK_BYTES as usize;
    // Name, length, reads: the head and each chunk of a longer one.
    let blobs = [("0", 0, 1), ("1", 1, 1), ("2", 16 << 10, 1), ("3", chunk, 1), ("4", 4 * chunk, 5)];
    for (name, length, _) in blobs {
        put(&engine, name, 1, length).await;
    }
    for cold in [true, false] {
        for (name, length, reads) in blobs {
            if cold {
                evict(&engine);
            }
            let cost = costs(&engine, async { assert_eq!(get(&engine, name).await, length as u64) }).await;
            assert_eq!(cost, reads, "{length} bytes, cold: {cold}");
        }
    }
    let cost =
        costs(&engine, async { assert!(engine.open(&"none".parse().unwrap()).await.unwrap().is_none()) });
    assert_eq!(cost.await, 0, "what is not there needs no read");
}

/// Where the file system cannot, nothing is at hand.
async fn can_tell_what_is_in_memory(engine: &Engine) -> bool {
    put(engine, "probe", 1, 1).await;
    let can = read_cached(&engine.shared.volumes.all()[0].file, &mut [0], 0) > 0;
    if !can {
        eprintln!("this file system cannot tell what is in memory: nothing is at hand");
        assert!(engine.at_hand(&"probe".parse().unwrap()).is_none());
    }
    can
}

#[tokio::test]
async fn what_is_at_hand_is_small_and_sound() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Options { sync: SyncMode::Never, ..Options::default() }).unwrap();
    let at_hand = |name: &str| {
        let found = engine.at_hand(&name.parse().unwrap());
        found.map(|blob| {
            let (info, bytes) = (blob.info(), blob.data());
            (info.version, info.length, bytes.len(), bytes.iter().all(|byte| *byte == 7))
        })
    };
    let version = |n| Version::from_parts(n, 1);
    let chunk = READ_CHUNK_BYTES as usize;
    if !can_tell_what_is_in_memory(&engine).await {
        return;
    }
    for (name, length) in [("none", 0), ("one", 1), ("some", 100_000), ("chunk", chunk)] {
        put(&engine, name, 1, length).await;
        let cost = costs(&engine, async {
            assert_eq!(at_hand(name), Some((version(1), length as u64, length, true)));
        });
        assert_eq!(cost.await, 1, "{name}");
    }
    put(&engine, "long", 1, 2 * chunk).await;
    assert_eq!((at_hand("long"), at_hand("missing")), (None, None));
    put(&engine, "one", 2, 2).await;
    assert_eq!(at_hand("one"), Some((version(2), 2, 2, true)));
    engine.delete(&"one".parse().unwrap(), version(3)).await.unwrap();
    assert_eq!(at_hand("one"), None);

    let entries = engine.shared.index.candidates(engine.shared.hash(b"some"));
    let entry = entries.iter().next().unwrap();
    let path = engine.shared.layout.volume(entry.place.volume());
    let volume = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    volume.write_all_at(&[8], entry.place.offset() + entry.record_bound() - 1_000).unwrap();
    assert_eq!(at_hand("some"), None);
    assert!(matches!(engine.open(&"some".parse().unwrap()).await, Err(StorageError::Damaged(_))));
    volume.write_all_at(&[7], entry.place.offset() + entry.record_bound() - 1_000).unwrap();
    assert_eq!(at_hand("some"), None, "what was found damaged stays so, whatever a disk says later");
}

#[tokio::test]
async fn what_is_read_again_and_again_is_read_from_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { sync: SyncMode::Never, ..Options::default() };
    let engine = Engine::open(dir.path(), options.clone()).unwrap();
    if !can_tell_what_is_in_memory(&engine).await {
        return;
    }
    let key = |name: &str| name.parse().unwrap();
    // Longer than what is read with its head, as long as what is kept, and longer.
    let most = 1 << 20;
    let blobs = [("none", 0), ("some", 100_000), ("long", most), ("longer", hot::LONGEST_BYTES as usize)];
    for (name, length) in blobs {
        put(&engine, name, 1, length).await;
        let is_kept = length <= most;
        for turn in 0..4 {
            let hot_before = engine.usage().hot_reads;
            let length_at_hand = engine.at_hand(&key(name)).map(|blob| {
                assert!(blob.data().iter().all(|byte| *byte == 7));
                assert_eq!(blob.info().length, blob.data().len() as u64);
                blob.data().len()
            });
            let is_at_hand = length <= READ_CHUNK_BYTES as usize || is_kept && turn > 0;
            assert_eq!(length_at_hand, is_at_hand.then_some(length), "{name} {turn}");
            let is_hot = is_kept && turn > 1;
            assert_eq!(engine.usage().hot_reads - hot_before, u64::from(is_hot), "{name} {turn}");
        }
    }
    let version_of =
        |name: &str| engine.at_hand(&key(name)).map(|blob| (blob.info().version, blob.data().len()));
    let version = |n| Version::from_parts(n, 1);
    assert_eq!(version_of("some"), Some((version(1), 100_000)));
    put(&engine, "some", 2, 10).await;
    assert_eq!(version_of("some"), Some((version(2), 10)), "another was put there");
    engine.delete(&key("some"), version(3)).await.unwrap();
    assert_eq!(version_of("some"), None);
    let long = engine.shared.index.candidates(engine.shared.hash(b"long")).into_iter().next().unwrap();
    drop(engine.shared.damage.found(engine.shared.hash(b"long"), long.place, Wrong::Checksum));
    assert_eq!(version_of("long"), None, "what the disk lost is mended, not hidden");
    drop(engine);

    let engine = Engine::open(dir.path(), Options { hot_bytes: 0, ..options }).unwrap();
    for _ in 0..4 {
        assert!(engine.at_hand(&key("none")).is_some());
    }
    assert_eq!(engine.usage().hot_reads, 0);
}

#[tokio::test]
async fn a_put_reads_only_the_head_it_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Options { sync: SyncMode::Never, ..Options::default() }).unwrap();
    assert_eq!(costs(&engine, put(&engine, "key", 1, 100_000)).await, 0);
    evict(&engine);
    assert_eq!(costs(&engine, put(&engine, "key", 2, 100)).await, 1);
    let deleted = async {
        engine.delete(&"key".parse().unwrap(), Version::from_parts(3, 1)).await.unwrap();
    };
    assert_eq!(costs(&engine, deleted).await, 1);
}

#[tokio::test]
async fn a_file_is_opened_and_read_in_chunks_with_their_sums() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { small_limit: 0, sync: SyncMode::Never, ..Options::default() };
    let engine = Engine::open(dir.path(), options).unwrap();
    put(&engine, "file", 1, 2 * READ_CHUNK_BYTES as usize).await;
    assert_eq!(
        costs(&engine, async { assert_eq!(get(&engine, "file").await, 2 * READ_CHUNK_BYTES) }).await,
        5,
        "a head, two chunks, their sums"
    );
}
