//! The read path as shipped: what `nginx-config` writes (the shape of `examples/nginx.conf`), run by a real nginx in front
//! of real WebDAV servers and of stand-ins that record what reached them.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use backpack::{
    admin::nginx_config::{Options, render},
    http::RequestId,
    model::{ClusterMap, PoolName, Server, ServerId, Shard, ShardId},
};

use crate::support::{
    daemon::{Daemon, Service},
    http::{Reply, Request, exchange},
    nginx::{Nginx, check_config},
    original_node::{Fault, OriginalNode},
    port::free_port,
    wait::{START_WITHIN, wait_until},
};

/// More requests than a shard has servers, so that each of them is asked first at some time.
const ROUNDS: usize = 6;

/// A front for shards given as `(id, ports of its servers)`.
fn front(shards: &[(&str, &[u16])]) -> Nginx {
    let port = free_port();
    let config = render(&map(shards), &Options { listen: format!("127.0.0.1:{port}") }).unwrap();
    Nginx::start(port, &config)
}

fn map(shards: &[(&str, &[u16])]) -> ClusterMap {
    let mut map = ClusterMap::default();
    for (id, ports) in shards {
        let id: ShardId = id.parse().unwrap();
        let servers: Vec<ServerId> = ports.iter().map(|port| port.to_string().parse().unwrap()).collect();
        for (id, &port) in servers.iter().zip(*ports) {
            let server = Server { id: id.clone(), host: "127.0.0.1".into(), port };
            map.servers.insert(id.clone(), Arc::new(server));
        }
        let shard = Shard {
            id: id.clone(),
            servers,
            stages: Default::default(),
            read_only: true,
            pool: PoolName::default(),
            size: None,
        };
        map.shards.insert(id, Arc::new(shard));
    }
    map
}

fn get(front: &Nginx, target: &str) -> Reply {
    Request::get(&front.addr(), target).send_blocking().unwrap()
}

fn put(server: &str, target: &str, body: impl Into<Vec<u8>>) {
    let reply = Request::put(server, target, body).send_blocking().unwrap();
    assert!([201, 204].contains(&reply.status), "{}", reply.status);
}

/// How often these stand-ins were asked, all together.
fn asked(nodes: &[&OriginalNode]) -> usize {
    nodes.iter().map(|node| node.seen().len()).sum()
}

#[test]
fn the_shipped_file_is_valid() {
    check_config(include_str!("../../examples/nginx.conf")).unwrap();
}

#[test]
fn unusual_maps_are_valid_too() {
    for shards in [&[] as &[(&str, &[u16])], &[("a", &[]), ("A", &[1]), ("a(b)+.!@=~", &[2]), ("фото", &[3])]]
    {
        check_config(&render(&map(shards), &Options::default()).unwrap()).unwrap();
    }
}

#[test]
fn a_copy_that_is_missing_is_found_on_the_other_server() {
    let (one, two) = (Nginx::webdav(), OriginalNode::start());
    put(&one.addr(), "/only/one.jpg", "1");
    put(&two.addr(), "/only/two.jpg", "2");
    let front = front(&[("1", &[one.port(), two.port()])]);
    for _ in 0..ROUNDS {
        assert_eq!(get(&front, "/1:only/one.jpg").text(), "1");
        assert_eq!(get(&front, "/1:only/two.jpg").text(), "2");
    }
}

#[test]
fn a_blob_nobody_has_is_404_after_each_server_was_asked_once() {
    let (one, two) = (OriginalNode::start(), OriginalNode::start());
    let front = front(&[("1", &[one.port(), two.port()])]);
    for round in 1..=ROUNDS {
        assert_eq!(get(&front, "/1:nowhere").status, 404);
        assert_eq!((one.seen().len(), two.seen().len()), (round, round));
    }
}

#[test]
fn a_shard_is_asked_only_for_its_own_blobs() {
    let (one, two) = (OriginalNode::start(), OriginalNode::start());
    one.insert("k", "of shard 1");
    two.insert("k", "of shard 2");
    let front = front(&[("1", &[one.port()]), ("2", &[two.port()])]);
    assert_eq!(get(&front, "/1:k").text(), "of shard 1");
    assert_eq!(get(&front, "/2:k").text(), "of shard 2");
    assert_eq!((one.seen().len(), two.seen().len()), (1, 1));
}

#[test]
fn a_dead_server_is_not_noticed_by_readers() {
    let (one, two) = (Nginx::webdav(), Nginx::webdav());
    put(&one.addr(), "/k", "blob");
    put(&two.addr(), "/k", "blob");
    let front = front(&[("1", &[one.port(), two.port()])]);
    assert_eq!(get(&front, "/1:k").status, 200);
    one.kill();
    for _ in 0..ROUNDS {
        assert_eq!(get(&front, "/1:k").text(), "blob");
    }
    one.restart();
    let before = one.requests().len();
    wait_until("the one that came back is asked again", START_WITHIN, || {
        assert_eq!(get(&front, "/1:k").text(), "blob");
        one.requests().len() > before
    });
    two.kill();
    for _ in 0..ROUNDS {
        assert_eq!(get(&front, "/1:k").text(), "blob");
    }
    one.kill();
    assert_eq!(get(&front, "/1:k").status, 502);
}

#[test]
fn a_server_that_hangs_costs_a_reader_seconds_and_no_blob() {
    let (one, two) = (OriginalNode::start(), OriginalNode::start());
    two.insert("k", "blob");
    one.set_fault(Fault::Hang);
    let front = front(&[("1", &[one.port(), two.port()])]);
    // It hangs all the time, so nothing but nginx ends the wait for it.
    for _ in 0..2 {
        assert_eq!(get(&front, "/1:k").text(), "blob");
    }
    let asked = one.seen().len();
    assert!((1..=2).contains(&asked), "{asked} of two readers were sent there first");
}

#[test]
fn a_server_that_hangs_is_met_by_few_readers() {
    let (one, two) = (OriginalNode::start(), OriginalNode::start());
    two.insert("k", "blob");
    one.set_fault(Fault::Hang);
    let front = front(&[("1", &[one.port(), two.port()])]);
    // Those that come at once all wait, as long as nobody knows.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(get(&front, "/1:k").text(), "blob"));
        }
    });
    for _ in 0..50 {
        assert_eq!(get(&front, "/1:k").text(), "blob");
    }
    let asked = one.seen().len();
    assert!((1..20).contains(&asked), "{asked} of 58 readers were sent there first");
}

#[test]
fn errors_of_one_server_are_hidden_by_the_other() {
    for status in [500, 502, 503, 504] {
        let (one, two) = (OriginalNode::start(), OriginalNode::start());
        one.set_fault(Fault::Status(status));
        two.insert("k", "blob");
        let front = front(&[("1", &[one.port(), two.port()])]);
        for _ in 0..ROUNDS {
            assert_eq!(get(&front, "/1:k").text(), "blob", "beside {status}");
        }
        assert!(!one.seen().is_empty());
    }
}

#[test]
fn a_deleted_blob_is_410_and_not_looked_for_elsewhere() {
    let (one, two) = (OriginalNode::start(), OriginalNode::start());
    for node in [&one, &two] {
        node.set_fault(Fault::Status(410));
    }
    let front = front(&[("1", &[one.port(), two.port()])]);
    for round in 1..=ROUNDS {
        assert_eq!(get(&front, "/1:k").status, 410);
        assert_eq!(asked(&[&one, &two]), round);
    }
}

#[test]
fn no_request_asks_a_server_twice() {
    let nodes = [OriginalNode::start(), OriginalNode::start(), OriginalNode::start()];
    for node in &nodes {
        node.set_fault(Fault::Status(503));
    }
    let front = front(&[("1", &nodes.each_ref().map(OriginalNode::port))]);
    assert_eq!(get(&front, "/1:k").status, 503);
    assert_eq!(nodes.each_ref().map(|node| node.seen().len()), [1, 1, 1]);
}

#[test]
fn keys_arrive_byte_for_byte() {
    let keys = [
        "a",
        "a:b:c",
        ":",
        "2:k",
        "a%20b.jpg",
        "what%3Fnot",
        "100%25",
        "a%2Fb%2fc",
        "caf%C3%A9",
        "фото/1.jpg",
        "/leading",
        "a//b///c",
        "trailing/",
        "a?w=100&h=%20x&url=http://e/x?y",
        "?",
        "a?",
        "a;b,c=d+e&f'g(h)*i!$~@",
        "$backpack_key${uri}",
        "\"quoted\"",
        "back\\slash",
        "{brace}|pipe^`<>",
        "..a/b..",
        "a/../b",
        "statsx",
        "stats/x",
        "-a/b",
        "x/-/y",
        "index.html",
    ];
    let node = OriginalNode::start();
    let front = front(&[("1", &[node.port()]), ("2", &[node.port()])]);
    for key in keys {
        node.insert(key, key);
        let reply = get(&front, &format!("/1:{key}"));
        let arrived = node.seen().last().map(|seen| seen.target.clone());
        assert_eq!((reply.status, arrived), (200, Some(format!("/{key}"))), "{key}");
        assert_eq!(reply.text(), key);
    }
    let absolute = get(&front, "http://elsewhere.example/1:a%20b.jpg");
    assert_eq!(absolute.text(), "a%20b.jpg", "a proxy's form of the same request");
}

#[test]
fn the_key_is_on_webdav_what_was_stored_there() {
    let server = Nginx::webdav();
    let front = front(&[("1", &[server.port()])]);
    for key in ["a:b", "a%20b", "q%3Fx", "100%25", "фото/1.jpg", "caf%C3%A9"] {
        put(&server.addr(), &format!("/{key}"), key);
        assert_eq!(get(&front, &format!("/1:{key}")).text(), key);
    }
    assert!(server.files().join("a b").is_file());
}

#[test]
fn nothing_but_reading_passes() {
    let node = OriginalNode::start();
    let front = front(&[("1", &[node.port()])]);
    for method in ["PUT", "DELETE", "POST", "OPTIONS", "PATCH", "MOVE", "TRACE"] {
        let reply = Request::new(method, &front.addr(), "/1:k").body("x").send_blocking().unwrap();
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    let big = Request::put(&front.addr(), "/1:k", vec![0; 5 << 20]).send_blocking().unwrap();
    assert_eq!(big.status, 405, "and not 413");
    assert_eq!(asked(&[&node]), 0);
}

#[test]
fn a_body_of_a_get_is_not_passed_on() {
    let node = OriginalNode::start();
    node.insert("k", "blob");
    let front = front(&[("1", &[node.port()])]);
    let reply = Request::get(&front.addr(), "/1:k").body("x").send_blocking().unwrap();
    assert_eq!(reply.text(), "blob");
    assert_eq!(node.seen()[0].header("content-length"), None);
}

#[test]
fn what_is_no_blob_is_404_or_400() {
    let node = OriginalNode::start();
    let front = front(&[("1", &[node.port()]), ("a", &[node.port()])]);
    for target in [
        "/", "/k", "/1", "/1:", "/:k", "//1:k", "/x/1:k", "/?1:k", "/9:k", "/1%3Ak", "/%31:k", "/A:k",
        "/11:k",
    ] {
        assert_eq!(get(&front, target).status, 404, "{target}");
    }
    for target in ["/1:stats", "/1:stats?x", "/1:-/list", "/1:-/metrics?x", "/1:-"] {
        assert_eq!(get(&front, target).status, 404, "{target} is the server's own");
    }
    for target in ["/1:a%2", "/1:a%zz", "/1:a%00", "/1:a b", "/../1:k", "1:k"] {
        let raw = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = exchange(&front.addr(), raw.as_bytes(), START_WITHIN).unwrap();
        assert_eq!(Reply::parse(&answer, false).unwrap().status, 400, "{target}");
    }
    assert_eq!(asked(&[&node]), 0);
}

#[test]
fn a_shard_without_servers_is_503() {
    let node = OriginalNode::start();
    let front = front(&[("1", &[node.port()]), ("2", &[])]);
    assert_eq!(get(&front, "/2:k").status, 503);
    assert_eq!(get(&front, "/1:k").status, 404);
}

#[test]
fn shards_of_unusual_names_are_told_apart() {
    let ids = ["a", "A", "a.b", "aXb", "фото", "(x)+"];
    let nodes = ids.map(|id| {
        let node = OriginalNode::start();
        node.insert("k", id);
        node
    });
    let ports = nodes.each_ref().map(|node| [node.port()]);
    let shards: Vec<_> = ids.iter().copied().zip(ports.iter().map(<[u16; 1]>::as_slice)).collect();
    let front = front(&shards);
    for id in ids {
        assert_eq!(get(&front, &format!("/{id}:k")).text(), id);
    }
    for encoded in ["%D1%84%D0%BE%D1%82%D0%BE", "%d1%84%d0%be%d1%82%d0%be"] {
        assert_eq!(get(&front, &format!("/{encoded}:k")).text(), "фото");
    }
}

#[test]
fn range_head_and_conditions_work() {
    let server = Nginx::webdav();
    put(&server.addr(), "/k.txt", "0123456789");
    let front = front(&[("1", &[server.port()])]);
    let whole = get(&front, "/1:k.txt");
    let etag = whole.header("etag").unwrap().to_owned();

    let head = Request::new("HEAD", &front.addr(), "/1:k.txt").send_blocking().unwrap();
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("10"), 0));
    assert_eq!(head.header("etag"), Some(etag.as_str()));

    let ask = |name: &str, value: &str| {
        Request::get(&front.addr(), "/1:k.txt").header(name, value).send_blocking().unwrap()
    };
    let part = ask("Range", "bytes=2-4");
    assert_eq!(
        (part.status, part.header("content-range"), part.text().as_str()),
        (206, Some("bytes 2-4/10"), "234")
    );
    assert_eq!(ask("Range", "bytes=99-").status, 416);
    let unchanged = ask("If-None-Match", &etag);
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some(etag.as_str())));
    assert_eq!(ask("If-None-Match", "\"other\"").text(), "0123456789");
    assert_eq!(ask("If-Match", "\"other\"").status, 412);
}

#[test]
fn a_big_blob_is_equal_and_never_on_nginxs_disk() {
    let server = Nginx::webdav();
    let mut blob = vec![0; 64 << 20];
    fastrand::Rng::with_seed(1).fill(&mut blob);
    put(&server.addr(), "/big", blob.clone());
    let front = front(&[("1", &[server.port()])]);
    assert!(get(&front, "/1:big").body == blob);
    assert!(!front.log().contains("buffered to a temporary file"), "{}", front.log());
}

#[test]
fn a_body_cut_by_its_server_is_not_taken_for_whole() {
    let node = OriginalNode::start();
    node.insert("k", vec![7; 1 << 20]);
    node.set_fault(Fault::Cut(500_000));
    let front = front(&[("1", &[node.port()])]);
    let cut = Request::get(&front.addr(), "/1:k").send_blocking();
    assert_eq!(cut.map(|reply| reply.body.len()).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_request_id_is_kept_or_given() {
    let node = OriginalNode::start();
    node.insert("k", "blob");
    let front = front(&[("1", &[node.port()])]);
    let ids_for = |given: &str| {
        let reply =
            Request::get(&front.addr(), "/1:k").header("X-Request-Id", given).send_blocking().unwrap();
        let sent_on = node.seen().last().unwrap().header("x-request-id").map(str::to_owned);
        assert_eq!(reply.header("x-request-id"), sent_on.as_deref(), "the client learns it");
        sent_on.unwrap()
    };
    assert_eq!(ids_for("abc-1"), "abc-1");
    let mut ids: Vec<String> = ["", "a b", &"x".repeat(65)].map(ids_for).into();
    // Two at once on one connection.
    let mut stream = std::net::TcpStream::connect(front.addr()).unwrap();
    let gets =
        "GET /1:k HTTP/1.1\r\nHost: x\r\n\r\nGET /1:k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(gets.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    ids.extend(answers.lines().filter_map(|line| line.strip_prefix("X-Request-Id: ").map(str::to_owned)));
    assert_eq!(ids.len(), 5, "{answers}");
    // Time, connection, request: so that no two are the same, however close they are.
    let parts = |id: &String| id.split('-').map(str::to_owned).collect::<Vec<_>>();
    let (first, second) = (parts(&ids[3]), parts(&ids[4]));
    assert_eq!((first.len(), &first[1], &*first[2], &*second[2]), (3, &second[1], "1", "2"), "{ids:?}");
    assert!(ids[..3].iter().all(|id| parts(id)[1] != first[1]), "{ids:?}");
    for id in &ids {
        assert_eq!(RequestId::parse(id).unwrap().as_str(), id, "the servers keep it");
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5, "{ids:?}");
}

#[test]
fn connections_to_servers_are_kept() {
    let node = OriginalNode::start();
    node.insert("k", "blob");
    let front = front(&[("1", &[node.port()])]);
    for _ in 0..ROUNDS {
        assert_eq!(get(&front, "/1:k").status, 200);
    }
    assert_eq!(node.connections(), 1);
}

#[test]
fn connections_to_nodes_are_kept_when_they_have_no_such_blob() {
    let (data, port) = (tempfile::tempdir().unwrap(), free_port());
    let args = [data.path().display().to_string(), "127.0.0.1".to_owned(), port.to_string()];
    let addr = format!("127.0.0.1:{port}");
    let node = Service::new(Daemon::start(env!("CARGO_BIN_EXE_backpack-node"), args), addr.clone());
    node.wait_ready();
    let other = OriginalNode::start();
    other.insert("k", "blob");
    let front = front(&[("1", &[port, other.port()])]);
    for _ in 0..ROUNDS {
        assert_eq!(get(&front, "/1:k").text(), "blob");
    }
    let metrics = Request::get(&addr, "/-/metrics").send_blocking().unwrap().text();
    let open =
        metrics.lines().find_map(|line| line.strip_prefix("backpack_http_connections{role=\"node\"} "));
    let open: u32 = open.unwrap().parse().unwrap();
    assert!(open > 1, "nginx's, beside that of this question:\n{metrics}");
}
