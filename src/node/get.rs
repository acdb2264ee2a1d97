//! GET and HEAD of a blob.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;

use super::{
    Node,
    conditions::{self, Intent, Part, Verdict},
    head,
    metrics::Metrics,
    refusal::Refusal,
};
use crate::{
    http::{Answer, Body, Head, body::BoxError, plain::Reply, reply},
    model::{Key, range::Span},
    storage::{Blob, BlobInfo, Found, READ_CHUNK_BYTES, StorageError},
};

/// Answers HEAD: what GET without a range would say.
pub async fn head(node: &Node, key: &Key, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let blob = find(node, key).await?;
    let info = blob.info();
    if let Some(answer) = weigh(&*blob, headers)? {
        return Ok(answer);
    }
    let mut answer = reply::empty(StatusCode::OK);
    head::write_whole(info, answer.headers_mut());
    Ok(answer)
}

/// Answers GET of a whole blob, whatever the reader has already.
pub async fn whole(node: &Node, key: &Key) -> Result<Reply, Refusal> {
    if let Some(blob) = node.storage.at_hand(key) {
        let head = Head::begun_with(blob.label(|info| whole_head(info).into_bytes()));
        node.metrics.sent(blob.data().len());
        return Ok(Reply::Whole { head, body: blob.data().clone().into(), length: blob.info().length });
    }
    let blob = find(node, key).await?;
    let length = blob.info().length;
    let head = whole_head(blob.info());
    let body = Sender::new(node, key, blob, Span { start: 0, end: length }).into_body().await?;
    Ok(Reply::Whole { head, body, length })
}

fn whole_head(info: &BlobInfo) -> Head {
    let mut head = Head::answer(StatusCode::OK);
    head::write_whole(info, &mut head);
    head
}

/// Answers GET.
pub async fn get(node: &Node, key: &Key, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let blob = find(node, key).await?;
    let info = blob.info();
    if let Some(answer) = weigh(&*blob, headers)? {
        return Ok(answer);
    }
    let mut answer = reply::empty(StatusCode::OK);
    let span = match conditions::part(headers, info.version, info.length) {
        Part::Whole => {
            head::write_whole(info, answer.headers_mut());
            Span { start: 0, end: info.length }
        }
        Part::Span(span) => {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            head::write_part(info, span, answer.headers_mut());
            span
        }
        Part::Unsatisfiable => return Err(Refusal::Unsatisfiable { length: info.length }),
    };
    *answer.body_mut() = Sender::new(node, key, blob, span).into_body().await?;
    Ok(answer)
}

async fn find(node: &Node, key: &Key) -> Result<Box<dyn Blob>, Refusal> {
    match node.storage.open(key).await? {
        Some(Found::Blob(blob)) => Ok(blob),
        Some(Found::Tombstone(version)) => Err(Refusal::Deleted(version)),
        None => Err(Refusal::Missing),
    }
}

/// The answer that the conditions ask for instead of the blob, if they do.
fn weigh(blob: &dyn Blob, headers: &HeaderMap) -> Result<Option<Answer>, Refusal> {
    let version = blob.info().version;
    match conditions::check(headers, Intent::Read, Some(version)) {
        Verdict::Proceed => Ok(None),
        Verdict::Failed => Err(Refusal::Precondition(Some(version))),
        Verdict::NotModified => {
            let mut answer = reply::empty(StatusCode::NOT_MODIFIED);
            head::write_not_modified(blob.info(), answer.headers_mut());
            Ok(Some(answer))
        }
    }
}

/// A blob on its way out.
struct Sender {
    blob: Box<dyn Blob>,
    /// What is still to be read.
    rest: Span,
    key: Key,
    metrics: Arc<Metrics>,
}

impl Sender {
    fn new(node: &Node, key: &Key, blob: Box<dyn Blob>, span: Span) -> Self {
        Self { blob, rest: span, key: key.clone(), metrics: node.metrics.clone() }
    }

    /// The first chunk is read before the head is sent, so that damage there is still an answer. Later chunks are read
    /// when the connection has room for them: it holds at most one, and one more is on its way to it.
    async fn into_body(mut self) -> Result<Body, StorageError> {
        let first = self.next().await?;
        if self.is_done() {
            return Ok(first.unwrap_or_default().into());
        }
        let rest = stream::try_unfold((first, self), |(ready, mut sender)| async move {
            let bytes = match ready {
                Some(bytes) => Some(bytes),
                None => sender.next().await.map_err(|error| sender.cut(error))?,
            };
            Ok(bytes.map(|bytes| (Frame::data(bytes), (None, sender))))
        });
        Ok(Body::stream(StreamBody::new(rest)))
    }

    fn is_done(&self) -> bool {
        self.rest.start == self.rest.end
    }

    /// The next chunk; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        if self.is_done() {
            return Ok(None);
        }
        let start = self.rest.start;
        let end = self.rest.end.min(start + READ_CHUNK_BYTES);
        let bytes = self.blob.read(start, end).await?;
        if bytes.len() as u64 != end - start {
            return Err(StorageError::Damaged(format!("{} bytes of {start}..{end} came", bytes.len())));
        }
        self.rest.start = end;
        self.metrics.sent(bytes.len());
        Ok(Some(bytes))
    }

    /// The head is out: all that is left is to break the connection, which the error does, so that the client never
    /// takes what it got for the whole.
    fn cut(&self, error: StorageError) -> BoxError {
        tracing::error!(key = %self.key, %error, "storage failed in the middle of a blob: the connection is cut");
        if matches!(error, StorageError::Damaged(_)) {
            self.metrics.damaged_reads.increment(1);
        }
        error.into()
    }
}
