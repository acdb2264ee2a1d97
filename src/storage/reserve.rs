//! Disk space that is kept aside and given up when the disk is full, so that deletes still work.

use std::{io, path::PathBuf};

use super::disk;

/// The reserve; while it is given up, only deletes are written.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl Reserve {
    /// Sets the space aside, if it is there. 0 bytes is no reserve, which is always held.
    pub fn open(path: PathBuf, bytes: u64) -> Self {
        let mut reserve = Self { path, bytes, held: false };
        if let Err(error) = reserve.hold() {
            tracing::warn!(%error, "no space for the reserve: only deletes are taken until there is");
        }
        reserve
    }

    /// Whether the space is set aside.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Gives the space up; `false` if there was none to give.
    pub fn release(&mut self) -> bool {
        let released = self.held && self.bytes > 0 && disk::remove(&self.path).is_ok();
        if released {
            tracing::warn!("the disk is full: the reserve was given up for deletes");
            self.held = false;
        }
        released
    }

    /// Sets the space aside again once there is twice as much.
    pub fn restore(&mut self, free_bytes: u64) -> bool {
        if !self.held && free_bytes >= self.bytes.saturating_mul(2) && self.hold().is_ok() {
            tracing::info!("there is space again: the reserve is back");
        }
        self.held
    }

    fn hold(&mut self) -> io::Result<()> {
        if self.bytes > 0 {
            disk::create(&self.path).and_then(|file| disk::set_aside(&file, self.bytes)).inspect_err(
                |_| {
                    // A part of it would be space that nobody can use.
                    let _ = disk::remove(&self.path);
                },
            )?;
        }
        self.held = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn given_up_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("RESERVE");
        let mut reserve = Reserve::open(path.clone(), 1 << 20);
        assert!(reserve.is_held());
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 1 << 20);
        assert!(reserve.release() && !path.exists() && !reserve.release());
        assert!(!reserve.restore(1 << 20), "not before there is twice as much");
        assert!(reserve.restore(2 << 20) && path.exists());
    }

    #[test]
    fn none_is_always_held() {
        let mut reserve = Reserve::open("/nonexistent/RESERVE".into(), 0);
        assert!(reserve.is_held() && !reserve.release());
    }
}
