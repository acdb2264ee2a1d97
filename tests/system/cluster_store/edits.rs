//! The edits, on every implementation, also while others edit and while answers are lost.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use backpack::{
    cluster::{
        Edit, Entry, Hint, Link, MapStore, StoreError,
        edit::{
            EditError, InitReport, Made, NewShard, Outcome, PoolChange, WriterStamp, add_server, add_shard,
            add_used, init, set_pool, set_queue, set_read_only, set_used,
        },
    },
    model::{QueueInfo, QueueServer, Server, ServerId, ShardId, WriteLevel, map::ShardSize},
};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{broadcast, watch};

use crate::cluster_store::place::{Place, create, delete, on_both, set, text};

on_both! {
    the_set_up_of_the_readme_writes_what_the_original_writes
    init_leaves_alone_what_is_there
    everything_done_twice_changes_nothing
    what_would_lose_blobs_is_refused
    a_shard_and_its_size_come_together
    documents_that_cannot_be_read_are_not_touched
    editors_at_the_same_time_lose_nothing
    used_bytes_are_added_exactly_once
    a_lost_answer_changes_nothing_twice
    sizes_that_make_no_sense_wait_for_recount
}

pub fn queue() -> QueueInfo {
    let server = |port| QueueServer { host: "127.0.0.1".into(), port, tls: false };
    QueueInfo { key: "backpack-queue".into(), servers: vec![server(23001), server(23002)] }
}

pub fn server(id: &str, port: u16) -> Server {
    Server { id: id.parse().unwrap(), host: "127.0.0.1".into(), port }
}

pub fn shard(id: &str, servers: &[&str]) -> NewShard {
    let servers = servers.iter().map(|id| id.parse().unwrap()).collect();
    NewShard { id: id.parse().unwrap(), servers, capacity: 100 << 30, pool: None }
}

fn ids(texts: &[&str]) -> Vec<ServerId> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub fn stamp(writer: &str, seq: u64) -> WriterStamp {
    WriterStamp { writer: writer.into(), seq }
}

/// Adds as a coordinator does: again with the same stamp until the store says that it is done.
pub async fn add_at_last(
    store: &dyn MapStore,
    shard: &ShardId,
    delta: i64,
    stamp: &WriterStamp,
) -> ShardSize {
    loop {
        match add_used(store, shard, delta, stamp).await {
            Ok(size) => return size,
            Err(EditError::Store(StoreError::Unavailable(_))) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A store with the servers 1 to 4 and the shard 1 on the first two.
pub async fn small_cluster(place: &Place) -> Arc<dyn MapStore> {
    let store = place.connect();
    init(&*store, &queue()).await.unwrap();
    for n in 1..=4u16 {
        add_server(&*store, &server(&n.to_string(), 10000 + n)).await.unwrap();
    }
    add_shard(&*store, &shard("1", &["1", "2"]), false).await.unwrap();
    store
}

async fn the_set_up_of_the_readme_writes_what_the_original_writes(place: Place) {
    let store = place.connect();
    let made = InitReport { servers_map: Made::New, shards_map: Made::New, queue: Made::New };
    assert_eq!(init(&*store, &queue()).await, Ok(made));
    for n in 1..=2u16 {
        let added = add_server(&*store, &server(&n.to_string(), 10000 + n)).await;
        assert_eq!(added, Ok(Outcome::Changed));
    }
    add_shard(&*store, &shard("1", &["1"]), false).await.unwrap();
    add_shard(&*store, &shard("2", &["2"]), false).await.unwrap();
    assert_eq!(set_read_only(&*store, &"1".parse().unwrap(), false).await, Ok(Outcome::Changed));
    for (path, expected) in [
        (
            "/queue",
            r#"{"key":"backpack-queue","servers":[{"host":"127.0.0.1","port":"23001"},{"host":"127.0.0.1","port":"23002"}]}"#,
        ),
        (
            "/servers-map",
            r#"{"1":{"host":"127.0.0.1","port":"10001"},"2":{"host":"127.0.0.1","port":"10002"}}"#,
        ),
        ("/shards-map", r#"{"1":{"nodes":["1"]},"2":{"read_only":true,"nodes":["2"]}}"#),
        ("/shard-size-1", r#"{"capacity":107374182400,"current":0}"#),
    ] {
        assert_eq!(text(&*store, path).await.unwrap().0, expected);
    }
}

async fn init_leaves_alone_what_is_there(place: Place) {
    let store = place.store().await;
    create(&*store, "/servers-map", r#"{"1":{"host":"a","port":"1"}}"#).await.unwrap();
    let report = init(&*store, &queue()).await.unwrap();
    assert_eq!(report, InitReport { servers_map: Made::Existed, shards_map: Made::New, queue: Made::New });
    let other = QueueInfo { key: "other".into(), servers: vec![] };
    let report = init(&*store, &other).await.unwrap();
    assert_eq!(
        report,
        InitReport { servers_map: Made::Existed, shards_map: Made::Existed, queue: Made::Existed }
    );
    assert!(text(&*store, "/queue").await.unwrap().0.contains("backpack-queue"));
    assert!(text(&*store, "/servers-map").await.unwrap().0.contains(r#""a""#));
}

async fn everything_done_twice_changes_nothing(place: Place) {
    let store = small_cluster(&place).await;
    let one = "1".parse().unwrap();
    let (safe, all) = ("safe".parse().unwrap(), PoolChange { write: Some(WriteLevel::All), hosts: None });
    for outcome in [Outcome::Changed, Outcome::Unchanged] {
        assert_eq!(add_server(&*store, &server("5", 9)).await, Ok(outcome));
        assert_eq!(add_shard(&*store, &shard("5", &["5"]), false).await, Ok(outcome));
        assert_eq!(set_read_only(&*store, &one, false).await, Ok(outcome));
        let other = QueueInfo { key: "other".into(), servers: vec![] };
        assert_eq!(set_queue(&*store, &other).await, Ok(outcome));
        assert_eq!(set_pool(&*store, &safe, &all).await.unwrap().1, outcome);
        assert_eq!(set_used(&*store, &one, 17).await, Ok(outcome));
    }
    // The size and the state of a shard that exists stay, and its order of servers may change.
    let again = NewShard { capacity: 1, ..shard("1", &["2", "1"]) };
    assert_eq!(add_shard(&*store, &again, false).await, Ok(Outcome::Changed));
    assert_eq!(text(&*store, "/shard-size-1").await.unwrap().0, r#"{"capacity":107374182400,"current":17}"#);
    assert!(text(&*store, "/shards-map").await.unwrap().0.starts_with(r#"{"1":{"nodes":["2","1"]},"#));
    let pooled = NewShard { pool: Some("safe".parse().unwrap()), ..again };
    assert_eq!(add_shard(&*store, &pooled, false).await, Ok(Outcome::Changed));
    assert!(text(&*store, "/shards-map").await.unwrap().0.contains(r#""pool":"safe""#));
}

async fn what_would_lose_blobs_is_refused(place: Place) {
    let store = small_cluster(&place).await;
    let before = text(&*store, "/shards-map").await;

    let address_taken = add_server(&*store, &server("9", 10001)).await.unwrap_err();
    assert_eq!(
        address_taken,
        EditError::AddressTaken { address: "127.0.0.1:10001".into(), server: "1".parse().unwrap() }
    );
    // The same server may move; not to where another one is.
    assert!(add_server(&*store, &server("1", 10002)).await.is_err());

    for force in [false, true] {
        let unknown = add_shard(&*store, &shard("new", &["3", "8", "9"]), force).await.unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "unknown server 8, 9: add it first with add-server (known are: 1, 2, 3, 4)"
        );
        for servers in [&[] as &[&str], &["3", "3"]] {
            let bad = add_shard(&*store, &shard("new", servers), force).await;
            assert_eq!(bad, Err(EditError::BadServers { shard: "new".parse().unwrap() }));
        }
    }
    let taken = add_shard(&*store, &shard("new", &["2", "3"]), false).await;
    assert_eq!(
        taken,
        Err(EditError::ServerTaken { server: "2".parse().unwrap(), shard: "1".parse().unwrap() })
    );
    let other_servers = add_shard(&*store, &shard("1", &["1", "3"]), false).await;
    assert_eq!(
        other_servers,
        Err(EditError::ServersChange { shard: "1".parse().unwrap(), servers: ids(&["1", "2"]) })
    );
    let unknown = set_read_only(&*store, &"7".parse().unwrap(), true).await;
    assert_eq!(
        unknown,
        Err(EditError::UnknownShard { shard: "7".parse().unwrap(), known: vec!["1".parse().unwrap()] })
    );
    assert_eq!(text(&*store, "/shards-map").await, before);
    assert_eq!(store.get("/shard-size-new").await, Ok(None));

    add_shard(&*store, &shard("new", &["2", "3"]), true).await.unwrap();
    add_shard(&*store, &shard("1", &["1", "3"]), true).await.unwrap();
    assert!(text(&*store, "/shards-map").await.unwrap().0.contains(r#""nodes":["1","3"]"#));
}

async fn a_shard_and_its_size_come_together(place: Place) {
    let store = small_cluster(&place).await;
    // What the original leaves when it dies between its two writes: a shard without a size.
    let (shards, version) = text(&*store, "/shards-map").await.unwrap();
    let with_third = shards.replacen('{', r#"{"3":{"nodes":["3"]},"#, 1);
    set(&*store, "/shards-map", &with_third, version).await.unwrap();
    assert_eq!(add_shard(&*store, &shard("3", &["3"]), false).await, Ok(Outcome::Changed));
    assert_eq!(text(&*store, "/shard-size-3").await.unwrap().0, r#"{"capacity":107374182400,"current":0}"#);
    assert_eq!(text(&*store, "/shards-map").await.unwrap().0, with_third);
    // A size without a shard: what is used stays until somebody counts.
    create(&*store, "/shard-size-4", r#"{"capacity":7,"current":5}"#).await.unwrap();
    add_shard(&*store, &shard("4", &["4"]), false).await.unwrap();
    assert_eq!(text(&*store, "/shard-size-4").await.unwrap().0, r#"{"capacity":107374182400,"current":5}"#);
}

async fn documents_that_cannot_be_read_are_not_touched(place: Place) {
    let store = small_cluster(&place).await;
    let (_, version) = text(&*store, "/servers-map").await.unwrap();
    set(&*store, "/servers-map", "{oops", version).await.unwrap();
    let refused = add_server(&*store, &server("9", 9)).await.unwrap_err();
    assert!(matches!(refused, EditError::Malformed { .. }), "{refused}");
    assert!(add_shard(&*store, &shard("9", &["3"]), true).await.is_err());
    assert_eq!(text(&*store, "/servers-map").await.unwrap().0, "{oops");
}

async fn editors_at_the_same_time_lose_nothing(place: Place) {
    let stores = [place.store().await, place.store().await, place.store().await, place.store().await];
    init(&*stores[0], &queue()).await.unwrap();
    let edits = stores.iter().enumerate().map(|(n, store)| async move {
        for k in 0..10 {
            let id = format!("{n}-{k}");
            add_server(&**store, &server(&id, (1 + n * 100 + k) as u16)).await.unwrap();
            add_shard(&**store, &shard(&id, &[&id]), false).await.unwrap();
        }
    });
    join_all(edits).await;
    let (shards, _) = text(&*stores[0], "/shards-map").await.unwrap();
    let shards: serde_json::Value = serde_json::from_str(&shards).unwrap();
    assert_eq!(shards.as_object().unwrap().len(), 40);
    let sizes = stores[0].children("/").await.unwrap();
    assert_eq!(sizes.iter().filter(|name| name.starts_with("shard-size-")).count(), 40);
}

async fn used_bytes_are_added_exactly_once(place: Place) {
    let store = small_cluster(&place).await;
    let stores = [store.clone(), place.store().await, place.store().await, place.store().await];
    let one = &"1".parse().unwrap();
    let adds = stores.iter().enumerate().map(|(n, store)| async move {
        for seq in 1..=50 {
            let size = add_used(&**store, one, 7, &stamp(&n.to_string(), seq)).await.unwrap();
            assert!(size.used >= 7 * seq);
        }
    });
    join_all(adds).await;
    let full = ShardSize { capacity: 100 << 30, used: 4 * 50 * 7 };
    // Again with the last stamp: it was added already.
    assert_eq!(add_used(&*store, one, 7, &stamp("0", 50)).await, Ok(full));
    // Never below nothing.
    let empty = ShardSize { used: 0, ..full };
    assert_eq!(add_used(&*store, one, i64::MIN, &stamp("0", 51)).await, Ok(empty));
    assert_eq!(add_used(&*store, one, 5, &stamp("0", 52)).await, Ok(ShardSize { used: 5, ..full }));
}

/// Makes every third commit and then says that nobody answered.
struct LosesAnswers {
    store: Arc<dyn MapStore>,
    commits: AtomicU32,
}

#[async_trait]
impl MapStore for LosesAnswers {
    async fn get(&self, path: &str) -> Result<Option<Entry>, StoreError> {
        self.store.get(path).await
    }
    async fn children(&self, path: &str) -> Result<Vec<String>, StoreError> {
        self.store.children(path).await
    }
    async fn commit(&self, edits: &[Edit]) -> Result<(), StoreError> {
        let result = self.store.commit(edits).await;
        let lost = !edits.is_empty() && self.commits.fetch_add(1, Ordering::Relaxed).is_multiple_of(3);
        if lost { Err(StoreError::Unavailable("on purpose".into())) } else { result }
    }
    async fn init(&self) -> Result<(), StoreError> {
        self.store.init().await
    }
    async fn announce(&self, path: &str, data: Bytes) -> Result<(), StoreError> {
        self.store.announce(path, data).await
    }
    async fn withdraw(&self, path: &str) -> Result<(), StoreError> {
        self.store.withdraw(path).await
    }
    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.store.hints()
    }
    fn link(&self) -> watch::Receiver<Link> {
        self.store.link()
    }
}

async fn a_lost_answer_changes_nothing_twice(place: Place) {
    let store = small_cluster(&place).await;
    let flaky = || LosesAnswers { store: store.clone(), commits: AtomicU32::new(0) };
    // Made, although the first answer was lost; so it says that it changed something.
    assert_eq!(add_server(&flaky(), &server("5", 5)).await, Ok(Outcome::Changed));
    assert_eq!(add_shard(&flaky(), &shard("5", &["5"]), false).await, Ok(Outcome::Changed));
    let one = &"1".parse().unwrap();
    let writers = (0..4).map(|n| {
        let flaky = flaky();
        async move {
            for seq in 1..=20 {
                add_at_last(&flaky, one, 3, &stamp(&n.to_string(), seq)).await;
            }
        }
    });
    join_all(writers).await;
    let size = add_used(&*store, one, 0, &stamp("reader", 1)).await.unwrap();
    assert_eq!(size.used, 4 * 20 * 3);
}

async fn sizes_that_make_no_sense_wait_for_recount(place: Place) {
    let store = small_cluster(&place).await;
    let one = &"1".parse().unwrap();
    let (_, version) = text(&*store, "/shard-size-1").await.unwrap();
    // What the original writes after a chunked upload.
    set(&*store, "/shard-size-1", r#"{"capacity":10,"current":null}"#, version).await.unwrap();
    let refused = add_used(&*store, one, 7, &stamp("a", 1)).await.unwrap_err();
    assert!(refused.to_string().contains("run recount"), "{refused}");
    assert_eq!(set_used(&*store, one, 5).await, Ok(Outcome::Changed));
    let size = add_used(&*store, one, 7, &stamp("a", 1)).await;
    assert_eq!(size, Ok(ShardSize { capacity: 10, used: 12 }));

    let (_, version) = text(&*store, "/shard-size-1").await.unwrap();
    delete(&*store, "/shard-size-1", version).await.unwrap();
    let missing = EditError::NoSize { shard: one.clone() };
    assert_eq!(add_used(&*store, one, 7, &stamp("a", 2)).await, Err(missing.clone()));
    assert_eq!(set_used(&*store, one, 7).await, Err(missing));
}
