//! The process's one metrics recorder, rendered in Prometheus' text format. Names and labels are in `docs/metrics.md`;
//! no label ever holds a key, a version or anything else without a small bound.

use std::{sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Buckets of every histogram of seconds: 250 microseconds (a warm read) to 30 seconds (the longest time-outs).
const SECONDS: [f64; 16] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The recorder keeps raw samples until somebody folds them into buckets, so this must be often enough to bound memory.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Installs the recorder, once in a process; later calls do nothing. Must be called inside a tokio runtime.
pub fn install() {
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .ok()?
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).ok()?;
        // A thread, not a task: in tests one process outlives many runtimes.
        let upkeep = handle.clone();
        let body = move || loop {
            std::thread::sleep(UPKEEP_EVERY);
            upkeep.run_upkeep();
        };
        std::thread::Builder::new().name("metrics-upkeep".to_owned()).spawn(body).ok()?;
        Some(handle)
    });
}

/// All metrics as text; empty before [`install`].
pub fn render() -> String {
    HANDLE.get().and_then(Option::as_ref).map(PrometheusHandle::render).unwrap_or_default()
}
