//! What those notice who upload while something else goes on: uploads at a steady pace, and the longest that one of them waited.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::super::wire::Wire;

/// Connections that ask.
const ASKING: usize = 4;

/// Each of them so often: together a fraction of what a coordinator takes, so that nothing waits but for what goes on.
const EVERY: Duration = Duration::from_millis(10);

/// Uploads that go on.
pub struct Asking {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Duration>>,
}

impl Asking {
    /// Begins to upload to a coordinator.
    pub fn begin(addr: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asking = |number| {
            let (stop, wire) = (stop.clone(), Wire::connect(addr));
            thread::spawn(move || ask(number, wire, &stop))
        };
        Self { threads: (0..ASKING).map(asking).collect(), stop }
    }

    /// Ends them. Milliseconds that the slowest upload took, counted from when it was due.
    pub fn end(self) -> f64 {
        self.stop.store(true, Relaxed);
        let slowest = self.threads.into_iter().map(|thread| thread.join().expect("all uploads are answered"));
        slowest.max().unwrap_or_default().as_secs_f64() * 1000.0
    }
}

fn ask(number: usize, mut wire: Wire, stop: &AtomicBool) -> Duration {
    let (mut due, mut slowest) = (Instant::now(), Duration::ZERO);
    for upload in 0.. {
        if stop.load(Relaxed) {
            break;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let status = wire.ask("PUT", &format!("/asking/{number}/{upload}"), "", &[7; 1 << 10]);
        assert_eq!(status, 200);
        slowest = slowest.max(due.elapsed());
        due += EVERY;
    }
    slowest
}
