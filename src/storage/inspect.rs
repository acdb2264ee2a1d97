//! A data directory seen from outside: its volumes, its whole files, every record in them. What is read of it byte by byte
//! and judged is in `inspect_verify`.
//!
//! Nothing in the directory is made, changed or locked: it may be on a disk that cannot be written to, and a node may have
//! it open and go on writing. What is seen is the directory as it was at one moment. Volumes stay open from then on, so
//! those that compaction removes can still be read; when their turn comes they are left out all the same, because what
//! was needed of them stands elsewhere.

use std::{
    collections::{HashMap, VecDeque},
    io,
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    index::{InFile, Index, Place},
    layout::Layout,
    opened::Opened,
    options::{OpenError, Options},
    pairs,
    record::{Head, Kind},
    recovery::{OnRead, recover},
    scan::{Scan, Step},
    shared::SavedIndex,
    volume::{SUPERBLOCK_BYTES, Volume},
    whole,
};
use crate::model::{Checksum, Meta, Version};

/// A data directory as it was at one moment.
pub struct Inspection {
    pub(super) dir: PathBuf,
    pub(super) layout: Layout,
    pub(super) index: Index,
    pub(super) saved: SavedIndex,
    /// Ascending; those that were walked through are gone.
    pub(super) opened: VecDeque<Opened>,
    last: u32,
    /// The last volume was whole up to here once.
    whole_end: u64,
    /// Of the last volume.
    unfinished: Vec<Range<u64>>,
    key_hash: fn(&[u8], u64) -> u64,
}

/// A volume.
#[derive(Debug, Clone, Serialize)]
pub struct VolumeInfo {
    /// Its number.
    pub number: u32,
    /// Bytes of its file.
    pub bytes: u64,
    /// Records that are the newest of their key, tombstones among them.
    pub records: u64,
    /// Deletes among them.
    pub tombstones: u64,
    /// Bytes of these records, up to 3 too many for each.
    pub live_bytes: u64,
    /// Bytes of what nobody needs any more: what compaction may give back.
    pub dead_bytes: u64,
    /// Bytes at its end that were never acknowledged: being written now, or left by a crash.
    pub unfinished_bytes: u64,
    /// When it was made, milliseconds since 1970; `None` if its superblock is damaged.
    pub created_ms: Option<u64>,
    /// Nothing is written to it any more: it is not the last one.
    pub sealed: bool,
    /// Bytes that it held and holds no more.
    pub lost_bytes: u64,
}

/// Blobs in files of their own.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct FilesInfo {
    /// How many there are.
    pub count: u64,
    /// Bytes of the files, with their checksums.
    pub bytes: u64,
}

/// A record of a volume.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The volume's number.
    pub volume: u32,
    /// Where in the volume it begins.
    pub offset: u64,
    /// It is the newest record of its key.
    pub is_live: bool,
    pub(super) head: Head<'a>,
}

impl<'a> Record<'a> {
    /// `blob`, `file` (a blob in a file of its own), `tombstone` or `gap`.
    pub fn kind(&self) -> &'static str {
        match self.head.kind {
            Kind::Blob => "blob",
            Kind::File => "file",
            Kind::Tombstone => "tombstone",
            Kind::Gap => "gap",
        }
    }

    /// The key's bytes; none of a gap.
    pub fn key(&self) -> &'a [u8] {
        self.head.key
    }

    /// Which write it is.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// Bytes of the blob, 0 for a tombstone; of a gap those that are skipped.
    pub fn length(&self) -> u64 {
        if self.head.kind == Kind::Gap { self.head.record_length() } else { self.head.blob_length() }
    }

    /// Of the blob's bytes.
    pub fn checksum(&self) -> Checksum {
        self.head.checksum
    }

    /// The headers kept with it; `None` if they make no sense.
    pub fn meta(&self) -> Option<Meta> {
        pairs::decode(self.head.pairs)
    }
}

/// What stands at a place of a volume.
#[derive(Debug, Clone)]
pub enum Met<'a> {
    /// A record.
    Record(Record<'a>),
    /// Bytes that are no record, but were once.
    Damaged {
        /// The volume's number.
        volume: u32,
        /// The bytes.
        bytes: Range<u64>,
    },
    /// Bytes that were never acknowledged: being written, or left by a crash for the next start to put in order.
    Unfinished {
        /// The volume's number.
        volume: u32,
        /// The bytes.
        bytes: Range<u64>,
    },
}

impl Inspection {
    /// Looks at a data directory. Reads the saved index and what was written since, or without one the heads of all
    /// records: takes as long as a start of the node, and 17 bytes of memory for each blob.
    pub fn open(dir: &Path, on_read: OnRead<'_>) -> Result<Self, OpenError> {
        let options = Options::default();
        let layout = Layout::look(dir)?;
        let found = recover(&layout, &options, on_read)?;
        Ok(Self {
            dir: dir.into(),
            layout,
            index: found.index,
            saved: found.saved,
            last: found.opened.last().map_or(0, |last| last.volume.number),
            opened: found.opened.into(),
            whole_end: found.whole_end,
            unfinished: found.unfinished,
            key_hash: options.key_hash,
        })
    }

    /// What became of the saved index.
    pub fn saved_index(&self) -> SavedIndex {
        self.saved
    }

    /// All volumes, ascending.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let mut tombstones = HashMap::<u32, u64>::new();
        self.index.for_each(|entry, _| {
            if entry.kind == Kind::Tombstone {
                *tombstones.entry(entry.place.volume()).or_default() += 1;
            }
        });
        let info = |opened: &Opened| {
            let volume = &opened.volume;
            VolumeInfo {
                number: volume.number,
                bytes: opened.file_length,
                records: volume.live_records(),
                tombstones: tombstones.get(&volume.number).copied().unwrap_or_default(),
                live_bytes: volume.live_bytes(),
                dead_bytes: volume.dead_bytes(),
                unfinished_bytes: opened.file_length.saturating_sub(volume.end()),
                created_ms: opened.superblock.map(|superblock| superblock.created_ms),
                sealed: volume.number != self.last,
                lost_bytes: self.lost(opened).map_or(0, |lost| lost.end - lost.start),
            }
        };
        self.opened.iter().map(info).collect()
    }

    /// The whole files that are needed.
    pub fn files(&self) -> FilesInfo {
        self.index.files().iter().fold(FilesInfo::default(), |sum, InFile { file, .. }| FilesInfo {
            count: sum.count + 1,
            bytes: sum.bytes.saturating_add(whole::file_length(file.length)),
        })
    }

    /// Gives what stands in all volumes, or in one of them, to `with`, in order, until that says `false`.
    pub fn walk(mut self, only: Option<u32>, with: &mut dyn FnMut(Met<'_>) -> bool) -> Result<(), OpenError> {
        self.has(only)?;
        while let Some(opened) = self.next_volume(only) {
            let walked = self.walk_through(&opened, &mut |met| Ok(with(met)));
            if !walked.map_err(reading(opened.volume.number))? {
                break;
            }
        }
        Ok(())
    }

    /// An error if that volume is not there.
    pub(super) fn has(&self, only: Option<u32>) -> Result<(), OpenError> {
        match only.filter(|number| self.opened.iter().all(|opened| opened.volume.number != *number)) {
            None => Ok(()),
            Some(number) => {
                let source = io::Error::new(io::ErrorKind::NotFound, "there is no such volume");
                Err(OpenError::Io { context: format!("open volume {number}"), source })
            }
        }
    }

    /// The next volume that is to be walked through and was not removed meanwhile. Those that were are let go of, so that
    /// their space comes back.
    pub(super) fn next_volume(&mut self, only: Option<u32>) -> Option<Opened> {
        self.opened.retain(|opened| {
            only.is_none_or(|number| number == opened.volume.number)
                && opened.volume.file.metadata().is_ok_and(|file| file.nlink() > 0)
        });
        self.opened.pop_front()
    }

    /// Gives what stands in a volume to `with`, until that says `false`, and says the same.
    pub(super) fn walk_through(
        &self,
        opened: &Opened,
        with: &mut dyn FnMut(Met<'_>) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let volume = &*opened.volume;
        let mut scan = Scan::new(volume, SUPERBLOCK_BYTES, volume.end());
        while let Some(step) = scan.next()? {
            let (bytes, met) = match step {
                Step::Record { offset, head } => {
                    let record = self.record(volume, offset, head);
                    (offset..offset + head.record_length(), Met::Record(record))
                }
                Step::Damaged { start, end, .. } => {
                    (start..end, Met::Damaged { volume: volume.number, bytes: start..end })
                }
            };
            if !with(self.unfinished_at(volume, bytes).unwrap_or(met))? {
                return Ok(false);
            }
        }
        if let Some(bytes) = self.lost(opened) {
            return with(Met::Damaged { volume: volume.number, bytes });
        }
        if volume.end() < opened.file_length {
            let bytes = volume.end()..opened.file_length;
            return with(Met::Unfinished { volume: volume.number, bytes });
        }
        Ok(true)
    }

    /// What a volume held behind the end of its file.
    fn lost(&self, opened: &Opened) -> Option<Range<u64>> {
        let known = if opened.volume.number == self.last { self.whole_end } else { opened.expected_length };
        (known > opened.file_length).then_some(opened.file_length..known)
    }

    fn unfinished_at(&self, volume: &Volume, bytes: Range<u64>) -> Option<Met<'static>> {
        let around = |one: &Range<u64>| one.start <= bytes.start && bytes.end <= one.end;
        let is_unfinished = volume.number == self.last && self.unfinished.iter().any(around);
        is_unfinished.then_some(Met::Unfinished { volume: volume.number, bytes })
    }

    fn record<'a>(&self, volume: &Volume, offset: u64, head: Head<'a>) -> Record<'a> {
        let hash = (self.key_hash)(head.key, self.layout.hash_seed);
        let is_live = self.index.holds(hash, Place::new(volume.number, offset));
        Record { volume: volume.number, offset, is_live, head }
    }
}

/// For `map_err`: an I/O error while reading that volume.
pub(super) fn reading(volume: u32) -> impl FnOnce(io::Error) -> OpenError {
    OpenError::io(format!("read volume {volume}"))
}
