//! A file that is removed unless it is kept: one being received, one that lost to a newer version, one replaced.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::disk;

/// Removes its file when it is dropped.
#[derive(Debug)]
pub struct Doomed(Option<PathBuf>);

impl Doomed {
    /// Dooms that file.
    pub fn new(path: PathBuf) -> Self {
        Self(Some(path))
    }

    /// Lets the file live.
    pub fn keep(mut self) {
        self.0 = None;
    }

    /// Moves the file, still doomed.
    pub fn rename(&mut self, to: &Path) -> io::Result<()> {
        if let Some(path) = &mut self.0 {
            disk::rename(path, to)?;
            *path = to.into();
        }
        Ok(())
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        let Some(path) = self.0.take() else { return };
        // Removing a huge file takes long: not on a thread that serves others.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(&path))),
            Err(_) => remove(&path),
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = disk::already_gone(disk::remove(path)) {
        tracing::warn!(path = %path.display(), %error, "file left over: the next start removes it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_unless_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "x").unwrap();
            path
        };
        let (kept, moved) = (file("kept"), dir.path().join("moved"));
        Doomed::new(kept.clone()).keep();
        let mut doomed = Doomed::new(file("gone"));
        doomed.rename(&moved).unwrap();
        assert!(moved.exists());
        drop(doomed);
        assert!(kept.exists() && !moved.exists() && !dir.path().join("gone").exists());
    }
}
