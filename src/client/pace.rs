//! The byte rate of all copies together.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::Pace;

/// What was not used may be caught up with by this much: enough to even out the wake-ups of the runtime, too little to be
/// felt by those who share the network.
const CATCH_UP: Duration = Duration::from_millis(250);

/// Lets bytes pass at a rate. Who comes first passes first, so every copy gets its share.
pub struct ByteRate(Option<Mutex<Schedule>>);

impl ByteRate {
    /// No limit for `None`.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self(bytes_per_second.map(|rate| Mutex::new(Schedule::new(rate, Instant::now()))))
    }
}

impl Pace for ByteRate {
    async fn pass(&self, bytes: usize) {
        if let Some(schedule) = &self.0 {
            let when = schedule.lock().reserve(bytes, Instant::now());
            sleep_until(when).await;
        }
    }
}

/// When the next bytes may pass. Pure: the clock is the caller's.
struct Schedule {
    bytes_per_second: u64,
    /// When everything that was let pass so far is paid for.
    paid: Instant,
}

impl Schedule {
    fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second, paid: now }
    }

    /// Reserves the time that these bytes take, and says when they may pass.
    fn reserve(&mut self, bytes: usize, now: Instant) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.paid = self.paid.max(earliest) + cost;
        self.paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_at_the_rate_one_after_the_other() {
        let start = Instant::now();
        let mut schedule = Schedule::new(1_000_000, start);
        let whens: Vec<_> = (0..1000).map(|_| schedule.reserve(10_000, start)).collect();
        assert!(whens.is_sorted());
        let took = *whens.last().unwrap() - start;
        assert!(took.abs_diff(Duration::from_secs(10)) < Duration::from_millis(1), "10 MB in {took:?}");
    }

    #[test]
    fn an_idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut schedule = Schedule::new(1000, start);
        let later = start + Duration::from_secs(3600);
        let when = schedule.reserve(2000, later);
        assert_eq!(when - later, Duration::from_secs(2) - CATCH_UP);
    }

    #[test]
    fn a_short_delay_is_caught_up_with() {
        let start = Instant::now();
        let mut schedule = Schedule::new(1000, start);
        schedule.reserve(100, start);
        let late = start + Duration::from_millis(200);
        assert_eq!(schedule.reserve(100, late), late, "what 200 ms were worth may have passed by now");
    }
}
