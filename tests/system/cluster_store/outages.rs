//! ZooKeeper killed, frozen, away for long: the store comes back by itself, and nothing is lost or made twice.

use std::{sync::Arc, time::Duration};

use backpack::{
    cluster::{
        self, Hint, Link, MapStore, StoreError, StoreOptions, ViewState,
        edit::{add_server, init},
        format::size_path,
    },
    model::ShardId,
};
use futures_util::future::join_all;

use crate::support::{
    wait::START_WITHIN,
    zookeeper::{ZooKeeper, ZooKeeperEnsemble},
};

use super::{
    edits::{add_at_last, queue, server, stamp},
    place::{SOON, children_become, create, hinted, quiet, set, text},
    view::{becomes, start},
};

/// Short enough to be waited for, long enough for a slow machine.
const SHORT_SESSION: Duration = Duration::from_secs(4);

/// Longer than any outage of these tests, and the longest that the server grants.
const LONG_SESSION: Duration = Duration::from_secs(600);

fn connect(servers: &str, session_timeout: Duration) -> Arc<dyn MapStore> {
    let options = StoreOptions { session_timeout: Some(session_timeout), ..Default::default() };
    cluster::connect(servers, "/backpack", &options).unwrap()
}

async fn link_becomes(store: &dyn MapStore, link: Link) {
    let mut links = store.link();
    let wait = tokio::time::timeout(START_WITHIN, links.wait_for(|now| *now == link));
    assert!(wait.await.is_ok(), "the link never became {link:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_come_after_a_server_was_killed_and_started_again() {
    let zookeeper = ZooKeeper::start();
    let (store, other) = (connect(&zookeeper.addr(), LONG_SESSION), connect(&zookeeper.addr(), LONG_SESSION));
    store.init().await.unwrap();
    create(&*store, "/a", "0").await.unwrap();
    for version in 0..3 {
        let mut hints = store.hints();
        zookeeper.kill();
        link_becomes(&*store, Link::Down).await;
        link_becomes(&*other, Link::Down).await;
        zookeeper.restart();
        // At once, when the other one may be connected and this one not.
        set_at_last(&*other, "/a", version).await;
        hinted(&mut hints, "/a").await;
        link_becomes(&*store, Link::Up).await;
        assert_eq!(text(&*store, "/a").await, Some(("1".into(), version + 1)));
        // And when all is quiet again: the watch itself, not the reading after the reconnect.
        quiet(&mut hints).await;
        create(&*other, &format!("/b{version}"), "").await.unwrap();
        let hint = tokio::time::timeout(SOON, hints.recv()).await.unwrap().unwrap();
        assert_eq!(hint, Hint::Document(format!("/b{version}")));
    }
}

/// Sets a document, again until the store says that it is done: a server that is just starting swallows some connections.
async fn set_at_last(store: &dyn MapStore, path: &str, version: i32) {
    let set_it = async {
        while let Err(error) = set(store, path, "1", version).await {
            if matches!(store.get(path).await, Ok(Some(entry)) if entry.version == version + 1) {
                return;
            }
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        }
    };
    tokio::time::timeout(START_WITHIN, set_it).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements_come_back_after_the_session_expired() {
    let zookeeper = ZooKeeper::start();
    let (store, other) =
        (connect(&zookeeper.addr(), SHORT_SESSION), connect(&zookeeper.addr(), LONG_SESSION));
    store.init().await.unwrap();
    store.announce("/live/1", "a".into()).await.unwrap();
    store.announce("/live/2", "b".into()).await.unwrap();
    for _ in 0..2 {
        let mut hints = store.hints();
        zookeeper.kill();
        // The client gives the session up by itself after 7/5 of its timeout.
        tokio::time::sleep(SHORT_SESSION * 2).await;
        // Withdrawn and announced while nobody answers: it counts when somebody does.
        let (withdrawn, announced) =
            tokio::join!(store.withdraw("/live/2"), store.announce("/live/3", "c".into()));
        assert!(matches!(withdrawn, Err(StoreError::Unavailable(_))));
        assert!(matches!(announced, Err(StoreError::Unavailable(_))));
        zookeeper.restart();
        hinted(&mut hints, "/live/1").await;
        children_become(&*other, "/live", &["1", "3"]).await;
        assert_eq!(text(&*other, "/live/1").await.unwrap().0, "a");
        // Longer than the old session is remembered by the server: it takes nothing along.
        tokio::time::sleep(SHORT_SESSION * 2).await;
        children_become(&*other, "/live", &["1", "3"]).await;
        quiet(&mut hints).await;
        store.withdraw("/live/3").await.unwrap();
        hinted(&mut hints, "/live/3").await;
        store.announce("/live/2", "b".into()).await.unwrap();
    }
    drop(store);
    children_become(&*other, "/live", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_ends_in_time_while_the_server_is_away() {
    let zookeeper = ZooKeeper::start();
    let store = connect(&zookeeper.addr(), LONG_SESSION);
    store.init().await.unwrap();
    create(&*store, "/a", "0").await.unwrap();
    zookeeper.kill();
    calls_end_in_time(&*store).await;
    assert_eq!(*store.link().borrow(), Link::Down);
    zookeeper.restart();
    link_becomes(&*store, Link::Up).await;

    // Frozen: the connection stays, so nobody says that anything is wrong.
    zookeeper.stop();
    calls_end_in_time(&*store).await;
    zookeeper.cont();
    link_becomes(&*store, Link::Up).await;
    assert_eq!(text(&*store, "/a").await.unwrap().0, "0");
}

async fn calls_end_in_time(store: &dyn MapStore) {
    // It stays away until they have all ended, so nothing but their own time-out ends them.
    let calls = async {
        tokio::join!(
            store.get("/a"),
            store.children("/"),
            create(store, "/never", ""),
            store.init(),
            store.announce("/live/1", "".into()),
            store.withdraw("/live/2"),
        )
    };
    let calls = tokio::time::timeout(SOON, calls).await.expect("all calls end");
    let unavailable = |error: Option<StoreError>| {
        assert!(matches!(error, Some(StoreError::Unavailable(_))), "{error:?}");
    };
    unavailable(calls.0.err());
    unavailable(calls.1.err());
    unavailable(calls.2.err());
    unavailable(calls.3.err());
    unavailable(calls.4.err());
    unavailable(calls.5.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_outage_is_not_seen_by_reads() {
    let zookeeper = ZooKeeper::start();
    let store = connect(&zookeeper.addr(), LONG_SESSION);
    store.init().await.unwrap();
    create(&*store, "/a", "0").await.unwrap();
    zookeeper.stop();
    let read = tokio::spawn({
        let store = store.clone();
        async move { text(&*store, "/a").await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    zookeeper.cont();
    assert_eq!(read.await.unwrap(), Some(("0".into(), 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_starts_while_the_server_is_away() {
    let zookeeper = ZooKeeper::start();
    zookeeper.kill();
    let store = connect(&zookeeper.addr(), SHORT_SESSION);
    assert_eq!(*store.link().borrow(), Link::Down);
    let view = backpack::cluster::View::start(store.clone(), Default::default());
    calls_end_in_time(&*store).await;
    assert_eq!(view.state(), ViewState::NeverLoaded);
    let refused = store.get("/a").await.unwrap_err().to_string();
    assert!(refused.contains(&zookeeper.addr()), "{refused}");
    zookeeper.restart();
    link_becomes(&*store, Link::Up).await;
    init(&*store, &queue()).await.unwrap();
    becomes(&view, "loaded", |map| map.queue.is_some()).await;
    // What was announced while nobody answered.
    children_become(&*store, "/live", &["1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_serves_the_last_map_while_the_server_is_away() {
    let zookeeper = ZooKeeper::start();
    let (store, other) =
        (connect(&zookeeper.addr(), SHORT_SESSION), connect(&zookeeper.addr(), LONG_SESSION));
    init(&*store, &queue()).await.unwrap();
    add_server(&*store, &server("1", 1)).await.unwrap();
    let view = start(&store).await;
    for port in 2..4 {
        zookeeper.kill();
        link_becomes(&*store, Link::Down).await;
        // Once in the same session, once in a new one.
        tokio::time::sleep(SHORT_SESSION * (port - 2) * 2).await;
        assert_eq!(view.map().servers.len(), 1);
        crate::support::wait::eventually("it says that it is stale", SOON, async || {
            matches!(view.state(), ViewState::Stale { .. })
        })
        .await;
        zookeeper.restart();
        add_server(&*other, &server("1", port as u16)).await.unwrap();
        becomes(&view, "the new address", |map| map.servers[&"1".parse().unwrap()].port == port as u16).await;
        link_becomes(&*store, Link::Up).await;
        crate::support::wait::eventually("it says that it is fresh", SOON, async || {
            view.state() == ViewState::Fresh
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn adds_are_made_exactly_once_while_the_server_dies() {
    let zookeeper = ZooKeeper::start();
    let stores: Vec<_> = (0..4).map(|_| connect(&zookeeper.addr(), SHORT_SESSION)).collect();
    stores[0].init().await.unwrap();
    let shard: &ShardId = &"1".parse().unwrap();
    create(&*stores[0], &size_path(shard), r#"{"capacity":1000000,"current":0}"#).await.unwrap();
    let done = tokio_util::sync::CancellationToken::new();
    let adds = stores.iter().enumerate().map(|(n, store)| {
        let done = done.clone();
        async move {
            let mut seq = 0;
            while !done.is_cancelled() {
                seq += 1;
                add_at_last(&**store, shard, 3, &stamp(&n.to_string(), seq)).await;
            }
            seq
        }
    });
    let outages = async {
        for pause in [Duration::ZERO, SHORT_SESSION * 2, Duration::ZERO] {
            tokio::time::sleep(Duration::from_millis(500)).await;
            zookeeper.kill();
            tokio::time::sleep(pause).await;
            zookeeper.restart();
            link_becomes(&*stores[0], Link::Up).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        done.cancel();
    };
    let (batches, ()) = tokio::join!(join_all(adds), outages);
    let batches: u64 = batches.iter().sum();
    assert!(batches > 20, "{batches}");
    let size = add_at_last(&*stores[0], shard, 0, &stamp("reader", 1)).await;
    assert_eq!(size.used, 3 * batches);
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_come_after_the_leader_died() {
    let ensemble = ZooKeeperEnsemble::start();
    let (store, other) = (connect(&ensemble.addrs(), LONG_SESSION), connect(&ensemble.addrs(), LONG_SESSION));
    init(&*store, &queue()).await.unwrap();
    store.announce("/live/1", "".into()).await.unwrap();
    let view = start(&store).await;
    ensemble.leader().kill();
    let mut port = 0;
    let added = async {
        loop {
            port += 1;
            match add_server(&*other, &server("1", port)).await {
                Ok(_) => return,
                Err(error) => assert!(error.to_string().contains("does not answer"), "{error}"),
            }
        }
    };
    tokio::time::timeout(START_WITHIN, added).await.unwrap();
    becomes(&view, "the new server", |map| map.servers.len() == 1 && map.live.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_shards_are_read_at_once() {
    const SHARDS: usize = 10_000;
    let zookeeper = ZooKeeper::start();
    let store = connect(&zookeeper.addr(), LONG_SESSION);
    store.init().await.unwrap();
    let ids: Vec<usize> = (0..SHARDS).collect();
    for ids in ids.chunks(500) {
        let size = |id: &usize| cluster::Edit::Create {
            path: format!("/shard-size-{id}"),
            data: r#"{"capacity":10,"current":0}"#.into(),
        };
        store.commit(&ids.iter().map(size).collect::<Vec<_>>()).await.unwrap();
    }
    let shards: serde_json::Map<_, _> =
        ids.iter().map(|id| (id.to_string(), serde_json::json!({"nodes": ["1"]}))).collect();
    create(&*store, "/shards-map", &serde_json::Value::from(shards).to_string()).await.unwrap();
    let view = start(&store).await;
    assert_eq!(view.map().shards.values().filter(|shard| shard.is_writable()).count(), SHARDS);
}
