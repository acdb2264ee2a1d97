//! Settings of the replicator.

use std::{ops::RangeInclusive, time::Duration};

use super::outcome::Policy;
use crate::{daemon::Backoff, model::size, queue::CLAIM_LEASE};

/// Tasks worked on at once. A copy waits for disks and the network most of its time, so it is far more than there are
/// cores, and a claim of many costs little more than one of few (docs/decisions/0015).
pub const DEFAULT_CONCURRENCY: usize = 128;

/// More would need more connections to one server than are kept open, and more memory than a small machine has (up
/// to 512 KiB a copy).
const MAX_CONCURRENCY: usize = 1024;

/// Tries of a task whose failures are its own, with the waits between them more than half an hour.
const DEFAULT_ATTEMPTS: u32 = 12;

/// A lease is renewed three times in its time: shorter ones would end in a pause of a busy machine; longer ones leave the
/// tasks of a dead replicator lying.
const LEASE_SECONDS: RangeInclusive<u64> = 3..=3600;

/// Longest part of a body that passes at once.
const PART_BYTES: u64 = 64 * 1024;

/// With a byte rate so low that a copy gets no part within this, the servers would take it for stalled.
const PART_WITHIN_SECONDS: u64 = 5;

/// The replicator's settings, as flags and environment variables.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Replicator")]
pub struct Config {
    /// Tasks worked on at once, 1 to 1024
    #[arg(long, env = "BACKPACK_REPLICATOR_CONCURRENCY", default_value_t = DEFAULT_CONCURRENCY, value_name = "TASKS")]
    pub concurrency: usize,

    /// Tasks of one target worked on at once, so that a slow one leaves room for others [default: half of the concurrency]
    #[arg(long, env = "BACKPACK_REPLICATOR_PER_TARGET", value_name = "TASKS")]
    pub per_target: Option<usize>,

    /// Bytes all copies together may pass in a second, as 50mb [default: no limit]
    #[arg(long, env = "BACKPACK_REPLICATOR_BYTES_PER_SECOND", value_name = "SIZE", value_parser = size::parse)]
    pub bytes_per_second: Option<u64>,

    /// Tries of a task before it becomes a dead letter. Tries that fail because a server is down or full do not count
    #[arg(long, env = "BACKPACK_REPLICATOR_ATTEMPTS", default_value_t = DEFAULT_ATTEMPTS, value_name = "TRIES")]
    pub attempts: u32,

    /// Seconds without a sign of life after which other replicators take over the tasks of this one; the same for all
    #[arg(
        long,
        env = "BACKPACK_REPLICATOR_LEASE",
        default_value_t = CLAIM_LEASE.as_secs(),
        value_name = "SECONDS"
    )]
    pub lease: u64,

    /// Longest wait after a task's first failure, in milliseconds; it doubles with each
    #[arg(long, env = "BACKPACK_REPLICATOR_RETRY_FIRST_MS", default_value_t = 2_000, value_name = "MS")]
    pub retry_first_ms: u64,

    /// Longest wait between two tries of a task, in milliseconds
    #[arg(long, env = "BACKPACK_REPLICATOR_RETRY_MAX_MS", default_value_t = 600_000, value_name = "MS")]
    pub retry_max_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: DEFAULT_CONCURRENCY,
            per_target: None,
            bytes_per_second: None,
            attempts: DEFAULT_ATTEMPTS,
            lease: CLAIM_LEASE.as_secs(),
            retry_first_ms: 2_000,
            retry_max_ms: 600_000,
        }
    }
}

/// Settings that were checked.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(super) concurrency: usize,
    pub(super) per_target: usize,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) policy: Policy,
    pub(super) lease: Duration,
}

impl Settings {
    /// The lease that the queue given to [`super::serve`] must have.
    pub fn lease(&self) -> Duration {
        self.lease
    }
}

impl Config {
    /// Checks the settings; every complaint at once, a plain sentence each.
    pub fn check(&self) -> Result<Settings, Vec<String>> {
        let mut complaints = Vec::new();
        let mut demand = |holds: bool, complaint: String| {
            if !holds {
                complaints.push(complaint);
            }
        };
        let per_target = self.per_target.unwrap_or(self.concurrency.div_ceil(2));
        demand(
            (1..=MAX_CONCURRENCY).contains(&self.concurrency),
            format!("--concurrency is 1 to {MAX_CONCURRENCY}, not {}", self.concurrency),
        );
        demand(per_target > 0 || self.concurrency == 0, "--per-target must be at least 1".to_owned());
        demand(self.attempts > 0, "--attempts must be at least 1".to_owned());
        demand(
            0 < self.retry_first_ms && self.retry_first_ms <= self.retry_max_ms,
            "--retry-first-ms must be at least 1 and at most --retry-max-ms".to_owned(),
        );
        demand(
            LEASE_SECONDS.contains(&self.lease),
            format!("--lease is {} to {} seconds", LEASE_SECONDS.start(), LEASE_SECONDS.end()),
        );
        let least = PART_BYTES * self.concurrency as u64 / PART_WITHIN_SECONDS;
        demand(
            self.bytes_per_second.is_none_or(|rate| rate >= least),
            format!(
                "--bytes-per-second must be at least {} at a --concurrency of {}: slower copies would time out",
                size::format(least.next_multiple_of(1024)),
                self.concurrency
            ),
        );
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let first = Duration::from_millis(self.retry_first_ms);
        let max = Duration::from_millis(self.retry_max_ms);
        Ok(Settings {
            concurrency: self.concurrency,
            per_target: per_target.min(self.concurrency),
            bytes_per_second: self.bytes_per_second,
            policy: Policy { attempts: self.attempts, backoff: Backoff { first, max } },
            lease: Duration::from_secs(self.lease),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold() {
        let settings = Config::default().check().unwrap();
        assert_eq!((settings.concurrency, settings.per_target), (128, 64));
        let one = Config { concurrency: 1, ..Config::default() }.check().unwrap();
        assert_eq!((one.concurrency, one.per_target), (1, 1));
    }

    #[test]
    fn every_complaint_at_once() {
        let bad = Config {
            concurrency: 0,
            per_target: Some(0),
            bytes_per_second: None,
            attempts: 0,
            lease: 1,
            retry_first_ms: 5,
            retry_max_ms: 4,
        };
        assert_eq!(bad.check().unwrap_err().len(), 4);
        let slow = Config { bytes_per_second: Some(1000), ..Config::default() };
        assert_eq!(
            slow.check().unwrap_err(),
            [
                "--bytes-per-second must be at least 1.6mb at a --concurrency of 128: slower copies would time out"
            ]
        );
    }
}
