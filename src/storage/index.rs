//! The index in memory: hash of a key -> where its newest record is. 24 bytes an entry, in tables that are at least
//! 64 % full: 30 to 37 bytes a blob.
//!
//! The key itself is in the record only, so that two keys with one hash are two candidates and the reader compares.
//! Locks are held for the look-up alone, never across I/O. Only the writer changes it.

use parking_lot::RwLock;

use super::record::Kind;

/// Independent parts, so that readers seldom meet the writer. A power of two.
const SHARDS: usize = 64;
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
    /// Bytes of its head.
    pub head_len: u16,
    /// Bytes after the head.
    pub data_len: u32,
    /// What it is.
    pub kind: Kind,
}

impl Entry {
    /// Bytes of head and data.
    pub fn record_length(&self) -> u64 {
        u64::from(self.head_len) + u64::from(self.data_len)
    }
}

/// A slot of a table; free while `place` is 0, where the superblock is.
#[derive(Clone, Copy)]
struct Slot {
    hash: u64,
    place: u64,
    data_len: u32,
    head_len: u16,
    kind: u8,
}

const FREE: Slot = Slot { hash: 0, place: 0, data_len: 0, head_len: 0, kind: 0 };

impl Slot {
    fn new(hash: u64, entry: Entry) -> Self {
        let Entry { place, head_len, data_len, kind } = entry;
        Self { hash, place: place.0, data_len, head_len, kind: kind as u8 }
    }

    fn entry(&self) -> Option<Entry> {
        let kind = Kind::from_number(self.kind)?;
        Some(Entry { place: Place(self.place), head_len: self.head_len, data_len: self.data_len, kind })
    }
}

/// Open addressing with linear probing; the size need not be a power of two, so that it can grow by a quarter.
#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    used: usize,
}

impl Table {
    /// The slots from a hash's own one up to the first free one.
    fn probe(&self, hash: u64) -> impl Iterator<Item = usize> {
        let size = self.slots.len();
        let start = ((u128::from(hash) * size as u128) >> 64) as usize;
        (start..size).chain(0..start).take_while(|&at| self.slots[at].place != 0)
    }

    fn candidates(&self, hash: u64) -> impl Iterator<Item = &Slot> {
        self.probe(hash).map(|at| &self.slots[at]).filter(move |slot| slot.hash == hash)
    }

    fn insert(&mut self, slot: Slot) {
        if (self.used + 1) * 5 > self.slots.len() * 4 {
            self.grow();
        }
        let size = self.slots.len();
        let mut at = ((u128::from(slot.hash) * size as u128) >> 64) as usize;
        while self.slots[at].place != 0 {
            at = if at + 1 == size { 0 } else { at + 1 };
        }
        self.slots[at] = slot;
        self.used += 1;
    }

    fn grow(&mut self) {
        let size = self.slots.len() + self.slots.len() / 4 + 8;
        let old = std::mem::replace(&mut self.slots, vec![FREE; size]);
        self.used = 0;
        for slot in old.into_iter().filter(|slot| slot.place != 0) {
            self.insert(slot);
        }
    }

    fn replace(&mut self, old: Place, slot: Slot) -> bool {
        let found = self.probe(slot.hash).find(|&at| self.slots[at].place == old.0);
        if let Some(at) = found {
            self.slots[at] = slot;
        }
        found.is_some()
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
    shards: Vec<RwLock<Table>>,
}

impl Default for Index {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }
}

impl Index {
    /// Tables use the high bits of a hash, shards the low ones.
    fn shard(&self, hash: u64) -> &RwLock<Table> {
        &self.shards[hash as usize % SHARDS]
    }

    /// The entries under that hash.
    pub fn candidates(&self, hash: u64) -> Candidates {
        let table = self.shard(hash).read();
        let mut entries = table.candidates(hash).filter_map(Slot::entry);
        Candidates { first: entries.next(), more: entries.collect() }
    }

    /// Puts an entry in, in the place of `old` or beside what is there.
    pub fn put(&self, hash: u64, old: Option<Place>, entry: Entry) {
        let slot = Slot::new(hash, entry);
        let mut table = self.shard(hash).write();
        let replaced = old.is_some_and(|old| table.replace(old, slot));
        if !replaced {
            table.insert(slot);
        }
    }

    /// Whether the record there is the newest of its key.
    pub fn holds(&self, hash: u64, place: Place) -> bool {
        self.shard(hash).read().candidates(hash).any(|slot| slot.place == place.0)
    }

    /// Bytes of memory the tables take.
    pub fn memory_bytes(&self) -> u64 {
        let slots: usize = self.shards.iter().map(|shard| shard.read().slots.capacity()).sum();
        (slots * size_of::<Slot>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(place: u64) -> Entry {
        Entry { place: Place(place), head_len: 41, data_len: place as u32, kind: Kind::Blob }
    }

    #[test]
    fn places_keep_volume_and_offset_and_grow() {
        let place = Place::new(Place::MAX_VOLUME, (1 << 40) - 1);
        assert_eq!((place.volume(), place.offset()), (Place::MAX_VOLUME, (1 << 40) - 1));
        assert!(Place::new(1, u64::MAX >> 24) < Place::new(2, 64));
    }

    #[test]
    fn a_slot_has_24_bytes_and_tables_stay_full() {
        assert_eq!(size_of::<Slot>(), 24);
        let index = Index::default();
        for n in 1..=200_000_u64 {
            index.put(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), None, entry(n));
        }
        let each = index.memory_bytes() as f64 / 200_000.0;
        assert!((30.0..40.0).contains(&each), "{each} bytes an entry");
    }

    proptest! {
        /// Against a map, with hashes so few that most collide.
        #[test]
        fn holds_what_was_put(operations in proptest::collection::vec((0_u64..8, any::<bool>()), 0..300)) {
            let index = Index::default();
            let mut model: HashMap<u64, Vec<u64>> = HashMap::new();
            for (n, (hash, replace)) in operations.into_iter().enumerate() {
                let (hash, place) = (hash << 61 | (hash & 1), n as u64 + 1);
                let places = model.entry(hash).or_default();
                let old = if replace { places.pop() } else { None };
                places.push(place);
                index.put(hash, old.map(Place), entry(place));
            }
            for (hash, mut places) in model {
                let mut found: Vec<u64> = index.candidates(hash).iter().map(|entry| entry.place.0).collect();
                found.sort_unstable();
                places.sort_unstable();
                prop_assert!(places.iter().all(|&place| index.holds(hash, Place(place))));
                prop_assert_eq!(found, places);
            }
        }
    }
}
