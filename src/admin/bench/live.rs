//! How far a phase is, while it runs.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{phase::Phase, tally::Tally};
use crate::admin::progress::Progress;

/// As often as this.
const EVERY: Duration = Duration::from_millis(250);

/// What is shown of a phase.
pub struct Live {
    shown: Progress,
    ticks: Interval,
    name: &'static str,
    total: u64,
    /// What the bar has.
    bytes: u64,
}

impl Live {
    /// Shows that it begins.
    pub fn new(phase: &Phase) -> Self {
        let name = phase.verb.name();
        let shown = Progress::new(name);
        let total = phase.schedule.total();
        let each_once: u64 = phase.blobs.iter().map(|blob| phase.work.blobs.size(*blob)).sum();
        shown.expect_in_all((each_once as f64 * total as f64 / phase.blobs.len() as f64) as u64);
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { shown, ticks, name, total, bytes: 0 }
    }

    /// Waits until it is time to show something.
    pub async fn tick(&mut self) {
        self.ticks.tick().await;
    }

    /// Shows how far it is.
    pub fn show(&mut self, tally: &Tally) {
        let bytes = tally.bytes.load(Relaxed);
        self.shown.add(bytes - self.bytes);
        self.bytes = bytes;
        self.shown.say(words(self.name, self.total, tally));
    }

    /// Shows nothing any more.
    pub fn end(&self) {
        self.shown.end();
    }
}

fn words(name: &str, total: u64, tally: &Tally) -> String {
    let done = tally.done.load(Relaxed);
    let latency = tally.latency.percentiles().unwrap_or_default();
    let failed = match tally.failed.load(Relaxed) {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    format!("{name} {done} of {total}{failed}, p50 {:.2} ms, p99 {:.2} ms", latency.p50, latency.p99)
}

#[cfg(test)]
mod tests {
    use super::{super::failure::*, *};

    #[test]
    fn words_say_how_far_it_is() {
        let tally = Tally::default();
        assert_eq!(words("PUT", 10, &tally), "PUT 0 of 10, p50 0.00 ms, p99 0.00 ms");
        tally.done(1, Duration::from_millis(2), None);
        tally.failed("PUT x", &Failure::new(Kind::Broken, ""), Duration::ZERO);
        assert_eq!(words("PUT", 10, &tally), "PUT 1 of 10, 1 failed, p50 2.00 ms, p99 2.00 ms");
    }
}
