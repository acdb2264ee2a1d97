//! Where a task's blob may be read, the best source first. Pure.

use std::sync::Arc;

use crate::model::{ClusterMap, Server, ServerId, Task};

/// The servers that had it when the task was made, then the other servers of its shard; among each, those that
/// announce themselves first. Never the target; servers that are not in the map are left out.
pub(super) fn sources(task: &Task, map: &ClusterMap) -> Vec<Arc<Server>> {
    let shard = task.shard.as_ref().and_then(|shard| map.shards.get(shard));
    let others = shard.map(|shard| shard.servers.as_slice()).unwrap_or_default();
    let mut ids: Vec<&ServerId> = Vec::new();
    for group in [task.from.as_slice(), others] {
        let start = ids.len();
        for id in group {
            if *id != task.to && !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids[start..].sort_by_key(|id| !map.live.contains(*id));
    }
    ids.into_iter().filter_map(|id| map.servers.get(id).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Operation, PoolName, Shard};

    fn map(live: &[&str]) -> ClusterMap {
        let server = |id: &str| Server { id: id.parse().unwrap(), host: "h".into(), port: 1 };
        let servers = ["1", "2", "3", "4"].map(|id| (id.parse().unwrap(), Arc::new(server(id))));
        let shard = Shard {
            id: "s".parse().unwrap(),
            servers: ["1", "2", "3", "gone", "4"].map(|id| id.parse().unwrap()).into(),
            stages: Default::default(),
            read_only: false,
            pool: PoolName::default(),
            size: None,
        };
        ClusterMap {
            servers: servers.into(),
            shards: [(shard.id.clone(), Arc::new(shard))].into(),
            live: live.iter().map(|id| id.parse().unwrap()).collect(),
            ..ClusterMap::default()
        }
    }

    fn of(shard: Option<&str>, from: &[&str], map: &ClusterMap) -> Vec<String> {
        let task = Task {
            op: Operation::Copy,
            shard: shard.map(|shard| shard.parse().unwrap()),
            key: "k".parse().unwrap(),
            version: None,
            from: from.iter().map(|id| id.parse().unwrap()).collect(),
            to: "4".parse().unwrap(),
            length: 0,
            created_ms: 0,
            request_id: String::new(),
        };
        sources(&task, map).iter().map(|server| server.id.to_string()).collect()
    }

    #[test]
    fn those_named_first_then_the_shard_and_never_the_target() {
        assert_eq!(of(Some("s"), &["2"], &map(&[])), ["2", "1", "3"]);
        assert_eq!(of(Some("s"), &["4", "gone", "2", "2"], &map(&[])), ["2", "1", "3"]);
        assert_eq!(of(Some("none"), &["2"], &map(&[])), ["2"]);
        assert_eq!(of(None, &["3", "1"], &map(&[])), ["3", "1"]);
        assert!(of(None, &["gone"], &map(&[])).is_empty());
    }

    #[test]
    fn live_servers_come_first_within_their_group() {
        assert_eq!(of(Some("s"), &["2"], &map(&["3"])), ["2", "3", "1"]);
        assert_eq!(of(Some("s"), &["1", "2"], &map(&["2", "3"])), ["2", "1", "3"]);
    }
}
