//! What a node counts: Prometheus metrics with its name as label, and the totals of `/stats`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use metrics::{Counter, Histogram, counter, gauge, histogram};
use parking_lot::Mutex;

use super::refusal::Refusal;
use crate::{storage::Usage, telemetry::Kept};

/// The counters of one node.
pub struct Metrics {
    node: Arc<str>,
    /// Bytes of bodies that came, stored or not.
    pub received_bytes: Counter,
    /// Reads that met damage.
    pub damaged_reads: Counter,
    /// How long blobs took from their last byte to durable.
    pub commit_seconds: Histogram,
    sent_bytes: Counter,
    /// Blobs given out, whole or in part.
    pub gets: Traffic,
    /// Blobs taken.
    pub puts: Traffic,
    outcomes: Kept<(Verb, &'static str), Counter>,
}

impl Metrics {
    /// The counters of the node of this name. The recorder must have been installed, or they count into nothing.
    pub fn new(node: Arc<str>) -> Self {
        Self {
            received_bytes: counter!("backpack_node_received_bytes_total", "node" => node.clone()),
            damaged_reads: counter!("backpack_node_damaged_reads_total", "node" => node.clone()),
            commit_seconds: histogram!("backpack_node_commit_seconds", "node" => node.clone()),
            sent_bytes: counter!("backpack_node_sent_bytes_total", "node" => node.clone()),
            gets: Traffic::default(),
            puts: Traffic::default(),
            outcomes: Kept::default(),
            node,
        }
    }

    /// The node's name: its id, or its port where it has none.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Bytes of a blob were handed to the connection.
    pub fn sent(&self, bytes: usize) {
        self.sent_bytes.increment(bytes as u64);
        self.gets.add_bytes(bytes as u64);
    }

    /// Sets the gauge of how far versions are ahead of this machine's clock.
    pub fn show_clock(&self, ahead_ms: u64) {
        gauge!("backpack_node_clock_ahead_seconds", "node" => self.node.clone())
            .set(ahead_ms as f64 / 1000.0);
    }

    /// Sets the gauges of reads and writes that wait for a disk that does not answer.
    pub fn show_stuck(&self, (reads, writes): (usize, usize)) {
        let set = |verb: &'static str, stuck: usize| {
            gauge!("backpack_node_stuck", "node" => self.node.clone(), "verb" => verb).set(stuck as f64);
        };
        set("read", reads);
        set("write", writes);
    }

    /// Sets the gauges to the engine's totals.
    pub fn show(&self, usage: &Usage) {
        let set =
            |name: &'static str, value: u64| gauge!(name, "node" => self.node.clone()).set(value as f64);
        set("backpack_node_blobs", usage.blobs);
        set("backpack_node_blob_bytes", usage.blob_bytes);
        set("backpack_node_tombstones", usage.tombstones);
        set("backpack_node_volumes", usage.volumes);
        set("backpack_node_dead_bytes", usage.dead_bytes);
        set("backpack_node_disk_bytes", usage.disk_bytes);
        set("backpack_node_free_bytes", usage.free_bytes);
        set("backpack_node_damaged_blobs", usage.damaged);
        set("backpack_node_failed_disks", usage.failed_disks);
        set("backpack_node_read_only", u64::from(usage.read_only.is_some()));
        set("backpack_node_compaction_paused", u64::from(usage.compaction_paused));
        let scrub = &usage.scrub;
        set("backpack_node_scrub_verified_bytes", scrub.verified_bytes);
        set("backpack_node_scrub_total_bytes", scrub.total_bytes);
        set("backpack_node_scrub_found", scrub.found);
        set("backpack_node_scrub_running", u64::from(scrub.running));
        set("backpack_node_scrub_paused", u64::from(scrub.paused));
        // Absent before the first round, so that an alarm on its age does not take it for one of 1970.
        for (name, ms) in [
            ("backpack_node_scrub_began_timestamp_seconds", scrub.began_ms),
            ("backpack_node_scrub_ended_timestamp_seconds", scrub.last_ended_ms),
        ] {
            ms.into_iter().for_each(|ms| set(name, ms / 1000));
        }
        let count =
            |name: &'static str, value: u64| counter!(name, "node" => self.node.clone()).absolute(value);
        count("backpack_node_compacted_bytes_total", usage.compacted_bytes);
        count("backpack_node_reclaimed_bytes_total", usage.reclaimed_bytes);
        count("backpack_node_hot_reads_total", usage.hot_reads);
        count("backpack_node_memory_reads_total", usage.memory_reads);
        count("backpack_node_disk_reads_total", usage.disk_reads);
        count("backpack_node_scrub_read_bytes_total", scrub.read_bytes);
    }
}

/// Blobs in one direction, as the original's `/stats` has them.
#[derive(Default)]
pub struct Traffic {
    bytes: AtomicU64,
    requests: Mutex<Requests>,
}

#[derive(Default, Clone, Copy)]
struct Requests {
    count: u64,
    average_ms: f64,
}

/// The original's average is over about this many of the last requests.
const AVERAGE_OVER: u64 = 1000;

impl Traffic {
    /// Counts bytes.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn add_request(&self, took: Duration) {
        let mut requests = self.requests.lock();
        requests.count += 1;
        let weight = requests.count.min(AVERAGE_OVER) as f64;
        requests.average_ms += (took.as_secs_f64() * 1000.0 - requests.average_ms) / weight;
    }

    /// `{"count", "bytes", "avg"}`; `avg` in milliseconds.
    pub fn to_json(&self) -> serde_json::Value {
        let Requests { count, average_ms } = *self.requests.lock();
        let bytes = self.bytes.load(Ordering::Relaxed);
        // Microseconds are as fine as anybody reads.
        serde_json::json!({ "count": count, "bytes": bytes, "avg": (average_ms * 1000.0).round() / 1000.0 })
    }
}

/// A request about a blob that is being answered. It is counted when this is dropped, so that a request that is given up,
/// because its client went away or the node stops, counts too.
pub struct Pending<'a> {
    metrics: &'a Metrics,
    verb: Verb,
    outcome: &'static str,
    started: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Head,
    Put,
    Delete,
}

impl<'a> Pending<'a> {
    /// A request with one of the four methods a blob knows; any other counts as GET.
    pub fn new(metrics: &'a Metrics, method: &Method) -> Self {
        let verb = match *method {
            Method::PUT => Verb::Put,
            Method::DELETE => Verb::Delete,
            Method::HEAD => Verb::Head,
            _ => Verb::Get,
        };
        Self { metrics, verb, outcome: "aborted", started: Instant::now() }
    }

    /// How it ended.
    pub fn done(mut self, result: Result<StatusCode, &Refusal>) {
        self.outcome = match result {
            Ok(status) => success(self.verb, status),
            Err(refusal) => failure(refusal),
        };
        if result.is_err_and(Refusal::is_damage) {
            self.metrics.damaged_reads.increment(1);
        }
        match (self.verb, self.outcome) {
            (Verb::Get, "whole" | "part") => self.metrics.gets.add_request(self.started.elapsed()),
            (Verb::Put, "created" | "replaced" | "unchanged") => {
                self.metrics.puts.add_request(self.started.elapsed());
            }
            _ => {}
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let name = match self.verb {
            Verb::Get => "backpack_node_gets_total",
            Verb::Head => "backpack_node_heads_total",
            Verb::Put => "backpack_node_puts_total",
            Verb::Delete => "backpack_node_deletes_total",
        };
        let Metrics { node, outcomes, .. } = self.metrics;
        outcomes.with(
            (self.verb, self.outcome),
            || counter!(name, "node" => node.clone(), "outcome" => self.outcome),
            |outcome| outcome.increment(1),
        );
    }
}

fn success(verb: Verb, status: StatusCode) -> &'static str {
    match (verb, status) {
        (_, StatusCode::NOT_MODIFIED) => "not_modified",
        (Verb::Get | Verb::Head, StatusCode::PARTIAL_CONTENT) => "part",
        (Verb::Get | Verb::Head, _) => "whole",
        (Verb::Put, StatusCode::CREATED) => "created",
        (Verb::Put, StatusCode::NO_CONTENT) => "replaced",
        (Verb::Delete, StatusCode::NO_CONTENT) => "deleted",
        (Verb::Put | Verb::Delete, _) => "unchanged",
    }
}

fn failure(refusal: &Refusal) -> &'static str {
    match refusal.status() {
        _ if refusal.is_damage() => "damaged",
        StatusCode::NOT_FOUND => "missing",
        StatusCode::GONE => "gone",
        StatusCode::INSUFFICIENT_STORAGE => "full",
        status if status.is_client_error() => "refused",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_the_last_requests() {
        let traffic = Traffic::default();
        for _ in 0..10 {
            traffic.add_request(Duration::from_millis(10));
        }
        traffic.add_bytes(170);
        assert_eq!(traffic.to_json(), serde_json::json!({ "count": 10, "bytes": 170, "avg": 10.0 }));
        for _ in 0..20_000 {
            traffic.add_request(Duration::from_millis(2));
        }
        assert_eq!(traffic.to_json()["avg"], 2.0);
    }
}
