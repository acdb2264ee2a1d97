//! What this coordinator knows of the servers from its own requests: requests in flight, failures, how fast they answer,
//! habits. Reads and writes are told apart: a disk that takes no writes may still be read, and the other way round.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};

use super::{pace::Pace, placement::Standing};
use crate::{
    client::ServerError,
    daemon::Backoff,
    model::{ClusterMap, ServerId},
};

/// How long a server that failed is asked last. Short at first, for most failures are restarts.
const PAUSE: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(15) };

/// So many reads in a row, overtaken by another server each, make a server count as failed: one or two are the chance
/// of a disk that had to seek.
const OVERTAKEN_IN_A_ROW: u32 = 3;

/// What a server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// GET and HEAD.
    Read,
    /// PUT and DELETE.
    Write,
}

/// Every server this coordinator has dealt with.
pub struct Fleet {
    started: Instant,
    servers: RwLock<HashMap<ServerId, Arc<State>>>,
}

#[derive(Default)]
struct State {
    read: Record,
    write: Record,
    pace: Mutex<Pace>,
    was_live: AtomicBool,
    is_live: AtomicBool,
    needs_length: AtomicBool,
}

/// How a server did, in one respect.
#[derive(Default)]
struct Record {
    in_flight: AtomicUsize,
    failures: AtomicU32,
    overtaken: AtomicU32,
    /// Milliseconds after `Fleet::started`; 0 when it is not down.
    down_until_ms: AtomicU64,
}

impl Record {
    fn worked(&self) {
        self.failures.store(0, Relaxed);
        self.overtaken.store(0, Relaxed);
        self.down_until_ms.store(0, Relaxed);
    }

    fn failed(&self, now_ms: u64) {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        let pause = PAUSE.jittered(failures).as_millis() as u64;
        self.down_until_ms.store(now_ms + pause.max(1), Relaxed);
    }

    fn is_down(&self, now_ms: u64) -> bool {
        let pauses = self.down_until_ms.load(Relaxed) > now_ms;
        let is_tried = self.failures.load(Relaxed) > 0 && self.in_flight.load(Relaxed) > 0;
        pauses || is_tried
    }
}

impl State {
    fn record(&self, door: Door) -> &Record {
        match door {
            Door::Read => &self.read,
            Door::Write => &self.write,
        }
    }
}

/// One request on its way to a server; counted until dropped.
pub struct InFlight {
    state: Arc<State>,
    door: Door,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.record(self.door).in_flight.fetch_sub(1, Relaxed);
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
                state.read.worked();
                state.write.worked();
            }
            state.is_live.store(live, Relaxed);
            state.was_live.fetch_or(live, Relaxed);
        }
    }

    /// Counts a request on its way to a server.
    pub fn begin(&self, id: &ServerId, door: Door) -> InFlight {
        let state = self.state(id);
        state.record(door).in_flight.fetch_add(1, Relaxed);
        InFlight { state, door }
    }

    /// A request to the server went well.
    pub fn succeeded(&self, id: &ServerId, door: Door) {
        self.state(id).record(door).worked();
    }

    /// The server stored a blob, so long after it had all of it.
    pub fn stored_within(&self, id: &ServerId, took: Duration) {
        self.state(id).pace.lock().note(took, Instant::now());
    }

    /// A request to the server failed.
    pub fn failed(&self, id: &ServerId, door: Door, error: &ServerError) {
        let state = self.state(id);
        if *error == ServerError::NeedsLength {
            state.needs_length.store(true, Relaxed);
        }
        if error.is_down() || *error == ServerError::Full {
            state.record(door).failed(self.now_ms());
        }
        if let ServerError::Unreachable(_) = error {
            // Nobody is there at all.
            let other = if door == Door::Read { Door::Write } else { Door::Read };
            state.record(other).failed(self.now_ms());
        }
    }

    /// Another server answered a read that this one was asked for earlier. Whether it is left alone for that.
    pub fn overtaken(&self, id: &ServerId) -> bool {
        let state = self.state(id);
        let in_a_row = state.read.overtaken.fetch_add(1, Relaxed).saturating_add(1);
        // One that failed already is being tried: once is enough.
        let is_slow = in_a_row >= OVERTAKEN_IN_A_ROW || state.read.failures.load(Relaxed) > 0;
        if is_slow {
            state.read.failed(self.now_ms());
        }
        is_slow
    }

    /// Whether the server failed lately, or is being tried again: one request finds out, for a server that hangs holds
    /// each up for long.
    pub fn is_down(&self, id: &ServerId, door: Door) -> bool {
        self.state(id).record(door).is_down(self.now_ms())
    }

    /// Whether the server refuses bodies of unknown length.
    pub fn needs_length(&self, id: &ServerId) -> bool {
        self.state(id).needs_length.load(Relaxed)
    }

    /// What placement wants to know of a server that is to be read.
    pub fn standing_for_read(&self, id: &ServerId) -> Standing {
        self.standing(id, Door::Read)
    }

    /// What placement wants to know, for an upload of known or unknown length, or a delete.
    pub fn standing_for_write(&self, id: &ServerId, length_known: bool) -> Standing {
        let state = self.state(id);
        Standing {
            spool: !length_known && state.needs_length.load(Relaxed),
            answers_within: state.pace.lock().now(Instant::now()),
            ..self.standing(id, Door::Write)
        }
    }

    fn standing(&self, id: &ServerId, door: Door) -> Standing {
        let state = self.state(id);
        let record = state.record(door);
        Standing {
            down: record.is_down(self.now_ms()),
            gone: state.was_live.load(Relaxed) && !state.is_live.load(Relaxed),
            in_flight: record.in_flight.load(Relaxed),
            ..Standing::default()
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
        fleet.failed(&id, Door::Write, &ServerError::Missing);
        assert!(!fleet.is_down(&id, Door::Write));
        fleet.failed(&id, Door::Write, &ServerError::Unreachable("refused".into()));
        assert!(fleet.is_down(&id, Door::Write));
        fleet.succeeded(&id, Door::Write);
        assert!(!fleet.is_down(&id, Door::Write));

        let mut map = ClusterMap::default();
        map.servers.insert(id.clone(), Arc::new(Server { id: id.clone(), host: "h".into(), port: 1 }));
        map.live.insert(id.clone());
        fleet.follow(&map);
        map.live.clear();
        fleet.follow(&map);
        assert!(fleet.standing_for_write(&id, true).gone);
        fleet.failed(&id, Door::Write, &ServerError::Unreachable("refused".into()));
        map.live.insert(id.clone());
        fleet.follow(&map);
        assert_eq!(fleet.standing_for_write(&id, true), Standing::default());
    }

    #[test]
    fn one_upload_tries_a_server_that_failed() {
        let fleet = Fleet::default();
        let id: ServerId = "1".parse().unwrap();
        let first = fleet.begin(&id, Door::Write);
        assert!(!fleet.is_down(&id, Door::Write));
        fleet.failed(&id, Door::Write, &ServerError::Unreachable("refused".into()));
        // The pause is over.
        fleet.state(&id).write.down_until_ms.store(0, Relaxed);
        assert!(fleet.is_down(&id, Door::Write), "an upload is under way there");
        drop(first);
        assert!(!fleet.is_down(&id, Door::Write), "the next one tries it");
        let second = fleet.begin(&id, Door::Write);
        assert!(fleet.is_down(&id, Door::Write));
        fleet.succeeded(&id, Door::Write);
        assert!(!fleet.is_down(&id, Door::Write));
        drop(second);
    }

    #[test]
    fn uploads_in_flight_are_counted_until_dropped() {
        let fleet = Fleet::default();
        let id: ServerId = "1".parse().unwrap();
        let first = fleet.begin(&id, Door::Write);
        let second = fleet.begin(&id, Door::Write);
        assert_eq!(fleet.standing_for_write(&id, true).in_flight, 2);
        drop((first, second));
        assert_eq!(fleet.standing_for_write(&id, true).in_flight, 0);
    }

    #[test]
    fn reads_and_writes_are_told_apart_but_for_a_server_that_is_not_there() {
        let fleet = Fleet::default();
        let id: ServerId = "1".parse().unwrap();
        fleet.failed(&id, Door::Write, &ServerError::Stalled(Duration::from_secs(1)));
        assert!(fleet.is_down(&id, Door::Write));
        assert!(!fleet.is_down(&id, Door::Read));
        fleet.succeeded(&id, Door::Read);
        assert!(fleet.is_down(&id, Door::Write), "that it is read says nothing of its writes");
        fleet.succeeded(&id, Door::Write);
        fleet.failed(&id, Door::Write, &ServerError::Unreachable("refused".into()));
        assert!(fleet.is_down(&id, Door::Read));
    }

    #[test]
    fn reads_overtaken_in_a_row_count_as_a_failure() {
        let fleet = Fleet::default();
        let id: ServerId = "1".parse().unwrap();
        assert!(!fleet.overtaken(&id));
        assert!(!fleet.overtaken(&id));
        fleet.succeeded(&id, Door::Read);
        assert!(!fleet.overtaken(&id));
        assert!(!fleet.overtaken(&id));
        assert!(!fleet.is_down(&id, Door::Read));
        assert!(fleet.overtaken(&id));
        assert!(fleet.is_down(&id, Door::Read));
        assert!(fleet.overtaken(&id), "the one read that tries it again is enough");
        fleet.succeeded(&id, Door::Read);
        assert!(!fleet.overtaken(&id));
    }
}
