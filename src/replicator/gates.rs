//! The breakers of all servers. A server is judged apart as a target, as a source and for its room: one that is full
//! still takes deletes, one that takes no writes may still be read.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    breaker::{Admission, Breaker, State},
    metrics,
};
use crate::{
    daemon::Backoff,
    model::{ClusterMap, ServerId},
};

/// Failures in a row that make a server count as down. One may be a restart, two a coincidence.
const DOWN_AFTER: u32 = 3;

/// Between probes of a server that is down. A server that is back is used again within the longest.
const DOWN_PAUSES: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60) };

/// Between tries of a server that said it is full: room comes from deletes, compaction or people, all of them slow.
const FULL_PAUSES: Backoff = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(300) };

/// In what respect a server is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// As a target.
    Write,
    /// As a target of bytes that need room.
    Room,
    /// As a source.
    Read,
}

/// How a server stands after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// It works for other tasks.
    pub(super) works: bool,
    /// When a task that failed here had better come back.
    pub(super) pause: Duration,
}

/// The breakers of all servers.
#[derive(Default)]
pub(super) struct Gates {
    servers: Mutex<HashMap<ServerId, Gate>>,
}

struct Gate {
    write: Breaker,
    room: Breaker,
    read: Breaker,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            write: Breaker::new(DOWN_AFTER, DOWN_PAUSES),
            room: Breaker::new(1, FULL_PAUSES),
            read: Breaker::new(DOWN_AFTER, DOWN_PAUSES),
        }
    }
}

impl Gate {
    fn door(&mut self, door: Door) -> &mut Breaker {
        match door {
            Door::Write => &mut self.write,
            Door::Room => &mut self.room,
            Door::Read => &mut self.read,
        }
    }
}

impl Gates {
    /// Asks to use a server; else how long to wait.
    pub(super) fn enter(self: &Arc<Self>, server: &ServerId, door: Door) -> Result<Permit, Duration> {
        let probe = match self.with(server, door, |breaker| breaker.admit(Instant::now())) {
            Admission::Wait(pause) => return Err(pause),
            Admission::Probe => true,
            Admission::Pass => false,
        };
        Ok(Permit { gates: self.clone(), server: server.clone(), door, probe })
    }

    /// How many tasks of each target may be claimed; targets without a limit are left out.
    pub(super) fn rooms(&self) -> HashMap<ServerId, usize> {
        let now = Instant::now();
        let servers = self.servers.lock();
        let rooms = servers.iter().map(|(server, gate)| (server.clone(), gate.write.room(now)));
        rooms.filter(|(_, room)| *room != usize::MAX).collect()
    }

    /// Forgets servers that are no longer in the map.
    pub(super) fn keep_only(&self, map: &ClusterMap) {
        self.servers.lock().retain(|server, _| map.servers.contains_key(server));
    }

    fn with<T>(&self, server: &ServerId, door: Door, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut servers = self.servers.lock();
        let breaker = servers.entry(server.clone()).or_default().door(door);
        let before = breaker.state();
        let result = change(breaker);
        let after = breaker.state();
        drop(servers);
        if before != after {
            note_change(server, door, before, after);
        }
        result
    }
}

fn note_change(server: &ServerId, door: Door, before: State, after: State) {
    metrics::breaker(server, door, after);
    match (before, after) {
        (State::Closed, State::Open { .. }) => {
            tracing::warn!(%server, ?door, "left alone after failures, to be probed now and then");
        }
        (_, State::Closed) => tracing::info!(%server, ?door, "works again"),
        _ => tracing::debug!(%server, ?door, ?after, "breaker"),
    }
}

/// Leave to use a server once. Dropped without a word it tells nothing about the server.
pub(super) struct Permit {
    gates: Arc<Gates>,
    server: ServerId,
    door: Door,
    probe: bool,
}

impl Permit {
    /// The server did its part.
    pub(super) fn worked(&mut self) -> Standing {
        self.say(|breaker, now| breaker.succeeded(now))
    }

    /// The server failed.
    pub(super) fn failed(&mut self) -> Standing {
        self.say(|breaker, now| breaker.failed(now, fastrand::f64()))
    }

    fn say(&mut self, verdict: impl FnOnce(&mut Breaker, Instant)) -> Standing {
        self.probe = false;
        self.gates.with(&self.server, self.door, |breaker| {
            let now = Instant::now();
            verdict(breaker, now);
            Standing { works: breaker.works(now), pause: breaker.pause(now) }
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.probe {
            self.gates.with(&self.server, self.door, |breaker| breaker.probe_ended(Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Those of one server, whose pauses are not over before a test is.
    fn gates_of(server: &ServerId) -> Arc<Gates> {
        let pauses = Backoff { first: HOUR, max: HOUR };
        let down = || Breaker::new(DOWN_AFTER, pauses);
        let gate = Gate { write: down(), room: Breaker::new(1, pauses), read: down() };
        let gates = Gates::default();
        gates.servers.lock().insert(server.clone(), gate);
        Arc::new(gates)
    }

    fn open(gates: &Arc<Gates>, server: &ServerId, door: Door) {
        for _ in 0..DOWN_AFTER {
            gates.enter(server, door).unwrap().failed();
        }
    }

    #[test]
    fn a_full_server_still_takes_deletes_and_is_read() {
        let server: ServerId = "1".parse().unwrap();
        let gates = gates_of(&server);
        gates.enter(&server, Door::Room).unwrap().failed();
        assert!(gates.enter(&server, Door::Room).is_err());
        assert!(gates.enter(&server, Door::Write).is_ok());
        assert!(gates.enter(&server, Door::Read).is_ok());
        assert!(gates.rooms().is_empty(), "its tasks are still claimed, for the deletes");
    }

    #[test]
    fn a_server_that_takes_no_writes_is_not_claimed_for() {
        let (down, fine): (ServerId, ServerId) = ("1".parse().unwrap(), "2".parse().unwrap());
        let gates = gates_of(&down);
        open(&gates, &down, Door::Write);
        gates.enter(&fine, Door::Write).unwrap().worked();
        assert_eq!(gates.rooms(), HashMap::from([(down.clone(), 0)]));
        assert!(gates.enter(&down, Door::Read).is_ok());
        gates.keep_only(&ClusterMap::default());
        assert!(gates.rooms().is_empty());
    }
}
