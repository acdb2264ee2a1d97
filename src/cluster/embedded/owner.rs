//! Whose announcement it is. Each store object that announces has a file beside the data, and holds a lock on it that the
//! kernel gives back however the process ends; so anybody can see whether the owner still lives, without a clock.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use ulid::Ulid;

const PREFIX: &str = "owner-";

/// The lock of a store object that lives.
pub(super) struct Owner {
    /// Names it.
    pub(super) id: String,
    path: PathBuf,
    /// Holds the lock until it is dropped.
    _lock: File,
}

impl Owner {
    /// A new owner, alive for all to see.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let id = Ulid::generate().to_string();
        // Locked before it gets its name: nobody ever sees it without its lock.
        let unnamed = dir.join(format!("new-{id}"));
        let lock = File::create_new(&unnamed)?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let path = file(dir, &id);
        fs::rename(unnamed, &path)?;
        Ok(Self { id, path, _lock: lock })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // A file that stays is taken away by the next one who looks for dead owners.
        let _ = fs::remove_file(&self.path);
    }
}

fn file(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{PREFIX}{id}"))
}

/// Whether an owner lives. What cannot be found out counts as alive.
pub(super) fn is_alive(dir: &Path, id: &str) -> bool {
    match File::open(file(dir, id)) {
        Ok(file) => match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => false,
            Err(error) => {
                if error != Errno::WOULDBLOCK {
                    tracing::warn!("look for the owner {id} in {}: {error}", dir.display());
                }
                true
            }
        },
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Takes away the file of a dead owner.
pub(super) fn bury(dir: &Path, id: &str) {
    // Another process may have been faster.
    let _ = fs::remove_file(file(dir, id));
}

/// All owners that have a file, alive or dead.
pub(super) fn all(dir: &Path) -> io::Result<Vec<String>> {
    let mut owners = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        owners.extend(name.to_str().and_then(|name| name.strip_prefix(PREFIX)).map(str::to_owned));
    }
    Ok(owners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_lives_as_long_as_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let owner = Owner::new(dir.path()).unwrap();
        assert!(is_alive(dir.path(), &owner.id));
        assert_eq!(all(dir.path()).unwrap(), std::slice::from_ref(&owner.id));
        let id = owner.id.clone();
        drop(owner);
        assert!(!is_alive(dir.path(), &id));
        assert!(all(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_a_killed_process_left_is_a_dead_owner() {
        let dir = tempfile::tempdir().unwrap();
        File::create(file(dir.path(), "x")).unwrap();
        assert!(!is_alive(dir.path(), "x"));
        bury(dir.path(), "x");
        assert!(all(dir.path()).unwrap().is_empty());
    }
}
