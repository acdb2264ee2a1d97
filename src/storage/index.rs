//! The index in memory: hash of a key -> where its newest record is. A slot of 16 bytes an entry, in tables that are 92
//! to 96 % full: 16.7 to 17.4 bytes a blob.
//!
//! 35 bits of the hash are kept: 7 choose the table, 28 are in the slot. The key itself is in the record only, so two
//! keys whose bits are the same are two candidates, and the reader compares. Among ten million keys a new one meets
//! another's bits once in 3,400 times; then one head is read for nothing.
//!
//! Locks are held for the look-up alone, never across I/O. Only the writer changes it.

use std::{collections::HashMap, ops::Range};

use parking_lot::RwLock;

use super::{
    record::{FileRef, Kind},
    slot::{HASH_BITS, SLOT_BYTES, Slot, head_bound},
    table::Table,
};

/// Independent tables, so that readers seldom meet the writer, and a table that grows needs little memory and time: at
/// a hundred million blobs 14 MB and a few milliseconds. A power of two.
pub const TABLES: usize = 128;
const OFFSET_BITS: u32 = 40;
/// No record begins behind this in a volume.
pub const MAX_OFFSET: u64 = (1 << OFFSET_BITS) - 1;
/// A file as it is saved: place of its record, id, length.
const FILE_BYTES: usize = 24;

/// Where a record is: volume and offset, in one number that grows as records are written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u64);

impl Place {
    /// Volume numbers must fit the 24 bits that offsets leave.
    pub const MAX_VOLUME: u32 = (1 << (64 - OFFSET_BITS)) - 1;

    /// The place of that record.
    pub fn new(volume: u32, offset: u64) -> Self {
        debug_assert!(volume <= Self::MAX_VOLUME && offset >> OFFSET_BITS == 0);
        Self(u64::from(volume) << OFFSET_BITS | offset)
    }

    /// The place as [`Place::to_number`] gave it.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The place as a number: 0 is the superblock of no volume, so never a record.
    pub fn to_number(self) -> u64 {
        self.0
    }

    /// The volume's number.
    pub fn volume(self) -> u32 {
        (self.0 >> OFFSET_BITS) as u32
    }

    /// Where the record begins.
    pub fn offset(self) -> u64 {
        self.0 & MAX_OFFSET
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "volume {} at {}", self.volume(), self.offset())
    }
}

/// What the index knows of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub place: Place,
    /// Its head has at most that many bytes.
    pub head_bound: u16,
    /// Bytes after the head.
    pub data_len: u32,
    /// What it is.
    pub kind: Kind,
}

impl Entry {
    /// The entry of a record with such a head.
    pub fn new(place: Place, head_len: usize, data_len: u32, kind: Kind) -> Self {
        Self { place, head_bound: head_bound(head_len), data_len, kind }
    }

    /// Head and data have at most that many bytes.
    pub fn record_bound(&self) -> u64 {
        u64::from(self.head_bound) + u64::from(self.data_len)
    }
}

/// All entries whose key has a certain hash: nearly always none or one.
#[derive(Debug, Default)]
pub struct Candidates {
    first: Option<Entry>,
    more: Vec<Entry>,
}

impl Candidates {
    /// The entries.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.first.iter().chain(&self.more)
    }
}

impl IntoIterator for Candidates {
    type Item = Entry;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Entry>, std::vec::IntoIter<Entry>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.more)
    }
}

/// A table, and the files that its entries name: a start has to compare them with those that are there.
#[derive(Default)]
struct Part {
    table: Table,
    files: HashMap<Place, FileRef>,
}

/// An entry of a blob in a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFile {
    /// What is kept of the hash of its key, which finds its entry.
    pub hash: u64,
    /// Where its record is.
    pub place: Place,
    /// The file.
    pub file: FileRef,
}

/// The bits of a hash that are kept, where they stand in the hash.
fn kept(table: usize, slot: Slot) -> u64 {
    u64::from(slot.hash()) << (u64::BITS - HASH_BITS) | table as u64
}

/// The index.
pub struct Index {
    parts: Vec<RwLock<Part>>,
}

impl Default for Index {
    fn default() -> Self {
        Self { parts: (0..TABLES).map(|_| RwLock::default()).collect() }
    }
}

impl Index {
    /// The low bits choose the table, the high ones are kept in it.
    fn part(&self, hash: u64) -> (&RwLock<Part>, u32) {
        (&self.parts[hash as usize % TABLES], (hash >> (u64::BITS - HASH_BITS)) as u32)
    }

    /// The entries under that hash.
    pub fn candidates(&self, hash: u64) -> Candidates {
        let (part, hash) = self.part(hash);
        let part = part.read();
        let mut entries = part.table.candidates(hash).iter().filter_map(Slot::entry);
        Candidates { first: entries.next(), more: entries.collect() }
    }

    /// Puts an entry in, in the place of `old` or beside what is there; with the file, if its bytes are in one.
    pub fn put(&self, hash: u64, old: Option<Place>, entry: Entry, file: Option<FileRef>) {
        let (part, hash) = self.part(hash);
        let slot = Slot::new(hash, entry);
        let mut part = part.write();
        if let Some(old) = old {
            part.files.remove(&old);
        }
        let replaced = old.is_some_and(|old| part.table.replace(old, slot));
        if !replaced {
            part.table.insert(slot);
        }
        if let Some(file) = file {
            part.files.insert(entry.place, file);
        }
    }

    /// Puts an entry in if there is none under that hash: `false` if there is.
    pub fn put_first(&self, hash: u64, entry: Entry, file: Option<FileRef>) -> bool {
        let (part, hash) = self.part(hash);
        let mut part = part.write();
        let is_first = part.table.candidates(hash).is_empty();
        if is_first {
            part.table.insert(Slot::new(hash, entry));
            part.files.extend(file.map(|file| (entry.place, file)));
        }
        is_first
    }

    /// Takes an entry out; `false` if it is not there.
    pub fn remove(&self, hash: u64, place: Place) -> bool {
        let (part, hash) = self.part(hash);
        let mut part = part.write();
        part.files.remove(&place);
        part.table.remove(hash, place)
    }

    /// Whether the record there is the newest of its key.
    pub fn holds(&self, hash: u64, place: Place) -> bool {
        self.candidates(hash).iter().any(|entry| entry.place == place)
    }

    /// The file that the entry of the record at that place names.
    pub fn file(&self, hash: u64, place: Place) -> Option<FileRef> {
        self.part(hash).0.read().files.get(&place).copied()
    }

    /// The files that entries name.
    pub fn files(&self) -> Vec<InFile> {
        let mut found = Vec::new();
        for (number, part) in self.parts.iter().enumerate() {
            let part = part.read();
            let slots = part.table.slots().filter(|_| !part.files.is_empty());
            found.extend(slots.filter_map(|slot| {
                let file = *part.files.get(&slot.place())?;
                Some(InFile { hash: kept(number, slot), place: slot.place(), file })
            }));
        }
        found
    }

    /// The entries whose records begin in one of these parts of a volume, which are ascending; each with what is kept of its
    /// hash. Looks at all entries.
    pub fn within(&self, volume: u32, parts: &[Range<u64>]) -> Vec<(u64, Entry)> {
        let is_within = |place: Place| {
            let at = parts.partition_point(|part| part.end <= place.offset());
            place.volume() == volume && parts.get(at).is_some_and(|part| part.contains(&place.offset()))
        };
        let mut found = Vec::new();
        for (number, part) in self.parts.iter().enumerate() {
            let part = part.read();
            let slots = part.table.slots().filter(|slot| is_within(slot.place()));
            found.extend(slots.filter_map(|slot| Some((kept(number, slot), slot.entry()?))));
        }
        found
    }

    /// Gives every entry, with the length of its blob, to `with`.
    pub fn for_each(&self, mut with: impl FnMut(Entry, u64)) {
        for part in &self.parts {
            let part = part.read();
            for entry in part.table.slots().filter_map(|slot| slot.entry()) {
                let file = part.files.get(&entry.place);
                with(entry, file.map_or(u64::from(entry.data_len), |file| file.length));
            }
        }
    }

    /// Bytes of memory the tables take.
    pub fn memory_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.read().table.memory_bytes() as u64).sum()
    }

    /// Appends that table, as it is now, to `out`: the number of slots, the slots, then place, id and length of each
    /// file.
    pub fn save_table(&self, number: usize, out: &mut Vec<u8>) {
        let part = self.parts[number].read();
        out.reserve(4 + part.table.len() * SLOT_BYTES + part.files.len() * FILE_BYTES);
        out.extend_from_slice(&(part.table.len() as u32).to_le_bytes());
        part.table.slots().for_each(|slot| out.extend_from_slice(&slot.to_bytes()));
        for (place, file) in &part.files {
            [place.0, file.id, file.length].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }
    }

    /// Takes a table as it was saved, except for entries whose volume `has` says is not there. `None` if it makes no
    /// sense.
    pub fn load_table(&mut self, number: usize, bytes: &[u8], has: impl Fn(u32) -> bool) -> Option<()> {
        let (count, rest) = bytes.split_first_chunk()?;
        let count = u32::from_le_bytes(*count) as usize;
        let (slots, files) = rest.split_at_checked(count.checked_mul(SLOT_BYTES)?)?;
        let (slots, []) = slots.as_chunks() else { return None };
        let (files, []) = files.as_chunks::<FILE_BYTES>() else { return None };
        let files = files.iter().map(|bytes| {
            let [place, id, length] = [0, 8, 16].map(|at| u64_at(bytes, at));
            (Place(place), FileRef { id, length })
        });
        let mut files: HashMap<Place, FileRef> = files.collect();
        let slots = || slots.iter().map(|bytes| Slot::from_bytes(*bytes));
        let is_sound = |slot: Slot| {
            slot.entry().is_some_and(|entry| (entry.kind == Kind::File) == files.contains_key(&entry.place))
        };
        if !slots().is_sorted_by_key(|slot| slot.hash()) || !slots().all(is_sound) {
            return None;
        }
        files.retain(|place, _| has(place.volume()));
        let there = slots().filter(|slot| slot.entry().is_some_and(|entry| has(entry.place.volume())));
        let table = Table::of(count, there);
        *self.parts.get_mut(number)?.get_mut() = Part { table, files };
        Some(())
    }
}

fn u64_at(bytes: &[u8; FILE_BYTES], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(place: u64) -> Entry {
        Entry::new(Place(place), 41, place as u32, Kind::Blob)
    }

    #[test]
    fn places_keep_volume_and_offset_and_grow() {
        let place = Place::new(Place::MAX_VOLUME, (1 << 40) - 1);
        assert_eq!((place.volume(), place.offset()), (Place::MAX_VOLUME, (1 << 40) - 1));
        assert!(Place::new(1, u64::MAX >> 24) < Place::new(2, 64));
    }

    proptest! {
        /// Against a map, with hashes so few that most collide.
        #[test]
        fn holds_what_was_put(operations in proptest::collection::vec((0_u64..8, 0..3), 0..300)) {
            let index = Index::default();
            let mut model: HashMap<u64, Vec<u64>> = HashMap::new();
            for (n, (hash, what)) in operations.into_iter().enumerate() {
                let (hash, place) = (hash << 61 | (hash & 1), n as u64 + 1);
                let places = model.entry(hash).or_default();
                let old = if what > 0 { places.pop() } else { None };
                if what == 2 {
                    prop_assert_eq!(old.is_some_and(|old| index.remove(hash, Place(old))), old.is_some());
                    prop_assert!(!index.remove(hash, Place(place)));
                    continue;
                }
                places.push(place);
                index.put(hash, old.map(Place), entry(place), None);
            }
            for (hash, mut places) in model {
                // Bits in the middle are not kept: another key that differs there alone has the same candidates.
                let found = index.candidates(hash ^ 1 << 20);
                let mut found: Vec<u64> = found.iter().map(|entry| entry.place.0).collect();
                found.sort_unstable();
                places.sort_unstable();
                prop_assert!(places.iter().all(|&place| index.holds(hash, Place(place))));
                prop_assert_eq!(found, places);
            }
        }
    }
}
