//! A coordinator with everything around it in one process: embedded map store and queue, real nodes, and stand-ins for
//! the original's node that can be made to fail. Each test is one promise of an upload's way.

use std::{
    io::{Read, Write},
    time::Duration,
};

use backpack::{daemon::unix_ms, model::Version, queue::Stage};

use crate::{
    coordinator_support::{Cluster, Member, Settings, body},
    support::{
        http::{Request, exchange},
        original_node::Fault,
        wait::{eventually, wait_until},
    },
};

const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_answers_what_the_original_answers_and_more() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
    let reply = cluster.put("/hi.txt", b"hello".to_vec()).send().await.unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "{\"shard_id\":\"1\"}\n"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("x-backpack-copies"), Some("1/2"));
    assert_eq!(reply.header("location"), Some("/1:hi.txt"));
    let version = reply.header("x-backpack-version").unwrap();
    assert_eq!(reply.header("etag"), Some(format!("\"{version}\"").as_str()));
    let tasks = cluster.tasks().await;
    assert_eq!(tasks.len(), 1);
    assert_eq!(tasks[0].version.unwrap().to_string(), version);
    // A read that meets the server without it asks for a repair, another task.
    let read = Request::get(&cluster.addr, "/1:hi.txt").send().await.unwrap();
    assert_eq!((read.status, read.body.as_slice()), (200, b"hello".as_slice()));
    assert_eq!(read.header("x-backpack-version"), Some(version));
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_empty_and_large_bodies_arrive_whole() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
    let chunked = b"PUT /c HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let answer = exchange(&cluster.addr, chunked, WITHIN).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(cluster.get("/1:c").await, b"hello world");

    assert_eq!(cluster.put("/empty", Vec::new()).send().await.unwrap().status, 200);
    assert_eq!(cluster.get("/1:empty").await, b"");

    let large = body(20 << 20);
    assert_eq!(cluster.put("/large", large.clone()).send().await.unwrap().status, 200);
    assert_eq!(cluster.get("/1:large").await, large);
    let counted = (11 + (20 << 20)) as u64;
    eventually("used bytes are counted exactly", WITHIN, || async { cluster.used("1").await == counted })
        .await;
}

/// An upload of a body of unknown length.
fn chunked(key: &str, blob: &[u8]) -> Vec<u8> {
    let mut request =
        format!("PUT {key} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for chunk in blob.chunks(100_000) {
        request.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        request.extend(chunk);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_unknown_length_reach_the_originals_node_with_one() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Original]]).await;
    let blob = body(3 << 20);
    let request = chunked("/c", &blob);
    for _ in 0..2 {
        // The first of them learns that the servers want a length; small bodies are replayed, large ones spooled.
        let answer = exchange(&cluster.addr, &request, WITHIN).unwrap();
        if answer.starts_with(b"HTTP/1.1 200") {
            break;
        }
    }
    let answer = exchange(&cluster.addr, &request, WITHIN).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(cluster.get("/1:c").await, blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_kept_for_its_length_gets_no_more_room_than_there_is() {
    let cluster = Cluster::start_with(&[(&[Member::Original], 2 << 20)]).await;
    // From now on the coordinator knows that this server wants a length. It may hear of it too late for a large body.
    assert_eq!(
        exchange(&cluster.addr, &chunked("/tiny", &body(100)), WITHIN).unwrap()[..12],
        *b"HTTP/1.1 200"
    );
    for _ in 0..2 {
        let answer = exchange(&cluster.addr, &chunked("/large", &body(3 << 20)), WITHIN).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 507"), "{answer}");
    }
    assert_eq!(Request::get(&cluster.addr, "/1:large").send().await.unwrap().status, 404);
    assert_eq!(
        exchange(&cluster.addr, &chunked("/small", &body(1 << 20)), WITHIN).unwrap()[..12],
        *b"HTTP/1.1 200"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_early_is_replaced_unseen() {
    for fault in [Fault::Refuse, Fault::Status(500), Fault::Cut(1000), Fault::Status(507)] {
        let cluster = Cluster::start(&[&[Member::Original, Member::Original]]).await;
        cluster.originals[0].set_fault(fault);
        for n in 0..6 {
            let reply = cluster.put(&format!("/k{n}"), body(200_000)).send().await.unwrap();
            assert_eq!(reply.status, 200, "{fault:?}: {}", reply.text());
            assert_eq!(cluster.originals[1].blob(&format!("k{n}")).unwrap(), body(200_000));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_fails_is_replaced_by_another() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Original], &[Member::Original]]).await;
    cluster.originals[0].set_fault(Fault::Refuse);
    cluster.originals[1].set_fault(Fault::Status(503));
    for n in 0..10 {
        let reply = cluster.put(&format!("/k{n}"), body(1000)).send().await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "{\"shard_id\":\"2\"}\n"));
    }
    cluster.originals[2].set_fault(Fault::Refuse);
    let reply = cluster.put("/none", body(1000)).send().await.unwrap();
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.text().contains("Could not upload file /none to any server"), "{}", reply.text());
    assert!(reply.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_late_breaks_the_upload_off_and_leaves_nothing() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Original]]).await;
    for original in &cluster.originals {
        original.set_fault(Fault::Cut(3 << 20));
    }
    let reply = cluster.put("/late", body(8 << 20)).send().await.unwrap();
    assert_eq!(reply.status, 502, "{}", reply.text());
    assert!(cluster.originals.iter().all(|original| original.blob("late").is_none()));
    assert_eq!(cluster.tasks().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_stored_too_early_is_not_believed() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Node]]).await;
    let hasty = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    cluster.replace_server("1", hasty.local_addr().unwrap().port()).await;
    std::thread::spawn(move || {
        for mut stream in hasty.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let _ =
                stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    for n in 0..6 {
        let key = format!("/k{n}");
        let put = cluster.put(&key, body(6 << 20)).send().await.unwrap();
        let whole = Request::get(&cluster.nodes[0], &key).send().await.unwrap().body == body(6 << 20);
        assert_eq!(put.status == 200, whole, "{}", put.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_server_is_given_up_within_the_deadline() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Original]]).await;
    cluster.originals[0].set_fault(Fault::Hang);
    for n in 0..4 {
        let reply = cluster.put(&format!("/k{n}"), body(5000)).within(WITHIN).send().await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn write_levels_wait_for_their_copies() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node, Member::Node]]).await;
    for (level, copies, left) in [("one", "1/3", 2), ("quorum", "2/3", 1), ("all", "3/3", 0)] {
        let key = format!("/{level}");
        let reply = cluster.put(&key, body(100_000)).header("x-backpack-write", level).send().await.unwrap();
        assert_eq!(
            (reply.status, reply.header("x-backpack-copies")),
            (200, Some(copies)),
            "{}",
            reply.text()
        );
        let tasks = cluster.tasks().await;
        assert_eq!(tasks.iter().filter(|task| task.key.as_str() == level).count(), left);
        let mut held = 0;
        for node in &cluster.nodes {
            held += usize::from(Request::get(node, &key).send().await.unwrap().status == 200);
        }
        assert_eq!(held, 3 - left);
    }
    let reply = cluster.put("/x", body(10)).header("x-backpack-write", "two").send().await.unwrap();
    assert_eq!(reply.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_that_cannot_be_reached_is_said() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Original]]).await;
    cluster.originals[1].set_fault(Fault::Refuse);
    let reply = cluster.put("/all", body(1000)).header("x-backpack-write", "all").send().await.unwrap();
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(cluster.originals[0].blob("all").is_some(), !cluster.tasks().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_below_its_level_is_copied_and_counted() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Original]]).await;
    cluster.originals[0].set_fault(Fault::Delay(Duration::from_millis(500)));
    cluster.originals[1].set_fault(Fault::Status(503));
    let reply = cluster.put("/all", body(1000)).header("x-backpack-write", "all").send().await.unwrap();
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(cluster.originals[0].blob("all").is_some());
    assert_eq!(cluster.tasks().await.len(), 1, "the stored copy has a task for the other one");
    eventually("it is counted", WITHIN, || async { cluster.used("1").await == 1000 }).await;
}

/// Sends the head of an upload and the first bytes of its body, in parts.
fn begin_upload(cluster: &Cluster, name: &str, length: usize, first: &[u8]) -> std::net::TcpStream {
    let mut stream = std::net::TcpStream::connect(&cluster.addr).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    let head =
        format!("PUT /{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    first.chunks(3000).for_each(|part| stream.write_all(part).unwrap());
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn no_server_hears_of_a_small_upload_before_its_last_byte() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Original]]).await;
    let has_seen = |target: &str| {
        cluster.originals.iter().any(|original| original.seen().iter().any(|seen| seen.target == target))
    };
    for length in [2, 5000, 16 << 10] {
        let (name, blob) = (format!("small{length}"), body(length));
        let mut stream = begin_upload(&cluster, &name, length, &blob[..length - 1]);
        // Others come and go meanwhile.
        for n in 0..20 {
            assert_eq!(cluster.put(&format!("/other{n}"), body(100)).send().await.unwrap().status, 200);
        }
        assert!(!has_seen(&format!("/{name}")), "{length} bytes");
        stream.write_all(&blob[length - 1..]).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let stored: Vec<_> = cluster.originals.iter().filter_map(|original| original.blob(&name)).collect();
        assert_eq!(stored, [blob], "{length} bytes");
    }
    // One that is broken off was never there.
    drop(begin_upload(&cluster, "broken-off", 5001, &body(5000)));
    assert_eq!(cluster.put("/after", body(100)).send().await.unwrap().status, 200);
    assert!(!has_seen("/broken-off"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_larger_upload_is_on_its_way_at_once() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Original]]).await;
    let (blob, came) = (body(40_000), 30_000);
    // Who got so much of it goes, and the other one is asked: so both had all that came.
    cluster.originals.iter().for_each(|original| original.set_fault(Fault::Cut(came)));
    let _waits = begin_upload(&cluster, "larger", blob.len(), &blob[..came]);
    eventually("both servers have what came", WITHIN, || async {
        cluster.originals.iter().all(|original| !original.seen().is_empty())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_before_the_answer_leaves_its_blob_counted_and_with_its_task() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Original]]).await;
    for original in &cluster.originals {
        original.set_fault(Fault::Delay(Duration::from_millis(500)));
    }
    let mut stream = std::net::TcpStream::connect(&cluster.addr).unwrap();
    stream.write_all(b"PUT /gone HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    let asked = || cluster.originals.iter().any(|original| !original.seen().is_empty());
    eventually("a server has the request", WITHIN, || async { asked() }).await;
    drop(stream);
    eventually("the other copy has its task", WITHIN, || async { cluster.tasks().await.len() == 1 }).await;
    eventually("it is counted", WITHIN, || async { cluster.used("1").await == 5 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_of_a_small_upload_is_kept_before_a_server_has_it_and_given_out_after() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Original]]).await;
    for id in ["1", "2"] {
        cluster.announce(id).await;
    }
    cluster.originals.iter().for_each(|original| original.set_fault(Fault::HoldAfter(0)));
    let put = cluster.put("/k", body(1000));
    let put = tokio::spawn(async move { put.send().await.unwrap() });
    eventually("its task is kept", WITHIN, || async {
        matches!(&cluster.listed().await[..], [kept] if kept.stage == Stage::Delayed)
    })
    .await;
    assert!(!put.is_finished(), "no server has it");
    cluster.originals.iter().for_each(|original| original.set_fault(Fault::None));
    assert_eq!(put.await.unwrap().status, 200);
    eventually("its task is given out", WITHIN, || async {
        matches!(&cluster.listed().await[..], [ready] if ready.stage == Stage::Ready)
    })
    .await;
    let target = cluster.listed().await[0].task.to.clone();
    let holder = cluster.originals.iter().position(|original| original.blob("k").is_some()).unwrap();
    assert_ne!(target.as_str(), (holder + 1).to_string(), "it is for the one that has it not");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_task_is_kept_before_where_a_server_may_not_be_ours() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Original]]).await;
    cluster.announce("1").await;
    cluster.originals.iter().for_each(|original| original.set_fault(Fault::HoldAfter(0)));
    let put = cluster.put("/k", body(1000));
    let put = tokio::spawn(async move { put.send().await.unwrap() });
    eventually("a server has the request", WITHIN, || async {
        cluster.originals.iter().any(|original| !original.seen().is_empty())
    })
    .await;
    // Time enough for a push.
    for _ in 0..50 {
        assert_eq!(Request::get(&cluster.addr, "/-/map").send().await.unwrap().status, 200);
    }
    assert_eq!(cluster.tasks().await, []);
    cluster.originals.iter().for_each(|original| original.set_fault(Fault::None));
    assert_eq!(put.await.unwrap().status, 200);
    assert_eq!(cluster.tasks().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_goes_elsewhere_leaves_the_tasks_of_where_it_is_and_a_refused_one_none() {
    let cluster = Cluster::start(&[&[Member::Original, Member::Original]]).await;
    for id in ["1", "2"] {
        cluster.announce(id).await;
    }
    cluster.originals[0].set_fault(Fault::Status(500));
    // Enough that each of them is asked first by one of these.
    for n in 0..6 {
        assert_eq!(cluster.put(&format!("/k{n}"), body(1000)).send().await.unwrap().status, 200);
    }
    cluster.originals[1].set_fault(Fault::Status(500));
    for n in 0..6 {
        assert_eq!(cluster.put(&format!("/none{n}"), body(1000)).send().await.unwrap().status, 503);
    }
    eventually("there is one for each that is stored", WITHIN, || async {
        let mut tasks = cluster.tasks().await;
        tasks.sort_by(|a, b| a.key.cmp(&b.key));
        let told: Vec<_> = tasks.iter().map(|task| (task.key.as_str(), task.to.as_str())).collect();
        told == [("k0", "1"), ("k1", "1"), ("k2", "1"), ("k3", "1"), ("k4", "1"), ("k5", "1")]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_aborts_leaves_nothing_and_counts_nothing() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
    let request = b"PUT /abort HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nonly a little";
    let answer = exchange(&cluster.addr, request, Duration::from_secs(1));
    drop(answer);
    assert_eq!(cluster.put("/whole", body(100)).send().await.unwrap().status, 200);
    eventually("the whole one is counted", WITHIN, || async { cluster.used("1").await == 100 }).await;
    assert_eq!(Request::get(&cluster.addr, "/1:abort").send().await.unwrap().status, 404);
    assert_eq!(cluster.tasks().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_checksum_is_refused_and_leaves_nothing() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
    for (name, value) in [
        ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
        ("x-amz-checksum-crc64nvme", "AAAAAAAAAAE="),
        ("digest", "sha-256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ] {
        for length in [5, 100_000] {
            let reply = cluster.put("/wrong", body(length)).header(name, value).send().await.unwrap();
            assert_eq!(reply.status, 422, "{name}: {}", reply.text());
        }
        let reply = cluster.put("/wrong", b"other".to_vec()).header(name, "rubbish").send().await.unwrap();
        assert_eq!(reply.status, 400, "{name}: {}", reply.text());
    }
    let right = cluster.put("/right", b"hello".to_vec()).header("content-md5", "XUFAKrxLKna5cZ2REBfFkg==");
    assert_eq!(right.send().await.unwrap().status, 200);
    assert_eq!(Request::get(&cluster.addr, "/1:wrong").send().await.unwrap().status, 404);
    assert_eq!(cluster.tasks().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_queue_the_copies_are_made_before_the_answer() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
    cluster.break_queue();
    let reply = cluster.put("/safe", body(300_000)).send().await.unwrap();
    assert_eq!((reply.status, reply.header("x-backpack-copies")), (200, Some("2/2")), "{}", reply.text());
    for node in &cluster.nodes {
        assert_eq!(Request::get(node, "/safe").send().await.unwrap().body, body(300_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_keeps_something_newer_is_no_copy() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
    cluster.break_queue();
    // Which server is asked first is left to chance. Clocks are followed for less than a day, so each key is from a later hour.
    for hours in 1..20 {
        let (key, version) =
            (format!("/k{hours}"), Version::from_parts(unix_ms() + hours * 3_600_000, 7).to_string());
        let newer = Request::put(&cluster.nodes[1], &key, body(7)).header("x-backpack-version", &version);
        assert_eq!(newer.send().await.unwrap().status, 201);
        // The larger one is more than can be sent anew.
        let blob = body(if hours % 2 == 0 { 500 } else { 2 << 20 });
        let mut reply = cluster.put(&key, blob.clone()).send().await.unwrap();
        if blob.len() > 500 {
            assert_eq!(reply.status, 409, "{}", reply.text());
            assert!(reply.text().contains(&version), "{}", reply.text());
            // Its clock has followed.
            reply = cluster.put(&key, blob.clone()).send().await.unwrap();
        }
        assert_eq!((reply.status, reply.header("x-backpack-copies")), (200, Some("2/2")), "{}", reply.text());
        for node in &cluster.nodes {
            assert_eq!(Request::get(node, &key).send().await.unwrap().body, blob);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_with_neither_queue_nor_copies_is_refused_and_hides_no_older_blob() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Original]]).await;
    cluster.originals[0].insert("k", body(10));
    cluster.break_queue();
    cluster.originals[0].set_fault(Fault::Refuse);
    let reply = cluster.put("/k", body(1000)).send().await.unwrap();
    assert_eq!(reply.status, 503, "{}", reply.text());
    cluster.originals[0].set_fault(Fault::None);
    for _ in 0..8 {
        // Which of both is read is open after a refused write; "deleted" is not.
        assert!([body(10), body(1000)].contains(&cluster.get("/1:k").await));
    }
    eventually("what stays is counted", WITHIN, || async { cluster.used("1").await == 1000 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_does_not_fit_goes_elsewhere_or_nowhere() {
    let cluster = Cluster::start_with(&[(&[Member::Node], 1024), (&[Member::Node], 1 << 20)]).await;
    for n in 0..8 {
        let reply = cluster.put(&format!("/k{n}"), body(1500)).send().await.unwrap();
        assert_eq!(reply.text(), "{\"shard_id\":\"2\"}\n");
    }
    let reply = cluster.put("/big", body(2 << 20)).send().await.unwrap();
    assert_eq!(reply.status, 507, "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_writable_shard_is_said_before_the_body_is_read() {
    let cluster = Cluster::start(&[&[Member::Node]]).await;
    cluster.set_read_only("1", true).await;
    let head = b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\nExpect: 100-continue\r\n\r\n";
    let answer = String::from_utf8(exchange(&cluster.addr, head, WITHIN).unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("No writable shards found!"), "{answer}");
    cluster.set_read_only("1", false).await;
    assert_eq!(cluster.put("/x", body(10)).send().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_round_the_servers_and_repair_what_is_missing() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
    let put = Request::put(&cluster.nodes[1], "/lone", b"here".to_vec()).send().await.unwrap();
    assert_eq!(put.status, 201);
    for _ in 0..8 {
        assert_eq!(cluster.get("/1:lone").await, b"here");
    }
    eventually("one repair is queued", WITHIN, || async { cluster.tasks().await.len() == 1 }).await;
    let task = &cluster.tasks().await[0];
    assert_eq!((task.to.as_str(), task.from[0].as_str()), ("1", "2"));

    let range = Request::get(&cluster.addr, "/1:lone").header("range", "bytes=1-2").send().await.unwrap();
    assert_eq!((range.status, range.body.as_slice()), (206, b"er".as_slice()));
    let head = Request::new("HEAD", &cluster.addr, "/1:lone").send().await.unwrap();
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("4"), 0));
    let etag = head.header("etag").unwrap();
    let cached = Request::get(&cluster.addr, "/1:lone").header("if-none-match", etag).send().await.unwrap();
    assert_eq!(cached.status, 304);
    assert_eq!(Request::get(&cluster.addr, "/1:none").send().await.unwrap().status, 404);
    assert_eq!(Request::get(&cluster.addr, "/9:lone").send().await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_could_not_be_queued_is_asked_for_again() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
    let put = Request::put(&cluster.nodes[1], "/lone", b"here".to_vec()).send().await.unwrap();
    assert_eq!(put.status, 201);
    cluster.break_queue();
    for _ in 0..8 {
        assert_eq!(cluster.get("/1:lone").await, b"here");
    }
    cluster.mend_queue();
    eventually("the repair is queued", WITHIN, || async {
        cluster.get("/1:lone").await;
        cluster.tasks().await.len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_leaves_tombstones_and_answers_gone() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Node]]).await;
    let put = cluster.put("/d", body(500)).header("x-backpack-write", "all").send().await.unwrap();
    assert_eq!(put.status, 200);
    let delete = Request::new("DELETE", &cluster.addr, "/1:d").send().await.unwrap();
    assert_eq!((delete.status, delete.header("x-backpack-copies")), (204, Some("1/2")));
    let tasks = cluster.tasks().await;
    assert_eq!((tasks.len(), tasks[0].op), (1, backpack::model::task::Operation::Delete));
    let all =
        Request::new("DELETE", &cluster.addr, "/1:d").header("x-backpack-write", "all").send().await.unwrap();
    assert_eq!((all.status, all.header("x-backpack-copies")), (204, Some("2/2")));
    assert_eq!(Request::get(&cluster.addr, "/1:d").send().await.unwrap().status, 410);
    for node in &cluster.nodes {
        assert_eq!(Request::get(node, "/d").send().await.unwrap().status, 410);
    }
    eventually("the bytes are given back", WITHIN, || async { cluster.used("1").await == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_bad_input_gets_its_error_and_changes_nothing() {
    let cluster = Cluster::start(&[&[Member::Node]]).await;
    let long = format!("PUT /{} HTTP/1.1", "k".repeat(1025));
    for (line, headers, status) in [
        ("PUT / HTTP/1.1", "", 400),
        ("PUT /a/../b HTTP/1.1", "", 400),
        ("PUT /a/%2e%2E/b HTTP/1.1", "", 400),
        ("PUT /a%zz HTTP/1.1", "", 400),
        ("PUT /a%00 HTTP/1.1", "", 400),
        ("PUT /stats HTTP/1.1", "", 400),
        ("PUT /-/x HTTP/1.1", "", 400),
        (long.as_str(), "", 400),
        ("PUT /x HTTP/1.1", "Content-Length: 1\r\nContent-Length: 2\r\n", 400),
        ("PUT /x HTTP/1.1", "Content-Length: -1\r\n", 400),
        ("PUT /x HTTP/1.1", "Content-Length: 6000000000\r\n", 413),
        ("PUT /x HTTP/1.1", "X-Backpack-Pool: a/b\r\n", 400),
        ("PUT /x HTTP/1.1", "Content-Length: 1\r\nX-Backpack-Pool: nowhere\r\n", 503),
        ("PATCH /x HTTP/1.1", "", 405),
        ("POST /x HTTP/1.1", "", 405),
        ("GET /x HTTP/1.1", "", 404),
        ("GET /1:../x HTTP/1.1", "", 400),
        ("DELETE /x HTTP/1.1", "", 404),
        ("GET /-/nothing HTTP/1.1", "", 404),
        ("rubbish", "", 400),
    ] {
        let request = format!("{line}\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        let answer = exchange(&cluster.addr, request.as_bytes(), WITHIN).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line} {headers}: {answer}");
    }
    assert_eq!(cluster.tasks().await, []);
    assert_eq!(cluster.used("1").await, 0);
    assert_eq!(cluster.put("/fine", body(10)).send().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_have_the_originals_fields() {
    let cluster = Cluster::start(&[&[Member::Node]]).await;
    assert_eq!(cluster.put("/s", body(10)).send().await.unwrap().status, 200);
    let stats = Request::get(&cluster.addr, "/stats").send().await.unwrap();
    let stats: serde_json::Value = serde_json::from_str(&stats.text()).unwrap();
    for field in [
        "uptime",
        "processed_uploads",
        "processed_bytes",
        "failed_uploads",
        "total_size",
        "used_size",
        "usage_ratio",
        "available_space",
        "total_shards",
        "writable_shards",
        "queue_length",
    ] {
        assert!(!stats[field].is_null() || field == "queue_length", "{field}: {stats}");
    }
    assert_eq!((&stats["processed_uploads"], &stats["processed_bytes"]), (&1.into(), &10.into()));
    let bad = cluster.put("/../x", body(10)).send().await.unwrap();
    assert_eq!(bad.status, 400);
    let stats = Request::get(&cluster.addr, "/stats").send().await.unwrap().text();
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["failed_uploads"], 0, "a bad request is no failed upload");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_without_a_key_gets_one() {
    let cluster = Cluster::start(&[&[Member::Node]]).await;
    let reply = Request::new("POST", &cluster.addr, "/").body(b"x".to_vec()).send().await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let key = reply.header("x-backpack-key").unwrap();
    assert_eq!(reply.header("location"), Some(format!("/1:{key}").as_str()));
    assert_eq!(cluster.get(&format!("/1:{key}")).await, b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_the_uploads_in_flight() {
    let mut cluster = Cluster::start(&[&[Member::Node]]).await;
    let addr = cluster.addr.clone();
    let (begun, is_begun) = tokio::sync::oneshot::channel();
    let slow = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        let head = "PUT /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 20\r\n\
                    Expect: 100-continue\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut go_on = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        stream.read_exact(&mut go_on).unwrap();
        assert!(go_on.starts_with(b"HTTP/1.1 100"), "{}", go_on.escape_ascii());
        begun.send(()).unwrap();
        for _ in 0..10 {
            stream.write_all(b"ab").unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    is_begun.await.unwrap();
    cluster.stop().await;
    let answer = slow.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(cluster.used("1").await, 20, "what was taken is counted before the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_the_rest_of_an_upload_that_is_on_its_way_to_a_server() {
    let mut cluster = Cluster::start(&[&[Member::Original]]).await;
    let (blob, came) = (body(100_000), 50_000);
    let mut client = begin_upload(&cluster, "slow", blob.len(), &blob[..came]);
    let original = &cluster.originals[0];
    eventually("a server has its beginning", WITHIN, || async { !original.seen().is_empty() }).await;
    let (addr, rest) = (cluster.addr.clone(), blob[came..].to_vec());
    let answered = tokio::task::spawn_blocking(move || {
        wait_until("nobody is let in", WITHIN, || std::net::TcpStream::connect(&addr).is_err());
        client.write_all(&rest).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    });
    cluster.stop().await;
    let answer = answered.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(cluster.originals[0].blob("slow").as_ref() == Some(&blob));
    assert_eq!(cluster.used("1").await, blob.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_takes_longer_than_a_stop_may_is_cut_whether_its_client_sends_or_not() {
    // More than the server takes in the time of any test.
    const LENGTH: usize = 512 << 20;
    for sends in [true, false] {
        let settings = Settings { drain: Duration::from_millis(500), ..Settings::default() };
        let mut cluster = Cluster::start_set(&[&[Member::Original]], settings).await;
        cluster.originals[0].set_fault(Fault::Bandwidth(4 << 20));
        let mut client = begin_upload(&cluster, "long", LENGTH, &body(50_000));
        let original = &cluster.originals[0];
        eventually("a server has its beginning", WITHIN, || async { !original.seen().is_empty() }).await;
        let ended = tokio::task::spawn_blocking(move || {
            let part = body(64 << 10);
            let mut sent = 50_000;
            while sends && sent + part.len() <= LENGTH && client.write_all(&part).is_ok() {
                sent += part.len();
            }
            let mut answer = Vec::new();
            // The end, or an error.
            let _ = client.read_to_end(&mut answer);
            (sent, answer)
        });
        cluster.stop().await;
        let (sent, answer) = ended.await.unwrap();
        assert!(sent < LENGTH / 2, "nobody reads on: {sent}");
        assert_eq!(answer, b"", "nothing was promised");
        assert_eq!(cluster.used("1").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_pass_byte_for_byte() {
    let cluster = Cluster::start(&[&[Member::Node, Member::Original]]).await;
    for key in ["a:b:c", "a%20b", "q?x=1&y=%2F", "%3F%25", "a//b", "фото.jpg", "x/%D1%84", "a+b;c=d,e@f!"]
    {
        let reply = cluster.put(&format!("/{key}"), key.as_bytes().to_vec()).send().await.unwrap();
        assert_eq!(reply.status, 200, "{key}: {}", reply.text());
        assert_eq!(cluster.get(&format!("/1:{key}")).await, key.as_bytes(), "{key}");
        assert!(cluster.tasks().await.iter().any(|task| task.key.as_str() == key), "{key}");
    }
}
