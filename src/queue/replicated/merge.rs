//! What several members say, as one answer. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    model::{Key, ServerId, Version},
    queue::{DeadLetter, Listed, QueueError, QueueServerStats, QueueStats, Stage, TargetStats},
};

/// The counts of all members. A task stands on two of them, so their sum would say twice what there is:
///
/// - per target, the counts of the member that holds most of it; with three or more members half of the sum, where that is
///   more. Never more than there is. Exact where every task is on every member, as with two members that are both up;
///   tasks pushed while a member was down may be missing in it until it has them again.
/// - a task that waits on one member while another keeps it as a backup is told as the first of them has it. Which one that
///   is may differ from one target to the next.
/// - `oldest_ms` and `paused` are those of any member; `entries` of each server is exact.
/// - dead letters: of the member that holds most; see [`count_letters`].
pub(super) fn stats(
    answers: Vec<(String, Result<QueueStats, QueueError>)>,
) -> Result<QueueStats, QueueError> {
    let mut merged = QueueStats::default();
    let (mut per_target, mut errors) = (BTreeMap::<ServerId, Vec<TargetStats>>::new(), Vec::new());
    for (name, answer) in answers {
        match answer {
            Ok(stats) => {
                merged.poison = merged.poison.max(stats.poison);
                merged.servers.extend(stats.servers);
                for (target, stats) in stats.targets {
                    per_target.entry(target).or_default().push(stats);
                }
            }
            Err(error) => {
                merged.servers.push(QueueServerStats {
                    name,
                    id: None,
                    error: Some(error.to_string()),
                    entries: 0,
                });
                errors.push(error);
            }
        }
    }
    if !errors.is_empty() && errors.len() == merged.servers.len() {
        return Err(super::member::all_failed(errors));
    }
    merged.targets = per_target.into_iter().map(|(target, all)| (target, target_stats(&all))).collect();
    Ok(merged)
}

fn target_stats(members: &[TargetStats]) -> TargetStats {
    let half = |of: fn(&TargetStats) -> u64| members.iter().map(of).sum::<u64>().div_ceil(2);
    let halves = TargetStats {
        ready: half(|stats| stats.ready),
        delayed: half(|stats| stats.delayed),
        claimed: half(|stats| stats.claimed),
        ..TargetStats::default()
    };
    // Of two that hold as much, the one that is further with it: the other one's are backups.
    let most =
        members.iter().max_by_key(|stats| (stats.backlog(), stats.claimed + stats.ready, stats.claimed));
    let counts = match most {
        Some(most) if members.len() < 3 || most.backlog() >= halves.backlog() => most.clone(),
        _ => halves,
    };
    TargetStats {
        dead: members.iter().map(|stats| stats.dead).max().unwrap_or(0),
        oldest_ms: members.iter().filter_map(|stats| stats.oldest_ms).min(),
        paused: members.iter().any(|stats| stats.paused),
        ..counts
    }
}

/// Puts exact numbers of dead letters in place of the estimates, from all the letters there are.
pub(super) fn count_letters(stats: &mut QueueStats, letters: &[DeadLetter]) {
    stats.poison = 0;
    for target in stats.targets.values_mut() {
        target.dead = 0;
    }
    for letter in letters {
        match &letter.task {
            None => stats.poison += 1,
            Some(task) => stats.targets.entry(task.to.clone()).or_default().dead += 1,
        }
    }
}

/// Letters of all members, each once, the oldest first.
pub(super) fn letters(members: impl IntoIterator<Item = Vec<DeadLetter>>) -> Vec<DeadLetter> {
    let mut seen = HashSet::new();
    let mut all: Vec<_> = members.into_iter().flatten().collect();
    all.sort_by_key(|letter| letter.died_ms);
    all.retain(|letter| seen.insert(letter.id.clone()));
    all
}

/// Tasks of all members, each once, as the member that is furthest with it says.
pub(super) fn listed(members: impl IntoIterator<Item = Vec<Listed>>) -> Vec<Listed> {
    let mut places = HashMap::<(ServerId, Key, Option<Version>), usize>::new();
    let mut all = Vec::<Listed>::new();
    let how_far = |listed: &Listed| match listed.stage {
        Stage::Delayed => (0, listed.attempts),
        Stage::Ready => (1, listed.attempts),
        Stage::Claimed => (2, listed.attempts),
    };
    for listed in members.into_iter().flatten() {
        let task = &listed.task;
        let place = *places.entry((task.to.clone(), task.key.clone(), task.version)).or_insert(all.len());
        match all.get_mut(place) {
            None => all.push(listed),
            Some(known) if how_far(&listed) > how_far(known) => *known = listed,
            Some(_) => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Operation, Task};

    fn id(name: &str) -> ServerId {
        name.parse().unwrap()
    }

    fn task(key: &str) -> Task {
        Task {
            op: Operation::Copy,
            shard: None,
            key: key.parse().unwrap(),
            version: None,
            from: vec![],
            to: id("4"),
            length: 0,
            created_ms: 1,
            request_id: String::new(),
        }
    }

    fn of(ready: u64, delayed: u64, claimed: u64) -> Result<QueueStats, QueueError> {
        let target = TargetStats { ready, delayed, claimed, ..TargetStats::default() };
        let server = QueueServerStats { name: "s".into(), id: None, error: None, entries: target.backlog() };
        Ok(QueueStats { targets: BTreeMap::from([(id("4"), target)]), servers: vec![server], poison: 0 })
    }

    fn merged(members: Vec<Result<QueueStats, QueueError>>) -> (u64, u64, u64) {
        let named = members.into_iter().map(|stats| ("s".to_owned(), stats)).collect();
        let merged = stats(named).unwrap();
        let target = &merged.targets[&id("4")];
        (target.ready, target.delayed, target.claimed)
    }

    #[test]
    fn a_task_and_its_backup_count_once() {
        assert_eq!(merged(vec![of(7, 0, 3), of(0, 10, 0)]), (7, 0, 3));
        assert_eq!(merged(vec![of(0, 10, 0), of(10, 0, 0)]), (10, 0, 0));
        assert_eq!(merged(vec![of(1, 0, 0), of(0, 10, 0)]), (0, 10, 0));
        assert_eq!(merged(vec![of(4, 4, 0), of(4, 4, 0), of(4, 4, 0)]), (6, 6, 0));
        assert_eq!(merged(vec![of(9, 0, 0), of(0, 1, 0), of(0, 0, 0)]), (9, 0, 0));
    }

    #[test]
    fn a_member_that_is_down_says_so_and_all_down_is_an_error() {
        let down = || Err(QueueError::Unavailable("b: down".into()));
        let some = stats(vec![("a".into(), of(1, 0, 0)), ("b".into(), down())]).unwrap();
        assert_eq!(some.servers[1].name, "b");
        assert!(some.servers[0].error.is_none() && some.servers[1].error.is_some());
        let none = stats(vec![("a".into(), down()), ("b".into(), down())]);
        assert_eq!(none, Err(QueueError::Unavailable("b: down; b: down".into())));
    }

    #[test]
    fn letters_and_lists_name_each_task_once() {
        let letter = |key: &str, died_ms| DeadLetter { died_ms, ..DeadLetter::of_task(&task(key), 1, "r") };
        let all = letters([vec![letter("b", 2)], vec![letter("a", 1), letter("b", 3)]]);
        assert_eq!(all, [letter("a", 1), letter("b", 2)]);
        let mut counted = QueueStats::default();
        count_letters(&mut counted, &all);
        assert_eq!(counted.dead(), 2);

        let one = |stage| Listed { task: task("a"), stage, attempts: 0 };
        let all = listed([vec![one(Stage::Delayed)], vec![one(Stage::Claimed)], vec![one(Stage::Ready)]]);
        assert_eq!(all, [one(Stage::Claimed)]);
    }
}
