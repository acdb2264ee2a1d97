//! Which tombstones nobody needs any more: their age has passed, no other server needs them, and no volume before theirs has a record of their key,
//! which the next start would bring back. Found by a walk over the heads of all records, now and then.
//!
//! The walk goes from the first volume to the last, and remembers which keys it met in a filter of bits. A key that the
//! filter does not know was surely not met. Of those it knows a few were not met either: their tombstones stay until a
//! later walk, which errs elsewhere.

use std::{collections::HashMap, sync::atomic::Ordering};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    compact::is_worth_it,
    index::Place,
    record::{Head, Kind},
    rewrite::{GoOn, Stop, failed},
    scan::{Scan, Step},
    shared::Shared,
    volume::{SUPERBLOCK_BYTES, Volume},
};
use crate::daemon::unix_ms;

/// A walk ends behind the volume that brings it to so many: they take 8 bytes each until their volumes are rewritten.
const MAX_FOUND: usize = 1 << 20;
/// A walk is worth it when of so many records in the index one is a tombstone.
const ONE_IN: u64 = 10;
/// Bits of the filter for a record in the index, of which a key sets [`PROBES`]: 2 to 7 in 100 keys are taken for others.
const BITS: u64 = 8;
const PROBES: u64 = 4;
const LEAST_BITS: u64 = 1 << 20;
/// Hashes that are kept until their volume was walked through: 8 MB.
const MAX_PENDING: usize = 1 << 20;

/// Tombstones that go with their volume, as soon as that is rewritten.
#[derive(Debug, Default)]
pub struct Needless {
    volumes: HashMap<u32, InVolume>,
    /// There may be more: look again when the volumes of these were rewritten.
    pub is_cut: bool,
}

#[derive(Debug, Default)]
struct InVolume {
    /// Ascending.
    offsets: Vec<u64>,
    bytes: u64,
}

impl Needless {
    /// Whether that tombstone is one.
    pub fn has(&self, place: Place) -> bool {
        let volume = self.volumes.get(&place.volume());
        volume.is_some_and(|volume| volume.offsets.binary_search(&place.offset()).is_ok())
    }

    /// Bytes of those in a volume.
    pub fn bytes_in(&self, volume: u32) -> u64 {
        self.volumes.get(&volume).map_or(0, |volume| volume.bytes)
    }

    /// Their volume is gone.
    pub fn forget(&mut self, volume: u32) {
        self.volumes.remove(&volume);
    }

    fn count(&self) -> usize {
        self.volumes.values().map(|volume| volume.offsets.len()).sum()
    }
}

/// Keys that were met.
struct Met {
    bits: Vec<u64>,
    /// Of this walk, so that no two walks take the same keys for others.
    salt: u64,
    /// Hashes of keys of the volume that is walked through: they count from the next one on.
    pending: Vec<u64>,
}

impl Met {
    /// Nothing yet, with room for the keys of so many records.
    fn new(records: u64) -> Self {
        let bits = records.saturating_mul(BITS).max(LEAST_BITS).next_power_of_two();
        Self { bits: vec![0; (bits / 64) as usize], salt: fastrand::u64(..), pending: Vec::new() }
    }

    fn bits_of(&self, hash: u64) -> impl Iterator<Item = (usize, u64)> + use<> {
        let (salted, last) =
            (xxh3_64_with_seed(&hash.to_le_bytes(), self.salt), self.bits.len() as u64 * 64 - 1);
        let step = salted.rotate_left(32) | 1;
        (0..PROBES).map(move |n| {
            let bit = salted.wrapping_add(n.wrapping_mul(step)) & last;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    /// Whether it may be.
    fn has(&self, hash: u64) -> bool {
        self.bits_of(hash).all(|(at, bit)| self.bits[at] & bit != 0)
    }

    fn add(&mut self, hash: u64) {
        self.pending.push(hash);
        if self.pending.len() >= MAX_PENDING {
            self.end_volume();
        }
    }

    fn end_volume(&mut self) {
        for hash in std::mem::take(&mut self.pending) {
            self.bits_of(hash).for_each(|(at, bit)| self.bits[at] |= bit);
        }
    }
}

/// Whether there are so many tombstones that looking for needless ones is worth it.
pub fn worth_it(shared: &Shared) -> bool {
    let numbers = shared.totals.numbers();
    numbers.tombstones > 0 && numbers.tombstones * ONE_IN >= numbers.blobs + numbers.tombstones
}

/// Finds needless tombstones, and remembers them for the compaction of their volumes; `false` if it was stopped before.
pub fn search(shared: &Shared, go_on: GoOn<'_>) -> bool {
    match find(shared, MAX_FOUND, go_on) {
        Ok(needless) => *shared.compaction.needless.lock() = needless,
        Err(Stop::Asked) => return false,
        Err(Stop::LeaveAlone(reason)) => tracing::warn!(reason, "no tombstones are given up"),
    }
    true
}

/// Finds needless tombstones in all volumes but the last that are worth rewriting with them; ends behind the volume that
/// brings them to `most`. What is found stays true: records of a key stand in the order of their versions, so none that is
/// older comes to lie before a tombstone, nor behind it while that is the newest.
pub fn find(shared: &Shared, most: usize, go_on: GoOn<'_>) -> Result<Needless, Stop> {
    let old_ms = unix_ms().saturating_sub(shared.options.tombstone_age.as_millis() as u64);
    let until_ms = old_ms.min(shared.settled_ms.load(Ordering::Relaxed));
    let numbers = shared.totals.numbers();
    let mut met = Met::new(numbers.blobs + numbers.tombstones);
    let mut needless = Needless::default();
    let mut volumes = shared.volumes.all();
    volumes.pop();
    for volume in volumes {
        let mut here = InVolume::default();
        let mut scan = Scan::new(&volume, SUPERBLOCK_BYTES, volume.end());
        while let Some(step) = scan.next().map_err(failed("read it"))? {
            // A stretch without records may hold one of any key: whatever was deleted behind it stays so.
            let Step::Record { offset, head } = step else { return Ok(needless) };
            let hash = shared.hash(head.key);
            if is_old(&head, until_ms) && !met.has(hash) && is_newest(shared, &volume, offset, hash) {
                here.offsets.push(offset);
                here.bytes += head.record_length();
            }
            // What a tombstone deleted in its own volume goes with it.
            met.add(hash);
            if !go_on(head.length() as u64) {
                return Err(Stop::Asked);
            }
        }
        met.end_volume();
        // Others would fill the room and never go.
        if here.bytes > 0 && is_worth_it(shared, &volume, here.bytes) {
            needless.volumes.insert(volume.number, here);
        }
        if needless.count() >= most {
            needless.is_cut = true;
            break;
        }
    }
    Ok(needless)
}

fn is_old(head: &Head<'_>, until_ms: u64) -> bool {
    head.kind == Kind::Tombstone && head.version.unix_ms() < until_ms
}

fn is_newest(shared: &Shared, volume: &Volume, offset: u64, hash: u64) -> bool {
    shared.index.holds(hash, Place::new(volume.number, offset))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::storage::{
        Engine, Options, Storage,
        compact_tests::{SMALL, block_on, compact, delete, options, put},
    };

    #[test]
    fn keys_that_were_met_are_known_and_few_others() {
        let mut met = Met::new(200_000);
        let mut random = fastrand::Rng::with_seed(1);
        let all: Vec<u64> = (0..200_000).map(|_| random.u64(..)).collect();
        all.iter().for_each(|hash| met.add(*hash));
        assert!(!met.has(all[0]), "not before its volume is done");
        met.end_volume();
        assert!(all.iter().all(|hash| met.has(*hash)));
        let wrong = (0..100_000).filter(|_| met.has(random.u64(..))).count();
        assert!((1..7_000).contains(&wrong), "{wrong} in 100,000");
    }

    #[test]
    fn old_ones_go_however_many_there_are_in_newer_volumes_that_are_not_worth_it() {
        block_on(async {
            let home = tempfile::tempdir().unwrap();
            let options = Options { tombstone_age: Duration::ZERO, compact_dead_ratio: 0.3, ..options() };
            let engine = Engine::open(home.path(), options).unwrap();
            // Nearly half of the first volume is tombstones, of each of those behind it a few hundredths.
            for n in 0..700 {
                delete(&engine, &format!("old/{n}"), 1).await.unwrap();
            }
            for n in 0..5 {
                put(&engine, &format!("first/{n}"), 1, SMALL as usize).await.unwrap();
            }
            for volume in 0..6 {
                for n in 0..100 {
                    delete(&engine, &format!("new/{volume}/{n}"), 1).await.unwrap();
                }
                for n in 0..8 {
                    put(&engine, &format!("behind/{volume}/{n}"), 1, SMALL as usize).await.unwrap();
                }
            }
            let shared = engine.shared.clone();
            let find = move || {
                let needless = find(&shared, 200, &mut |_| true).unwrap();
                let found = (needless.bytes_in(1) > 0, needless.volumes.len(), needless.is_cut);
                *shared.compaction.needless.lock() = needless;
                found
            };
            let found = tokio::task::spawn_blocking(find).await.unwrap();
            assert_eq!(found, (true, 1, true), "of the first volume, and that is enough for now");
            let before = engine.usage().tombstones;
            compact(&engine).await;
            let gone = before - engine.usage().tombstones;
            assert!((700..800).contains(&gone), "{gone}: with a few others of that volume");
        });
    }

    #[test]
    fn those_that_another_server_may_need_stay_until_it_is_said_that_none_does() {
        block_on(async {
            let home = tempfile::tempdir().unwrap();
            let options = Options {
                tombstone_age: Duration::ZERO,
                tombstones_wait: true,
                compact_dead_ratio: 0.05,
                ..options()
            };
            let engine = Engine::open(home.path(), options).unwrap();
            for n in 0..700 {
                delete(&engine, &format!("old/{n}"), 1).await.unwrap();
            }
            for n in 1..20 {
                put(&engine, "filler", n, SMALL as usize).await.unwrap();
            }
            assert!(engine.shared.volumes.all().len() > 1);
            let finds = || find(&engine.shared, usize::MAX, &mut |_| true).unwrap().count() > 0;
            assert!(!finds(), "nobody said anything yet");
            engine.settle_deletes(unix_ms());
            assert!(finds());
            engine.settle_deletes(0);
            assert!(finds(), "what was settled stays so");
        });
    }
}
