//! GETs and uploads are answered without hyper where they are simple: what a client gets must not depend on it.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use backpack::{http, model::Version, node::Limits};

use crate::{
    node_blobs::bytes,
    node_double::TestNode,
    support::{
        http::{Reply, Request, exchange},
        wait::START_WITHIN,
    },
};

/// Bigger than what is read of a blob at once, and than what sockets hold.
const BIG: usize = 20 << 20;

/// A node that waits so long for the head of a request.
async fn start_waiting(longest: Duration) -> TestNode {
    let http = http::Limits { head: longest, ..http::Limits::default() };
    TestNode::start_with(Limits { http, ..Limits::default() }, None).await
}

fn connect(node: &TestNode) -> TcpStream {
    let client = TcpStream::connect(&node.addr).unwrap();
    client.set_read_timeout(Some(START_WITHIN)).unwrap();
    client
}

/// Reads one reply of a connection that stays open; it says its length.
fn read_reply(client: &mut TcpStream) -> Reply {
    let mut came = Vec::new();
    while !came.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        came.push(byte[0]);
    }
    let head = Reply::parse(&came, true).unwrap();
    let length = head.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    client.read_exact(&mut body).unwrap();
    Reply { body, ..head }
}

async fn put(node: &TestNode, target: &str, body: Vec<u8>) {
    let put = Request::put(&node.addr, target, body)
        .header("Content-Type", "text/plain")
        .header("X-Amz-Meta-Owner", "ann");
    assert_eq!(put.send().await.unwrap().status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_get_hyper_would_have_said_the_same() {
    let node = TestNode::start().await;
    for (target, length) in [("/empty", 0), ("/small", 5), ("/chunk", 256 * 1024), ("/long", 600_001)] {
        put(&node, target, bytes(length)).await;
    }
    put(&node, "/gone", bytes(5)).await;
    assert_eq!(Request::new("DELETE", &node.addr, "/gone").send().await.unwrap().status, 204);
    let tag = Request::get(&node.addr, "/small").send().await.unwrap();
    let if_none_match = format!("If-None-Match: {}\r\n", tag.header("etag").unwrap());

    let mut statuses = Vec::new();
    for (target, headers) in [
        ("/empty", ""),
        ("/small", ""),
        ("/small", "Accept: */*\r\nAuthorization: none\r\n"),
        ("/chunk", ""),
        ("/long", ""),
        ("/gone", ""),
        ("/missing?with=query", ""),
        ("/small", if_none_match.as_str()),
        ("/small", "If-Match: \"other\"\r\n"),
        ("/small", "Range: bytes=1-3\r\n"),
        ("/long", "range: bytes=1-300000\r\n"),
        ("/empty", "Range: bytes=7-\r\n"),
        ("/", ""),
        ("/a/../b", ""),
        ("/a%0", ""),
        ("/a%zz", ""),
        ("/a{b}", ""),
        ("/a\"b", ""),
        ("/a#b", ""),
        ("/a<b", ""),
        ("/a\u{e4}b", ""),
        ("/a\\b", ""),
        ("/-", ""),
        ("/-/live", ""),
        ("/-/nothing", ""),
        ("/-/list?prefix=s", ""),
        ("/-/list?limit=x", ""),
    ] {
        let get = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nX-Request-Id: id-1\r\n{headers}Connection: close\r\n\r\n"
        );
        let ours = exchange(&node.addr, get.as_bytes(), START_WITHIN).unwrap();
        let what = format!("{target} {headers}");
        let (ours, hypers) = (shown(&ours, &what), shown(&asked_of_hyper(&node, get.as_bytes()), &what));
        assert!(ours == hypers, "{what}: {ours:.300?}\n{hypers:.300?}");
        statuses.push(ours.0);
    }
    statuses.sort_unstable();
    statuses.dedup();
    assert_eq!(statuses, [200, 206, 304, 400, 404, 410, 412, 416]);
    node.stop().await;
}

/// What hyper answers.
fn asked_of_hyper(node: &TestNode, request: &[u8]) -> Vec<u8> {
    without_first(&exchange(&node.addr, &after_hypers(request), START_WITHIN).unwrap()).to_vec()
}

/// The request on a connection that is hyper's by then, for its first one is neither a GET nor an upload.
fn after_hypers(request: &[u8]) -> Vec<u8> {
    [b"HEAD /-/live HTTP/1.1\r\nHost: x\r\n\r\n", request].concat()
}

/// The answers without that to the first request.
fn without_first(answers: &[u8]) -> &[u8] {
    let end = answers.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    &answers[end + 4..]
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_upload_hyper_would_have_said_the_same() {
    let version = Version::from_parts(1_700_000_000_000, 7);
    let start = || {
        let limits = Limits { blob_bytes: 700_000, upload_idle: Duration::from_secs(1), ..Limits::default() };
        TestNode::start_with(limits, None)
    };
    // One for each way, so that both have nothing before.
    let (node, other) = (start().await, start().await);
    let wrong = "Content-MD5: XUFAKrxLKna5cZ2REBfFkg==\r\n";
    let (mut statuses, mut kept) = (Vec::new(), 0);
    for (target, headers, announced, sent) in [
        ("/small", "", 5, 5),
        ("/empty", "", 0, 0),
        ("/chunk", "Content-Type: text/plain\r\nX-Amz-Meta-Owner: ann\r\n", 256 * 1024, 256 * 1024),
        ("/long", "", 600_001, 600_001),
        ("/with?query", "", 5, 5),
        ("/broken", "", 5, 4),
        ("/cut", "", 600_001, 400_000),
        ("/wrong", wrong, 5, 5),
        ("/wrong", wrong, 600_001, 600_001),
        ("/small", "If-None-Match: *\r\n", 5, 5),
        ("/small", "If-None-Match: *\r\n", 600_001, 600_001),
        ("/part", "Content-Range: bytes 0-4/5\r\n", 5, 5),
        ("/too-long", "", 700_001, 700_001),
        ("/meta", "X-Amz-Meta-A: \u{e4}\r\n", 5, 5),
        ("/", "", 5, 5),
        ("/a/../b", "", 5, 5),
        ("/a%zz", "", 600_001, 600_001),
        ("/a{b}", "", 5, 5),
        ("/a<b", "", 5, 5),
        ("/-/list", "", 5, 5),
        ("/-/nothing", "", 5, 5),
    ] {
        let head = format!(
            "PUT {target} HTTP/1.1\r\nHost: x\r\nX-Request-Id: id-1\r\nX-Backpack-Version: {version}\r\n{headers}\
             Content-Length: {announced}\r\nConnection: close\r\n\r\n"
        );
        let upload = [head.clone().into_bytes(), bytes(sent)].concat();
        let what = format!("{target} {headers} {sent} of {announced}");
        let ours = exchange(&node.addr, &upload, START_WITHIN).unwrap();
        let (ours, hypers) = (shown(&ours, &what), shown(&asked_of_hyper(&other, &upload), &what));
        assert!(ours == hypers, "{what}: {ours:.300?}\n{hypers:.300?}");
        statuses.push(ours.0);
        if sent < announced && sent > 0 {
            let [ours, hypers] = [(&node, &upload), (&other, &after_hypers(&upload))].map(|(node, bytes)| {
                let mut client = connect(node);
                client.write_all(bytes).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).unwrap();
                answer
            });
            // The words are the operating system's or hyper's.
            assert_eq!((shown(&ours, &what).0, shown(without_first(&hypers), &what).0), (400, 400), "{what}");
        } else if sent < 10 {
            let next = b"GET /-/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            let both = [head.replace("Connection: close\r\n", "").as_bytes(), &bytes(sent), next].concat();
            let [ours, hypers] =
                [exchange(&node.addr, &both, START_WITHIN).unwrap(), asked_of_hyper(&other, &both)]
                    .map(|answers| answers.ends_with(b"\r\n\r\nlive\n"));
            assert_eq!(ours, hypers, "{what}: whether the connection goes on");
            kept += usize::from(ours);
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    assert_eq!(statuses, [201, 400, 404, 405, 408, 412, 413, 422]);
    assert_eq!(kept, 12, "after all that is no nonsense for hyper");
    node.stop().await;
    other.stop().await;
}

/// What must be the same of a reply.
fn shown(answer: &[u8], what: &str) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let Reply { status, mut headers, body } =
        Reply::parse(answer, false).unwrap_or_else(|error| panic!("{what}: {error}"));
    headers.sort();
    let date = headers.iter_mut().find(|(name, _)| name == "date");
    // hyper's own refusals have one too.
    date.unwrap_or_else(|| panic!("{what} has no date")).1.clear();
    (status, headers, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_all_kinds_take_turns_on_a_connection() {
    let node = TestNode::start().await;
    put(&node, "/k", bytes(5)).await;
    let get = "GET /k HTTP/1.1\r\nHost: x\r\n\r\n";
    let part = "GET /k HTTP/1.1\r\nRange: bytes=0-1\r\n\r\n";
    let mut client = connect(&node);
    // Several at once, and the beginning of the next.
    client.write_all(format!("{get}{part}{get}GET /k").as_bytes()).unwrap();
    for (status, length) in [(200, 5), (206, 2), (200, 5)] {
        let reply = read_reply(&mut client);
        assert_eq!((reply.status, reply.body), (status, bytes(length)));
    }
    client.write_all(b" HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read_reply(&mut client).body, bytes(5));
    let upload = "PUT /new HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    client.write_all(format!("{upload}{get}").as_bytes()).unwrap();
    assert_eq!(read_reply(&mut client).status, 201);
    assert_eq!(read_reply(&mut client).body, bytes(5));

    // An upload behind a GET, its body in parts.
    let mut client = connect(&node);
    client.write_all(format!("{get}PUT /late HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc").as_bytes()).unwrap();
    assert_eq!(read_reply(&mut client).status, 200);
    client.write_all(b"def").unwrap();
    assert_eq!(read_reply(&mut client).status, 201);
    assert_eq!(Request::get(&node.addr, "/late").send().await.unwrap().text(), "abcdef");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_connections_that_wait_and_no_answer() {
    let node = TestNode::start().await;
    put(&node, "/big", bytes(BIG)).await;
    let (mut waits, mut reads) = (connect(&node), connect(&node));
    waits.write_all(b"GET /-/live HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read_reply(&mut waits).status, 200);
    reads.write_all(b"GET /big HTTP/1.1\r\n\r\n").unwrap();
    let mut first = [0; 12];
    reads.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    node.shutdown.begin();
    assert_eq!(waits.read(&mut [0]).unwrap(), 0, "the connection is closed");
    let mut rest = Vec::new();
    reads.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&bytes(BIG)), "the answer is whole");
    node.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_waits_too_long_is_closed_and_no_other() {
    const LONGEST: Duration = Duration::from_secs(2);
    let node = start_waiting(LONGEST).await;
    let began = Instant::now();
    let (silent, mut half, mut used) = (connect(&node), connect(&node), connect(&node));
    half.write_all(b"GET /-/li").unwrap();
    // Used all the time, for longer than a wait may last.
    for due in [0, LONGEST.as_millis() as u64 * 3 / 4, LONGEST.as_millis() as u64 * 3 / 2] {
        tokio::time::sleep(Duration::from_millis(due).saturating_sub(began.elapsed())).await;
        used.write_all(b"GET /-/live HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(read_reply(&mut used).status, 200);
    }
    let answered = Instant::now();
    for mut waits in [silent, half] {
        assert_eq!(waits.read(&mut [0]).unwrap(), 0);
    }
    assert_eq!(used.read(&mut [0]).unwrap(), 0);
    assert!(answered.elapsed() >= LONGEST, "{:?}", answered.elapsed());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_has_time_for_its_first_request() {
    const LONGEST: Duration = Duration::from_secs(1);
    let node = start_waiting(LONGEST).await;
    let began = Instant::now();
    assert_eq!(connect(&node).read(&mut [0]).unwrap(), 0);
    assert!(began.elapsed() >= LONGEST, "{:?}", began.elapsed());
    node.stop().await;
}
