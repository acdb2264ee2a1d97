//! Decisions: which runs become one, and which places no run and no memtable has. Pure.

use std::ops::Range;

use crate::storage::index::Place;

/// So many neighbours become one: a key is written again once for each eightfold growth of the storage, and there are
/// at most seven runs of a tier where all goes as usual.
pub const FAN: usize = 8;
/// So many runs are never exceeded for long, in whatever order they lie: a page reads some blocks of each.
pub const MAX_RUNS: usize = 64;

/// The tier of a run: by how often it is eight times as large as a memtable.
fn tier(bytes: u64, least: u64) -> u32 {
    (bytes / least.max(1)).max(1).ilog(FAN as u64)
}

/// Which of these runs become one: at most [`FAN`] of them. They are ascending, with their sizes in bytes; only runs
/// between which no place is missing can be put together. Memtables are of `least` bytes.
pub fn choose(runs: &[(Range<Place>, u64)], least: u64) -> Option<Range<usize>> {
    let windows = || {
        let neighbours =
            |window: &&[(Range<Place>, u64)]| window.windows(2).all(|two| two[0].0.end == two[1].0.start);
        let total = |window: &[(Range<Place>, u64)]| window.iter().map(|(_, bytes)| bytes).sum::<u64>();
        runs.windows(FAN).enumerate().filter(move |(_, window)| neighbours(window)).map(
            move |(at, window)| {
                let is_one_tier =
                    window.iter().all(|(_, bytes)| tier(*bytes, least) == tier(window[0].1, least));
                (total(window), is_one_tier, at..at + FAN)
            },
        )
    };
    let cheapest = windows().filter(|(_, is_one_tier, _)| *is_one_tier).min_by_key(|(total, ..)| *total);
    let cheapest = cheapest.or_else(|| {
        let too_many = runs.len() > MAX_RUNS;
        windows().filter(|_| too_many).min_by_key(|(total, ..)| *total)
    });
    cheapest.map(|(.., window)| window)
}

/// The places before `end` that are in none of these ranges, which are ascending.
pub fn gaps(covered: impl Iterator<Item = Range<Place>>, end: Place) -> Vec<Range<Place>> {
    let (mut gaps, mut reached) = (Vec::new(), Place::new(0, 0));
    for range in covered.chain([end..end]) {
        if range.start > reached {
            gaps.push(reached..range.start);
        }
        reached = reached.max(range.end);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(offset: u64) -> Place {
        Place::new(1, offset)
    }

    /// Runs of these sizes, one behind the other.
    fn runs(sizes: &[u64]) -> Vec<(Range<Place>, u64)> {
        let at = |n: usize| place(n as u64);
        sizes.iter().enumerate().map(|(n, bytes)| (at(n)..at(n + 1), *bytes)).collect()
    }

    #[test]
    fn eight_neighbours_of_a_tier_become_one() {
        assert_eq!(choose(&runs(&[5; 7]), 10), None);
        assert_eq!(choose(&runs(&[5; 8]), 10), Some(0..8));
        assert_eq!(choose(&runs(&[[80; 7].as_slice(), &[5; 7]].concat()), 10), None);
        assert_eq!(
            choose(&runs(&[[80; 8].as_slice(), &[5; 8]].concat()), 10),
            Some(8..16),
            "the cheapest first"
        );
        assert_eq!(choose(&runs(&[80; 8]), 10), Some(0..8));
        let mut apart = runs(&[5; 8]);
        apart[3].0.end = place(3);
        assert_eq!(choose(&apart, 10), None, "something between them is missing");
    }

    #[test]
    fn there_are_never_too_many_whatever_their_order() {
        let sizes: Vec<u64> = (0..65).map(|n| if n % 2 == 0 { 5 } else { 800 }).collect();
        assert_eq!(choose(&runs(&sizes[..64]), 10), None);
        assert!(choose(&runs(&sizes), 10).is_some());
    }

    #[test]
    fn the_number_of_runs_is_logarithmic() {
        let (mut sizes, mut written, mut most) = (Vec::new(), 0, 0);
        for _ in 0..10_000 {
            sizes.push(10);
            while let Some(chosen) = choose(&runs(&sizes), 10) {
                let merged: u64 = sizes[chosen.clone()].iter().sum();
                written += merged;
                sizes.splice(chosen, [merged]);
            }
            most = most.max(sizes.len());
        }
        assert!(most <= 35, "{most} runs");
        assert!(written <= 10_000 * 10 * 5, "{written} bytes written again");
    }

    #[test]
    fn gaps_are_what_nothing_covers() {
        let nothing = Place::new(0, 0);
        assert_eq!(gaps([].into_iter(), nothing), []);
        assert_eq!(gaps([].into_iter(), place(9)), [nothing..place(9)]);
        assert_eq!(gaps([nothing..place(9)].into_iter(), place(9)), []);
        assert_eq!(
            gaps([place(1)..place(3), place(3)..place(4), place(6)..place(7)].into_iter(), place(9)),
            [nothing..place(1), place(4)..place(6), place(7)..place(9)]
        );
    }

    proptest! {
        #[test]
        fn what_is_chosen_can_be_merged(sizes in proptest::collection::vec(0_u64..10_000, 0..100)) {
            let runs = runs(&sizes);
            match choose(&runs, 10) {
                Some(chosen) => prop_assert!(chosen.end <= runs.len() && chosen.len() == FAN),
                None => prop_assert!(runs.len() <= MAX_RUNS),
            }
        }
    }
}
