//! What all parts of an open engine share.

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    StorageError, SyncMode,
    answer::Answer,
    budget::Budget,
    compact::{self, Compaction},
    damage::Damage,
    disk,
    health::Health,
    hot::Hot,
    index::{Index, Place},
    keys::Keys,
    layout::Layout,
    lookup::{self, Current},
    opened::Opened,
    options::Options,
    pread::Reads,
    queue::Queue,
    scrub::Scrub,
    totals::Totals,
    volume::Volumes,
    writer::{Done, Job, Request},
};
use crate::model::Key;

/// Writes that may wait for the writer; more wait for a place. Some batches' worth: it never holds up the writer.
const MAX_WAITING: usize = 8192;
/// Listings at once: each takes a thread, and walks through volumes where files of keys are missing.
const MAX_LISTINGS: usize = 4;

/// What all parts of an open engine share.
pub struct Shared {
    /// The data directory.
    pub layout: Layout,
    /// The settings.
    pub options: Options,
    /// Where the newest record of each key is.
    pub index: Arc<Index>,
    /// The volumes.
    pub volumes: Arc<Volumes>,
    /// All keys in order.
    pub keys: Keys,
    /// Reads for requests.
    pub reads: Arc<Reads>,
    /// Blobs that are read again and again, unless none are kept.
    pub hot: Option<Hot>,
    /// What was found damaged.
    pub damage: Arc<Damage>,
    /// Memory for bodies.
    pub budget: Arc<Budget>,
    /// As much again for those that get files of their own: they do not take it from small ones.
    pub files_budget: Arc<Budget>,
    /// What the index holds, in numbers.
    pub totals: Totals,
    /// Whether writes are taken.
    pub health: Health,
    /// Writes that wait.
    pub queue: Queue<Job>,
    /// Places in the queue.
    pub places: Arc<Semaphore>,
    /// Places for listings.
    pub listings: Semaphore,
    /// What compaction did and whether it may go on.
    pub compaction: Compaction,
    /// How far the scrub is and whether it may go on.
    pub scrub: Scrub,
    /// Tombstones made before that are needed by no other server, milliseconds since 1970.
    pub settled_ms: AtomicU64,
    /// Held by who writes the superblock of a volume that is not new, or removes a volume.
    pub superblocks: Mutex<()>,
    /// Size at which a new volume is begun.
    pub volume_bytes: u64,
    /// Space that blobs leave free, so that compaction has room to give space back.
    pub room_bytes: u64,
    /// Ids of files of blobs that were written without a sync, or may have been by the process before this one.
    pub unsynced_files: Mutex<Vec<u64>>,
    next_file: AtomicU64,
}

/// What the start found.
pub struct Found {
    /// The index.
    pub index: Index,
    /// The volumes.
    pub volumes: Volumes,
    /// The totals.
    pub totals: Totals,
    /// The damage.
    pub damage: Damage,
    /// The first id of a whole file that was never used.
    pub next_file: u64,
    /// The last volume may be appended to.
    pub goes_on: bool,
    /// Volumes with a smaller number are surely durable.
    pub durable_before: u32,
    /// Files of keys that were made of records before this place can be believed, if any.
    pub keys_until: Option<Place>,
    /// Bytes of records that no saved index has.
    pub unsaved_bytes: u64,
    /// Ids of files of blobs that are perhaps not durable.
    pub unsynced_files: Vec<u64>,
    /// The volumes as they were before anything was put in order, ascending.
    pub opened: Vec<Opened>,
    /// Stretches of the last volume that were never acknowledged. Where the directory may be changed they were cut off or
    /// covered, and there are none.
    pub unfinished: Vec<Range<u64>>,
    /// The last volume was known to be whole up to here.
    pub whole_end: u64,
    /// Whether an index was saved, and used.
    pub saved: SavedIndex,
}

/// What a start makes of the saved index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SavedIndex {
    /// It is what the volumes say.
    Used,
    /// There is none.
    None,
    /// It is torn, damaged or not what the volumes say. Nothing is lost: they are read instead.
    Wrong,
}

impl SavedIndex {
    /// Of one that is there or not, and was used or not.
    pub fn of(is_there: bool, is_used: bool) -> Self {
        match (is_there, is_used) {
            (_, true) => Self::Used,
            (true, false) => Self::Wrong,
            (false, false) => Self::None,
        }
    }
}

impl Shared {
    /// Everything, at the start.
    pub fn new(layout: Layout, options: Options, found: Found, keys: Keys) -> Self {
        let volume_bytes = compact::volume_bytes(&options, layout.total_bytes());
        Self {
            index: Arc::new(found.index),
            volumes: Arc::new(found.volumes),
            keys,
            reads: Arc::default(),
            hot: Hot::new(options.hot_bytes),
            damage: Arc::new(found.damage),
            budget: Budget::new(options.buffer_bytes),
            files_budget: Budget::new(options.buffer_bytes),
            totals: found.totals,
            health: Health::default(),
            queue: Queue::default(),
            places: Arc::new(Semaphore::new(MAX_WAITING)),
            listings: Semaphore::new(MAX_LISTINGS),
            compaction: Compaction::default(),
            scrub: Scrub::default(),
            settled_ms: AtomicU64::new(if options.tombstones_wait { 0 } else { u64::MAX }),
            superblocks: Mutex::default(),
            volume_bytes,
            room_bytes: compact::room_bytes(&options, volume_bytes),
            unsynced_files: Mutex::new(found.unsynced_files),
            next_file: AtomicU64::new(found.next_file),
            layout,
            options,
        }
    }

    /// The hash of a key.
    pub fn hash(&self, key: &[u8]) -> u64 {
        (self.options.key_hash)(key, self.layout.hash_seed)
    }

    /// An id for a whole file that no other has or had.
    pub fn next_file(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    /// Hands a write to the writer and waits until it is durable.
    pub async fn submit(
        &self,
        request: impl FnOnce(tokio::sync::OwnedSemaphorePermit, Answer) -> Request,
    ) -> Result<Done, StorageError> {
        let closed = || StorageError::ReadOnly("it is closed".to_owned());
        let permit = self.places.clone().acquire_owned().await.map_err(|_| closed())?;
        let (answer, done) = Answer::to_me();
        self.queue.push(Job::Write(request(permit, answer))).map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }

    /// Makes durable what was written to a volume, behind the writer's back.
    pub fn sync_volume(&self, number: u32) -> io::Result<()> {
        // Opened anew: the error of a failed sync is told once to each who has the file open, and the writer needs its own.
        let file = disk::open(&self.layout.volume(number))?;
        disk::sync_data(&file).inspect_err(|error| self.sync_failed(error))
    }

    /// A sync behind the writer's back failed.
    pub fn sync_failed(&self, error: &io::Error) {
        // Where the writer syncs, it is told too, and goes on in a new volume. Else nobody is told again: asked once more,
        // the system may say that all is well.
        if self.options.sync == SyncMode::Never {
            self.health.set_read_only(&format!("a sync failed ({error})"));
        }
    }

    /// An error if there is surely no room for a blob of that length.
    pub fn check_room(&self, length: u64) -> Result<(), StorageError> {
        // Asked only where the answer matters: small blobs find out soon enough.
        if self.health.is_full() || length > self.options.small_limit {
            let needed = length.saturating_add(self.options.reserve_bytes.max(self.room_bytes));
            if self.layout.free_bytes() < needed {
                return Err(StorageError::Full);
            }
        }
        Ok(())
    }

    /// What the key held, for [`Request::known`].
    pub async fn look_up(&self, hash: u64, key: &Key) -> Option<Current> {
        let key = key.as_str().as_bytes();
        lookup::current_for_task(&self.index, &self.volumes, &self.reads, hash, key).await
    }
}
