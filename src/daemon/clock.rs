//! Wall-clock milliseconds, and versions that never go back on the process that gives them.

use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::model::Version;

/// Milliseconds since 1970; 0 on a clock set before that.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A version farther in the future than this is a mistake (a clock set by the wrong time zone is off by less). It must not
/// carry every later version with it, nor may a key have it: until that day nobody could overwrite or delete the key.
const MAX_AHEAD_MS: u64 = 24 * 60 * 60 * 1000;

/// Gives versions, each greater than the one before and than those it was told of: a hybrid logical clock. So what happens
/// later gets the greater version even when the wall clock is set back or another machine's is ahead.
#[derive(Debug, Default)]
pub struct VersionClock {
    /// How far the wall clock is off.
    off_ms: i64,
    last: Mutex<Option<Version>>,
}

impl VersionClock {
    /// A clock on a machine whose wall clock is off by that many milliseconds: for tests.
    pub fn off_by(off_ms: i64) -> Self {
        Self { off_ms, last: Mutex::default() }
    }

    fn wall_ms(&self) -> u64 {
        unix_ms().saturating_add_signed(self.off_ms)
    }

    /// The next version. No other clock gives the same one: many may have been told of the same version, and each goes on from
    /// it by a step of its own.
    pub fn next(&self) -> Version {
        let fresh = Version::from_parts(self.wall_ms(), fastrand::u128(..));
        let mut last = self.last.lock();
        let next = match *last {
            Some(last) if last >= fresh => last.after(fastrand::u64(..)).unwrap_or(fresh),
            _ => fresh,
        };
        *last = Some(next);
        next
    }

    /// Takes note of a version that another clock gave: from now on all are greater. `false`: it lies more than
    /// a day in the future, and is not followed.
    pub fn follow(&self, seen: Version) -> bool {
        let may = seen.unix_ms() <= self.wall_ms().saturating_add(MAX_AHEAD_MS);
        if may {
            let mut last = self.last.lock();
            *last = (*last).max(Some(seen));
        }
        may
    }

    /// The greatest version it gave or was told of.
    pub fn last(&self) -> Option<Version> {
        *self.last.lock()
    }

    /// How far that version is ahead of the wall clock: 0 where clocks agree, else at most what they differ by.
    pub fn ahead_ms(&self) -> u64 {
        self.last().map_or(0, |last| last.unix_ms().saturating_sub(self.wall_ms()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_greater_than_the_one_before() {
        let clock = VersionClock::default();
        let mut before = clock.next();
        for _ in 0..10_000 {
            let next = clock.next();
            assert!(next > before);
            before = next;
        }
    }

    #[test]
    fn a_clock_set_back_gives_no_older_version() {
        let clock = VersionClock::default();
        let future = Version::from_parts(unix_ms() + 3_600_000, 0);
        *clock.last.lock() = Some(future);
        assert!(clock.next() > future);
    }

    #[test]
    fn clocks_that_follow_the_same_version_give_different_ones() {
        let ahead = Version::from_parts(unix_ms() + 60_000, 7);
        let given = [(); 2].map(|()| {
            let clock = VersionClock::default();
            clock.follow(ahead);
            clock.next()
        });
        assert!(given[0] != given[1] && given.iter().all(|version| *version > ahead));
    }

    #[test]
    fn follows_a_clock_that_is_ahead_but_not_one_that_is_wrong() {
        let clock = VersionClock::default();
        let ahead = Version::from_parts(unix_ms() + 3_600_000, 7);
        assert_eq!(clock.ahead_ms(), 0);
        assert!(clock.follow(ahead) && clock.follow(Version::from_parts(1, 1)));
        assert!(clock.next() > ahead);
        assert!((1..=3_600_000).contains(&clock.ahead_ms()));
        let wrong = Version::from_parts(unix_ms() + 2 * MAX_AHEAD_MS, 0);
        assert!(!clock.follow(wrong));
        assert!(clock.next() < wrong);
    }
}
