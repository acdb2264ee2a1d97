//! Which of two writes of one key is newer: a ULID given by the coordinator. The greater version wins,
//! everywhere and always.

use std::{fmt, str::FromStr};

use ulid::Ulid;

/// A write's version: 128 bits, the first 48 of them milliseconds since 1970. As text 26 characters that sort
/// like the numbers (the ULID specification).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(Ulid);

/// A text that is no ULID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version: 26 characters of a ULID are expected")]
pub struct VersionError(String);

impl Version {
    /// The version with these 16 bytes, big-endian, as records on disk keep it.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Ulid::from(u128::from_be_bytes(bytes)))
    }

    /// The 16 bytes, big-endian: they compare like the versions.
    pub fn to_bytes(self) -> [u8; 16] {
        u128::from(self.0).to_be_bytes()
    }

    /// A version of that millisecond with these low 80 bits; the rest of `random` is ignored.
    pub fn from_parts(unix_ms: u64, random: u128) -> Self {
        Self(Ulid::from((u128::from(unix_ms) << 80) | (random & ((1 << 80) - 1))))
    }

    /// When the version was given, in milliseconds since 1970.
    pub fn unix_ms(self) -> u64 {
        (u128::from(self.0) >> 80) as u64
    }

    /// The version that is greater than this one by 1 and `random`; `None` beyond the greatest.
    pub fn after(self, random: u64) -> Option<Self> {
        u128::from(self.0).checked_add(1 + u128::from(random)).map(|n| Self(Ulid::from(n)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.array_to_str(&mut [0; ulid::ULID_LEN]))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Version {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Self, VersionError> {
        Ulid::from_string(text).map(Self).map_err(|_| VersionError(text.chars().take(40).collect()))
    }
}

super::text::stands_as_text!(Version);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_sort_like_the_versions() {
        let old = Version::from_parts(1_000, 7);
        let new = Version::from_parts(1_001, 0);
        assert!(old < new && old.to_bytes() < new.to_bytes() && old.to_string() < new.to_string());
        assert!(old < old.after(0).unwrap());
        assert_eq!(old.unix_ms(), 1_000);
        assert_eq!(old.to_string().parse::<Version>().unwrap(), old);
        assert_eq!(Version::from_bytes(old.to_bytes()), old);
        assert!("not-a-ulid".parse::<Version>().is_err());
        assert!("".parse::<Version>().is_err());
    }
}
