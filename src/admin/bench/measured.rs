//! What was measured in a phase.

use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;

use super::{
    failure::Kind,
    histogram::Percentiles,
    schedule::Schedule,
    tally::{Failures, Tally},
};

/// The figures of a phase.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Requests that were answered as they should be.
    pub requests: u64,
    /// Requests that were not.
    pub failed: u64,
    /// In an open loop, requests that were due and never sent.
    pub unsent: u64,
    /// From the start to the last answer.
    pub seconds: f64,
    /// `requests` in that time.
    pub requests_per_second: f64,
    /// Bytes of the blobs of `requests`.
    pub bytes: u64,
    /// `bytes` in that time.
    pub bytes_per_second: f64,
    /// In an open loop from when requests were due, else from when they were sent. `None` where none was answered.
    pub latency_ms: Option<Percentiles>,
    /// In an open loop, from when they were sent.
    pub service_ms: Option<Percentiles>,
    /// In an open loop, the most requests that were due and waited for a connection.
    pub backlog_max: Option<u64>,
    /// Connections that servers closed between two requests.
    pub reconnects: u64,
    /// Failures by kind.
    pub errors: Vec<Errors>,
    /// The first failures, in words.
    pub first_errors: Vec<String>,
    /// Processor time of this process, which is not the servers'.
    pub bench_cpu_seconds: Option<f64>,
}

/// How often something failed in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Errors {
    /// How.
    pub kind: Kind,
    /// How often.
    pub count: u64,
}

impl Measured {
    /// The figures of a phase that has ended.
    pub fn of(tally: &Tally, schedule: &Schedule, unsent: u64, seconds: f64, cpu: Option<f64>) -> Self {
        let (requests, bytes) = (tally.done.load(Relaxed), tally.bytes.load(Relaxed));
        let Failures { kinds, first } = tally.failures();
        let errors = |(kind, count): (Kind, u64)| Errors { kind, count };
        let per_second = |count: u64| count as f64 / seconds.max(1e-9);
        Self {
            requests,
            failed: tally.failed.load(Relaxed),
            unsent,
            seconds,
            requests_per_second: per_second(requests),
            bytes,
            bytes_per_second: per_second(bytes),
            latency_ms: tally.latency.percentiles(),
            service_ms: tally.service.percentiles(),
            backlog_max: schedule.rate.map(|_| tally.backlog_max.load(Relaxed)),
            reconnects: tally.reconnects.load(Relaxed),
            errors: kinds.into_iter().map(errors).collect(),
            first_errors: first,
            bench_cpu_seconds: cpu,
        }
    }
}
