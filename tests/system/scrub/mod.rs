//! The scrub between servers: what servers of a shard lack is found by digests, queued exactly, and made.

mod rig;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use backpack::{
    client::Servers,
    cluster::edit,
    daemon::Shutdown,
    model::{Operation, Version},
    scrub::{Going, Record, ScrubError, record_path, schedule},
};
use proptest::prelude::*;
use rig::{Rig, version};

use crate::{
    node_double::TestNode,
    replicator_rig::SOON,
    support::{http::Request, nginx::Nginx, wait::eventually},
};

type Queued = (Operation, String, Version, String);

fn task(op: Operation, key: &str, number: u64, to: &str) -> Queued {
    (op, key.to_owned(), version(number), to.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_hold_the_same_give_no_task() {
    let rig = Rig::new(3).await;
    for n in 0..500 {
        rig.put_on(&[0, 1, 2], &format!("a/{n}"), 7).await;
    }
    for node in &rig.nodes {
        node.delete("a/17", 8).await;
    }
    let found = rig.scrub().await;
    assert_eq!((found.keys, found.differences(), found.queued), (500, 0, 0));
    assert_eq!(found.who.compared.len(), 3);
    assert!(found.who.is_complete() && rig.queued().await.is_empty());
    let record = rig.record().await;
    assert_eq!(record.last.unwrap().found, found);
    assert!(record.going.is_none() && record.settled_ms > version(8).unix_ms());
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_what_is_missing_or_old_is_queued_and_once() {
    use Operation::{Copy, Delete};
    let rig = Rig::new(3).await;
    for n in 0..1000 {
        rig.put_on(&[0, 1, 2], &format!("a/{n}"), 7).await;
    }
    rig.put_on(&[0], "new?x=%20+&y", 9).await;
    rig.put_on(&[1, 2], "a/5", 9).await;
    rig.nodes[2].delete("a/6", 9).await;
    rig.nodes[1].delete("never/there", 9).await;
    let expected: BTreeSet<Queued> = [
        task(Copy, "new?x=%20+&y", 9, "2"),
        task(Copy, "new?x=%20+&y", 9, "3"),
        task(Copy, "a/5", 9, "1"),
        task(Delete, "a/6", 9, "1"),
        task(Delete, "a/6", 9, "2"),
        task(Delete, "never/there", 9, "1"),
        task(Delete, "never/there", 9, "3"),
    ]
    .into();

    let looked = rig.try_scrub(false, None).await.unwrap();
    assert_eq!((looked.missing_copies, looked.missing_deletes, looked.queued), (3, 4, 0));
    assert!(rig.queued().await.is_empty());
    assert_eq!(rig.record().await, Record::default(), "a look leaves nothing behind");

    let one = rig.try_scrub(true, Some("1")).await.unwrap();
    assert_eq!((one.missing_copies, one.missing_deletes, one.queued), (1, 2, 3));
    assert_eq!(rig.record().await, Record::default(), "nothing is known of the other servers");

    let found = rig.scrub().await;
    assert_eq!((found.missing_copies, found.missing_deletes), (3, 4));
    assert_eq!((found.queued, found.already_queued), (4, 3));
    assert_eq!(rig.queued().await, expected);
    assert!(rig.record().await.settled_ms <= version(9).unix_ms(), "what is on its way may be deleted yet");

    let again = rig.scrub().await;
    assert_eq!((again.queued, again.already_queued), (0, 7));
    rig.replicate().await;
    assert_eq!(rig.scrub().await.differences(), 0);
    assert_eq!(rig.nodes[0].holds().await, rig.nodes[1].holds().await);
    assert_eq!(rig.nodes[0].holds().await, rig.nodes[2].holds().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_server_is_filled() {
    let rig = Rig::new(2).await;
    for n in 0..3000 {
        rig.put_on(&[0], &format!("a/{n}"), 7).await;
    }
    let found = rig.scrub().await;
    assert_eq!((found.keys, found.missing_copies, found.queued), (3000, 3000, 3000));
    rig.replicate().await;
    assert_eq!(rig.nodes[0].holds().await, rig.nodes[1].holds().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_that_every_server_may_have_forgotten_are_no_difference() {
    let rig = Rig::new(2).await;
    rig.put_on(&[0, 1], "a", 7).await;
    for node in &rig.nodes {
        node.delete("b", 8).await;
    }
    rig.scrub().await;
    // The other one has forgotten it meanwhile.
    rig.nodes[0].delete("c", 9).await;
    rig.nodes[0].delete("a", 9).await;
    let found = rig.scrub().await;
    assert_eq!(
        rig.queued().await,
        [task(Operation::Delete, "a", 9, "2")].into(),
        "but it holds what was deleted"
    );
    assert_eq!(found.missing_deletes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_list_is_asked_key_by_key() {
    let rig = Rig::without_shard(1).await;
    let nginx = Nginx::webdav();
    rig.tasks.add_server("2", &nginx.addr());
    rig.tasks.add_shard("s", &["1", "2"]);
    for n in 0..100 {
        let key = format!("a/{n}");
        rig.put_on(&[0], &key, 7).await;
        if n != 50 {
            let body = if n == 51 { "other bytes".to_owned() } else { format!("{key} 7") };
            let stored = Request::put(&nginx.addr(), &format!("/{key}"), body).send().await.unwrap();
            assert!(stored.status < 300, "{stored:?}");
        }
    }
    let found = rig.scrub().await;
    let expected = [task(Operation::Copy, "a/50", 7, "2"), task(Operation::Copy, "a/51", 7, "2")];
    assert_eq!(rig.queued().await, expected.into());
    assert_eq!(found.who.asked.iter().map(|id| id.as_str()).collect::<Vec<_>>(), ["2"]);
    assert!(!found.who.is_complete());
    assert_eq!(rig.record().await.settled_ms, 0, "nobody knows what else it holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stretch_that_hides_records_is_no_damage_once_all_servers_were_compared() {
    let mut rig = Rig::new(3).await;
    rig.put_on(&[0, 1, 2], "hidden", 7).await;
    rig.put_on(&[0, 1, 2], "seen", 7).await;
    rig.stop(0).await;
    let volume = rig.dir(0).join("volumes/00000001.vol");
    let mut bytes = std::fs::read(&volume).unwrap();
    bytes[64..80].fill(0);
    std::fs::write(&volume, bytes).unwrap();
    // It would know whose record it was.
    std::fs::remove_file(rig.dir(0).join("INDEX")).unwrap();
    rig.start(0).await;
    let addr = rig.nodes[0].addr.clone();
    let damaged = async || Request::get(&addr, "/-/damaged").send().await.unwrap().text();
    assert!(damaged().await.contains("no_record"), "{}", damaged().await);

    rig.stop(2).await;
    rig.scrub().await;
    assert_eq!(rig.queued().await, [task(Operation::Copy, "hidden", 7, "1")].into());
    assert!(damaged().await.contains("no_record"), "the one that is down may have what no other has");
    rig.start(2).await;
    assert_eq!(rig.try_scrub(false, None).await.unwrap().missing_copies, 1);
    assert!(damaged().await.contains("no_record"), "that was only a look");
    rig.scrub().await;
    assert_eq!(damaged().await, "");
    rig.replicate().await;
    assert_eq!(rig.nodes[0].status("hidden").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_left_out_and_the_others_are_compared() {
    let mut rig = Rig::new(3).await;
    rig.put_on(&[0], "a", 7).await;
    rig.stop(2).await;
    let found = rig.scrub().await;
    assert_eq!(rig.queued().await, [task(Operation::Copy, "a", 7, "2")].into());
    let why = &found.who.left_out[&"3".parse().unwrap()];
    assert!(why.contains("does not answer"), "{why}");
    rig.stop(1).await;
    let alone = rig.try_scrub(true, None).await.unwrap_err();
    assert!(
        matches!(&alone, ScrubError::Nothing(why) if why.contains("server 2 does not answer")),
        "{alone}"
    );
    let record = rig.record().await;
    assert!(record.failed.unwrap().why.contains("no two servers"), "the last one stays beside it");
    assert_eq!(record.last.unwrap().found, found);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_two_shards_is_left_alone() {
    let rig = Rig::without_shard(3).await;
    rig.tasks.add_shard("s", &["1", "2"]);
    rig.tasks.add_shard("t", &["2", "3"]);
    rig.put_on(&[1], "of-t", 7).await;
    let refused = rig.try_scrub(true, None).await.unwrap_err();
    assert!(refused.to_string().contains("server 2 holds 2 shards and cannot tell them apart"), "{refused}");
    assert!(rig.queued().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_blobs_are_fetched_again_from_the_shard() {
    let mut rig = Rig::new(2).await;
    for n in 0..20 {
        rig.put_on(&[0, 1], &format!("a/{n}"), 7).await;
    }
    rig.stop(0).await;
    flip(rig.dir(0), b"a/13 7");
    rig.start(0).await;
    assert_eq!(rig.nodes[0].status("a/13").await, 404, "damage is never served");
    let found = rig.scrub().await;
    assert_eq!((found.damaged, found.queued), (1, 1));
    assert_eq!(rig.queued().await, [task(Operation::Copy, "a/13", 7, "1")].into());
    rig.replicate().await;
    assert_eq!(rig.nodes[0].status("a/13").await, 200);
    assert_eq!(rig.scrub().await.differences(), 0);
}

/// Changes a byte of a blob in the volumes of a directory.
fn flip(dir: &std::path::Path, blob: &[u8]) {
    for entry in std::fs::read_dir(dir.join("volumes")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(blob.len()).rposition(|window| window == blob) {
            bytes[at + blob.len() - 1] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            return;
        }
    }
    panic!("the blob is in no volume");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_goes_on_where_it_was_left() {
    let rig = Rig::new(2).await;
    for n in 0..1000 {
        rig.put_on(&[0, 1], &format!("a/{n:03}"), 7).await;
    }
    rig.put_on(&[0], "a/000/missing", 8).await;
    rig.put_on(&[0], "a/999/missing", 8).await;
    let began_ms = backpack::daemon::unix_ms() - 1000;
    let left = Going { after: Some("a/500".parse().unwrap()), began_ms, ..Going::default() };
    edit::update(&*rig.store, &record_path(&"s".parse().unwrap()), |record: &mut Record| {
        record.going = Some(left.clone());
    })
    .await
    .unwrap();
    let found = rig.scrub().await;
    assert_eq!(found.keys, 500);
    assert_eq!(rig.queued().await, [task(Operation::Copy, "a/999/missing", 8, "2")].into());
    assert_eq!(rig.record().await.last.unwrap().began_ms, began_ms);
    rig.scrub().await;
    assert_eq!(rig.queued().await.len(), 2, "the next one begins at the beginning");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicators_compare_by_themselves_and_again_when_a_server_was_started() {
    let rig = Rig::new(2).await;
    rig.put_on(&[0], "first", 7).await;
    let shutdown = Shutdown::default();
    let config = schedule::Config { scrub_look_seconds: 1, ..schedule::Config::default() };
    let deps = || schedule::Deps {
        store: rig.store.clone(),
        map: rig.tasks.follow_map(),
        queue: rig.tasks.queue.clone(),
        servers: Arc::new(Servers::default()),
    };
    let running = [(); 2].map(|()| tokio::spawn(schedule::run(config.clone(), deps(), shutdown.clone())));
    let first = task(Operation::Copy, "first", 7, "2");
    eventually("it is compared", SOON, async || rig.record().await.last.is_some()).await;
    assert_eq!(rig.queued().await, [first.clone()].into());

    rig.put_on(&[1], "second", 8).await;
    rig.tasks.set_live("1");
    let started_ms = backpack::daemon::unix_ms();
    let document = serde_json::json!({ "addr": rig.nodes[0].addr, "started": started_ms });
    rig.store.announce("/live/1", document.to_string().into()).await.unwrap();
    let again = async || rig.record().await.last.is_some_and(|last| last.began_ms > started_ms);
    eventually("it is compared again", SOON, again).await;
    assert_eq!(rig.queued().await, [first, task(Operation::Copy, "second", 8, "1")].into());
    shutdown.begin();
    for running in running {
        running.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_alone_in_its_shard_need_not_remember_deletes_for_others() {
    let rig = Rig::without_shard(0).await;
    let nodes = [TestNode::start().await, TestNode::start().await];
    rig.tasks.add_server("1", &nodes[0].addr);
    rig.tasks.add_server("2", &nodes[1].addr);
    rig.tasks.add_shard("alone", &["1"]);
    let shutdown = Shutdown::default();
    let config = schedule::Config { scrub_look_seconds: 1, ..schedule::Config::default() };
    let deps = schedule::Deps {
        store: rig.store.clone(),
        map: rig.tasks.follow_map(),
        queue: rig.tasks.queue.clone(),
        servers: Arc::new(Servers::default()),
    };
    let running = tokio::spawn(schedule::run(config, deps, shutdown.clone()));
    let settled = |at: usize| nodes[at].storage.settled_ms.load(SeqCst);
    eventually("it is told", SOON, async || settled(0) > 0).await;
    assert_eq!(settled(1), 0, "it may have been taken out of a shard for a while");
    shutdown.begin();
    running.await.unwrap();
}

/// Writes to single servers: which server, key, version, whether it is a delete.
fn writes() -> impl Strategy<Value = Vec<(usize, u8, u64, bool)>> {
    proptest::collection::vec((0_usize..3, 0_u8..40, 1_u64..6, proptest::bool::weighted(0.3)), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever each server of a shard was told, after a comparison and its tasks all hold the newest of each key.
    #[test]
    fn all_servers_hold_the_newest_of_each_key_in_the_end(writes in writes()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::new(3).await;
            for (server, key, number, deletes) in &writes {
                let key = format!("k/{key}");
                match deletes {
                    true => rig.nodes[*server].delete(&key, *number).await,
                    false => rig.put_on(&[*server], &key, *number).await,
                }
            }
            let mut newest: std::collections::BTreeMap<String, (Version, bool)> = Default::default();
            for node in &rig.nodes {
                for (key, version, deleted) in node.holds().await {
                    let held = newest.entry(key).or_insert((version, deleted));
                    *held = (*held).max((version, deleted));
                }
            }
            let newest: BTreeSet<_> = newest.into_iter().map(|(key, (version, deleted))| (key, version, deleted)).collect();
            rig.scrub().await;
            rig.replicate().await;
            for node in &rig.nodes {
                assert_eq!(node.holds().await, newest);
            }
            assert_eq!(rig.scrub().await.differences(), 0);
        });
    }
}

/// How long a comparison takes: `cargo test --release --test system measure_a_million -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: a million blobs on two nodes"]
async fn measure_a_million() {
    const BLOBS: u64 = 1_000_000;
    const WRITERS: u64 = 64;
    let rig = Rig::new(2).await;
    let key = |n: u64| format!("photos/{:03}/{n:09}.jpg", n % 1000);
    let load = |at: usize, lacks: u64| {
        let rig = &rig;
        let writer = move |writer: u64| async move {
            for n in (writer..BLOBS).step_by(WRITERS as usize).filter(|n| lacks == 0 || n % lacks != 0) {
                rig.nodes[at].put(&key(n), 7, b"some bytes of a photo").await;
            }
        };
        futures_util::future::join_all((0..WRITERS).map(writer))
    };
    load(0, 0).await;
    load(1, 1000).await;
    let started = std::time::Instant::now();
    let found = rig.scrub().await;
    println!(
        "{} keys, {} missing: found and queued in {:?}",
        found.keys,
        found.missing_copies,
        started.elapsed()
    );
    assert_eq!((found.keys, found.queued), (BLOBS, BLOBS / 1000));
    rig.replicate().await;
    for _ in 0..3 {
        let started = std::time::Instant::now();
        let found = rig.scrub().await;
        println!("{} keys, {} differences: {:?}", found.keys, found.differences(), started.elapsed());
        assert_eq!(found.differences(), 0);
    }
}
