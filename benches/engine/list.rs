//! Pages of listings, and what the files of keys cost: on the disk, and to make anew.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use backpack::storage::{Engine, Options, Storage};

use crate::{Scale, many::resident, name, print_times, raw, runtime};

const PAGE: usize = 1000;
const PAGES: usize = 100;
/// When nothing happens to files of keys for so long, they are as they will stay.
const QUIET: Duration = Duration::from_secs(3);

/// Of a storage that was stopped.
pub fn measure(dir: &Path, scale: &Scale) {
    print_files(key_files(dir), scale);
    let engine = Engine::open(dir, Options::default()).unwrap();
    settled(dir);
    let before = resident();
    runtime().block_on(pages(&engine, "cached"));
    raw::evict(dir);
    runtime().block_on(pages(&engine, "not cached"));
    println!("  memory of the process: {} bytes more than before", resident().saturating_sub(before));
    runtime().block_on(engine.close()).unwrap();
    drop(engine);

    fs::remove_dir_all(dir.join("keys")).unwrap();
    let engine = Engine::open(dir, Options::default()).unwrap();
    let started = Instant::now();
    let page = runtime().block_on(engine.list("", None, PAGE)).unwrap().len();
    println!("  without files of keys a page of {page}: {:.2?}", started.elapsed());
    let files = settled(dir);
    print!("  made anew within {:.0?}: ", started.elapsed().saturating_sub(QUIET));
    print_files(files, scale);
    runtime().block_on(engine.close()).unwrap();
}

fn print_files((files, bytes): (usize, u64), scale: &Scale) {
    println!("{files} files of keys, {:.1} bytes a key", bytes as f64 / scale.many as f64);
}

/// Waits until nothing happens to files of keys any more; how many there are then, and their bytes.
fn settled(dir: &Path) -> (usize, u64) {
    let mut last = (0, 0);
    while last != key_files(dir) {
        last = key_files(dir);
        thread::sleep(QUIET);
    }
    last
}

/// How many files of keys there are, and their bytes.
fn key_files(dir: &Path) -> (usize, u64) {
    // One that was merged may go meanwhile.
    let found =
        fs::read_dir(dir.join("keys")).into_iter().flatten().filter_map(|entry| entry.ok()?.metadata().ok());
    found.map(|found| found.len()).fold((0, 0), |(count, bytes), length| (count + 1, bytes + length))
}

async fn pages(engine: &Engine, what: &str) {
    let (mut random, mut took) = (fastrand::Rng::with_seed(7), Vec::new());
    for n in 0..PAGES {
        let after = (n > 0).then(|| name(random.u64(..)));
        let started = Instant::now();
        let page = engine.list("photos/", after.as_deref(), PAGE).await.unwrap();
        took.push(started.elapsed());
        assert!(page.len() == PAGE || n > 0);
    }
    println!("  the first page of {PAGE} keys, {what}: {:.2?}", took[0]);
    print_times("pages after any key", took);
}
