//! A file that one process at a time has.

use std::{
    fs::{File, TryLockError},
    io,
    ops::Deref,
};

/// A file with an exclusive lock (flock), which goes with it: also when the process is killed.
#[derive(Debug)]
pub struct LockedFile(File);

impl LockedFile {
    /// Locks the file, unless somebody else has: `None`.
    pub fn try_new(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // To close it is not enough: a child process that is being started has the same file open until its `exec`. Where
        // this fails, the lock goes with the last of them.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_until_it_is_dropped_even_while_a_copy_is_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().append(true).open(file.path()).unwrap();
        let first = LockedFile::try_new(open()).unwrap().unwrap();
        assert!(LockedFile::try_new(open()).unwrap().is_none());
        let _as_a_child_has_it = first.try_clone().unwrap();
        drop(first);
        assert!(LockedFile::try_new(open()).unwrap().is_some());
    }
}
