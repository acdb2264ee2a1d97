//! Many seeds, each in a process of its own: tokio draws from a counter of the process, which only a new process has at its
//! beginning.

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Set to a seed, it makes this test program simulate it and nothing else.
pub const CHILD: &str = "BACKPACK_SIMULATED_SEED";

/// The line by which a child gives its trace's digest.
pub const DIGEST: &str = "digest of the trace: ";

/// Simulates one seed in a process of its own: the digest of its trace, or what it said in place of one.
pub fn in_a_process(seed: u64) -> Result<String, String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["one_seed", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, seed.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let digest = said.lines().find_map(|line| line.strip_prefix(DIGEST));
    match digest {
        Some(digest) if output.status.success() => Ok(digest.to_owned()),
        _ => Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// Simulates so many seeds from `first` on, as long as there is time. How many, how long it took, and what failed.
pub fn simulate_many(first: u64, count: u64, within: Duration) -> (u64, Duration, Vec<(u64, String)>) {
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let failed = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while began.elapsed() < within {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= count {
                        break;
                    }
                    if let Err(said) = in_a_process(first + number) {
                        failed.lock().push((first + number, said));
                    }
                }
            });
        }
    });
    (next.into_inner().min(count), began.elapsed(), failed.into_inner())
}
