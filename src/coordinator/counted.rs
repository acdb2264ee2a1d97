//! What is counted of every upload, at hand: to ask the recorder for a counter costs more than to count.

use metrics::{Counter, Histogram, counter, histogram};

use crate::telemetry::Kept;

/// Counters of uploads.
pub(super) struct Uploads {
    /// By how they ended.
    ended: Kept<&'static str, (Counter, Histogram)>,
    /// By the copies they had when they were answered.
    copies: Kept<&'static str, Counter>,
    bytes: Counter,
}

impl Default for Uploads {
    /// The recorder must have been installed, or bytes are counted into nothing.
    fn default() -> Self {
        let bytes = counter!("backpack_coordinator_upload_bytes_total");
        Self { ended: Kept::default(), copies: Kept::default(), bytes }
    }
}

impl Uploads {
    /// One ended.
    pub(super) fn ended(&self, result: &'static str, seconds: f64) {
        let register = || {
            let ended = counter!("backpack_coordinator_uploads_total", "result" => result);
            (ended, histogram!("backpack_coordinator_upload_seconds", "result" => result))
        };
        self.ended.with(result, register, |(ended, took)| {
            ended.increment(1);
            took.record(seconds);
        });
    }

    /// One was stored so often.
    pub(super) fn reached(&self, copies: usize) {
        let copies = copies_label(copies);
        let register = || counter!("backpack_coordinator_copies_reached_total", "copies" => copies);
        self.copies.with(copies, register, |reached| reached.increment(1));
    }

    /// One was taken.
    pub(super) fn taken(&self, bytes: u64) {
        self.bytes.increment(bytes);
    }
}

fn copies_label(copies: usize) -> &'static str {
    match copies {
        0 => "0",
        1 => "1",
        2 => "2",
        3 => "3",
        4 => "4",
        _ => "5 or more",
    }
}
