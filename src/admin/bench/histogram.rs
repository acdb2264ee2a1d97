//! Times by how often they occurred, exact to 1 in 128. Many tasks record at once and somebody reads meanwhile; no lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde::Serialize;

/// Buckets of each doubling, as a power of two: the error is below 1 in 128.
const BITS: u32 = 7;

/// Buckets of each doubling.
const PER_DOUBLING: u64 = 1 << BITS;

/// Longer times count as this one, over an hour; no request may take as long.
const MAX_NANOS: u64 = (1 << 42) - 1;

/// How often which time occurred.
pub struct Histogram {
    buckets: Vec<AtomicU64>,
    sum_nanos: AtomicU64,
    max_nanos: AtomicU64,
}

/// What is told of many times. In milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Their mean.
    pub mean: f64,
    /// Half of them are at most this long.
    pub p50: f64,
    /// 90 of 100.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p99_9: f64,
    /// The longest.
    pub max: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..=bucket_of(MAX_NANOS)).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, sum_nanos: AtomicU64::new(0), max_nanos: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// One more of this length.
    pub fn record(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(MAX_NANOS).min(MAX_NANOS);
        self.buckets[bucket_of(nanos)].fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(nanos, Relaxed);
        self.max_nanos.fetch_max(nanos, Relaxed);
    }

    /// What is told of them; `None` where there are none.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let max = self.max_nanos.load(Relaxed);
        let at = |share: f64| ms(longest_of(&counts, (total as f64 * share).ceil() as u64).min(max));
        Some(Percentiles {
            mean: ms(self.sum_nanos.load(Relaxed) / total),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: ms(max),
        })
    }
}

/// The longest of the shortest `count`, as the end of its bucket.
fn longest_of(counts: &[u64], count: u64) -> u64 {
    let mut seen = 0;
    let found = counts.iter().position(|in_bucket| {
        seen += in_bucket;
        seen >= count
    });
    found.map_or(MAX_NANOS, end_of)
}

/// Below 128 ns each has its own; from there on each doubling has 128.
fn bucket_of(nanos: u64) -> usize {
    let doublings = nanos.checked_ilog2().unwrap_or(0).saturating_sub(BITS);
    let within = nanos >> doublings;
    (u64::from(doublings) * PER_DOUBLING + within) as usize
}

/// The longest time of a bucket.
fn end_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PER_DOUBLING {
        return bucket;
    }
    let doublings = bucket / PER_DOUBLING - 1;
    let within = bucket - doublings * PER_DOUBLING;
    ((within + 1) << doublings) - 1
}

/// Milliseconds, to the microsecond.
fn ms(nanos: u64) -> f64 {
    (nanos as f64 / 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_a_bucket_that_ends_at_most_one_in_128_above_it() {
        let mut before = 0;
        for nanos in
            (0..3000).chain((12..42).flat_map(|n| [(1 << n) - 1, 1 << n, (1 << n) + 1, (1 << n) * 3 / 2]))
        {
            let bucket = bucket_of(nanos);
            let end = end_of(bucket);
            assert!(end >= nanos && end - nanos <= nanos / 128, "{nanos}: {bucket} {end}");
            if nanos < 3000 {
                assert!(bucket == before || bucket == before + 1, "{nanos}");
                before = bucket;
            }
        }
    }

    #[test]
    fn percentiles_are_those_of_the_times() {
        let histogram = Histogram::default();
        assert_eq!(histogram.percentiles(), None);
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        let found = histogram.percentiles().unwrap();
        for (found, exact) in
            [(found.p50, 500.0), (found.p90, 900.0), (found.p99, 990.0), (found.p99_9, 999.0)]
        {
            assert!(found >= exact && found <= exact * (1.0 + 1.0 / 128.0), "{found} {exact}");
        }
        assert_eq!((found.mean, found.max), (500.5, 1000.0));
    }

    #[test]
    fn no_time_is_too_long() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_secs(1 << 40));
        assert_eq!(histogram.percentiles().unwrap().max, ms(MAX_NANOS));
    }
}
