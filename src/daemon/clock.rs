//! Wall-clock milliseconds, and versions that never go back on the process that gives them.

use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::model::Version;

/// Milliseconds since 1970; 0 on a clock set before that.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

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
}
