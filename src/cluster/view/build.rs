//! The map that is being built from documents, one at a time. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    cluster::format::{Decoded, Document, FormatError, POOLS, QUEUE, SERVERS, SHARDS, shard_of_size_path},
    model::{ClusterMap, ServerId, ShardId, map::ShardSize},
};

/// The map so far, and the sizes of shards that are not (yet) in it.
#[derive(Default)]
pub(super) struct Builder {
    map: ClusterMap,
    sizes: BTreeMap<ShardId, Option<ShardSize>>,
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The document says nothing; the last good one stays in force.
    Unusable(String),
    /// Single entries make no sense; the others are in force.
    Entries(Vec<String>),
}

impl Builder {
    /// The map that the documents so far make.
    pub(super) fn map(&self) -> &ClusterMap {
        &self.map
    }

    /// Takes a document as it stands now; `None` if there is none. A path that is no part of the map does nothing.
    pub(super) fn document(&mut self, path: &str, data: Option<&[u8]>) -> Option<Trouble> {
        let result = match (path, shard_of_size_path(path)) {
            (SERVERS, _) => self.servers(data),
            (SHARDS, _) => self.shards(data),
            (QUEUE, _) => self.queue(data),
            (POOLS, _) => self.pools(data),
            (_, Some(shard)) => self.size(shard, data),
            _ => Ok(Vec::new()),
        };
        match result {
            Ok(complaints) if complaints.is_empty() => None,
            Ok(complaints) => Some(Trouble::Entries(complaints)),
            Err(error) => Some(Trouble::Unusable(error.to_string())),
        }
    }

    /// Takes the names below `/live`.
    pub(super) fn live(&mut self, names: &[String]) -> Option<Trouble> {
        let (mut live, mut complaints) = (BTreeSet::new(), Vec::new());
        for name in names {
            match name.parse::<ServerId>() {
                Ok(id) => drop(live.insert(id)),
                Err(error) => complaints.push(format!("{name:?}: {error}")),
            }
        }
        self.map.live = live;
        (!complaints.is_empty()).then_some(Trouble::Entries(complaints))
    }

    /// Forgets the sizes of shards that are no longer in the map.
    pub(super) fn forget_unused_sizes(&mut self) {
        let shards = &self.map.shards;
        self.sizes.retain(|shard, _| shards.contains_key(shard));
    }

    /// Whether the size of a shard was never read.
    pub(super) fn lacks_size(&self, shard: &ShardId) -> bool {
        !self.sizes.contains_key(shard)
    }

    fn servers(&mut self, data: Option<&[u8]>) -> Result<Vec<String>, FormatError> {
        let Decoded { value, complaints } = parse(data)?.servers();
        self.map.servers = value;
        Ok(complaints)
    }

    fn shards(&mut self, data: Option<&[u8]>) -> Result<Vec<String>, FormatError> {
        let Decoded { value, complaints } = parse(data)?.shards();
        let shards = value.into_iter().map(|(id, entry)| {
            let size = self.sizes.get(&id).copied().flatten();
            (id.clone(), Arc::new(entry.into_shard(id, size)))
        });
        self.map.shards = shards.collect();
        Ok(complaints)
    }

    fn queue(&mut self, data: Option<&[u8]>) -> Result<Vec<String>, FormatError> {
        let Some(data) = data else {
            self.map.queue = None;
            return Ok(Vec::new());
        };
        let Decoded { value, complaints } = Document::parse(data)?.queue()?;
        self.map.queue = Some(value);
        Ok(complaints)
    }

    fn pools(&mut self, data: Option<&[u8]>) -> Result<Vec<String>, FormatError> {
        let Decoded { value, complaints } = parse(data)?.pools();
        self.map.pools = value;
        Ok(complaints)
    }

    fn size(&mut self, shard: ShardId, data: Option<&[u8]>) -> Result<Vec<String>, FormatError> {
        let Decoded { value, complaints } = match data {
            Some(data) => Document::parse(data)?.size(),
            None => Decoded { value: None, complaints: Vec::new() },
        };
        if let Some(entry) = self.map.shards.get_mut(&shard)
            && entry.size != value
        {
            Arc::make_mut(entry).size = value;
        }
        self.sizes.insert(shard, value);
        Ok(complaints)
    }
}

/// A document; one that is not there is empty.
fn parse(data: Option<&[u8]>) -> Result<Document, FormatError> {
    data.map_or_else(|| Ok(Document::default()), Document::parse)
}
