//! Blobs that are read again and again, in memory: sending one from there is one copy of its bytes, from the page cache it is two
//! and a checksum (docs/decisions/0021).
//!
//! A blob is kept under the place of its record. A record never changes, and no other is ever at its place, so nothing has to be
//! taken out when a blob is replaced, deleted or moved: the index names its place no more, and nobody asks for it.
//!
//! What is read once is not kept. Of what is read a mark is left; what is met again before as many other bytes were read as there
//! is room for is likely to be read once more before it would have to make room.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use bytes::Bytes;
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter, sync::Cache, sync::DefaultLifecycle};

use super::{BlobInfo, index::Place};

/// Longest blob that is kept: some 60 of them fit the room that there is if nothing else is said.
pub const LONGEST_BYTES: u32 = 1 << 20;

/// What a blob takes beside its record, about.
const BESIDE_BYTES: usize = 256;

/// By which the cache sizes what it remembers of blobs that had to make room.
const USUAL_BYTES: u64 = 4 << 10;

/// Each has a lock and its part of the room. More would leave too little for the longest.
const SHARDS: usize = 4;

/// Blobs met that are told apart: 256 KiB.
const MARK_BITS: u32 = 16;

/// A blob that was read and found sound.
#[derive(Debug)]
pub struct HotBlob {
    /// Its key.
    pub key: Bytes,
    /// What is known of it.
    pub info: BlobInfo,
    /// Its bytes.
    pub data: Bytes,
    /// Bytes of the record that both are parts of.
    pub record_bytes: usize,
}

#[derive(Debug, Clone)]
struct Bytewise;

impl Weighter<Place, Arc<HotBlob>> for Bytewise {
    fn weight(&self, _place: &Place, blob: &Arc<HotBlob>) -> u64 {
        (blob.record_bytes + BESIDE_BYTES) as u64
    }
}

/// The blobs.
#[derive(Debug)]
pub struct Hot {
    blobs: Cache<Place, Arc<HotBlob>, Bytewise>,
    room_bytes: u64,
    /// One of these is the mark of all places with some hash, and of the time when the last of them was met.
    marks: Box<[AtomicU32]>,
    /// Of what was met and not kept.
    met_bytes: AtomicU64,
    reads: AtomicU64,
}

impl Hot {
    /// Room for so many bytes; `None` where there is none.
    pub fn new(room_bytes: u64) -> Option<Self> {
        let items = usize::try_from(room_bytes / USUAL_BYTES).unwrap_or(usize::MAX);
        let mut options = OptionsBuilder::new();
        options.weight_capacity(room_bytes).estimated_items_capacity(items).shards(SHARDS);
        let options = options.build().ok().filter(|_| items > 0)?;
        Some(Self {
            blobs: Cache::with_options(
                options,
                Bytewise,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            room_bytes,
            marks: (0..1 << MARK_BITS).map(|_| AtomicU32::new(0)).collect(),
            met_bytes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        })
    }

    /// The blob whose record is there, if it is kept.
    pub fn get(&self, place: Place) -> Option<Arc<HotBlob>> {
        let blob = self.blobs.get(&place)?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        Some(blob)
    }

    /// A record of so many bytes that is not kept is about to be read. Whether it is worth keeping now.
    pub fn meet(&self, place: Place, bytes: u64) -> bool {
        let period = self.met_bytes.fetch_add(bytes, Ordering::Relaxed) / self.room_bytes;
        // The golden ratio in 64 bits: neighbours get marks far from each other.
        let hash = place.to_number().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let met = &self.marks[(hash >> (64 - MARK_BITS)) as usize];
        let mark = ((hash >> 16) as u32).wrapping_add(period as u32);
        let again = met.load(Ordering::Relaxed) == mark;
        if !again {
            met.store(mark, Ordering::Relaxed);
        }
        again
    }

    /// Keeps a blob, and forgets others if it has to.
    pub fn keep(&self, place: Place, blob: Arc<HotBlob>) {
        self.blobs.insert(place, blob);
    }

    /// How many reads were answered with what is kept.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Checksum, Meta, Version};

    fn place(number: u64) -> Place {
        Place::new(1, number)
    }

    fn blob(bytes: usize) -> Arc<HotBlob> {
        let data = Bytes::from(vec![7; bytes]);
        let checksum = Checksum::of(&data);
        let info = BlobInfo {
            version: Version::from_parts(1, 1),
            length: bytes as u64,
            checksum,
            meta: Meta::default(),
        };
        Arc::new(HotBlob { key: Bytes::from_static(b"k"), info, data, record_bytes: bytes })
    }

    #[test]
    fn what_is_met_again_soon_is_worth_keeping() {
        let hot = Hot::new(1 << 20).unwrap();
        assert!(!hot.meet(place(1), 100));
        assert!(hot.meet(place(1), 100));
        assert!(!hot.meet(place(2), 100));
        // Others were read in between: as much as there is room for.
        assert_eq!((0..1 << 10).filter(|n| hot.meet(place(1000 + n), 1 << 10)).count(), 0);
        assert!(!hot.meet(place(2), 100));
        assert!(hot.meet(place(2), 100));
    }

    #[test]
    fn what_is_read_once_each_is_not_kept() {
        let hot = Hot::new(64 << 20).unwrap();
        let places = (1..=100).flat_map(|volume| (1..=1000).map(move |n| Place::new(volume, n * 1100)));
        assert_eq!(places.filter(|place| hot.meet(*place, 1100)).count(), 0);
    }

    #[test]
    fn there_is_room_for_so_many_bytes_and_for_the_longest_blobs() {
        let hot = Hot::new(64 << 20).unwrap();
        (0..1000).for_each(|n| hot.keep(place(n), blob(LONGEST_BYTES as usize)));
        let kept = (0..1000).filter(|n| hot.get(place(*n)).is_some()).count();
        assert!((40..=64).contains(&kept), "{kept}");
        assert_eq!(hot.reads(), kept as u64);
        assert!(Hot::new(0).is_none());
    }
}
