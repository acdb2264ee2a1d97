//! What a server says about itself: `/stats`.

use http::{Method, StatusCode};

use super::{ServerError, Servers, error, request, uri};
use crate::{http::RequestId, model::Server};

/// A server's `/stats` is some hundred bytes; one that sends more is not read on.
const MAX_STATS_BYTES: usize = 64 * 1024;

impl Servers {
    /// A server's `/stats` as JSON. Both our own and the original's nodes have it, with different fields.
    pub async fn stats(&self, server: &Server, id: &RequestId) -> Result<serde_json::Value, ServerError> {
        let response = self.send(request(Method::GET, uri(server, "/stats")?, id)).await?;
        if response.status() != StatusCode::OK {
            return Err(error::from_answer(response).await);
        }
        serde_json::from_slice(&self.whole_body(response, MAX_STATS_BYTES).await?)
            .map_err(|error| ServerError::WrongBytes(format!("/stats is no JSON: {error}")))
    }
}
