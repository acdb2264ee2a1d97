//! What a client of the coordinator is told when something fails: one exhaustive match from error to status.

use std::fmt;

use http::{HeaderValue, StatusCode, header};

use super::source::SourceError;
use crate::{
    client::ServerError,
    http::{Answer, error as error_answer},
    model::{ServerId, ShardId, Version},
};

/// Seconds after which a refused upload is worth another try: a restarted server or a repaired map is back by then.
const RETRY_AFTER_SECONDS: u16 = 5;

/// Why a request to the coordinator failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The request itself is wrong (400).
    #[error("{0}")]
    Bad(String),
    /// The body could not be read or is not what was announced.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// No shard takes uploads (503). The original's sentence.
    #[error("No writable shards found!")]
    NoneWritable,
    /// Shards take uploads, but none has room for this one (507).
    #[error("No writable shard has room for {0}")]
    NoRoom(String),
    /// Shards have room, but no server of any took the upload (503).
    #[error("Could not upload file /{key} to any server: {tried}")]
    NoServer {
        /// The blob's key.
        key: String,
        /// What each said.
        tried: Tried,
    },
    /// Servers failed after more of the body went to them than is kept for a replay (502).
    #[error("The upload broke off after {sent} bytes, send it again: {tried}")]
    BrokenOff {
        /// Bytes sent.
        sent: u64,
        /// What each server said.
        tried: Tried,
    },
    /// A condition of the request does not hold (412).
    #[error("the precondition does not hold")]
    Precondition,
    /// Stored or deleted, with tasks for the rest, but on fewer servers than the write level asks for (503).
    #[error("Done on {reached} of {wanted} servers that the write level asks for; the others follow")]
    LevelNotReached {
        /// Copies made.
        reached: usize,
        /// Copies asked for.
        wanted: usize,
    },
    /// Done on too few servers, with neither the queue taking tasks nor the other servers doing it at once (503). What
    /// is done stays.
    #[error(
        "Done on too few servers, and neither the queue nor the other servers take the rest; try again: {0}"
    )]
    NotSafe(String),
    /// A server received other bytes than were sent (502). What it stored was removed.
    #[error("a server received other bytes than were sent; send the upload again")]
    WrongBytes,
    /// No server of the shard can delete (501): only nodes of the original.
    #[error("no server of the shard can delete: {0}")]
    CannotDelete(Tried),
    /// Servers hold a newer version, and too much was sent to begin again with a greater one, or no greater one may be
    /// given (409). The newer one is what every server will hold.
    #[error(
        "the key has version {held}, newer than any this coordinator gives; send it again, and see that the clocks agree"
    )]
    Superseded {
        /// What is there instead.
        held: Version,
    },
    /// The shard does not exist (404).
    #[error("there is no shard {0}")]
    UnknownShard(ShardId),
    /// The shard is not in the map, and the map is not as the store says now (503): it may well exist.
    #[error("no shard {shard} is known, and the map is not current: {why}")]
    MapNotCurrent {
        /// The shard.
        shard: ShardId,
        /// What is wrong with the map.
        why: String,
    },
    /// No server of the shard has the blob (404).
    #[error("no server of shard {0} has it")]
    Missing(ShardId),
    /// No server of the shard answers (503).
    #[error("no server of the shard answers: {0}")]
    NoAnswer(Tried),
    /// It has just started and the map store does not answer (503): what exists is not known.
    #[error("The map was not read yet, for the map store does not answer")]
    NoMap,
    /// The coordinator itself failed (500).
    #[error("internal error: {0}")]
    Internal(String),
}

/// What servers said, in the order they were asked.
#[derive(Debug, Clone, Default)]
pub struct Tried(pub Vec<(ServerId, ServerError)>);

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (server, error)) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{server} ({error})")?;
        }
        Ok(())
    }
}

impl RequestError {
    /// The status that fits.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Source(SourceError::Body(error)) => error.status(),
            Self::Source(SourceError::Mismatch(error)) => error.status(),
            Self::Source(SourceError::Spool(_)) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoMap
            | Self::NoneWritable
            | Self::NoServer { .. }
            | Self::LevelNotReached { .. }
            | Self::NotSafe(_)
            | Self::MapNotCurrent { .. }
            | Self::NoAnswer(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoRoom(_) => StatusCode::INSUFFICIENT_STORAGE,
            Self::BrokenOff { .. } | Self::WrongBytes => StatusCode::BAD_GATEWAY,
            Self::CannotDelete(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Precondition => StatusCode::PRECONDITION_FAILED,
            Self::Superseded { .. } => StatusCode::CONFLICT,
            Self::UnknownShard(_) | Self::Missing(_) => StatusCode::NOT_FOUND,
        }
    }

    /// The answer, JSON `{"error":"..."}`.
    pub fn answer(&self) -> Answer {
        let status = self.status();
        let mut answer = error_answer(status, self);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        answer
    }

    /// The client's fault: not counted as a failed upload.
    pub fn is_clients(&self) -> bool {
        self.status().is_client_error()
    }
}
