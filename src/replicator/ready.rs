//! Whether the map is as the store says, told to whoever probes.

use std::time::Duration;

use crate::{
    cluster::{View, ViewState},
    daemon::Shutdown,
    telemetry::health::Condition,
};

/// How often the state is looked at: a probe asks every few seconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Holds the condition while the view is fresh, until the shutdown begins. A stale map still serves: only readiness falls.
pub async fn watch_map(view: View, condition: Condition, shutdown: Shutdown) {
    loop {
        condition.set(match view.state() {
            ViewState::Fresh => Ok(()),
            ViewState::NeverLoaded => Err("it was not read yet".to_owned()),
            ViewState::Stale { since } => {
                Err(format!("ZooKeeper is not reached since {} s", since.elapsed().as_secs()))
            }
        });
        if !shutdown.sleep(LOOK_EVERY).await {
            return;
        }
    }
}
