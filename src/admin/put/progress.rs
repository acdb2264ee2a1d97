//! What is seen while it runs, on standard error: a bar on a terminal, a line now and then elsewhere.

use std::{
    io::{IsTerminal, stderr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use crate::model::size;

/// A line as often as this where there is no terminal: enough to see that it goes on, few enough for a log file.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Redraws of the bar.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Files and bytes, done and found so far. The totals grow while the tree is still being counted.
pub(super) struct Progress {
    bar: ProgressBar,
    files: AtomicU64,
    files_found: AtomicU64,
    started: Instant,
    /// When the last line was printed; `None` where there is a bar.
    line: Option<Mutex<Instant>>,
}

impl Progress {
    /// Shows nothing yet.
    pub(super) fn new() -> Arc<Self> {
        let is_terminal = stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(
            "{bar:24} {msg}  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left",
        );
        let bar = ProgressBar::with_draw_target(Some(0), target)
            .with_style(style.expect("the template is a constant that a test draws"));
        if is_terminal {
            bar.enable_steady_tick(DRAW_EVERY);
        }
        Arc::new(Self {
            bar,
            files: AtomicU64::new(0),
            files_found: AtomicU64::new(0),
            started: Instant::now(),
            line: (!is_terminal).then(|| Mutex::new(Instant::now())),
        })
    }

    /// A file was found that is to be worked on.
    pub(super) fn found(&self, bytes: u64) {
        self.files_found.fetch_add(1, Relaxed);
        self.bar.inc_length(bytes);
    }

    /// A file is finished, well or not.
    pub(super) fn finished_file(&self) {
        self.files.fetch_add(1, Relaxed);
        let (files, found) = (self.files.load(Relaxed), self.files_found.load(Relaxed));
        self.bar.set_message(format!("{files} of {found} files"));
        self.say_now_and_then();
    }

    /// Starts to count the bytes of one try.
    pub(super) fn counted(self: &Arc<Self>) -> Counted {
        Counted { progress: self.clone(), bytes: 0 }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn say_now_and_then(&self) {
        let Some(line) = &self.line else { return };
        let mut last = line.lock();
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            eprintln!("{}", self.line());
        }
    }

    fn line(&self) -> String {
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let rate = done as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let left = all.saturating_sub(done) as f64 / rate.max(1.0);
        format!(
            "{} of {} files, {} of {}, {}/s, {} left",
            self.files.load(Relaxed),
            self.files_found.load(Relaxed),
            size::format(done),
            size::format(all),
            size::format(rate as u64),
            HumanDuration(Duration::from_secs(left as u64)),
        )
    }
}

/// The bytes of one try, taken back when it fails (is dropped before [`Counted::keep`]).
pub(super) struct Counted {
    progress: Arc<Progress>,
    bytes: u64,
}

impl Counted {
    /// So many bytes more went through.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.progress.bar.inc(bytes as u64);
        self.progress.say_now_and_then();
    }

    /// The try succeeded.
    pub(super) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.progress.bar.dec(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_tries_do_not_count() {
        let progress = Progress::new();
        progress.found(2048);
        progress.found(1024);
        let mut kept = progress.counted();
        kept.add(1024);
        kept.keep();
        progress.counted().add(500);
        progress.finished_file();
        let line = progress.line();
        assert!(line.starts_with("1 of 2 files, 1kb of 3kb, "), "{line}");
        progress.end();
    }
}
