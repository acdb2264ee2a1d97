//! How long a server may keep an upload waiting, and what follows when it is longer. Pure.
//!
//! An upload that can be sent anew leaves a server that is silent for the patience, where another one answers. Where none
//! does, leaving helps nobody: it waits until the client's time-outs end it. One that cannot be sent anew goes on without a
//! server that is far behind the others, and gets that copy later; with one server alone it goes at that server's speed.

use std::time::{Duration, Instant};

/// What a server may take beside its patience for each byte: slower than this is no disk or network that works.
const SLOW_BYTES_PER_SECOND: u64 = 1024 * 1024;

/// What an upload can do without one of its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Go to another server, from the first byte on.
    Elsewhere,
    /// Go on with the others.
    Without,
    /// Nothing but wait.
    None,
}

/// How long servers may keep an upload waiting.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Those that another one can replace.
    pub first: Duration,
    /// Those that nothing can replace: as long as the client waits for an answer.
    pub last: Duration,
}

impl Patience {
    /// The patience of an upload that left so many servers already: twice as long for each.
    pub fn after_leaving(self, servers: u32) -> Self {
        let longer = self.first.saturating_mul(2u32.saturating_pow(servers));
        Self { first: longer.min(self.last.max(self.first)), ..self }
    }
}

/// How long a server may keep an upload waiting of which so many bytes are known; `None`: for as long as the client lets it.
pub fn limit(way: Way, patience: Patience, length: u64) -> Option<Duration> {
    let patience = match way {
        Way::Elsewhere => patience.first,
        Way::Without => patience.last,
        Way::None => return None,
    };
    Some(patience + Duration::from_secs_f64(length as f64 / SLOW_BYTES_PER_SECOND as f64))
}

/// For how long one server kept an upload waiting, all its waits together.
#[derive(Debug, Default)]
pub struct Lag {
    before: Duration,
    since: Option<Instant>,
}

impl Lag {
    /// The upload waits for it from now on, if it did not yet.
    pub fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// It did what was waited for.
    pub fn end(&mut self, now: Instant) {
        self.before = self.until(now);
        self.since = None;
    }

    /// All waits until now.
    pub fn until(&self, now: Instant) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_larger_the_body_the_longer_and_longest_for_what_nothing_replaces() {
        let patience = Patience { first: SECOND, last: 20 * SECOND };
        assert_eq!(limit(Way::Elsewhere, patience, 0), Some(SECOND));
        assert_eq!(limit(Way::Elsewhere, patience, 3 << 20), Some(4 * SECOND));
        assert_eq!(limit(Way::Without, patience, 1 << 20), Some(21 * SECOND));
        assert_eq!(limit(Way::None, patience, 0), None);
        let longer = patience.after_leaving(2);
        assert_eq!(limit(Way::Elsewhere, longer, 0), Some(4 * SECOND));
        assert_eq!(limit(Way::Elsewhere, patience.after_leaving(99), 0), Some(20 * SECOND));
    }

    #[test]
    fn waits_add_up_and_what_lies_between_does_not_count() {
        let start = Instant::now();
        let mut lag = Lag::default();
        assert_eq!(lag.until(start + SECOND), Duration::ZERO);
        lag.begin(start);
        lag.begin(start + SECOND);
        lag.end(start + 3 * SECOND);
        assert_eq!(lag.until(start + 9 * SECOND), 3 * SECOND);
        lag.begin(start + 9 * SECOND);
        assert_eq!(lag.until(start + 10 * SECOND), 4 * SECOND);
    }
}
