//! An engine that keeps everything in memory and fails on demand.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use backpack::{
    model::{Checksum, Crc64, Key, Version},
    storage::{
        AtHand, Before, Blob, BlobInfo, BlobWriter, Damaged, Found, Listed, NewBlob, Spot, Storage,
        StorageError, Usage, Written,
    },
};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Longer blobs are never at hand.
const AT_HAND_BYTES: usize = 64 << 10;

/// The engine and its faults.
pub struct Memory {
    entries: std::sync::Arc<Mutex<BTreeMap<String, Entry>>>,
    /// Writes are refused: no room.
    pub full: AtomicBool,
    /// Writes are refused: the disk failed.
    pub read_only: AtomicBool,
    /// Reads of these keys find damage from that offset on.
    pub damaged_from: Mutex<HashMap<String, u64>>,
    /// A commit takes a permit; tests take all of them to hold commits back.
    pub commits: std::sync::Arc<Semaphore>,
    /// A read takes a permit; tests take all of them to hold reads back.
    pub reads: std::sync::Arc<Semaphore>,
    /// Most bytes that one read was asked for.
    pub largest_read: std::sync::Arc<AtomicUsize>,
    /// Deletes made before that were settled.
    pub settled_ms: AtomicU64,
    /// Compaction was told to pause.
    pub paused: AtomicBool,
    /// The scrub was told to pause.
    pub scrub_paused: AtomicBool,
    /// Times that the scrub was told to begin.
    pub scrubs: AtomicUsize,
    /// [`Storage::close`] was called.
    pub closed: AtomicBool,
}

#[derive(Clone)]
enum Entry {
    Blob(BlobInfo, Bytes),
    Tombstone(Version),
}

impl Entry {
    fn version(&self) -> Version {
        match self {
            Self::Blob(info, _) => info.version,
            Self::Tombstone(version) => *version,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            entries: Default::default(),
            settled_ms: AtomicU64::new(0),
            full: Default::default(),
            read_only: Default::default(),
            damaged_from: Default::default(),
            commits: std::sync::Arc::new(Semaphore::new(1000)),
            reads: std::sync::Arc::new(Semaphore::new(1000)),
            largest_read: Default::default(),
            paused: Default::default(),
            scrub_paused: Default::default(),
            scrubs: Default::default(),
            closed: Default::default(),
        }
    }
}

impl Memory {
    /// How many keys hold a blob or a tombstone.
    pub fn len(&self) -> usize {
        self.entries.lock().len()
    }

    fn check_writable(&self) -> Result<(), StorageError> {
        if self.read_only.load(Ordering::SeqCst) {
            return Err(StorageError::ReadOnly("fsync failed".to_owned()));
        }
        if self.full.load(Ordering::SeqCst) { Err(StorageError::Full) } else { Ok(()) }
    }
}

fn replace(entries: &mut BTreeMap<String, Entry>, key: &Key, entry: Entry) -> Before {
    let before = match entries.get(key.as_str()) {
        None => Before::Nothing,
        Some(held) if held.version() > entry.version() => return Before::Newer(held.version()),
        Some(Entry::Blob(info, _))
            if info.version == entry.version() && matches!(entry, Entry::Tombstone(_)) =>
        {
            Before::Older { length: info.length }
        }
        Some(held) if held.version() == entry.version() => return Before::Newer(held.version()),
        Some(Entry::Blob(info, _)) => Before::Older { length: info.length },
        Some(Entry::Tombstone(_)) => Before::OlderTombstone,
    };
    entries.insert(key.as_str().to_owned(), entry);
    before
}

#[async_trait]
impl Storage for Memory {
    fn id(&self) -> Version {
        Version::from_parts(1, 1)
    }

    async fn create(&self, blob: NewBlob) -> Result<Box<dyn BlobWriter>, StorageError> {
        self.check_writable()?;
        let (entries, commits) = (self.entries.clone(), self.commits.clone());
        Ok(Box::new(Writer { blob, entries, commits, bytes: BytesMut::new(), crc: Crc64::default() }))
    }

    fn at_hand(&self, key: &Key) -> Option<Arc<AtHand>> {
        let has_to_wait = self.reads.available_permits() == 0;
        let is_damaged = self.damaged_from.lock().contains_key(key.as_str());
        match self.entries.lock().get(key.as_str()) {
            Some(Entry::Blob(info, bytes)) if bytes.len() <= AT_HAND_BYTES && !has_to_wait && !is_damaged => {
                let key = Bytes::copy_from_slice(key.as_str().as_bytes());
                Some(Arc::new(AtHand::new(key, info.clone(), bytes.clone())))
            }
            _ => None,
        }
    }

    async fn open(&self, key: &Key) -> Result<Option<Found>, StorageError> {
        let Some(entry) = self.entries.lock().get(key.as_str()).cloned() else { return Ok(None) };
        Ok(Some(match entry {
            Entry::Tombstone(version) => Found::Tombstone(version),
            Entry::Blob(info, bytes) => Found::Blob(Box::new(Stored {
                info,
                bytes,
                damaged_from: self.damaged_from.lock().get(key.as_str()).copied(),
                reads: self.reads.clone(),
                largest_read: self.largest_read.clone(),
            })),
        }))
    }

    async fn delete(&self, key: &Key, version: Version) -> Result<Written, StorageError> {
        let before = replace(&mut self.entries.lock(), key, Entry::Tombstone(version));
        Ok(Written { before, checksum: Checksum::of(b""), length: 0 })
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, StorageError> {
        let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.to_owned()));
        let entries = self.entries.lock();
        let range = entries.range((start, Bound::Unbounded));
        let page = range.filter(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(page
            .map(|(key, entry)| {
                let key = key.parse().unwrap();
                let version = entry.version();
                match entry {
                    Entry::Blob(info, _) => {
                        let checksum = Some(info.checksum);
                        Listed { key, version, length: info.length, checksum, deleted: false }
                    }
                    Entry::Tombstone(_) => Listed { key, version, length: 0, checksum: None, deleted: true },
                }
            })
            .collect())
    }

    fn usage(&self) -> Usage {
        let mut usage = Usage { free_bytes: 1 << 30, ..Usage::default() };
        for entry in self.entries.lock().values() {
            match entry {
                Entry::Blob(info, _) => {
                    usage.blobs += 1;
                    usage.blob_bytes += info.length;
                }
                Entry::Tombstone(_) => usage.tombstones += 1,
            }
        }
        usage.compaction_paused = self.paused.load(Ordering::SeqCst);
        usage.read_only = self.read_only.load(Ordering::SeqCst).then(|| "fsync failed".to_owned());
        usage
    }

    fn pause_compaction(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    fn pause_scrub(&self, paused: bool) {
        self.scrub_paused.store(paused, Ordering::SeqCst);
    }

    fn settle_deletes(&self, before_ms: u64) {
        self.settled_ms.store(before_ms, Ordering::SeqCst);
    }

    fn start_scrub(&self) {
        self.scrubs.fetch_add(1, Ordering::SeqCst);
    }

    fn settle_stretch(&self, _spot: Spot) {}

    async fn damaged(&self, _after: Option<Spot>, _limit: usize) -> Result<Vec<Damaged>, StorageError> {
        Ok(Vec::new())
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.closed.store(true, Ordering::SeqCst);
        Ok(())
    }
}

struct Writer {
    blob: NewBlob,
    entries: std::sync::Arc<Mutex<BTreeMap<String, Entry>>>,
    commits: std::sync::Arc<Semaphore>,
    bytes: BytesMut,
    crc: Crc64,
}

#[async_trait]
impl BlobWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.crc.update(&bytes);
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    fn checksum(&self) -> Checksum {
        self.crc.finish()
    }

    async fn commit(self: Box<Self>) -> Result<Written, StorageError> {
        let _permit = self.commits.acquire().await.unwrap();
        let (checksum, length) = (self.checksum(), self.bytes.len() as u64);
        if let Some(announced) = self.blob.length.filter(|announced| *announced != length) {
            return Err(StorageError::WrongLength { announced, got: length });
        }
        let NewBlob { key, version, meta, .. } = self.blob;
        let entry = Entry::Blob(BlobInfo { version, length, checksum, meta }, self.bytes.freeze());
        let before = replace(&mut self.entries.lock(), &key, entry);
        Ok(Written { before, checksum, length })
    }
}

struct Stored {
    info: BlobInfo,
    bytes: Bytes,
    damaged_from: Option<u64>,
    reads: std::sync::Arc<Semaphore>,
    largest_read: std::sync::Arc<AtomicUsize>,
}

#[async_trait]
impl Blob for Stored {
    fn info(&self) -> &BlobInfo {
        &self.info
    }

    async fn read(&self, start: u64, end: u64) -> Result<Bytes, StorageError> {
        let _permit = self.reads.acquire().await.unwrap();
        self.largest_read.fetch_max((end - start) as usize, Ordering::SeqCst);
        if self.damaged_from.is_some_and(|from| end > from) {
            return Err(StorageError::Damaged("the block's checksum does not match".to_owned()));
        }
        Ok(self.bytes.slice(start as usize..end as usize))
    }
}
