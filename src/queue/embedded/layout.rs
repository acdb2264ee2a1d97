//! Where things stand in the embedded store. Numbers in keys are eight bytes, big-endian, so that keys sort like numbers;
//! a target's name has no slash, so it ends where the next part begins.
//!
//! | key | value |
//! |---|---|
//! | `queue/next` | the next entry's number |
//! | `queue/count/<target>` | ready, delayed, claimed, dead; the empty target counts poison |
//! | `queue/paused/<target>` | nothing |
//! | `queue/ready/<target>/<number>` | entry |
//! | `queue/delayed/<target>/<due ms><number>` | entry |
//! | `queue/waits/<target>/<hash of the task>` | due and number of the delayed entry |
//! | `queue/claimed/<target>/<number>` | end of the lease in ms, entry |
//! | `queue/lease/<end ms><number>` | target |
//! | `queue/letter/<id>` | when it died in ms, dead letter as JSON |
//! | `queue/dead/<died ms><id>` | nothing |
//!
//! An entry is its attempts (four bytes, big-endian) and the task as JSON.

use xxhash_rust::xxh3::xxh3_128;

use crate::queue::Stage;

pub(super) const NEXT: &[u8] = b"queue/next";
pub(super) const COUNTS: &str = "queue/count/";
pub(super) const PAUSED: &str = "queue/paused/";
pub(super) const LEASES: &[u8] = b"queue/lease/";
pub(super) const DEAD: &[u8] = b"queue/dead/";

/// `queue/ready/<target>/`, `queue/delayed/<target>/` or `queue/claimed/<target>/`.
pub(super) fn stage(stage: Stage, target: &str) -> Vec<u8> {
    format!("queue/{}/{target}/", stage.name()).into_bytes()
}

/// A prefix with numbers behind it.
pub(super) fn with(prefix: impl Into<Vec<u8>>, numbers: &[u64]) -> Vec<u8> {
    let mut key = prefix.into();
    for number in numbers {
        key.extend(number.to_be_bytes());
    }
    key
}

/// The number `place` numbers before the key's end: 0 is the last one.
pub(super) fn number_at(key: &[u8], place: usize) -> u64 {
    let end = key.len().saturating_sub(place * 8);
    key.get(end.saturating_sub(8)..end).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// Where a delayed task is found by what it is.
pub(super) fn waits(target: &str, task: &[u8]) -> Vec<u8> {
    format!("queue/waits/{target}/{:032x}", xxh3_128(task)).into_bytes()
}

pub(super) fn letter(id: &str) -> Vec<u8> {
    format!("queue/letter/{id}").into_bytes()
}

pub(super) fn dead(died_ms: u64, id: &str) -> Vec<u8> {
    [with(DEAD, &[died_ms]).as_slice(), id.as_bytes()].concat()
}

/// The letter's id in a key made by [`dead`].
pub(super) fn dead_id(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(DEAD.len() + 8..).unwrap_or_default()).into_owned()
}

/// What stands in the queue. `task` need not be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) attempts: u32,
    pub(super) task: Vec<u8>,
}

impl Entry {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        [self.attempts.to_be_bytes().as_slice(), &self.task].concat()
    }

    /// Bytes too short for an entry are one whose task is no task.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        match bytes.split_first_chunk() {
            Some((attempts, task)) => Self { attempts: u32::from_be_bytes(*attempts), task: task.to_vec() },
            None => Self { attempts: 0, task: bytes.to_vec() },
        }
    }
}

/// How many of each, as `queue/count/<target>` keeps them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) ready: u64,
    pub(super) delayed: u64,
    pub(super) claimed: u64,
    pub(super) dead: u64,
}

impl Counts {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        with([], &[self.ready, self.delayed, self.claimed, self.dead])
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            ready: number_at(bytes, 3),
            delayed: number_at(bytes, 2),
            claimed: number_at(bytes, 1),
            dead: number_at(bytes, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_like_their_numbers_and_give_them_back() {
        let prefix = || stage(Stage::Delayed, "4");
        let key = with(prefix(), &[255, 7]);
        assert!(key < with(prefix(), &[256, 0]) && key > with(prefix(), &[255, 6]));
        assert_eq!((number_at(&key, 1), number_at(&key, 0)), (255, 7));
        assert!(!with(stage(Stage::Ready, "44"), &[0]).starts_with(&stage(Stage::Ready, "4")));
        assert_eq!(dead_id(&dead(9, "abc")), "abc");
    }

    #[test]
    fn entries_and_counts_come_back() {
        let entry = Entry { attempts: 3, task: b"{}".to_vec() };
        assert_eq!(Entry::from_bytes(&entry.to_bytes()), entry);
        assert_eq!(Entry::from_bytes(b"abc").task, b"abc");
        let counts = Counts { ready: 1, delayed: 2, claimed: 3, dead: 4 };
        assert_eq!(Counts::from_bytes(&counts.to_bytes()), counts);
        assert_eq!(Counts::from_bytes(b""), Counts::default());
    }
}
