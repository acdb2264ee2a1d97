//! Slow is not dead: a server that hangs, is stopped, is a black hole or crawls, beside one that is well. No time-out of the
//! client ends in these tests, unless one sets its own: what is answered while a server is silent did not wait for it.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use backpack::client::Timeouts;
use futures_util::future::join_all;

use crate::{
    coordinator_support::{Cluster, Member, NO_TIMEOUTS, Settings},
    support::{
        daemon::Daemon,
        http::{Reply, Request},
        original_node::{Fault, OriginalNode},
        port::free_port,
        wait::eventually,
    },
};

const WITHIN: Duration = Duration::from_secs(120);

/// Uploads or reads of a test.
const MANY: usize = 60;

/// How many of them are under way at once.
const AT_ONCE: usize = 4;

/// The time-out of the tests that wait for one: a node that is well answers sooner on a busy machine too.
const ANSWER: Duration = Duration::from_secs(10);

fn settings() -> Settings {
    let flags = vec!["--patience", "300", "--hedge-after", "30"];
    Settings { flags, timeouts: NO_TIMEOUTS, ..Settings::default() }
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

/// A server of ours, as a process that can be stopped.
struct Node {
    daemon: Daemon,
    addr: String,
    _data: tempfile::TempDir,
}

impl Node {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let port = free_port().to_string();
        let args = [data.path().to_str().unwrap(), "127.0.0.1", &port];
        let daemon = Daemon::start(env!("CARGO_BIN_EXE_backpack-node"), args);
        let addr = format!("127.0.0.1:{port}");
        daemon.wait_ready(&addr);
        Self { daemon, addr, _data: data }
    }
}

/// Where nobody answers a connection, or refuses it: the kernel's queue of this listener is full.
struct BlackHole {
    addr: SocketAddr,
    _listener: socket2::Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    fn open() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let connect = || TcpStream::connect_timeout(&addr, Duration::from_millis(500));
        let queued = std::iter::from_fn(|| connect().ok()).take(64).collect();
        assert!(connect().is_err(), "its queue is full");
        Self { addr, _listener: listener, _queued: queued }
    }
}

fn port_of(addr: &str) -> u16 {
    addr.rsplit(':').next().unwrap().parse().unwrap()
}

/// So many uploads, some at once. All of them must be taken, and be there whole.
async fn upload_many(cluster: &Cluster, name: &str, length: usize) -> Vec<Reply> {
    let mut replies = Vec::new();
    for round in 0..MANY / AT_ONCE {
        let keys = (0..AT_ONCE).map(|n| format!("/{name}-{round}-{n}"));
        let puts = keys.map(|key| cluster.put(&key, body(length)));
        replies.extend(join_all(puts.map(|put| async move { put.send().await.unwrap() })).await);
    }
    for reply in &replies {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    replies
}

async fn read_many(cluster: &Cluster, target: &str, expected: &[u8]) {
    for _ in 0..MANY / AT_ONCE {
        let gets = (0..AT_ONCE).map(|_| cluster.get(target));
        assert!(join_all(gets).await.iter().all(|got| got == expected), "{target}");
    }
}

/// A shard of a node that is well (server 1) and a stand-in (server 2).
async fn pair() -> Cluster {
    Cluster::start_set(&[&[Member::Node, Member::Original]], settings()).await
}

/// Whether the good server of [`pair`] has all of them.
async fn assert_stored(cluster: &Cluster, name: &str, length: usize) {
    for round in 0..MANY / AT_ONCE {
        for n in 0..AT_ONCE {
            let reply =
                Request::get(&cluster.nodes[0], &format!("/{name}-{round}-{n}")).send().await.unwrap();
            assert!(reply.body == body(length), "{round} {n}: {}", reply.status);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_acknowledged_while_a_server_of_the_shard_hangs() {
    let cluster = pair().await;
    let hung = &cluster.originals[0];
    hung.set_fault(Fault::Hang);
    upload_many(&cluster, "k", 5000).await;
    assert_stored(&cluster, "k", 5000).await;
    // The first ones found out, then one by one tried it again.
    let asked = hung.seen().len();
    assert!((1..MANY / 2).contains(&asked), "{asked} uploads went to the one that hangs");

    hung.set_fault(Fault::None);
    eventually("it gets uploads again", WITHIN, async || {
        assert_eq!(cluster.put("/again", body(10)).send().await.unwrap().status, 200);
        hung.blob("again").is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_acknowledged_while_a_server_is_stopped() {
    let (cluster, node) = (pair().await, Node::start());
    cluster.replace_server("2", port_of(&node.addr)).await;
    node.daemon.stop();
    upload_many(&cluster, "small", 5000).await;
    // More than the kernel takes in the place of the server: it stops in mid body.
    upload_many(&cluster, "large", 900_000).await;
    assert_stored(&cluster, "small", 5000).await;
    assert_stored(&cluster, "large", 900_000).await;
    node.daemon.cont();
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_acknowledged_while_a_server_is_a_black_hole() {
    let (cluster, hole) = (pair().await, BlackHole::open());
    cluster.replace_server("2", hole.addr.port()).await;
    upload_many(&cluster, "k", 5000).await;
    assert_stored(&cluster, "k", 5000).await;
}

/// At this speed one of them would take five minutes.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_acknowledged_while_a_server_crawls() {
    let cluster = pair().await;
    cluster.originals[0].set_fault(Fault::Bandwidth(1024));
    upload_many(&cluster, "k", 300_000).await;
    assert_stored(&cluster, "k", 300_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_go_to_another_shard_while_all_servers_of_one_hang() {
    let shards: [&[Member]; 2] = [&[Member::Original, Member::Original], &[Member::Original]];
    let cluster = Cluster::start_set(&shards, settings()).await;
    for hung in &cluster.originals[..2] {
        hung.set_fault(Fault::Hang);
    }
    for reply in upload_many(&cluster, "k", 5000).await {
        assert_eq!(reply.text(), "{\"shard_id\":\"2\"}\n");
    }
    let asked: usize = cluster.originals[..2].iter().map(|hung| hung.seen().len()).sum();
    assert!((1..MANY / 2).contains(&asked), "{asked} requests went to the shard that hangs");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_wait_where_no_other_server_answers() {
    let cluster = Cluster::start_set(&[&[Member::Original, Member::Original]], settings()).await;
    for slow in &cluster.originals {
        slow.set_fault(Fault::Delay(Duration::from_secs(2)));
    }
    let puts = (0..AT_ONCE).map(|n| cluster.put(&format!("/k{n}"), body(1000)));
    for reply in join_all(puts.map(|put| async move { put.send().await.unwrap() })).await {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let asked: usize = cluster.originals.iter().map(|slow| slow.seen().len()).sum();
    assert!(asked <= 2 * AT_ONCE, "{asked} requests for {AT_ONCE} uploads");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_at_quorum_is_completed_without_a_server_that_crawls() {
    let timeouts = Timeouts { answer: ANSWER, ..NO_TIMEOUTS };
    let shards: [&[Member]; 1] = [&[Member::Node, Member::Node, Member::Original]];
    let cluster = Cluster::start_set(&shards, Settings { timeouts, ..settings() }).await;
    let crawling = &cluster.originals[0];
    crawling.set_fault(Fault::Bandwidth(1024));
    // More than is kept to be sent anew. Until it was tried, it is one of the two with a chance of two in three.
    let mut uploads = 0;
    while crawling.seen().iter().all(|request| request.method != "PUT") || uploads < 3 {
        let key = format!("/k{uploads}");
        let reply =
            cluster.put(&key, body(6 << 20)).header("x-backpack-write", "quorum").send().await.unwrap();
        assert_eq!((reply.status, reply.header("x-backpack-copies")), (200, Some("2/3")), "{}", reply.text());
        for node in &cluster.nodes {
            assert!(Request::get(node, &key).send().await.unwrap().body == body(6 << 20));
        }
        uploads += 1;
        assert!(uploads < 50, "the crawling server is never asked");
    }
    let of_crawling = cluster.tasks().await;
    assert!(of_crawling.iter().all(|task| task.to.as_str() == "3"), "{of_crawling:?}");
    assert_eq!(of_crawling.len(), uploads, "each upload left its task for the one that crawls");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_at_level_all_does_not_wait_for_ever_for_a_server_that_crawls() {
    let timeouts = Timeouts { answer: ANSWER, ..NO_TIMEOUTS };
    let cluster =
        Cluster::start_set(&[&[Member::Node, Member::Original]], Settings { timeouts, ..settings() }).await;
    cluster.originals[0].set_fault(Fault::Bandwidth(1024));
    for length in [900_000, 6 << 20, 6 << 20] {
        let key = format!("/k{}", cluster.originals[0].seen().len());
        let put = cluster.put(&key, body(length)).header("x-backpack-write", "all");
        let reply = put.send().await.unwrap();
        assert_eq!(reply.status, 503, "{}", reply.text());
        // How much the kernel takes of it in the place of the server decides whether the other one got it whole.
        let stored = Request::get(&cluster.nodes[0], &key).send().await.unwrap().status == 200;
        let has_task = cluster.tasks().await.iter().any(|task| format!("/{}", task.key) == key);
        assert_eq!(stored, has_task, "what is stored has its task");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_are_acknowledged_while_a_server_is_stopped() {
    let (cluster, node) = (pair().await, Node::start());
    cluster.replace_server("2", port_of(&node.addr)).await;
    node.daemon.stop();
    for n in 0..MANY {
        let delete = Request::new("DELETE", &cluster.addr, &format!("/1:k{n}")).send().await.unwrap();
        assert_eq!(delete.status, 204, "{}", delete.text());
    }
    assert_eq!(cluster.tasks().await.len(), MANY);
    node.daemon.cont();
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_answered_while_a_server_holds_its_answers_back() {
    let cluster = pair().await;
    let hung = &cluster.originals[0];
    assert_eq!(Request::put(&cluster.nodes[0], "/k", body(5000)).send().await.unwrap().status, 201);
    hung.insert("k", body(5000));
    hung.set_fault(Fault::Hang);
    read_many(&cluster, "/1:k", &body(5000)).await;
    let asked = hung.seen().len();
    assert!((1..MANY / 2).contains(&asked), "{asked} reads went to the one that hangs");
    assert_eq!(cluster.tasks().await, [], "that it did not answer is no reason for a copy");
    let head = Request::new("HEAD", &cluster.addr, "/1:k").send().await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("5000")));

    hung.set_fault(Fault::None);
    eventually("it is read again", WITHIN, async || {
        cluster.get("/1:k").await;
        hung.seen().len() > asked + 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_answered_while_a_server_is_stopped_or_a_black_hole() {
    let (cluster, node, hole) = (pair().await, Node::start(), BlackHole::open());
    for addr in [&cluster.nodes[0], &node.addr] {
        assert_eq!(Request::put(addr, "/k", body(5000)).send().await.unwrap().status, 201);
    }
    cluster.replace_server("2", port_of(&node.addr)).await;
    node.daemon.stop();
    read_many(&cluster, "/1:k", &body(5000)).await;
    cluster.replace_server("2", hole.addr.port()).await;
    read_many(&cluster, "/1:k", &body(5000)).await;
    node.daemon.cont();
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_are_all_slow_ask_little_more_than_once_each() {
    let cluster = Cluster::start_set(&[&[Member::Original, Member::Original]], settings()).await;
    for slow in &cluster.originals {
        slow.insert("k", "blob");
        slow.set_fault(Fault::Delay(Duration::from_millis(200)));
    }
    const READS: usize = 400;
    for _ in 0..READS / 40 {
        join_all((0..40).map(|_| cluster.get("/1:k"))).await;
    }
    let asked: usize = cluster.originals.iter().map(|slow| slow.seen().len()).sum();
    assert!(asked > READS, "second servers were asked");
    assert!(asked <= READS + READS / 10 + 32, "{asked} requests for {READS} reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_not_taken_for_one_that_has_nothing() {
    let timeouts = Timeouts { answer: ANSWER, ..NO_TIMEOUTS };
    let cluster =
        Cluster::start_set(&[&[Member::Node, Member::Original]], Settings { timeouts, ..settings() }).await;
    let silent = &cluster.originals[0];
    silent.insert("k", body(10));
    silent.set_fault(Fault::Hang);
    let read = Request::get(&cluster.addr, "/1:k").send().await.unwrap();
    assert_eq!(read.status, 503, "{}", read.text());
    silent.set_fault(Fault::Delay(Duration::from_millis(500)));
    assert_eq!(cluster.get("/1:k").await, body(10), "the other one said at once that it has nothing");
    eventually("the copy that is missing is queued", WITHIN, async || cluster.tasks().await.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_blob_is_gone_while_a_server_that_may_have_it_holds_its_answer_back() {
    let cluster = pair().await;
    let silent: &OriginalNode = &cluster.originals[0];
    assert_eq!(Request::put(&cluster.nodes[0], "/k", body(10)).send().await.unwrap().status, 201);
    assert_eq!(Request::new("DELETE", &cluster.nodes[0], "/k").send().await.unwrap().status, 204);
    silent.insert("k", body(10));
    silent.set_fault(Fault::Hang);
    for _ in 0..8 {
        assert_eq!(Request::get(&cluster.addr, "/1:k").send().await.unwrap().status, 410);
    }
}
