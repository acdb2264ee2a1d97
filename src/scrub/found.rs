//! What a comparison found.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::{Key, ServerId};

/// Keys named as examples: enough to begin to look, few enough for a screen.
const MAX_EXAMPLES: usize = 20;

/// What a comparison of one shard found so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Keys gone over.
    pub keys: u64,
    /// Copies that a server lacks, or has of an older write.
    pub missing_copies: u64,
    /// Deletes that a server does not know of.
    pub missing_deletes: u64,
    /// Blobs and deletes that a server knows to be damaged.
    pub damaged: u64,
    /// Keys under which servers hold different bytes of one version: nothing is done about them.
    pub conflicts: u64,
    /// Tasks put on the queue for these.
    pub queued: u64,
    /// Tasks for these that were on the queue already.
    pub already_queued: u64,
    /// Some of the keys.
    pub examples: Vec<Key>,
    /// Which servers were compared, and how.
    #[serde(flatten)]
    pub who: Who,
}

/// Which servers of a shard were compared, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Who {
    /// By what they list.
    pub compared: BTreeSet<ServerId>,
    /// They cannot list, and were asked key by key: what they hold too much is not seen.
    pub asked: BTreeSet<ServerId>,
    /// Not at all, and why.
    pub left_out: BTreeMap<ServerId, String>,
}

impl Who {
    /// Adds those of a later part of the same comparison: who is left out once was not compared.
    pub(super) fn add(&mut self, other: Self) {
        self.compared.extend(other.compared);
        self.asked.extend(other.asked);
        self.left_out.extend(other.left_out);
        self.compared.retain(|server| !self.left_out.contains_key(server));
    }

    /// Every server was compared, by what it lists.
    pub fn is_complete(&self) -> bool {
        self.left_out.is_empty() && self.asked.is_empty()
    }

    /// Why there is nothing to compare.
    pub(super) fn why_nothing(&self) -> String {
        let left_out = self.left_out.iter().map(|(server, why)| format!("server {server} {why}"));
        let asked = self.asked.iter().map(|server| format!("server {server} cannot list what it holds"));
        let reasons: Vec<String> = left_out.chain(asked).collect();
        if reasons.is_empty() {
            return "it has one server, and nothing to compare it with".to_owned();
        }
        format!("there are no two servers to compare: {}", reasons.join("; "))
    }
}

impl Found {
    /// Copies and deletes that are not where they should be.
    pub fn differences(&self) -> u64 {
        self.missing_copies + self.missing_deletes + self.damaged + self.conflicts
    }

    /// Remembers a key as an example, while there are few.
    pub(super) fn example(&mut self, key: &Key) {
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(key.clone());
        }
    }
}
