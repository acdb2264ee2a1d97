//! Reads through the coordinator, for those who have no nginx in front: the servers of the shard in turn. A server that
//! should have the blob and has not gets a task to be repaired.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use parking_lot::Mutex;

use super::{
    Coordinator,
    error::{RequestError, Tried},
    freshness,
    tasks::TaskOrigin,
};
use crate::{
    client::{Answered, Fetched, ServerError},
    http::{Answer, Body, RequestId, headers, reply},
    model::{ClusterMap, Key, Server, ServerId, Shard, ShardId, Task, Version},
};

/// What a client may ask beside the key; passed on to the server.
const ASKED: [HeaderName; 6] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// What a server says of a blob; passed on to the client, beside `x-amz-*` and `x-backpack-*`.
const ANSWERED: [HeaderName; 10] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_ENCODING,
    header::CONTENT_DISPOSITION,
    header::CACHE_CONTROL,
    header::ACCEPT_RANGES,
    header::ETAG,
    header::LAST_MODIFIED,
    header::EXPIRES,
];

/// One repair of a key on a server is asked for at most this often, however often it is read meanwhile.
const REPAIR_EVERY: Duration = Duration::from_secs(60);

/// Repairs remembered; past that a few may be asked for twice, which is harmless.
const MAX_REPAIRS_REMEMBERED: usize = 10_000;

/// Repairs asked for lately.
#[derive(Default)]
pub(super) struct Repairs(Mutex<HashMap<(Key, ServerId), Instant>>);

impl Repairs {
    /// Whether this repair is to be asked for now.
    fn is_due(&self, key: &Key, server: &Server) -> bool {
        let mut asked = self.0.lock();
        if asked.len() >= MAX_REPAIRS_REMEMBERED {
            asked.retain(|_, at| at.elapsed() < REPAIR_EVERY);
            if asked.len() >= MAX_REPAIRS_REMEMBERED {
                asked.clear();
            }
        }
        let entry = asked.entry((key.clone(), server.id.clone()));
        match entry {
            std::collections::hash_map::Entry::Occupied(mut at) if at.get().elapsed() >= REPAIR_EVERY => {
                at.insert(Instant::now());
                true
            }
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(Instant::now());
                true
            }
        }
    }

    /// These were not asked for after all.
    fn forget(&self, tasks: &[Task]) {
        let mut asked = self.0.lock();
        for task in tasks {
            asked.remove(&(task.key.clone(), task.to.clone()));
        }
    }
}

impl Coordinator {
    /// Answers GET and HEAD of `/<shard>:<key>`.
    pub(super) async fn read(
        self: &Arc<Self>,
        shard: ShardId,
        key: Key,
        method: Method,
        asked: &HeaderMap,
        id: &RequestId,
    ) -> Result<Answer, RequestError> {
        let map = self.known_map().await?;
        let shard = self.find_shard(&map, shard)?;
        let conditions = headers::pick(asked, &ASKED);
        let mut lacking = Vec::new();
        let mut tried = Tried::default();
        let servers = self.order_servers(&map, &shard, true);
        for server in servers.into_iter().filter(|server| shard.is_read(&server.id)) {
            match self.fetch(&server, &key, &method, &conditions, id).await {
                Ok(Answered::Blob(blob)) => {
                    self.fleet.succeeded(&server.id);
                    self.read_version(blob.version());
                    self.repair(&shard, &key, blob.version(), &server, lacking, id);
                    return Ok(pass_on(blob, &method));
                }
                Ok(Answered::Deleted(version)) => {
                    self.read_version(version);
                    return Ok(gone(version));
                }
                Err(ServerError::Missing) => lacking.push(server),
                Err(ServerError::Precondition) => return Err(RequestError::Precondition),
                Err(error) => {
                    self.fleet.failed(&server.id, &error);
                    tried.0.push((server.id.clone(), error));
                }
            }
        }
        let unknown = shard.servers.iter().filter(|id| shard.is_read(id) && !map.servers.contains_key(*id));
        tried.0.extend(unknown.map(|id| (id.clone(), ServerError::Unreachable("not in the map".to_owned()))));
        // One server that did not answer may be the one that has it: "not found" would be a lie.
        if tried.0.is_empty() {
            Err(RequestError::Missing(shard.id.clone()))
        } else {
            Err(RequestError::NoAnswer(tried))
        }
    }

    /// Whoever read this and writes here then means to write something newer.
    fn read_version(&self, version: Option<Version>) {
        if let Some(version) = version {
            self.clock.follow(version);
        }
    }

    /// The shard of this id. A map that is not current does not prove that there is none.
    pub(super) fn find_shard(&self, map: &ClusterMap, id: ShardId) -> Result<Arc<Shard>, RequestError> {
        match (map.shards.get(&id), freshness(self.view.state())) {
            (Some(shard), _) => Ok(Arc::clone(shard)),
            (None, Ok(())) => Err(RequestError::UnknownShard(id)),
            (None, Err(why)) => Err(RequestError::MapNotCurrent { shard: id, why }),
        }
    }

    async fn fetch(
        &self,
        server: &Server,
        key: &Key,
        method: &Method,
        conditions: &HeaderMap,
        id: &RequestId,
    ) -> Result<Answered, ServerError> {
        match self.servers.get(server, key, method.clone(), conditions, id).await {
            // The original's node knows no HEAD.
            Err(ServerError::Unsupported(_)) if *method == Method::HEAD => {
                self.servers.get(server, key, Method::GET, conditions, id).await
            }
            answer => answer,
        }
    }

    /// Queues the copies that a read found missing, without holding the read up.
    fn repair(
        self: &Arc<Self>,
        shard: &Shard,
        key: &Key,
        version: Option<Version>,
        source: &Server,
        lacking: Vec<Arc<Server>>,
        id: &RequestId,
    ) {
        let due = lacking.into_iter().filter(|server| self.repairs.is_due(key, server));
        let origin = TaskOrigin { shard: &shard.id, key, version, id };
        let from = std::slice::from_ref(&source.id);
        let tasks: Vec<Task> = due.map(|to| origin.copy(from, &to.id, 0)).collect();
        if tasks.is_empty() {
            return;
        }
        metrics::counter!("backpack_coordinator_read_repairs_total").increment(tasks.len() as u64);
        let (coordinator, source) = (Arc::clone(self), source.id.clone());
        self.tasks.spawn(async move {
            if let Err(error) = coordinator.push(tasks.clone(), &[source]).await {
                tracing::warn!(error, "a missing copy could not be queued; the next read asks again");
                coordinator.repairs.forget(&tasks);
            }
        });
    }
}

fn pass_on(blob: Fetched, method: &Method) -> Answer {
    let mut to = headers::pick(&blob.headers, &ANSWERED);
    for (name, value) in &blob.headers {
        if name.as_str().starts_with("x-amz-") || name.as_str().starts_with("x-backpack-") {
            to.append(name, value.clone());
        }
    }
    let status = blob.status;
    let body = if *method == Method::HEAD { Body::Empty } else { blob.into_body() };
    let mut answer = Answer::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = to;
    answer
}

/// 410: deleted.
fn gone(version: Option<Version>) -> Answer {
    let mut answer = reply::error(StatusCode::GONE, "it was deleted");
    if let Some(version) = version {
        headers::set(answer.headers_mut(), headers::VERSION, version);
    }
    answer
}
