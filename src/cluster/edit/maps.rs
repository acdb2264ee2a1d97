//! Servers and shards.

use std::{collections::BTreeMap, sync::Arc};

use super::{Decision, EditError, Outcome, Read, change};
use crate::{
    cluster::{
        MapStore,
        format::{SERVERS, SHARDS, ShardEntry, size_path},
    },
    model::{PoolName, Server, ServerId, ShardId},
};

/// A shard to be made, or to get other servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewShard {
    /// Its name.
    pub id: ShardId,
    /// Its servers, which must be in the map.
    pub servers: Vec<ServerId>,
    /// How many bytes it may hold. A shard that has a size keeps the one it has.
    pub capacity: u64,
    /// Its pool; `None` leaves the pool as it is, the default one for a new shard.
    pub pool: Option<PoolName>,
}

/// Puts a server into the map, or gives the one of that id another address.
pub async fn add_server(store: &dyn MapStore, server: &Server) -> Result<Outcome, EditError> {
    let decide = |[servers]: &[Read; 1]| {
        let known = servers.document.servers().value;
        check_address(&known, server)?;
        if known.get(&server.id).is_some_and(|known| **known == *server) {
            return Ok(Decision::keep(()));
        }
        let mut document = servers.document.clone();
        document.put_server(server);
        Ok(Decision { edits: vec![servers.write(&document)], result: () })
    };
    Ok(change(store, [SERVERS], decide).await?.1)
}

/// Nobody else has the address.
pub(super) fn check_address(
    known: &BTreeMap<ServerId, Arc<Server>>,
    server: &Server,
) -> Result<(), EditError> {
    let address = server.authority().to_lowercase();
    let same = |other: &&Arc<Server>| other.authority().to_lowercase() == address;
    match known.values().filter(|other| other.id != server.id).find(same) {
        Some(taken) => Err(EditError::AddressTaken { address, server: taken.id.clone() }),
        None => Ok(()),
    }
}

/// Makes a read-only shard together with its size, or replaces the servers of one and leaves its size and state.
/// `force` lets it share servers with other shards, and lets the servers of an existing shard change.
pub async fn add_shard(store: &dyn MapStore, new: &NewShard, force: bool) -> Result<Outcome, EditError> {
    let size_path = size_path(&new.id);
    let decide = |[servers, shards, size]: &[Read; 3]| {
        let known = servers.document.servers().value.into_keys().collect();
        let entries = shards.document.shards().value;
        check_servers(new, known)?;
        if !force {
            check_others(new, &entries)?;
        }
        let mut edits = Vec::new();
        let mut document = shards.document.clone();
        document.put_shard(&new.id, &new.servers, new.pool.as_ref());
        if document != shards.document {
            edits.push(shards.write(&document));
        }
        edits.extend(size_edit(new, size, entries.contains_key(&new.id)));
        Ok(Decision { edits, result: () })
    };
    Ok(change(store, [SERVERS, SHARDS, &size_path], decide).await?.1)
}

/// The size of a new shard; a shard that exists keeps what it has. A size that a removed shard left behind gets the new
/// capacity and keeps what is used, for the blobs may still be there; `recount` knows.
fn size_edit(new: &NewShard, size: &Read, shard_exists: bool) -> Option<super::Edit> {
    if size.exists() && shard_exists {
        return None;
    }
    let mut document = size.document.clone();
    document.set_capacity(new.capacity);
    if !size.exists() {
        document.set_used(0);
    }
    Some(size.write(&document))
}

fn check_servers(new: &NewShard, known: Vec<ServerId>) -> Result<(), EditError> {
    let twice = new.servers.iter().enumerate().any(|(at, server)| new.servers[..at].contains(server));
    if new.servers.is_empty() || twice {
        return Err(EditError::BadServers { shard: new.id.clone() });
    }
    let unknown: Vec<_> = new.servers.iter().filter(|server| !known.contains(server)).cloned().collect();
    if unknown.is_empty() { Ok(()) } else { Err(EditError::UnknownServers { unknown, known }) }
}

/// What `force` is needed for.
fn check_others(new: &NewShard, entries: &BTreeMap<ShardId, ShardEntry>) -> Result<(), EditError> {
    if let Some(old) = entries.get(&new.id) {
        let same =
            old.servers.len() == new.servers.len() && new.servers.iter().all(|id| old.servers.contains(id));
        if !same {
            return Err(EditError::ServersChange { shard: new.id.clone(), servers: old.servers.clone() });
        }
    }
    for (shard, entry) in entries.iter().filter(|(shard, _)| **shard != new.id) {
        if let Some(server) = new.servers.iter().find(|server| entry.servers.contains(server)) {
            return Err(EditError::ServerTaken { server: server.clone(), shard: shard.clone() });
        }
    }
    Ok(())
}

/// Ends or allows uploads into a shard.
pub async fn set_read_only(
    store: &dyn MapStore,
    shard: &ShardId,
    read_only: bool,
) -> Result<Outcome, EditError> {
    let decide = |[shards]: &[Read; 1]| {
        let entries = shards.document.shards().value;
        let Some(entry) = entries.get(shard) else {
            let known = entries.into_keys().collect();
            return Err(EditError::UnknownShard { shard: shard.clone(), known });
        };
        if entry.read_only == read_only {
            return Ok(Decision::keep(()));
        }
        let mut document = shards.document.clone();
        document.set_read_only(shard, read_only);
        Ok(Decision { edits: vec![shards.write(&document)], result: () })
    };
    Ok(change(store, [SHARDS], decide).await?.1)
}
