//! Ready or not: named conditions, each held by the part it is about. Live is not ready: a live process answers, a
//! ready one can do its work.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;

/// All conditions of one role. Ready means that every one holds.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    conditions: Arc<RwLock<BTreeMap<&'static str, Result<(), String>>>>,
}

/// One condition, held by the part it is about.
#[derive(Debug, Clone)]
pub struct Condition {
    name: &'static str,
    all: Readiness,
}

impl Readiness {
    /// Adds a condition that does not hold yet.
    pub fn condition(&self, name: &'static str) -> Condition {
        self.conditions.write().insert(name, Err("starting".to_owned()));
        Condition { name, all: self.clone() }
    }

    /// What does not hold, as `name: reason`; empty when ready.
    pub fn missing(&self) -> Vec<String> {
        let conditions = self.conditions.read();
        conditions
            .iter()
            .filter_map(|(name, state)| state.as_ref().err().map(|reason| format!("{name}: {reason}")))
            .collect()
    }

    /// Whether every condition holds.
    pub fn is_ready(&self) -> bool {
        self.conditions.read().values().all(Result::is_ok)
    }
}

impl Condition {
    /// The condition holds.
    pub fn ok(&self) {
        self.set(Ok(()));
    }

    /// The condition does not hold, for this reason.
    pub fn fail(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    /// Sets the state and logs it when it turns.
    pub fn set(&self, state: Result<(), String>) {
        let before = self.all.conditions.write().insert(self.name, state.clone());
        let was_ok = before.is_some_and(|before| before.is_ok());
        match &state {
            Ok(()) if !was_ok => tracing::debug!(condition = self.name, "ready"),
            Err(reason) if was_ok => tracing::info!(condition = self.name, reason, "not ready"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_condition_holds() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready());
        let map = readiness.condition("map");
        let queue = readiness.condition("queue");
        map.ok();
        queue.fail("no server answers");
        assert_eq!(readiness.missing(), ["queue: no server answers"]);
        queue.ok();
        assert!(readiness.is_ready());
    }
}
