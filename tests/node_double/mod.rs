//! A node in the test's own process, on an engine of memory that can be made to fail.

#![allow(dead_code, reason = "each test crate compiles this module and uses its own part of it")]

pub mod memory;

use std::{sync::Arc, time::Duration};

use backpack::{
    daemon::Shutdown,
    node::{self, Deps, Limits, Live},
    storage::{Storage, StorageError},
};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::support::{port::free_port, wait::START_WITHIN};
use memory::Memory;

/// Longer than whatever a test leaves in flight.
pub const DRAIN: Duration = Duration::from_secs(300);

/// A running node.
pub struct TestNode {
    /// `127.0.0.1:port`.
    pub addr: String,
    /// Its engine.
    pub storage: Arc<Memory>,
    /// Begins its stop.
    pub shutdown: Shutdown,
    serving: JoinHandle<Result<(), StorageError>>,
}

impl TestNode {
    /// A node with the default limits.
    pub async fn start() -> Self {
        Self::start_with(Limits::default(), None).await
    }

    /// A node with these limits, announced there.
    pub async fn start_with(limits: Limits, live: Option<Live>) -> Self {
        Self::start_draining(limits, live, DRAIN).await
    }

    /// The same, where requests in flight get this time to finish when it is stopped.
    pub async fn start_draining(limits: Limits, live: Option<Live>, drain: Duration) -> Self {
        // No other test's: metrics are told apart by it.
        let listener = TcpListener::bind(("127.0.0.1", free_port())).await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let storage = Arc::new(Memory::default());
        let shutdown = Shutdown::new(drain);
        let deps = Deps { storage: storage.clone() as Arc<dyn Storage>, limits, live };
        let serving = tokio::spawn(node::serve(listener, deps, shutdown.clone()));
        Self { addr, storage, shutdown, serving }
    }

    /// Stops it and waits for its end.
    pub async fn stop(self) {
        self.shutdown.begin();
        self.ended().await;
    }

    /// Waits for its end.
    pub async fn ended(self) {
        tokio::time::timeout(START_WITHIN, self.serving).await.unwrap().unwrap().unwrap();
    }

    /// The value of a metric of this node, 0 if it was never counted. `labels` are those after the node's.
    pub fn metric(&self, name: &str, labels: &str) -> u64 {
        let port = self.addr.rsplit(':').next().unwrap();
        let series = match labels {
            "" => format!("{name}{{node=\"{port}\"}} "),
            labels => format!("{name}{{node=\"{port}\",{labels}}} "),
        };
        let all = backpack::telemetry::metrics::render();
        let value = all.lines().find_map(|line| line.strip_prefix(&series));
        value.map_or(0, |value| value.parse().unwrap())
    }
}
