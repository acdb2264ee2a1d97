//! Whether the clocks of the coordinators agree: measured once a second, said in the log when they do not.

use std::{sync::Arc, time::Duration};

use super::Coordinator;
use crate::daemon::Shutdown;

const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// Clocks that are looked after differ by milliseconds; this much only where one is not.
const AGREE_WITHIN_MS: u64 = 1000;

/// Whether the clocks agreed when they were last measured.
#[derive(Default)]
struct Agreement {
    broken: bool,
}

impl Agreement {
    /// Whether this is news: they agreed until now. They agree again when nothing is ahead any more.
    fn ends(&mut self, ahead_ms: u64) -> bool {
        let ends = !self.broken && ahead_ms > AGREE_WITHIN_MS;
        self.broken = ahead_ms > AGREE_WITHIN_MS || (self.broken && ahead_ms > 0);
        ends
    }
}

impl Coordinator {
    /// Shows how far the versions are ahead of this machine's clock, until the shutdown begins.
    pub(super) async fn watch_clock(self: Arc<Self>, shutdown: Shutdown) {
        let mut agreement = Agreement::default();
        loop {
            let ahead_ms = self.clock.ahead_ms();
            metrics::gauge!("backpack_coordinator_clock_ahead_seconds").set(ahead_ms as f64 / 1000.0);
            if agreement.ends(ahead_ms) {
                tracing::warn!(
                    ahead_ms,
                    "versions are ahead of this machine's clock: another coordinator's is ahead of it, or it was set back; see that \
                     the clocks agree"
                );
            }
            if !shutdown.sleep(MEASURE_EVERY).await {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disagreement_is_news_once_until_it_is_over() {
        let mut agreement = Agreement::default();
        let ahead_ms = [0, 300, 1000, 60_000, 59_000, 700, 1500, 0, 2000, 1001];
        let news: Vec<_> = ahead_ms.into_iter().filter(|ahead_ms| agreement.ends(*ahead_ms)).collect();
        assert_eq!(news, [60_000, 2000]);
    }
}
