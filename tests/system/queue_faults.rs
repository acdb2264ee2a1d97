//! What becomes of the queue when Redis servers die, forget, hang, ask for a password or speak TLS.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use backpack::{
    model::{QueueInfo, QueueServer, Task},
    queue::{Filter, Queue, QueueError, QueueOptions, RedisQueue, connect},
};
use futures_util::future::join_all;

use crate::{
    queue_cases::{
        LEASE, MOMENT, NEVER, NOW, SOON,
        backend::{KEY, durable_redis, info, options, server},
        claim_all, claim_one, counts, id, keys, nothing_to_claim, soon, stats, task, tasks, want,
    },
    support::{
        redis::{Redis, RedisOptions},
        tls::Certificates,
        wait::eventually,
    },
};

fn one(redis: &Redis) -> Arc<dyn Queue> {
    Arc::new(RedisQueue::new(KEY, &server(redis), &options(LEASE)).unwrap())
}

fn both(servers: &[Redis; 2], backup_delay: Duration) -> Arc<dyn Queue> {
    let options = QueueOptions { backup_delay, ..options(LEASE) };
    connect(&info(&[&servers[0], &servers[1]]), &options, None).unwrap()
}

fn two_redis() -> [Redis; 2] {
    [Redis::start(), Redis::start()]
}

/// Claims and acks until each of these keys was seen.
async fn drain(queue: &Arc<dyn Queue>, expected: &HashSet<String>) {
    let mut seen = HashSet::new();
    let begun = Instant::now();
    while !expected.is_subset(&seen) {
        assert!(begun.elapsed() < SOON, "missing: {:?}", expected.difference(&seen));
        // One of several servers that has just died may still be asked.
        let claims = queue.claim(&want(50), MOMENT).await.unwrap_or_default();
        seen.extend(claims.iter().map(|claim| claim.task.key.to_string()));
        queue.ack(&claims).await.unwrap();
    }
}

fn names(tasks: &[Task]) -> HashSet<String> {
    tasks.iter().map(|task| task.key.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_what_it_held_has_another_name() {
    let servers = two_redis();
    let queue = both(&servers, MOMENT);
    let ids = async || {
        let stats = queue.stats().await.unwrap();
        let ids: Vec<_> = stats.servers.into_iter().map(|server| server.id.unwrap()).collect();
        (ids[0].clone(), ids[1].clone())
    };
    let (first, second) = ids().await;
    assert_ne!(first, second);
    queue.push(&[task("4", "k")], NOW).await.unwrap();
    assert_eq!(ids().await, (first.clone(), second.clone()));
    servers[0].command("FLUSHALL");
    let after = ids().await;
    assert!(after.0 != first && after.1 == second, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let redis = durable_redis();
    let queue = one(&redis);
    let count = Arc::new(AtomicUsize::new(0));
    let pushers = (0..8).map(|pusher| {
        let (queue, count) = (Arc::clone(&queue), Arc::clone(&count));
        tokio::spawn(async move {
            let mut acknowledged = HashSet::new();
            for n in 0.. {
                let task = task("4", &format!("k{pusher}-{n}"));
                if queue.push(std::slice::from_ref(&task), NOW).await.is_err() {
                    break;
                }
                acknowledged.insert(task.key.to_string());
                count.fetch_add(1, SeqCst);
            }
            acknowledged
        })
    });
    let pushers: Vec<_> = pushers.collect();
    eventually("some are acknowledged", SOON, || async { count.load(SeqCst) > 200 }).await;
    redis.kill();
    let acknowledged: HashSet<_> = join_all(pushers).await.into_iter().flat_map(Result::unwrap).collect();
    assert!(acknowledged.len() > 200);
    redis.restart();
    eventually("it is reached again", SOON, || async { queue.stats().await.is_ok() }).await;
    drain(&queue, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_fails_fast_and_recovers_by_itself() {
    let redis = Redis::start();
    let queue = one(&redis);
    queue.push(&[task("4", "before")], NOW).await.unwrap();
    redis.kill();
    for _ in 0..20 {
        let result = soon(queue.push(&[task("4", "lost")], NOW)).await;
        assert!(matches!(result, Err(QueueError::Unavailable(_))), "{result:?}");
    }
    assert!(soon(queue.claim(&want(1), NEVER)).await.is_err());
    redis.restart();
    eventually("it is reached again", SOON, || async {
        queue.push(&[task("4", "after")], NOW).await.is_ok()
    })
    .await;
    // It came back empty: the group of the stream is made again.
    assert_eq!(keys(&[claim_one(&queue).await]), ["after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_between_two_calls_is_not_noticed() {
    let redis = durable_redis();
    let queue = one(&redis);
    queue.push(&[task("4", "k1")], NOW).await.unwrap();
    redis.restart();
    queue.push(&[task("4", "k2")], NOW).await.unwrap();
    redis.restart();
    assert_eq!(keys(&claim_all(&queue, 2).await), ["k1", "k2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_server_costs_one_deadline_then_nothing() {
    // Long enough for a server that lives, and no call but the first can wait for it: so many would not end soon.
    const DEADLINE: Duration = Duration::from_secs(10);
    const CALLS: u32 = 100;
    assert!(DEADLINE * CALLS > 4 * SOON);
    let redis = Redis::start();
    let options = QueueOptions { command_timeout: DEADLINE, connect_timeout: DEADLINE, ..options(LEASE) };
    let queue: Arc<dyn Queue> = Arc::new(RedisQueue::new(KEY, &server(&redis), &options).unwrap());
    queue.push(&[task("4", "before")], NOW).await.unwrap();
    redis.stop();
    let results = join_all((0..10).map(|_| queue.push(&[], NOW))).await;
    assert!(results.iter().all(Result::is_ok), "pushing nothing asks nobody");
    let hung = [task("4", "hung")];
    let silent = |result: &Result<(), QueueError>| matches!(result, Err(QueueError::Unavailable(text)) if text.contains("no answer within 10s"));
    let results = soon(join_all((0..CALLS).map(|_| queue.push(&hung, NOW)))).await;
    assert!(results.iter().all(silent), "{results:?}");
    soon(async {
        for _ in 0..CALLS {
            assert!(queue.push(&hung, NOW).await.is_err());
        }
        assert!(queue.stats().await.is_err());
    })
    .await;
    redis.cont();
    eventually("it is reached again", SOON, || async {
        queue.push(&[task("4", "after")], NOW).await.is_ok()
    })
    .await;
    drain(&queue, &HashSet::from(["before".to_owned(), "after".to_owned()])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_server_holds_up_nobody_where_there_is_another() {
    let servers = two_redis();
    let queue = both(&servers, Duration::from_secs(2));
    queue.push(&tasks("4", "before", 4), NOW).await.unwrap();
    servers[0].stop();
    let mut all = tasks("4", "before", 4);
    for n in 0..30 {
        let pushed = task("4", &format!("k{n}"));
        soon(queue.push(std::slice::from_ref(&pushed), NOW)).await.unwrap();
        all.push(pushed);
    }
    // Claims come from the other server, and are ended there.
    let mut seen = HashSet::new();
    soon(async {
        while !names(&all).is_subset(&seen) {
            let claims = queue.claim(&want(10), MOMENT).await.unwrap();
            queue.ack(&claims).await.unwrap();
            seen.extend(names(&claims.into_iter().map(|claim| claim.task).collect::<Vec<_>>()));
        }
    })
    .await;
    servers[0].cont();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_task_is_done_once_while_both_servers_live() {
    let servers = two_redis();
    // Not over before the tasks are done, on a slow machine too.
    let queue = both(&servers, SOON);
    for n in 0..20 {
        queue.push(&[task("4", &format!("k{n}"))], NOW).await.unwrap();
    }
    let claims = claim_all(&queue, 20).await;
    assert_eq!(keys(&claims).into_iter().collect::<HashSet<_>>().len(), 20, "each was given once");
    for claim in claims {
        queue.ack(&[claim]).await.unwrap();
    }
    // Nothing is left that could come due.
    eventually("all backups are taken back", SOON, || async {
        stats(&queue).await.servers.iter().all(|server| server.entries == 0)
    })
    .await;
    assert_eq!(queue.claim(&want(100), MOMENT).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_lost_the_other_gives_out() {
    for dies_for_good in [true, false] {
        let servers = two_redis();
        let queue = both(&servers, Duration::from_secs(2));
        let pushed = tasks("4", "k", 20);
        for task in &pushed {
            queue.push(std::slice::from_ref(task), NOW).await.unwrap();
        }
        eventually("both have all", SOON, || async {
            stats(&queue).await.servers.iter().all(|server| server.entries == 20)
        })
        .await;
        // Ten are worked on when it happens; none of them is ended.
        assert!(!queue.claim(&want(10), SOON).await.unwrap().is_empty());
        servers[0].kill();
        if !dies_for_good {
            servers[0].restart();
        }
        let other = one(&servers[1]);
        drop(queue);
        let queue = both(&servers, Duration::from_secs(2));
        // Those that the other server had given out come back with their leases, which is not waited for here.
        let claimed: HashSet<_> = names_claimed(&other).await;
        let rest = names(&pushed).difference(&claimed).cloned().collect();
        drain(&queue, &rest).await;
    }
}

async fn names_claimed(queue: &Arc<dyn Queue>) -> HashSet<String> {
    let listed = queue.list(&Filter::default(), 100).await.unwrap();
    let claimed = listed.into_iter().filter(|listed| listed.stage == backpack::queue::Stage::Claimed);
    claimed.map(|listed| listed.task.key.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_down_stops_neither_push_nor_claim_nor_ack() {
    for down in [0, 1] {
        let servers = two_redis();
        let queue = both(&servers, MOMENT);
        let mut all = HashSet::new();
        let mut push = async |name: &str, count: usize| {
            for task in tasks("4", name, count) {
                soon(queue.push(std::slice::from_ref(&task), NOW)).await.unwrap();
                all.insert(task.key.to_string());
            }
        };
        push("both-up", 10).await;
        eventually("both have all", SOON, || async {
            stats(&queue).await.servers.iter().all(|server| server.entries == 10)
        })
        .await;
        servers[down].kill();
        push("one-down", 10).await;
        let now = stats(&queue).await;
        assert_eq!(now.servers.iter().filter(|server| server.error.is_some()).count(), 1);
        // The first push that failed on the one is promoted on the other, and its backup there taken back.
        eventually("twenty are left", SOON, || async { queue.stats().await.unwrap().backlog() == 20 }).await;
        drain(&queue, &all).await;
        servers[down].restart();
        eventually("both are up", SOON, || async {
            stats(&queue).await.servers.iter().all(|server| server.error.is_none())
        })
        .await;
        let again = tasks("4", "again", 10);
        queue.push(&again, NOW).await.unwrap();
        drain(&queue, &names(&again)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_server_that_died_is_an_error_to_end_and_its_backup_is_taken_back() {
    let servers = two_redis();
    let queue = both(&servers, Duration::from_secs(3600));
    queue.push(&[task("4", "k")], NOW).await.unwrap();
    let claim = claim_one(&queue).await;
    let holder = servers.iter().position(|redis| claim.receipt.contains(&redis.port().to_string())).unwrap();
    let other = one(&servers[1 - holder]);
    counts(&other, "4", [0, 1, 0, 0]).await;
    servers[holder].kill();
    let result = soon(queue.ack(std::slice::from_ref(&claim))).await;
    assert!(matches!(result, Err(QueueError::Unavailable(_))), "{result:?}");
    counts(&other, "4", [0, 0, 0, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_down_is_said_of_both() {
    let servers = two_redis();
    let queue = both(&servers, MOMENT);
    servers.iter().for_each(|server| server.kill());
    let result = soon(queue.push(&[task("4", "k")], NOW)).await;
    let Err(QueueError::Unavailable(text)) = result else { panic!("{result:?}") };
    assert!(servers.iter().all(|redis| text.contains(&redis.addr())), "{text}");
    assert!(soon(queue.claim(&want(1), NEVER)).await.is_err());
    assert!(queue.stats().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_not_every_server_heard_is_an_error() {
    let servers = two_redis();
    let queue = both(&servers, MOMENT);
    servers[1].kill();
    let Err(QueueError::Unavailable(text)) = queue.pause(&id("4")).await else { panic!() };
    assert!(text.starts_with(&format!("done on {}, but", servers[0].addr())), "{text}");
    assert!(text.contains(&servers[1].addr()), "{text}");
    assert!(stats(&queue).await.targets[&id("4")].paused);
    servers[1].restart();
    eventually("it is paused on both", SOON, || async { queue.pause(&id("4")).await.is_ok() }).await;
    for redis in &servers {
        one(redis).push(&[task("4", "k")], NOW).await.unwrap();
    }
    nothing_to_claim(&queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_used_and_a_wrong_one_is_denied() {
    let redis = Redis::start_with(&RedisOptions { password: Some("sesame"), ..RedisOptions::default() });
    let with = |username: Option<&str>, password: Option<&str>| {
        let options = QueueOptions {
            username: username.map(str::to_owned),
            password: password.map(Into::into),
            ..options(LEASE)
        };
        assert!(!format!("{options:?}").contains("sesame"));
        RedisQueue::new(KEY, &server(&redis), &options).unwrap()
    };
    for (username, password) in [(None, Some("sesame")), (Some("default"), Some("sesame"))] {
        with(username, password).push(&[task("4", "k")], NOW).await.unwrap();
    }
    for (username, password) in [(None, Some("wrong")), (None, None), (Some("nobody"), Some("sesame"))] {
        let result = with(username, password).push(&[task("4", "k")], NOW).await;
        let Err(QueueError::Denied(text)) = result else { panic!("{password:?}: {result:?}") };
        assert!(
            !text.contains("sesame") && !text.contains("wrong") && text.contains(&redis.addr()),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_and_strange_certificates_are_refused() {
    let certificates = Certificates::generate();
    let redis = Redis::start_with(&RedisOptions { tls: Some(&certificates), ..RedisOptions::default() });
    let server = QueueServer { tls: true, ..server(&redis) };
    let trusting = QueueOptions { tls_ca: Some(certificates.ca()), ..options(LEASE) };
    let info = QueueInfo { key: KEY.to_owned(), servers: vec![server.clone()] };
    let queue = connect(&info, &trusting, None).unwrap();
    queue.push(&tasks("4", "k", 3), NOW).await.unwrap();
    queue.ack(&claim_all(&queue, 3).await).await.unwrap();
    assert_eq!(stats(&queue).await.servers[0].name, server.to_string());

    let strange = Certificates::generate();
    let stranger = QueueOptions { tls_ca: Some(strange.ca()), ..trusting.clone() };
    for options in [stranger, QueueOptions { tls_ca: None, ..trusting.clone() }] {
        let queue = RedisQueue::new(KEY, &server, &options).unwrap();
        let result = queue.push(&[task("4", "k")], NOW).await;
        assert!(
            matches!(&result, Err(QueueError::Unavailable(text)) if text.contains("ertificate")),
            "{result:?}"
        );
    }
    let nowhere = QueueOptions { tls_ca: Some("/nowhere.pem".into()), ..trusting };
    let Err(QueueError::Failed(text)) = connect(&info, &nowhere, None).map(drop) else { panic!() };
    assert!(text.contains("/nowhere.pem"), "{text}");
}
