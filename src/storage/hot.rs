//! Blobs that are read again and again, in memory: sending one from there is one copy of its bytes, from the page cache it is two
//! and a checksum (docs/decisions/0021).
//!
//! A blob is kept under the place of its record. A record that can be found never changes, and while the process runs no other
//! comes to its place, so nothing has to be taken out when a blob is replaced, deleted or moved: the index names its place no more,
//! and nobody asks for it.
//!
//! What is read once is not kept. Of what is read a mark is left; what is met again before as many other bytes were read as there
//! is room for is likely to be read once more before it would have to make room.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use super::{AtHand, index::Place, record::MAX_HEAD_BYTES};

/// Longest record that is kept: a blob of 1 MiB, whatever its head.
pub const LONGEST_BYTES: u64 = (1 << 20) + MAX_HEAD_BYTES as u64;

/// And no longer than one in so many of all bytes that there is room for: what there is hardly room for pushes out all others.
const LONGEST_PART: u64 = 32;

/// Room with a lock of its own: so much that the longest find some, and that making room in it takes no millisecond.
const SHARD_BYTES: u64 = 16 << 20;
const MOST_SHARDS: u64 = 64;

/// For each mark there is so much room: the usual blob is not smaller.
const BYTES_A_MARK: u64 = 1 << 10;
/// 16 MiB of them.
const MOST_MARKS: u64 = 1 << 22;

#[derive(Debug, Clone)]
struct Bytewise;

impl Weighter<Place, Arc<AtHand>> for Bytewise {
    fn weight(&self, _place: &Place, blob: &Arc<AtHand>) -> u64 {
        blob.memory_bytes() as u64
    }
}

/// The blobs.
#[derive(Debug)]
pub struct Hot {
    blobs: Cache<Place, Arc<AtHand>, Bytewise>,
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
        let marks = (room_bytes / BYTES_A_MARK).min(MOST_MARKS).checked_next_power_of_two()?;
        let mut options = OptionsBuilder::new();
        options
            .weight_capacity(room_bytes)
            .shards((room_bytes / SHARD_BYTES).clamp(1, MOST_SHARDS) as usize)
            .estimated_items_capacity(marks as usize);
        let options = options.build().ok().filter(|_| room_bytes > 0)?;
        Some(Self {
            blobs: Cache::with_options(
                options,
                Bytewise,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            room_bytes,
            marks: (0..marks).map(|_| AtomicU32::new(0)).collect(),
            met_bytes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        })
    }

    /// The blob of that key whose record is there, if it is kept.
    pub fn get(&self, place: Place, key: &[u8]) -> Option<Arc<AtHand>> {
        let blob = self.blobs.get(&place).filter(|blob| blob.key() == key)?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        Some(blob)
    }

    /// A record of so many bytes that is not kept is about to be read. Whether it is worth keeping now.
    pub fn meet(&self, place: Place, bytes: u64) -> bool {
        if bytes > LONGEST_BYTES.min(self.room_bytes / LONGEST_PART) {
            return false;
        }
        let period = self.met_bytes.fetch_add(bytes, Ordering::Relaxed) / self.room_bytes;
        // The golden ratio in 64 bits: neighbours get marks far from each other.
        let hash = place.to_number().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let met = &self.marks[(hash >> 32) as usize & (self.marks.len() - 1)];
        let mark = (hash as u32).wrapping_add((hash >> 48) as u32).wrapping_add(period as u32);
        let again = met.load(Ordering::Relaxed) == mark;
        if !again {
            met.store(mark, Ordering::Relaxed);
        }
        again
    }

    /// Keeps a blob, and forgets others if it has to.
    pub fn keep(&self, place: Place, blob: Arc<AtHand>) {
        self.blobs.insert(place, blob);
    }

    /// How many reads were answered with what is kept.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        model::{Checksum, Meta, Version},
        storage::BlobInfo,
    };

    fn place(number: u64) -> Place {
        Place::new(1, number)
    }

    fn blob(data: &Bytes) -> Arc<AtHand> {
        let info = BlobInfo {
            version: Version::from_parts(1, 1),
            length: data.len() as u64,
            checksum: Checksum::of(b""),
            meta: Meta::default(),
        };
        Arc::new(AtHand::new(Bytes::from_static(b"k"), info, data.clone()))
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
        let longest = Bytes::from(vec![7; LONGEST_BYTES as usize]);
        let hot = Hot::new(64 << 20).unwrap();
        (0..1000).for_each(|n| hot.keep(place(n), blob(&longest)));
        let kept = (0..1000).filter(|n| hot.get(place(*n), b"k").is_some()).count();
        assert!((40..=64).contains(&kept), "{kept}");
        assert_eq!(hot.reads(), kept as u64);
    }

    #[test]
    fn another_key_with_its_hash_does_not_get_a_blob() {
        let hot = Hot::new(1 << 20).unwrap();
        hot.keep(place(1), blob(&Bytes::from_static(b"bytes")));
        assert!(hot.get(place(1), b"K").is_none());
        let found = hot.get(place(1), b"k").unwrap();
        assert_eq!((&found.data()[..], hot.reads()), (&b"bytes"[..], 1));
    }

    #[test]
    fn any_room_will_do_and_what_it_is_too_little_for_is_never_worth_keeping() {
        for (room, longest) in
            [(1, None), (5000, Some(156)), (4 << 20, Some(128 << 10)), (u64::MAX, Some(LONGEST_BYTES))]
        {
            let hot = Hot::new(room).unwrap();
            for (n, bytes) in longest.into_iter().enumerate() {
                let place = place(n as u64 + 1);
                assert!(!hot.meet(place, bytes) && hot.meet(place, bytes), "{room}");
                hot.keep(place, blob(&Bytes::from(vec![7; bytes as usize])));
                assert!(hot.get(place, b"k").is_some(), "{room}");
            }
            let long = place(9);
            let too_long = longest.unwrap_or(0) + 1;
            assert!(!hot.meet(long, too_long) && !hot.meet(long, too_long), "{room}");
        }
        assert!(Hot::new(0).is_none());
    }
}
