//! The file `INDEX`, which is replaced whole: after a crash it is the old one or the new one.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::disk;

/// The saved index, and the one that is being written.
#[derive(Debug)]
pub struct IndexFile {
    root: PathBuf,
    path: PathBuf,
    new: PathBuf,
    bytes: AtomicU64,
}

impl IndexFile {
    /// The one in that data directory.
    pub fn new(root: &Path) -> Self {
        let path = root.join("INDEX");
        let bytes = AtomicU64::new(fs::metadata(&path).map_or(0, |found| found.len()));
        Self { root: root.into(), path, new: root.join("INDEX.new"), bytes }
    }

    /// Bytes of the saved one.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The saved one; `None` if there is none.
    pub fn open(&self) -> io::Result<Option<File>> {
        match File::open(&self.path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An empty file for the next one.
    pub fn create(&self) -> io::Result<File> {
        disk::create_empty(&self.new)
    }

    /// The next one, written and synced, takes the place of the last one, durably.
    pub fn keep_new(&self) -> io::Result<()> {
        let length = fs::metadata(&self.new)?.len();
        disk::rename(&self.new, &self.path)?;
        self.bytes.store(length, Ordering::Relaxed);
        disk::sync_folder(&self.root)
    }

    /// Removes what was written of the next one, if anything.
    pub fn drop_new(&self) {
        // What cannot be removed is written over by the next one.
        let _ = disk::remove(&self.new);
    }

    /// Removes the saved one, durably.
    pub fn remove(&self) -> io::Result<()> {
        disk::remove(&self.path)?;
        self.bytes.store(0, Ordering::Relaxed);
        disk::sync_folder(&self.root)
    }
}
