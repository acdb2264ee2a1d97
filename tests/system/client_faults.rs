//! Every error of the client, made by a server that is really faulty in that way.

use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use backpack::{
    client::{Answered, Presence, PutBody, ServerError, Servers, Timeouts},
    model::{Server, Version},
};
use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::sync::Notify;

use crate::client_cases::{
    SHORT, SOON, TIMEOUTS, head, id, key, pattern,
    raw::{Connection, RawServer},
    server, servers, soon, upload,
};

const BIG: usize = 16 << 20;

/// The same request in every way the client has.
async fn ask_all(servers: &Servers, target: &Server) -> Vec<(&'static str, Result<(), ServerError>)> {
    let (key, id, none, version) = (key("k"), id(), HeaderMap::new(), Version::from_parts(1, 1));
    let (get, put, delete, stats, look) = tokio::join!(
        servers.get(target, &key, Method::GET, &none, &id),
        upload(servers, target, "k", pattern(1000).into()),
        servers.delete(target, &key, version, &id),
        servers.stats(target, &id),
        servers.look(target, &key, &id),
    );
    vec![
        ("get", get.map(drop)),
        ("put", put.map(drop)),
        ("delete", delete.map(drop)),
        ("stats", stats.map(drop)),
        ("look", look.map(drop)),
    ]
}

fn content_length(head: &str) -> usize {
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.map_or(0, |length| length.parse().unwrap())
}

/// Answers every request, read whole, with that.
fn answering(answer: impl Into<String>) -> RawServer {
    let answer = answer.into();
    RawServer::start(move |client| {
        loop {
            let head = client.read_head()?;
            client.read_body(content_length(&head))?;
            client.send(if head.starts_with("HEAD") {
                answer.split_inclusive("\r\n\r\n").next().unwrap()
            } else {
                &answer
            })?;
        }
    })
}

fn refusing(status: u16) -> RawServer {
    let body = r#"{"error":"no, never"}"#;
    answering(format!("HTTP/1.1 {status} No\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_status_has_its_meaning() {
    let message = || "no, never".to_owned();
    let not_ready = |status| ServerError::NotReady { status, message: message() };
    let refused = |status| ServerError::Refused { status, message: message() };
    for (status, error) in [
        (507, ServerError::Full),
        (411, ServerError::NeedsLength),
        (405, ServerError::Unsupported(405)),
        (418, ServerError::Unsupported(418)),
        (501, ServerError::Unsupported(501)),
        (412, ServerError::Precondition),
        (422, ServerError::WrongBytes(message())),
        (408, not_ready(408)),
        (429, not_ready(429)),
        (500, not_ready(500)),
        (502, not_ready(502)),
        (503, not_ready(503)),
        (504, not_ready(504)),
        (400, refused(400)),
        (401, refused(401)),
        (403, refused(403)),
        (409, refused(409)),
        (413, refused(413)),
        (302, refused(302)),
    ] {
        let raw = refusing(status);
        for (verb, result) in ask_all(&servers(), &server("1", raw.port())).await {
            let said = result.unwrap_err();
            assert_eq!(said.label(), error.label(), "{verb} answered {status}");
            // The answer to a HEAD has no body to say more.
            if verb != "look" {
                assert_eq!(said, error, "{verb} answered {status}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_deleted_are_told_apart() {
    let servers = servers();
    let raw = refusing(404);
    let target = server("1", raw.port());
    let get = servers.get(&target, &key("k"), Method::GET, &HeaderMap::new(), &id()).await;
    assert_eq!(get.map(drop), Err(ServerError::Missing));
    assert_eq!(servers.look(&target, &key("k"), &id()).await, Ok(Presence::Nothing));
    assert!(servers.delete(&target, &key("k"), Version::from_parts(1, 1), &id()).await.is_ok());

    let version = Version::from_parts(5, 5);
    let raw =
        answering(format!("HTTP/1.1 410 Gone\r\nx-backpack-version: {version}\r\ncontent-length: 0\r\n\r\n"));
    let target = server("2", raw.port());
    let get = servers.get(&target, &key("k"), Method::GET, &HeaderMap::new(), &id()).await;
    assert!(matches!(get, Ok(Answered::Deleted(Some(found))) if found == version));
    assert_eq!(servers.look(&target, &key("k"), &id()).await, Ok(Presence::Deleted(Some(version))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_unreachable() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (verb, result) in ask_all(&servers(), &server("1", port)).await {
        let error = result.unwrap_err();
        assert!(matches!(error, ServerError::Unreachable(_)) && error.is_down(), "{verb}: {error:?}");
    }
    let nowhere = Server { host: "no.such.host.invalid".to_owned(), ..server("1", 80) };
    let error = servers().stats(&nowhere, &id()).await.unwrap_err();
    assert!(matches!(error, ServerError::Unreachable(_)), "{error:?}");
    let no_host = Server { host: "no host".to_owned(), ..server("1", 80) };
    let error = servers().stats(&no_host, &id()).await.unwrap_err();
    assert!(matches!(error, ServerError::Refused { status: 0, .. }) && !error.is_down(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_opens_no_connection_is_unreachable() {
    // A listener whose queue is full lets connections hang, as a host that is cut off does.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let _fill: Vec<_> = (0..4)
        .map(|_| {
            let filler = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            let _ = filler.connect(&addr.into());
            filler
        })
        .collect();
    let servers = Servers::new(Timeouts { connect: SHORT, ..TIMEOUTS });
    let target = server("1", addr.port());
    let error = soon(upload(&servers, &target, "k", pattern(10).into())).await.unwrap_err();
    assert!(matches!(error, ServerError::Unreachable(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_stalls_every_request() {
    let raw = RawServer::start(Connection::hang);
    let target = server("1", raw.port());
    let servers = Servers::new(Timeouts { answer: SHORT, ..TIMEOUTS });
    for (verb, result) in soon(ask_all(&servers, &target)).await {
        assert_eq!(result, Err(ServerError::Stalled(SHORT)), "{verb}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_taking_in_mid_body_stalls() {
    let raw = RawServer::start(|client| {
        client.read_head()?;
        client.read_body(1 << 20)?;
        client.hang()
    });
    let servers = Servers::new(Timeouts { stall: SHORT, ..TIMEOUTS });
    let result = soon(upload(&servers, &server("1", raw.port()), "k", pattern(BIG).into())).await;
    assert_eq!(result, Err(ServerError::Stalled(SHORT)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_all_and_says_nothing_stalls() {
    let raw = RawServer::start(|client| {
        client.read_head()?;
        client.read_body(BIG)?;
        client.hang()
    });
    let servers = Servers::new(Timeouts { answer: SHORT, ..TIMEOUTS });
    let result = soon(upload(&servers, &server("1", raw.port()), "k", pattern(BIG).into())).await;
    assert_eq!(result, Err(ServerError::Stalled(SHORT)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_not_a_stalled_one() {
    // Slower in all than every time-out, but never silent for a tenth of them.
    const LONG: Duration = Duration::from_secs(10);
    let raw = RawServer::start(|client| {
        client.read_head()?;
        for _ in 0..16 {
            client.read_body(BIG / 16)?;
            std::thread::sleep(LONG / 15);
        }
        client.answer(201)
    });
    let servers = Servers::new(Timeouts { stall: LONG, answer: LONG, ..TIMEOUTS });
    let started = Instant::now();
    assert!(upload(&servers, &server("1", raw.port()), "k", pattern(BIG).into()).await.is_ok());
    assert!(started.elapsed() > LONG);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_source_is_not_the_servers_fault() {
    let raw = RawServer::start(|client| {
        client.read_head()?;
        client.read_body(2000)?;
        client.answer(201)
    });
    let (sender, body) = PutBody::channel(Some(2000));
    let servers = Servers::new(Timeouts { stall: SHORT, ..TIMEOUTS });
    let (target, head, id) = (server("1", raw.port()), head("k", Some(2000)), id());
    let slow = async {
        assert!(sender.send(pattern(1000).into()).await);
        tokio::time::sleep(SHORT * 2).await;
        assert!(sender.send(pattern(1000).into()).await);
        sender.end().await;
    };
    let (stored, ()) = tokio::join!(servers.put(&target, &head, body, &id), slow);
    assert!(stored.is_ok(), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_is_named() {
    let raw = RawServer::start(|client| client.read_to_end().map(drop));
    let target = server("1", raw.port());
    for length in [Some(2000), None] {
        let (sender, body) = PutBody::channel(length);
        assert!(sender.send(pattern(1000).into()).await);
        let broken_off = tokio::spawn(async move { drop(sender) });
        let result = servers().put(&target, &head("k", length), body, &id()).await;
        assert_eq!(result, Err(ServerError::Source("the upload was broken off".to_owned())));
        assert!(!result.unwrap_err().is_down());
        broken_off.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_is_broken() {
    let closing = RawServer::start(|client| client.read_head().map(drop));
    let garbage = RawServer::start(|client| {
        client.read_head()?;
        client.send("SSH-2.0-OpenSSH_9.2\r\n\r\n")
    });
    for raw in [closing, garbage] {
        for (verb, result) in ask_all(&servers(), &server("1", raw.port())).await {
            let error = result.unwrap_err();
            assert!(matches!(error, ServerError::Broken(_)) && error.is_down(), "{verb}: {error:?}");
        }
        assert_eq!(raw.connections(), 5, "a connection that was new is not tried again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_in_mid_upload_is_broken() {
    let raw = RawServer::start(|client| {
        client.read_head()?;
        client.read_body(BIG / 2)?;
        client.reset()
    });
    let error = upload(&servers(), &server("1", raw.port()), "k", pattern(BIG).into()).await.unwrap_err();
    assert!(matches!(error, ServerError::Broken(_)), "{error:?}");
    assert_eq!(raw.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_stops_coming_stalls_and_one_that_is_cut_is_broken() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n12345";
    let hanging = RawServer::start(move |client| {
        client.read_head()?;
        client.send(half)?;
        client.hang()
    });
    let cutting = RawServer::start(move |client| {
        client.read_head()?;
        client.send(half)
    });
    let chunked = RawServer::start(move |client| {
        client.read_head()?;
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n")
    });
    let patient = servers();
    let hasty = Servers::new(Timeouts { stall: SHORT, ..TIMEOUTS });
    for (raw, servers, label) in
        [(hanging, &hasty, "stalled"), (cutting, &patient, "broken"), (chunked, &patient, "broken")]
    {
        let target = server("1", raw.port());
        let answer = servers.get(&target, &key("k"), Method::GET, &HeaderMap::new(), &id()).await;
        let Ok(Answered::Blob(mut blob)) = answer else { panic!("{answer:?}") };
        assert_eq!(blob.next().await, Ok(Some(Bytes::from_static(b"12345"))));
        assert_eq!(blob.next().await.unwrap_err().label(), label);

        // Passed on as a body it fails too, never ends short.
        let answer = servers.get(&target, &key("k"), Method::GET, &HeaderMap::new(), &id()).await;
        let Ok(Answered::Blob(blob)) = answer else { panic!("{answer:?}") };
        assert!(http_body_util::BodyExt::collect(blob.into_body()).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_is_kept_short_and_waited_for_shortly() {
    let long = "é".repeat(5000);
    for (answer, expected) in [
        (format!("HTTP/1.1 403 No\r\ncontent-length: 10000\r\n\r\n{long}"), "é".repeat(150)),
        (
            "HTTP/1.1 403 No\r\ncontent-length: 9999\r\n\r\n half\u{1b}[31m ".to_owned(),
            "half [31m".to_owned(),
        ),
        ("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n".to_owned(), String::new()),
    ] {
        let raw = answering(answer);
        let result = soon(servers().stats(&server("1", raw.port()), &id())).await;
        assert_eq!(result, Err(ServerError::Refused { status: 403, message: expected }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_that_are_no_json_are_wrong_bytes() {
    for body in ["not json", ""] {
        let raw = answering(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        let error = servers().stats(&server("1", raw.port()), &id()).await.unwrap_err();
        assert!(matches!(error, ServerError::WrongBytes(_)), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_is_heard_in_mid_body_however_it_closes() {
    // (bytes it reads first, whether it closes with a reset)
    for (read, reset) in [(0, false), (1000, true), (300_000, false), (300_000, true)] {
        let raw = RawServer::start(move |client| {
            client.read_head()?;
            client.read_body(read)?;
            client.answer(507)?;
            if reset { client.reset() } else { Ok(()) }
        });
        let (servers, target) = (servers(), server("1", raw.port()));
        let bytes = Bytes::from(pattern(4 << 20));
        for round in 0..25 {
            let result = upload(&servers, &target, "k", bytes.clone()).await;
            assert_eq!(result, Err(ServerError::Full), "round {round}, {read} bytes read, reset: {reset}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_stored_too_early_is_not_asked_again_on_that_connection() {
    // What is still on its way would be taken for the next request.
    let raw = RawServer::start(|client| {
        client.read_head()?;
        client.read_body(1000)?;
        client.answer(201)?;
        client.hang()
    });
    let (servers, target, head, id) = (servers(), server("1", raw.port()), head("k", Some(BIG as u64)), id());
    for connections in [1, 2] {
        let body = Bytes::from(pattern(BIG)).into();
        let stored = soon(servers.put(&target, &head, body, &id)).await.unwrap();
        assert!(stored.is_early && stored.created, "{stored:?}");
        assert_eq!(raw.connections(), connections);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_hears_of_an_upload_before_its_first_byte() {
    let hears = Arc::new(Notify::new());
    let heard = Arc::clone(&hears);
    let raw = RawServer::start(move |client| {
        client.read_head()?;
        hears.notify_one();
        client.read_body(10)?;
        client.answer(201)
    });
    let (servers, target, head, id) = (servers(), server("1", raw.port()), head("k", Some(10)), id());
    let (sender, body) = PutBody::channel(Some(10));
    let feed = async {
        heard.notified().await;
        assert!(sender.send(pattern(10).into()).await);
        sender.end().await;
    };
    let (stored, ()) = soon(async { tokio::join!(servers.put(&target, &head, body, &id), feed) }).await;
    assert!(stored.is_ok_and(|stored| !stored.is_early));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_answered_takes_no_more_bytes() {
    // It answers and then neither closes nor reads on.
    let raw = RawServer::start(|client| {
        client.read_head()?;
        client.answer(507)?;
        client.hang()
    });
    let (sender, body) = PutBody::channel(Some(1 << 40));
    let feeding = tokio::spawn(async move {
        let part = Bytes::from(pattern(64 * 1024));
        let mut taken = 0_u64;
        while sender.send(part.clone()).await {
            taken += part.len() as u64;
        }
        taken
    });
    let result = servers().put(&server("1", raw.port()), &head("k", Some(1 << 40)), body, &id()).await;
    assert_eq!(result, Err(ServerError::Full));
    let taken = soon(feeding).await.unwrap();
    assert!(taken < 64 << 20, "{taken} bytes were taken after the answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_to_a_server_that_takes_nothing_holds_little() {
    let raw = RawServer::start(Connection::hang);
    let (sender, body) = PutBody::channel(Some(1 << 40));
    let feeding = tokio::spawn(async move {
        let part = Bytes::from(pattern(64 * 1024));
        let mut taken = 0_u64;
        while sender.send(part.clone()).await {
            taken += part.len() as u64;
        }
        taken
    });
    let servers = Servers::new(Timeouts { stall: SHORT, ..TIMEOUTS });
    let result = servers.put(&server("1", raw.port()), &head("k", Some(1 << 40)), body, &id()).await;
    assert_eq!(result, Err(ServerError::Stalled(SHORT)));
    let taken = feeding.await.unwrap();
    assert!(taken < 16 << 20, "{taken} bytes were taken by nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_given_up_is_cut_off_at_the_server() {
    let (told, heard) = std::sync::mpsc::channel();
    let begun = Arc::new(Notify::new());
    let on_its_way = Arc::clone(&begun);
    let raw = RawServer::start(move |client| {
        client.read_head()?;
        client.read_body(10)?;
        on_its_way.notify_one();
        let _ = told.send(client.read_to_end());
        Ok(())
    });
    let (sender, body) = PutBody::channel(Some(1000));
    assert!(sender.send(pattern(10).into()).await);
    let (servers, target, head, id) = (servers(), server("1", raw.port()), head("k", Some(1000)), id());
    tokio::select! {
        stored = servers.put(&target, &head, body, &id) => panic!("{stored:?}"),
        () = begun.notified() => {}
    }
    let bytes = tokio::task::spawn_blocking(move || heard.recv_timeout(SOON)).await.unwrap();
    assert_eq!(bytes.expect("the connection is closed").unwrap(), 0);
}
