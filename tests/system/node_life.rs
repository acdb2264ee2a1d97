//! The life of a node: it announces itself, tells whether it is ready, and stops without losing anything.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use backpack::{
    cluster::{self, Edit, MapStore, StoreOptions},
    node::{Limits, Live},
};

use crate::{
    node_double::TestNode,
    support::{
        http::Request,
        wait::{START_WITHIN, eventually},
    },
};

async fn map_store(dir: &std::path::Path) -> Arc<dyn MapStore> {
    let servers = format!("embedded:{}", dir.display());
    let store = cluster::connect(&servers, "/backpack", &StoreOptions::default()).unwrap();
    store.init().await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_announced_while_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let store = map_store(dir.path()).await;
    let live = Live { id: "7".parse().unwrap(), store: store.clone() };
    let node = TestNode::start_with(Limits::default(), Some(live)).await;
    eventually("the node is announced", START_WITHIN, async || store.get("/live/7").await.unwrap().is_some())
        .await;
    let document = store.get("/live/7").await.unwrap().unwrap().data;
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    assert_eq!(document["addr"], node.addr.as_str());
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    assert!(document["started"].is_u64() && document["free_bytes"].is_u64());
    let ready = async || Request::get(&node.addr, "/-/ready").send().await.unwrap().status == 200;
    eventually("the node is ready", START_WITHIN, ready).await;
    let stats: serde_json::Value =
        serde_json::from_str(&Request::get(&node.addr, "/stats").send().await.unwrap().text()).unwrap();
    assert_eq!(stats["node"], "7");

    // It is gone before what is in flight has finished.
    let mut client = TcpStream::connect(&node.addr).unwrap();
    client.set_read_timeout(Some(START_WITHIN)).unwrap();
    client
        .write_all(b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    client.read_exact(&mut [0; 25]).unwrap();
    node.shutdown.begin();
    eventually("the node is withdrawn", START_WITHIN, async || store.get("/live/7").await.unwrap().is_none())
        .await;
    client.write_all(b"hello").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    node.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_uploads_finish_and_closes_the_storage() {
    let node = TestNode::start().await;
    let mut client = TcpStream::connect(&node.addr).unwrap();
    client.set_read_timeout(Some(START_WITHIN)).unwrap();
    client.write_all(b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello").unwrap();
    eventually("the upload began", START_WITHIN, async || {
        node.metric("backpack_node_received_bytes_total", "") == 5
    })
    .await;

    node.shutdown.begin();
    eventually("nobody is let in", START_WITHIN, async || TcpStream::connect(&node.addr).is_err()).await;
    client.write_all(b"world").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 ") && answer.contains("connection: close"), "{answer}");
    let storage = node.storage.clone();
    node.ended().await;
    assert_eq!(storage.len(), 1);
    assert!(storage.closed.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_within_its_deadline() {
    const DRAIN: Duration = Duration::from_secs(2);
    let node = TestNode::start_draining(Limits::default(), None, DRAIN).await;
    let hold = node.storage.commits.clone().acquire_many_owned(1000).await.unwrap();
    let mut client = TcpStream::connect(&node.addr).unwrap();
    client.set_read_timeout(Some(START_WITHIN)).unwrap();
    client.write_all(b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    eventually("the upload came", START_WITHIN, async || {
        node.metric("backpack_node_received_bytes_total", "") == 5
    })
    .await;
    let begun = Instant::now();
    let storage = node.storage.clone();
    node.stop().await;
    assert!(begun.elapsed() >= DRAIN, "it was given all of its time");
    let mut answer = Vec::new();
    // Cut off: the end, or an error.
    let _ = client.read_to_end(&mut answer);
    assert!(answer.is_empty(), "nothing was promised");
    drop(hold);
    assert_eq!(storage.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_id_another_storage_has_is_not_announced() {
    let dir = tempfile::tempdir().unwrap();
    let store = map_store(dir.path()).await;
    let other = r#"{"storage":"01ARZ3NDEKTSV4RRFFQ69G5FAV"}"#;
    let made =
        ["/storages", "/storages/7"].map(|path| Edit::Create { path: path.into(), data: other.into() });
    store.commit(&made).await.unwrap();
    let live = Live { id: "7".parse().unwrap(), store: store.clone() };
    let node = TestNode::start_with(Limits::default(), Some(live)).await;
    let unready = async || {
        let ready = Request::get(&node.addr, "/-/ready").send().await.unwrap();
        ready.status == 503 && ready.text().contains("01ARZ3NDEKTSV4RRFFQ69G5FAV")
    };
    eventually("it says why it is not ready", START_WITHIN, unready).await;
    assert_eq!(store.children("/live").await.unwrap(), Vec::<String>::new());
    node.stop().await;
    assert_eq!(store.get("/storages/7").await.unwrap().unwrap().data, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_while_zookeeper_is_away() {
    let nobody = format!("127.0.0.1:{}", crate::support::port::free_port());
    let store = cluster::connect(&nobody, "/backpack", &StoreOptions::default()).unwrap();
    let live = Live { id: "8".parse().unwrap(), store };
    let node = TestNode::start_with(Limits::default(), Some(live)).await;
    assert_eq!(Request::put(&node.addr, "/k", "hello").send().await.unwrap().status, 201);
    assert_eq!(Request::get(&node.addr, "/k").send().await.unwrap().text(), "hello");
    let unready = async || {
        let ready = Request::get(&node.addr, "/-/ready").send().await.unwrap();
        ready.status == 503 && ready.text() == "not ready\nmap store: not reached\n"
    };
    eventually("the node says what it misses", START_WITHIN, unready).await;
    assert_eq!(Request::get(&node.addr, "/-/live").send().await.unwrap().status, 200);
    node.stop().await;
}
