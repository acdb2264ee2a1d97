//! Each sentence of the documentation of `MapStore`.

use std::time::Duration;

use backpack::cluster::{Edit, Hint, Link, MAX_DOCUMENT_BYTES, StoreError};
use futures_util::future::join_all;

use crate::support::wait::eventually;

use super::place::{Place, SOON, children_become, create, delete, hinted, on_both, quiet, set, text};

on_both! {
    init_makes_the_root_and_its_parents
    documents_have_versions
    a_commit_makes_all_edits_or_none
    one_of_many_who_write_the_same_version_wins
    children_are_sorted
    too_large_documents_are_refused
    malformed_paths_are_refused
    hints_tell_what_changed
    roots_do_not_see_each_other
    the_root_may_be_the_top
    announcements_come_and_go
    an_announcement_ends_with_its_store_object
    the_last_one_who_announces_wins
    an_announcement_waits_for_init
    an_announcement_that_somebody_removed_comes_back
}

fn conflict(path: &str) -> Result<(), StoreError> {
    Err(StoreError::Conflict { path: path.into() })
}

async fn init_makes_the_root_and_its_parents(place: Place) {
    let store = place.connect();
    assert_eq!(store.get("/queue").await, Ok(None));
    assert_eq!(store.get("/").await, Ok(None));
    assert_eq!(store.children("/").await, Ok(vec![]));
    let missing = StoreError::NotInitialised { path: place.root().into() };
    assert_eq!(create(&*store, "/queue", "{}").await, Err(missing));

    store.init().await.unwrap();
    store.init().await.unwrap();
    assert_eq!(text(&*store, "/").await, Some((String::new(), 0)));
    assert_eq!(store.children("/").await.unwrap(), ["live"]);
    create(&*store, "/queue", "{}").await.unwrap();
    place.store().await;
    assert_eq!(text(&*store, "/queue").await, Some(("{}".into(), 0)));
    assert_eq!(*store.link().borrow(), Link::Up);
}

async fn documents_have_versions(place: Place) {
    let store = place.store().await;
    create(&*store, "/a", "0").await.unwrap();
    assert_eq!(create(&*store, "/a", "x").await, conflict("/a"));
    set(&*store, "/a", "1", 0).await.unwrap();
    assert_eq!(text(&*store, "/a").await, Some(("1".into(), 1)));
    assert_eq!(set(&*store, "/a", "x", 0).await, conflict("/a"));
    assert_eq!(delete(&*store, "/a", 0).await, conflict("/a"));
    set(&*store, "/a", "1", 1).await.unwrap();
    assert_eq!(text(&*store, "/a").await, Some(("1".into(), 2)));

    create(&*store, "/a/b", "").await.unwrap();
    assert!(matches!(delete(&*store, "/a", 2).await, Err(StoreError::Invalid(_))));
    delete(&*store, "/a/b", 0).await.unwrap();
    delete(&*store, "/a", 2).await.unwrap();
    assert_eq!(store.get("/a").await, Ok(None));
    assert_eq!(set(&*store, "/a", "x", 2).await, conflict("/a"));
    assert_eq!(delete(&*store, "/a", 2).await, conflict("/a"));
    let missing = StoreError::NotInitialised { path: format!("{}/a", place.root()) };
    assert_eq!(create(&*store, "/a/b", "").await, Err(missing));
    create(&*store, "/a", "new").await.unwrap();
    assert_eq!(text(&*store, "/a").await, Some(("new".into(), 0)));
}

async fn a_commit_makes_all_edits_or_none(place: Place) {
    let store = place.store().await;
    store.commit(&[]).await.unwrap();
    create(&*store, "/a", "0").await.unwrap();
    create(&*store, "/b", "0").await.unwrap();
    let edits = |a_version, b_version| {
        [
            Edit::Create { path: "/c".into(), data: "0".into() },
            Edit::Set { path: "/a".into(), data: "1".into(), version: a_version },
            Edit::Delete { path: "/b".into(), version: b_version },
        ]
    };
    assert_eq!(store.commit(&edits(0, 7)).await, conflict("/b"));
    assert_eq!(store.commit(&edits(7, 0)).await, conflict("/a"));
    assert_eq!(store.get("/c").await, Ok(None));
    assert_eq!(text(&*store, "/a").await, Some(("0".into(), 0)));
    store.commit(&edits(0, 0)).await.unwrap();
    assert_eq!(text(&*store, "/a").await, Some(("1".into(), 1)));
    assert_eq!(store.children("/").await.unwrap(), ["a", "c", "live"]);
    // Within one commit, later edits see earlier ones.
    let nested = [
        Edit::Create { path: "/d".into(), data: "".into() },
        Edit::Create { path: "/d/e".into(), data: "".into() },
        Edit::Set { path: "/d".into(), data: "1".into(), version: 0 },
    ];
    store.commit(&nested).await.unwrap();
    assert_eq!(text(&*store, "/d").await, Some(("1".into(), 1)));
}

async fn one_of_many_who_write_the_same_version_wins(place: Place) {
    let store = place.store().await;
    let others = [place.store().await, place.store().await, place.store().await];
    create(&*store, "/a", "0").await.unwrap();
    for version in 0..20 {
        let written = join_all(others.iter().map(|other| set(&**other, "/a", "x", version))).await;
        assert_eq!(written.iter().filter(|result| result.is_ok()).count(), 1, "{written:?}");
        assert_eq!(written.iter().filter(|result| **result == conflict("/a")).count(), 2, "{written:?}");
    }
    assert_eq!(text(&*store, "/a").await, Some(("x".into(), 20)));
}

async fn children_are_sorted(place: Place) {
    let store = place.store().await;
    for path in ["/b", "/shard-size-10", "/shard-size-2", "/b/x", "/фото"] {
        create(&*store, path, "").await.unwrap();
    }
    assert_eq!(store.children("/").await.unwrap(), ["b", "live", "shard-size-10", "shard-size-2", "фото"]);
    assert_eq!(store.children("/b").await.unwrap(), ["x"]);
    assert_eq!(store.children("/b/x").await.unwrap(), [""; 0]);
    assert_eq!(store.children("/none").await.unwrap(), [""; 0]);
}

async fn too_large_documents_are_refused(place: Place) {
    let store = place.store().await;
    let largest = "x".repeat(MAX_DOCUMENT_BYTES);
    let refused = |result| assert!(matches!(result, Err(StoreError::Invalid(_))), "{result:?}");
    refused(create(&*store, "/a", &(largest.clone() + "x")).await);
    create(&*store, "/a", &largest).await.unwrap();
    refused(set(&*store, "/a", &(largest.clone() + "x"), 0).await);
    let half = |path: &str| Edit::Create { path: path.into(), data: largest[..600_000].to_owned().into() };
    refused(store.commit(&[half("/b"), half("/c")]).await);
    refused(store.announce("/live/1", (largest.clone() + "x").into()).await);
    assert_eq!(text(&*store, "/a").await, Some((largest, 0)));
    assert_eq!(*store.link().borrow(), Link::Up);
}

async fn malformed_paths_are_refused(place: Place) {
    let store = place.store().await;
    for path in ["", "a", "/a/", "/a//b", "/../a", "/a\0"] {
        assert!(matches!(store.get(path).await, Err(StoreError::Invalid(_))), "{path:?}");
        assert!(matches!(store.children(path).await, Err(StoreError::Invalid(_))), "{path:?}");
        assert!(matches!(create(&*store, path, "").await, Err(StoreError::Invalid(_))), "{path:?}");
    }
    assert!(matches!(set(&*store, "/", "", 0).await, Err(StoreError::Invalid(_))));
    for path in ["/queue", "/live", "/live/1/2", "live/1"] {
        let announced = store.announce(path, "".into()).await;
        assert!(matches!(announced, Err(StoreError::Invalid(_))), "{path:?}");
    }
}

async fn hints_tell_what_changed(place: Place) {
    let (store, other) = (place.store().await, place.store().await);
    let mut hints = store.hints();
    // Its own changes, and those of others.
    for writer in [&store, &other] {
        quiet(&mut hints).await;
        create(&**writer, "/a", "0").await.unwrap();
        hinted(&mut hints, "/a").await;
        set(&**writer, "/a", "1", 0).await.unwrap();
        hinted(&mut hints, "/a").await;
        quiet(&mut hints).await;
        let edits = [
            Edit::Delete { path: "/a".into(), version: 1 },
            Edit::Create { path: "/b".into(), data: "".into() },
        ];
        writer.commit(&edits).await.unwrap();
        hinted(&mut hints, "/a").await;
        delete(&**writer, "/b", 0).await.unwrap();
        hinted(&mut hints, "/b").await;
    }
    // Removed and made again: the same version, and another document all the same.
    create(&*other, "/a", "0").await.unwrap();
    quiet(&mut hints).await;
    let again = [
        Edit::Delete { path: "/a".into(), version: 0 },
        Edit::Create { path: "/a".into(), data: "1".into() },
    ];
    other.commit(&again).await.unwrap();
    hinted(&mut hints, "/a").await;
    quiet(&mut hints).await;
    other.announce("/live/7", "".into()).await.unwrap();
    hinted(&mut hints, "/live/7").await;
}

async fn roots_do_not_see_each_other(place: Place) {
    let store = place.store().await;
    let mut hints = store.hints();
    let beside = format!("{}-beside", place.root());
    let other = backpack::cluster::connect(place.servers(), &beside, &Default::default()).unwrap();
    other.init().await.unwrap();
    create(&*other, "/a", "").await.unwrap();
    assert_eq!(store.children("/").await.unwrap(), ["live"]);
    create(&*store, "/b", "").await.unwrap();
    let hint = tokio::time::timeout(SOON, async {
        loop {
            match hints.recv().await.unwrap() {
                Hint::Everything => {}
                Hint::Document(path) if path.starts_with("/live") || path == "/" => {}
                Hint::Document(path) => return path,
            }
        }
    });
    assert_eq!(hint.await.unwrap(), "/b");
}

async fn the_root_may_be_the_top(place: Place) {
    let top = backpack::cluster::connect(place.servers(), "/", &Default::default()).unwrap();
    top.init().await.unwrap();
    let mut hints = top.hints();
    create(&*top, "/of-the-top", "0").await.unwrap();
    hinted(&mut hints, "/of-the-top").await;
    assert!(top.children("/").await.unwrap().contains(&"of-the-top".into()));
    delete(&*top, "/of-the-top", 0).await.unwrap();
    top.announce("/live/of-the-top", "".into()).await.unwrap();
    children_become(&*top, "/live", &["of-the-top"]).await;
    // Also what lies under other roots is there, by its whole path.
    let store = place.store().await;
    create(&*store, "/a", "1").await.unwrap();
    let whole = format!("{}/a", place.root());
    assert_eq!(text(&*top, &whole).await, Some(("1".into(), 0)));
    hinted(&mut hints, &whole).await;
}

async fn announcements_come_and_go(place: Place) {
    let (store, other) = (place.store().await, place.store().await);
    store.announce("/live/1", "a".into()).await.unwrap();
    assert_eq!(text(&*store, "/live/1").await.unwrap().0, "a");
    children_become(&*other, "/live", &["1"]).await;
    store.announce("/live/1", "b".into()).await.unwrap();
    eventually("the new content is seen", SOON, async || {
        text(&*other, "/live/1").await.is_some_and(|(data, _)| data == "b")
    })
    .await;
    store.announce("/live/2", "".into()).await.unwrap();
    children_become(&*other, "/live", &["1", "2"]).await;
    store.withdraw("/live/1").await.unwrap();
    children_become(&*other, "/live", &["2"]).await;
    store.withdraw("/live/1").await.unwrap();
    store.withdraw("/live/never").await.unwrap();
    store.announce("/live/1", "c".into()).await.unwrap();
    assert_eq!(text(&*store, "/live/1").await.unwrap().0, "c");
}

async fn an_announcement_ends_with_its_store_object(place: Place) {
    let (store, other) = (place.store().await, place.store().await);
    let mut hints = other.hints();
    store.announce("/live/1", "".into()).await.unwrap();
    other.announce("/live/2", "".into()).await.unwrap();
    children_become(&*other, "/live", &["1", "2"]).await;
    quiet(&mut hints).await;
    drop(store);
    hinted(&mut hints, "/live/1").await;
    children_become(&*other, "/live", &["2"]).await;
}

async fn the_last_one_who_announces_wins(place: Place) {
    let (old, new) = (place.store().await, place.store().await);
    let watched = place.store().await;
    for n in 0..20 {
        old.announce("/live/1", format!("old{n}").into()).await.unwrap();
        new.announce("/live/1", format!("new{n}").into()).await.unwrap();
    }
    // Both live, and the new one stays; also after the old one has ended.
    let stays = async || {
        // Longer than anybody needs to notice.
        let until = tokio::time::Instant::now() + Duration::from_millis(1500);
        while tokio::time::Instant::now() < until {
            eventually("the new one stands", SOON, async || {
                text(&*watched, "/live/1").await.is_some_and(|(data, _)| data == "new19")
            })
            .await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    stays().await;
    drop(old);
    stays().await;
    // Only its own is withdrawn.
    watched.withdraw("/live/1").await.unwrap();
    assert_eq!(watched.children("/live").await.unwrap(), ["1"]);
    new.withdraw("/live/1").await.unwrap();
    children_become(&*watched, "/live", &[]).await;
}

async fn an_announcement_waits_for_init(place: Place) {
    let (store, other) = (place.connect(), place.connect());
    let refused = store.announce("/live/1", "".into()).await;
    assert_eq!(refused, Err(StoreError::NotInitialised { path: place.root().into() }));
    other.init().await.unwrap();
    children_become(&*other, "/live", &["1"]).await;
}

async fn an_announcement_that_somebody_removed_comes_back(place: Place) {
    let (store, other) = (place.store().await, place.store().await);
    store.announce("/live/1", "".into()).await.unwrap();
    let version = text(&*store, "/live/1").await.unwrap().1;
    delete(&*other, "/live/1", version).await.unwrap();
    children_become(&*other, "/live", &["1"]).await;
}
