//! Finds the files below a folder, one after the other: memory grows with the depth of the tree, not with its size.

use std::{
    fs::{self, FileType, Metadata, ReadDir},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::journal::FileState;

/// What the walk comes upon. Paths are relative to the folder.
#[derive(Debug)]
pub(super) enum Found {
    /// A regular file.
    File {
        /// Where.
        path: PathBuf,
        /// Its size and time.
        state: FileState,
        /// Device and inode.
        identity: (u64, u64),
    },
    /// Something that is not uploaded.
    Skipped {
        /// Where.
        path: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// Something that cannot be looked at.
    Unreadable {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A walk through one folder: the whole tree, or the files that were named.
pub(super) struct Walk {
    root: PathBuf,
    /// Folders being read, the deepest last.
    open: Vec<(PathBuf, ReadDir)>,
    /// Still to be looked at: the root of a tree, or the named files.
    listed: Vec<PathBuf>,
}

impl Walk {
    /// Everything below `root`; symbolic links are not followed.
    pub(super) fn tree(root: &Path) -> Self {
        Self { root: root.to_owned(), open: Vec::new(), listed: vec![PathBuf::new()] }
    }

    /// These files of `root`.
    pub(super) fn files(root: &Path, mut files: Vec<PathBuf>) -> Self {
        files.reverse();
        Self { root: root.to_owned(), open: Vec::new(), listed: files }
    }

    /// What stands at a path; `None` for a folder, which is then read.
    fn look(&mut self, path: PathBuf) -> Option<Found> {
        // The folder itself was named by the user, so it may be a link.
        let metadata = match path.as_os_str().is_empty() {
            true => fs::metadata(&self.root),
            false => fs::symlink_metadata(self.root.join(&path)),
        };
        let kind = match &metadata {
            Ok(metadata) => metadata.file_type(),
            // Deleted between the listing and this look.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.open.is_empty() => return None,
            Err(_) => return metadata.err().map(|error| Found::Unreadable { path, error }),
        };
        if kind.is_dir() {
            return self.enter(path);
        }
        Some(classify(path, kind, metadata.ok()))
    }

    fn enter(&mut self, path: PathBuf) -> Option<Found> {
        match fs::read_dir(self.root.join(&path)) {
            Ok(entries) => {
                self.open.push((path, entries));
                None
            }
            Err(error) => Some(Found::Unreadable { path, error }),
        }
    }
}

fn classify(path: PathBuf, kind: FileType, metadata: Option<Metadata>) -> Found {
    let why = match metadata {
        Some(metadata) if kind.is_file() => {
            let identity = (metadata.dev(), metadata.ino());
            return Found::File { path, state: FileState::of(&metadata), identity };
        }
        _ if kind.is_symlink() => "a symbolic link",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "not a regular file",
    };
    Found::Skipped { path, why }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let path = match self.open.last_mut() {
                None => self.listed.pop()?,
                Some((folder, entries)) => match entries.next() {
                    None => {
                        self.open.pop();
                        continue;
                    }
                    Some(Ok(entry)) => folder.join(entry.file_name()),
                    Some(Err(error)) => {
                        let path = folder.clone();
                        // A listing that failed once may fail for ever.
                        self.open.pop();
                        return Some(Found::Unreadable { path, error });
                    }
                },
            };
            if let Some(found) = self.look(path) {
                return Some(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn finds_files_and_says_what_it_leaves_out() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("a/b/empty")).unwrap();
        fs::write(at("a/b/one"), "1").unwrap();
        fs::write(at("two"), "22").unwrap();
        symlink("two", at("link")).unwrap();
        symlink("a", at("folder-link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let mut found: Vec<String> = Walk::tree(folder.path())
            .map(|found| match found {
                Found::File { path, state, .. } => format!("{} {}", path.display(), state.size),
                Found::Skipped { path, why } => format!("{}: {why}", path.display()),
                Found::Unreadable { path, error } => format!("{}! {error}", path.display()),
            })
            .collect();
        found.sort();
        assert_eq!(
            found,
            ["a/b/one 1", "folder-link: a symbolic link", "link: a symbolic link", "pipe: a pipe", "two 2",]
        );
    }

    #[test]
    fn named_files_come_in_order_and_missing_ones_are_said() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("here"), "x").unwrap();
        let mut walk = Walk::files(folder.path(), vec!["here".into(), "gone".into()]);
        assert!(matches!(walk.next(), Some(Found::File { path, .. }) if path == Path::new("here")));
        assert!(matches!(walk.next(), Some(Found::Unreadable { path, .. }) if path == Path::new("gone")));
        assert!(walk.next().is_none());
    }
}
