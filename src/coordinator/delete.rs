//! DELETE of `/<shard>:<key>`: a tombstone on enough servers, a task for each of the others.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use super::{
    Coordinator,
    error::{RequestError, Tried},
    fleet::Door,
    tasks::TaskOrigin,
    upload::{MAX_VERSIONS_TRIED, write_level},
};
use crate::{
    client::ServerError,
    http::{Answer, RequestId, headers, reply},
    model::{Key, Server, ServerId, Shard, ShardId, Task, Version, WriteLevel},
};

/// One delete on its way.
struct Delete<'a> {
    shard: &'a Shard,
    key: &'a Key,
    version: Version,
    versions_tried: usize,
    id: &'a RequestId,
    done: Vec<ServerId>,
    failed: Tried,
    freed: u64,
}

impl Coordinator {
    /// Deletes a blob. Deleting what is not there is no error: a copy of it may still be on its way, and the
    /// tombstones stop it.
    pub(super) async fn delete(
        self: &Arc<Self>,
        shard: ShardId,
        key: Key,
        asked: &HeaderMap,
        id: &RequestId,
    ) -> Result<Answer, RequestError> {
        let map = self.known_map().await?;
        let shard = self.find_shard(&map, shard)?;
        let level = write_level(&map, &shard.pool, asked)?;
        let servers = self.order_for_write(&map, &shard, true);
        let coordinator = Arc::clone(self);
        let id = id.clone();
        // A task of its own: a client that goes away must not leave a delete half made.
        let work = async move {
            let version = coordinator.clock.next();
            let delete = Delete {
                shard: &shard,
                key: &key,
                version,
                versions_tried: 1,
                id: &id,
                done: Vec::new(),
                failed: Tried::default(),
                freed: 0,
            };
            delete.run(&coordinator, &servers, level).await
        };
        self.tasks.spawn(work).await.unwrap_or_else(|error| Err(RequestError::Internal(error.to_string())))
    }
}

impl Delete<'_> {
    async fn run(
        mut self,
        coordinator: &Coordinator,
        servers: &[Arc<Server>],
        level: WriteLevel,
    ) -> Result<Answer, RequestError> {
        let wanted = level.copies(self.shard.servers.len());
        let mut rest = servers.iter();
        while self.done.len() < wanted {
            let Some(server) = rest.next() else { break };
            // Where the others are enough, one that is silent is left to its task.
            let others =
                rest.as_slice().iter().filter(|other| !coordinator.fleet.is_down(&other.id, Door::Write));
            let patience =
                (others.count() >= wanted - self.done.len()).then(|| coordinator.config.patience());
            if let Err(held) = self.delete_on(coordinator, server, patience).await {
                self.outrun(coordinator, held)?;
                rest = servers.iter();
            }
        }
        if self.done.is_empty() {
            return Err(self.nothing_done());
        }
        coordinator.usage.add(&self.shard.id, -i64::try_from(self.freed).unwrap_or(i64::MAX));
        if let Err(why) = coordinator.push(self.tasks(), &self.done).await {
            for server in rest {
                // Where a newer version stays, it is not done.
                let _ = self.delete_on(coordinator, server, None).await;
            }
            if self.done.len() < self.shard.servers.len() {
                return Err(RequestError::NotSafe(why));
            }
        }
        if self.done.len() < wanted {
            return Err(RequestError::LevelNotReached { reached: self.done.len(), wanted });
        }
        Ok(self.answer())
    }

    /// A newer version came in between: begins again with a version beyond that one.
    fn outrun(&mut self, coordinator: &Coordinator, held: Version) -> Result<(), RequestError> {
        coordinator.follow(held);
        if self.versions_tried == MAX_VERSIONS_TRIED {
            return Err(RequestError::Superseded { held });
        }
        self.versions_tried += 1;
        self.version = coordinator.clock.next();
        self.done.clear();
        Ok(())
    }

    /// The error is the newer version that the server keeps. A server that fails is noted, and one that takes longer than
    /// the patience.
    async fn delete_on(
        &mut self,
        coordinator: &Coordinator,
        server: &Server,
        patience: Option<Duration>,
    ) -> Result<(), Version> {
        let in_flight = coordinator.fleet.begin(&server.id, Door::Write);
        let deleting = coordinator.servers.delete(server, self.key, self.version, self.id);
        let deleted = match patience {
            None => deleting.await,
            Some(patience) => timeout(patience, deleting).await.unwrap_or(Err(ServerError::Slow(patience))),
        };
        drop(in_flight);
        match deleted {
            Ok(deleted) => {
                coordinator.fleet.succeeded(&server.id, Door::Write);
                self.freed = self.freed.max(deleted.replaced);
                if let Some(seen) = deleted.clock {
                    coordinator.clock.follow(seen);
                }
                if let Some(held) = deleted.version.filter(|held| *held > self.version) {
                    return Err(held);
                }
                self.done.push(server.id.clone());
            }
            Err(error) => {
                coordinator.fleet.failed(&server.id, Door::Write, &error);
                let (server, request_id, key) = (&server.id, self.id, self.key);
                tracing::warn!(%server, %error, %request_id, %key, "server did not take the delete");
                self.failed.0.push((server.clone(), error));
            }
        }
        Ok(())
    }

    fn nothing_done(self) -> RequestError {
        let cannot = |(_, error): &(ServerId, ServerError)| matches!(error, ServerError::Unsupported(_));
        if !self.failed.0.is_empty() && self.failed.0.iter().all(cannot) {
            RequestError::CannotDelete(self.failed)
        } else {
            RequestError::NoAnswer(self.failed)
        }
    }

    fn tasks(&self) -> Vec<Task> {
        let origin =
            TaskOrigin { shard: &self.shard.id, key: self.key, version: Some(self.version), id: self.id };
        let missing = self.shard.servers.iter().filter(|id| !self.done.contains(id));
        missing.map(|to| origin.delete(to)).collect()
    }

    fn answer(&self) -> Answer {
        let mut answer = reply::empty(StatusCode::NO_CONTENT);
        let to = answer.headers_mut();
        headers::set(to, headers::VERSION, self.version);
        let copies = format_args!("{}/{}", self.done.len(), self.shard.servers.len());
        headers::set(to, headers::COPIES, copies);
        answer
    }
}
