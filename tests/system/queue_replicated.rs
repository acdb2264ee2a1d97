//! Several queues as one: what goes where, slow members, members that change, the map that names them.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use backpack::{
    model::QueueInfo,
    queue::{
        COMMAND_TIMEOUT, EmbeddedQueue, Filter, FollowQueue, MeteredQueue, Queue, QueueError,
        ReplicatedQueue, Stage, Want,
    },
    telemetry,
};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{
    queue_cases::{
        LEASE, MOMENT, NEVER, NOW, SOON,
        backend::{KEY, info, map_with, options},
        claim_all, claim_one, counts, id, keys, nothing_to_claim, soon, stats, task, tasks, want,
    },
    support::{alone::is_alone, queue::WatchedQueue, redis::Redis, wait::eventually},
};

/// Longer than the others are waited for, short enough that the tests end soon.
const SLOW: Duration = Duration::from_millis(1500);

/// Of so many pushes in a row each member is to be the first one of some.
const MANY: usize = 150;

struct Members {
    queues: Vec<Arc<dyn Queue>>,
    _dirs: Vec<TempDir>,
}

impl Members {
    fn new(count: usize) -> Self {
        let dirs: Vec<_> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let open = |dir: &TempDir| Arc::new(EmbeddedQueue::open(dir.path(), LEASE).unwrap());
        Self { queues: dirs.iter().map(|dir| open(dir) as Arc<dyn Queue>).collect(), _dirs: dirs }
    }

    /// Those at these places as one queue.
    fn together(&self, places: &[usize], backup_delay: Duration) -> Arc<dyn Queue> {
        let member = |place: &usize| (format!("m{place}"), Arc::clone(&self.queues[*place]));
        Arc::new(ReplicatedQueue::new(places.iter().map(member).collect(), backup_delay))
    }
}

/// A queue with tasks of target `slow` that holds what is claimed, one that does not with tasks of `quick`, and both as
/// one.
async fn slow_and_quick() -> (Members, Arc<WatchedQueue>, Arc<dyn Queue>) {
    let members = Members::new(2);
    members.queues[0].push(&tasks("slow", "s", 3), NOW).await.unwrap();
    members.queues[1].push(&tasks("quick", "q", 3), NOW).await.unwrap();
    let slow = Arc::new(WatchedQueue::new(Arc::clone(&members.queues[0])));
    slow.holds_claims.send_replace(true);
    let both: Vec<(String, Arc<dyn Queue>)> =
        vec![("m0".into(), slow.clone()), ("m1".into(), Arc::clone(&members.queues[1]))];
    (members, slow, Arc::new(ReplicatedQueue::new(both, NEVER)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_failed_while_its_push_was_being_finished_is_not_taken_back_with_its_backup() {
    const LATER: Duration = Duration::from_millis(200);
    let members = Members::new(2);
    let (down, up) =
        (WatchedQueue::new(members.queues[0].clone()), WatchedQueue::new(members.queues[1].clone()));
    down.full.store(true, SeqCst);
    *up.cancel_delay.lock() = LATER;
    let both: Vec<(String, Arc<dyn Queue>)> =
        vec![("m0".into(), Arc::new(down)), ("m1".into(), Arc::new(up))];
    let queue = ReplicatedQueue::new(both, NEVER);
    // Some of these are first pushed to the other one as a backup.
    let pushed = tasks("4", "k", MANY);
    for task in &pushed {
        queue.push(std::slice::from_ref(task), NOW).await.unwrap();
    }
    let queue: Arc<dyn Queue> = Arc::new(queue);
    for claim in claim_all(&queue, MANY).await {
        queue.retry(&claim, Duration::from_secs(3600)).await.unwrap();
    }
    let until = Instant::now() + 3 * LATER;
    while Instant::now() < until {
        assert_eq!(stats(&queue).await.backlog(), MANY as u64);
        tokio::time::sleep(LATER / 10).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_member_holds_nobody_up_and_its_claims_are_given_to_the_next() {
    let (_members, slow, queue) = slow_and_quick().await;
    assert_eq!(keys(&soon(queue.claim(&want(10), NEVER)).await.unwrap()), ["q0", "q1", "q2"]);
    slow.holds_claims.send_replace(false);
    let late = queue.claim(&want(10), SOON).await.unwrap();
    assert_eq!(keys(&late), ["s0", "s1", "s2"]);
    queue.ack(&late).await.unwrap();
    counts(&queue, "slow", [0, 0, 0, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_claim_that_is_not_wanted_goes_back_untried() {
    let (members, slow, queue) = slow_and_quick().await;
    assert_eq!(queue.claim(&want(10), SOON).await.unwrap().len(), 3);
    counts(&members.queues[0], "slow", [0, 0, 3, 0]).await;
    slow.holds_claims.send_replace(false);
    let except = Want { except: [id("slow")].into(), ..want(10) };
    eventually("it goes back", SOON, || async {
        assert_eq!(queue.claim(&except, NOW).await.unwrap(), []);
        stats(&members.queues[0]).await.targets[&id("slow")].ready == 3
    })
    .await;
    let claims = queue.claim(&want(10), SOON).await.unwrap();
    assert!(claims.len() == 3 && claims.iter().all(|claim| claim.attempts == 0), "{claims:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_members_are_slow_tasks_come_all_the_same() {
    let members = Members::new(2);
    let member = |place: usize| {
        let slow = WatchedQueue::new(Arc::clone(&members.queues[place]));
        *slow.claim_delay.lock() = SLOW;
        (format!("m{place}"), Arc::new(slow) as Arc<dyn Queue>)
    };
    let both = vec![member(0), member(1)];
    let queue: Arc<dyn Queue> = Arc::new(ReplicatedQueue::new(both, NEVER));
    for n in 0..4 {
        queue.push(&tasks("4", &format!("k{n}-"), 5), NOW).await.unwrap();
    }
    let claims = claim_all(&queue, 20).await;
    queue.ack(&claims).await.unwrap();
    counts(&queue, "4", [0, 0, 0, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_task_stands_on_two_members_and_is_ready_on_one() {
    let members = Members::new(3);
    let queue = members.together(&[0, 1, 2], NEVER);
    // Until each of them was the first one as often as the others.
    for n in 0..192 {
        queue.push(&[task("4", &format!("k{n}"))], NOW).await.unwrap();
    }
    let mut totals = (0, 0);
    eventually("all backups are made", SOON, || async {
        stats(&queue).await.servers.iter().map(|server| server.entries).sum::<u64>() == 384
    })
    .await;
    for member in &members.queues {
        let target = stats(member).await.targets[&id("4")].clone();
        assert_eq!(target.backlog(), 128);
        totals = (totals.0 + target.ready, totals.1 + target.delayed);
    }
    assert_eq!(totals, (192, 192));
    assert_eq!(stats(&queue).await.backlog(), 192);
    assert_eq!(queue.list(&Filter::default(), 1000).await.unwrap().len(), 192);
    let claims = claim_all(&queue, 192).await;
    queue.ack(&claims).await.unwrap();
    eventually("all backups are taken back", SOON, || async { stats(&queue).await.backlog() == 0 }).await;
}

/// Two members that are watched, and both as one.
fn watched() -> (Members, [Arc<WatchedQueue>; 2], Arc<dyn Queue>) {
    let members = Members::new(2);
    let watched = [0, 1].map(|place: usize| Arc::new(WatchedQueue::new(members.queues[place].clone())));
    let named = watched.iter().zip(["m0", "m1"]);
    let named = named.map(|(member, name)| (name.to_owned(), member.clone() as Arc<dyn Queue>));
    let queue = Arc::new(ReplicatedQueue::new(named.collect(), NEVER));
    (members, watched, queue)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_ahead_is_kept_at_once_and_given_out_when_it_has_happened() {
    let (members, _, queue) = watched();
    for n in 0..MANY {
        let pushed = task("4", &format!("k{n}"));
        let ahead = queue.push_ahead(std::slice::from_ref(&pushed)).unwrap();
        let kept = async || queue.list(&Filter::default(), 10).await.unwrap();
        eventually("it is kept", SOON, || async {
            matches!(&kept().await[..], [one] if one.stage == Stage::Delayed)
        })
        .await;
        ahead.happened().await.unwrap();
        let claim = claim_one(&queue).await;
        assert_eq!(claim.task, pushed);
        queue.ack(&[claim]).await.unwrap();
        eventually("nothing is left", SOON, || async { kept().await.is_empty() }).await;
    }
    for member in &members.queues {
        assert_eq!(stats(member).await.backlog(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_ahead_and_does_not_happen_is_taken_back() {
    let (_members, _, queue) = watched();
    for n in 0..MANY {
        let ahead = queue.push_ahead(&[task("4", &format!("k{n}"))]).unwrap();
        if n % 2 == 0 {
            eventually("it is kept", SOON, || async { stats(&queue).await.backlog() == 1 }).await;
        }
        drop(ahead);
        eventually("it is gone", SOON, || async { stats(&queue).await.backlog() == 0 }).await;
    }
    // What was dropped before its turn came is not pushed after all.
    queue.push_ahead(&[task("4", "last")]).unwrap().happened().await.unwrap();
    assert_eq!(keys(&[claim_one(&queue).await]), ["last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_fails_or_hangs_holds_up_nothing_that_is_pushed_ahead() {
    for hangs in [false, true] {
        let (_members, watched, queue) = watched();
        watched[0].full.store(true, SeqCst);
        watched[0].holds_pushes.send_replace(hangs);
        for n in 0..MANY {
            let ahead = queue.push_ahead(&[task("4", &format!("k{n}"))]).unwrap();
            soon(ahead.happened()).await.unwrap();
        }
        watched[0].holds_pushes.send_replace(false);
        // Also those of which the other one was only to keep the backup.
        let claims = claim_all(&queue, MANY).await;
        queue.ack(&claims).await.unwrap();
        eventually("nothing is left", SOON, || async { stats(&queue).await.backlog() == 0 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_member_takes_is_said_when_it_has_happened() {
    let (_members, watched, queue) = watched();
    watched.iter().for_each(|member| member.full.store(true, SeqCst));
    for n in 0..MANY {
        let ahead = queue.push_ahead(&[task("4", &format!("k{n}"))]).unwrap();
        assert!(matches!(soon(ahead.happened()).await, Err(QueueError::Unavailable(_))));
    }
    watched.iter().for_each(|member| member.full.store(false, SeqCst));
    queue.push_ahead(&[task("4", "again")]).unwrap().happened().await.unwrap();
    assert_eq!(keys(&[claim_one(&queue).await]), ["again"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_failed_since_is_not_relied_on_for_what_it_kept() {
    let (_members, watched, queue) = watched();
    for n in 0..MANY {
        let pushed = tasks("4", &format!("k{n}-"), 1);
        let ahead = queue.push_ahead(&pushed).unwrap();
        eventually("it is kept", SOON, || async { stats(&queue).await.backlog() == 1 }).await;
        watched.iter().for_each(|member| member.full.store(true, SeqCst));
        assert!(queue.push(&[task("4", "fails")], NOW).await.is_err());
        assert!(soon(ahead.happened()).await.is_err(), "nobody says that it has it now");
        watched.iter().for_each(|member| member.full.store(false, SeqCst));
        // It was kept all the same.
        queue.cancel(&pushed).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn once_it_is_settled_all_that_happened_is_given_out() {
    let (members, _, queue) = watched();
    for n in 0..MANY {
        queue.push_ahead(&[task("4", &format!("k{n}"))]).unwrap().happened().await.unwrap();
    }
    queue.settle().await;
    let mut ready = 0;
    for member in &members.queues {
        ready += stats(member).await.targets[&id("4")].ready;
    }
    assert_eq!(ready, MANY as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_too_long_for_a_member_goes_to_another_one_only() {
    /// Of each push: three turns and a half of all of them.
    const TASKS: usize = 12;
    let (members, watched, queue) = watched();
    watched[0].holds_pushes.send_replace(true);
    for n in 0..MANY {
        soon(queue.push(&tasks("4", &format!("k{n}-"), TASKS), NOW)).await.unwrap();
    }
    // As long as a part of a push may wait for its turn.
    tokio::time::sleep(COMMAND_TIMEOUT).await;
    watched[0].holds_pushes.send_replace(false);
    let claims = claim_all(&queue, MANY * TASKS).await;
    let held = stats(&members.queues[0]).await.backlog();
    assert!(held < (MANY * TASKS / 2) as u64, "{held}: no more than what was under way, and the last turn");
    queue.ack(&claims).await.unwrap();
    eventually("nothing is left", SOON, || async { stats(&queue).await.backlog() == 0 }).await;
}

/// On one thread, so that what is pushed without a pause between waits together.
#[tokio::test]
async fn what_is_pushed_while_a_push_is_under_way_goes_together() {
    let (_members, watched, queue) = watched();
    let hold = |holds| watched.iter().for_each(|member| _ = member.holds_pushes.send_replace(holds));
    hold(true);
    let calls = |place: usize| watched[place].pushes.lock().clone();
    let first = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.push(&[task("4", "first")], NOW).await }
    });
    eventually("it is under way", SOON, || async { (calls(0), calls(1)) == (vec![1], vec![1]) }).await;
    // Of so many tasks one turn has 500 or a little more, as a push is not divided.
    let aheads: Vec<_> =
        (0..MANY).map(|n| queue.push_ahead(&tasks("4", &format!("k{n}-"), 6)).unwrap()).collect();
    let given_up: Vec<_> = (0..MANY).map(|_| queue.push_ahead(&[task("4", "never")]).unwrap()).collect();
    drop(given_up);
    hold(false);
    first.await.unwrap().unwrap();
    eventually("all are kept", SOON, || async {
        let entries: u64 = stats(&queue).await.servers.iter().map(|server| server.entries).sum();
        entries == 2 + 6 * MANY as u64
    })
    .await;
    let most = calls(0).into_iter().chain(calls(1)).max().unwrap();
    assert!(most < 500 + 6 && calls(0).len() + calls(1).len() <= 2 + 4, "{:?} {:?}", calls(0), calls(1));
    assert_eq!(
        calls(0).iter().chain(&calls(1)).sum::<usize>(),
        2 + 6 * MANY,
        "what was given up is left out"
    );
    drop(aheads);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_has_nobody_to_push_ahead_to() {
    let members = Members::new(1);
    assert!(members.together(&[0], NEVER).push_ahead(&[task("4", "k")]).is_none());
    assert!(members.queues[0].push_ahead(&[task("4", "k")]).is_none());
}

/// On one thread, so that both answers are there before either is looked at.
#[tokio::test]
async fn a_task_that_two_members_give_at_once_is_given_once() {
    let members = Members::new(2);
    let held = members.queues.iter().map(|member| {
        let held = WatchedQueue::new(Arc::clone(member));
        held.holds_claims.send_replace(true);
        Arc::new(held)
    });
    let held: Vec<_> = held.collect();
    let both =
        held.iter().zip(["m0", "m1"]).map(|(held, name)| (name.into(), held.clone() as Arc<dyn Queue>));
    let queue: Arc<dyn Queue> = Arc::new(ReplicatedQueue::new(both.collect(), NEVER));
    let pushed = tasks("4", "k", 3);
    for member in &members.queues {
        member.push(&pushed, NOW).await.unwrap();
    }
    let asking = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.claim(&want(6), SOON).await.unwrap() }
    });
    for member in &members.queues {
        counts(member, "4", [0, 0, 3, 0]).await;
    }
    for held in &held {
        held.holds_claims.send_replace(false);
    }
    let claims = asking.await.unwrap();
    eventually("the other ones are put off", SOON, || async {
        let delayed = async |member: &Arc<dyn Queue>| stats(member).await.targets[&id("4")].delayed;
        delayed(&members.queues[0]).await + delayed(&members.queues[1]).await == 3
    })
    .await;
    assert_eq!(keys(&claims), ["k0", "k1", "k2"]);
    nothing_to_claim(&queue).await;
    queue.ack(&claims).await.unwrap();
    counts(&queue, "4", [0, 0, 0, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_wanted_than_members_are_found_wherever_they_are() {
    let members = Members::new(3);
    let queue = members.together(&[0, 1, 2], NEVER);
    for (place, member) in members.queues.iter().enumerate() {
        member.push(&tasks("4", &format!("k{place}-"), 4), NOW).await.unwrap();
    }
    for _ in 0..12 {
        let claims = queue.claim(&Want { max: 5, max_per_target: 1, ..want(5) }, NOW).await.unwrap();
        assert_eq!(claims.len(), 1);
    }
    nothing_to_claim(&queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_on_two_members_is_one() {
    let members = Members::new(2);
    let queue = members.together(&[0, 1], NEVER);
    let pushed = tasks("4", "k", 3);
    for (place, some) in [(0, &pushed[..2]), (1, &pushed[1..])] {
        let member = &members.queues[place];
        member.push(some, NOW).await.unwrap();
        for claim in claim_all(member, 2).await {
            member.bury(&claim, "enough").await.unwrap();
        }
    }
    assert_eq!(queue.dead(&Filter::default(), 100).await.unwrap().len(), 3);
    assert_eq!(stats(&queue).await.dead(), 3);
    let second = Filter { key: Some("k1".parse().unwrap()), ..Filter::default() };
    assert_eq!(queue.discard(&second).await.unwrap(), 1);
    assert_eq!(queue.redrive(&Filter::default()).await.unwrap(), 2);
    assert_eq!(stats(&queue).await.dead(), 0);
    assert_eq!(claim_all(&queue, 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_means_the_same_after_the_members_changed() {
    let members = Members::new(3);
    let before = members.together(&[0, 1], NEVER);
    // All three give their entries the same numbers.
    for (place, member) in members.queues.iter().enumerate() {
        member.push(&[task("4", &format!("k{place}"))], NOW).await.unwrap();
    }
    let claims = claim_all(&before, 2).await;
    let (gone, stays): (Vec<_>, Vec<_>) =
        claims.into_iter().partition(|claim| claim.task.key.as_str() == "k0");
    let after = members.together(&[1, 2], NEVER);
    assert_eq!(keys(&[claim_one(&after).await]), ["k2"]);
    // Work on a server that is no longer named ends: nothing of the others ends with it.
    after.ack(&gone).await.unwrap();
    after.renew(&gone).await.unwrap();
    for place in [1, 2] {
        counts(&members.queues[place], "4", [0, 0, 1, 0]).await;
    }
    // It fails: the task goes to one that is named.
    after.retry(&gone[0], NOW).await.unwrap();
    let again = claim_one(&after).await;
    assert_eq!((again.task.key.as_str(), again.attempts), ("k0", 1));
    after.ack(&[again]).await.unwrap();
    after.ack(&stays).await.unwrap();
    counts(&members.queues[1], "4", [0, 0, 0, 0]).await;
    counts(&members.queues[2], "4", [0, 0, 1, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_follows_the_map() {
    let (one, other) = (Redis::start(), Redis::start());
    let folder = tempfile::tempdir().unwrap();
    let (maps, map) = watch::channel(map_with(None));
    let follow = FollowQueue::new(map, options(LEASE), Some(folder.path().to_owned()));
    let queue: Arc<dyn Queue> = Arc::new(follow);
    assert_eq!(queue.push(&[task("4", "k")], NOW).await, Err(QueueError::NotSet));
    assert_eq!(queue.stats().await, Err(QueueError::NotSet));

    maps.send_replace(map_with(Some(info(&[]))));
    queue.push(&[task("4", "embedded")], NOW).await.unwrap();
    assert_eq!(stats(&queue).await.servers[0].name, "embedded");

    maps.send_replace(map_with(Some(info(&[&one]))));
    nothing_to_claim(&queue).await;
    queue.push(&tasks("4", "one", 2), NOW).await.unwrap();
    let worked_on = claim_one(&queue).await;

    // The server that stays named keeps its connection and its claims.
    let connections = || {
        let info = one.command("INFO stats");
        let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().parse::<u64>().unwrap()
    };
    let before = connections();
    maps.send_replace(map_with(Some(info(&[&other, &one]))));
    queue.ack(&[worked_on]).await.unwrap();
    queue.push(&tasks("5", "both", 4), NOW).await.unwrap();
    assert_eq!(claim_all(&queue, 5).await.len(), 5);
    assert_eq!(connections(), before + 1, "the one that asks");
    assert_eq!(stats(&queue).await.servers.len(), 2);

    // Another key is another queue.
    let ahead = queue.push_ahead(&[task("4", "ahead")]).unwrap();
    let elsewhere = QueueInfo { key: format!("{KEY}-2"), ..info(&[&one]) };
    maps.send_replace(map_with(Some(elsewhere)));
    assert_eq!(stats(&queue).await.backlog(), 0);
    assert!(matches!(ahead.happened().await, Err(QueueError::Unavailable(_))), "nobody claims from that one");

    maps.send_replace(map_with(Some(info(&[]))));
    assert_eq!(keys(&[claim_one(&queue).await]), ["embedded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_without_servers_needs_a_directory() {
    let Err(QueueError::Failed(text)) = backpack::queue::connect(&info(&[]), &options(LEASE), None).map(drop)
    else {
        panic!()
    };
    assert!(text.contains("set-queue"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_through_is_counted() {
    if !is_alone("queue_replicated::what_goes_through_is_counted") {
        return;
    }
    telemetry::metrics::install();
    let members = Members::new(2);
    let queue: Arc<dyn Queue> = Arc::new(MeteredQueue::new(members.together(&[0, 1], NEVER)));
    drop(queue.push_ahead(&tasks("4", "not", 1)).unwrap());
    queue.push_ahead(&tasks("4", "k", 2)).unwrap().happened().await.unwrap();
    queue.push(&tasks("4", "l", 2), NOW).await.unwrap();
    let claims = claim_all(&queue, 4).await;
    queue.ack(&claims[..1]).await.unwrap();
    queue.retry(&claims[1], MOMENT).await.unwrap();
    queue.release(&claims[2], MOMENT).await.unwrap();
    queue.bury(&claims[3], "enough").await.unwrap();
    let text = telemetry::metrics::render();
    for line in [
        "backpack_queue_pushed_total 4",
        "backpack_queue_claimed_total 4",
        "backpack_queue_acked_total 1",
        "backpack_queue_retried_total 1",
        "backpack_queue_released_total 1",
        "backpack_queue_buried_total 1",
        "backpack_queue_push_seconds_count 2",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
