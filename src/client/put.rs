//! PUT of one blob to one server.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, header, uri::PathAndQuery};
use http_body::SizeHint;
use tokio::sync::mpsc;

use super::{Failed, ServerError, Servers, exchange::Connection, no_address, upload::Upload};
use crate::{
    http::{
        Body, Head, RequestId,
        body::BoxError,
        headers::{self, Headers},
    },
    model::{Checksum, Key, Meta, Server, Version},
};

/// What is said about a blob before its bytes.
#[derive(Debug, Clone)]
pub struct PutHead {
    /// Its key.
    pub key: Key,
    /// Its version; `None` leaves it to the server.
    pub version: Option<Version>,
    /// Headers to keep with it.
    pub meta: Meta,
    /// Its length; `None` sends it chunked, which the original's node refuses.
    pub length: Option<u64>,
    /// Its checksum where it is known before the bytes are sent: our own node verifies it.
    pub checksum: Option<Checksum>,
    /// `If-Match` and `If-None-Match` of the client.
    pub conditions: HeaderMap,
}

/// What a server did with a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// It held nothing under that key before (201).
    pub created: bool,
    /// The version it holds now; greater than the one sent if it already had a newer one. Only our own nodes say.
    pub version: Option<Version>,
    /// The greatest version it has met. Only our own nodes say.
    pub clock: Option<Version>,
    /// Bytes of the older blob that was replaced. Only our own nodes say.
    pub replaced: u64,
    /// The checksum of what it received. Only our own nodes say.
    pub checksum: Option<Checksum>,
    /// It answered before all of the blob was sent to it: it cannot have it, unless it has a newer one.
    pub is_early: bool,
}

/// A body that is fed part by part. Dropped without [`PutSender::end`], the request is broken off and the server discards it.
pub struct PutBody {
    parts: mpsc::Receiver<Part>,
    length: Option<u64>,
}

enum Part {
    Bytes(Bytes),
    End,
}

/// The feeding end of a [`PutBody`].
pub struct PutSender(mpsc::Sender<Part>);

/// Parts on their way between a source and a connection: one being sent, one waiting.
const PARTS_IN_FLIGHT: usize = 2;

impl PutBody {
    /// A body of that length, if it is known, and its feeding end.
    pub fn channel(length: Option<u64>) -> (PutSender, Body) {
        let (sender, parts) = mpsc::channel(PARTS_IN_FLIGHT);
        (PutSender(sender), Body::stream(Self { parts, length }))
    }
}

impl PutSender {
    /// Hands over the next bytes, waiting for room. `false` when nobody takes them any more.
    pub async fn send(&self, bytes: Bytes) -> bool {
        self.0.send(Part::Bytes(bytes)).await.is_ok()
    }

    /// The body is complete.
    pub async fn end(&self) {
        // Nobody listens any more where the length was known and its last byte was taken: as good as an end.
        let _ = self.0.send(Part::End).await;
    }
}

impl http_body::Body for PutBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        Poll::Ready(match ready!(self.parts.poll_recv(cx)) {
            Some(Part::Bytes(bytes)) => Some(Ok(http_body::Frame::data(bytes))),
            Some(Part::End) => None,
            None => Some(Err("the upload was broken off".into())),
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Servers {
    /// Puts a blob. Waits for the server's word that it is stored (for our own nodes: durable). Ends by itself when the
    /// server makes no progress; waits for ever for a body that comes slowly, which its source has to watch.
    pub async fn put(
        &self,
        server: &Server,
        head: &PutHead,
        body: Body,
        id: &RequestId,
    ) -> Result<Stored, ServerError> {
        let authority = server.authority();
        let request = write_request(server, &authority, head, id)?;
        let mut upload = Upload::new(body, head.length);
        if let Some(kept) = self.pool.take(&authority).await {
            upload.keep();
            match self.put_on(kept, &authority, &request, &mut upload).await {
                // A conditional PUT that did arrive would meet its own blob.
                Err(failed) if failed.stale && head.conditions.is_empty() && upload.rewind() => {}
                ended => return ended.map_err(|failed| failed.error),
            }
        }
        let fresh = self.pool.connect(server).await?;
        self.put_on(fresh, &authority, &request, &mut upload).await.map_err(|failed| failed.error)
    }

    async fn put_on(
        &self,
        mut connection: Connection,
        authority: &str,
        request: &[u8],
        upload: &mut Upload,
    ) -> Result<Stored, Failed> {
        let answered = connection.put(request, upload, &self.timeouts).await?;
        if answered.keeps {
            self.pool.give(authority, connection);
        }
        answered.result.map_err(|error| Failed { error, stale: false })
    }
}

fn write_request(
    server: &Server,
    authority: &str,
    head: &PutHead,
    id: &RequestId,
) -> Result<Vec<u8>, ServerError> {
    let target = format!("/{}", head.key);
    PathAndQuery::try_from(target.as_str()).map_err(|error| no_address(server, &target, &error.into()))?;
    let mut to = Head::request("PUT", &target);
    to.line(&header::HOST, authority.as_bytes());
    to.set(headers::REQUEST_ID, id);
    head.meta.headers().for_each(|(name, value)| to.add(name, value));
    head.conditions.iter().for_each(|(name, value)| to.line(name, value.as_bytes()));
    if let Some(version) = head.version {
        to.set(headers::VERSION, version);
    }
    if let Some(checksum) = head.checksum {
        to.set(headers::CHECKSUM, checksum);
    }
    match head.length {
        Some(length) => to.set(header::CONTENT_LENGTH, length),
        None => to.line(&header::TRANSFER_ENCODING, b"chunked"),
    }
    Ok(to.finish())
}
