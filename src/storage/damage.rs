//! What was found damaged since the start and is not yet replaced.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::{StorageError, index::Place};

/// Damage that was found.
#[derive(Debug, Default)]
pub struct Damage {
    records: Mutex<HashSet<Place>>,
    /// Stretches of volumes where no record can be read: whose they were is not known.
    stretches: AtomicU64,
}

impl Damage {
    /// No damage but so many stretches, which were found before.
    pub fn with_stretches(stretches: u64) -> Self {
        Self { stretches: AtomicU64::new(stretches), ..Self::default() }
    }

    /// Notes a damaged record, once, and gives the error for the reader.
    pub fn found(&self, place: Place, what: &str) -> StorageError {
        if self.records.lock().insert(place) {
            tracing::error!(?place, what, "damaged blob");
        }
        StorageError::Damaged(format!("{place:?}: {what}"))
    }

    /// Notes a stretch of a volume that holds no record.
    pub fn found_stretch(&self, volume: u32, start: u64, end: u64) {
        tracing::error!(volume, start, end, "damaged stretch of a volume: skipped");
        self.stretches.fetch_add(1, Ordering::Relaxed);
    }

    /// The record is not the newest of its key any more.
    pub fn replaced(&self, place: Place) {
        self.records.lock().remove(&place);
    }

    /// Nothing of that volume is left.
    pub fn forget(&self, volume: u32) {
        self.records.lock().retain(|place| place.volume() != volume);
    }

    /// Whether that record is known to be damaged.
    pub fn is_known(&self, place: Place) -> bool {
        self.records.lock().contains(&place)
    }

    /// How many stretches there are. If any, keys may have been lost from sight.
    pub fn stretches(&self) -> u64 {
        self.stretches.load(Ordering::Relaxed)
    }

    /// Records and stretches together.
    pub fn count(&self) -> u64 {
        self.records.lock().len() as u64 + self.stretches()
    }
}
