//! GETs of random blobs, from memory and from the disk, beside `pread` of as many bytes at random places.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use backpack::storage::{Engine, Found, Options, Storage, SyncMode};

use crate::{Figures, SIZES, Scale, kib, load, name, rate, raw, runtime};

/// Head and key of a record.
const HEAD_BYTES: usize = 63;

pub fn measure(scale: &Scale) {
    println!("\nGETs, a second                           engine                      pread   ratio");
    for size in SIZES {
        let dir = tempfile::tempdir().unwrap();
        let blobs = scale.read_bytes / size;
        let options = Options { sync: SyncMode::Never, ..Options::default() };
        let engine = Engine::open(dir.path(), options).unwrap();
        runtime().block_on(load(&engine, blobs as u64, size));
        for (cold, readers) in [(false, 1), (false, 2), (false, 64), (true, 1), (true, 16)] {
            let (mut ours, mut plain) = (Figures::default(), Figures::default());
            let most = if cold { scale.cold_reads } else { usize::MAX };
            for round in 0..scale.rounds {
                prepare(cold, dir.path());
                plain.add(raw::reads(&raw::volumes(dir.path()), size + HEAD_BYTES, readers, most, scale));
                prepare(cold, dir.path());
                let before = engine.usage().disk_reads;
                let (rate, done) =
                    runtime().block_on(reads(&engine, blobs, size, (readers, round), most, scale));
                ours.add(rate);
                let from_disk = engine.usage().disk_reads - before;
                assert!(from_disk <= done as u64, "{from_disk} reads of the disk for {done} GETs");
            }
            let (ratio, how) = (ours.median() / plain.median(), if cold { "cold" } else { "warm" });
            println!("{:>8} {how}, {readers:>2} readers   {ours:>24}   {plain:>24}   {ratio:.2}", kib(size));
        }
        runtime().block_on(engine.close()).unwrap();
    }
}

fn prepare(cold: bool, dir: &Path) {
    if cold {
        raw::evict(dir);
    }
}

/// GETs a second, and how many.
async fn reads(
    engine: &Arc<Engine>,
    blobs: usize,
    size: usize,
    (readers, round): (usize, usize),
    most: usize,
    scale: &Scale,
) -> (f64, usize) {
    let (done, started, each) = (Arc::new(AtomicUsize::new(0)), Instant::now(), scale.each);
    let tasks = (0..readers).map(|task| {
        let (engine, done) = (engine.clone(), done.clone());
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed((task + round * readers) as u64);
            while started.elapsed() < each && done.fetch_add(1, Ordering::Relaxed) < most {
                let key = name(random.usize(0..blobs) as u64).parse().unwrap();
                let Some(Found::Blob(blob)) = engine.open(&key).await.unwrap() else { panic!("{key}") };
                assert_eq!(blob.read(0, blob.info().length).await.unwrap().len(), size);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let done = done.load(Ordering::Relaxed).min(most);
    (rate(done, started), done)
}
