//! What a server holds, page by page: keys, digests of ranges of keys, damage. Only our own nodes can say.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, de::DeserializeOwned};

use super::{ServerError, Servers, error, request, uri};
use crate::{
    http::RequestId,
    model::{Key, KeyRange, Listed, Server, Version},
};

/// Ten thousand of the longest lines are some 12 MiB; a server that sends more is not read on.
const MAX_PAGE_BYTES: usize = 16 << 20;

/// A page of a listing has at most so many lines.
pub const MAX_LIST_LIMIT: usize = 10_000;

const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// A piece of damage, as `GET /-/damaged` tells it; what is not needed here is left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DamagedLine {
    /// Where it is.
    pub place: String,
    /// What is wrong there: `no_record`, say.
    pub what: String,
    /// When it was found, milliseconds since 1970.
    #[serde(default)]
    pub found_ms: u64,
    /// Whose it is, where that is known.
    #[serde(default)]
    pub key: Option<Key>,
    /// Which write it is, where that is known.
    #[serde(default)]
    pub version: Option<Version>,
    /// It is the record of a delete.
    #[serde(default)]
    pub deleted: bool,
}

impl Servers {
    /// The keys behind `after`, in order, at most `limit` (up to [`MAX_LIST_LIMIT`]): fewer at the end. A server that cannot
    /// list answers [`ServerError::Unsupported`].
    pub async fn list(
        &self,
        server: &Server,
        after: Option<&Key>,
        limit: usize,
        id: &RequestId,
    ) -> Result<Vec<Listed>, ServerError> {
        let path = format!("/-/list?limit={limit}{}", behind(after.map(Key::as_str)));
        self.lines(server, &path, id).await
    }

    /// The digests of ranges of keys behind `after`, at most `limit`; the last one of all has no end. Deletes made before
    /// `deletes_since_ms` are left out. A server that cannot list answers [`ServerError::Unsupported`].
    pub async fn digest(
        &self,
        server: &Server,
        after: Option<&Key>,
        limit: usize,
        deletes_since_ms: u64,
        id: &RequestId,
    ) -> Result<Vec<KeyRange>, ServerError> {
        let after = behind(after.map(Key::as_str));
        let path = format!("/-/digest?limit={limit}&deletes_since={deletes_since_ms}{after}");
        self.lines(server, &path, id).await
    }

    /// What is damaged there and not yet replaced, behind that place, at most `limit` lines: fewer at the end.
    pub async fn damaged(
        &self,
        server: &Server,
        after: Option<&str>,
        limit: usize,
        id: &RequestId,
    ) -> Result<Vec<DamagedLine>, ServerError> {
        self.lines(server, &format!("/-/damaged?limit={limit}{}", behind(after)), id).await
    }

    /// Tells a server that deletes made before that are known to all that need them. One that keeps none need not know.
    pub async fn settle_deletes(
        &self,
        server: &Server,
        before_ms: u64,
        id: &RequestId,
    ) -> Result<(), ServerError> {
        self.tell(server, &format!("/-/deletes/settle?before={before_ms}"), id).await
    }

    /// Tells a server that what a stretch of its volume held, which is damaged there, was sought on all others of its shard.
    pub async fn settle_stretch(
        &self,
        server: &Server,
        place: &str,
        id: &RequestId,
    ) -> Result<(), ServerError> {
        self.tell(server, &format!("/-/damaged/settle?place={}", encode(place)), id).await
    }

    async fn tell(&self, server: &Server, path: &str, id: &RequestId) -> Result<(), ServerError> {
        let response = self.send(request(Method::POST, uri(server, path)?, id)).await?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(()),
            _ => Err(error::from_answer(response).await),
        }
    }

    async fn lines<T: DeserializeOwned>(
        &self,
        server: &Server,
        path: &str,
        id: &RequestId,
    ) -> Result<Vec<T>, ServerError> {
        let response = self.send(request(Method::GET, uri(server, path)?, id)).await?;
        let status = response.status();
        match status {
            StatusCode::OK if response.headers().get(header::CONTENT_TYPE) == Some(&LINES) => {}
            // Other servers take the path for a blob's, which they have or have not.
            StatusCode::OK | StatusCode::NOT_FOUND => return Err(ServerError::Unsupported(status.as_u16())),
            _ => return Err(error::from_answer(response).await),
        }
        read(&self.whole_body(response, MAX_PAGE_BYTES).await?)
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<Vec<T>, ServerError> {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let read = lines.map(serde_json::from_slice).collect::<Result<_, _>>();
    read.map_err(|error| ServerError::WrongBytes(format!("a line of the listing makes no sense: {error}")))
}

/// The parameter that asks for what lies behind that.
fn behind(after: Option<&str>) -> String {
    after.map(|after| format!("&after={}", encode(after))).unwrap_or_default()
}

/// Percent-encodes a value of a query.
fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_and_lines_are_read() {
        assert_eq!(encode("a/b c%20+é&=?"), "a/b%20c%2520%2B%C3%A9%26%3D%3F");
        let body = Bytes::from_static(
            b"{\"place\":\"0/1:64-99\",\"what\":\"no_record\"}\n{\"place\":\"0/2:64\",\"what\":\"head\",\"key\":\"a\"}\n",
        );
        let lines: Vec<DamagedLine> = read(&body).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1].key.as_ref().map(Key::as_str), Some("a"));
        assert!(matches!(
            read::<DamagedLine>(&Bytes::from_static(b"<html>")),
            Err(ServerError::WrongBytes(_))
        ));
    }
}
