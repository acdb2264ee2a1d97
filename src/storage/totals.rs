//! Running totals of what the index holds.

use parking_lot::Mutex;

use super::{record::Kind, whole};

/// What is counted of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// What it is.
    pub kind: Kind,
    /// Bytes of the blob.
    pub length: u64,
}

/// The numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Bytes of whole files, sums included.
    pub file_bytes: u64,
}

/// Totals, kept by the writer and read by anybody.
#[derive(Debug, Default)]
pub struct Totals(Mutex<Numbers>);

impl Totals {
    /// Totals that begin with these numbers.
    pub fn new(numbers: Numbers) -> Self {
        Self(Mutex::new(numbers))
    }

    /// A record took the place of another, or of nothing.
    pub fn replace(&self, new: Counted, old: Option<Counted>) {
        let mut numbers = self.0.lock();
        if let Some(old) = old {
            numbers.apply(old, u64::saturating_sub);
        }
        numbers.add(new);
    }

    /// A record is gone and none took its place.
    pub fn remove(&self, old: Counted) {
        self.0.lock().apply(old, u64::saturating_sub);
    }

    /// The numbers now.
    pub fn numbers(&self) -> Numbers {
        *self.0.lock()
    }
}

impl Numbers {
    /// Counts one more.
    pub fn add(&mut self, counted: Counted) {
        self.apply(counted, u64::saturating_add);
    }

    fn apply(&mut self, counted: Counted, change: fn(u64, u64) -> u64) {
        match counted.kind {
            Kind::Tombstone => self.tombstones = change(self.tombstones, 1),
            Kind::Blob | Kind::File => {
                self.blobs = change(self.blobs, 1);
                self.blob_bytes = change(self.blob_bytes, counted.length);
            }
            Kind::Gap => {}
        }
        if counted.kind == Kind::File {
            self.file_bytes = change(self.file_bytes, whole::file_length(counted.length));
        }
    }
}
