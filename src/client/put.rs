//! PUT of one blob to one server.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, header, uri::PathAndQuery};
use http_body::SizeHint;
use tokio::sync::mpsc;

use super::{Failed, ServerError, Servers, exchange::Connection, upload::Upload};
use crate::{
    http::{
        Body, Head, RequestId,
        body::BoxError,
        headers::{self, Headers},
    },
    model::{Checksum, Key, Meta, Server, Version},
};

/// What is said about a blob before its bytes.
#[derive(Debug, Clone)]
pub struct PutHead {
    /// Its key.
    pub key: Key,
    /// Its version; `None` leaves it to the server.
    pub version: Option<Version>,
    /// Headers to keep with it.
    pub meta: Meta,
    /// Its length; `None` sends it chunked, which the original's node refuses.
    pub length: Option<u64>,
    /// Its checksum where it is known before the bytes are sent: our own node verifies it.
    pub checksum: Option<Checksum>,
    /// `If-Match` and `If-None-Match` of the client.
    pub conditions: HeaderMap,
}

/// What a server did with a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// It held nothing under that key before (201).
    pub created: bool,
    /// The version it holds now; greater than the one sent if it already had a newer one. Only our own nodes say.
    pub version: Option<Version>,
    /// The greatest version it has met. Only our own nodes say.
    pub clock: Option<Version>,
    /// Bytes of the older blob that was replaced. Only our own nodes say.
    pub replaced: u64,
    /// The checksum of what it received. Only our own nodes say.
    pub checksum: Option<Checksum>,
}

/// A body of which it is known how much the connection took: fed part by part ([`PutBody::channel`]; dropped without
/// [`PutSender::end`], the request is broken off and the server discards it), or all there ([`PutBody::whole`]).
pub struct PutBody {
    parts: Parts,
    length: Option<u64>,
    taken: Arc<AtomicU64>,
}

enum Parts {
    Fed(mpsc::Receiver<Part>),
    /// All bytes, until they are taken.
    Whole(Option<Bytes>),
}

enum Part {
    Bytes(Bytes),
    End,
}

/// The feeding end of a [`PutBody`].
pub struct PutSender {
    parts: mpsc::Sender<Part>,
    taken: Arc<AtomicU64>,
}

/// How much of a [`PutBody`] the connection took: a server that says more is stored than that is wrong.
#[derive(Debug)]
pub struct BytesTaken(Arc<AtomicU64>);

impl BytesTaken {
    /// Bytes.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Parts on their way between a source and a connection: one being sent, one waiting.
const PARTS_IN_FLIGHT: usize = 2;

impl PutBody {
    /// A body of that length, if it is known, and its feeding end.
    pub fn channel(length: Option<u64>) -> (PutSender, Body) {
        let (sender, parts) = mpsc::channel(PARTS_IN_FLIGHT);
        let taken = Arc::<AtomicU64>::default();
        let body = Self { parts: Parts::Fed(parts), length, taken: Arc::clone(&taken) };
        (PutSender { parts: sender, taken }, Body::stream(body))
    }

    /// A body that is all there.
    pub fn whole(bytes: Bytes) -> (BytesTaken, Body) {
        let length = Some(bytes.len() as u64);
        let taken = Arc::<AtomicU64>::default();
        let parts = Parts::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()));
        (BytesTaken(Arc::clone(&taken)), Body::stream(Self { parts, length, taken }))
    }
}

impl PutSender {
    /// Hands over the next bytes, waiting for room. `false` when nobody takes them any more.
    pub async fn send(&self, bytes: Bytes) -> bool {
        self.parts.send(Part::Bytes(bytes)).await.is_ok()
    }

    /// How much is taken, by now and later.
    pub fn taken(&self) -> BytesTaken {
        BytesTaken(Arc::clone(&self.taken))
    }

    /// The body is complete.
    pub async fn end(&self) {
        // Nobody listens any more where the length was known and its last byte was taken: as good as an end.
        let _ = self.parts.send(Part::End).await;
    }
}

impl http_body::Body for PutBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        let part = match &mut self.parts {
            Parts::Fed(parts) => ready!(parts.poll_recv(cx)),
            Parts::Whole(bytes) => Some(bytes.take().map_or(Part::End, Part::Bytes)),
        };
        Poll::Ready(match part {
            Some(Part::Bytes(bytes)) => {
                self.taken.fetch_add(bytes.len() as u64, Relaxed);
                Some(Ok(http_body::Frame::data(bytes)))
            }
            Some(Part::End) => None,
            None => Some(Err("the upload was broken off".into())),
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Servers {
    /// Puts a blob. Waits for the server's word that it is stored (for our own nodes: durable). Ends by itself when the
    /// server makes no progress; waits for ever for a body that comes slowly, which its source has to watch.
    pub async fn put(
        &self,
        server: &Server,
        head: &PutHead,
        body: Body,
        id: &RequestId,
    ) -> Result<Stored, ServerError> {
        let authority = server.authority();
        let request = write_request(&authority, head, id)?;
        let mut upload = Upload::new(body, head.length);
        if let Some(kept) = self.pool.take(&authority).await {
            upload.keep();
            match self.put_on(kept, &authority, &request, &mut upload).await {
                // A conditional PUT that did arrive would meet its own blob.
                Err(failed) if failed.stale && head.conditions.is_empty() && upload.rewind() => {}
                ended => return ended.map_err(|failed| failed.error),
            }
        }
        let fresh = self.pool.connect(server).await?;
        self.put_on(fresh, &authority, &request, &mut upload).await.map_err(|failed| failed.error)
    }

    async fn put_on(
        &self,
        mut connection: Connection,
        authority: &str,
        request: &[u8],
        upload: &mut Upload,
    ) -> Result<Stored, Failed> {
        let answered = connection.put(request, upload, &self.timeouts).await?;
        if answered.keeps {
            self.pool.give(authority, connection);
        }
        answered.result.map_err(|error| Failed { error, stale: false })
    }
}

fn write_request(authority: &str, head: &PutHead, id: &RequestId) -> Result<Vec<u8>, ServerError> {
    let target = format!("/{}", head.key);
    if let Err(error) = PathAndQuery::try_from(target.as_str()) {
        let message = format!("{authority}{target} is no address: {error}");
        return Err(ServerError::Refused { status: 0, message });
    }
    let mut to = Head::request("PUT", &target);
    to.line(&header::HOST, authority.as_bytes());
    to.set(headers::REQUEST_ID, id);
    head.meta.headers().for_each(|(name, value)| to.add(name, value));
    head.conditions.iter().for_each(|(name, value)| to.line(name, value.as_bytes()));
    if let Some(version) = head.version {
        to.set(headers::VERSION, version);
    }
    if let Some(checksum) = head.checksum {
        to.set(headers::CHECKSUM, checksum);
    }
    match head.length {
        Some(length) => to.set(header::CONTENT_LENGTH, length),
        None => to.line(&header::TRANSFER_ENCODING, b"chunked"),
    }
    Ok(to.finish())
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn next(body: &mut Body) -> Option<Bytes> {
        use http_body::Body as _;
        let Poll::Ready(frame) = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) else {
            panic!("it waits")
        };
        frame.map(|frame| frame.unwrap().into_data().unwrap())
    }

    #[test]
    fn a_whole_body_counts_when_it_is_taken_and_not_before() {
        use http_body::Body as _;
        let (taken, mut body) = PutBody::whole(Bytes::from_static(b"blob"));
        assert_eq!((taken.get(), body.size_hint().exact()), (0, Some(4)));
        assert_eq!((next(&mut body).as_deref(), taken.get()), (Some(&b"blob"[..]), 4));
        assert_eq!((next(&mut body), next(&mut body), taken.get()), (None, None, 4));

        let (taken, mut body) = PutBody::whole(Bytes::new());
        assert_eq!((body.size_hint().exact(), next(&mut body), taken.get()), (Some(0), None, 0));
    }
}
