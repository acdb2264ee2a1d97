//! Follows the store and holds the current map, for every role of a process.
//!
//! Hints say what to read; what was read replaces the part of the map it is about. While the store is away the last map is
//! served. A document that makes no sense changes nothing: the last good one stays in force.
//!
//! - [`View`]: what roles hold; `build`: documents become a map; `follow`: the task that reads them

mod build;
mod follow;

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{MapStore, view::follow::Follower};
use crate::{daemon::Shutdown, model::ClusterMap};

/// How current the map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewState {
    /// Nothing was read yet: the map is empty.
    NeverLoaded,
    /// As the store says.
    Fresh,
    /// The store is not reached: the map may be old.
    Stale {
        /// Since when.
        since: Instant,
    },
}

/// The current map. Clones are the same view.
#[derive(Clone)]
pub struct View {
    shared: Arc<Shared>,
}

struct Shared {
    current: ArcSwap<ClusterMap>,
    changes: watch::Sender<Arc<ClusterMap>>,
    state: watch::Sender<ViewState>,
}

impl View {
    /// Starts to follow the store, until the shutdown begins; the last map stays.
    pub fn start(store: Arc<dyn MapStore>, shutdown: Shutdown) -> Self {
        let empty = Arc::new(ClusterMap::default());
        let shared = Arc::new(Shared {
            current: ArcSwap::new(empty.clone()),
            changes: watch::Sender::new(empty),
            state: watch::Sender::new(ViewState::NeverLoaded),
        });
        tokio::spawn(Follower::new(store, shared.clone()).run(shutdown));
        Self { shared }
    }

    /// The map as it is now. Costs no lock.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.shared.current.load_full()
    }

    /// Gets each new map.
    pub fn changes(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.shared.changes.subscribe()
    }

    /// How current the map is.
    pub fn state(&self) -> ViewState {
        *self.shared.state.borrow()
    }

    /// Waits until the map was read for the first time: for ever where the store never answers, so wait for the shutdown
    /// beside it.
    pub async fn loaded(&self) {
        // The sender lives as long as this view.
        let _ = self.shared.state.subscribe().wait_for(|state| *state != ViewState::NeverLoaded).await;
    }
}

impl Shared {
    /// Gives out a map, if it is another one.
    fn publish(&self, map: &ClusterMap) {
        if **self.current.load() == *map {
            return;
        }
        let map = Arc::new(map.clone());
        self.current.store(map.clone());
        self.changes.send_replace(map);
    }

    /// The map is as the store says.
    fn fresh(&self) {
        self.state.send_if_modified(|state| std::mem::replace(state, ViewState::Fresh) != ViewState::Fresh);
    }

    /// The store is not reached. Keeps the moment of the first failure.
    fn stale(&self) {
        self.state.send_if_modified(|state| {
            let was_fresh = *state == ViewState::Fresh;
            if was_fresh {
                *state = ViewState::Stale { since: Instant::now() };
            }
            was_fresh
        });
    }
}
