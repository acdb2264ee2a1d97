//! A queue in memory that keeps the promises of the trait: it goes through the same conformance cases as Redis
//! (`tests/system/queue_conformance.rs`). It has no server, no thread and no disk, so a simulation can run it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use backpack::{
    daemon::unix_ms,
    model::{ServerId, Task},
    queue::{
        Claim, DeadLetter, Filter, Listed, Queue, QueueError, QueueServerStats, QueueStats, Stage,
        TargetStats, Want,
    },
};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// Of what stands in a dead letter.
const MAX_RAW_BYTES: usize = 4096;

/// Tasks, dead letters and what is paused.
pub struct MemoryQueue {
    state: Mutex<State>,
    changed: Notify,
    lease: Duration,
}

#[derive(Default)]
struct State {
    last_number: u64,
    /// In the order in which they became ready.
    entries: BTreeMap<u64, Entry>,
    letters: BTreeMap<String, DeadLetter>,
    paused: BTreeSet<ServerId>,
}

#[derive(Clone)]
struct Entry {
    target: ServerId,
    /// JSON, as in the other queues: what is no task can stand here too.
    raw: String,
    attempts: u32,
    place: Place,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Ready,
    Delayed { due_ms: u64 },
    Claimed { until_ms: u64 },
}

impl State {
    fn add(&mut self, target: &ServerId, raw: String, attempts: u32, delay: Duration) {
        let due_ms = unix_ms().saturating_add(delay.as_micros().div_ceil(1000).min(u64::MAX.into()) as u64);
        let mut entry = Entry { target: target.clone(), raw, attempts, place: Place::Delayed { due_ms } };
        if delay.is_zero() {
            entry.place = Place::Ready;
        } else if let Some((number, before)) = self.find_delayed(target, &entry.raw) {
            if let Place::Delayed { due_ms: before_ms } = before.place {
                entry.place = Place::Delayed { due_ms: due_ms.min(before_ms) };
            }
            entry.attempts = entry.attempts.max(before.attempts);
            self.entries.remove(&number);
        }
        self.put(entry);
    }

    fn put(&mut self, entry: Entry) {
        self.last_number += 1;
        self.entries.insert(self.last_number, entry);
    }

    fn find_delayed(&self, target: &ServerId, raw: &str) -> Option<(u64, Entry)> {
        let same = |entry: &Entry| {
            matches!(entry.place, Place::Delayed { .. }) && entry.target == *target && entry.raw == raw
        };
        self.entries.iter().find(|(_, entry)| same(entry)).map(|(number, entry)| (*number, entry.clone()))
    }

    /// Due tasks are ready behind those that are; claims whose lease ended are ready in their old place.
    fn follow_time(&mut self) {
        let now_ms = unix_ms();
        let mut due = Vec::new();
        for (number, entry) in &mut self.entries {
            match entry.place {
                Place::Delayed { due_ms } if due_ms <= now_ms => due.push((due_ms, *number)),
                Place::Claimed { until_ms } if until_ms <= now_ms => {
                    entry.place = Place::Ready;
                    entry.attempts = entry.attempts.saturating_add(1);
                }
                _ => {}
            }
        }
        due.sort_unstable();
        for (_, number) in due {
            if let Some(entry) = self.entries.remove(&number) {
                self.put(Entry { place: Place::Ready, ..entry });
            }
        }
    }

    fn claim(&mut self, want: &Want, lease: Duration) -> Vec<Claim> {
        self.follow_time();
        let mut ready: BTreeMap<ServerId, Vec<u64>> = BTreeMap::new();
        for (number, entry) in &self.entries {
            let wanted = !want.except.contains(&entry.target) && !self.paused.contains(&entry.target);
            if entry.place == Place::Ready && wanted {
                ready.entry(entry.target.clone()).or_default().push(*number);
            }
        }
        let mut targets: Vec<_> = ready.into_values().collect();
        fastrand::shuffle(&mut targets);
        // One of each target in turn, so that none starves.
        let longest = targets.iter().map(Vec::len).max().unwrap_or(0).min(want.max_per_target);
        let in_turn = (0..longest).flat_map(|place| targets.iter().filter_map(move |all| all.get(place)));
        let chosen: Vec<u64> = in_turn.take(want.max).copied().collect();
        let until_ms = unix_ms() + lease.as_millis() as u64;
        chosen.into_iter().filter_map(|number| self.take(number, until_ms)).collect()
    }

    /// `None` for what is no task: it is a dead letter then.
    fn take(&mut self, number: u64, until_ms: u64) -> Option<Claim> {
        let entry = self.entries.get_mut(&number)?;
        let parsed = serde_json::from_str::<Task>(&entry.raw).map_err(|error| error.to_string());
        let reason = match parsed {
            Ok(task) if task.to == entry.target => {
                entry.place = Place::Claimed { until_ms };
                return Some(Claim { task, attempts: entry.attempts, receipt: number.to_string() });
            }
            Ok(task) => format!("the entry is for {} but stood in the queue of {}", task.to, entry.target),
            Err(error) => format!("the entry is no task: {error}"),
        };
        let raw = self.entries.remove(&number)?.raw;
        let id = format!("poison {raw}");
        self.bury(DeadLetter { id, task: None, raw, attempts: 0, reason, died_ms: unix_ms() });
        None
    }

    fn bury(&mut self, mut letter: DeadLetter) {
        letter.raw.truncate(letter.raw.floor_char_boundary(MAX_RAW_BYTES));
        self.letters.insert(letter.id.clone(), letter);
    }

    /// Ends a claim, if it is still one.
    fn end(&mut self, claim: &Claim) {
        let Some(number) = number(claim) else { return };
        if self.entries.get(&number).is_some_and(|entry| matches!(entry.place, Place::Claimed { .. })) {
            self.entries.remove(&number);
        }
    }

    /// When the next task may be given out that cannot be now.
    fn next_ms(&self) -> Option<u64> {
        let times = self.entries.values().filter_map(|entry| match entry.place {
            Place::Ready => None,
            Place::Delayed { due_ms } => Some(due_ms),
            Place::Claimed { until_ms } => Some(until_ms),
        });
        times.min()
    }

    fn remove_letters(&mut self, filter: &Filter, poison_too: bool) -> Vec<DeadLetter> {
        let meant =
            |letter: &DeadLetter| filter.matches_letter(letter) && (poison_too || letter.task.is_some());
        let all = std::mem::take(&mut self.letters);
        let (gone, kept): (BTreeMap<_, _>, _) = all.into_iter().partition(|(_, letter)| meant(letter));
        self.letters = kept;
        gone.into_values().collect()
    }

    fn targets(&self) -> BTreeMap<ServerId, TargetStats> {
        let mut targets: BTreeMap<ServerId, TargetStats> = BTreeMap::new();
        for entry in self.entries.values() {
            let stats = targets.entry(entry.target.clone()).or_default();
            *match entry.place {
                Place::Ready => &mut stats.ready,
                Place::Delayed { .. } => &mut stats.delayed,
                Place::Claimed { .. } => &mut stats.claimed,
            } += 1;
            let created_ms = serde_json::from_str::<Task>(&entry.raw).ok().map(|task| task.created_ms);
            stats.oldest_ms = stats.oldest_ms.into_iter().chain(created_ms).min();
        }
        for task in self.letters.values().filter_map(|letter| letter.task.as_ref()) {
            targets.entry(task.to.clone()).or_default().dead += 1;
        }
        for target in &self.paused {
            targets.entry(target.clone()).or_default().paused = true;
        }
        targets
    }
}

impl MemoryQueue {
    /// An empty one with this lease.
    pub fn new(lease: Duration) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), lease }
    }

    /// Puts something where the ready tasks of a target stand.
    #[allow(dead_code, reason = "for the conformance cases")]
    pub fn put_raw(&self, target: &ServerId, raw: &str) {
        self.state.lock().add(target, raw.to_owned(), 0, Duration::ZERO);
    }

    /// Changes something, and wakes whoever waits for it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changed.notify_waiters();
        result
    }

    fn give_back(&self, claim: &Claim, attempts: u32, delay: Duration) {
        self.change(|state| {
            state.end(claim);
            state.add(&claim.task.to, to_json(&claim.task), attempts, delay);
        });
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn push(&self, tasks: &[Task], delay: Duration) -> Result<(), QueueError> {
        self.change(|state| tasks.iter().for_each(|task| state.add(&task.to, to_json(task), 0, delay)));
        Ok(())
    }

    async fn cancel(&self, tasks: &[Task]) -> Result<(), QueueError> {
        self.change(|state| {
            for task in tasks {
                if let Some((number, _)) = state.find_delayed(&task.to, &to_json(task)) {
                    state.entries.remove(&number);
                }
            }
        });
        Ok(())
    }

    async fn claim(&self, want: &Want, wait: Duration) -> Result<Vec<Claim>, QueueError> {
        let deadline = Instant::now() + wait;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (claims, next_ms) = {
                let mut state = self.state.lock();
                (state.claim(want, self.lease), state.next_ms())
            };
            if !claims.is_empty() || Instant::now() >= deadline {
                return Ok(claims);
            }
            let next = next_ms.map(|next_ms| Duration::from_millis(next_ms.saturating_sub(unix_ms()).max(1)));
            let until = next.map_or(deadline, |next| deadline.min(Instant::now() + next));
            // Whichever comes first: the queue is looked at again.
            let _ = timeout_at(until, changed).await;
        }
    }

    async fn renew(&self, claims: &[Claim]) -> Result<(), QueueError> {
        let until_ms = unix_ms() + self.lease.as_millis() as u64;
        let mut state = self.state.lock();
        for number in claims.iter().filter_map(number) {
            if let Some(Entry { place: Place::Claimed { until_ms: until }, .. }) =
                state.entries.get_mut(&number)
            {
                *until = until_ms;
            }
        }
        Ok(())
    }

    async fn ack(&self, claims: &[Claim]) -> Result<(), QueueError> {
        self.change(|state| claims.iter().for_each(|claim| state.end(claim)));
        Ok(())
    }

    async fn retry(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.give_back(claim, claim.attempts.saturating_add(1), delay);
        Ok(())
    }

    async fn release(&self, claim: &Claim, delay: Duration) -> Result<(), QueueError> {
        self.give_back(claim, claim.attempts, delay);
        Ok(())
    }

    async fn bury(&self, claim: &Claim, reason: &str) -> Result<(), QueueError> {
        let (to, key, version) = claim.task.identity();
        let letter = DeadLetter {
            id: format!("{to} {version:?} {key}"),
            task: Some(claim.task.clone()),
            raw: to_json(&claim.task),
            attempts: claim.attempts,
            reason: reason.to_owned(),
            died_ms: unix_ms(),
        };
        self.change(|state| {
            state.end(claim);
            state.bury(letter);
        });
        Ok(())
    }

    async fn stats(&self) -> Result<QueueStats, QueueError> {
        let mut state = self.state.lock();
        state.follow_time();
        let server = QueueServerStats {
            name: "memory".to_owned(),
            id: None,
            error: None,
            entries: state.entries.len() as u64,
        };
        let poison = state.letters.values().filter(|letter| letter.task.is_none()).count() as u64;
        Ok(QueueStats { targets: state.targets(), servers: vec![server], poison })
    }

    async fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Listed>, QueueError> {
        let mut state = self.state.lock();
        state.follow_time();
        let listed = state.entries.values().filter_map(|entry| {
            let task: Task = serde_json::from_str(&entry.raw).ok()?;
            let stage = match entry.place {
                Place::Ready => Stage::Ready,
                Place::Delayed { .. } => Stage::Delayed,
                Place::Claimed { .. } => Stage::Claimed,
            };
            filter.matches(Some(&task)).then_some(Listed { task, stage, attempts: entry.attempts })
        });
        Ok(listed.take(limit).collect())
    }

    async fn dead(&self, filter: &Filter, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let state = self.state.lock();
        let mut letters: Vec<_> =
            state.letters.values().filter(|letter| filter.matches_letter(letter)).cloned().collect();
        letters.sort_by_key(|letter| letter.died_ms);
        letters.truncate(limit);
        Ok(letters)
    }

    async fn redrive(&self, filter: &Filter) -> Result<u64, QueueError> {
        Ok(self.change(|state| {
            let letters = state.remove_letters(filter, false);
            for task in letters.iter().filter_map(|letter| letter.task.as_ref()) {
                state.add(&task.to, to_json(task), 0, Duration::ZERO);
            }
            letters.len() as u64
        }))
    }

    async fn discard(&self, filter: &Filter) -> Result<u64, QueueError> {
        Ok(self.state.lock().remove_letters(filter, true).len() as u64)
    }

    async fn pause(&self, target: &ServerId) -> Result<(), QueueError> {
        self.state.lock().paused.insert(target.clone());
        Ok(())
    }

    async fn resume(&self, target: &ServerId) -> Result<(), QueueError> {
        self.change(|state| state.paused.remove(target));
        Ok(())
    }
}

fn to_json(task: &Task) -> String {
    serde_json::to_string(task).unwrap()
}

fn number(claim: &Claim) -> Option<u64> {
    claim.receipt.parse().ok()
}
