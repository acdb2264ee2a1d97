//! The engine: [`Storage`] over one data directory.

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Instant,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Blob, BlobInfo, BlobWriter, Found, Listed, NewBlob, Storage, StorageError, Usage, Written,
    append::Tail,
    body::Body,
    commit::{Content, commit},
    compact,
    keys::{self, Keys},
    layout::Layout,
    list,
    lookup::{Fetched, fetch},
    options::{OpenError, Options},
    pairs,
    reader::{OpenBlob, Source, packed},
    record::{FileRef, Kind},
    recovery,
    saver::Saver,
    shared::Shared,
    whole,
    writer::Writer,
};
use crate::model::{Checksum, Key, Meta, Version};

/// A key that is overwritten again and again between the look-up and the opening of its file is given up after this
/// many tries.
const MAX_REOPENS: usize = 16;

/// How the writer's thread ended.
type Ended = Option<Result<(), String>>;

/// The engine over one data directory. Dropped without [`Storage::close`] it finishes what waits, which blocks.
pub struct Engine {
    pub(super) shared: Arc<Shared>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    compactor: Mutex<Option<thread::JoinHandle<()>>>,
    keys: Mutex<Option<thread::JoinHandle<()>>>,
    ended: watch::Receiver<Ended>,
}

impl Engine {
    /// Opens a data directory, or makes one of an empty directory. Reads the saved index and what was written since, or
    /// the heads of all records: blocks for as long as that takes.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Arc<Self>, OpenError> {
        options.check()?;
        Self::open_in(Layout::open(dir.as_ref())?, options)
    }

    /// As [`Engine::open`], of a storage that must be there.
    pub(super) fn open_existing(dir: &Path, options: Options) -> Result<Arc<Self>, OpenError> {
        options.check()?;
        Self::open_in(Layout::open_existing(dir)?, options)
    }

    fn open_in(layout: Layout, options: Options) -> Result<Arc<Self>, OpenError> {
        let found = recovery::recover(&layout, &options, &mut |_, _| {})?;
        let last = found.volumes.last();
        let end = last.as_ref().map_or((0, 0), |volume| (volume.number, volume.end()));
        let tail = last.filter(|_| found.goes_on).map(|volume| Tail { volume });
        let (durable_before, unsaved_bytes) = (found.durable_before, found.unsaved_bytes);
        let keys = Keys::open(&layout, &options, &found.volumes, found.keys_until);
        let keys = keys.map_err(OpenError::io("remove wrong files of keys"))?;
        let shared = Arc::new(Shared::new(layout, options, found, keys));
        let (ended_sender, ended) = watch::channel(None);
        let saver = Saver::new(shared.clone(), durable_before, unsaved_bytes);
        let writer = Writer::new(shared.clone(), saver, tail, end);
        let thread = thread::Builder::new()
            .name("storage-writer".to_owned())
            .spawn({
                let shared = shared.clone();
                move || run_writer(&shared, writer, &ended_sender)
            })
            .map_err(OpenError::io("start the writer's thread"))?;
        let mut engine = Self {
            shared,
            writer: Mutex::new(Some(thread)),
            compactor: Mutex::default(),
            keys: Mutex::default(),
            ended,
        };
        engine.start_keys(durable_before)?;
        engine.start_compactor()?;
        Ok(Arc::new(engine))
    }

    fn start_keys(&mut self, durable_before: u32) -> Result<(), OpenError> {
        let shared = self.shared.clone();
        let thread = thread::Builder::new()
            .name("storage-keys".to_owned())
            .spawn(move || run_keys(&shared, durable_before))
            .map_err(OpenError::io("start the thread that writes keys"))?;
        *self.keys.get_mut() = Some(thread);
        Ok(())
    }

    fn start_compactor(&mut self) -> Result<(), OpenError> {
        if self.shared.options.compact_bytes_per_second > 0 {
            let shared = self.shared.clone();
            let thread = thread::Builder::new()
                .name("storage-compactor".to_owned())
                .spawn(move || run_compactor(&shared))
                .map_err(OpenError::io("start the compactor's thread"))?;
            *self.compactor.get_mut() = Some(thread);
        }
        Ok(())
    }

    /// Whether something may be stored under the key; `false` is sure, and costs no read.
    pub(super) fn may_hold(&self, key: &Key) -> bool {
        let hash = self.shared.hash(key.as_str().as_bytes());
        self.shared.index.candidates(hash).iter().next().is_some()
    }

    /// Bytes of memory the index takes.
    pub fn index_bytes(&self) -> u64 {
        self.shared.index.memory_bytes()
    }

    async fn fetch(&self, key: &Key) -> Result<Option<Fetched>, StorageError> {
        let shared = &self.shared;
        let bytes = key.as_str().as_bytes();
        let hash = shared.hash(bytes);
        fetch(&shared.index, &shared.volumes, &shared.reads, &shared.damage, hash, bytes).await
    }

    fn blob(&self, fetched: &Fetched, source: Source) -> Result<Found, StorageError> {
        let (place, facts) = (fetched.entry.place, &fetched.facts);
        let meta: Option<Meta> = pairs::decode(&fetched.pairs);
        let Some(meta) = meta else {
            return Err(self.shared.damage.found(place, "the metadata cannot be read"));
        };
        let info = BlobInfo { version: facts.version, length: facts.length, checksum: facts.checksum, meta };
        let (reads, damage) = (self.shared.reads.clone(), self.shared.damage.clone());
        let blob: Box<dyn Blob> = Box::new(OpenBlob::new(info, place, source, reads, damage));
        Ok(Found::Blob(blob))
    }

    /// Opens a blob's own file; `None` if it is gone because the blob was replaced meanwhile.
    async fn file(
        &self,
        key: &Key,
        fetched: &Fetched,
        file: FileRef,
    ) -> Result<Option<Source>, StorageError> {
        let path = self.shared.layout.blob(file.id);
        let place = fetched.entry.place;
        let opened = self.shared.reads.open(path).await;
        match opened.and_then(|file| file.metadata().map(|found| (file, found.len()))) {
            Ok((opened, length)) if length == whole::file_length(file.length) => {
                Ok(Some(Source::File(Arc::new(opened))))
            }
            Ok(_) => Err(self.shared.damage.found(place, "its file has another length")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let hash = self.shared.hash(key.as_str().as_bytes());
                if self.shared.index.holds(hash, place) {
                    return Err(self.shared.damage.found(place, "its file is gone"));
                }
                Ok(None)
            }
            Err(source) => Err(StorageError::Io { context: format!("open file {:016x}", file.id), source }),
        }
    }
}

fn run_compactor(shared: &Shared) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| compact::run(shared))).is_err() {
        tracing::error!("compaction panicked: no space is given back until the next start");
    }
}

fn run_keys(shared: &Shared, durable_before: u32) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| keys::run(shared, durable_before))).is_err() {
        tracing::error!("writing keys panicked: listings take longer until the next start");
    }
}

fn run_writer(shared: &Shared, writer: Writer, ended: &watch::Sender<Ended>) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.run()));
    let result = match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the writer panicked".to_owned()),
    };
    if let Err(reason) = &result {
        shared.health.set_read_only(reason);
    }
    // After a panic writes may still wait: dropped, they answer that the engine is closed.
    shared.queue.stop();
    while shared.queue.take(usize::MAX, 0, Instant::now()).is_some() {}
    ended.send_replace(Some(result));
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.compaction.stop();
        if let Some(compactor) = self.compactor.lock().take() {
            let _ = compactor.join();
        }
        self.shared.queue.stop();
        if let Some(writer) = self.writer.lock().take() {
            // Its panic was caught and logged; there is nobody left to tell.
            let _ = writer.join();
        }
        self.shared.keys.stop();
        if let Some(keys) = self.keys.lock().take() {
            let _ = keys.join();
        }
    }
}

#[async_trait]
impl Storage for Engine {
    fn id(&self) -> Version {
        Version::from_bytes(self.shared.layout.store)
    }

    async fn create(&self, blob: NewBlob) -> Result<Box<dyn BlobWriter>, StorageError> {
        Ok(Box::new(Body::create(self.shared.clone(), blob).await?))
    }

    async fn open(&self, key: &Key) -> Result<Option<Found>, StorageError> {
        for _ in 0..MAX_REOPENS {
            let Some(fetched) = self.fetch(key).await? else { return Ok(None) };
            let source = match (fetched.facts.kind, fetched.facts.file) {
                (Kind::File, Some(file)) => self.file(key, &fetched, file).await?,
                (Kind::Blob, _) => Some(packed(&fetched, &self.shared.damage)?),
                _ => return Ok(Some(Found::Tombstone(fetched.facts.version))),
            };
            if let Some(source) = source {
                return self.blob(&fetched, source).map(Some);
            }
        }
        let source = io::Error::other("the key is overwritten all the time");
        Err(StorageError::Io { context: "open a blob's file".to_owned(), source })
    }

    async fn delete(&self, key: &Key, version: Version) -> Result<Written, StorageError> {
        let checksum = Checksum::of(b"");
        let content = Content::Tombstone;
        let before = commit(&self.shared, key.clone(), version, checksum, Vec::new(), content).await?;
        Ok(Written { before, checksum, length: 0 })
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, StorageError> {
        list::list(&self.shared, prefix, after, limit).await
    }

    fn usage(&self) -> Usage {
        let shared = &self.shared;
        let numbers = shared.totals.numbers();
        let (volume_bytes, dead_bytes) = shared.volumes.bytes();
        let (memory_reads, disk_reads) = shared.reads.counts();
        let compaction = &shared.compaction;
        Usage {
            blobs: numbers.blobs,
            blob_bytes: numbers.blob_bytes,
            tombstones: numbers.tombstones,
            disk_bytes: volume_bytes
                + numbers.file_bytes
                + shared.options.reserve_bytes
                + shared.layout.index.bytes()
                + shared.keys.disk_bytes(),
            free_bytes: shared.layout.free_bytes(),
            damaged: shared.damage.count(),
            volumes: shared.volumes.count() as u64,
            dead_bytes,
            compacted_bytes: compaction.moved_bytes.load(Ordering::Relaxed),
            reclaimed_bytes: compaction.removed_bytes.load(Ordering::Relaxed),
            compaction_paused: compaction.is_paused(),
            memory_reads,
            disk_reads,
            failed_disks: 0,
            read_only: shared.health.read_only(),
        }
    }

    fn pause_compaction(&self, paused: bool) {
        self.shared.compaction.pause(paused);
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.shared.compaction.stop();
        let compactor = self.compactor.lock().take();
        if let Some(compactor) = compactor {
            // It ends after the step it is in. Its panic was caught and logged.
            let _ = tokio::task::spawn_blocking(|| compactor.join()).await;
        }
        self.shared.queue.stop();
        let mut ended = self.ended.clone();
        let result = match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(reason))) => Err(StorageError::ReadOnly(reason.clone())),
            Ok(None) | Err(_) => Err(StorageError::ReadOnly("the writer is gone".to_owned())),
        };
        self.shared.keys.stop();
        let keys = self.keys.lock().take();
        if let Some(keys) = keys {
            // It writes what is in memory. Its panic was caught and logged.
            let _ = tokio::task::spawn_blocking(|| keys.join()).await;
        }
        if result.is_ok() {
            self.shared.health.close();
        }
        result
    }
}
