//! The steps of the embedded queue, each inside one write: all of it happens or nothing.

use super::layout::{self, Counts, Entry, number_at, with};
use crate::{
    embedded::{Error, Writer},
    queue::{Claim, DeadLetter, Stage, Want, letter::to_task},
};

/// Due tasks of one target, or ended leases, that one claim moves: keeps a write short when very many come together.
const MOVE: usize = 256;

type Result<T> = std::result::Result<T, Error>;

/// The queue inside a write, at the time `now_ms`.
pub(super) struct Table<'a, 'w> {
    pub(super) writer: &'a mut Writer<'w>,
    pub(super) now_ms: u64,
}

impl Table<'_, '_> {
    /// Adds a task to be given out at `due_ms`, now if that has passed. One that waits already is not there twice then: it
    /// keeps the earlier time, and the greater number of attempts.
    pub(super) fn add(&mut self, target: &str, entry: &Entry, due_ms: u64) -> Result<()> {
        let number = self.next_number()?;
        if due_ms <= self.now_ms {
            return self.add_ready(target, number, entry);
        }
        let waiting = self.writer.get(&layout::waits(target, &entry.task))?;
        let waiting = waiting.map(|place| (number_at(place, 1), number_at(place, 0)));
        let (mut entry, mut due_ms) = (entry.clone(), due_ms);
        if let Some((waiting_due_ms, number)) = waiting
            && let Some(before) = self.remove_delayed(target, waiting_due_ms, number)?
        {
            entry.attempts = entry.attempts.max(before.attempts);
            due_ms = due_ms.min(waiting_due_ms);
        }
        self.writer
            .put(&with(layout::stage(Stage::Delayed, target), &[due_ms, number]), &entry.to_bytes())?;
        self.writer.put(&layout::waits(target, &entry.task), &with([], &[due_ms, number]))?;
        self.count(target, |counts| counts.delayed += 1)
    }

    /// Takes back a delayed task.
    pub(super) fn cancel(&mut self, target: &str, task: &[u8]) -> Result<()> {
        let Some(place) = self.writer.get(&layout::waits(target, task))?.map(<[u8]>::to_vec) else {
            return Ok(());
        };
        self.remove_delayed(target, number_at(&place, 1), number_at(&place, 0)).map(drop)
    }

    /// Takes what is wanted. What is no task goes to the dead letters.
    pub(super) fn claim(&mut self, want: &Want, lease_ms: u64) -> Result<Vec<Claim>> {
        self.end_leases()?;
        let mut round = self.targets(want)?;
        for target in &round {
            self.move_due(target)?;
        }
        fastrand::shuffle(&mut round);
        let mut claims = Vec::new();
        let mut taken = std::collections::HashMap::<String, usize>::new();
        // Fair under `max`: each target of the round gets an equal share of what is left; what one does not use goes to the
        // next ones and, in another round, to those that have more.
        while claims.len() < want.max && !round.is_empty() {
            let mut again = Vec::new();
            for (place, target) in round.iter().enumerate() {
                let had = taken.entry(target.clone()).or_default();
                let share = (want.max - claims.len()).div_ceil(round.len() - place);
                let quota = share.min(want.max_per_target - *had);
                let got = self.take(target, quota, lease_ms, &mut claims)?;
                *had += got;
                if got == quota && quota > 0 && *had < want.max_per_target {
                    again.push(target.clone());
                }
            }
            round = again;
        }
        Ok(claims)
    }

    /// Ends a claim; whether it was there.
    pub(super) fn end(&mut self, target: &str, number: u64) -> Result<bool> {
        Ok(self.remove_claimed(target, number)?.is_some())
    }

    /// Starts a claim's lease anew, if it is there.
    pub(super) fn renew(&mut self, target: &str, number: u64, lease_ms: u64) -> Result<()> {
        let Some(entry) = self.remove_claimed(target, number)? else { return Ok(()) };
        self.put_claimed(target, number, &entry, lease_ms)
    }

    /// Adds a dead letter, in place of an older one of the same task.
    pub(super) fn bury(&mut self, letter: &DeadLetter) -> Result<()> {
        self.unbury(letter)?;
        let mut value = with([], &[letter.died_ms]);
        value.extend(
            serde_json::to_vec(letter).expect("a letter is strings and numbers, which are always JSON"),
        );
        self.writer.put(&layout::letter(&letter.id), &value)?;
        self.writer.put(&layout::dead(letter.died_ms, &letter.id), b"")?;
        self.count(letter.target(), |counts| counts.dead += 1)
    }

    /// Removes a dead letter; whether it was there.
    pub(super) fn unbury(&mut self, letter: &DeadLetter) -> Result<bool> {
        let key = layout::letter(&letter.id);
        let Some(died_ms) = self.writer.get(&key)?.map(|value| number_at(&value[..value.len().min(8)], 0))
        else {
            return Ok(false);
        };
        self.writer.delete(&key)?;
        self.writer.delete(&layout::dead(died_ms, &letter.id))?;
        self.count(letter.target(), |counts| counts.dead = counts.dead.saturating_sub(1))?;
        Ok(true)
    }

    fn next_number(&mut self) -> Result<u64> {
        let number = self.writer.get(layout::NEXT)?.map_or(0, |value| number_at(value, 0));
        self.writer.put(layout::NEXT, &with([], &[number + 1]))?;
        Ok(number)
    }

    /// Changes a target's counts. The record of a target with nothing goes away.
    fn count(&mut self, target: &str, change: impl FnOnce(&mut Counts)) -> Result<()> {
        let key = format!("{}{target}", layout::COUNTS).into_bytes();
        let mut counts = self.writer.get(&key)?.map(Counts::from_bytes).unwrap_or_default();
        change(&mut counts);
        if counts == Counts::default() {
            return self.writer.delete(&key).map(drop);
        }
        self.writer.put(&key, &counts.to_bytes())
    }

    fn add_ready(&mut self, target: &str, number: u64, entry: &Entry) -> Result<()> {
        self.writer.put(&with(layout::stage(Stage::Ready, target), &[number]), &entry.to_bytes())?;
        self.count(target, |counts| counts.ready += 1)
    }

    fn remove_delayed(&mut self, target: &str, due_ms: u64, number: u64) -> Result<Option<Entry>> {
        let key = with(layout::stage(Stage::Delayed, target), &[due_ms, number]);
        let Some(entry) = self.writer.get(&key)?.map(Entry::from_bytes) else { return Ok(None) };
        self.writer.delete(&key)?;
        let waits = layout::waits(target, &entry.task);
        // The same task may have been delayed again since; then that one is found by it.
        if self.writer.get(&waits)? == Some(&with([], &[due_ms, number])) {
            self.writer.delete(&waits)?;
        }
        self.count(target, |counts| counts.delayed = counts.delayed.saturating_sub(1))?;
        Ok(Some(entry))
    }

    fn put_claimed(&mut self, target: &str, number: u64, entry: &Entry, lease_ms: u64) -> Result<()> {
        let end_ms = self.now_ms + lease_ms;
        let value = [with([], &[end_ms]), entry.to_bytes()].concat();
        self.writer.put(&with(layout::stage(Stage::Claimed, target), &[number]), &value)?;
        self.writer.put(&with(layout::LEASES, &[end_ms, number]), target.as_bytes())?;
        self.count(target, |counts| counts.claimed += 1)
    }

    fn remove_claimed(&mut self, target: &str, number: u64) -> Result<Option<Entry>> {
        let key = with(layout::stage(Stage::Claimed, target), &[number]);
        let Some(value) = self.writer.get(&key)?.map(<[u8]>::to_vec) else { return Ok(None) };
        self.writer.delete(&key)?;
        let (end_ms, entry) = value.split_at(value.len().min(8));
        self.writer.delete(&with(layout::LEASES, &[number_at(end_ms, 0), number]))?;
        self.count(target, |counts| counts.claimed = counts.claimed.saturating_sub(1))?;
        Ok(Some(Entry::from_bytes(entry)))
    }

    /// Claims whose lease ended are ready again, in their old place and with one more attempt.
    fn end_leases(&mut self) -> Result<()> {
        let now_ms = self.now_ms;
        let mut ended = Vec::new();
        for lease in self.writer.reader().scan(layout::LEASES)?.take(MOVE) {
            let (key, target) = lease?;
            if number_at(key, 1) > now_ms {
                break;
            }
            ended.push((key.to_vec(), String::from_utf8_lossy(target).into_owned()));
        }
        for (key, target) in ended {
            self.writer.delete(&key)?;
            let number = number_at(&key, 0);
            if let Some(mut entry) = self.remove_claimed(&target, number)? {
                entry.attempts = entry.attempts.saturating_add(1);
                self.add_ready(&target, number, &entry)?;
            }
        }
        Ok(())
    }

    /// Due tasks of a target become ready, behind those that are.
    fn move_due(&mut self, target: &str) -> Result<()> {
        let mut due = Vec::new();
        for delayed in self.writer.reader().scan(&layout::stage(Stage::Delayed, target))?.take(MOVE) {
            let (key, _) = delayed?;
            if number_at(key, 1) > self.now_ms {
                break;
            }
            due.push((number_at(key, 1), number_at(key, 0)));
        }
        for (due_ms, number) in due {
            if let Some(entry) = self.remove_delayed(target, due_ms, number)? {
                let number = self.next_number()?;
                self.add_ready(target, number, &entry)?;
            }
        }
        Ok(())
    }

    /// Targets with tasks that are wanted and not paused.
    fn targets(&self, want: &Want) -> Result<Vec<String>> {
        let reader = self.writer.reader();
        let mut targets = Vec::new();
        for count in reader.scan(layout::COUNTS.as_bytes())? {
            let target = String::from_utf8_lossy(&count?.0[layout::COUNTS.len()..]).into_owned();
            let paused = reader.get(format!("{}{target}", layout::PAUSED).as_bytes())?.is_some();
            let except = want.except.iter().any(|id| id.as_str() == target);
            if !target.is_empty() && !paused && !except {
                targets.push(target);
            }
        }
        Ok(targets)
    }

    /// Claims the first `quota` ready tasks of a target; how many entries it looked at.
    fn take(&mut self, target: &str, quota: usize, lease_ms: u64, claims: &mut Vec<Claim>) -> Result<usize> {
        let reader = self.writer.reader();
        let prefix = layout::stage(Stage::Ready, target);
        let first = reader.scan(&prefix)?.take(quota);
        let entries = first
            .map(|entry| entry.map(|(key, value)| (key.to_vec(), Entry::from_bytes(value))))
            .collect::<Result<Vec<_>>>()?;
        for (key, entry) in &entries {
            self.writer.delete(key)?;
            self.count(target, |counts| counts.ready = counts.ready.saturating_sub(1))?;
            let number = number_at(key, 0);
            match to_task(&entry.task, target) {
                Ok(task) => {
                    self.put_claimed(target, number, entry, lease_ms)?;
                    claims.push(Claim { task, attempts: entry.attempts, receipt: super::receipt(number) });
                }
                Err(reason) => self.bury(&DeadLetter::poison(&entry.task, &reason))?,
            }
        }
        Ok(entries.len())
    }
}
