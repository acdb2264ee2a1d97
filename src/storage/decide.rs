//! Which of two writes of one key stays. Pure.

use super::{Before, record::Kind};
use crate::model::Version;

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Old {
    /// The write; `None` if its record cannot be read any more.
    pub version: Option<Version>,
    /// What it is.
    pub kind: Kind,
    /// Bytes of the blob.
    pub length: u64,
    /// Its bytes are known not to match their checksum.
    pub damaged: bool,
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It changes nothing: that version or a newer one is there.
    Newer(Version),
    /// It replaces what is there.
    Write(Before),
}

/// The greater version stays, a tombstone before a blob of the same version, and anything before what cannot be read.
pub fn decide(version: Version, kind: Kind, old: Option<&Old>) -> Verdict {
    let Some(old) = old else { return Verdict::Write(Before::Nothing) };
    let tombstone = |kind| kind == Kind::Tombstone;
    if let Some(held) = old.version {
        let repairs = old.damaged && version == held && !tombstone(old.kind);
        if !repairs && (version, tombstone(kind)) <= (held, tombstone(old.kind)) {
            return Verdict::Newer(held);
        }
    }
    Verdict::Write(if tombstone(old.kind) {
        Before::OlderTombstone
    } else {
        Before::Older { length: old.length }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        let version = |n| Version::from_parts(n, 0);
        let held = |kind, damaged| Old { version: Some(version(5)), kind, length: 7, damaged };
        let older = Verdict::Write(Before::Older { length: 7 });
        let over_tombstone = Verdict::Write(Before::OlderTombstone);
        let newer = Verdict::Newer(version(5));
        for (n, kind, old, verdict) in [
            (4, Kind::Blob, held(Kind::Blob, false), newer),
            (5, Kind::Blob, held(Kind::Blob, false), newer),
            (6, Kind::File, held(Kind::Blob, false), older),
            (4, Kind::Tombstone, held(Kind::File, false), newer),
            (5, Kind::Tombstone, held(Kind::File, false), older),
            (5, Kind::Blob, held(Kind::Tombstone, false), newer),
            (5, Kind::Tombstone, held(Kind::Tombstone, false), newer),
            (6, Kind::Blob, held(Kind::Tombstone, false), over_tombstone),
            (6, Kind::Tombstone, held(Kind::Tombstone, false), over_tombstone),
            (4, Kind::Blob, held(Kind::Blob, true), newer),
            (5, Kind::Blob, held(Kind::Blob, true), older),
            (5, Kind::Tombstone, held(Kind::Blob, true), older),
            (1, Kind::Blob, Old { version: None, ..held(Kind::Blob, true) }, older),
        ] {
            assert_eq!(decide(version(n), kind, Some(&old)), verdict, "{n} {kind:?} {old:?}");
        }
        assert_eq!(decide(version(1), Kind::Tombstone, None), Verdict::Write(Before::Nothing));
    }
}
