//! Compaction: gives back the space of records that nobody needs any more. One thread looks for the volume with the
//! largest dead share and has it rewritten, at a limited speed, until no volume is worth it.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    options::Options,
    pace::{Hold, Pace},
    rewrite::{GoOn, Rewritten, Stop, rewrite},
    shared::Shared,
    tombstones::{self, Needless},
    volume::{SUPERBLOCK_BYTES, Volume},
};

/// How often it is seen whether a volume is worth it: this costs a look at a few numbers for each volume.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A volume that had to be left alone, because of damage for instance, is tried again after this.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// How often needless tombstones are looked for, while their age passes: they stay an eighth longer at most.
const SEARCHES_IN_AN_AGE: u32 = 8;
/// A volume is at most this part of the file system: 2 %.
const ROOM_PART: u64 = 50;
/// A tombstone that became needless while the node was down, or under a setting that was changed, is found so soon.
const FIRST_SEARCH_WITHIN: Duration = Duration::from_secs(3600);

/// What compaction did since the start, and whether it may go on.
#[derive(Debug, Default)]
pub struct Compaction {
    /// Bytes of records that were written again elsewhere.
    pub moved_bytes: AtomicU64,
    /// Bytes of volumes that were removed.
    pub removed_bytes: AtomicU64,
    /// Tombstones that nobody needs any more.
    pub needless: Mutex<Needless>,
    /// Whether it may go on.
    pub hold: Hold,
}

/// Size at which a new volume is begun: on a small disk a part of it, so that keeping room for one volume does not cost
/// much, and no less than the largest small blob needs.
pub fn volume_bytes(options: &Options, disk_bytes: u64) -> u64 {
    options.volume_bytes.min((disk_bytes / ROOM_PART).max(options.least_volume_bytes()))
}

/// Space that blobs leave free, so that there is room for the live part of a volume of this size, beside what deletes may
/// need. None without compaction.
pub fn room_bytes(options: &Options, volume_bytes: u64) -> u64 {
    if options.compact_bytes_per_second == 0 { 0 } else { volume_bytes + left_to_deletes(options) }
}

/// What deletes may need is left to them, whether the reserve is set aside or not.
fn left_to_deletes(options: &Options) -> u64 {
    2 * options.reserve_bytes
}

/// Compacts until it is stopped.
pub fn run(shared: &Shared) {
    let compaction = &shared.compaction;
    let bytes_per_second = shared.options.compact_bytes_per_second;
    let mut pace = Pace::new(&compaction.hold);
    let mut go_on = |bytes| pace.go_on(bytes, bytes_per_second);
    let mut left_alone = HashMap::new();
    let between_searches = shared.options.tombstone_age / SEARCHES_IN_AN_AGE;
    let mut search_at = Instant::now() + between_searches.min(FIRST_SEARCH_WITHIN);
    // What had been removed when a search ended early.
    let mut cut_at = None;
    while compaction.hold.wait_until(Instant::now() + LOOK_EVERY) {
        if !rewrite_all(shared, &mut left_alone, &mut go_on, &mut |_, _| {}) {
            return;
        }
        let removed = compaction.removed_bytes.load(Ordering::Relaxed);
        // Once the volumes that it found were rewritten, it goes on.
        let goes_on = cut_at.is_some_and(|then| removed > then);
        if (goes_on || Instant::now() >= search_at) && tombstones::worth_it(shared) {
            if !tombstones::search(shared, &mut go_on) {
                return;
            }
            cut_at = compaction.needless.lock().is_cut.then_some(removed);
            search_at = Instant::now() + between_searches;
        }
    }
}

/// Told of a volume that was removed, or why it had to be left alone.
pub type OnVolume<'a> = &'a mut dyn FnMut(u32, Result<Rewritten, String>);

/// Rewrites volumes, the deadest first, until none is worth it; `false` if it was stopped before.
pub fn rewrite_all(
    shared: &Shared,
    left_alone: &mut HashMap<u32, Instant>,
    go_on: GoOn<'_>,
    on_volume: OnVolume<'_>,
) -> bool {
    while let Some(number) = next(shared, left_alone) {
        match rewrite(shared, number, go_on) {
            Ok(done) => {
                let (removed_bytes, moved_bytes) = (done.removed_bytes, done.moved_bytes);
                tracing::info!(volume = number, removed_bytes, moved_bytes, "volume compacted");
                on_volume(number, Ok(done));
            }
            Err(Stop::Asked) => return false,
            Err(Stop::LeaveAlone(reason)) => {
                tracing::warn!(volume = number, reason, "volume not compacted");
                left_alone.insert(number, Instant::now());
                on_volume(number, Err(reason));
            }
        }
    }
    true
}

/// Bytes that are to be written again of the volumes that are worth it now.
pub fn bytes_to_move(shared: &Shared) -> u64 {
    let ratio = shared.options.compact_dead_ratio;
    let worth_it = candidates(shared).into_iter().filter(|candidate| candidate.dead_share() >= ratio);
    worth_it.map(|candidate| candidate.live_bytes).sum()
}

/// The volume to be compacted next.
pub fn next(shared: &Shared, left_alone: &HashMap<u32, Instant>) -> Option<u32> {
    // Writers stopped for good: there is nothing to gain.
    shared.health.check().ok()?;
    let room = shared.layout.free_bytes().saturating_sub(left_to_deletes(&shared.options));
    let candidates = candidates(shared).into_iter().filter(|candidate| {
        left_alone.get(&candidate.number).is_none_or(|at| at.elapsed() > TRY_AGAIN_AFTER)
    });
    choose(candidates, shared.options.compact_dead_ratio, room)
}

/// A volume that nothing is written to any more.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    number: u32,
    live_bytes: u64,
    dead_bytes: u64,
}

impl Candidate {
    fn of(volume: &Volume, needless_bytes: u64) -> Self {
        Self {
            number: volume.number,
            live_bytes: volume.live_bytes().saturating_sub(needless_bytes),
            dead_bytes: volume.dead_bytes() + needless_bytes,
        }
    }

    /// The dead part of what it holds, from 0 to 1; 1 if it holds nothing.
    fn dead_share(&self) -> f64 {
        let all = self.live_bytes + self.dead_bytes;
        if all == 0 { 1.0 } else { self.dead_bytes as f64 / all as f64 }
    }
}

/// All volumes but the last, which may be written to.
fn candidates(shared: &Shared) -> Vec<Candidate> {
    let needless = shared.compaction.needless.lock();
    let mut all = shared.volumes.all();
    all.pop();
    all.iter().map(|volume| Candidate::of(volume, needless.bytes_in(volume.number))).collect()
}

/// Whether so many bytes of needless tombstones, with what is dead already, make a volume worth rewriting.
pub fn is_worth_it(shared: &Shared, volume: &Volume, needless_bytes: u64) -> bool {
    Candidate::of(volume, needless_bytes).dead_share() >= shared.options.compact_dead_ratio
}

/// The one with the largest dead share, of those that have at least that share and whose live part finds room.
fn choose(candidates: impl Iterator<Item = Candidate>, ratio: f64, room: u64) -> Option<u32> {
    candidates
        .filter(|candidate| candidate.dead_share() >= ratio && fits(candidate, room))
        .max_by(|one, other| one.dead_share().total_cmp(&other.dead_share()))
        .map(|candidate| candidate.number)
}

fn fits(candidate: &Candidate, room: u64) -> bool {
    // Its records may need a new volume.
    candidate.live_bytes == 0 || candidate.live_bytes + SUPERBLOCK_BYTES <= room
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadest_that_finds_room_is_chosen() {
        let candidates = |numbers: &[(u64, u64)]| {
            let candidate = |(at, (live_bytes, dead_bytes)): (usize, &(u64, u64))| Candidate {
                number: at as u32 + 1,
                live_bytes: *live_bytes,
                dead_bytes: *dead_bytes,
            };
            numbers.iter().enumerate().map(candidate).collect::<Vec<_>>().into_iter()
        };
        let four = [(900, 100), (500, 500), (300, 700), (0, 10)];
        assert_eq!(choose(candidates(&four), 0.3, 10_000), Some(4));
        assert_eq!(choose(candidates(&four[..3]), 0.3, 10_000), Some(3));
        assert_eq!(choose(candidates(&four[..2]), 0.3, 10_000), Some(2));
        assert_eq!(choose(candidates(&four[..1]), 0.3, 10_000), None);
        assert_eq!(choose(candidates(&four[..3]), 0.3, 350), None, "its records and a superblock need more");
        assert_eq!(choose(candidates(&four), 0.3, 0), Some(4), "what is wholly dead needs no room");
        assert_eq!(choose(candidates(&[(0, 0)]), 1.0, 0), Some(1), "nor what is empty");
        assert_eq!(choose(candidates(&four[..3]), 1.0, 10_000), None);
    }
}
