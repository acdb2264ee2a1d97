//! Waiting for the first task by asking again: a short pause that grows. A server never holds an open request for us, so
//! nothing is lost when a caller goes away, and the cost for the server depends on the number of claimants, not on the
//! number of pushes.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause. Tasks often come in bursts, so the first look again is soon.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// The longest pause, and so the longest time a pushed task waits for an idle claimant: 25 looks a second.
const MAX_PAUSE: Duration = Duration::from_millis(40);

/// No wait is longer; who wants to wait more asks again.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// When a wait that begins now is over.
pub(super) fn deadline(wait: Duration) -> Instant {
    Instant::now() + wait.min(MAX_WAIT)
}

/// The pauses of one wait.
pub(super) struct Poll {
    deadline: Instant,
    pause: Duration,
}

impl Poll {
    /// A wait of that length in all.
    pub(super) fn new(wait: Duration) -> Self {
        Self { deadline: deadline(wait), pause: FIRST_PAUSE }
    }

    /// Pauses; `false` without a pause once the wait is over.
    pub(super) async fn again(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        tokio::time::sleep(self.pause.min(left)).await;
        self.pause = longer(self.pause);
        true
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_with_the_wait() {
        assert!(!Poll::new(Duration::ZERO).again().await);
        let begun = Instant::now();
        let mut poll = Poll::new(Duration::from_millis(30));
        while poll.again().await {}
        assert!(begun.elapsed() >= Duration::from_millis(30));
    }

    #[test]
    fn pauses_grow_to_the_longest() {
        let pauses: Vec<_> =
            std::iter::successors(Some(FIRST_PAUSE), |pause| Some(longer(*pause))).take(5).collect();
        assert_eq!(pauses.iter().map(Duration::as_millis).collect::<Vec<_>>(), [5, 10, 20, 40, 40]);
    }
}
