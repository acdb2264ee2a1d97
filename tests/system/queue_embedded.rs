//! The embedded queue between processes: this test program runs itself again as a second one.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use backpack::queue::{EmbeddedQueue, Queue};

use crate::{
    queue_cases::{MOMENT, NOW, claim_all, claim_one, counts, id, nothing_to_claim, task, tasks, want},
    support::alone::in_a_process,
};

/// Where the second process finds the queue; set, it makes the test below do its work.
const CHILD_DIR: &str = "BACKPACK_TEST_QUEUE_DIR";

/// Long enough for the second process to be looked at while it works, and to renew in time on a slow machine.
const LEASE: Duration = Duration::from_secs(10);

fn open(dir: &Path) -> Arc<dyn Queue> {
    Arc::new(EmbeddedQueue::open(dir, LEASE).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_to_be_tried_again_keeps_its_attempts_when_it_is_pushed_again() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    let same = [task("4", "k")];
    queue.push(&same, NOW).await.unwrap();
    queue.retry(&claim_one(&queue).await, Duration::from_secs(3600)).await.unwrap();
    queue.push(&same, MOMENT).await.unwrap();
    assert_eq!(claim_one(&queue).await.attempts, 1);
    counts(&queue, "4", [0, 0, 1, 0]).await;
}

/// Waits for four tasks, claims them and works on them for ever.
#[tokio::test(flavor = "multi_thread")]
async fn child_claims_and_never_ends() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let queue = open(Path::new(&dir));
    println!("\nwaiting");
    let claims = claim_all(&queue, 4).await;
    println!("\nclaimed");
    loop {
        queue.renew(&claims).await.unwrap();
        tokio::time::sleep(LEASE / 4).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_sees_the_queue_live_and_gets_the_claims_of_a_dead_one() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    let mut child = in_a_process("queue_embedded::child_claims_and_never_ends")
        .env(CHILD_DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "waiting"));
    queue.push(&tasks("4", "k", 4), NOW).await.unwrap();
    assert!(lines.any(|line| line == "claimed"));
    counts(&queue, "4", [0, 0, 4, 0]).await;
    queue.pause(&id("5")).await.unwrap();
    queue.push(&[task("5", "k")], NOW).await.unwrap();
    // It renews its claims for longer than a lease.
    assert_eq!(queue.claim(&want(10), LEASE * 3 / 2).await.unwrap(), []);
    child.kill().unwrap();
    child.wait().unwrap();
    nothing_to_claim(&queue).await;
    let claims = claim_all(&queue, 4).await;
    assert!(claims.iter().all(|claim| claim.attempts == 1));
    queue.ack(&claims).await.unwrap();
    counts(&queue, "4", [0, 0, 0, 0]).await;
}
