//! Announcements: ephemeral znodes, which live as long as the session that made them. A new session makes them again.

use std::{sync::Arc, time::Duration};

use zookeeper_client::{Client, CreateMode, Error};

use super::{Shared, error::to_store_error};
use crate::cluster::{StoreError, path};

/// Before announcements are tried again that could not be made.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How often others may be faster at the same znode before we give up for now.
const MAX_CONFLICTS: usize = 10;

/// Makes what is announced stand in each session, until the store object is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut client = shared.client.subscribe();
    loop {
        let mut all_stand = true;
        if client.borrow_and_update().is_some() {
            for path in shared.wanted.paths() {
                if let Err(error) = shared.repeat(|client| shared.reconcile(client, &path, false)).await {
                    tracing::debug!("{path} is still not as announced: {error}");
                    all_stand = false;
                }
            }
        }
        tokio::select! {
            Ok(()) = client.changed() => {}
            () = shared.announce_again.notified() => {}
            () = tokio::time::sleep(AGAIN_AFTER), if !all_stand => {}
        }
    }
}

impl Shared {
    /// Makes the znode of a path what is wanted, within the operation timeout; else the task goes on trying.
    pub(super) async fn reconcile_now(&self, path: &str, take_over: bool) -> Result<(), StoreError> {
        let result = self.repeat(|client| self.reconcile(client, path, take_over)).await;
        if result.is_err() {
            self.announce_again.notify_one();
        }
        result
    }

    /// Makes the znode of a path what is wanted. One that another process made is left alone unless `take_over`.
    async fn reconcile(&self, client: Client, path: &str, take_over: bool) -> Result<(), StoreError> {
        let _alone = self.announcing.lock().await;
        let absolute = self.root.absolute(path);
        for _ in 0..MAX_CONFLICTS {
            match self.step(&client, path, &absolute, take_over).await {
                Ok(true) => return Ok(()),
                Ok(false) | Err(Error::NodeExists | Error::BadVersion) => {}
                Err(Error::NoNode) => {
                    return Err(StoreError::NotInitialised { path: self.root.absolute("/") });
                }
                Err(error) => return Err(to_store_error(path, error)),
            }
        }
        Err(StoreError::Conflict { path: path.to_owned() })
    }

    /// One step towards what is wanted; `true` when it is reached.
    async fn step(
        &self,
        client: &Client,
        path: &str,
        absolute: &str,
        take_over: bool,
    ) -> Result<bool, Error> {
        let Some(wanted) = self.wanted.get(path) else { return Ok(true) };
        let found = match client.get_data(absolute).await {
            Ok((data, stat)) => Some((data, stat)),
            Err(Error::NoNode) => None,
            Err(error) => return Err(error),
        };
        match (wanted, found) {
            (None, Some((_, stat))) if self.is_ours(stat.ephemeral_owner) => {
                delete(client, absolute, stat.version).await?;
            }
            (None, _) => {
                self.wanted.gone(path);
                return Ok(true);
            }
            (Some(data), None) => {
                match client.create(absolute, &data, &self.create_options(CreateMode::Ephemeral)).await {
                    Ok(_) => return Ok(true),
                    // The original's command makes no `/live`.
                    Err(Error::NoNode) => self.make(client, path::parent(absolute)).await?,
                    Err(error) => return Err(error),
                }
            }
            (Some(data), Some((found, stat))) if stat.ephemeral_owner == client.session_id().0 => {
                if found == data {
                    return Ok(true);
                }
                match client.set_data(absolute, &data, Some(stat.version)).await {
                    Ok(_) | Err(Error::NoNode) => {}
                    Err(error) => return Err(error),
                }
            }
            // One of an older session of ours, which the server has not yet given up, or of another process.
            (Some(data), Some((_, stat))) => {
                if !take_over && !self.is_ours(stat.ephemeral_owner) {
                    return Ok(true);
                }
                return self.replace(client, absolute, &data, stat.version).await;
            }
        }
        Ok(false)
    }

    /// Makes a znode of another session ours. At once: else the other one, which sees it deleted, makes it again.
    async fn replace(
        &self,
        client: &Client,
        absolute: &str,
        data: &[u8],
        version: i32,
    ) -> Result<bool, Error> {
        let mut multi = client.new_multi_writer();
        multi.add_delete(absolute, Some(version))?;
        multi.add_create(absolute, data, &self.create_options(CreateMode::Ephemeral))?;
        match multi.commit().await.map_err(Error::from) {
            Ok(_) => Ok(true),
            Err(Error::NoNode) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_ours(&self, session: i64) -> bool {
        self.sessions.lock().contains(&session)
    }
}

async fn delete(client: &Client, absolute: &str, version: i32) -> Result<(), Error> {
    match client.delete(absolute, Some(version)).await {
        Ok(()) | Err(Error::NoNode) => Ok(()),
        Err(error) => Err(error),
    }
}
