//! Memory, disk, starts and listings with very many blobs, which are short so that ten million take less than 2 GB of disk.

use std::{fs, io::Read, path::Path, process::Command, time::Instant};

use backpack::storage::{Engine, Options, Storage, SyncMode};

use crate::{Scale, list, load, raw, runtime};

const BODY: usize = 100;
const KEY_BYTES: u64 = 23;
/// The argument that has a directory opened and nothing else done.
pub const OPEN: &str = "--open";

pub fn measure(scale: &Scale) {
    let dir = tempfile::tempdir().unwrap();
    println!("\n{} blobs of {BODY} bytes with keys of {KEY_BYTES}", scale.many);
    let options = Options { sync: SyncMode::Never, ..Options::default() };
    let engine = Engine::open(dir.path(), options).unwrap();
    let started = Instant::now();
    runtime().block_on(load(&engine, scale.many, BODY));
    println!("PUTs without sync: {:.0} a second", scale.many as f64 / started.elapsed().as_secs_f64());
    // What was saved on the way, with a tail behind it: what a killed process leaves.
    let (saved, kept) = (dir.path().join("INDEX"), dir.path().join("kept"));
    let crashed = fs::copy(&saved, &kept).is_ok();
    let started = Instant::now();
    runtime().block_on(engine.close()).unwrap();
    drop(engine);
    println!("stop: {:.2?}", started.elapsed());
    let volumes: u64 = raw::volumes(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    let overhead = volumes - scale.many * (BODY as u64 + KEY_BYTES);
    println!("disk a blob beside key and bytes: {:.1} bytes", overhead as f64 / scale.many as f64);
    list::measure(dir.path(), scale);
    open_cold(dir.path(), "start after a stop");
    if crashed {
        fs::rename(kept, &saved).unwrap();
        open_cold(dir.path(), "start after a crash");
    }
    fs::remove_file(saved).unwrap();
    open_cold(dir.path(), "start without a saved index");
    raw_scan(dir.path());
}

/// Opens the storage, with nothing of it in the page cache, in a process that did nothing before, so that no memory is
/// used again.
fn open_cold(dir: &Path, what: &str) {
    raw::evict(dir);
    let child = Command::new(std::env::current_exe().unwrap()).arg(OPEN).arg(dir).output().unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    print!("{what}, not cached: {}", String::from_utf8_lossy(&child.stdout));
}

/// What the child process does. It ends as if it were killed.
pub fn open_here(dir: &Path) {
    let before = resident();
    let started = Instant::now();
    let engine = Engine::open(dir, Options { index_save_bytes: u64::MAX, ..Options::default() }).unwrap();
    let opened = started.elapsed();
    let blobs = engine.usage().blobs as f64;
    let (index, process) = (engine.index_bytes() as f64 / blobs, (resident() - before) as f64 / blobs);
    println!("{opened:.2?}; memory a blob: index {index:.1} bytes, process {process:.1} bytes");
    std::process::exit(0);
}

/// Resident memory of this process, in bytes.
pub fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// What reading the volumes costs without the engine.
fn raw_scan(dir: &Path) {
    raw::evict(dir);
    let (started, mut bytes) = (Instant::now(), 0);
    let mut buffer = vec![0; 256 << 10];
    for path in raw::volumes(dir) {
        let mut file = fs::File::open(path).unwrap();
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => break,
                read => bytes += read,
            }
        }
    }
    println!("plain read of the volumes, not cached: {:.2?}, {bytes} bytes", started.elapsed());
}
