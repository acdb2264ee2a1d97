//! What is refused before anything changes.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::bail;

use crate::{
    admin::probe::{Answer, NodeStats, ask_all},
    model::{ClusterMap, Operation, Server, ServerId, Shard, size},
    queue::{Filter, Queue},
};

/// Tasks of one target that are looked at.
const MAX_TASKS: usize = 100_000;

/// Refuses a server that cannot take a shard: one that is not in the map or does not answer, holds something else, or has no room.
pub async fn target(map: &ClusterMap, shard: &Shard, to: &ServerId) -> anyhow::Result<()> {
    let Some(server) = map.servers.get(to) else {
        bail!("unknown server {to}: add it first with add-server")
    };
    if let Some(other) = map.shards_of(to).next() {
        bail!("server {to} belongs to shard {} already: take one that belongs to none", other.id);
    }
    let Some(stats) = is_empty(server).await? else { return Ok(()) };
    let used = shard.size.map_or(0, |size| size.used);
    if stats.free_bytes < used {
        let (free, used) = (size::format(stats.free_bytes), size::format(used));
        bail!("server {to} has {free} free, and shard {} holds {used}", shard.id);
    }
    Ok(())
}

/// Refuses a machine that does not answer or holds blobs already. Servers that are no nodes of ours do not say what they hold.
pub async fn is_empty(server: &Arc<Server>) -> anyhow::Result<Option<NodeStats>> {
    let (id, answers) = (&server.id, ask_all([server.clone()]).await);
    match answers.get(id) {
        Some(Answer::Node(stats)) if stats.blobs > 0 => bail!(
            "the machine at {server} holds {} blobs of something else, and they would be taken for the shard's: empty it \
             first",
            stats.blobs
        ),
        Some(Answer::Node(stats)) => Ok(Some(stats.clone())),
        Some(Answer::Other) => Ok(None),
        Some(Answer::Down(why)) => bail!("the machine at {server} does not answer: {why}"),
        None => bail!("the machine at {server} was not asked"),
    }
}

/// A server that belongs to no shard and has the most room for this one.
pub async fn spare(map: &ClusterMap, shard: &Shard, taken: &BTreeSet<ServerId>) -> anyhow::Result<ServerId> {
    let is_free = |id: &ServerId| map.shards_of(id).next().is_none() && !taken.contains(id);
    let free = map.servers.values().filter(|server| is_free(&server.id)).cloned();
    let used = shard.size.map_or(0, |size| size.used);
    let answers = ask_all(free).await;
    let fits = answers.iter().filter_map(|(id, answer)| match answer {
        Answer::Node(stats) if stats.blobs == 0 && stats.free_bytes >= used => Some((stats.free_bytes, id)),
        _ => None,
    });
    match fits.max() {
        Some((_, id)) => Ok(id.clone()),
        None => bail!(
            "no server of the map is free for shard {} ({} used): add an empty one with add-server, or name one with --to",
            shard.id,
            size::format(used)
        ),
    }
}

/// How many blobs are known to be on that server alone: their copies are still to be made from it.
pub async fn only_source(queue: &dyn Queue, map: &ClusterMap, server: &ServerId) -> anyhow::Result<usize> {
    let mut keys = BTreeSet::new();
    let mates: BTreeSet<&ServerId> = map.shards_of(server).flat_map(|shard| &shard.servers).collect();
    for mate in mates.into_iter().filter(|mate| *mate != server) {
        let filter = Filter { target: Some(mate.clone()), ..Filter::default() };
        let tasks = queue.list(&filter, MAX_TASKS).await?.into_iter().map(|listed| listed.task);
        let alone = tasks.filter(|task| task.op == Operation::Copy && task.from == [server.clone()]);
        keys.extend(alone.map(|task| task.key));
    }
    Ok(keys.len())
}
