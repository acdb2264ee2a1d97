//! Keeps the claims of long copies ours: one timer for all of them.

use std::{sync::Arc, time::Duration};

use super::{in_flight::InFlight, metrics};
use crate::queue::Queue;

/// Renews the leases of all claims at hand, each third of the lease, for ever: two renewals may fail before others take a
/// task over.
pub(super) async fn keep(in_flight: Arc<InFlight>, queue: Arc<dyn Queue>, lease: Duration) {
    let mut every = tokio::time::interval(lease / 3);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let claims = in_flight.claims();
        if claims.is_empty() {
            continue;
        }
        if let Err(error) = queue.renew(&claims).await {
            metrics::queue_failed("renew");
            tracing::warn!(%error, claims = claims.len(), "leases were not renewed");
        }
    }
}
