//! Memory for bodies that are being received: a number of bytes that many share and nobody waits for.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What is left of the memory for bodies.
#[derive(Debug)]
pub struct Budget {
    free: AtomicU64,
}

impl Budget {
    /// A budget of that many bytes.
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { free: AtomicU64::new(bytes) })
    }

    /// An empty share, which grows by [`Reservation::grow_to`].
    pub fn share(self: &Arc<Self>) -> Reservation {
        Reservation { budget: self.clone(), bytes: 0 }
    }
}

/// One body's share; it goes back when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reservation {
    /// Makes the share that big, or leaves it as it is where too little is left. Never waits.
    pub fn grow_to(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let taken =
            self.budget.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| free.checked_sub(more));
        if taken.is_ok() {
            self.bytes += more;
        }
        taken.is_ok()
    }

    /// Bytes of the share.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.free.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_whole_and_come_back() {
        let budget = Budget::new(100);
        let mut first = budget.share();
        let mut second = budget.share();
        assert!(first.grow_to(60) && second.grow_to(40));
        assert!(!second.grow_to(41) && second.bytes() == 40);
        assert!(second.grow_to(10), "smaller than it is: nothing to do");
        drop(first);
        assert!(second.grow_to(100));
        drop(second);
        assert_eq!(budget.free.load(Ordering::Acquire), 100);
    }
}
