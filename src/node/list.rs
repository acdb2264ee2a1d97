//! `GET /-/list`, `GET /-/damaged`: what is stored, and what of it is damaged, page by page, one JSON object a line.

use http::{HeaderValue, StatusCode, header};

use serde::Serialize;

use super::{
    Node,
    refusal::Refusal,
    target::{DamagedQuery, ListQuery},
};
use crate::{
    http::{Answer, Body, reply},
    storage::StorageError,
};

/// Answers one page; the next begins after its last key.
pub async fn list(node: &Node, query: &ListQuery) -> Result<Answer, Refusal> {
    lines(&node.storage.list(&query.prefix, query.after.as_deref(), query.limit).await?)
}

/// As [`list`], of what is damaged.
pub async fn damaged(node: &Node, query: &DamagedQuery) -> Result<Answer, Refusal> {
    lines(&node.storage.damaged(query.after, query.limit).await?)
}

/// One JSON object a line.
pub fn lines(page: &[impl Serialize]) -> Result<Answer, Refusal> {
    let mut lines = Vec::new();
    for line in page {
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
