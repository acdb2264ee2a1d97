//! Waiting for something to become true, with a deadline.

use std::{
    future::Future,
    thread,
    time::{Duration, Instant},
};

/// Long enough for a Java server to start on a machine that does four other things; never reached when all is well.
pub const START_WITHIN: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// A moment after which waiting is a failure.
#[derive(Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// That long from now.
    pub fn within(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    /// What is left, at least a millisecond (sockets take no timeout of zero).
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }
}

/// Blocks until `condition` holds. Panics with `what` when it did not within that time.
pub fn wait_until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, within, || condition().then_some(()));
}

/// Blocks until `look` finds something. Panics with `what` when it did not within that time.
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::within(within);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(!deadline.is_over(), "not within {within:?}: {what}");
        thread::sleep(POLL_EVERY);
    }
}

/// Waits, without blocking the runtime, until `condition` holds. Panics with `what` when it did not within that time.
pub async fn eventually<F, Fut>(what: &str, within: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = Deadline::within(within);
    while !condition().await {
        assert!(!deadline.is_over(), "not within {within:?}: {what}");
        tokio::time::sleep(POLL_EVERY).await;
    }
}
