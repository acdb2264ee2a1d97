//! The keys of the newest records, in memory, until they are written as a run.
//!
//! The writer, for whom many wait, only notes them. Who reads them puts them in order.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

use super::entry::KeyEntry;

/// What an entry takes beside its key: itself, its share of the tree's nodes and of the allocator.
const ENTRY_BYTES: usize = 120;
/// Keys copied at once: other readers wait as long as that takes, some microseconds.
const COPIED_AT_ONCE: usize = 128;

/// Keys in memory. The writer adds to the newest memtable; others do not change any more.
#[derive(Debug, Default)]
pub struct Memtable {
    /// As far as somebody read them. Locked before `added`.
    ordered: Mutex<Ordered>,
    /// Locked for moments, because the writer waits.
    added: Mutex<Added>,
}

type Ordered = BTreeMap<Box<[u8]>, KeyEntry>;

#[derive(Debug, Default)]
struct Added {
    /// What came since, as it came.
    records: Vec<(Box<[u8]>, KeyEntry)>,
    /// Of memory that all records took that ever came, so that also those that replace others have an end.
    bytes: usize,
}

impl Memtable {
    /// Adds records, of which later ones replace earlier ones of their key; says how many bytes of memory all take at most.
    pub fn add<'a>(&self, records: impl Iterator<Item = (&'a [u8], KeyEntry)>) -> usize {
        let mut added = self.added.lock();
        for (key, entry) in records {
            added.bytes += key.len() + ENTRY_BYTES;
            added.records.push((key.into(), entry));
        }
        added.bytes
    }

    /// Bytes of memory it takes at most.
    pub fn bytes(&self) -> usize {
        self.added.lock().bytes
    }

    /// All keys, in order.
    fn ordered(&self) -> MutexGuard<'_, Ordered> {
        let mut ordered = self.ordered.lock();
        let added = std::mem::take(&mut self.added.lock().records);
        if ordered.is_empty() {
            *ordered = added.into_iter().collect();
        } else {
            ordered.extend(added);
        }
        ordered
    }

    /// The keys from that one on.
    pub fn seek(self: &Arc<Self>, from: &[u8]) -> MemtableCursor {
        let next = Bound::Included(from.into());
        MemtableCursor { memtable: self.clone(), next, copied: VecDeque::new() }
    }
}

/// A place among the keys of a memtable, which may change meanwhile.
#[derive(Debug)]
pub struct MemtableCursor {
    memtable: Arc<Memtable>,
    /// Where those begin that were not copied yet.
    next: Bound<Box<[u8]>>,
    copied: VecDeque<(Vec<u8>, KeyEntry)>,
}

impl MemtableCursor {
    /// The next key, in order.
    pub fn next(&mut self) -> Option<(Vec<u8>, KeyEntry)> {
        if self.copied.is_empty() {
            let ordered = self.memtable.ordered();
            let range = (self.next.as_ref().map(|key| &**key), Bound::Unbounded);
            let entries = ordered.range::<[u8], _>(range).take(COPIED_AT_ONCE);
            self.copied.extend(entries.map(|(key, entry)| (key.to_vec(), *entry)));
            if let Some((last, _)) = self.copied.back() {
                self.next = Bound::Excluded(last.as_slice().into());
            }
        }
        self.copied.pop_front()
    }
}
