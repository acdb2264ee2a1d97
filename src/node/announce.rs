//! A node's entry under `/live`: it stands while the node serves and is gone before it stops.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use super::identity::ClaimError;
use crate::{
    cluster::{LIVE, MapStore, StoreError},
    daemon::{Backoff, Shutdown, unix_ms},
    model::ServerId,
    storage::Storage,
};

/// Under which id a node announces itself, and where.
#[derive(Clone)]
pub struct Live {
    /// Its id in the map of servers.
    pub id: ServerId,
    /// The store of the maps.
    pub store: Arc<dyn MapStore>,
}

/// How old the announced free space may be: coordinators need it only to see in time that a disk fills up.
const RENEW_EVERY: Duration = Duration::from_secs(60);

/// Between tries to announce while the store is not reached.
pub const RETRY: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(15) };

impl Live {
    fn path(&self) -> String {
        format!("{LIVE}/{}", self.id)
    }

    /// Announces the node and keeps its entry current until the shutdown begins. The node serves meanwhile, whether or
    /// not the store is reached. An error if another storage has the id: then it is not announced.
    pub async fn keep(
        &self,
        addr: SocketAddr,
        storage: &dyn Storage,
        shutdown: &Shutdown,
    ) -> Result<(), ClaimError> {
        let (path, started) = (self.path(), unix_ms());
        let (mut failures, mut is_ours) = (0, false);
        while !shutdown.begun() {
            let announce = async {
                if !is_ours {
                    self.claim(storage.id(), false).await?;
                    is_ours = true;
                }
                Ok(self.store.announce(&path, document(addr, started, storage)).await?)
            };
            let announced = tokio::select! {
                announced = announce => announced,
                // The withdrawal overtakes it.
                () = shutdown.wait() => return Ok(()),
            };
            let wait = match announced {
                Ok(()) => {
                    failures = 0;
                    RENEW_EVERY
                }
                Err(held @ ClaimError::Held { .. }) => return Err(held),
                Err(ClaimError::Store(error)) => {
                    failures += 1;
                    note(&self.id, &error, failures);
                    RETRY.jittered(failures)
                }
            };
            shutdown.sleep(wait).await;
        }
        Ok(())
    }

    /// Removes the entry. Where that fails, it goes with the session.
    pub async fn withdraw(&self) {
        if let Err(error) = self.store.withdraw(&self.path()).await {
            tracing::warn!(id = %self.id, %error, "the node's entry under /live was not removed");
        }
    }
}

/// The first failure is news; that it goes on is not.
fn note(id: &ServerId, error: &StoreError, failures: u32) {
    if failures == 1 {
        tracing::warn!(%id, %error, "the node cannot announce itself; it serves and tries again");
    } else {
        tracing::debug!(%id, %error, failures, "the node still cannot announce itself");
    }
}

fn document(addr: SocketAddr, started_ms: u64, storage: &dyn Storage) -> Bytes {
    let document = serde_json::json!({
        "addr": addr.to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "started": started_ms,
        "free_bytes": storage.usage().free_bytes,
    });
    document.to_string().into()
}
