//! The program `backpack-replicator` on real ZooKeeper and Redis servers, killed, starved and stopped.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backpack::{
    cluster::{self, MapStore, StoreOptions, edit},
    daemon::install_tls_provider,
    model::{Checksum, QueueInfo, QueueServer, Server},
    queue::{Filter, Queue, QueueOptions},
};

use crate::{
    node_double::TestNode,
    replicator_rig::{SHORT_LEASE as LEASE, SOON, copy, count},
    support::{
        daemon::Daemon,
        http::Request,
        original_node::{Fault, OriginalNode},
        port::free_port,
        redis::Redis,
        wait::eventually,
        zookeeper::ZooKeeper,
    },
};

/// ZooKeeper with a map, Redis servers with the queue.
struct Cluster {
    zookeeper: ZooKeeper,
    redis: Vec<Redis>,
    store: Arc<dyn MapStore>,
}

impl Cluster {
    async fn start(redis: usize) -> Self {
        install_tls_provider();
        let zookeeper = ZooKeeper::start();
        let redis: Vec<_> = (0..redis).map(|_| Redis::start()).collect();
        let store = cluster::connect(&zookeeper.addr(), "/backpack", &StoreOptions::default()).unwrap();
        let cluster = Self { zookeeper, redis, store };
        edit::init(&*cluster.store, &cluster.info(..)).await.unwrap();
        cluster
    }

    /// The queue on some of the Redis servers.
    fn info(&self, servers: impl std::slice::SliceIndex<[Redis], Output = [Redis]>) -> QueueInfo {
        let server =
            |redis: &Redis| QueueServer { host: "127.0.0.1".to_owned(), port: redis.port(), tls: false };
        QueueInfo { key: "queue".to_owned(), servers: self.redis[servers].iter().map(server).collect() }
    }

    fn queue(&self, servers: impl std::slice::SliceIndex<[Redis], Output = [Redis]>) -> Arc<dyn Queue> {
        let options = QueueOptions {
            lease: LEASE,
            connect_timeout: SOON,
            command_timeout: SOON,
            ..QueueOptions::default()
        };
        backpack::queue::connect(&self.info(servers), &options, None).unwrap()
    }

    async fn add_server(&self, id: &str, port: u16) {
        let server = Server { id: id.parse().unwrap(), host: "127.0.0.1".to_owned(), port };
        edit::add_server(&*self.store, &server).await.unwrap();
    }

    /// A replicator, and where it answers probes.
    fn replicator(&self, flags: &[&str]) -> (Daemon, String) {
        let listen = format!("127.0.0.1:{}", free_port());
        let zookeeper = self.zookeeper.addr();
        let lease = LEASE.as_secs().to_string();
        let args = [&zookeeper, "/backpack", "8", "--listen", &listen, "--lease", &lease];
        let daemon = Daemon::start(env!("CARGO_BIN_EXE_backpack-replicator"), args.iter().chain(flags));
        (daemon, listen)
    }
}

fn port_of(addr: &str) -> u16 {
    addr.rsplit(':').next().unwrap().parse().unwrap()
}

async fn metrics(listen: &str) -> String {
    Request::get(listen, "/-/metrics").send().await.unwrap().text()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replicator_killed_in_mid_copy_is_taken_over_and_the_copy_is_exact() {
    let cluster = Cluster::start(1).await;
    let (source, target) = (OriginalNode::start(), TestNode::start().await);
    cluster.add_server("s", source.port()).await;
    cluster.add_server("t", port_of(&target.addr)).await;
    let mut blob = vec![0; 32 << 20];
    fastrand::Rng::with_seed(7).fill(&mut blob);
    source.insert("big", blob.clone());
    source.set_fault(Fault::Bandwidth(4 << 20));
    let queue = cluster.queue(..);
    queue.push(&[copy("big", Some(1), &["s"], "t")], Duration::ZERO).await.unwrap();

    let (first, _) = cluster.replicator(&[]);
    let gets = || count(&source, "GET");
    eventually("the copy begins", SOON, async || gets() == 1).await;
    // The source needs seconds for all of it.
    let received = || target.metric("backpack_node_received_bytes_total", "");
    eventually("bytes flow", SOON, async || received() > 1 << 20).await;
    first.kill();
    let killed = Instant::now();
    assert_eq!(target.storage.len(), 0, "nothing is visible of half a copy");

    source.set_fault(Fault::None);
    let (second, _) = cluster.replicator(&[]);
    eventually("it is taken over", SOON, async || gets() == 2).await;
    println!("taken over after {:?} with a lease of {LEASE:?}", killed.elapsed());
    eventually("it is done", SOON, async || queue.stats().await.unwrap().backlog() == 0).await;
    let reply = Request::get(&target.addr, "/big").send().await.unwrap();
    assert!(reply.body == blob);
    assert_eq!(reply.header("x-amz-checksum-crc64nvme"), Some(Checksum::of(&blob).to_string().as_str()));
    assert!(second.terminate(SOON).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_how_it_is_and_follows_the_map_to_another_queue() {
    let cluster = Cluster::start(2).await;
    edit::set_queue(&*cluster.store, &cluster.info(..1)).await.unwrap();
    let (source, target) = (OriginalNode::start(), OriginalNode::start());
    cluster.add_server("s", source.port()).await;
    let (daemon, listen) = cluster.replicator(&[]);
    daemon.wait_ready(&listen);
    assert_eq!(Request::get(&listen, "/-/live").send().await.unwrap().status, 200);
    assert_eq!(Request::get(&listen, "/anything").send().await.unwrap().status, 404);

    // A server that is added now, and a task for it.
    cluster.add_server("t", target.port()).await;
    source.insert("one", "blob");
    cluster.queue(..1).push(&[copy("one", None, &["s"], "t")], Duration::ZERO).await.unwrap();
    eventually("it is copied", SOON, async || target.blob("one").is_some()).await;
    eventually("it is counted", SOON, async || {
        metrics(&listen).await.contains(r#"backpack_replicator_tasks_total{target="t",outcome="done"} 1"#)
    })
    .await;
    for line in [
        r#"backpack_replicator_bytes_total{target="t"} 4"#,
        r#"backpack_replicator_task_seconds_count{outcome="done"} 1"#,
        "backpack_replicator_lag_seconds_count 1",
        r#"backpack_replicator_in_flight{target="t"} 0"#,
    ] {
        let metrics = metrics(&listen).await;
        assert!(metrics.contains(line), "{line} in:\n{metrics}");
    }

    // The queue moves to another server.
    edit::set_queue(&*cluster.store, &cluster.info(1..)).await.unwrap();
    source.insert("two", "blob");
    cluster.queue(1..).push(&[copy("two", None, &["s"], "t")], Duration::ZERO).await.unwrap();
    eventually("it is copied", SOON, async || target.blob("two").is_some()).await;

    cluster.redis[1].stop();
    eventually("it is not ready", SOON, async || {
        Request::get(&listen, "/-/ready").send().await.unwrap().text().contains("queue:")
    })
    .await;
    cluster.redis[1].cont();
    daemon.wait_ready(&listen);
    assert!(daemon.terminate(SOON).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_on_while_zookeeper_and_one_of_two_redis_are_away() {
    let cluster = Cluster::start(2).await;
    let (source, target) = (OriginalNode::start(), OriginalNode::start());
    cluster.add_server("s", source.port()).await;
    cluster.add_server("t", target.port()).await;
    let (daemon, listen) = cluster.replicator(&[]);
    daemon.wait_ready(&listen);
    cluster.zookeeper.kill();
    cluster.redis[0].kill();
    let queue = cluster.queue(..);
    for number in 0..50 {
        let key = format!("k{number}");
        source.insert(&key, "blob");
        queue.push(&[copy(&key, None, &["s"], "t")], Duration::ZERO).await.unwrap();
    }
    let missing = || (0..50).filter(|number| target.blob(&format!("k{number}")).is_none()).count();
    eventually("all are copied", SOON, async || missing() == 0).await;
    eventually("it says that the map may be old", SOON, async || {
        Request::get(&listen, "/-/ready").send().await.unwrap().text().contains("map:")
    })
    .await;
    cluster.zookeeper.restart();
    cluster.redis[0].restart();
    daemon.wait_ready(&listen);
    assert!(daemon.terminate(SOON).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_given_up_is_counted_and_logged_with_its_request() {
    let cluster = Cluster::start(1).await;
    let (source, target) = (OriginalNode::start(), OriginalNode::start());
    cluster.add_server("s", source.port()).await;
    cluster.add_server("t", target.port()).await;
    let queue = cluster.queue(..);
    queue.push(&[copy("nowhere", Some(3), &["s"], "t")], Duration::ZERO).await.unwrap();
    let (daemon, listen) = cluster.replicator(&["--attempts", "1"]);
    eventually("it is given up", SOON, async || {
        !queue.dead(&Filter::default(), 10).await.unwrap().is_empty()
    })
    .await;
    let outcome = r#"backpack_replicator_tasks_total{target="t",outcome="no_source"} 1"#;
    assert!(metrics(&listen).await.contains(outcome));
    let line = daemon.wait_for_line("task given up", SOON);
    for part in ["WARN", "request_id=req-t", "target=t", "key=nowhere", "no source has it"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(daemon.terminate(SOON).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn misuse_is_told_apart_from_failure() {
    let program = env!("CARGO_BIN_EXE_backpack-replicator");
    for (args, code) in [
        (vec![], 2),
        (vec!["127.0.0.1:1", "/backpack", "0"], 2),
        (vec!["127.0.0.1:1", "/backpack", "--bytes-per-second", "1kb"], 2),
        (vec!["127.0.0.1:1", "/backpack", "--listen", "256.0.0.1:1"], 1),
        (vec!["127.0.0.1:1", "no-root"], 1),
    ] {
        let daemon = Daemon::start(program, &args);
        assert_eq!(daemon.wait_for_end(SOON).code(), Some(code), "{args:?}: {}", daemon.log());
        assert!(daemon.log().contains("error: "), "{args:?}: {}", daemon.log());
    }
}
