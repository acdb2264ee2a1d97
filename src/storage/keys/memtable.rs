//! The keys of the newest records, in memory and in order, until they are written as a run.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use parking_lot::Mutex;

use super::entry::KeyEntry;

/// What an entry takes beside its key: itself, its share of the tree's nodes and of the allocator.
const ENTRY_BYTES: usize = 120;
/// Keys copied at once: the writer waits as long as that takes, some microseconds.
const COPIED_AT_ONCE: usize = 128;

/// Keys in memory. The writer adds to the newest memtable; others do not change any more.
#[derive(Debug, Default)]
pub struct Memtable {
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    entries: BTreeMap<Box<[u8]>, KeyEntry>,
    bytes: usize,
}

impl Memtable {
    /// Adds records, of which later ones replace earlier ones of their key; says how many bytes of memory all take now.
    pub fn add<'a>(&self, records: impl Iterator<Item = (&'a [u8], KeyEntry)>) -> usize {
        let mut keys = self.keys.lock();
        for (key, entry) in records {
            if keys.entries.insert(key.into(), entry).is_none() {
                keys.bytes += key.len() + ENTRY_BYTES;
            }
        }
        keys.bytes
    }

    /// Bytes of memory it takes, about.
    pub fn bytes(&self) -> usize {
        self.keys.lock().bytes
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
            let keys = self.memtable.keys.lock();
            let range = (self.next.as_ref().map(|key| &**key), Bound::Unbounded);
            let entries = keys.entries.range::<[u8], _>(range).take(COPIED_AT_ONCE);
            self.copied.extend(entries.map(|(key, entry)| (key.to_vec(), *entry)));
            if let Some((last, _)) = self.copied.back() {
                self.next = Bound::Excluded(last.as_slice().into());
            }
        }
        self.copied.pop_front()
    }
}
