//! What all these tests use: writes whose bytes tell what they are, and copies of a directory as a crash leaves it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backpack::{
    model::{Meta, Version},
    storage::{Before, Engine, Found, NewBlob, Options, Storage, StorageError},
};
use bytes::Bytes;

pub use crate::support::files::copy;

pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn version(n: u64) -> Version {
    Version::from_parts(n, 1)
}

/// The bytes of a version of a key: what is read tells what was written.
pub fn body(name: &str, n: u64) -> Vec<u8> {
    format!("{name}@{n};").repeat(1 + (n as usize * 7 + name.len()) % 60).into_bytes()
}

pub async fn put_bytes(engine: &Engine, name: &str, n: u64, bytes: Vec<u8>) -> Result<Before, StorageError> {
    let new =
        NewBlob { key: name.parse().unwrap(), version: version(n), meta: Meta::default(), length: None };
    let mut writer = engine.create(new).await?;
    writer.write(Bytes::from(bytes)).await?;
    writer.commit().await.map(|written| written.before)
}

pub async fn put(engine: &Engine, name: &str, n: u64) -> Result<Before, StorageError> {
    put_bytes(engine, name, n, body(name, n)).await
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

pub fn options() -> Options {
    // Damage is found when the tests look for it.
    Options { reserve_bytes: 4096, scrub_bytes_per_second: 0, ..Options::default() }
}

pub fn reopen(dir: &Path) -> Arc<Engine> {
    Engine::open(dir, options()).unwrap()
}

pub fn last_volume(dir: &Path) -> PathBuf {
    let volumes = fs::read_dir(dir.join("volumes")).unwrap();
    volumes.map(|entry| entry.unwrap().path()).max().unwrap()
}

pub fn block_on<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// What was acknowledged, and how long the volume was then.
pub struct Acknowledged {
    pub name: String,
    pub n: u64,
    pub deleted: bool,
    pub volume_length: u64,
}

/// Writes one after the other, so that each is a batch of its own.
pub async fn write_some(engine: &Engine, dir: &Path) -> Vec<Acknowledged> {
    let mut all = Vec::new();
    for n in 1..=12_u64 {
        let name = format!("key/{}", n % 5);
        let deleted = n % 4 == 0;
        if deleted {
            delete(engine, &name, n).await.unwrap();
        } else {
            put(engine, &name, n).await.unwrap();
        }
        let volume_length = fs::metadata(last_volume(dir)).unwrap().len();
        all.push(Acknowledged { name, n, deleted, volume_length });
    }
    all
}

/// As after a crash before the index was ever saved: the start has to read all volumes.
pub fn forget_index(dir: &Path) {
    fs::remove_file(dir.join("INDEX")).unwrap();
}
