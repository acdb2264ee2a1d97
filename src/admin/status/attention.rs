//! What needs an operator, in plain sentences that say what to do. Pure.

use std::collections::BTreeSet;

use super::Snapshot;
use crate::{
    admin::{
        age,
        order::{self, in_order},
        percent::percent,
        probe::Answer,
        server_list::join,
    },
    daemon::unix_ms,
    model::{PoolName, Server, ServerId, Shard, size},
    queue::{QueueStats, TargetStats},
};

/// From here on a shard is said to be nearly full: there is time to add one.
const NEARLY_FULL_PERCENT: u64 = 90;

/// A copy that waits longer than this is late: a replicator makes thousands in this time.
const LATE_MS: u64 = 10 * 60 * 1000;

/// Everything that needs attention, the worst first.
pub fn sentences(seen: &Snapshot) -> Vec<String> {
    let shards = order::shards(&seen.map);
    let servers = order::servers(&seen.map);
    let mut found = Vec::new();
    found.extend(shards.iter().filter_map(|shard| unreadable(seen, shard)));
    found.extend(no_uploads(seen));
    found.extend(servers.iter().flat_map(|server| of_server(seen, server)));
    found.extend(not_in_map(seen));
    found.extend(shards.iter().flat_map(|shard| of_shard(seen, shard)));
    found.extend(unsure(seen));
    match &seen.queue {
        Ok(stats) => found.extend(of_queue(seen, stats)),
        Err(error) => found.push(format!("The queue cannot be seen: {error}")),
    }
    found
}

fn is_down(seen: &Snapshot, id: &ServerId) -> bool {
    matches!(seen.answers.get(id), Some(Answer::Down(_)) | None)
}

fn unreadable(seen: &Snapshot, shard: &Shard) -> Option<String> {
    let all_down = shard.servers.iter().all(|id| !shard.is_read(id) || is_down(seen, id));
    all_down.then(|| format!("No server of shard {} answers: its blobs cannot be read.", shard.id))
}

/// Pools that take no uploads.
fn no_uploads(seen: &Snapshot) -> Vec<String> {
    let shards = seen.map.shards.values();
    if shards.len() == 0 {
        return vec!["There is no shard: make one with add-shard.".to_owned()];
    }
    let pools: BTreeSet<&PoolName> = shards.clone().map(|shard| &shard.pool).collect();
    let refuses = |pool: &&PoolName| !shards.clone().any(|shard| shard.pool == **pool && shard.is_writable());
    let sentence = |pool: &PoolName| {
        format!(
            "No shard of pool {pool} takes uploads: enable one with enable-shard, or add one with add-shard."
        )
    };
    pools.into_iter().filter(refuses).map(sentence).collect()
}

fn of_server(seen: &Snapshot, server: &Server) -> Vec<String> {
    let id = &server.id;
    let stats = match seen.answers.get(id) {
        Some(Answer::Down(why)) => return vec![format!("Server {id} ({server}) does not answer: {why}.")],
        Some(Answer::Node(stats)) => stats,
        Some(Answer::Other) | None => return Vec::new(),
    };
    let mut found = Vec::new();
    if let Some(why) = &stats.read_only {
        found.push(format!("Server {id} takes no writes: {why}."));
    }
    if stats.damaged > 0 {
        found.push(format!(
            "Server {id} knows of {} damaged blobs that are not replaced yet: GET /-/damaged lists them.",
            stats.damaged
        ));
    }
    let shards = seen.map.shards_of(id).filter(|shard| !shard.read_only);
    let to_come: u64 = shards.filter_map(|shard| shard.size).map(|size| size.free()).sum();
    if stats.free_bytes < to_come {
        found.push(format!(
            "Server {id} has {} of disk free, but its shards may still take {}: its disk will be full before they are.",
            size::format(stats.free_bytes),
            size::format(to_come)
        ));
    }
    found
}

fn not_in_map(seen: &Snapshot) -> Vec<String> {
    let strangers = seen.map.live.iter().filter(|id| !seen.map.servers.contains_key(id));
    strangers
        .map(|id| format!("A node announces itself as {id}, which is not in the map: add-server it."))
        .collect()
}

fn of_shard(seen: &Snapshot, shard: &Shard) -> Vec<String> {
    let id = &shard.id;
    let mut found = Vec::new();
    let unknown: Vec<_> = shard.servers.iter().filter(|id| !seen.map.servers.contains_key(id)).collect();
    if !unknown.is_empty() {
        found.push(format!("Shard {id} names server {}, which is not in the map.", join(unknown, ", ")));
    }
    for (server, stage) in &shard.stages {
        found.push(format!(
            "Server {server} of shard {id} is {stage}. If nobody is at it any more, run the command again that began it: \
             replace-server, move-shard or drain-server."
        ));
    }
    if shard.servers.len() < 2 {
        found.push(format!("Shard {id} has one server: there is no second copy of its blobs."));
    }
    match shard.size.map(percent) {
        None => found.push(format!(
            "Nobody knows how full shard {id} is, so it takes no uploads: run add-shard for it again, then recount."
        )),
        Some(percent) if percent >= NEARLY_FULL_PERCENT && !shard.read_only => {
            found.push(format!("Shard {id} is {percent}% full: add a shard."));
        }
        Some(_) => {}
    }
    found
}

/// Shards that may lack more than is known. That the queue does not answer is said anyway.
fn unsure(seen: &Snapshot) -> Vec<String> {
    let Ok(queue) = &seen.queue else { return Vec::new() };
    let deficit = |shard: &&Shard| seen.known.deficit(shard, Some(queue));
    let shards = order::shards(&seen.map).into_iter().map(|shard| (&shard.id, deficit(&shard).unsure));
    shards
        .filter(|(_, unsure)| !unsure.is_empty())
        .map(|(id, unsure)| {
            format!(
                "Shard {id} may lack copies that nobody knows of: {}. Replicators compare it soon; scrub --shard {id} does it now.",
                unsure.join("; ")
            )
        })
        .collect()
}

fn of_queue(seen: &Snapshot, stats: &QueueStats) -> Vec<String> {
    let mut found = Vec::new();
    let broken = stats.servers.iter().filter_map(|server| Some((&server.name, server.error.as_ref()?)));
    found.extend(broken.map(|(name, error)| format!("Queue server {name} does not work: {error}.")));
    let targets = in_order(&stats.targets, |(id, _)| id.as_str());
    found.extend(targets.into_iter().flat_map(|(id, target)| of_target(seen, id, target)));
    if stats.dead() > 0 {
        found.push(format!(
            "{} tasks were given up: see why with queue dead, then give them out again with queue redrive.",
            stats.dead()
        ));
    }
    found
}

fn of_target(seen: &Snapshot, id: &ServerId, target: &TargetStats) -> Vec<String> {
    let mut found = Vec::new();
    if target.paused {
        found.push(format!(
            "Tasks of server {id} are paused, {} wait: queue resume ends it.",
            target.backlog()
        ));
    }
    let waits_ms = target.oldest_ms.map_or(0, |then| unix_ms().saturating_sub(then));
    if waits_ms > LATE_MS && !target.paused {
        found.push(format!(
            "Server {id} has waited for a copy for {}: is a replicator running, and is the server well?",
            age::of(waits_ms)
        ));
    }
    if target.backlog() > 0 && !seen.map.servers.contains_key(id) {
        found.push(format!("{} tasks are for server {id}, which is not in the map.", target.backlog()));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        admin::{probe::NodeStats, tests::map},
        model::{ClusterMap, map::ShardSize},
        queue::QueueServerStats,
        scrub::Known,
    };

    fn well() -> Snapshot {
        let mut map = map();
        map.shards.retain(|id, _| id.as_str() == "1");
        map.servers.retain(|id, _| ["1", "4"].contains(&id.as_str()));
        let node = NodeStats { free_bytes: 200 << 30, ..NodeStats::default() };
        let answers = BTreeMap::from([
            ("1".parse().unwrap(), Answer::Node(node)),
            ("4".parse().unwrap(), Answer::Other),
        ]);
        let known = Known::all_compared(&map);
        Snapshot { map: Arc::new(map), answers, queue: Ok(QueueStats::default()), known }
    }

    fn with_map(change: impl FnOnce(&mut ClusterMap)) -> Vec<String> {
        let mut seen = well();
        change(Arc::make_mut(&mut seen.map));
        sentences(&seen)
    }

    fn with_shard(change: impl FnOnce(&mut Shard)) -> Vec<String> {
        with_map(|map| change(Arc::make_mut(map.shards.values_mut().next().unwrap())))
    }

    fn with_answer(answer: Answer) -> Vec<String> {
        let mut seen = well();
        seen.answers.insert("1".parse().unwrap(), answer);
        sentences(&seen)
    }

    fn with_target(target: TargetStats) -> Vec<String> {
        let mut seen = well();
        let targets = BTreeMap::from([("4".parse().unwrap(), target)]);
        seen.queue = Ok(QueueStats { targets, ..QueueStats::default() });
        sentences(&seen)
    }

    #[track_caller]
    fn assert_says(found: &[String], part: &str) {
        assert!(found.len() == 1 && found[0].contains(part), "{part:?} in {found:?}");
    }

    #[test]
    fn nothing_is_said_of_a_cluster_that_is_well() {
        assert_eq!(sentences(&well()), Vec::<String>::new());
    }

    #[test]
    fn servers_in_trouble_are_named() {
        assert_says(
            &with_answer(Answer::Down("cannot connect".into())),
            "Server 1 (http://127.0.0.1:10001) does not",
        );
        let node = |change: fn(&mut NodeStats)| {
            let mut stats = NodeStats { free_bytes: 200 << 30, ..NodeStats::default() };
            change(&mut stats);
            with_answer(Answer::Node(stats))
        };
        assert_says(&node(|stats| stats.damaged = 3), "3 damaged blobs");
        assert_says(&node(|stats| stats.read_only = Some("the disk is full".into())), "the disk is full");
        assert_says(&node(|stats| stats.free_bytes = 1 << 30), "has 1gb of disk free");
        let stranger = with_map(|map| map.live = ["77".parse().unwrap()].into());
        assert_says(&stranger, "announces itself as 77");
    }

    #[test]
    fn a_shard_without_a_server_that_answers_comes_first() {
        let mut seen = well();
        seen.answers.values_mut().for_each(|answer| *answer = Answer::Down("gone".into()));
        let found = sentences(&seen);
        assert!(found[0].contains("blobs cannot be read") && found.len() == 3, "{found:?}");
    }

    #[test]
    fn shards_in_trouble_are_named() {
        assert_says(&with_shard(|shard| shard.read_only = true), "No shard of pool default takes uploads");
        assert_says(&with_shard(|shard| drop(shard.servers.pop())), "no second copy");
        let stranger = with_shard(|shard| shard.servers.push("9".parse().unwrap()));
        assert!(
            stranger[0].contains("names server 9") && stranger[1].contains("server 9 was not compared yet")
        );
        let mut seen = well();
        seen.known = Known::default();
        assert_says(
            &sentences(&seen),
            "Shard 1 may lack copies that nobody knows of: its servers were never compared",
        );
        let nearly = Some(ShardSize { capacity: 100, used: 93 });
        assert_says(&with_shard(|shard| shard.size = nearly), "93% full");
        assert!(
            with_shard(|shard| shard.size = None).iter().any(|said| said.contains("how full shard 1 is"))
        );
        assert_says(&with_map(|map| map.shards.clear()), "There is no shard");
    }

    #[test]
    fn a_queue_in_trouble_is_described() {
        assert_says(&with_target(TargetStats { dead: 2, ..TargetStats::default() }), "2 tasks were given up");
        assert_says(
            &with_target(TargetStats { paused: true, ..TargetStats::default() }),
            "are paused, 0 wait",
        );
        let late =
            TargetStats { ready: 1, oldest_ms: Some(unix_ms() - 2 * LATE_MS), ..TargetStats::default() };
        assert_says(&with_target(late), "Server 4 has waited for a copy for 20 min");
        let mut seen = well();
        let error = Some("no answer".into());
        let server = QueueServerStats { name: "one:1".into(), id: None, error, entries: 0 };
        seen.queue = Ok(QueueStats { servers: vec![server], ..QueueStats::default() });
        assert_says(&sentences(&seen), "Queue server one:1 does not work: no answer");
        seen.queue = Err("the queue does not answer".into());
        assert_says(&sentences(&seen), "cannot be seen");
    }
}
