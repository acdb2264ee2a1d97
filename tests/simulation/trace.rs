//! What happened, in order: the same for the same seed, and what a failed seed is understood by.

use std::sync::Arc;

use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use super::machine;

/// The lines of one simulation; clones write to the same.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    /// Adds a line, with the time.
    pub fn note(&self, what: impl std::fmt::Display) {
        self.0.lock().push(format!("{:9.3} {what}", machine::elapsed().as_secs_f64()));
    }

    /// All lines.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    /// One number that stands for all lines.
    pub fn digest(&self) -> u64 {
        let mut digest = Xxh3::new();
        for line in self.0.lock().iter() {
            digest.update(line.as_bytes());
            digest.update(b"\n");
        }
        digest.digest()
    }
}
