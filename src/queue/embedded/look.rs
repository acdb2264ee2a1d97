//! What the embedded queue reads without writing: whether there is something to claim, counts, lists.

use std::collections::BTreeMap;

use super::layout::{self, Counts, Entry, number_at};
use crate::{
    embedded::{Error, Reader},
    model::ServerId,
    queue::{
        DeadLetter, Filter, Listed, QueueServerStats, QueueStats, Stage, TargetStats, Want, letter::to_task,
    },
};

/// Entries looked at for a target's oldest task, of each stage. Ready and claimed ones are in the order in which they became
/// ready, so the first ones are the oldest but for retries; delayed ones are in the order in which they come due. So the
/// age is exact up to so many of each stage, and a close guess from below beyond.
const AGE_SAMPLE: usize = 32;

/// Longest list of tasks looked through for a filter: more is not for people to read.
const LIST_LOOK_THROUGH: usize = 100_000;

type Result<T> = std::result::Result<T, Error>;

/// The queue inside a read, at the time `now_ms`.
pub(super) struct Look<'a, 'r> {
    pub(super) reader: &'a Reader<'r>,
    pub(super) now_ms: u64,
}

impl Look<'_, '_> {
    /// When there may be something to claim, milliseconds since 1970: 0 = now, `None` = not before something changes.
    pub(super) fn next_ms(&self, want: &Want) -> Result<Option<u64>> {
        let lease = self.first(layout::LEASES)?.map(|key| number_at(&key, 1));
        let mut next = lease;
        for (target, counts) in self.counts()? {
            if self.is_paused(&target)? || want.except.iter().any(|id| id.as_str() == target) {
                continue;
            }
            if counts.ready > 0 {
                return Ok(Some(0));
            }
            let due = self.first(&layout::stage(Stage::Delayed, &target))?.map(|key| number_at(&key, 1));
            next = next.into_iter().chain(due).min();
        }
        Ok(next)
    }

    pub(super) fn stats(&self) -> Result<QueueStats> {
        let mut stats = QueueStats::default();
        let paused = self.names(layout::PAUSED)?.into_iter().map(|target| (target, Counts::default()));
        // A target's counts replace the nothing that its pause alone would give.
        let all: BTreeMap<_, _> = paused.chain(self.counts()?).collect();
        for (target, counts) in all {
            if target.is_empty() {
                stats.poison = counts.dead;
            } else if let Ok(id) = target.parse::<ServerId>() {
                stats.targets.insert(id, self.target(&target, counts)?);
            }
        }
        let entries = stats.backlog();
        stats.servers.push(QueueServerStats { name: "embedded".to_owned(), id: None, error: None, entries });
        Ok(stats)
    }

    pub(super) fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Listed>> {
        let targets = match &filter.target {
            Some(target) => vec![target.to_string()],
            None => self.names(layout::COUNTS)?,
        };
        let (mut found, mut budget) = (Vec::new(), LIST_LOOK_THROUGH);
        for target in targets {
            for stage in [Stage::Claimed, Stage::Ready, Stage::Delayed] {
                for entry in self.reader.scan(&layout::stage(stage, &target))? {
                    if found.len() >= limit || budget == 0 {
                        return Ok(found);
                    }
                    budget -= 1;
                    let listed = self.listed(stage, &target, entry?);
                    found.extend(listed.filter(|listed| filter.matches(Some(&listed.task))));
                }
            }
        }
        Ok(found)
    }

    pub(super) fn dead(&self, filter: &Filter, limit: usize) -> Result<Vec<DeadLetter>> {
        let mut found = Vec::new();
        if let Some(id) = &filter.id {
            found.extend(self.letter(id)?.filter(|letter| filter.matches_letter(letter)));
            found.truncate(limit);
            return Ok(found);
        }
        for dead in self.reader.scan(layout::DEAD)? {
            if found.len() >= limit {
                break;
            }
            let letter = self.letter(&layout::dead_id(dead?.0))?;
            found.extend(letter.filter(|letter| filter.matches_letter(letter)));
        }
        Ok(found)
    }

    fn letter(&self, id: &str) -> Result<Option<DeadLetter>> {
        // An id that no key can hold is an id of nothing.
        if id.len() > 64 {
            return Ok(None);
        }
        let value = self.reader.get(&layout::letter(id))?;
        Ok(value.and_then(|value| serde_json::from_slice(value.get(8..)?).ok()))
    }

    fn target(&self, target: &str, counts: Counts) -> Result<TargetStats> {
        let prefix = layout::stage(Stage::Delayed, target);
        let delayed = self.reader.scan(&prefix)?;
        let is_due = |key: &[u8]| number_at(key, 1) <= self.now_ms;
        let due = delayed.take_while(|entry| entry.as_ref().is_ok_and(|(key, _)| is_due(key))).count() as u64;
        let mut oldest_ms = None;
        for stage in [Stage::Ready, Stage::Delayed, Stage::Claimed] {
            for entry in self.reader.scan(&layout::stage(stage, target))?.take(AGE_SAMPLE) {
                let created = self.listed(stage, target, entry?).map(|listed| listed.task.created_ms);
                oldest_ms = oldest_ms.into_iter().chain(created).min();
            }
        }
        Ok(TargetStats {
            ready: counts.ready + due,
            delayed: counts.delayed.saturating_sub(due),
            claimed: counts.claimed,
            dead: counts.dead,
            oldest_ms,
            paused: self.is_paused(target)?,
        })
    }

    /// An entry as a task; what is none is not shown. What is due counts as ready.
    fn listed(&self, stage: Stage, target: &str, (key, value): (&[u8], &[u8])) -> Option<Listed> {
        let entry = Entry::from_bytes(if stage == Stage::Claimed { value.get(8..)? } else { value });
        let due = stage == Stage::Delayed && number_at(key, 1) <= self.now_ms;
        let stage = if due { Stage::Ready } else { stage };
        Some(Listed { task: to_task(&entry.task, target).ok()?, stage, attempts: entry.attempts })
    }

    fn counts(&self) -> Result<Vec<(String, Counts)>> {
        let counts = self.reader.scan(layout::COUNTS.as_bytes())?;
        counts
            .map(|entry| entry.map(|(key, value)| (name_in(key, layout::COUNTS), Counts::from_bytes(value))))
            .collect()
    }

    fn names(&self, prefix: &str) -> Result<Vec<String>> {
        self.reader.scan(prefix.as_bytes())?.map(|entry| Ok(name_in(entry?.0, prefix))).collect()
    }

    fn is_paused(&self, target: &str) -> Result<bool> {
        Ok(self.reader.get(format!("{}{target}", layout::PAUSED).as_bytes())?.is_some())
    }

    fn first(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>> {
        self.reader.scan(prefix)?.next().map(|entry| Ok(entry?.0.to_vec())).transpose()
    }
}

fn name_in(key: &[u8], prefix: &str) -> String {
    String::from_utf8_lossy(&key[prefix.len()..]).into_owned()
}
