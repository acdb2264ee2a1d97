//! Listing keys in order: a page is read from the runs and memtables of `keys`. What they do not cover is found by a walk
//! through the volumes.
//!
//! The index alone says what is listed: an entry counts if it is of the record that the index holds. Memory is bounded by
//! the call's limit, and no lock is held across I/O.

use std::{collections::BTreeMap, io, str::FromStr, sync::Arc};

use super::{
    Listed, StorageError,
    index::Place,
    keys::{BadRun, KeyEntry, View, walk},
    lookup::{MAX_LOOK_UPS, read_head_with},
    record::Kind,
    shared::Shared,
};
use crate::model::Key;

/// A page is begun again when a run turns out to be damaged; that run is not used again, so this is not reached.
const MAX_TRIES: usize = 1000;

/// The first `limit` keys that start with `prefix` and are greater than `after`.
pub async fn list(
    shared: &Arc<Shared>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Listed>, StorageError> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let failed = |source| StorageError::Io { context: "list keys".to_owned(), source };
    let _place = shared.listings.acquire().await.map_err(|error| failed(io::Error::other(error)))?;
    let shared = shared.clone();
    let after = after.map(|after| after.as_bytes().into());
    let page = Page { prefix: prefix.as_bytes().into(), after, limit, found: BTreeMap::new() };
    let read = tokio::task::spawn_blocking(move || read(&shared, page));
    read.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)
}

/// The smallest keys met so far.
struct Page {
    prefix: Box<[u8]>,
    after: Option<Box<[u8]>>,
    limit: usize,
    found: BTreeMap<Vec<u8>, Listed>,
}

impl Page {
    /// No key before this one is wanted.
    fn start(&self) -> &[u8] {
        self.after.as_deref().map_or(&*self.prefix, |after| after.max(&self.prefix))
    }

    fn wants(&self, key: &[u8]) -> bool {
        key.starts_with(&self.prefix)
            && self.after.as_deref().is_none_or(|after| key > after)
            && (self.found.len() < self.limit
                || self.found.last_key_value().is_none_or(|(last, _)| key <= last.as_slice()))
    }

    /// A key that was replaced meanwhile is met twice: what is met later is newer.
    fn add(&mut self, key: &[u8], entry: &KeyEntry) {
        let Some(listed) = listed(key, entry) else { return };
        self.found.insert(key.to_vec(), listed);
        if self.found.len() > self.limit {
            self.found.pop_last();
        }
    }
}

fn listed(key: &[u8], entry: &KeyEntry) -> Option<Listed> {
    let key = std::str::from_utf8(key).ok().and_then(|text| Key::from_str(text).ok())?;
    let deleted = entry.kind == Kind::Tombstone;
    let checksum = (!deleted).then_some(entry.checksum);
    Some(Listed { key, version: entry.version, length: entry.length, checksum, deleted })
}

fn read(shared: &Shared, mut page: Page) -> io::Result<Vec<Listed>> {
    for _ in 0..MAX_TRIES {
        page.found.clear();
        let view = shared.keys.view(&shared.volumes);
        read_gaps(shared, &view, &mut page)?;
        match read_keys(shared, &view, &mut page) {
            Ok(()) => return Ok(page.found.into_values().collect()),
            Err(Failure::Io(error)) => return Err(error),
            Err(Failure::Bad(bad)) => shared.keys.withdraw(&bad),
        }
    }
    Err(io::Error::other("files of keys are damaged all the time"))
}

/// Why a page was not read.
enum Failure {
    Io(io::Error),
    Bad(BadRun),
}

impl From<BadRun> for Failure {
    fn from(bad: BadRun) -> Self {
        Self::Bad(bad)
    }
}

fn read_gaps(shared: &Shared, view: &View, page: &mut Page) -> io::Result<()> {
    let mut failure = None;
    for gap in &view.gaps {
        walk(&view.volumes, gap, |place, head| {
            let entry = KeyEntry::of(place, head);
            if page.wants(head.key) {
                failure = look_up(shared, head.key, &[entry], view.end, page).err();
            }
            failure.is_none()
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
    }
    Ok(())
}

fn read_keys(shared: &Shared, view: &View, page: &mut Page) -> Result<(), Failure> {
    let start = page.start().to_vec();
    let mut keys = view.keys(&start)?;
    while let Some((key, entries)) = keys.next()? {
        if page.wants(&key) {
            look_up(shared, &key, &entries, view.end, page).map_err(Failure::Io)?;
        } else if page.after.as_deref() != Some(&key) {
            break;
        }
    }
    Ok(())
}

/// Takes a key into the page if there is a record of it: one of `known`, or one that was written at `end` or behind it,
/// where nobody else comes by.
fn look_up(shared: &Shared, key: &[u8], known: &[KeyEntry], end: Place, page: &mut Page) -> io::Result<()> {
    let hash = shared.hash(key);
    for _ in 0..MAX_LOOK_UPS {
        let mut is_moved = false;
        for entry in shared.index.candidates(hash) {
            if let Some(known) = known.iter().find(|known| known.place == entry.place) {
                page.add(key, known);
                return Ok(());
            }
            if entry.place < end {
                continue;
            }
            let read = read_head_with(&shared.volumes, &entry, |head| {
                (head.key == key).then(|| KeyEntry::of(entry.place, head))
            });
            match read {
                Some(Some(later)) => {
                    page.add(key, &later);
                    return Ok(());
                }
                Some(None) => {}
                None => is_moved |= !shared.index.holds(hash, entry.place),
            }
        }
        if !is_moved {
            return Ok(());
        }
    }
    Err(io::Error::other("a record is moved all the time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{
        Engine,
        compact_tests::{options, put},
    };

    #[tokio::test]
    async fn a_key_that_is_written_again_behind_the_view_is_listed() {
        let home = tempfile::tempdir().unwrap();
        let engine = Engine::open(home.path(), options()).unwrap();
        put(&engine, "a", 1, 10).await.unwrap();
        let shared = &engine.shared;
        let view = shared.keys.view(&shared.volumes);
        put(&engine, "a", 2, 20).await.unwrap();
        let mut page = Page { prefix: [].into(), after: None, limit: 5, found: BTreeMap::new() };
        // As a run has it, which does not change; the newest memtable has the new one too.
        let memtable = view.keys(b"").unwrap_or_else(|_| panic!("a bad run")).next();
        let (key, entries) = memtable.unwrap_or_else(|_| panic!("a bad run")).unwrap();
        let old: Vec<_> = entries.into_iter().filter(|entry| entry.place < view.end).collect();
        look_up(shared, &key, &old, view.end, &mut page).unwrap();
        assert_eq!(page.found.values().map(|listed| listed.length).collect::<Vec<_>>(), [20]);
    }
}
