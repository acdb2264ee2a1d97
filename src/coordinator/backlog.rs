//! Servers that are so far behind that no more tasks are kept for them: a mark in the map store says instead that they are to be
//! compared. So no upload adds to a list without end.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use parking_lot::RwLock;
use tokio::time::timeout;

use crate::{
    cluster::MapStore,
    daemon::unix_ms,
    model::{ClusterMap, ServerId, Task},
    queue::QueueStats,
    scrub::{Behind, LEAVE_OUT_FOR},
};

/// While the map store is away, tasks are kept on, and the look at the queue is not held up.
const MARK_WITHIN: Duration = Duration::from_secs(2);
/// Between the decision to leave a task out and the answer to the client nothing waits.
const MARGIN: Duration = Duration::from_secs(1);

/// Until when tasks of a server may be left out.
#[derive(Default)]
pub(super) struct Backlogs(RwLock<HashMap<ServerId, Instant>>);

impl Backlogs {
    /// Marks servers that have that many tasks or more.
    pub(super) async fn see(&self, stats: &QueueStats, most: u64, store: &dyn MapStore) {
        let behind = stats.targets.iter().filter(|(_, target)| target.backlog() >= most);
        join_all(behind.map(|(id, target)| self.mark(id, target.backlog(), most, store))).await;
        let has_many = |id: &ServerId| stats.targets.get(id).is_some_and(|target| target.backlog() >= most);
        self.0.write().retain(|id, _| has_many(id));
    }

    async fn mark(&self, id: &ServerId, backlog: u64, most: u64, store: &dyn MapStore) {
        let asked = Instant::now();
        let mark = Behind::mark(store, id, backlog, most, unix_ms());
        let marked = timeout(MARK_WITHIN, mark).await.map_err(|_| "no answer".to_owned());
        match marked.and_then(|marked| marked.map_err(|error| error.to_string())) {
            Ok(false) => drop(self.0.write().remove(id)),
            Ok(true) => {
                if self.0.write().insert(id.clone(), asked + LEAVE_OUT_FOR).is_none() {
                    tracing::warn!(server = %id, most, "a server is far behind: instead of more tasks it gets a comparison");
                }
            }
            Err(error) => {
                tracing::warn!(server = %id, error, "a server that is far behind could not be marked")
            }
        }
    }

    /// Whether a task may be left out: its target is marked, and a comparison will find what it lacks, for one of the
    /// `holders` is a node of ours that announces itself.
    pub(super) fn leaves_out(&self, task: &Task, holders: &[ServerId], map: &ClusterMap) -> bool {
        let until = self.0.read().get(&task.to).copied();
        // With a margin for what is still to be done.
        let is_marked = until.is_some_and(|until| Instant::now() + MARGIN < until);
        is_marked && holders.iter().any(|holder| map.live.contains(holder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::{StoreOptions, connect},
        model::{Operation, Version},
        queue::TargetStats,
    };

    #[tokio::test]
    async fn tasks_are_left_out_only_for_marked_servers_and_if_a_node_of_ours_has_the_blob() {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("embedded:{}", dir.path().display());
        let store = connect(&address, "/backpack", &StoreOptions::default()).unwrap();
        store.init().await.unwrap();
        let id = |id: &str| id.parse::<ServerId>().unwrap();
        let stats = |ready| QueueStats {
            targets: [(id("4"), TargetStats { ready, ..TargetStats::default() })].into(),
            ..QueueStats::default()
        };
        let task = |to| Task {
            op: Operation::Copy,
            shard: None,
            key: "k".parse().unwrap(),
            version: Some(Version::from_parts(1, 1)),
            from: vec![],
            to: id(to),
            length: 0,
            created_ms: 0,
            request_id: String::new(),
        };
        let map = ClusterMap { live: [id("1")].into(), ..ClusterMap::default() };
        let backlogs = Backlogs::default();
        backlogs.see(&stats(9), 10, &*store).await;
        assert!(!backlogs.leaves_out(&task("4"), &[id("1")], &map));
        assert!(store.get("/behind-4").await.unwrap().is_none());
        backlogs.see(&stats(10), 10, &*store).await;
        assert!(store.get("/behind-4").await.unwrap().is_some());
        assert!(backlogs.leaves_out(&task("4"), &[id("2"), id("1")], &map));
        assert!(!backlogs.leaves_out(&task("4"), &[id("2")], &map), "it cannot list what it holds");
        assert!(!backlogs.leaves_out(&task("5"), &[id("1")], &map));
        backlogs.see(&stats(9), 10, &*store).await;
        assert!(!backlogs.leaves_out(&task("4"), &[id("1")], &map), "it has caught up");
    }
}
