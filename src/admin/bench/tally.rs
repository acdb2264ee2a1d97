//! What is counted of a phase while it runs. Written by all connections, read by whoever shows how far it is.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    failure::{Failure, Kind},
    histogram::Histogram,
};

/// So many failures are told word by word; the others are counted.
const TOLD: usize = 5;

/// The counts.
#[derive(Default)]
pub struct Tally {
    /// From when a request was due (open loop) or sent (closed loop) to the end of its answer. Those that got none in
    /// time or were never sent count with the time that they had waited.
    pub latency: Histogram,
    /// In an open loop, from when a request was sent.
    pub service: Histogram,
    /// Answered as they should be.
    pub done: AtomicU64,
    /// Bytes of their blobs.
    pub bytes: AtomicU64,
    /// Not answered as they should be.
    pub failed: AtomicU64,
    /// The most requests that were due and not yet sent.
    pub backlog_max: AtomicU64,
    /// Connections that the server closed between two requests.
    pub reconnects: AtomicU64,
    failures: Mutex<Failures>,
}

/// Failures, by kind, and the first ones.
#[derive(Debug, Default, Clone)]
pub struct Failures {
    /// How many of each kind.
    pub kinds: BTreeMap<Kind, u64>,
    /// The first of all, with their keys.
    pub first: Vec<String>,
}

impl Tally {
    /// A request was answered as it should be.
    pub fn done(&self, bytes: u64, latency: Duration, service: Option<Duration>) {
        self.latency.record(latency);
        if let Some(service) = service {
            self.service.record(service);
        }
        self.bytes.fetch_add(bytes, Relaxed);
        self.done.fetch_add(1, Relaxed);
    }

    /// A request failed. Its time counts if it waited for an answer that did not come: a refusal is quick, and would make
    /// the server look so.
    pub fn failed(&self, what: &str, failure: &Failure, latency: Duration) {
        if failure.kind == Kind::Timeout {
            self.latency.record(latency);
        }
        let mut failures = self.failures.lock();
        *failures.kinds.entry(failure.kind).or_default() += 1;
        if failures.first.len() < TOLD {
            failures.first.push(format!("{what}: {failure}"));
        }
        self.failed.fetch_add(1, Relaxed);
    }

    /// What failed so far.
    pub fn failures(&self) -> Failures {
        self.failures.lock().clone()
    }
}
