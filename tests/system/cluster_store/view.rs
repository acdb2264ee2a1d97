//! The view, on every implementation: it holds what the store says, soon after it says so.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use backpack::{
    cluster::{
        Edit, Entry, Hint, Link, MapStore, StoreError, View, ViewState,
        edit::{PoolChange, add_server, add_shard, add_used, set_pool, set_queue, set_read_only},
    },
    daemon::Shutdown,
    model::{ClusterMap, QueueInfo, WriteLevel, map::ShardSize},
};
use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use super::{
    edits::{self, server, shard, small_cluster, stamp},
    place::{Place, SOON, create, delete, hinted, on_both, set, text},
};

on_both! {
    the_view_follows_every_kind_of_change
    a_view_of_nothing_fills_after_init
    a_shard_whose_size_comes_later_becomes_writable
    a_document_that_makes_no_sense_keeps_the_last_good_one
    many_changes_make_few_maps
}

/// Waits until the map is as it should be.
pub async fn becomes(view: &View, what: &str, right: impl Fn(&ClusterMap) -> bool) {
    let mut changes = view.changes();
    let wait = tokio::time::timeout(SOON, changes.wait_for(|map| right(map)));
    if wait.await.is_err() {
        panic!("the map never became right: {what}: {:?}", view.map());
    }
    assert!(right(&view.map()), "map() is behind changes()");
}

pub async fn start(store: &Arc<dyn MapStore>) -> View {
    let view = View::start(store.clone(), Shutdown::default());
    tokio::time::timeout(SOON, view.loaded()).await.unwrap();
    view
}

fn size(map: &ClusterMap, id: &str) -> Option<ShardSize> {
    map.shards.get(&id.parse().unwrap())?.size
}

fn writable(map: &ClusterMap, id: &str) -> bool {
    map.shards.get(&id.parse().unwrap()).is_some_and(|shard| shard.is_writable())
}

async fn the_view_follows_every_kind_of_change(place: Place) {
    let store = small_cluster(&place).await;
    let view = start(&place.connect()).await;
    let map = view.map();
    assert_eq!((map.servers.len(), map.shards.len()), (4, 1));
    assert_eq!(map.queue, Some(edits::queue()));
    assert_eq!(size(&map, "1"), Some(ShardSize { capacity: 100 << 30, used: 0 }));
    assert!(!writable(&map, "1") && map.live.is_empty() && map.pools.is_empty());
    becomes(&view, "fresh", |_| true).await;
    assert_eq!(view.state(), ViewState::Fresh);

    let one = &"1".parse().unwrap();
    set_read_only(&*store, one, false).await.unwrap();
    becomes(&view, "enabled", |map| writable(map, "1")).await;
    add_used(&*store, one, 5, &stamp("a", 1)).await.unwrap();
    becomes(&view, "used", |map| size(map, "1").is_some_and(|size| size.used == 5)).await;
    add_server(&*store, &server("1", 9)).await.unwrap();
    becomes(&view, "moved", |map| map.servers[&"1".parse().unwrap()].port == 9).await;
    add_shard(&*store, &shard("2", &["3"]), false).await.unwrap();
    becomes(&view, "a new shard", |map| size(map, "2").is_some()).await;
    let queue = QueueInfo { key: "other".into(), servers: vec![] };
    set_queue(&*store, &queue).await.unwrap();
    becomes(&view, "another queue", |map| map.queue.as_ref() == Some(&queue)).await;
    let (safe, all) = ("safe".parse().unwrap(), PoolChange { write: Some(WriteLevel::All), hosts: None });
    set_pool(&*store, &safe, &all).await.unwrap();
    becomes(&view, "a pool", |map| map.pool(&safe).write == WriteLevel::All).await;
    store.announce("/live/3", "".into()).await.unwrap();
    becomes(&view, "alive", |map| map.live.contains(&"3".parse().unwrap())).await;
    store.withdraw("/live/3").await.unwrap();
    becomes(&view, "gone", |map| map.live.is_empty()).await;
    let (_, version) = text(&*store, "/queue").await.unwrap();
    delete(&*store, "/queue", version).await.unwrap();
    becomes(&view, "no queue", |map| map.queue.is_none()).await;
}

async fn a_view_of_nothing_fills_after_init(place: Place) {
    let view = start(&place.connect()).await;
    assert_eq!(*view.map(), ClusterMap::default());
    small_cluster(&place).await;
    becomes(&view, "filled", |map| map.servers.len() == 4 && size(map, "1").is_some()).await;
}

async fn a_shard_whose_size_comes_later_becomes_writable(place: Place) {
    let store = small_cluster(&place).await;
    let view = start(&store).await;
    let (_, version) = text(&*store, "/shards-map").await.unwrap();
    set(&*store, "/shards-map", r#"{"9":{"nodes":["1"]}}"#, version).await.unwrap();
    becomes(&view, "a shard without a size", |map| {
        map.shards.len() == 1 && !writable(map, "9") && map.shards.contains_key(&"9".parse().unwrap())
    })
    .await;
    create(&*store, "/shard-size-9", r#"{"capacity":10,"current":0}"#).await.unwrap();
    becomes(&view, "writable", |map| writable(map, "9")).await;
    delete(&*store, "/shard-size-9", 0).await.unwrap();
    becomes(&view, "not writable any more", |map| !writable(map, "9")).await;
}

async fn a_document_that_makes_no_sense_keeps_the_last_good_one(place: Place) {
    let store = small_cluster(&place).await;
    let view = start(&store).await;
    for (path, bad) in [
        ("/servers-map", "{"),
        ("/shards-map", "[]"),
        ("/queue", r#"{"key":"q","servers":[{"host":1}]}"#),
        ("/shard-size-1", "\u{0}"),
    ] {
        let (good, version) = text(&*store, path).await.unwrap();
        set(&*store, path, bad, version).await.unwrap();
        // Followed all the same: something after it is seen, and nothing was lost.
        let (port, before) = (20_000 + version as u16, view.map());
        let live = format!("/live{}", path.replace("-map", ""));
        store.announce(&live, port.to_string().into_bytes().into()).await.unwrap();
        let name = live.strip_prefix("/live/").unwrap().parse().unwrap();
        becomes(&view, &live, |map| map.live.contains(&name)).await;
        let map = view.map();
        assert_eq!(map.servers, before.servers);
        assert_eq!(map.shards, before.shards);
        assert_eq!(map.queue, before.queue);
        set(&*store, path, &good, version + 1).await.unwrap();
    }
    let (_, version) = text(&*store, "/shard-size-1").await.unwrap();
    set(&*store, "/shard-size-1", r#"{"capacity":10,"current":null}"#, version).await.unwrap();
    becomes(&view, "nobody knows how full it is", |map| size(map, "1").is_none()).await;
    assert_eq!(view.state(), ViewState::Fresh);
}

async fn many_changes_make_few_maps(place: Place) {
    const CHANGES: u64 = 100;
    let store = small_cluster(&place).await;
    let followed = Arc::new(HoldsReads {
        store: place.connect(),
        holds: watch::Sender::new(false),
        reads: AtomicUsize::new(0),
    });
    let view = start(&(followed.clone() as Arc<dyn MapStore>)).await;
    let mut changes = view.changes();
    let maps = Arc::new(AtomicUsize::new(0));
    let counted = maps.clone();
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    // The view is in the middle of reading when most of them are made.
    let mut hints = followed.hints();
    followed.holds.send_replace(true);
    followed.reads.store(0, Ordering::SeqCst);
    for seq in 1..=CHANGES {
        add_used(&*store, &"1".parse().unwrap(), 1, &stamp("a", seq)).await.unwrap();
        hinted(&mut hints, "/shard-size-1").await;
    }
    followed.holds.send_replace(false);
    becomes(&view, "all added", |map| size(map, "1").is_some_and(|size| size.used == CHANGES)).await;
    add_server(&*store, &server("9", 9)).await.unwrap();
    becomes(&view, "a change that came later", |map| map.servers.len() == 5).await;
    let (maps, reads) = (maps.load(Ordering::SeqCst), followed.reads.load(Ordering::SeqCst));
    assert!(
        maps < 5 && reads < CHANGES as usize / 2,
        "{maps} maps, {reads} reads for {CHANGES} changes of one document"
    );
}

/// Reads of documents are counted, and wait while it says so.
struct HoldsReads {
    store: Arc<dyn MapStore>,
    holds: watch::Sender<bool>,
    reads: AtomicUsize,
}

#[async_trait]
impl MapStore for HoldsReads {
    async fn get(&self, path: &str) -> Result<Option<Entry>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        // The sender lives as long as this.
        let _ = self.holds.subscribe().wait_for(|holds| !holds).await;
        self.store.get(path).await
    }
    async fn children(&self, path: &str) -> Result<Vec<String>, StoreError> {
        self.store.children(path).await
    }
    async fn commit(&self, edits: &[Edit]) -> Result<(), StoreError> {
        self.store.commit(edits).await
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
