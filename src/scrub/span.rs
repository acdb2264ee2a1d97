//! Which ranges of keys differ. Servers cut what they hold into ranges by themselves; those of one are laid beside those of the
//! others, and where all of them end a range at the same key, the sums up to there are compared. Pure.

use crate::model::{Key, KeyRange, digest::Digest};

/// A range of keys between two keys at which all servers end one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// It begins behind this key; `None`: with the first one.
    pub after: Option<Key>,
    /// Its last key; `None`: all keys that are left.
    pub until: Option<Key>,
    /// What each server holds of it: keys and their digest.
    pub sums: Vec<(u64, Digest)>,
}

impl Span {
    /// Whether the servers hold something different there.
    pub fn differs(&self) -> bool {
        self.sums.iter().any(|sum| *sum != self.sums[0])
    }

    /// The most keys that one server holds of it.
    pub fn keys(&self) -> u64 {
        self.sums.iter().map(|(keys, _)| *keys).max().unwrap_or(0)
    }
}

/// Lays the ranges of several servers beside each other.
#[derive(Debug)]
pub struct Aligner {
    open: Span,
}

impl Aligner {
    /// Of so many servers, whose ranges begin behind `after`.
    pub fn new(servers: usize, after: Option<Key>) -> Self {
        Self { open: Span { after, until: None, sums: vec![(0, Digest::default()); servers] } }
    }

    /// Takes the next range of those servers that are behind: `next` has that of each server. Says of which servers it was
    /// taken, and gives the span that all of them end with it, if they do.
    pub fn take(&mut self, next: &[&KeyRange]) -> (Vec<usize>, Option<Span>) {
        // No end is behind every end.
        let order = |range: &KeyRange| (range.until.is_none(), range.until.clone());
        let first = next.iter().map(|range| order(range)).min();
        let taken: Vec<usize> = (0..next.len()).filter(|at| Some(order(next[*at])) == first).collect();
        for &at in &taken {
            let (keys, digest) = &mut self.open.sums[at];
            *keys += next[at].keys;
            *digest += next[at].digest;
        }
        if taken.len() < next.len() {
            return (taken, None);
        }
        let until = first.and_then(|(_, until)| until);
        let following = Self::new(next.len(), until.clone());
        let ended = std::mem::replace(self, following).open;
        (taken, Some(Span { until, ..ended }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Listed, Version, digest::Cutter};

    fn key(n: u16) -> Key {
        format!("{n:05}").parse().unwrap()
    }

    fn ranges(held: &BTreeMap<u16, u64>) -> VecDeque<KeyRange> {
        let mut cutter = Cutter::new(0);
        let listed = held.iter().map(|(&n, &version)| Listed {
            key: key(n),
            version: Version::from_parts(version, 0),
            length: 0,
            checksum: None,
            deleted: false,
        });
        let mut ranges: VecDeque<_> = listed.filter_map(|listed| cutter.take(&listed)).collect();
        ranges.push_back(cutter.cut(None));
        ranges
    }

    fn spans(servers: &[BTreeMap<u16, u64>]) -> Vec<Span> {
        let mut left: Vec<_> = servers.iter().map(ranges).collect();
        let mut aligner = Aligner::new(servers.len(), None);
        let mut spans = Vec::new();
        while left.iter().all(|ranges| !ranges.is_empty()) {
            let next: Vec<_> = left.iter().map(|ranges| &ranges[0]).collect();
            let (taken, span) = aligner.take(&next);
            taken.iter().for_each(|&at| drop(left[at].pop_front()));
            spans.extend(span);
        }
        assert!(left.iter().all(VecDeque::is_empty), "all end together");
        spans
    }

    proptest! {
        /// What differs lies in a span that differs; the spans cover all keys once; what is equal far from any difference is in
        /// a span that does not differ.
        #[test]
        fn differences_are_found_and_nothing_else(
            base in proptest::collection::btree_map(0_u16..3000, 0_u64..3, 0..1500),
            changes in proptest::collection::vec((0_usize..3, 0_u16..3000, proptest::option::of(0_u64..4)), 0..6),
        ) {
            let mut servers = vec![base; 3];
            for (server, key, version) in changes {
                match version {
                    Some(version) => drop(servers[server].insert(key, version)),
                    None => drop(servers[server].remove(&key)),
                }
            }
            let spans = spans(&servers);
            for (one, next) in spans.iter().zip(&spans[1..]) {
                prop_assert_eq!(&one.until, &next.after);
            }
            prop_assert!(spans[0].after.is_none() && spans.last().unwrap().until.is_none());
            for span in &spans {
                let inside = |n: u16| {
                    span.after.as_ref().is_none_or(|after| key(n) > *after)
                        && span.until.as_ref().is_none_or(|until| key(n) <= *until)
                };
                let held: Vec<BTreeMap<_, _>> = servers
                    .iter()
                    .map(|server| server.iter().filter(|(n, _)| inside(**n)).collect())
                    .collect();
                prop_assert_eq!(span.differs(), held.iter().any(|other| *other != held[0]));
                prop_assert_eq!(span.keys(), held.iter().map(|held| held.len() as u64).max().unwrap());
            }
        }
    }
}
