//! A clock of its own for a process, by Debian's library `libfaketime`: how far off it is can be changed while it runs. Only the
//! time of day is off; what measures how long something takes is not.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A process's clock.
pub struct Clock {
    folder: tempfile::TempDir,
    library: String,
}

impl Clock {
    /// One that is right.
    pub fn new() -> Self {
        let clock =
            Self { folder: tempfile::tempdir().expect("make a folder for a clock"), library: library() };
        clock.set(0);
        clock
    }

    /// It is off by so many seconds within a second from now.
    pub fn set(&self, seconds: i64) {
        // Renamed into place: the library reads it at any moment.
        let new = self.folder.path().join("new");
        fs::write(&new, format!("{seconds:+}\n")).expect("write a clock's offset");
        fs::rename(new, self.file()).expect("put a clock's offset in place");
    }

    /// What a process has in its environment whose clock this is.
    pub fn env(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        sweep();
    }
}

/// The library leaves shared memory behind under the id of each process that was killed. A later process of that id would trip over it.
fn sweep() {
    for file in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let process =
            ["faketime_shm_", "sem.faketime_sem_"].iter().find_map(|prefix| name.strip_prefix(prefix));
        if process.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            // It may be another's, or gone.
            let _ = fs::remove_file(file.path());
        }
    }
}

fn library() -> String {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = found.into_iter().find(|file| file.is_file());
    let found =
        found.expect("libfaketime is not installed: run `make setup`, or install Debian's package faketime");
    found.display().to_string()
}
