//! What can go wrong towards a server, by what the caller should do about it.

use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Why a server did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// No connection: the server is down or far away. Nothing was sent.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// It took or gave no byte for this long.
    #[error("no progress for {} s", .0.as_secs())]
    Stalled(Duration),
    /// It makes progress, but so little that whoever asked did not wait for the end.
    #[error("too slow: it kept others waiting for {} s", .0.as_secs())]
    Slow(Duration),
    /// The connection ended in the middle.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// It has no room (507). Reads still work.
    #[error("the server is full")]
    Full,
    /// It takes no body without a length (411): the original's node.
    #[error("the server takes no body of unknown length and no empty one")]
    NeedsLength,
    /// It cannot do this at all (405, 418, 501): DELETE on the original's node.
    #[error("the server does not know this method ({0})")]
    Unsupported(u16),
    /// The blob is not there (404).
    #[error("the server does not have it")]
    Missing,
    /// A condition of the request does not hold (412).
    #[error("the precondition does not hold")]
    Precondition,
    /// What arrived is not what was sent, by checksum or length.
    #[error("wrong bytes: {0}")]
    WrongBytes(String),
    /// It takes no requests now (429, 503, 502, 504).
    #[error("the server is not ready ({status}): {message}")]
    NotReady {
        /// Its status.
        status: u16,
        /// What it said, shortened.
        message: String,
    },
    /// It refuses this request; the same request will be refused again.
    #[error("the server refuses ({status}): {message}")]
    Refused {
        /// Its status, 0 if it was not asked.
        status: u16,
        /// What it said, shortened.
        message: String,
    },
    /// The body that was to be sent failed: not the server's fault.
    #[error("the body to send failed: {0}")]
    Source(String),
}

impl ServerError {
    /// The server itself is in trouble, so other requests would fail there too.
    pub fn is_down(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::Stalled(_) | Self::Slow(_) | Self::Broken(_) | Self::NotReady { .. }
        )
    }

    /// A short name for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Stalled(_) => "stalled",
            Self::Slow(_) => "slow",
            Self::Broken(_) => "broken",
            Self::Full => "full",
            Self::NeedsLength => "needs_length",
            Self::Unsupported(_) => "unsupported",
            Self::Missing => "missing",
            Self::Precondition => "precondition",
            Self::WrongBytes(_) => "wrong_bytes",
            Self::NotReady { .. } => "not_ready",
            Self::Refused { .. } => "refused",
            Self::Source(_) => "source",
        }
    }
}

/// What lies at the bottom of an error. What stands above it in hyper's errors says no more than that something failed.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Sorts what hyper's client says.
pub(super) fn from_transport(error: &hyper_util::client::legacy::Error) -> ServerError {
    let text = root_cause(error);
    if error.is_connect() { ServerError::Unreachable(text) } else { ServerError::Broken(text) }
}

/// A server's words in an error are cut to this.
const MAX_MESSAGE_BYTES: usize = 300;

/// Sorts an answer that is no success, reading a little of its body for the message.
pub(super) async fn from_answer(response: Response<Incoming>) -> ServerError {
    let status = response.status();
    match without_words(status) {
        Some(error) => error,
        None => with_words(status, &read_message(response).await),
    }
}

/// What a status says together with the words that came with it.
pub(super) fn with_words(status: StatusCode, words: &[u8]) -> ServerError {
    let message = message(words);
    match status.as_u16() {
        422 => ServerError::WrongBytes(message),
        status @ (408 | 429 | 500 | 502 | 503 | 504) => ServerError::NotReady { status, message },
        status => ServerError::Refused { status, message },
    }
}

/// What a status says by itself, if that is enough.
pub(super) fn without_words(status: StatusCode) -> Option<ServerError> {
    Some(match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => ServerError::Missing,
        StatusCode::LENGTH_REQUIRED => ServerError::NeedsLength,
        StatusCode::PRECONDITION_FAILED => ServerError::Precondition,
        StatusCode::INSUFFICIENT_STORAGE => ServerError::Full,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED | StatusCode::IM_A_TEAPOT => {
            ServerError::Unsupported(status.as_u16())
        }
        _ => return None,
    })
}

/// For a server's words to come, once its status did.
pub(super) const MESSAGE_WITHIN: Duration = Duration::from_secs(1);

async fn read_message(response: Response<Incoming>) -> Vec<u8> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let read = async {
        while let Some(Ok(frame)) = body.frame().await
            && bytes.len() < MAX_MESSAGE_BYTES
        {
            bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
    };
    // What came in time has to do.
    let _ = tokio::time::timeout(MESSAGE_WITHIN, read).await;
    bytes
}

fn message(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let said = serde_json::from_str::<serde_json::Value>(&text).ok();
    let said = said.as_ref().and_then(|said| said.get("error")?.as_str()).unwrap_or(&text);
    let plain = said.trim().replace(char::is_control, " ");
    plain[..plain.floor_char_boundary(MAX_MESSAGE_BYTES)].to_owned()
}
