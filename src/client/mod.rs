//! Speaks to servers of any kind: our own node, nginx with WebDAV, the original Backpack node.
//!
//! - [`Servers`]: connections to all of them
//! - [`mod@put`], [`get`], [`delete`], [`look`], [`stats`]: one verb a file
//! - [`listing`]: what a server holds
//! - [`copy`]: one blob from a server to another; `transfer`: its bytes; `pace`: at which rate
//! - [`error`]: what can go wrong, by what the caller should do about it
//! - `socket`: how connections are opened. Uploads go without hyper: `exchange`: one on a connection; `pool`: the connections;
//!   `upload`: its body; `answer`: what the server says

pub mod answer;
pub mod copy;
pub mod delete;
pub mod error;
mod exchange;
pub mod get;
pub mod listing;
pub mod look;
mod pace;
mod pool;
pub mod put;
mod socket;
pub mod stats;
mod transfer;
mod upload;

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::RwLock;

use self::{
    pool::Pool,
    socket::{Answers, Connector},
};

pub use copy::{Copied, CopyError, CopyPlan, Pace, Unpaced};
pub use error::ServerError;
pub use get::{Answered, Fetched};
pub use look::Presence;
pub use pace::ByteRate;
pub use put::{PutBody, PutHead, PutSender, Stored};
pub use socket::{Dial, Stream};

use crate::{
    http::{Body, RequestId},
    model::{Key, Server},
};

/// Time-outs towards servers.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// For a connection to open. On one network a server that is there answers in milliseconds.
    pub connect: Duration,
    /// For the answer, once the whole request was sent: a server may have to wait for its disk.
    pub answer: Duration,
    /// Without a byte taken or given in mid body.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            answer: Duration::from_secs(20),
            stall: Duration::from_secs(10),
        }
    }
}

/// Idle connections close after this: before any server closes them (ours after 75 s, nginx after 75 s, node.js after
/// 5 s), so that no request meets a closing connection.
const IDLE: Duration = Duration::from_secs(4);

/// Idle connections kept to one server.
const IDLE_PER_SERVER: usize = 128;

/// Bytes read of one connection at once: a blob of 16 KiB comes with its head in one piece.
const BUFFER_BYTES: usize = 20 * 1024;

type HttpClient = Client<Connector, Body>;

/// Connections to all servers; shared through an `Arc`.
pub struct Servers {
    http: HttpClient,
    /// Opens a connection for each request: for a second try, which must not meet another closed one.
    unpooled: HttpClient,
    /// For uploads.
    pool: Arc<Pool>,
    timeouts: Timeouts,
    /// Authorities of servers that know no HEAD (the original's nodes): learned, forgotten with the process. As
    /// many as there are servers in the map.
    without_head: RwLock<HashSet<String>>,
    /// Authorities of servers that told a version when they took a copy, and so take none that is older than what they have:
    /// learned likewise.
    with_versions: RwLock<HashSet<String>>,
}

impl Servers {
    /// Connects to nothing yet. Must be called inside a tokio runtime.
    pub fn new(timeouts: Timeouts) -> Self {
        Self::over(Connector::tcp(&timeouts), timeouts)
    }

    /// The same over other streams than TCP's.
    pub fn dialling(dial: Arc<dyn Dial>, timeouts: Timeouts) -> Self {
        Self::over(Connector::other(dial, &timeouts), timeouts)
    }

    fn over(connector: Connector, timeouts: Timeouts) -> Self {
        let client = |idle_per_server| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(idle_per_server)
                .http1_max_buf_size(BUFFER_BYTES)
                .build(connector.clone())
        };
        let (http, unpooled) = (client(IDLE_PER_SERVER), client(0));
        let (without_head, with_versions) = Default::default();
        Self { http, unpooled, pool: Pool::new(connector), timeouts, without_head, with_versions }
    }

    /// The whole body of an answer, which must not be longer than that.
    async fn whole_body(
        &self,
        response: Response<Incoming>,
        most_bytes: usize,
    ) -> Result<Bytes, ServerError> {
        let body = Limited::new(response.into_body(), most_bytes).collect();
        let body = tokio::time::timeout(self.timeouts.answer, body)
            .await
            .map_err(|_| ServerError::Stalled(self.timeouts.answer))?
            .map_err(|error| ServerError::Broken(error.to_string()))?;
        Ok(body.to_bytes())
    }

    /// Time-outs towards all of them.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Whether a server is known to keep the greatest version of a blob by itself.
    fn keeps_versions(&self, server: &Server) -> bool {
        self.with_versions.read().contains(&server.authority())
    }

    /// Notes what a server that took a copy said.
    fn note_versions(&self, server: &Server, stored: &Stored) {
        let authority = server.authority();
        let known = self.with_versions.read().contains(&authority);
        match stored.version {
            Some(_) if !known => drop(self.with_versions.write().insert(authority)),
            None if known => drop(self.with_versions.write().remove(&authority)),
            _ => {}
        }
    }

    /// Sends a request without a body and waits for the answer's head.
    async fn send(&self, head: Request<()>) -> Result<Response<Incoming>, ServerError> {
        let answer = async {
            match answered(self.http.request(without_body(&head)).await) {
                // Asking twice is harmless: these requests are GET, HEAD and versioned DELETE.
                Err(failed) if failed.stale => answered(self.unpooled.request(without_body(&head)).await),
                first => first,
            }
        };
        match tokio::time::timeout(self.timeouts.answer, answer).await {
            Ok(answer) => answer.map_err(|failed| failed.error),
            Err(_) => Err(ServerError::Stalled(self.timeouts.answer)),
        }
    }
}

/// A request that got no answer.
struct Failed {
    error: ServerError,
    /// The connection was a kept one, and the server may just have closed it: worth another try.
    stale: bool,
}

fn answered(answer: Result<Response<Incoming>, legacy::Error>) -> Result<Response<Incoming>, Failed> {
    match answer {
        Ok(response) => {
            Answers::note(&response);
            Ok(response)
        }
        Err(error) => Err(Failed { stale: Answers::before(&error), error: error::from_transport(&error) }),
    }
}

/// A request; its head may be needed again.
fn without_body(head: &Request<()>) -> Request<Body> {
    head.clone().map(|()| Body::Empty)
}

impl Default for Servers {
    fn default() -> Self {
        Self::new(Timeouts::default())
    }
}

/// An address on a server. Fails for the few keys that no HTTP request can carry (with a `<`, `>` or a backquote that
/// was not percent-encoded), and for a server whose host is no host.
fn uri(server: &Server, path_and_query: &str) -> Result<Uri, ServerError> {
    Uri::builder()
        .scheme("http")
        .authority(server.authority())
        .path_and_query(path_and_query)
        .build()
        .map_err(|error| no_address(server, path_and_query, &error))
}

fn no_address(server: &Server, path_and_query: &str, error: &http::Error) -> ServerError {
    let message = format!("{server}{path_and_query} is no address: {error}");
    ServerError::Refused { status: 0, message }
}

fn blob_request(
    method: Method,
    server: &Server,
    key: &Key,
    id: &RequestId,
) -> Result<Request<()>, ServerError> {
    Ok(request(method, uri(server, &format!("/{key}"))?, id))
}

fn request(method: Method, uri: Uri, id: &RequestId) -> Request<()> {
    let mut request = Request::new(());
    // Else hyper puts it together from host and port.
    if let Some(host) = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    id.write_to(request.headers_mut());
    request
}
