//! Flipped bits, anywhere in a directory: every one is found or does not matter, and nothing wrong is ever served.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use backpack::{
    model::Meta,
    storage::{Engine, Found, NewBlob, OpenError, Options, Storage, StorageError},
};
use bytes::Bytes;
use fastrand::Rng;

use super::rig::*;

/// Bigger blobs get a file of their own.
const SMALL: usize = 3_000;
/// So much before its end tells the saved index that the last volume is the one it was made of.
const MARK_BYTES: usize = 4096;

pub fn options() -> Options {
    Options {
        small_limit: SMALL as u64,
        volume_bytes: SMALL as u64 + (64 << 10),
        reserve_bytes: 4096,
        // It would save what it finds among the files that are flipped and put back.
        scrub_bytes_per_second: 0,
        ..Options::default()
    }
}

/// What was written of a key: all versions, ascending; the length of a blob, none for a delete.
pub type Written = BTreeMap<String, Vec<(u64, Option<usize>)>>;

fn bytes_of(name: &str, n: u64, length: usize) -> Vec<u8> {
    let part = format!("{name}@{n};");
    let mut bytes = part.repeat(length / part.len() + 1).into_bytes();
    bytes.truncate(length);
    bytes
}

fn meta_of(name: &str, n: u64) -> Meta {
    Meta::from_pairs(vec![
        ("content-type".into(), format!("text/{name}")),
        ("x-amz-meta-n".into(), n.to_string()),
    ])
}

pub async fn write(engine: &Engine, written: &mut Written, name: &str, n: u64, length: Option<usize>) {
    match length {
        Some(length) => {
            let meta = meta_of(name, n);
            let new = NewBlob { key: name.parse().unwrap(), version: version(n), meta, length: None };
            let mut writer = engine.create(new).await.unwrap();
            writer.write(Bytes::from(bytes_of(name, n, length))).await.unwrap();
            writer.commit().await.unwrap();
        }
        None => drop(delete(engine, name, n).await.unwrap()),
    }
    written.entry(name.to_owned()).or_default().push((n, length));
}

/// Three volumes with everything in them: overwritten and deleted keys, metadata, whole files.
pub async fn fill(engine: &Engine, random: &mut Rng) -> Written {
    let mut written = Written::new();
    for n in 1..=130 {
        let name = format!("key/{}", random.u8(0..24));
        let length = match random.u8(0..10) {
            0 => None,
            1 => Some(SMALL + random.usize(1..9_000)),
            2 | 3 => Some(random.usize(0..200)),
            _ => Some(random.usize(0..=SMALL)),
        };
        write(engine, &mut written, &name, n, length).await;
    }
    written
}

/// What reading a key gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Nothing,
    Version(u64),
    Damaged,
}

/// Reads a key. Whatever is served is what was written under that version.
pub async fn read(engine: &Engine, written: &Written, name: &str) -> Read {
    let wrote = |n: u64| written[name].iter().find(|(version, _)| *version == n);
    let blob = match engine.open(&name.parse().unwrap()).await {
        Ok(None) => return Read::Nothing,
        Ok(Some(Found::Tombstone(version))) => {
            assert_eq!(wrote(version.unix_ms()), Some(&(version.unix_ms(), None)), "{name}");
            return Read::Version(version.unix_ms());
        }
        Ok(Some(Found::Blob(blob))) => blob,
        Err(StorageError::Damaged(_)) => return Read::Damaged,
        Err(error) => panic!("{name}: {error}"),
    };
    let (n, length) = (blob.info().version.unix_ms(), blob.info().length);
    assert_eq!(blob.info().version, version(n), "{name}");
    assert_eq!(wrote(n), Some(&(n, Some(length as usize))), "{name}");
    assert_eq!(blob.info().meta, meta_of(name, n), "{name}");
    match blob.read(0, length).await {
        Ok(bytes) => assert_eq!(bytes, bytes_of(name, n, length as usize), "{name}@{n}"),
        Err(StorageError::Damaged(_)) => return Read::Damaged,
        Err(error) => panic!("{name}: {error}"),
    }
    Read::Version(n)
}

/// Reads and lists everything: the newest version of each key, or that it is damaged. Where the start may not know what was
/// newest, an older one or none, but then damage is reported.
async fn look(engine: &Engine, written: &Written, knows_newest: bool) {
    let mut wrong = Vec::new();
    for (name, versions) in written {
        let newest = versions.last().unwrap().0;
        match read(engine, written, name).await {
            Read::Version(n) if n == newest => {}
            Read::Damaged => {}
            other => wrong.push((name, newest, other)),
        }
    }
    let reported = engine.usage().damaged > 0;
    assert!(wrong.is_empty() || !knows_newest && reported, "{wrong:?}, damage reported: {reported}");
    for listed in engine.list("", None, 1000).await.unwrap() {
        let versions = &written[listed.key.as_str()];
        let (n, length) = (listed.version.unix_ms(), listed.length);
        let is_newest = versions.last().unwrap().0 == n;
        assert!(is_newest || !knows_newest && reported, "{listed:?}");
        let listed_length = (!listed.deleted).then_some(length as usize);
        assert!(versions.contains(&(n, listed_length)), "{listed:?}");
    }
}

/// All files of a directory but its lock, in order.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files(&entry));
        } else if fs::metadata(&entry).unwrap().len() > 0 && !entry.ends_with("LOCK") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

/// Flips some bits of one byte of any file, be it small or large; says where.
fn flip(dir: &Path, random: &mut Rng) -> (PathBuf, usize) {
    let all = files(dir);
    let path = all[random.usize(0..all.len())].clone();
    let length = fs::metadata(&path).unwrap().len() as usize;
    // The front of a file has more that matters.
    let end = if random.u8(0..4) == 0 { length.min(64) } else { length };
    flip_byte(dir, &path, random.usize(0..end), random)
}

fn flip_byte(dir: &Path, path: &Path, at: usize, random: &mut Rng) -> (PathBuf, usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= if random.bool() { 1 << random.u8(0..8) } else { random.u8(1..=255) };
    // In place: an engine may have it open.
    fs::write(path, bytes).unwrap();
    (path.strip_prefix(dir).unwrap().to_path_buf(), at)
}

/// The engine, unless it says in words why it does not open.
fn open_or_refuse(dir: &Path, flipped: &(PathBuf, usize)) -> Option<Arc<Engine>> {
    match Engine::open(dir, options()) {
        Ok(engine) => Some(engine),
        Err(OpenError::Format { reason, .. }) => {
            let may = flipped.0.ends_with("FORMAT") || flipped.0.starts_with("volumes") && flipped.1 < 64;
            assert!(may && !reason.is_empty(), "{flipped:?}: {reason}");
            None
        }
        Err(error) => panic!("{flipped:?}: {error}"),
    }
}

/// Says what was flipped if the test fails.
struct Flipped(u64, (PathBuf, usize));

impl Drop for Flipped {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("flip {} at {:?}", self.0, self.1);
        }
    }
}

#[test]
fn a_flip_after_a_proper_stop_is_found_or_does_not_matter() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let live = home.path().join("live");
        let engine = Engine::open(&live, options()).unwrap();
        let written = fill(&engine, &mut Rng::with_seed(1)).await;
        engine.close().await.unwrap();
        drop(engine);
        let end = fs::metadata(last_volume(&live)).unwrap().len() as usize;
        for seed in 0..1000 {
            let mut random = Rng::with_seed(seed);
            let dir = home.path().join("flipped");
            copy(&live, &dir);
            let flipped = if seed % 4 == 1 {
                // There it makes the saved index doubt that it is of these volumes.
                let last = last_volume(&dir);
                flip_byte(&dir, &last, end - random.usize(1..=MARK_BYTES), &mut random)
            } else {
                flip(&dir, &mut random)
            };
            let flipped = Flipped(seed, flipped);
            if let Some(engine) = open_or_refuse(&dir, &flipped.1) {
                look(&engine, &written, true).await;
                if seed % 4 == 0 {
                    repair(engine, &dir, written.clone()).await;
                }
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    });
}

/// Everything written again is there, before and after a restart.
async fn repair(engine: Arc<Engine>, dir: &Path, mut written: Written) {
    let names: Vec<String> = written.keys().cloned().collect();
    for (at, name) in names.iter().enumerate() {
        write(&engine, &mut written, name, 1000, Some(at * 10)).await;
        assert_eq!(read(&engine, &written, name).await, Read::Version(1000));
    }
    engine.close().await.unwrap();
    drop(engine);
    let engine = Engine::open(dir, options()).unwrap();
    for name in &names {
        assert_eq!(read(&engine, &written, name).await, Read::Version(1000));
    }
}

/// Without a saved index, and after a crash: what was newest may be known from the flipped bytes alone.
#[test]
fn a_flip_in_what_was_never_put_in_order_is_found_or_does_not_matter() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (live, crashed) = (home.path().join("live"), home.path().join("crashed"));
        let engine = Engine::open(&live, options()).unwrap();
        let mut written = fill(&engine, &mut Rng::with_seed(2)).await;
        // Its flips are told from a write that never ended only by what comes behind it.
        write(&engine, &mut written, "last", 1000, Some(0)).await;
        write(&engine, &mut written, "last", 1001, Some(0)).await;
        copy(&live, &crashed);
        let end = fs::metadata(last_volume(&live)).unwrap().len() as usize - 100;
        for seed in 0..600 {
            let mut random = Rng::with_seed(seed);
            let dir = home.path().join("flipped");
            copy(&crashed, &dir);
            let flipped = Flipped(seed, flip(&dir, &mut random));
            let is_last = dir.join(&flipped.1.0) == last_volume(&dir) && flipped.1.1 >= end;
            if let Some(engine) = open_or_refuse(&dir, &flipped.1)
                && !is_last
            {
                look(&engine, &written, false).await;
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    });
}

#[test]
fn a_flip_under_an_open_engine_is_found_or_does_not_matter() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        // It would remove volumes while they are read here.
        let options = Options { compact_bytes_per_second: 0, ..options() };
        let engine = Engine::open(home.path(), options).unwrap();
        let written = fill(&engine, &mut Rng::with_seed(3)).await;
        for seed in 0..1400 {
            let before: Vec<_> =
                files(home.path()).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
            let flipped = Flipped(seed, flip(home.path(), &mut Rng::with_seed(seed)));
            look(&engine, &written, true).await;
            let (bytes, path) = before.iter().find(|(_, path)| path.ends_with(&flipped.1.0)).unwrap();
            fs::write(path, bytes).unwrap();
        }
    });
}
