//! One table of the index: slots in the order of their hashes, with a few free ones between them.
//!
//! Where a slot belongs follows from its hash. If that place is taken it stands a little behind, and everything between
//! is taken too, so a look-up reads on from there until it meets a greater hash or a free slot. Because of the order a
//! full table is short to search (12 slots at 96 %), and making it larger is one pass from front to back.

use super::{
    index::Place,
    slot::{HASH_BITS, SLOT_BYTES, Slot},
};

/// A table that would be fuller grows: beyond this, runs of taken slots get long.
const MOST_PERCENT: usize = 96;
/// How full it is then. So a slot costs 16.7 to 17.4 bytes.
const FILL_PERCENT: usize = 92;
/// Free slots of a new table, however small: so that it does not grow with every entry.
const LEAST_FREE: usize = 8;
/// For slots that are pushed past the end: one in so many, and a few more.
const SPARE_PART: usize = 256;

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    slots: Vec<Slot>,
    /// Slots that hashes point at; those behind are spare.
    size: usize,
    used: usize,
}

impl Table {
    /// A table of these slots, which come in the order of their hashes; with room for `count` of them.
    pub fn of(count: usize, ordered: impl Iterator<Item = Slot>) -> Self {
        let size = count * 100 / FILL_PERCENT + LEAST_FREE;
        let (mut slots, mut used) = (Vec::with_capacity(size + spare(size)), 0);
        for slot in ordered {
            slots.resize(home(slot.hash(), size).max(slots.len()), Slot::FREE);
            slots.push(slot);
            used += 1;
        }
        slots.resize((size + spare(size)).max(slots.len()), Slot::FREE);
        Self { slots, size, used }
    }

    /// All slots that are taken, in the order of their hashes.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.slots.iter().filter(|slot| !slot.is_free()).copied()
    }

    /// How many slots are taken.
    pub fn len(&self) -> usize {
        self.used
    }

    /// The entries with that hash, newest first.
    pub fn candidates(&self, hash: u32) -> &[Slot] {
        let start = self.position(hash);
        let count = run(&self.slots[start..], |slot| slot.hash() == hash);
        &self.slots[start..start + count]
    }

    /// Puts a slot in.
    pub fn insert(&mut self, slot: Slot) {
        if (self.used + 1) * 100 > self.size * MOST_PERCENT {
            *self = Self::of(self.used + 1, self.slots());
        }
        let at = self.position(slot.hash());
        let end = at + run(&self.slots[at..], |_| true);
        if end == self.slots.len() {
            let more = spare(self.size);
            self.slots.reserve_exact(more);
            self.slots.resize(end + more, Slot::FREE);
        }
        self.slots.copy_within(at..end, at + 1);
        self.slots[at] = slot;
        self.used += 1;
    }

    /// Puts a slot where one with its hash and that place is; says whether there was one.
    pub fn replace(&mut self, old: Place, slot: Slot) -> bool {
        let start = self.position(slot.hash());
        let found = self.candidates(slot.hash()).iter().position(|candidate| candidate.place() == old);
        if let Some(at) = found {
            self.slots[start + at] = slot;
        }
        found.is_some()
    }

    /// Takes the slot of that hash and place out; says whether there was one. Those behind it that are not in their own
    /// place move up.
    pub fn remove(&mut self, hash: u32, place: Place) -> bool {
        let start = self.position(hash);
        let found = self.candidates(hash).iter().position(|candidate| candidate.place() == place);
        let Some(found) = found else { return false };
        let at = start + found;
        let pushed = self.slots[at + 1..].iter().enumerate();
        let size = self.size;
        let count =
            pushed.take_while(|(n, slot)| !slot.is_free() && home(slot.hash(), size) <= at + n).count();
        self.slots.copy_within(at + 1..=at + count, at);
        self.slots[at + count] = Slot::FREE;
        self.used -= 1;
        true
    }

    /// Bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        self.slots.capacity() * SLOT_BYTES
    }

    /// The first slot, from the hash's own place on, that is free or has no smaller hash.
    fn position(&self, hash: u32) -> usize {
        let home = home(hash, self.size);
        home + run(&self.slots[home..], |slot| slot.hash() < hash)
    }
}

/// Where a hash belongs: grows with the hash, so that slots stay in order.
fn home(hash: u32, size: usize) -> usize {
    ((u64::from(hash) * size as u64) >> HASH_BITS) as usize
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
    use crate::storage::{index::Entry, record::Kind};

    const LAST: u32 = (1 << HASH_BITS) - 1;

    fn slot(hash: u32, place: u64) -> Slot {
        let place = Place::from_number(place);
        Slot::new(hash, Entry::new(place, 41, 1, Kind::Blob))
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
            assert!(slot.hash() >= last);
            last = slot.hash();
            assert!((gap..=at).contains(&home(slot.hash(), table.size)));
        }
        assert_eq!(table.slots.iter().filter(|slot| !slot.is_free()).count(), table.used);
    }

    #[test]
    fn an_entry_costs_at_most_18_bytes_however_many_there_are() {
        let (mut table, mut random) = (Table::default(), fastrand::Rng::with_seed(1));
        for count in 1..=60_000_usize {
            table.insert(slot(random.u32(..=LAST), count as u64));
            if count >= 10_000 {
                assert!(table.memory_bytes() <= 18 * count, "{count}: {}", table.memory_bytes());
            }
        }
        check(&table);
    }

    #[test]
    fn keys_that_all_have_one_hash_are_kept_too() {
        for hash in [0, 7, LAST] {
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
                Just(LAST - 300..=LAST),
                Just(0..=LAST),
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
                let mut found: Vec<u64> = table.candidates(hash).iter().map(|slot| slot.place().to_number()).collect();
                found.sort_unstable();
                places.sort_unstable();
                prop_assert_eq!(found, places);
                let absent = (hash + (1 << 20)) & LAST;
                prop_assert!(table.candidates(absent).iter().all(|slot| slot.hash() == absent));
            }
        }
    }
}
