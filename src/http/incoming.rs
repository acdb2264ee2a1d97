//! A request's body with what hyper does not enforce: a time-out between its parts and a limit on its size.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client went away or broke the protocol in mid body.
    #[error("the body ended early: {0}")]
    Broken(hyper::Error),
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
pub struct Payload(Option<Incoming>);

impl From<Incoming> for Payload {
    fn from(body: Incoming) -> Self {
        Self(Some(body))
    }
}

/// A request's body being read.
pub struct RequestBody {
    /// `None`: nothing comes.
    body: Option<Incoming>,
    announced: Option<u64>,
    received: u64,
    max: u64,
    idle: Duration,
}

impl RequestBody {
    /// A body of at most `max` bytes with at most `idle` between two parts. Fails at once where the announced length
    /// is over the limit, before `100 Continue` is sent.
    pub fn new(Payload(body): Payload, max: u64, idle: Duration) -> Result<Self, BodyError> {
        let announced = body.as_ref().map_or(Some(0), |body| body.size_hint().exact());
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
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            let frame = tokio::time::timeout(self.idle, body.frame()).await;
            let Some(frame) = frame.map_err(|_| BodyError::Idle(self.idle))? else { return Ok(None) };
            // Trailers are read and left out: nothing we store or verify comes in them.
            let Ok(bytes) = frame.map_err(BodyError::Broken)?.into_data() else { continue };
            if bytes.is_empty() {
                continue;
            }
            self.received += bytes.len() as u64;
            if self.received > self.max {
                return Err(BodyError::TooLarge(self.max));
            }
            return Ok(Some(bytes));
        }
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
