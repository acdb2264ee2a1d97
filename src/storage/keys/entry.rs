//! What is kept of a record beside its key, and how it stands in a run. Pure.

use crate::{
    model::{Checksum, Version},
    storage::{
        index::Place,
        record::{Head, Kind},
    },
};

/// What a listing needs of a record, so that the record itself need not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyEntry {
    /// Where it is.
    pub place: Place,
    /// What it is; never a gap.
    pub kind: Kind,
    /// The write.
    pub version: Version,
    /// Bytes of the blob; 0 for a tombstone.
    pub length: u64,
    /// Of the blob's bytes; of no bytes for a tombstone.
    pub checksum: Checksum,
}

impl KeyEntry {
    /// Of the record there.
    pub fn of(place: Place, head: &Head<'_>) -> Self {
        let (kind, version, checksum) = (head.kind, head.version, head.checksum);
        Self { place, kind, version, length: head.blob_length(), checksum }
    }

    /// Appends it: kind (1), place (8), version (16); for blobs also the checksum (8) and the length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind as u8);
        out.extend_from_slice(&self.place.to_number().to_le_bytes());
        out.extend_from_slice(&self.version.to_bytes());
        if self.kind != Kind::Tombstone {
            out.extend_from_slice(&self.checksum.0.to_le_bytes());
            put_number(out, self.length);
        }
    }

    /// Takes one from the front of `bytes`; `None` if there is none.
    pub fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let [kind] = take(bytes)?;
        let kind = Kind::from_number(kind).filter(|kind| *kind != Kind::Gap)?;
        let place = Place::from_number(u64::from_le_bytes(take(bytes)?));
        let version = Version::from_bytes(take(bytes)?);
        let (checksum, length) = if kind == Kind::Tombstone {
            (Checksum::of(b""), 0)
        } else {
            (Checksum(u64::from_le_bytes(take(bytes)?)), take_number(bytes)?)
        };
        Some(Self { place, kind, version, length, checksum })
    }
}

/// Takes so many bytes from the front.
pub fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// Appends a number, seven bits to a byte, the low ones first; the high bit says that more follow.
pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number as [`put_number`] wrote it.
pub fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let [byte] = take(bytes)?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(number in prop_oneof![any::<u64>(), 0_u64..300, Just(u64::MAX)]) {
            let mut bytes = Vec::new();
            put_number(&mut bytes, number);
            let mut rest = bytes.as_slice();
            prop_assert_eq!((take_number(&mut rest), rest.len()), (Some(number), 0));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut rest = bytes.as_slice();
            if let Some(entry) = KeyEntry::decode(&mut rest) {
                prop_assert!(entry.kind != Kind::Gap && rest.len() <= bytes.len() - 25);
            }
        }
    }
}
