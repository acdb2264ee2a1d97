//! The configuration file: there is always a whole one.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// Whether the file had to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It holds another text now.
    Changed,
    /// It held this text already.
    Unchanged,
}

/// Who may read a new file: everybody, as it holds no secrets, and nginx may run as anybody.
const MODE: u32 = 0o644;

/// Replaces the file as a whole, if it holds another text. Whoever opens it sees the old text or the new one.
pub async fn write_if_changed(path: &Path, text: &str) -> anyhow::Result<Written> {
    let (path, text) = (path.to_owned(), text.to_owned());
    let write = move || replace(&path, &text).with_context(|| format!("write {}", path.display()));
    tokio::task::spawn_blocking(write).await.context("the write was given up")?
}

fn replace(path: &Path, text: &str) -> io::Result<Written> {
    // A link, as in sites-enabled, stays one: what it points to is replaced.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let permissions = match fs::read(&path) {
        Ok(old) if old == text.as_bytes() => return Ok(Written::Unchanged),
        Ok(_) => fs::metadata(&path)?.permissions(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Permissions::from_mode(MODE),
        Err(error) => return Err(error),
    };
    let folder = folder_of(&path);
    let mut file = tempfile::Builder::new().prefix(".backpack-nginx-").tempfile_in(&folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(permissions)?;
    // Before the rename, or a power cut could leave an empty file under the name.
    file.as_file().sync_all()?;
    file.persist(&path)?;
    File::open(&folder)?.sync_all()?;
    Ok(Written::Changed)
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_only_by_another_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nginx.conf");
        assert_eq!(replace(&path, "one").unwrap(), Written::Changed);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(replace(&path, "one").unwrap(), Written::Unchanged);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(replace(&path, "two").unwrap(), Written::Changed);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("available"), dir.path().join("enabled"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, "new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_named() {
        let refused = write_if_changed(Path::new("/nowhere/at/all"), "text").await.unwrap_err();
        assert!(refused.to_string().contains("/nowhere/at/all"));
    }
}
