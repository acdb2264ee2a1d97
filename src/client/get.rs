//! GET of one blob from one server.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{ServerError, Servers, blob_request, error};
use crate::{
    http::{Body, RequestId, body::BoxError, headers},
    model::{Checksum, Key, Meta, Server, Version},
};

/// A server's answer about a blob it has: 200, 206, 304 or 416 (only if conditions or a range were sent).
#[derive(Debug)]
pub struct Fetched {
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's headers.
    pub headers: HeaderMap,
    body: Incoming,
    stall: Duration,
}

impl Fetched {
    /// The version; only our own nodes say.
    pub fn version(&self) -> Option<Version> {
        headers::get(&self.headers, headers::VERSION)
    }

    /// The checksum of the whole blob; only our own nodes say.
    pub fn checksum(&self) -> Option<Checksum> {
        headers::get(&self.headers, headers::CHECKSUM)
    }

    /// Bytes of the body, where they were announced.
    pub fn length(&self) -> Option<u64> {
        headers::get(&self.headers, header::CONTENT_LENGTH)
    }

    /// Whether a body that is cut short is told from a whole one. Only a server older than HTTP/1.1 ends bodies by closing.
    pub(super) fn has_an_end(&self) -> bool {
        let chunked = self.headers.contains_key(header::TRANSFER_ENCODING);
        chunked || self.length().is_some() || self.checksum().is_some()
    }

    /// The headers kept with the blob; those that cannot be kept are left out.
    pub fn meta(&self) -> Meta {
        Meta::from_headers(&self.headers).unwrap_or_default()
    }

    /// The next bytes, never empty; `None` at the end. A body shorter than announced is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ServerError> {
        loop {
            let frame = tokio::time::timeout(self.stall, self.body.frame()).await;
            let Some(frame) = frame.map_err(|_| ServerError::Stalled(self.stall))? else { return Ok(None) };
            let frame = frame.map_err(|error| ServerError::Broken(error.to_string()))?;
            match frame.into_data() {
                Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                // Trailers, or nothing.
                _ => {}
            }
        }
    }

    /// The body to pass on. It fails when the server stalls or breaks off, so that the next reader sees a broken
    /// body, never a short one.
    pub fn into_body(self) -> Body {
        let deadline = Box::pin(tokio::time::sleep(self.stall));
        Body::stream(Timed { body: self.body, deadline, stall: self.stall })
    }
}

/// A body with a time-out between its parts.
struct Timed {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
    stall: Duration,
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                let next = Instant::now() + self.stall;
                self.deadline.as_mut().reset(next);
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => match self.deadline.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(ServerError::Stalled(self.stall).into()))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&self.body)
    }
}

/// What a server holds under a key.
#[derive(Debug)]
pub enum Answered {
    /// The blob.
    Blob(Fetched),
    /// It was deleted by this version (410). Only our own nodes say.
    Deleted(Option<Version>),
}

impl Servers {
    /// Gets a blob, or asks for its head alone. `conditions` are the client's `Range` and `If-*` headers. A blob
    /// that is not there is [`ServerError::Missing`].
    pub async fn get(
        &self,
        server: &Server,
        key: &Key,
        method: Method,
        conditions: &HeaderMap,
        id: &RequestId,
    ) -> Result<Answered, ServerError> {
        let mut request = blob_request(method, server, key, id)?;
        request.headers_mut().extend(conditions.clone());
        let response = self.send(request).await?;
        match response.status() {
            StatusCode::OK
            | StatusCode::PARTIAL_CONTENT
            | StatusCode::NOT_MODIFIED
            | StatusCode::RANGE_NOT_SATISFIABLE => {
                let (head, body) = response.into_parts();
                let stall = self.timeouts.stall;
                Ok(Answered::Blob(Fetched { status: head.status, headers: head.headers, body, stall }))
            }
            StatusCode::GONE => Ok(Answered::Deleted(headers::get(response.headers(), headers::VERSION))),
            _ => Err(error::from_answer(response).await),
        }
    }
}
