//! Copies between servers of all kinds: our own node, nginx with WebDAV, the original's node.

use std::sync::{Arc, atomic::Ordering};

use backpack::{
    client::{Copied, CopyError, CopyPlan, Presence, ServerError, Servers, Unpaced},
    model::{Checksum, Meta, Server, Version},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use crate::{
    client_cases::{
        copy, feed, fetch, head, id, key, pattern, raw::RawServer, server, server_at, servers, upload,
    },
    node_double::TestNode,
    support::{nginx::Nginx, original_node::OriginalNode},
};

fn version(number: u128) -> Version {
    Version::from_parts(1_000, number)
}

/// Puts a blob with a version on one of our nodes.
async fn put(servers: &Servers, to: &Server, key: &str, version: Version, bytes: &[u8]) {
    let mut head = head(key, Some(bytes.len() as u64));
    head.version = Some(version);
    let (sender, body) = backpack::client::PutBody::channel(head.length);
    let id = id();
    let put = servers.put(to, &head, body, &id);
    tokio::join!(put, feed(sender, Bytes::copy_from_slice(bytes))).0.expect("a node takes it");
}

async fn delete(servers: &Servers, on: &Server, key_text: &str, version: Version) {
    servers.delete(on, &key(key_text), version, &id()).await.expect("a node takes a delete");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_copies_to_every_kind() {
    let nodes = [TestNode::start().await, TestNode::start().await];
    let nginx = [Nginx::webdav(), Nginx::webdav()];
    let originals = [OriginalNode::start(), OriginalNode::start()];
    let kind = |id: &str, at: usize| match id {
        "node" => server_at("n", &nodes[at].addr),
        "nginx" => server_at("x", &nginx[at].addr()),
        _ => server_at("o", &originals[at].addr()),
    };
    let servers = servers();
    for from in ["node", "nginx", "original"] {
        for to in ["node", "nginx", "original"] {
            let (source, target) = (kind(from, 0), kind(to, 1));
            for (number, size) in [0, 1, 100_000, 8 << 20].into_iter().enumerate() {
                if size == 0 && (from == "original" || to == "original") {
                    continue;
                }
                // nginx leaves the query out of a name and decodes it; the others take every byte as it is.
                let plain = from == "nginx" || to == "nginx";
                let key = format!("{from}/{to}:{number}/фото%20%25{}", if plain { "" } else { "?a=b%2Fc&d" });
                let bytes = pattern(size);
                upload(&servers, &source, &key, bytes.clone().into()).await.expect("a healthy server");
                let copied = copy(&servers, &key, None, &[&source], &target).await;
                assert_eq!(copied, Ok(Copied::Copied(size as u64)), "{from} to {to}, {size} bytes");
                let there = fetch(&servers, &target, &key).await;
                assert!(there.as_deref() == Some(&bytes), "{from} to {to}, {size} bytes");
                let again = copy(&servers, &key, None, &[&source], &target).await;
                // Without a version on the source's side our node takes a second copy for a newer upload.
                if from == "node" || to != "node" {
                    assert_eq!(again, Ok(Copied::AlreadyThere), "{from} to {to}, {size} bytes");
                }
            }
        }
    }
    let asked_by_head =
        |original: &OriginalNode| original.seen().iter().filter(|r| r.method == "HEAD").count();
    assert_eq!(
        originals.each_ref().map(asked_by_head),
        [0, 1],
        "one HEAD is enough to learn that it knows none"
    );
    let stored = originals[1].seen().iter().filter(|request| request.method == "PUT").count();
    assert_eq!(stored, 3 * 3, "no duplicate is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_64_mib_is_copied_exactly() {
    let (from, to) = (TestNode::start().await, Nginx::webdav());
    let (servers, source, target) = (servers(), server_at("1", &from.addr), server_at("2", &to.addr()));
    let bytes = pattern(64 << 20);
    put(&servers, &source, "big", version(1), &bytes).await;
    let copied = copy(&servers, "big", Some(version(1)), &[&source], &target).await;
    assert_eq!(copied, Ok(Copied::Copied(64 << 20)));
    assert!(std::fs::read(to.files().join("big")).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_version_and_checksum_travel_with_a_blob() {
    let nodes = [TestNode::start().await, TestNode::start().await];
    let (servers, source, target) =
        (servers(), server_at("1", &nodes[0].addr), server_at("2", &nodes[1].addr));
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("image/jpeg"));
    headers.insert("x-amz-meta-owner", HeaderValue::from_static("ann"));
    let mut head = head("k", Some(5));
    head.version = Some(version(7));
    head.meta = Meta::from_headers(&headers).unwrap();
    let (sender, body) = backpack::client::PutBody::channel(Some(5));
    let id = id();
    let stored = tokio::join!(servers.put(&source, &head, body, &id), feed(sender, "hello".into())).0;
    assert_eq!(stored.unwrap().checksum, Some(Checksum::of(b"hello")));

    assert_eq!(copy(&servers, "k", Some(version(7)), &[&source], &target).await, Ok(Copied::Copied(5)));
    let there = servers.look(&target, &key("k"), &id).await;
    let (version, checksum) = (Some(version(7)), Some(Checksum::of(b"hello")));
    assert_eq!(there, Ok(Presence::Blob { version, length: Some(5), checksum }));
    let Ok(backpack::client::Answered::Blob(blob)) =
        servers.get(&target, &key("k"), http::Method::GET, &HeaderMap::new(), &id).await
    else {
        panic!("the copy can be read")
    };
    assert_eq!(blob.meta(), head.meta);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greater_version_wins_whatever_the_order() {
    let nodes = [TestNode::start().await, TestNode::start().await];
    let (servers, source, target) =
        (servers(), server_at("1", &nodes[0].addr), server_at("2", &nodes[1].addr));
    let wanted = |number| Some(version(number));

    put(&servers, &source, "k", version(2), b"second").await;
    let older = copy(&servers, "k", wanted(1), &[&source], &target).await;
    assert_eq!(older, Ok(Copied::Copied(6)), "a source that has something newer gives that");
    assert_eq!(copy(&servers, "k", wanted(2), &[&source], &target).await, Ok(Copied::AlreadyThere));

    put(&servers, &target, "k", version(5), b"fifth").await;
    assert_eq!(copy(&servers, "k", wanted(3), &[&source], &target).await, Ok(Copied::Newer(version(5))));
    assert_eq!(copy(&servers, "k", None, &[&source], &target).await, Ok(Copied::AlreadyThere));
    assert_eq!(copy(&servers, "k", wanted(6), &[&source], &target).await, Err(CopyError::NoSource));
    assert_eq!(fetch(&servers, &target, "k").await.as_deref(), Some(&b"fifth"[..]));
}

/// Of a node: how often it was asked for the head of something that it has, and of something that it has not.
fn heads(node: &TestNode) -> [u64; 2] {
    ["whole", "missing"]
        .map(|outcome| node.metric("backpack_node_heads_total", &format!("outcome=\"{outcome}\"")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_keeps_versions_is_not_asked_before_a_new_blob() {
    let nodes = [TestNode::start().await, TestNode::start().await];
    let (servers, source, target) =
        (servers(), server_at("1", &nodes[0].addr), server_at("2", &nodes[1].addr));
    let copy_new = async |name: &str, number| {
        let (key, sources) = (key(name), [Arc::new(source.clone())]);
        let version = Some(version(number));
        let plan =
            CopyPlan { key: &key, version, sources: &sources, target: &target, patience: None, is_new: true };
        servers.copy(&plan, &Unpaced, &id()).await
    };
    let large = pattern(100_000);
    for (name, bytes) in [("a", &b"a"[..]), ("b", b"b"), ("large", &large), ("none", b""), ("lost", b"old")] {
        put(&servers, &source, name, version(2), bytes).await;
    }
    assert_eq!(copy_new("a", 2).await, Ok(Copied::Copied(1)));
    assert_eq!(heads(&nodes[1]), [0, 1], "what kind of server it is was not known");
    for (name, bytes) in [("b", &b"b"[..]), ("none", b"")] {
        assert_eq!(copy_new(name, 2).await, Ok(Copied::Copied(bytes.len() as u64)));
        assert_eq!(fetch(&servers, &target, name).await.as_deref(), Some(bytes));
    }
    assert_eq!(heads(&nodes[1]), [0, 1]);
    assert_eq!(copy_new("large", 2).await, Ok(Copied::Copied(100_000)));
    assert_eq!(heads(&nodes[1]), [0, 2], "many bytes are not sent for nothing");

    put(&servers, &target, "lost", version(5), b"new").await;
    assert_eq!(copy_new("lost", 2).await, Ok(Copied::Newer(version(5))));
    assert_eq!(fetch(&servers, &target, "lost").await.as_deref(), Some(&b"new"[..]));
    assert_eq!(copy_new("large", 2).await, Ok(Copied::AlreadyThere));
    assert_eq!(copy_new("gone", 2).await, Err(CopyError::NoSource));
    put(&servers, &target, "gone", version(2), b"from elsewhere").await;
    assert_eq!(copy_new("gone", 2).await, Ok(Copied::AlreadyThere));
    delete(&servers, &source, "b", version(3)).await;
    assert_eq!(copy_new("b", 3).await, Ok(Copied::Deleted));
    assert_eq!(fetch(&servers, &target, "b").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_is_never_undone_by_a_late_copy() {
    let nodes = [TestNode::start().await, TestNode::start().await];
    let (servers, source, target) =
        (servers(), server_at("1", &nodes[0].addr), server_at("2", &nodes[1].addr));
    put(&servers, &source, "k", version(1), b"old").await;
    delete(&servers, &target, "k", version(2)).await;
    let late = copy(&servers, "k", Some(version(1)), &[&source], &target).await;
    assert_eq!(late, Ok(Copied::Newer(version(2))));
    assert_eq!(copy(&servers, "k", None, &[&source], &target).await, Ok(Copied::AlreadyThere));

    // A source that keeps no versions says nothing about which is newer: the delete stays.
    let nginx = Nginx::webdav();
    let unversioned = server_at("3", &nginx.addr());
    upload(&servers, &unversioned, "k", "revived".into()).await.unwrap();
    assert_eq!(copy(&servers, "k", None, &[&unversioned], &target).await, Ok(Copied::AlreadyThere));
    assert_eq!(servers.look(&target, &key("k"), &id()).await, Ok(Presence::Deleted(Some(version(2)))));

    // With a version given by a task the upload is known to be newer.
    let newer = copy(&servers, "k", Some(version(3)), &[&unversioned], &target).await;
    assert_eq!(newer, Ok(Copied::Copied(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_deleted_meanwhile_leaves_a_tombstone_instead_of_a_copy() {
    let nodes = [TestNode::start().await, TestNode::start().await];
    let (servers, source, target) =
        (servers(), server_at("1", &nodes[0].addr), server_at("2", &nodes[1].addr));
    delete(&servers, &source, "k", version(2)).await;
    assert_eq!(copy(&servers, "k", Some(version(1)), &[&source], &target).await, Ok(Copied::Deleted));
    assert_eq!(servers.look(&target, &key("k"), &id()).await, Ok(Presence::Deleted(Some(version(2)))));
    let newer = copy(&servers, "k", Some(version(3)), &[&source], &target).await;
    assert_eq!(newer, Err(CopyError::NoSource), "an old delete is no answer to a newer upload");

    // nginx forgets the file; the original's node cannot delete, which is no matter where there is nothing.
    let (nginx, original) = (Nginx::webdav(), OriginalNode::start());
    for (target, last) in [
        (server_at("3", &nginx.addr()), Ok(Copied::Deleted)),
        (server_at("4", &original.addr()), Err(CopyError::Target(ServerError::Unsupported(418)))),
    ] {
        assert_eq!(copy(&servers, "k", Some(version(1)), &[&source], &target).await, Ok(Copied::Deleted));
        upload(&servers, &target, "k", "old".into()).await.unwrap();
        assert_eq!(copy(&servers, "k", Some(version(1)), &[&source], &target).await, last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_versions_the_bytes_decide() {
    let (node, original, nginx) = (TestNode::start().await, OriginalNode::start(), Nginx::webdav());
    let servers = servers();
    let [own, original, nginx] =
        [&node.addr, &original.addr(), &nginx.addr()].map(|addr| server_at("1", addr));
    for (key, source, target) in [("a", &own, &original), ("b", &own, &nginx), ("c", &nginx, &original)] {
        upload(&servers, target, key, "stale".into()).await.unwrap();
        upload(&servers, source, key, "fresh".into()).await.unwrap();
        let copied = copy(&servers, key, None, &[source], target).await;
        assert_eq!(copied, Ok(Copied::Copied(5)), "the length is the same, the bytes are not");
        assert_eq!(fetch(&servers, target, key).await.as_deref(), Some(&b"fresh"[..]));
        assert_eq!(copy(&servers, key, None, &[source], target).await, Ok(Copied::AlreadyThere));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_source_is_asked_when_one_has_not_got_it() {
    let (empty, holder, target) = (TestNode::start().await, TestNode::start().await, TestNode::start().await);
    let servers = servers();
    let [empty, holder, target] = [&empty, &holder, &target].map(|node| server_at("1", &node.addr));
    put(&servers, &holder, "k", version(1), b"here").await;
    let down = server("9", 1);
    assert_eq!(copy(&servers, "k", Some(version(1)), &[&empty], &target).await, Err(CopyError::NoSource));
    assert_eq!(copy(&servers, "k", Some(version(1)), &[], &target).await, Err(CopyError::NoSource));
    let unsure = copy(&servers, "k", Some(version(1)), &[&down, &empty], &target).await;
    assert!(
        matches!(&unsure, Err(CopyError::Source { server, error }) if server == "9" && error.is_down()),
        "a source that may have it is not passed over in silence: {unsure:?}"
    );
    let copied = copy(&servers, "k", Some(version(1)), &[&down, &empty, &holder], &target).await;
    assert_eq!(copied, Ok(Copied::Copied(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_a_length_is_read_twice_for_a_target_that_wants_one() {
    let bytes = pattern(300_000);
    let body = bytes.clone();
    let source = RawServer::start(move |client| {
        loop {
            client.read_head()?;
            client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            for part in body.chunks(10_000) {
                client.send(format!("{:x}\r\n", part.len()))?;
                client.send(part)?;
                client.send("\r\n")?;
            }
            client.send("0\r\n\r\n")?;
        }
    });
    let (original, node) = (OriginalNode::start(), TestNode::start().await);
    let servers = servers();
    let source = server("1", source.port());
    for target in [server_at("2", &original.addr()), server_at("3", &node.addr)] {
        let copied = copy(&servers, "k", Some(version(1)), &[&source], &target).await;
        assert_eq!(copied, Ok(Copied::Copied(300_000)));
        assert!(fetch(&servers, &target, "k").await.as_deref() == Some(&bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_blob_is_refused_by_the_originals_node_and_taken_by_others() {
    let (node, original) = (TestNode::start().await, OriginalNode::start());
    let (servers, source) = (servers(), server_at("1", &node.addr));
    put(&servers, &source, "empty", version(1), b"").await;
    let refused =
        copy(&servers, "empty", Some(version(1)), &[&source], &server_at("2", &original.addr())).await;
    assert_eq!(refused, Err(CopyError::Target(ServerError::NeedsLength)));
    let other = TestNode::start().await;
    let target = server_at("3", &other.addr);
    assert_eq!(copy(&servers, "empty", Some(version(1)), &[&source], &target).await, Ok(Copied::Copied(0)));
    assert_eq!(fetch(&servers, &target, "empty").await, Some(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_says_so_and_takes_it_when_there_is_room() {
    let nodes = [TestNode::start().await, TestNode::start().await];
    let (servers, source, target) =
        (servers(), server_at("1", &nodes[0].addr), server_at("2", &nodes[1].addr));
    put(&servers, &source, "k", version(1), &pattern(4 << 20)).await;
    nodes[1].storage.full.store(true, Ordering::SeqCst);
    for _ in 0..10 {
        let full = copy(&servers, "k", Some(version(1)), &[&source], &target).await;
        assert_eq!(full, Err(CopyError::Target(ServerError::Full)));
    }
    nodes[1].storage.full.store(false, Ordering::SeqCst);
    let copied = copy(&servers, "k", Some(version(1)), &[&source], &target).await;
    assert_eq!(copied, Ok(Copied::Copied(4 << 20)));
}
