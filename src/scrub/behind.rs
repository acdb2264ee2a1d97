//! Servers that are so far behind that no more tasks are kept for them: `/behind-<server>` in the map store says that the server needs
//! a comparison, in place of tasks without end.
//!
//! Whoever leaves a task out must know that the mark stands. So a coordinator asks for it, and leaves tasks out for
//! [`LEAVE_OUT_FOR`] from before it asked and no longer. A comparison that is to take the mark away first says so in it: from
//! then on nobody takes it for standing. It waits until those who asked before put tasks on the queue again, and only then looks at what
//! the servers hold. If it does not come to its end, the mark is still there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    cluster::{
        MapStore,
        edit::{self, EditError},
    },
    model::ServerId,
};

/// So long tasks may be left out after the mark was asked for. Twice what lies between two looks at the queue.
pub const LEAVE_OUT_FOR: Duration = Duration::from_secs(10);
/// So long a comparison waits after it has said that it will take the mark away: clocks of one machine run alike, and uploads that
/// decided just before are stored long before they decide.
pub(super) const SETTLES_IN: Duration = Duration::from_secs(15);

/// Of a server that is being compared tasks are kept up to so many times what they are else.
const FAR: u64 = 2;
/// A server with fewer tasks than this has caught up, however many are kept.
const CAUGHT_UP: u64 = 10_000;

/// Whether a server is behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Behind {
    /// Since when, milliseconds since 1970; 0: it is not.
    pub since_ms: u64,
    /// The comparison that is to take the mark away.
    pub closing: Option<String>,
    /// With so many tasks and more it is behind.
    pub most: u64,
}

/// Where the mark of a server stands.
pub(super) fn path(server: &ServerId) -> String {
    format!("/behind-{server}")
}

impl Behind {
    /// Whether it is.
    pub fn is_behind(&self) -> bool {
        self.since_ms > 0
    }

    /// Whether a comparison is of use: with more tasks than this the mark would be made again meanwhile.
    pub(super) fn has_caught_up(&self, backlog: u64) -> bool {
        backlog < self.most.min(CAUGHT_UP)
    }

    /// Sees to it that a server with `backlog` tasks, `most` or more, is marked. If so, tasks may be left out for
    /// [`LEAVE_OUT_FOR`] from when this was called. A mark that is being taken away is made again only with twice the tasks, for
    /// that comparison is then for nothing.
    pub async fn mark(
        store: &dyn MapStore,
        server: &ServerId,
        backlog: u64,
        most: u64,
        now_ms: u64,
    ) -> Result<bool, EditError> {
        let mark = |behind: &mut Self| {
            if behind.closing.is_some() && backlog / FAR < most {
                return false;
            }
            let since_ms = if behind.is_behind() { behind.since_ms } else { now_ms };
            *behind = Self { since_ms, closing: None, most };
            true
        };
        edit::update(store, &path(server), mark).await
    }

    /// Says that a comparison is to take the mark away; whether there is one.
    pub(super) async fn close(store: &dyn MapStore, server: &ServerId, by: &str) -> Result<bool, EditError> {
        let close = |behind: &mut Self| {
            if behind.is_behind() {
                behind.closing = Some(by.to_owned());
            }
            behind.is_behind()
        };
        edit::update(store, &path(server), close).await
    }

    /// Takes the mark away, unless it was made again since.
    pub(super) async fn end(store: &dyn MapStore, server: &ServerId, by: &str) -> Result<(), EditError> {
        let end = |behind: &mut Self| {
            if behind.closing.as_deref() == Some(by) {
                *behind = Self::default();
            }
        };
        edit::update(store, &path(server), end).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{StoreOptions, connect};

    #[tokio::test]
    async fn a_mark_made_again_while_it_is_taken_away_stays() {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("embedded:{}", dir.path().display());
        let store = connect(&address, "/backpack", &StoreOptions::default()).unwrap();
        store.init().await.unwrap();
        let server = "4".parse().unwrap();
        let read = async || -> Behind {
            let entry = store.get(&path(&server)).await.unwrap();
            entry.map(|entry| serde_json::from_slice(&entry.data).unwrap()).unwrap_or_default()
        };
        assert!(!Behind::close(&*store, &server, "a").await.unwrap());
        let mark = async |backlog, now_ms| Behind::mark(&*store, &server, backlog, 10, now_ms).await.unwrap();
        assert!(mark(10, 7).await);
        assert!(mark(19, 9).await);
        assert_eq!(read().await, Behind { since_ms: 7, closing: None, most: 10 });
        assert!(Behind::close(&*store, &server, "a").await.unwrap());
        Behind::end(&*store, &server, "b").await.unwrap();
        assert!(read().await.is_behind(), "another comparison's");
        assert!(!mark(19, 11).await, "it is being taken away");
        assert!(mark(20, 11).await);
        Behind::end(&*store, &server, "a").await.unwrap();
        assert!(read().await.is_behind(), "tasks may have been left out since");
        Behind::close(&*store, &server, "a").await.unwrap();
        Behind::end(&*store, &server, "a").await.unwrap();
        assert_eq!(read().await, Behind::default());
    }
}
