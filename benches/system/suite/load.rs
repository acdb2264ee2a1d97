//! Requests, made by `backpack-admin bench` in a process of its own.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::{CONNECTIONS, Scale};
use crate::support::{admin::PROGRAM, daemon::Daemon};

/// What a run may take beyond its time: uploads that are made to be read, and the last answers.
const BEYOND: Duration = Duration::from_secs(120);

/// What is asked.
pub struct Load {
    url: String,
    seconds: u64,
    options: BTreeMap<&'static str, String>,
}

/// What was answered.
#[derive(Debug, Clone, Default)]
pub struct Answered {
    /// Requests.
    pub requests: u64,
    /// Requests in a second.
    pub per_second: f64,
    /// Milliseconds: the mean.
    pub mean_ms: f64,
    /// Half of them took less.
    pub p50_ms: f64,
    /// One in a hundred took more.
    pub p99_ms: f64,
}

impl Load {
    /// Uploads of blobs of this size, as many as go into a turn.
    pub fn put(scale: &Scale, addr: &str, size_bytes: usize) -> Self {
        Self::new(scale, addr, size_bytes, "put").with("--count", scale.requests)
    }

    /// Reads of some blobs of this size, which are uploaded for it at `addr` and read at `read_from`.
    pub fn get(scale: &Scale, addr: &str, read_from: &str, size_bytes: usize, blobs: u64) -> Self {
        let load = Self::new(scale, addr, size_bytes, "get");
        let load = load.with("--read-from", format!("http://{read_from}"));
        load.with("--count", blobs.min(scale.requests)).with("--reads", scale.requests)
    }

    fn new(scale: &Scale, addr: &str, size_bytes: usize, phase: &str) -> Self {
        let load = Self { url: format!("http://{addr}"), seconds: 0, options: BTreeMap::new() };
        let load = load.with("--only", phase).with("--size", size_bytes).with("--concurrency", CONNECTIONS);
        load.within(scale.each)
    }

    /// Ends the measuring after this, in whole seconds.
    pub fn within(mut self, time: Duration) -> Self {
        self.seconds = time.as_secs();
        self
    }

    /// Sets an option.
    pub fn with(mut self, option: &'static str, value: impl ToString) -> Self {
        self.options.insert(option, value.to_string());
        self
    }

    /// Makes the requests; each of them must be answered.
    pub fn run(self) -> Answered {
        // Whatever the blobs are on is thrown away afterwards.
        let mut args = ["bench", &self.url, "--json", "--keep", "--seconds"].map(str::to_owned).to_vec();
        args.push(self.seconds.to_string());
        args.extend(self.options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
        let bench = Daemon::start(PROGRAM, &args);
        let ended = bench.wait_for_end(Duration::from_secs(self.seconds) + BEYOND);
        let said = bench.log();
        assert!(ended.success(), "{args:?}: {ended}\n{said}");
        let outcome = said.lines().rev().find(|line| line.starts_with('{'));
        let outcome = outcome.and_then(|line| serde_json::from_str(line).ok());
        answered(&outcome.unwrap_or_else(|| panic!("{args:?} said no JSON:\n{said}")))
    }
}

fn answered(outcome: &Value) -> Answered {
    let phase = if outcome["get"].is_null() { &outcome["put"] } else { &outcome["get"] };
    let figure = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("a figure is missing: {outcome}"));
    let latency = &phase["latency_ms"];
    Answered {
        requests: figure(&phase["requests"]) as u64,
        per_second: figure(&phase["requests_per_second"]),
        mean_ms: figure(&latency["mean"]),
        p50_ms: figure(&latency["p50"]),
        p99_ms: figure(&latency["p99"]),
    }
}
