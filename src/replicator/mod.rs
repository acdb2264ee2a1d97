//! The role that makes the copies still missing: claims tasks from the queue and carries them out.
//!
//! - [`Config`]: settings; [`serve`]: the role's life
//! - `claimer`: claims as many tasks as there are free slots; `in_flight`: the claims at hand; `lease`: keeps them ours
//! - `work`: one try of one task; `sources`: where its blob may be; `pace`: the byte rate of all copies
//! - `outcome`: what becomes of a task after a try (pure); `settle`: tells the queue
//! - `breaker`: when to leave a server alone (pure); `gates`: the breakers of all servers
//! - `metrics`: names and labels; [`watch_map`]: readiness of the map

mod breaker;
mod claimer;
mod config;
mod gates;
mod in_flight;
mod lease;
mod metrics;
mod outcome;
mod ready;
mod settle;
mod sources;
mod work;

use std::{sync::Arc, time::Duration};

use http::{Request, StatusCode};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, timeout_at},
};

pub use config::{Config, DEFAULT_CONCURRENCY, Settings};
pub use ready::watch_map;

use self::{claimer::Claimer, gates::Gates, in_flight::InFlight, settle::Settler, work::Worker};
use crate::{
    client::{ByteRate, Servers},
    daemon::Shutdown,
    http::{Answer, Handler, Limits, Payload, RequestId, Server, reply},
    model::ClusterMap,
    queue::Queue,
    telemetry::health::Readiness,
};

/// What is left to acknowledge after the drain is one batch; a queue that does not take it in this time is down.
const ACKS_WITHIN: Duration = Duration::from_secs(5);

/// What the replicator works with.
pub struct Deps {
    /// The current map.
    pub map: watch::Receiver<Arc<ClusterMap>>,
    /// Where the tasks are.
    pub queue: Arc<dyn Queue>,
    /// Connections to servers.
    pub servers: Arc<Servers>,
    /// Gets the conditions `queue` and `replicator`.
    pub readiness: Readiness,
    /// Where probes and metrics are answered, if anywhere.
    pub probes: Option<TcpListener>,
}

/// One in so many of the slots may be taken by copies from sources that crawl: less than one target may have, so that these
/// copies leave room for others to every target.
const PATIENT_PART: usize = 4;

/// Makes copies until the shutdown begins; then claims nothing more, finishes what is in flight within the drain time and
/// gives the rest back. Returns when all is told to the queue.
pub async fn serve(settings: Settings, deps: Deps, shutdown: Shutdown) {
    let Deps { map, queue, servers, readiness, probes } = deps;
    let gates = Arc::new(Gates::default());
    let in_flight = Arc::new(InFlight::default());
    let rate = ByteRate::new(settings.bytes_per_second);
    let patient = Semaphore::new((settings.concurrency / PATIENT_PART).max(1));
    let worker = Arc::new(Worker { map: map.clone(), servers, gates: gates.clone(), rate, patient });
    let (settler, acks) = Settler::new(queue.clone(), settings.lease);
    let reachable = readiness.condition("queue");
    let running = readiness.condition("replicator");
    running.ok();

    let mut background = JoinSet::new();
    background.spawn(lease::keep(in_flight.clone(), queue.clone(), settings.lease));
    if let Some(listener) = probes {
        let server = Server::new(Probes, readiness, Limits::default());
        background.spawn(server.serve(listener, shutdown.clone()));
    }
    let acks = tokio::spawn(acks);
    let mut claimer = Claimer {
        settings,
        queue,
        map,
        worker,
        gates,
        in_flight,
        settler,
        reachable,
        workers: JoinSet::new(),
    };
    claimer.run(&shutdown).await;
    running.fail("stopping");
    let deadline = Instant::now() + shutdown.drain();
    claimer.drain(deadline).await;
    drop(claimer);
    // The last acknowledgements; what is not told by then is done again by others.
    let _ = timeout_at(deadline + ACKS_WITHIN, acks).await;
    background.shutdown().await;
}

/// Answers nothing but the probes.
struct Probes;

impl Handler for Probes {
    fn role(&self) -> &'static str {
        "replicator"
    }

    async fn handle(&self, _request: Request<Payload>, _id: &RequestId) -> Answer {
        reply::error(StatusCode::NOT_FOUND, "a replicator answers /-/live, /-/ready and /-/metrics only")
    }
}
