//! How far a long command is, on standard error: a bar on a terminal, a line now and then elsewhere.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use crate::model::size;

/// A line as often as this where there is no terminal: enough to see that it goes on, few enough for a log file.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Redraws of the bar.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Bytes, done and to be done, after a few words.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    /// When the last line was printed; `None` where there is a bar.
    line: Option<Mutex<Instant>>,
}

impl Progress {
    /// Shows nothing yet.
    pub fn new(words: &str) -> Self {
        let is_terminal = stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(
            "{bar:24} {msg}  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left",
        );
        let bar = ProgressBar::with_draw_target(Some(0), target)
            .with_style(style.expect("the template is a constant that a test draws"))
            .with_message(words.to_owned());
        if is_terminal {
            bar.enable_steady_tick(DRAW_EVERY);
        }
        let line = (!is_terminal).then(|| Mutex::new(Instant::now()));
        Self { bar, started: Instant::now(), line }
    }

    /// So many bytes more are to be done.
    pub fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    /// So many bytes are to be done in all.
    pub fn expect_in_all(&self, bytes: u64) {
        self.bar.set_length(bytes);
    }

    /// So many bytes more are done.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.say_now_and_then();
    }

    /// So many bytes are to be done again.
    pub fn take_back(&self, bytes: u64) {
        self.bar.dec(bytes);
    }

    /// Says other words.
    pub fn say(&self, words: String) {
        self.bar.set_message(words);
        self.say_now_and_then();
    }

    /// Prints something else meanwhile.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Takes the bar away.
    pub fn end(&self) {
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

    /// The line of now.
    pub fn line(&self) -> String {
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let rate = done as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let left = all.saturating_sub(done) as f64 / rate.max(1.0);
        format!(
            "{}, {} of {}, {}/s, {} left",
            self.bar.message(),
            size::format(done),
            size::format(all),
            size::format(rate as u64),
            HumanDuration(Duration::from_secs(left as u64)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_is_done_and_left() {
        let progress = Progress::new("reading");
        progress.expect(3072);
        progress.add(2048);
        progress.take_back(1024);
        let line = progress.line();
        assert!(line.starts_with("reading, 1kb of 3kb, "), "{line}");
        progress.expect_in_all(2048);
        progress.say("still reading".into());
        assert!(progress.line().starts_with("still reading, 1kb of 2kb, "));
        progress.end();
    }
}
