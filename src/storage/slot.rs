//! One entry of the index in 16 bytes.
//!
//! ```text
//! 64 bits  place of the record
//! 28       of the hash of its key
//!  2       kind
//!  7       class of the head's length
//! 27       length of the data
//! ```

use super::{
    index::{Entry, Place},
    options::MAX_SMALL_LIMIT,
    record::{FIXED_BYTES, Kind, MAX_HEAD_BYTES},
};

/// Bits of a hash that are kept.
pub const HASH_BITS: u32 = 28;
const CLASS_BITS: u32 = 7;
const DATA_BITS: u32 = 27;
const _: () = assert!(MAX_SMALL_LIMIT < 1 << DATA_BITS, "the length of a small blob fits");

/// A head is remembered as the next of these lengths: up to 420 bytes in steps of 4, then in steps of a seventh or less.
const HEAD_BOUNDS: [u16; 1 << CLASS_BITS] = head_bounds();
const FINE_CLASSES: usize = 96;
const _: () = assert!(MAX_HEAD_BYTES <= u16::MAX as usize, "the length of a head fits");

const fn head_bounds() -> [u16; 1 << CLASS_BITS] {
    let mut bounds = [0; 1 << CLASS_BITS];
    let mut class = 0;
    while class < bounds.len() {
        let bound = if class < FINE_CLASSES {
            FIXED_BYTES + 4 * class
        } else {
            let step = class - FINE_CLASSES;
            (4 + step % 4) << (7 + step / 4)
        };
        bounds[class] = if bound < MAX_HEAD_BYTES { bound as u16 } else { MAX_HEAD_BYTES as u16 };
        class += 1;
    }
    bounds
}

/// What is remembered of a head's length: at least that much, and a few bytes more at most.
pub fn head_bound(head_len: usize) -> u16 {
    HEAD_BOUNDS[head_class(head_len)]
}

fn head_class(head_len: usize) -> usize {
    HEAD_BOUNDS.partition_point(|&bound| usize::from(bound) < head_len).min(HEAD_BOUNDS.len() - 1)
}

/// A slot of a table; free while `place` is 0, where no record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    place: u64,
    rest: u64,
}

/// Bytes of a slot.
pub const SLOT_BYTES: usize = size_of::<Slot>();

impl Slot {
    /// One that is free.
    pub const FREE: Self = Self { place: 0, rest: 0 };

    /// The slot of that entry.
    pub fn new(hash: u32, entry: Entry) -> Self {
        // Gaps are never in the index, so two bits hold the kind.
        debug_assert!(hash >> HASH_BITS == 0 && entry.kind != Kind::Gap && entry.data_len >> DATA_BITS == 0);
        let mut rest = u64::from(hash);
        rest = rest << 2 | entry.kind as u64;
        rest = rest << CLASS_BITS | head_class(usize::from(entry.head_bound)) as u64;
        rest = rest << DATA_BITS | u64::from(entry.data_len);
        Self { place: entry.place.to_number(), rest }
    }

    /// Of the hash of its key.
    pub fn hash(&self) -> u32 {
        (self.rest >> (u64::BITS - HASH_BITS)) as u32
    }

    /// Where its record is.
    pub fn place(&self) -> Place {
        Place::from_number(self.place)
    }

    /// What the slot says; `None` if it is free.
    pub fn entry(&self) -> Option<Entry> {
        let low = |from: u32, bits: u32| self.rest >> from & ((1 << bits) - 1);
        let kind = Kind::from_number(low(CLASS_BITS + DATA_BITS, 2) as u8).filter(|_| !self.is_free())?;
        let head_bound = HEAD_BOUNDS[low(DATA_BITS, CLASS_BITS) as usize];
        Some(Entry { place: self.place(), head_bound, data_len: low(0, DATA_BITS) as u32, kind })
    }

    /// Whether nothing is in it.
    pub fn is_free(&self) -> bool {
        self.place == 0
    }

    /// The slot as it is saved.
    pub fn to_bytes(self) -> [u8; SLOT_BYTES] {
        (u128::from(self.rest) << 64 | u128::from(self.place)).to_le_bytes()
    }

    /// The slot that was saved so.
    pub fn from_bytes(bytes: [u8; SLOT_BYTES]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self { place: both as u64, rest: (both >> 64) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_16_bytes_and_says_what_was_put_in() {
        assert_eq!(SLOT_BYTES, 16);
        for kind in [Kind::Blob, Kind::Tombstone, Kind::File] {
            for data_len in [0, 1, 1 << 20, MAX_SMALL_LIMIT as u32] {
                for head_len in [41, 64, 65, 1280, 1281, MAX_HEAD_BYTES] {
                    let place = Place::new(Place::MAX_VOLUME, (1 << 40) - 1);
                    let entry = Entry { place, head_bound: head_bound(head_len), data_len, kind };
                    for hash in [0, 7, (1 << HASH_BITS) - 1] {
                        let slot = Slot::new(hash, entry);
                        assert_eq!((slot.hash(), slot.entry()), (hash, Some(entry)));
                        assert_eq!(Slot::from_bytes(slot.to_bytes()), slot);
                    }
                }
            }
        }
        assert_eq!(Slot::FREE.entry(), None);
    }

    #[test]
    fn a_head_is_never_longer_than_remembered_and_not_much_shorter() {
        for head_len in FIXED_BYTES + 1..=MAX_HEAD_BYTES {
            let bound = usize::from(head_bound(head_len));
            let most = if head_len <= 420 { head_len + 3 } else { head_len + head_len / 4 };
            assert!((head_len..=most).contains(&bound), "{head_len}: {bound}");
            assert_eq!(head_bound(bound), bound as u16);
        }
    }
}
