//! When requests are to start. Pure: times are counted from the start of the phase.
//!
//! Closed loop: each connection sends its next request when the last one was answered. Open loop: request `n` is due at
//! `n / rate`, whatever became of those before it, as requests of many users are.

use std::time::Duration;

/// Requests that are due before the end may begin this much later: timers wake late, and it is no backlog.
const GRACE: Duration = Duration::from_millis(100);

/// The plan of a phase.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Requests at most.
    pub count: u64,
    /// No request is due, nor begins, after this.
    pub within: Duration,
    /// Requests a second; `None` in a closed loop.
    pub rate: Option<f64>,
}

impl Schedule {
    /// How many requests there are at most.
    pub fn total(&self) -> u64 {
        match self.rate {
            None => self.count,
            Some(rate) => self.count.min((self.within.as_secs_f64() * rate).ceil() as u64),
        }
    }

    /// Whether a request may still begin now.
    pub fn open(&self, now: Duration) -> bool {
        now < self.within + if self.rate.is_some() { GRACE } else { Duration::ZERO }
    }

    /// When this request is due; `None` in a closed loop.
    pub fn due(&self, number: u64) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_secs_f64(number as f64 / rate))
    }

    /// How many requests are due by now; none in a closed loop.
    pub fn due_by(&self, now: Duration) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        self.total().min((now.as_secs_f64() * rate) as u64 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_closed_loop_ends_with_its_count_or_its_time() {
        let schedule = Schedule { count: 10, within: SECOND, rate: None };
        assert_eq!((schedule.total(), schedule.due(3), schedule.due_by(SECOND)), (10, None, 0));
        assert!(schedule.open(SECOND / 2) && !schedule.open(SECOND));
    }

    #[test]
    fn an_open_loop_says_when_each_request_is_due() {
        let schedule = Schedule { count: 1000, within: SECOND, rate: Some(4.0) };
        assert_eq!(schedule.total(), 4, "the fifth would be due at the end");
        assert_eq!(schedule.due(3), Some(SECOND * 3 / 4));
        assert_eq!(schedule.due_by(Duration::ZERO), 1);
        assert_eq!(schedule.due_by(SECOND / 2), 3);
        assert_eq!(schedule.due_by(SECOND * 9), 4);
        assert!(schedule.open(SECOND + GRACE / 2) && !schedule.open(SECOND + GRACE));
        assert_eq!(Schedule { count: 2, ..schedule }.total(), 2);
    }
}
