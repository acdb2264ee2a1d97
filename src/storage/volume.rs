//! A volume: a superblock and records after it, in one file that only grows. Who may read up to where, and how much of
//! it is still needed.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;

use super::{
    blocks::crc32c,
    disk,
    index::Place,
    pread::{is_unreadable, read_full},
    record::Seal,
};

/// Bytes before the first record.
pub const SUPERBLOCK_BYTES: u64 = 64;
const MAGIC: [u8; 8] = *b"BPVOLUME";
/// Of volumes. A greater one is refused.
const FORMAT_VERSION: u32 = 1;

/// What stands at the front of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// The store it belongs to.
    pub store: [u8; 16],
    /// Its number.
    pub number: u32,
    /// The volume that was written before it, 0 for none.
    pub previous: u32,
    /// What of that one is valid, in bytes: records after it were never acknowledged.
    pub previous_length: u64,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
}

/// Why bytes are no superblock of this store's volume.
#[derive(Debug, PartialEq, Eq)]
pub enum SuperblockError {
    /// Torn or damaged.
    Damaged,
    /// Whole, but not one to be read: why.
    Refused(String),
}

impl Superblock {
    /// The superblock as bytes.
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES as usize] {
        let mut out = [0; SUPERBLOCK_BYTES as usize];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..32].copy_from_slice(&self.store);
        out[32..36].copy_from_slice(&self.number.to_le_bytes());
        out[36..40].copy_from_slice(&self.previous.to_le_bytes());
        out[40..48].copy_from_slice(&self.previous_length.to_le_bytes());
        out[48..56].copy_from_slice(&self.created_ms.to_le_bytes());
        let sum = crc32c(&out);
        out[12..16].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Writes it to its volume, durably.
    pub fn write(&self, file: &File) -> io::Result<()> {
        // One sector, which a disk writes whole or not at all.
        disk::write_at(file, &self.encode(), 0)?;
        disk::sync_data(file)
    }

    /// Reads the superblock of that store's volume of that number.
    pub fn decode(bytes: &[u8], store: [u8; 16], number: u32) -> Result<Self, SuperblockError> {
        let mut fields: [u8; SUPERBLOCK_BYTES as usize] =
            *bytes.first_chunk().ok_or(SuperblockError::Damaged)?;
        let sum = u32_at(&fields, 12);
        fields[12..16].fill(0);
        if fields[..8] != MAGIC || sum != crc32c(&fields) {
            return Err(SuperblockError::Damaged);
        }
        let version = u32_at(&fields, 8);
        if version != FORMAT_VERSION {
            let reason = format!("volume format {version}; this program reads {FORMAT_VERSION}");
            return Err(SuperblockError::Refused(reason));
        }
        let superblock = Self {
            store: fields[16..32].try_into().map_err(|_| SuperblockError::Damaged)?,
            number: u32_at(&fields, 32),
            previous: u32_at(&fields, 36),
            previous_length: u64_at(&fields, 40),
            created_ms: u64_at(&fields, 48),
        };
        if superblock.store != store {
            return Err(SuperblockError::Refused("the volume of another storage".into()));
        }
        if superblock.number != number {
            let is = superblock.number;
            return Err(SuperblockError::Refused(format!("this is volume {is}, renamed")));
        }
        Ok(superblock)
    }
}

fn u32_at(bytes: &[u8; SUPERBLOCK_BYTES as usize], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; SUPERBLOCK_BYTES as usize], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// A volume open for reading.
#[derive(Debug)]
pub struct Volume {
    /// Its number.
    pub number: u32,
    /// Its file; blobs that are being read keep it open.
    pub file: Arc<File>,
    /// What its records are sealed with.
    pub seal: Seal,
    end: AtomicU64,
    /// Records that are the newest of their key. Changed by the writer and by the start alone.
    live_records: AtomicU64,
    /// Their bytes, with the bounds of their heads.
    live_bytes: AtomicU64,
}

impl Volume {
    /// The volume in that file, readable up to `end`.
    pub fn new(store: [u8; 16], number: u32, file: Arc<File>, end: u64) -> Self {
        Self {
            number,
            file,
            seal: Seal::new(store, number),
            end: AtomicU64::new(end),
            live_records: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
        }
    }

    /// Up to where there are records.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// How many of so many bytes from there on belong to records: what lies behind may be read too, but the page cache cannot tell that
    /// it is nothing.
    pub fn within(&self, offset: u64, length: u64) -> usize {
        length.min(self.end().saturating_sub(offset)) as usize
    }

    /// Records up to there are durable now.
    pub fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    /// How many of its records are the newest of their key.
    pub fn live_records(&self) -> u64 {
        self.live_records.load(Ordering::Acquire)
    }

    /// Bytes of the records that are the newest of their key, with heads as long as the index remembers them: 3 bytes too
    /// many at most where they are short.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Acquire)
    }

    /// Bytes of records that nobody needs any more, of gaps and of damage: what compaction can give back.
    pub fn dead_bytes(&self) -> u64 {
        self.end().saturating_sub(SUPERBLOCK_BYTES + self.live_bytes())
    }

    /// Reads the superblock; `Ok(Err)` says what is wrong with it.
    pub fn superblock(
        file: &File,
        store: [u8; 16],
        number: u32,
    ) -> io::Result<Result<Superblock, SuperblockError>> {
        let mut bytes = [0; SUPERBLOCK_BYTES as usize];
        match read_full(file, &mut bytes, 0) {
            Ok(read) if read == bytes.len() => Ok(Superblock::decode(&bytes, store, number)),
            Ok(_) => Ok(Err(SuperblockError::Damaged)),
            Err(error) if is_unreadable(&error) => Ok(Err(SuperblockError::Damaged)),
            Err(error) => Err(error),
        }
    }
}

/// All volumes, by number.
#[derive(Debug, Default)]
pub struct Volumes(RwLock<BTreeMap<u32, Arc<Volume>>>);

impl Volumes {
    /// Adds one.
    pub fn add(&self, volume: Arc<Volume>) {
        self.0.write().insert(volume.number, volume);
    }

    /// Takes one out. Who reads from it goes on.
    pub fn remove(&self, number: u32) {
        self.0.write().remove(&number);
    }

    /// So many records of a volume, of so many bytes, are the newest of their keys.
    pub fn set_live(&self, number: u32, records: u64, bytes: u64) {
        if let Some(volume) = self.get(number) {
            volume.live_records.store(records, Ordering::Release);
            volume.live_bytes.store(bytes, Ordering::Release);
        }
    }

    /// A record of that many bytes became the newest of its key.
    pub fn now_live(&self, place: Place, bytes: u64) {
        if let Some(volume) = self.get(place.volume()) {
            volume.live_records.fetch_add(1, Ordering::AcqRel);
            volume.live_bytes.fetch_add(bytes, Ordering::AcqRel);
        }
    }

    /// A record of that many bytes is not the newest of its key any more.
    pub fn now_dead(&self, place: Place, bytes: u64) {
        if let Some(volume) = self.get(place.volume()) {
            volume.live_records.fetch_sub(1, Ordering::AcqRel);
            volume.live_bytes.fetch_sub(bytes, Ordering::AcqRel);
        }
    }

    /// All, ascending.
    pub fn all(&self) -> Vec<Arc<Volume>> {
        self.0.read().values().cloned().collect()
    }

    /// That one.
    pub fn get(&self, number: u32) -> Option<Arc<Volume>> {
        self.0.read().get(&number).cloned()
    }

    /// The first one whose number is greater than that.
    pub fn after(&self, number: u32) -> Option<Arc<Volume>> {
        self.0.read().range(number.checked_add(1)?..).next().map(|(_, volume)| volume.clone())
    }

    /// The last one whose number is less than that.
    pub fn before(&self, number: u32) -> Option<Arc<Volume>> {
        self.0.read().range(..number).next_back().map(|(_, volume)| volume.clone())
    }

    /// The first one of that number or a greater one.
    pub fn from(&self, number: u32) -> Option<Arc<Volume>> {
        self.0.read().range(number..).next().map(|(_, volume)| volume.clone())
    }

    /// Bytes of all between two places: number of a volume, offset in it.
    pub fn bytes_between(&self, (first, offset): (u32, u64), (last, end): (u32, u64)) -> u64 {
        let volumes = self.0.read();
        // Not a range, which must not end before it begins.
        let between = volumes.values().filter(|volume| (first..=last).contains(&volume.number));
        let bytes = between.map(|volume| {
            let end = if volume.number == last { end.min(volume.end()) } else { volume.end() };
            end.saturating_sub(if volume.number == first { offset } else { 0 })
        });
        bytes.sum()
    }

    /// The one with the greatest number.
    pub fn last(&self) -> Option<Arc<Volume>> {
        self.0.read().last_key_value().map(|(_, volume)| volume.clone())
    }

    /// Bytes of all, and of them the dead ones.
    pub fn bytes(&self) -> (u64, u64) {
        let volumes = self.0.read();
        volumes.values().fold((0, 0), |(all, dead), volume| (all + volume.end(), dead + volume.dead_bytes()))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.read().len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn superblock() -> Superblock {
        Superblock { store: [1; 16], number: 7, previous: 6, previous_length: 1 << 33, created_ms: 5 }
    }

    #[test]
    fn superblocks_come_back_and_every_flip_and_cut_is_found() {
        let bytes = superblock().encode();
        assert_eq!(Superblock::decode(&bytes, [1; 16], 7), Ok(superblock()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Superblock::decode(&flipped, [1; 16], 7), Err(SuperblockError::Damaged));
        }
        for cut in 0..bytes.len() {
            assert_eq!(Superblock::decode(&bytes[..cut], [1; 16], 7), Err(SuperblockError::Damaged));
        }
    }

    proptest! {
        /// Behind a checksum that is right too.
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..90), sealed: bool) {
            if sealed && let Some(front) = bytes.first_chunk_mut::<{ SUPERBLOCK_BYTES as usize }>() {
                front[..8].copy_from_slice(&MAGIC);
                front[12..16].fill(0);
                let sum = crc32c(front);
                front[12..16].copy_from_slice(&sum.to_le_bytes());
                let read = Superblock::decode(&bytes, [1; 16], 7);
                prop_assert!(matches!(read, Err(SuperblockError::Refused(_))), "{:?}", read);
            } else {
                prop_assert_eq!(Superblock::decode(&bytes, [1; 16], 7), Err(SuperblockError::Damaged));
            }
        }
    }

    #[test]
    fn volumes_of_others_are_refused() {
        let bytes = superblock().encode();
        assert!(matches!(Superblock::decode(&bytes, [2; 16], 7), Err(SuperblockError::Refused(_))));
        assert!(matches!(Superblock::decode(&bytes, [1; 16], 8), Err(SuperblockError::Refused(_))));
    }
}
