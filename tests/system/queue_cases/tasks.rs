//! What goes in comes out: order, delays, durability, limits, pause.

use std::{collections::BTreeMap, time::Instant};

use backpack::{
    model::{ServerId, Task, Version},
    queue::{Filter, Stage, Want},
};

use super::*;

pub async fn pushed_tasks_come_back_whole_and_the_oldest_first<B: Backend>() {
    let backend = B::start(LEASE);
    let pushed = tasks("4", "k", 20);
    backend.open().push(&pushed, NOW).await.unwrap();
    let claims = claim_all(&backend.open(), 20).await;
    assert!(claims.iter().all(|claim| claim.attempts == 0));
    assert_eq!(claims.into_iter().map(|claim| claim.task).collect::<Vec<Task>>(), pushed);
}

pub async fn pushes_in_turn_come_back_in_turn<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    for n in 0..5 {
        queue.push(&[task("4", &format!("k{n}"))], NOW).await.unwrap();
        assert_eq!(claim_one(&queue).await.task.key.as_str(), format!("k{n}"));
    }
}

pub async fn what_was_pushed_survives_a_crash<B: Backend>() {
    let mut backend = B::start(LEASE);
    let queue = backend.open();
    queue.push(&tasks("4", "k", 50), NOW).await.unwrap();
    queue.push(&tasks("4", "later", 1), Duration::from_secs(3600)).await.unwrap();
    let acked = claim_all(&queue, 10).await;
    queue.ack(&acked).await.unwrap();
    counts(&queue, "4", [50 - acked.len() as u64, 1, 0, 0]).await;
    drop(queue);
    backend.crash();
    let queue = backend.open();
    assert_eq!(claim_all(&queue, 50 - acked.len()).await.len(), 50 - acked.len());
    counts(&queue, "4", [0, 1, 50 - acked.len() as u64, 0]).await;
}

pub async fn a_waiting_claim_gets_a_task_soon_after_the_push<B: Backend>() {
    let backend = B::start(LEASE);
    let (queue, pusher) = (backend.open(), backend.open());
    for n in 0..10 {
        let waiting = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.claim(&want(1), NEVER).await.unwrap() }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        pusher.push(&[task(&format!("t{n}"), "k")], NOW).await.unwrap();
        assert_eq!(soon(waiting).await.unwrap().len(), 1, "the push ends the wait");
    }
}

pub async fn an_empty_queue_is_waited_for_and_no_longer<B: Backend>() {
    let backend = B::start(LEASE);
    let begun = Instant::now();
    assert_eq!(soon(backend.open().claim(&want(5), MOMENT)).await.unwrap(), []);
    has_waited(begun, MOMENT);
}

pub async fn a_delayed_task_waits_for_its_time<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    let begun = Instant::now();
    // Far longer than the other one needs to be given out.
    let delay = Duration::from_secs(10);
    queue.push(&[task("4", "later")], delay).await.unwrap();
    queue.push(&[task("4", "now")], NOW).await.unwrap();
    assert_eq!(claim_one(&queue).await.task.key.as_str(), "now");
    counts(&queue, "4", [0, 1, 1, 0]).await;
    assert_eq!(claim_one(&queue).await.task.key.as_str(), "later");
    has_waited(begun, delay);
}

pub async fn a_task_that_waits_already_comes_at_the_earlier_time<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    let late = Duration::from_secs(3600);
    let same = [task("4", "k")];
    for delay in [late, MOMENT, late] {
        queue.push(&same, delay).await.unwrap();
    }
    claim_one(&queue).await;
    counts(&queue, "4", [0, 0, 1, 0]).await;
}

pub async fn a_delayed_task_can_be_taken_back<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    let pushed = tasks("4", "k", 3);
    queue.push(&pushed, Duration::from_secs(3600)).await.unwrap();
    counts(&queue, "4", [0, 3, 0, 0]).await;
    queue.cancel(&pushed[..2]).await.unwrap();
    counts(&queue, "4", [0, 1, 0, 0]).await;
    assert_eq!(queue.list(&Filter::default(), 10).await.unwrap()[0].task, pushed[2]);
    queue.cancel(&[task("4", "never-pushed")]).await.unwrap();
    counts(&queue, "4", [0, 1, 0, 0]).await;
}

pub async fn no_more_than_wanted_and_no_target_starves<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    queue.push(&tasks("big", "b", 300), NOW).await.unwrap();
    for target in ["a", "c", "d"] {
        queue.push(&tasks(target, "k", 10), NOW).await.unwrap();
    }
    let mut total = BTreeMap::<String, usize>::new();
    while ["a", "c", "d"].iter().any(|target| total.get(*target) != Some(&10)) {
        let claims = queue.claim(&want(4), SOON).await.unwrap();
        assert!(!claims.is_empty() && claims.len() <= 4, "{claims:?}");
        for claim in claims {
            *total.entry(claim.task.to.to_string()).or_default() += 1;
        }
    }
    assert!(total["big"] < 60, "{total:?}");
    assert_eq!(queue.claim(&want(0), NOW).await.unwrap(), []);
}

pub async fn no_more_of_a_target_than_wanted<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    for target in ["a", "b"] {
        queue.push(&tasks(target, "k", 20), NOW).await.unwrap();
    }
    let limited = Want { max: 100, max_per_target: 3, except: HashSet::new() };
    for _ in 0..5 {
        let claims = queue.claim(&limited, SOON).await.unwrap();
        assert!(!claims.is_empty() && per_target(&claims).values().all(|count| *count <= 3), "{claims:?}");
    }
}

pub async fn targets_not_wanted_are_left_out<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    for target in ["a", "b"] {
        queue.push(&tasks(target, "k", 5), NOW).await.unwrap();
    }
    let except = Want { except: HashSet::from([id("a")]), ..want(100) };
    let mut claims = Vec::new();
    while claims.len() < 5 {
        let more = queue.claim(&except, SOON).await.unwrap();
        assert!(!more.is_empty(), "only {claims:?}");
        claims.extend(more);
    }
    assert_eq!(queue.claim(&except, MOMENT).await.unwrap(), []);
    assert_eq!(per_target(&claims), BTreeMap::from([("b", 5)]));
    assert_eq!(per_target(&claim_all(&queue, 5).await), BTreeMap::from([("a", 5)]));
}

pub async fn a_paused_target_gives_out_nothing_until_resumed<B: Backend>() {
    let mut backend = B::start(LEASE);
    let queue = backend.open();
    queue.push(&tasks("a", "k", 2), NOW).await.unwrap();
    queue.push(&tasks("a", "due-while-paused", 1), MOMENT / 2).await.unwrap();
    queue.pause(&id("a")).await.unwrap();
    queue.pause(&id("idle")).await.unwrap();
    nothing_to_claim(&backend.open()).await;
    drop(queue);
    backend.crash();
    let queue = backend.open();
    nothing_to_claim(&queue).await;
    let now = stats(&queue).await;
    assert!(now.targets[&id("a")].paused && now.targets[&id("idle")].paused);
    assert_eq!(now.backlog(), 3);
    queue.resume(&id("a")).await.unwrap();
    queue.resume(&id("idle")).await.unwrap();
    assert_eq!(claim_all(&queue, 3).await.len(), 3);
    let now = stats(&queue).await;
    assert!(!now.targets[&id("a")].paused && !now.targets.contains_key(&id("idle")));
}

pub async fn two_versions_of_a_key_are_two_tasks<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    let (old, new) = (task("4", "k"), task("4", "k"));
    queue.push(std::slice::from_ref(&old), NOW).await.unwrap();
    let first = claim_one(&queue).await;
    // The key is written again while its first version is being copied: the end of that copy ends only that task.
    queue.push(std::slice::from_ref(&new), NOW).await.unwrap();
    queue.ack(std::slice::from_ref(&first)).await.unwrap();
    assert_eq!((first.task, claim_one(&queue).await.task), (old, new));
}

pub async fn keys_come_back_byte_for_byte<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    let strange = [
        "a:b",
        "a?b=c&d=%2F",
        "a%23b",
        "100%25",
        "фото/кот.jpg",
        "emoji-\u{1f9f3}",
        "quote\"and\\slash",
        "/leading",
        "\"created_ms\":1",
    ];
    let pushed: Vec<_> = strange.iter().map(|key| task("node-ü.1", key)).collect();
    queue.push(&pushed, NOW).await.unwrap();
    let claims = claim_all(&queue, strange.len()).await;
    assert_eq!(keys(&claims), strange);
    for claim in &claims[1..] {
        queue.retry(claim, NOW).await.unwrap();
    }
    queue.bury(&claims[0], "on purpose").await.unwrap();
    let filter = Filter { key: Some("a:b".parse().unwrap()), ..Filter::default() };
    assert_eq!(queue.redrive(&filter).await.unwrap(), 1);
    let again = claim_all(&queue, strange.len()).await;
    assert_eq!(keys(&again).into_iter().collect::<HashSet<_>>(), HashSet::from(strange));
}

pub async fn stats_and_lists_follow_each_step<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    assert_eq!(stats(&queue).await.targets, BTreeMap::new());
    let mut pushed = tasks("a", "k", 10);
    for (n, task) in pushed.iter_mut().enumerate() {
        task.created_ms = 1_000 + n as u64;
        task.version = Some(Version::from_parts(task.created_ms, 1));
    }
    queue.push(&pushed, NOW).await.unwrap();
    counts(&queue, "a", [10, 0, 0, 0]).await;
    assert_eq!(stats(&queue).await.oldest_ms(), Some(1_000));
    let claims = queue.claim(&want(8), SOON).await.unwrap();
    let claimed = claims.len() as u64;
    counts(&queue, "a", [10 - claimed, 0, claimed, 0]).await;
    queue.ack(&claims[..1]).await.unwrap();
    counts(&queue, "a", [10 - claimed, 0, claimed - 1, 0]).await;
    assert_eq!(stats(&queue).await.oldest_ms(), Some(1_001));
    queue.retry(&claims[1], Duration::from_secs(3600)).await.unwrap();
    counts(&queue, "a", [10 - claimed, 1, claimed - 2, 0]).await;
    assert_eq!(stats(&queue).await.oldest_ms(), Some(1_001));
    let rest: Vec<_> = claims[2..].to_vec();
    for claim in &rest {
        queue.bury(claim, "on purpose").await.unwrap();
    }
    counts(&queue, "a", [10 - claimed, 1, 0, rest.len() as u64]).await;

    let now = stats(&queue).await;
    assert_eq!(now.targets.keys().cloned().collect::<Vec<ServerId>>(), [id("a")]);
    assert_eq!((now.backlog(), now.dead(), now.poison), (11 - claimed, rest.len() as u64, 0));
    assert!(!now.servers.is_empty() && now.servers.iter().all(|server| server.error.is_none()));

    let listed = queue.list(&Filter::default(), 100).await.unwrap();
    assert_eq!(listed.len() as u64, 11 - claimed);
    let retried = listed.iter().find(|listed| listed.task == pushed[1]).unwrap();
    assert_eq!((retried.stage, retried.attempts), (Stage::Delayed, 1));
    assert_eq!(queue.list(&Filter::default(), 3).await.unwrap().len(), 3);
    let one = Filter { key: Some("k9".parse().unwrap()), ..Filter::default() };
    assert_eq!(queue.list(&one, 100).await.unwrap()[0].stage, Stage::Ready);
    let none = Filter { target: Some(id("b")), ..Filter::default() };
    assert_eq!(queue.list(&none, 100).await.unwrap(), []);
    claim_all(&queue, (10 - claimed) as usize).await;
    let now = queue.list(&one, 100).await.unwrap();
    assert_eq!((now.len(), now[0].stage), (1, Stage::Claimed));
}
