//! The same work on plain files.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use crate::{Scale, rate};

/// Appends of `group` bodies with one `fdatasync` for them; bodies a second.
pub fn appends(dir: &Path, size: usize, group: usize, scale: &Scale) -> f64 {
    let path = dir.join("raw");
    let mut file = File::create(&path).unwrap();
    let bytes = vec![7; size * group];
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < scale.each {
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
        done += group;
    }
    let rate = rate(done, started);
    fs::remove_file(path).unwrap();
    rate
}

/// Reads of so many bytes at random places of these files, by so many threads: until the time is over or, if that is
/// less, `most` of them; reads a second.
pub fn reads(files: &[PathBuf], size: usize, threads: usize, most: usize, scale: &Scale) -> f64 {
    let files: Vec<(File, u64)> = files
        .iter()
        .map(|path| File::open(path).unwrap())
        .map(|file| {
            let places = file.metadata().unwrap().len().saturating_sub(size as u64);
            (file, places)
        })
        .filter(|(_, places)| *places > 0)
        .collect();
    let (started, done) = (Instant::now(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for seed in 0..threads {
            let (files, done) = (&files, &done);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed as u64);
                while started.elapsed() < scale.each && done.fetch_add(1, Ordering::Relaxed) < most {
                    let (file, places) = random.choice(files).unwrap();
                    // As fresh as the engine's, for somebody keeps what was read.
                    let mut buffer = vec![0; size];
                    file.read_exact_at(&mut buffer, random.u64(0..*places)).unwrap();
                    assert_eq!(buffer.len(), size);
                }
            });
        }
    });
    rate(done.into_inner().min(most), started)
}

/// The files of the storage's volumes.
pub fn volumes(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("volumes")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Throws everything in a folder out of the page cache.
pub fn evict(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            evict(&path);
            continue;
        }
        let file = File::open(path).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}
