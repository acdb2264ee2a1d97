//! Metrics whose labels are known only when something happens.

use parking_lot::RwLock;

/// The metrics of one name that were needed so far, by their labels. The recorder finds a metric by hashing its name and all
/// labels, which it allocates first: too much for what every request counts.
///
/// Labels come from a small set, so they are looked through one by one.
#[derive(Debug)]
pub struct Kept<L, M>(RwLock<Vec<(L, M)>>);

impl<L, M> Default for Kept<L, M> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<L: PartialEq, M> Kept<L, M> {
    /// Uses the metric of these labels; `register` gets it from the recorder, the first time.
    pub fn with(&self, labels: L, register: impl FnOnce() -> M, with: impl FnOnce(&M)) {
        let find = |kept: &[(L, M)]| kept.iter().position(|(known, _)| *known == labels);
        let kept = self.0.read();
        if let Some(at) = find(&kept) {
            return with(&kept[at].1);
        }
        drop(kept);
        let metric = register();
        with(&metric);
        let mut kept = self.0.write();
        // Somebody else may have been quicker; the recorder gave both the same.
        if find(&kept).is_none() {
            kept.push((labels, metric));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn each_is_registered_once() {
        let (kept, registered) = (Kept::default(), AtomicU32::new(0));
        let count = |labels: (&'static str, u16)| {
            kept.with(
                labels,
                || {
                    registered.fetch_add(1, Relaxed);
                    AtomicU32::new(0)
                },
                |metric| {
                    metric.fetch_add(1, Relaxed);
                },
            );
        };
        [("GET", 200), ("GET", 404), ("GET", 200), ("PUT", 200)].into_iter().for_each(count);
        assert_eq!(registered.load(Relaxed), 3);
        let counts: Vec<u32> = kept.0.read().iter().map(|(_, metric)| metric.load(Relaxed)).collect();
        assert_eq!(counts, [2, 1, 1]);
    }
}
