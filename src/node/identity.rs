//! Which storage serves under a server's id: `/storages/<id>` in the map store says, from the node's first start on. So a
//! directory whose disk is not mounted, or the disk of another node, is never taken for the node.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::announce::{Live, RETRY};
use crate::{
    cluster::{Edit, Entry, STORAGES, StoreError},
    daemon::Shutdown,
    model::Version,
    storage::Storage,
};

/// Two nodes that are started with one id at the same moment are told apart at the second try.
const MAX_TRIES: usize = 8;

#[derive(Serialize, Deserialize)]
struct Document {
    /// The storage's id.
    storage: Version,
}

/// Why a storage may not serve under an id.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another one does.
    #[error(
        "server {id} kept its blobs in another storage ({held}; this is {storage}): is the right disk mounted? If the other \
         one is gone for good, start once with --replace-storage"
    )]
    Held {
        /// The id.
        id: crate::model::ServerId,
        /// The storage it is known by.
        held: Version,
        /// The one that was opened.
        storage: Version,
    },
    /// It cannot be told.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Live {
    /// Sees before anything is served that this storage is the one of this id, or takes the id where nobody has it;
    /// `replace`: from whoever has it. A storage with blobs in it need not wait for the map store: it is seen later, before
    /// the node is announced.
    pub async fn settle(
        &self,
        storage: &dyn Storage,
        replace: bool,
        shutdown: &Shutdown,
    ) -> Result<(), ClaimError> {
        let is_empty = storage.usage().volumes == 0;
        let mut failures = 0;
        while !shutdown.begun() {
            match self.claim(storage.id(), replace).await {
                // The cluster is not there yet, so neither is another storage.
                Ok(()) | Err(ClaimError::Store(StoreError::NotInitialised { .. })) => return Ok(()),
                Err(ClaimError::Store(error)) if is_empty || replace => {
                    if failures == 0 {
                        tracing::warn!(
                            id = %self.id, %error,
                            "the storage is empty, and only the map store knows whether it should be: waiting for it"
                        );
                    }
                }
                Err(ClaimError::Store(_)) => return Ok(()),
                Err(held) => return Err(held),
            }
            failures += 1;
            shutdown.sleep(RETRY.jittered(failures)).await;
        }
        Ok(())
    }

    /// Notes that this storage serves under the id.
    pub async fn claim(&self, storage: Version, replace: bool) -> Result<(), ClaimError> {
        let path = format!("{STORAGES}/{}", self.id);
        let data: Bytes = serde_json::json!(Document { storage }).to_string().into();
        let mut conflict = None;
        for _ in 0..MAX_TRIES {
            let edits = match self.store.get(&path).await? {
                Some(Entry { data: held, version }) => match held_by(&path, &held)? {
                    held if held == storage => return Ok(()),
                    held if !replace => return Err(ClaimError::Held { id: self.id.clone(), held, storage }),
                    _ => vec![Edit::Set { path: path.clone(), data: data.clone(), version }],
                },
                None => {
                    let mut edits = vec![Edit::Create { path: path.clone(), data: data.clone() }];
                    if self.store.get(STORAGES).await?.is_none() {
                        edits.insert(0, Edit::Create { path: STORAGES.to_owned(), data: Bytes::new() });
                    }
                    edits
                }
            };
            match self.store.commit(&edits).await {
                Err(error @ StoreError::Conflict { .. }) => conflict = Some(error),
                done => return Ok(done?),
            }
        }
        Err(conflict.unwrap_or(StoreError::Conflict { path }).into())
    }
}

fn held_by(path: &str, data: &[u8]) -> Result<Version, StoreError> {
    let document: Result<Document, _> = serde_json::from_slice(data);
    let flaw =
        |error| StoreError::Invalid(format!("{path} cannot be read ({error}): mend or remove it by hand"));
    document.map(|document| document.storage).map_err(flaw)
}
