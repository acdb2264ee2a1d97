//! Why a request gets no success, and the answer it gets instead: the one place where errors become statuses.

use http::{HeaderValue, StatusCode, header};

use super::head;
use crate::{
    http::{Answer, BodyError, RequestId, error, headers, reply, verify::VerifyError},
    model::{Key, Version, key::KeyError, meta::MetaError, version::VersionError},
    storage::StorageError,
};

/// A node that takes no writes needs a person, so there is no use in coming back at once.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("30");

/// Why a request gets no success.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The target is no key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The version sent is none.
    #[error("x-backpack-version: {0}")]
    Version(#[from] VersionError),
    /// The version sent would keep the key from being written for more than a day.
    #[error(
        "x-backpack-version: {0} is more than a day in the future; see that the clocks of coordinators and nodes agree"
    )]
    FarFuture(Version),
    /// The metadata cannot be kept.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A part of a blob was sent, and would have become the whole.
    #[error("Content-Range on a PUT: send the whole blob")]
    PartialPut,
    /// The parameters of a listing cannot be read.
    #[error("{0}")]
    Query(String),
    /// The body is not what was announced, or the announcement cannot be read.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The body did not come whole.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A condition does not hold; what the key holds.
    #[error("the precondition does not hold")]
    Precondition(Option<Version>),
    /// None of the bytes asked for exist.
    #[error("none of these bytes exist: the blob has {length}")]
    Unsatisfiable {
        /// Of the whole blob.
        length: u64,
    },
    /// Nothing is stored under the key.
    #[error("not found")]
    Missing,
    /// The blob was deleted by that version.
    #[error("deleted")]
    Deleted(Version),
    /// Nothing of ours has this path.
    #[error("unknown path")]
    Unknown,
    /// The engine did not do it.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Refusal {
    /// The status that fits.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Key(_)
            | Self::Version(_)
            | Self::FarFuture(_)
            | Self::Meta(_)
            | Self::PartialPut
            | Self::Query(_) => StatusCode::BAD_REQUEST,
            Self::Verify(error) => error.status(),
            Self::Body(error) => error.status(),
            Self::Precondition(_) => StatusCode::PRECONDITION_FAILED,
            Self::Unsatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Missing | Self::Unknown => StatusCode::NOT_FOUND,
            Self::Deleted(_) => StatusCode::GONE,
            Self::Storage(error) => match error {
                StorageError::Full => StatusCode::INSUFFICIENT_STORAGE,
                StorageError::Damaged(_) => StatusCode::NOT_FOUND,
                StorageError::ReadOnly(_) | StorageError::Lost(_) | StorageError::Hung(_) => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                StorageError::WrongLength { .. } => StatusCode::BAD_REQUEST,
                StorageError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    /// Whether a stored blob turned out to be damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Storage(StorageError::Damaged(_)))
    }

    /// What the client gets; the log gets what the client need not know.
    pub fn logged(self, key: &Key, id: &RequestId) -> Answer {
        self.log(key, id);
        self.answer()
    }

    /// Logs what the operator has to know and the client need not.
    fn log(&self, key: &Key, id: &RequestId) {
        match self {
            Self::Storage(error @ (StorageError::Io { .. } | StorageError::Damaged(_))) => {
                tracing::error!(request_id = %id, %key, %error, "storage failed");
            }
            Self::Storage(
                error @ (StorageError::Full
                | StorageError::ReadOnly(_)
                | StorageError::Lost(_)
                | StorageError::Hung(_)),
            ) => {
                tracing::warn!(request_id = %id, %key, %error, "refused");
            }
            Self::FarFuture(version) => {
                tracing::warn!(request_id = %id, %key, %version, "refused a version more than a day in the future");
            }
            other => tracing::debug!(request_id = %id, %key, reason = %other, "refused"),
        }
    }

    /// What the client gets. A blob that is not to be had here is answered without a word: nginx, which asks the next server then,
    /// closes its connection to this one if there is a body that it does not read.
    pub fn answer(&self) -> Answer {
        let status = self.status();
        let mut answer = match self {
            Self::Missing | Self::Storage(StorageError::Damaged(_)) => reply::empty(status),
            // Paths and system errors are for the log.
            Self::Storage(StorageError::Io { .. }) => {
                error(status, "the storage failed; the node's log says why")
            }
            Self::Storage(StorageError::Lost(_)) => error(status, "a disk of this server is lost"),
            other => error(status, other),
        };
        self.write_to(answer.headers_mut());
        answer
    }

    fn write_to(&self, to: &mut http::HeaderMap) {
        match self {
            Self::Deleted(version) => headers::set(to, headers::VERSION, version),
            Self::Precondition(Some(version)) => head::write_version(*version, to),
            Self::Unsatisfiable { length } => {
                headers::set(to, header::CONTENT_RANGE, format_args!("bytes */{length}"));
            }
            // 404 makes nginx ask the next server of the shard; the header tells apart what was never here.
            Self::Storage(StorageError::Damaged(_)) => {
                to.insert(headers::DAMAGED, HeaderValue::from_static("1"));
            }
            Self::Storage(StorageError::ReadOnly(_) | StorageError::Lost(_) | StorageError::Hung(_)) => {
                to.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            _ => {}
        }
    }
}
