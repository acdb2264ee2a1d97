//! When to leave a server alone: after some failures in a row nothing is tried for a pause, then one probe decides.
//! Pure: the clock and the dice are the caller's.

use std::time::{Duration, Instant};

use crate::daemon::Backoff;

/// While a probe is under way, others look again after this.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// A success counts as a sign that the server works for this long.
const WORKS_FOR: Duration = Duration::from_secs(60);

/// One server, in one respect.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Failures in a row that open it.
    threshold: u32,
    /// How long it stays open: longer each time that a probe fails.
    pauses: Backoff,
    state: State,
    failures: u32,
    openings: u32,
    last_success: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Everything passes.
    Closed,
    /// Nothing passes before `until`; then one probe.
    Open { until: Instant },
    /// The probe is under way.
    Probing,
}

/// Whether something may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Yes.
    Pass,
    /// Yes, alone: its end decides.
    Probe,
    /// No; look again after this.
    Wait(Duration),
}

impl Breaker {
    pub(super) fn new(threshold: u32, pauses: Backoff) -> Self {
        Self { threshold, pauses, state: State::Closed, failures: 0, openings: 0, last_success: None }
    }

    /// Asks to try something. Whoever got [`Admission::Probe`] must say how it ended.
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Closed => Admission::Pass,
            State::Open { until } if now >= until => {
                self.state = State::Probing;
                Admission::Probe
            }
            State::Open { until } => Admission::Wait(until - now),
            State::Probing => Admission::Wait(PROBE_WAIT),
        }
    }

    /// How many may be tried now.
    pub(super) fn room(&self, now: Instant) -> usize {
        match self.state {
            State::Closed => usize::MAX,
            State::Open { until } if now >= until => 1,
            State::Open { .. } | State::Probing => 0,
        }
    }

    /// The server did its part.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.state = State::Closed;
        self.failures = 0;
        self.openings = 0;
        self.last_success = Some(now);
    }

    /// The server failed. `random` in `0.0..1.0` spreads the pause.
    pub(super) fn failed(&mut self, now: Instant, random: f64) {
        self.failures = self.failures.saturating_add(1);
        let opens = match self.state {
            State::Closed => self.failures >= self.threshold,
            State::Probing => true,
            // It was under way when the breaker opened and tells nothing new.
            State::Open { .. } => false,
        };
        if opens {
            self.openings = self.openings.saturating_add(1);
            self.state = State::Open { until: now + self.pauses.wait(self.openings, random) };
        }
    }

    /// A probe ended without telling anything about the server: another may follow at once.
    pub(super) fn probe_ended(&mut self, now: Instant) {
        if self.state == State::Probing {
            self.state = State::Open { until: now };
        }
    }

    /// Whether it worked for somebody lately, so that a failure is rather the task's than the server's.
    pub(super) fn works(&self, now: Instant) -> bool {
        let lately = self.last_success.is_some_and(|last| now.saturating_duration_since(last) < WORKS_FOR);
        self.state == State::Closed && lately
    }

    /// How long a task that failed here had better wait.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        match self.state {
            State::Closed => self.pauses.ceiling(self.failures),
            State::Open { until } => until.saturating_duration_since(now),
            State::Probing => PROBE_WAIT,
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSES: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(8) };

    fn seconds(from: Instant, seconds: u64) -> Instant {
        from + Duration::from_secs(seconds)
    }

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = Breaker::new(3, PAUSES);
        breaker.failed(now, 0.0);
        breaker.failed(now, 0.0);
        breaker.succeeded(now);
        breaker.failed(now, 0.0);
        breaker.failed(now, 0.0);
        assert_eq!(breaker.admit(now), Admission::Pass);
        breaker.failed(now, 1.0);
        assert_eq!(breaker.admit(now), Admission::Wait(Duration::from_secs(1)));
        assert_eq!(breaker.room(now), 0);
    }

    #[test]
    fn one_probe_at_a_time_and_pauses_that_grow() {
        let start = Instant::now();
        let mut breaker = Breaker::new(1, PAUSES);
        breaker.failed(start, 1.0);
        let mut now = start;
        for pause in [1, 2, 4, 8, 8] {
            assert_eq!(breaker.admit(now), Admission::Wait(Duration::from_secs(pause)));
            now = seconds(now, pause);
            assert_eq!(breaker.room(now), 1);
            assert_eq!(breaker.admit(now), Admission::Probe);
            assert_eq!(breaker.admit(now), Admission::Wait(PROBE_WAIT));
            assert_eq!(breaker.room(now), 0);
            breaker.failed(now, 1.0);
        }
        now = seconds(now, 8);
        assert_eq!(breaker.admit(now), Admission::Probe);
        breaker.succeeded(now);
        assert_eq!(breaker.admit(now), Admission::Pass);
        breaker.failed(now, 1.0);
        assert_eq!(breaker.pause(now), Duration::from_secs(1), "pauses begin anew after a success");
    }

    #[test]
    fn late_failures_do_not_prolong_a_pause_and_a_late_success_ends_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(1, PAUSES);
        breaker.failed(now, 1.0);
        breaker.failed(now, 1.0);
        breaker.failed(now, 1.0);
        assert_eq!(breaker.pause(now), Duration::from_secs(1));
        breaker.succeeded(now);
        assert_eq!(breaker.admit(now), Admission::Pass);
    }

    #[test]
    fn a_probe_that_tells_nothing_makes_room_for_another() {
        let now = Instant::now();
        let mut breaker = Breaker::new(1, PAUSES);
        breaker.failed(now, 0.0);
        let later = seconds(now, 1);
        assert_eq!(breaker.admit(later), Admission::Probe);
        breaker.probe_ended(later);
        assert_eq!(breaker.admit(later), Admission::Probe);
    }

    #[test]
    fn works_while_a_success_is_fresh() {
        let now = Instant::now();
        let mut breaker = Breaker::new(2, PAUSES);
        assert!(!breaker.works(now));
        breaker.succeeded(now);
        breaker.failed(now, 0.0);
        assert!(breaker.works(now));
        assert!(!breaker.works(now + WORKS_FOR));
        breaker.failed(now, 0.0);
        assert!(!breaker.works(now));
    }
}
