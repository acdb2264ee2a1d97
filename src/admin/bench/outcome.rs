//! What a run came to: for people as a table, for programs as one object.

use serde::Serialize;

use super::{histogram::Percentiles, measured::Measured};
use crate::{
    admin::{report::Report, table::table},
    model::size,
};

/// What a run came to.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Where it was uploaded.
    pub url: String,
    /// Where it was read.
    pub read_from: String,
    /// What all keys begin with.
    pub folder: String,
    /// Sizes of the blobs.
    pub size: String,
    /// The seed of sizes and bytes.
    pub seed: u64,
    /// Connections.
    pub concurrency: u32,
    /// `open` or `closed`.
    pub r#loop: &'static str,
    /// Of an open loop.
    pub rate_per_second: Option<f64>,
    /// Whether all bytes were compared.
    pub verified: bool,
    /// Uploads that were made to be read, and are not what was to be measured.
    pub fill: Option<Measured>,
    /// Uploads.
    pub put: Option<Measured>,
    /// Reads.
    pub get: Option<Measured>,
    /// Why it ended early.
    pub stopped: Option<&'static str>,
    /// What became of the blobs.
    pub left: Option<Left>,
}

/// What became of the blobs.
#[derive(Debug, Clone, Serialize)]
pub struct Left {
    /// Blobs that were deleted.
    pub deleted: u64,
    /// Blobs that are still there.
    pub blobs: u64,
    /// Why.
    pub why: Option<String>,
    /// Whether that is a failure of the run.
    #[serde(skip)]
    pub failed: bool,
}

impl Outcome {
    fn phases(&self) -> impl Iterator<Item = (&'static str, &Measured)> {
        let named = [("UPLOAD", &self.fill), ("PUT", &self.put), ("GET", &self.get)];
        named.into_iter().filter_map(|(name, measured)| Some((name, measured.as_ref()?)))
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.phases().next().is_none()
    }

    /// For both.
    pub fn report(&self) -> Report {
        Report::data(self.text(), self)
    }

    /// For people: what is known before the blobs are deleted.
    pub fn text(&self) -> String {
        let mut text = self.heading() + "\n\n";
        let headings = [
            "",
            ">REQUESTS",
            ">FAILED",
            ">SECONDS",
            ">PER S",
            ">BYTES PER S",
            ">MEAN MS",
            ">P50",
            ">P90",
            ">P99",
            ">P99.9",
            ">MAX",
        ];
        text += &table(&headings, self.phases().flat_map(|(name, measured)| rows(name, measured)));
        text += "\n";
        for (name, measured) in self.phases() {
            text += &remarks(name, measured);
        }
        if let Some(stopped) = self.stopped {
            text += &format!("Stopped: {stopped}\n");
        }
        text
    }

    fn heading(&self) -> String {
        let Self { url, read_from, size, concurrency, .. } = self;
        let from = if read_from == url { String::new() } else { format!(", read from {read_from}") };
        let how = match self.rate_per_second {
            Some(rate) => format!("open loop, {rate} requests due each second, {concurrency} connections"),
            None => format!("closed loop of {concurrency} connections"),
        };
        format!("{url}{from}, {size}, {how}")
    }

    /// What went wrong, in one sentence.
    pub fn complaint(&self) -> Option<String> {
        let failed: u64 = self.phases().map(|(_, measured)| measured.failed).sum();
        let left = self.left.as_ref().filter(|left| left.failed);
        match (failed, left) {
            (0, None) => None,
            (0, Some(left)) => Some(format!("{} blobs could not be deleted", left.blobs)),
            (failed, _) => Some(format!("{failed} requests failed")),
        }
    }
}

impl Left {
    /// What became of so many blobs that were to be deleted.
    pub fn after(count: u64, deleting: &Measured) -> Self {
        let blobs = count - deleting.requests;
        let refused = deleting.first_errors.first().cloned();
        let why =
            (blobs > 0).then(|| refused.unwrap_or_else(|| "stopped before all were deleted".to_owned()));
        // A server without DELETE can be measured all the same.
        let failed = deleting.errors.iter().any(|error| !error.kind.knows_no_delete());
        Self { deleted: deleting.requests, blobs, why, failed }
    }

    /// One line.
    pub fn text(&self, folder: &str) -> String {
        let Self { deleted, blobs, why, .. } = self;
        match why {
            None => format!("Deleted {deleted} blobs"),
            Some(why) => format!("Left {blobs} blobs under {folder}/: {why}"),
        }
    }
}

fn rows(name: &str, measured: &Measured) -> Vec<Vec<String>> {
    let mut row = vec![
        name.to_owned(),
        measured.requests.to_string(),
        measured.failed.to_string(),
        format!("{:.2}", measured.seconds),
        format!("{:.0}", measured.requests_per_second),
        size::format(measured.bytes_per_second as u64),
    ];
    row.extend(times(measured.latency_ms.as_ref()));
    let mut rows = vec![row];
    if measured.service_ms.is_some() {
        let mut row = vec!["  from sending".to_owned()];
        row.extend(std::iter::repeat_n(String::new(), 5));
        row.extend(times(measured.service_ms.as_ref()));
        rows.push(row);
    }
    rows
}

fn times(times: Option<&Percentiles>) -> [String; 6] {
    let Some(Percentiles { mean, p50, p90, p99, p99_9, max }) = times else {
        return std::array::from_fn(|_| "-".to_owned());
    };
    [mean, p50, p90, p99, p99_9, max].map(|ms| format!("{ms:.2}"))
}

/// What the table does not say.
fn remarks(name: &str, measured: &Measured) -> String {
    let mut text = String::new();
    if let Some(backlog) = measured.backlog_max.filter(|backlog| *backlog > 0) {
        text += &format!("{name}: at most {backlog} requests were due and waited for a connection\n");
    }
    if measured.unsent > 0 {
        let unsent = measured.unsent;
        text += &format!("{name}: {unsent} requests were due and never sent; their waiting is counted\n");
    }
    if let Some(cores) = measured.bench_cpu_seconds.map(|cpu| cpu / measured.seconds.max(1e-9)) {
        text += &format!("{name}: this process used {cores:.2} of the machine's cores\n");
    }
    for error in &measured.errors {
        text += &format!("{name} failed {} times: {}\n", error.count, error.kind);
    }
    for error in &measured.first_errors {
        text += &format!("  {error}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{
            failure::{Failure, Kind},
            schedule::Schedule,
            tally::Tally,
        },
        *,
    };

    fn outcome() -> Outcome {
        let tally = Tally::default();
        tally.done(2048, Duration::from_millis(3), Some(Duration::from_millis(2)));
        tally.failed("PUT bench-1/7", &Failure::new(Kind::Broken, "gone"), Duration::ZERO);
        let schedule = Schedule { count: 9, within: Duration::from_secs(1), rate: Some(9.0) };
        Outcome {
            url: "http://one".to_owned(),
            read_from: "http://two".to_owned(),
            folder: "bench-1".to_owned(),
            size: "2kb".to_owned(),
            seed: 1,
            concurrency: 4,
            r#loop: "open",
            rate_per_second: Some(9.0),
            verified: false,
            fill: None,
            put: Some(Measured::of(&tally, &schedule, 5, 2.0, Some(1.0))),
            get: None,
            stopped: None,
            left: None,
        }
    }

    #[test]
    fn people_read_the_figures_and_what_they_do_not_say() {
        let text = outcome().text();
        let heading =
            "http://one, read from http://two, 2kb, open loop, 9 requests due each second, 4 connections\n";
        assert!(text.starts_with(heading), "{text}");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let row = text.lines().find(|line| line.starts_with("PUT ")).map(words).unwrap();
        assert_eq!(row[..8], ["PUT", "1", "1", "2.00", "0", "1kb", "3.00", "3.00"], "{text}");
        for line in [
            "PUT: 5 requests were due and never sent; their waiting is counted",
            "PUT: this process used 0.50 of the machine's cores",
            "PUT failed 1 times: broken connection",
            "  PUT bench-1/7: broken connection: gone",
        ] {
            assert!(text.lines().any(|said| said == line), "{line}: {text}");
        }
    }

    #[test]
    fn failures_are_complained_of_and_a_server_without_delete_is_not() {
        let mut outcome = outcome();
        assert_eq!(outcome.complaint().unwrap(), "1 requests failed");
        outcome.put = None;
        assert!(outcome.is_empty() && outcome.complaint().is_none());
        let tally = Tally::default();
        let left = |tally: &Tally| {
            let schedule = Schedule { count: 9, within: Duration::ZERO, rate: None };
            Left::after(9, &Measured::of(tally, &schedule, 0, 1.0, None))
        };
        let refused = Kind::Status(http::StatusCode::METHOD_NOT_ALLOWED);
        tally.failed("DELETE a", &Failure::new(refused, ""), Duration::ZERO);
        outcome.left = Some(left(&tally));
        assert_eq!(outcome.complaint(), None);
        tally.failed("DELETE b", &Failure::new(Kind::Broken, ""), Duration::ZERO);
        outcome.left = Some(left(&tally));
        assert_eq!(outcome.complaint().unwrap(), "9 blobs could not be deleted");
        let line = outcome.left.unwrap().text("bench-1");
        assert_eq!(line, "Left 9 blobs under bench-1/: DELETE a: status 405");
    }
}
