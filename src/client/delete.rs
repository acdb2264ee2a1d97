//! DELETE of one blob on one server.

use http::{Method, StatusCode};

use super::{ServerError, Servers, blob_request, error};
use crate::{
    http::{RequestId, headers},
    model::{Key, Server, Version},
};

/// What a server did with a delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleted {
    /// The version it holds now; greater than the one sent if a newer blob stayed. Only our own nodes say.
    pub version: Option<Version>,
    /// The greatest version it has met. Only our own nodes say.
    pub clock: Option<Version>,
    /// Bytes of the blob that is gone. Only our own nodes say.
    pub replaced: u64,
}

impl Servers {
    /// Leaves a tombstone of that version on our own node; on nginx removes the file. A blob that is not there is
    /// success. The original's node cannot ([`ServerError::Unsupported`]).
    pub async fn delete(
        &self,
        server: &Server,
        key: &Key,
        version: Version,
        id: &RequestId,
    ) -> Result<Deleted, ServerError> {
        let mut request = blob_request(Method::DELETE, server, key, id)?;
        headers::set(request.headers_mut(), headers::VERSION, version);
        let response = self.send(request).await?;
        match response.status() {
            StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::NOT_FOUND | StatusCode::GONE => {
                Ok(Deleted {
                    version: headers::get(response.headers(), headers::VERSION),
                    clock: headers::get(response.headers(), headers::CLOCK),
                    replaced: headers::get(response.headers(), headers::REPLACED).unwrap_or(0),
                })
            }
            _ => Err(error::from_answer(response).await),
        }
    }
}
