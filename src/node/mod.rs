//! The storage daemon: a server of a shard, speaking HTTP over the engine.
//!
//! - [`serve`]: the daemon; [`Deps`]: what it stands on
//! - [`run()`]: from the command line ([`Args`], [`Config`]) to [`serve`]
//! - `target`: what a request is about; `get`, `put`, `list`, `digest`, `stats`: the answers
//! - `conditions`: `If-*` and `Range`, decided; `head`: headers of answers about blobs
//! - [`Guarded`] (`hung`): a storage whose disk may stop answering
//! - `refusal`: errors and their statuses, in one place
//! - `announce`: the entry under `/live`; `identity`: which storage belongs to the id; `watch`: readiness and gauges; `metrics`: what is counted

mod announce;
mod conditions;
mod config;
mod digest;
mod get;
mod head;
mod hung;
mod identity;
mod list;
mod metrics;
mod put;
mod refusal;
mod run;
mod stats;
mod target;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, Request, StatusCode, request::Parts};

pub use announce::Live;
pub use config::Config;
pub use hung::Guarded;
pub use run::{Args, run};

use crate::{
    daemon::{Shutdown, VersionClock, unix_ms},
    http::{
        Answer, Handler, Listener, Payload, RequestBody, RequestId, Server,
        plain::{self, Reply},
        reply,
    },
    model::Key,
    storage::{Storage, StorageError},
    telemetry::{self, health::Readiness},
};
use metrics::{Metrics, Pending};
use refusal::Refusal;
use target::{ScrubVerb, Target};
use watch::Watch;

/// What a node stands on.
pub struct Deps {
    /// The engine. The node closes it when it stops.
    pub storage: Arc<dyn Storage>,
    /// Its limits.
    pub limits: Limits,
    /// Where the node announces itself; `None`: nowhere.
    pub live: Option<Live>,
}

/// Limits of a node.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest blob, in bytes. Default: [`DEFAULT_MAX_BLOB_BYTES`].
    pub blob_bytes: u64,
    /// Longest wait for the next bytes of an upload. Default: [`DEFAULT_UPLOAD_IDLE`].
    pub upload_idle: Duration,
    /// Longest wait for the disk. Default: [`DEFAULT_DISK_ANSWER`].
    pub disk_answer: Duration,
    /// Limits of the listener.
    pub http: crate::http::Limits,
}

/// The largest object that S3 takes in one PUT.
pub const DEFAULT_MAX_BLOB_BYTES: u64 = 5 << 30;
/// Twice what a coordinator waits for its client, so that it is the one who gives up and says why.
pub const DEFAULT_UPLOAD_IDLE: Duration = Duration::from_secs(60);

/// A disk that retries a bad sector, or a sync in a queue of many, takes some seconds; half of what whoever asked waits.
pub const DEFAULT_DISK_ANSWER: Duration = Duration::from_secs(10);

impl Default for Limits {
    fn default() -> Self {
        Self {
            blob_bytes: DEFAULT_MAX_BLOB_BYTES,
            upload_idle: DEFAULT_UPLOAD_IDLE,
            disk_answer: DEFAULT_DISK_ANSWER,
            http: crate::http::Limits::default(),
        }
    }
}

/// Serves until the shutdown begins. Then, in this order: is not ready, leaves `/live`, stops accepting, lets what is in
/// flight finish within the shutdown's deadline, closes the storage. An error is one of closing the storage.
pub async fn serve(listener: impl Listener, deps: Deps, shutdown: Shutdown) -> Result<(), StorageError> {
    telemetry::metrics::install();
    let addr = listener.local_addr().map_err(|source| StorageError::Io {
        context: "ask for the listener's address".to_owned(),
        source,
    })?;
    let Deps { storage, limits, live } = deps;
    let name = live.as_ref().map_or_else(|| addr.port().to_string(), |live| live.id.to_string());
    let readiness = Readiness::default();
    let serving = readiness.condition("serving");
    let watch = Watch::new(&readiness, live.as_ref().map(|live| live.store.link()));
    let metrics = Arc::new(Metrics::new(name.into()));
    let clock = Arc::new(VersionClock::default());
    let http_limits = limits.http.clone();
    let guarded = Arc::new(Guarded::new(storage.clone(), limits.disk_answer));
    let node = Node {
        storage: guarded.clone(),
        limits,
        metrics: metrics.clone(),
        clock: clock.clone(),
        started: Instant::now(),
    };
    let server = Server::new(node, readiness, http_limits);

    // Begins after `shutdown`, once nobody is sent here any more.
    let stop = Shutdown::new(shutdown.drain());
    let presence = async {
        serving.ok();
        match &live {
            Some(live) => {
                if let Err(error) = live.keep(addr, &*storage, &shutdown).await {
                    tracing::error!(%error, "the node is not announced");
                    serving.fail(error.to_string());
                    shutdown.wait().await;
                }
            }
            None => shutdown.wait().await,
        }
        serving.fail("stopping");
        if let Some(live) = &live {
            live.withdraw().await;
        }
        stop.begin();
    };
    tracing::info!(%addr, node = metrics.node(), "node serves");
    let watch = watch.run(&guarded, &metrics, &clock, &stop);
    tokio::join!(server.serve(listener, stop.clone()), watch, presence);
    guarded.close().await
}

/// The handler of a node's requests.
struct Node {
    storage: Arc<dyn Storage>,
    limits: Limits,
    metrics: Arc<Metrics>,
    clock: Arc<VersionClock>,
    started: Instant,
}

impl Handler for Node {
    fn role(&self) -> &'static str {
        "node"
    }

    async fn whole(&self, target: &str, id: &RequestId) -> Reply {
        match target.strip_prefix('/').unwrap_or(target).parse() {
            Ok(key) => self.whole_blob(&key, id).await,
            // One of our own paths, or no key.
            Err(_) => plain::as_request(self, target, id).await,
        }
    }

    async fn handle(&self, request: Request<Payload>, id: &RequestId) -> Answer {
        let (head, body) = request.into_parts();
        let target = match Target::read(&head.uri) {
            Ok(target) => target,
            Err(_) if !is_blob_method(&head.method) => return not_allowed(&head.method),
            Err(refusal) => return refusal.answer(),
        };
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        match target {
            Target::Blob(_) if !is_blob_method(&head.method) => not_allowed(&head.method),
            Target::Blob(key) => self.blob(&key, &head, body, id).await,
            Target::Unknown => Refusal::Unknown.answer(),
            Target::List(_) | Target::Digest(_) | Target::Damaged(_) | Target::Stats if !reads => {
                reply::method_not_allowed(&head.method, "GET, HEAD")
            }
            Target::List(query) => list::list(self, &query).await.unwrap_or_else(|refusal| refusal.answer()),
            Target::Digest(query) => {
                digest::digest(self, &query).await.unwrap_or_else(|refusal| refusal.answer())
            }
            Target::Damaged(query) => {
                list::damaged(self, &query).await.unwrap_or_else(|refusal| refusal.answer())
            }
            Target::Stats => stats::stats(self),
            Target::Compaction { .. }
            | Target::Scrub(_)
            | Target::Settle { .. }
            | Target::SettleStretch(_)
                if head.method != Method::POST =>
            {
                reply::method_not_allowed(&head.method, "POST")
            }
            Target::Compaction { pause } => {
                tracing::info!(pause, "compaction was told to pause, or to go on");
                self.storage.pause_compaction(pause);
                reply::empty(StatusCode::NO_CONTENT)
            }
            Target::Settle { before_ms } => {
                // Clocks may differ; a delete that was not made yet is known to nobody.
                self.storage.settle_deletes(before_ms.min(unix_ms()));
                reply::empty(StatusCode::NO_CONTENT)
            }
            Target::SettleStretch(spot) => {
                self.storage.settle_stretch(spot);
                reply::empty(StatusCode::NO_CONTENT)
            }
            Target::Scrub(verb) => {
                tracing::info!(?verb, "the scrub was told what to do");
                match verb {
                    ScrubVerb::Pause => self.storage.pause_scrub(true),
                    ScrubVerb::Resume => self.storage.pause_scrub(false),
                    ScrubVerb::Start => self.storage.start_scrub(),
                }
                reply::empty(StatusCode::NO_CONTENT)
            }
        }
    }
}

fn is_blob_method(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE)
}

fn not_allowed(method: &Method) -> Answer {
    reply::method_not_allowed(method, "GET, HEAD, PUT, DELETE")
}

impl Node {
    async fn blob(&self, key: &Key, head: &Parts, body: Payload, id: &RequestId) -> Answer {
        let pending = Pending::new(&self.metrics, &head.method);
        let result = match head.method {
            // In memory of its own: what a read has to remember is moved from place to place with every request.
            Method::PUT => Box::pin(self.put(key, head, body)).await,
            Method::DELETE => put::delete(self, key, &head.headers).await,
            Method::HEAD => get::head(self, key, &head.headers).await,
            _ => get::get(self, key, &head.headers).await,
        };
        pending.done(result.as_ref().map(Answer::status));
        result.unwrap_or_else(|refusal| refusal.logged(key, id))
    }

    async fn whole_blob(&self, key: &Key, id: &RequestId) -> Reply {
        let pending = Pending::new(&self.metrics, &Method::GET);
        let result = get::whole(self, key).await;
        pending.done(result.as_ref().map(|_| StatusCode::OK));
        result.unwrap_or_else(|refusal| Reply::Answer(refusal.logged(key, id)))
    }

    async fn put(&self, key: &Key, head: &Parts, body: Payload) -> Result<Answer, Refusal> {
        let mut body = RequestBody::new(body, self.limits.blob_bytes, self.limits.upload_idle)?;
        put::put(self, key, &head.headers, &mut body).await
    }
}
