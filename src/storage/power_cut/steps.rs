//! Single steps that must be durable before the next one, each with what a power cut would do without it.

use std::{collections::BTreeMap, fs, time::Duration};

use rustix::io::Errno;

use super::{
    super::{
        Before, Engine, Options, Storage, SyncMode,
        compact_tests::{self, SMALL, body, delete, find_tombstones, get, put, rewrite_some},
    },
    cut_after, home,
    recorder::{Change, Event, Recorder},
};

fn grouped() -> Options {
    Options { sync: SyncMode::Group, ..compact_tests::options() }
}

/// With the volume its tombstone would come back, over a write that was acknowledged since.
#[tokio::test(flavor = "multi_thread")]
async fn the_removal_of_a_volume_is_durable_before_its_tombstones_are_forgotten() {
    let home = home();
    let recorder = Recorder::new(home.path());
    let engine = Engine::open(home.path(), Options { tombstone_age: Duration::ZERO, ..grouped() }).unwrap();
    delete(&engine, "a", 5).await.unwrap();
    let mut n = 0;
    while engine.shared.volumes.count() < 3 {
        n += 1;
        put(&engine, "filler", n, SMALL as usize).await.unwrap();
    }
    find_tombstones(&engine).await;
    rewrite_some(&engine, 1, usize::MAX).await.unwrap();
    let before = put(&engine, "a", 3, 100).await.unwrap();
    assert_eq!(before, Before::Nothing, "the tombstone is forgotten");
    cut_after(&recorder.events(), async |engine| {
        assert_eq!(get(engine, "a").await.unwrap(), Some((3, Some(body("a", 3, 100)))));
    })
    .await;
}

/// Without it the volumes would be those of nobody.
#[tokio::test]
async fn the_marker_of_a_first_start_that_was_cut_short_is_durable_before_the_first_write() {
    let home = home();
    let recorder = Recorder::new(home.path());
    let marker = home.path().join("FORMAT");
    recorder.fail(move |change, path| {
        let is_root = path.as_os_str().is_empty() && marker.exists();
        (is_root && matches!(change, Change::SyncFolder(_))).then_some(Errno::IO)
    });
    assert!(Engine::open(home.path(), grouped()).is_err());
    recorder.heal();
    let engine = Engine::open(home.path(), grouped()).unwrap();
    put(&engine, "a", 1, 100).await.unwrap();
    cut_after(&recorder.events(), async |engine| assert!(get(engine, "a").await.unwrap().is_some())).await;
}

/// Else the old one is gone, the new one is torn, and the start has to read all volumes.
#[tokio::test]
async fn a_saved_index_is_whole_before_it_gets_its_name() {
    let home = home();
    let recorder = Recorder::new(home.path());
    let engine = Engine::open(home.path(), grouped()).unwrap();
    put(&engine, "a", 1, 100).await.unwrap();
    engine.close().await.unwrap();
    let saved = fs::read(home.path().join("INDEX")).unwrap();
    cut_after(&recorder.events(), async |engine| {
        assert_eq!(engine.shared.layout.index.bytes(), saved.len() as u64, "it is used");
    })
    .await;
}

/// Else it would name records that are not there, in the place of those that are.
#[tokio::test]
async fn volumes_are_durable_before_a_saved_index_names_them() {
    let home = home();
    let recorder = Recorder::new(home.path());
    let options = Options { sync: SyncMode::Never, ..compact_tests::options() };
    let engine = Engine::open(home.path(), options).unwrap();
    let mut newest = BTreeMap::new();
    for n in 1.. {
        let name = format!("key/{}", n % 7);
        put(&engine, &name, n, SMALL as usize / 2).await.unwrap();
        newest.insert(name, n);
        if engine.shared.volumes.count() == 3 {
            break;
        }
    }
    // The last volume is synced before, for the clean point.
    engine.close().await.unwrap();
    // Behind it runs of keys are written, which sync the volumes too.
    let events = recorder.events();
    let is_named = |event: &Event| matches!(event, Event::Rename { to, .. } if to.ends_with("INDEX"));
    let named = events.iter().position(is_named).unwrap();
    cut_after(&events[..=named], async |engine| {
        for (name, n) in &newest {
            let held = get(engine, name).await.unwrap();
            assert_eq!(held, Some((*n, Some(body(name, *n, SMALL as usize / 2)))), "{name}");
        }
    })
    .await;
}

/// Nothing else is left that could say so: neither the cut nor the next volume could be written.
#[tokio::test]
async fn what_a_start_shows_after_a_failed_sync_stays() {
    let home = home();
    let recorder = Recorder::new(home.path());
    let engine = Engine::open(home.path(), grouped()).unwrap();
    put(&engine, "a", 1, 2000).await.unwrap();
    recorder.fail(|change, _| {
        let fails = matches!(change, Change::Sync(_) | Change::SetLen { .. } | Change::Create(_));
        fails.then_some(Errno::IO)
    });
    assert!(put(&engine, "a", 2, 2000).await.is_err());
    recorder.heal();
    drop(engine);
    let engine = Engine::open(home.path(), grouped()).unwrap();
    let shown = get(&engine, "a").await.unwrap();
    assert_eq!(shown, Some((2, Some(body("a", 2, 2000)))), "it was in memory still");
    put(&engine, "b", 1, 2000).await.unwrap();
    cut_after(&recorder.events(), async |engine| {
        assert_eq!(get(engine, "a").await.unwrap(), shown);
        assert!(get(engine, "b").await.unwrap().is_some(), "it was acknowledged");
    })
    .await;
}
