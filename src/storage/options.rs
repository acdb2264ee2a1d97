//! What the engine can be told, and why it may refuse to open.

use std::{io, path::PathBuf, time::Duration};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Blobs of up to this size are packed into volumes: big enough for photos, small enough that a handful of them fit
/// the buffers.
pub const DEFAULT_SMALL_LIMIT: u64 = 8 << 20;
/// A volume is closed when the next record would take it past this: small enough to be copied or rewritten in seconds.
pub const DEFAULT_VOLUME_BYTES: u64 = 1 << 30;
/// Memory for the bodies of small blobs that are being received.
pub const DEFAULT_BUFFER_BYTES: u64 = 64 << 20;
/// Memory for blobs that are read again and again.
pub const DEFAULT_HOT_BYTES: u64 = 64 << 20;
/// Kept aside so that deletes work on a full disk: some ten thousand tombstones.
pub const DEFAULT_RESERVE_BYTES: u64 = 1 << 20;
/// A volume whose dead share is at least this is rewritten: at most 1.43 bytes on the disk for a byte that is needed, and
/// 2.3 bytes written again for a byte given back.
pub const DEFAULT_COMPACT_DEAD_RATIO: f64 = 0.3;
/// Compaction reads and writes this much a second at most: a fifth of a slow disk.
pub const DEFAULT_COMPACT_BYTES_PER_SECOND: u64 = 32 << 20;
/// All that is stored is read and verified once in this time: often enough that two copies of a blob are hardly ever
/// damaged between two readings, and so seldom that a disk of 4 TB is read at 2 MB a second.
pub const DEFAULT_SCRUB_PERIOD: Duration = Duration::from_secs(30 * 24 * 3600);
/// The scrub reads this much a second at most: a fifth of a slow disk.
pub const DEFAULT_SCRUB_BYTES_PER_SECOND: u64 = 32 << 20;
/// A delete is remembered at least so long: longer than any server of a shard is away and comes back with its disk.
pub const DEFAULT_TOMBSTONE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// A smaller dead share would have 20 bytes written again for a byte given back.
const LEAST_DEAD_RATIO: f64 = 0.05;
/// At least so many bytes of records are written between two saved indexes: read again in less than a second.
const INDEX_SAVE_BYTES: u64 = 64 << 20;
/// Some 60,000 keys, and three times as much where the disk is slow.
const MEMTABLE_BYTES: usize = 8 << 20;
/// The most a record may carry, whatever the settings say: it bounds what a reader of a volume has to believe.
pub const MAX_SMALL_LIMIT: u64 = 64 << 20;
/// Offsets are kept in 40 bits.
const MAX_VOLUME_BYTES: u64 = 1 << 40;
/// What is left of a volume's size for the superblock and the head of the largest record.
const HEAD_ROOM_BYTES: u64 = 64 << 10;

/// When an acknowledged write is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// One `fdatasync` for each record.
    Always,
    /// One `fdatasync` for all records that are waiting: as safe as `Always`, and faster the more writers there are.
    #[default]
    Group,
    /// None: what was acknowledged survives the end of the process but not a power cut. Never damaged bytes, for
    /// checksums are verified all the same.
    Never,
}

/// Settings of the engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// When an acknowledged write is on the disk. Default: [`SyncMode::Group`].
    pub sync: SyncMode,
    /// Size at which a new volume is begun, in bytes; on a disk of less than fifty times that, a fiftieth of the disk.
    /// Default: [`DEFAULT_VOLUME_BYTES`].
    pub volume_bytes: u64,
    /// Largest blob that is packed into a volume, in bytes; others get a file of their own. Default:
    /// [`DEFAULT_SMALL_LIMIT`], at most [`MAX_SMALL_LIMIT`].
    pub small_limit: u64,
    /// Memory for small blobs that are being received, in bytes. A blob that finds none goes to a file of its own
    /// instead of waiting; what is collected for such files has as much again, beyond 64 KiB of each. Default:
    /// [`DEFAULT_BUFFER_BYTES`].
    pub buffer_bytes: u64,
    /// Memory for blobs that are read again and again, in bytes; 0: none is kept. Default: [`DEFAULT_HOT_BYTES`].
    pub hot_bytes: u64,
    /// Disk space kept aside for deletes on a full disk, in bytes. Default: [`DEFAULT_RESERVE_BYTES`].
    pub reserve_bytes: u64,
    /// Dead share from which on a volume is rewritten, at least 0.05; 1: only volumes that nobody needs anything of are
    /// removed. Default: [`DEFAULT_COMPACT_DEAD_RATIO`].
    pub compact_dead_ratio: f64,
    /// What compaction may read and write, in bytes per second; 0: there is none. Default:
    /// [`DEFAULT_COMPACT_BYTES_PER_SECOND`].
    pub compact_bytes_per_second: u64,
    /// Everything is verified once in this time. Default: [`DEFAULT_SCRUB_PERIOD`].
    pub scrub_period: Duration,
    /// What the scrub may read, in bytes per second; 0: there is none. Default: [`DEFAULT_SCRUB_BYTES_PER_SECOND`].
    pub scrub_bytes_per_second: u64,
    /// How long a tombstone is kept at least, counted from its version. Default: [`DEFAULT_TOMBSTONE_AGE`].
    pub tombstone_age: Duration,
    /// A tombstone is kept beyond its age until [`super::Storage::settle_deletes`] says that no other server needs it: for a
    /// server of a shard. Default: no.
    pub tombstones_wait: bool,
    /// The index is saved after so many bytes of records, or more if it is large. Only tests replace it, to have it saved
    /// all the time.
    pub index_save_bytes: u64,
    /// Keys in memory are written to a file when they take so many bytes. Only tests replace it, to have many files.
    pub memtable_bytes: usize,
    /// Hash of a key's bytes with the store's seed. Only tests replace it, to make keys collide.
    pub key_hash: fn(&[u8], u64) -> u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: SyncMode::default(),
            volume_bytes: DEFAULT_VOLUME_BYTES,
            small_limit: DEFAULT_SMALL_LIMIT,
            buffer_bytes: DEFAULT_BUFFER_BYTES,
            hot_bytes: DEFAULT_HOT_BYTES,
            reserve_bytes: DEFAULT_RESERVE_BYTES,
            compact_dead_ratio: DEFAULT_COMPACT_DEAD_RATIO,
            compact_bytes_per_second: DEFAULT_COMPACT_BYTES_PER_SECOND,
            scrub_period: DEFAULT_SCRUB_PERIOD,
            scrub_bytes_per_second: DEFAULT_SCRUB_BYTES_PER_SECOND,
            tombstone_age: DEFAULT_TOMBSTONE_AGE,
            tombstones_wait: false,
            index_save_bytes: INDEX_SAVE_BYTES,
            memtable_bytes: MEMTABLE_BYTES,
            key_hash: xxh3_64_with_seed,
        }
    }
}

impl Options {
    /// What the largest small blob needs.
    pub(super) fn least_volume_bytes(&self) -> u64 {
        self.small_limit.saturating_add(HEAD_ROOM_BYTES)
    }

    /// Refuses settings that cannot work together.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        if self.small_limit > MAX_SMALL_LIMIT {
            let text = format!("the limit of small blobs is at most {MAX_SMALL_LIMIT} bytes");
            return Err(OpenError::Options(text));
        }
        if !(LEAST_DEAD_RATIO..=1.0).contains(&self.compact_dead_ratio) {
            let text = format!("the dead share for compaction is from {LEAST_DEAD_RATIO} to 1");
            return Err(OpenError::Options(text));
        }
        if self.volume_bytes > MAX_VOLUME_BYTES {
            return Err(OpenError::Options(format!("a volume has at most {MAX_VOLUME_BYTES} bytes")));
        }
        let least = self.least_volume_bytes();
        if self.volume_bytes < least {
            return Err(OpenError::Options(format!(
                "a volume must hold the largest small blob: make it at least {least} bytes"
            )));
        }
        Ok(())
    }
}

/// Why a data directory was not opened. Nothing in it was changed, except where it says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Settings that cannot work together.
    #[error("{0}")]
    Options(String),
    /// Another process has it open.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// There are files, but not ours. Perhaps the wrong directory.
    #[error("{} holds files but no backpack storage: give an empty directory or the right one (found {found:?})", .dir.display())]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// One of the names found.
        found: String,
    },
    /// There is no storage where one must be; none was made.
    #[error("{} holds no backpack storage{}", .dir.display(), one_of(.inside))]
    NoStorage {
        /// The directory.
        dir: PathBuf,
        /// Storages in folders of it.
        inside: Vec<PathBuf>,
    },
    /// The marker is there, the data is not: perhaps a disk is not mounted.
    #[error("{} was a storage but {missing} is gone: is a disk not mounted?", .dir.display())]
    Incomplete {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        missing: String,
    },
    /// Directories that do not make one storage, or not all of it: what to do.
    #[error("{0}")]
    Disks(String),
    /// Written by a newer program, or not by this one at all.
    #[error("{}: {reason}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// What the system said.
        source: io::Error,
    },
}

fn one_of(storages: &[PathBuf]) -> String {
    if storages.is_empty() {
        return String::new();
    }
    let names: Vec<String> = storages.iter().map(|path| path.display().to_string()).collect();
    format!(" of its own: give one of {}", names.join(", "))
}

impl OpenError {
    /// For `map_err`: an I/O error while doing that.
    pub(super) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        assert!(Options::default().check().is_ok());
        assert!(Options { small_limit: 65 << 20, ..Options::default() }.check().is_err());
        assert!(Options { volume_bytes: 8 << 20, ..Options::default() }.check().is_err());
        assert!(Options { volume_bytes: 2 << 40, ..Options::default() }.check().is_err());
        for compact_dead_ratio in [0.0, -1.0, 1.1, f64::NAN] {
            assert!(Options { compact_dead_ratio, ..Options::default() }.check().is_err());
        }
    }
}
