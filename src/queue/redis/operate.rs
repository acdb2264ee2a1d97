//! What operators ask of one Redis server: counts, lists, dead letters. Read in pages, each within the command's timeout,
//! over connections apart from the uploads' one.

use std::collections::BTreeMap;

use deadpool_redis::redis::{Script, ScriptInvocation};

use super::{
    RedisQueue,
    scripts::{DEAD, DISCARD, LIST, REDRIVE, STATS, TARGETS},
};
use crate::{
    model::ServerId,
    queue::{
        DeadLetter, Filter, Listed, QueueError, QueueServerStats, QueueStats, Stage, TargetStats,
        letter::{to_json, to_task},
    },
};

/// Entries of a page: a few milliseconds of the server's time.
const PAGE: usize = 500;

/// Targets of one stats call: each costs the server some ten microseconds.
const STATS_TARGETS: usize = 200;

/// Entries looked at for a target's oldest task, of the stream and of the delayed ones each. The stream is in the order
/// in which tasks became ready, so its first ones are the oldest but for retries; delayed tasks are in the order in
/// which they come due. So the age is exact up to so many of each, and a close guess from below beyond.
const AGE_SAMPLE: usize = 32;

/// Longest list of tasks looked through for a filter: more is not for people to read.
const LIST_LOOK_THROUGH: usize = 100_000;

/// Target, ready, delayed, claimed, dead, paused, oldest (-1: none).
type TargetRow = (String, u64, u64, u64, u64, bool, i64);

/// Id, stage, attempts, task.
type ListRow = (String, String, u32, Vec<u8>);

/// What a queue has.
struct Targets {
    /// Its name since it was empty.
    id: Option<String>,
    /// Letters that are no tasks.
    poison: u64,
    /// Every target that ever had a task.
    names: Vec<String>,
}

impl RedisQueue {
    async fn targets(&self) -> Result<Targets, QueueError> {
        let mut call = self.call(&TARGETS);
        call.arg(format!("{:032x}", fastrand::u128(..)));
        let mut answer = self.link.run_apart::<Vec<String>>(&call).await?.into_iter();
        let (id, poison) = (answer.next(), answer.next());
        let poison = poison.and_then(|poison| poison.parse().ok()).unwrap_or(0);
        Ok(Targets { id, poison, names: answer.collect() })
    }

    pub(super) async fn read_stats(&self) -> Result<QueueStats, QueueError> {
        let Targets { id, poison, names } = self.targets().await?;
        let mut targets = BTreeMap::new();
        for chunk in names.chunks(STATS_TARGETS) {
            let mut call = self.call(&STATS);
            call.arg(AGE_SAMPLE).arg(chunk);
            let rows: Vec<TargetRow> = self.link.run_apart(&call).await?;
            targets.extend(rows.into_iter().filter_map(to_stats));
        }
        let entries = targets.values().map(TargetStats::backlog).sum();
        let server = QueueServerStats { name: self.link.name().to_owned(), id, error: None, entries };
        Ok(QueueStats { targets, servers: vec![server], poison })
    }

    pub(super) async fn read_list(&self, filter: &Filter, limit: usize) -> Result<Vec<Listed>, QueueError> {
        let targets = match &filter.target {
            Some(target) => vec![target.to_string()],
            None => self.targets().await?.names,
        };
        let mut found = Vec::new();
        let mut budget = LIST_LOOK_THROUGH;
        for target in targets {
            for which in ["stream", "delayed"] {
                self.list_some(&target, which, filter, limit, &mut budget, &mut found).await?;
            }
        }
        Ok(found)
    }

    /// Adds a target's tasks of the stream or of the delayed ones.
    async fn list_some(
        &self,
        target: &str,
        which: &str,
        filter: &Filter,
        limit: usize,
        budget: &mut usize,
        found: &mut Vec<Listed>,
    ) -> Result<(), QueueError> {
        let (mut from, mut seen) = ("0".to_owned(), 0);
        while found.len() < limit && *budget > 0 {
            let mut call = self.call(&LIST);
            call.arg(target).arg(which).arg(&from).arg(PAGE);
            let rows: Vec<ListRow> = self.link.run_apart(&call).await?;
            let Some((last, ..)) = rows.last() else { return Ok(()) };
            seen += rows.len();
            from = if which == "stream" { last.clone() } else { seen.to_string() };
            *budget = budget.saturating_sub(rows.len());
            let tasks = rows.into_iter().filter_map(|row| to_listed(row, target));
            let room = limit - found.len();
            found.extend(tasks.filter(|listed| filter.matches(Some(&listed.task))).take(room));
        }
        Ok(())
    }

    pub(super) async fn read_dead(
        &self,
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        let mut found = Vec::new();
        let mut walk = DeadWalk::default();
        while found.len() < limit {
            let page = self.dead_page(filter, &mut walk).await?;
            if page.is_empty() {
                break;
            }
            walk.place += page.len();
            let room = limit - found.len();
            found.extend(page.into_iter().filter(|letter| filter.matches_letter(letter)).take(room));
        }
        Ok(found)
    }

    pub(super) async fn redrive_all(&self, filter: &Filter) -> Result<u64, QueueError> {
        self.remove_dead(filter, &REDRIVE, |letter, call| {
            let Some(task) = &letter.task else { return false };
            call.arg(&letter.id).arg(task.to.as_str()).arg(to_json(task));
            true
        })
        .await
    }

    pub(super) async fn discard_all(&self, filter: &Filter) -> Result<u64, QueueError> {
        self.remove_dead(filter, &DISCARD, |letter, call| {
            call.arg(&letter.id).arg(letter.target());
            true
        })
        .await
    }

    /// Runs a script that removes letters on each page of them; how many it removed. `add` gives it a letter that is meant,
    /// or says that this one stays.
    async fn remove_dead(
        &self,
        filter: &Filter,
        script: &'static Script,
        add: impl Fn(&DeadLetter, &mut ScriptInvocation<'static>) -> bool,
    ) -> Result<u64, QueueError> {
        let mut count = 0;
        let mut walk = DeadWalk::default();
        loop {
            let page = self.dead_page(filter, &mut walk).await?;
            if page.is_empty() {
                return Ok(count);
            }
            let mut call = self.call(script);
            let meant = |letter: &&DeadLetter| filter.matches_letter(letter) && add(letter, &mut call);
            let removed = page.iter().filter(meant).count();
            if removed > 0 {
                count += self.link.run_apart::<u64>(&call).await?;
            }
            walk.place += page.len() - removed;
        }
    }

    /// The next letters, or the one that the filter names.
    async fn dead_page(&self, filter: &Filter, walk: &mut DeadWalk) -> Result<Vec<DeadLetter>, QueueError> {
        let page = walk.left.unwrap_or(PAGE).min(PAGE);
        if page == 0 {
            return Ok(Vec::new());
        }
        let mut call = self.call(&DEAD);
        match &filter.id {
            Some(id) => call.arg(id),
            None => call.arg(walk.place).arg(page),
        };
        let (total, letters): (usize, Vec<Vec<u8>>) = self.link.run_apart(&call).await?;
        walk.left = Some(walk.left.unwrap_or(total).saturating_sub(letters.len()));
        letters.iter().map(|letter| serde_json::from_slice(letter)).collect::<Result<_, _>>().map_err(
            |error| {
                QueueError::Failed(format!("{}: a dead letter cannot be read: {error}", self.link.name()))
            },
        )
    }
}

/// Where a walk over the dead letters stands. It ends after as many as there were when it began, so that tasks that die
/// again at once do not keep it going.
#[derive(Default)]
struct DeadWalk {
    place: usize,
    /// Unknown before the first page.
    left: Option<usize>,
}

fn to_stats(
    (target, ready, delayed, claimed, dead, paused, oldest): TargetRow,
) -> Option<(ServerId, TargetStats)> {
    let stats = TargetStats { ready, delayed, claimed, dead, oldest_ms: u64::try_from(oldest).ok(), paused };
    let nothing = stats.backlog() == 0 && dead == 0 && !paused;
    if nothing { None } else { Some((target.parse().ok()?, stats)) }
}

fn to_listed((_, stage, attempts, raw): ListRow, target: &str) -> Option<Listed> {
    let stage = match stage.as_str() {
        "claimed" => Stage::Claimed,
        "delayed" => Stage::Delayed,
        _ => Stage::Ready,
    };
    Some(Listed { task: to_task(&raw, target).ok()?, stage, attempts })
}
