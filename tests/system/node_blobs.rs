//! What a node does with blobs: PUT, GET, HEAD, DELETE, versions, conditions, ranges, listing, totals.

use std::sync::atomic::Ordering;

use backpack::{
    daemon::unix_ms,
    model::{Checksum, Version},
};
use serde_json::Value;

use crate::{
    node_double::TestNode,
    support::{
        http::{Reply, Request, exchange},
        wait::{START_WITHIN, eventually},
    },
};

const VERSION: &str = "X-Backpack-Version";
const CLOCK: &str = "X-Backpack-Clock";
const REPLACED: &str = "X-Backpack-Replaced";
const CHECKSUM: &str = "x-amz-checksum-crc64nvme";
/// Bigger than two chunks of a streamed read, and not a multiple of them.
const BIG: usize = 600_001;

fn version(unix_ms: u64) -> String {
    Version::from_parts(1_700_000_000_000 + unix_ms, 1).to_string()
}

impl TestNode {
    async fn ask(&self, method: &str, target: &str) -> Reply {
        Request::new(method, &self.addr, target).send().await.unwrap()
    }

    async fn put(&self, target: &str, body: impl Into<Vec<u8>>, headers: &[(&str, &str)]) -> Reply {
        self.send(Request::put(&self.addr, target, body), headers).await
    }

    async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(Request::get(&self.addr, target), headers).await
    }

    async fn delete(&self, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(Request::new("DELETE", &self.addr, target), headers).await
    }

    async fn send(&self, request: Request, headers: &[(&str, &str)]) -> Reply {
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        request.send().await.unwrap()
    }
}

/// A body that repeats itself at no power of two.
pub fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n * 31 % 251) as u8).collect()
}

/// A version given now by a clock that is so many hours ahead.
fn hours_ahead(hours: u64) -> String {
    Version::from_parts(unix_ms() + hours * 3_600_000, 1).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_more_than_a_day_in_the_future_is_refused_and_changes_nothing() {
    let node = TestNode::start().await;
    let far = [(VERSION, hours_ahead(25))];
    let far = far.each_ref().map(|(name, value)| (*name, value.as_str()));
    let held = node.put("/k", "held", &[]).await;
    for key in ["/k", "/new"] {
        for refused in [node.put(key, "far", &far).await, node.delete(key, &far).await] {
            assert_eq!(refused.status, 400, "{}", refused.text());
            assert!(refused.text().contains("clocks"), "{}", refused.text());
        }
    }
    assert_eq!(node.get("/new", &[]).await.status, 404);
    let kept = node.get("/k", &[]).await;
    assert_eq!((kept.text().as_str(), kept.header(VERSION)), ("held", held.header(VERSION)));
    // The key can still be written, also by those who bring no version.
    assert_eq!(node.put("/k", "next", &[]).await.status, 204);
    assert_eq!(node.get("/k", &[]).await.text(), "next");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_follows_the_versions_it_takes_and_says_how_far() {
    let node = TestNode::start().await;
    let ahead = hours_ahead(23);
    let put = node.put("/k", "ahead", &[(VERSION, ahead.as_str())]).await;
    assert_eq!((put.status, put.header(CLOCK)), (201, Some(ahead.as_str())));
    // An older write of another key: this is how its coordinator hears of the other clock.
    let other = node.put("/other", "now", &[(VERSION, version(1).as_str())]).await;
    assert_eq!((other.status, other.header(CLOCK)), (201, Some(ahead.as_str())));
    let deleted = node.delete("/other", &[(VERSION, version(2).as_str())]).await;
    assert_eq!((deleted.status, deleted.header(CLOCK)), (204, Some(ahead.as_str())));
    let own = node.put("/k", "newer", &[]).await;
    assert!(own.status == 204 && own.header(VERSION) > Some(ahead.as_str()), "{own:?}");
    assert_eq!(node.get("/k", &[]).await.text(), "newer");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_is_got_with_its_metadata() {
    let node = TestNode::start().await;
    let put = node
        .put(
            "/a/b%20c?x=1",
            "hello",
            &[
                ("Content-Type", "text/plain"),
                ("Cache-Control", "max-age=60"),
                ("X-Amz-Meta-Owner", "ann"),
                ("X-Other", "dropped"),
                (VERSION, &version(1)),
            ],
        )
        .await;
    assert_eq!(put.status, 201);
    assert_eq!(put.header(VERSION), Some(version(1).as_str()));
    assert_eq!(put.header("ETag"), Some(format!("\"{}\"", version(1)).as_str()));
    assert_eq!(put.header(CHECKSUM), Some(Checksum::of(b"hello").to_string().as_str()));
    assert_eq!(put.header(REPLACED), None);
    assert!(put.body.is_empty());

    let got = node.get("/a/b%20c?x=1", &[]).await;
    assert_eq!((got.status, got.text().as_str()), (200, "hello"));
    for (name, value) in [
        ("Content-Length", "5"),
        ("Content-Type", "text/plain"),
        ("Cache-Control", "max-age=60"),
        ("X-Amz-Meta-Owner", "ann"),
        ("ETag", &format!("\"{}\"", version(1))),
        (VERSION, &version(1)),
        (CHECKSUM, &Checksum::of(b"hello").to_string()),
        ("Accept-Ranges", "bytes"),
        ("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT"),
    ] {
        assert_eq!(got.header(name), Some(value), "{name}");
    }
    assert_eq!(got.header("X-Other"), None);

    let head = node.ask("HEAD", "/a/b%20c?x=1").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for (name, value) in
        got.headers.iter().filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()))
    {
        assert_eq!(head.header(name), Some(value.as_str()), "{name}");
    }
    assert_eq!(node.get("/a/b c?x=1".replace(' ', "+").as_str(), &[]).await.status, 404, "bytes decide");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn big_and_empty_and_chunked_bodies() {
    let node = TestNode::start().await;
    assert_eq!(node.put("/empty", "", &[]).await.status, 201);
    assert_eq!(node.put("/big", bytes(BIG), &[]).await.status, 201);
    let chunked =
        b"PUT /chunked HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n";
    let answer = exchange(&node.addr, chunked, START_WITHIN).unwrap();
    assert_eq!(Reply::parse(&answer, false).unwrap().status, 201);

    assert_eq!(node.get("/empty", &[]).await.body, b"");
    assert_eq!(node.get("/empty", &[]).await.header("Content-Length"), Some("0"));
    assert_eq!(node.get("/chunked", &[]).await.body, b"abcde");
    assert_eq!(node.get("/big", &[]).await.body, bytes(BIG));
    assert!(node.storage.largest_read.load(Ordering::SeqCst) <= 256 * 1024, "read chunk by chunk");
    let head = node.ask("HEAD", "/big").await;
    assert_eq!(head.header("Content-Length"), Some(BIG.to_string().as_str()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greater_version_wins() {
    let node = TestNode::start().await;
    assert_eq!(node.put("/k", "one", &[(VERSION, &version(1))]).await.status, 201);

    let newer = node.put("/k", "three", &[(VERSION, &version(3))]).await;
    assert_eq!((newer.status, newer.header(REPLACED)), (204, Some("3")));

    for older in [version(2), version(3)] {
        let put = node.put("/k", "two", &[(VERSION, &older)]).await;
        assert_eq!((put.status, put.header(VERSION)), (200, Some(version(3).as_str())));
        assert_eq!(put.header(REPLACED), None);
        assert_eq!(put.header(CHECKSUM), Some(Checksum::of(b"two").to_string().as_str()), "of what came");
    }
    assert_eq!(node.get("/k", &[]).await.text(), "three");

    let kept = node.delete("/k", &[(VERSION, &version(2))]).await;
    assert_eq!((kept.status, kept.header(VERSION)), (200, Some(version(3).as_str())));
    assert_eq!(node.get("/k", &[]).await.status, 200);

    let gone = node.delete("/k", &[(VERSION, &version(4))]).await;
    assert_eq!(
        (gone.status, gone.header(VERSION), gone.header(REPLACED)),
        (204, Some(version(4).as_str()), Some("5"))
    );
    for method in ["GET", "HEAD"] {
        let reply = node.ask(method, "/k").await;
        assert_eq!((reply.status, reply.header(VERSION)), (410, Some(version(4).as_str())), "{method}");
    }
    let again = node.delete("/k", &[(VERSION, &version(4))]).await;
    assert_eq!((again.status, again.header(REPLACED)), (204, None));

    let late = node.put("/k", "late", &[(VERSION, &version(3))]).await;
    assert_eq!(
        (late.status, late.header(VERSION)),
        (200, Some(version(4).as_str())),
        "a delete is not undone"
    );
    assert_eq!(node.get("/k", &[]).await.status, 410);
    assert_eq!(node.put("/k", "back", &[(VERSION, &version(5))]).await.status, 201);
    assert_eq!(node.get("/k", &[]).await.text(), "back");

    assert_eq!(node.delete("/never", &[(VERSION, &version(1))]).await.status, 204);
    assert_eq!(node.get("/never", &[]).await.status, 410);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_without_a_version_get_a_new_one() {
    let node = TestNode::start().await;
    let first: Version = node.put("/k", "1", &[]).await.header(VERSION).unwrap().parse().unwrap();
    let second = node.put("/k", "2", &[]).await;
    assert_eq!(second.status, 204);
    let second: Version = second.header(VERSION).unwrap().parse().unwrap();
    assert!(second > first);
    let gone: Version = node.delete("/k", &[]).await.header(VERSION).unwrap().parse().unwrap();
    assert!(gone > second);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_checked_against_what_was_announced() {
    let node = TestNode::start().await;
    let right = Checksum::of(b"hello").to_string();
    // Of "hello", by `openssl dgst -binary | base64`.
    let sha256 = "sha-256=LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
    for (name, value) in
        [(CHECKSUM, right.as_str()), ("Content-MD5", "XUFAKrxLKna5cZ2REBfFkg=="), ("Digest", sha256)]
    {
        let refused = node.put("/k", "hellO", &[(name, value)]).await;
        assert_eq!(refused.status, 422, "{name}");
        assert!(refused.text().contains("does not match"), "{}", refused.text());
        let malformed = node.put("/k", "hello", &[(name, "sha-256=nonsense")]).await;
        assert_eq!(malformed.status, 400, "{name}");
    }
    assert_eq!(node.storage.len(), 0);
    for (name, value) in
        [(CHECKSUM, right.as_str()), ("Content-MD5", "XUFAKrxLKna5cZ2REBfFkg=="), ("Digest", sha256)]
    {
        assert!([201, 204].contains(&node.put("/k", "hello", &[(name, value)]).await.status), "{name}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditional_requests() {
    let node = TestNode::start().await;
    let tag = |n| format!("\"{}\"", version(n));
    assert_eq!(node.put("/k", "0", &[("If-Match", "*")]).await.status, 412);
    assert_eq!(node.put("/k", "one", &[("If-None-Match", "*"), (VERSION, &version(1))]).await.status, 201);
    let refused = node.put("/k", "two", &[("If-None-Match", "*")]).await;
    assert_eq!((refused.status, refused.header(VERSION)), (412, Some(version(1).as_str())));
    assert_eq!(node.put("/k", "two", &[("If-Match", &tag(9))]).await.status, 412);
    assert_eq!(node.put("/k", "two", &[("If-Match", &tag(1)), (VERSION, &version(2))]).await.status, 204);
    assert_eq!(node.get("/k", &[]).await.text(), "two");

    assert_eq!(node.get("/k", &[("If-Match", &tag(1))]).await.status, 412);
    let same = node.get("/k", &[("If-None-Match", &tag(2))]).await;
    assert_eq!((same.status, same.body.len()), (304, 0));
    assert_eq!(same.header("ETag"), Some(tag(2).as_str()));
    assert_eq!(same.header("Content-Type"), None);
    assert_eq!(node.get("/k", &[("If-None-Match", &tag(1))]).await.status, 200);
    assert_eq!(node.get("/k", &[("If-Modified-Since", "Tue, 14 Nov 2023 22:13:20 GMT")]).await.status, 304);
    assert_eq!(node.get("/k", &[("If-Unmodified-Since", "Tue, 14 Nov 2023 22:13:19 GMT")]).await.status, 412);
    assert_eq!(node.get("/none", &[("If-Match", &tag(1))]).await.status, 404, "no conditions on nothing");

    assert_eq!(node.delete("/k", &[("If-Match", &tag(1))]).await.status, 412);
    assert_eq!(node.delete("/k", &[("If-Match", &tag(2))]).await.status, 204);
    assert_eq!(
        node.put("/k", "again", &[("If-None-Match", "*")]).await.status,
        201,
        "a tombstone is nothing"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges() {
    let node = TestNode::start().await;
    node.put("/k", bytes(BIG), &[(VERSION, &version(1)), ("Content-Type", "image/png")]).await;
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=-7", BIG - 7, BIG),
        ("bytes=10-", 10, BIG),
        ("bytes=262143-262144", 262_143, 262_145),
    ] {
        let part = node.get("/k", &[("Range", range)]).await;
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(part.body, bytes(BIG)[start..end], "{range}");
        let content_range = format!("bytes {start}-{}/{BIG}", end - 1);
        assert_eq!(part.header("Content-Range"), Some(content_range.as_str()));
        assert_eq!(part.header("Content-Type"), Some("image/png"));
        assert_eq!(part.header(CHECKSUM), None, "a client would check the part against it");
    }
    let none = node.get("/k", &[("Range", "bytes=600001-")]).await;
    assert_eq!((none.status, none.header("Content-Range")), (416, Some("bytes */600001")));
    assert_eq!(node.get("/k", &[("Range", "bytes=0-1,5-6")]).await.status, 200);
    let tag = format!("\"{}\"", version(1));
    assert_eq!(node.get("/k", &[("Range", "bytes=0-1"), ("If-Range", &tag)]).await.status, 206);
    assert_eq!(node.get("/k", &[("Range", "bytes=0-1"), ("If-Range", "\"x\"")]).await.body.len(), BIG);
    let head = node.send(Request::new("HEAD", &node.addr, "/k"), &[("Range", "bytes=0-1")]).await;
    assert_eq!(head.status, 200, "ranges are for GET");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_never_served() {
    let node = TestNode::start().await;
    node.put("/small", "hello", &[]).await;
    node.put("/big", bytes(BIG), &[]).await;
    node.storage.damaged_from.lock().insert("small".to_owned(), 0);
    node.storage.damaged_from.lock().insert("big".to_owned(), 300_000);

    let small = node.get("/small", &[]).await;
    assert_eq!((small.status, small.header("X-Backpack-Damaged")), (404, Some("1")));
    assert!(
        small.body.is_empty(),
        "nginx, which asks the next server, would close its connection for a body"
    );
    assert_eq!(node.metric("backpack_node_damaged_reads_total", ""), 1);

    let cut = Request::get(&node.addr, "/big").send().await;
    assert!(cut.is_err(), "a body that cannot be read to its end must not end cleanly");
    assert_eq!(node.metric("backpack_node_damaged_reads_total", ""), 2);
    assert_eq!(
        node.get("/big", &[("Range", "bytes=0-99")]).await.body,
        bytes(BIG)[..100],
        "the rest is intact"
    );

    assert_eq!(node.put("/small", "new", &[]).await.status, 204);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_and_read_only() {
    let node = TestNode::start().await;
    node.put("/k", "hello", &[]).await;
    node.storage.full.store(true, Ordering::SeqCst);
    assert_eq!(node.put("/k2", "x", &[]).await.status, 507);
    assert_eq!(node.get("/k", &[]).await.status, 200);
    assert_eq!(node.delete("/k", &[]).await.status, 204, "deletes still work");

    node.storage.read_only.store(true, Ordering::SeqCst);
    let refused = node.put("/k2", "x", &[]).await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("Retry-After").is_some());
    let not_ready = async || node.get("/-/ready", &[]).await.text().contains("storage: fsync failed");
    eventually("the node is not ready", START_WITHIN, not_ready).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_and_totals() {
    let node = TestNode::start().await;
    for key in ["a%20b/1", "a%20b/2", "a%20b/3", "b"] {
        node.put(&format!("/{key}"), "12345", &[(VERSION, &version(1))]).await;
    }
    node.delete("/a%20b/2", &[(VERSION, &version(2))]).await;
    let lines = async |query: &str| {
        let reply = node.get(&format!("/-/list{query}"), &[]).await;
        assert_eq!((reply.status, reply.header("Content-Type")), (200, Some("application/x-ndjson")));
        reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let keys = |lines: &[Value]| {
        lines.iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = lines("").await;
    assert_eq!(keys(&all), ["a%20b/1", "a%20b/2", "a%20b/3", "b"]);
    let (checksum, first) = (Checksum::of(b"12345").to_string(), version(1));
    let expected = serde_json::json!({ "key": "b", "version": first, "length": 5, "checksum": checksum });
    assert_eq!(all[3], expected);
    let deleted =
        serde_json::json!({ "key": "a%20b/2", "version": version(2), "length": 0, "deleted": true });
    assert_eq!(all[1], deleted);
    assert_eq!(keys(&lines("?prefix=a%2520b/&limit=2").await), ["a%20b/1", "a%20b/2"]);
    assert_eq!(keys(&lines("?prefix=a%2520b/&limit=2&after=a%2520b/2").await), ["a%20b/3"]);
    assert!(lines("?after=b").await.is_empty());
    assert_eq!(node.get("/-/list?limit=0", &[]).await.status, 400);

    node.get("/b", &[]).await;
    node.get("/none", &[]).await;
    let stats: Value = serde_json::from_str(&node.get("/stats", &[]).await.text()).unwrap();
    assert_eq!((&stats["gets"]["count"], &stats["gets"]["bytes"]), (&1.into(), &5.into()));
    assert_eq!((&stats["puts"]["count"], &stats["puts"]["bytes"]), (&4.into(), &20.into()));
    assert!(stats["puts"]["avg"].is_number());
    assert_eq!(
        (&stats["blobs"], &stats["blob_bytes"], &stats["tombstones"]),
        (&3.into(), &15.into(), &1.into())
    );
    for field in [
        "disk_bytes",
        "free_bytes",
        "damaged",
        "volumes",
        "dead_bytes",
        "compacted_bytes",
        "reclaimed_bytes",
        "compaction_paused",
        "read_only",
        "uptime",
        "version",
    ] {
        assert!(stats.get(field).is_some(), "{field}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_is_paused_and_resumed() {
    let node = TestNode::start().await;
    let paused = async || {
        let stats: Value = serde_json::from_str(&node.get("/stats", &[]).await.text()).unwrap();
        stats["compaction_paused"].as_bool().unwrap()
    };
    assert!(!paused().await);
    assert_eq!(node.ask("POST", "/-/compaction/pause").await.status, 204);
    assert!(paused().await);
    assert_eq!(node.ask("POST", "/-/compaction/resume").await.status, 204);
    assert!(!paused().await);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrub_is_paused_resumed_and_started() {
    let node = TestNode::start().await;
    let told =
        || (node.storage.scrub_paused.load(Ordering::SeqCst), node.storage.scrubs.load(Ordering::SeqCst));
    for (verb, expected) in [("pause", (true, 0)), ("resume", (false, 0)), ("start", (false, 1))] {
        assert_eq!(node.ask("POST", &format!("/-/scrub/{verb}")).await.status, 204);
        assert_eq!(told(), expected, "{verb}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_paths_that_are_not_there() {
    let node = TestNode::start().await;
    for (method, target, status, allow) in [
        ("POST", "/k", 405, Some("GET, HEAD, PUT, DELETE")),
        ("PATCH", "/k", 405, Some("GET, HEAD, PUT, DELETE")),
        ("OPTIONS", "*", 405, Some("GET, HEAD, PUT, DELETE")),
        ("CONNECT", "host:1", 405, Some("GET, HEAD, PUT, DELETE")),
        ("PUT", "/stats", 405, Some("GET, HEAD")),
        ("DELETE", "/-/list", 405, Some("GET, HEAD")),
        ("GET", "/-/compaction/pause", 405, Some("POST")),
        ("GET", "/-/scrub/start", 405, Some("POST")),
        ("POST", "/-/damaged", 405, Some("GET, HEAD")),
        ("GET", "/-/nothing", 404, None),
        ("PUT", "/-/nothing", 404, None),
        ("GET", "/none", 404, None),
        ("GET", "/", 400, None),
        ("HEAD", "/-/list", 200, None),
        ("HEAD", "/-/damaged", 200, None),
        ("HEAD", "/stats", 200, None),
        ("GET", "/-/live", 200, None),
        ("GET", "/-/ready", 200, None),
        ("GET", "/-/metrics", 200, None),
    ] {
        let reply = node.ask(method, target).await;
        assert_eq!((reply.status, reply.header("Allow")), (status, allow), "{method} {target}");
        if method == "HEAD" || (method, target) == ("GET", "/none") {
            // A body that nginx does not read costs it its connection: it asks the next server then.
            assert!(reply.body.is_empty());
        } else if status >= 400 {
            assert!(serde_json::from_str::<Value>(&reply.text()).unwrap()["error"].is_string());
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once() {
    let node = TestNode::start().await;
    let puts = (0..64).map(|n| {
        let request = Request::put(&node.addr, &format!("/k{n}"), bytes(n * 1000));
        tokio::spawn(async move { request.send().await.unwrap().status })
    });
    for put in puts.collect::<Vec<_>>() {
        assert_eq!(put.await.unwrap(), 201);
    }
    for n in 0..64 {
        assert_eq!(node.get(&format!("/k{n}"), &[]).await.body, bytes(n * 1000));
    }
    assert_eq!(node.metric("backpack_node_puts_total", "outcome=\"created\""), 64);
    assert_eq!(node.metric("backpack_node_gets_total", "outcome=\"whole\""), 64);
    node.stop().await;
}
