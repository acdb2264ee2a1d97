//! From a key to its record: the index gives candidates, their heads decide.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    AtHand, BlobInfo, READ_CHUNK_BYTES, StorageError,
    damage::Damage,
    decide::Old,
    index::{Entry, Index},
    pairs,
    pread::{Reads, is_unreadable, read_cached, read_full},
    record::{FIXED_BYTES, FileRef, Head, Kind, MAX_HEAD_BYTES},
    shared::Shared,
    totals::Counted,
    verify::Wrong,
    volume::{Volume, Volumes},
};
use crate::model::{Checksum, Version};

/// Records of up to this size are read with their head, so that a cold GET costs one read of the disk.
const READ_WITH_HEAD_BYTES: u64 = READ_CHUNK_BYTES + MAX_HEAD_BYTES as u64;

/// A record that is moved again and again between the look-up and the reading is given up after this many tries.
pub const MAX_LOOK_UPS: usize = 16;

/// What a head says, without the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// What the record is.
    pub kind: Kind,
    /// The write.
    pub version: Version,
    /// Of the blob's bytes.
    pub checksum: Checksum,
    /// Bytes of the blob.
    pub length: u64,
    /// The file they are in, if they are not in the volume.
    pub file: Option<FileRef>,
}

impl Facts {
    /// What that head says.
    pub fn of(head: &Head<'_>) -> Self {
        Self {
            kind: head.kind,
            version: head.version,
            checksum: head.checksum,
            length: head.blob_length(),
            file: head.file(),
        }
    }
}

/// The record a key has now.
#[derive(Debug, Clone, Copy)]
pub struct Current {
    /// What the index holds.
    pub entry: Entry,
    /// What its head says; `None` if it cannot be read.
    pub facts: Option<Facts>,
    /// The file its bytes are in, which the index knows too.
    pub file: Option<FileRef>,
}

impl Current {
    /// What the decision between two writes needs.
    pub fn old(&self, damage: &Damage) -> Old {
        Old {
            version: self.facts.map(|facts| facts.version),
            kind: self.entry.kind,
            length: self.counted().length,
            damaged: damage.is_known(self.entry.place),
        }
    }

    /// What the totals count of it.
    pub fn counted(&self) -> Counted {
        let length = self.file.map_or(u64::from(self.entry.data_len), |file| file.length);
        Counted { kind: self.entry.kind, length }
    }
}

/// A record as it was read for a reader.
pub struct Fetched {
    /// What the index holds.
    pub entry: Entry,
    /// What its head says.
    pub facts: Facts,
    /// The volume it is in.
    pub volume: Arc<Volume>,
    /// Where in the volume its data is.
    pub data_at: u64,
    /// Encoded metadata.
    pub pairs: Bytes,
    /// Sums of the blocks.
    pub sums: Bytes,
    /// The data, where it was read with the head.
    pub data: Option<Bytes>,
}

/// Finds the record of a key for reading, its data with it if that is short.
pub async fn fetch(
    index: &Index,
    volumes: &Volumes,
    reads: &Reads,
    damage: &Damage,
    hash: u64,
    key: &[u8],
) -> Result<Option<Fetched>, StorageError> {
    for _ in 0..MAX_LOOK_UPS {
        if let Some(settled) = fetch_once(index, volumes, reads, damage, hash, key).await? {
            return Ok(settled);
        }
    }
    let source = std::io::Error::other("the record is moved all the time");
    Err(StorageError::Io { context: "look a key up".to_owned(), source })
}

/// `None` if a record was moved and its volume removed between the look-up and the reading.
async fn fetch_once(
    index: &Index,
    volumes: &Volumes,
    reads: &Reads,
    damage: &Damage,
    hash: u64,
    key: &[u8],
) -> Result<Option<Option<Fetched>>, StorageError> {
    let mut unreadable = None;
    let mut moved = false;
    for entry in index.candidates(hash).iter() {
        let with_data = entry.record_bound() <= READ_WITH_HEAD_BYTES;
        let length = if with_data { entry.record_bound() } else { u64::from(entry.head_bound) };
        let Some(volume) = volumes.get(entry.place.volume()) else {
            moved = true;
            continue;
        };
        let length = volume.within(entry.place.offset(), length);
        let buffer = match reads.read(&volume.file, length, entry.place.offset()).await {
            Ok(buffer) => buffer,
            Err(error) if is_unreadable(&error) => {
                unreadable = Some(entry.place);
                continue;
            }
            Err(source) => {
                return Err(StorageError::Io { context: format!("read {:?}", entry.place), source });
            }
        };
        match parse(entry, volume, buffer.freeze(), with_data, key) {
            Parsed::Match(fetched) => return Ok(Some(Some(fetched))),
            Parsed::OtherKey => {}
            Parsed::Unreadable => unreadable = Some(entry.place),
        }
    }
    if moved {
        return Ok(None);
    }
    // With 35 bits of hash it is this key's record, all but certainly.
    unreadable.map_or(Ok(Some(None)), |place| Err(damage.found(hash, place, Wrong::Head)))
}

/// The blob of that entry, checked, if it is this key's and in memory: kept there, or short and in the page cache. Never waits.
pub fn at_hand(shared: &Shared, entry: &Entry, key: &[u8]) -> Option<Arc<AtHand>> {
    if entry.kind != Kind::Blob {
        return None;
    }
    if let Some(hot) = shared.hot.as_ref().and_then(|hot| hot.get(entry.place, key)) {
        return Some(hot);
    }
    let (length, offset) = (entry.record_bound(), entry.place.offset());
    let hot = shared.hot.as_ref().filter(|hot| hot.meet(entry.place, length));
    let is_long = length > READ_WITH_HEAD_BYTES;
    if is_long && hot.is_none() {
        return None;
    }
    let volume = shared.volumes.get(entry.place.volume())?;
    let length = volume.within(offset, length);
    // Most of it may be there, and read for nothing.
    if is_long && read_cached(&volume.file, &mut [0], offset + length as u64 - 1) == 0 {
        return None;
    }
    let record = shared.reads.cached(&volume.file, length, offset)?;
    let head = Head::decode(record.as_ref(), &volume.seal, offset).ok()?;
    let span = head.length()..usize::try_from(head.record_length()).ok()?;
    let data = record.as_ref().get(span.clone())?;
    if head.kind != Kind::Blob || head.key != key || Checksum::of(data) != head.checksum {
        return None;
    }
    let Head { version, checksum, .. } = head;
    let info = BlobInfo { version, checksum, length: head.blob_length(), meta: pairs::decode(head.pairs)? };
    // What is kept is in memory of just its size: what is read into is larger.
    let record = match hot {
        Some(_) => Bytes::copy_from_slice(&record.as_ref()[..span.end]),
        None => record.freeze(),
    };
    let (key, data) = (record.slice(FIXED_BYTES..FIXED_BYTES + key.len()), record.slice(span));
    let blob = Arc::new(AtHand::new(key, info, data));
    if let Some(hot) = hot {
        hot.keep(entry.place, blob.clone());
    }
    Some(blob)
}

enum Parsed {
    Match(Fetched),
    OtherKey,
    Unreadable,
}

fn parse(entry: &Entry, volume: Arc<Volume>, bytes: Bytes, with_data: bool, key: &[u8]) -> Parsed {
    let Ok(head) = Head::decode(&bytes, &volume.seal, entry.place.offset()) else {
        return Parsed::Unreadable;
    };
    if head.key != key {
        return Parsed::OtherKey;
    }
    let (pairs_at, head_len) = (FIXED_BYTES + head.key.len(), head.length());
    let sums_at = pairs_at + head.pairs.len();
    // Fewer bytes than the record has: the file ends before it. The checksum will say so.
    let data_end = (head_len + head.data_len as usize).min(bytes.len());
    Parsed::Match(Fetched {
        entry: *entry,
        facts: Facts::of(&head),
        data_at: entry.place.offset() + head_len as u64,
        pairs: bytes.slice(pairs_at..sums_at),
        sums: bytes.slice(sums_at..sums_at + head.sums().len()),
        data: with_data.then(|| bytes.slice(head_len..data_end)),
        volume,
    })
}

/// Reads a candidate's head and gives it to `with`; may wait for the disk. `None` if it cannot be read.
pub fn read_head_with<T>(volumes: &Volumes, entry: &Entry, with: impl FnOnce(&Head<'_>) -> T) -> Option<T> {
    let volume = volumes.get(entry.place.volume())?;
    let mut bytes = vec![0; usize::from(entry.head_bound)];
    read_full(&volume.file, &mut bytes, entry.place.offset()).ok()?;
    Head::decode(&bytes, &volume.seal, entry.place.offset()).ok().map(|head| with(&head))
}

/// The record of a key, by reading heads; may wait for the disk. `known` is what the caller read before: records do
/// not change, so only what is new must be read.
pub fn current(
    index: &Index,
    volumes: &Volumes,
    hash: u64,
    key: &[u8],
    known: Option<&Current>,
) -> Option<Current> {
    let mut unreadable = None;
    for entry in index.candidates(hash).iter() {
        if let Some(known) = known.filter(|known| known.entry == *entry) {
            return Some(*known);
        }
        match read_head_with(volumes, entry, |head| (head.key == key).then(|| Facts::of(head))) {
            Some(Some(facts)) => {
                return Some(Current { entry: *entry, facts: Some(facts), file: facts.file });
            }
            Some(None) => {}
            None => {
                unreadable = Some(Current { entry: *entry, facts: None, file: index.file(hash, entry.place) })
            }
        }
    }
    unreadable
}

/// As [`current`], for a task, which must not wait for the disk.
pub async fn current_for_task(
    index: &Index,
    volumes: &Volumes,
    reads: &Reads,
    hash: u64,
    key: &[u8],
) -> Option<Current> {
    let mut unreadable = None;
    for entry in index.candidates(hash) {
        match facts_for_task(volumes, reads, &entry, key).await {
            Some(Some(facts)) => return Some(Current { entry, facts: Some(facts), file: facts.file }),
            Some(None) => {}
            None => unreadable = Some(Current { entry, facts: None, file: index.file(hash, entry.place) }),
        }
    }
    unreadable
}

/// What a candidate's head says, if it is that key's; `None` if it cannot be read.
async fn facts_for_task(
    volumes: &Volumes,
    reads: &Reads,
    entry: &Entry,
    key: &[u8],
) -> Option<Option<Facts>> {
    let volume = volumes.get(entry.place.volume())?;
    let offset = entry.place.offset();
    let length = volume.within(offset, entry.head_bound.into());
    let bytes = reads.read(&volume.file, length, offset).await.ok()?;
    let head = Head::decode(bytes.as_ref(), &volume.seal, offset).ok()?;
    Some((head.key == key).then(|| Facts::of(&head)))
}
