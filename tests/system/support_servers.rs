//! The servers that the other tests stand on do what those tests believe they do.

use std::{path::Path, time::Duration};

use crate::support::{
    daemon::Daemon,
    http::{Request, exchange},
    nginx::Nginx,
    original_node::{Fault, OriginalNode},
    process::{Process, Program},
    redis::{Redis, RedisOptions},
    tls::Certificates,
    wait::{Deadline, wait_until},
    zookeeper::{ZooKeeper, ZooKeeperEnsemble},
};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn zookeeper_starts_dies_and_comes_back() {
    let server = ZooKeeper::start();
    assert_eq!(server.four_letters("ruok"), "imok");
    server.kill();
    assert_eq!(server.four_letters("ruok"), "");
    server.restart();
    assert_eq!(server.four_letters("ruok"), "imok");
}

#[test]
fn zookeeper_takes_tls() {
    let certificates = Certificates::generate();
    let server = ZooKeeper::start_tls(&certificates, true);
    assert!(speaks_tls(&server.tls_addr(), &certificates, Some("ruok")).contains("imok"));
    assert!(!speaks_tls(&server.tls_addr(), &certificates, None).contains("imok"));
}

#[test]
fn three_zookeepers_elect_a_leader_and_survive_its_death() {
    let ensemble = ZooKeeperEnsemble::start();
    let first = ensemble.leader().addr();
    ensemble.leader().kill();
    wait_until("another one leads", crate::support::wait::START_WITHIN, || ensemble.leader().addr() != first);
}

#[test]
fn redis_keeps_its_data_only_with_appendonly() {
    for (appendonly, after) in [(false, "$-1"), (true, "$1\r\nv")] {
        let server = Redis::start_with(&RedisOptions { appendonly, ..RedisOptions::default() });
        assert!(server.command("SET k v").starts_with("+OK"));
        server.kill();
        server.restart();
        assert!(server.command("GET k").starts_with(after), "appendonly {appendonly}");
    }
}

#[test]
fn redis_asks_for_its_password() {
    let server = Redis::start_with(&RedisOptions { password: Some("sesame"), ..RedisOptions::default() });
    assert!(server.command("PING").starts_with("-NOAUTH"));
    assert!(server.command("AUTH sesame").starts_with("+OK"));
}

#[test]
fn redis_takes_tls() {
    let certificates = Certificates::generate();
    let server = Redis::start_with(&RedisOptions { tls: Some(&certificates), ..RedisOptions::default() });
    assert!(speaks_tls(&server.addr(), &certificates, Some("PING\r\nQUIT\r\n")).contains("+PONG"));
}

#[test]
fn a_stopped_server_answers_after_it_goes_on() {
    let server = Redis::start();
    server.stop();
    let reply = exchange(&server.addr(), b"PING\r\nQUIT\r\n", Duration::from_millis(300)).unwrap();
    assert!(reply.is_empty());
    server.cont();
    assert!(server.command("PING").starts_with("+PONG"));
}

#[test]
fn webdav_takes_replaces_gives_and_deletes() {
    let server = Nginx::webdav();
    let put = |body: &str| Request::put(&server.addr(), "/a/b/c", body).send_blocking().unwrap().status;
    assert_eq!((put("one"), put("two")), (201, 204));
    assert_eq!(Request::get(&server.addr(), "/a/b/c").send_blocking().unwrap().body, b"two");
    server.kill();
    assert!(Request::get(&server.addr(), "/a/b/c").send_blocking().is_err());
    server.restart();
    let head = Request::new("HEAD", &server.addr(), "/a/b/c").send_blocking().unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("3")));
    assert_eq!(Request::new("DELETE", &server.addr(), "/a/b/c").send_blocking().unwrap().status, 204);
    assert!(!server.files().join("a/b/c").exists());
    wait_until("the requests are logged", SOON, || server.requests().len() == 5);
}

#[test]
fn the_original_node_behaves_as_seen() {
    let node = OriginalNode::start();
    let status = |request: Request| request.send_blocking().unwrap().status;
    let addr = node.addr();
    assert_eq!(status(Request::put(&addr, "/a%20b?x=1", "blob")), 201);
    assert_eq!(node.blob("a%20b?x=1").unwrap(), b"blob");
    assert_eq!(status(Request::put(&addr, "/empty", "")), 411);
    let chunked = b"PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    assert!(exchange(&addr, chunked, SOON).unwrap().starts_with(b"HTTP/1.1 411"));
    let reply = Request::get(&addr, "/a%20b?x=1").send_blocking().unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "blob"));
    assert_eq!((reply.header("content-type"), reply.header("etag")), (None, None));
    assert_eq!(status(Request::get(&addr, "/a b?x=1")), 404);
    assert_eq!(status(Request::new("HEAD", &addr, "/a%20b?x=1")), 418);
    assert_eq!(status(Request::new("DELETE", &addr, "/a%20b?x=1")), 418);
    let stats = Request::get(&addr, "/stats").send_blocking().unwrap().text();
    assert_eq!(stats, r#"{"gets":{"count":1,"bytes":4,"avg":4},"puts":{"count":1,"bytes":4,"avg":4}}"#);
    assert_eq!(node.seen().len(), 8);
}

#[test]
fn the_original_node_fails_as_told() {
    let node = OriginalNode::start();
    node.insert("k", vec![7; 100_000]);
    let get_within = |within| Request::get(&node.addr(), "/k").within(within).send_blocking();
    let get = || get_within(Duration::from_millis(500));
    for fault in [Fault::Refuse, Fault::Hang, Fault::Delay(10 * SOON), Fault::Cut(50_000)] {
        node.set_fault(fault);
        assert!(get().is_err(), "{fault:?}");
        node.set_fault(Fault::None);
        assert_eq!(get_within(SOON).unwrap().body.len(), 100_000, "after {fault:?}");
    }
    node.set_fault(Fault::Status(500));
    assert_eq!(get_within(SOON).unwrap().status, 500);
    node.set_fault(Fault::Bandwidth(100));
    assert!(get().is_err(), "minutes are needed");
    node.set_fault(Fault::Cut(10));
    assert!(Request::put(&node.addr(), "/cut", "more than ten bytes").send_blocking().is_err());
    assert_eq!(node.blob("cut"), None);
}

#[test]
fn a_process_outlives_the_thread_that_started_it_but_not_its_handle() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new("/bin/sleep", folder.path()).args(["1000"]);
    let sleeper = std::thread::spawn(move || Process::start(program)).join().unwrap();
    // Were it to die with the thread, it would do so at once.
    let deadline = Deadline::within(Duration::from_millis(200));
    while !deadline.is_over() {
        assert_eq!(sleeper.ended(), None);
    }
    let folder_of_it = format!("/proc/{}", sleeper.id());
    assert!(Path::new(&folder_of_it).exists());
    drop(sleeper);
    assert!(!Path::new(&folder_of_it).exists());
}

#[test]
fn a_daemon_is_heard_ended_and_started_again() {
    let args = ["-c", "echo \"I am $NAME\"; exec sleep 1000"];
    let daemon = Daemon::start_with_env("/bin/sh", args, &[("NAME", "up")]);
    assert_eq!(daemon.wait_for_line("am", SOON), "I am up");
    daemon.kill();
    daemon.restart();
    assert_eq!(daemon.wait_for_line("am", SOON), "I am up");
    assert_eq!(daemon.log(), "I am up\n", "of this run only");
    assert_eq!(daemon.terminate(SOON).code(), None, "ended by the signal");

    let nginx = Nginx::webdav();
    Request::put(&nginx.addr(), "/-/ready", "yes").send_blocking().unwrap();
    daemon.restart();
    daemon.wait_ready(&nginx.addr());
    daemon.kill();
    assert!(!daemon.wait_for_end(SOON).success());
}

#[test]
#[should_panic(
    expected = "no-such-program is not installed: run `make setup`, or install Debian's package its-package"
)]
fn a_missing_package_is_named() {
    crate::support::process::required("no-such-program", "its-package");
}

/// What `openssl s_client` shows after sending this text, with or without the client's certificate.
fn speaks_tls(addr: &str, certificates: &Certificates, send: Option<&str>) -> String {
    use std::{io::Write, process::*};
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-quiet", "-verify_return_error", "-connect", addr, "-CAfile"])
        .arg(certificates.ca());
    if send.is_some() {
        command
            .arg("-cert")
            .arg(certificates.client_certificate())
            .arg("-key")
            .arg(certificates.client_key());
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The server may have hung up on a client without a certificate.
    let _ = child.stdin.take().unwrap().write_all(send.unwrap_or("ruok").as_bytes());
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}
