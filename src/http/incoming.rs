//! A request's body with what its readers do not enforce: a time-out between its parts and a limit on its size.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{body::BoxError, plain::Upload};

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client went away or broke the protocol in mid body.
    #[error("the body ended early: {0}")]
    Broken(BoxError),
    /// Nothing came for this long.
    #[error("no byte of the body came for {} s", .0.as_secs())]
    Idle(Duration),
    /// More bytes than the limit.
    #[error("the body is larger than the limit of {0} bytes")]
    TooLarge(u64),
}

impl BodyError {
    /// The status that fits.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Broken(_) => StatusCode::BAD_REQUEST,
            Self::Idle(_) => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

/// What a request brought besides its head.
#[derive(Debug, Default)]
pub struct Payload(Brought);

#[derive(Debug, Default)]
enum Brought {
    #[default]
    Nothing,
    /// All of it came with the head.
    Whole(Bytes),
    /// It is on its way.
    Upload(Upload),
    /// hyper reads it.
    Hyper(Incoming),
}

impl From<Incoming> for Payload {
    fn from(body: Incoming) -> Self {
        Self(Brought::Hyper(body))
    }
}

impl From<Bytes> for Payload {
    fn from(body: Bytes) -> Self {
        Self(Brought::Whole(body))
    }
}

impl From<Upload> for Payload {
    fn from(body: Upload) -> Self {
        Self(Brought::Upload(body))
    }
}

impl Brought {
    /// How many bytes it has; `None` if they come in chunks.
    fn length(&self) -> Option<u64> {
        match self {
            Self::Nothing => Some(0),
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Upload(upload) => Some(upload.length()),
            Self::Hyper(body) => body.size_hint().exact(),
        }
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        match self {
            Self::Nothing => Ok(None),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                Ok((!bytes.is_empty()).then_some(bytes))
            }
            Self::Upload(upload) => Ok(poll_fn(|cx| upload.poll_next(cx)).await?),
            Self::Hyper(body) => loop {
                let Some(frame) = body.frame().await else { return Ok(None) };
                // Trailers are read and left out: nothing we store or verify comes in them.
                match frame?.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                    _ => {}
                }
            },
        }
    }
}

/// A request's body being read.
pub struct RequestBody {
    body: Brought,
    announced: Option<u64>,
    received: u64,
    max: u64,
    idle: Duration,
}

impl RequestBody {
    /// A body of at most `max` bytes with at most `idle` between two parts. Fails at once where the announced length
    /// is over the limit, before `100 Continue` is sent.
    pub fn new(Payload(body): Payload, max: u64, idle: Duration) -> Result<Self, BodyError> {
        let announced = body.length();
        if announced.is_some_and(|length| length > max) {
            return Err(BodyError::TooLarge(max));
        }
        Ok(Self { body, announced, received: 0, max, idle })
    }

    /// How many bytes were announced; `None` for a chunked body.
    pub fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// The next bytes, never empty; `None` at the end. A body with an announced length ends with exactly that many
    /// bytes or with an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let part = tokio::time::timeout(self.idle, self.body.next()).await;
        let part = part.map_err(|_| BodyError::Idle(self.idle))?.map_err(BodyError::Broken)?;
        let Some(bytes) = part else {
            let is_whole = self.announced.is_none_or(|announced| announced == self.received);
            return if is_whole { Ok(None) } else { Err(BodyError::Broken("it is too short".into())) };
        };
        self.received += bytes.len() as u64;
        if self.received > self.max {
            return Err(BodyError::TooLarge(self.max));
        }
        Ok(Some(bytes))
    }
}

/// Whether a request has both `Content-Length` and `Transfer-Encoding`, or either of them twice: proxies disagree
/// on where such a request ends, so it is refused. (hyper has joined lengths that are equal by then.)
pub fn has_ambiguous_length(headers: &HeaderMap) -> bool {
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    let encodings = headers.get_all(header::TRANSFER_ENCODING).iter().count();
    lengths + encodings > 1
}

/// Whether a body is coded in a way that nobody here undoes (`gzip, chunked`): its bytes would be taken for the blob's.
pub fn has_unknown_coding(headers: &HeaderMap) -> bool {
    headers
        .get(header::TRANSFER_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}
