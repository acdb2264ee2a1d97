//! The way to one member: what is to be pushed to it while a push is under way is gathered, and goes as the next one. Nobody waits
//! where nobody else is.
//!
//! One turn at a time, because each costs the same whatever it holds: with four at a time Redis had a third more to do for each
//! task (docs/performance.md), and whatever holds up one holds up the others too. Where more waits than one turn takes, what has waited too long
//! fails: a member that is slower than what comes is left alone for a while, and holds no more than comes meanwhile.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    member::Member,
    push::{Part, Push},
};
use crate::{
    model::Task,
    queue::{COMMAND_TIMEOUT, QueueError},
};

/// How often a turn gives way before it begins: once, and what came from the network is noticed; twice, and those whom that woke
/// have brought what they have. Each turn has more then, and so there are fewer (docs/performance.md).
const GIVES_WAY: usize = 2;

/// Tasks of one turn: of so many Redis makes one call.
const MOST_TOGETHER: usize = 500;

/// As long as one that does not answer at all holds up a push.
const TURN_WITHIN: Duration = COMMAND_TIMEOUT;

/// What waits for its turn.
#[derive(Default)]
pub(super) struct Lane(Mutex<State>);

/// A part of a push, and since when it waits.
struct Waiting {
    push: Arc<Push>,
    part: Part,
    since: Instant,
}

#[derive(Default)]
struct State {
    under_way: bool,
    waiting: VecDeque<Waiting>,
}

/// Takes one turn after the other, as long as something waits.
struct Turns {
    member: Arc<Member>,
    ended: bool,
}

impl Drop for Turns {
    fn drop(&mut self) {
        // It panicked, or the process ends: nobody is to wait for what waits here.
        if !self.ended {
            let left = std::mem::take(&mut *self.member.lane.0.lock());
            // Without the lock.
            drop(left);
        }
    }
}

impl Lane {
    /// Has a member do its part of a push, which hears how that ended.
    pub(super) fn add(member: &Arc<Member>, push: Arc<Push>, part: Part) {
        let was_under_way = {
            let mut state = member.lane.0.lock();
            state.waiting.push_back(Waiting { push, part, since: Instant::now() });
            std::mem::replace(&mut state.under_way, true)
        };
        if !was_under_way {
            tokio::spawn(Turns { member: Arc::clone(member), ended: false }.take());
        }
    }
}

impl Turns {
    async fn take(mut self) {
        loop {
            // Whoever is about to bring something goes first.
            for _ in 0..GIVES_WAY {
                tokio::task::yield_now().await;
            }
            let Some(parts) = self.next() else { return };
            let result = self.push_all(&parts).await;
            self.end(parts, &result);
        }
    }

    /// These have ended so.
    fn end(&self, parts: Vec<Waiting>, result: &Result<(), QueueError>) {
        self.member.note(result);
        for Waiting { push, part, .. } in parts {
            push.ended(&self.member, part, result.clone());
        }
    }

    /// What is to be pushed next. `None` if nothing waits: then this has ended, before anybody can count on it.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        loop {
            let (mut parts, are_all) = self.gathered()?;
            // A push is asked without the lane's lock, for it may be about to add to the lane.
            for unwanted in parts.extract_if(.., |waiting| !waiting.push.is_wanted()) {
                unwanted.push.skipped();
            }
            let is_late = |waiting: &mut Waiting| !are_all && waiting.since.elapsed() > TURN_WITHIN;
            let late: Vec<_> = parts.extract_if(.., is_late).collect();
            if !late.is_empty() {
                let name = &self.member.name;
                let why = format!("{name}: no turn within {TURN_WITHIN:?}, it is slower than what comes");
                self.end(late, &Err(QueueError::Unavailable(why)));
            }
            if !parts.is_empty() {
                return Some(parts);
            }
        }
    }

    /// Of one turn, and whether that is all there is.
    fn gathered(&mut self) -> Option<(Vec<Waiting>, bool)> {
        let mut state = self.member.lane.0.lock();
        if state.waiting.is_empty() {
            state.under_way = false;
            self.ended = true;
            return None;
        }
        let (mut parts, mut tasks) = (Vec::new(), 0);
        while tasks < MOST_TOGETHER
            && let Some(next) = state.waiting.pop_front()
        {
            tasks += next.push.tasks().len();
            parts.push(next);
        }
        Some((parts, state.waiting.is_empty()))
    }

    /// At once, with a push for each delay. They end alike.
    async fn push_all(&self, parts: &[Waiting]) -> Result<(), QueueError> {
        let mut by_delay: BTreeMap<Duration, Vec<Task>> = BTreeMap::new();
        for Waiting { push, part, .. } in parts {
            by_delay.entry(push.delay(*part)).or_default().extend_from_slice(push.tasks());
        }
        let pushes = by_delay.iter().map(|(delay, tasks)| self.member.queue.push(tasks, *delay));
        join_all(pushes).await.into_iter().collect()
    }
}
