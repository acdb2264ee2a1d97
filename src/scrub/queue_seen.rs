//! Whether the queue lost what it held: `/queue-seen` in the map store remembers the name that each of its servers had.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ScrubError;
use crate::{
    cluster::{MapStore, edit},
    daemon::unix_ms,
    queue::QueueStats,
};

pub(super) const PATH: &str = "/queue-seen";

/// What was seen of the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueSeen {
    /// The name of each of its servers.
    pub ids: BTreeMap<String, String>,
    /// When it was last seen that one had lost what it held, milliseconds since 1970; 0: never. Shards that were not compared
    /// since may lack copies that nobody knows of.
    pub lost_ms: u64,
}

impl QueueSeen {
    fn see(&mut self, stats: &QueueStats, now_ms: u64) {
        for server in &stats.servers {
            let Some(id) = &server.id else { continue };
            let before = self.ids.insert(server.name.clone(), id.clone());
            if before.is_some_and(|before| before != *id) {
                tracing::warn!(
                    server = server.name,
                    "a server of the queue lost what it held: all shards are compared"
                );
                self.lost_ms = now_ms;
            }
        }
    }

    /// What was seen, and is remembered of it, now.
    pub(super) async fn update(store: &dyn MapStore, stats: &QueueStats) -> Result<Self, ScrubError> {
        let now_ms = unix_ms();
        let update = |seen: &mut Self| {
            seen.see(stats, now_ms);
            seen.clone()
        };
        Ok(edit::update(store, PATH, update).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::QueueServerStats;

    #[test]
    fn another_name_says_that_it_was_emptied() {
        let stats = |ids: &[(&str, Option<&str>)]| QueueStats {
            servers: ids
                .iter()
                .map(|(name, id)| QueueServerStats {
                    name: (*name).to_owned(),
                    id: id.map(str::to_owned),
                    error: None,
                    entries: 0,
                })
                .collect(),
            ..QueueStats::default()
        };
        let mut seen = QueueSeen::default();
        for (ids, lost_ms) in [
            ([("a", Some("1")), ("b", Some("2"))], 0),
            ([("a", Some("1")), ("b", None)], 0),
            ([("a", Some("1")), ("b", Some("2"))], 0),
            ([("a", Some("3")), ("b", Some("2"))], 40),
            ([("a", Some("3")), ("c", Some("4"))], 40),
        ] {
            let now_ms = if lost_ms > 0 && seen.lost_ms == 0 { lost_ms } else { 99 };
            seen.see(&stats(&ids), now_ms);
            assert_eq!(seen.lost_ms, lost_ms, "{ids:?}");
        }
    }
}
