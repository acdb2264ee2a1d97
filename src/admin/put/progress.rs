//! What is seen while it runs: files and bytes, done and found so far.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::admin::progress::Progress as Shown;

/// Files and bytes, done and found so far. The totals grow while the tree is still being counted.
pub(super) struct Progress {
    shown: Shown,
    files: AtomicU64,
    files_found: AtomicU64,
}

impl Progress {
    /// Shows nothing yet.
    pub(super) fn new() -> Arc<Self> {
        let shown = Shown::new(&words(0, 0));
        Arc::new(Self { shown, files: AtomicU64::new(0), files_found: AtomicU64::new(0) })
    }

    /// A file was found that is to be worked on.
    pub(super) fn found(&self, bytes: u64) {
        self.files_found.fetch_add(1, Relaxed);
        self.shown.expect(bytes);
    }

    /// A file is finished, well or not.
    pub(super) fn finished_file(&self) {
        self.files.fetch_add(1, Relaxed);
        self.shown.say(words(self.files.load(Relaxed), self.files_found.load(Relaxed)));
    }

    /// Starts to count the bytes of one try.
    pub(super) fn counted(self: &Arc<Self>) -> Counted {
        Counted { progress: self.clone(), bytes: 0 }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.shown.end();
    }
}

fn words(files: u64, found: u64) -> String {
    format!("{files} of {found} files")
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
        self.progress.shown.add(bytes as u64);
    }

    /// The try succeeded.
    pub(super) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.progress.shown.take_back(self.bytes);
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
        let line = progress.shown.line();
        assert!(line.starts_with("1 of 2 files, 1kb of 3kb, "), "{line}");
        progress.end();
    }
}
