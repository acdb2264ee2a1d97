//! One block of a run: keys in order, each with a value, the bytes that a key shares with the one before it left out.
//! Pure.

use crc_fast::{CrcAlgorithm, Digest};

use super::entry::{put_number, take, take_number};
use crate::{model::key::MAX_KEY_BYTES, storage::index::Place};

/// A block holds at most this: what is read to find one key, and some 150 keys of a page.
const PAYLOAD_BYTES: usize = 8 << 10;
/// Checksum, length, level.
const HEADER_BYTES: usize = 9;
/// No block is longer.
pub const MAX_BLOCK_BYTES: usize = HEADER_BYTES + PAYLOAD_BYTES;
/// Two lengths of at most two bytes each stand before a key.
const LENGTHS_BYTES: usize = 4;

/// What binds a block to its run; cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct RunSeal(Digest);

impl RunSeal {
    /// The seal of that store's run of that range.
    pub fn new(store: [u8; 16], from: Place, to: Place) -> Self {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&store);
        digest.update(&from.to_number().to_le_bytes());
        digest.update(&to.to_number().to_le_bytes());
        Self(digest)
    }

    /// The checksum of bytes that stand at that offset of the file.
    pub fn sum(&self, offset: u64, bytes: &[u8]) -> u32 {
        let mut digest = self.0;
        digest.update(&offset.to_le_bytes());
        digest.update(bytes);
        digest.finalize() as u32
    }
}

/// A block that is being filled.
#[derive(Debug, Default)]
pub struct NewBlock {
    payload: Vec<u8>,
    first: Vec<u8>,
    last: Vec<u8>,
}

impl NewBlock {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// Whether that key and value find room. In an empty block all do.
    pub fn fits(&self, key: &[u8], value: &[u8]) -> bool {
        self.payload.len() + LENGTHS_BYTES + key.len() + value.len() <= PAYLOAD_BYTES
    }

    /// Adds a key, which is not less than the last one.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        let shared = self.last.iter().zip(key).take_while(|(one, other)| one == other).count();
        put_number(&mut self.payload, shared as u64);
        put_number(&mut self.payload, (key.len() - shared) as u64);
        self.payload.extend_from_slice(&key[shared..]);
        self.payload.extend_from_slice(value);
        if self.first.is_empty() {
            self.first.extend_from_slice(key);
        }
        self.last.truncate(shared);
        self.last.extend_from_slice(&key[shared..]);
    }

    /// Appends the block, which will stand at that offset, to `out`; gives its first key. Empty afterwards.
    pub fn finish(&mut self, seal: &RunSeal, offset: u64, level: u8, out: &mut Vec<u8>) -> Vec<u8> {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        // At most PAYLOAD_BYTES, which fit.
        out.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        out.push(level);
        out.append(&mut self.payload);
        let sum = seal.sum(offset, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&sum.to_le_bytes());
        self.last.clear();
        std::mem::take(&mut self.first)
    }
}

/// Bytes that are no block of that run at that place.
#[derive(Debug, PartialEq, Eq)]
pub struct BadBlock;

/// A block that was read, and how far it was gone through.
#[derive(Debug)]
pub struct Block {
    bytes: Vec<u8>,
    at: usize,
    key: Vec<u8>,
    /// 0: values are entries. Else they are the offsets of blocks of the level below.
    pub level: u8,
}

impl Block {
    /// The block at the front of these bytes, which were read at that offset.
    pub fn decode(mut bytes: Vec<u8>, seal: &RunSeal, offset: u64) -> Result<Self, BadBlock> {
        let mut header = bytes.as_slice();
        let (sum, length, [level]) =
            (take(&mut header), take(&mut header), take(&mut header).ok_or(BadBlock)?);
        let (sum, length) = sum.zip(length).ok_or(BadBlock)?;
        let end = HEADER_BYTES + u32::from_le_bytes(length) as usize;
        if end > bytes.len() || seal.sum(offset, &bytes[4..end]).to_le_bytes() != sum {
            return Err(BadBlock);
        }
        bytes.truncate(end);
        Ok(Self { bytes, at: HEADER_BYTES, key: Vec::new(), level })
    }

    /// Bytes of the whole block.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// The key that was met last.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Goes to the next key and takes its value; `None` at the end.
    pub fn next<T>(&mut self, value: impl FnOnce(&mut &[u8]) -> Option<T>) -> Result<Option<T>, BadBlock> {
        let mut rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let lengths = take_number(&mut rest).zip(take_number(&mut rest));
        let (shared, own) = lengths.ok_or(BadBlock)?;
        let (shared, own) = (shared.min(u64::from(u32::MAX)) as usize, own.min(u64::from(u32::MAX)) as usize);
        if shared > self.key.len() || shared + own > MAX_KEY_BYTES {
            return Err(BadBlock);
        }
        let (own, mut rest) = rest.split_at_checked(own).ok_or(BadBlock)?;
        self.key.truncate(shared);
        self.key.extend_from_slice(own);
        let value = value(&mut rest).ok_or(BadBlock)?;
        self.at = self.bytes.len() - rest.len();
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seal() -> RunSeal {
        RunSeal::new([7; 16], Place::new(1, 64), Place::new(3, 64))
    }

    fn number(bytes: &mut &[u8]) -> Option<u64> {
        take(bytes).map(u64::from_le_bytes)
    }

    fn encode(keys: &[Vec<u8>]) -> Vec<u8> {
        let (mut block, mut out) = (NewBlock::default(), Vec::new());
        for (at, key) in keys.iter().enumerate() {
            let value = (at as u64).to_le_bytes();
            assert!(block.fits(key, &value));
            block.add(key, &value);
        }
        block.finish(&seal(), 48, 2, &mut out);
        out
    }

    proptest! {
        #[test]
        fn keys_come_back_and_every_flip_is_found(
            mut keys in proptest::collection::vec(proptest::collection::vec(0_u8..3, 1..12), 1..60),
            flip in any::<prop::sample::Index>(),
        ) {
            keys.sort();
            let bytes = encode(&keys);
            prop_assert!(bytes.len() <= MAX_BLOCK_BYTES);
            let behind = [&bytes[..], b"what follows"].concat();
            let mut block = Block::decode(behind, &seal(), 48).unwrap();
            prop_assert_eq!((block.level, block.length()), (2, bytes.len()));
            for (at, key) in keys.iter().enumerate() {
                prop_assert_eq!(block.next(number), Ok(Some(at as u64)));
                prop_assert_eq!(block.key(), key.as_slice());
            }
            prop_assert_eq!(block.next(number), Ok(None));
            prop_assert!(Block::decode(bytes.clone(), &seal(), 49).is_err(), "it is bound to its place");
            let mut flipped = bytes;
            let bit = flip.index(flipped.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Block::decode(flipped, &seal(), 48).is_err());
        }

        /// Behind a checksum that is right, as nobody but this program writes them: no panic all the same.
        #[test]
        fn any_payload_is_read_without_panic(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut block = NewBlock { payload, ..NewBlock::default() };
            let mut out = Vec::new();
            block.finish(&seal(), 0, 0, &mut out);
            let mut block = Block::decode(out, &seal(), 0).unwrap();
            while let Ok(Some(_)) = block.next(number) {}
        }

        #[test]
        fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(Block::decode(bytes, &seal(), 0).is_err());
        }
    }
}
