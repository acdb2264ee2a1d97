//! How far the scrub is, and how that and what is known to be damaged outlives the process: the file `SCRUB`.

use serde::{Deserialize, Serialize};

use super::{damage::Record, index::Place};
use crate::model::Checksum;

/// Of the file. Another one is not read: a round begins anew.
const FORMAT_VERSION: u32 = 1;
/// Hexadecimal digits and a newline.
const SUM_BYTES: usize = 17;

/// What is verified next. Everything before it is done: first all volumes in the order of their numbers, then the files of
/// blobs in the order of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cursor {
    /// A volume, from an offset on where a record begins; 0 is its superblock.
    Volume {
        /// Its number, or that of one before the next that is there.
        number: u32,
        /// Where.
        offset: u64,
    },
    /// The file with that id, or the next greater one.
    File {
        /// The id.
        id: u64,
    },
}

/// A round that is not at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// When it began, milliseconds since 1970.
    pub began_ms: u64,
    /// Someone asked for it, and waits for it.
    pub in_haste: bool,
    /// The last volume, and where that ended when the round began or the engine was started: what came later is for the next
    /// round.
    pub last: (u32, u64),
    /// What is next.
    pub next: Cursor,
    /// Bytes of volumes and files that it went over.
    pub verified_bytes: u64,
    /// Damaged records and superblocks that it met.
    pub found: u64,
}

/// A round that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When it began, milliseconds since 1970.
    pub began_ms: u64,
    /// When it ended.
    pub ended_ms: u64,
    /// Bytes that it went over: all there were.
    pub verified_bytes: u64,
    /// Damaged records and superblocks that it met.
    pub found: u64,
}

/// How far the scrub is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The round that is going on.
    pub round: Option<Round>,
    /// The one before it.
    pub ended: Option<Ended>,
}

/// What is kept.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    version: u32,
    /// How far it is.
    pub progress: Progress,
    /// Damaged records, by the numbers of their places.
    pub damaged: Vec<(u64, Record)>,
}

impl Saved {
    /// What is to be kept.
    pub fn new(progress: Progress, damaged: Vec<(Place, Record)>) -> Self {
        let damaged = damaged.into_iter().map(|(place, record)| (place.to_number(), record)).collect();
        Self { version: FORMAT_VERSION, progress, damaged }
    }

    /// A line of JSON and a line with its CRC-64/NVME.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        let sum = Checksum::of(&bytes).0;
        bytes.extend_from_slice(format!("{sum:016x}\n").as_bytes());
        Ok(bytes)
    }

    /// What was kept; `None` if it is not what [`Saved::encode`] gave.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (text, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM_BYTES)?)?;
        if sum != format!("{:016x}\n", Checksum::of(text).0).as_bytes() {
            return None;
        }
        let saved: Self = serde_json::from_slice(text).ok()?;
        (saved.version == FORMAT_VERSION).then_some(saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::verify::Wrong;

    #[test]
    fn it_comes_back_and_every_flip_and_cut_is_found() {
        let next = Cursor::Volume { number: 3, offset: 64 };
        let round =
            Round { began_ms: 5, in_haste: true, last: (9, u64::MAX), next, verified_bytes: 7, found: 1 };
        let ended = Ended { began_ms: 1, ended_ms: 2, verified_bytes: u64::MAX, found: 0 };
        let record = Record { hash: u64::MAX, wrong: Wrong::FileGone, found_ms: 8 };
        let progress = Progress { round: Some(round), ended: Some(ended) };
        let saved = Saved::new(progress, vec![(Place::new(Place::MAX_VOLUME, 77), record)]);
        let bytes = saved.encode().unwrap();
        assert_eq!(Saved::decode(&bytes), Some(saved));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert_eq!(Saved::decode(&flipped), None, "byte {at}");
            assert_eq!(Saved::decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
