//! Looks after what operators see of a node: its gauges and whether it is ready.

use std::time::Duration;

use tokio::sync::watch;

use super::{hung::Guarded, metrics::Metrics};
use crate::{
    cluster::Link,
    daemon::{Shutdown, VersionClock},
    storage::Storage,
    telemetry::health::{Condition, Readiness},
};

/// How old a gauge may be. Asking the engine is cheap, and nobody scrapes more often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The conditions of a node that come and go by themselves.
pub struct Watch {
    storage: Condition,
    map_store: Option<(Condition, watch::Receiver<Link>)>,
}

impl Watch {
    /// Adds the conditions: the storage takes writes and its disk answers, and for a node that announces itself, the map
    /// store is reached.
    pub fn new(readiness: &Readiness, link: Option<watch::Receiver<Link>>) -> Self {
        Self {
            storage: readiness.condition("storage"),
            map_store: link.map(|link| (readiness.condition("map store"), link)),
        }
    }

    /// Looks again and again, at once when the link to the map store changes, until the shutdown begins.
    pub async fn run(
        mut self,
        storage: &Guarded,
        metrics: &Metrics,
        clock: &VersionClock,
        shutdown: &Shutdown,
    ) {
        while !shutdown.begun() {
            metrics.show_clock(clock.ahead_ms());
            self.look(storage, metrics);
            tokio::select! {
                _ = shutdown.sleep(LOOK_EVERY) => {}
                () = changed(self.map_store.as_mut().map(|(_, link)| link)) => {}
            }
        }
    }

    fn look(&mut self, storage: &Guarded, metrics: &Metrics) {
        let usage = storage.usage();
        metrics.show(&usage);
        metrics.show_stuck(storage.stuck());
        self.storage.set(storage.hangs().or(usage.read_only).map_or(Ok(()), Err));
        if let Some((condition, link)) = &mut self.map_store {
            let link = *link.borrow_and_update();
            condition.set(match link {
                Link::Up => Ok(()),
                Link::Down => Err("not reached".to_owned()),
            });
        }
    }
}

/// Waits for the link to change; for ever where there is none or nobody changes it any more.
async fn changed(link: Option<&mut watch::Receiver<Link>>) {
    if let Some(link) = link
        && link.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
