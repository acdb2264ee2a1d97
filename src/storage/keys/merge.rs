//! Several runs and memtables as one sequence of keys.

use super::{
    entry::KeyEntry,
    memtable::MemtableCursor,
    run::{BadRun, Cursor},
};

/// Where keys come from, in order.
#[derive(Debug)]
pub enum Source {
    /// A run.
    Run(Cursor),
    /// A memtable.
    Memtable(MemtableCursor),
}

impl Source {
    fn next(&mut self) -> Result<Option<(Vec<u8>, KeyEntry)>, BadRun> {
        match self {
            Self::Run(cursor) => cursor.next(),
            Self::Memtable(cursor) => Ok(cursor.next()),
        }
    }
}

/// A key, and what the sources say of it: at least one entry.
pub type Merged = (Vec<u8>, Vec<KeyEntry>);

/// The keys of all sources, in order.
#[derive(Debug)]
pub struct Merge {
    sources: Vec<(Source, Vec<u8>, KeyEntry)>,
}

impl Merge {
    /// The keys of all these from `from` on.
    pub fn new(sources: impl IntoIterator<Item = Source>, from: &[u8]) -> Result<Self, BadRun> {
        let mut ahead = Vec::new();
        for mut source in sources {
            while let Some((key, entry)) = source.next()? {
                if key.as_slice() >= from {
                    ahead.push((source, key, entry));
                    break;
                }
            }
        }
        Ok(Self { sources: ahead })
    }

    /// The next key.
    pub fn next(&mut self) -> Result<Option<Merged>, BadRun> {
        // There are a few dozen sources at most.
        let Some(first) = self.sources.iter().map(|(_, key, _)| key).min() else { return Ok(None) };
        let (key, mut entries) = (first.clone(), Vec::with_capacity(1));
        let mut at = 0;
        while let Some((source, ahead, entry)) = self.sources.get_mut(at) {
            if *ahead != key {
                at += 1;
                continue;
            }
            entries.push(*entry);
            match source.next()? {
                Some(next) => (*ahead, *entry) = next,
                None => drop(self.sources.swap_remove(at)),
            }
        }
        Ok(Some((key, entries)))
    }
}
