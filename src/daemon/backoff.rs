//! How long to wait before the next try: exponential, with full jitter, so that many who failed together do not come
//! back together.

use std::time::Duration;

/// The shape of a wait that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub first: Duration,
    /// No wait is longer.
    pub max: Duration,
}

impl Backoff {
    /// The longest wait after so many failures (1 = the first): `first`, doubled each time, up to `max`.
    pub fn ceiling(&self, failures: u32) -> Duration {
        let doubled =
            2u32.checked_pow(failures.saturating_sub(1)).and_then(|factor| self.first.checked_mul(factor));
        doubled.map_or(self.max, |wait| wait.min(self.max))
    }

    /// A wait between half of the ceiling and the ceiling, chosen by `random` in `0.0..1.0`.
    pub fn wait(&self, failures: u32, random: f64) -> Duration {
        self.ceiling(failures).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// [`Backoff::wait`] with a random number of its own.
    pub fn jittered(&self, failures: u32) -> Duration {
        self.wait(failures, fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_maximum_and_stays_there() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(2) };
        assert_eq!(backoff.ceiling(0), Duration::from_millis(100));
        assert_eq!(backoff.ceiling(1), Duration::from_millis(100));
        assert_eq!(backoff.ceiling(3), Duration::from_millis(400));
        assert_eq!(backoff.ceiling(1_000_000), Duration::from_secs(2));
        assert_eq!(backoff.wait(3, 0.0), Duration::from_millis(200));
        assert_eq!(backoff.wait(3, 1.0), Duration::from_millis(400));
    }
}
