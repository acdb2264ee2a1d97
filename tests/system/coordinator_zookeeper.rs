//! A coordinator on a real ZooKeeper server that is killed, away for longer than a session, and full of rubbish: uploads go
//! on, and every acknowledged byte is counted once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backpack::{
    cluster::{self, Edit, MapStore, StoreError, StoreOptions, edit},
    daemon::install_tls_provider,
    telemetry,
};

use crate::{
    coordinator_support::{Cluster, Member},
    support::{alone::is_alone, http::Request, wait::eventually, zookeeper::ZooKeeper},
};

/// Short enough for an outage to be longer, long enough for a slow machine to keep it.
const SESSION: Duration = Duration::from_secs(4);

/// For whatever happens soon, on a slow machine too.
const WITHIN: Duration = Duration::from_secs(60);

struct Rig {
    zookeeper: ZooKeeper,
    store: Arc<dyn MapStore>,
    cluster: Cluster,
    uploads: u64,
    acknowledged: u64,
}

impl Rig {
    /// Two shards, the first one with two nodes, the second one with one.
    async fn start() -> Self {
        install_tls_provider();
        telemetry::metrics::install();
        let zookeeper = ZooKeeper::start();
        let options = StoreOptions { session_timeout: Some(SESSION), ..StoreOptions::default() };
        let connect = || cluster::connect(&zookeeper.addr(), "/backpack", &options).unwrap();
        let (store, own) = (connect(), connect());
        let shards: [&[Member]; 2] = [&[Member::Node, Member::Node], &[Member::Node]];
        let cluster = Cluster::start_on(own, &shards).await;
        Self { zookeeper, store, cluster, uploads: 0, acknowledged: 0 }
    }

    /// Uploads that must succeed.
    async fn upload(&mut self, count: u64) {
        for _ in 0..count {
            self.uploads += 1;
            let length = 100 + self.uploads * 7 % 50;
            let key = format!("/k{}", self.uploads);
            let reply = self.cluster.put(&key, vec![b'x'; length as usize]).send().await.unwrap();
            assert_eq!(reply.status, 200, "{}", reply.text());
            self.acknowledged += length;
        }
    }

    /// Waits until what was acknowledged is what the store says.
    async fn counted(&self) {
        let exact = async || {
            self.cluster.used("1").await + self.cluster.used("2").await == self.acknowledged
                && self.stats().await["uncounted_bytes"] == 0
        };
        eventually("every acknowledged byte is counted once", WITHIN, exact).await;
    }

    async fn stats(&self) -> serde_json::Value {
        let stats = Request::get(&self.cluster.addr, "/stats").send().await.unwrap();
        serde_json::from_str(&stats.text()).unwrap()
    }

    async fn ready(&self) -> (u16, String) {
        let ready = Request::get(&self.cluster.addr, "/-/ready").send().await.unwrap();
        (ready.status, ready.text())
    }

    async fn is_ready(&self) {
        eventually("the coordinator is ready", WITHIN, async || self.ready().await.0 == 200).await;
    }

    /// Replaces a document; what it was.
    async fn replace(&self, path: &str, data: &str) -> String {
        loop {
            let entry = self.store.get(path).await.unwrap().unwrap();
            let edit = Edit::Set { path: path.into(), data: data.to_owned().into(), version: entry.version };
            match self.store.commit(&[edit]).await {
                Ok(()) => return String::from_utf8(entry.data.to_vec()).unwrap(),
                // The coordinator counted meanwhile.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("{path}: {error}"),
            }
        }
    }

    /// How often documents of this kind made no sense.
    async fn troubles(&self, document: &str) -> u64 {
        let metrics = Request::get(&self.cluster.addr, "/-/metrics").send().await.unwrap().text();
        let name = format!("backpack_map_errors_total{{document=\"{document}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_go_on_without_zookeeper_and_are_counted_once_it_is_back() {
    let mut rig = Rig::start().await;
    rig.is_ready().await;
    rig.upload(10).await;
    rig.counted().await;

    rig.zookeeper.kill();
    rig.upload(10).await;
    rig.zookeeper.restart();
    rig.upload(10).await;
    rig.counted().await;
    rig.is_ready().await;

    rig.zookeeper.kill();
    let killed = Instant::now();
    eventually("the map is called old", WITHIN, async || {
        let (status, why) = rig.ready().await;
        status == 503 && why.contains("map: the map store does not answer")
    })
    .await;
    loop {
        rig.upload(5).await;
        if killed.elapsed() > 3 * SESSION {
            break;
        }
    }
    let state = rig.stats().await["map_state"].as_str().unwrap().to_owned();
    assert!(state.contains("the map store does not answer"), "{state}");
    assert!(rig.stats().await["uncounted_bytes"].as_u64().unwrap() > 0);
    // Another coordinator may know a shard that this map does not have.
    let unknown = Request::get(&rig.cluster.addr, "/9:k").send().await.unwrap();
    assert_eq!(unknown.status, 503, "{}", unknown.text());

    rig.zookeeper.restart();
    let shard = "2".parse().unwrap();
    eventually("an edit is taken", WITHIN, async || {
        edit::set_read_only(&*rig.store, &shard, true).await.is_ok()
    })
    .await;
    eventually("the edit is seen", WITHIN, async || rig.stats().await["writable_shards"] == 1).await;
    rig.is_ready().await;
    assert_eq!(rig.stats().await["map_state"], "current");
    let unknown = Request::get(&rig.cluster.addr, "/9:k").send().await.unwrap();
    assert_eq!(unknown.status, 404, "{}", unknown.text());
    rig.upload(10).await;
    rig.counted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_in_the_map_is_counted_and_ends_nothing() {
    if !is_alone("coordinator_zookeeper::rubbish_in_the_map_is_counted_and_ends_nothing") {
        return;
    }
    let mut rig = Rig::start().await;
    rig.upload(5).await;
    for (path, rubbish) in [
        ("/servers-map", "not JSON"),
        ("/servers-map", "[1,2]"),
        ("/shards-map", "not JSON"),
        ("/shards-map", "7"),
        ("/shard-size-1", "not JSON"),
        ("/shard-size-2", r#"{"capacity":1000000,"current":null}"#),
        ("/shard-size-2", r#"{"capacity":"much","current":0}"#),
        ("/queue", "not JSON"),
        ("/queue", r#"{"key":5}"#),
    ] {
        let document = if path.starts_with("/shard-size-") { "/shard-size" } else { path };
        let before = rig.troubles(document).await;
        let right = rig.replace(path, rubbish).await;
        let seen = async || rig.troubles(document).await > before;
        eventually(&format!("{path} {rubbish} is counted"), WITHIN, seen).await;
        rig.upload(6).await;
        rig.replace(path, &right).await;
        rig.counted().await;
    }
    let right = rig.replace("/shards-map", r#"{"1":{"nodes":["1","2"]},"2":{"nodes":["3","99"]}}"#).await;
    let seen = async || {
        let map = Request::get(&rig.cluster.addr, "/-/map").send().await.unwrap().text();
        map.contains("\"99\"")
    };
    eventually("the unknown server is in the map", WITHIN, seen).await;
    rig.upload(10).await;
    let none = Request::get(&rig.cluster.addr, "/2:none").send().await.unwrap();
    assert_eq!(none.status, 503, "the unknown server may have it: {}", none.text());
    rig.replace("/shards-map", &right).await;
    rig.counted().await;
    rig.is_ready().await;
}
