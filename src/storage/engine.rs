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
    AtHand, Blob, BlobInfo, BlobWriter, Damaged, Found, Listed, NewBlob, Spot, Storage, StorageError, Usage,
    Written,
    append::Tail,
    body::Body,
    commit::{Content, commit},
    compact, damaged,
    hot::Hot,
    keys::{self, Keys},
    layout::Layout,
    list,
    lookup::{Fetched, at_hand, fetch},
    options::{OpenError, Options},
    pairs,
    pread::is_unreadable,
    reader::{OpenBlob, Source, packed},
    record::{FileRef, Kind},
    recovery,
    saver::Saver,
    scrub,
    shared::Shared,
    verify::Wrong,
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
    /// Compaction and scrub, which end before the writer.
    workers: Mutex<Vec<thread::JoinHandle<()>>>,
    /// Writes runs of keys; ends after the writer.
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
            workers: Mutex::default(),
            keys: Mutex::default(),
            ended,
        };
        let keys = engine.start("storage-keys", move |shared| keys::run(shared, durable_before))?;
        *engine.keys.get_mut() = Some(keys);
        if engine.shared.options.compact_bytes_per_second > 0 {
            let compactor = engine.start("storage-compactor", compact::run)?;
            engine.workers.get_mut().push(compactor);
        }
        if engine.shared.options.scrub_bytes_per_second > 0 {
            scrub::load(&engine.shared);
            let scrubber = engine.start("storage-scrub", scrub::run)?;
            engine.workers.get_mut().push(scrubber);
        }
        Ok(Arc::new(engine))
    }

    /// Starts a thread that works until it is stopped.
    fn start(
        &self,
        name: &'static str,
        work: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<thread::JoinHandle<()>, OpenError> {
        let shared = self.shared.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&shared))).is_err() {
                    tracing::error!(name, "it panicked: its work is not done until the next start");
                }
            })
            .map_err(OpenError::io(format!("start the thread {name}")))
    }

    fn stop_workers(&self) -> Vec<thread::JoinHandle<()>> {
        self.shared.compaction.hold.stop();
        self.shared.scrub.hold.stop();
        std::mem::take(&mut *self.workers.lock())
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

    /// The record of a key of that hash. One that is known to be damaged is an error, even if parts of it could be read:
    /// a reader who is told so at once asks another server.
    async fn fetch(&self, hash: u64, key: &Key) -> Result<Option<Fetched>, StorageError> {
        let Shared { index, volumes, reads, damage, .. } = &*self.shared;
        let fetched = fetch(index, volumes, reads, damage, hash, key.as_str().as_bytes()).await?;
        if let Some(place) = fetched.as_ref().map(|fetched| fetched.entry.place)
            && let Some(wrong) = damage.wrong(place)
        {
            return Err(damage.found(hash, place, wrong));
        }
        Ok(fetched)
    }

    fn blob(&self, hash: u64, fetched: &Fetched, source: Source) -> Result<Found, StorageError> {
        let (place, facts) = (fetched.entry.place, &fetched.facts);
        let meta: Option<Meta> = pairs::decode(&fetched.pairs);
        let Some(meta) = meta else {
            return Err(self.shared.damage.found(hash, place, Wrong::Meta));
        };
        let info = BlobInfo { version: facts.version, length: facts.length, checksum: facts.checksum, meta };
        let (reads, damage) = (self.shared.reads.clone(), self.shared.damage.clone());
        let blob: Box<dyn Blob> = Box::new(OpenBlob::new(info, (hash, place), source, reads, damage));
        Ok(Found::Blob(blob))
    }

    /// Opens a blob's own file; `None` if it is gone because the blob was replaced meanwhile.
    async fn file(
        &self,
        hash: u64,
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
            Ok(_) => Err(self.shared.damage.found(hash, place, Wrong::FileLength)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.shared.index.holds(hash, place) {
                    return Err(self.shared.damage.found(hash, place, Wrong::FileGone));
                }
                Ok(None)
            }
            Err(error) if is_unreadable(&error) => {
                Err(self.shared.damage.found(hash, place, Wrong::Unreadable))
            }
            Err(source) => Err(StorageError::Io { context: format!("open file {:016x}", file.id), source }),
        }
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
        // Their panics were caught and logged; there is nobody left to tell.
        self.stop_workers().into_iter().for_each(|worker| drop(worker.join()));
        self.shared.queue.stop();
        if let Some(writer) = self.writer.lock().take() {
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

    fn at_hand(&self, key: &Key) -> Option<Arc<AtHand>> {
        let (shared, key) = (&*self.shared, key.as_str().as_bytes());
        let candidates = shared.index.candidates(shared.hash(key));
        let mut likely = candidates.iter().filter(|entry| !shared.damage.is_known(entry.place));
        likely.find_map(|entry| at_hand(shared, entry, key))
    }

    async fn open(&self, key: &Key) -> Result<Option<Found>, StorageError> {
        let hash = self.shared.hash(key.as_str().as_bytes());
        for _ in 0..MAX_REOPENS {
            let Some(fetched) = self.fetch(hash, key).await? else { return Ok(None) };
            let source = match (fetched.facts.kind, fetched.facts.file) {
                (Kind::File, Some(file)) => self.file(hash, &fetched, file).await?,
                (Kind::Blob, _) => Some(packed(&fetched, hash, &self.shared.damage)?),
                _ => return Ok(Some(Found::Tombstone(fetched.facts.version))),
            };
            if let Some(source) = source {
                return self.blob(hash, &fetched, source).map(Some);
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
        shared.damage.prune(&shared.index);
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
            compaction_paused: compaction.hold.is_paused(),
            scrub: scrub::usage(shared),
            hot_reads: shared.hot.as_ref().map_or(0, Hot::reads),
            memory_reads,
            disk_reads,
            failed_disks: 0,
            read_only: shared.health.read_only(),
        }
    }

    fn pause_compaction(&self, paused: bool) {
        self.shared.compaction.hold.pause(paused);
    }

    fn pause_scrub(&self, paused: bool) {
        self.shared.scrub.hold.pause(paused);
    }

    fn start_scrub(&self) {
        self.shared.scrub.begin_now();
    }

    fn settle_deletes(&self, before_ms: u64) {
        self.shared.settled_ms.fetch_max(before_ms, Ordering::Relaxed);
    }

    fn settle_stretch(&self, spot: Spot) {
        self.shared.damage.settle_stretch(spot.place, spot.end);
    }

    async fn damaged(&self, after: Option<Spot>, limit: usize) -> Result<Vec<Damaged>, StorageError> {
        damaged::page(&self.shared, after, limit).await
    }

    async fn close(&self) -> Result<(), StorageError> {
        for worker in self.stop_workers() {
            // It ends after the step it is in. Its panic was caught and logged.
            let _ = tokio::task::spawn_blocking(|| worker.join()).await;
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
