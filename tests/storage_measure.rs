//! Figures of the storage engine, beside what the disk gives without it. Not run with the tests: each takes a while
//! and needs an optimised build to say anything.
//!
//! `cargo test --release --test storage_measure -- --ignored --nocapture --test-threads=1`

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use backpack::{
    model::{Meta, Version},
    storage::{Engine, Found, NewBlob, Options, Storage, SyncMode},
};
use bytes::Bytes;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BODY: usize = 1024;
const EACH: Duration = Duration::from_secs(4);
const BLOBS: u64 = 1_000_000;
const MANY_BLOBS: u64 = 10_000_000;
const SHORT_BODY: usize = 100;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn put(engine: &Engine, n: u64, body: &Bytes) {
    put_version(engine, n, 1, body).await;
}

async fn put_version(engine: &Engine, n: u64, version: u64, body: &Bytes) {
    let key = name(n).parse().unwrap();
    let length = Some(body.len() as u64);
    let new = NewBlob { key, version: Version::from_parts(version, 1), meta: Meta::default(), length };
    let mut writer = engine.create(new).await.unwrap();
    writer.write(body.clone()).await.unwrap();
    writer.commit().await.unwrap();
}

/// 24 bytes, as photo ids are.
fn name(n: u64) -> String {
    format!("photos/{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn raw_appends(dir: &Path, group: usize) -> f64 {
    let mut file = fs::File::create(dir.join("raw")).unwrap();
    let bytes = vec![7; BODY * group];
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < EACH {
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
        done += group;
    }
    done as f64 / started.elapsed().as_secs_f64()
}

async fn durable_puts(dir: &Path, writers: u64, sync: SyncMode) -> f64 {
    let engine =
        Engine::open(dir, Options { sync, scrub_bytes_per_second: 0, ..Options::default() }).unwrap();
    let (next, body) = (Arc::new(AtomicU64::new(0)), Bytes::from(vec![7; BODY]));
    let started = Instant::now();
    let tasks = (0..writers).map(|_| {
        let (engine, next, body) = (engine.clone(), next.clone(), body.clone());
        tokio::spawn(async move {
            while started.elapsed() < EACH {
                put(&engine, next.fetch_add(1, Ordering::Relaxed), &body).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    next.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

#[test]
#[ignore = "measures"]
fn durable_puts_beside_raw_appends() {
    for round in 1..=2 {
        for count in [1, 16, 64] {
            let dir = tempfile::tempdir().unwrap();
            let raw = raw_appends(dir.path(), count as usize);
            let group = runtime().block_on(durable_puts(&dir.path().join("group"), count, SyncMode::Group));
            println!(
                "round {round}, {count} writers: engine {group:.0}/s, raw append + fdatasync per {count} {raw:.0}/s"
            );
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let never = runtime().block_on(durable_puts(dir.path(), 64, SyncMode::Never));
    println!("64 writers, no sync: {never:.0}/s");
}

async fn load(engine: &Arc<Engine>, blobs: u64, size: usize) {
    let body = Bytes::from(vec![7; size]);
    let tasks = (0..64).map(|task| {
        let (engine, body) = (engine.clone(), body.clone());
        tokio::spawn(async move {
            for n in (task..blobs).step_by(64) {
                put(&engine, n, &body).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

async fn reads(engine: &Arc<Engine>, tasks: u64) -> f64 {
    let (done, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let tasks = (0..tasks).map(|task| {
        let (engine, done) = (engine.clone(), done.clone());
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(task);
            while started.elapsed() < EACH {
                for _ in 0..100 {
                    let key = name(random.u64(0..BLOBS)).parse().unwrap();
                    let Some(Found::Blob(blob)) = engine.open(&key).await.unwrap() else { panic!("{key}") };
                    assert_eq!(blob.read(0, blob.info().length).await.unwrap().len(), BODY);
                }
                done.fetch_add(100, Ordering::Relaxed);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

#[test]
#[ignore = "measures"]
fn a_million_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { sync: SyncMode::Never, scrub_bytes_per_second: 0, ..Options::default() };
    let engine = Engine::open(dir.path(), options()).unwrap();
    let started = Instant::now();
    runtime().block_on(load(&engine, BLOBS, BODY));
    println!("loaded without sync: {:.0}/s", BLOBS as f64 / started.elapsed().as_secs_f64());
    runtime().block_on(engine.close()).unwrap();
    drop(engine);

    let started = Instant::now();
    let engine = Engine::open(dir.path(), options()).unwrap();
    let opened = started.elapsed();
    let usage = engine.usage();
    assert_eq!(usage.blobs, BLOBS);
    println!(
        "opened after a clean stop: {opened:.2?}, {} blobs, {} bytes on the disk",
        usage.blobs, usage.disk_bytes
    );
    let saved = fs::metadata(dir.path().join("INDEX")).unwrap().len();
    let overhead = usage.disk_bytes - saved - (1 << 20) - BLOBS * (BODY as u64 + 23);
    println!("disk per blob beside key and data: {:.1} bytes", overhead as f64 / BLOBS as f64);
    for tasks in [1, 2, 64] {
        let rate = runtime().block_on(reads(&engine, tasks));
        println!("warm reads, {tasks} tasks: {rate:.0}/s");
    }
    let started = Instant::now();
    let page = runtime().block_on(engine.list("", None, 1000)).unwrap();
    println!("a page of {} keys: {:.2?}", page.len(), started.elapsed());
    drop(engine);

    // As after a crash without a saved index: all heads are read, and the whole last volume is verified.
    for name in ["CLEAN", "INDEX"] {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    let started = Instant::now();
    let engine = Engine::open(dir.path(), options()).unwrap();
    println!("opened without index and clean point: {:.2?}", started.elapsed());
    drop(engine);
    raw_reads(dir.path());
}

/// Memory and starts at ten million blobs, which are short so that they take less than 2 GB of disk.
#[test]
#[ignore = "measures"]
fn ten_million_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(
        dir.path(),
        Options { sync: SyncMode::Never, scrub_bytes_per_second: 0, ..Options::default() },
    )
    .unwrap();
    let started = Instant::now();
    runtime().block_on(load(&engine, MANY_BLOBS, SHORT_BODY));
    println!("loaded without sync: {:.0}/s", MANY_BLOBS as f64 / started.elapsed().as_secs_f64());
    let index = engine.index_bytes() as f64 / MANY_BLOBS as f64;
    println!("memory of the index that grew with its writes: {index:.1} bytes a blob");
    // What was saved while it ran, with a tail behind it: what a killed process leaves.
    let (saved, kept) = (dir.path().join("INDEX"), dir.path().join("kept"));
    fs::copy(&saved, &kept).unwrap();
    let started = Instant::now();
    runtime().block_on(engine.close()).unwrap();
    drop(engine);
    println!("closed, index saved: {:.2?}, {} bytes", started.elapsed(), fs::metadata(&saved).unwrap().len());
    open_in_a_new_process(dir.path(), "after a stop, cached");
    open_cold(dir.path(), "after a stop, not cached");
    fs::rename(kept, &saved).unwrap();
    open_cold(dir.path(), "after a crash, not cached");
    fs::remove_file(saved).unwrap();
    open_in_a_new_process(dir.path(), "no saved index, cached");
    open_cold(dir.path(), "no saved index, not cached");
    raw_scan(dir.path());
}

/// As [`open_in_a_new_process`], with nothing of the directory in the page cache.
fn open_cold(dir: &Path, what: &str) {
    evict(dir);
    open_in_a_new_process(dir, what);
}

/// Throws the files of a storage out of the page cache.
fn evict(dir: &Path) {
    for folder in [dir.to_owned(), dir.join("volumes"), dir.join("keys")] {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let file = fs::File::open(entry.unwrap().path()).unwrap();
            if file.metadata().unwrap().is_file() {
                file.sync_all().unwrap();
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            }
        }
    }
}

/// What reading the same volumes costs without the engine.
fn raw_scan(dir: &Path) {
    evict(dir);
    let (started, mut bytes) = (Instant::now(), 0);
    let mut buffer = vec![0; 256 << 10];
    for entry in fs::read_dir(dir.join("volumes")).unwrap() {
        let mut file = fs::File::open(entry.unwrap().path()).unwrap();
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => break,
                read => bytes += read,
            }
        }
    }
    println!("raw read of the volumes, not cached: {:.2?}, {bytes} bytes", started.elapsed());
}

/// Tells the process that is started for [`opened_in_a_new_process`] which directory to open.
const CHILD_DIR: &str = "STORAGE_MEASURE_DIR";

/// Opens the storage in a process that did nothing before, so that no memory is used again, and ends it without a stop.
fn open_in_a_new_process(dir: &Path, what: &str) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "opened_in_a_new_process", "--ignored", "--nocapture"]).env(CHILD_DIR, dir);
    let output = child.output().unwrap().stdout;
    let lines = String::from_utf8(output).unwrap();
    lines.lines().filter(|line| line.contains("opened in")).for_each(|line| println!("{what}: {line}"));
}

#[test]
#[ignore = "measures, started by ten_million_blobs"]
fn opened_in_a_new_process() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let before = resident();
    let started = Instant::now();
    let engine = Engine::open(
        dir,
        Options { index_save_bytes: u64::MAX, scrub_bytes_per_second: 0, ..Options::default() },
    )
    .unwrap();
    let opened = started.elapsed();
    let blobs = engine.usage().blobs as f64;
    let (index, process) = (engine.index_bytes() as f64, (resident() - before) as f64);
    let (index, process) = (index / blobs, process / blobs);
    println!("opened in {opened:.2?}; memory a blob: index {index:.1} bytes, process {process:.1} bytes");
    std::process::exit(0);
}

/// What the same reads cost without the engine.
fn raw_reads(dir: &Path) {
    let file = fs::File::open(dir.join("volumes/00000001.vol")).unwrap();
    let length = file.metadata().unwrap().len() - 2 * BODY as u64;
    let mut random = fastrand::Rng::with_seed(1);
    let (started, mut done) = (Instant::now(), 0_u64);
    while started.elapsed() < EACH {
        for _ in 0..1000 {
            let mut buffer = vec![0; BODY + 63];
            file.read_exact_at(&mut buffer, random.u64(0..length)).unwrap();
            assert!(buffer.len() > BODY);
        }
        done += 1000;
    }
    println!("raw pread of as many bytes, 1 thread: {:.0}/s", done as f64 / started.elapsed().as_secs_f64());
}

/// Overwrites of random keys and reads beside them, without compaction and with it.
#[test]
#[ignore = "measures"]
fn overwrites_with_and_without_compaction() {
    for compact_bytes_per_second in [0, 32 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            volume_bytes: 16 << 20,
            small_limit: 1 << 20,
            compact_bytes_per_second,
            scrub_bytes_per_second: 0,
            ..Options::default()
        };
        let engine = Engine::open(dir.path(), options).unwrap();
        runtime().block_on(overwrite(&engine, compact_bytes_per_second));
        runtime().block_on(engine.close()).unwrap();
    }
}

/// Keys that are overwritten, 80 MB of them.
const OVERWRITTEN: u64 = 20_000;

async fn overwrite(engine: &Arc<Engine>, compact_bytes_per_second: u64) {
    let (started, body) = (Instant::now(), Bytes::from(vec![7; 4 * BODY]));
    let until = started + 6 * EACH;
    let version = Arc::new(AtomicU64::new(1));
    let puts = (0..32).map(|task| {
        let (engine, version, body) = (engine.clone(), version.clone(), body.clone());
        tokio::spawn(async move {
            let (mut random, mut took) = (fastrand::Rng::with_seed(task), Vec::new());
            while Instant::now() < until {
                let n = version.fetch_add(1, Ordering::Relaxed);
                // First all keys once, then any.
                let key = if n <= OVERWRITTEN { n } else { random.u64(1..=OVERWRITTEN) };
                let begun = Instant::now();
                put_version(&engine, key, n, &body).await;
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
                let key = name(random.u64(1..=OVERWRITTEN)).parse().unwrap();
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
    let (mut put_times, mut get_times) = (Vec::new(), Vec::new());
    for put in puts {
        put_times.extend(put.await.unwrap());
    }
    for get in gets {
        get_times.extend(get.await.unwrap());
    }
    println!("compaction at {compact_bytes_per_second} bytes/s, {:.0} s:", started.elapsed().as_secs_f64());
    print_times("PUT", put_times);
    print_times("GET", get_times);
    println!("  at the end of the load: {:?}", engine.usage());
    if compact_bytes_per_second > 0 {
        let waited = Instant::now();
        let mut last = engine.usage().reclaimed_bytes + 1;
        while last != engine.usage().reclaimed_bytes && waited.elapsed() < 10 * EACH {
            last = engine.usage().reclaimed_bytes;
            tokio::time::sleep(EACH).await;
        }
        println!("  {:.0?} later: {:?}", waited.elapsed(), engine.usage());
    }
}

fn print_times(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    let [half, most, nearly_all] = [0.5, 0.99, 0.999].map(at);
    println!("  {} {what}: p50 {half:.2?}, p99 {most:.2?}, p99.9 {nearly_all:.2?}", took.len());
}

/// Pages of a thousand keys, and what the files of keys cost: while they are written, on the disk, and to make anew.
#[test]
#[ignore = "measures"]
fn listings() {
    for blobs in [BLOBS, MANY_BLOBS] {
        let dir = tempfile::tempdir().unwrap();
        let options = || Options { sync: SyncMode::Never, ..Options::default() };
        let engine = Engine::open(dir.path(), options()).unwrap();
        let started = Instant::now();
        runtime().block_on(load(&engine, blobs, SHORT_BODY));
        println!(
            "{blobs} blobs, loaded without sync: {:.0}/s",
            blobs as f64 / started.elapsed().as_secs_f64()
        );
        runtime().block_on(engine.close()).unwrap();
        drop(engine);
        let (files, bytes) = key_files(dir.path());
        println!("  {files} files of keys, {:.1} bytes a key", bytes as f64 / blobs as f64);
        let engine = Engine::open(dir.path(), options()).unwrap();
        settled(dir.path());
        let before = resident();
        runtime().block_on(pages(&engine, "cached"));
        evict(dir.path());
        runtime().block_on(pages(&engine, "not cached"));
        println!("  memory of the process: {} bytes more than before", resident().saturating_sub(before));
        runtime().block_on(engine.close()).unwrap();
        drop(engine);

        fs::remove_dir_all(dir.path().join("keys")).unwrap();
        let engine = Engine::open(dir.path(), options()).unwrap();
        let started = Instant::now();
        let page = runtime().block_on(engine.list("", None, 1000)).unwrap().len();
        println!("  without files of keys a page of {page}: {:.2?}", started.elapsed());
        let (files, bytes) = settled(dir.path());
        let took = started.elapsed() - QUIET;
        println!(
            "  made anew within {took:.0?}: {files} files, {:.1} bytes a key",
            bytes as f64 / blobs as f64
        );
    }
}

/// When nothing happens to files of keys for so long, they are as they will stay.
const QUIET: Duration = Duration::from_secs(3);

/// Waits until nothing happens to files of keys any more; how many there are then, and their bytes.
fn settled(dir: &Path) -> (usize, u64) {
    let mut last = (0, 0);
    while last != key_files(dir) {
        last = key_files(dir);
        std::thread::sleep(QUIET);
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

async fn pages(engine: &Arc<Engine>, what: &str) {
    let (mut random, mut took) = (fastrand::Rng::with_seed(7), Vec::new());
    for n in 0..100 {
        let after = (n > 0).then(|| name(random.u64(..)));
        let started = Instant::now();
        let page = engine.list("photos/", after.as_deref(), 1000).await.unwrap();
        took.push(started.elapsed());
        assert!(page.len() == 1000 || n > 0);
    }
    println!("  the first page of 1000 keys, {what}: {:.2?}", took[0]);
    print_times("pages after any key", took);
}
