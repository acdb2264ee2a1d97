//! What a store object was asked to announce and to withdraw, kept until it is done: both implementations compare this
//! with what stands there.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;

/// Announced paths with their content; `None` for those that still have to be removed.
#[derive(Default)]
pub(super) struct Wanted(Mutex<BTreeMap<String, Option<Bytes>>>);

impl Wanted {
    /// From now on the document is to stand there with this content, or (`None`) to be gone.
    pub(super) fn set(&self, path: &str, data: Option<Bytes>) {
        self.0.lock().insert(path.to_owned(), data);
    }

    /// What is wanted of a path now: outer `None` if nothing.
    pub(super) fn get(&self, path: &str) -> Option<Option<Bytes>> {
        self.0.lock().get(path).cloned()
    }

    /// The document is gone: forgets it, unless it was announced again meanwhile.
    pub(super) fn gone(&self, path: &str) {
        let mut wanted = self.0.lock();
        if wanted.get(path) == Some(&None) {
            wanted.remove(path);
        }
    }

    /// All paths.
    pub(super) fn paths(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }
}
