//! The embedded store between processes: a child of each test is this test program again.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use backpack::cluster::{
    self, MapStore, StoreError,
    edit::{add_server, add_used},
};

use super::{
    edits::{server, small_cluster, stamp},
    place::{Place, SOON, children_become, create, hinted, quiet, text},
    view::{becomes, start},
};
use crate::support::alone::in_a_process;

/// Where a child finds the store; set, it makes the child tests do their work.
const CHILD_PLACE: &str = "BACKPACK_TEST_PLACE";

/// A child that does not outlive its test.
struct Killed(Child);

impl Killed {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Waits until it has written this line.
    fn says(&mut self, line: &str) {
        let lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|said| said == line));
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn child(test: &str, place: &Place) -> Killed {
    let child = in_a_process(&format!("cluster_store::processes::{test}"))
        .env(CHILD_PLACE, place.servers())
        .stdout(Stdio::piped())
        .spawn();
    Killed(child.unwrap())
}

fn child_store(place: &Place) -> Option<std::sync::Arc<dyn MapStore>> {
    let servers = std::env::var(CHILD_PLACE).ok()?;
    Some(cluster::connect(&servers, place.root(), &Default::default()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn child_announces() {
    let Some(store) = child_store(&Place::embedded()) else { return };
    store.announce("/live/child", "".into()).await.unwrap();
    println!("\nannounced");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements_end_with_the_process() {
    let place = Place::embedded();
    let store = place.store().await;
    store.announce("/live/own", "".into()).await.unwrap();
    for _ in 0..2 {
        let mut hints = store.hints();
        let mut child = child("child_announces", &place);
        child.says("announced");
        hinted(&mut hints, "/live/child").await;
        children_become(&*store, "/live", &["child", "own"]).await;
        quiet(&mut hints).await;
        child.kill();
        hinted(&mut hints, "/live/child").await;
        children_become(&*store, "/live", &["own"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn child_edits() {
    let Some(store) = child_store(&Place::embedded()) else { return };
    add_server(&*store, &server("5", 5)).await.unwrap();
    for seq in 1..=50 {
        add_used(&*store, &"1".parse().unwrap(), 3, &stamp("child", seq)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_system_sees_what_another_process_edits() {
    let place = Place::embedded();
    let store = small_cluster(&place).await;
    let view = start(&store).await;
    let mut child = child("child_edits", &place);
    for seq in 1..=50 {
        add_used(&*store, &"1".parse().unwrap(), 3, &stamp("parent", seq)).await.unwrap();
    }
    becomes(&view, "what the child made", |map| {
        let used = map.shards[&"1".parse().unwrap()].size.unwrap().used;
        used == 300 && map.servers.len() == 5
    })
    .await;
    assert!(child.0.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn child_hangs_in_a_write() {
    let Ok(servers) = std::env::var(CHILD_PLACE) else { return };
    let folder = backpack::embedded::data_dir(&servers).unwrap().join("map");
    let store = backpack::embedded::Store::open(&folder).unwrap();
    let hang = store.write(|writer| {
        writer.put(b"x", b"half")?;
        println!("\nhangs");
        loop {
            std::thread::park();
        }
    });
    let _: Result<(), backpack::embedded::Error> = hang.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_hangs_delays_writes_only_until_it_dies() {
    let place = Place::embedded();
    let store = small_cluster(&place).await;
    let mut child = child("child_hangs_in_a_write", &place);
    child.says("hangs");
    // It hangs until it is killed, so the write ends by its own time-out.
    let late = tokio::time::timeout(SOON, create(&*store, "/late", "")).await.expect("the write ends");
    assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
    assert!(text(&*store, "/servers-map").await.is_some());
    child.kill();
    create(&*store, "/next", "").await.unwrap();
    // Nobody knew whether it was made; it was, as soon as it could be.
    assert_eq!(text(&*store, "/late").await, Some((String::new(), 0)));
}
