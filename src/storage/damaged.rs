//! The listing of what is damaged, for whoever is to repair it: each piece with what can still be read of its record.

use std::sync::Arc;

use super::{
    Damaged, Spot, StorageError,
    damage::{Found, Record},
    index::Entry,
    lookup::read_head_with,
    pread::read_full,
    record::{Kind, likely_key},
    shared::Shared,
};
use crate::model::Key;

/// The first `limit` pieces behind `after`. Reads a head for each.
pub async fn page(
    shared: &Arc<Shared>,
    after: Option<Spot>,
    limit: usize,
) -> Result<Vec<Damaged>, StorageError> {
    shared.damage.prune(&shared.index);
    let found = shared.damage.page(after, limit);
    let shared = shared.clone();
    let describe = move || found.into_iter().map(|(spot, found)| describe(&shared, spot, found)).collect();
    tokio::task::spawn_blocking(describe).await.map_err(|error| StorageError::Io {
        context: "list what is damaged".to_owned(),
        source: std::io::Error::other(error),
    })
}

fn describe(shared: &Shared, place: Spot, found: Found) -> Damaged {
    match found {
        Found::Record(record) => of_record(shared, place, record),
        Found::Stretch(stretch) => Damaged {
            place,
            what: stretch.wrong,
            found_ms: stretch.found_ms,
            key: None,
            version: None,
            deleted: false,
            file: None,
        },
    }
}

fn of_record(shared: &Shared, spot: Spot, record: Record) -> Damaged {
    let entry = shared.index.candidates(record.hash).into_iter().find(|entry| entry.place == spot.place);
    let head = entry.and_then(|entry| {
        read_head_with(&shared.volumes, &entry, |head| (key(head.key), Some(head.version)))
            .or_else(|| Some((guessed_key(shared, &entry), None)))
    });
    let (key, version) = head.unwrap_or_default();
    let file = shared.index.file(record.hash, spot.place);
    Damaged {
        place: spot,
        what: record.wrong,
        found_ms: record.found_ms,
        key,
        version,
        deleted: entry.is_some_and(|entry| entry.kind == Kind::Tombstone),
        file: file.map(|file| shared.layout.relative_blob(file.id)),
    }
}

fn key(bytes: &[u8]) -> Option<Key> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// A head that is damaged elsewhere has its key still, if that has the hash that the index knows: of all others one in
/// 34 billion has.
fn guessed_key(shared: &Shared, entry: &Entry) -> Option<Key> {
    let volume = shared.volumes.get(entry.place.volume())?;
    let mut bytes = vec![0; usize::from(entry.head_bound)];
    read_full(&volume.file, &mut bytes, entry.place.offset()).ok()?;
    let found = likely_key(&bytes)?;
    shared.index.holds(shared.hash(found), entry.place).then(|| key(found)).flatten()
}
