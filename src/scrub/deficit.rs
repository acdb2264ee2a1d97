//! The redundancy deficit: how many copies are missing, since when, and what of that nobody can know. From facts alone: the tasks on
//! the queue, and what the last comparison of each shard saw or could not see.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;

use super::{
    Behind, QueueSeen, Record, behind,
    many::{all, read},
    queue_seen, record,
    storages::{self, Storages},
};
use crate::{
    client::Servers,
    cluster::{MapStore, StoreError},
    http::RequestId,
    model::{ClusterMap, Server, ServerId, Shard, ShardId},
    queue::{QueueStats, TargetStats},
};

/// For a server to say what it knows of damage. One that hangs holds nobody up.
const ASKED_WITHIN: Duration = Duration::from_secs(3);

/// What is known of all comparisons.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    records: BTreeMap<ShardId, Record>,
    queue: QueueSeen,
    behind: BTreeSet<ServerId>,
    storages: Storages,
    damaged: BTreeMap<ServerId, u64>,
}

/// What is missing in a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Deficit {
    /// Copies and deletes that servers lack and that wait to be made; `None` while the queue does not answer.
    pub missing: Option<u64>,
    /// Those that were given up.
    pub given_up: Option<u64>,
    /// Since when the oldest of those that wait is missing, milliseconds since 1970.
    pub oldest_ms: Option<u64>,
    /// Why more may be missing than that; empty: all is known.
    pub unsure: Vec<String>,
}

impl Deficit {
    /// All that servers lack: what waits, and what was given up. `None` while the queue does not answer.
    pub fn lacking(&self) -> Option<u64> {
        Some(self.missing? + self.given_up?)
    }
}

impl Known {
    /// Reads what is known of the shards of a map.
    pub async fn read(store: &dyn MapStore, map: &ClusterMap) -> Result<Self, StoreError> {
        let queue = read(store, queue_seen::PATH).await?;
        let records = all(map.shards.keys().map(|shard| {
            let (shard, path) = (shard.clone(), record::path(shard));
            async move { Ok::<_, StoreError>((shard, read(store, &path).await?)) }
        }));
        let records = records.await.into_iter().collect::<Result<_, _>>()?;
        let marks = all(map.servers.keys().map(|server| {
            let (server, path) = (server.clone(), behind::path(server));
            async move { Ok::<_, StoreError>((server, read::<Behind>(store, &path).await?)) }
        }));
        let marks: BTreeMap<_, _> = marks.await.into_iter().collect::<Result<_, _>>()?;
        let behind = marks.into_iter().filter(|(_, mark)| mark.is_behind()).map(|(id, _)| id).collect();
        let storages = storages::read(store, map.servers.keys()).await?;
        Ok(Self { records, queue, behind, storages, damaged: BTreeMap::new() })
    }

    /// Takes over how many damaged blobs servers know of that were not replaced yet.
    pub fn with_damaged(self, damaged: BTreeMap<ServerId, u64>) -> Self {
        Self { damaged, ..self }
    }

    /// All shards of a map were just compared, whole.
    #[cfg(test)]
    pub(crate) fn all_compared(map: &ClusterMap) -> Self {
        let compared = |shard: &Arc<Shard>| {
            let mut last = super::Last::default();
            last.found.who.compared = shard.servers.iter().cloned().collect();
            (shard.id.clone(), Record { last: Some(last), ..Record::default() })
        };
        Self { records: map.shards.values().map(compared).collect(), ..Self::default() }
    }

    /// What is missing in a shard. `queue` is `None` while it does not answer.
    pub fn deficit(&self, shard: &Shard, queue: Option<&QueueStats>) -> Deficit {
        let targets = |queue: &QueueStats| -> Vec<TargetStats> {
            shard.servers.iter().filter_map(|id| queue.targets.get(id)).cloned().collect()
        };
        let targets = queue.map(targets);
        let sum = |of: fn(&TargetStats) -> u64| targets.as_ref().map(|targets| targets.iter().map(of).sum());
        Deficit {
            missing: sum(TargetStats::backlog),
            given_up: sum(|target| target.dead),
            oldest_ms: targets.iter().flatten().filter_map(|target| target.oldest_ms).min(),
            unsure: self.unsure(shard, queue.is_some()),
        }
    }

    fn unsure(&self, shard: &Shard, queue_answers: bool) -> Vec<String> {
        let mut unsure = Vec::new();
        if !queue_answers {
            unsure.push("the queue does not answer".to_owned());
        }
        let damaged = shard.servers.iter().filter_map(|id| Some((id, *self.damaged.get(id)?)));
        let damaged = damaged.filter(|(_, count)| *count > 0);
        unsure.extend(damaged.map(|(id, count)| format!("server {id} knows of damaged blobs ({count})")));
        if shard.servers.len() < 2 {
            return unsure;
        }
        let behind = shard.servers.iter().filter(|id| self.behind.contains(*id));
        unsure.extend(behind.map(|id| format!("tasks for server {id} are left out until it is compared")));
        let Some(last) = self.records.get(&shard.id).and_then(|record| record.last.as_ref()) else {
            unsure.push("its servers were never compared".to_owned());
            return unsure;
        };
        if self.queue.lost_ms > last.began_ms {
            unsure.push("the queue lost what it held, and its servers were not compared since".to_owned());
        }
        let who = &last.found.who;
        for id in &shard.servers {
            if shard.is_joining(id) {
                unsure.push(format!("server {id} is being filled"));
            } else if let Some(why) = who.left_out.get(id) {
                unsure.push(format!("server {id} was not compared: it {why}"));
            } else if !who.compared.contains(id) && !who.asked.contains(id) {
                unsure.push(format!("server {id} was not compared yet"));
            } else if last.storages.get(id).is_some_and(|then| self.storages.get(id) != Some(then)) {
                unsure.push(format!("server {id} has another storage since it was compared"));
            }
        }
        if last.found.conflicts > 0 {
            unsure.push(format!("{} keys have different bytes of one version", last.found.conflicts));
        }
        unsure
    }
}

/// How many damaged blobs each server knows of that announces itself and answers.
pub async fn damaged(servers: &Servers, map: &ClusterMap) -> BTreeMap<ServerId, u64> {
    let id = RequestId::fresh();
    let live = map.servers.values().filter(|server| map.live.contains(&server.id));
    let ask = |server: &Arc<Server>| {
        let (server, id) = (server.clone(), id.clone());
        async move {
            let stats = tokio::time::timeout(ASKED_WITHIN, servers.stats(&server, &id)).await.ok()?.ok()?;
            Some((server.id.clone(), stats.get("damaged")?.as_u64()?))
        }
    };
    all(live.map(ask)).await.into_iter().flatten().collect()
}

/// What is missing in each shard of a map.
pub fn deficits(known: &Known, map: &ClusterMap, queue: Option<&QueueStats>) -> BTreeMap<ShardId, Deficit> {
    let of = |shard: &Arc<Shard>| (shard.id.clone(), known.deficit(shard, queue));
    map.shards.values().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::PoolName,
        scrub::{Found, Last, Who},
    };

    fn shard(servers: &[&str]) -> Shard {
        Shard {
            id: "s".parse().unwrap(),
            servers: servers.iter().map(|id| id.parse().unwrap()).collect(),
            stages: Default::default(),
            read_only: false,
            pool: PoolName::default(),
            size: None,
        }
    }

    fn known(compared: &[&str], lost_ms: u64) -> Known {
        let who = Who { compared: compared.iter().map(|id| id.parse().unwrap()).collect(), ..Who::default() };
        let last = Last {
            began_ms: 100,
            ended_ms: 110,
            found: Found { who, ..Found::default() },
            ..Last::default()
        };
        let record = Record { last: Some(last), ..Record::default() };
        Known {
            records: [("s".parse().unwrap(), record)].into(),
            queue: QueueSeen { lost_ms, ..QueueSeen::default() },
            ..Known::default()
        }
    }

    #[test]
    fn what_waits_for_the_shards_servers_is_missing() {
        let target =
            |ready, dead, oldest_ms| TargetStats { ready, dead, oldest_ms, ..TargetStats::default() };
        let targets =
            [("1", target(3, 0, Some(7))), ("2", target(4, 1, Some(5))), ("9", target(50, 50, Some(1)))];
        let queue = QueueStats {
            targets: targets.map(|(id, target)| (id.parse().unwrap(), target)).into(),
            ..QueueStats::default()
        };
        let deficit = known(&["1", "2"], 0).deficit(&shard(&["1", "2"]), Some(&queue));
        let expected = Deficit { missing: Some(7), given_up: Some(1), oldest_ms: Some(5), unsure: vec![] };
        assert_eq!(deficit, expected);
    }

    #[test]
    fn what_nobody_can_know_is_said() {
        let queue = QueueStats::default();
        let unsure = |known: &Known, servers: &[&str]| known.deficit(&shard(servers), Some(&queue)).unsure;
        assert!(unsure(&known(&["1", "2"], 100), &["1", "2"]).is_empty());
        assert!(unsure(&Known::default(), &["1"]).is_empty(), "there is only one copy");
        assert_eq!(unsure(&Known::default(), &["1", "2"]), ["its servers were never compared"]);
        assert!(unsure(&known(&["1", "2"], 101), &["1", "2"])[0].starts_with("the queue lost what it held"));
        assert_eq!(unsure(&known(&["1"], 0), &["1", "2"]), ["server 2 was not compared yet"]);
        let behind = Known { behind: ["2".parse().unwrap()].into(), ..known(&["1", "2"], 0) };
        assert_eq!(unsure(&behind, &["1", "2"]), ["tasks for server 2 are left out until it is compared"]);
        let other = |now: &str| {
            let mut known = known(&["1", "2"], 0);
            let last = known.records.values_mut().next().unwrap().last.as_mut().unwrap();
            last.storages = [("2".parse().unwrap(), "a".to_owned())].into();
            known.storages = ["1", "2"].map(|id| (id.parse().unwrap(), now.to_owned())).into();
            known
        };
        assert!(unsure(&other("a"), &["1", "2"]).is_empty());
        assert_eq!(unsure(&other("b"), &["1", "2"]), ["server 2 has another storage since it was compared"]);
        let damaged = known(&["1", "2"], 0).with_damaged([("2".parse().unwrap(), 3)].into());
        assert_eq!(unsure(&damaged, &["1", "2"]), ["server 2 knows of damaged blobs (3)"]);
        let mended = damaged.with_damaged([("2".parse().unwrap(), 0)].into());
        assert!(unsure(&mended, &["1", "2"]).is_empty());
        let without = known(&["1", "2"], 0).deficit(&shard(&["1", "2"]), None);
        assert_eq!((without.missing, without.unsure.len()), (None, 1));
    }
}
