//! Makes a stored upload safe: the copies its level asks for, and a durable task for each copy still missing; where no
//! queue takes the tasks, the copies themselves. Then the answer.

use std::sync::Arc;

use futures_util::future::join_all;
use http::{StatusCode, header};

use super::{
    Coordinator,
    error::RequestError,
    fanout::Reached,
    fleet::Door,
    tasks::{PushedAhead, TaskOrigin},
    usage::Reservation,
};
use crate::{
    client::{Copied, CopyPlan, Unpaced},
    http::{
        Answer, RequestId,
        headers::{self, set},
        reply,
    },
    model::{Checksum, ClusterMap, Key, Server, ServerId, Shard, ShardId, Task, Version},
};

/// What the original answers.
#[derive(serde::Serialize)]
struct Stored<'a> {
    shard_id: &'a ShardId,
}

/// An upload that is stored on at least one server.
pub(super) struct Finish {
    /// Copies its level asks for.
    pub wanted: usize,
    /// Bytes.
    pub length: u64,
    /// Of the whole body.
    pub checksum: Checksum,
    /// The map it was placed by.
    pub map: Arc<ClusterMap>,
    /// Where it was placed.
    pub shard: Arc<Shard>,
    /// Its key.
    pub key: Key,
    /// Its version.
    pub version: Version,
    /// The request.
    pub id: RequestId,
}

impl Finish {
    /// Does what is left to do and answers. What was pushed `ahead` and is not what came about is called off.
    pub async fn run(
        self,
        coordinator: &Coordinator,
        reached: Reached,
        reservation: Reservation,
        ahead: Option<PushedAhead>,
    ) -> Result<Answer, RequestError> {
        let delta = self.size_delta(&reached);
        let mut have: Vec<Arc<Server>> =
            reached.stored.iter().map(|(server, _)| Arc::clone(server)).collect();
        let mut newer = None;
        if have.len() < self.wanted {
            // Those that are down would hold the client up; they get tasks.
            newer = self
                .copy_to_missing(coordinator, &mut have, |server| {
                    !coordinator.fleet.is_down(server, Door::Write)
                })
                .await;
        }
        let holders: Vec<ServerId> = have.iter().map(|server| server.id.clone()).collect();
        let ahead = ahead.filter(|ahead| holders.iter().eq([&ahead.holder]));
        let ahead = ahead.map(|ahead| ahead.push);
        let pushed = coordinator.push_on(ahead, || self.tasks(&have, &holders), &holders).await;
        if let Err(why) = pushed {
            newer = newer.max(self.copy_to_missing(coordinator, &mut have, |_| true).await);
            if newer.is_none() && have.len() < self.shard.servers.len() {
                // It stays where it is. A tombstone in its place would hide an older blob that a server out of reach
                // holds, and delete it in the end.
                reservation.settle(delta);
                return Err(RequestError::NotSafe(why));
            }
        }
        reservation.settle(delta);
        coordinator.counted.reached(have.len());
        if let Some(held) = newer {
            return Err(RequestError::Superseded { held });
        }
        if have.len() < self.wanted {
            return Err(RequestError::LevelNotReached { reached: have.len(), wanted: self.wanted });
        }
        coordinator.totals.upload(self.length);
        coordinator.counted.taken(self.length);
        Ok(self.answer(have.len()))
    }

    /// What the upload adds to the shard's used bytes. An older blob may be on some of the servers only, its other copies
    /// still to be made.
    fn size_delta(&self, reached: &Reached) -> i64 {
        let replaced = reached.stored.iter().map(|(_, stored)| stored.replaced).max().unwrap_or(0);
        self.length as i64 - replaced as i64
    }

    fn missing<'a>(&'a self, have: &[Arc<Server>]) -> Vec<&'a ServerId> {
        self.shard.servers.iter().filter(|id| !have.iter().any(|server| server.id == **id)).collect()
    }

    fn tasks(&self, have: &[Arc<Server>], from: &[ServerId]) -> Vec<Task> {
        let origin =
            TaskOrigin { shard: &self.shard.id, key: &self.key, version: Some(self.version), id: &self.id };
        self.missing(have).into_iter().map(|to| origin.copy(from, to, self.length)).collect()
    }

    /// Copies to every server that lacks the blob and is `wanted`, all at once; those that take it are added to `have`. The newest
    /// version that one of them keeps instead.
    async fn copy_to_missing(
        &self,
        coordinator: &Coordinator,
        have: &mut Vec<Arc<Server>>,
        wanted: impl Fn(&ServerId) -> bool,
    ) -> Option<Version> {
        let sources = have.clone();
        let missing = self.missing(have).into_iter().filter(|id| wanted(id));
        let targets = missing.filter_map(|id| self.map.servers.get(id));
        let copies = targets.map(|target| {
            let plan = CopyPlan {
                key: &self.key,
                version: Some(self.version),
                sources: &sources,
                target,
                patience: None,
                is_new: false,
            };
            async move { (target, coordinator.servers.copy(&plan, &Unpaced, &self.id).await) }
        });
        let mut newest = None;
        for (target, result) in join_all(copies).await {
            match result {
                Ok(Copied::Newer(held)) => newest = newest.max(Some(held)),
                Ok(_) => have.push(Arc::clone(target)),
                Err(error) => {
                    let (server, request_id, key) = (&target.id, &self.id, &self.key);
                    tracing::warn!(%server, %error, %request_id, %key, "direct copy failed");
                }
            }
        }
        newest
    }

    fn answer(&self, copies: usize) -> Answer {
        let mut answer = reply::json(StatusCode::OK, &Stored { shard_id: &self.shard.id });
        let to = answer.headers_mut();
        set(to, header::ETAG, format_args!("\"{}\"", self.version));
        set(to, headers::VERSION, self.version);
        set(to, header::LOCATION, format_args!("/{}:{}", self.shard.id, self.key));
        set(to, headers::COPIES, format_args!("{copies}/{}", self.shard.servers.len()));
        set(to, headers::CHECKSUM, self.checksum);
        answer
    }
}
