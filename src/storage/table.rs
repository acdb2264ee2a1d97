//! One table of the index: slots of 16 bytes in the order of their hashes, with a few free ones between them.
//!
//! Where a slot belongs follows from its hash. If that place is taken it stands a little behind, and everything between
//! is taken too, so a look-up reads on from there until it meets a greater hash or a free slot. Because of the order a
//! full table is short to search (7 slots at 93 %), and making it larger is one pass from front to back.

use super::{
    index::{Entry, Place},
    options::MAX_SMALL_LIMIT,
    record::{Kind, MAX_HEAD_BYTES},
};

/// A table that would be fuller grows: beyond this, runs of taken slots get long.
const MOST_PERCENT: usize = 93;
/// How full it is then. So a slot costs 17.2 to 18.4 bytes.
const FILL_PERCENT: usize = 87;
/// Free slots of a new table, however small: so that it does not grow with every entry.
const LEAST_FREE: usize = 8;
/// For slots that are pushed past the end: one in so many, and a few more.
const SPARE_PART: usize = 256;

const DATA_BITS: u32 = 27;
const HEAD_BITS: u32 = 3;
const _: () = assert!(MAX_SMALL_LIMIT < 1 << DATA_BITS, "the length of a small blob fits");

/// Heads are remembered as one of these lengths, the next greater one. A key of up to 24 bytes with no metadata fits the
/// first.
const HEAD_BOUNDS: [u16; 1 << HEAD_BITS] = [64, 96, 128, 192, 384, 1280, 6144, MAX_HEAD_BYTES as u16];
const _: () = assert!(MAX_HEAD_BYTES <= u16::MAX as usize, "the length of a head fits");

/// The next greater length in [`HEAD_BOUNDS`].
pub fn head_bound(head_len: usize) -> u16 {
    HEAD_BOUNDS[head_class(head_len)]
}

fn head_class(head_len: usize) -> usize {
    let class = HEAD_BOUNDS.iter().position(|&bound| head_len <= usize::from(bound));
    class.unwrap_or(HEAD_BOUNDS.len() - 1)
}

/// A slot; free while `place` is 0, where no record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    place: u64,
    hash: u32,
    /// From the low bits: length of the data, class of the head's length, kind.
    rest: u32,
}

const FREE: Slot = Slot { place: 0, hash: 0, rest: 0 };

impl Slot {
    /// The slot of that entry.
    pub fn new(hash: u32, entry: Entry) -> Self {
        // Gaps are never in the index, so two bits hold the kind.
        debug_assert!(entry.kind != Kind::Gap && u64::from(entry.data_len) <= MAX_SMALL_LIMIT);
        let class = head_class(usize::from(entry.head_bound)) as u32;
        let rest = (entry.kind as u32) << (DATA_BITS + HEAD_BITS) | class << DATA_BITS | entry.data_len;
        Self { place: entry.place.to_number(), hash, rest }
    }

    /// What the slot says; `None` if it is free.
    pub fn entry(&self) -> Option<Entry> {
        let kind = Kind::from_number((self.rest >> (DATA_BITS + HEAD_BITS)) as u8)?;
        let class = (self.rest >> DATA_BITS) as usize % HEAD_BOUNDS.len();
        let data_len = self.rest & ((1 << DATA_BITS) - 1);
        let place = Place::from_number(self.place);
        (!self.is_free()).then_some(Entry { place, head_bound: HEAD_BOUNDS[class], data_len, kind })
    }

    fn is_free(&self) -> bool {
        self.place == 0
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    slots: Vec<Slot>,
    /// Slots that hashes point at; those behind are spare.
    size: usize,
    used: usize,
}

impl Table {
    /// The entries with that hash, newest first.
    pub fn candidates(&self, hash: u32) -> &[Slot] {
        let start = self.position(hash);
        let count = run(&self.slots[start..], |slot| slot.hash == hash);
        &self.slots[start..start + count]
    }

    /// Puts a slot in.
    pub fn insert(&mut self, slot: Slot) {
        if (self.used + 1) * 100 > self.size * MOST_PERCENT {
            self.grow();
        }
        let at = self.position(slot.hash);
        let end = at + run(&self.slots[at..], |_| true);
        if end == self.slots.len() {
            let more = spare(self.size);
            self.slots.reserve_exact(more);
            self.slots.resize(end + more, FREE);
        }
        self.slots.copy_within(at..end, at + 1);
        self.slots[at] = slot;
        self.used += 1;
    }

    /// Puts a slot where one with its hash and that place is; says whether there was one.
    pub fn replace(&mut self, old: Place, slot: Slot) -> bool {
        let start = self.position(slot.hash);
        let found =
            self.candidates(slot.hash).iter().position(|candidate| candidate.place == old.to_number());
        if let Some(at) = found {
            self.slots[start + at] = slot;
        }
        found.is_some()
    }

    /// Takes the slot of that hash and place out; says whether there was one. Those behind it that are not in their own
    /// place move up.
    pub fn remove(&mut self, hash: u32, place: Place) -> bool {
        let start = self.position(hash);
        let found = self.candidates(hash).iter().position(|candidate| candidate.place == place.to_number());
        let Some(found) = found else { return false };
        let at = start + found;
        let pushed = self.slots[at + 1..].iter().enumerate();
        let size = self.size;
        let count = pushed.take_while(|(n, slot)| !slot.is_free() && home(slot.hash, size) <= at + n).count();
        self.slots.copy_within(at + 1..=at + count, at);
        self.slots[at + count] = FREE;
        self.used -= 1;
        true
    }

    /// Bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// The first slot, from the hash's own place on, that is free or has no smaller hash.
    fn position(&self, hash: u32) -> usize {
        let home = home(hash, self.size);
        home + run(&self.slots[home..], |slot| slot.hash < hash)
    }

    fn grow(&mut self) {
        let size = (self.used + 1) * 100 / FILL_PERCENT + LEAST_FREE;
        let mut slots = Vec::with_capacity(size + spare(size));
        for slot in self.slots.iter().filter(|slot| !slot.is_free()) {
            slots.resize(home(slot.hash, size).max(slots.len()), FREE);
            slots.push(*slot);
        }
        slots.resize((size + spare(size)).max(slots.len()), FREE);
        self.slots = slots;
        self.size = size;
    }
}

/// Where a hash belongs: grows with the hash, so that slots stay in order.
fn home(hash: u32, size: usize) -> usize {
    ((u64::from(hash) * size as u64) >> 32) as usize
}

fn spare(size: usize) -> usize {
    size / SPARE_PART + LEAST_FREE
}

/// How many slots from the front on are taken and as wanted.
fn run(slots: &[Slot], wanted: impl Fn(&Slot) -> bool) -> usize {
    slots.iter().take_while(|slot| !slot.is_free() && wanted(slot)).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn slot(hash: u32, place: u64) -> Slot {
        let place = Place::from_number(place);
        Slot::new(hash, Entry { place, head_bound: 64, data_len: 1, kind: Kind::Blob })
    }

    /// In order, none before its place, no free slot between its place and it.
    fn check(table: &Table) {
        let mut last = 0;
        let mut gap = 0;
        for (at, slot) in table.slots.iter().enumerate() {
            if slot.is_free() {
                gap = at + 1;
                continue;
            }
            assert!(slot.hash >= last);
            last = slot.hash;
            assert!((gap..=at).contains(&home(slot.hash, table.size)));
        }
        assert_eq!(table.slots.iter().filter(|slot| !slot.is_free()).count(), table.used);
    }

    #[test]
    fn a_slot_has_16_bytes_and_says_what_was_put_in() {
        assert_eq!(size_of::<Slot>(), 16);
        for kind in [Kind::Blob, Kind::Tombstone, Kind::File] {
            for data_len in [0, 1, 1 << 20, MAX_SMALL_LIMIT as u32] {
                for head_len in [41, 64, 65, 1280, 1281, MAX_HEAD_BYTES] {
                    let place = Place::new(Place::MAX_VOLUME, (1 << 40) - 1);
                    let entry = Entry { place, head_bound: head_bound(head_len), data_len, kind };
                    assert_eq!(Slot::new(u32::MAX, entry).entry(), Some(entry));
                    assert!(usize::from(entry.head_bound) >= head_len);
                }
            }
        }
        assert_eq!(FREE.entry(), None);
    }

    #[test]
    fn an_entry_costs_at_most_19_bytes_however_many_there_are() {
        let (mut table, mut random) = (Table::default(), fastrand::Rng::with_seed(1));
        for count in 1..=60_000_usize {
            table.insert(slot(random.u32(..), count as u64));
            if count >= 10_000 {
                assert!(table.memory_bytes() <= 19 * count, "{count}: {}", table.memory_bytes());
            }
        }
        check(&table);
    }

    #[test]
    fn keys_that_all_have_one_hash_are_kept_too() {
        for hash in [0, 7, u32::MAX] {
            let mut table = Table::default();
            (1..=500).for_each(|place| table.insert(slot(hash, place)));
            check(&table);
            assert_eq!(table.candidates(hash).len(), 500);
            assert!(table.candidates(hash ^ 1).is_empty());
        }
    }

    proptest! {
        /// Against a map. Hashes are few, or lie together at either end, so that slots are pushed far from their place.
        #[test]
        fn holds_what_was_put_in(
            hashes in prop_oneof![
                Just(0..=7_u32),
                Just(0..=300),
                Just(u32::MAX - 300..=u32::MAX),
                Just(0..=u32::MAX),
            ].prop_flat_map(|range| proptest::collection::vec((range, 0..4), 0..600)),
        ) {
            let (mut table, mut model) = (Table::default(), BTreeMap::<u32, Vec<u64>>::new());
            for (n, &(hash, what)) in hashes.iter().enumerate() {
                let (place, places) = (n as u64 + 1, model.entry(hash).or_default());
                let old = if what > 1 { places.pop() } else { None };
                prop_assert!(!table.remove(hash, Place::from_number(u64::MAX)));
                if what == 3 {
                    let removed = old.map(|old| table.remove(hash, Place::from_number(old)));
                    prop_assert!(removed != Some(false));
                    continue;
                }
                places.push(place);
                match old {
                    Some(old) => prop_assert!(table.replace(Place::from_number(old), slot(hash, place))),
                    None => table.insert(slot(hash, place)),
                }
                prop_assert!(!table.replace(Place::from_number(u64::MAX), slot(hash, 1)));
            }
            check(&table);
            for (hash, mut places) in model {
                let mut found: Vec<u64> = table.candidates(hash).iter().map(|slot| slot.place).collect();
                found.sort_unstable();
                places.sort_unstable();
                prop_assert_eq!(found, places);
                let absent = hash.wrapping_add(1 << 20);
                prop_assert!(table.candidates(absent).iter().all(|slot| slot.hash == absent));
            }
        }
    }
}
