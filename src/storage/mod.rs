//! The seam to the engine under the node: where the bytes of blobs live.
//!
//! - [`Storage`]: the trait; [`StorageError`]: what can go wrong; [`Engine`]: the one implementation
//!
//! The engine keeps small blobs in volumes, which only grow, and others in files of their own. From the bytes up:
//! - `record`, `pairs`, `blocks`, `whole`: the format, pure (`docs/format.md` draws it)
//! - `disk`: every change to the file system; `layout`, `volume`, `append`, `reserve`, `doomed`, `scan`: files
//! - `slot`, `table`, `index`, `lookup`, `decide`, `damage`, `damaged`, `totals`: what is where, and which write of a key stays
//! - `body`, `file_body`, `budget`, `commit`, `queue`, `writer`, `answer`, `health`: writing
//! - `reader`, `buffers`, `pread`, `list`: reading; `hot`, [`AtHand`] (`at_hand`): what is kept in memory for it; `keys`: all keys in order, for listings
//! - `verify`: whether what is stored is what was written; `pace`: how background threads are held and slowed down
//! - `compact`, `rewrite`, `tombstones`: giving back space; `scrub`, `scrub_work`, `scrub_state`, `gentle`: finding damage
//! - `checkpoint`, `index_file`, `saver`: the saved index; `opened`, `restore`, `recovery`: the start
//! - `shared`, `options`, `engine`: all of it together
//! - `disk_set`: several engines, each on a disk of its own, as one
//! - [`Inspection`] (`inspect`, `inspect_verify`): a directory seen from outside, by tools; `offline`: what they do to one

mod answer;
mod append;
mod at_hand;
mod blocks;
mod body;
mod budget;
mod buffers;
mod checkpoint;
mod commit;
mod compact;
#[cfg(test)]
mod compact_model;
#[cfg(test)]
mod compact_tests;
mod damage;
#[cfg(test)]
mod damage_tests;
mod damaged;
mod decide;
mod disk;
mod disk_set;
mod doomed;
mod engine;
#[cfg(test)]
mod failing_disk;
mod file_body;
mod gentle;
mod health;
mod hot;
mod index;
mod index_file;
mod inspect;
mod inspect_verify;
mod keys;
mod layout;
mod list;
mod lookup;
mod offline;
mod opened;
mod options;
mod pace;
mod pairs;
#[cfg(test)]
mod power_cut;
mod pread;
mod queue;
#[cfg(test)]
mod read_tests;
mod reader;
mod record;
mod recovery;
mod reserve;
mod restore;
mod rewrite;
mod saver;
mod scan;
mod scrub;
mod scrub_state;
#[cfg(test)]
mod scrub_tests;
mod scrub_work;
mod shared;
mod slot;
mod table;
mod tombstones;
mod totals;
mod verify;
mod volume;
mod whole;
mod writer;

pub use at_hand::AtHand;
pub use damage::{Spot, SpotError};
pub use disk_set::open as open_disks;
pub use engine::Engine;
pub use inspect::{FilesInfo, Inspection, Met, Record, VolumeInfo};
pub use inspect_verify::{Damage, DamagedBlob, Verified};
pub use offline::{CompactHow, Compacted, Rebuilt, compact as compact_offline, rebuild_index};
pub use options::{
    DEFAULT_BUFFER_BYTES, DEFAULT_COMPACT_BYTES_PER_SECOND, DEFAULT_COMPACT_DEAD_RATIO, DEFAULT_HOT_BYTES,
    DEFAULT_RESERVE_BYTES, DEFAULT_SCRUB_BYTES_PER_SECOND, DEFAULT_SCRUB_PERIOD, DEFAULT_SMALL_LIMIT,
    DEFAULT_TOMBSTONE_AGE, DEFAULT_VOLUME_BYTES, MAX_SMALL_LIMIT, OpenError, Options, SyncMode,
};
pub use shared::SavedIndex;
pub use verify::Wrong;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use crate::model::Listed;
use crate::model::{Checksum, Key, Meta, Version};

/// Why the engine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No room left; reads and deletes go on.
    #[error("the disk is full")]
    Full,
    /// What is stored there does not match its checksum. It is never given out.
    #[error("the stored blob is damaged: {0}")]
    Damaged(String),
    /// The engine takes no writes (a failed fsync, a read-only disk). Reads go on.
    #[error("the storage is read-only: {0}")]
    ReadOnly(String),
    /// The disk that may hold it is not there.
    #[error("the disk at {0} is lost")]
    Lost(String),
    /// The disk did not answer for so long. What was asked may still be done.
    #[error("the disk does not answer within {} s", .0.as_secs())]
    Hung(std::time::Duration),
    /// The body ended before its announced length, or went on after it. Nothing was stored.
    #[error("the body has {got} bytes, {announced} were announced")]
    WrongLength {
        /// As announced.
        announced: u64,
        /// As received.
        got: u64,
    },
    /// The disk failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done: "append to volume 7".
        context: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What is known of a stored blob without reading its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Which write it is.
    pub version: Version,
    /// Bytes.
    pub length: u64,
    /// Of all its bytes.
    pub checksum: Checksum,
    /// The headers kept with it.
    pub meta: Meta,
}

/// What the engine holds under a key.
pub enum Found {
    /// A blob.
    Blob(Box<dyn Blob>),
    /// It was deleted by that version.
    Tombstone(Version),
}

impl Found {
    /// Which write it is.
    pub fn version(&self) -> Version {
        match self {
            Self::Blob(blob) => blob.info().version,
            Self::Tombstone(version) => *version,
        }
    }
}

/// A blob open for reading. It stays readable while this lives, whatever happens to the key.
#[async_trait]
pub trait Blob: Send + Sync {
    /// What is known of it.
    fn info(&self) -> &BlobInfo;

    /// The bytes `start..end` of it, which must lie inside. Meant to be called with spans of at most
    /// [`READ_CHUNK_BYTES`]. Bytes are checked before they are returned: damage is an error, never bytes.
    async fn read(&self, start: u64, end: u64) -> Result<Bytes, StorageError>;
}

/// Bodies are read from the disk and sent in chunks of this size: the best of those measured for big bodies.
pub const READ_CHUNK_BYTES: u64 = 256 * 1024;

/// A blob to be written.
#[derive(Debug, Clone)]
pub struct NewBlob {
    /// Its key.
    pub key: Key,
    /// Its version; an older one than is stored changes nothing.
    pub version: Version,
    /// The headers to keep.
    pub meta: Meta,
    /// How many bytes will come, where known.
    pub length: Option<u64>,
}

/// What a write or a delete did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What the key held before.
    pub before: Before,
    /// Of the bytes that were received (0 for a delete).
    pub checksum: Checksum,
    /// Bytes received (0 for a delete).
    pub length: u64,
}

/// What a key held before a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Nothing, as far as is known.
    Nothing,
    /// An older blob of that length, which the write replaced.
    Older {
        /// Bytes of the replaced blob.
        length: u64,
    },
    /// An older tombstone.
    OlderTombstone,
    /// This version or a newer one, so the write changed nothing: which.
    Newer(Version),
}

/// A blob being written. Dropped without [`BlobWriter::commit`] it leaves nothing.
#[async_trait]
pub trait BlobWriter: Send {
    /// Takes the next bytes.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError>;

    /// The checksum of what was taken so far, to compare before committing.
    fn checksum(&self) -> Checksum;

    /// Makes the blob visible. When this returns `Ok`, it is durable (as durable as the engine's sync setting says).
    async fn commit(self: Box<Self>) -> Result<Written, StorageError>;
}

/// A piece of damage.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Damaged {
    /// Where it is: a record, or a stretch of a volume.
    #[serde(serialize_with = "as_text")]
    pub place: Spot,
    /// What is wrong.
    pub what: Wrong,
    /// When it was found, milliseconds since 1970.
    pub found_ms: u64,
    /// The key of the record, where it can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// Its version, where that can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// The record is that of a delete.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// The blob's own file, relative to the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

fn as_text<S: serde::Serializer>(spot: &Spot, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(spot)
}

/// Totals of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Blobs that can be read.
    pub blobs: u64,
    /// Their bytes, without overhead: what shards count.
    pub blob_bytes: u64,
    /// Deletes still remembered.
    pub tombstones: u64,
    /// Bytes of all files of the engine.
    pub disk_bytes: u64,
    /// Bytes free on the file system.
    pub free_bytes: u64,
    /// Blobs found damaged since the start and not yet replaced.
    pub damaged: u64,
    /// Volumes.
    #[serde(default)]
    pub volumes: u64,
    /// Bytes in volumes that nobody needs any more and that compaction has not given back yet.
    #[serde(default)]
    pub dead_bytes: u64,
    /// Bytes that compaction wrote again elsewhere since the start.
    #[serde(default)]
    pub compacted_bytes: u64,
    /// Bytes of volumes that compaction removed since the start.
    #[serde(default)]
    pub reclaimed_bytes: u64,
    /// Compaction was told to pause.
    #[serde(default)]
    pub compaction_paused: bool,
    /// How far the scrub is.
    #[serde(default)]
    pub scrub: ScrubUsage,
    /// Reads since the start that were answered with a blob that is kept in memory.
    #[serde(default)]
    pub hot_reads: u64,
    /// Reads of files for requests since the start that found everything in memory.
    #[serde(default)]
    pub memory_reads: u64,
    /// Those that went to the disk: one for a GET of up to 256 KiB.
    #[serde(default)]
    pub disk_reads: u64,
    /// Of several disks those that were not there at the start, or take no writes.
    #[serde(default)]
    pub failed_disks: u64,
    /// Why no writes are taken, if so.
    pub read_only: Option<String>,
}

impl Usage {
    /// Adds those of another disk. Writes are taken while any disk takes them.
    fn add(&mut self, other: Self) {
        self.failed_disks += u64::from(other.read_only.is_some());
        self.scrub.add(other.scrub);
        *self = Self {
            blobs: self.blobs + other.blobs,
            blob_bytes: self.blob_bytes + other.blob_bytes,
            tombstones: self.tombstones + other.tombstones,
            disk_bytes: self.disk_bytes + other.disk_bytes,
            free_bytes: self.free_bytes + other.free_bytes,
            damaged: self.damaged + other.damaged,
            volumes: self.volumes + other.volumes,
            dead_bytes: self.dead_bytes + other.dead_bytes,
            compacted_bytes: self.compacted_bytes + other.compacted_bytes,
            reclaimed_bytes: self.reclaimed_bytes + other.reclaimed_bytes,
            compaction_paused: self.compaction_paused || other.compaction_paused,
            scrub: self.scrub,
            hot_reads: self.hot_reads + other.hot_reads,
            memory_reads: self.memory_reads + other.memory_reads,
            disk_reads: self.disk_reads + other.disk_reads,
            failed_disks: self.failed_disks,
            read_only: other.read_only.or(self.read_only.take()),
        };
    }
}

/// How far the scrub is: of the round that is going on, or of the last one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ScrubUsage {
    /// A round is going on.
    pub running: bool,
    /// It was told to pause.
    pub paused: bool,
    /// Bytes of volumes and files that the round went over.
    pub verified_bytes: u64,
    /// Those and what is left. Equal to those exactly when the round is at its end.
    pub total_bytes: u64,
    /// When the round began, milliseconds since 1970; none before the first.
    pub began_ms: Option<u64>,
    /// When the last round that came to its end did so.
    pub last_ended_ms: Option<u64>,
    /// Damage that the round met.
    pub found: u64,
    /// Bytes read since the start.
    pub read_bytes: u64,
}

impl ScrubUsage {
    /// Adds that of another disk. What was done long ago is what is to be seen.
    fn add(&mut self, other: Self) {
        let earliest = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        *self = Self {
            running: self.running || other.running,
            paused: self.paused || other.paused,
            verified_bytes: self.verified_bytes + other.verified_bytes,
            total_bytes: self.total_bytes + other.total_bytes,
            began_ms: earliest(self.began_ms, other.began_ms),
            last_ended_ms: earliest(self.last_ended_ms, other.last_ended_ms),
            found: self.found + other.found,
            read_bytes: self.read_bytes + other.read_bytes,
        };
    }
}

/// The engine. All methods may be called by any number of tasks; reads never wait for writers.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Its id, given when it was made and kept for good.
    fn id(&self) -> Version;

    /// Starts a write. Fails at once where no room is left.
    async fn create(&self, blob: NewBlob) -> Result<Box<dyn BlobWriter>, StorageError>;

    /// A blob, if that takes no wait: it is kept in memory, or short and its record in the page cache. `None`
    /// says nothing about the key: ask [`Storage::open`].
    fn at_hand(&self, key: &Key) -> Option<Arc<AtHand>>;

    /// What is stored under a key.
    async fn open(&self, key: &Key) -> Result<Option<Found>, StorageError>;

    /// Leaves a tombstone, durably. A blob of the same version or older is gone; a newer one stays
    /// ([`Before::Newer`]).
    async fn delete(&self, key: &Key, version: Version) -> Result<Written, StorageError>;

    /// Blobs and tombstones in the order of their keys' bytes, from the first key that starts with `prefix` and is
    /// greater than `after`, at most `limit`.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, StorageError>;

    /// Totals.
    fn usage(&self) -> Usage;

    /// Holds the compaction where it is, or lets it go on, until the engine is closed.
    fn pause_compaction(&self, paused: bool);

    /// Holds the scrub where it is, or lets it go on, until the engine is closed.
    fn pause_scrub(&self, paused: bool);

    /// Begins a new round of the scrub, at its full speed.
    fn start_scrub(&self);

    /// Deletes made before that (milliseconds since 1970) are known to every server of the shard, or have nothing left to
    /// delete there: their tombstones may go once their age has passed. It never goes back, and is forgotten with the process.
    fn settle_deletes(&self, before_ms: u64);

    /// What a stretch of a volume held, of which nobody knows whose it was, was sought on all other servers of the shard: it is
    /// no damage any more. Of anything else, and of one that is not as it was seen, nothing is forgotten.
    fn settle_stretch(&self, spot: Spot);

    /// What is damaged and not yet replaced, in the order of places, at most `limit` behind `after`.
    async fn damaged(&self, after: Option<Spot>, limit: usize) -> Result<Vec<Damaged>, StorageError>;

    /// Writes out what is waiting and saves what makes the next start fast. Nothing may be written afterwards.
    async fn close(&self) -> Result<(), StorageError>;
}
