//! The index in memory: hash of a key -> where its newest record is. A slot of 16 bytes an entry, in tables that are 87
//! to 93 % full: 17.2 to 18.4 bytes a blob.
//!
//! 40 bits of the hash are kept: 8 choose the table, 32 are in the slot. The key itself is in the record only, so two
//! keys whose bits are the same are two candidates, and the reader compares. Among a hundred million keys a new one
//! meets another's bits once in ten thousand times; then one head is read for nothing.
//!
//! Locks are held for the look-up alone, never across I/O. Only the writer changes it.

use parking_lot::RwLock;

use super::{
    record::Kind,
    table::{Slot, Table, head_bound},
};

/// Independent tables, so that readers seldom meet the writer, and a table that grows needs little memory and time: at
/// a hundred million blobs 7 MB and about a millisecond. A power of two.
const TABLES: usize = 256;
const OFFSET_BITS: u32 = 40;

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
        self.0 & ((1 << OFFSET_BITS) - 1)
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

/// The index.
pub struct Index {
    tables: Vec<RwLock<Table>>,
}

impl Default for Index {
    fn default() -> Self {
        Self { tables: (0..TABLES).map(|_| RwLock::default()).collect() }
    }
}

impl Index {
    /// The low bits choose the table, the high ones are kept in it.
    fn table(&self, hash: u64) -> (&RwLock<Table>, u32) {
        (&self.tables[hash as usize % TABLES], (hash >> 32) as u32)
    }

    /// The entries under that hash.
    pub fn candidates(&self, hash: u64) -> Candidates {
        let (table, hash) = self.table(hash);
        let table = table.read();
        let mut entries = table.candidates(hash).iter().filter_map(Slot::entry);
        Candidates { first: entries.next(), more: entries.collect() }
    }

    /// Puts an entry in, in the place of `old` or beside what is there.
    pub fn put(&self, hash: u64, old: Option<Place>, entry: Entry) {
        let (table, hash) = self.table(hash);
        let slot = Slot::new(hash, entry);
        let mut table = table.write();
        let replaced = old.is_some_and(|old| table.replace(old, slot));
        if !replaced {
            table.insert(slot);
        }
    }

    /// Takes an entry out; `false` if it is not there.
    pub fn remove(&self, hash: u64, place: Place) -> bool {
        let (table, hash) = self.table(hash);
        table.write().remove(hash, place)
    }

    /// Whether the record there is the newest of its key.
    pub fn holds(&self, hash: u64, place: Place) -> bool {
        self.candidates(hash).iter().any(|entry| entry.place == place)
    }

    /// Bytes of memory the tables take.
    pub fn memory_bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.read().memory_bytes() as u64).sum()
    }
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
                index.put(hash, old.map(Place), entry(place));
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
