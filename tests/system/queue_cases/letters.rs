//! Dead letters: buried tasks and poison, redriven or discarded.

use backpack::{
    daemon::unix_ms,
    queue::{DeadLetter, Filter},
};

use super::*;

async fn letters(queue: &Arc<dyn Queue>) -> Vec<DeadLetter> {
    queue.dead(&Filter::default(), 100).await.unwrap()
}

/// Pushes a task for each target and key, claims and buries it, one after the other.
async fn bury_each(queue: &Arc<dyn Queue>, names: &[(&str, &str)]) {
    for (target, key) in names {
        queue.push(&[task(target, key)], NOW).await.unwrap();
        let claim = claim_one(queue).await;
        queue.bury(&claim, &format!("no source has {key}")).await.unwrap();
        // Their order is that of the milliseconds.
        let died = unix_ms();
        eventually("the clock goes on", SOON, || async { unix_ms() > died }).await;
    }
}

pub async fn a_buried_task_keeps_what_happened<B: Backend>() {
    let mut backend = B::start(LEASE);
    let queue = backend.open();
    queue.push(&[task("4", "k")], NOW).await.unwrap();
    let claim = claim_one(&queue).await;
    queue.retry(&claim, NOW).await.unwrap();
    let claim = claim_one(&queue).await;
    let before = unix_ms();
    queue.bury(&claim, "the source lost it: \"404\"").await.unwrap();
    nothing_to_claim(&queue).await;
    counts(&queue, "4", [0, 0, 0, 1]).await;
    drop(queue);
    backend.crash();
    let queue = backend.open();
    let letters = letters(&queue).await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!(letter.task.as_ref(), Some(&claim.task));
    assert_eq!(letter.raw, serde_json::to_string(&claim.task).unwrap());
    assert_eq!((letter.attempts, letter.reason.as_str()), (1, "the source lost it: \"404\""));
    assert!(letter.died_ms >= before && letter.died_ms <= unix_ms());
    counts(&queue, "4", [0, 0, 0, 1]).await;
}

pub async fn a_redriven_task_starts_anew<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    queue.push(&[task("4", "k")], NOW).await.unwrap();
    let claim = claim_one(&queue).await;
    queue.retry(&claim, NOW).await.unwrap();
    queue.bury(&claim_one(&queue).await, "enough").await.unwrap();
    assert_eq!(queue.redrive(&Filter::default()).await.unwrap(), 1);
    assert_eq!(letters(&queue).await, []);
    let again = claim_one(&queue).await;
    assert_eq!((again.task, again.attempts), (claim.task, 0));
    assert_eq!(queue.redrive(&Filter::default()).await.unwrap(), 0);
}

pub async fn letters_are_chosen_by_target_key_and_id<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    bury_each(&queue, &[("a", "k1"), ("a", "k2"), ("b", "k1"), ("b", "k3"), ("c", "k4")]).await;
    let all = letters(&queue).await;
    let keys: Vec<_> = all.iter().map(|letter| letter.task.as_ref().unwrap().key.to_string()).collect();
    assert_eq!(keys, ["k1", "k2", "k1", "k3", "k4"], "the oldest first");
    assert_eq!(queue.dead(&Filter::default(), 2).await.unwrap(), all[..2]);

    let by_id = Filter { id: Some(all[3].id.clone()), ..Filter::default() };
    assert_eq!(queue.dead(&by_id, 10).await.unwrap(), all[3..4]);
    assert_eq!(queue.discard(&by_id).await.unwrap(), 1);
    assert_eq!(queue.discard(&by_id).await.unwrap(), 0);

    let of_b = Filter { target: Some(id("b")), ..Filter::default() };
    assert_eq!(queue.dead(&of_b, 10).await.unwrap(), all[2..3]);
    let k1_of_a = Filter { target: Some(id("a")), key: Some("k1".parse().unwrap()), id: None };
    assert_eq!(queue.redrive(&k1_of_a).await.unwrap(), 1);
    assert_eq!(claim_one(&queue).await.task, all[0].task.clone().unwrap());
    assert_eq!(queue.discard(&of_b).await.unwrap(), 1);
    assert_eq!(queue.discard(&Filter::default()).await.unwrap(), 2);
    assert_eq!(stats(&queue).await.dead(), 0);
}

pub async fn a_task_that_dies_twice_is_one_letter<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    let twice = task("4", "k");
    queue.push(&[twice.clone(), twice], NOW).await.unwrap();
    for claim in claim_all(&queue, 2).await {
        queue.bury(&claim, "enough").await.unwrap();
    }
    assert_eq!(letters(&queue).await.len(), 1);
    counts(&queue, "4", [0, 0, 0, 1]).await;
}

pub async fn poison_dies_by_itself_and_stops_nobody<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    backend.poison("4", "not-json").await;
    let other = serde_json::to_string(&task("5", "k")).unwrap();
    backend.poison("4", &other).await;
    queue.push(&[task("4", "good")], NOW).await.unwrap();
    assert_eq!(keys(&claim_all(&queue, 1).await), ["good"]);
    eventually("both are dead letters", SOON, || async {
        queue.claim(&want(10), NOW).await.unwrap();
        queue.stats().await.unwrap().poison == 2
    })
    .await;
    let letters = letters(&queue).await;
    assert!(letters.iter().all(|letter| letter.task.is_none()));
    let raw: HashSet<_> = letters.iter().map(|letter| letter.raw.as_str()).collect();
    assert_eq!(raw, HashSet::from(["not-json", other.as_str()]));
    assert!(letters.iter().any(|letter| letter.reason.contains("no task")), "{letters:?}");
    assert_eq!(queue.redrive(&Filter::default()).await.unwrap(), 0);
    counts(&queue, "4", [0, 0, 1, 0]).await;
    assert_eq!(queue.discard(&Filter::default()).await.unwrap(), 2);
    assert_eq!(stats(&queue).await.poison, 0);
}

pub async fn thousands_of_letters_are_redriven_and_discarded<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    let (gone, back) = (tasks("a", "gone", 600), tasks("b", "back", 700));
    queue.push(&gone, NOW).await.unwrap();
    queue.push(&back, NOW).await.unwrap();
    let claims = claim_all(&queue, 1300).await;
    let burials = claims.iter().map(|claim| queue.bury(claim, "enough"));
    assert!(futures_util::future::join_all(burials).await.iter().all(Result::is_ok));
    let of = |target| Filter { target: Some(id(target)), ..Filter::default() };
    assert_eq!(queue.dead(&Filter::default(), 5000).await.unwrap().len(), 1300);
    assert_eq!(queue.redrive(&of("b")).await.unwrap(), 700);
    assert_eq!(queue.discard(&of("a")).await.unwrap(), 600);
    assert_eq!(claim_all(&queue, 700).await.len(), 700);
    assert_eq!(stats(&queue).await.dead(), 0);
}
