//! Asks a server what it holds under a key, without moving the blob.

use http::{HeaderMap, Method};

use super::{ServerError, Servers, get::Answered};
use crate::{
    http::RequestId,
    model::{Checksum, Key, Server, Version},
};

/// What a server holds under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// A blob; what is `None` the server does not say.
    Blob {
        /// Its version.
        version: Option<Version>,
        /// Its length.
        length: Option<u64>,
        /// Its checksum.
        checksum: Option<Checksum>,
    },
    /// A tombstone.
    Deleted(Option<Version>),
    /// Nothing.
    Nothing,
}

impl Servers {
    /// What a server holds under a key. Servers that know no HEAD (the original's nodes answer 418) are asked by GET,
    /// whose body is then cut off.
    pub async fn look(&self, server: &Server, key: &Key, id: &RequestId) -> Result<Presence, ServerError> {
        let authority = server.authority();
        if !self.without_head.read().contains(&authority) {
            match self.look_by(Method::HEAD, server, key, id).await {
                Err(ServerError::Unsupported(_)) => {
                    self.without_head.write().insert(authority);
                }
                answer => return answer,
            }
        }
        self.look_by(Method::GET, server, key, id).await
    }

    async fn look_by(
        &self,
        method: Method,
        server: &Server,
        key: &Key,
        id: &RequestId,
    ) -> Result<Presence, ServerError> {
        match self.get(server, key, method, &HeaderMap::new(), id).await {
            Ok(Answered::Blob(blob)) => {
                let (version, length, checksum) = (blob.version(), blob.length(), blob.checksum());
                Ok(Presence::Blob { version, length, checksum })
            }
            Ok(Answered::Deleted(version)) => Ok(Presence::Deleted(version)),
            Err(ServerError::Missing) => Ok(Presence::Nothing),
            Err(error) => Err(error),
        }
    }
}
