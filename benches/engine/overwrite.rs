//! Overwrites of random keys and reads beside them, without compaction and with it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use backpack::storage::{Engine, Found, Options, Storage};
use bytes::Bytes;

use crate::{Scale, name, print_times, put, runtime};

/// Keys that are overwritten, 80 MB of them.
const KEYS: u64 = 20_000;
const BODY: usize = 4 << 10;
/// Of the time of other measurements: until most of what is written is dead.
const TIMES_AS_LONG: u32 = 20;

pub fn measure(scale: &Scale) {
    for compact_bytes_per_second in [0, 32 << 20] {
        println!("\noverwrites, compaction at {} MiB a second", compact_bytes_per_second >> 20);
        let dir = tempfile::tempdir().unwrap();
        let volume_bytes = 16 << 20;
        let options =
            Options { volume_bytes, small_limit: 1 << 20, compact_bytes_per_second, ..Options::default() };
        let engine = Engine::open(dir.path(), options).unwrap();
        runtime().block_on(overwrite(&engine, scale.each * TIMES_AS_LONG));
        print_space("at the end of the load", &engine);
        if compact_bytes_per_second > 0 {
            let waited = Instant::now();
            let mut last = None;
            while last != Some(engine.usage().reclaimed_bytes)
                && waited.elapsed() < scale.each * TIMES_AS_LONG
            {
                last = Some(engine.usage().reclaimed_bytes);
                std::thread::sleep(4 * scale.each);
            }
            print_space("when compaction has nothing left to do", &engine);
        }
        runtime().block_on(engine.close()).unwrap();
    }
}

async fn overwrite(engine: &Arc<Engine>, time: Duration) {
    let until = Instant::now() + time;
    let (version, body) = (Arc::new(AtomicU64::new(1)), Bytes::from(vec![7; BODY]));
    let puts = (0..32).map(|task| {
        let (engine, version, body) = (engine.clone(), version.clone(), body.clone());
        tokio::spawn(async move {
            let (mut random, mut took) = (fastrand::Rng::with_seed(task), Vec::new());
            while Instant::now() < until {
                let n = version.fetch_add(1, Ordering::Relaxed);
                // First all keys once, then any.
                let key = if n <= KEYS { n } else { random.u64(1..=KEYS) };
                let begun = Instant::now();
                put(&engine, key, n, &body).await;
                took.push(begun.elapsed());
            }
            took
        })
    });
    let gets = (0..4).map(|task| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let (mut random, mut took) = (fastrand::Rng::with_seed(task), Vec::new());
            while Instant::now() < until {
                let key = name(random.u64(1..=KEYS)).parse().unwrap();
                let begun = Instant::now();
                if let Some(Found::Blob(blob)) = engine.open(&key).await.unwrap() {
                    blob.read(0, blob.info().length).await.unwrap();
                }
                took.push(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            took
        })
    });
    let (puts, gets): (Vec<_>, Vec<_>) = (puts.collect(), gets.collect());
    for (what, tasks) in [("PUTs", puts), ("GETs", gets)] {
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        print_times(what, all);
    }
}

fn print_space(when: &str, engine: &Engine) {
    let usage = engine.usage();
    println!(
        "  {when}: {} MB of blobs, {} MB on the disk, {} MB moved",
        usage.blob_bytes / 1_000_000,
        usage.disk_bytes / 1_000_000,
        usage.compacted_bytes / 1_000_000,
    );
}
