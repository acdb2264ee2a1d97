//! When a read may be asked of a second server: only so often that it adds little to the load when all are slow. Pure.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Second questions that a hundred reads earn. Slow disks have one read in ten that takes long; where it is more, all are
/// slow, and asking more would make them slower.
const PERCENT: u64 = 10;

/// Second questions saved up at most: a server that hangs is left alone after a few, and as many readers may have met it
/// at the same moment.
const SAVED: u64 = 32;

/// One second question.
const ONE: u64 = 100;

/// What is left to spend on second questions, in hundredths of one.
pub(super) struct Budget(AtomicU64);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU64::new(SAVED * ONE))
    }
}

impl Budget {
    /// A read began.
    pub(super) fn earn(&self) {
        // Mostly nothing is spent, and nothing is written.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |left| {
            (left < SAVED * ONE).then(|| (left + PERCENT).min(SAVED * ONE))
        });
    }

    /// Whether one more server may be asked; it is paid with the answer.
    pub(super) fn spend(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(ONE)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_reads_and_a_few_at_once() {
        let budget = Budget::default();
        for _ in 0..1_000 {
            budget.earn();
        }
        assert_eq!((0..1_000).filter(|_| budget.spend()).count(), SAVED as usize);
        let mut asked = 0;
        for _ in 0..1_000 {
            budget.earn();
            asked += usize::from(budget.spend());
        }
        assert_eq!(asked, 100);
    }
}
