//! `GET /-/list`: what is stored, page by page, one JSON object a line.

use http::{HeaderValue, StatusCode, header};

use super::{Node, refusal::Refusal, target::ListQuery};
use crate::{
    http::{Answer, Body, reply},
    storage::StorageError,
};

/// Answers one page; the next begins after its last key.
pub async fn list(node: &Node, query: &ListQuery) -> Result<Answer, Refusal> {
    let listed = node.storage.list(&query.prefix, query.after.as_deref(), query.limit).await?;
    let mut lines = Vec::new();
    for line in &listed {
        serde_json::to_writer(&mut lines, line).map_err(|error| StorageError::Io {
            context: "write a line of the listing".to_owned(),
            source: error.into(),
        })?;
        lines.push(b'\n');
    }
    let mut answer = reply::empty(StatusCode::OK);
    *answer.body_mut() = Body::from(bytes::Bytes::from(lines));
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    answer.headers_mut().insert(header::CONTENT_TYPE, ndjson);
    Ok(answer)
}
