//! Bad input of every kind gets a clear error, is counted, and changes nothing. Requests are raw bytes.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use backpack::{
    client::{PutHead, ServerError, Servers},
    http::{Body, RequestId},
    model::{Meta, Server},
    node::Limits,
};

use crate::{
    node_double::TestNode,
    support::{
        alone::is_alone,
        http::{Reply, Request, exchange},
        wait::{START_WITHIN, eventually},
    },
};

const LIMIT: u64 = 100_000;

fn limits() -> Limits {
    Limits { blob_bytes: LIMIT, ..Limits::default() }
}

/// A whole PUT of `/k` with these headers.
fn put(headers: &[&str], body: &str) -> Vec<u8> {
    let headers = headers.iter().map(|header| format!("{header}\r\n")).collect::<String>();
    format!("PUT /k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n{body}").into_bytes()
}

/// The same with the right length.
fn put_hello(headers: &[&str]) -> Vec<u8> {
    put(&[&["Content-Length: 5"], headers].concat(), "hello")
}

fn request(line: impl AsRef<[u8]>) -> Vec<u8> {
    [line.as_ref(), b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"].concat()
}

/// How many requests were answered or found malformed, by all nodes of this process.
fn counted() -> u64 {
    let all = backpack::telemetry::metrics::render();
    let ours = |line: &&str| {
        line.starts_with("backpack_http_requests_total{")
            || line.starts_with("backpack_http_malformed_total{")
    };
    all.lines().filter(ours).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_counted_and_changes_nothing() {
    if !is_alone("node_bad_input::bad_input_is_refused_counted_and_changes_nothing") {
        return;
    }
    let node = TestNode::start_with(limits(), None).await;
    let long_key = format!("PUT /{}", "k".repeat(1025));
    let long_target = format!("PUT /{}", "k".repeat(20_000));
    let long_header = format!("X-Long: {}", "x".repeat(20_000));
    let long_meta = format!("X-Amz-Meta-A: {}", "x".repeat(5_000));
    let many: Vec<String> = (0..150).map(|n| format!("X-{n}: x")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("no request", b"nonsense\r\n\r\n".to_vec(), 400),
        ("no version", b"PUT /k\r\n\r\n".to_vec(), 400),
        ("unknown version", b"PUT /k HTTP/7.3\r\n\r\n".to_vec(), 400),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
        ("space in the target", request("PUT /a b"), 400),
        ("control byte in the target", request(b"PUT /a\x01b"), 400),
        ("DEL in the target", request(b"PUT /a\x7fb"), 400),
        ("not UTF-8", request(b"PUT /a\xff\xfeb"), 400),
        ("method that is no token", request("P(T /k"), 400),
        ("empty key", request("PUT /"), 400),
        ("parent", request("PUT /a/../b"), 400),
        ("encoded parent", request("PUT /a/%2e%2E/b"), 400),
        ("dot", request("PUT /./b"), 400),
        ("bad percent", request("PUT /a%zz"), 400),
        ("cut percent", request("PUT /a%2"), 400),
        ("encoded NUL", request("PUT /a%00b"), 400),
        ("encoded newline", request("PUT /a%0d%0ab"), 400),
        ("reserved", request("PUT /-"), 400),
        ("key too long", request(long_key), 400),
        ("target too long", request(long_target), 431),
        ("header without colon", put_hello(&["nonsense"]), 400),
        ("header with a space in its name", put_hello(&["Bad Name: x"]), 400),
        ("header with a control byte", put_hello(&["X-A: a\x01b"]), 400),
        ("header too long", put_hello(&[&long_header]), 431),
        ("too many headers", put_hello(&many), 431),
        ("two lengths", put_hello(&["Content-Length: 6"]), 400),
        ("length that is no number", put(&["Content-Length: five"], "hello"), 400),
        ("negative length", put(&["Content-Length: -5"], "hello"), 400),
        ("length and chunked", put_hello(&["Transfer-Encoding: chunked"]), 400),
        ("unknown coding", put(&["Transfer-Encoding: gzip, chunked"], "1\r\nx\r\n0\r\n\r\n"), 501),
        ("not chunked at last", put(&["Transfer-Encoding: gzip"], "hello"), 400),
        (
            "chunk size that is no number",
            put(&["Transfer-Encoding: chunked"], "xyz\r\nhello\r\n0\r\n\r\n"),
            400,
        ),
        ("chunk longer than its size", put(&["Transfer-Encoding: chunked"], "2\r\nhello\r\n0\r\n\r\n"), 400),
        ("chunk size over 64 bits", put(&["Transfer-Encoding: chunked"], "fffffffffffffffff\r\nx"), 400),
        ("body over the limit", put(&["Content-Length: 100001"], &"x".repeat(100_001)), 413),
        ("length over 64 bits", put(&["Content-Length: 99999999999999999999"], "x"), 400),
        ("length of exabytes", put(&["Content-Length: 9999999999999999999"], "x"), 413),
        ("bad version", put_hello(&["X-Backpack-Version: latest"]), 400),
        ("empty version", put_hello(&["X-Backpack-Version:"]), 400),
        ("version that is not text", put_hello(&["X-Backpack-Version: \u{ff}"]), 400),
        ("bad checksum", put_hello(&["x-amz-checksum-crc64nvme: AAAA"]), 400),
        ("wrong checksum", put_hello(&["x-amz-checksum-crc64nvme: AAAAAAAAAAA="]), 422),
        ("wrong MD5", put_hello(&["Content-MD5: AAAAAAAAAAAAAAAAAAAAAA=="]), 422),
        ("part of a blob", put_hello(&["Content-Range: bytes 0-4/10"]), 400),
        ("metadata too long", put_hello(&[&long_meta]), 400),
        ("metadata that is not text", put_hello(&["X-Amz-Meta-A: \u{e4}"]), 400),
        ("bad parameter", request("GET /-/list?limit=many"), 400),
    ];
    for (what, bytes, status) in cases {
        let before = counted();
        let answer = exchange(&node.addr, &bytes, START_WITHIN).unwrap();
        let reply = Reply::parse(&answer, false);
        let reply = reply.unwrap_or_else(|error| panic!("{what}: {error}: {answer:?}"));
        assert_eq!(reply.status, status, "{what}: {}", reply.text());
        if !reply.body.is_empty() {
            let error: serde_json::Value = serde_json::from_str(&reply.text()).unwrap();
            assert!(error["error"].as_str().is_some_and(|error| error.len() > 5), "{what}: {error}");
        }
        eventually(&format!("{what} is counted"), START_WITHIN, async || counted() > before).await;
        assert_eq!(node.storage.len(), 0, "{what} stored something");
    }
    assert_eq!(Request::get(&node.addr, "/-/live").send().await.unwrap().status, 200);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_stores_nothing() {
    let node = TestNode::start().await;
    for body in [
        "Content-Length: 100\r\n\r\nonly this",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "Transfer-Encoding: chunked\r\n\r\n64\r\nonly",
    ] {
        let mut client = TcpStream::connect(&node.addr).unwrap();
        client.write_all(format!("PUT /k HTTP/1.1\r\nHost: x\r\n{body}").as_bytes()).unwrap();
        // As a client that dies does: nothing is sent any more, nothing is read.
        client.shutdown(Shutdown::Both).unwrap();
    }
    let ended = async || {
        let outcomes = ["aborted", "refused"].map(|outcome| format!("outcome=\"{outcome}\""));
        outcomes.iter().map(|labels| node.metric("backpack_node_puts_total", labels)).sum::<u64>() == 3
    };
    eventually("three uploads ended", START_WITHIN, ended).await;
    assert_eq!(node.storage.len(), 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_the_body_are_another_request() {
    let node = TestNode::start().await;
    let bytes = b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello and more\r\n\r\n";
    let answer = exchange(&node.addr, bytes, START_WITHIN).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 201 ") && answer.contains("HTTP/1.1 400 "), "{answer}");
    assert_eq!(Request::get(&node.addr, "/k").send().await.unwrap().text(), "hello");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_coming_is_given_up() {
    let limits = Limits { upload_idle: Duration::from_millis(300), ..Limits::default() };
    let node = TestNode::start_with(limits, None).await;
    let mut client = TcpStream::connect(&node.addr).unwrap();
    client.write_all(b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nslow").unwrap();
    let mut answer = String::new();
    client.set_read_timeout(Some(START_WITHIN)).unwrap();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(node.storage.len(), 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upload_hears_why_even_if_it_goes_on_sending() {
    let node = TestNode::start_with(limits(), None).await;
    let megabytes = vec![b'x'; 20 << 20];
    let length = format!("Content-Length: {}", megabytes.len());
    for (framing, first) in [(length.as_str(), ""), ("Transfer-Encoding: chunked", "1400000\r\n")] {
        let head = format!("PUT /k HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n{first}");
        let bytes = [head.as_bytes(), &megabytes].concat();
        let answer = exchange(&node.addr, &bytes, START_WITHIN).unwrap();
        assert_eq!(Reply::parse(&answer, false).unwrap().status, 413, "{framing}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_hears_why_too() {
    let node = TestNode::start().await;
    node.storage.full.store(true, std::sync::atomic::Ordering::SeqCst);
    let (host, port) = node.addr.split_once(':').unwrap();
    let server = Server { id: "1".parse().unwrap(), host: host.to_owned(), port: port.parse().unwrap() };
    let servers = Servers::default();
    for n in 0..20 {
        let head = PutHead {
            key: format!("k{n}").parse().unwrap(),
            version: None,
            meta: Meta::default(),
            length: Some(20 << 20),
            checksum: None,
            conditions: http::HeaderMap::new(),
        };
        let body = Body::from(bytes::Bytes::from(vec![b'x'; 20 << 20]));
        let refused = servers.put(&server, &head, body, &RequestId::fresh()).await;
        assert_eq!(refused, Err(ServerError::Full));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_before_sending_is_refused_before_sending() {
    let node = TestNode::start_with(limits(), None).await;
    let head = "PUT /k HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100001\r\n\r\n";
    let answer = exchange(&node.addr, head.as_bytes(), START_WITHIN).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer));

    let mut client = TcpStream::connect(&node.addr).unwrap();
    client.set_read_timeout(Some(START_WITHIN)).unwrap();
    client.write_all(head.replace("100001", "5").as_bytes()).unwrap();
    let mut continued = [0; 25];
    client.read_exact(&mut continued).unwrap();
    assert_eq!(&continued, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 13];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 201 ");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_never_has_a_body() {
    let node = TestNode::start().await;
    Request::put(&node.addr, "/k", "hello").send().await.unwrap();
    for target in ["/k", "/none", "/a/../b", "/stats", "/-/list", "/-/ready", "/-/nothing"] {
        let head = format!("HEAD {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = exchange(&node.addr, head.as_bytes(), START_WITHIN).unwrap();
        assert!(answer.ends_with(b"\r\n\r\n"), "{target}: {}", String::from_utf8_lossy(&answer));
    }
    node.stop().await;
}
