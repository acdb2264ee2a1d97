//! What was found damaged and is not yet replaced: records, and stretches of volumes where no record can be read.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::{
    StorageError,
    index::{Index, MAX_OFFSET, Place},
    verify::Wrong,
    volume::SUPERBLOCK_BYTES,
};
use crate::daemon::unix_ms;

/// Damaged records that are remembered: some 10 MB. Of a disk that lost more, others are found again when some of these
/// were replaced: by reads, or by the next round of the scrub.
const MOST_RECORDS: usize = 100_000;

/// Stretches of one volume that are told apart.
const MOST_STRETCHES: usize = 1000;

/// Damage that was found.
#[derive(Debug, Default)]
pub struct Damage {
    known: RwLock<Known>,
    /// There is some: spares reads of sound storages the lock.
    is_any: AtomicBool,
    /// Grows with every change.
    changes: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    records: BTreeMap<Place, Record>,
    /// By their first byte; none overlaps another.
    stretches: BTreeMap<Place, Stretch>,
}

impl Known {
    /// Of a volume with very many of them the stretches become one, from the first to the last.
    fn join_if_many(&mut self, volume: u32) {
        let of_volume = Place::new(volume, SUPERBLOCK_BYTES)..Place::new(volume, MAX_OFFSET);
        let all: Vec<_> = self.stretches.range(of_volume).map(|(place, all)| (*place, *all)).collect();
        if let [(first, stretch), .., (_, last)] = &all[..]
            && all.len() > MOST_STRETCHES
        {
            for (place, _) in &all {
                self.stretches.remove(place);
            }
            self.stretches.insert(*first, Stretch { end: last.end, is_settled: false, ..*stretch });
        }
    }
}

/// A damaged record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The hash of its key, as far as the index keeps it: it tells whether the record is still the newest of its key.
    pub hash: u64,
    /// What is wrong.
    pub wrong: Wrong,
    /// When it was found, milliseconds since 1970.
    pub found_ms: u64,
}

/// A stretch of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Where it ends in the volume.
    pub end: u64,
    /// What is wrong: [`Wrong::NoRecord`] or [`Wrong::Superblock`].
    pub wrong: Wrong,
    /// When it was found, milliseconds since 1970.
    pub found_ms: u64,
    /// What it held was sought on the other servers of the shard: it is no damage any more, but may hold what no other has. Not
    /// saved: after a start it is sought again.
    pub is_settled: bool,
}

/// One piece of damage. A page of them begins behind one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// The directory, in the order in which they are given; 0 where there is one.
    pub disk: u32,
    /// Where it begins.
    pub place: Place,
    /// Where a stretch ends in its volume; 0 for a record.
    pub end: u64,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.disk, self.place.volume(), self.place.offset())?;
        if self.end > 0 { write!(f, "-{}", self.end) } else { Ok(()) }
    }
}

/// Why a text is no spot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a place of damage is disk/volume:offset or disk/volume:offset-end")]
pub struct SpotError;

impl FromStr for Spot {
    type Err = SpotError;

    fn from_str(text: &str) -> Result<Self, SpotError> {
        let (disk, rest) = text.split_once('/').ok_or(SpotError)?;
        let (volume, rest) = rest.split_once(':').ok_or(SpotError)?;
        let (offset, end) = rest.split_once('-').unwrap_or((rest, "0"));
        let volume = volume.parse().ok().filter(|volume| *volume <= Place::MAX_VOLUME).ok_or(SpotError)?;
        let offset = offset.parse().ok().filter(|offset| *offset <= MAX_OFFSET).ok_or(SpotError)?;
        let disk = disk.parse().map_err(|_| SpotError)?;
        Ok(Self { disk, place: Place::new(volume, offset), end: end.parse().map_err(|_| SpotError)? })
    }
}

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A record.
    Record(Record),
    /// A stretch of a volume.
    Stretch(Stretch),
}

impl Damage {
    /// Notes a damaged record, once, and gives the error for the reader.
    pub fn found(&self, hash: u64, place: Place, wrong: Wrong) -> StorageError {
        self.remember(place, Record { hash, wrong, found_ms: unix_ms() });
        StorageError::Damaged(format!("{place:?}: {wrong}"))
    }

    /// Notes a damaged record that was perhaps found before.
    pub fn remember(&self, place: Place, record: Record) {
        let mut known = self.known.write();
        let is_new = !known.records.contains_key(&place);
        if is_new && known.records.len() < MOST_RECORDS {
            tracing::error!(?place, what = %record.wrong, "damaged blob");
            known.records.insert(place, record);
            self.changed(&known);
        }
    }

    /// Notes a stretch of a volume that holds no record, or an unreadable superblock. Where it overlaps others they become
    /// one.
    pub fn found_stretch(&self, volume: u32, start: u64, end: u64, wrong: Wrong) {
        self.remember_stretch(
            Place::new(volume, start),
            Stretch { end, wrong, found_ms: unix_ms(), is_settled: false },
        );
    }

    /// As [`Damage::found_stretch`], of one that was perhaps found before.
    pub fn remember_stretch(&self, place: Place, mut stretch: Stretch) {
        let (volume, mut start) = (place.volume(), place.offset());
        let mut known = self.known.write();
        let behind = Place::new(volume, stretch.end.min(MAX_OFFSET));
        let overlaps = known.stretches.range(Place::new(volume, 0)..behind);
        let overlaps = overlaps.filter(|(_, other)| other.end > start);
        for place in overlaps.map(|(place, _)| *place).collect::<Vec<_>>() {
            if let Some(other) = known.stretches.remove(&place) {
                start = start.min(place.offset());
                stretch.end = stretch.end.max(other.end);
                stretch.found_ms = stretch.found_ms.min(other.found_ms);
            }
        }
        tracing::error!(volume, start, end = stretch.end, what = %stretch.wrong, "damaged stretch of a volume");
        known.stretches.insert(Place::new(volume, start), stretch);
        known.join_if_many(volume);
        self.changed(&known);
    }

    /// The record was read and is right after all.
    pub fn is_sound(&self, place: Place) {
        let mut known = self.known.write();
        if known.records.remove(&place).is_some() {
            tracing::warn!(?place, "a blob that was damaged can be read again");
            self.changed(&known);
        }
    }

    /// What that stretch of a volume held was sought elsewhere. One that grew since is not settled.
    pub fn settle_stretch(&self, place: Place, end: u64) {
        let mut known = self.known.write();
        let is_that = |stretch: &&mut Stretch| stretch.end == end && stretch.wrong == Wrong::NoRecord;
        if let Some(stretch) = known.stretches.get_mut(&place).filter(is_that) {
            tracing::warn!(
                ?place,
                end,
                "what a damaged stretch of a volume held was sought on other servers"
            );
            stretch.is_settled = true;
            self.changed(&known);
        }
    }

    /// The superblock of that volume is right again.
    pub fn superblock_is_sound(&self, volume: u32) {
        let mut known = self.known.write();
        let place = Place::new(volume, 0);
        if known.stretches.get(&place).is_some_and(|stretch| stretch.wrong == Wrong::Superblock) {
            known.stretches.remove(&place);
            self.changed(&known);
        }
    }

    /// Nothing of that volume is left.
    pub fn forget(&self, volume: u32) {
        let mut known = self.known.write();
        known.records.retain(|place, _| place.volume() != volume);
        known.stretches.retain(|place, _| place.volume() != volume);
        self.changed(&known);
    }

    /// Forgets records that are not the newest of their keys any more.
    pub fn prune(&self, index: &Index) {
        if self.any() {
            let mut known = self.known.write();
            let before = known.records.len();
            known.records.retain(|place, record| index.holds(record.hash, *place));
            if known.records.len() < before {
                self.changed(&known);
            }
        }
    }

    /// Whether that record is known to be damaged.
    pub fn is_known(&self, place: Place) -> bool {
        self.wrong(place).is_some()
    }

    /// What is known to be wrong with that record.
    pub fn wrong(&self, place: Place) -> Option<Wrong> {
        if self.any() { self.known.read().records.get(&place).map(|record| record.wrong) } else { None }
    }

    /// Whether in that part of a volume nobody knows whose records were there.
    pub fn hides_records(&self, volume: u32, start: u64, end: u64) -> bool {
        let known = self.known.read();
        let end = Place::new(volume, end.min(MAX_OFFSET));
        let mut part = known.stretches.range(Place::new(volume, 0)..end);
        part.any(|(_, stretch)| stretch.wrong == Wrong::NoRecord && stretch.end > start)
    }

    /// Stretches of which nobody knows whose records were there. If there are any, keys may have been lost from sight.
    pub fn stretches(&self) -> Vec<(Place, Stretch)> {
        let known = self.known.read();
        let hiding = known.stretches.iter().filter(|(_, stretch)| stretch.wrong == Wrong::NoRecord);
        hiding.map(|(place, stretch)| (*place, *stretch)).collect()
    }

    /// All damaged records.
    pub fn records(&self) -> Vec<(Place, Record)> {
        self.known.read().records.iter().map(|(place, record)| (*place, *record)).collect()
    }

    /// The first `limit` of all that is damaged behind `after`, in the order of volumes and offsets.
    pub fn page(&self, after: Option<Spot>, limit: usize) -> Vec<(Spot, Found)> {
        let known = self.known.read();
        let from = after.map_or(Place::new(0, 0), |after| after.place);
        let records = known.records.range(from..).take(limit.saturating_add(1));
        let spot = |place: &Place, end| Spot { disk: 0, place: *place, end };
        let records = records.map(|(place, record)| (spot(place, 0), Found::Record(*record)));
        let stretches = known.stretches.range(from..).filter(|(_, stretch)| !stretch.is_settled);
        let stretches = stretches.take(limit.saturating_add(1));
        let stretches =
            stretches.map(|(place, stretch)| (spot(place, stretch.end), Found::Stretch(*stretch)));
        let mut all: Vec<_> = records.chain(stretches).collect();
        all.sort_unstable_by_key(|(spot, _)| *spot);
        all.retain(|(spot, _)| after.is_none_or(|after| *spot > after));
        all.truncate(limit);
        all
    }

    /// Records and stretches together, without those that are settled.
    pub fn count(&self) -> u64 {
        let known = self.known.read();
        let stretches = known.stretches.values().filter(|stretch| !stretch.is_settled);
        (known.records.len() + stretches.count()) as u64
    }

    /// A number that is another one after every change.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn changed(&self, known: &Known) {
        let any = !known.records.is_empty() || !known.stretches.is_empty();
        self.is_any.store(any, Ordering::Release);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    fn any(&self) -> bool {
        self.is_any.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(damage: &Damage) -> Vec<(u32, u64, u64)> {
        let all = damage.stretches();
        all.iter().map(|(place, found)| (place.volume(), place.offset(), found.end)).collect()
    }

    #[test]
    fn a_stretch_is_counted_once_and_goes_with_its_volume() {
        let damage = Damage::default();
        for (volume, start, end) in
            [(1, 100, 200), (1, 100, 200), (1, 300, 400), (2, 100, 200), (1, 200, 210)]
        {
            damage.found_stretch(volume, start, end, Wrong::NoRecord);
        }
        assert_eq!(stretches(&damage), [(1, 100, 200), (1, 200, 210), (1, 300, 400), (2, 100, 200)]);
        damage.found_stretch(1, 150, 350, Wrong::NoRecord);
        assert_eq!(stretches(&damage), [(1, 100, 400), (2, 100, 200)]);
        assert!(damage.hides_records(1, 0, 101) && !damage.hides_records(1, 0, 100));
        assert!(damage.hides_records(1, 399, 500) && !damage.hides_records(1, 400, 500));
        damage.forget(1);
        assert_eq!((stretches(&damage), damage.count()), (vec![(2, 100, 200)], 1));
        for n in 0..2 * MOST_STRETCHES as u64 {
            damage.found_stretch(3, 100 + 10 * n, 105 + 10 * n, Wrong::NoRecord);
        }
        damage.forget(2);
        assert!(damage.count() <= MOST_STRETCHES as u64);
        let last = 2 * MOST_STRETCHES as u64 - 1;
        assert!(damage.hides_records(3, 104, 106) && damage.hides_records(3, 104 + 10 * last, 1 << 30));
    }

    #[test]
    fn a_stretch_is_settled_as_it_was_seen() {
        let damage = Damage::default();
        damage.found_stretch(1, 100, 200, Wrong::NoRecord);
        damage.found_stretch(1, 300, 400, Wrong::NoRecord);
        damage.found_stretch(2, 0, SUPERBLOCK_BYTES, Wrong::Superblock);
        for (place, end) in
            [(Place::new(1, 100), 300), (Place::new(1, 150), 200), (Place::new(2, 0), SUPERBLOCK_BYTES)]
        {
            damage.settle_stretch(place, end);
        }
        assert_eq!(damage.count(), 3);
        damage.settle_stretch(Place::new(1, 100), 200);
        assert_eq!((damage.page(None, 9).len(), damage.count()), (2, 2));
        assert!(damage.hides_records(1, 0, 300), "it may hold what no other server has");
        damage.found_stretch(1, 150, 250, Wrong::NoRecord);
        assert_eq!((stretches(&damage).len(), damage.count()), (2, 3), "it grew");
    }

    #[test]
    fn a_superblock_hides_no_records() {
        let damage = Damage::default();
        damage.found_stretch(1, 0, SUPERBLOCK_BYTES, Wrong::Superblock);
        assert!(damage.stretches().is_empty() && !damage.hides_records(1, 0, 1000));
        assert_eq!(damage.count(), 1);
        damage.superblock_is_sound(1);
        assert_eq!(damage.count(), 0);
    }

    #[test]
    fn pages_follow_each_other() {
        let damage = Damage::default();
        for offset in [64, 100, 300] {
            let _ = damage.found(7, Place::new(1, offset), Wrong::Checksum);
        }
        damage.found_stretch(1, 100, 200, Wrong::NoRecord);
        damage.found_stretch(2, 0, 64, Wrong::Superblock);
        let names =
            |page: &[(Spot, Found)]| page.iter().map(|(spot, _)| spot.to_string()).collect::<Vec<_>>();
        let all = names(&damage.page(None, 100));
        assert_eq!(all, ["0/1:64", "0/1:100", "0/1:100-200", "0/1:300", "0/2:0-64"]);
        for size in 1..6 {
            let (mut met, mut after) = (Vec::new(), None);
            loop {
                let page = damage.page(after, size);
                after = page.last().map(|(spot, _)| spot.to_string().parse().unwrap());
                met.extend(names(&page));
                if page.len() < size {
                    break;
                }
            }
            assert_eq!(met, all);
        }
        for text in [
            "",
            "1:2",
            "0/1",
            "0/1:",
            "0/:1",
            "0/1:2-",
            "0/a:b",
            "x/1:2",
            "0/16777216:1",
            "0/1:1099511627776",
            "0/1:2-3-4",
        ] {
            assert_eq!(text.parse::<Spot>(), Err(SpotError), "{text}");
        }
    }
}
