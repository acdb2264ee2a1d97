//! Listing keys in order, by a walk through all volumes for each call.
//!
//! Memory is bounded by the call's limit, and no lock is held across I/O. The price: every call reads the heads of all
//! records (about a second for a million that are in the page cache, and a read of the whole volumes where blobs are
//! small and nothing is cached).

use std::{collections::BTreeMap, io, str::FromStr, sync::Arc};

use super::{
    Listed, StorageError,
    index::Place,
    lookup::{MAX_LOOK_UPS, newest, read_head_with},
    record::{Head, Kind},
    scan::{Scan, Step},
    shared::Shared,
    volume::{SUPERBLOCK_BYTES, Volume},
};
use crate::model::Key;

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
    let walk = tokio::task::spawn_blocking(move || walk(&shared, page));
    walk.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)
}

/// The smallest keys met so far.
struct Page {
    prefix: Box<[u8]>,
    after: Option<Box<[u8]>>,
    limit: usize,
    found: BTreeMap<Vec<u8>, Listed>,
}

impl Page {
    fn wants(&self, key: &[u8]) -> bool {
        key.starts_with(&self.prefix)
            && self.after.as_deref().is_none_or(|after| key > after)
            && (self.found.len() < self.limit
                || self.found.last_key_value().is_none_or(|(last, _)| key <= last.as_slice()))
    }

    /// A key that was replaced during the walk is met twice: what is met later is newer.
    fn add(&mut self, head: &Head<'_>) {
        let Some(listed) = listed(head) else { return };
        self.found.insert(head.key.to_vec(), listed);
        if self.found.len() > self.limit {
            self.found.pop_last();
        }
    }
}

fn listed(head: &Head<'_>) -> Option<Listed> {
    let key = std::str::from_utf8(head.key).ok().and_then(|text| Key::from_str(text).ok())?;
    let deleted = head.kind == Kind::Tombstone;
    let checksum = (!deleted).then_some(head.checksum);
    Some(Listed { key, version: head.version, length: head.blob_length(), checksum, deleted })
}

fn walk(shared: &Shared, mut page: Page) -> io::Result<Vec<Listed>> {
    // Held to the end: compaction may remove one meanwhile, and what it moves from there may go behind the bound.
    let volumes = shared.volumes.all();
    let Some(last) = volumes.last() else { return Ok(Vec::new()) };
    let bound = Place::new(last.number, last.end());
    for volume in &volumes {
        let end = if volume.number == bound.volume() { bound.offset() } else { volume.end() };
        let mut scan = Scan::new(volume, SUPERBLOCK_BYTES, end);
        while let Some(step) = scan.next()? {
            // Damage was reported when it was met first.
            if let Step::Record { offset, head } = step {
                meet(shared, volume, offset, &head, bound, &mut page);
            }
        }
    }
    Ok(page.found.into_values().collect())
}

/// Takes a record into the page if it is the newest of its key. If that was written after the walk began, the walk
/// will not come by it: then it is read here.
fn meet(shared: &Shared, volume: &Volume, offset: u64, head: &Head<'_>, bound: Place, page: &mut Page) {
    if head.kind == Kind::Gap || !page.wants(head.key) {
        return;
    }
    let here = Place::new(volume.number, offset);
    let hash = shared.hash(head.key);
    for _ in 0..MAX_LOOK_UPS {
        let mut moved = false;
        for entry in newest(&shared.index, hash, here, bound) {
            if entry.place == here {
                page.add(head);
                continue;
            }
            let read = read_head_with(&shared.volumes, &entry, |later| {
                if later.key == head.key {
                    page.add(later);
                }
            });
            moved |= read.is_none() && !shared.index.holds(hash, entry.place);
        }
        if !moved {
            return;
        }
    }
}
