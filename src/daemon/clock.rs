//! Wall-clock milliseconds, and versions that never go back on the process that gives them.

use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::model::Version;

/// Milliseconds since 1970; 0 on a clock set before that.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A version farther in the future than this is a mistake (a clock set by the wrong time zone is off by less), and must
/// not carry every later version with it.
const MAX_AHEAD_MS: u64 = 24 * 60 * 60 * 1000;

/// Gives versions, each greater than the one before, even when the wall clock is set back.
#[derive(Debug, Default)]
pub struct VersionClock {
    last: Mutex<Option<Version>>,
}

impl VersionClock {
    /// The next version.
    pub fn next(&self) -> Version {
        let fresh = Version::from_parts(unix_ms(), fastrand::u128(..));
        let mut last = self.last.lock();
        let next = match *last {
            Some(last) if last >= fresh => last.next().unwrap_or(fresh),
            _ => fresh,
        };
        *last = Some(next);
        next
    }

    /// Takes note of a version that another clock gave: from now on all are greater. One that lies more than a day in the
    /// future is not followed.
    pub fn follow(&self, seen: Version) {
        if seen.unix_ms() <= unix_ms().saturating_add(MAX_AHEAD_MS) {
            let mut last = self.last.lock();
            *last = (*last).max(Some(seen));
        }
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
    fn follows_a_clock_that_is_ahead_but_not_one_that_is_wrong() {
        let clock = VersionClock::default();
        let ahead = Version::from_parts(unix_ms() + 3_600_000, 7);
        clock.follow(ahead);
        clock.follow(Version::from_parts(1, 1));
        assert!(clock.next() > ahead);
        let wrong = Version::from_parts(unix_ms() + 2 * MAX_AHEAD_MS, 0);
        clock.follow(wrong);
        assert!(clock.next() < wrong);
    }
}
