//! Which of several writes of one key is the newest, whatever the clocks of the coordinators say, and what an overwrite counts.

use std::time::Duration;

use backpack::{daemon::unix_ms, model::Version};

use crate::{
    coordinator_support::{Cluster, Member, body},
    support::{
        http::{Reply, Request},
        wait::eventually,
    },
};

const WITHIN: Duration = Duration::from_secs(60);

/// A blob in shard 1 that came by a coordinator whose clock is ahead.
async fn put_from_the_future(cluster: &Cluster, key: &str, ahead: Duration) -> Version {
    let version = Version::from_parts(unix_ms() + ahead.as_millis() as u64, 7);
    for node in &cluster.nodes {
        let put =
            Request::put(node, key, b"older".to_vec()).header("x-backpack-version", &version.to_string());
        assert_eq!(put.send().await.unwrap().status, 201);
    }
    version
}

const AN_HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_write_is_the_newest_though_another_coordinators_clock_is_ahead() {
    for level in ["one", "all"] {
        let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
        let held = put_from_the_future(&cluster, "/k", AN_HOUR).await;
        let put = cluster.put("/k", body(500)).header("x-backpack-write", level).send().await.unwrap();
        assert_eq!(put.status, 200, "{}", put.text());
        let version: Version = put.header("x-backpack-version").unwrap().parse().unwrap();
        assert!(version > held);
        let copies = if level == "one" { 1 } else { 2 };
        let tasks = cluster.tasks().await.into_iter().filter(|task| task.version == Some(version)).count();
        assert_eq!(tasks, 2 - copies);
        let mut have = 0;
        for node in &cluster.nodes {
            have += usize::from(Request::get(node, "/k").send().await.unwrap().body == body(500));
        }
        assert_eq!(have, copies);

        put_from_the_future(&cluster, "/d", 2 * AN_HOUR).await;
        let delete = Request::new("DELETE", &cluster.addr, "/1:d").header("x-backpack-write", level);
        assert_eq!(delete.send().await.unwrap().status, 204);
        if level == "all" {
            assert_eq!(Request::get(&cluster.addr, "/1:d").send().await.unwrap().status, 410);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_cannot_begin_again_says_that_a_newer_version_is_there() {
    let cluster = Cluster::start(&[&[Member::Node]]).await;
    put_from_the_future(&cluster, "/k", AN_HOUR).await;
    let large = body(3 << 20);
    let put = cluster.put("/k", large.clone()).send().await.unwrap();
    assert_eq!(put.status, 409, "{}", put.text());
    assert_eq!(cluster.get("/1:k").await, b"older");
    // It knows of the other clock now.
    assert_eq!(cluster.put("/k", large.clone()).send().await.unwrap().status, 200);
    assert_eq!(cluster.get("/1:k").await, large);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_more_than_a_day_ahead_is_not_followed() {
    let cluster = Cluster::start(&[&[Member::Node]]).await;
    let behind = cluster.add_coordinator(-2 * 24 * 60 * MINUTES_MS).await;
    assert_eq!(cluster.put("/far", b"newer".to_vec()).send().await.unwrap().status, 200);
    let put = Request::put(&behind, "/far", body(10)).send().await.unwrap();
    assert_eq!(put.status, 409, "{}", put.text());
    assert!(put.text().contains("clocks"), "{}", put.text());
    let delete = Request::new("DELETE", &behind, "/1:far").send().await.unwrap();
    assert_eq!(delete.status, 409, "{}", delete.text());
    assert_eq!(cluster.get("/1:far").await, b"newer");
    // Other keys have nothing to do with it.
    assert_eq!(Request::put(&behind, "/other", body(10)).send().await.unwrap().status, 200);
}

/// The version that a write or a read answered with.
fn version_of(reply: &Reply) -> Version {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("x-backpack-version").unwrap().parse().unwrap()
}

const MINUTES_MS: i64 = 60_000;

#[tokio::test(flavor = "multi_thread")]
async fn an_overwrite_is_what_is_read_though_it_came_by_a_coordinator_whose_clock_is_behind() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
    let coordinators =
        [cluster.add_coordinator(7 * MINUTES_MS).await, cluster.add_coordinator(-5 * MINUTES_MS).await];
    for round in 0..10 {
        for (coordinator, addr) in coordinators.iter().enumerate() {
            let text = format!("{round} by {coordinator}").into_bytes();
            let put = Request::put(addr, "/k", text.clone()).header("x-backpack-write", "all");
            assert_eq!(put.send().await.unwrap().status, 200);
            for addr in coordinators.iter().chain([&cluster.addr]) {
                assert_eq!(Request::get(addr, "/1:k").send().await.unwrap().body, text);
            }
        }
    }
    let delete =
        Request::new("DELETE", &coordinators[1], "/1:k").header("x-backpack-write", "all").send().await;
    assert_eq!(delete.unwrap().status, 204);
    for addr in &coordinators {
        assert_eq!(Request::get(addr, "/1:k").send().await.unwrap().status, 410);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinators_hear_of_a_clock_that_is_ahead_from_the_servers() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
    for (round, by_delete) in [false, true].into_iter().enumerate() {
        let ahead = cluster.add_coordinator((round as i64 + 1) * 7 * MINUTES_MS).await;
        // Every server meets the clock that is ahead; the other coordinator writes other keys.
        let put = Request::put(&ahead, "/a", body(9)).header("x-backpack-write", "all");
        let seen = version_of(&put.send().await.unwrap());
        if by_delete {
            let delete = Request::new("DELETE", &cluster.addr, "/1:b").send().await.unwrap();
            assert_eq!(delete.status, 204);
        } else {
            assert!(version_of(&cluster.put("/b", body(9)).send().await.unwrap()) < seen);
        }
        assert!(version_of(&cluster.put("/c", body(9)).send().await.unwrap()) > seen);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_newer_than_what_its_coordinator_gave_to_read() {
    let cluster = Cluster::start(&[&[Member::Node]]).await;
    for (round, deleted) in [false, true].into_iter().enumerate() {
        let ahead = cluster.add_coordinator((round as i64 + 1) * 7 * MINUTES_MS).await;
        let (key, target) = (format!("/{round}"), format!("/1:{round}"));
        let held = version_of(&Request::put(&ahead, &key, body(9)).send().await.unwrap());
        if deleted {
            assert_eq!(Request::new("DELETE", &ahead, &target).send().await.unwrap().status, 204);
        }
        Request::get(&cluster.addr, &target).send().await.unwrap();
        // Another key, of which no server could say that something newer is there.
        assert!(version_of(&cluster.put("/another", body(9)).send().await.unwrap()) > held);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overwrite_counts_the_difference() {
    let cluster = Cluster::start(&[&[Member::Node]]).await;
    for length in [1000, 400, 700] {
        assert_eq!(cluster.put("/o", body(length)).send().await.unwrap().status, 200);
        let length = length as u64;
        eventually("the difference is counted", WITHIN, || async { cluster.used("1").await == length }).await;
    }
    assert_eq!(cluster.get("/1:o").await, body(700));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overwrite_counts_the_difference_where_only_some_servers_have_the_older_blob() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
    for n in 1..=8 {
        let key = format!("/o{n}");
        assert_eq!(cluster.put(&key, body(1000)).send().await.unwrap().status, 200);
        let all = cluster.put(&key, body(400)).header("x-backpack-write", "all").send().await.unwrap();
        assert_eq!(all.status, 200, "{}", all.text());
    }
    eventually("only the newer ones count", WITHIN, || async { cluster.used("1").await == 8 * 400 }).await;
}
