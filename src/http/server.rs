//! The accept loop that every role shares: limits on connections and headers, time-outs, probes, the request log,
//! graceful stop.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use http::{Method, Request, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use metrics::{counter, gauge};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Answer, Connection, Listener, Payload, RequestId, headers, incoming,
    linger::Lingering,
    plain::{self, Reply},
    reply,
    requests::Requests,
};
use crate::{
    daemon::Shutdown,
    telemetry::{self, health::Readiness},
};

/// Limits of one listener.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections; more wait in the listen queue. Each costs a file descriptor and some 5 KiB, while a long body comes
    /// some 30 (docs/decisions/0020); one that is hyper's some 25 and 40.
    pub connections: usize,
    /// For the whole head of a request to come, and for the next request of a kept connection (up to twice that where it is
    /// not hyper who waits). Longer than our clients' and nginx's 60 s, so that it is they who close idle connections, and no
    /// request meets a closing one.
    pub head: Duration,
    /// Bytes sent and not acknowledged for this long end the connection: a reader that stopped reading.
    pub stalled_send: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, head: Duration::from_secs(75), stalled_send: Duration::from_secs(60) }
    }
}

/// Longest request line and headers together. A key has at most 1,024 bytes and metadata 4 KiB; the rest is room for
/// proxies' headers.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Bytes read of one connection at once: a blob of 16 KiB with the head before it, else it comes in two parts, of which one
/// whole is made. A part of a body that is kept (the coordinator keeps the first ones of an upload) holds on to the whole
/// buffer it was read into, and hyper's own limit is 400 KiB.
pub(super) const BUFFER_BYTES: usize = 20 * 1024;

/// After a failed accept (no file descriptors left) there is no use in trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a role does with a request. Probes (`/-/live`, `/-/ready`, `/-/metrics`) are answered before it.
pub trait Handler: Send + Sync + Sized + 'static {
    /// The role's name in logs and metrics: `coordinator`.
    fn role(&self) -> &'static str;

    /// Answers one request.
    fn handle(&self, request: Request<Payload>, id: &RequestId) -> impl Future<Output = Answer> + Send;

    /// The same as `handle` for a GET of this target without a condition or a range, whose other headers say nothing.
    fn whole(&self, target: &str, id: &RequestId) -> impl Future<Output = Reply> + Send {
        plain::as_request(self, target, id)
    }
}

/// A listener's handler with what surrounds it.
pub struct Server<H> {
    handler: H,
    readiness: Readiness,
    limits: Limits,
    requests: Requests,
}

/// The open connections of one listener.
#[derive(Default)]
struct Connections {
    /// What is hyper's, once it is told to stop.
    graceful: GracefulShutdown,
    /// What is not.
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Connections {
    /// Lets what is in flight finish, cuts off what has not finished by then, and returns when no connection, and so no
    /// request, is left. `false` if something was cut off.
    async fn finish(self, within: Duration) -> bool {
        self.stop.cancel();
        let finished = tokio::time::timeout(within, self.graceful.shutdown()).await.is_ok();
        self.cut.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        finished
    }
}

impl<H: Handler> Server<H> {
    /// The handler does the work, the readiness is what `/-/ready` says.
    pub fn new(handler: H, readiness: Readiness, limits: Limits) -> Self {
        Self { handler, readiness, limits, requests: Requests::default() }
    }

    /// Serves until the shutdown begins, then stops accepting and lets what is in flight finish within its deadline.
    pub async fn serve(self, listener: impl Listener, shutdown: Shutdown) {
        let server = Arc::new(self);
        let connections = Connections::default();
        let slots = Arc::new(Semaphore::new(server.limits.connections));
        loop {
            let next = async {
                let slot = slots.clone().acquire_owned().await;
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! { next = next => next, () = shutdown.wait() => break };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            server.clone().spawn_connection(stream, slot.ok(), &connections);
        }
        drop(listener);
        if !connections.finish(shutdown.drain()).await {
            let role = server.handler.role();
            tracing::warn!(role, "some requests did not finish in time and were cut");
        }
    }

    fn spawn_connection(
        self: Arc<Self>,
        stream: impl Connection,
        slot: Option<tokio::sync::OwnedSemaphorePermit>,
        connections: &Connections,
    ) {
        stream.prepare(&self.limits);
        let role = self.handler.role();
        // Waited for from now on, whoever serves it.
        let watcher = connections.graceful.watcher();
        let (stop, cut) = (connections.stop.clone(), connections.cut.clone());
        let stream = Lingering::new(stream);
        // In memory of its own: otherwise it would be in the task three times, for as long as the connection lasts.
        let served = Box::pin(self.serve_connection(stream, watcher, stop));
        connections.tasks.spawn(async move {
            let open = gauge!("backpack_http_connections", "role" => role);
            open.increment(1.0);
            cut.run_until_cancelled(served).await;
            open.decrement(1.0);
            drop(slot);
        });
    }

    async fn serve_connection(self: Arc<Self>, stream: Lingering, watcher: Watcher, stop: CancellationToken) {
        // Given back before hyper begins.
        match Box::pin(plain::serve(&self, stream, &stop, self.limits.head)).await {
            Ok(plain::Next::Hyper(stream)) => Box::pin(self.serve_with_hyper(stream, watcher)).await,
            Ok(plain::Next::Close) => {}
            Err(error) => tracing::debug!(role = self.handler.role(), %error, "connection ended"),
        }
    }

    fn serve_with_hyper(
        self: Arc<Self>,
        stream: Lingering,
        watcher: Watcher,
    ) -> impl Future<Output = ()> + Send {
        let (role, head) = (self.handler.role(), self.limits.head);
        let service = service_fn(move |request: Request<Incoming>| {
            let (server, request) = (self.clone(), request.map(Payload::from));
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            .max_header_size(MAX_HEAD_BYTES)
            // A request has at most 100 headers: hyper's own limit, which it has room for without asking for memory.
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        watcher.watch(connection).map(move |ended| {
            if let Err(error) = ended {
                note_connection_error(role, &error);
            }
        })
    }

    pub(super) async fn answer(&self, request: Request<Payload>) -> Answer {
        let started = Instant::now();
        let id = RequestId::of(request.headers());
        let method = request.method().clone();
        // Copied: what hyper gives holds on to the buffer that it read the head into, and a body may take its time.
        let path = request.uri().path().to_owned();
        let mut answer = match self.answer_probe(&request) {
            Some(answer) => answer,
            None if incoming::has_ambiguous_length(request.headers()) => {
                reply::error(StatusCode::BAD_REQUEST, "the request's length is given more than once")
            }
            None if incoming::has_unknown_coding(request.headers()) => {
                reply::error(StatusCode::NOT_IMPLEMENTED, "the only transfer coding taken is chunked")
            }
            None => self.handler.handle(request, &id).await,
        };
        id.write_to(answer.headers_mut());
        self.note(&method, &path, answer.status(), &id, started);
        answer
    }

    /// Answers a GET of a whole blob.
    pub(super) async fn answer_whole(&self, target: &str, id: &RequestId) -> Reply {
        let started = Instant::now();
        let mut reply = self.handler.whole(target, id).await;
        let status = match &mut reply {
            Reply::Whole { head, .. } => {
                head.line(&headers::REQUEST_ID, id.as_str().as_bytes());
                StatusCode::OK
            }
            Reply::Answer(answer) => {
                id.write_to(answer.headers_mut());
                answer.status()
            }
        };
        self.note(&Method::GET, target, status, id, started);
        reply
    }

    /// Counts and logs a request that was answered.
    fn note(&self, method: &Method, target: &str, status: StatusCode, id: &RequestId, started: Instant) {
        let role = self.handler.role();
        let seconds = started.elapsed().as_secs_f64();
        self.requests.note(role, method, status, seconds);
        let is_failure = status.is_server_error();
        let status = status.as_u16();
        // A probe that says "not ready" is no failure of anything.
        if is_failure && !target.starts_with("/-/") {
            tracing::warn!(role, request_id = %id, %method, path = path(target), status, seconds, "request failed");
        } else {
            tracing::debug!(role, request_id = %id, %method, path = path(target), status, seconds, "request");
        }
    }

    fn answer_probe(&self, request: &Request<Payload>) -> Option<Answer> {
        let path = request.uri().path();
        if !path.starts_with("/-/") {
            return None;
        }
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        let answer = match path {
            "/-/live" if get => reply::text(StatusCode::OK, "live\n"),
            "/-/ready" if get => self.answer_ready(),
            "/-/metrics" if get => reply::text(StatusCode::OK, telemetry::metrics::render()),
            "/-/live" | "/-/ready" | "/-/metrics" => reply::method_not_allowed(request.method(), "GET, HEAD"),
            _ => return None,
        };
        Some(answer)
    }

    fn answer_ready(&self) -> Answer {
        let missing = self.readiness.missing();
        if missing.is_empty() {
            return reply::text(StatusCode::OK, "ready\n");
        }
        reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", missing.join("\n")))
    }
}

/// A target without its query.
fn path(target: &str) -> &str {
    target.split('?').next().unwrap_or(target)
}

/// hyper has answered malformed requests itself (400, 414, 431); they still count.
fn note_connection_error(role: &'static str, error: &hyper::Error) {
    if error.is_parse() {
        counter!("backpack_http_malformed_total", "role" => role).increment(1);
    }
    tracing::debug!(role, %error, "connection ended");
}
