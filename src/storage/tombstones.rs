//! Which tombstones nobody needs any more: their age has passed, and no volume before theirs has a record of their key,
//! which the next start would bring back. Found by a walk over the heads of all records, now and then.

use std::collections::{HashMap, HashSet};

use super::{
    index::Place,
    record::{Head, Kind},
    rewrite::{GoOn, Stop, failed},
    scan::{Scan, Step},
    shared::Shared,
    volume::{SUPERBLOCK_BYTES, Volume},
};
use crate::daemon::unix_ms;

/// Looked for at once: some 50 MB of memory while the walk goes on. Others are found by the next walk.
const MAX_FOUND: usize = 1 << 20;
/// A walk is worth it when of so many records in the index one is a tombstone.
const ONE_IN: u64 = 10;

/// Tombstones that go with their volume, as soon as that is rewritten.
#[derive(Debug, Default)]
pub struct Needless(HashMap<u32, InVolume>);

#[derive(Debug, Default)]
struct InVolume {
    offsets: HashSet<u64>,
    bytes: u64,
}

impl Needless {
    /// Whether that tombstone is one.
    pub fn has(&self, place: Place) -> bool {
        self.0.get(&place.volume()).is_some_and(|volume| volume.offsets.contains(&place.offset()))
    }

    /// Bytes of those in a volume.
    pub fn bytes_in(&self, volume: u32) -> u64 {
        self.0.get(&volume).map_or(0, |volume| volume.bytes)
    }

    /// Their volume is gone.
    pub fn forget(&mut self, volume: u32) {
        self.0.remove(&volume);
    }

    fn add(&mut self, Found { place, bytes }: Found) {
        let volume = self.0.entry(place.volume()).or_default();
        volume.offsets.insert(place.offset());
        volume.bytes += bytes;
    }
}

struct Found {
    place: Place,
    bytes: u64,
}

/// Whether there are so many tombstones that looking for needless ones is worth it.
pub fn worth_it(shared: &Shared) -> bool {
    let numbers = shared.totals.numbers();
    numbers.tombstones > 0 && numbers.tombstones * ONE_IN >= numbers.blobs + numbers.tombstones
}

/// Finds needless tombstones, and remembers them for the compaction of their volumes; `false` if it was stopped before.
pub fn search(shared: &Shared, go_on: GoOn<'_>) -> bool {
    match find(shared, go_on) {
        Ok(needless) => *shared.compaction.needless.lock() = needless,
        Err(Stop::Asked) => return false,
        Err(Stop::LeaveAlone(reason)) => tracing::warn!(reason, "no tombstones are given up"),
    }
    true
}

/// Finds needless tombstones in all volumes but the last. What is found stays true: records of a key stand in the order
/// of their versions, so none that is older comes to lie before a tombstone, nor behind it while that is the newest.
pub fn find(shared: &Shared, go_on: GoOn<'_>) -> Result<Needless, Stop> {
    let until_ms = unix_ms().saturating_sub(shared.options.tombstone_age.as_millis() as u64);
    // By the hash of their key: another record of that hash keeps them, be it of that key or not.
    let mut found: HashMap<u64, Found> = HashMap::new();
    // From the last to the first, so that a tombstone is met before what it deleted.
    for volume in shared.volumes.all().iter().rev().skip(1) {
        // What it deleted in its own volume goes with it.
        let mut here = Vec::new();
        let mut scan = Scan::new(volume, SUPERBLOCK_BYTES, volume.end());
        while let Some(step) = scan.next().map_err(failed("read it"))? {
            let paid = match step {
                Step::Record { offset, head } => {
                    let hash = shared.hash(head.key);
                    found.remove(&hash);
                    if found.len() + here.len() < MAX_FOUND && is_old(&head, until_ms) {
                        here.extend(newest(shared, volume, offset, hash, &head));
                    }
                    head.length() as u64
                }
                Step::Damaged { start, end } => {
                    // It may hold a record of any key.
                    found.clear();
                    end - start
                }
            };
            if !go_on(paid) {
                return Err(Stop::Asked);
            }
        }
        found.extend(here);
    }
    let mut needless = Needless::default();
    found.into_values().for_each(|found| needless.add(found));
    Ok(needless)
}

fn is_old(head: &Head<'_>, until_ms: u64) -> bool {
    head.kind == Kind::Tombstone && head.version.unix_ms() < until_ms
}

fn newest(shared: &Shared, volume: &Volume, offset: u64, hash: u64, head: &Head<'_>) -> Option<(u64, Found)> {
    let place = Place::new(volume.number, offset);
    shared.index.holds(hash, place).then(|| (hash, Found { place, bytes: head.record_length() }))
}
