//! What a range of keys holds, in a few bytes, so that servers can be compared without moving what they hold.
//!
//! Where a range ends the keys themselves say: each key that hashes to a multiple of [`MEAN_KEYS`] ends one. So two servers that
//! hold the same cut it into the same ranges without having spoken to each other, and a key that one of them lacks changes one
//! range, or two. A range's digest is a sum: those of neighbouring ranges add up to that of both.

use std::{
    fmt,
    ops::{Add, AddAssign},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::{Key, Listed};

/// Keys in a range, on average: a hundred bytes of answer stand for as many keys, and one difference has as many listed.
pub const MEAN_KEYS: u64 = 128;

/// The sum, modulo 2^128, of a hash (XXH3-128) of each key with its version, checksum and whether it was deleted. Finds what
/// differs by accident; whoever can choose keys and versions at will could make two sums equal.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest(u128);

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 32 hexadecimal digits")]
pub struct DigestError;

impl Digest {
    /// Of one key.
    pub fn of(listed: &Listed) -> Self {
        let key = listed.key.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(key.len() + 26);
        bytes.extend_from_slice(key);
        // No byte of a key: what follows is never taken for a part of it.
        bytes.push(0xff);
        bytes.extend_from_slice(&listed.version.to_bytes());
        bytes.push(u8::from(listed.deleted));
        bytes.extend_from_slice(&listed.checksum.map_or(0, |checksum| checksum.0).to_le_bytes());
        Self(xxh3_128(&bytes))
    }
}

impl AddAssign for Digest {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

impl Add for Digest {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digits = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(Self).ok_or(DigestError)
    }
}

super::text::stands_as_text!(Digest);

/// A range of keys, as `GET /-/digest` answers it: it begins behind the one before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    /// Its last key; none in the range behind which there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Key>,
    /// Keys in it, deleted ones that count included.
    pub keys: u64,
    /// Their digest.
    pub digest: Digest,
}

/// Cuts keys, which come in order, into ranges.
#[derive(Debug)]
pub struct Cutter {
    deletes_since_ms: u64,
    open: KeyRange,
}

impl Cutter {
    /// Deletes made before that (milliseconds since 1970) are left out, as if the server had never heard of them: those a
    /// server may forget at any time.
    pub fn new(deletes_since_ms: u64) -> Self {
        Self { deletes_since_ms, open: KeyRange::default() }
    }

    /// Takes the next key. Gives the range that it ends, if it does.
    pub fn take(&mut self, listed: &Listed) -> Option<KeyRange> {
        if listed.deleted && listed.version.unix_ms() < self.deletes_since_ms {
            return None;
        }
        self.open.keys += 1;
        self.open.digest += Digest::of(listed);
        let is_last = xxh3_64(listed.key.as_str().as_bytes()).is_multiple_of(MEAN_KEYS);
        is_last.then(|| self.cut(Some(listed.key.clone())))
    }

    /// Ends the range that is open, with that key or with the last key of all.
    pub fn cut(&mut self, until: Option<Key>) -> KeyRange {
        KeyRange { until, ..std::mem::take(&mut self.open) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Checksum, Version};

    fn listed(key: u32, version: u64) -> Listed {
        Listed {
            key: format!("{key:08}").parse().unwrap(),
            version: Version::from_parts(version, 7),
            length: 5,
            checksum: Some(Checksum(9)),
            deleted: false,
        }
    }

    fn cut(keys: &[Listed]) -> Vec<KeyRange> {
        let mut cutter = Cutter::new(0);
        let mut ranges: Vec<_> = keys.iter().filter_map(|key| cutter.take(key)).collect();
        ranges.push(cutter.cut(None));
        ranges
    }

    #[test]
    fn everything_that_matters_changes_the_digest() {
        let base = listed(1, 1);
        let all = [
            base.clone(),
            listed(2, 1),
            listed(1, 2),
            Listed { checksum: Some(Checksum(8)), ..base.clone() },
            Listed { checksum: None, deleted: true, ..base.clone() },
        ];
        let digests = all.each_ref().map(Digest::of);
        for (at, digest) in digests.iter().enumerate() {
            assert!(digests[at + 1..].iter().all(|other| other != digest), "{at}");
        }
        assert_eq!(
            Digest::of(&Listed { length: 6, ..base }),
            digests[0],
            "two blobs of one checksum are one blob"
        );
    }

    #[test]
    fn text_and_back() {
        let digest = Digest::of(&listed(1, 1));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for bad in ["", "0", "+0000000000000000000000000000001", "0000000000000000000000000000000g"] {
            assert_eq!(bad.parse::<Digest>(), Err(DigestError), "{bad}");
        }
        let last = serde_json::to_string(&KeyRange::default()).unwrap();
        assert_eq!(last, r#"{"keys":0,"digest":"00000000000000000000000000000000"}"#);
    }

    #[test]
    fn ranges_are_about_as_long_as_they_should_be() {
        let ranges = cut(&(0..100_000).map(|key| listed(key, 1)).collect::<Vec<_>>());
        assert!((600..1000).contains(&ranges.len()), "{} ranges of 100,000 keys", ranges.len());
        assert_eq!(ranges.iter().map(|range| range.keys).sum::<u64>(), 100_000);
    }

    #[test]
    fn forgotten_deletes_leave_no_trace() {
        let deleted = |key| Listed { checksum: None, deleted: true, ..listed(key, 10) };
        let with: Vec<_> =
            (0..1000).map(|key| if key % 3 == 0 { deleted(key) } else { listed(key, 10) }).collect();
        let without: Vec<_> = with.iter().filter(|listed| !listed.deleted).cloned().collect();
        let mut cutter = Cutter::new(11);
        let mut ranges: Vec<_> = with.iter().filter_map(|key| cutter.take(key)).collect();
        ranges.push(cutter.cut(None));
        assert_eq!(ranges, cut(&without));
        assert_ne!(ranges, cut(&with));
    }

    proptest! {
        /// One key more or less changes the ranges around it and no other.
        #[test]
        fn a_difference_stays_where_it_is(count in 300_u32..2000, missing in 0_u32..2000) {
            let all: Vec<_> = (0..count).map(|key| listed(key, 1)).collect();
            let missing = missing % count;
            let fewer: Vec<_> = all.iter().filter(|key| **key != listed(missing, 1)).cloned().collect();
            let (all, fewer) = (cut(&all), cut(&fewer));
            let changed = all.iter().filter(|range| !fewer.contains(range)).count();
            prop_assert!((1..=2).contains(&changed), "{} ranges changed", changed);
            let sum = |ranges: &[KeyRange]| ranges.iter().fold(Digest::default(), |sum, range| sum + range.digest);
            prop_assert_eq!(sum(&fewer) + Digest::of(&listed(missing, 1)), sum(&all));
        }
    }
}
