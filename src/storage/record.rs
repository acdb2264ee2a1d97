//! One record of a volume, as bytes. Pure: no file is touched here. `docs/format.md` draws it.
//!
//! A record is a head and, for a small blob, its data. The head's checksum covers the store's id, the volume's number
//! and the record's offset too: a record is only valid where it was written. So a volume uploaded as a blob is never
//! taken for records, and neither are bytes that a file system brought back from somewhere else.

use crc_fast::{CrcAlgorithm, Digest};

use super::{
    blocks::{BLOCK_BYTES, block_count},
    options::MAX_SMALL_LIMIT,
    pairs::MAX_PAIRS_BYTES,
};
use crate::model::{Checksum, Version, key::MAX_KEY_BYTES};

/// Every head begins with these three bytes.
pub const MAGIC: [u8; 3] = *b"BPr";
/// Bytes of a head before the key: the whole overhead of a blob of one block.
pub const FIXED_BYTES: usize = 40;
/// A head is never longer.
pub const MAX_HEAD_BYTES: usize =
    FIXED_BYTES + MAX_KEY_BYTES + MAX_PAIRS_BYTES + 4 * (MAX_SMALL_LIMIT / BLOCK_BYTES) as usize;
/// Set in the kind's byte of the first record after a sync: everything before it in the volume is durable.
const STARTS_BATCH: u8 = 0x80;
/// File id and length.
const FILE_REF_BYTES: usize = 16;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A small blob: its data follows the head.
    Blob = 1,
    /// A delete.
    Tombstone = 2,
    /// A blob in a file of its own.
    File = 3,
    /// Bytes to skip: what a crash left of records that were never acknowledged.
    Gap = 4,
}

impl Kind {
    /// The kind with that number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Blob, Self::Tombstone, Self::File, Self::Gap].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Where the bytes of a [`Kind::File`] record are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRef {
    /// Names the file.
    pub id: u64,
    /// Bytes of the blob.
    pub length: u64,
}

/// What binds a record to its volume; cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Seal(Digest);

impl Seal {
    /// The seal of that volume of that store.
    pub fn new(store: [u8; 16], volume: u32) -> Self {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&store);
        digest.update(&volume.to_le_bytes());
        Self(digest)
    }

    /// The checksum of a head at that offset; the head's own checksum field is left out.
    fn sum(&self, offset: u64, head: &[u8]) -> u32 {
        let mut digest = self.0;
        digest.update(&offset.to_le_bytes());
        digest.update(&head[..4]);
        digest.update(&head[8..]);
        digest.finalize() as u32
    }
}

/// A head to be written.
#[derive(Debug, Clone, Copy)]
pub struct NewHead<'a> {
    /// What the record is.
    pub kind: Kind,
    /// Everything before it in the volume is durable.
    pub starts_batch: bool,
    /// The write.
    pub version: Version,
    /// Of the blob's bytes.
    pub checksum: Checksum,
    /// Bytes after the head. At most [`MAX_SMALL_LIMIT`], except for a gap.
    pub data_len: u32,
    /// The key's bytes, at most [`MAX_KEY_BYTES`].
    pub key: &'a [u8],
    /// Encoded metadata, at most [`MAX_PAIRS_BYTES`].
    pub pairs: &'a [u8],
    /// For [`Kind::File`].
    pub file: Option<FileRef>,
    /// For blobs of more than one block.
    pub sums: &'a [u32],
}

impl NewHead<'_> {
    /// Bytes of the head.
    pub fn length(&self) -> usize {
        let file = if self.file.is_some() { FILE_REF_BYTES } else { 0 };
        FIXED_BYTES + self.key.len() + self.pairs.len() + file + 4 * self.sums.len()
    }

    /// Appends the head, sealed for that offset.
    pub fn encode(&self, out: &mut Vec<u8>, seal: &Seal, offset: u64) {
        let at = out.len();
        let flags = if self.starts_batch { STARTS_BATCH } else { 0 };
        out.extend_from_slice(&MAGIC);
        out.push(self.kind as u8 | flags);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.version.to_bytes());
        out.extend_from_slice(&self.checksum.0.to_le_bytes());
        out.extend_from_slice(&self.data_len.to_le_bytes());
        // Both lengths are bounded by their limits, which fit 16 bits.
        out.extend_from_slice(&(self.key.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.pairs.len() as u16).to_le_bytes());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.pairs);
        if let Some(file) = self.file {
            out.extend_from_slice(&file.id.to_le_bytes());
            out.extend_from_slice(&file.length.to_le_bytes());
        }
        out.extend(self.sums.iter().flat_map(|sum| sum.to_le_bytes()));
        let sum = seal.sum(offset, &out[at..]);
        out[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// A head that was read; it borrows the bytes it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// What the record is.
    pub kind: Kind,
    /// Everything before it in the volume was durable when it was written.
    pub starts_batch: bool,
    /// The write.
    pub version: Version,
    /// Of the blob's bytes.
    pub checksum: Checksum,
    /// Bytes after the head.
    pub data_len: u32,
    /// The key's bytes.
    pub key: &'a [u8],
    /// Encoded metadata.
    pub pairs: &'a [u8],
    /// Sums of the blocks (4 bytes each), or the file's reference.
    extra: &'a [u8],
}

/// Why bytes are no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// It may be one, if there are that many bytes (at most [`MAX_HEAD_BYTES`]).
    Incomplete(usize),
    /// It is none.
    Invalid,
}

impl<'a> Head<'a> {
    /// Reads the head at the front of `bytes`, which lie at that offset of the sealed volume.
    pub fn decode(bytes: &'a [u8], seal: &Seal, offset: u64) -> Result<Self, HeadError> {
        let fixed = bytes.first_chunk::<FIXED_BYTES>().ok_or(HeadError::Incomplete(FIXED_BYTES))?;
        let lengths = Lengths::of(fixed).ok_or(HeadError::Invalid)?;
        let head = bytes.get(..lengths.head()).ok_or(HeadError::Incomplete(lengths.head()))?;
        if seal.sum(offset, head).to_le_bytes() != fixed[4..8] {
            return Err(HeadError::Invalid);
        }
        Ok(Self::of(fixed, &lengths, &head[FIXED_BYTES..]))
    }

    /// Reads a head that was decoded before, so that its checksum need not be compared again.
    pub fn decode_again(bytes: &'a [u8]) -> Option<Self> {
        let fixed = bytes.first_chunk::<FIXED_BYTES>()?;
        let lengths = Lengths::of(fixed)?;
        Some(Self::of(fixed, &lengths, bytes.get(FIXED_BYTES..lengths.head())?))
    }

    fn of(fixed: &[u8; FIXED_BYTES], lengths: &Lengths, rest: &'a [u8]) -> Self {
        let (key, rest) = rest.split_at(lengths.key);
        let (pairs, extra) = rest.split_at(lengths.pairs);
        Self {
            kind: lengths.kind,
            starts_batch: fixed[3] & STARTS_BATCH != 0,
            version: Version::from_bytes(array(&fixed[8..])),
            checksum: Checksum(u64::from_le_bytes(array(&fixed[24..]))),
            data_len: lengths.data,
            key,
            pairs,
            extra,
        }
    }

    /// Bytes of the head.
    pub fn length(&self) -> usize {
        FIXED_BYTES + self.key.len() + self.pairs.len() + self.extra.len()
    }

    /// Bytes of head and data.
    pub fn record_length(&self) -> u64 {
        self.length() as u64 + u64::from(self.data_len)
    }

    /// Bytes of the blob; 0 for what is none.
    pub fn blob_length(&self) -> u64 {
        match self.kind {
            Kind::Blob => u64::from(self.data_len),
            Kind::File => self.file().map_or(0, |file| file.length),
            Kind::Tombstone | Kind::Gap => 0,
        }
    }

    /// The file the bytes are in.
    pub fn file(&self) -> Option<FileRef> {
        (self.kind == Kind::File).then(|| FileRef {
            id: u64::from_le_bytes(array(self.extra)),
            length: u64::from_le_bytes(array(&self.extra[8..])),
        })
    }

    /// The sums of a small blob's blocks, 4 bytes each; empty for a blob of one block, which its checksum covers.
    pub fn sums(&self) -> &'a [u8] {
        if self.kind == Kind::Blob { self.extra } else { &[] }
    }
}

/// The bytes where a head has its key, if that has the length it claims: of a head that is damaged, perhaps its key.
pub fn likely_key(bytes: &[u8]) -> Option<&[u8]> {
    let fixed = bytes.first_chunk::<FIXED_BYTES>()?;
    let length = usize::from(u16::from_le_bytes(array(&fixed[36..])));
    bytes.get(FIXED_BYTES..)?.get(..length)
}

/// The first `N` bytes; callers pass slices whose length was checked.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk::<N>().expect("the slice is at least as long: the head's length was checked")
}

struct Lengths {
    kind: Kind,
    key: usize,
    pairs: usize,
    data: u32,
    extra: usize,
}

impl Lengths {
    /// The lengths a head claims; `None` if no record of ours claims such.
    fn of(fixed: &[u8; FIXED_BYTES]) -> Option<Self> {
        if fixed[..3] != MAGIC {
            return None;
        }
        let kind = Kind::from_number(fixed[3] & !STARTS_BATCH)?;
        let data = u32::from_le_bytes(array(&fixed[32..]));
        let key = usize::from(u16::from_le_bytes(array(&fixed[36..])));
        let pairs = usize::from(u16::from_le_bytes(array(&fixed[38..])));
        let named = (1..=MAX_KEY_BYTES).contains(&key) && pairs <= MAX_PAIRS_BYTES;
        let (extra, fits) = match kind {
            Kind::Blob => (sums_bytes(data), named && u64::from(data) <= MAX_SMALL_LIMIT),
            Kind::Tombstone => (0, named && data == 0),
            Kind::File => (FILE_REF_BYTES, named && data == 0),
            Kind::Gap => (0, key == 0 && pairs == 0),
        };
        fits.then_some(Self { kind, key, pairs, data, extra })
    }

    fn head(&self) -> usize {
        FIXED_BYTES + self.key + self.pairs + self.extra
    }
}

fn sums_bytes(data_len: u32) -> usize {
    let blocks = block_count(u64::from(data_len)) as usize;
    if blocks > 1 { 4 * blocks } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::blocks::block_sums;

    fn seal() -> Seal {
        Seal::new([7; 16], 3)
    }

    fn new_head<'a>(kind: Kind, key: &'a [u8], pairs: &'a [u8], data: &[u8], sums: &'a [u32]) -> NewHead<'a> {
        NewHead {
            kind,
            starts_batch: data.len() % 2 == 1,
            version: Version::from_parts(5, 6),
            checksum: Checksum::of(data),
            data_len: if kind == Kind::Blob { data.len() as u32 } else { 0 },
            key,
            pairs,
            file: (kind == Kind::File).then_some(FileRef { id: 9, length: data.len() as u64 }),
            sums,
        }
    }

    fn encoded(head: &NewHead<'_>, offset: u64) -> Vec<u8> {
        let mut out = Vec::new();
        head.encode(&mut out, &seal(), offset);
        assert_eq!(out.len(), head.length());
        out
    }

    #[test]
    fn overhead_of_one_block_is_forty_bytes() {
        let head = new_head(Kind::Blob, b"a/b.jpg", b"", &[1; 1024], &[]);
        assert_eq!(head.length(), 40 + 7);
    }

    #[test]
    fn valid_only_where_it_was_written() {
        let bytes = encoded(&new_head(Kind::Blob, b"k", b"", b"data", &[]), 64);
        assert!(Head::decode(&bytes, &seal(), 64).is_ok());
        assert_eq!(Head::decode(&bytes, &seal(), 65), Err(HeadError::Invalid));
        assert_eq!(Head::decode(&bytes, &Seal::new([7; 16], 4), 64), Err(HeadError::Invalid));
        assert_eq!(Head::decode(&bytes, &Seal::new([8; 16], 3), 64), Err(HeadError::Invalid));
    }

    #[test]
    fn every_truncation_and_every_bit_flip_is_found() {
        let sums = [1, 2];
        let head = new_head(Kind::Blob, b"some/key", b"\x01\0\x01\0av", &[0; 70_000], &sums);
        let bytes = encoded(&head, 64);
        for cut in 0..bytes.len() {
            let need = match Head::decode(&bytes[..cut], &seal(), 64) {
                Err(HeadError::Incomplete(need)) => need,
                other => panic!("{cut}: {other:?}"),
            };
            assert!(need > cut && need <= bytes.len());
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped.resize(MAX_HEAD_BYTES, 0);
            assert_eq!(Head::decode(&flipped, &seal(), 64), Err(HeadError::Invalid), "bit {bit}");
        }
    }

    #[test]
    fn claims_beyond_the_limits_are_refused_before_anything_is_read() {
        let mut gap = encoded(&NewHead { key: b"", ..new_head(Kind::Gap, b"", b"", b"", &[]) }, 64);
        assert!(Head::decode(&gap, &seal(), 64).is_ok());
        gap[36] = 1;
        assert_eq!(Head::decode(&gap, &seal(), 64), Err(HeadError::Invalid));
        let mut blob = encoded(&new_head(Kind::Blob, b"k", b"", b"", &[]), 64);
        blob[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Head::decode(&blob, &seal(), 64), Err(HeadError::Invalid));
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::Blob), Just(Kind::Tombstone), Just(Kind::File)]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            kind in kinds(),
            key in proptest::collection::vec(any::<u8>(), 1..=MAX_KEY_BYTES),
            pairs in proptest::collection::vec(any::<u8>(), 0..200),
            length in 0_usize..200_000,
            offset in any::<u64>(),
        ) {
            let data = vec![1_u8; length];
            let sums = block_sums(&data);
            let sums: &[u32] = if kind == Kind::Blob && sums.len() > 1 { &sums } else { &[] };
            let new = new_head(kind, &key, &pairs, &data, sums);
            let bytes = encoded(&new, offset);
            let head = Head::decode(&bytes, &seal(), offset).unwrap();
            prop_assert_eq!((head.kind, head.starts_batch), (new.kind, new.starts_batch));
            prop_assert_eq!((head.version, head.checksum), (new.version, new.checksum));
            prop_assert_eq!((head.key, head.pairs), (new.key, new.pairs));
            prop_assert_eq!(head.file(), new.file);
            prop_assert_eq!(head.sums().len(), 4 * sums.len());
            prop_assert_eq!(head.blob_length(), if kind == Kind::Tombstone { 0 } else { length as u64 });
            prop_assert_eq!(head.record_length(), bytes.len() as u64 + u64::from(new.data_len));
        }

        /// Behind a checksum that is right, as nobody but this program writes them: no panic all the same, and no length
        /// beyond the limits.
        #[test]
        fn any_sealed_bytes_are_read_within_the_limits(
            mut bytes in proptest::collection::vec(any::<u8>(), FIXED_BYTES..400),
            kind in 0_u8..6,
            data_len in prop_oneof![0_u32..200_000, any::<u32>()],
            key_len in 0_u16..60,
            pairs_len in prop_oneof![0_u16..60, any::<u16>()],
        ) {
            bytes[..3].copy_from_slice(&MAGIC);
            bytes[3] = kind;
            bytes[32..36].copy_from_slice(&data_len.to_le_bytes());
            bytes[36..38].copy_from_slice(&key_len.to_le_bytes());
            bytes[38..40].copy_from_slice(&pairs_len.to_le_bytes());
            let fixed = *bytes.first_chunk().unwrap();
            let length = Lengths::of(&fixed).map_or(FIXED_BYTES, |lengths| lengths.head());
            prop_assert!(length <= MAX_HEAD_BYTES);
            bytes.resize(bytes.len().max(length), 7);
            let sum = seal().sum(64, &bytes[..length]);
            bytes[4..8].copy_from_slice(&sum.to_le_bytes());
            if let Ok(head) = Head::decode(&bytes, &seal(), 64) {
                prop_assert_eq!(head.length(), length);
                prop_assert_eq!(head.key.len() + head.pairs.len(), usize::from(key_len) + usize::from(pairs_len));
                prop_assert!(head.kind == Kind::Gap || u64::from(head.data_len) <= MAX_SMALL_LIMIT);
                prop_assert!(head.sums().len() % 4 == 0 && head.file().is_some() == (head.kind == Kind::File));
                prop_assert!(head.record_length() <= MAX_HEAD_BYTES as u64 + u64::from(u32::MAX));
            }
        }

        #[test]
        fn any_bytes_are_refused_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            magic in any::<bool>(),
            kind in any::<u8>(),
        ) {
            if magic && bytes.len() > 4 {
                bytes[..3].copy_from_slice(&MAGIC);
                bytes[3] = kind;
            }
            match Head::decode(&bytes, &seal(), 64) {
                Ok(_) => prop_assert!(false, "a random head matched its checksum"),
                Err(HeadError::Incomplete(need)) => {
                    prop_assert!(need > bytes.len() && need <= MAX_HEAD_BYTES);
                }
                Err(HeadError::Invalid) => {}
            }
        }
    }
}
