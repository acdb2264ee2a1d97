//! Sorts what the walk found: to be uploaded, there already, or left out.

use std::{ffi::OsStr, io, path::PathBuf, sync::Arc};

use super::{
    JOURNAL_NAME,
    journal::Done,
    name::Prefix,
    send::Upload,
    walk::{Found, Walk},
};
use crate::model::Key;

/// What is to be done about something that was found.
#[derive(Debug)]
pub(super) enum Sifted {
    /// A file to upload, with its size in bytes.
    Upload(Upload, u64),
    /// A file that the journal has.
    Unchanged(PathBuf, Key),
    /// Not uploaded, and why.
    Skipped(PathBuf, &'static str),
    /// Cannot be looked at.
    Unreadable(PathBuf, io::Error),
}

/// What it takes to tell.
#[derive(Clone)]
pub(super) struct Sieve {
    pub(super) prefix: Prefix,
    pub(super) done: Arc<Done>,
    /// Device and inode of the journal that is being written.
    pub(super) journal: (u64, u64),
}

impl Sieve {
    /// Everything of a walk, sorted; without the journal that is being written.
    pub(super) fn through(self, walk: Walk) -> impl Iterator<Item = Sifted> + Send + 'static {
        walk.filter_map(move |found| match found {
            Found::File { identity, .. } if identity == self.journal => None,
            found => Some(self.sift(found)),
        })
    }

    fn sift(&self, found: Found) -> Sifted {
        match found {
            Found::File { path, .. } if path.file_name() == Some(OsStr::new(JOURNAL_NAME)) => {
                Sifted::Skipped(path, "a journal of other uploads")
            }
            Found::File { path, state, .. } => {
                let key = self.prefix.key_of(&path);
                if self.done.holds(&path, &state, &key) {
                    Sifted::Unchanged(path, key)
                } else {
                    Sifted::Upload(Upload { path, key }, state.size)
                }
            }
            Found::Skipped { path, why } => Sifted::Skipped(path, why),
            Found::Unreadable { path, error } => Sifted::Unreadable(path, error),
        }
    }
}
