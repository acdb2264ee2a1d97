//! Takes a shard from one server to another.

use anyhow::bail;

use super::{Filled, Mover, target};
use crate::{
    cluster::edit,
    model::{ClusterMap, ServerId, Shard, ShardId, Stage},
};

/// How far it is, as the map says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    /// Nothing was done.
    Begin,
    /// This one is being filled.
    Joining(ServerId),
    /// This one has everything and is read.
    Joined(ServerId),
    /// The new one is read; the old one is still read too.
    Leaving,
    /// The old one is not read any more.
    Left,
    /// The old one is not of the shard any more.
    Gone,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// Copied and verified.
    pub filled: Filled,
    /// There was nothing left to do.
    pub was_done: bool,
}

impl Mover<'_> {
    /// Moves the copy of a shard that `from` has to `to`, from wherever an earlier run left it. `to` need not be known where one
    /// is being filled already.
    pub async fn move_shard(
        &self,
        id: &ShardId,
        from: &ServerId,
        to: Option<&ServerId>,
    ) -> anyhow::Result<Moved> {
        let store = &*self.context.store;
        let mut moved = Moved { was_done: true, ..Moved::default() };
        loop {
            let map = self.context.map().await?;
            let Some(shard) = map.shards.get(id) else {
                bail!("unknown shard {id}: status lists those of the map")
            };
            match at(shard, from, to)? {
                At::Begin => {
                    let Some(to) = to else { bail!("there is no server to move shard {id} to") };
                    target(&map, shard, to).await?;
                    edit::join(store, id, from, to).await?;
                }
                At::Joining(to) => {
                    // Coordinators give it what is written from now on, and the rest is copied.
                    self.grace().await;
                    moved.filled.add(&self.fill(id, &to).await?);
                }
                At::Joined(to) => {
                    // All readers ask it before anything is left to it alone.
                    self.grace().await;
                    edit::hand_over(store, id, from, &to).await?;
                }
                At::Leaving => {
                    // Nothing is left to it alone any more; what was, is copied while it is still read.
                    self.grace().await;
                    moved.filled.add(&self.spread(&map, shard, from).await?);
                    edit::retire(store, id, from).await?;
                }
                At::Left => {
                    self.grace().await;
                    edit::leave(store, id, from).await?;
                    self.spread_what_came_late(shard, from).await;
                }
                At::Gone => return Ok(moved),
            }
            moved.was_done = false;
        }
    }

    /// A coordinator that was cut off from the map store all the time may have left the old server something alone.
    async fn spread_what_came_late(&self, before: &Shard, from: &ServerId) {
        let spread = async {
            let map = self.context.map().await?;
            let Some(now) = map.shards.get(&before.id) else { return Ok(()) };
            if !map.servers.contains_key(from) || map.shards_of(from).next().is_some() {
                return Ok(());
            }
            let mut with_it = Shard::clone(now);
            with_it.servers.push(from.clone());
            self.spread(&map, &with_it, from).await.map(drop)
        };
        let spread: anyhow::Result<()> = spread.await;
        if let Err(error) = spread {
            eprintln!("server {from} was not looked at once more: {error:#}");
        }
    }
}

/// Where a move stands.
fn at(shard: &Shard, from: &ServerId, to: Option<&ServerId>) -> anyhow::Result<At> {
    let id = &shard.id;
    let coming = |stage| shard.stages.iter().find(|(_, at)| **at == stage).map(|(server, _)| server);
    let (joining, joined) = (coming(Stage::Joining), coming(Stage::Joined));
    match (shard.stages.get(from), joining.or(joined)) {
        _ if !shard.servers.contains(from) => match to {
            Some(to) if !shard.servers.contains(to) => {
                bail!("neither server {from} nor server {to} belongs to shard {id}")
            }
            _ => Ok(At::Gone),
        },
        (Some(Stage::Leaving), _) => Ok(At::Leaving),
        (Some(Stage::Left), _) => Ok(At::Left),
        (Some(Stage::Joining | Stage::Joined), _) => {
            bail!("server {from} of shard {id} is being filled itself: end that first")
        }
        (None, Some(other)) if to.is_some_and(|to| to != other) => {
            bail!("server {other} of shard {id} is being filled: end that first")
        }
        (None, Some(new)) if joined.is_some() => Ok(At::Joined(new.clone())),
        (None, Some(new)) => Ok(At::Joining(new.clone())),
        (None, None) => Ok(At::Begin),
    }
}

impl Moved {
    /// For people.
    pub fn sentence(&self, shard: &ShardId, from: &ServerId, map: &ClusterMap) -> String {
        let servers =
            map.shards.get(shard).map(|shard| crate::admin::server_list::join(&shard.servers, ", "));
        let servers = servers.unwrap_or_default();
        if self.was_done {
            return format!(
                "Server {from} is not of shard {shard} any more: nothing was to be done. Its servers: {servers}"
            );
        }
        format!("Shard {shard} is on the servers {servers} now; {}", self.filled.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PoolName;

    fn id(text: &str) -> ServerId {
        text.parse().unwrap()
    }

    #[test]
    fn the_map_says_how_far_a_move_is() {
        let shard = |servers: &[&str], stages: &[(&str, Stage)]| Shard {
            id: "s".parse().unwrap(),
            servers: servers.iter().map(|name| id(name)).collect(),
            stages: stages.iter().map(|(name, stage)| (id(name), *stage)).collect(),
            read_only: false,
            pool: PoolName::default(),
            size: None,
        };
        let (one, four, five) = (id("1"), id("4"), id("5"));
        let at = |shard: Shard, to: Option<&ServerId>| at(&shard, &one, to).ok();
        assert_eq!(at(shard(&["1", "2"], &[]), Some(&four)), Some(At::Begin));
        let joining = || shard(&["1", "4", "2"], &[("4", Stage::Joining)]);
        assert_eq!(at(joining(), Some(&four)), Some(At::Joining(four.clone())));
        assert_eq!(at(joining(), None), Some(At::Joining(four.clone())));
        assert_eq!(at(joining(), Some(&five)), None, "another one is at work");
        let joined = || shard(&["1", "4", "2"], &[("4", Stage::Joined)]);
        assert_eq!(at(joined(), Some(&four)), Some(At::Joined(four.clone())));
        assert_eq!(at(joined(), Some(&five)), None);
        assert_eq!(at(shard(&["1", "4", "2"], &[("1", Stage::Leaving)]), Some(&four)), Some(At::Leaving));
        assert_eq!(at(shard(&["1", "4", "2"], &[("1", Stage::Left)]), None), Some(At::Left));
        assert_eq!(at(shard(&["4", "2"], &[]), Some(&four)), Some(At::Gone));
        assert_eq!(at(shard(&["4", "2"], &[]), Some(&five)), None);
        assert_eq!(at(shard(&["1", "2"], &[("1", Stage::Joining)]), Some(&four)), None);
    }
}
