//! What this coordinator knows of the servers from its own requests: uploads in flight, failures, habits.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::RwLock;

use super::placement::Standing;
use crate::{
    client::ServerError,
    daemon::Backoff,
    model::{ClusterMap, ServerId},
};

/// How long a server that failed is asked last. Short at first, for most failures are restarts.
const PAUSE: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(15) };

/// Every server this coordinator has dealt with.
pub struct Fleet {
    started: Instant,
    servers: RwLock<HashMap<ServerId, Arc<State>>>,
}

#[derive(Default)]
struct State {
    in_flight: AtomicUsize,
    failures: AtomicU32,
    /// Milliseconds after `Fleet::started`; 0 when it is not down.
    down_until_ms: AtomicU64,
    was_live: AtomicBool,
    is_live: AtomicBool,
    needs_length: AtomicBool,
}

/// One upload on its way to a server; counted until dropped.
pub struct InFlight(Arc<State>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self { started: Instant::now(), servers: RwLock::default() }
    }
}

impl Fleet {
    fn state(&self, id: &ServerId) -> Arc<State> {
        if let Some(state) = self.servers.read().get(id) {
            return Arc::clone(state);
        }
        Arc::clone(self.servers.write().entry(id.clone()).or_default())
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Takes over who is in the map and who announces itself; servers that left the map are forgotten.
    pub fn follow(&self, map: &ClusterMap) {
        self.servers.write().retain(|id, _| map.servers.contains_key(id));
        for id in map.servers.keys() {
            let live = map.live.contains(id);
            let state = self.state(id);
            if live && !state.is_live.load(Relaxed) {
                // It came back: whatever failed before is over.
                state.failures.store(0, Relaxed);
                state.down_until_ms.store(0, Relaxed);
            }
            state.is_live.store(live, Relaxed);
            state.was_live.fetch_or(live, Relaxed);
        }
    }

    /// Counts an upload on its way to a server.
    pub fn begin(&self, id: &ServerId) -> InFlight {
        let state = self.state(id);
        state.in_flight.fetch_add(1, Relaxed);
        InFlight(state)
    }

    /// A request to the server went well.
    pub fn succeeded(&self, id: &ServerId) {
        let state = self.state(id);
        state.failures.store(0, Relaxed);
        state.down_until_ms.store(0, Relaxed);
    }

    /// A request to the server failed.
    pub fn failed(&self, id: &ServerId, error: &ServerError) {
        let state = self.state(id);
        if *error == ServerError::NeedsLength {
            state.needs_length.store(true, Relaxed);
        }
        if error.is_down() || *error == ServerError::Full {
            let failures = state.failures.fetch_add(1, Relaxed).saturating_add(1);
            let pause = PAUSE.jittered(failures).as_millis() as u64;
            state.down_until_ms.store(self.now_ms() + pause.max(1), Relaxed);
        }
    }

    /// Whether the server failed lately, or is being tried again: one upload finds out, for a server that hangs holds
    /// each up for long.
    pub fn is_down(&self, id: &ServerId) -> bool {
        self.is_state_down(&self.state(id))
    }

    fn is_state_down(&self, state: &State) -> bool {
        let pauses = state.down_until_ms.load(Relaxed) > self.now_ms();
        let is_tried = state.failures.load(Relaxed) > 0 && state.in_flight.load(Relaxed) > 0;
        pauses || is_tried
    }

    /// Whether the server refuses bodies of unknown length.
    pub fn needs_length(&self, id: &ServerId) -> bool {
        self.state(id).needs_length.load(Relaxed)
    }

    /// What placement wants to know, for an upload of known or unknown length.
    pub fn standing(&self, id: &ServerId, length_known: bool) -> Standing {
        let state = self.state(id);
        Standing {
            down: self.is_state_down(&state),
            gone: state.was_live.load(Relaxed) && !state.is_live.load(Relaxed),
            spool: !length_known && state.needs_length.load(Relaxed),
            in_flight: state.in_flight.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Server;

    #[test]
    fn a_failure_counts_against_a_server_until_it_answers_or_comes_back() {
        let fleet = Fleet::default();
        let id: ServerId = "1".parse().unwrap();
        fleet.failed(&id, &ServerError::Missing);
        assert!(!fleet.is_down(&id));
        fleet.failed(&id, &ServerError::Unreachable("refused".into()));
        assert!(fleet.is_down(&id));
        fleet.succeeded(&id);
        assert!(!fleet.is_down(&id));

        let mut map = ClusterMap::default();
        map.servers.insert(id.clone(), Arc::new(Server { id: id.clone(), host: "h".into(), port: 1 }));
        map.live.insert(id.clone());
        fleet.follow(&map);
        map.live.clear();
        fleet.follow(&map);
        assert!(fleet.standing(&id, true).gone);
        fleet.failed(&id, &ServerError::Unreachable("refused".into()));
        map.live.insert(id.clone());
        fleet.follow(&map);
        assert_eq!(fleet.standing(&id, true), Standing::default());
    }

    #[test]
    fn one_upload_tries_a_server_that_failed() {
        let fleet = Fleet::default();
        let id: ServerId = "1".parse().unwrap();
        let first = fleet.begin(&id);
        assert!(!fleet.is_down(&id));
        fleet.failed(&id, &ServerError::Unreachable("refused".into()));
        // The pause is over.
        fleet.state(&id).down_until_ms.store(0, Relaxed);
        assert!(fleet.is_down(&id), "an upload is under way there");
        drop(first);
        assert!(!fleet.is_down(&id), "the next one tries it");
        let second = fleet.begin(&id);
        assert!(fleet.is_down(&id));
        fleet.succeeded(&id);
        assert!(!fleet.is_down(&id));
        drop(second);
    }

    #[test]
    fn uploads_in_flight_are_counted_until_dropped() {
        let fleet = Fleet::default();
        let id: ServerId = "1".parse().unwrap();
        let first = fleet.begin(&id);
        let second = fleet.begin(&id);
        assert_eq!(fleet.standing(&id, true).in_flight, 2);
        drop((first, second));
        assert_eq!(fleet.standing(&id, true).in_flight, 0);
    }
}
