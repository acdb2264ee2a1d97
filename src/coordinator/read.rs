//! Reads through the coordinator, for those who have no nginx in front. A server that should have the blob and has not gets
//! a task to be repaired.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::{
    Coordinator,
    ask::{Asked, Question, Said},
    error::RequestError,
    freshness,
};
use crate::{
    client::{Fetched, ServerError},
    http::{Answer, Body, RequestId, headers, reply},
    model::{ClusterMap, Key, Shard, ShardId, Version},
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
        let servers = self.order_for_read(&map, &shard);
        let Asked { said, lacking, mut tried } =
            self.ask(servers, &Question { key: &key, method: &method, conditions: &conditions, id }).await;
        match said {
            Said::Blob(server, blob) => {
                self.read_version(blob.version());
                self.repair(&shard, &key, blob.version(), &server, lacking, id);
                return Ok(pass_on(blob, &method));
            }
            Said::Deleted(version) => {
                self.read_version(version);
                return Ok(gone(version));
            }
            Said::Precondition => return Err(RequestError::Precondition),
            Said::Nothing => {}
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
