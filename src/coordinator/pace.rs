//! How fast a server stores blobs, from the latest ones. Pure.

use std::time::{Duration, Instant};

/// What an upload says of a server is worth half of that after this long: one that was slow is tried again by itself.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// The weight of the latest upload against all before.
const LATEST: f64 = 0.25;

/// The time a server lately took to store a blob, once it had all of it.
#[derive(Debug, Default)]
pub struct Pace(Option<(f64, Instant)>);

impl Pace {
    /// A blob was stored.
    pub fn note(&mut self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let before = self.0.map_or(took, |_| self.now(now).as_secs_f64());
        self.0 = Some((before + (took - before) * LATEST, now));
    }

    /// What the next one is expected to take; the less, the longer ago the latest one was.
    pub fn now(&self, now: Instant) -> Duration {
        let Some((seconds, at)) = self.0 else { return Duration::ZERO };
        let half_lives = now.saturating_duration_since(at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        Duration::from_secs_f64(seconds * (-half_lives).exp2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_uploads_count_most_and_time_forgets_all() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.now(start), Duration::ZERO);
        pace.note(Duration::from_secs(1), start);
        assert_eq!(pace.now(start), Duration::from_secs(1));
        pace.note(Duration::ZERO, start);
        assert_eq!(pace.now(start), Duration::from_millis(750));
        assert_eq!(pace.now(start + HALF_LIFE), Duration::from_millis(375));
        for _ in 0..50 {
            pace.note(Duration::ZERO, start);
        }
        assert!(pace.now(start) < Duration::from_millis(1));
    }
}
