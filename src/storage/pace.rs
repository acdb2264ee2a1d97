//! What the engine's background threads have in common: they are stopped, held, woken and kept to a speed.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Shorter waits are put together: each costs a call of the system.
pub const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// Holds a thread, or ends it.
#[derive(Debug, Default)]
pub struct Hold {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    paused: bool,
    /// Times that it was woken.
    woken: u64,
}

impl Hold {
    /// Ends the thread, whatever it is doing.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Holds the thread where it is, or lets it go on.
    pub fn pause(&self, paused: bool) {
        self.state.lock().paused = paused;
        self.changed.notify_all();
    }

    /// Ends the wait that it is in; not a pause.
    pub fn wake(&self) {
        self.state.lock().woken += 1;
        self.changed.notify_all();
    }

    /// Whether it is held.
    pub fn is_paused(&self) -> bool {
        self.state.lock().paused
    }

    /// Waits until then or until it is woken, and while it is held. `false` if it was stopped.
    pub fn wait_until(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        let woken = state.woken;
        while !state.stopped {
            if state.paused {
                self.changed.wait(&mut state);
            } else if state.woken != woken || self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        !state.stopped
    }

    fn may_go_on(&self) -> bool {
        let state = self.state.lock();
        !state.stopped && !state.paused
    }
}

/// Keeps to a number of bytes per second.
pub struct Pace<'a> {
    hold: &'a Hold,
    /// When what was done so far is paid for.
    free_at: Instant,
}

impl<'a> Pace<'a> {
    /// Begins now, with nothing to pay for.
    pub fn new(hold: &'a Hold) -> Self {
        Self { hold, free_at: Instant::now() }
    }

    /// Waits for as long as that many bytes may take, and while the thread is held. `false` if it was stopped.
    pub fn go_on(&mut self, bytes: u64, bytes_per_second: u64) -> bool {
        let now = Instant::now();
        let took = Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
        self.free_at = self.free_at.max(now) + took;
        if self.free_at - now < SHORTEST_WAIT && self.hold.may_go_on() {
            return true;
        }
        self.hold.wait_until(self.free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_kept_and_a_stop_ends_every_wait() {
        let hold = Hold::default();
        let mut pace = Pace::new(&hold);
        let started = pace.free_at;
        for _ in 0..10 {
            assert!(pace.go_on(10, 1000));
        }
        assert!(started.elapsed() >= Duration::from_millis(100) - SHORTEST_WAIT);
        hold.pause(true);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pace.go_on(1 << 40, 1000));
            hold.pause(false);
            hold.stop();
            assert!(!waiting.join().unwrap());
        });
    }

    #[test]
    fn who_is_woken_waits_no_longer() {
        let hold = Hold::default();
        let mut pace = Pace::new(&hold);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let goes_on = pace.go_on(1 << 40, 1000);
                done.store(true, std::sync::atomic::Ordering::SeqCst);
                goes_on
            });
            // It may not have begun to wait yet.
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                hold.wake();
                std::thread::yield_now();
            }
            assert!(waiting.join().unwrap());
        });
    }
}
