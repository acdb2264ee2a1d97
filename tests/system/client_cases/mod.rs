//! What the tests of the client stand on.

pub mod raw;

use std::{sync::Arc, time::Duration};

use backpack::{
    client::Timeouts,
    client::{
        Answered, Copied, CopyError, CopyPlan, PutBody, PutHead, ServerError, Servers, Stored, Unpaced,
        put::PutSender,
    },
    http::RequestId,
    model::{Key, Meta, Server, Version},
};
use bytes::Bytes;

/// Longer than any test: what it proves does not depend on how fast a server answers. A test that waits for the end of one
/// of them shortens that one.
pub const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(600),
    answer: Duration::from_secs(600),
    stall: Duration::from_secs(600),
};

/// A time-out that a test waits for.
pub const SHORT: Duration = Duration::from_secs(2);

/// Far longer than whatever happens soon, on a slow machine too, and far shorter than [`TIMEOUTS`].
pub const SOON: Duration = Duration::from_secs(60);

/// A client with [`TIMEOUTS`].
pub fn servers() -> Servers {
    Servers::new(TIMEOUTS)
}

/// What a call gives that waits for none of the [`TIMEOUTS`].
pub async fn soon<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, call).await.expect("it ends soon")
}

/// The map's entry of a server that listens on 127.0.0.1.
pub fn server(id: &str, port: u16) -> Server {
    Server { id: id.parse().expect("an id"), host: "127.0.0.1".to_owned(), port }
}

/// The map's entry of a server at `127.0.0.1:port`.
pub fn server_at(id: &str, addr: &str) -> Server {
    let port = addr.rsplit(':').next().and_then(|port| port.parse().ok());
    server(id, port.expect("an address ends in a port"))
}

/// A key.
pub fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

/// A request id.
pub fn id() -> RequestId {
    RequestId::fresh()
}

/// The head of a plain upload.
pub fn head(key_text: &str, length: Option<u64>) -> PutHead {
    PutHead {
        key: key(key_text),
        version: None,
        meta: Meta::default(),
        length,
        checksum: None,
        conditions: http::HeaderMap::new(),
    }
}

/// Bytes that differ from place to place.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(length as u64).fill(&mut bytes);
    bytes
}

/// Feeds the bytes in parts of 64 KiB, as a source does. `false` when nobody took them all.
pub async fn feed(sender: PutSender, bytes: Bytes) -> bool {
    for part in bytes.chunks(64 * 1024) {
        if !sender.send(bytes.slice_ref(part)).await {
            return false;
        }
    }
    sender.end().await;
    true
}

/// Uploads bytes through a channel, with their length.
pub async fn upload(servers: &Servers, to: &Server, key: &str, bytes: Bytes) -> Result<Stored, ServerError> {
    let (sender, body) = PutBody::channel(Some(bytes.len() as u64));
    let head = head(key, Some(bytes.len() as u64));
    let id = id();
    let (stored, _) = tokio::join!(servers.put(to, &head, body, &id), feed(sender, bytes));
    stored
}

/// What a server has under a key, read whole.
pub async fn fetch(servers: &Servers, from: &Server, key_text: &str) -> Option<Vec<u8>> {
    let none = http::HeaderMap::new();
    match servers.get(from, &key(key_text), http::Method::GET, &none, &id()).await {
        Ok(Answered::Blob(mut blob)) => {
            let mut bytes = Vec::new();
            while let Some(part) = blob.next().await.expect("a blob that is there can be read") {
                bytes.extend_from_slice(&part);
            }
            Some(bytes)
        }
        Ok(Answered::Deleted(_)) | Err(ServerError::Missing) => None,
        Err(error) => panic!("{key_text} on {from}: {error}"),
    }
}

/// A copy from these sources, without a limit on the rate.
pub async fn copy(
    servers: &Servers,
    key_text: &str,
    version: Option<Version>,
    sources: &[&Server],
    target: &Server,
) -> Result<Copied, CopyError> {
    let sources: Vec<_> = sources.iter().map(|source| Arc::new(Clone::clone(*source))).collect();
    let key = key(key_text);
    let plan = CopyPlan { key: &key, version, sources: &sources, target, patience: None, is_new: false };
    servers.copy(&plan, &Unpaced, &id()).await
}
