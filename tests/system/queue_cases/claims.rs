//! What becomes of a claim: ack, retry, release, the lease and its renewal.

use std::time::Instant;

use super::*;

/// Short enough to be waited for, long enough for a slow machine to do something before it ends.
const SHORT_LEASE: Duration = Duration::from_secs(6);

pub async fn an_acked_task_is_gone<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    queue.push(&tasks("4", "k", 5), NOW).await.unwrap();
    let claims = claim_all(&queue, 5).await;
    nothing_to_claim(&queue).await;
    queue.ack(&claims).await.unwrap();
    queue.ack(&claims).await.unwrap();
    queue.ack(&[]).await.unwrap();
    counts(&queue, "4", [0, 0, 0, 0]).await;
    assert!(stats(&queue).await.targets.is_empty());
}

pub async fn a_retry_leaves_the_claim_waits_and_counts<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    queue.push(&[task("4", "k")], NOW).await.unwrap();
    for attempts in 0..3 {
        let claim = claim_one(&queue).await;
        assert_eq!(claim.attempts, attempts);
        let begun = Instant::now();
        queue.retry(&claim, MOMENT * 2).await.unwrap();
        let again = claim_one(&queue).await;
        has_waited(begun, MOMENT * 2);
        assert_eq!((again.attempts, &again.task), (attempts + 1, &claim.task));
        queue.release(&again, NOW).await.unwrap();
    }
    let claim = claim_one(&queue).await;
    assert_eq!(claim.attempts, 3);
    queue.retry(&claim, NEVER).await.unwrap();
    counts(&queue, "4", [0, 1, 0, 0]).await;
    nothing_to_claim(&queue).await;
}

pub async fn a_release_counts_no_attempt<B: Backend>() {
    let backend = B::start(LEASE);
    let queue = backend.open();
    queue.push(&[task("4", "k")], NOW).await.unwrap();
    let claim = claim_one(&queue).await;
    queue.retry(&claim, NOW).await.unwrap();
    for _ in 0..3 {
        let claim = claim_one(&queue).await;
        assert_eq!(claim.attempts, 1);
        queue.release(&claim, MOMENT).await.unwrap();
    }
    let claim = claim_one(&queue).await;
    assert_eq!(claim.attempts, 1);
    queue.release(&claim, NEVER).await.unwrap();
    counts(&queue, "4", [0, 1, 0, 0]).await;
    nothing_to_claim(&queue).await;
}

pub async fn a_claim_whose_lease_ended_comes_back_to_others<B: Backend>() {
    let backend = B::start(SHORT_LEASE);
    let (dies, lives) = (backend.open(), backend.open());
    dies.push(&tasks("4", "k", 3), NOW).await.unwrap();
    let begun = Instant::now();
    let claims = claim_all(&dies, 3).await;
    drop(dies);
    nothing_to_claim(&lives).await;
    let again = claim_all(&lives, 3).await;
    has_waited(begun, SHORT_LEASE);
    assert_eq!(keys(&again).into_iter().collect::<HashSet<_>>(), keys(&claims).into_iter().collect());
    // A task that kills whoever works on it must be given up some day.
    assert!(again.iter().all(|claim| claim.attempts == 1));
    lives.ack(&again).await.unwrap();
    counts(&lives, "4", [0, 0, 0, 0]).await;
    nothing_to_claim(&lives).await;
}

pub async fn renewal_keeps_a_claim<B: Backend>() {
    let backend = B::start(SHORT_LEASE);
    let (works, waits) = (backend.open(), backend.open());
    works.push(&tasks("4", "k", 2), NOW).await.unwrap();
    let claims = claim_all(&works, 2).await;
    let until = Instant::now() + SHORT_LEASE * 2;
    while Instant::now() < until {
        works.renew(&claims).await.unwrap();
        assert_eq!(waits.claim(&want(10), SHORT_LEASE / 5).await.unwrap(), []);
    }
    works.ack(&claims).await.unwrap();
    works.renew(&claims).await.unwrap();
    assert_eq!(waits.claim(&want(10), SHORT_LEASE * 3 / 2).await.unwrap(), []);
    counts(&waits, "4", [0, 0, 0, 0]).await;
}

pub async fn an_end_after_the_lease_loses_nothing<B: Backend>() {
    let backend = B::start(SHORT_LEASE);
    let queue = backend.open();
    queue.push(&tasks("4", "k", 2), NOW).await.unwrap();
    let late = claim_all(&queue, 2).await;
    let taken_over = claim_all(&queue, 2).await;
    // The first claimant, thought dead, ends its work after all.
    for claim in &late {
        queue.retry(claim, NOW).await.unwrap();
    }
    assert_eq!(claim_all(&queue, 2).await.len(), 2);
    queue.ack(&taken_over).await.unwrap();
}

pub async fn many_claimants_drain_each_task_once<B: Backend>() {
    const TASKS: usize = 10_000;
    const CLAIMANTS: usize = 4;
    let backend = B::start(LEASE);
    let queue = backend.open();
    let mut pushed: Vec<_> = (0..10).flat_map(|n| tasks(&format!("t{n}"), "k", TASKS / 10)).collect();
    fastrand::shuffle(&mut pushed);
    let begun = Instant::now();
    queue.push(&pushed, NOW).await.unwrap();
    let push_took = begun.elapsed();
    // A backup made after its task was done would come due.
    eventually("the backups are made", SOON, || async {
        let servers = stats(&queue).await.servers;
        servers.iter().all(|server| server.entries == TASKS as u64)
    })
    .await;
    let begun = Instant::now();
    let left = Arc::new(std::sync::atomic::AtomicUsize::new(TASKS));
    let claimants: Vec<_> = (0..CLAIMANTS)
        .map(|_| {
            let (queue, left) = (backend.open(), Arc::clone(&left));
            tokio::spawn(async move {
                let mut done = Vec::new();
                while left.load(std::sync::atomic::Ordering::SeqCst) > 0 && begun.elapsed() < SOON * 6 {
                    let claims = queue.claim(&want(100), MOMENT).await.unwrap();
                    queue.ack(&claims).await.unwrap();
                    left.fetch_sub(claims.len(), std::sync::atomic::Ordering::SeqCst);
                    done.extend(claims.into_iter().map(|claim| claim.task));
                }
                done
            })
        })
        .collect();
    let mut done = Vec::new();
    for claimant in claimants {
        done.extend(claimant.await.unwrap());
    }
    let rate = |time: Duration| (TASKS as f64 / time.as_secs_f64()).round();
    println!("pushed {}/s in one call, claimed and acked {}/s", rate(push_took), rate(begun.elapsed()));
    let name = |task: &backpack::model::Task| (task.to.clone(), task.key.clone(), task.version);
    assert_eq!(done.len(), TASKS);
    assert_eq!(
        done.iter().map(name).collect::<HashSet<_>>(),
        pushed.iter().map(name).collect::<HashSet<_>>()
    );
    eventually("nothing is left", SOON, || async { queue.stats().await.unwrap().backlog() == 0 }).await;
}

/// What is known of the tasks of [`random_work_loses_nothing`].
#[derive(Default)]
struct Known {
    pushed: HashSet<String>,
    done: HashSet<String>,
    held: Vec<Claim>,
}

impl Known {
    async fn step(&mut self, queue: &Arc<dyn Queue>, random: &mut fastrand::Rng) {
        let delay = Duration::from_millis(random.u64(..4) * 20);
        let target = format!("t{}", random.u8(..4));
        match random.u8(..12) {
            0..4 => {
                let tasks = tasks(&target, &format!("{}-", self.pushed.len()), random.usize(1..6));
                self.pushed.extend(tasks.iter().map(|task| task.key.to_string()));
                queue.push(&tasks, delay).await.unwrap();
            }
            4..7 => {
                let max_per_target = random.usize(1..5);
                let except = if random.bool() { HashSet::from([id(&target)]) } else { HashSet::new() };
                let want = Want { max: random.usize(1..10), max_per_target, except };
                let claims = queue.claim(&want, delay).await.unwrap();
                assert!(
                    claims.len() <= want.max
                        && claims.iter().all(|claim| !want.except.contains(&claim.task.to))
                );
                assert!(per_target(&claims).values().all(|count| *count <= want.max_per_target));
                self.held.extend(claims);
            }
            7 => drop(queue.redrive(&backpack::queue::Filter::default()).await.unwrap()),
            8 => queue.pause(&id(&target)).await.unwrap(),
            9 => queue.resume(&id(&target)).await.unwrap(),
            _ => {
                for claim in self.held.drain(..) {
                    match random.u8(..4) {
                        0 => queue.retry(&claim, delay).await.unwrap(),
                        1 => queue.release(&claim, delay).await.unwrap(),
                        2 => queue.bury(&claim, "at random").await.unwrap(),
                        _ => {
                            self.done.insert(claim.task.key.to_string());
                            queue.ack(&[claim]).await.unwrap();
                        }
                    }
                }
            }
        }
    }
}

pub async fn random_work_loses_nothing<B: Backend>() {
    for seed in 0..4 {
        println!("seed {seed}");
        let backend = B::start(LEASE);
        let queue = backend.open();
        let (mut known, mut random) = (Known::default(), fastrand::Rng::with_seed(seed));
        for _ in 0..200 {
            known.step(&queue, &mut random).await;
        }
        for target in 0..4 {
            queue.resume(&id(&format!("t{target}"))).await.unwrap();
        }
        for claim in known.held.drain(..) {
            queue.release(&claim, NOW).await.unwrap();
        }
        let begun = Instant::now();
        while known.done != known.pushed {
            assert!(begun.elapsed() < SOON, "lost: {:?}", known.pushed.difference(&known.done));
            queue.redrive(&backpack::queue::Filter::default()).await.unwrap();
            let claims = queue.claim(&want(50), MOMENT).await.unwrap();
            known.done.extend(claims.iter().map(|claim| claim.task.key.to_string()));
            queue.ack(&claims).await.unwrap();
        }
    }
}
